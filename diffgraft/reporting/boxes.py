"""Boxes drawn on a picture, a colour a class that colour-blind people tell apart, and the legend that goes with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageDraw

from toolkit.example import Boxes, Error

__all__ = ["COLOURS", "Legend", "colour", "drawn"]

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#56b4e9")
"""Okabe & Ito 2008, "Color Universal Design", without black; more classes than these begin again."""

HALO = "#ffffff"
"""Beside every line, so that it is seen on a ground of its own colour."""

TEXT = "#101010"

DASH, GAP = 5, 4
"""Of a broken line, in pixels of the picture that is made."""


def colour(names: Sequence[str], name: str) -> str:
    """The colour of a class, by its place among all of them. Errors: a class that is not among them."""
    if name not in names:
        raise Error(f"A box is drawn in the colour of a class that is known, {', '.join(names)}; found '{name}'.")
    return COLOURS[list(names).index(name) % len(COLOURS)]


def drawn(
    image: np.ndarray,
    boxes: Boxes,
    names: Sequence[str],
    scale: int = 2,
    scores: Sequence[float] | None = None,
    dashed: Sequence[bool] | None = None,
) -> np.ndarray:
    """An image (1 or 3, H, W) in [-1, 1] with boxes in its pixels -> (H scale, W scale, 3) uint8.

    names: all classes, which give the colours. scores: written into the boxes, as parts of 100. dashed: which boxes
    have a broken line, those that were not found, say. Errors: other numbers of scores or lines than of boxes.
    """
    for kind, values in (("scores", scores), ("lines", dashed)):
        if values is not None and len(values) != len(boxes.names):
            raise Error(f"Each box has one of the {kind} or none is given; found {len(values)} for {len(boxes.names)}.")
    levels = np.rint(np.clip(image, -1, 1) * 127.5 + 127.5).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0)))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for number in np.argsort(_areas(boxes), kind="stable")[::-1]:  # what is small lies on what is large
        _box(
            pen,
            [int(round(value)) for value in np.clip(boxes.corners[number] * scale, 0, [*picture.size, *picture.size])],
            colour(names, boxes.names[number]),
            dashed is not None and bool(dashed[number]),
        )
    for number, score in enumerate(scores if scores is not None else ()):
        x, y = boxes.corners[number, :2] * scale
        pen.text((max(x, 0) + 4, max(y, 0) + 2), f"{100 * score:.0f}", TEXT, stroke_width=1, stroke_fill=HALO)
    return np.asarray(picture)


@dataclass(frozen=True)
class Legend:
    """Which colour stands for which class: a block of a report. broken: what a broken line means, if there are any."""

    names: Sequence[str]
    broken: str = ""

    def html(self, key: str) -> str:
        said = [(colour(self.names, name), "", name) for name in self.names]
        said += [("currentColor", ' stroke-dasharray="4 3"', self.broken)] if self.broken else []
        marks = "".join(
            f'<span style="white-space:nowrap;margin-right:1.2em"><svg viewBox="0 0 22 14" width="22" height="14" '
            f'aria-hidden="true"><rect x="2" y="2" width="18" height="10" fill="none" stroke="{stroke}" '
            f'stroke-width="2.5"{dash}/></svg> {escape(name)}</span>'
            for stroke, dash, name in said
        )
        return f'<div class="block prose"><p>{marks}</p></div>'


def _areas(boxes: Boxes) -> np.ndarray:
    return (boxes.corners[:, 2] - boxes.corners[:, 0]) * (boxes.corners[:, 3] - boxes.corners[:, 1])


def _box(pen: ImageDraw.ImageDraw, corners: Sequence[int], ink: str, dashed: bool) -> None:
    x0, y0, x1, y1 = corners
    x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
    pen.rectangle((x0, y0, x1, y1), outline=HALO, width=3)
    if not dashed:
        pen.rectangle(
            (min(x0 + 1, x1), min(y0 + 1, y1), max(x1 - 1, x0 + 1), max(y1 - 1, y0 + 1)), outline=ink, width=2
        )
        return
    for (ax, ay), (bx, by) in _sides(x0, y0, x1, y1):
        for at in range(0, max(bx - ax, by - ay) + 1, DASH + GAP):
            across, down = (1, 0) if by == ay else (0, 1)
            end = min(at + DASH - 1, max(bx - ax, by - ay))
            pen.line((ax + across * at, ay + down * at, ax + across * end, ay + down * end), fill=ink, width=2)


def _sides(x0: int, y0: int, x1: int, y1: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    yield (x0, y0), (x1, y0)
    yield (x0, y1), (x1, y1)
    yield (x0, y0), (x0, y1)
    yield (x1, y0), (x1, y1)
