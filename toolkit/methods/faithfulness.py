"""Whether an image shows the layout that it was asked to show, judged by a detector; what is kept, and which layouts are hard.

A generated image is given labels that it may not deserve. A detector that learned from real images says of each box that
was asked for whether it came out, and of each object that it finds whether it was asked for. The image's error must be no
larger than that of most real images, on which the same detector errs too, and whose annotation is incomplete: so the limit
is measured on real images that the detector did not learn from. What a filter lets pass is what its detector believes;
it never judges a result that it filtered. Numpy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.evaluation.detection.metrics import Detections, Truth, best_thresholds, layout_agreement
from toolkit.example import Error
from toolkit.methods.method import Method

__all__ = [
    "LEAST_REAL", "METHODS", "QUANTILE", "SIDES", "STATES", "Calibration", "Counts", "Judgement", "calibrate",
    "count_outcomes", "hardness", "judge", "most_faithful", "relabel", "size_names", "smallest_faithful",
]  # fmt: skip

METHODS = (
    Method(
        "FreeMask",
        "Yang et al. 2023, arXiv:2310.15160: filtering by loss, and sampling more for hard labels",
        "Draws an image again whose objects a detector does not find where they were asked for, with a limit measured on "
        "real images, and asks more often for the layouts whose classes and sizes that detector finds hard.",
        "a detection model with a detector",
        "diffgraft generate MODEL OUT --like DATA --favour-hard; toolkit.methods.faithfulness.judge, calibrate, hardness",
    ),
    Method(
        "Ranking by boxes",
        "Fang et al. 2024 (WACV), data augmentation for object detection via controllable diffusion models",
        "Keeps the part of the images whose boxes score best; the score is a detector's where the paper's is CLIP's.",
        "a detection model with a detector",
        "diffgraft generate MODEL OUT --like DATA --keep 0.5; toolkit.methods.faithfulness.most_faithful",
    ),
    Method(
        "GeoDiffusion",
        "Chen et al. 2023, arXiv:2306.04607: layouts as tokens",
        "Makes an image for the boxes and classes of a layout, real ones or new arrangements of them; here a token is the "
        "class and the place of a box instead of words, and the boxes are also drawn as maps.",
        "a detection model",
        "diffgraft generate MODEL OUT --like DATA -n N --format coco",
    ),
)

STATES = ("matched", "misplaced", "mistaken", "missed")
"""What becomes of a box that was asked for: found; near its place; of another class; not there."""

COST = {"matched": 0.0, "misplaced": 0.5, "mistaken": 1.0, "missed": 1.0}
HALLUCINATED, DOUBLED = 1.0, 0.5
"""Of an object that nobody asked for, and of one that touches a box of which another detection was the better one."""

QUANTILE = 0.75
"""Part of the real images whose error is no larger than the limit."""

QUANTILES = (0.5, 0.75, 0.9)

SIDES = (0, 8, 12, 16, 24, 32, 48, 64, 96)
"""Lower ends of the size classes: the side of a square of the box's area, in pixels."""

FEW = 10
"""Objects of a class and size that weigh as much as what is known of the class as a whole."""

LEAST_REAL = 8
"""Real images below which no limit is measured."""

MOVED = (0.5, 0.9)
"""Overlap of a box and a detection between which the detection's place may be the better one."""

HALF = 0.5
"""Of the rate of real objects that are found, below which a size of box is not said to work."""


@dataclass(frozen=True)
class Judgement:
    """One image beside its layout of N boxes.

    found: all detections. states: of each box, one of STATES. which (N,): the detection that stands for it, -1 none;
    overlap (N,): with that. hallucinated, doubled: indices of detections that stand for no box.
    error: in [0, 1], see `judge`. confidence: the mean, over the boxes, of the score of what matches each.
    """

    asked: Truth
    found: Detections
    states: tuple[str, ...]
    which: np.ndarray
    overlap: np.ndarray
    hallucinated: np.ndarray
    doubled: np.ndarray
    error: float
    confidence: float


@dataclass(frozen=True)
class Counts:
    """How K classes came out, by size. states (K, sizes, 4): boxes asked for, in the order of STATES.

    hallucinated (K, sizes): of the size that was found. images: of which all this was counted.
    """

    states: np.ndarray
    hallucinated: np.ndarray
    images: int

    @property
    def asked(self) -> np.ndarray:
        return self.states.sum(2)

    @property
    def matched(self) -> np.ndarray:
        return self.states[:, :, 0]


