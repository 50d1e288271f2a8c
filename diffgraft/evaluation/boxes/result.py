"""What the downstream experiment with boxes found, as values and as lines for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffgraft.evaluation.classes.result import by_shots, signed
from toolkit.evaluation.anomaly import Interval

__all__ = ["MEAN", "DetectionGains", "Figures", "Row", "said"]

MEAN = "mean"
"""Among the classes: the mean of those that occur in the test images."""


@dataclass(frozen=True)
class Figures:
    """One training: average precision by class, and MEAN, at an overlap of 0.5 and over 0.5 to 0.95; None: no object."""

    ap50: Mapping[str, float | None]
    ap: Mapping[str, float | None]


@dataclass(frozen=True)
class Row:
    """One arm at one number of shots (0: all training images), over all seeds.

    figures: one a seed. ap50, ap: class or MEAN -> mean of the seeds with its interval; gain50, gain: less the reference's,
    paired, None for the reference itself. spread, median: of the seeds' mean AP50. seconds: of a training; overhead: of that
    over "real", in per cent; generation: seconds that making the pool took.
    """

    shots: int
    arm: str
    generator: str
    figures: tuple[Figures, ...]
    ap50: Mapping[str, Interval]
    ap: Mapping[str, Interval]
    gain50: Mapping[str, Interval] | None
    gain: Mapping[str, Interval] | None
    spread: float
    median: float
    seconds: float | None = None
    overhead: float | None = None
    generation: float | None = None

    @property
    def value(self) -> float:
        """What arms are ranked by: mean AP50."""
        return self.ap50[MEAN].value or 0.0


@dataclass(frozen=True)
class DetectionGains:
    """What `detect` found; str() is for the terminal. objects: of each class in the test images.

    warnings: what makes the figures less than they look.
    """

    rows: tuple[Row, ...]
    objects: Mapping[str, int]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.objects)

    def __str__(self) -> str:
        lines = [f"test: {self.protocol['test']}"]
        for shots, rows in by_shots(self.rows).items():
            lines.append(f"{said(shots)}: mAP50, gain over real + classical, mAP50:95, and AP50 of each class")
            for row in rows:
                each = "  ".join(f"{name} {_number(row.ap50[name].value)}" for name in self.names)
                gain = signed(None if row.gain50 is None else row.gain50[MEAN])
                told = f"  {row.arm:28} {row.ap50[MEAN]!s:22} {gain:24} {_number(row.ap[MEAN].value)}  {each}"
                lines.append(f"{told}  {row.generator}".rstrip())
        return "\n".join([*lines, *(f"note: {each}" for each in self.warnings)])

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return {
            "objects": dict(self.objects),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "protocol": dict(self.protocol),
            "warnings": list(self.warnings),
        }


def said(shots: int) -> str:
    """A number of shots in words."""
    return f"{shots} images" if shots else "all images"


def mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without what is not defined; NaN where nothing is."""
    known = ~np.isnan(values)
    return np.divide(np.nansum(values, -1), known.sum(-1), out=np.full(values.shape[:-1], np.nan), where=known.any(-1))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
