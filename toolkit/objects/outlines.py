"""The upright box around an outline: a polygon, a mask in runs (COCO's RLE), a turned box.

Corners are x0 y0 x1 y1 in the unit of the points, continuous: the right edge of the last pixel of a mask is its column + 1.
Runs go down the columns and begin with pixels that are not of the mask; in their short form they are COCO's text, six bits
a character (maskApi.c of https://github.com/cocodataset/cocoapi). Errors: what is no outline, or one that shows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolkit.example import Error

__all__ = ["Corners", "around_points", "around_runs", "around_segmentation", "around_turned"]

Corners = tuple[float, float, float, float]

MOST_RUNS = 2**24
"""Of one mask; more of them are something else."""


def around_points(numbers: Sequence[float]) -> Corners:
    """The box around x0 y0 x1 y1 x2 y2 ..., of three points or more."""
    if len(numbers) < 6 or len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        raise Error(f"An outline is three points or more, x and y each; found {len(numbers)} numbers.")
    return min(numbers[0::2]), min(numbers[1::2]), max(numbers[0::2]), max(numbers[1::2])


def around_turned(corners: Corners, degrees: float) -> Corners:
    """The upright box around a box that is turned about its middle."""
    (x0, y0, x1, y1), angle = corners, math.radians(degrees)
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    width, height = (x1 - x0) * cos + (y1 - y0) * sin, (x1 - x0) * sin + (y1 - y0) * cos
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def around_runs(counts: object, size: object) -> Corners:
    """The box around a mask of size [rows, cols] in runs, a list or COCO's short text."""
    if not (isinstance(size, Sequence) and len(size) == 2 and all(type(n) is int and 0 < n < 2**20 for n in size)):
        raise Error(f"A mask in runs has a size, rows and columns; found {size!r:.60}.")
    rows, cols = size
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or len(runs) > MOST_RUNS or not all(type(n) is int and n >= 0 for n in runs):
        raise Error(f"Runs of a mask are whole numbers, not negative; found {counts!r:.60}.")
    ends = np.cumsum(np.array([0, *runs], np.int64))
    if ends[-1] != rows * cols:
        raise Error(f"Runs of a mask of {cols} x {rows} add up to {rows * cols}; found {ends[-1]}.")
    low, high = ends[1:-1:2], ends[2::2]
    low, high = low[high > low], high[high > low] - 1
    if not low.size:
        raise Error("A mask shows something; this one has no pixel.")
    whole = (low // rows != high // rows).any()  # a run that goes on into the next column
    top, bottom = (0, rows - 1) if whole else ((low % rows).min(), (high % rows).max())
    return float((low // rows).min()), float(top), float((high // rows).max() + 1), float(bottom + 1)


def around_segmentation(value: object) -> Corners:
    """The box around COCO's `segmentation`: polygons, or a mask in runs."""
    if isinstance(value, Mapping):
        return around_runs(value.get("counts"), value.get("size"))
    if not isinstance(value, list) or not value:
        raise Error(f"A segmentation is polygons or runs; found {value!r:.60}.")
    parts: list[Any] = value if isinstance(value[0], list) else [value]
    boxes = np.array([around_points(_numbers(part)) for part in parts])
    x0, y0, x1, y1 = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
    return float(x0), float(y0), float(x1), float(y1)


def _numbers(part: object) -> list[float]:
    if not isinstance(part, list) or not all(type(n) in (int, float) and abs(n) < 1e12 for n in part):
        raise Error(f"A polygon is a list of finite numbers; found {part!r:.60}.")
    return part


def _unpacked(text: str) -> list[int]:
    """Runs from COCO's short text: five bits a character and one that says that more follow; from the fourth on a run is
    the difference to the one before the last."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise Error(f"Runs in their short form are COCO's letters; found {text!r:.60}.")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise Error(f"Runs in their short form end with a whole run; found {text[-60:]!r}.")
    return runs
