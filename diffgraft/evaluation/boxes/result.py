"""What the downstream experiment with boxes found, as values and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffgraft.evaluation.results import Terms, by_shots, format_experiment, format_number, numbers
from toolkit.evaluation.interval import Interval

__all__ = ["BLOBS", "MEAN", "TERMS", "DetectionResult", "Figures", "Row"]

TERMS = Terms("images", "images", "mAP50", "detector")

MEAN = "mean"
"""Among the classes: the mean of those that occur in the test images."""

BLOBS = "blobs"
"""The baseline that a trained detector has to be better than."""


@dataclass(frozen=True)
class Figures:
    """One training: average precision by class, and MEAN, at an overlap of 0.5 and over 0.5 to 0.95; None: no object."""

    ap50: Mapping[str, float | None]
    ap: Mapping[str, float | None]


@dataclass(frozen=True)
class Row:
    """One arm at one number of shots (0: all training images), over all seeds.

    figures: one a seed. ap50, ap: class or MEAN -> mean of the seeds with its interval; gain50, gain: less the reference's,
    paired, None for the reference itself. spread, median: of the seeds' mean AP50. The others as in
    `diffgraft.evaluation.experiment.Trained`.
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
    def score(self) -> Interval:
        return self.ap50[MEAN]

    @property
    def score_gain(self) -> Interval | None:
        return None if self.gain50 is None else self.gain50[MEAN]

    @property
    def value(self) -> float:
        """Mean AP50."""
        return self.score.value or 0.0


@dataclass(frozen=True)
class DetectionResult:
    """What `detect` found; str() is for the terminal. objects: of each class in the test images."""

    rows: tuple[Row, ...]
    objects: Mapping[str, int]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.objects)

    def __str__(self) -> str:
        figures = "mAP50, gain over real + classical, mAP50:95, and AP50 of each class"
        tables = {
            f"{TERMS.shots(k)}: {figures}": [(r, self._line(r)) for r in rows]
            for k, rows in by_shots(self.rows).items()
        }
        return format_experiment(self, tables)

    def _line(self, row: Row) -> str:
        classes = "  ".join(f"{name} {format_number(row.ap50[name].value)}" for name in self.names)
        return f"{format_number(row.ap[MEAN].value)}  {classes}  "

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return {"objects": dict(self.objects), **numbers(self)}
