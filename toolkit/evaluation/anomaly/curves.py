"""Scores against truth over all thresholds, and the figures read from that: average precision, Dice, AUROC.

Area under the precision-recall curve is average precision, sum (R_i - R_{i-1}) P_i over distinct scores. It and the
best Dice depend on the lesion voxels' scores alone as thresholds: a threshold between two of them adds only false
positives. Every curve here therefore holds those thresholds and no others, and is still exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from toolkit.example import Error

__all__ = [
    "BestDice", "Curve", "Parts", "auroc", "average_precision", "best_dice", "best_of", "count_at_least", "count_wins",
    "curve", "curve_of", "dice_at", "dice_of_counts", "finite_or_none", "lesion_thresholds", "precision_of_counts",
    "split_scores", "tuned_dice",
]  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """True and false positives at falling thresholds.

    thresholds: (T,) falling; true_positives, false_positives: (T,) voxels that score at least that much.
    positives, negatives: voxels in all.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    positives: int
    negatives: int

    def average_precision(self) -> float:
        """Sum of (R_i - R_{i-1}) P_i; NaN without positives."""
        return float(precision_of_counts(self.true_positives, self.false_positives, self.positives))

    def dice(self) -> np.ndarray:
        """(T,) Dice at every threshold; NaN without positives."""
        return dice_of_counts(self.true_positives, self.false_positives, self.positives)


class BestDice(NamedTuple):
    """The highest Dice of any threshold, and the highest threshold that reaches it."""

    dice: float
    threshold: float


def precision_of_counts(hits: np.ndarray, alarms: np.ndarray, positives) -> np.ndarray:
    """Along the last axis, over which the thresholds fall."""
    positives = np.asarray(positives, float)
    recall = hits / np.maximum(positives, 1)[..., None]
    total = (np.diff(recall, prepend=0.0) * (hits / np.maximum(hits + alarms, 1))).sum(-1)
    return np.where(positives > 0, total, np.nan)


def dice_of_counts(hits: np.ndarray, alarms: np.ndarray, positives) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * hits / (np.asarray(positives, float) + hits + alarms)


class Parts(NamedTuple):
    """The scores of lesion voxels and of the others, each rising."""

    lesion: np.ndarray
    other: np.ndarray


def split_scores(scores: np.ndarray, truth: np.ndarray) -> Parts:
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.shape != truth.shape:
        raise Error(f"Scores and truth need the same grid; found {scores.shape} and {truth.shape}.")
    scores = scores.astype(np.result_type(scores.dtype, np.float32), copy=False).ravel()
    bad = scores.size - int(np.count_nonzero(np.isfinite(scores)))
    if bad:
        raise Error(f"An anomaly map holds finite scores; found {bad} that are not. Decide what they mean first.")
    lesion = truth.ravel() > 0
    return Parts(np.sort(scores[lesion]), np.sort(scores[~lesion]))


def lesion_thresholds(lesion: np.ndarray, bins: int | None) -> np.ndarray:
    """Falling distinct lesion scores; with bins, evenly spaced quantiles of them, always with the lowest."""
    if bins is not None and lesion.size > bins:
        lesion = lesion[np.linspace(0, lesion.size - 1, bins).round().astype(int)]
    return np.unique(lesion)[::-1]


def count_at_least(ordered: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return ordered.size - np.searchsorted(ordered, thresholds.astype(ordered.dtype, copy=False), "left")


def curve_of(parts: Parts, bins: int | None = None) -> Curve:
    thresholds = lesion_thresholds(parts.lesion, bins)
    hits, alarms = count_at_least(parts.lesion, thresholds), count_at_least(parts.other, thresholds)
    return Curve(thresholds, hits, alarms, parts.lesion.size, parts.other.size)


def curve(scores: np.ndarray, truth: np.ndarray, *, bins: int | None = None) -> Curve:
    """The curve of scores against truth, any shape, pooled over everything that is passed.

    bins: at most so many thresholds, at quantiles of the lesion scores; None for all of them, exact. Either way the
    figures change under no strictly rising transform of the scores. Raises Error on scores that are not finite.
    """
    return curve_of(split_scores(scores, truth), bins)


def average_precision(scores: np.ndarray, truth: np.ndarray, *, bins: int | None = None) -> float:
    """Pooled average precision; exact without bins. NaN without positives. A constant map gets the prevalence."""
    return curve(scores, truth, bins=bins).average_precision()


def best_dice(scores: np.ndarray, truth: np.ndarray, *, bins: int | None = None) -> BestDice:
    """The best Dice over all thresholds: optimistic, the threshold sees the truth. NaN without positives."""
    return best_of(curve(scores, truth, bins=bins))


def best_of(found: Curve) -> BestDice:
    if not found.positives:
        return BestDice(float("nan"), float("nan"))
    dice = found.dice()
    return BestDice(float(dice.max()), float(found.thresholds[dice.argmax()]))


def dice_at(scores: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """Dice of scores >= threshold; NaN when neither truth nor prediction holds a voxel."""
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.shape != truth.shape:
        raise Error(f"Scores and truth need the same grid; found {scores.shape} and {truth.shape}.")
    called, lesion = scores >= threshold, truth > 0
    total = int(called.sum()) + int(lesion.sum())
    return 2 * int((called & lesion).sum()) / total if total else float("nan")


def tuned_dice(
    scores: np.ndarray, truth: np.ndarray, validation_scores: np.ndarray, validation_truth: np.ndarray
) -> BestDice:
    """Dice at the threshold that is best on other patients, and that threshold."""
    threshold = best_dice(validation_scores, validation_truth).threshold
    return BestDice(dice_at(scores, truth, threshold), threshold)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve; ties count one half. Labels are 1, 0 or NaN = unknown, left out. NaN with one class.

    Errors: a score that is NaN and not left out. An infinite one has its place: a slice without head is below all others.
    """
    scores, labels = np.asarray(scores, float).ravel(), np.asarray(labels, float).ravel()
    ill, well = scores[labels == 1], scores[labels == 0]
    if bad := int(np.isnan(ill).sum() + np.isnan(well).sum()):
        raise Error(f"An area under the ROC curve needs scores in an order; found {bad} that are NaN. Leave them out.")
    return float(count_wins(ill, well) / (ill.size * well.size)) if ill.size and well.size else float("nan")


def count_wins(ill: np.ndarray, well: np.ndarray) -> float:
    """In how many pairs the ill one scores higher, ties one half."""
    ordered = np.sort(well)
    return (np.searchsorted(ordered, ill, "left") + np.searchsorted(ordered, ill, "right")).sum() / 2


def finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
