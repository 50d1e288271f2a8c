"""The report of a run: one HTML file that holds everything it shows.

A report is a title, sections of blocks, and how it was made. A block is a frozen dataclass with a method
`html(key)`; `key` is unique within the page and prefixes every id the block needs. A new kind of block is a new
dataclass, nothing else has to know it.

The file needs no network: images are data URIs, curves and outlines are inline SVG, and a content security policy
forbids everything else, scripts other than the page's own included. All text that comes from a caller is escaped. It
can be read without JavaScript, printed, and used from the keyboard. numpy and pillow only; page, style and behaviour
are in report.html beside this module.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Any, Protocol

import numpy as np
from PIL import Image

from toolkit.example import Error

__all__ = ["RESEARCH_USE", "Block", "Curve", "Facts", "Run", "Section", "Sheet", "Table", "Text", "Volume", "write"]

RESEARCH_USE = "Research use only. Not a medical device."

# Ten anchors of matplotlib's inferno (CC0): lightness rises evenly, so equal steps of the map look equal.
_INFERNO = np.array(
    [
        (0x00, 0x00, 0x04),
        (0x1B, 0x0C, 0x42),
        (0x4B, 0x0C, 0x6B),
        (0x78, 0x1C, 0x6D),
        (0xA5, 0x2C, 0x60),
        (0xCF, 0x44, 0x46),
        (0xED, 0x69, 0x25),
        (0xFB, 0x9A, 0x06),
        (0xF7, 0xD0, 0x3C),
        (0xFC, 0xFF, 0xA4),
    ],
    dtype=float,
)
_LEVELS = 64  # of the overlay: no eye tells more apart in a translucent layer, and the file is a third smaller
_OPEN_MONTAGE = 48  # slices; a longer montage starts folded
_POINTS = 600  # a series of a curve; beyond that its extremes per bin are kept


class Block(Protocol):
    """What a section is made of."""

    def html(self, key: str) -> str:
        """The block as HTML. key: unique in the page, [a-z0-9], the prefix of every id inside."""
        ...


@dataclass(frozen=True)
class Section:
    """A heading with its blocks. note: one muted sentence below the heading."""

    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True)
class Run:
    """How a report came to be; every report ends with it.

    command: as a person would type it again. Name no patient in it that the report should not name.
    version, time: of diffgraft and of the writing when left empty. seconds: wall time of the run.
    settings: everything that was resolved; nested mappings are shown with dotted names.
    """

    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float | None = None
    version: str = ""
    time: str = ""

    def html(self, key: str) -> str:
        facts = {
            "Version": self.version or _version(),
            "Seed": self.seed,
            "Written": self.time or datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
            "Wall time": None if self.seconds is None else f"{self.seconds:.1f} s",
        }
        shown = {name: value for name, value in facts.items() if value is not None or name == "Seed"}
        command = f'<div class="block"><pre class="command">{escape(self.command)}</pre></div>' if self.command else ""
        settings = Facts(self.settings, caption="Settings").html(key) if self.settings else ""
        return command + Facts(shown).html(key) + settings


@dataclass(frozen=True)
class Text:
    """A paragraph; an empty line starts another one."""

    paragraph: str

    def html(self, key: str) -> str:
        parts = [part.strip() for part in re.split(r"\n\s*\n", self.paragraph) if part.strip()]
        return '<div class="block prose">' + "".join(f"<p>{escape(part)}</p>" for part in parts) + "</div>"


@dataclass(frozen=True)
class Facts:
    """Names with their values, as a definition list. Nested mappings are shown with dotted names."""

    values: Mapping[str, Any]
    caption: str = ""

    def html(self, key: str) -> str:
        rows = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd></div>" for name, value in _flat(self.values)
        )
        caption = f"<h3>{escape(self.caption)}</h3>" if self.caption else ""
        return f'<div class="block">{caption}<dl class="facts">{rows}</dl></div>'


@dataclass(frozen=True)
class Table:
    """Rows under a header. Columns of numbers are right-aligned with equal decimals; None and NaN are a dash.

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
            filled = [value for value in column if not _missing(value)]
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


