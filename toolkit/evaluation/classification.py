"""How well images are classified: figures through scikit-learn, intervals over leaves and seeds, trivial baselines.

Classes are indices 0 .. K - 1. A run is the class predicted for every test sample; several runs (seeds) of one recipe
stand in an array (S, N). Balanced accuracy, the mean recall of the classes that occur, is the figure to compare: a
class with many leaves counts no more than one with few. What is undefined is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from toolkit.evaluation.finite import check_finite
from toolkit.evaluation.interval import Interval
from toolkit.example import Error

__all__ = [
    "Figures", "balanced_accuracy", "calibration_error", "difference", "figures", "majority_class", "random_forest",
    "random_forest_probabilities", "thumbnails",
]  # fmt: skip

RESAMPLES = 2000
BINS = 15


@dataclass(frozen=True)
class Figures:
    """One run. precision, recall, f1, support: one a class; confusion: rows are the truth, columns the prediction.

    precision is undefined for a class that was never predicted, recall for one that does not occur. The two means are
    over the classes that occur.
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    support: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]


def figures(predicted: np.ndarray, truth: np.ndarray, classes: int) -> Figures:
    """predicted, truth: (N,) class indices. Errors: no sample, shapes that differ, an index that is no class."""
    _check(predicted[None], truth, classes)
    known = np.arange(classes)
    # Arrays, because no average is asked for; scikit-learn has no annotations that tell.
    options: dict[str, Any] = {"labels": known, "zero_division": np.nan}
    precision, recall, f1, support = map(np.asarray, precision_recall_fscore_support(truth, predicted, **options))
    there = support > 0
    return Figures(
        accuracy=float(np.mean(predicted == truth)),
        balanced_accuracy=float(recall[there].mean()),
        macro_f1=float(np.nan_to_num(f1[there]).mean()),
        precision=_plain(precision),
        recall=_plain(recall),
        f1=_plain(np.where(there, f1, np.nan)),
        support=tuple(support.tolist()),
        confusion=tuple(map(tuple, confusion_matrix(truth, predicted, labels=known).tolist())),
    )


