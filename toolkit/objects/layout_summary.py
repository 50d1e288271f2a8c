"""What a model keeps of the layouts that it was trained on: some of them, the smallest sizes, and whether another fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolkit.example import Boxes, Error
from toolkit.objects.boxes import MOST

__all__ = ["EDGE", "STORED", "check_layout", "from_summary", "smallest_sizes", "to_summary"]

STORED = 64
"""Layouts that a model keeps, so that it can generate without its data."""

PERCENTILE = 1.0
"""Of the sides of real boxes: what is smaller, a model has hardly seen."""

EDGE = 1.0
"""Pixels from the edge of an image within which a box is taken to be cut off by it."""


def smallest_sizes(boxes: Sequence[Boxes]) -> dict[str, tuple[float, float]]:
    """name -> (width, height) of the smallest box of the class that is not an exception: the 1st percentile of each side."""
    found: dict[str, list[np.ndarray]] = {}
    for layout in boxes:
        for name, (x0, y0, x1, y1) in zip(layout.names, layout.corners, strict=True):
            found.setdefault(name, []).append(np.array([x1 - x0, y1 - y0]))
    percentiles = {name: np.percentile(sides, PERCENTILE, axis=0) for name, sides in sorted(found.items())}
    return {name: (float(width), float(height)) for name, (width, height) in percentiles.items()}


def check_layout(boxes: Boxes, smallest: Mapping[str, Sequence[float]], names: Sequence[str], most: int = MOST) -> None:
    """Refuse a layout that a model of the classes `names` cannot make. smallest: name -> (width, height) in pixels.

    Errors: too many objects, an unknown class, a box outside the image or without area, one that is too small.
    """
    if len(boxes.names) > most:
        raise Error(f"A layout has at most {most} objects; found {len(boxes.names)}. Leave some out, or cut crops.")
    for name, (x0, y0, x1, y1) in zip(boxes.names, boxes.corners, strict=True):
        box = f"{name} at ({x0:.4g}, {y0:.4g}, {x1:.4g}, {y1:.4g})"
        if name not in names:
            raise Error(f"A box is of a class that the model knows, {', '.join(names)}; found {box}.")
        if not (x0 < x1 and y0 < y1):
            raise Error(f"A box goes from its upper left to its lower right corner and has an area; found {box}.")
        if boxes.size is not None and not (
            min(x0, y0) >= -1e-6 and x1 <= boxes.size[1] + 1e-6 and y1 <= boxes.size[0] + 1e-6
        ):
            raise Error(f"A box lies in its image of {boxes.size[1]} x {boxes.size[0]} pixels; found {box}.")
        width, height = smallest.get(name, (0, 0))
        # An object that the edge cuts off may show as little as it likes.
        cut = (False, False) if boxes.size is None else _cut(np.array([x0, y0, x1, y1]), boxes.size)
        if (x1 - x0 < width and not cut[0]) or (y1 - y0 < height and not cut[1]):
            raise Error(
                f"The smallest box of {name} that the model was trained on is {width:.3g} x {height:.3g} pixels; found "
                f"{x1 - x0:.3g} x {y1 - y0:.3g} at ({x0:.4g}, {y0:.4g}). Make it larger, or train on smaller ones."
            )


def _cut(box: np.ndarray, size: tuple[int, int]) -> tuple[bool, bool]:
    """Whether the edge cuts a box off to the left or right, and above or below."""
    ends = np.array([size[1], size[0]])
    across, down = (box[:2] <= EDGE) | (box[2:] >= ends - EDGE)
    return bool(across), bool(down)


def to_summary(boxes: Sequence[Boxes], digits: int = 1, most: int = STORED) -> dict[str, Any]:
    """At most `most` layouts as JSON, in integers: k, x0, y0, x1, y1 of each object, in 10^-digits pixels.

    They are drawn, with the same result each time; a class is not lost by that. Errors: layouts that do not say the size
    of their image, or of several sizes.
    """
    sizes = {layout.size for layout in boxes}
    if len(sizes) != 1 or None in sizes:
        raise Error(f"Layouts are kept for images of one size that is known; found {sorted(map(str, sizes))}.")
    (size,) = sizes
    names = sorted({name for layout in boxes for name in layout.names})
    order = np.random.default_rng(0).permutation(len(boxes))
    showing = {name: [n for n in order if name in boxes[n].names][: most // (4 * len(names))] for name in names}
    first = [n for found in showing.values() for n in found]
    chosen = sorted(list(dict.fromkeys([*map(int, first), *map(int, order)]))[:most])
    rows = [
        [
            [names.index(name), *np.rint(corners * 10**digits).astype(int).tolist()]
            for name, corners in zip(boxes[n].names, boxes[n].corners, strict=True)
        ]
        for n in chosen
    ]
    return {"size": list(size), "digits": digits, "names": names, "layouts": rows}  # type: ignore[arg-type]


def from_summary(value: Mapping[str, Any]) -> list[Boxes]:
    """The layouts of a `to_summary`. Errors: one that is none."""
    try:
        names, unit, (rows, cols) = value["names"], 10.0 ** -int(value["digits"]), value["size"]
        return [
            Boxes(
                np.array([row[1:] for row in layout], float).reshape(-1, 4) * unit,
                tuple(names[row[0]] for row in layout),
                (int(rows), int(cols)),
            )
            for layout in value["layouts"]
        ]
    except (KeyError, IndexError, TypeError, ValueError) as problem:
        raise Error(
            f"The layouts that a model keeps must be those that training wrote; found {problem!r}. Give a data set: --like"
        ) from problem
