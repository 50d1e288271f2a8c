"""Objects cut from images by their boxes and pasted into others: labels that are true without any generative model.

Dwibedi et al. 2017 (arXiv:1708.01642) cut, blend and paste; Ghiasi et al. 2021 (arXiv:2012.07177) show that pasting at
random, with flips and scale, is enough; X-Paste (Zhao et al. 2022, arXiv:2212.03863) takes objects that a model made,
segments them, filters them and draws the classes evenly. In the order of those papers:

1. `find_instances`   the objects that may be cut: whole ones, hardly covered by another; generated ones that `keep` lets pass
2. `toolkit.objects.cutouts.cutout_mask`   an object apart from what is round it, by colour and by its box
3. `paste`       a real image, some objects flipped and scaled, at places where they overlap no more than objects of real
                 images do, under the light of that image, their edge feathered; an original that is covered goes

What differs. The papers segment with a network that was trained on masks, and put an object anywhere; ours needs boxes
alone, and keeps to the overlaps that the data show (`toolkit.objects.overlaps`), because cells and plants do not lie on each
other as cups and cars do. X-Paste's filter is CLIP; ours is a function that is handed in, such as a detector's word.
Numpy and scipy.ndimage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from toolkit.example import Boxes, Error
from toolkit.methods.method import Method
from toolkit.objects import cutouts
from toolkit.objects.boxes import MOST
from toolkit.objects.layout_summary import EDGE
from toolkit.objects.layouts import random_generator
from toolkit.objects.overlaps import Overlaps

__all__ = ["METHODS", "CopyPaste", "Instances", "base_index", "find_instances", "paste"]

METHODS = (
    Method(
        "Simple Copy-Paste",
        "Ghiasi et al. 2021, arXiv:2012.07177; blended as in Dwibedi et al. 2017, arXiv:1708.01642",
        "Objects of real images, cut out by colour, flipped, scaled and pasted into another real image with their boxes.",
        "images with boxes",
        "toolkit.methods.copy_paste.paste",
    ),
    Method(
        "X-Paste",
        "Zhao et al. 2022, arXiv:2212.03863",
        "The same with objects that a model generated and a filter let pass, classes drawn evenly.",
        "images with boxes; generated images with boxes and a filter of them, such as a detector",
        "toolkit.methods.copy_paste.find_instances(generated, boxes, keep), paste",
    ),
)

Keep = Callable[[np.ndarray, Boxes], np.ndarray]
"""(image (3, H, W), its N boxes) -> (N,) boolean: which of them show what they say."""

MARGIN = 3
"""Pixels round a box that are cut out with it, for its feathered edge."""

CLEAR = 0.1
"""Part of an object that may be covered by another box if it is to be cut out."""

PLACES = 48
"""Places tried for an object."""

COMPARED = 4
"""Of the places that are good, those of which the emptiest is taken."""


@dataclass(frozen=True)
class CopyPaste:
    """Settings of `paste`.

    count: (least, most) objects to paste. scale: (least, most) by which an object is scaled. flips: whether left and
    right, and top and bottom, may be exchanged. even: classes are drawn evenly, or else as often as they occur.
    covered: part of an original's box beyond which it is given up if what is pasted covers it. lost: originals that one
    pasted object may cover. feather: standard deviation of the soft edge in pixels. light: the range of the factor by
    which an object is brought to the light of its new image, channel by channel.
    """

    count: tuple[int, int] = (1, 5)
    scale: tuple[float, float] = (0.8, 1.25)
    flips: tuple[bool, bool] = (True, True)
    even: bool = True
    covered: float = 0.7
    lost: int = 1
    feather: float = 0.7
    light: tuple[float, float] = (0.7, 1.4)

    def __post_init__(self) -> None:
        ordered = 0 <= self.count[0] <= self.count[1] and 0 < self.scale[0] <= self.scale[1]
        if not (ordered and 0 < self.covered <= 1 and self.lost >= 0 and self.feather > 0):
            raise Error(
                "Pasting needs counts and scales in order, `covered` in (0, 1], a feather above 0; found "
                f"{self.count}, {self.scale}, {self.covered}, {self.feather}."
            )


@dataclass(frozen=True)
class Instances:
    """Objects that may be cut out. images (N, 3, H, W) and their boxes; which: class -> (M, 2) image and box of each."""

    images: Sequence[np.ndarray] | np.ndarray
    boxes: Sequence[Boxes]
    which: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Piece:
    """An object that was cut out: levels (3, h, w) in [0, 1], alpha (h, w), its box in them (4,), the light it was in (3,)."""

    levels: np.ndarray
    alpha: np.ndarray
    box: np.ndarray
    light: np.ndarray


def find_instances(
    images: Sequence[np.ndarray] | np.ndarray, boxes: Sequence[Boxes], keep: Keep | None = None
) -> Instances:
    """The objects that may be cut out of images (3, H, W): not cut off by the edge, hardly covered, kept by `keep`.

    Errors: not one box to an image; no object.
    """
    _paired(images, boxes)
    found: dict[str, list[tuple[int, int]]] = {}
    for n, (image, layout) in enumerate(zip(images, boxes, strict=True)):
        if not layout.names:
            continue
        good = np.ones(len(layout.names), bool) if keep is None else np.asarray(keep(image, layout), bool)
        rows, cols = image.shape[1:]
        corners = layout.corners
        good &= (corners[:, :2] > EDGE).all(1) & (corners[:, 2:] < np.array([cols, rows]) - EDGE).all(1)
        good &= (corners[:, 2:] - corners[:, :2] >= 3).all(1)
        for m in np.flatnonzero(good):
            if _covered(corners[m], np.delete(corners, m, 0)) <= CLEAR:
                found.setdefault(layout.names[m], []).append((n, int(m)))
    if not found:
        raise Error(
            f"Objects are cut out where they are whole and hardly covered; found none in {len(images)} images. Give more."
        )
    return Instances(images, boxes, {name: np.array(rows) for name, rows in sorted(found.items())})


def base_index(index: int, seed: int, count: int) -> int:
    """Which of `count` images sample `index` pastes into. Each has its turn before one comes again."""
    turn, place = divmod(index, count)
    return int(random_generator(seed, turn, 2).permutation(count)[place])


def paste(
    images: Sequence[np.ndarray] | np.ndarray,
    boxes: Sequence[Boxes],
    index: int,
    seed: int,
    settings: CopyPaste | None = None,
    objects: Instances | None = None,
    overlaps: Overlaps | None = None,
) -> tuple[np.ndarray, Boxes]:
    """Image number `base(index, seed, len(images))` with objects pasted in, (3, H, W) float32, and all its boxes.

    objects: where they are cut from, None for the images themselves. overlaps: how near objects lie; what is None is
    learned anew at every call, so give both for more than a few. The result depends on seed and index alone. What finds
    no place is left out, so there may be fewer pasted than `count` says, or none. Errors: a class that overlaps lack.
    """
    _paired(images, boxes)
    settings = settings or CopyPaste()
    objects = objects or find_instances(images, boxes)
    overlaps = overlaps or Overlaps.learn(boxes)
    number, random = base_index(index, seed, len(images)), random_generator(seed, index, 3)
    image, rows, cols = cutouts.to_unit_range(images[number]), *images[number].shape[1:]
    layout = Boxes(boxes[number].corners, boxes[number].names, (rows, cols))
    if unknown := sorted(set(layout.names) - set(overlaps.names)):
        raise Error(f"Overlaps are learned from images of the same classes; these do not know '{unknown[0]}'.")
    light = cutouts.background_level(image, layout)
    names = [name for name in objects.which if name in overlaps.names]
    often = np.array([1.0 if settings.even else len(objects.which[name]) for name in names])
    for _ in range(int(random.integers(settings.count[0], settings.count[1] + 1)) if names else 0):
        name = names[random.choice(len(names), p=often / often.sum())]
        which = objects.which[name]
        n, m = which[random.integers(len(which))]
        piece = _turned(_piece(objects.images[n], objects.boxes[n], int(m), settings), random, settings)
        at = (
            None if len(layout.names) >= MOST else _place(piece, name, image, light, layout, overlaps, random, settings)
        )
        if at is not None:
            gone = _parts((piece.box + np.tile(at, 2))[None], layout.corners)[0] > settings.covered
            image = _blended(image, piece, at, light, settings)
            kept = [k for k in range(len(layout.names)) if not gone[k]]
            corners = np.concatenate([layout.corners[kept], (piece.box + np.tile(at, 2))[None]])
            layout = Boxes(corners, (*(layout.names[k] for k in kept), name), layout.size)
    return (image * 2 - 1).astype(np.float32), layout


# ------------------------------------------------------------------------------------------------------------- pieces


def _piece(image: np.ndarray, boxes: Boxes, n: int, settings: CopyPaste) -> Piece:
    rows, cols = image.shape[1:]
    x0, y0 = np.maximum(np.floor(boxes.corners[n, :2]).astype(int) - MARGIN, 0)
    x1, y1 = np.minimum(np.ceil(boxes.corners[n, 2:]).astype(int) + MARGIN, (cols, rows))
    mask = cutouts.cutout_mask(image, boxes, n)
    levels = cutouts.to_unit_range(image)
    alpha = np.clip(ndimage.gaussian_filter(mask.astype(float), settings.feather) * 2 - 0.6, 0, 1)
    box = boxes.corners[n] - np.array([x0, y0, x0, y0])
    return Piece(levels[:, y0:y1, x0:x1], alpha[y0:y1, x0:x1], box, cutouts.background_level(levels, boxes))


def _turned(piece: Piece, random: np.random.Generator, settings: CopyPaste) -> Piece:
    """Flipped and scaled at random, the box with it."""
    levels, alpha, box = piece.levels, piece.alpha, piece.box
    rows, cols = alpha.shape
    for axis, coin in zip((1, 0), random.random(2) < 0.5, strict=True):
        if coin and settings.flips[1 - axis]:
            levels, alpha = np.flip(levels, axis + 1), np.flip(alpha, axis)
            low, end = (1, rows) if axis == 0 else (0, cols)
            box = box.copy()
            box[low], box[low + 2] = end - box[low + 2], end - box[low]
    factor = np.exp(random.uniform(*np.log(settings.scale)))
    size = (max(3, round(rows * factor)), max(3, round(cols * factor)))
    box = box * np.tile([size[1] / cols, size[0] / rows], 2)
    return Piece(np.stack([_resized(c, size) for c in levels]), _resized(alpha, size), box, piece.light)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> size, pixel areas over each other, smoothed first where it shrinks."""
    factors = np.array(values.shape) / np.array(size)
    blurred = ndimage.gaussian_filter(values, np.maximum(factors - 1, 0) / 2)
    return ndimage.affine_transform(blurred, factors, (factors / 2 - 0.5).tolist(), size, order=1, mode="nearest")