@dataclass(frozen=True)
class Sheet:
    """A grid of images.

    images: (H, W), (1 or 3, H, W) or (H, W, 3) arrays, float in [-1, 1], boolean, or uint8.
    captions: one an image, or none at all. columns: on a wide screen. side: larger images are reduced to it, in pixels.
    Grey images are stored without loss, colour ones as WebP of high quality.
    """

    images: Sequence[np.ndarray]
    captions: Sequence[str] = ()
    columns: int = 8
    caption: str = ""
    side: int = 384

    def __post_init__(self) -> None:
        if self.captions and len(self.captions) != len(self.images):
            raise Error(f"A Sheet has one caption an image; found {len(self.captions)} for {len(self.images)}.")

    def html(self, key: str) -> str:
        captions = self.captions or [""] * len(self.images)
        figures = []
        for number, (image, caption) in enumerate(zip(self.images, captions, strict=True), 1):
            picture = _picture(np.asarray(image), self.side)
            name = caption or f"Image {number}"
            figures.append(
                f'<figure><button type="button" class="zoom" aria-label="Enlarge: {escape(name)}">'
                f'<img src="{_colour(picture)}" width="{picture.width}" height="{picture.height}" '
                f'alt="{escape(name)}"></button>'
                + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
                + "</figure>"
            )
        title = f"<h3>{escape(self.caption)}</h3>" if self.caption else ""
        return (
            f'<div class="block">{title}<div class="sheet" style="--cols:{self.columns}">{"".join(figures)}</div></div>'
        )


@dataclass(frozen=True)
class Curve:
    """Lines over one pair of axes, as SVG.

    series: name -> points (x, y). A y that is not finite, or not positive on a log axis, is a gap in the line.
    log_x, log_y: logarithmic axes.
    """

    series: Mapping[str, Sequence[tuple[float, float]]]
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
        x_low, x_high, x_ticks = _axis(shown[:, 0], self.log_x, tight=True)
        y_low, y_high, y_ticks = _axis(shown[:, 1], self.log_y, tight=False)

        def across(value: Any) -> Any:
            return left + (value - x_low) / (x_high - x_low) * width

        def down(value: Any) -> Any:
            return top + height - (value - y_low) / (y_high - y_low) * height

        grid = "".join(
            f'<path class="grid" d="M{left} {down(at):.1f}h{width}"/>'
            f'<text x="{left - 8}" y="{down(at) + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            for at, name in y_ticks
        ) + "".join(
            f'<path class="tick" d="M{across(at):.1f} {top + height}v5"/>'
            f'<text x="{across(at):.1f}" y="{top + height + 19}" text-anchor="middle">{escape(name)}</text>'
            for at, name in x_ticks
        )
        drawn = "".join(
            f'<path class="line c{index % 6}" d="{_polyline(across(line[:, 0]), down(line[:, 1]))}"/>'
            for index, line in enumerate(lines.values())
        )
        legend = "".join(
            f'<li><svg viewBox="0 0 26 8" width="26" height="8" aria-hidden="true">'
            f'<path class="line c{index % 6}" d="M1 4h24"/></svg>{escape(name)}</li>'
            for index, name in enumerate(lines)
        )
        title = f"<h3>{escape(self.caption)}</h3>" if self.caption else ""
        what = f"{self.caption or self.ylabel}: {self.ylabel} over {self.xlabel}, {', '.join(lines)}"
        return (
            f'<figure class="block curve">{title}<div class="wide"><svg viewBox="0 0 560 300" role="img" '
            f'aria-label="{escape(what)}">{grid}<path class="axis" d="M{left} {top + height}h{width}"/>{drawn}'
            f'<text x="{left + width / 2}" y="294" text-anchor="middle">{escape(self.xlabel)}</text>'
            f'<text transform="translate(13 {top + height / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.ylabel)}</text></svg></div>"
            f'<ul class="legend">{legend}</ul></figure>'
        )


