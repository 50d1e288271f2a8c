"""Every image that was drawn for a layout, kept or not, and the log of them that is a part of the data set."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft.generation.output import sample_id
from toolkit.example import Boxes
from toolkit.methods.faithfulness import Judgement

__all__ = ["DRAW_STRIDE", "LOG", "Draw", "LayoutSamples", "write_log"]

LOG = "faithfulness.jsonl"

DRAW_STRIDE = 2**32
"""Sample indices from one draw of an image to its next: more than any run has images."""


@dataclass(frozen=True)
class Draw:
    """One image that was drawn: number counts the draws of its place, attempt its layouts.

    judged: None where nothing looked. reason: why it was not kept, empty for one that was.
    """

    place: int
    number: int
    attempt: int
    layout: Boxes
    judged: Judgement | None
    reason: str


@dataclass(frozen=True)
class LayoutSamples:
    """What a run has drawn. images, layouts: of each place that was filled; draws: all; rejected: some, with their draws.

    relabelled: place -> which of its boxes were moved to where the detector has them.
    """

    images: Mapping[int, np.ndarray]
    layouts: Mapping[int, Boxes]
    draws: Sequence[Draw]
    rejected: Sequence[tuple[np.ndarray, Draw]]
    relabelled: Mapping[int, np.ndarray] = field(default_factory=dict)

    @functools.cached_property
    def kept(self) -> dict[int, Draw]:
        """The draw of each place that was filled."""
        return {draw.place: draw for draw in self.draws if not draw.reason}

    @property
    def rejections(self) -> dict[str, int]:
        """Reason -> how many draws were not kept for it."""
        return dict(sorted(Counter(draw.reason for draw in self.draws if draw.reason).items()))


def write_log(path: Path, drawn: LayoutSamples, prefix: str, names: Sequence[str]) -> None:
    """One line a draw, in the order they were made. prefix: of the ids; names: all classes."""
    with path.open("w", encoding="utf-8") as file:
        for draw in drawn.draws:
            line = _line(draw, None if draw.reason else sample_id(prefix, draw.place), names)
            moved = () if draw.reason else drawn.relabelled.get(draw.place, ())
            final = drawn.layouts[draw.place].corners if len(moved) else draw.layout.corners
            line["relabelled"] = [
                {"box": int(n), "from": _rounded(draw.layout.corners[n]), "to": _rounded(final[n])} for n in moved
            ]
            file.write(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n")


def _line(draw: Draw, image: str | None, names: Sequence[str]) -> dict[str, Any]:
    one = draw.judged
    assert one is not None
    return {
        "image": image,
        "place": draw.place,
        "draw": draw.number,
        "sample": draw.number * DRAW_STRIDE + draw.place,
        "layout": draw.attempt,
        "error": round(one.error, 5),
        "confidence": round(one.confidence, 5),
        "accepted": not draw.reason,
        "reason": draw.reason,
        "classes": list(draw.layout.names),
        "boxes": [_rounded(corners) for corners in draw.layout.corners],
        "states": list(one.states),
        "overlap": [round(float(value), 3) for value in one.overlap],
        "hallucinated": _spare(one, one.hallucinated, names),
        "doubled": _spare(one, one.doubled, names),
    }


def _spare(one: Judgement, which: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    found = one.found[which]
    return [
        {"class": names[k], "score": round(float(s), 3), "box": _rounded(c)}
        for k, s, c in zip(found.classes, found.scores, found.corners, strict=True)
    ]


def _rounded(corners: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in corners]