def _place(
    piece: Piece,
    name: str,
    image: np.ndarray,
    light: np.ndarray,
    layout: Boxes,
    overlaps: Overlaps,
    random: np.random.Generator,
    settings: CopyPaste,
) -> np.ndarray | None:
    """Where the piece goes (x, y), None for nowhere: the emptiest of a few places that cost the fewest originals.

    Of objects that nobody has put a box round, an empty place covers the fewest.
    """
    rows, cols = image.shape[1:]
    low, high = np.ceil(EDGE - piece.box[:2] + 1e-6), np.floor(np.array([cols, rows]) - EDGE - piece.box[2:] - 1e-6)
    if (low > high).any():
        return None
    at = random.integers(low.astype(int), high.astype(int) + 1, (PLACES, 2))
    boxes = piece.box + np.tile(at, 2)
    gone = _parts(boxes, layout.corners) > settings.covered
    lost = gone.sum(1)
    good = np.flatnonzero((overlaps.allowed(boxes, name, layout) | gone).all(1) & (lost <= settings.lost))
    if not len(good):
        return None
    good = good[lost[good] == lost[good].min()][:COMPARED]
    away = np.linalg.norm(image - light[:, None, None], axis=0)
    filled = [away[_rows(boxes[k, 1::2]), _rows(boxes[k, 0::2])].mean() for k in good]
    return at[good[int(np.argmin(filled))]]


