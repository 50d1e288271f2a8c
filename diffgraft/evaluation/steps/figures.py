"""Figures of quality against steps, for the report and as files: curves as SVG, strips of samples as PNG.

A panel is drawn once, in the colours of the report's page; as a file it carries its own style, light and dark.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Panel", "Point", "file", "strip"]

WIDTH, HEIGHT = 560, 376
LEFT, TOP, WIDE, TALL = 58, 34, 484, 228
TICKS = (1, 2, 4, 8, 20, 50, 100, 200, 500, 1000)

STYLE = """
svg { --card: #fff; --ink: #15212b; --soft: #566573; --line: #dfe5e9;
  --c0: #0a6a9e; --c1: #c2570c; --c2: #0b7f5b; --c3: #a1438a; --c4: #8a6d00; }
@media (prefers-color-scheme: dark) {
  svg { --card: #141b21; --ink: #e4ebf0; --soft: #97a6b2; --line: #27323b;
    --c0: #6db7e8; --c1: #f0955a; --c2: #5ecba1; --c3: #e08fca; --c4: #dcc04f; }
}
text { font: 12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: var(--soft); }
.grid { stroke: var(--line); fill: none; }
.axis, .tick { stroke: var(--soft); fill: none; }
"""

_MARKS = (
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
    '<path d="M{x:.1f} {y:.1f}m-3.6 -3.6h7.2v7.2h-7.2z"/>',
    '<path d="M{x:.1f} {y:.1f}m0 -4.8l4.6 8h-9.2z"/>',
    '<path d="M{x:.1f} {y:.1f}m0 -5l5 5l-5 5l-5 -5z"/>',
)
_STAR = '<path d="M{x:.1f} {y:.1f}m0 -9l2.2 6.1 6.5 .2 -5.1 4 1.8 6.2 -5.4 -3.6 -5.4 3.6 1.8 -6.2 -5.1 -4 6.5 -.2z"/>'
_DASHES = ("7 4", "2 4", "9 4 2 4")


@dataclass(frozen=True)
class Point:
    """A value at a number of evaluations, with its interval."""

    x: float
    value: float | None
    low: float | None = None
    high: float | None = None


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
        return f'<figure class="block curve"><div class="wide">{self.svg()}</div></figure>'

    def svg(self, place: str = "") -> str:
        """The panel as an svg element; place: attributes of where it stands in another one."""
        points = [p for line in self.lines.values() for p in line] + list(self.marked.values())
        values = [v for p in points for v in (p.value, p.low, p.high) if v is not None and math.isfinite(v)]
        values += [v for v in self.dashed.values() if v is not None]
        shown = [self._scaled(v) for v in values if self.scale != "log" or v > 0]
        limit = self._limit()
        shown = [min(v, limit) for v in shown]
        at = [math.log(p.x) for p in points]
        if not shown or not at:
            return f'<svg viewBox="0 0 {WIDTH} 60" {place}><text x="{LEFT}" y="30">{escape(self.title)}: nothing to draw</text></svg>'
        low, high, ticks = self._axis(min(shown), max(shown))
        first, last = min(at), max(at) if max(at) > min(at) else min(at) + 1.0
        margin = 0.03 * (last - first)

        def across(x: float) -> float:
            return LEFT + (math.log(x) - first + margin) / (last - first + 2 * margin) * WIDE

        def down(value: float) -> float:
            return TOP + TALL - (min(self._scaled(value), high) - low) / (high - low) * TALL

        parts = [
            f'<text x="{LEFT}" y="18" style="font-weight:600;font-size:14px;fill:var(--ink)">{escape(self.title)}</text>'
        ]
        parts += [
            f'<path class="grid" d="M{LEFT} {down(v):.1f}h{WIDE}"/>'
            f'<text x="{LEFT - 8}" y="{down(v) + 4:.1f}" text-anchor="end">{_number(v)}</text>'
            for v in ticks
        ]
        parts += [
            f'<path class="tick" d="M{across(t):.1f} {TOP + TALL}v5"/>'
            f'<text x="{across(t):.1f}" y="{TOP + TALL + 19}" text-anchor="middle">{t}</text>'
            for t in TICKS if first - 1e-9 <= math.log(t) <= last + 1e-9
        ]  # fmt: skip
        parts.append(f'<path class="axis" d="M{LEFT} {TOP + TALL}h{WIDE}"/>')
        parts.append(
            f'<text x="{LEFT + WIDE / 2}" y="{TOP + TALL + 36}" text-anchor="middle">{escape(self.xlabel)}</text>'
        )
        names: list[tuple[str, str]] = []
        for k, (name, value) in enumerate(self.dashed.items()):
            if value is None or (self.scale == "log" and value <= 0):
                continue
            stroke = f'style="stroke:var(--soft);stroke-width:1.5;stroke-dasharray:{_DASHES[k % 3]};fill:none"'
            parts.append(f'<path d="M{LEFT} {down(value):.1f}h{WIDE}" {stroke}/>')
            names.append((name, f'<path d="M0 0h26" {stroke}/>'))
        solvers: list[tuple[str, str]] = []
        for k, (name, line) in enumerate(self.lines.items()):
            parts.append(self._line(line, k, across, down))
            mark = _MARKS[k % 4].format(x=13, y=0)
            solvers.append((name, f'<g style="{_ink(k)}"><path d="M0 0h26" style="fill:none"/>{mark}</g>'))
        for name, point in self.marked.items():
            if self._there(point):
                parts.append(f'<g style="stroke:var(--ink);fill:var(--c4);stroke-width:1">{self._whisker(point, 0, across, down)}'
                             f"{_STAR.format(x=across(point.x), y=down(point.value or 0))}</g>")  # fmt: skip
                solvers.append((name, f'<g style="stroke:var(--ink);fill:var(--c4)">{_STAR.format(x=13, y=0)}</g>'))
        parts += [
            f'<text x="{across(p.x) + 10:.1f}" y="{TOP + 10}" style="fill:var(--ink)">↑ {_number(p.value)}</text>'
            for line in self.lines.values() for p in line if p.value is not None and self._scaled(p.value) > high
        ]  # fmt: skip
        first_lines, below = _legend(solvers, TOP + TALL + 60)
        parts += [first_lines, _legend(names, below)[0]]
        said = f"{self.title} over {self.xlabel}: {', '.join([*self.lines, *self.marked, *self.dashed])}"
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}" {place}>{"".join(parts)}</svg>'
        )

    def _line(self, line: Sequence[Point], k: int, across, down) -> str:
        there = [p for p in line if self._there(p)]
        shift = 1.6 * (k - (len(self.lines) - 1) / 2)  # solvers at one number of evaluations lie beside one another
        path = "L".join(f"{across(p.x) + shift:.1f} {down(p.value):.1f}" for p in there)  # type: ignore[arg-type]
        marks = "".join(_MARKS[k % 4].format(x=across(p.x) + shift, y=down(p.value)) for p in there)  # type: ignore[arg-type]
        whiskers = "".join(self._whisker(p, shift, across, down) for p in there)
        drawn = f'<path d="M{path}" style="fill:none"/>' if there else ""
        return f'<g style="{_ink(k)}">{whiskers}{drawn}{marks}</g>'

    def _whisker(self, p: Point, shift: float, across, down) -> str:
        if p.low is None or p.high is None or (self.scale == "log" and p.low <= 0):
            return ""
        ends = f"M{across(p.x) + shift:.1f} {down(p.low):.1f}V{down(p.high):.1f}"
        return f'<path d="{ends}" style="fill:none;stroke-width:1;stroke-opacity:.55"/>'

    def _there(self, p: Point) -> bool:
        return p.value is not None and math.isfinite(p.value) and (self.scale != "log" or p.value > 0)

    def _scaled(self, value: float) -> float:
        if self.scale == "log":
            return math.log10(max(value, 1e-12))
        return math.copysign(math.sqrt(abs(value)), value) if self.scale == "root" else value

    def _limit(self) -> float:
        """As it is scaled, what is drawn at the upper edge with its number: what would press all others together."""
        found = sorted(
            self._scaled(p.value)
            for line in self.lines.values()
            for p in line
            if p.value is not None and self._there(p)
        )
        if self.scale == "log":
            return math.inf
        limit = math.inf
        while len(found) > 3:
            spread = found[-2] - found[0]
            if not found[-1] > found[-2] + 0.5 * spread > found[-2]:
                break
            limit = found[-2] + 0.2 * spread
            found.pop()
        return max([limit, *(self._scaled(value) for value in self.dashed.values() if value is not None)])

    def _axis(self, low: float, high: float) -> tuple[float, float, list[float]]:
        """Its ends as it is scaled, and the values that are written at it."""
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        margin = 0.04 * (high - low)
        low, high = low - margin, high + margin
        if self.scale == "linear":
            power = 10.0 ** math.floor(math.log10((high - low) / 5))
            step = next(m * power for m in (1, 2, 5, 10) if m * power >= (high - low) / 5 * (1 - 1e-9))
            ticks = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
            return low, high, ticks
        decades = range(-6, 4)
        fine = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        every = fine if self.scale == "log" else [0.0, *fine, *(-v for v in fine)]
        inside = sorted(v for v in every if low <= self._scaled(v) <= high)
        ticks: list[float] = []
        for value in sorted(inside, key=lambda v: (v != 0, -abs(self._scaled(v)) if self.scale == "root" else v)):
            if all(abs(self._scaled(value) - self._scaled(other)) >= 0.09 * (high - low) for other in ticks):
                ticks.append(value)
        return low, high, sorted(ticks)


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
    pictures = {name: [_picture(image, side) for image in images] for name, images in rows.items()}
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


def _picture(image: np.ndarray, side: int) -> Image.Image:
    levels = np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)
    levels = levels[0] if levels.ndim == 3 and levels.shape[0] == 1 else levels
    picture = Image.fromarray(levels if levels.ndim == 2 else np.ascontiguousarray(levels.transpose(1, 2, 0)))
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def _ink(k: int) -> str:
    return f"stroke:var(--c{k % 4});fill:var(--c{k % 4});stroke-width:1.75;stroke-linejoin:round"


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