def calibration_error(log_probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: |accuracy - confidence| over equal bins of confidence, weighted by their samples.

    log_probability (N, K). Guo et al. 2017, arXiv:1706.04599, eq. 3. Errors: one that is not finite.
    """
    confidence = np.exp(check_finite(log_probability, "log-probabilities").max(1))
    hit = log_probability.argmax(1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, hit - confidence, bins)
    return float(np.abs(gaps).sum() / len(truth))


def balanced_accuracy(
    runs: np.ndarray, truth: np.ndarray, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over runs (S, N) of the balanced accuracy, with a 95 % percentile bootstrap interval.

    Each resample draws groups (leaves) and runs with replacement: the interval covers other leaves and other seeds.
    With few runs it is somewhat too narrow for the latter. Errors: as `figures`.
    """
    counts = _Counts.of(runs, truth, groups)
    return _interval(counts.value(), counts.resample(*_draws(counts, resamples, seed)))


def difference(
    one: np.ndarray,
    other: np.ndarray,
    truth: np.ndarray,
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Balanced accuracy of `one` less that of `other`, both (S, N), paired: the same leaves and seeds in a resample."""
    if one.shape != other.shape:
        raise Error(f"A paired difference needs as many runs of both; found {one.shape} and {other.shape}.")
    left, right = _Counts.of(one, truth, groups), _Counts.of(other, truth, groups)
    draws = _draws(left, resamples, seed)
    return _interval(left.value() - right.value(), left.resample(*draws) - right.resample(*draws))


# What costs nothing


def majority_class(targets: np.ndarray, count: int, classes: int) -> np.ndarray:
    """(count,) the most frequent class of the training samples; of equals the first."""
    return np.full(count, np.bincount(targets, minlength=classes).argmax())


def thumbnails(images: np.ndarray, size: tuple[int, int] = (8, 16), bins: int = 8) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] -> (N, D): the image in 8 rows of 16 pixels, and a histogram of each channel."""
    small = images
    for axis, parts in zip((2, 3), size, strict=True):
        pieces = np.array_split(small, min(parts, images.shape[axis]), axis)
        small = np.stack([piece.mean(axis) for piece in pieces], axis)
    level = np.clip(((images + 1) / 2 * bins).astype(int), 0, bins - 1)
    shares = [(level == k).mean((2, 3)) for k in range(bins)]
    return np.concatenate([small.reshape(len(images), -1), *shares], 1)


def random_forest(
    images: np.ndarray, targets: np.ndarray, test: np.ndarray, seed: int = 0, trees: int = 200
) -> np.ndarray:
    """(N,) classes of `test` by a random forest on thumbnails and colour histograms, classes weighted equally."""
    model = RandomForestClassifier(trees, class_weight="balanced", random_state=seed, n_jobs=1)
    return model.fit(thumbnails(images), targets).predict(thumbnails(test))


def random_forest_probabilities(
    images: np.ndarray, targets: np.ndarray, test: np.ndarray, sizes: Sequence[int], seed: int = 0, trees: int = 200
) -> np.ndarray:
    """(N, K) probabilities of the values of several labels (N, L), one label after the other; as `random_forest` for each.

    What is unknown, NaN, is left out. A label of which no sample is known has equal ones.
    """
    seen, unseen, found = thumbnails(images), thumbnails(test), []
    for column, size in zip(targets.T, sizes, strict=True):
        known = ~np.isnan(column)
        told = np.full((len(test), size), 1 / size)
        if known.any():
            model = RandomForestClassifier(trees, class_weight="balanced", random_state=seed, n_jobs=1)
            model.fit(seen[known], column[known].astype(int))
            told = np.zeros((len(test), size))
            told[:, model.classes_] = model.predict_proba(unseen)
        found.append(told)
    return np.concatenate(found, 1)


# The bootstrap


@dataclass(frozen=True)
class _Counts:
    """Per run, group and class what a resample adds up: hits (S, G, K), samples (G, K)."""

    hits: np.ndarray
    samples: np.ndarray

    @classmethod
    def of(cls, runs: np.ndarray, truth: np.ndarray, groups: Sequence[str]) -> _Counts:
        classes = int(max(truth.max(initial=0), runs.max(initial=0))) + 1
        _check(runs, truth, classes)
        if len(groups) != len(truth):
            raise Error(f"Every test sample has a group; found {len(groups)} groups for {len(truth)} samples.")
        names, group = np.unique(np.asarray(groups), return_inverse=True)
        samples = np.zeros((len(names), classes))
        np.add.at(samples, (group, truth), 1)
        hits = np.zeros((len(runs), *samples.shape))
        for run, predicted in zip(hits, runs, strict=True):
            np.add.at(run, (group, truth), predicted == truth)
        return cls(hits, samples)

    def value(self) -> float:
        every = self.resample(np.ones((1, self.samples.shape[0])), np.ones((1, len(self.hits))))
        return float(every[0])

    def resample(self, leaves: np.ndarray, runs: np.ndarray) -> np.ndarray:
        """(R,) mean over the drawn runs of the mean recall of the classes drawn; how often each (R, G), (R, S)."""
        samples = leaves @ self.samples
        with np.errstate(invalid="ignore"):
            recall = np.stack([leaves @ hits for hits in self.hits]) / samples
        balanced = np.where(samples > 0, recall, 0).sum(2) / (samples > 0).sum(1)
        return (balanced.T * runs).sum(1) / runs.sum(1)


def _draws(counts: _Counts, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = len(counts.samples), len(counts.hits)
    leaves, runs = (random.multinomial(n, np.full(n, 1 / n), resamples).astype(float) for n in sizes)
    return leaves, runs


def _interval(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _check(runs: np.ndarray, truth: np.ndarray, classes: int) -> None:
    if truth.ndim != 1 or not len(truth) or runs.ndim != 2 or runs.shape[1:] != truth.shape or not len(runs):
        raise Error(f"Figures need one prediction a test sample, and one or more; found {runs.shape}, {truth.shape}.")
    if min(truth.min(), runs.min()) < 0 or max(truth.max(), runs.max()) >= classes:
        raise Error(f"A class is an index below {classes}; found {min(truth.min(), runs.min())} to {runs.max()}.")


def _plain(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else float(value) for value in values)
