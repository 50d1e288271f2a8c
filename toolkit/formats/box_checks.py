"""Whether what a file says of a box can be true of its picture: the rules that COCO, Pascal VOC and YOLO share.

A box is left out, with a reason, when its class or a corner is not known, when it has no area, or when it lies outside of
its picture. It is kept, and the change counted, when its corners stand in the wrong order (they are put in order) or it
reaches over the edge (what is outside is cut off; up to ROUNDING pixels without a word).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from toolkit.example import Boxes

__all__ = ["CLIPPED", "ORDERED", "ROUNDING", "StatedBox", "apply_orientation", "check_boxes", "parse_number"]

ROUNDING = 1.0
"""Pixels that a box may reach over the edge by the way in which a tool counts or rounds pixels."""

ORDERED, CLIPPED = "put in order", "cut off at the edge"
"""What is told of a box that was mended."""

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
    file's statement is none, "" otherwise.
    """

    name: str
    corners: tuple[float, float, float, float] = (math.nan, math.nan, math.nan, math.nan)
    fault: str = ""


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
    said: Iterable[StatedBox], size: tuple[int, int], parts: bool, told: Callable[[str, str], object]
) -> tuple[Boxes, list[str]]:
    """The boxes of a picture of size (rows, cols) that can be true, and a reason for each of the others.

    parts: corners are in parts of width and height. told(kind, box) is called for each that is mended: ORDERED, CLIPPED.
    """
    edge = np.array([size[1], size[0]] * 2, float)
    names, kept, faults = [], [], []
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
        if not fault:
            if (low == high).any():
                fault = f"a box has an area, and {_spelled(corners)} has none"
            elif (inside[:2] >= inside[2:]).any():
                fault = f"a box lies in its picture of {size[1]} x {size[0]}, and {_spelled(corners)} lies outside"
        if fault:
            faults.append(f"{what} left out: {fault}.")
            continue
        if (ordered != corners).any():
            told(ORDERED, what)
        if (np.abs(ordered - inside) > ROUNDING).any():
            told(CLIPPED, what)
        names.append(box.name)
        kept.append(inside)
    return Boxes(np.array(kept, float).reshape(-1, 4), tuple(names), size), faults


def _spelled(corners: np.ndarray) -> str:
    return f"({', '.join(f'{value:.6g}' for value in corners)})"
