"""What a section of a report is made of: paragraphs, facts and tables, and how their values are written as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol, runtime_checkable

import numpy as np

from toolkit.example import Error

__all__ = ["Block", "Estimate", "Facts", "Section", "Table", "Text", "format_difference", "format_number"]


class Block(Protocol):
    """What a section is made of."""

    def html(self, key: str) -> str:
        """The block as HTML. key: unique in the page, [a-z0-9], the prefix of every id inside."""
        ...


@runtime_checkable
class Estimate(Protocol):
    """A figure with its interval, each None where undefined, such as `toolkit.evaluation.anomaly.Interval`."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


@dataclass(frozen=True)
class Section:
    """A heading with its blocks. note: one muted sentence below the heading."""

    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph; an empty line starts another one."""

    paragraph: str

    def html(self, key: str) -> str:
        parts = [part.strip() for part in re.split(r"\n\s*\n", self.paragraph) if part.strip()]
        return '<div class="block prose">' + "".join(f"<p>{escape(part)}</p>" for part in parts) + "</div>"


@dataclass(frozen=True)
class Facts:
    """Names with their values, as a definition list. Nested mappings are shown with dotted names.

    skip_missing: leave out what is None or NaN, instead of a dash.
    """

    values: Mapping[str, Any]
    caption: str = ""
    skip_missing: bool = False

    def html(self, key: str) -> str:
        rows = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(format_value(value))}</dd></div>"
            for name, value in _flat(self.values)
            if not (self.skip_missing and is_missing(value))
        )
        caption = f"<h3>{escape(self.caption)}</h3>" if self.caption else ""
        return f'<div class="block">{caption}<dl class="facts">{rows}</dl></div>'


@dataclass(frozen=True)
class Table:
    """Rows under a header. Columns of numbers are right-aligned with equal decimals; None and NaN are a dash.

    A cell may be an `Estimate`, written with its interval; one without a value is a dash.

    best: column -> "max" or "min": its best cell is bold. A cell such as "0.69 [0.61, 0.75]" counts by its first
        number.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    best: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = sorted({len(row) for row in self.rows} - {len(self.header)})
        if wrong:
            raise Error(f"A Table's rows have one cell a column ({len(self.header)}); found rows of {wrong}.")
        unknown = sorted(set(self.best) - set(self.header))
        if unknown:
            raise Error(f"A Table's best columns are named in its header {list(self.header)}; found {unknown}.")

    def html(self, key: str) -> str:
        columns = [list(column) for column in zip(*self.rows, strict=True)] if self.rows else [[] for _ in self.header]
        cells, classes = [], []
        for name, column in zip(self.header, columns, strict=True):
            numbers = [_leading(value) for value in column]
            filled = [value for value in column if not is_missing(value)]
            numeric = bool(filled) and not any(_leading(value) is None for value in filled)
            classes.append(' class="n"' if numeric else "")
            cells.append(_column(column, _best(numbers, self.best.get(name))))
        head = "".join(
            f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(self.header, classes, strict=True)
        )
        body = "".join(
            "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, row, strict=True)) + "</tr>"
            for row in zip(*cells, strict=True)
        )
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return (
            f'<div class="block wide" tabindex="0" role="region" aria-label="{escape(self.caption or "Table")}">'
            f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def is_missing(value: Any) -> bool:
    """Whether it is shown as a dash: None, NaN, or an estimate that has no value."""
    if isinstance(value, float | np.floating):
        return math.isnan(float(value))
    return value is None or (isinstance(value, Estimate) and value.value is None)


def format_value(value: Any) -> str:
    """A value as a person writes it."""
    if is_missing(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return format_number(float(value))
    if type(value) in (list, tuple):  # a named tuple writes itself
        return ", ".join(format_value(item) for item in value)
    return str(value)


def format_number(value: float, digits: int = 4) -> str:
    """Four significant digits, no exponent where none is needed, a true minus sign."""
    return f"{float(value):.{digits}g}".replace("-", "−") if math.isfinite(value) else str(value)


def format_difference(gap: Estimate | None) -> str | None:
    """A difference with its sign and interval, "+0.012 [-0.01, +0.03]"; None where there is none."""
    if gap is None or gap.value is None:
        return None
    return f"{gap.value:+.3f}" + ("" if gap.low is None else f" [{gap.low:+.2f}, {gap.high:+.2f}]")


def _leading(value: Any) -> float | None:
    """The number a cell starts with; None for one that starts with something else, or is empty."""
    if is_missing(value) or isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | float | np.number):
        return float(value)
    found = re.match(r"\s*([-−+]?\d*\.?\d+(?:[eE][-+]?\d+)?)", str(value))
    return float(found[1].replace("−", "-")) if found else None


def _best(numbers: Sequence[float | None], sense: str | None) -> float | None:
    if sense not in (None, "max", "min"):
        raise Error(f"A Table's best column is 'max' or 'min'; found '{sense}'.")
    known = [number for number in numbers if number is not None]
    return None if sense is None or not known else (max if sense == "max" else min)(known)


def _column(column: Sequence[Any], best: float | None) -> list[str]:
    floats = [float(v) for v in column if isinstance(v, float | np.floating) and math.isfinite(v)]
    largest = max((abs(value) for value in floats), default=0.0)
    smallest = min((abs(value) for value in floats if value), default=1.0)
    # Equal decimals compare well, unless the small values of the column would vanish in them.
    decimals = 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0
    even = bool(floats) and smallest >= 5 * 10.0 ** -(decimals + 1) and largest < 1e6
    shown = []
    for value in column:
        fixed = even and isinstance(value, float | np.floating) and math.isfinite(value)
        text = escape(f"{value:.{decimals}f}".replace("-", "−") if fixed else format_value(value))
        shown.append(f"<strong>{text}</strong>" if best is not None and _leading(value) == best else text)
    return shown
