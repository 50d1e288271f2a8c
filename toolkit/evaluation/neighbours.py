"""The nearest of many reference images by three measures, coarse to fine. Numpy only, nothing random.

    ncc      normalised cross-correlation of the whole images over flips, shifts and slight crops; without the crops it is
             that of memorization.nearest_ncc
    cosine   of the features of an embedding, less the mean of the references, over flips of the query
    ssim     structural similarity of the two images as the ncc laid them over each other

Thumbnails and features are compared with every reference, by matrix products, so the cosine is exact. The TOP nearest of
each are laid over the query at half resolution, and the FINEST of these at full resolution, where the SSIM is measured
too. What falls out on the way cannot be found; the planted copies of an audit measure that. Memory is a quarter of the
references in half precision, and what CELLS bounds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft

from toolkit.evaluation.similarity import WINDOW, ssim
from toolkit.example import Error

__all__ = ["COSINE", "NCC", "SSIM", "Embed", "Gallery", "Neighbours"]

Embed = Callable[[np.ndarray], np.ndarray]
"""Images (n, C, H, W) -> features (n, D)."""

NCC, COSINE, SSIM = "ncc", "cosine", "ssim"

THUMBNAIL = 12
"""Longer side of a thumbnail in pixels."""

CROP, CORNERS = 0.92, ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
"""References have thumbnails of crops, too: with that of the whole alone, coffee leaves cropped by 5 to 10% of a side
found their own source as their 160th nearest of 726; with these it is among the first two."""

HALVED = 32
"""Shorter side from which the middle step works at half resolution; smaller images are compared as they are."""

TOP, FINEST = (48, 8), 4
"""References listed by thumbnail and by features, and those of them that are compared at full resolution."""

ZOOMS = (1.0, 0.95, 0.935, 0.92, 0.905)
"""Parts of a side that the query may show of the reference: a copy that is cropped by some percent and resized back fits
no place at scale 1 (of 300 coffee leaves cropped to 90 to 95%, 299 are found with this and one in five without)."""

BATCH, CELLS = 64, 2**23
"""Queries at once, and entries of the largest matrix of similarities that is held."""


@dataclass(frozen=True)
class Neighbours:
    """Similarity (n, measures) and index (n, measures) of the nearest reference by each measure."""

    measures: tuple[str, ...]
    similarity: np.ndarray
    index: np.ndarray

    def column(self, measure: str) -> np.ndarray:
        """(n,): the similarities by one measure."""
        return self.similarity[:, self.measures.index(measure)]


class Gallery:
    """Reference images, prepared once to be searched many times.

    images (m, C, H, W): an array or anything that is sliced and indexed like one, a memory map or half precision
    included. flips: whether a left-right and an up-down mirror image count as the same. shifts: pixels. zooms: see ZOOMS.
    embed None: without the cosine. watch(done) is called with the number of references prepared.
    """

    def __init__(
        self,
        images: Any,
        embed: Embed | None = None,
        flips: tuple[bool, bool] = (True, False),
        shifts: int = 4,
        zooms: tuple[float, ...] = ZOOMS,
        watch: Callable[[int], object] = lambda _: None,
    ) -> None:
        if len(images.shape) != 4 or not len(images):
            raise Error(f"References are one or more images (M, C, H, W); found shape {images.shape}. Give some.")
        if shifts < 0 or min(images.shape[2:]) - 2 * shifts < WINDOW:
            raise Error(
                f"Shifts leave at least {WINDOW} x {WINDOW} pixels to compare; found {shifts} for {images.shape[2:]}. "
                "Take fewer."
            )
        self.images, self.embed, self.shifts, self.zooms = images, embed, shifts, zooms
        self.measures = (NCC, COSINE, SSIM) if embed else (NCC, SSIM)
        self.views = tuple(itertools.product(*((False, True) if flip else (False,) for flip in flips)))
        self.factor = 2 if min(images.shape[2:]) >= HALVED else 1
        self.halved = images
        thumbnails, features, halved = [], [], []
        for first in range(0, len(images), 256):
            chunk = _single(images[first : first + 256])
            thumbnails.append(np.stack([_thumbnails(chunk), *(_thumbnails(_corner(chunk, at)) for at in CORNERS)]))
            if self.factor > 1:
                halved.append(_shrunk(chunk, 1 / self.factor).astype(np.float16))
            if embed:
                features.append(_features(embed, chunk))
            watch(min(first + 256, len(images)))
        self.thumbnails = np.concatenate(thumbnails, 1)
        if halved:
            self.halved = np.concatenate(halved)
        if embed:
            # Features behind a rectifier all point the same way; about their mean the cosine tells them apart.
            self.mean = np.concatenate(features).mean(0)
            self.features = _normalised(np.concatenate(features) - self.mean)

    def nearest(self, queries: Any, watch: Callable[[int], object] = lambda _: None) -> Neighbours:
        """The nearest reference of each query (n, C, H, W). watch(done) is called with the queries done.

        Errors: queries of another shape than the references.
        """
        if queries.shape[1:] != self.images.shape[1:]:
            raise Error(
                f"Images are compared with references of their own shape {tuple(self.images.shape[1:])}; found "
                f"{tuple(queries.shape[1:])}. Prepare both with the same size."
            )
        size = max(1, min(BATCH, CELLS // (len(self.views) * len(self.images))))
        similarity, index = [], []
        for first in range(0, len(queries), size):
            for values, places in self._batch(_single(queries[first : first + size])):
                similarity.append(values)
                index.append(places)
            watch(len(index))
        shape = (-1, len(self.measures))
        return Neighbours(
            self.measures, np.array(similarity, np.float32).reshape(shape), np.array(index, int).reshape(shape)
        )

    def _batch(self, queries: np.ndarray) -> Iterator[tuple[list[float], list[int]]]:
        """Similarities and indices of the nearest, measure by measure, for one query after the other."""
        n, m = len(queries), len(self.images)
        views = np.stack([queries[..., :: -1 if down else 1, :: -1 if across else 1] for across, down in self.views])
        flat = views.reshape(-1, *queries.shape[1:])
        small = _thumbnails(flat)
        coarse = functools.reduce(np.maximum, (small @ crop.T for crop in self.thumbnails)).reshape(-1, n, m)
        turned, coarse = coarse.argmax(0), coarse.max(0)
        listed, cosine = _top(coarse, TOP[0]), None
        if self.embed:
            cosine = (_normalised(_features(self.embed, flat) - self.mean) @ self.features.T).reshape(-1, n, m).max(0)
            listed = np.concatenate([listed, _top(cosine, TOP[1])], 1)
        for k in range(n):
            near = np.unique(listed[k])
            view = turned[k, near]
            half, zoom = self._halfway(views[:, k], view, near)
            order = np.argsort(-half, kind="stable")[:FINEST]
            if cosine is not None:
                order = np.union1d(order, np.flatnonzero(near == cosine[k].argmax()))
            near = near[order]
            values = [self._finely(views[view[i], k], self.zooms[zoom[i]], r) for i, r in zip(order, near, strict=True)]
            best = [(max(each), near[int(np.argmax(each))]) for each in zip(*values, strict=True)]
            if cosine is not None:
                best.insert(1, (cosine[k].max(), cosine[k].argmax()))
            yield [float(value) for value, _ in best], [int(place) for _, place in best]

    def _halfway(self, views: np.ndarray, view: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """NCC at half resolution of one query with some references, (p,), and the index of the zoom that has it."""
        small = _shrunk(views, 1 / self.factor) if self.factor > 1 else views
        ground = _Ground.of(_single(self.halved[near]))
        shifts = -(-self.shifts // self.factor)
        found = [ground.correlation(_template(small, zoom, shifts), view).max((1, 2)) for zoom in self.zooms]
        return np.max(found, 0), np.argmax(found, 0)

    def _finely(self, query: np.ndarray, zoom: float, reference: int) -> tuple[float, float]:
        """NCC and SSIM of one pair at full resolution."""
        template, image = _template(query[None], zoom, self.shifts), _single(self.images[reference])
        value = _Ground.of(image[None]).correlation(template, np.zeros(1, int))[0]
        y, x = np.unravel_index(value.argmax(), value.shape)
        below = image[:, y : y + template.shape[2], x : x + template.shape[3]]
        return float(value[y, x]), float(ssim(template, below[None])[0])


@dataclass(frozen=True)
class _Ground:
    """References (p, C, H, W) that templates are laid over: spectra, and tables of sums to any place."""

    side: tuple[int, int]
    spectrum: np.ndarray
    total: np.ndarray
    square: np.ndarray
    floor: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> _Ground:
        # Less their mean and in double precision: the norm under a template is a small difference of large sums.
        level = images - images.mean((1, 2, 3), keepdims=True)
        total, square = (_table(plane) for plane in (level.sum(1), (level**2).sum(1)))
        side = (images.shape[2], images.shape[3])
        return cls(
            side,
            np.asarray(fft.rfft2(level)),
            total,
            square,
            np.abs(images).max((1, 2, 3), initial=1e-30)[:, None, None],
        )

    def correlation(self, templates: np.ndarray, pick: np.ndarray) -> np.ndarray:
        """NCC of templates[pick] (p, C, h, w), each with its own reference, at every place (p, H - h + 1, W - w + 1).

        All places at once, by the correlation theorem; a template lies within its reference, so that none wraps round.
        """
        height, width = templates.shape[2:]
        level = templates - templates.mean((1, 2, 3), keepdims=True)
        norm = np.sqrt((level**2).sum((1, 2, 3)))[pick, None, None]
        spectrum = (np.conj(np.asarray(fft.rfft2(level, self.side)))[pick] * self.spectrum).sum(1)
        product = np.asarray(fft.irfft2(spectrum, self.side))[
            :, : self.side[0] - height + 1, : self.side[1] - width + 1
        ]
        pixels = templates[0].size
        under = np.sqrt(
            np.maximum(_under(self.square, height, width) - _under(self.total, height, width) ** 2 / pixels, 0)
        )
        # What rounding leaves of a constant image is no structure.
        flat = (under <= 1e-5 * np.sqrt(pixels) * self.floor) | (norm <= 1e-5 * np.sqrt(pixels))
        return np.clip(np.where(flat, 0, product / np.where(flat, 1, norm * under)), -1, 1)


def _table(plane: np.ndarray) -> np.ndarray:
    return np.pad(plane.astype(np.float64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))


def _under(table: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sum under a window at every place."""
    down = table[:, height:] - table[:, :-height]
    return down[:, :, width:] - down[:, :, :-width]