@dataclass(frozen=True)
class Volume:
    """A scan, its counterfactual and its anomaly map, slice by slice.

    image, counterfactual, anomaly: (slices, rows, columns) on one grid, in display orientation - for an axial stack the
        patient's right on the left and anterior on top. Anything not finite is drawn as the lowest value.
    vmax: top of the colour scale in units of the map; the same for every patient, or patients cannot be compared.
    spacing: (slice, row, column) in mm; pixels are drawn in their true aspect.
    threshold: marked on the colour bar. mask: boolean, what is outlined; anomaly >= threshold when left out.
    head: boolean; gives the window. truth: boolean, outlined in a second colour.
    window: (low, high) of input and counterfactual alike; from percentiles of the input inside the head when left out.
    scores: one a slice, drawn as bars from 0 to score_max (the largest one when left out); the mean of the map in the
        head when left out. labels: one a slice. sides: what is at the left, right, top and bottom edge.
    side: larger slices are reduced to it for display, in pixels.

    Each picture is stored once, without loss, as eight-bit PNG in the common window; the map is a translucent palette
    PNG that is laid over either of them.
    """

    title: str
    image: np.ndarray
    counterfactual: np.ndarray
    anomaly: np.ndarray
    vmax: float
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    threshold: float | None = None
    units: str = "anomaly score"
    mask: np.ndarray | None = None
    head: np.ndarray | None = None
    truth: np.ndarray | None = None
    truth_name: str = "Reference"
    window: tuple[float, float] | None = None
    scores: Sequence[float] | None = None
    score_name: str = "mean of map"
    score_max: float | None = None
    labels: Sequence[str] | None = None
    sides: tuple[str, str, str, str] = ("R", "L", "A", "P")
    note: str = ""
    side: int = 320

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or not self.image.size:
            raise Error(f"A Volume's image is (slices, rows, columns) with voxels in it; found {self.image.shape}.")
        for name in ("counterfactual", "anomaly", "mask", "head", "truth"):
            array = getattr(self, name)
            if array is not None and array.shape != self.image.shape:
                raise Error(f"All arrays of a Volume share one grid {self.image.shape}; '{name}' has {array.shape}.")
        for name in ("scores", "labels"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.image):
                raise Error(f"A Volume has one of '{name}' a slice ({len(self.image)}); found {len(values)}.")
        if not (math.isfinite(self.vmax) and self.vmax > 0):
            raise Error(f"A Volume's vmax is above zero, in units of the map; found {self.vmax}.")
        if not all(math.isfinite(step) and step > 0 for step in self.spacing):
            raise Error(f"A Volume's spacing is three lengths above zero in mm; found {self.spacing}.")

    def html(self, key: str) -> str:
        image, counterfactual = _finite(self.image), _finite(self.counterfactual)
        anomaly = np.nan_to_num(np.asarray(self.anomaly, dtype=np.float32), nan=0.0, posinf=self.vmax, neginf=0.0)
        head = _foreground(image) if self.head is None else np.asarray(self.head, dtype=bool)
        thresholded = None if self.threshold is None else anomaly >= self.threshold
        mask = thresholded if self.mask is None else np.asarray(self.mask, dtype=bool)
        truth = None if self.truth is None else np.asarray(self.truth, dtype=bool)
        low, high = self.window or _window(image, head, dark=head if self.head is not None else np.ones_like(head))
        scores = np.asarray(_mean_inside(anomaly, head) if self.scores is None else self.scores, dtype=float)
        scores = np.nan_to_num(scores, nan=0.0)
        extra = [""] * len(image) if self.labels is None else list(self.labels)
        labels = [f"Slice {number}{', ' if label else ''}{label}" for number, label in enumerate(extra, 1)]
        count = len(image)

        interest = head | (anomaly > 0.1 * self.vmax)
        for region in (mask, truth):
            interest = interest if region is None else interest | region
        rows, columns = _frame(interest)
        scale = min(1.0, self.side / max(rows.stop - rows.start, columns.stop - columns.start))
        wide = columns.stop - columns.start
        tall = (rows.stop - rows.start) * self.spacing[1] / self.spacing[2]
        box = f'viewBox="0 0 {wide} {tall:.6g}"'

        part = np.s_[:, rows, columns]
        parts = [
            *_stored(f"{key}i", [_png(_grey(one, low, high, scale)) for one in image[part]], wide, tall),
            *_stored(f"{key}c", [_png(_grey(one, low, high, scale)) for one in counterfactual[part]], wide, tall),
            *_stored(f"{key}m", [_overlay(one, self.vmax, scale) for one in anomaly[part]], wide, tall),
            *(_outlines(f"{key}k", "k", mask[part], tall) if mask is not None else ()),
            *(_outlines(f"{key}t", "t", truth[part], tall) if truth is not None else ()),
        ]

        def layers(letters: str, index: int) -> str:
            return "".join(
                f'<use class="{letter}" data-part="{letter}" href="#{key}{letter}{index}"/>' for letter in letters
            )

        def stage(letters: str, index: int, name: str) -> str:
            left, right, top, bottom = (escape(side) for side in self.sides)
            return (
                f'<div class="stage" data-name="{name}" style="aspect-ratio:{wide}/{tall:.6g}">'
                f'<svg {box} role="img" aria-label="{name}, {escape(labels[index])}">{layers(letters, index)}</svg>'
                f'<b class="l">{left}</b><b class="r">{right}</b><b class="a">{top}</b><b class="p">{bottom}</b></div>'
            )

        over = "m" + ("t" if truth is not None else "") + ("k" if mask is not None else "")
        hits = [mask is not None and bool(mask[index].any()) for index in range(count)]
        refs = [truth is not None and bool(truth[index].any()) for index in range(count)]
        start = int(scores.argmax()) if scores.any() else count // 2
        top_score = self.score_max or float(scores.max()) or 1.0
        bars = [min(1.0, max(0.0, float(score) / top_score)) for score in scores]
        marks = [(" hit" if hit else "") + (" ref" if ref else "") for hit, ref in zip(hits, refs, strict=True)]

        def said(index: int) -> str:
            return f"{escape(self.score_name)} {_number(scores[index], 3)}"

        scrub = "".join(
            f'<i class="{mark.strip()}" style="--v:{bar:.3f}"></i>' for bar, mark in zip(bars, marks, strict=True)
        )
        strip = "".join(
            f'<a class="thumb{marks[index]}" href="#{key}s{index}" data-k="{index}" '
            f'data-label="{escape(extra[index])}" data-score="{said(index)}" '
            f'title="{escape(labels[index])}, {said(index)}">'
            f'<svg {box} aria-hidden="true"><use href="#{key}i{index}"/><use href="#{key}m{index}"/></svg>'
            f'<i style="--v:{bars[index]:.3f}"></i><span>{index + 1}</span></a>'
            for index in range(count)
        )
        montage = "".join(
            f'<figure class="slice" id="{key}s{index}" data-k="{index}"><figcaption>{escape(labels[index])}'
            f'<span>{said(index)}</span></figcaption><div class="trio">'
            + stage("i", index, "Input")
            + stage("c", index, "Counterfactual")
            + stage("i" + over, index, "Anomaly map")
            + "</div></figure>"
            for index in range(count)
        )
        outlined = (
            [("k", "Outlined" if self.threshold is None else "At or above the threshold")] if mask is not None else []
        )
        reference = [("t", self.truth_name)] if truth is not None else []
        keys = "".join(f"<li>{_swatch(letter)}{escape(name)}</li>" for letter, name in outlined + reference)
        window = f"Window {_number(low)} to {_number(high)}, the same for input and counterfactual"
        shown = "" if scale == 1 else f" Shown reduced to {self.side} pixels; the files hold the full grid."
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return Template(_VOLUME).substitute(
            key=key,
            title=escape(self.title),
            note=note,
            parts="".join(parts),
            count=count,
            last=count - 1,
            start=start,
            first=start + 1,
            label=escape(extra[start]),
            said=said(start),
            flip=stage("ic", start, "Input"),
            counterfactual=stage("c", start, "Counterfactual"),
            map=stage("ic" + over, start, "Anomaly map"),
            outlines="" if keys else " hidden",
            scrub=scrub,
            score_name=escape(self.score_name),
            scale=_colour_bar(key, self.vmax, self.threshold, self.units),
            keys=f'<ul class="legend">{keys}</ul>' if keys else "",
            window=escape(window + "." + shown),
            bar_key=("Orange: slices with an outlined region. " if any(hits) else "")
            + (f"Green line: slices of {escape(self.truth_name)}." if any(refs) else ""),
            strip=strip,
            montage=montage,
            open=" open" if count <= _OPEN_MONTAGE else "",
        )


