"""How near images come to the images a model was trained on, and which of them are copies. Numpy only.

A model of few images repeats some of them: 68.7% of the samples of small medical models did in Dar et al. 2024,
arXiv:2402.01054. What is near is no copy yet: images of one kind resemble one another, and how much is measured on real
images that the model has not seen. Three measures (toolkit.evaluation.neighbours) each have the threshold that one in a
thousand of these exceeds; an image that exceeds one of them is a copy.

Three chances to be wrong are more than one, and with fewer than 1,000 held-out images the threshold is their largest
value, which the next one exceeds with probability 1 / (n + 1) a measure. So the rate of copies stands beside the rate at
which the same rule, all three measures together, calls a held-out image a copy that the thresholds have not seen.

Whether the search finds copies at all is measured, too: images planted in it, changed as a copy may be. An audit that
misses more than one in a hundred of them is invalid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from toolkit.evaluation.neighbours import NCC, Embed, Gallery, Neighbours
from toolkit.example import Error

__all__ = [
    "LEVEL",
    "LOWER",
    "RECALL",
    "Audit",
    "CopyCheck",
    "Rate",
    "Reference",
    "audit",
    "nearest_ncc",
    "planted_copies",
]

LEVEL, LOWER = 0.999, 0.95
"""Part of the held-out images below the threshold of a copy, and below the lower one, for which few of them suffice."""

RECALL = 0.99
"""Part of the planted copies that a valid audit finds."""

MARGIN = 1e-4
"""By how much a copy exceeds a threshold: the size of a batch moves the last digits of a matrix product."""

_CHUNK = 512


@dataclass(frozen=True)
class Rate:
    """`count` of `of`, with the 95% interval of Wilson 1927; undefined is None."""

    count: int
    of: int

    @property
    def value(self) -> float | None:
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        if not self.of:
            return None
        z, n, p = 1.959964, self.of, self.count / self.of
        middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return max(0.0, (middle - half) / (1 + z**2 / n)), min(1.0, (middle + half) / (1 + z**2 / n))

    def __str__(self) -> str:
        if self.interval is None:
            return "none"
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"


class CopyCheck(NamedTuple):
    """copy (n,): which images are copies; ncc (n,): their largest correlation with a training image."""

    copy: np.ndarray
    ncc: np.ndarray


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    fake, held_out: the nearest training image of each. copy (n,): whether a fake image is one. thresholds, lower:
    measure -> the 99.9th (or the largest) and the 95th percentile of the held-out images. resolution: 1 / held-out
    images, the finest step of a rate that they can tell.
    copies: rate of copies. mistaken: rate of held-out images that the rule calls copies, each against thresholds
    found without it.
    above: measure or "any" -> rate of fake and of held-out images above the lower threshold.
    planted: kind -> rate of planted copies found.
    """

    fake: Neighbours
    held_out: Neighbours
    copy: np.ndarray
    thresholds: Mapping[str, float]
    lower: Mapping[str, float]
    resolution: float
    copies: Rate
    mistaken: Rate
    above: Mapping[str, tuple[Rate, Rate]]
    planted: Mapping[str, Rate]

    @property
    def recall(self) -> Rate:
        """Of all kinds of planted copies together."""
        return Rate(sum(each.count for each in self.planted.values()), sum(each.of for each in self.planted.values()))

    @property
    def valid(self) -> bool:
        return (self.recall.value or 0) >= RECALL

    @property
    def nearness(self) -> np.ndarray:
        """(n,): how far each fake image is on the way from the median held-out one (0) to a threshold (1), at most."""
        return self._way.max(1)

    @property
    def nearest(self) -> np.ndarray:
        """(n,): the training image of each fake one by the measure that comes farthest on that way."""
        return self.fake.index[np.arange(len(self.copy)), self._way.argmax(1)]

    @property
    def _way(self) -> np.ndarray:
        middle = np.median(self.held_out.similarity, axis=0)
        limits = np.array([self.thresholds[measure] for measure in self.fake.measures])
        return (self.fake.similarity - middle) / np.maximum(limits - middle, MARGIN)


