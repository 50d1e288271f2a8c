"""Where the head is in a stack of axial MR slices, and how far a voxel lies from its edge.

Every array is a stack (slices, rows, cols) and every operation is in-plane: slice distance differs from scan to scan.
Lengths in pixels are stated for an image 256 px wide and scale with the width of the image. `width` is the width of
the whole image at the pixel size of the array; it is the number of columns unless the array is a crop.

numpy and scipy.ndimage only.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from toolkit.data.background import air_level, level_background
from toolkit.example import Error

__all__ = ["head_mask", "inner_head", "otsu", "rim_distance", "rim_weight", "scale_length"]

GAP = 1 / 32
"""Share of a histogram from which a gap is wide: whole numbers in finer bins leave narrow ones."""


def scale_length(length: float, stack: np.ndarray, width: float | None = None) -> float:
    """A length stated at 256 px, in pixels of this stack."""
    return length * (stack.shape[-1] if width is None else width) / 256


def otsu(values: np.ndarray, bins: int = 256) -> float:
    """Otsu's threshold: the centre of the histogram bin that parts the values with the largest between-class variance.

    Where a wide gap parts the lowest values, a constant background, from all others, it is the middle of the gap. Raises
    Error when the values are constant or not finite.
    """
    low, high = float(np.min(values)), float(np.max(values))
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise Error(f"Otsu's threshold needs finite values that differ; found a range of {low:g} to {high:g}.")
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mass = np.cumsum(counts * centres)
    between = below * above * (mass / np.maximum(below, 1) - (mass[-1] - mass) / np.maximum(above, 1)) ** 2
    best = int(np.argmax(between))
    gap = int(np.argmax(below > below[0]))  # bins without a value part the values as the one before them does
    return float(centres[gap // 2 if best == 0 and gap > bins * GAP else best])


def head_mask(stack: np.ndarray) -> np.ndarray:
    """The head: in each slice the largest part of the filled Gaussian (2 px, in-plane) above half of Otsu's threshold.

    Half of it is half the way up from the level of air, which is 0 in a magnitude image; see `toolkit.data.background`
    for that level and for backgrounds that are not air. stack: (slices, rows, cols), any real type, in units of any
    offset and scale. Returns a boolean stack; a slice without signal is empty. The 2 px are not scaled with the width.
    Raises Error when the volume is constant or not finite.
    """
    volume = np.asarray(stack, np.float32)
    if not np.isfinite(volume).all():
        otsu(volume)
    volume = level_background(volume)
    volume = volume - np.float32(air_level(volume))
    above = ndimage.gaussian_filter(volume, (0, 2, 2)) > 0.5 * otsu(volume)
    head = np.zeros(above.shape, bool)
    for out, rough in zip(head, above, strict=True):
        filled = ndimage.binary_fill_holes(rough)
        parts, count = ndimage.label(filled)  # type: ignore[misc]  # scipy answers a count alone only with `output`
        if count:
            out[:] = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return head


def _inside(head: np.ndarray, distance) -> np.ndarray:
    """Slice by slice distance to the outside; what lies beyond the frame is outside."""
    result = np.zeros(head.shape, np.float32)
    for out, mask in zip(result, np.asarray(head, bool), strict=True):
        if mask.any():
            out[:] = distance(np.pad(mask, 1))[1:-1, 1:-1]
    return result


def inner_head(head: np.ndarray, width: float | None = None) -> np.ndarray:
    """The head less its skin and skull: 18 erosions with the cross at 256 px, as many as scale to this width.

    n erosions with the cross keep the pixels whose city-block distance to the outside is more than n, which one
    distance transform finds.
    """
    steps = round(scale_length(18, head, width))
    return _inside(head, lambda mask: ndimage.distance_transform_cdt(mask, "taxicab")) > steps


def rim_distance(head: np.ndarray) -> np.ndarray:
    """Euclidean in-plane distance to the outside of the head, in pixels of the array; 0 outside. float32."""
    return _inside(head, ndimage.distance_transform_edt)


def rim_weight(head: np.ndarray, width_px: float) -> np.ndarray:
    """Smooth weight of a voxel by depth: 0 outside the head, 1 from width_px pixels of the array inwards.

    Smoothstep 3 t^2 - 2 t^3 of t = distance / width_px. It takes skin fat out of a map, which in FLAIR is brighter
    than most lesions.
    """
    t = np.clip(rim_distance(head) / max(width_px, 1e-6), 0, 1)
    return t * t * (3 - 2 * t)