def write(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    run: Run,
    *,
    notice: str = "",
    next_step: str = "",
    footer: str = "",
) -> Path:
    """Write the report to `path` and return it. An existing file is replaced, whole or not at all.

    run: how it was made, shown in the last section. notice: stays in sight on screen and on every printed page; give
    RESEARCH_USE for anything medical. next_step: one line that says what to do now.
    """
    path = Path(path)
    template = (Path(__file__).with_name("report.html")).read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    every = [*sections, Section("How this was made", [run])]
    page = Template(template).substitute(
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        notice_css="".join(f"\\{ord(letter):x} " for letter in notice),
        title=escape(title),
        subtitle=f'<p class="lead">{escape(subtitle)}</p>' if subtitle else "",
        nav="".join(f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(every)),
        notice=f'<p class="notice">{escape(notice)}</p>' if notice else "",
        body="".join(_section(number, section) for number, section in enumerate(every)),
        next_step=(
            f'<aside class="next" aria-label="Next step"><h2>Next</h2><p>{escape(next_step)}</p></aside>'
            if next_step
            else ""
        ),
        footer=" ".join(f"<span>{escape(part)}</span>" for part in (footer, notice) if part),
    )
    with _replacing(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return path


# --- page -------------------------------------------------------------------------------------------------------


def _section(number: int, section: Section) -> str:
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    blocks = "".join(block.html(f"s{number}b{index}") for index, block in enumerate(section.blocks))
    return (
        f'<section id="s{number}" aria-labelledby="s{number}h"><h2 id="s{number}h">{escape(section.title)}</h2>{note}'
        f'<div class="blocks">{blocks}</div></section>'
    )


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when the block ends well and disappears when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _version() -> str:
    try:
        return metadata.version("diffgraft")
    except metadata.PackageNotFoundError:
        return "not installed"


_VOLUME = """\
<div class="block volume"><h3>$title</h3>$note
<svg class="parts" width="0" height="0" aria-hidden="true"><defs>$parts</defs></svg>
<div class="viewer" id="$key" hidden tabindex="0" role="group" aria-label="Slice viewer" aria-describedby="${key}h"
 data-start="$start" data-shown="input" data-map="on" data-outlines="on" data-large="">
<div class="tools"><p class="where" aria-live="polite"><strong>Slice $first of $count</strong>
<span class="label">$label</span> <span class="score">$said</span></p><div class="buttons">
<button type="button" data-do="flip" aria-pressed="false">Counterfactual <kbd>Space</kbd></button>
<button type="button" data-do="map" aria-pressed="true">Map <kbd>M</kbd></button>
<button type="button" data-do="outlines" aria-pressed="true"$outlines>Outlines <kbd>O</kbd></button>
<label class="strength">Opacity <input type="range" min="10" max="100" value="100" data-set="strength"></label>
<button type="button" data-do="large" aria-pressed="false">Enlarge <kbd>F</kbd></button></div></div>
<div class="panels">
<figure class="panel flip"><figcaption>Input</figcaption>$flip</figure>
<figure class="panel cf"><figcaption>Counterfactual (synthetic)</figcaption>$counterfactual</figure>
<figure class="panel map"><figcaption>Anomaly map</figcaption>$map</figure></div>
<div class="scrub" style="--n:$count"><div class="bars" aria-hidden="true">$scrub</div>
<input type="range" min="0" max="$last" value="$start" step="1" data-set="slice" aria-label="Slice"></div>
<p class="help" id="${key}h">Space flips between input and counterfactual.
Arrow keys, or the wheel over an image, change the slice. Click an image to enlarge it.</p></div>
<div class="strip" aria-label="All slices, $score_name" role="group">$strip</div>
<div class="keys">$scale$keys<p>$window Bars: $score_name. $bar_key</p></div>
<details class="montage"$open><summary>All $count slices: input, counterfactual, anomaly map</summary>
<div class="slices">$montage</div></details></div>"""


# --- text and numbers ---------------------------------------------------------------------------------------------


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def _plain(value: Any) -> str:
    """A value as a person writes it."""
    if _missing(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return _number(value)
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _number(value: float, digits: int = 4) -> str:
    """Four significant digits, no exponent where none is needed, a true minus sign."""
    return f"{float(value):.{digits}g}".replace("-", "−") if math.isfinite(value) else str(value)


def _leading(value: Any) -> float | None:
    """The number a cell starts with; None for one that starts with something else, or is empty."""
    if _missing(value) or isinstance(value, bool | np.bool_):
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
        text = escape(f"{value:.{decimals}f}".replace("-", "−") if fixed else _plain(value))
        shown.append(f"<strong>{text}</strong>" if best is not None and _leading(value) == best else text)
    return shown


# --- pictures -----------------------------------------------------------------------------------------------------


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _png(picture: Image.Image) -> str:
    return _uri(picture, "PNG", optimize=True)


def _colour(picture: Image.Image) -> str:
    return _png(picture) if picture.mode == "L" else _uri(picture, "WEBP", quality=92, method=5)


def _eight_bit(array: np.ndarray) -> np.ndarray:
    """[-1, 1] or boolean or uint8 to uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    return np.rint(np.clip(np.nan_to_num(array, nan=-1.0), -1, 1) * 127.5 + 127.5).astype(np.uint8)


def _picture(array: np.ndarray, side: int) -> Image.Image:
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3):
        array = array[0] if shape[0] == 1 else np.moveaxis(array, 0, -1)
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise Error(f"An image of a Sheet is (H, W), (1 or 3, H, W) or (H, W, 3); found {shape}.")
    picture = Image.fromarray(np.ascontiguousarray(_eight_bit(array)))
    return _reduced(picture, min(1.0, side / max(picture.size)), Image.Resampling.LANCZOS)


def _reduced(picture: Image.Image, scale: float, how: Image.Resampling) -> Image.Image:
    if scale == 1:
        return picture
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how)


def _finite(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, dtype=np.float32)
    good = np.isfinite(array)
    return array if good.all() else np.where(good, array, array[good].min() if good.any() else 0.0)


def _foreground(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.5, 99.5))
    return image > low + 0.1 * (high - low)


def _window(image: np.ndarray, head: np.ndarray, dark: np.ndarray) -> tuple[float, float]:
    """(low, high): from the darkest of `dark` to the brightest of the inner head; scalp fat would dim the brain."""
    inner = _eroded(head, round(0.07 * max(head.shape[1:])))
    kept = inner if inner.sum() > 0.05 * head.sum() else head
    low = float(np.percentile(image[dark] if dark.any() else image, 1.0))
    high = float(np.percentile(image[kept] if kept.any() else image, 99.7))
    high += 0.1 * (high - low)  # headroom: a bright lesion keeps its texture
    return (low, high) if high > low else (low, low + 1.0)


def _eroded(mask: np.ndarray, radius: int) -> np.ndarray:
    """Voxels whose whole square of 2 radius + 1 within the slice is in the mask."""
    size = 2 * radius + 1
    total = np.pad(mask, ((0, 0), (radius + 1, radius), (radius + 1, radius))).astype(np.int32).cumsum(1).cumsum(2)
    inside = total[:, size:, size:] - total[:, :-size, size:] - total[:, size:, :-size] + total[:, :-size, :-size]
    return inside == size * size


def _mean_inside(anomaly: np.ndarray, head: np.ndarray) -> list[float]:
    return [float(part[inside].mean()) if inside.any() else 0.0 for part, inside in zip(anomaly, head, strict=True)]


def _frame(interest: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold everything of interest in any slice, with a margin of 4 % of the image."""
    flat = interest.any(axis=0)
    spans = []
    for axis in (0, 1):
        size = flat.shape[axis]
        filled = np.flatnonzero(flat.any(axis=1 - axis))
        margin = math.ceil(0.04 * size)
        span = (max(0, filled[0] - margin), min(size, filled[-1] + 1 + margin)) if len(filled) else (0, size)
        spans.append(slice(int(span[0]), int(span[1])))
    return spans[0], spans[1]


def _grey(array: np.ndarray, low: float, high: float, scale: float) -> Image.Image:
    grey = np.rint(np.clip((array - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return _reduced(Image.fromarray(np.ascontiguousarray(grey)), scale, Image.Resampling.BOX)


def _lut() -> tuple[np.ndarray, np.ndarray]:
    """(levels, 3) colours and (levels,) opacities of the overlay, uint8. Level 0 is clear."""
    t = np.linspace(0, 1, _LEVELS)
    at = (0.18 + 0.82 * t) * (len(_INFERNO) - 1)  # without inferno's black, which would darken tissue
    colour = np.stack([np.interp(at, range(len(_INFERNO)), channel) for channel in _INFERNO.T], axis=1)
    return np.rint(colour).astype(np.uint8), np.rint(255 * 0.88 * t**0.9).astype(np.uint8)


def _overlay(anomaly: np.ndarray, vmax: float, scale: float) -> str:
    colour, opacity = _lut()
    level = np.rint(np.clip(anomaly / vmax, 0, 1) * (_LEVELS - 1)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(level))
    picture = _reduced(picture, scale, Image.Resampling.BOX)
    picture.putpalette(colour.tobytes())
    return _uri(picture, "PNG", optimize=True, transparency=opacity.tobytes())


def _stored(ident: str, uris: Sequence[str], wide: float, tall: float) -> list[str]:
    """Pictures that the page shows through <use>, so that each is in the file once."""
    size = f'width="{wide}" height="{tall:.6g}" preserveAspectRatio="none"'
    return [f'<image id="{ident}{index}" {size} href="{uri}"/>' for index, uri in enumerate(uris)]


def _outlines(ident: str, style: str, masks: np.ndarray, tall: float) -> list[str]:
    paths = [(index, _outline(mask)) for index, mask in enumerate(masks) if mask.any()]
    return [
        f'<g id="{ident}{index}" transform="scale(.5 {tall / masks.shape[1] / 2:.6g})">'
        f'<path class="halo" d="{path}"/><path class="{style}" d="{path}"/></g>'
        for index, path in paths
    ]


def _outline(mask: np.ndarray) -> str:
    """The borders of a region as an SVG path in half pixels, corners cut at the middle of their edges."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # The four sides of a pixel, walked clockwise: neighbour's offset, start and end from the pixel's corner.
    for (down, right), (r0, c0), (r1, c1) in (
        ((-1, 0), (0, 0), (0, 1)),
        ((0, 1), (0, 1), (1, 1)),
        ((1, 0), (1, 1), (1, 0)),
        ((0, -1), (1, 0), (0, 0)),
    ):
        height, width = mask.shape
        outside = ~padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        for r, c in np.argwhere(inside & outside).tolist():
            following.setdefault((r + r0, c + c0), []).append((r + r1, c + c1))
    path = []
    while following:
        here = next(iter(following))
        loop = []
        while here in following:
            ends = following[here]
            there = ends.pop()
            if not ends:
                del following[here]
            loop.append((here[1] + there[1], here[0] + there[0]))
            here = there
        path.append(_closed(loop))
    return "".join(path)


def _closed(points: list[tuple[int, int]]) -> str:
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(points, points[1:] + points[:1], strict=True)]
    merged: list[tuple[int, int]] = []
    last = None
    for step in steps:
        if step == last:
            merged[-1] = (merged[-1][0] + step[0], merged[-1][1] + step[1])
        else:
            merged.append(step)
        last = step
    return f"M{points[0][0]} {points[0][1]}l" + " ".join(f"{x} {y}" for x, y in merged[:-1]) + "z"


def _swatch(letter: str) -> str:
    return (
        f'<svg viewBox="0 0 26 8" width="26" height="8" aria-hidden="true"><path class="halo" d="M1 4h24"/>'
        f'<path class="{letter}" d="M1 4h24"/></svg>'
    )


def _colour_bar(key: str, vmax: float, threshold: float | None, units: str) -> str:
    colour, opacity = _lut()
    stops = "".join(
        f'<stop offset="{index / (_LEVELS - 1):.3f}" stop-color="rgb({r},{g},{b})" stop-opacity="{alpha / 255:.2f}"/>'
        for index, ((r, g, b), alpha) in enumerate(zip(colour.tolist(), opacity.tolist(), strict=True))
        if index % 7 == 0
    )
    mark = ""
    if threshold is not None:
        at = 8 + 224 * min(1.0, max(0.0, threshold / vmax))
        anchor, x = (
            ("start", max(8.0, at - 30)) if at < 60 else ("end", min(232.0, at + 30)) if at > 180 else ("middle", at)
        )
        mark = (
            f'<path class="mark" d="M{at:.1f} 15v18"/>'
            f'<text class="mark" x="{x:.1f}" y="10" text-anchor="{anchor}">threshold {_number(threshold, 3)}</text>'
        )
    said = f"Colour scale of the map in {units}, 0 to {_number(vmax, 3)}"
    said += "" if threshold is None else f", threshold {_number(threshold, 3)}"
    return (
        f'<svg class="scale" viewBox="0 0 240 50" width="240" height="50" role="img" aria-label="{escape(said)}">'
        f'<defs><linearGradient id="{key}g">{stops}</linearGradient></defs>'
        f'<rect class="under" x="8" y="18" width="224" height="12"/>'
        f'<rect x="8" y="18" width="224" height="12" fill="url(#{key}g)"/>{mark}'
        f'<text x="8" y="45">0</text><text x="120" y="45" text-anchor="middle">{escape(units)}</text>'
        f'<text x="232" y="45" text-anchor="end">{_number(vmax, 3)}</text></svg>'
    )


# --- curves -------------------------------------------------------------------------------------------------------


def _drawable(points: Sequence[tuple[float, float]], log_x: bool, log_y: bool) -> np.ndarray:
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


def _axis(values: np.ndarray, log: bool, tight: bool) -> tuple[float, float, list[tuple[float, str]]]:
    """(low, high, [(position, label)]) in axis units."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    if log:
        decades = range(math.floor(low), math.ceil(high) + 1)
        step = max(1, len(decades) // 6)
        low, high = (low, high) if tight else (math.floor(low * 5) / 5, math.ceil(high * 5) / 5)
        ticks = [(float(d), _power(d)) for d in decades[::step] if low <= d <= high]
        if len(ticks) < 4 and step == 1:  # few decades in sight: 1, 2, 5
            fine = [(d + math.log10(m), _number(m * 10.0**d)) for d in decades for m in (1, 2, 5)]
            ticks = [tick for tick in fine if low <= tick[0] <= high] or ticks
        return low, high, ticks
    step = _nice((high - low) / 5)
    if not tight:
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, [(k * step, _number(k * step)) for k in range(first, last + 1)]


def _nice(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _power(exponent: int) -> str:
    return _number(10.0**exponent) if -3 <= exponent <= 3 else "10" + str(exponent).translate(_RAISED)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _polyline(x: np.ndarray, y: np.ndarray) -> str:
    path, pen = [], "M"
    for across, down in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(across) and math.isfinite(down):
            path.append(f"{pen}{across:.1f} {down:.1f}{'h0' if pen == 'M' else ''}")  # h0: a lone point is a dot
            pen = "L"
        else:
            pen = "M"
    return "".join(path)
