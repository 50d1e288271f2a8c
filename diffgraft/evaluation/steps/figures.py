"""Figures of quality against steps, for the report and as files: curves as SVG, strips of samples as PNG.

A panel is drawn once, in the colours of the report's page; as a file it carries its own style, light and dark.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffgraft.reporting.axes import colour, figure, mark, nice_step, palette, svg, text
from diffgraft.reporting.picture import to_picture

__all__ = ["Panel", "Point", "file", "strip"]

WIDTH, HEIGHT = 560, 376
LEFT, TOP, WIDE, TALL = 58, 34, 484, 228
TICKS = (1, 2, 4, 8, 20, 50, 100, 200, 500, 1000)

STYLE = f"""
svg {{ --card: #fff; --ink: #15212b; --soft: #566573; --line: #dfe5e9; {palette("light")} }}
@media (prefers-color-scheme: dark) {{
  svg {{ --card: #141b21; --ink: #e4ebf0; --soft: #97a6b2; --line: #27323b; {palette("dark")} }}
}}
text {{ font: 12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: var(--soft); }}
.grid {{ stroke: var(--line); fill: none; }}
.axis, .tick {{ stroke: var(--soft); fill: none; }}
"""

_MARKS = (("circle", 4), ("square", 3.6), ("triangle", 4.6), ("diamond", 5))
"""Shapes of the solvers, with half their width."""

_STAR = '<path d="M{x:.1f} {y:.1f}m0 -9l2.2 6.1 6.5 .2 -5.1 4 1.8 6.2 -5.4 -3.6 -5.4 3.6 1.8 -6.2 -5.1 -4 6.5 -.2z"/>'
_DASHES = ("7 4", "2 4", "9 4 2 4")


@dataclass(frozen=True)
class Point:
    """A value at a number of evaluations, with its interval."""

    x: float
    value: float | None
    low: float | None = None
    high: float | None = None


def _root(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value)


_ROUND = [m * 10.0**d for d in range(-6, 4) for m in (1, 2, 5)]
_SIGNED = sorted([*(-v for v in _ROUND), 0.0, *_ROUND], key=lambda v: (v != 0, -abs(v)))


@dataclass(frozen=True)
class _Scale:
    """Of values. place: of a value; numbers: those that may be written at the axis, first ones first; () for even steps."""

    place: Callable[[float], float]
    numbers: Sequence[float] = ()
    positive: bool = False

    def shows(self, value: float | None) -> bool:
        return value is not None and math.isfinite(value) and (value > 0 or not self.positive)

    def ticks(self, low: float, high: float) -> list[float]:
        """The numbers that are written between two places, none too near to another."""
        if not self.numbers:
            step = nice_step((high - low) / 5)
            return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        ticks: list[float] = []
        for value in self.numbers:
            at = self.place(value)
            if low <= at <= high and all(abs(at - self.place(other)) >= 0.09 * (high - low) for other in ticks):
                ticks.append(value)
        return sorted(ticks)


_SCALES = {
    "linear": _Scale(float),
    "log": _Scale(lambda value: math.log10(max(value, 1e-12)), _ROUND, positive=True),
    "root": _Scale(_root, _SIGNED),
}


@dataclass(frozen=True)
class _Axes:
    """Where points lie in a panel. low, high: places of values at its edges; first, last: logarithms of evaluations."""

    scale: _Scale
    low: float
    high: float
    first: float
    last: float

    def across(self, x: float) -> float:
        margin = 0.03 * (self.last - self.first)
        return LEFT + (math.log(x) - self.first + margin) / (self.last - self.first + 2 * margin) * WIDE

    def down(self, value: float | None) -> float:
        assert value is not None, "only what is shown has a place"
        return TOP + TALL - (min(self.scale.place(value), self.high) - self.low) / (self.high - self.low) * TALL

    def drawn(self) -> list[str]:
        """The axes with their grid and numbers."""
        bottom = TOP + TALL
        parts = []
        for value in self.scale.ticks(self.low, self.high):
            parts.append(f'<path class="grid" d="M{LEFT} {self.down(value):.1f}h{WIDE}"/>')
            parts.append(text(LEFT - 8, self.down(value) + 4, _number(value), "end"))
        for tick in TICKS:
            if self.first - 1e-9 <= math.log(tick) <= self.last + 1e-9:
                parts.append(f'<path class="tick" d="M{self.across(tick):.1f} {bottom}v5"/>')
                parts.append(text(self.across(tick), bottom + 19, str(tick), "middle"))
        return [*parts, f'<path class="axis" d="M{LEFT} {bottom}h{WIDE}"/>']

    def whisker(self, point: Point, shift: float = 0.0) -> str:
        """The interval of a point."""
        if point.high is None or not self.scale.shows(point.low):
            return ""
        ends = f"M{self.across(point.x) + shift:.1f} {self.down(point.low):.1f}V{self.down(point.high):.1f}"
        return f'<path d="{ends}" style="fill:none;stroke-width:1;stroke-opacity:.55"/>'


@dataclass(frozen=True)
class Panel:
    """One figure against evaluations, on a logarithmic axis. lines: solver -> points; marked: what is one point alone;
    dashed: name -> value of what takes no evaluations. scale: of the values; "root" is the signed square root.
    """

    title: str
    lines: Mapping[str, Sequence[Point]]
    marked: Mapping[str, Point]
    dashed: Mapping[str, float | None]
    xlabel: str
    scale: Literal["linear", "log", "root"] = "linear"

    def html(self, key: str) -> str:
        """A block of the report."""
        return figure(self.svg())

    def svg(self, place: str = "") -> str:
        """The panel as an svg element; place: attributes of where it stands in another one."""
        axes, bottom = self._axes(), TOP + TALL
        if axes is None:
            words = f"{self.title}: nothing to draw"
            return svg(text(LEFT, 30, words), WIDTH, 60, words, f" {place}")
        title = ' style="font-weight:600;font-size:14px;fill:var(--ink)"'
        parts = [text(LEFT, 18, self.title, more=title), *axes.drawn()]
        parts.append(text(LEFT + WIDE / 2, bottom + 36, self.xlabel, "middle"))
        baselines: list[tuple[str, str]] = []
        for k, (name, value) in enumerate(self.dashed.items()):
            if axes.scale.shows(value):
                stroke = f'style="stroke:var(--soft);stroke-width:1.5;stroke-dasharray:{_DASHES[k % 3]};fill:none"'
                parts.append(f'<path d="M{LEFT} {axes.down(value):.1f}h{WIDE}" {stroke}/>')
                baselines.append((name, f'<path d="M0 0h26" {stroke}/>'))
        solvers: list[tuple[str, str]] = []
        for k, (name, line) in enumerate(self.lines.items()):
            parts.append(self._line(axes, k, line))
            solvers.append((name, f'<g style="{_ink(k)}"><path d="M0 0h26" style="fill:none"/>{_mark(k, 13, 0)}</g>'))
        for name, point in self.marked.items():
            if axes.scale.shows(point.value):
                star = _STAR.format(x=axes.across(point.x), y=axes.down(point.value))
                ink = "stroke:var(--ink);fill:var(--c4)"
                parts.append(f'<g style="{ink};stroke-width:1">{axes.whisker(point)}{star}</g>')
                solvers.append((name, f'<g style="{ink}">{_STAR.format(x=13, y=0)}</g>'))
        for point in (point for line in self.lines.values() for point in line):
            if point.value is not None and axes.scale.place(point.value) > axes.high:
                ink = ' style="fill:var(--ink)"'
                parts.append(text(axes.across(point.x) + 10, TOP + 10, f"↑ {_number(point.value)}", more=ink))
        first_lines, below = _legend(solvers, bottom + 60)
        parts += [first_lines, _legend(baselines, below)[0]]
        label = f"{self.title} over {self.xlabel}: {', '.join([*self.lines, *self.marked, *self.dashed])}"
        return svg("".join(parts), WIDTH, HEIGHT, label, f" {place}")

    def _axes(self) -> _Axes | None:
        """None where there is nothing to draw."""
        scale = _SCALES[self.scale]
        points = [p for line in self.lines.values() for p in line] + list(self.marked.values())
        values = [*(v for p in points for v in (p.value, p.low, p.high)), *self.dashed.values()]
        limit = self._limit(scale)
        places = [min(scale.place(v), limit) for v in values if v is not None and scale.shows(v)]
        at = [math.log(p.x) for p in points]
        if not places or not at:
            return None
        low, high = min(places), max(places)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        margin = 0.04 * (high - low)
        return _Axes(scale, low - margin, high + margin, min(at), max(at) if max(at) > min(at) else min(at) + 1.0)

    def _limit(self, scale: _Scale) -> float:
        """The place that is drawn at the upper edge with its number: what would press all others together."""
        if scale.positive:
            return math.inf
        values = [p.value for line in self.lines.values() for p in line]
        found = sorted(scale.place(v) for v in values if v is not None and scale.shows(v))
        limit = math.inf
        while len(found) > 3:
            spread = found[-2] - found[0]
            if not found[-1] > found[-2] + 0.5 * spread > found[-2]:
                break
            limit = found[-2] + 0.2 * spread
            found.pop()
        return max([limit, *(scale.place(value) for value in self.dashed.values() if value is not None)])

    def _line(self, axes: _Axes, k: int, line: Sequence[Point]) -> str:
        shift = 1.6 * (k - (len(self.lines) - 1) / 2)  # solvers at one number of evaluations lie beside one another
        shown = [point for point in line if axes.scale.shows(point.value)]
        places = [(axes.across(point.x) + shift, axes.down(point.value)) for point in shown]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        whiskers = "".join(axes.whisker(point, shift) for point in shown)
        drawn = f'<path d="M{path}" style="fill:none"/>' if shown else ""
        return f'<g style="{_ink(k)}">{whiskers}{drawn}{"".join(_mark(k, x, y) for x, y in places)}</g>'


def file(panels: Sequence[Panel], columns: int = 2) -> str:
    """Panels beside one another as one SVG file, with its own style."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    placed = "".join(
        panel.svg(f'x="{WIDTH * (k % columns)}" y="{HEIGHT * (k // columns)}" width="{WIDTH}" height="{HEIGHT}"')
        for k, panel in enumerate(panels)
    )
    wide, tall = WIDTH * columns, HEIGHT * rows
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}"><style>{STYLE}</style>'
        f'<rect width="{wide}" height="{tall}" style="fill:var(--card)"/>{placed}</svg>\n'
    )


def strip(rows: Mapping[str, Sequence[np.ndarray]], most: int = 98_000, side: int = 128) -> bytes:
    """Rows of images, each under its name at the left, as a PNG of at most `most` bytes: smaller, or with fewer colours.

    Images (C, H, W) or (H, W) in [-1, 1], each reduced to fit a square of `side` pixels.
    """
    while True:
        sheet, labels = _sheet(rows, side)
        for colours in (0, 128, 64, 48):
            # One colour is kept for the names: a palette of the images alone would write them in violet.
            made = sheet.copy() if not colours else sheet.quantize(colours - 1, dither=Image.Dither.NONE)
            ink: int | str = "black"
            if made.mode == "P":
                made.putpalette([*(made.getpalette() or [])[: 3 * (colours - 1)], 0, 0, 0])
                ink = colours - 1
            draw, font = ImageDraw.Draw(made), ImageFont.load_default(13)
            for name, middle in labels.items():
                draw.text((4, middle), name, fill=ink, font=font, anchor="lm")
            buffer = io.BytesIO()
            made.save(buffer, "PNG", optimize=True)
            if buffer.tell() <= most:
                return buffer.getvalue()
        side = round(side * 0.85)


def _sheet(rows: Mapping[str, Sequence[np.ndarray]], side: int) -> tuple[Image.Image, dict[str, float]]:
    """The images on white, with a margin at the left; and the height at which the name of each row belongs."""
    pictures = {
        name: [to_picture(np.asarray(image, np.float32), side) for image in images] for name, images in rows.items()
    }
    wide = max(p.width for row in pictures.values() for p in row)
    tall = max(p.height for row in pictures.values() for p in row)
    font = ImageFont.load_default(13)
    margin = 12 + max(round(font.getlength(name)) for name in rows)
    grey = all(p.mode == "L" for row in pictures.values() for p in row)
    count = max(len(row) for row in pictures.values())
    sheet = Image.new("L" if grey else "RGB", (margin + count * (wide + 3), len(rows) * (tall + 3)), "white")
    labels = {}
    for n, (name, row) in enumerate(pictures.items()):
        top = n * (tall + 3)
        labels[name] = top + tall / 2
        for k, picture in enumerate(row):
            place = (margin + k * (wide + 3) + (wide - picture.width) // 2, top + (tall - picture.height) // 2)
            sheet.paste(picture, place)
    return sheet, labels


def _ink(k: int) -> str:
    return f"stroke:{colour(k % 4)};fill:{colour(k % 4)};stroke-width:1.75;stroke-linejoin:round"


def _mark(k: int, x: float, y: float) -> str:
    shape, size = _MARKS[k % 4]
    return mark(shape, x, y, size)


def _legend(entries: Sequence[tuple[str, str]], y: float) -> tuple[str, float]:
    """Entries side by side, in as many lines as they need; and where the next line would be."""
    parts, x = [], float(LEFT)
    for name, drawn in entries:
        wide = 33 + 7.2 * len(name) + 14
        if x > LEFT and x + wide > WIDTH + 10:
            x, y = float(LEFT), y + 20
        parts.append(
            f'<g transform="translate({x:.0f} {y - 4:.0f})">{drawn}</g><text x="{x + 33:.0f}" y="{y:.0f}">{escape(name)}</text>'
        )
        x += wide
    return "".join(parts), y + 20


def _number(value: float) -> str:
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")
