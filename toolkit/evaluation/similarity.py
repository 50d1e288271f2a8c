"""How alike two images are, pair by pair: SSIM, PSNR and a distance in the levels of a feature network. Numpy only.

Images are (N, C, H, W) in [-1, 1]. Every function answers one number a pair, (N,); sharpness, which is compared and not
a comparison, one an image.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.example import Error

__all__ = ["perceptual", "psnr", "sharpness", "ssim"]

SIGMA, WINDOW = 1.5, 11
"""The Gaussian window of Wang et al. 2004, in pixels."""

K1, K2 = 0.01, 0.03


def ssim(a: np.ndarray, b: np.ndarray, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Structural similarity of pairs of images, (N,) in [-1, 1]; 1 for equal images.

    Wang et al. 2004 (IEEE TIP 13(4)), eq. 13, with C1 = (0.01 L)^2, C2 = (0.03 L)^2 and L = high - low, in every place
    where the whole Gaussian window of 11 pixels fits; averaged over places and channels. Intensities count from `low`,
    as black: the luminance term means nothing where a mean is negative. Errors: shapes that differ, an image smaller
    than the window.
    """
    a, b = _pair(a, b)
    a, b = a - np.float32(low), b - np.float32(low)
    height, width = a.shape[2:]
    if min(height, width) < WINDOW:
        raise Error(
            f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels; found {height} x {width}. Use larger ones."
        )
    rows, columns = _window(height), _window(width).T

    def mean(image: np.ndarray) -> np.ndarray:
        return rows @ image @ columns

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (K1 * (high - low)) ** 2, (K2 * (high - low)) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean((1, 2, 3))


def psnr(a: np.ndarray, b: np.ndarray, data_range: float = 2.0) -> np.ndarray:
    """Peak signal-to-noise ratio of pairs of images in dB, (N,): 10 log10(L^2 / MSE); infinite for equal images."""
    a, b = _pair(a, b)
    error = ((a - b) ** 2).mean((1, 2, 3), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 20 * math.log10(data_range) - 10 * np.log10(error)


def perceptual(levels_a: Mapping[str, np.ndarray], levels_b: Mapping[str, np.ndarray]) -> np.ndarray:
    """Distance of pairs of images in the level maps of a feature network, (N,); 0 for equal images.

    levels: name -> (N, C, h, w). The form is that of LPIPS (Zhang et al. 2018, arXiv:1801.03924, eq. 1): maps of unit
    norm over channels, squared difference, mean over places, sum over levels - without the learned weights of the
    channels and on a network of the domain, so its values are not LPIPS and compare with no published ones. Keys that
    do not begin with "level" are passed over. Errors: no level, levels that differ in name or shape.
    """
    names = [name for name in levels_a if name.startswith("level")]
    if not names or any(name not in levels_b or levels_a[name].shape != levels_b[name].shape for name in names):
        raise Error(
            "A perceptual distance compares the same levels of both images; "
            f"found {_shapes(levels_a)} and {_shapes(levels_b)}. Take both from one feature network."
        )
    # In two steps, or a level of many channels would be held three times.
    total = np.zeros(len(levels_a[names[0]]))
    for name in names:
        difference = _unit(levels_a[name]) - _unit(levels_b[name])
        total += (difference**2).sum(1).mean((1, 2), dtype=np.float64)
    return total


def sharpness(images: np.ndarray) -> np.ndarray:
    """(N,) mean absolute Laplacian of images (N, C, H, W) by their four neighbours, without the edge."""
    middle = images[..., 1:-1, 1:-1]
    around = images[..., :-2, 1:-1] + images[..., 2:, 1:-1] + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    return np.abs(around - 4 * middle).mean((1, 2, 3))


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.ndim(a) != 4 or np.shape(a) != np.shape(b):
        raise Error(
            f"Images are compared in pairs of one shape (N, C, H, W); found {np.shape(a)} and {np.shape(b)}. "
            "Bring them to one shape."
        )
    return np.asarray(a, np.float32), np.asarray(b, np.float32)


@functools.cache
def _window(size: int) -> np.ndarray:
    """(size - 10, size): the Gaussian window at every place, so that filtering is a product of small matrices."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    matrix = np.zeros((size - WINDOW + 1, size))
    for row in range(len(matrix)):
        matrix[row, row : row + WINDOW] = weights / weights.sum()
    return matrix.astype(np.float32)


def _unit(level: np.ndarray) -> np.ndarray:
    level = np.asarray(level, np.float32)
    return level / (np.linalg.norm(level, axis=1, keepdims=True) + 1e-10)


def _shapes(levels: Mapping[str, np.ndarray]) -> Sequence[str]:
    return [f"{name} {tuple(level.shape)}" for name, level in levels.items() if name.startswith("level")]
