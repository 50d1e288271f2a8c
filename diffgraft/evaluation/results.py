"""What the results of the downstream experiments have in common: their words, how arms are ranked, warnings, lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from diffgraft.reporting.block import format_difference
from toolkit.evaluation.interval import Interval

__all__ = [
    "UNKNOWN",
    "Row",
    "Terms",
    "best_row",
    "by_shots",
    "format_experiment",
    "format_number",
    "known_mean",
    "numbers",
    "row_warnings",
]

UNKNOWN = Interval(None, None, None)


@dataclass(frozen=True)
class Terms:
    """What an experiment calls its samples, a number of shots ("5 a class"), the figure of its arms, and what is trained."""

    samples: str
    shot: str
    figure: str
    network: str

    def shots(self, count: int) -> str:
        """A number of shots in words; 0 is all samples."""
        return f"{count} {self.shot}" if count else f"all {self.samples}"


class Row(Protocol):
    """One arm at one number of shots, over all seeds; see the rows of each experiment.

    score: what arms are ranked by; score_gain: less the reference's, paired, None for the reference itself.
    """

    @property
    def shots(self) -> int: ...
    @property
    def arm(self) -> str: ...
    @property
    def generator(self) -> str: ...
    @property
    def score(self) -> Interval: ...
    @property
    def score_gain(self) -> Interval | None: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def overhead(self) -> float | None: ...
    @property
    def generation(self) -> float | None: ...


class Result(Protocol):
    """What an experiment found. warnings: what makes the figures less than they look."""

    @property
    def rows(self) -> Sequence[Any]: ...
    @property
    def protocol(self) -> Mapping[str, Any]: ...
    @property
    def warnings(self) -> Sequence[str]: ...


AnyRow = TypeVar("AnyRow", bound=Row)


def by_shots(rows: Sequence[AnyRow]) -> dict[int, list[AnyRow]]:
    """Rows by their number of shots, both in their order."""
    found: dict[int, list[AnyRow]] = {}
    for row in rows:
        found.setdefault(row.shots, []).append(row)
    return found


def best_row(rows: Sequence[AnyRow]) -> AnyRow:
    """That of the highest score; of equals the first."""
    return max(rows, key=lambda row: row.score.value or 0.0)


def row_warnings(rows: Sequence[Row], seeds: int, terms: Terms) -> list[str]:
    """What makes the figures of any experiment less than they look."""
    found = []
    if any(row.generator.endswith("not stated") for row in rows):
        found.append(
            f"What a generator was trained on is not stated: it may have seen the test {terms.samples}. Name its folder with "
            "--model."
        )
    if any(row.shots and row.generator.startswith("full-data") for row in rows):
        found.append(
            f"A full-data generator saw more labelled {terms.samples} than the {terms.network} of a few-shot arm: its gain there "
            f"is not one that so few {terms.samples} would give."
        )
    for shots, here in by_shots(rows).items():
        best = best_row(here)
        if not best.generator and any(row.generator for row in here):
            found.append(
                f"No arm with synthetic {terms.samples} is above '{best.arm}' ({best.score}) with {terms.shots(shots)}."
            )
    if seeds < 3:
        found.append(f"{seeds} seed(s): intervals hardly cover what another seed would give. Take three or more.")
    return found


def format_experiment(result: Result, tables: Mapping[str, Sequence[tuple[Row, str]]]) -> str:
    """The lines of an experiment for the terminal. tables: what is told of rows -> each row, and what it has besides."""
    lines = [f"test: {result.protocol['test']}"]
    for header, rows in tables.items():
        lines.append(header)
        for row, more in rows:
            gain = format_difference(row.score_gain) or "-"
            lines.append(f"  {row.arm:36} {row.score!s:22} {gain:24} {more}{row.generator}".rstrip())
    return "\n".join([*lines, *(f"note: {each}" for each in result.warnings)])


def numbers(result: Result) -> dict[str, Any]:
    """An experiment as plain values for JSON, without NaN."""
    return {
        "rows": [dataclasses.asdict(row) for row in result.rows],
        "protocol": dict(result.protocol),
        "warnings": list(result.warnings),
    }


def known_mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where one of the values is not known, or there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def format_number(value: float | None) -> str:
    """Three decimals for the terminal, or a dash."""
    return "-" if value is None else f"{value:.3f}"
