"""Dot plots: rows of names with a figure and its interval, and rows of patients with a mark for each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffgraft.reporting.axes import colour, figure, legend, mark, svg, text
from diffgraft.reporting.block import Estimate, Text

__all__ = ["DotPlot", "ForestPlot"]

_WIDTH, _ROW = 560, 20
_SHAPES = ("circle", "circle", "diamond", "square", "triangle", "cross")


@dataclass(frozen=True)
class ForestPlot:
    """A row a name with its figure and interval, a panel a mapping; one axis for all. A row without a value is left out.

    colours: (panel, name) -> number of the row's colour.
    """

    panels: Mapping[str, Mapping[str, Estimate]]
    caption: str
    colours: Callable[[str, str], int] = lambda panel, name: 0

    def html(self, key: str) -> str:
        panels = {
            title: [(name, (each.value, each.low, each.high)) for name, each in panel.items() if each.value is not None]
            for title, panel in self.panels.items()
        }
        values = [v for panel in panels.values() for _, each in panel for v in each if v is not None]
        if not values:
            return Text(f"{self.caption}: no value to draw.").html(key)
        low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values)) / 10
        high = max(high, low + 0.1)
        ticks = np.arange(low, high + 0.01, 0.1).tolist()
        left, width, y = 230, 314, 8.0

        def across(value: float) -> float:
            return left + (value - low) / (high - low) * width

        parts: list[str] = []
        for title, panel in panels.items():
            parts.append(text(left - 10, y + 13, title, "end", ' style="font-weight:600"'))
            y += _ROW
            ends = f"{y}V{y + _ROW * len(panel)}"
            parts += [f'<path class="grid" d="M{across(tick):.1f} {ends}"/>' for tick in ticks]
            for name, (value, lower, upper) in panel:
                middle, ink = y + _ROW / 2, colour(self.colours(title, name))
                parts.append(text(left - 10, middle + 4, name[:36], "end"))
                if lower is not None and upper is not None:
                    line = f"M{across(lower):.1f} {middle:.1f}H{across(upper):.1f}"
                    parts.append(f'<path d="{line}" style="stroke:{ink};stroke-width:2"/>')
                parts.append(mark("circle", across(value), middle, 4.5, f"fill:{ink}"))
                y += _ROW
            y += _ROW / 2
        parts += [text(across(tick), y + 8, f"{tick:.1f}", "middle") for tick in ticks]
        count = sum(len(panel) for panel in panels.values())
        label = f"{self.caption} of {count} rows; the numbers are in the tables"
        return figure(svg("".join(parts), _WIDTH, round(y + 16), label), self.caption)


@dataclass(frozen=True)
class DotPlot:
    """A row a name, say a patient, a mark a series, on an axis from 0 to 1; the best row of the first series on top.

    series: series -> name -> value, None where it has none. At most MOST are drawn: each has a mark of its own.
    """

    series: Mapping[str, Mapping[str, float | None]]
    caption: str

    MOST: ClassVar[int] = len(_SHAPES)

    def html(self, key: str) -> str:
        series = dict(list(self.series.items())[: self.MOST])
        first = next(iter(series.values()))
        rows = sorted(first, key=lambda name: -1.0 if (value := first[name]) is None else value, reverse=True)
        left, width, top = 130, 414, 8
        bottom = top + _ROW * len(rows)
        parts = []
        for tick in np.linspace(0, 1, 6).tolist():
            x = left + tick * width
            parts.append(f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>')
            parts.append(text(x, bottom + 18, f"{tick:g}", "middle"))
        for number, name in enumerate(rows):
            y = top + _ROW * (number + 0.5)
            parts.append(text(left - 10, y + 4, name[:17], "end"))
            parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
            for index, values in reversed(list(enumerate(series.values()))):  # the first lies on top
                if (value := values.get(name)) is not None:
                    parts.append(_mark(index, left + value * width, y))
        label = f"{self.caption}: {', '.join(series)}; the numbers are in the table below"
        keys = legend([(_mark(index, 8, 7), name) for index, name in enumerate(series)], 16, 14)
        return figure(svg("".join(parts), _WIDTH, bottom + 24, label), self.caption, keys)


def _mark(index: int, x: float, y: float) -> str:
    """Of a series: the first is solid, the others are open."""
    solid, size = index == 0, 5 if index in (0, 2, 4) else 4
    style = f"fill:{colour(0)}" if solid else f"fill:none;stroke:{colour(index)};stroke-width:1.75"
    return mark(_SHAPES[index], x, y, size, style)
