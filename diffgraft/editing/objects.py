"""Objects drawn into real pictures at given boxes, by a model that is told layouts; the rest stays as it is, bit by bit.

A picture keeps its size. The model sees a window of it at its own scale, all of the picture unless a width is given, and
is told every box in the window: those of the picture that stay, and the new ones. An object of the picture of which the new
boxes cover too much goes, whole; the others stay, and stand in the annotation of the new picture beside the new ones. Of
what the model answers only what lies in the new boxes, and in place of what went, comes back into the picture; it fades in
over the rim.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.editing import objects_report as edit_objects_report
from diffgraft.editing.drawing import FEATHER, KEPT, Job, covered, draw, left_of
from diffgraft.editing.objects_report import Outcome, Shown
from diffgraft.editing.region import Box, box_of, in_pixels
from diffgraft.editing.windows import Window, grouped
from diffgraft.generation.result import put
from diffgraft.generation.sampling import highest
from diffgraft.preparation.quarantine import quarantine
from toolkit.data import dataset
from toolkit.data.labels import Vocabulary
from toolkit.diffusion.model import Model
from toolkit.example import Annotation, Boxes, Error, Example, Note, Provenance
from toolkit.formats import boxed
from toolkit.formats.folders import identified
from toolkit.formats.photograph import photograph
from toolkit.methods import local_edit
from toolkit.methods.guided import Walk, sigmas
from toolkit.methods.local_edit import LocalEdit
from toolkit.models.folder import image_shape
from toolkit.objects import layouts
from toolkit.objects.boxes import rarest
from toolkit.objects.overlaps import Overlaps
from toolkit.settings import Sampling

__all__ = ["Placed", "edit", "placed"]


@dataclass(frozen=True)
class Placed:
    """One box that was asked for: the class that is drawn there, or None where what is there is taken away."""

    name: str | None
    box: Box

    def __str__(self) -> str:
        return f"{self.name or 'nothing'} at {','.join(f'{edge:g}' for edge in self.box)}"


def placed(objects: Sequence[str], boxes: Sequence[str], names: Sequence[str]) -> list[Placed]:
    """What "CLASS=x0,y0,x1,y1" and "x0,y0,x1,y1" ask for. Errors: an unknown class, no box, nothing at all."""
    found = []
    for words in objects:
        name, sign, rest = words.rpartition("=")
        if not sign or name not in names:
            raise Error(
                f"An object is CLASS=x0,y0,x1,y1 with a class that the model knows, {', '.join(names)}; found '{words}'."
            )
        found.append(Placed(name, box_of(rest)))
    found += [Placed(None, box_of(words)) for words in boxes]
    if not found:
        raise Error(
            "A model that is told boxes draws objects into a picture at boxes of yours; found none. Name them: "
            f"--object {names[0]}=x0,y0,x1,y1; to take away what is there: --box x0,y0,x1,y1"
        )
    return found


def edit(
    model: Model, domain: ModuleType, vocabulary: Vocabulary, source: Path, out: str | Path, asked: Sequence[Placed], *,
    having: Mapping[str, float], count: int | None, variants: int, crop: int | None, settings: Sampling, format: str,
    needed: Sequence[str | Path], overwrite: bool, command: str, watch: Callable[[str, int, int], None],
) -> Outcome:  # fmt: skip
    """Draw what is asked for into every picture of the source, into a new data set with the boxes of all that is there.

    crop: width in pixels of the file of the window that the model sees, as it was prepared with; None is the model's own,
    or all of the picture. having: classes of which a picture must show an object. What cannot be edited so is put aside.
    Errors: no picture left to edit, or one alone that cannot be.
    """
    names: tuple[str, ...] = vocabulary[domain.TARGET]  # type: ignore[assignment]
    crop = crop or model.meta.get("crop")
    with dataset.staged(out, overwrite, ("report.html",), needed) as folder:
        begun = time.monotonic()
        aside: list[tuple[str, str]] = []
        wanted = {names[int(k)] for k in having.values()}
        jobs = _jobs(model, names, source, asked, wanted, crop, count, aside)
        jobs = [job for job in jobs for _ in range(variants)]
        local = LocalEdit(
            Walk(settings.sampler, settings.steps, settings.guidance, settings.seed, highest(model)), FEATHER
        )
        edited, changes = draw(model, domain, jobs, local, watch)
        start = sigmas(model, local.walk, 1.0)[0]
        resolved = dataclasses.asdict(settings) | {
            "procedure": "inpaint", "asked": [str(one) for one in asked], "crop": crop, "start_sigma": round(start, 4),
            "feather": FEATHER, "model": model.fingerprint[:16], "backend": model.backend,
        }  # fmt: skip
        counts = Counter(name for job in edited for name in job.boxes.names)
        made = [
            _made(job, change, domain.TARGET, names, counts, resolved, n % variants)
            for n, (job, change) in enumerate(zip(edited, changes, strict=True))
        ]
        put(model, domain, vocabulary, made, folder, format, resolved, time.monotonic() - begun)
        quarantine(folder, aside)
        shown = [Shown(job.source, each, job.wanted, job.region) for job, each in zip(edited, made, strict=True)]
        outcome = edit_objects_report.outcome(model, names, shown, edited, changes, start, tuple(aside))
        run = reporting.Run(command=command, settings=resolved, seed=settings.seed, seconds=time.monotonic() - begun)
        edit_objects_report.write(folder / "report.html", names, shown, outcome, run, domain.NOTICE)
    return outcome


# ------------------------------------------------------------------------------------------------------------- sources


def _jobs(
    model: Model, names: Sequence[str], source: Path, asked: Sequence[Placed], having: set[str], crop: int | None,
    count: int | None, aside: list[tuple[str, str]],
) -> list[Job]:  # fmt: skip
    jobs: list[Job] = []
    refused: list[Error] = []
    for example in _pictures(source, aside):
        boxes = example.annotation.boxes
        if having - set(() if boxes is None else boxes.names):
            continue
        try:
            jobs.append(_job(model, names, example, asked, crop))
        except Error as problem:
            refused.append(problem)
            aside.append((example.id, str(problem)))
        if len(jobs) == count:
            break
    if not jobs:
        if refused:
            raise refused[0]
        words = f" with {' and '.join(sorted(having))}" if having else ""
        raise Error(f"An edit needs pictures; {source} has none{words}. Check the path and --where.")
    return jobs


def _pictures(source: Path, aside: list[tuple[str, str]]) -> Iterator[Example]:
    """Pictures in full size, with their boxes where they have any: of a data set, a folder, or one file."""
    if (source / "manifest.jsonl").is_file():
        yield from dataset.read(source)
    elif source.is_dir():
        yield from boxed.read(source, aside=lambda *told: aside.append(told))
    else:
        image, marked = photograph(source)
        row = _annotated(source)
        name, group = (*identified([source.name]), source.stem) if row is None else (row.id, row.group)
        boxes = None if row is None or row.size != image.shape[1:] else row.boxes
        yield Example(name, image, Annotation(boxes=boxes), group, provenance=marked)


def _annotated(path: Path) -> boxed.Row | None:
    """What the annotation files beside a picture, or beside its folder, say of it."""
    path = path.resolve()
    for root in (path.parent, path.parent.parent):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Note)  # of other pictures
                rows = boxed.rows(root, aside=lambda *_: None)
        except Error:
            continue
        for row in rows:
            if row.path.resolve() == path:
                return row
    return None


def _job(model: Model, names: Sequence[str], source: Example, asked: Sequence[Placed], crop: int | None) -> Job:
    """Errors: a box outside the picture, one smaller than the model knows, windows that do not fit, unknown classes."""
    channels, rows, cols = source.image.shape
    if channels != image_shape(model.meta)[0]:
        raise Error(f"A model edits pictures of {image_shape(model.meta)[0]} channels; '{source.id}' has {channels}.")
    boxes = source.annotation.boxes
    known = boxes is not None
    boxes = Boxes(np.zeros((0, 4)), (), (rows, cols)) if boxes is None else boxes
    if unknown := sorted(set(boxes.names) - set(names)):
        raise Error(f"A box is of a class that the model knows, {', '.join(names)}; '{source.id}' has '{unknown[0]}'.")
    corners = np.array([in_pixels(one.box, cols, rows) for one in asked], float).reshape(-1, 4)
    wanted = Boxes(corners, tuple(one.name or "" for one in asked), (rows, cols))
    size: tuple[int, int] = image_shape(model.meta)[1:]  # type: ignore[assignment]
    windows = grouped(corners, (rows, cols), size, crop)
    _check(model, names, wanted, boxes, windows)
    if not known:
        line = (
            f"'{source.id}' has no annotation: the model is told the new objects alone, and so is who reads the new one"
        )
        warnings.warn(f"{line}.", Note, stacklevel=2)
    nothing = np.zeros((rows, cols), bool)
    return Job(source, source.image, boxes, wanted, windows, known, nothing, nothing)


def _check(model: Model, names: Sequence[str], wanted: Boxes, there: Boxes, windows: Sequence[Window]) -> None:
    """Errors: a box too small for the model. What overlaps more than real objects do is told of, and drawn."""
    typical = model.meta.get("typical", {})
    scale = windows[0].scale
    new = [n for n, name in enumerate(wanted.names) if name]
    objects = Boxes(wanted.corners[new], tuple(wanted.names[n] for n in new), wanted.size)
    least = {name: [side / scale for side in sides] for name, sides in typical.get("smallest", {}).items()}
    layouts.check(objects, least, names)
    if "layouts" not in typical or not new:
        return
    usual = Overlaps.learned(layouts.from_summary(typical["layouts"]))
    kept = np.flatnonzero(left_of(there, covered(wanted.corners, there.size or (0, 0))) >= KEPT)
    rest = Boxes(there.corners[kept], tuple(there.names[n] for n in kept))
    for n, name in enumerate(objects.names):
        others = Boxes(
            np.concatenate([np.delete(objects.corners, n, 0), rest.corners]),
            (*objects.names[:n], *objects.names[n + 1 :], *rest.names),
        )
        known = np.array([other in usual.names for other in others.names], bool)
        others = Boxes(others.corners[known], tuple(o for o, k in zip(others.names, known, strict=True) if k))
        if name in usual.names and not usual.allowed(objects.corners[n : n + 1], name, others).all():
            box = ",".join(f"{edge:g}" for edge in objects.corners[n])
            warnings.warn(f"{name} at {box} overlaps another box more than real objects do.", Note, stacklevel=2)


def _made(
    job: Job, changes: Sequence[local_edit.Change], target: str, names: Sequence[str], counts: Counter[str],
    resolved: Mapping[str, Any], variant: int,
) -> Example:  # fmt: skip
    """The edited picture with the layout of all that is there. Its label: the rarest class of this set that it shows."""
    source, seed = job.source, resolved["seed"]
    own: dict[str, Any] = {
        "objects": [[n, *map(float, c)] for n, c in zip(job.wanted.names, job.wanted.corners, strict=True)],
        "boxes_removed": job.removed,
        "annotated": "all that is there" if job.known else "the new objects alone",
        "windows": [[w.left, w.top, w.left + w.cols, w.top + w.rows] for w in job.windows],
        "outside_by_the_model_alone": [round(c.outside, 4) for c in changes if not math.isnan(c.outside)],
    }
    origin = Provenance("edited", resolved["model"], "inpaint", seed, {**resolved, **own}, source.id)
    label = {target: rarest(job.boxes, names, counts)}
    name = f"{source.id}-inpaint{seed}" + (f"-{variant}" if variant else "")
    return Example(name, job.image, Annotation(labels=label, boxes=job.boxes), source.group, provenance=origin)
