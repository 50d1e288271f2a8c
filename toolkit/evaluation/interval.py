"""A figure with its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval"]


@dataclass(frozen=True)
class Interval:
    """A figure with its percentile bootstrap interval over patients; None where undefined."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.3f}" + ("" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]")

    @classmethod
    def from_resamples(cls, figures: np.ndarray) -> Interval:
        """The central 95 % of figures (R + 1,): first that of all samples, then those of R resamples of them.

        What is not finite is undefined.
        """
        value, drawn = float(figures[0]), figures[1:][np.isfinite(figures[1:])]
        if not math.isfinite(value):
            return cls(None, None, None)
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist() if len(drawn) else (None, None)
        return cls(value, low, high)
