"""Axes, marks, colours and legends that the drawn blocks share, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape

import numpy as np

__all__ = ["axis", "colour", "figure", "legend", "mark", "nice_step", "palette", "svg", "text"]

PALETTE = {
    "light": ("#0a6a9e", "#c2570c", "#0b7f5b", "#a1438a", "#8a6d00", "#51606c"),
    "dark": ("#6db7e8", "#f0955a", "#5ecba1", "#e08fca", "#dcc04f", "#a9b6c0"),
}
"""The colours of series, readable on the card of either theme."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def palette(theme: str) -> str:
    """The colours of a theme, "light" or "dark", as CSS custom properties --c0, --c1, ..."""
    return " ".join(f"--c{number}: {value};" for number, value in enumerate(PALETTE[theme]))


def colour(number: int) -> str:
    """The CSS colour of a series by its number; more series than colours begin again."""
    return f"var(--c{number % len(PALETTE['light'])})"


def mark(shape: str, x: float, y: float, size: float, style: str = "") -> str:
    """A mark at (x, y): a circle, diamond, square, triangle or cross. size: half its width. style: CSS."""
    style = f' style="{style}"' if style else ""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"{style}/>'
    path = {
        "diamond": "m0 -{s}l{s} {s}l-{s} {s}l-{s} -{s}z",
        "square": "m-{s} -{s}h{w}v{w}h-{w}z",
        "triangle": "m0 -{s}l{s} {t}h-{w}z",
        "cross": "m-{s} -{s}l{w} {w}m0 -{w}l-{w} {w}",
    }[shape].format(s=f"{size:g}", w=f"{2 * size:g}", t=f"{1.8 * size:g}")
    return f'<path d="M{x:.1f} {y:.1f}{path}"{style}/>'


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    """A line of text that starts, ends or has its middle at x. more: further attributes."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def svg(body: str, width: float, height: float, label: str, more: str = "") -> str:
    """A drawing as an element of the page. label: what it shows, for who cannot see it. more: further attributes."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}"{more}>{body}</svg>'


def figure(drawing: str, caption: str = "", below: str = "") -> str:
    """A drawing as a block, between its caption and its legend."""
    title = f"<h3>{escape(caption)}</h3>" if caption else ""
    return f'<figure class="block curve">{title}<div class="wide">{drawing}</div>{below}</figure>'


def legend(entries: Iterable[tuple[str, str]], width: int = 26, height: int = 8) -> str:
    """(drawn, name) of every series as a list; `drawn` is SVG of this size."""
    items = "".join(
        f'<li><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">{drawn}</svg>'
        f"{escape(name)}</li>"
        for drawn, name in entries
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


def axis(
    values: np.ndarray, log: bool, tight: bool, label: Callable[[float], str]
) -> tuple[float, float, list[tuple[float, str]]]:
    """(low, high, [(position, label)]) in axis units, which are decades on a logarithmic axis. tight: ends at the data."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    if log:
        decades = range(math.floor(low), math.ceil(high) + 1)
        step = max(1, len(decades) // 6)
        low, high = (low, high) if tight else (math.floor(low * 5) / 5, math.ceil(high * 5) / 5)
        ticks = [(float(d), _power(d, label)) for d in decades[::step] if low <= d <= high]
        if len(ticks) < 4 and step == 1:  # few decades in sight: 1, 2, 5
            fine = [(d + math.log10(m), label(m * 10.0**d)) for d in decades for m in (1, 2, 5)]
            ticks = [tick for tick in fine if low <= tick[0] <= high] or ticks
        return low, high, ticks
    step = nice_step((high - low) / 5)
    if not tight:
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, [(k * step, label(k * step)) for k in range(first, last + 1)]


def nice_step(rough: float) -> float:
    """The next 1, 2 or 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _power(exponent: int, label: Callable[[float], str]) -> str:
    return label(10.0**exponent) if -3 <= exponent <= 3 else "10" + str(exponent).translate(_RAISED)
