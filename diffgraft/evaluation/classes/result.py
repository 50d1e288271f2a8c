"""What the experiments on classes found, as values and as lines for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffgraft.evaluation.results import Terms, by_shots, format_experiment, known_mean, numbers
from toolkit.evaluation import classification as scores
from toolkit.evaluation.interval import Interval

__all__ = ["TERMS", "ClassAlignment", "ClassificationResult", "Row"]

TERMS = Terms("samples", "a class", "balanced accuracy", "classifier")


@dataclass(frozen=True)
class Row:
    """One arm at one number of shots (0: all training samples), over all seeds.

    balanced: balanced accuracy, interval over leaves and seeds; spread: its standard deviation over seeds; gain: less
    the reference's, paired, None for the reference itself. figures: one a seed. calibration: expected calibration
    error, mean of the seeds. strata: label -> value -> accuracy. The others as in `diffgraft.evaluation.experiment.Trained`.
    """

    shots: int
    arm: str
    generator: str
    balanced: Interval
    spread: float
    gain: Interval | None
    figures: tuple[scores.Figures, ...]
    calibration: float | None = None
    seconds: float | None = None
    overhead: float | None = None
    generation: float | None = None
    strata: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def score(self) -> Interval:
        return self.balanced

    @property
    def score_gain(self) -> Interval | None:
        return self.gain

    def recall(self, kind: int) -> float | None:
        """Recall of a class, mean of the seeds."""
        return known_mean([each.recall[kind] for each in self.figures])

    @property
    def confusion(self) -> np.ndarray:
        """(K, K), the seeds added up; rows are the truth."""
        return np.sum([each.confusion for each in self.figures], 0)


@dataclass(frozen=True)
class ClassificationResult:
    """What `classify` found of one label; str() is for the terminal. names: of the classes."""

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        figure = f"{TERMS.figure}, and gain over real + classical"
        tables = {f"{TERMS.shots(k)}: {figure}": [(r, "") for r in rows] for k, rows in by_shots(self.rows).items()}
        return format_experiment(self, tables)

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return {"classes": list(self.names), **numbers(self)}


@dataclass(frozen=True)
class ClassAlignment:
    """What `alignment` found of one label: set of samples -> balanced accuracy, and the figures of each seed."""

    balanced: Mapping[str, Interval]
    figures: Mapping[str, tuple[scores.Figures, ...]]
    names: tuple[str, ...]
    protocol: Mapping[str, Any]

    def __str__(self) -> str:
        lines = [f"a classifier trained on real samples names the class; chance {1 / len(self.names):.2f}"]
        for name, balanced in self.balanced.items():
            accuracy = np.mean([each.accuracy for each in self.figures[name]])
            lines.append(f"  {name:24} accuracy {accuracy:.3f}, balanced {balanced}")
        return "\n".join(lines)

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return dataclasses.asdict(self)
