"""Boxes as arrays that a network is told: a fixed number of places, corners in parts of the image, what is none is null."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.diffusion.model import BOXES, OBJECTS, Field
from toolkit.example import Annotation, Boxes, Error

__all__ = ["MOST", "clip", "fields", "rarest_class", "resize", "to_arrays"]

MOST = 39
"""Objects of one image that a model is told of, at most."""


def fields(names: Sequence[str], most: int = MOST) -> dict[str, Field]:
    """The condition fields of a layout. The null of an object is the class after the last: no object."""
    return {BOXES: Field((most + 1, 4), "float32", 0.0), OBJECTS: Field((most + 1,), "int64", float(len(names)))}


def to_arrays(annotations: Sequence[Annotation], names: Sequence[str], most: int = MOST) -> dict[str, np.ndarray]:
    """boxes (B, most + 1, 4) float32, corners in parts of width and height, and objects (B, most + 1) int64, of `names`.

    The last place is always empty: what stands there is the null. An annotation without boxes is a layout of nothing.
    Errors: more boxes than places, a class that is not among the names, boxes that do not say the size of their image.
    """
    corners = np.zeros((len(annotations), most + 1, 4), np.float32)
    objects = np.full((len(annotations), most + 1), len(names), np.int64)
    for row, annotation in enumerate(annotations):
        boxes = annotation.boxes
        if boxes is None or not boxes.names:
            continue
        if len(boxes.names) > most:
            raise Error(f"A layout has at most {most} objects; found {len(boxes.names)}. Leave some out, or cut crops.")
        if unknown := sorted(set(boxes.names) - set(names)):
            raise Error(f"A box is of a class that the model knows, {', '.join(names)}; found '{unknown[0]}'.")
        if boxes.size is None:
            raise Error(
                "A model is told boxes in parts of their image, so its size has to be known; found boxes without."
            )
        rows, cols = boxes.size
        corners[row, : len(boxes.names)] = boxes.corners / np.array([cols, rows, cols, rows])
        objects[row, : len(boxes.names)] = [names.index(name) for name in boxes.names]
    return {BOXES: corners, OBJECTS: objects}


def rarest_class(boxes: Boxes | None, names: Sequence[str], counts: Mapping[str, int]) -> float:
    """The index of the class of which there are the fewest objects, by `counts`, among those that boxes show; NaN of none."""
    seen = set() if boxes is None else set(boxes.names)
    name = min(seen, key=lambda name: (counts[name], name), default=None)
    return math.nan if name is None else float(names.index(name))


def resize(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """The same boxes on the same image at another size (rows, cols)."""
    if boxes.size is None:
        raise Error("Boxes are carried to another size from their own, which has to be known; found boxes without.")
    factor = np.array([size[1] / boxes.size[1], size[0] / boxes.size[0]] * 2)
    return Boxes(boxes.corners * factor, boxes.names, size)


def clip(boxes: Boxes, window: tuple[float, float, float, float], least: float) -> Boxes:
    """What of the boxes lies in a window x0, y0, x1, y1 of their image, in pixels of the window.

    A box of which less than the part `least` is inside is left out: what is left does not show what it is.
    """
    x0, y0, x1, y1 = window
    moved = boxes.corners - np.array([x0, y0, x0, y0])
    inside = np.clip(moved, 0, np.array([x1 - x0, y1 - y0] * 2))
    kept = _area(inside) > np.maximum(least * _area(moved), 0)
    names = tuple(name for name, keep in zip(boxes.names, kept, strict=True) if keep)
    return Boxes(inside[kept], names, (round(y1 - y0), round(x1 - x0)))


def _area(corners: np.ndarray) -> np.ndarray:
    return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
