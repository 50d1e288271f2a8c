"""How well findings are told: areas under the ROC curve with intervals over patients and seeds. Numpy only.

A finding is 1 present, 0 absent or NaN unknown, and what is unknown is left out, never taken for absent. Several runs
(seeds) of one recipe stand in an array (S, N, F): a score for each of N images and F findings, higher for present.
An interval is a 95 % percentile bootstrap that draws groups (patients) and runs with replacement; a resample without
an image of either kind says nothing and is left out. What is undefined is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.evaluation.finite import check_finite
from toolkit.evaluation.interval import Interval
from toolkit.example import Error

__all__ = [
    "FindingAurocs",
    "accuracy",
    "difference",
    "finding_aurocs",
    "macro_auroc",
    "mean",
    "shuffled_accuracy",
    "shuffled_aurocs",
]

RESAMPLES = 2000
SHUFFLES = 200
_CHUNK = 256
"""Resamples, or shuffles, at once."""


@dataclass(frozen=True)
class FindingAurocs:
    """value (F,): area of each finding, the mean of the runs; drawn (R, F): the same of every resample.

    NaN where there is no pair of a present and an absent one.
    """

    value: np.ndarray
    drawn: np.ndarray

    @property
    def intervals(self) -> tuple[Interval, ...]:
        return tuple(_interval(value, drawn) for value, drawn in zip(self.value, self.drawn.T, strict=True))


def finding_aurocs(
    scores: np.ndarray,
    truth: np.ndarray,
    groups: Sequence[str],
    blocks: Sequence[int] | np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FindingAurocs:
    """The area under the ROC curve of every finding: scores (S, N, F), truth (N, F), one group an image.

    blocks (N,): only images of one block are compared. Predictions of a cross-validation come from one model a fold,
    whose scores have no common scale; the area is then that of the folds, weighted by their pairs.
    The same groups and seed give the same resamples, so that differences are paired. Errors: shapes that differ, a score
    that is not finite.
    """
    _check(scores, truth, groups)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    random = np.random.default_rng(seed)
    images = random.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples).astype(float)[:, group]
    runs = random.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), resamples) / len(scores)
    block = np.zeros(len(truth), int) if blocks is None else np.asarray(blocks)
    value, drawn = np.full(truth.shape[1], np.nan), np.full((resamples, truth.shape[1]), np.nan)
    for f in range(truth.shape[1]):
        ill, well = np.flatnonzero(truth[:, f] == 1), np.flatnonzero(truth[:, f] == 0)
        paired = (block[ill, None] == block[well]).astype(float)
        if not paired.any():
            continue
        won = [paired * _ahead(run[ill, f], run[well, f]) for run in scores]
        value[f] = np.mean([each.sum() for each in won]) / paired.sum()
        for first in range(0, resamples, _CHUNK):
            part = np.s_[first : first + _CHUNK]
            left, right = images[part][:, ill], images[part][:, well]
            pairs = (left @ paired * right).sum(1)
            hits = sum(share[:, None] * (left @ each * right) for share, each in zip(runs[part].T, won, strict=True))
            with np.errstate(invalid="ignore"):
                drawn[part, f] = np.where(pairs > 0, hits.sum(1) / pairs, np.nan)  # type: ignore[union-attr]
    return FindingAurocs(value, drawn)


def macro_auroc(found: FindingAurocs, chosen: Sequence[int]) -> Interval:
    """The mean area of some findings; a resample is the mean of those that it says something of."""
    return _interval(_mean(found.value[None, chosen])[0], _mean(found.drawn[:, chosen]))


def difference(one: FindingAurocs, other: FindingAurocs, chosen: Sequence[int]) -> Interval:
    """Mean area of `one` less that of `other`, paired: both of the same images, groups and seed."""
    value = _mean(one.value[None, chosen])[0] - _mean(other.value[None, chosen])[0]
    return _interval(value, _mean(one.drawn[:, chosen]) - _mean(other.drawn[:, chosen]))


def accuracy(
    predicted: np.ndarray, truth: np.ndarray, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Part of the images whose class is named rightly: predicted (S, N), truth (N,) classes, NaN left out."""
    known = ~np.isnan(truth)
    return mean(
        (predicted == truth)[:, known], [g for g, there in zip(groups, known, strict=True) if there], resamples, seed
    )


