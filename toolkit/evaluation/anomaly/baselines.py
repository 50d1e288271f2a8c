"""Anomaly maps that need no generative model: what a learned map has to beat, under the same mask and thresholds.

Each is a function of a FLAIR stack (slices, rows, cols) and what it needs besides, and returns a float32 score stack
on the same grid. Plain FLAIR intensity beats many published networks (Meissen et al., arXiv:2109.06023), and wide
smoothing with a rim weight beats plain FLAIR by far, so both are printed.

Lengths in pixels are stated at 256 px and scale with the image; `width` is the width of the whole image at the pixel
size of the stack, needed for a crop only (see toolkit.data.head). numpy and scipy.ndimage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from toolkit.data.head import rim_weight, scale_length
from toolkit.example import Error

__all__ = [
    "Atlas", "atlas_score", "chance", "gated", "healthy_atlas", "normalised", "raw", "smoothed", "wide", "wide_gated",
]  # fmt: skip

RIM = 20.0  # px at 256; pooled AP on 32 LGG scans rises up to here (0, 12, 20, 30 tried)


def chance(stack: np.ndarray) -> np.ndarray:
    """A map that knows nothing: its average precision is the prevalence p, its best Dice 2 p / (1 + p)."""
    return np.zeros(stack.shape, np.float32)


def raw(stack: np.ndarray) -> np.ndarray:
    """Plain intensity, no normalisation: the scale of the scanner is part of the baseline."""
    return np.array(stack, np.float32)


def smoothed(stack: np.ndarray, *, sigma: float = 3.0, width: float | None = None) -> np.ndarray:
    """Intensity after an in-plane Gaussian of sigma px."""
    spread = scale_length(sigma, stack, width)
    return ndimage.gaussian_filter(np.asarray(stack, np.float32), (0, spread, spread))


def normalised(stack: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Intensity with the head's 2nd percentile at 0 and its 98th at 1, clipped to 0..1.3.

    Raises Error when the head is empty or has one intensity.
    """
    if not np.any(head):
        raise Error("Percentile normalisation needs a head; the mask is empty. Check the contrast of the scan.")
    low, high = np.percentile(np.asarray(stack, np.float32)[head], [2, 98])
    if not low < high:
        raise Error(f"Percentile normalisation needs contrast inside the head; its P2 and P98 are both {low:g}.")
    return np.clip((np.asarray(stack, np.float32) - low) / (high - low), 0, 1.3).astype(np.float32)


def gated(score: np.ndarray, p: np.ndarray) -> np.ndarray:
    """A non-negative score times the probability of a lesion in each slice, p (slices,)."""
    p = np.asarray(p, np.float32)
    if p.shape != score.shape[:1]:
        raise Error(f"A slice gate needs one probability for each of {len(score)} slices; found shape {p.shape}.")
    return score * p[:, None, None]


def wide(
    stack: np.ndarray,
    head: np.ndarray,
    *,
    sigma: float = 12.0,
    rim: float = RIM,
    width: float | None = None,
) -> np.ndarray:
    """Percentile-normalised intensity smoothed over 12 px, x rim: the strongest map without any learning.

    The rim weight acts before the smoothing, lest skin fat bleed inwards, and again after it.
    """
    weight = rim_weight(head, scale_length(rim, stack, width))
    return weight * smoothed(weight * normalised(stack, head), sigma=sigma, width=width)


def wide_gated(stack: np.ndarray, head: np.ndarray, p: np.ndarray) -> np.ndarray:
    """`wide` x the classifier's slice probability p (slices,)."""
    return gated(wide(stack, head), p)


@dataclass(frozen=True)
class Atlas:
    """What healthy slices look like at each position on the crop grid.

    mean, spread: (positions, rows, cols) of normalised intensity, the positions evenly spaced over 0..1; spread > 0.
    """

    mean: np.ndarray
    spread: np.ndarray

    def __post_init__(self) -> None:
        if self.mean.ndim != 3 or self.mean.shape != self.spread.shape or not (self.spread > 0).all():
            found = f"{self.mean.shape} and {self.spread.shape}"
            raise Error(f"An atlas needs mean and positive spread (positions, rows, cols) on one grid; found {found}.")


def healthy_atlas(
    images: np.ndarray,
    positions: np.ndarray,
    *,
    count: int = 16,
    bandwidth: float = 0.06,
    floor: float = 0.1,
) -> Atlas:
    """Mean and spread of healthy training slices, weighted by a Gaussian of their distance in position.

    images: (n, rows, cols) normalised healthy slices on the crop grid; positions: (n,) in 0..1, as the caller's
    slice position. Smooth the images first if the score is to be smooth: mean and spread are then those of smooth
    intensities. floor: the least spread, in normalised units.
    """
    images, positions = np.asarray(images, np.float32), np.asarray(positions, float)
    if images.ndim != 3 or positions.shape != images.shape[:1] or not len(images):
        raise Error(
            f"An atlas needs slices (n, rows, cols), one position each; found {images.shape}, {positions.shape}."
        )
    grid = np.linspace(0, 1, count)
    # The distances are taken less the nearest one, so that a position far from every slice uses the nearest.
    off = np.abs(grid[:, None] - positions)
    weight = np.exp(-0.5 * ((off - off.min(1, keepdims=True)) / bandwidth) ** 2)
    weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    mean = np.tensordot(weight, images, 1)
    square = np.tensordot(weight, images**2, 1)
    return Atlas(mean, np.sqrt(np.maximum(square - mean**2, floor**2)))


def atlas_score(
    image: np.ndarray,
    atlas: Atlas,
    positions: np.ndarray,
    head: np.ndarray,
    p: np.ndarray,
    *,
    sigma: float = 6.0,
    rim: float = RIM,
    width: float | None = None,
) -> np.ndarray:
    """Healthy-atlas z-score x slice probability x rim; its defaults are the best of a small search on LGG patients.

    image: (slices, rows, cols) normalised, on the atlas's grid; positions: (slices,) in 0..1, between which the atlas
    is interpolated; p: (slices,). The positive part of (image - mean) / spread is smoothed over sigma px, with the rim
    weight before and after as in `wide`: hypointense is not abnormal here, a gate of negative scores would be upside
    down.
    """
    positions = np.asarray(positions, float)
    if image.ndim != 3 or image.shape[1:] != atlas.mean.shape[1:] or positions.shape != image.shape[:1]:
        found = f"{image.shape}, {atlas.mean.shape} and {positions.shape}"
        raise Error(f"Image, atlas and positions need one crop grid and one position each slice; found {found}.")
    at = np.clip(positions, 0, 1) * (len(atlas.mean) - 1)
    below = np.minimum(at.astype(int), max(len(atlas.mean) - 2, 0))
    above = np.minimum(below + 1, len(atlas.mean) - 1)
    part = (at - below).astype(np.float32)[:, None, None]
    mean = (1 - part) * atlas.mean[below] + part * atlas.mean[above]
    spread = (1 - part) * atlas.spread[below] + part * atlas.spread[above]
    weight = rim_weight(head, scale_length(rim, image, width))
    z = np.maximum((np.asarray(image, np.float32) - mean) / spread, 0)
    return gated(weight * smoothed(weight * z, sigma=sigma, width=width), p).astype(np.float32)
