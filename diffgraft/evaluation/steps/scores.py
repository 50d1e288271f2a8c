"""Figures of curves with paired resamples: every variant is resampled alike, so that differences have intervals too.

A figure is an array (R + 1,): of all samples first, then of R bootstrap resamples of them.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Resamples", "kernel_distances"]

RESAMPLES = 1000


class Resamples:
    """How often each of `count` samples counts in each resample: times (R + 1, count), first once each."""

    def __init__(self, count: int, seed: int, resamples: int = RESAMPLES) -> None:
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
        self.times = np.concatenate([np.ones((1, count)), drawn])

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Of values (count,); NaN is not known and not counted."""
        known = ~np.isnan(values)
        total = self.times[:, known] @ values[known]
        counted = self.times @ known
        return np.divide(total, counted, out=np.full(len(total), np.nan), where=counted > 0)

    def distance(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Root mean square difference of images (count, ...), in standard deviations of `other`."""
        axes = tuple(range(1, one.ndim))
        squares = ((one.astype(np.float64) - other) ** 2).mean(axes)
        return np.sqrt(self.mean(squares)) / float(other.std())


def kernel_distances(real: np.ndarray, fake: np.ndarray, of_real: np.ndarray, of_fake: np.ndarray) -> np.ndarray:
    """KID of features (n, D) and (m, D), of all and of each resample; of_real (R, n), of_fake (R, m): how often each counts.

    The unbiased MMD^2 with the kernel (x . y / D + 1)^3 of toolkit.evaluation.distribution. A pair of one image with itself
    never counts, not even where a resample has it twice: its kernel would make every resample look farther than it is.
    """
    real, fake = real.astype(np.float64), fake.astype(np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray, times: np.ndarray) -> np.ndarray:
        pairs = kernel(x, x)
        np.fill_diagonal(pairs, 0)
        return ((times @ pairs) * times).sum(1) / (times.sum(1) ** 2 - (times**2).sum(1))

    across = ((of_real @ kernel(real, fake)) * of_fake).sum(1) / (of_real.sum(1) * of_fake.sum(1))
    return within(real, of_real) + within(fake, of_fake) - 2 * across
