"""Which pixels of an image are an object's, told by colour from its box alone. Numpy and scipy.ndimage."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from toolkit.example import Boxes

__all__ = ["background_level", "cutout_mask", "inside_mask", "to_unit_range"]

RING = 0.6
"""Width of the ring round a box in which its background is looked for, in its sides."""

ROUND = 1.12
"""How far an object reaches, in radii of the ellipse in its box; 1.41 is the corner."""

CORE, MIDDLE = 0.3, 0.65
"""Radii within which a pixel is held to be the object's, and within which its colours are taken from."""

LEAST = 0.3
"""Part of the ellipse in the box that an object fills if its colour was told from the background's."""

FEWEST = 12
"""Pixels of background without which there is nothing to compare with."""


def to_unit_range(image: np.ndarray) -> np.ndarray:
    """An image in [-1, 1] in [0, 1]."""
    return (np.clip(np.asarray(image, np.float64), -1, 1) + 1) / 2


def inside_mask(boxes: Boxes, size: tuple[int, ...]) -> np.ndarray:
    """(rows, cols) boolean: the pixels whose centre lies in one of the boxes."""
    found = np.zeros(size, bool)
    for x0, y0, x1, y1 in np.rint(boxes.corners).astype(int):
        found[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return found


def background_level(values: np.ndarray, boxes: Boxes) -> np.ndarray:
    """(3,) the median of the background of levels (3, H, W), of everything where the boxes leave none."""
    outside = ~inside_mask(boxes, values.shape[1:])
    return np.median(values[:, outside] if outside.sum() >= FEWEST else values.reshape(len(values), -1), axis=1)


def cutout_mask(image: np.ndarray, boxes: Boxes, n: int) -> np.ndarray:
    """(H, W) boolean: the pixels of object n of an image (3, H, W) in [-1, 1].

    Fisher's direction between the middle of the box and the background, which is the half of the surroundings that is
    most like the background of the whole image; what is farther along it than the background goes, or than Otsu's
    threshold (1979) if that is lower; of that the part that holds the middle, with its holes filled. Pixels that are
    nearer to the middle of another box, measured in that box, are the other's. Where the colour does not tell, because
    there is no background or what is found is too small, it is the ellipse in the box.
    """
    values = to_unit_range(image)
    mask = np.zeros(image.shape[1:], bool)
    box = boxes.corners[n]
    reach = np.maximum(RING * np.tile(box[2:] - box[:2], 2), 3) * np.array([-1, -1, 1, 1])
    rows, cols = image.shape[1:]
    ends: list[int] = np.clip(np.rint(box + reach).astype(int), 0, np.array([cols, rows, cols, rows])).tolist()
    x0, y0, x1, y1 = ends
    moved = boxes.corners - np.array([x0, y0, x0, y0])
    near = [m for m in range(len(moved)) if m == n or _meets(moved[m], x1 - x0, y1 - y0)]
    local = Boxes(moved[near], tuple(boxes.names[m] for m in near))
    mask[y0:y1, x0:x1] = _found(values[:, y0:y1, x0:x1], local, near.index(n), background_level(values, boxes))
    return mask


def _found(values: np.ndarray, boxes: Boxes, n: int, background: np.ndarray) -> np.ndarray:
    """`cutout_mask` within a window, levels (3, h, w)."""
    size = values.shape[1:]
    radius, within = _radius(boxes.corners[n], size), inside_mask(Boxes(boxes.corners[n : n + 1], ("",)), size)
    ellipse, core = (radius <= 1) & within, (radius <= CORE) & within
    ring, middle = ~inside_mask(boxes, size), (radius <= MIDDLE) & within
    if ring.sum() < FEWEST or middle.sum() < 4:
        return ellipse
    away = np.linalg.norm(values - background[:, None, None], axis=0)
    ring &= away <= np.median(away[ring])
    score = _discriminant(values, middle, ring)
    threshold = min(_otsu(score[within | ring]), float(np.percentile(score[ring], 99)))
    found = (score > threshold) & within & (radius <= ROUND)
    for m in range(len(boxes.names)):
        if m != n:
            found &= radius <= _radius(boxes.corners[m], size)
    # One pixel wide bridges and fringes go where the object is large enough to have any.
    opened = np.asarray(ndimage.binary_opening(found, iterations=1 if within.sum() < 400 else 2), bool)
    smooth = opened | core
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(smooth, border_value=0))
    parts, _ = ndimage.label(filled)  # type: ignore[misc]  # scipy answers a count alone only with `output`
    held = np.unique(parts[core])
    found = np.isin(parts, held[held > 0]) & within
    return found if found.sum() >= LEAST * ellipse.sum() else ellipse


def _meets(box: np.ndarray, width: int, height: int) -> bool:
    return bool(box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0)


def _radius(box: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) distance of each pixel from the middle of the box, 1 on the ellipse in it."""
    y, x = np.ogrid[: size[0], : size[1]]
    across, down = np.maximum((box[2:] - box[:2]) / 2, 0.5)
    return np.hypot((x + 0.5 - (box[0] + box[2]) / 2) / across, (y + 0.5 - (box[1] + box[3]) / 2) / down)


def _discriminant(values: np.ndarray, middle: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """(H, W) Fisher's linear discriminant, higher in the middle than in the ring."""
    one, other = values[:, middle], values[:, ring]
    spread = np.cov(one) + np.cov(other) + 1e-4 * np.eye(len(values))
    direction = np.linalg.solve(spread, one.mean(1) - other.mean(1))
    return np.tensordot(direction, values, 1)


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts the values into the two groups with the least variance inside."""
    counts, ends = np.histogram(values, 64)
    middle = (ends[:-1] + ends[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mean, whole = np.cumsum(counts * middle), (counts * middle).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mean / below - (whole - mean) / above) ** 2
    between[(below == 0) | (above == 0)] = -1.0
    return float(ends[1 + int(between.argmax())])
