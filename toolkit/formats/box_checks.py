"""Whether what a file says of a box can be true of its picture: the rules that COCO, Pascal VOC and YOLO share.

A box is unreadable when its class or a corner is not known or when it lies outside of its picture: there is an object that
nobody can place, so that the picture is of no use, as one that shows less than it holds. A box without an area marks no part
of the picture, a slip of the mouse: it is left out by name. A box is kept, and the change counted, when its corners stand in
the wrong order (they are put in order), when it reaches over the edge (what is outside is cut off; up to ROUNDING pixels
without a word), or when it is read otherwise than as four plain numbers (StatedBox.how).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from toolkit.example import Boxes

__all__ = [
    "AROUND", "CLIPPED", "ORDERED", "ROUNDING", "CheckedBoxes", "StatedBox", "apply_orientation", "check_boxes", "parse_number",
]  # fmt: skip

ROUNDING = 1.0
"""Pixels that a box may reach over the edge by the way in which a tool counts or rounds pixels."""

ORDERED, CLIPPED = "put in order", "cut off at the edge"
"""What is told of a box that was mended."""

AROUND = "read as the upright box around an outline or a turned box"
"""What is told of a box that a file does not state itself."""

TURNED: dict[int, Callable[[np.ndarray, float, float], np.ndarray]] = {
    2: lambda c, w, h: np.stack([w - c[:, 0], c[:, 1], w - c[:, 2], c[:, 3]], 1),
    3: lambda c, w, h: np.stack([w - c[:, 0], h - c[:, 1], w - c[:, 2], h - c[:, 3]], 1),
    4: lambda c, w, h: np.stack([c[:, 0], h - c[:, 1], c[:, 2], h - c[:, 3]], 1),
    5: lambda c, w, h: np.stack([c[:, 1], c[:, 0], c[:, 3], c[:, 2]], 1),
    6: lambda c, w, h: np.stack([h - c[:, 1], c[:, 0], h - c[:, 3], c[:, 2]], 1),
    7: lambda c, w, h: np.stack([h - c[:, 1], w - c[:, 0], h - c[:, 3], w - c[:, 2]], 1),
    8: lambda c, w, h: np.stack([c[:, 1], w - c[:, 0], c[:, 3], w - c[:, 2]], 1),
}
"""EXIF orientation -> corners on the stored pixels (width w, height h) to corners on the picture as it is shown."""


@dataclass(frozen=True)
class StatedBox:
    """One box as a file states it.

    name: class, "" if it is not known. corners: x0 y0 x1 y1 in pixels, or in parts of width and height. fault: why the
    file's statement is none, "" otherwise. how: what is told of the way in which it was read, "" of four plain numbers.
    """

    name: str
    corners: tuple[float, float, float, float] = (math.nan, math.nan, math.nan, math.nan)
    fault: str = ""
    how: str = ""


@dataclass(frozen=True)
class CheckedBoxes:
    """boxes: those that can be true. unreadable, empty: a reason for each that cannot be read, or has no area."""

    boxes: Boxes
    unreadable: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()


def parse_number(value: object) -> float:
    """A number of a file, as it is or as text; NaN for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    if isinstance(value, str) and "_" in value:  # 1_0 is ten in Python alone
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def apply_orientation(corners: np.ndarray, orientation: int, size: tuple[int, int]) -> np.ndarray:
    """Corners (N, 4) on the stored pixels of a file of size (rows, cols) -> on the picture as a viewer shows it."""
    if orientation not in TURNED:
        return corners
    moved = TURNED[orientation](corners, float(size[1]), float(size[0]))
    return np.concatenate([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], 1)


def check_boxes(
    said: Iterable[StatedBox], size: tuple[int, int], parts: bool, told: Callable[[str], object]
) -> CheckedBoxes:
    """What can be true of the boxes of a picture of size (rows, cols).

    parts: corners are in parts of width and height. told(kind) is called for each that is mended or read in another way.
    """
    edge = np.array([size[1], size[0]] * 2, float)
    names, kept, unreadable, empty = [], [], [], []
    for place, box in enumerate(said, 1):
        what = f"Box {place}{f', {box.name},' if box.name else ''}"
        with np.errstate(over="ignore"):
            corners = np.array(box.corners) * (edge if parts else 1.0)
        fault = box.fault or (
            "" if np.isfinite(corners).all() else "a corner is a finite number, and one of its is not"
        )
        low, high = np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])
        ordered = np.concatenate([low, high])
        inside = np.clip(ordered, 0, edge)
        if not fault and (low == high).any():
            empty.append(f"{what} left out: a box has an area, and {_spelled(corners)} has none.")
            continue
        if not fault and (inside[:2] >= inside[2:]).any():
            fault = f"a box lies in its picture of {size[1]} x {size[0]}, and {_spelled(corners)} lies outside"
        if fault:
            unreadable.append(f"{what} cannot be read: {fault}.")
            continue
        for kind, so in (
            (ORDERED, (ordered != corners).any()),
            (CLIPPED, (np.abs(ordered - inside) > ROUNDING).any()),
            (box.how, box.how),
        ):
            if so:
                told(kind)
        names.append(box.name)
        kept.append(inside)
    boxes = Boxes(np.array(kept, float).reshape(-1, 4), tuple(names), size)
    return CheckedBoxes(boxes, tuple(unreadable), tuple(empty))


def _spelled(corners: np.ndarray) -> str:
    return f"({', '.join(f'{value:.6g}' for value in corners)})"
