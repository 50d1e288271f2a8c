"""Real images changed towards other labels: a healthy leaf with rust, the rest of it as it was, and what did change.

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
from PIL import Image
from scipy import ndimage

from diffgraft import models, report
from diffgraft.features import described
from diffgraft.generation import default, format_of, put
from diffgraft.preparation import quarantine
from diffgraft.sampling import conditions, highest
from toolkit import dataset, labels
from toolkit.diffusion.model import Model
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.folder import image_shape
from toolkit.labels import Vocabulary
from toolkit.methods import da_fusion, local_edit
from toolkit.methods.guided import BATCH, Walk, evaluations
from toolkit.methods.local_edit import Edited, LocalEdit
from toolkit.settings import Sampling

__all__ = ["PROCEDURES", "Outcome", "edit"]

SHOWN = 24
"""Edited images in the report."""

SPOTTED, SPOT = 0.3, 4.0
"""Part of the foreground that spots cover, and how far they reach, in pixels."""


@dataclass(frozen=True)
class Outcome:
    """What was made. inside, outside: mean absolute change by the model alone, of a range of 255.

    before, after: see `_named`. aside: (source, reason) of each file that was not used.
    """

    count: int
    inside: float
    outside: float
    ssim_outside: float
    before: float | None
    after: float | None
    aside: tuple[tuple[str, str], ...] = ()


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
    walk: Walk
    watch: Callable[[], object] = lambda: None

    @property
    def indices(self) -> range:
        return range(len(self.images))


def _sdedit(work: _Work) -> Edited:
    maps = work.masks * work.strength
    return local_edit.edit(
        work.model, work.images, maps, work.wanted, work.null, LocalEdit(work.walk), work.indices, work.watch
    )


def _inpaint(work: _Work) -> Edited:
    masks = work.masks > 0
    return local_edit.inpaint(
        work.model, work.images, masks, work.wanted, work.null, LocalEdit(work.walk), work.indices, work.watch
    )


def _invert(work: _Work) -> Edited:
    return local_edit.invert(
        work.model, work.images, work.masks > 0, work.strength, work.stated, work.wanted, work.null,
        LocalEdit(work.walk), work.indices, work.watch,
    )  # fmt: skip


def _da_fusion(work: _Work) -> Edited:
    settings = da_fusion.DAFusion(work.walk, high=work.strength)
    made, _ = da_fusion.augment(work.model, work.images, work.wanted, work.null, settings, work.indices, work.watch)
    whole = np.ones(work.masks.shape, bool)
    return Edited(made, tuple(map(local_edit.change_outside, work.images, made, whole)))


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
    strength: float = 0.4,
    mask: str | Path | None = None,
    region: str | None = None,
    where: Sequence[str] = (),
    count: int | None = None,
    variants: int = 1,
    settings: Sampling | None = None,
    backend: str = "auto",
    overwrite: bool = False,
    command: str = "",
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> Outcome:
    """Edit the images of a data set, a folder of raw files or one file towards `changes`, into a new data set.

    mask: a grey picture, white where to change, its grey the part of the strength (a change map); else each image's
    own mask, else what `region` says, one of REGIONS, by default REGION_OF the procedure. where: labels that an image must have to
    be taken, such as "condition=healthy". count: at most so many images, the first; variants: of each of them.
    Errors: an unknown procedure or label, a strength outside (0, 1], no image to edit.
    """
    if procedure not in PROCEDURES or not 0 < strength <= 1 or variants < 1:
        raise Error(
            f"An edit is one of {', '.join(PROCEDURES)} with a strength in (0, 1] and one variant or more; "
            f"found '{procedure}', {strength} and {variants}."
        )
    if region is not None and region not in REGIONS:
        raise Error(f"A region is one of {', '.join(REGIONS)}; found '{region}'. Or draw one: --mask PICTURE")
    model = models.open(model_path, backend)
    domain = models.domain(model.meta["domain"])
    vocabulary = labels.of(model.meta, domain)
    settings = settings or default(model.meta, "editing")
    needed = [path for path in (model_path, source, mask) if path is not None]
    with dataset.staged(out, overwrite, ("report.html",), needed) as folder:
        begun = time.monotonic()
        aside: list[tuple[str, str]] = []
        chosen = _chosen(domain, vocabulary, Path(source), model, labels.parse(vocabulary, where), count, aside)
        examples = [example for example in chosen for _ in range(variants)]
        wanted = [_towards(domain, vocabulary, e.annotation, changes or {}) for e in examples]
        kind = region or REGION_OF[procedure]
        masks = np.stack([_region(domain, e, mask, kind, settings.seed, n) for n, e in enumerate(examples)])
        work = _Work(
            model, np.stack([e.image for e in examples]), masks, strength, *_asked(model, domain, wanted, examples),
            _walk(model, settings),
        )  # fmt: skip
        work = dataclasses.replace(work, watch=_counted(watch, procedure, _rounds(procedure, work)))
        edited = PROCEDURES[procedure](work)
        resolved = dataclasses.asdict(settings) | {
            "procedure": procedure, "strength": strength, "region": "a mask" if mask else kind,
            "model": model.fingerprint[:16], "backend": model.backend,
        }  # fmt: skip
        made = [
            _edited(e, image, row, resolved, change, n % variants)
            for n, (e, image, row, change) in enumerate(
                zip(examples, edited.images, wanted, edited.changes, strict=True)
            )
        ]
        put(model, domain, vocabulary, made, folder, format_of(domain), resolved, time.monotonic() - begun)
        quarantine(folder, aside)
        outcome = _outcome(model, work, edited, wanted, tuple(aside))
        run = report.Run(command=command, settings=resolved, seed=settings.seed, seconds=time.monotonic() - begun)
        _report(folder / "report.html", vocabulary, examples, made, masks, outcome, run, domain.NOTICE)
    return outcome


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


def _towards(domain: ModuleType, vocabulary: Vocabulary, own: Annotation, changes: Mapping[str, float]) -> Annotation:
    """The labels of an image with `changes`; what followed from the old ones, such as their class, is found anew."""
    kept = {k: v for k, v in own.labels.items() if k in domain.LABELS and not math.isnan(v)}
    if changes and "severity" in kept and "severity" not in changes:
        del kept["severity"]  # of the old condition, and nothing is known of the new one's
    found = {**kept, **changes}
    return Annotation(labels=domain.complete(found, vocabulary) if hasattr(domain, "complete") else found)


def _region(
    domain: ModuleType, example: Example, mask: str | Path | None, kind: str, seed: int, index: int
) -> np.ndarray:
    """(H, W) in [0, 1]: how much of the strength each place is given."""
    size = example.image.shape[1:]
    if mask is not None:
        with Image.open(mask) as file:
            grey = file.convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(grey, np.float32) / 255
    if example.annotation.mask is not None:
        return example.annotation.mask.astype(np.float32)
    whole = np.ones(size, bool)
    inside = domain.foreground(example.image) if hasattr(domain, "foreground") else whole
    return REGIONS[kind](inside, seed, index).astype(np.float32)


def _spots(inside: np.ndarray, seed: int, index: int) -> np.ndarray:
    """Blobs over a part SPOTTED of a boolean region, away from its rim, a function of (seed, index) alone."""
    core = ndimage.binary_erosion(inside, iterations=3)
    core = core if core.any() else inside
    field = ndimage.gaussian_filter(gaussian(inside.shape, seed, [index], Purpose.CHOICE, 0)[0], SPOT)
    return core & (field >= np.quantile(field[core], 1 - SPOTTED))


REGIONS: Mapping[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "spots": _spots,
    "foreground": lambda inside, seed, index: inside,
    "whole": lambda inside, seed, index: np.ones_like(inside),
}
"""Where an image without a mask is changed: patches of the foreground, all of it (the leaf), or everywhere."""

REGION_OF = {"invert": "foreground", "sdedit": "spots", "inpaint": "spots", "dafusion": "whole"}
"""What a procedure changes unless it is told otherwise. SDEdit and inpainting draw their region anew, outline and all, so
on a whole leaf the new outline would stand inside the old one."""


def _asked(
    model: Model, domain: ModuleType, wanted: Sequence[Annotation], examples: Sequence[Example]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The fields of what is wanted, of what is stated now, and of nothing stated; numpy, the methods convert."""
    asked, null = conditions(model, domain, wanted)
    stated, _ = conditions(model, domain, [e.annotation for e in examples])
    return tuple({k: model.asnumpy(v) for k, v in c.items()} for c in (asked, stated, null))  # type: ignore[return-value]


