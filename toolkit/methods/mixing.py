"""Classical mixing of training images: what a generated image has to beat as an augmentation. Numpy only.

Each method is a function of a batch and a source of randomness,

    images (B, C, H, W) float, weights (B, K) label weights that add up to 1 -> both anew, what came in untouched

so that they compose by calling one after the other. Images are in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from toolkit.methods.method import Method

__all__ = ["METHODS", "cutmix", "cutout", "mix_within_classes", "mixup", "patch_shuffle"]

_ASKED = "labelled images"
METHODS = tuple(
    Method(name, paper, does, _ASKED, f"diffgraft evaluate classify REAL FAKE; toolkit.methods.mixing.{function}")
    for name, paper, does, function in (
        (
            "mixup",
            "Zhang et al. 2017, arXiv:1710.09412",
            "A convex combination of two images and of their labels.",
            "mixup",
        ),
        ("cutout", "DeVries & Taylor 2017, arXiv:1708.04552", "A square of the image hidden.", "cutout"),
        ("CutMix", "Yun et al. 2019, arXiv:1905.04899", "A box of another image pasted in, labels by area.", "cutmix"),
        (
            "PatchShuffle",
            "Kang et al. 2017, arXiv:1707.07103",
            "Pixels shuffled inside small windows.",
            "patch_shuffle",
        ),
    )
)

Mixed = tuple[np.ndarray, np.ndarray]
Mix = Callable[..., Mixed]


def mixup(images: np.ndarray, weights: np.ndarray, random: np.random.Generator, alpha: float = 0.2) -> Mixed:
    """lam xa + (1 - lam) xb, the labels likewise, lam ~ Beta(alpha, alpha) for every pair.

    Zhang et al. 2017, arXiv:1710.09412, eq. 1; partners are the batch in another order, as there.
    """
    order = random.permutation(len(images))
    lam = random.beta(alpha, alpha, len(images)).astype(images.dtype)
    part = lam[:, None, None, None]
    return (
        part * images + (1 - part) * images[order],
        lam[:, None] * weights + (1 - lam[:, None]) * weights[order],
    )


def cutout(images: np.ndarray, weights: np.ndarray, random: np.random.Generator, side: float = 0.5) -> Mixed:
    """A square set to 0, the middle of the range; its centre is anywhere, so it may reach over the edge.

    DeVries & Taylor 2017, arXiv:1708.04552, section 3. side: of the square, in shorter sides of the image (16 of 32
    pixels there, for ten classes).
    """
    fresh = images.copy()
    half = side * min(images.shape[2:]) / 2
    for n in range(len(images)):
        rows, columns = _box(images.shape[2:], (half, half), random)
        fresh[n, :, rows, columns] = 0
    return fresh, weights.copy()


def cutmix(images: np.ndarray, weights: np.ndarray, random: np.random.Generator, alpha: float = 1.0) -> Mixed:
    """A box of the partner pasted in; a label weighs as much as the area that shows it.

    Yun et al. 2019, arXiv:1905.04899, eq. 1 and 2: sides sqrt(1 - lam) of the image, lam ~ Beta(alpha, alpha), centre
    anywhere. The weights are those of the box as it lies inside the image. Box and lam are drawn for every pair.
    """
    fresh, mixed = images.copy(), weights.copy()
    height, width = images.shape[2:]
    for n, other in enumerate(random.permutation(len(images))):
        cut = math.sqrt(1 - random.beta(alpha, alpha)) / 2
        rows, columns = _box((height, width), (cut * height, cut * width), random)
        fresh[n, :, rows, columns] = images[other, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        mixed[n] = (1 - area) * weights[n] + area * weights[other]
    return fresh, mixed


def patch_shuffle(
    images: np.ndarray,
    weights: np.ndarray,
    random: np.random.Generator,
    window: int = 2,
    probability: float = 0.05,
) -> Mixed:
    """The pixels inside each window x window patch in random order, in an image with this probability.

    Kang et al. 2017, arXiv:1707.07103, section 3.1; window 2 and probability 0.05 are its best for images. Channels stay
    together. Rows and columns that do not fill a patch stay as they are.
    """
    fresh = images.copy()
    count, channels, height, width = images.shape
    down, across = height // window, width // window
    for n in np.flatnonzero(random.random(count) < probability):
        whole = images[n, :, : down * window, : across * window]
        patches = whole.reshape(channels, down, window, across, window).transpose(1, 3, 2, 4, 0)
        pixels = patches.reshape(down, across, window * window, channels)
        order = random.random(pixels.shape[:3]).argsort(2)
        shuffled = np.take_along_axis(pixels, order[..., None], 2).reshape(patches.shape)
        fresh[n, :, : down * window, : across * window] = shuffled.transpose(4, 0, 2, 1, 3).reshape(whole.shape)
    return fresh, weights.copy()


def mix_within_classes(mix: Mix, images: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    """Images made of two of one class each, in the order of the first. mix: `mixup` or `cutmix`, with lam ~ Beta(1, 1)."""
    random, mixed = np.random.default_rng(seed), np.empty_like(images)
    for name in np.unique(classes):
        own = np.flatnonzero(classes == name)
        weights = np.ones((len(own), 1), np.float32)
        mixed[own] = mix(images[own].astype(np.float32), weights, random, alpha=1.0)[0]
    return mixed


def _box(size: tuple[int, ...], half: tuple[float, float], random: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a box around a random pixel, as far as it lies inside."""
    found = []
    for length, reach in zip(size, half, strict=True):
        centre = random.integers(length)
        found.append(slice(max(0, round(centre - reach)), min(length, round(centre + reach))))
    return found[0], found[1]
