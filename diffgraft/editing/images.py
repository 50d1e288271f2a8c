"""Whole images edited towards other labels or words: which of them, in which region, and what became of each."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.editing import report
from diffgraft.editing.films import FilmEdit, write_films
from diffgraft.editing.measure import measure
from diffgraft.editing.procedures import PROCEDURES, Conditions, Work
from diffgraft.editing.region import DIFFERENCE, Region, parse_region
from diffgraft.editing.result import EditedImage, EditResult
from diffgraft.generation.job import EditJob, Made
from diffgraft.generation.sampling import encode_conditions, highest_sigma
from diffgraft.preparation.quarantine import Aside, quarantine
from diffgraft.requests.verb import Call, counter
from toolkit.data import dataset, labels
from toolkit.data.labels import Vocabulary
from toolkit.example import Annotation, Error, Example, Note, Provenance
from toolkit.methods import guided, text_edit
from toolkit.methods.guided import Walk
from toolkit.methods.local_edit import Change, LocalEdit
from toolkit.models.folder import image_shape

__all__ = ["plan_images"]

SEAM = 0.04
"""Of a film's side: how far inside its region a change fades in."""


@dataclass(frozen=True)
class _Task:
    """One image to edit. current: what it shows, target: what it is to show, both as the model is told; mask: (H, W)."""

    source: Example
    current: Annotation
    target: Annotation
    mask: np.ndarray


def plan_images(job: EditJob) -> Callable[[Call], Made[EditResult]]:
    """What edits the images of a request. Errors: a region that cannot be."""
    request, domain = job.request, job.domain
    region = parse_region(domain, request.procedure, request.boxes, request.mask, request.region)
    if request.boxes and not (hasattr(domain, "source_grid") or _is_data_set(request.source)):
        raise Error(
            f"A box is in pixels of the image, and {request.source} is fitted to the model first. Draw it as --mask PICTURE, "
            f"or prepare the images: diffgraft prepare {job.model.meta['domain']} {request.source} DATA"
        )
    return functools.partial(_edit_images, job, region)


def _edit_images(job: EditJob, region: Region, call: Call) -> Made[EditResult]:
    request, model, domain = job.request, job.model, job.domain
    begun = time.monotonic()
    aside: Aside = []
    examples = _chosen_examples(job, aside)
    # Raw files that a domain can write an edit back to; an edit of a data set has none.
    raw = hasattr(domain, "source_grid") and not _is_data_set(request.source)
    files: dict[str, Path] = domain.source_files(request.source) if raw else {}
    tasks = _tasks(job, region, examples, files, aside)
    images, masks = np.stack([task.source.image for task in tasks]), np.stack([task.mask for task in tasks])
    local, cond = _local_edit(job, region), _encode(job, tasks)
    if region.kind == DIFFERENCE:
        found = text_edit.difference_mask(model, images, cond.current, cond.target, local.walk, range(len(images)))
        masks = found.astype(np.float32)
    work = Work(model, images, masks, request.strength, cond, local)
    procedure = PROCEDURES[request.procedure]
    start = guided.sigmas(model, local.walk, 1.0 if request.procedure == "inpaint" else request.strength)[0]
    call.tell(f"{request.procedure} at strength {request.strength:g}, {job.settings}; start sigma {start:.3g}")
    step = counter(call.watch, request.procedure, procedure.evaluations(work))
    edited = procedure.run(dataclasses.replace(work, step=step))
    settings = dataclasses.asdict(job.settings) | {
        "procedure": request.procedure, "strength": request.strength, "region": str(region),
        "model": model.fingerprint[:16], "backend": model.backend,
    } | ({} if job.prompt.text is None else {"text": job.prompt.text})  # fmt: skip
    made = [
        _edited_example(job, task, image, settings, change, n % request.variants)
        for n, (task, image, change) in enumerate(zip(tasks, edited.images, edited.changes, strict=True))
    ]

    def finish(folder: Path, run: reporting.Run) -> EditResult:
        films = [
            FilmEdit(files[task.source.id], example, change, mask)
            for task, example, change, mask in zip(tasks, made, edited.moved[:, 0], masks, strict=True)
        ] if files else []  # fmt: skip
        shown = write_films(folder, domain, films, region, local.feather, aside) if films else []
        quarantine(folder, aside)
        result = measure(model, images, edited, [task.target for task in tasks], request.variants, start)
        result = dataclasses.replace(result, films=len(films), aside=tuple(aside))
        pairs = [
            EditedImage(task.source, example, mask) for task, example, mask in zip(tasks, made, masks, strict=True)
        ]
        report.write(folder / "report.html", job.vocabulary, pairs, shown, result, run, domain.NOTICE)
        return result

    return Made(made, settings, begun, finish)


def _is_data_set(source: Path) -> bool:
    return (source / "manifest.jsonl").is_file()


