"""From a source slice to the model's square and exactly back to the source grid. Numpy and Pillow only.

`fit` and `unfit` share one description of the way, a box in source pixels that may reach over the edge.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from toolkit.example import Error

__all__ = ["Box", "fit", "from_window", "square_box", "to_window", "unfit"]

Box = tuple[int, int, int, int]
"""(top, left, height, width) in source pixels; may reach over the edge of the slice."""


def to_window(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Source units to [-1, 1]: low becomes -1, high +1, what lies outside is clipped."""
    low, high = (float(end) for end in window)  # as floats, or unsigned values below `low` would wrap round
    if not low < high:
        raise Error(f"A window needs low < high; found {low:g} to {high:g}. Check that the image is not constant.")
    return np.clip((values - low) * (2.0 / (high - low)) - 1.0, -1.0, 1.0).astype(np.float32)


def from_window(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """[-1, 1] back to source units; the inverse of `to_window` inside the window."""
    low, high = window
    return ((image + 1.0) * (0.5 * (high - low)) + low).astype(np.float32)


def square_box(mask: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0), margin: float = 0.04) -> Box:
    """The physically square box round a (H, W) mask, in whole pixels.

    spacing: millimetres a pixel along rows and columns; with unequal spacing the box is not square in pixels.
    margin: free border, as a fraction of the longer side of the mask's extent.
    """
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
    side = max((bottom - top) * spacing[0], (right - left) * spacing[1]) * (1 + 2 * margin)
    height, width = max(1, round(side / spacing[0])), max(1, round(side / spacing[1]))
    return int(round((top + bottom - height) / 2)), int(round((left + right - width) / 2)), height, width


def fit(image: np.ndarray, box: Box, size: tuple[int, int], outside: float) -> np.ndarray:
    """Crop (H, W) to the box and resample to size (rows, cols), antialiased; pixels over the edge are `outside`."""
    top, left, height, width = box
    crop = np.full((height, width), outside, np.float32)
    rows, cols = _overlap(top, height, image.shape[0]), _overlap(left, width, image.shape[1])
    crop[rows[1], cols[1]] = image[rows[0], cols[0]]
    resized = Image.fromarray(crop).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


def unfit(image: np.ndarray, box: Box, shape: tuple[int, int], outside: float) -> np.ndarray:
    """Resample (h, w) to the box and place it on a slice of the given shape; pixels beyond the box are `outside`."""
    top, left, height, width = box
    resized = Image.fromarray(np.ascontiguousarray(image, np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    full = np.full(shape, outside, np.float32)
    rows, cols = _overlap(top, height, shape[0]), _overlap(left, width, shape[1])
    full[rows[0], cols[0]] = np.asarray(resized, np.float32)[rows[1], cols[1]]
    return full


def _overlap(start: int, length: int, limit: int) -> tuple[slice, slice]:
    """The part of [start, start + length) inside [0, limit): as a slice of the source and as one of the box."""
    low, high = min(max(start, 0), limit), max(min(start + length, limit), 0)
    high = max(high, low)
    return slice(low, high), slice(low - start, high - start)
