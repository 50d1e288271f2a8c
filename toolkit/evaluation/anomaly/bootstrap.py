"""Figures over resampled patients: never voxels, for those of one head are not independent."""

from __future__ import annotations

import numpy as np

from toolkit.evaluation.anomaly.curves import finite_or_none
from toolkit.evaluation.anomaly.report import Bootstrap
from toolkit.evaluation.interval import Interval

__all__ = ["percentile_interval", "resample_patients"]


def resample_patients(patients: int, bootstrap: Bootstrap) -> np.ndarray:
    """(resamples, patients): how often each patient is drawn. The same for every map on the same patients: paired."""
    random = np.random.default_rng(bootstrap.seed)
    return random.multinomial(patients, np.full(patients, 1 / patients), bootstrap.resamples)


def percentile_interval(value: float, drawn: np.ndarray, level: float) -> Interval:
    """value with the central `level` of what resamples gave; a value or resamples that are not finite are undefined."""
    drawn = drawn[np.isfinite(drawn)]
    if finite_or_none(value) is None or not drawn.size:
        return Interval(finite_or_none(value), None, None)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
