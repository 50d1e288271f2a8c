"""Lines over one pair of axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffgraft.reporting.axes import axis, figure, legend, svg, text
from diffgraft.reporting.block import Text, format_number

__all__ = ["Curve"]

_POINTS = 600  # a series of a curve; beyond that its extremes per bin are kept


@dataclass(frozen=True)
class Curve:
    """Lines over one pair of axes, as SVG.

    series: name -> points (x, y). A y that is None, not finite, or not positive on a log axis, is a gap in the line.
    log_x, log_y: logarithmic axes.
    """

    series: Mapping[str, Sequence[tuple[float, float | None]]]
    xlabel: str
    ylabel: str
    caption: str = ""
    log_x: bool = False
    log_y: bool = False

    def html(self, key: str) -> str:
        lines = {name: _drawable(points, self.log_x, self.log_y) for name, points in self.series.items()}
        shown = np.concatenate([*lines.values(), np.empty((0, 2))])
        shown = shown[np.isfinite(shown).all(axis=1)]
        if not len(shown):
            return Text(f"{self.caption or self.ylabel}: no finite point to draw.").html(key)
        left, top, width, height = 62, 14, 482, 236
        x_low, x_high, x_ticks = axis(shown[:, 0], self.log_x, True, format_number)
        y_low, y_high, y_ticks = axis(shown[:, 1], self.log_y, False, format_number)

        def across(value: Any) -> Any:
            return left + (value - x_low) / (x_high - x_low) * width

        def down(value: Any) -> Any:
            return top + height - (value - y_low) / (y_high - y_low) * height

        grid = "".join(
            f'<path class="grid" d="M{left} {down(at):.1f}h{width}"/>' + text(left - 8, down(at) + 4, name, "end")
            for at, name in y_ticks
        ) + "".join(
            f'<path class="tick" d="M{across(at):.1f} {top + height}v5"/>'
            + text(across(at), top + height + 19, name, "middle")
            for at, name in x_ticks
        )
        drawn = "".join(
            f'<path class="line c{index % 6}" d="{_polyline(across(line[:, 0]), down(line[:, 1]))}"/>'
            for index, line in enumerate(lines.values())
        )
        turned = f' transform="translate(13 {top + height / 2}) rotate(-90)"'
        body = (
            f'{grid}<path class="axis" d="M{left} {top + height}h{width}"/>{drawn}'
            + text(left + width / 2, 294, self.xlabel, "middle")
            + text(0, 0, self.ylabel, "middle", turned)
        )
        label = f"{self.caption or self.ylabel}: {self.ylabel} over {self.xlabel}, {', '.join(lines)}"
        keys = [(f'<path class="line c{index % 6}" d="M1 4h24"/>', name) for index, name in enumerate(lines)]
        return figure(svg(body, 560, 300, label), self.caption, legend(keys))


def _drawable(points: Sequence[tuple[float, float | None]], log_x: bool, log_y: bool) -> np.ndarray:
    """(N, 2) in axis units: log10 where asked, NaN where there is nothing to draw, long series thinned."""
    line = np.array(points, dtype=float).reshape(-1, 2)
    for column, log in ((0, log_x), (1, log_y)):
        if log:
            positive = line[:, column] > 0
            line[:, column] = np.log10(line[:, column], out=np.full(len(line), np.nan), where=positive)
    line[~np.isfinite(line).all(axis=1)] = np.nan
    if len(line) <= _POINTS:
        return line
    keep = {0, len(line) - 1}
    for part in np.array_split(np.arange(len(line)), _POINTS // 2):
        values = line[part, 1]
        if np.isfinite(values).any():
            keep |= {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
    return line[sorted(keep)]


def _polyline(x: np.ndarray, y: np.ndarray) -> str:
    path, pen = [], "M"
    for across, down in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(across) and math.isfinite(down):
            path.append(f"{pen}{across:.1f} {down:.1f}{'h0' if pen == 'M' else ''}")  # h0: a lone point is a dot
            pen = "L"
        else:
            pen = "M"
    return "".join(path)
