"""Two maps on the same patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.evaluation.anomaly.bootstrap import percentile_interval, resample_patients
from toolkit.evaluation.anomaly.report import AnomalyReport, Bootstrap
from toolkit.evaluation.interval import Interval
from toolkit.example import Error

__all__ = ["Difference", "compare"]


@dataclass(frozen=True)
class Difference:
    """One map less the other, with paired intervals: both see the same resampled patients.

    above: share of the resamples in which the first has the higher average precision.
    """

    average_precision: Interval
    best_dice: Interval
    dice: Interval
    above: float


def compare(
    one: AnomalyReport,
    other: AnomalyReport,
    bootstrap: Bootstrap = Bootstrap(),  # noqa: B008 - frozen
) -> dict[str, Difference]:
    """Region -> figures of one less those of other, each at its own threshold.

    Raises Error unless both reports saw the same patients, voxels and truth.
    """
    result = {}
    for name, first in one.regions.items():
        second = other.regions[name]
        a, b = first.counts, second.counts
        if a is None or b is None:
            raise Error("A comparison needs reports with their counts; these were read back. Evaluate both maps again.")
        same = a.labels == b.labels and np.array_equal(a.positives, b.positives)
        if not (same and np.array_equal(a.negatives, b.negatives)):
            raise Error(
                "A paired comparison needs the same patients, region and truth; these two reports differ in them."
            )
        draws = resample_patients(len(a.labels), bootstrap)
        left, right = a.resample(draws), b.resample(draws)

        def between(figure: str, first=first, second=second, left=left, right=right) -> Interval:
            values = [getattr(region, figure).value for region in (first, second)]
            gap = float("nan") if None in values else values[0] - values[1]
            return percentile_interval(gap, left[figure] - right[figure], bootstrap.level)

        result[name] = Difference(
            average_precision=between("average_precision"),
            best_dice=between("best_dice"),
            dice=between("dice"),
            above=float((left["average_precision"] > right["average_precision"]).mean()),
        )
    return result