def _chosen_examples(job: EditJob, aside: Aside) -> list[Example]:
    """The images to edit, in the model's vocabulary. Errors: none with the labels of `where`, images of another shape."""
    source, domain, vocabulary, shape = job.request.source, job.domain, job.vocabulary, image_shape(job.model.meta)
    where = labels.parse(vocabulary, job.request.where)
    examples: Iterable[Example]
    theirs, takes_photographs = vocabulary, hasattr(domain, "read_image")
    if _is_data_set(source):
        examples, theirs = dataset.read(source), labels.vocabulary_of(dataset.read_info(source), domain)
    elif takes_photographs and source.is_file():
        examples = [domain.read_image(source, shape[1:])]
    else:
        size = {"size": f"{shape[2]}x{shape[1]}"} if takes_photographs else {}
        examples = list(domain.read(source, aside=lambda name, reason: aside.append((name, reason)), **size))
        theirs = domain.vocabulary(source)
    examples = [_translated(example, theirs, vocabulary) for example in examples]
    fitting = [e for e in examples if all(e.annotation.labels.get(k) == v for k, v in where.items())]
    if not fitting:
        words = ", ".join(f"{k}={v}" for k, v in labels.spell(vocabulary, where).items())
        raise Error(f"An edit needs images; {source} has none{' with ' if words else ''}{words}. Check --where.")
    if fitting[0].image.shape != shape:
        raise Error(
            f"A model edits images of its own shape, {shape[2]}x{shape[1]}; {source} has {fitting[0].image.shape[2]}x"
            f"{fitting[0].image.shape[1]}. Prepare it: diffgraft prepare ... --size {shape[2]}x{shape[1]}"
        )
    return fitting[: job.request.count]


def _translated(example: Example, theirs: Vocabulary, ours: Vocabulary) -> Example:
    """An example whose labels have the indices of the model's vocabulary."""
    known = labels.translate(example.annotation.labels, theirs, ours)
    return dataclasses.replace(example, annotation=dataclasses.replace(example.annotation, labels=known))


def _tasks(
    job: EditJob, region: Region, examples: Sequence[Example], files: Mapping[str, Path], aside: Aside
) -> list[_Task]:
    """Every image with what is wanted of it, once a variant; one of which that cannot be had is put aside."""
    tasks: list[_Task] = []
    refused: list[Error] = []
    for source in examples:
        try:
            drawn = region.boxes or region.mask
            grid = job.domain.source_grid(files[source.id], source.image.shape[-1]) if files and drawn else None
            _check_input(job, source, files.get(source.id))
            current, target = _annotations(job, source.annotation)
            first, seed = len(tasks), job.settings.seed
            variants = range(first, first + job.request.variants)
            masks = [region.levels(job.domain, source, grid, seed, n) for n in variants]
        except Error as problem:
            refused.append(problem)
            aside.append((files[source.id].name if files else source.id, str(problem)))
            continue
        tasks += [_Task(source, current, target, mask) for mask in masks]
    if not tasks:
        raise refused[0]
    return tasks


def _check_input(job: EditJob, source: Example, path: Path | None) -> None:
    """Error: a file that is not like the images that the model was trained on, unless that is forced; then, and of a data
    set, a Note.
    """
    if not hasattr(job.domain, "input_doubts"):
        return
    doubts = job.domain.input_doubts(job.model.meta, source.image, path)
    if not doubts:
        return
    name = source.id if path is None else path.name
    words = f"Images must look like those the model was trained on, and {name} does not: {'; '.join(doubts)}."
    if path is not None and not job.request.force:
        raise Error(f"{words} Leave it out, or add --force to edit it all the same.")
    warnings.warn(words + (" Edited because --force was given." if job.request.force else ""), Note, stacklevel=2)


def _annotations(job: EditJob, own: Annotation) -> tuple[Annotation, Annotation]:
    """What an image shows, and what it is to show: its own labels with the new ones in their place.

    What followed from the old labels, such as their class, is found anew.
    """
    domain, new = job.domain, job.prompt
    if hasattr(domain, "edit_prompts"):
        return domain.edit_prompts(own, new, job.vocabulary)
    kept = {k: v for k, v in own.labels.items() if k in domain.LABELS and not math.isnan(v)}
    if new.labels and "severity" in kept and "severity" not in new.labels:
        del kept["severity"]  # of the old condition, and nothing is known of the new one's
    found = {**kept, **new.labels}
    return own, Annotation(
        labels=domain.infer_labels(found, job.vocabulary) if hasattr(domain, "infer_labels") else found
    )


def _encode(job: EditJob, tasks: Sequence[_Task]) -> Conditions:
    """As numpy arrays; the methods convert."""
    target, null = encode_conditions(job.model, job.domain, [task.target for task in tasks])
    current, _ = encode_conditions(job.model, job.domain, [task.current for task in tasks])
    return Conditions(*({k: job.model.asnumpy(v) for k, v in c.items()} for c in (target, current, null)))


def _local_edit(job: EditJob, region: Region) -> LocalEdit:
    """How to edit. A film has a wide seam, for nothing in it ends sharply, and keeps its grain: a finding is seen through
    the ribs. Not where the whole is drawn anew, for then the old ribs would stand beside the new ones.
    """
    settings, procedure = job.settings, job.request.procedure
    walk = Walk(settings.sampler, settings.steps, settings.guidance, settings.seed, highest_sigma(job.model))
    if not hasattr(job.domain, "source_grid"):
        return LocalEdit(walk)
    detail = procedure == "invert" or str(region) != "whole"
    return LocalEdit(walk, SEAM * image_shape(job.model.meta)[1], detail=detail)


def _edited_example(
    job: EditJob, task: _Task, image: np.ndarray, settings: Mapping[str, Any], change: Change, variant: int
) -> Example:
    """An image as edited. Its text is the one asked for: how the model was prompted stands in the settings."""
    own: dict[str, Any] = {k: round(v, 4) for k, v in dataclasses.asdict(change).items() if not math.isnan(v)}
    own |= {"told": task.target.text} if task.target.text else {}
    source, seed, procedure = task.source, job.settings.seed, job.request.procedure
    origin = Provenance("edited", settings["model"], procedure, seed, {**settings, **own}, source.id)
    name = f"{source.id}-{procedure}{seed}" + (f"-{variant}" if variant else "")
    annotation = dataclasses.replace(task.target, text=job.prompt.text or task.target.text)
    return Example(name, image, annotation, source.group, provenance=origin)