def _template(images: np.ndarray, zoom: float, shifts: int) -> np.ndarray:
    """What is laid over a reference: the image less a border of `shifts`, or all of it at the scale of the reference."""
    if zoom < 1:
        return _shrunk(images, zoom)
    height, width = images.shape[2:]
    return images[..., shifts : height - shifts, shifts : width - shifts]


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Images of at most THUMBNAIL along the longer side, as rows of mean 0 and norm 1."""
    rows = _shrunk(images, min(1.0, THUMBNAIL / max(images.shape[2:]))).reshape(len(images), -1)
    return _normalised(rows - rows.mean(1, keepdims=True))


def _corner(images: np.ndarray, at: tuple[float, float]) -> np.ndarray:
    """A part of images, CROP of each side, `at` 0 to 1 of the way down and to the right."""
    height, width = images.shape[2:]
    rows, columns = round(height * CROP), round(width * CROP)
    top, left = round(at[0] * (height - rows)), round(at[1] * (width - columns))
    return images[..., top : top + rows, left : left + columns]


def _shrunk(images: np.ndarray, scale: float) -> np.ndarray:
    height, width = images.shape[2:]
    return _area(max(1, round(height * scale)), height) @ images @ _area(max(1, round(width * scale)), width).T


@functools.cache
def _area(small: int, large: int) -> np.ndarray:
    """(small, large): each output pixel is the mean of the input that it covers."""
    edges = np.arange(small + 1) * large / small
    covered = np.minimum(edges[1:, None], np.arange(1, large + 1)) - np.maximum(edges[:-1, None], np.arange(large))
    return (covered.clip(0) * small / large).astype(np.float32)


def _normalised(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norm > 1e-6, rows / np.maximum(norm, 1e-6), 0).astype(np.float32)


def _features(embed: Embed, images: np.ndarray) -> np.ndarray:
    features = np.asarray(embed(np.ascontiguousarray(images)), np.float32)
    if features.ndim != 2 or len(features) != len(images) or not np.isfinite(features).all():
        raise Error(
            f"An embedding answers one row of finite features an image; found shape {features.shape} for {len(images)}. "
            "Take another feature network."
        )
    return features


def _top(similarity: np.ndarray, count: int) -> np.ndarray:
    """(n, count): where the largest of each row are, in no order."""
    count = min(count, similarity.shape[1])
    return np.argpartition(similarity, -count, axis=1)[:, -count:]


def _single(images: Any) -> np.ndarray:
    return np.asarray(images, np.float32)
