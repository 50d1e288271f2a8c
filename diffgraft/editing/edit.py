"""Real images changed towards other labels or other words: a healthy leaf with rust, a normal film with an effusion, the
rest of it as it was, and what did change.

Every procedure gives pixels outside its region back bit by bit; what the model alone would have changed there is
measured and written down. An edited image keeps its source and the source's group: it is no new leaf, no new patient.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft import models, reporting
from diffgraft.editing import (
    films as edit_films,
)
from diffgraft.editing import (
    objects as edit_objects,
)
from diffgraft.editing import (
    region as edit_region,
)
from diffgraft.editing import (
    report as edit_report,
)
from diffgraft.editing.objects_report import Outcome as Drawn
from diffgraft.editing.region import REGIONS, Region
from diffgraft.editing.report import Outcome
from diffgraft.generation.result import BOXED, format_of, put
from diffgraft.generation.sampling import conditions, highest
from diffgraft.models.defaults import default
from diffgraft.preparation.quarantine import quarantine
from toolkit.data import dataset, labels
from toolkit.data.labels import Vocabulary
from toolkit.diffusion.model import OBJECTS, TEXT, Model
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.methods import da_fusion, guided, local_edit, text_edit
from toolkit.methods.guided import BATCH, Walk, evaluations
from toolkit.methods.local_edit import Edited, LocalEdit
from toolkit.models.folder import image_shape
from toolkit.settings import Sampling

__all__ = ["PROCEDURES", "REGIONS", "Outcome", "edit"]


SEAM = 0.04
"""Of a film's side: how far inside its region a change fades in."""


@dataclass(frozen=True)
class _Work:
    """What a procedure is given: images (N, C, H, W), masks (N, H, W), conditions, and how to walk."""

    model: Model
    images: np.ndarray
    masks: np.ndarray
    strength: float
    wanted: Mapping[str, np.ndarray]
    stated: Mapping[str, np.ndarray]
    null: Mapping[str, np.ndarray]
    local: LocalEdit
    watch: Callable[[], object] = lambda: None

    @property
    def indices(self) -> range:
        return range(len(self.images))


def _sdedit(work: _Work) -> Edited:
    maps = work.masks * work.strength
    return local_edit.edit(work.model, work.images, maps, work.wanted, work.null, work.local, work.indices, work.watch)


def _inpaint(work: _Work) -> Edited:
    masks = work.masks > 0
    return local_edit.inpaint(
        work.model, work.images, masks, work.wanted, work.null, work.local, work.indices, work.watch
    )


def _invert(work: _Work) -> Edited:
    given = (work.model, work.images, work.masks > 0, work.strength, work.stated, work.wanted)
    if TEXT in work.model.denoiser.spec.fields:
        return text_edit.counterfactual(*given, work.local, work.indices, work.watch)
    return local_edit.invert(*given, work.null, work.local, work.indices, work.watch)


def _da_fusion(work: _Work) -> Edited:
    settings = da_fusion.DAFusion(work.local.walk, high=work.strength)
    made, _ = da_fusion.augment(work.model, work.images, work.wanted, work.null, settings, work.indices, work.watch)
    found = local_edit.put_back(work.model, work.images, made, np.ones(work.masks.shape, bool), work.local)
    return found if work.local.detail else dataclasses.replace(found, images=made)


PROCEDURES: Mapping[str, Callable[[_Work], Edited]] = {
    "sdedit": _sdedit,
    "inpaint": _inpaint,
    "invert": _invert,
    "dafusion": _da_fusion,
}
"""sdedit: noised to the strength, then denoised; inpaint: the region anew from noise; invert: encoded under its own
labels, decoded under the new ones; dafusion: whole-image variants at random strengths up to the given one."""


