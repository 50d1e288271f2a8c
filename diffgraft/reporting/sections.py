"""Sections and tables that several reports have alike: warnings, protocol, cost, confusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffgraft.reporting.block import Block, Facts, Section, Table, Text

__all__ = ["confusion_table", "cost_table", "protocol_section", "warning_section"]


def warning_section(warnings: Sequence[str], title: str = "Warning") -> Section:
    """What makes the figures less than they look; without warnings the section is empty, and `write` leaves it out."""
    return Section(title, [Text("\n\n".join(warnings))] if warnings else [])


def protocol_section(protocol: Mapping[str, Any], notes: Sequence[str] = (), *more: Block) -> Section:
    """How the figures were made, underscores of the names as spaces; notes as paragraphs; and more blocks below."""
    facts = Facts({name.replace("_", " "): value for name, value in protocol.items()})
    return Section("Protocol", [facts, *([Text("\n\n".join(notes))] if notes else []), *more])


def cost_table(
    rows: Iterable[tuple[str, float | None, float | None, float | None, Any]], figure: str, caption: str = ""
) -> Table:
    """What every training cost, beside its figure. Trainings without a time, such as of trivial baselines, are left out.

    rows: (training, seconds a run, overhead in per cent, seconds of generation, value of the figure).
    """
    cells = [
        [name, seconds, None if overhead is None else f"{overhead:+.0f} %", generation, value]
        for name, seconds, overhead, generation, value in rows
        if seconds is not None
    ]
    return Table(["Training", "Seconds a run", "Overhead", "Generation (s)", figure], cells, caption)


def confusion_table(counts: Iterable[Iterable[int]], names: Sequence[str], caption: str, corner: str = "") -> Table:
    """Counts (K, K) of the classes `names`; a row a true class, a column a predicted one."""
    return Table([corner, *names], [[name, *row] for name, row in zip(names, counts, strict=True)], caption)
