"""Detection without learning weights: what a detector has to beat. Blobs of a colour, and boxes that look at no image.

`Blobs`: for each class a map of the image, such as its saturation, a threshold and the sizes of the class's boxes are chosen
on training images; connected regions beyond the threshold that are of such a size are found. `constant_boxes`: the boxes that most
often overlap a box of the training images, whatever is in the image. Numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from toolkit.evaluation.detection.metrics import Detections, Truth, box_iou, decode
from toolkit.example import Error

__all__ = ["MAPS", "Blobs", "constant_boxes"]

OVERLAP = 0.5
MOST, CANDIDATES = 60, 400
"""Training images that thresholds are chosen on, and boxes of a class that `constant_boxes` chooses among, at most."""

LEVELS = (50, 60, 70, 75, 80, 85, 90, 93, 96, 98)
"""Percentiles of a map over the training images that are tried as its threshold."""

SIZES = (2, 98)
"""Percentiles of the sides of a class's boxes, between which a region's are, widened by SLACK."""
SLACK = 1.25


def _saturation(image: np.ndarray) -> np.ndarray:
    return image.max(0) - image.min(0)


def _against(channel: int) -> Callable[[np.ndarray], np.ndarray]:
    """How much one channel is above the others; of green, the excess green of plants on soil."""
    return lambda image: image[channel] - np.delete(image, channel, 0).mean(0)


MAPS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "bright": lambda image: image.mean(0),
    "dark": lambda image: -image.mean(0),
    "saturated": _saturation,
    "red": _against(0),
    "green": _against(1),
    "not green": lambda image: -_against(1)(image),
    "blue": _against(2),
}
"""(C, H, W) -> (H, W). Those after the second are of colour images alone."""


@dataclass(frozen=True)
class _Rule:
    """How one class is found. low, high: (2,) sides width and height in pixels."""

    name: str
    threshold: float
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Blobs:
    """One rule a class, None for a class without a training box; see `fit`."""

    rules: tuple[_Rule | None, ...]

    @classmethod
    def fit(cls, images: np.ndarray, truths: Sequence[Truth], classes: int) -> Blobs:
        """images (N, C, H, W) and what is in them. Of maps and thresholds those with the best F1 at an overlap of 0.5.

        Errors: no image.
        """
        if not len(images) or len(images) != len(truths):
            raise Error(f"Blobs are fitted to images with boxes; found {len(images)} and {len(truths)}.")
        chosen = np.unique(np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(int))
        some, told = images[chosen], [truths[n] for n in chosen]
        known = list(MAPS)[: None if images.shape[1] == 3 else 2]
        maps = {name: np.stack([_smooth(MAPS[name](image)) for image in some]) for name in known}
        best: list[tuple[float, _Rule] | None] = [None] * classes
        sizes = [_sizes(truths, kind) for kind in range(classes)]
        for name, values in maps.items():
            for threshold in np.unique(np.percentile(values, LEVELS)):
                regions = [_regions(one, threshold)[0] for one in values]
                for kind, size in enumerate(sizes):
                    if size is None:
                        continue
                    rule = _Rule(name, float(threshold), *size)
                    found = [boxes[_fits(boxes, rule)] for boxes in regions]
                    score = _f1(found, [t.corners[t.classes == kind] for t in told])
                    if best[kind] is None or score > best[kind][0]:  # type: ignore[index]
                        best[kind] = score, rule
        return cls(tuple(None if each is None else each[1] for each in best))

    def predict(self, images: np.ndarray) -> list[Detections]:
        """In images (N, C, H, W). A region scores by how far its mean is beyond the threshold."""
        return [self._found(image) for image in images]

    def _found(self, image: np.ndarray) -> Detections:
        parts = [(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))]
        for kind, rule in enumerate(self.rules):
            if rule is not None:
                boxes, above = _regions(_smooth(MAPS[rule.name](image)), rule.threshold)
                kept = _fits(boxes, rule)
                parts.append((boxes[kept], np.full(kept.sum(), kind), above[kept] / (above[kept] + 0.1)))
        whole = Detections(*(np.concatenate(each) for each in zip(*parts, strict=True)))
        return whole[np.argsort(-whole.scores, kind="stable")]


def constant_boxes(truths: Sequence[Truth], classes: int) -> Detections:
    """The same boxes for every image: each box of the training images scores the part of them in which a box of its class
    overlaps it by half or more; of those that overlap one another by as much the best is kept."""
    corners, scores = [np.zeros((0, 4))], [np.zeros((classes, 0))]
    for kind in range(classes):
        own = [t.corners[t.classes == kind] for t in truths]
        every = np.concatenate(own)
        candidates = every[np.unique(np.linspace(0, len(every) - 1, min(CANDIDATES, len(every))).round().astype(int))]
        share = np.zeros((classes, len(candidates)))
        share[kind] = np.mean([box_iou(candidates, boxes).max(1, initial=0) >= OVERLAP for boxes in own], 0)
        corners.append(candidates)
        scores.append(share)
    # A detector's answer whose places are the candidates: what is suppressed is suppressed as it is there.
    dense = {"scores": np.concatenate(scores, 1)[None, :, None], "corners": np.concatenate(corners).T[None, :, None]}
    return decode(dense, threshold=0.0, iou=OVERLAP)[0]


# Regions


def _smooth(values: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(values.astype(float), 1.0)


def _regions(values: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M, 4) of the connected regions of a map (H, W) above a threshold, and how far above it each is on average."""
    labels, count = ndimage.label(ndimage.binary_fill_holes(values > threshold))  # type: ignore[misc]  # scipy answers a count alone only with `output`
    if not count:
        return np.zeros((0, 4)), np.zeros(0)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)], float)
    above = np.asarray(ndimage.mean(values, labels, np.arange(1, count + 1))) - threshold
    return boxes, np.maximum(above, 0)


def _sizes(truths: Sequence[Truth], kind: int) -> tuple[np.ndarray, np.ndarray] | None:
    own = [t.corners[t.classes == kind] for t in truths]
    every = np.concatenate(own)
    if not len(every):
        return None
    low, high = np.percentile(every[:, 2:] - every[:, :2], SIZES, axis=0)
    return low / SLACK, high * SLACK


def _fits(boxes: np.ndarray, rule: _Rule) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.all((sides >= rule.low) & (sides <= rule.high), 1)


def _f1(found: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    right = sum(int((box_iou(a, b).max(0, initial=0) >= OVERLAP).sum()) for a, b in zip(found, truths, strict=True))
    count = sum(len(a) + len(b) for a, b in zip(found, truths, strict=True))
    return 2 * right / count if count else 0.0
