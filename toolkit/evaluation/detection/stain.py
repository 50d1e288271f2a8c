"""Whether objects stand out by colour: the layout as judged by no detector at all. Numpy only.

Where objects are stained, as blood cells are, or green on soil, the inside of their boxes is more saturated than the
outside. That takes no learning to see, so it is the trivial reference of every number that says how well generated
images keep to their layouts: a detector's word is worth what it says beyond this. The same boxes dealt out to other
images tell what chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.example import Boxes, Error
from toolkit.objects.cutouts import inside_mask, to_unit_range

__all__ = ["more_saturated", "saturated_inside", "saturation", "shuffle_layouts"]


def saturation(image: np.ndarray) -> np.ndarray:
    """(H, W) the S of HSV in [0, 1] of an image (3, H, W) in [-1, 1]: (max - min) / max of its channels, 0 of black."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise Error(f"Saturation is that of a colour image (3, H, W); found shape {image.shape}.")
    values = to_unit_range(image)
    top, bottom = values.max(0), values.min(0)
    return (top - bottom) / np.maximum(top, 1e-9)


def more_saturated(image: np.ndarray, boxes: Boxes) -> bool | None:
    """Whether the image (3, H, W) is more saturated inside all boxes together than outside, on the mean.

    None: there are no pixels inside, or none outside.
    """
    within, values = inside_mask(boxes, image.shape[1:]), saturation(image)
    if within.all() or not within.any():
        return None
    return bool(values[within].mean() > values[~within].mean())


def saturated_inside(images: Sequence[np.ndarray] | np.ndarray, boxes: Sequence[Boxes]) -> tuple[int, int]:
    """(hits, n): of how many of the n images that can be judged the inside is more saturated."""
    if len(images) != len(boxes):
        raise Error(f"Images and layouts come in pairs; found {len(images)} images and {len(boxes)} layouts.")
    said = [more_saturated(image, layout) for image, layout in zip(images, boxes, strict=True)]
    return sum(word is True for word in said), sum(word is not None for word in said)


def shuffle_layouts(boxes: Sequence[Boxes], seed: int) -> list[Boxes]:
    """The layouts dealt out anew, so that none is where it was: what chance gives. Errors: fewer than two."""
    if len(boxes) < 2:
        raise Error(f"Layouts are dealt out among two images or more; found {len(boxes)}.")
    # A single cycle over the images in an order that is drawn leaves none in its place.
    order = np.random.default_rng(np.random.SeedSequence((seed, len(boxes)))).permutation(len(boxes))
    fresh = list(boxes)
    for one, other in zip(order, np.roll(order, 1), strict=True):
        fresh[one] = boxes[other]
    return fresh