def edit(
    model_path: str | Path,
    source: str | Path,
    out: str | Path,
    procedure: str = "inpaint",
    changes: Mapping[str, float] | None = None,
    *,
    text: str | None = None,
    strength: float = 0.4,
    boxes: Sequence[str] = (),
    mask: str | Path | None = None,
    region: str | None = None,
    objects: Sequence[str] = (),
    crop: int | None = None,
    format: str | None = None,
    where: Sequence[str] = (),
    count: int | None = None,
    variants: int = 1,
    settings: Sampling | None = None,
    backend: str = "auto",
    overwrite: bool = False,
    command: str = "",
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> Outcome | Drawn:
    """Edit the images of a data set, a folder of raw files or one file towards `changes`, into a new data set.

    text: what the images shall show, in words, for a model with a text encoder; what an image shows besides is kept. boxes:
    where to change, each "x0,y0,x1,y1" in pixels of the image in its file, or in parts of 1 of it; or mask: a grey picture,
    white where to change, its grey the part of the strength (a change map); else each image's own mask, else what `region` says, one
    of REGIONS. where: labels that an image must have to be taken, such as "condition=healthy". count: at most so many
    images, the first; variants: of each of them. What cannot be edited so is put aside with the reason. Films that come
    as files are also given back on their own grid, see `edit_films`. objects: of a model that is told boxes, what to draw
    where, each "CLASS=x0,y0,x1,y1"; what lies in `boxes` is then taken away; crop, format: see `edit_objects`.
    Errors: an unknown procedure or label, a strength outside (0, 1], a text for a model of labels, no image to edit.
    """
    if procedure not in PROCEDURES or not 0 < strength <= 1 or variants < 1:
        raise Error(
            f"An edit is one of {', '.join(PROCEDURES)} with a strength in (0, 1] and one variant or more; "
            f"found '{procedure}', {strength} and {variants}."
        )
    model = models.open(model_path, backend)
    domain = models.domain(model.meta["domain"])
    vocabulary = labels.of(model.meta, domain)
    if text is not None and TEXT not in model.denoiser.spec.fields:
        raise Error(f"A text is for a model with a text encoder; {model_path} has none. Set labels: --set NAME=VALUE")
    settings = settings or default(model.meta, "editing")
    needed = [path for path in (model_path, source, mask) if path is not None]
    if OBJECTS in model.denoiser.spec.fields:
        if (
            procedure != "inpaint"
            or changes
            or mask is not None
            or region is not None
            or format not in (None, "images", *BOXED)
        ):
            raise Error(
                "A model that is told boxes draws objects by inpainting, --object CLASS=x0,y0,x1,y1, and writes images, "
                f"{', '.join(BOXED)}; leave --set, --mask, --region and other procedures and formats out."
            )
        asked = edit_objects.placed(objects, boxes, vocabulary[domain.TARGET])  # type: ignore[arg-type]
        return edit_objects.edit(
            model, domain, vocabulary, Path(source), out, asked, having=labels.parse(vocabulary, where), count=count,
            variants=variants, crop=crop, settings=settings, format=format or format_of(domain), needed=needed,
            overwrite=overwrite, command=command, watch=watch,
        )  # fmt: skip
    if objects or crop is not None or format is not None:
        raise Error(
            f"Objects are for a model that is told boxes; {model_path} is not. Leave --object, --crop and --format out."
        )
    place = edit_region.region(domain, procedure, boxes, mask, region)
    if boxes and not (hasattr(domain, "grid") or (Path(source) / "manifest.jsonl").is_file()):
        raise Error(
            f"A box is in pixels of the image, and {source} is fitted to the model first. Draw it as --mask PICTURE, or "
            f"prepare the images: diffgraft prepare {model.meta['domain']} {source} DATA"
        )
    asked = Annotation(text, changes or {})
    with dataset.staged(out, overwrite, ("report.html",), needed) as folder:
        begun = time.monotonic()
        aside: list[tuple[str, str]] = []
        chosen = _chosen(domain, vocabulary, Path(source), model, labels.parse(vocabulary, where), count, aside)
        files = _files(domain, Path(source))
        jobs = _jobs(domain, vocabulary, chosen, files, asked, place, variants, settings.seed, aside)
        local = _local(model, domain, settings, procedure, place)
        masks = np.stack([job.mask for job in jobs])
        images = np.stack([job.source.image for job in jobs])
        told = _asked(model, domain, jobs)
        if place.kind == edit_region.DIFFERENCE:
            marked = text_edit.difference(model, images, told[1], told[0], local.walk, range(len(images)))
            masks = marked.astype(np.float32)
        work = _Work(model, images, masks, strength, *told, local)
        work = dataclasses.replace(work, watch=_counted(watch, procedure, _rounds(procedure, work)))
        edited = PROCEDURES[procedure](work)
        resolved = dataclasses.asdict(settings) | {
            "procedure": procedure, "strength": strength, "region": str(place), "model": model.fingerprint[:16],
            "backend": model.backend,
        } | ({} if text is None else {"text": text})  # fmt: skip
        made = [
            _edited(job, image, asked, resolved, change, n % variants)
            for n, (job, image, change) in enumerate(zip(jobs, edited.images, edited.changes, strict=True))
        ]
        put(model, domain, vocabulary, made, folder, format_of(domain), resolved, time.monotonic() - begun)
        shown = []
        if files:
            paths = [files[job.source.id] for job in jobs]
            shown = edit_films.give_back(folder, domain, paths, made, edited.moved, masks, place, local.feather, aside)
        quarantine(folder, aside)
        start = guided.sigmas(model, local.walk, 1.0 if procedure == "inpaint" else strength)[0]
        outcome = edit_report.outcome(model, images, edited, [job.wanted for job in jobs], variants, start)
        outcome = dataclasses.replace(outcome, films=len(made) if files else 0, aside=tuple(aside))
        run = reporting.Run(command=command, settings=resolved, seed=settings.seed, seconds=time.monotonic() - begun)
        sources = [job.source for job in jobs]
        edit_report.write(
            folder / "report.html", vocabulary, sources, made, masks, shown, outcome, run, domain.NOTICE
        )  # fmt: skip
    return outcome


@dataclass(frozen=True)
class _Job:
    """One image to edit. stated: what it shows, wanted: what it shall show, both as the model is told; mask: (H, W)."""

    source: Example
    stated: Annotation
    wanted: Annotation
    mask: np.ndarray


def _jobs(
    domain: ModuleType, vocabulary: Vocabulary, chosen: Sequence[Example], files: Mapping[str, Path], asked: Annotation,
    place: Region, variants: int, seed: int, aside: list[tuple[str, str]],
) -> list[_Job]:  # fmt: skip
    """Every image with what is wanted of it, `variants` times; one of which that cannot be had is put aside."""
    jobs: list[_Job] = []
    refused: list[Error] = []
    for source in chosen:
        try:
            drawn = place.boxes or place.mask
            grid = domain.grid(files[source.id], source.image.shape[-1]) if files and drawn else None
            stated, wanted = _told(domain, vocabulary, source.annotation, asked)
            masks = [place.levels(domain, source, grid, seed, len(jobs) + n) for n in range(variants)]
        except Error as problem:
            refused.append(problem)
            aside.append((files[source.id].name if files else source.id, str(problem)))
            continue
        jobs += [_Job(source, stated, wanted, mask) for mask in masks]
    if not jobs:
        raise refused[0]
    return jobs


def _files(domain: ModuleType, source: Path) -> dict[str, Path]:
    """The file of each image by its id, of raw ones that a domain can give an edit back to; else none."""
    raw = not (source / "manifest.jsonl").is_file()
    return domain.sources(source) if raw and hasattr(domain, "grid") else {}


def _chosen(
    domain: ModuleType,
    vocabulary: Vocabulary,
    source: Path,
    model: Model,
    having: Mapping[str, float],
    count: int | None,
    aside: list[tuple[str, str]],
) -> list[Example]:
    """The images to edit, in the model's words; files of a raw folder that cannot be used are added to `aside`."""
    examples: Sequence[Example]
    theirs, shape = vocabulary, image_shape(model.meta)
    takes_photographs = hasattr(domain, "one")
    if (source / "manifest.jsonl").is_file():
        examples, theirs = list(dataset.read(source)), labels.of(dataset.info(source), domain)
    elif takes_photographs and source.is_file():
        examples = [domain.one(source, shape[1:])]
    else:
        fitted = {"size": f"{shape[2]}x{shape[1]}"} if takes_photographs else {}
        examples = list(domain.read(source, aside=lambda *told: aside.append(told), **fitted))
        theirs = domain.vocabulary(source)
    examples = [_in_words_of(e, theirs, vocabulary) for e in examples]
    fitting = [e for e in examples if all(e.annotation.labels.get(k) == v for k, v in having.items())][:count]
    if not fitting:
        words = ", ".join(f"{k}={v}" for k, v in labels.spell(vocabulary, having).items())
        raise Error(f"An edit needs images; {source} has none{' with ' if words else ''}{words}. Check --where.")
    if fitting[0].image.shape != shape:
        raise Error(
            f"A model edits images of its own shape, {shape[2]}x{shape[1]}; {source} has {fitting[0].image.shape[2]}x"
            f"{fitting[0].image.shape[1]}. Prepare it: diffgraft prepare ... --size {shape[2]}x{shape[1]}"
        )
    return fitting


def _in_words_of(example: Example, theirs: Vocabulary, ours: Vocabulary) -> Example:
    """An example whose labels have the indices of the model's vocabulary."""
    known = labels.translated(example.annotation.labels, theirs, ours)
    return dataclasses.replace(example, annotation=dataclasses.replace(example.annotation, labels=known))


def _told(
    domain: ModuleType, vocabulary: Vocabulary, own: Annotation, asked: Annotation
) -> tuple[Annotation, Annotation]:  # fmt: skip
    """What an image shows, and what it shall show: its own with what was asked for in its place.

    What followed from the old labels, such as their class, is found anew.
    """
    if hasattr(domain, "altered"):
        return domain.altered(own, asked, vocabulary)
    kept = {k: v for k, v in own.labels.items() if k in domain.LABELS and not math.isnan(v)}
    if asked.labels and "severity" in kept and "severity" not in asked.labels:
        del kept["severity"]  # of the old condition, and nothing is known of the new one's
    found = {**kept, **asked.labels}
    return own, Annotation(labels=domain.complete(found, vocabulary) if hasattr(domain, "complete") else found)


def _asked(
    model: Model, domain: ModuleType, jobs: Sequence[_Job]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The fields of what is wanted, of what is stated now, and of nothing stated; numpy, the methods convert."""
    asked, null = conditions(model, domain, [job.wanted for job in jobs])
    stated, _ = conditions(model, domain, [job.stated for job in jobs])
    return tuple({k: model.asnumpy(v) for k, v in c.items()} for c in (asked, stated, null))  # type: ignore[return-value]


def _local(model: Model, domain: ModuleType, settings: Sampling, procedure: str, place: Region) -> LocalEdit:
    """How to edit. A film has a wide seam, for nothing in it ends sharply, and keeps its grain: a finding is seen through
    the ribs. Not where the whole is drawn anew, for then the old ribs would stand beside the new ones.
    """
    walk = Walk(settings.sampler, settings.steps, settings.guidance, settings.seed, highest(model))
    if not hasattr(domain, "grid"):
        return LocalEdit(walk)
    return LocalEdit(walk, SEAM * image_shape(model.meta)[1], detail=procedure == "invert" or str(place) != "whole")


def _edited(
    job: _Job, image: np.ndarray, asked: Annotation, resolved: Mapping[str, Any], change: local_edit.Change, variant: int
) -> Example:  # fmt: skip
    """What was made of an image. Its text is the one asked for: how the model was told it stands in the settings."""
    own: dict[str, Any] = {k: round(v, 4) for k, v in dataclasses.asdict(change).items() if not math.isnan(v)}
    own |= {"told": job.wanted.text} if job.wanted.text else {}
    source, seed, procedure = job.source, resolved["seed"], resolved["procedure"]
    origin = Provenance("edited", resolved["model"], procedure, seed, {**resolved, **own}, source.id)
    name = f"{source.id}-{procedure}{seed}" + (f"-{variant}" if variant else "")
    row = dataclasses.replace(job.wanted, text=asked.text or job.wanted.text)
    return Example(name, image, row, source.group, provenance=origin)


def _rounds(procedure: str, work: _Work) -> int:
    """How often the model is asked in all, for the progress bar; by a sampler that asks once a step."""
    walk = work.local.walk
    batches, steps = -(-len(work.images) // BATCH), walk.steps
    times = da_fusion.insertions(da_fusion.DAFusion(walk, high=work.strength), work.indices)
    known = {
        "inpaint": batches * ((steps - 1) * work.local.resamples + 1),
        "invert": batches * (2 * steps - 1),
        "sdedit": evaluations(walk, (work.masks * work.strength).max((1, 2))),
        "dafusion": evaluations(walk, times),
    }
    return known[procedure]


def _counted(watch: Callable[[str, int, int], None], label: str, of: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        watch(label, done, max(done, of))

    return step
