"""Every image that was drawn for a layout, kept or not, and the log of them that is a part of the data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.example import Boxes
from toolkit.methods.faithfulness import Judgement

__all__ = ["LOG", "ROUND", "Draw", "Made", "ident", "write"]

LOG = "faithfulness.jsonl"

ROUND = 2**32
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
class Made:
    """What a run has drawn. images, layouts: of each place that was filled; draws: all; rejected: some, with their draws."""

    images: Mapping[int, np.ndarray]
    layouts: Mapping[int, Boxes]
    draws: Sequence[Draw]
    rejected: Sequence[tuple[np.ndarray, Draw]]
    moved: Mapping[int, np.ndarray] = field(default_factory=dict)


def ident(name: str, place: int) -> str:
    return f"{name}-{place:04d}"


def write(path: Path, made: Made, name: str, names: Sequence[str]) -> None:
    """One line a draw, in the order they were made."""
    with path.open("w", encoding="utf-8") as file:
        for draw in made.draws:
            line = _line(draw, None if draw.reason else ident(name, draw.place), names)
            moved = made.moved.get(draw.place, ()) if not draw.reason else ()
            final = made.layouts[draw.place].corners if len(moved) else draw.layout.corners
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
        "sample": draw.number * ROUND + draw.place,
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
