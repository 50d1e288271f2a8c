"""Figures of detection with intervals: detections are matched once, then images are drawn again and again.

Average precision is what pycocotools answers for all images (COCO's protocol: greedy by score at each overlap, 101 recalls,
100 detections an image), here for any multiset of them, because a matching never leaves its image. Several runs (seeds) of
one detector are resampled along with the images. Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.evaluation.detection.metrics import COCO_MOST, Detections, Truth, box_iou
from toolkit.evaluation.interval import Interval
from toolkit.example import Error

__all__ = [
    "OVERLAPS",
    "RESAMPLES",
    "Draws",
    "MatchedDetections",
    "Resampled",
    "average_precision",
    "bootstrap_draws",
    "match_detections",
    "resample_precision",
    "resample_rate",
]

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
RESAMPLES = 400

NEXT_TO_ONE = 1 - 1e-10
"""COCO's largest overlap that is asked for, so that what overlaps fully always does."""


@dataclass(frozen=True)
class MatchedDetections:
    """Detections of one class in N images, best first, and whether each stands for an object.

    image (D,): of each detection; hit (10, D): at each of OVERLAPS. objects (N,): of the class in each image.
    """

    image: np.ndarray
    hit: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws. images (R, N): how often each image counts; runs (R, S): how often each run does."""

    images: np.ndarray
    runs: np.ndarray


@dataclass(frozen=True)
class Resampled:
    """A figure of S runs, of all images (S, ...) and of each draw of them (R, S, ...); runs (R, S) as in Draws."""

    whole: np.ndarray
    many: np.ndarray
    runs: np.ndarray

    def interval(self, figure: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> Interval:
        """The mean over runs, with its 95 % percentile interval. figure: of the (..., K, 10), say, one number each (...).

        What is not defined (NaN) says nothing; an interval of a figure that no run has is that of None.
        """
        whole, many = figure(self.whole), figure(self.many)
        if np.isnan(whole).all():
            return Interval(None, None, None)
        weight = np.where(np.isnan(many), 0, self.runs)
        there = weight.sum(1) > 0
        means = (np.nan_to_num(many) * weight).sum(1)[there] / weight.sum(1)[there]
        low, high = np.quantile(means, [0.025, 0.975]) if len(means) else (None, None)
        return Interval(float(np.nanmean(whole)), *(None if end is None else float(end) for end in (low, high)))


def bootstrap_draws(groups: Sequence[str], runs: int, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """Groups of images and runs, each drawn with replacement, as many as there are."""
    names, where = np.unique(np.array(groups), return_inverse=True)
    random = np.random.default_rng(seed)
    images, times = (random.multinomial(count, [1 / count] * count, resamples) for count in (len(names), runs))
    return Draws(images[:, where], times)


def match_detections(truths: Sequence[Truth], found: Sequence[Detections], classes: int) -> list[MatchedDetections]:
    """One Matched a class, of as many truths as detections, an image each."""
    if len(truths) != len(found):
        raise Error(f"Every image has its truth and its detections; found {len(truths)} and {len(found)}.")
    return [_matched(truths, found, k) for k in range(classes)]


def average_precision(one: MatchedDetections, weights: np.ndarray | None = None) -> np.ndarray:
    """(10,) average precision at each of OVERLAPS; weights (N,): how often each image counts. NaN without an object."""
    times = np.ones(len(one.objects)) if weights is None else weights.astype(float)
    objects = float(times @ one.objects)
    if not objects:
        return np.full(len(OVERLAPS), np.nan)
    if not len(one.image):
        return np.zeros(len(OVERLAPS))
    weight = times[one.image]
    hits, every = np.cumsum(one.hit * weight, 1), np.cumsum(weight)
    best = np.divide(hits, every, out=np.zeros_like(hits), where=every > 0)
    best = np.maximum.accumulate(best[:, ::-1], 1)[:, ::-1]
    found = []
    for row, reached in zip(best, hits / objects, strict=True):
        place = np.searchsorted(reached, RECALLS, side="left")
        found.append(np.where(place < len(row), row[np.minimum(place, len(row) - 1)], 0.0).mean())
    return np.array(found)


def resample_precision(runs: Sequence[Sequence[MatchedDetections]], draws: Draws) -> Resampled:
    """Average precision (S, K, 10) of S runs and K classes at each of OVERLAPS."""
    whole = np.array([[average_precision(one) for one in run] for run in runs])
    many = [
        [
            [average_precision(one, weights) if count else np.full(len(OVERLAPS), np.nan) for one in run]
            for run, count in zip(runs, times, strict=True)
        ]
        for weights, times in zip(draws.images, draws.runs, strict=True)
    ]  # fmt: skip
    return Resampled(whole, np.array(many).reshape(len(draws.images), *whole.shape), draws.runs)


def resample_rate(part: np.ndarray, of: np.ndarray, draws: Draws) -> Resampled:
    """Sums over images of `part` (S, N, ...) over those of `of` (S, N, ...); NaN where nothing is counted."""
    sums = [
        (values.sum(1), np.einsum("rn,sn...->rs...", draws.images, values))
        for values in (part.astype(float), of.astype(float))
    ]
    whole, many = (
        np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b > 0)
        for a, b in zip(*sums, strict=True)
    )
    return Resampled(whole, many, draws.runs)


def _matched(truths: Sequence[Truth], found: Sequence[Detections], kind: int) -> MatchedDetections:
    images, scores, hits = [np.zeros(0, int)], [np.zeros(0)], [np.zeros((len(OVERLAPS), 0))]
    for number, (truth, seen) in enumerate(zip(truths, found, strict=True)):
        rows = np.flatnonzero(seen.classes == kind)
        rows = rows[np.argsort(-seen.scores[rows], kind="mergesort")][:COCO_MOST]
        images.append(np.full(len(rows), number))
        scores.append(seen.scores[rows])
        hits.append(_hits(box_iou(seen.corners[rows], truth.corners[truth.classes == kind])))
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    objects = np.array([int((truth.classes == kind).sum()) for truth in truths])
    return MatchedDetections(np.concatenate(images)[order], np.concatenate(hits, 1)[:, order], objects)


def _hits(over: np.ndarray) -> np.ndarray:
    """(10, D) of overlaps (D, G), best detection first: each takes the free object that it overlaps most, if enough."""
    hit = np.zeros((len(OVERLAPS), len(over)))
    if not over.shape[1]:
        return hit
    for row, least in enumerate(np.minimum(OVERLAPS, NEXT_TO_ONE)):
        free = np.ones(over.shape[1], bool)
        for place, values in enumerate(over):
            left = np.where(free, values, -1.0)[::-1]  # of equal ones the last, as COCO has it
            if left.max() >= least:
                free[len(left) - 1 - int(left.argmax())] = False
                hit[row, place] = 1
    return hit
