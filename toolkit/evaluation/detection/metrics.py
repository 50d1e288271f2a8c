"""Detection in numbers: from the dense answer of a detector to boxes, average precision, and whether a layout came true.

Numpy only; average precision is that of pycocotools, so that a number means what it means elsewhere. Corners are
x0 y0 x1 y1 in pixels of the image, continuous; a class is an index.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.evaluation.finite import check_finite
from toolkit.example import Boxes, Error

__all__ = [
    "Agreement", "Detections", "Precision", "Truth", "as_boxes", "as_truth", "average_precision", "best_thresholds",
    "box_iou", "decode", "layout_agreement",
]  # fmt: skip

SLIGHT = 0.1
"""Overlap below which a detection has nothing to do with a box."""

BEFORE = 400
"""Candidates of a class that go into the suppression, the best ones: an image of ours has no more places than these."""

COCO_MOST = 100
"""Detections of an image and a class that average precision counts: the last of COCO's maxDets."""


@dataclass(frozen=True)
class Truth:
    """What is, or was asked to be, in an image: corners (N, 4), classes (N,) int."""

    corners: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Detections:
    """What a detector found in an image, best first: corners (N, 4), classes (N,) int, scores (N,) in [0, 1].

    Errors: corners or scores that are not finite.
    """

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        check_finite(self.corners, "corners of boxes found")
        check_finite(self.scores, "scores of boxes found")

    def __getitem__(self, index: np.ndarray) -> Detections:
        return Detections(self.corners[index], self.classes[index], self.scores[index])


@dataclass(frozen=True)
class Precision:
    """Average precision of each class, NaN for one of which there is no object: at an overlap of 0.5, and the mean over
    0.5, 0.55 ... 0.95. curve: precision (101,) at overlap 0.5 for a recall of 0, 0.01 ... 1. objects: of each class.
    """

    ap50: Mapping[str, float]
    ap: Mapping[str, float]
    curve: Mapping[str, np.ndarray]
    objects: Mapping[str, int]

    @property
    def mean_ap50(self) -> float:
        return _mean(self.ap50)

    @property
    def mean_ap(self) -> float:
        return _mean(self.ap)


@dataclass(frozen=True)
class Agreement:
    """How the N boxes that were asked for came out; D detections scored the threshold or more.

    state (N,): "matched", a detection of its class overlaps it by `iou` or more; else "misplaced", one overlaps it by
        SLIGHT or more; else "missed". A detection stands for one box: the best scored chooses first, the box that it
        overlaps most.
    found (N,): the index of that detection among those that were given, -1 for a box that was missed.
    overlap (N,): with that detection, 0 for a box that was missed.
    mistaken (N,): the index of a detection of another class, which stands for no other box and overlaps by `iou` or
        more one that is not matched; else -1.
    hallucinated: indices of detections that overlap no box, of whatever class, by SLIGHT or more.
    doubled: indices of the others that stand for no box.
    """

    state: tuple[str, ...]
    found: np.ndarray
    overlap: np.ndarray
    mistaken: np.ndarray
    hallucinated: np.ndarray
    doubled: np.ndarray


def as_truth(boxes: Boxes, names: Sequence[str]) -> Truth:
    """Boxes with names as Truth. Errors: a class that is not among the names."""
    if unknown := sorted(set(boxes.names) - set(names)):
        raise Error(f"A box is of a class that the detector knows, {', '.join(names)}; found '{unknown[0]}'.")
    return Truth(boxes.corners.astype(float), np.array([list(names).index(name) for name in boxes.names], int))