def _walk(model: Model, settings: Sampling) -> Walk:
    return Walk(settings.sampler, settings.steps, settings.guidance, settings.seed, highest(model))


def _edited(
    example: Example, image: np.ndarray, row: Annotation, resolved: Mapping[str, Any], change: local_edit.Change,
    variant: int,
) -> Example:  # fmt: skip
    measured = {k: round(v, 4) for k, v in dataclasses.asdict(change).items() if not math.isnan(v)}
    origin = Provenance(
        "edited", resolved["model"], resolved["procedure"], resolved["seed"], {**resolved, **measured}, example.id
    )
    name = f"{example.id}-{resolved['procedure']}{resolved['seed']}" + (f"-{variant}" if variant else "")
    return Example(name, image, row, example.group, provenance=origin)


def _named(model: Model, images: np.ndarray, wanted: Sequence[Annotation]) -> float | None:
    """Mean probability that the model's own feature network gives the wanted class; None where it cannot name it."""
    if model.features is None:
        return None
    plan = model.meta["parts"]["features"]
    classes = [row.labels.get(plan["target"], math.nan) for row in wanted]
    if not all(known < plan["classes"] for known in classes):  # not stated, or learned after the feature network was
        return None
    found = described(model, images)["log_probability"]
    return float(np.exp(found[np.arange(len(found)), np.array(classes, int)]).mean())


