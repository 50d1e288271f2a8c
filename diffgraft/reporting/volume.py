"""A scan slice by slice: input, counterfactual and anomaly map, with a viewer in the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from diffgraft.reporting.axes import legend
from diffgraft.reporting.block import format_number
from diffgraft.reporting.picture import data_uri, encode, reduce
from diffgraft.reporting.slices import (
    LEVELS,
    colour_map,
    display_window,
    finite,
    foreground,
    frame,
    mean_inside,
    outline_path,
)  # fmt: skip
from toolkit.example import Error

__all__ = ["Volume"]

_TEMPLATE = Path(__file__).with_name("volume.html")
_OPEN_MONTAGE = 48  # slices; a longer montage starts folded


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
        image, counterfactual = finite(self.image), finite(self.counterfactual)
        anomaly = np.nan_to_num(np.asarray(self.anomaly, dtype=np.float32), nan=0.0, posinf=self.vmax, neginf=0.0)
        head = foreground(image) if self.head is None else np.asarray(self.head, dtype=bool)
        thresholded = None if self.threshold is None else anomaly >= self.threshold
        mask = thresholded if self.mask is None else np.asarray(self.mask, dtype=bool)
        truth = None if self.truth is None else np.asarray(self.truth, dtype=bool)
        low, high = self.window or display_window(
            image, head, dark=head if self.head is not None else np.ones_like(head)
        )
        scores = np.asarray(mean_inside(anomaly, head) if self.scores is None else self.scores, dtype=float)
        scores = np.nan_to_num(scores, nan=0.0)

        interest = head | (anomaly > 0.1 * self.vmax)
        for region in (mask, truth):
            interest = interest if region is None else interest | region
        rows, columns = frame(interest)
        scale = min(1.0, self.side / max(rows.stop - rows.start, columns.stop - columns.start))
        wide = columns.stop - columns.start
        tall = (rows.stop - rows.start) * self.spacing[1] / self.spacing[2]
        part = np.s_[:, rows, columns]
        parts = [
            *_stored(f"{key}i", [encode(_grey(one, low, high, scale)) for one in image[part]], wide, tall),
            *_stored(f"{key}c", [encode(_grey(one, low, high, scale)) for one in counterfactual[part]], wide, tall),
            *_stored(f"{key}m", [_overlay(one, self.vmax, scale) for one in anomaly[part]], wide, tall),
            *(_outlines(f"{key}k", "k", mask[part], tall) if mask is not None else ()),
            *(_outlines(f"{key}t", "t", truth[part], tall) if truth is not None else ()),
        ]

        count = len(image)
        hits = [mask is not None and bool(mask[index].any()) for index in range(count)]
        refs = [truth is not None and bool(truth[index].any()) for index in range(count)]
        top_score = self.score_max or float(scores.max()) or 1.0
        view = _View(
            key=key,
            size=(wide, tall),
            over="m" + ("t" if truth is not None else "") + ("k" if mask is not None else ""),
            labels=[""] * count if self.labels is None else list(self.labels),
            scores=[f"{escape(self.score_name)} {format_number(score, 3)}" for score in scores],
            bars=[min(1.0, max(0.0, float(score) / top_score)) for score in scores],
            marks=[(" hit" if hit else "") + (" ref" if ref else "") for hit, ref in zip(hits, refs, strict=True)],
            sides=self.sides,
        )
        start = int(scores.argmax()) if scores.any() else count // 2
        outlined = [("k", "Outlined" if self.threshold is None else "At or above the threshold")] * (mask is not None)
        reference = [("t", self.truth_name)] * (truth is not None)
        keys = legend(
            (f'<path class="halo" d="M1 4h24"/><path class="{letter}" d="M1 4h24"/>', name)
            for letter, name in outlined + reference
        )
        window = f"Window {format_number(low)} to {format_number(high)}, the same for input and counterfactual."
        window += "" if scale == 1 else f" Shown reduced to {self.side} pixels; the files hold the full grid."
        return Template(_TEMPLATE.read_text(encoding="utf-8").rstrip("\n")).substitute(
            key=key,
            title=escape(self.title),
            note=f'<p class="note">{escape(self.note)}</p>' if self.note else "",
            parts="".join(parts),
            count=count,
            last=count - 1,
            start=start,
            first=start + 1,
            label=escape(view.labels[start]),
            score=view.scores[start],
            flip=view.stage("ic", start, "Input"),
            counterfactual=view.stage("c", start, "Counterfactual"),
            map=view.stage("ic" + view.over, start, "Anomaly map"),
            outlines="" if keys else " hidden",
            scrub=view.scrub(),
            score_name=escape(self.score_name),
            scale=_colour_bar(key, self.vmax, self.threshold, self.units),
            keys=keys,
            window=escape(window),
            bar_key=("Orange: slices with an outlined region. " if any(hits) else "")
            + (f"Green line: slices of {escape(self.truth_name)}." if any(refs) else ""),
            strip=view.strip(),
            montage=view.montage(),
            open=" open" if count <= _OPEN_MONTAGE else "",
        )


@dataclass(frozen=True)
class _View:
    """The slices as they are shown. size: width and height of a slice. over: letters of the layers over the input.

    labels, scores (as HTML), bars (0 to 1) and marks (classes of the bar): one a slice.
    """

    key: str
    size: tuple[float, float]
    over: str
    labels: Sequence[str]
    scores: Sequence[str]
    bars: Sequence[float]
    marks: Sequence[str]
    sides: tuple[str, str, str, str]

    @property
    def box(self) -> str:
        return f'viewBox="0 0 {self.size[0]} {self.size[1]:.6g}"'

    def name(self, index: int) -> str:
        label = self.labels[index]
        return escape(f"Slice {index + 1}{', ' if label else ''}{label}")

    def stage(self, letters: str, index: int, name: str) -> str:
        """One picture: layers over each other, with the sides of the patient."""
        left, right, top, bottom = (escape(side) for side in self.sides)
        layers = "".join(
            f'<use class="{letter}" data-part="{letter}" href="#{self.key}{letter}{index}"/>' for letter in letters
        )
        return (
            f'<div class="stage" data-name="{name}" style="aspect-ratio:{self.size[0]}/{self.size[1]:.6g}">'
            f'<svg {self.box} role="img" aria-label="{name}, {self.name(index)}">{layers}</svg>'
            f'<b class="l">{left}</b><b class="r">{right}</b><b class="a">{top}</b><b class="p">{bottom}</b></div>'
        )

    def scrub(self) -> str:
        """The bars over the slider."""
        return "".join(
            f'<i class="{mark.strip()}" style="--v:{bar:.3f}"></i>'
            for bar, mark in zip(self.bars, self.marks, strict=True)
        )

    def strip(self) -> str:
        """A thumbnail a slice, with its bar."""
        return "".join(
            f'<a class="thumb{self.marks[index]}" href="#{self.key}s{index}" data-k="{index}" '
            f'data-label="{escape(label)}" data-score="{self.scores[index]}" '
            f'title="{self.name(index)}, {self.scores[index]}">'
            f'<svg {self.box} aria-hidden="true"><use href="#{self.key}i{index}"/>'
            f'<use href="#{self.key}m{index}"/></svg>'
            f'<i style="--v:{self.bars[index]:.3f}"></i><span>{index + 1}</span></a>'
            for index, label in enumerate(self.labels)
        )

    def montage(self) -> str:
        """Input, counterfactual and map of every slice, for print and without a script."""
        return "".join(
            f'<figure class="slice" id="{self.key}s{index}" data-k="{index}"><figcaption>{self.name(index)}'
            f'<span>{self.scores[index]}</span></figcaption><div class="trio">'
            + self.stage("i", index, "Input")
            + self.stage("c", index, "Counterfactual")
            + self.stage("i" + self.over, index, "Anomaly map")
            + "</div></figure>"
            for index in range(len(self.labels))
        )


def _grey(array: np.ndarray, low: float, high: float, scale: float) -> Image.Image:
    grey = np.rint(np.clip((array - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return reduce(Image.fromarray(np.ascontiguousarray(grey)), scale, Image.Resampling.BOX)


def _overlay(anomaly: np.ndarray, vmax: float, scale: float) -> str:
    colour, opacity = colour_map()
    level = np.rint(np.clip(anomaly / vmax, 0, 1) * (LEVELS - 1)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(level))
    picture = reduce(picture, scale, Image.Resampling.BOX)
    picture.putpalette(colour.tobytes())
    return data_uri(picture, "PNG", optimize=True, transparency=opacity.tobytes())


def _stored(ident: str, uris: Sequence[str], wide: float, tall: float) -> list[str]:
    """Pictures that the page shows through <use>, so that each is in the file once."""
    size = f'width="{wide}" height="{tall:.6g}" preserveAspectRatio="none"'
    return [f'<image id="{ident}{index}" {size} href="{uri}"/>' for index, uri in enumerate(uris)]


def _outlines(ident: str, style: str, masks: np.ndarray, tall: float) -> list[str]:
    paths = [(index, outline_path(mask)) for index, mask in enumerate(masks) if mask.any()]
    return [
        f'<g id="{ident}{index}" transform="scale(.5 {tall / masks.shape[1] / 2:.6g})">'
        f'<path class="halo" d="{path}"/><path class="{style}" d="{path}"/></g>'
        for index, path in paths
    ]


def _colour_bar(key: str, vmax: float, threshold: float | None, units: str) -> str:
    colour, opacity = colour_map()
    stops = "".join(
        f'<stop offset="{index / (LEVELS - 1):.3f}" stop-color="rgb({r},{g},{b})" stop-opacity="{alpha / 255:.2f}"/>'
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
            f'<text class="mark" x="{x:.1f}" y="10" text-anchor="{anchor}">threshold {format_number(threshold, 3)}</text>'
        )
    label = f"Colour scale of the map in {units}, 0 to {format_number(vmax, 3)}"
    label += "" if threshold is None else f", threshold {format_number(threshold, 3)}"
    return (
        f'<svg class="scale" viewBox="0 0 240 50" width="240" height="50" role="img" aria-label="{escape(label)}">'
        f'<defs><linearGradient id="{key}g">{stops}</linearGradient></defs>'
        f'<rect class="under" x="8" y="18" width="224" height="12"/>'
        f'<rect x="8" y="18" width="224" height="12" fill="url(#{key}g)"/>{mark}'
        f'<text x="8" y="45">0</text><text x="120" y="45" text-anchor="middle">{escape(units)}</text>'
        f'<text x="232" y="45" text-anchor="end">{format_number(vmax, 3)}</text></svg>'
    )
