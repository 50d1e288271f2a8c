"""Boxes drawn on a picture, a colour a class that colour-blind people tell apart, and the legend that goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from diffgraft.reporting.picture import to_eight_bit
from toolkit.example import Boxes, Error

if TYPE_CHECKING:
    from toolkit.evaluation.detection.metrics import Detections

__all__ = ["COLOURS", "BoxLegend", "class_colour", "draw_boxes", "draw_detections"]

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#56b4e9")
"""Okabe & Ito 2008, "Color Universal Design", without black; more classes than these begin again."""

HALO = "#ffffff"
"""Beside every line, so that it is seen on a ground of its own colour."""

TEXT = "#101010"

DASH, GAP = 5, 4
"""Of a broken line, in pixels of the picture that is made."""


def class_colour(names: Sequence[str], name: str) -> str:
    """The colour of a class, by its place among all of them. Errors: a class that is not among them."""
    if name not in names:
        raise Error(f"A box is drawn in the colour of a class that is known, {', '.join(names)}; found '{name}'.")
    return COLOURS[list(names).index(name) % len(COLOURS)]


def draw_boxes(
    image: np.ndarray,
    boxes: Boxes,
    names: Sequence[str],
    scale: int = 2,
    scores: Sequence[float] | np.ndarray | None = None,
    dashed: Sequence[bool] | None = None,
) -> np.ndarray:
    """An image (1 or 3, H, W) in [-1, 1] with boxes in its pixels -> (H scale, W scale, 3) uint8.

    names: all classes, which give the colours. scores: written into the boxes, in per cent. dashed: which boxes
    have a broken line, those that were not found, say. Errors: other numbers of scores or lines than of boxes.
    """
    for kind, values in (("scores", scores), ("lines", dashed)):
        if values is not None and len(values) != len(boxes.names):
            raise Error(f"Each box has one of the {kind} or none is given; found {len(values)} for {len(boxes.names)}.")
    levels = to_eight_bit(image)
    picture = Image.fromarray(np.ascontiguousarray(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0)))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for number in np.argsort(_areas(boxes), kind="stable")[::-1]:  # what is small lies on what is large
        _box(
            pen,
            [int(round(value)) for value in np.clip(boxes.corners[number] * scale, 0, [*picture.size, *picture.size])],
            class_colour(names, boxes.names[number]),
            dashed is not None and bool(dashed[number]),
        )
    for number, score in enumerate(scores if scores is not None else ()):
        x, y = boxes.corners[number, :2] * scale
        pen.text((max(x, 0) + 4, max(y, 0) + 2), f"{100 * score:.0f}", TEXT, stroke_width=1, stroke_fill=HALO)
    return np.asarray(picture)


def draw_detections(
    image: np.ndarray, found: Detections, names: Sequence[str], thresholds: np.ndarray | None = None
) -> np.ndarray:
    """An image with what a detector found in it, scores in the boxes; as `draw_boxes`.

    thresholds: (classes,) the lowest score of each class that is drawn; all are where left out.
    """
    sure = np.ones(len(found.scores), bool) if thresholds is None else found.scores >= thresholds[found.classes]
    boxes = Boxes(found.corners[sure], tuple(names[int(number)] for number in found.classes[sure]))
    return draw_boxes(image, boxes, names, scores=found.scores[sure])


@dataclass(frozen=True)
class BoxLegend:
    """Which colour stands for which class: a block of a report. broken: what a broken line means, if there are any."""

    names: Sequence[str]
    broken: str = ""

    def html(self, key: str) -> str:
        entries = [(class_colour(self.names, name), "", name) for name in self.names]
        entries += [("currentColor", ' stroke-dasharray="4 3"', self.broken)] if self.broken else []
        marks = "".join(
            f'<span style="white-space:nowrap;margin-right:1.2em"><svg viewBox="0 0 22 14" width="22" height="14" '
            f'aria-hidden="true"><rect x="2" y="2" width="18" height="10" fill="none" stroke="{stroke}" '
            f'stroke-width="2.5"{dash}/></svg> {escape(name)}</span>'
            for stroke, dash, name in entries
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
    for at in range(0, x1 - x0 + 1, DASH + GAP):
        left, right = x0 + at, x0 + min(at + DASH - 1, x1 - x0)
        for y in (y0, y1):
            pen.line((left, y, right, y), fill=ink, width=2)
    for at in range(0, y1 - y0 + 1, DASH + GAP):
        top, bottom = y0 + at, y0 + min(at + DASH - 1, y1 - y0)
        for x in (x0, x1):
            pen.line((x, top, x, bottom), fill=ink, width=2)