def _outcome(
    model: Model, work: _Work, edited: Edited, wanted: Sequence[Annotation], aside: tuple[tuple[str, str], ...]
) -> Outcome:
    inside, outside, alike = (
        _mean([getattr(c, name) for c in edited.changes]) for name in ("inside", "outside", "ssim_outside")
    )
    before, after = (_named(model, images, wanted) for images in (work.images, edited.images))
    return Outcome(len(edited.images), inside * 127.5, outside * 127.5, alike, before, after, aside)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _rounds(procedure: str, work: _Work) -> int:
    """How often the model is asked in all, for the progress bar; by a sampler that asks once a step."""
    batches, steps, local = -(-len(work.images) // BATCH), work.walk.steps, LocalEdit(work.walk)
    times = da_fusion.insertions(da_fusion.DAFusion(work.walk, high=work.strength), work.indices)
    known = {
        "inpaint": batches * ((steps - 1) * local.resamples + 1),
        "invert": batches * (2 * steps - 1),
        "sdedit": evaluations(work.walk, (work.masks * work.strength).max((1, 2))),
        "dafusion": evaluations(work.walk, times),
    }
    return known[procedure]


def _counted(watch: Callable[[str, int, int], None], label: str, of: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        watch(label, done, max(done, of))

    return step


def _report(
    path: Path, vocabulary: Vocabulary, examples: Sequence[Example], made: Sequence[Example], masks: np.ndarray,
    outcome: Outcome, run: report.Run, notice: str,
) -> None:  # fmt: skip
    shown: list[np.ndarray] = []
    captions: list[str] = []
    for before, after, mask in list(zip(examples, made, masks, strict=True))[:SHOWN]:
        change = np.abs(after.image - before.image).mean(0)
        shown += [before.image, after.image, np.clip(3 * change, 0, 2) - 1, mask * 2 - 1]
        words = [labels.told(vocabulary, e.annotation.labels) for e in (before, after)]
        captions += [f"before: {words[0]}", f"after: {words[1]}", "change, 3 x", "region"]
    facts = {
        "Images": outcome.count,
        "Change inside the region, of 255": outcome.inside,
        "Change outside, by the model alone, of 255": outcome.outside,
        "SSIM outside, by the model alone": outcome.ssim_outside,
        "Change outside in the files": "none: the pixels of the source are put back",
        "Probability of the wanted class before": outcome.before,
        "The same after": outcome.after,
    }
    sections = [
        report.Section("Before and after", [report.Sheet(shown, captions, 4)]),
        report.Section(
            "What changed",
            [report.Facts({k: v for k, v in facts.items() if v is not None and v == v})],
            "The probability is that of the model's own feature network, which learned from real images alone.",
        ),
    ]
    report.write(
        path, "Edited images", f"{outcome.count} images", sections, run,
        notice=notice, next_step="Look at every image before it is used: diffgraft evaluate shows whether it helps.",
    )  # fmt: skip