class Reference:
    """What a copy is measured against: the training images, and thresholds from held-out ones. Built once.

    train (M, C, H, W), held_out (n, C, H, W): arrays or what is indexed like them, in [-1, 1]. embed: features of the
    domain; None leaves that measure out. flips: whether left-right and up-down mirror images count as copies.
    watch(text, done, of) is called as it goes. Errors: fewer than two held-out images, images of two shapes.
    """

    def __init__(
        self,
        train: Any,
        held_out: Any,
        embed: Embed | None = None,
        flips: tuple[bool, bool] = (True, False),
        shifts: int = 4,
        watch: Callable[[str, int, int], object] = lambda *_: None,
    ) -> None:
        if len(held_out) < 2:
            raise Error(f"An audit needs held-out real images, two or more; found {len(held_out)}. Keep some back.")
        self.watch, self.train, self.flips = watch, train, flips
        self.gallery = Gallery(train, embed, flips, shifts, watch=self._counted("training images", len(train)))
        self.held_out = self.nearest(held_out, "held-out images")
        self.limits = _percentile(self.held_out.similarity, LEVEL)
        self.lower = _percentile(self.held_out.similarity, LOWER)

    @property
    def measures(self) -> tuple[str, ...]:
        return self.gallery.measures

    def nearest(self, images: Any, text: str = "images") -> Neighbours:
        """The nearest training image of each image (n, C, H, W) by each measure."""
        return self.gallery.nearest(images, self._counted(text, len(images)))

    def exceeds(self, found: Neighbours) -> np.ndarray:
        """(n,): which of the images searched for are copies."""
        return np.any(found.similarity > self.limits + MARGIN, 1)

    def compare(self, images: Any) -> CopyCheck:
        """Which images (n, C, H, W) are copies of training images, and how near they come."""
        found = self.nearest(images)
        return CopyCheck(self.exceeds(found), found.column(NCC))

    def is_copy(self, images: Any) -> np.ndarray:
        """(n,): which images are copies of training images."""
        return self.compare(images).copy

    def _counted(self, text: str, of: int) -> Callable[[int], object]:
        return lambda done: self.watch(text, done, of)


def audit(reference: Reference, fake: Any, plant: int = 100, seed: int = 0) -> Audit:
    """Which of the fake images (n, C, H, W) are copies of training images, and whether copies would have been found.

    plant: planted copies of each kind, of as many training images drawn by `seed`. Errors: no fake image.
    """
    if not len(fake):
        raise Error("An audit needs one or more images to judge; found none. Give the folder of generated images.")
    found = reference.nearest(fake, "fake images")
    copy = reference.exceeds(found)
    planted = {}
    for kind, images in planted_copies(reference.train, reference.flips, plant, seed).items():
        caught = reference.exceeds(reference.nearest(images, f"planted: {kind}"))
        planted[kind] = Rate(int(caught.sum()), len(caught))
    real = reference.held_out.similarity
    fakes, reals = found.similarity > reference.lower + MARGIN, real > reference.lower
    names = (*reference.measures, "any")
    counts = [np.concatenate([each, each.any(1, keepdims=True)], 1).sum(0) for each in (fakes, reals)]
    return Audit(
        fake=found,
        held_out=reference.held_out,
        copy=copy,
        thresholds=dict(zip(reference.measures, reference.limits.tolist(), strict=True)),
        lower=dict(zip(reference.measures, reference.lower.tolist(), strict=True)),
        resolution=1 / len(real),
        copies=Rate(int(copy.sum()), len(copy)),
        mistaken=Rate(int(_exceeds_the_others(real, LEVEL).any(1).sum()), len(real)),
        above={
            name: (Rate(int(f), len(fakes)), Rate(int(r), len(reals)))
            for name, f, r in zip(names, *counts, strict=True)
        },
        planted=planted,
    )