def mean(values: np.ndarray, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of values (S, N) of S runs and N images; a group weighs as much as it has images."""
    if values.shape[1] != len(groups):
        raise Error(f"Every image has a group; found {len(groups)} groups for {values.shape[1]} images.")
    if not values.size:
        return Interval(None, None, None)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples).astype(float)
    runs = random.multinomial(len(values), np.full(len(values), 1 / len(values)), resamples) / len(values)
    sums = np.stack([np.bincount(group, row, len(names)) for row in values.astype(float)])
    counts = np.bincount(group, minlength=len(names))
    return _interval(float(values.mean()), (drawn @ sums.T * runs).sum(1) / (drawn @ counts))


# What costs nothing


def shuffled_aurocs(scores: np.ndarray, truth: np.ndarray, shuffles: int = SHUFFLES, seed: int = 0) -> list[Interval]:
    """The areas that the same scores have of shuffled truths: their mean and middle 95 %; what lies inside is chance."""
    check_finite(scores, "scores of findings")
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(truth)) for _ in range(shuffles)]
    found = np.full((shuffles, truth.shape[1]), np.nan)
    for f in range(truth.shape[1]):
        if not ((truth[:, f] == 1).any() and (truth[:, f] == 0).any()):
            continue
        ranks = np.stack([_ranks(run[:, f]) for run in scores])
        for n, order in enumerate(orders):
            # Unknown ones move along: as many of each kind as there are, on other images.
            mixed = truth[order, f]
            found[n, f] = np.mean([_area(run, mixed) for run in ranks])
    return [_interval(_mean(each[None])[0], each) for each in found.T]


def shuffled_accuracy(predicted: np.ndarray, truth: np.ndarray, shuffles: int = SHUFFLES, seed: int = 0) -> Interval:
    """The accuracy of the same predictions (S, N) of shuffled truths (N,): its mean and its middle 95 %."""
    random, known = np.random.default_rng(seed), ~np.isnan(truth)
    predicted, truth = predicted[:, known], truth[known]
    if not predicted.size:
        return Interval(None, None, None)
    found = np.array([(predicted == random.permutation(truth)).mean() for _ in range(shuffles)])
    return _interval(found.mean(), found)


def _ahead(ill: np.ndarray, well: np.ndarray) -> np.ndarray:
    """(P, M): 1 where the ill one scores higher, one half for a tie."""
    return (ill[:, None] > well) + 0.5 * (ill[:, None] == well)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Places in order from 1, those of ties their mean."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _area(ranks: np.ndarray, truth: np.ndarray) -> float:
    """Mann-Whitney: the ranks among the known ones give the area."""
    known = ~np.isnan(truth)
    ranks, truth = _ranks(ranks[known]), truth[known]
    ill = int((truth == 1).sum())
    return float((ranks[truth == 1].sum() - ill * (ill + 1) / 2) / (ill * (len(truth) - ill)))


def _mean(rows: np.ndarray) -> np.ndarray:
    """(R, F) -> (R,), over what is known; NaN where nothing is."""
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        return np.where(known, rows, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


def _interval(value: float, drawn: np.ndarray) -> Interval:
    known = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not len(known):
        return Interval(None, None, None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def _check(scores: np.ndarray, truth: np.ndarray, groups: Sequence[str]) -> None:
    if scores.ndim != 3 or scores.shape[1:] != truth.shape or not len(scores) or len(groups) != len(truth):
        raise Error(
            "Areas need a score a run, image and finding, and a group an image; found "
            f"{scores.shape}, {truth.shape} and {len(groups)} groups."
        )
    check_finite(scores, "scores of findings")