@dataclass(frozen=True)
class Calibration:
    """What a detector makes of real images that it did not learn from.

    thresholds (K,): the score of each class from which a detection counts. confident (K,): the median score of a
    detection that matches a box, 1 where none does. quantiles: of their error. counts: of their boxes.
    """

    thresholds: np.ndarray
    confident: np.ndarray
    quantiles: Mapping[float, float]
    counts: Counts

    def limit(self, quantile: float = QUANTILE) -> float:
        """The error that the part `quantile` of the real images does not exceed. Errors: one that was not measured."""
        if quantile not in self.quantiles:
            known = ", ".join(f"{q:g}" for q in self.quantiles)
            raise Error(
                f"The limit is the error that so large a part of real images keep: {known}; found {quantile:g}."
            )
        return self.quantiles[quantile]

    def to_json(self) -> dict[str, Any]:
        """For model.json."""
        return {
            "thresholds": [round(float(t), 4) for t in self.thresholds],
            "confident": [round(float(t), 4) for t in self.confident],
            "quantiles": {f"{q:g}": round(e, 5) for q, e in self.quantiles.items()},
            "images": self.counts.images,
            "states": self.counts.states.tolist(),
            "hallucinated": self.counts.hallucinated.tolist(),
            "sides": list(SIDES),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Calibration:
        """The inverse. Errors: one of other sizes, or that is none."""
        try:
            states, spare = np.array(value["states"], int), np.array(value["hallucinated"], int)
            if tuple(value["sides"]) != SIDES or states.shape[1:] != (len(SIDES), 4) or spare.shape != states.shape[:2]:
                raise ValueError("other sizes of boxes")
            return Calibration(
                np.array(value["thresholds"], float).reshape(len(states)),
                np.array(value["confident"], float).reshape(len(states)),
                {float(q): float(e) for q, e in value["quantiles"].items()},
                Counts(states, spare, int(value["images"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise Error(
                f"The calibration of a detector in model.json must be one that training wrote; found {problem!r}. "
                "Train the detector again, or give real images: --check DATA"
            ) from problem


def judge(asked: Truth, found: Detections, least: np.ndarray) -> Judgement:
    """What a detector says of an image beside its layout; detections below `least` (K,), of their class, do not count.

    The error of a class is what its objects cost, a box that was asked for as COST has it and one that was not 1 (0.5
    where it touches a box that another detection matches better), over how many were asked for or came unasked. The
    image's is the mean over the classes that it was asked for or shows: where one platelet was asked for among fifteen
    cells, it counts as much as all the cells.
    FreeMask leaves out what has a loss far above the mean of its class; a layout is one label, so here the image goes.
    """
    told = layout_agreement(asked, found, least)
    states = tuple("mistaken" if m >= 0 else s for s, m in zip(told.state, told.mistaken, strict=True))
    cost: dict[int, float] = {}
    total: dict[int, float] = {}
    parts = [(k, COST[s], 1.0) for k, s in zip(asked.classes.tolist(), states, strict=True)]
    parts += [(k, HALLUCINATED, 1.0) for k in found.classes[told.hallucinated].tolist()]
    parts += [(k, DOUBLED, DOUBLED) for k in found.classes[told.doubled].tolist()]
    for kind, costs, weight in parts:
        cost[kind], total[kind] = cost.get(kind, 0.0) + costs, total.get(kind, 0.0) + weight
    error = sum(cost[k] / total[k] for k in cost) / len(cost) if cost else 0.0
    scores = [float(found.scores[d]) if s == "matched" else 0.0 for s, d in zip(states, told.found, strict=True)]
    confidence = sum(scores) / len(scores) if scores else 1.0
    return Judgement(asked, found, states, told.found, told.overlap, told.hallucinated, told.doubled, error, confidence)


def calibrate(asked: Sequence[Truth], found: Sequence[Detections], names: Sequence[str]) -> Calibration:
    """What the detector makes of real images, one Truth and Detections (all scores) each, that it did not learn from.

    Errors: fewer images than LEAST_REAL.
    """
    if len(asked) < LEAST_REAL:
        raise Error(
            f"A limit for generated images is measured on {LEAST_REAL} real ones or more that the detector did not learn "
            f"from; found {len(asked)}. Give a data set with more of them: --check DATA"
        )
    least = best_thresholds(asked, found, names)
    judged = [judge(a, f, least) for a, f in zip(asked, found, strict=True)]
    scores: list[list[float]] = [[] for _ in names]
    for one in judged:
        for kind, state, which in zip(one.asked.classes, one.states, one.which, strict=True):
            if state == "matched":
                scores[kind].append(float(one.found.scores[which]))
    return Calibration(
        least,
        np.array([np.median(each) if each else 1.0 for each in scores]),
        {q: float(np.quantile([one.error for one in judged], q)) for q in QUANTILES},
        count_outcomes(judged, len(names)),
    )


def count_outcomes(judged: Sequence[Judgement], classes: int) -> Counts:
    """How often what happened, by class and size."""
    states, spare = np.zeros((classes, len(SIDES), len(STATES)), int), np.zeros((classes, len(SIDES)), int)
    for one in judged:
        rows = np.array([STATES.index(s) for s in one.states], int)
        np.add.at(states, (one.asked.classes, _sizes(one.asked.corners), rows), 1)
        more = one.found[one.hallucinated]
        np.add.at(spare, (more.classes, _sizes(more.corners)), 1)
    return Counts(states, spare, len(judged))


def hardness(layout: Truth, real: Counts) -> float:
    """How hard a layout is: the mean over its boxes of the part of real ones of that class and size that are not matched.

    FreeMask's hardness of a mask is the mean over its pixels of the loss of their class; here a size has one too, and one
    of which few were seen counts as its class does.
    """
    if not len(layout.classes):
        return 0.0
    asked, missed = real.asked.astype(float), (real.asked - real.matched).astype(float)
    overall = (missed.sum() + 1) / (asked.sum() + 2)
    of_class = (missed.sum(1) + FEW * overall) / (asked.sum(1) + FEW)
    rate = (missed + FEW * of_class[:, None]) / (asked + FEW)
    return float(rate[layout.classes, _sizes(layout.corners)].mean())


def most_faithful(judged: Sequence[Judgement], count: int) -> np.ndarray:
    """The `count` images of which the boxes score best, as indices in their own order (Fang et al. 2024)."""
    order = np.argsort([-one.confidence for one in judged], kind="stable")
    return np.sort(order[:count])


def relabel(one: Judgement, confident: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners (N, 4) of a layout, with the detector's where they are better, and the indices of these boxes.

    Better is a detection of the class whose overlap with the box is between MOVED and whose score is `confident` (K,) or
    more, so that half of the real boxes that are found could have been moved by it.
    """
    low, high = MOVED
    sure = np.array([d >= 0 and one.found.scores[d] >= confident[one.found.classes[d]] for d in one.which], bool)
    moved = np.flatnonzero(sure & (one.overlap >= low) & (one.overlap < high))
    corners = one.asked.corners.astype(float).copy()
    corners[moved] = one.found.corners[one.which[moved]]
    return corners, moved


def size_names() -> list[str]:
    """The size classes in words."""
    return [f"{low} to {high} px" for low, high in itertools.pairwise(SIDES)] + [f"{SIDES[-1]} px or more"]


def smallest_faithful(made: Counts, real: Counts) -> float | None:
    """The smallest side of box that works: that of the lowest size class of which, and of those above, half as large a
    part is matched as of real ones; None where none is. A class without made boxes, or of which no real one
    is found, says nothing.
    """
    works: float | None = None
    for number in reversed(range(len(SIDES))):
        asked, theirs, found = (n[:, number].sum() for n in (made.asked, real.asked, real.matched))
        if not asked or not found:
            continue
        if made.matched[:, number].sum() / asked < HALF * found / theirs:
            break
        works = float(SIDES[number])
    return works


def _sizes(corners: np.ndarray) -> np.ndarray:
    """The size class of each box (N, 4)."""
    sides = np.sqrt(np.clip(corners[:, 2:] - corners[:, :2], 0, None).prod(1))
    return np.searchsorted(SIDES, sides, side="right") - 1