def as_boxes(found: Detections | Truth, names: Sequence[str], size: tuple[int, int]) -> Boxes:
    """The way back, for what is drawn or written; size: (rows, cols) of the image."""
    return Boxes(found.corners, tuple(names[int(k)] for k in found.classes), size)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of (N, 4) with each of (M, 4): (N, M); 0 where neither has an area."""
    sides = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    both = np.clip(sides, 0, None).prod(2)
    union = _area(first)[:, None] + _area(second)[None] - both
    return np.divide(both, union, out=np.zeros_like(both, dtype=float), where=union > 0)


def decode(
    dense: Mapping[str, np.ndarray], threshold: float = 0.05, iou: float = 0.5, most: int = 100
) -> list[Detections]:
    """The boxes in a detector's answer: scores (B, K, h, w) and corners (B, 4, h, w) -> one Detections an image.

    Of each class, from the best score down, those above the threshold that overlap no better one by more than `iou`
    (greedy non-maximum suppression); then the best `most` of the image. Errors: other shapes, numbers that are not finite.
    """
    scores, corners = np.asarray(dense["scores"]), np.asarray(dense["corners"])
    if scores.ndim != 4 or corners.shape != (len(scores), 4, *scores.shape[2:]):
        raise Error(
            f"A detector answers scores (B, K, h, w) and corners (B, 4, h, w); found {scores.shape} and {corners.shape}."
        )
    # What is not finite is above no threshold: it would be an image without objects.
    check_finite(scores, "scores of a detector")
    check_finite(corners, "corners of a detector")
    return [_decoded(s, c, threshold, iou, most) for s, c in zip(scores, corners, strict=True)]


def _decoded(scores: np.ndarray, corners: np.ndarray, threshold: float, iou: float, most: int) -> Detections:
    places, parts = corners.reshape(4, -1).T.astype(float), []
    for number, row in enumerate(scores.reshape(len(scores), -1)):
        order = np.argsort(-row, kind="stable")[:BEFORE]
        order = order[row[order] > threshold]
        kept = order[_suppressed(places[order], iou)]
        parts.append(Detections(places[kept], np.full(len(kept), number), row[kept].astype(float)))
    whole = Detections(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("corners", "classes", "scores")))
    return whole[np.argsort(-whole.scores, kind="stable")[:most]]


def _suppressed(corners: np.ndarray, iou: float) -> np.ndarray:
    """Which of boxes (N, 4), best first, are left."""
    close = box_iou(corners, corners) > iou
    left = np.ones(len(corners), bool)
    for number in range(len(corners)):
        if left[number]:
            left[number + 1 :] &= ~close[number, number + 1 :]
    return left


def average_precision(
    truths: Sequence[Truth], found: Sequence[Detections], names: Sequence[str], size: tuple[int, int]
) -> Precision:
    """Average precision by COCO's protocol (Lin et al. 2014, arXiv:1405.0312; pycocotools), one Truth and Detections an image.

    size: (rows, cols) of the images. Errors: not as many of the one as of the other.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if len(truths) != len(found):
        raise Error(f"Every image has its truth and its detections; found {len(truths)} and {len(found)}.")
    images = [{"id": n + 1, "height": size[0], "width": size[1]} for n in range(len(truths))]
    classes = [{"id": k, "name": name} for k, name in enumerate(names)]
    sets = []
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress by print
        for rows in (truths, found):
            coco: Any = COCO()
            coco.dataset = {"images": images, "categories": classes, "annotations": _annotations(rows)}
            coco.createIndex()
            sets.append(coco)
        judge: Any = COCOeval(sets[0], sets[1], "bbox")
        judge.params.imgIds, judge.params.catIds = [i["id"] for i in images], list(range(len(names)))
        judge.evaluate()
        judge.accumulate()
    whole = judge.eval["precision"][:, :, :, 0, -1]  # (overlaps, recalls, classes), of all areas; -1 without an object
    every = np.where(whole > -1, whole, np.nan)
    counts = [int(sum((t.classes == k).sum() for t in truths)) for k in range(len(names))]
    return Precision(
        {name: float(every[0, :, k].mean()) for k, name in enumerate(names)},
        {name: float(every[:, :, k].mean()) for k, name in enumerate(names)},
        {name: every[0, :, k] for k, name in enumerate(names)},
        dict(zip(names, counts, strict=True)),
    )


