"""How near to each other the objects of real images lie, so that new ones can be put as near and no nearer. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.example import Boxes

__all__ = ["Overlaps", "pairwise_overlap"]

LIMIT = 95.0
"""Percentile, over real layouts, of the largest overlap in a layout: what is beyond is as a rule annotated twice."""

NEAR = np.array([0.05, 0.15, 0.3, 0.5, 0.75, 1.01, 2.05, 2.15, 2.3, 2.6, 3.0])
"""Ends of the classes of `Overlaps.nearness`."""

MANY = 20
"""Pairs of two classes in a layout from which it tells how much these overlap in it."""

FEW = 3.0
"""Pairs that weigh as much as the belief that two objects do not care about each other."""


@dataclass(frozen=True)
class Overlaps:
    """How near to each other the objects of K classes lie in real layouts.

    names: the classes. iou, cover (K, K): the limits of intersection over union and of intersection over the smaller box
    for a pair of two classes, LIMIT over real layouts; 0 where two classes never met. ratio (K, K, len(NEAR) + 1): how
    much more often pairs of one image are so near than pairs of two different images are, which cannot see each other.
    """

    names: tuple[str, ...]
    iou: np.ndarray
    cover: np.ndarray
    ratio: np.ndarray

    @staticmethod
    def learn(layouts: Sequence[Boxes]) -> Overlaps:
        """From real layouts of one size."""
        names = tuple(sorted({name for boxes in layouts for name in boxes.names}))
        count = len(names)
        classes = [np.array([names.index(n) for n in boxes.names], int) for boxes in layouts]
        own = _pairs([(boxes.corners, k, boxes.corners, k, True) for boxes, k in zip(layouts, classes, strict=True)])
        full = [n for n, k in enumerate(classes) if len(k)]
        turn = [(a, b) for step in (1, 2, 3) for a, b in zip(full, full[step:] + full[:step], strict=True) if a != b]
        other = _pairs([(layouts[a].corners, classes[a], layouts[b].corners, classes[b], False) for a, b in turn])
        iou, cover = np.zeros((count, count)), np.zeros((count, count))
        ratio = np.ones((count, count, len(NEAR) + 1))
        for a in range(count):
            for b in range(a, count):
                here, there = (p[2:, _of(p, a, b)] for p in (own, other))
                if here.shape[1]:
                    iou[a, b], cover[a, b] = (np.percentile(_largest(here[3], x), LIMIT) for x in here[:2])
                    seen, free = (np.bincount(np.digitize(x[2], NEAR), minlength=len(NEAR) + 1) for x in (here, there))
                    expected = free * (here.shape[1] / max(there.shape[1], 1))
                    ratio[a, b] = (seen + FEW) / (expected + FEW)
                iou[b, a], cover[b, a], ratio[b, a] = iou[a, b], cover[a, b], ratio[a, b]
        return Overlaps(names, iou, cover, ratio)

    def within(self, layout: Boxes, factor: float) -> Overlaps:
        """Limited further to `factor` times the largest overlaps in the layout, where it has MANY pairs of two classes.

        How much objects overlap differs from image to image more than from pair to pair.
        """
        if len(layout.names) < 2:
            return self
        kinds = np.array([self.names.index(n) for n in layout.names])
        own = _pairs([(layout.corners, kinds, layout.corners, kinds, True)])
        iou, cover = self.iou.copy(), self.cover.copy()
        for a, b in {(int(a), int(b)) for a, b in own[:2].T}:
            for limit, row in ((iou, 2), (cover, 3)):
                found = own[row, _of(own, a, b)]
                if len(found) >= MANY:
                    limit[a, b] = limit[b, a] = min(limit[a, b], factor * float(found.max()))
        return Overlaps(self.names, iou, cover, self.ratio)

    def allowed(self, place: np.ndarray, name: str, others: Boxes) -> np.ndarray:
        """(P, N): whether a box of this class at each of P places (P, 4) respects each of the N others."""
        kind, kinds = self.names.index(name), np.array([self.names.index(n) for n in others.names], int)
        iou, cover, _ = pairwise_overlap(place, others.corners)
        return (iou <= self.iou[kind, kinds]) & (cover <= self.cover[kind, kinds])

    def weight(self, place: np.ndarray, name: str, others: Boxes) -> np.ndarray:
        """(P,): how likely each of the places is beside the others, as a factor; 0 where it is not allowed."""
        kind, kinds = self.names.index(name), np.array([self.names.index(n) for n in others.names], int)
        iou, cover, near = pairwise_overlap(place, others.corners)
        allowed = (iou <= self.iou[kind, kinds]) & (cover <= self.cover[kind, kinds])
        factors = self.ratio[kind, kinds[None], np.digitize(near, NEAR)]
        return np.where(allowed, factors, 0.0).prod(1)


def pairwise_overlap(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU, intersection over the smaller box, and nearness of boxes (P, 4) and (N, 4), each (P, N).

    nearness: of two that touch, the part of the smaller one that is not covered; of two that do not, 2 and the gap in
    their mean side.
    """
    low, high = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    a, b = ((c[:, 2:] - c[:, :2]).prod(1) for c in (one, other))
    least = np.minimum(a[:, None], b[None])
    cover = common / np.maximum(least, 1e-9)
    gap = (low - high).max(2) / np.sqrt(np.sqrt(np.maximum(a[:, None] * b[None], 1e-9)))
    near = np.where(common > 0, 1 - cover, 2 + np.maximum(gap, 0))
    return common / np.maximum(a[:, None] + b[None] - common, 1e-9), cover, near


def _pairs(found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]]) -> np.ndarray:
    """(6, M): the lower class, the higher, IoU, cover, nearness of every pair, each once, and which of `found` it is in."""
    parts = [np.zeros((6, 0))]
    for n, (one, kinds, other, others, same) in enumerate(found):
        which = np.triu_indices(len(one), 1) if same else np.indices((len(one), len(other))).reshape(2, -1)
        values = [m[which[0], which[1]] for m in pairwise_overlap(one, other)]
        a, b = kinds[which[0]], others[which[1]]
        parts.append(np.stack([np.minimum(a, b), np.maximum(a, b), *values, np.full(len(a), n)]))
    return np.concatenate(parts, 1)


def _largest(layout: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """The largest overlap of each layout; both (M,), by pair."""
    _, which = np.unique(layout, return_inverse=True)
    found = np.zeros(which.max() + 1)
    np.maximum.at(found, which, overlap)
    return found


def _of(pairs: np.ndarray, a: int, b: int) -> np.ndarray:
    return (pairs[0] == a) & (pairs[1] == b)
