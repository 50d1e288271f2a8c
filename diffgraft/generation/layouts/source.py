"""Where the layouts of new images come from: real ones of a data set or of the model, arranged, one for each image.

The layout of an image depends on the seed and on the place of the image alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data import dataset
from toolkit.evaluation.detection.metrics import as_truth
from toolkit.example import Boxes, Error, Example, Note
from toolkit.methods.faithfulness import Counts, hardness
from toolkit.models.folder import hash_id, image_shape, training_ids
from toolkit.objects import boxes as layout
from toolkit.objects import layout_summary, layouts

__all__ = ["LayoutSource", "held_out_from_detector", "layout_source"]

TRIALS = 64
"""Arrangements that are looked at for one that holds what was asked for."""

SLACK = 0.75
"""Of the smallest box of a class, as a model keeps it: a layout of twenty has one in a hundred boxes that is smaller."""

TRIAL_STRIDE = 2**20
"""Arrangements from one trial of a place to its next: more than any run has images."""


@dataclass(frozen=True)
class LayoutSource:
    """(place, attempt) -> a layout: the first that will do of those that `arrange` answers, one for each number.

    real: what they are made of. must_hold: a class of which each has an object. hard: what the detector makes of real boxes; of two
    layouts the harder is taken, so that the one at rank r of P is asked for in proportion to r / P, as FreeMask has it.
    origin: where they come from, in words. smallest: sides of the smallest box of each class that the model was trained on.
    """

    arrange: Callable[[int], Boxes]
    real: Sequence[Boxes]
    names: tuple[str, ...]
    origin: str
    must_hold: str | None = None
    hard: Counts | None = None
    smallest: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __call__(self, place: int, attempt: int) -> Boxes:
        found = [self._one(place, attempt, number) for number in range(1 if self.hard is None else 2)]
        if self.hard is None:
            return found[0]
        rated = [hardness(as_truth(boxes, self.names), self.hard) for boxes in found]
        return found[int(np.argmax(rated))]

    def _one(self, place: int, attempt: int, number: int) -> Boxes:
        for trial in range(TRIALS):
            boxes = self.arrange(((attempt * 2 + number) * TRIALS + trial) * TRIAL_STRIDE + place)
            if _fits(boxes, self.smallest, self.names) and (self.must_hold is None or self.must_hold in boxes.names):
                return boxes
        raise Error(
            f"None of {TRIALS} arrangements is one that the model can draw{_with(self.must_hold)}. Take --layout copy, or other "
            "data: --like DATA"
        )


def layout_source(
    meta: Mapping[str, Any], like: str | Path | None, kind: str, seed: int, names: tuple[str, ...], must_hold: str | None,
    hard: Counts | None, flips: tuple[bool, bool],
) -> LayoutSource:  # fmt: skip
    """The layouts of `like` that the model was trained on, all where it knows none of them; without `like` its own.

    flips: whether left and right, and top and bottom, may be exchanged.
    Errors: a kind that there is not, boxes of other classes or sizes, no layout that holds the class `must_hold`.
    """
    rows, cols = image_shape(meta)[1:]
    typical = meta.get("typical", {})
    if like is not None:
        found, where = _of(meta, like, names, (rows, cols))
    elif "layouts" in typical:
        found, where = layout_summary.from_summary(typical["layouts"]), "the model"
    else:
        raise Error("Layouts come from real ones, and this model keeps none. Name a data set: --like DATA")
    smallest = {name: tuple(SLACK * s for s in sides) for name, sides in typical.get("smallest", {}).items()}
    usable = [boxes for boxes in found if boxes.names and _fits(boxes, smallest, names)]
    if len(usable) < len(found):
        line = f"{len(found) - len(usable)} of {len(found)} layouts of {where} left out: empty, too many or too small boxes"
        warnings.warn(f"{line}.", Note, stacklevel=2)
    usable = [boxes for boxes in usable if must_hold is None or must_hold in boxes.names]
    if not usable:
        raise Error(
            f"A layout is made of real ones; {where} has none{_with(must_hold)} that the model can draw. Take other data."
        )
    arrange = layouts.layout_generator(kind, usable, seed, (rows, cols), flips)
    return LayoutSource(arrange, usable, names, where, must_hold, hard, smallest)


def held_out_from_detector(
    meta: Mapping[str, Any], path: str | Path, names: Sequence[str], other_sizes: bool = True
) -> list[Example]:
    """The real, annotated images of a data set that the model's detector was not trained on.

    other_sizes: an image of another size than the model's is an error, instead of being left out.
    Errors: a detector that does not say what it was trained on, images of another size, other classes.
    """
    trained = training_ids(meta, ("detector",))
    if trained is None:
        raise Error(
            "Images that a detector did not learn from are known by its record of training, which this one lacks. Train it "
            "again, or leave the filter out: --no-filter"
        )
    found = [
        e for e in dataset.read(path)
        if e.provenance is None and e.annotation.boxes is not None and hash_id(e.id) not in trained
        and (other_sizes or e.image.shape == image_shape(meta))
    ]  # fmt: skip
    for example in found:
        if example.image.shape != image_shape(meta):
            channels, rows, cols = image_shape(meta)
            raise Error(
                f"A detector looks at images of the size of its model, {cols} x {rows} x {channels}; '{example.id}' of {path} "
                f"is {list(example.image.shape)}. Prepare the data with --size {cols}x{rows}"
            )
        _known(example.annotation.boxes, names, path)
    return found


def _of(
    meta: Mapping[str, Any], path: str | Path, names: Sequence[str], size: tuple[int, int]
) -> tuple[list[Boxes], str]:
    """The layouts of a data set at the size of the model's images, and what they are in words."""
    trained = training_ids(meta, ("denoiser",)) or set()
    known = [(e.id, e.annotation.boxes) for e in dataset.read(path) if e.annotation.boxes is not None]
    ours = [(name, boxes) for name, boxes in known if hash_id(name) in trained]
    found = []
    for name, boxes in ours or known:
        _known(boxes, names, path)
        if boxes.size is None or abs(boxes.size[0] * size[1] - boxes.size[1] * size[0]) > max(size):
            raise Error(
                f"Layouts have the shape of the model's images, {size[1]} x {size[0]}; '{name}' of {path} has "
                f"{boxes.size}. Prepare the data with --size {size[1]}x{size[0]}"
            )
        found.append(boxes if boxes.size == size else layout.resize(boxes, size))
    if not found:
        raise Error(f"Layouts are taken from images with boxes; {path} has none. Name another: --like DATA")
    which = f"{len(ours)} that the model was trained on" if ours else f"all {len(found)}"
    return found, f"{path} ({which})"


def _known(boxes: Boxes | None, names: Sequence[str], path: str | Path) -> None:
    if boxes is not None and (other := sorted(set(boxes.names) - set(names))):
        raise Error(f"A box is of a class that the model knows, {', '.join(names)}; {path} has '{other[0]}'.")


def _fits(boxes: Boxes, smallest: Mapping[str, Sequence[float]], names: Sequence[str]) -> bool:
    """Whether a model can be told of a layout and has seen such boxes."""
    try:
        layout_summary.check_layout(boxes, smallest, names)
    except Error:
        return False
    return True


def _with(must_hold: str | None) -> str:
    return "" if must_hold is None else f" and holds a {must_hold}"