def _annotations(rows: Sequence[Truth] | Sequence[Detections]) -> list[dict[str, object]]:
    """As COCO has them, with what loadRes would add: it refuses detections of which there are none."""
    listed: list[dict[str, object]] = []
    for image, row in enumerate(rows, 1):
        scores = row.scores if isinstance(row, Detections) else np.ones(len(row.classes))
        for corners, kind, score in zip(row.corners.tolist(), row.classes.tolist(), scores.tolist(), strict=True):
            x0, y0, x1, y1 = corners
            box = [x0, y0, x1 - x0, y1 - y0]
            listed.append(
                {"id": len(listed) + 1, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3],
                 "iscrowd": 0, "score": score}
            )  # fmt: skip
    return listed


def best_thresholds(
    truths: Sequence[Truth], found: Sequence[Detections], names: Sequence[str], iou: float = 0.5
) -> np.ndarray:
    """(K,) the score of each class from which on F1 = 2 right / (detections + objects) is best on these images.

    0.5 for a class that has no object, or is never found.
    """
    chosen = np.full(len(names), 0.5)
    for kind in range(len(names)):
        scores, right = [np.zeros(0)], [np.zeros(0, bool)]
        for truth, all_found in zip(truths, found, strict=True):
            one = all_found[all_found.classes == kind]
            one = one[np.argsort(-one.scores, kind="stable")]
            places = truth.corners[truth.classes == kind]
            which = np.full(len(places), -1)
            _pairs(box_iou(places, one.corners), iou, which)
            scores.append(one.scores)
            right.append(np.isin(np.arange(len(one.scores)), which))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        hits = np.concatenate(right)[order].cumsum()
        if len(hits) and hits[-1]:
            objects = sum(int((truth.classes == kind).sum()) for truth in truths)
            best = int((2 * hits / (np.arange(1, len(hits) + 1) + objects)).argmax())
            chosen[kind] = np.concatenate(scores)[order][best]
    return chosen


def layout_agreement(truth: Truth, found: Detections, threshold: float | np.ndarray, iou: float = 0.5) -> Agreement:
    """Whether an image shows the boxes that it was asked to show; see Agreement. threshold: one, or (K,) one a class."""
    asked = len(truth.classes)
    least = np.asarray(threshold, float)
    shown = np.flatnonzero(found.scores >= (least[found.classes] if least.ndim else least))
    shown = shown[np.argsort(-found.scores[shown], kind="stable")]
    over = box_iou(truth.corners, found.corners[shown])
    same = truth.classes[:, None] == found.classes[shown][None]
    which = np.full(asked, -1)
    matched = _pairs(np.where(same, over, 0), iou, which)
    _pairs(np.where(same, over, 0), SLIGHT, which)
    mistaken = np.full(asked, -1)
    taken = set(which.tolist())
    for box in np.flatnonzero(~matched):
        others = [d for d in range(len(shown)) if not same[box, d] and over[box, d] >= iou and d not in taken]
        if others:
            mistaken[box] = shown[others[0]]
            taken.add(others[0])
    free = np.array([d for d in range(len(shown)) if d not in taken], int)
    apart = over[:, free].max(0, initial=0) < SLIGHT
    placed = which >= 0
    states = np.where(matched, "matched", np.where(placed, "misplaced", "missed"))
    return Agreement(
        state=tuple(states.tolist()),
        found=np.array([shown[d] if d >= 0 else -1 for d in which], int),
        overlap=np.array([over[box, d] if d >= 0 else 0.0 for box, d in enumerate(which)], float),
        mistaken=mistaken,
        hallucinated=shown[free[apart]],
        doubled=shown[free[~apart]],
    )


def _pairs(over: np.ndarray, least: float, which: np.ndarray) -> np.ndarray:
    """Give each detection that has none the free box that it overlaps most, by `least` or more: which (N,) is filled in.

    Returns the boxes that have one now. Detections are columns, best first, as COCO matches them.
    """
    for detection in range(over.shape[1]):
        if detection in which:
            continue
        free = np.where(which < 0, over[:, detection], 0)
        if len(free) and free.max() >= least:
            which[free.argmax()] = detection
    return which >= 0


def _area(corners: np.ndarray) -> np.ndarray:
    return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])


def _mean(values: Mapping[str, float]) -> float:
    known = [value for value in values.values() if value == value]
    return float(np.mean(known)) if known else float("nan")
