"""What a stack of slices needs for display: its grey window, the part of interest, and outlines of regions."""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "LEVELS", "colour_map", "display_window", "finite", "foreground", "frame", "mean_inside", "outline_path",
]  # fmt: skip

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
LEVELS = 64  # of the overlay: no eye tells more apart in a translucent layer, and the file is a third smaller


def finite(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, dtype=np.float32)
    good = np.isfinite(array)
    return array if good.all() else np.where(good, array, array[good].min() if good.any() else 0.0)


def foreground(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.5, 99.5))
    return image > low + 0.1 * (high - low)


def display_window(image: np.ndarray, head: np.ndarray, dark: np.ndarray) -> tuple[float, float]:
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


def mean_inside(anomaly: np.ndarray, head: np.ndarray) -> list[float]:
    return [float(part[inside].mean()) if inside.any() else 0.0 for part, inside in zip(anomaly, head, strict=True)]


def frame(interest: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold everything of interest in any slice, with a margin of 4 % of the image."""
    spans = []
    for axis, size in enumerate(interest.shape[1:], 1):
        filled = np.flatnonzero(interest.any(axis=(0, 3 - axis)))
        margin = math.ceil(0.04 * size)
        span = (max(0, filled[0] - margin), min(size, filled[-1] + 1 + margin)) if len(filled) else (0, size)
        spans.append(slice(int(span[0]), int(span[1])))
    return spans[0], spans[1]


def outline_path(mask: np.ndarray) -> str:
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


def colour_map() -> tuple[np.ndarray, np.ndarray]:
    """(levels, 3) colours and (levels,) opacities of the overlay, uint8. Level 0 is clear."""
    t = np.linspace(0, 1, LEVELS)
    at = (0.18 + 0.82 * t) * (len(_INFERNO) - 1)  # without inferno's black, which would darken tissue
    colour = np.stack([np.interp(at, range(len(_INFERNO)), channel) for channel in _INFERNO.T], axis=1)
    return np.rint(colour).astype(np.uint8), np.rint(255 * 0.88 * t**0.9).astype(np.uint8)
