"""What the downstream experiments found, as values and as lines for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from toolkit.evaluation import classification as scores
from toolkit.evaluation.anomaly import Interval

__all__ = ["Alignment", "Classification", "Row", "by_shots", "said", "signed"]


class _OfShots(Protocol):
    @property
    def shots(self) -> int: ...


AnyRow = TypeVar("AnyRow", bound=_OfShots)
"""A row of any experiment's table."""


@dataclass(frozen=True)
class Row:
    """One arm at one number of shots (0: all training samples), over all seeds.

    balanced: balanced accuracy, interval over leaves and seeds; spread: its standard deviation over seeds; gain: less
    the reference's, paired, None for the reference itself. figures: one a seed. calibration: expected calibration
    error, mean of the seeds. seconds: of a training; overhead: of that over "real", in per cent. generation: seconds
    that making the pool took. strata: label -> value -> accuracy.
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

    def recall(self, kind: int) -> float | None:
        """Recall of a class, mean of the seeds."""
        found = [each.recall[kind] for each in self.figures]
        return None if None in found else float(np.mean(found))  # type: ignore[arg-type]

    @property
    def confusion(self) -> np.ndarray:
        """(K, K), the seeds added up; rows are the truth."""
        return np.sum([each.confusion for each in self.figures], 0)


@dataclass(frozen=True)
class Classification:
    """What `classify` found; str() is for the terminal. warnings: what makes the figures less than they look."""

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return _told(self)

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return {
            "classes": list(self.names),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "protocol": dict(self.protocol),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Alignment:
    """What `alignment` found: name of a set of samples -> accuracy, balanced accuracy, interval and figures a seed."""

    balanced: Mapping[str, Interval]
    figures: Mapping[str, tuple[scores.Figures, ...]]
    names: tuple[str, ...]
    protocol: Mapping[str, Any]

    def __str__(self) -> str:
        return _named(self)

    @property
    def numbers(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _told(result: Classification) -> str:
    """One line an arm."""
    lines = [f"test: {result.protocol['test']}"]
    for shots, rows in by_shots(result.rows).items():
        lines.append(f"{said(shots)}: balanced accuracy, and gain over real + classical")
        for row in rows:
            lines.append(f"  {row.arm:36} {row.balanced!s:22} {signed(row.gain):24} {row.generator}".rstrip())
    return "\n".join([*lines, *(f"note: {each}" for each in result.warnings)])


def _named(result: Alignment) -> str:
    lines = [f"a classifier trained on real samples names the class; chance {1 / len(result.names):.2f}"]
    for name, balanced in result.balanced.items():
        accuracy = np.mean([each.accuracy for each in result.figures[name]])
        lines.append(f"  {name:24} accuracy {accuracy:.3f}, balanced {balanced}")
    return "\n".join(lines)


def by_shots(rows: Sequence[AnyRow]) -> dict[int, list[AnyRow]]:
    """Rows by their number of shots, both in their order."""
    found: dict[int, list[AnyRow]] = {}
    for row in rows:
        found.setdefault(row.shots, []).append(row)
    return found


def said(shots: int) -> str:
    """A number of shots in words."""
    return f"{shots} a class" if shots else "all samples"


def signed(gain: Interval | None) -> str:
    """A gain with its sign and interval."""
    if gain is None or gain.value is None:
        return "-"
    return f"{gain.value:+.3f} [{gain.low:+.2f}, {gain.high:+.2f}]"