def planted_copies(train: Any, flips: tuple[bool, bool], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Copies to plant: kind -> changed training images (n, C, H, W) in [-1, 1], n at most `count`.

    Exact; mirrored as far as `flips` allows; 5% darker and brighter; a crop of 90 to 95% of each side at a random
    place, resized back; noise of standard deviation 0.02 to 0.05 of the range 0..1.
    """
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(train), min(count, len(train)), replace=False))
    images = np.asarray(train[chosen], np.float32)
    sides = random.uniform(0.9, 0.95, len(images))
    places = random.uniform(0, 1, (len(images), 2))
    spread = random.uniform(0.02, 0.05, (len(images), 1, 1, 1)).astype(np.float32)
    kinds = {
        "exact": images,
        "5% darker": (images + 1) * 0.95 - 1,
        "5% brighter": (images + 1) * 1.05 - 1,
        "crop": np.stack([_zoomed(*each) for each in zip(images, sides, places, strict=True)]),
        "noise": images + 2 * spread * random.standard_normal(images.shape, np.float32),
    }
    if flips[0]:
        kinds["left-right"] = images[..., ::-1]
    if flips[1]:
        kinds["up-down"] = images[..., ::-1, :]
    return {kind: np.clip(planted, -1, 1) for kind, planted in kinds.items()}


def nearest_ncc(queries: np.ndarray, references: np.ndarray, shifts: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """The reference most like each query, under left-right flips and shifts of up to `shifts` pixels.

    queries (N, C, H, W), references (M, C, H, W). The query without a border of `shifts` pixels is laid over every
    place of the reference, as it is and mirrored, and correlated with what lies below, both less their mean and over
    their norm: a shifted, mirrored, brightened or stretched copy has 1, up to rounding. Where nothing but a constant
    is compared it is 0.

    Returns similarity (N,) in [-1, 1] and the index (N,) of the reference. Errors: shapes that differ, no reference,
    images too small for the shifts.
    """
    if queries.ndim != 4 or references.ndim != 4 or queries.shape[1:] != references.shape[1:] or not len(references):
        raise Error(
            "Images are compared as (N, C, H, W) with one or more (M, C, H, W); "
            f"found {queries.shape} and {references.shape}. Bring them to one shape."
        )
    height, width = queries.shape[2] - 2 * shifts, queries.shape[3] - 2 * shifts
    if shifts < 0 or height < 2 or width < 2:
        raise Error(
            f"Shifts leave at least 2 x 2 pixels to compare; found {shifts} for {queries.shape[2:]}. Take fewer."
        )
    inner = queries[..., shifts : shifts + height, shifts : shifts + width]
    templates = np.concatenate([_unit(inner), _unit(inner[..., ::-1])])
    best = np.full(len(queries), -np.inf, np.float32)
    index = np.zeros(len(queries), int)
    for first in range(0, len(references), _CHUNK):
        chunk = references[first : first + _CHUNK]
        # One matrix product a shift: for few shifts and many pairs that is faster than any Fourier transform.
        for top in range(2 * shifts + 1):
            for left in range(2 * shifts + 1):
                below = _unit(chunk[..., top : top + height, left : left + width])
                found = (templates @ below.T).reshape(2, len(queries), len(chunk)).max(0)
                nearest = found.argmax(1)
                value = found[np.arange(len(queries)), nearest]
                closer = value > best
                best[closer], index[closer] = value[closer], first + nearest[closer]
    return np.clip(best, -1, 1), index


def _zoomed(image: np.ndarray, side: float, place: np.ndarray) -> np.ndarray:
    """A part of (C, H, W), `side` of each side long, resized back by linear interpolation."""
    for axis, where in ((1, place[0]), (2, place[1])):
        size = image.shape[axis]
        at = where * (1 - side) * size + (np.arange(size) + 0.5) * side - 0.5
        low = np.clip(np.floor(at).astype(int), 0, size - 2)
        part = np.clip(at - low, 0, 1).astype(np.float32).reshape((-1, 1) if axis == 1 else (-1,))
        image = image.take(low, axis) * (1 - part) + image.take(low + 1, axis) * part
    return image


def _percentile(values: np.ndarray, level: float) -> np.ndarray:
    """Of each column, a value that occurs: the largest where there are fewer than 1 / (1 - level) of them."""
    return np.quantile(values, level, axis=0, method="inverted_cdf")


def _exceeds_the_others(values: np.ndarray, level: float) -> np.ndarray:
    """(n, columns): whether each value exceeds the percentile of its column without it."""
    ordered = np.sort(values, axis=0)
    # Without a value at or above it the others' percentile is this one; without one below, it is the next.
    place = max(0, math.ceil(level * (len(values) - 1) - 1e-9) - 1)
    return values > ordered[place]


def _unit(images: np.ndarray) -> np.ndarray:
    """Each image as a row of mean 0 and norm 1; one that is constant as zeros."""
    rows = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    flat = norm <= 1e-9 * np.abs(images).max(initial=1e-30)
    return np.where(flat, 0, rows / np.where(flat, 1, norm)).astype(np.float32)
