"""Objects drawn into real pictures at given boxes, by a model that is told layouts; the rest stays as it is, bit by bit.

A picture keeps its size. The model sees a window of it at its own scale, all of the picture unless a width is given, and
is told every box in the window: those of the picture that stay, and the new ones. An object of the picture of which the new
boxes cover too much goes, whole; the others stay, and stand in the annotation of the new picture beside the new ones. Of
what the model answers only what lies in the new boxes, and in place of what went, comes back into the picture; it fades in
over the rim.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.editing import report
from diffgraft.editing.measure import measure_objects
from diffgraft.editing.region import Box, box_in_pixels, parse_box
from diffgraft.editing.result import EditedImage, ObjectEditResult
from diffgraft.generation.job import EditJob, Made
from diffgraft.generation.sampling import encode_conditions, highest_sigma
from diffgraft.preparation.quarantine import Aside, quarantine
from diffgraft.requests.verb import Call
from toolkit.data import dataset, labels
from toolkit.data.file_names import printable
from toolkit.diffusion.model import Model
from toolkit.example import Annotation, Boxes, Error, Example, Note, Provenance
from toolkit.formats import boxed
from toolkit.formats.folders import unique_ids
from toolkit.formats.photograph import read_photograph
from toolkit.methods.guided import Conditions, Walk, sigmas
from toolkit.methods.local_edit import Change, LocalEdit
from toolkit.methods.object_drawing import FEATHER, KEPT, Canvas, Window, box_mask, draw, group_windows, visible_part
from toolkit.models.folder import image_shape
from toolkit.objects import layout_summary
from toolkit.objects.boxes import rarest_class
from toolkit.objects.overlaps import Overlaps

__all__ = ["Placement", "parse_objects", "plan_objects"]


@dataclass(frozen=True)
class Placement:
    """One box that was asked for: the class that is drawn there, or None where what is there is taken away."""

    name: str | None
    box: Box

    def __str__(self) -> str:
        return f"{self.name or 'nothing'} at {','.join(f'{edge:g}' for edge in self.box)}"


def parse_objects(objects: Sequence[str], boxes: Sequence[str], names: Sequence[str]) -> list[Placement]:
    """What "CLASS=x0,y0,x1,y1" and "x0,y0,x1,y1" ask for. Errors: an unknown class, no box, nothing at all."""
    found = []
    for words in objects:
        name, sign, rest = words.rpartition("=")
        if not sign or name not in names:
            raise Error(
                f"An object is CLASS=x0,y0,x1,y1 with a class that the model knows, {', '.join(names)}; found '{words}'."
            )
        found.append(Placement(name, parse_box(rest)))
    found += [Placement(None, parse_box(words)) for words in boxes]
    if not found:
        raise Error(
            "A model that is told boxes draws objects into a picture at boxes of yours; found none. Name them: "
            f"--object {names[0]}=x0,y0,x1,y1; to take away what is there: --box x0,y0,x1,y1"
        )
    return found


def plan_objects(job: EditJob) -> Callable[[Call], Made[ObjectEditResult]]:
    """What draws the objects of a request. Errors: objects that cannot be."""
    placements = parse_objects(job.request.objects, job.request.boxes, job.class_names)
    return functools.partial(_draw_objects, job, placements)


def _draw_objects(job: EditJob, placements: Sequence[Placement], call: Call) -> Made[ObjectEditResult]:
    """Draw into every picture of the source; one that cannot be edited so is put aside.

    Errors: no picture left to edit, or one alone that cannot be.
    """
    model, domain, settings, names = job.model, job.domain, job.settings, job.class_names
    begun = time.monotonic()
    aside: Aside = []
    canvases = [canvas for canvas in _canvases(job, placements, aside) for _ in range(job.request.variants)]
    walk = Walk(settings.sampler, settings.steps, settings.guidance, settings.seed, highest_sigma(model))
    start = sigmas(model, walk, 1.0)[0]
    call.tell(f"inpaint at strength {job.request.strength:g}, {settings}; start sigma {start:.3g}")

    def encode(layouts: Sequence[Boxes]) -> tuple[Conditions, Conditions]:
        encoded = encode_conditions(model, domain, [Annotation(boxes=boxes) for boxes in layouts])
        cond, null = ({k: model.asnumpy(v) for k, v in c.items()} for c in encoded)
        return cond, null

    local = LocalEdit(walk, FEATHER)
    edited, changes = draw(model, encode, canvases, local, lambda done, of: call.watch("inpaint", done, of))
    resolved = dataclasses.asdict(settings) | {
        "procedure": "inpaint", "asked": [str(one) for one in placements], "crop": _crop(job),
        "start_sigma": round(start, 4), "feather": FEATHER, "model": model.fingerprint[:16], "backend": model.backend,
    }  # fmt: skip
    counts = Counter(name for canvas in edited for name in canvas.boxes.names)
    made = [
        _edited_example(job, canvas, change, counts, resolved, n % job.request.variants)
        for n, (canvas, change) in enumerate(zip(edited, changes, strict=True))
    ]

    def finish(folder: Path, run: reporting.Run) -> ObjectEditResult:
        pairs = [EditedImage(c.source, each, c.region, c.wanted) for c, each in zip(edited, made, strict=True)]
        quarantine(folder, aside)
        result = measure_objects(model, names, pairs, edited, changes, start, tuple(aside))
        report.write_objects(folder / "report.html", names, pairs, result, run, domain.NOTICE)
        return result

    return Made(made, resolved, begun, finish)


# ------------------------------------------------------------------------------------------------------------- sources


def _crop(job: EditJob) -> int | None:
    """Width in pixels of the file of the window that the model sees; None is all of the picture."""
    return job.request.crop or job.model.meta.get("crop")


def _canvases(job: EditJob, placements: Sequence[Placement], aside: Aside) -> list[Canvas]:
    canvases: list[Canvas] = []
    refused: list[Error] = []
    source, where = job.request.source, labels.parse(job.vocabulary, job.request.where)
    having = {job.class_names[int(k)] for k in where.values()}
    for example in _pictures(source, aside):
        boxes = example.annotation.boxes
        if having - set(() if boxes is None else boxes.names):
            continue
        try:
            canvases.append(_canvas(job, example, placements))
        except Error as problem:
            refused.append(problem)
            aside.append((example.id, str(problem)))
        if len(canvases) == job.request.count:
            break
    if not canvases:
        if refused:
            raise refused[0]
        words = f" with {' and '.join(sorted(having))}" if having else ""
        raise Error(f"An edit needs pictures; {source} has none{words}. Check the path and --where.")
    return canvases


def _pictures(source: Path, aside: Aside) -> Iterator[Example]:
    """Pictures in full size, with their boxes where they have any: of a data set, a folder, or one file."""
    if (source / "manifest.jsonl").is_file():
        yield from dataset.read(source)
    elif source.is_dir():
        yield from boxed.read(source, aside=lambda name, reason: aside.append((name, reason)))
    else:
        image, marked = read_photograph(source)
        row = _annotated(source)
        name, group = (*unique_ids([source.name]), printable(source.stem)) if row is None else (row.id, row.group)
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


def _canvas(job: EditJob, source: Example, placements: Sequence[Placement]) -> Canvas:
    """Errors: a box outside the picture, one smaller than the model knows, windows that do not fit, unknown classes."""
    (channels, rows, cols), names = source.image.shape, job.class_names
    own_channels, *size = image_shape(job.model.meta)
    if channels != own_channels:
        raise Error(f"A model edits pictures of {own_channels} channels; '{source.id}' has {channels}.")
    boxes = source.annotation.boxes
    annotated = boxes is not None
    boxes = Boxes(np.zeros((0, 4)), (), (rows, cols)) if boxes is None else boxes
    if unknown := sorted(set(boxes.names) - set(names)):
        raise Error(f"A box is of a class that the model knows, {', '.join(names)}; '{source.id}' has '{unknown[0]}'.")
    corners = np.array([box_in_pixels(one.box, cols, rows) for one in placements], float).reshape(-1, 4)
    wanted = Boxes(corners, tuple(one.name or "" for one in placements), (rows, cols))
    windows = group_windows(corners, (rows, cols), (size[0], size[1]), _crop(job))
    _check(job.model, names, wanted, boxes, windows)
    if not annotated:
        line = (
            f"'{source.id}' has no annotation: the model is told the new objects alone, and so is who reads the new one"
        )
        warnings.warn(f"{line}.", Note, stacklevel=2)
    nothing = np.zeros((rows, cols), bool)
    return Canvas(source, source.image, boxes, wanted, windows, annotated, nothing, nothing)


def _check(model: Model, names: Sequence[str], wanted: Boxes, there: Boxes, windows: Sequence[Window]) -> None:
    """Errors: a box too small for the model. What overlaps more than real objects do is told of, and drawn."""
    typical = model.meta.get("typical", {})
    scale = windows[0].scale
    new = [n for n, name in enumerate(wanted.names) if name]
    objects = Boxes(wanted.corners[new], tuple(wanted.names[n] for n in new), wanted.size)
    least = {name: [side / scale for side in sides] for name, sides in typical.get("smallest", {}).items()}
    layout_summary.check_layout(objects, least, names)
    if "layouts" not in typical or not new:
        return
    usual = Overlaps.learn(layout_summary.from_summary(typical["layouts"]))
    kept = np.flatnonzero(visible_part(there, box_mask(wanted.corners, there.size or (0, 0))) >= KEPT)
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


def _edited_example(
    job: EditJob,
    canvas: Canvas,
    changes: Sequence[Change],
    counts: Counter[str],
    settings: Mapping[str, Any],
    variant: int,
) -> Example:
    """The edited picture with the layout of all that is there. Its label: the rarest class of this set that it shows."""
    source, seed, wanted = canvas.source, job.settings.seed, canvas.wanted
    own: dict[str, Any] = {
        "objects": [[n, *map(float, c)] for n, c in zip(wanted.names, wanted.corners, strict=True)],
        "boxes_removed": canvas.removed,
        "annotated": "all that is there" if canvas.annotated else "the new objects alone",
        "windows": [[w.left, w.top, w.left + w.cols, w.top + w.rows] for w in canvas.windows],
        "outside_by_the_model_alone": [round(c.outside, 4) for c in changes if not math.isnan(c.outside)],
    }
    origin = Provenance("edited", settings["model"], "inpaint", seed, {**settings, **own}, source.id)
    label = {job.domain.TARGET: rarest_class(canvas.boxes, job.class_names, counts)}
    name = f"{source.id}-inpaint{seed}" + (f"-{variant}" if variant else "")
    return Example(name, canvas.image, Annotation(labels=label, boxes=canvas.boxes), source.group, provenance=origin)