def _rows(ends: np.ndarray) -> slice:
    return slice(int(ends[0]), max(int(ends[1]), int(ends[0]) + 1))


def _blended(image: np.ndarray, piece: Piece, at: np.ndarray, light: np.ndarray, settings: CopyPaste) -> np.ndarray:
    """levels (3, H, W) with the piece in them; what of its margin is outside the image is left out."""
    fresh, (h, w), (rows, cols) = image.copy(), piece.alpha.shape, image.shape[1:]
    x, y = int(at[0]), int(at[1])
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, cols), min(y + h, rows)
    part = np.s_[top - y : bottom - y, left - x : right - x]
    gain = np.clip(light / np.maximum(piece.light, 0.05), *settings.light)
    shown = np.clip(piece.levels[:, *part] * gain[:, None, None], 0, 1)
    alpha = piece.alpha[part]
    place = np.s_[:, top:bottom, left:right]
    fresh[place] = alpha * shown + (1 - alpha) * image[place]
    return fresh


# ---------------------------------------------------------------------------------------------------------- measuring


def _parts(boxes: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """(P, N): the part of each original that each of the boxes covers."""
    low = np.maximum(boxes[:, None, :2], originals[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], originals[None, :, 2:])
    area = (originals[:, 2:] - originals[:, :2]).prod(1)
    return np.clip(high - low, 0, None).prod(2) / np.maximum(area, 1e-9)


def _covered(box: np.ndarray, others: np.ndarray) -> float:
    """The part of a box that the one that covers most of it covers."""
    return float(_parts(others, box[None]).max(initial=0.0))


def _paired(images: Sequence[np.ndarray] | np.ndarray, boxes: Sequence[Boxes]) -> None:
    if len(images) != len(boxes) or not len(images):
        raise Error(f"Images and layouts come in pairs; found {len(images)} images and {len(boxes)} layouts.")
