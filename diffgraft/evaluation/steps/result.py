"""What curves of quality against steps found, as values and as lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from toolkit.evaluation.interval import Interval

__all__ = ["NEGLIGIBLE", "Metric", "Row", "StepsEvaluation", "enough_steps"]

NEGLIGIBLE = 0.1
"""Of half the reference's own interval: a smaller difference is no difference, however sure paired resamples are of it."""


@dataclass(frozen=True)
class Metric:
    """A figure. better: which is, or "same": neither more nor less than the reference. what: it is, in words.

    scale: of its axis. judged: whether it says how good samples are. slight: a part of the reference that is no difference.
    """

    name: str
    title: str
    better: Literal["low", "high", "same"]
    what: str
    scale: Literal["linear", "log", "root"] = "linear"
    judged: bool = True
    slight: float = 0.0


@dataclass(frozen=True)
class Row:
    """One variant. evaluations: of the denoiser, for one sample (a scan: one way up and down).

    figures: metric -> value; differences: metric -> less the reference, paired. seconds, cpu: for one sample.
    """

    sampler: str
    steps: int
    evaluations: int
    figures: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    seconds: float
    cpu: float


@dataclass(frozen=True)
class StepsEvaluation:
    """What `evaluate_steps` found; str() is for the terminal.

    beside: metric -> name -> figure of real data and of what is trivial. enough: metric -> sampler -> the steps that are
    enough (see `enough_steps`).
    """

    rows: Sequence[Row]
    reference: str
    metrics: Sequence[Metric]
    beside: Mapping[str, Mapping[str, Interval]]
    enough: Mapping[str, Mapping[str, int | None]]
    protocol: Mapping[str, Any]
    notes: Sequence[str] = ()

    @property
    def judged(self) -> list[Metric]:
        """The metrics that say how good samples are."""
        return [metric for metric in self.metrics if metric.judged]

    @property
    def samplers(self) -> list[str]:
        """In the order of the rows, the student last."""
        return list(dict.fromkeys(row.sampler for row in self.rows))

    def enough_of_all(self, sampler: str) -> int | None:
        """The steps from which on no figure is worse than the reference; None where one always is."""
        counts = [found[sampler] for found in self.enough.values()]
        return None if None in counts else max(count for count in counts if count is not None)

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return asdict(self)

    def __str__(self) -> str:
        unit = self.protocol["unit"]
        titles = "  ".join(f"{metric.title[:26]:26}" for metric in self.metrics)
        lines = [f"{'solver':14} {'steps':>5} {'evals':>5}  {titles}  s/{unit}"]
        for row in self.rows:
            cells = "  ".join(f"{row.figures[metric.name]!s:26}" for metric in self.metrics)
            lines.append(f"{row.sampler:14} {row.steps:5} {row.evaluations:5}  {cells}  {row.seconds:.3g}")
        for metric in self.metrics:
            lines += [f"{metric.title}, {name}: {figure}" for name, figure in self.beside[metric.name].items()]
        lines.append(f"not worse than {self.reference} from so many steps on:")
        for metric in self.judged:
            each = ", ".join(f"{name} {count or '-'}" for name, count in self.enough[metric.name].items())
            lines.append(f"  {metric.title:28} {each}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def enough_steps(rows: Sequence[Row], metric: Metric, reference: Interval) -> dict[str, int | None]:
    """Of each sampler the fewest steps from which on none that was measured is worse than the reference; None: none.

    Worse: the interval of the paired difference lies on the wrong side of 0, and the difference is not NEGLIGIBLE.
    """
    found: dict[str, int | None] = {}
    for name in dict.fromkeys(row.sampler for row in rows):
        found[name] = None
        for row in sorted((r for r in rows if r.sampler == name), key=lambda r: -r.steps):
            if _is_worse(row.differences[metric.name], metric, reference):
                break
            found[name] = row.steps
    return found


def _is_worse(gap: Interval, metric: Metric, reference: Interval) -> bool:
    if gap.value is None or gap.low is None or gap.high is None:
        return True
    half = 0.0 if reference.low is None or reference.high is None else (reference.high - reference.low) / 2
    slight = max(NEGLIGIBLE * half, metric.slight * abs(reference.value or 0.0))
    wrong = {"low": gap.low > 0, "high": gap.high < 0, "same": gap.low > 0 or gap.high < 0}[metric.better]
    return wrong and abs(gap.value) > slight
