"""Objects drawn into pictures at given boxes by a model that is told layouts, window after window.

A picture keeps its size. The model sees a window of it at its own scale, and is told every box in the window: those of the
picture that stay, and the new ones. An object of which the new boxes cover too much goes, whole. Of what the model answers
only what lies in the new boxes, and in place of what went, comes back into the picture; it fades in over the rim.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from toolkit.diffusion.model import Model
from toolkit.example import Boxes, Error, Example
from toolkit.formats.photograph import Place, padded_place, resize_and_pad
from toolkit.methods import local_edit
from toolkit.methods.guided import BATCH, Conditions, Run
from toolkit.methods.local_edit import LocalEdit, feather_weights
from toolkit.methods.method import Method
from toolkit.objects.boxes import clip

__all__ = [
    "FEATHER", "KEPT", "METHODS", "Canvas", "Window", "box_mask", "crop_to_model", "draw", "group_windows", "visible_part",
]  # fmt: skip

METHODS = (
    Method(
        "Grounded inpainting",
        "after Li et al. 2023 (GLIGEN), arXiv:2301.07093, by Lugmayr et al. 2022 (RePaint), arXiv:2201.09865",
        "Objects drawn into pictures at given boxes, the rest exactly as it was.",
        "a denoiser that is told layouts; a picture, and new boxes with their classes",
        "toolkit.methods.object_drawing.draw; diffgraft edit MODEL PICTURES OUT --object CLASS=X0,Y0,X1,Y1",
    ),
)

KEPT = 0.7
"""Part of a box of the picture that has to lie outside of the new boxes for its object to stay. What is covered more goes
whole: half a cell with a straight edge is no cell, and one without a box would teach a detector not to see it.
"""

AROUND = 1.5
"""Pixels of the model around the box of an object that goes: its rim and its halo."""

VISIBLE = 0.3
"""Part of a box that has to lie in a window for the model to be told of it, as in its training."""

FEATHER = 1.0
"""Pixels of the model over which what is new fades in, inside of its box."""


MARGIN = 0.125
"""Of the sides of a window: what of the picture the model sees around its new boxes, if the picture reaches so far."""


@dataclass(frozen=True)
class Window:
    """A part of a picture, in its pixels, and where it lies in an image of the model of size (rows, cols).

    which: the new boxes that are drawn in it.
    """

    top: int
    left: int
    rows: int
    cols: int
    size: tuple[int, int]
    which: list[int]

    @property
    def place(self) -> Place:
        return padded_place((self.rows, self.cols), self.size)

    @property
    def scale(self) -> float:
        """Pixels of the model to one of the picture."""
        return self.place.cols / self.cols

    @property
    def corners(self) -> np.ndarray:
        """(4,) of the window in the picture."""
        return np.array([self.left, self.top, self.left + self.cols, self.top + self.rows], float)

    def to_model(self, corners: np.ndarray) -> np.ndarray:
        """Corners (N, 4) in the picture -> in the image of the model; they may lie outside of it."""
        place = self.place
        factor = np.array([place.cols / self.cols, place.rows / self.rows] * 2)
        return (corners - np.array([self.left, self.top] * 2)) * factor + np.array([place.left, place.top] * 2)

    def visible_boxes(self, boxes: Boxes, least: float) -> Boxes:
        """The boxes of the picture of which the part `least` lies in the window, in the image of the model."""
        inside = clip(boxes, tuple(self.corners), least)
        corners = Window(0, 0, self.rows, self.cols, self.size, []).to_model(inside.corners)
        return Boxes(corners, inside.names, self.size)

    def cover(self, region: np.ndarray) -> np.ndarray:
        """(h, w) boolean: the pixels of the model that a region (H, W) of the picture reaches."""
        place = self.place
        part = region[self.top : self.top + self.rows, self.left : self.left + self.cols].astype(np.float32)
        seen = np.zeros(self.size, bool)
        shrunk = Image.fromarray(part).resize((place.cols, place.rows), Image.Resampling.BOX)
        seen[place.top : place.top + place.rows, place.left : place.left + place.cols] = np.asarray(shrunk) > 0
        return seen

    def to_picture(self, image: np.ndarray) -> np.ndarray:
        """An image of the model (C, h, w) on the pixels of the window (C, rows, cols), bicubic."""
        place = self.place
        part = image[:, place.top : place.top + place.rows, place.left : place.left + place.cols]
        if part.shape[1:] == (self.rows, self.cols):
            return part
        size = (self.cols, self.rows)
        return np.stack([np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in part])


def crop_to_model(image: np.ndarray, window: Window) -> np.ndarray:
    """What the model sees (C, h, w) of a picture (C, H, W): antialiased, padded by repeating its edge."""
    part = image[:, window.top : window.top + window.rows, window.left : window.left + window.cols]
    if part.shape[1:] == window.size:
        return part
    levels = np.rint((part + 1) * 127.5).astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    seen = resize_and_pad(picture, window.size)
    seen = seen[None] if seen.ndim == 2 else seen.transpose(2, 0, 1)
    return seen.astype(np.float32) * np.float32(2 / 255) - 1


def group_windows(corners: np.ndarray, shape: tuple[int, int], size: tuple[int, int], crop: int | None) -> list[Window]:
    """The windows of a picture of shape (rows, cols) in which new boxes (N, 4) are drawn, one after the other.

    crop: the width of a window in the picture's pixels, its aspect that of the model's images of size (rows, cols); None is
    all of the picture. Boxes that fit into one window together are drawn together.
    Errors: a window larger than the picture, a box that no window holds.
    """
    rows, cols = shape
    if crop is None:
        return [Window(0, 0, rows, cols, size, list(range(len(corners))))]
    wide, high = crop, max(1, round(crop * size[0] / size[1]))
    if crop < 8 or wide > cols or high > rows:
        raise Error(
            f"A window lies in its picture of {cols} x {rows} pixels; found {wide} x {high}. Give another --crop."
        )
    most = (1 - 2 * MARGIN) * np.array([wide, high])
    groups: list[list[int]] = []
    for n, (x0, y0, x1, y1) in enumerate(corners):
        if x1 - x0 > most[0] or y1 - y0 > most[1]:
            raise Error(
                f"The model sees {wide} x {high} pixels of a picture, so that a box is at most {most[0]:.0f} x {most[1]:.0f}; "
                f"found {x1 - x0:g} x {y1 - y0:g}. Make it smaller, or give another --crop."
            )
        group = next((g for g in groups if (_union(corners[[*g, n]])[1] <= most).all()), None)
        if group is None:
            groups.append([n])
        else:
            group.append(n)
    return [_window(_union(corners[group])[0], shape, (high, wide), size, group) for group in groups]


def _union(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle and the sides of the box around boxes (N, 4)."""
    low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
    return (low + high) / 2, high - low


def _window(
    middle: Sequence[float] | np.ndarray,
    shape: tuple[int, int],
    own: tuple[int, int],
    size: tuple[int, int],
    which: list[int],
) -> Window:
    left, top = (
        int(np.clip(round(at - side / 2), 0, whole - side))
        for at, side, whole in zip(middle, own[::-1], shape[::-1], strict=True)
    )
    return Window(top, left, *own, size, which)


@dataclass(frozen=True)
class Canvas:
    """One picture. image (3, H, W) as it is by now; boxes: that are there by now; wanted: all that was asked for.

    annotated: the picture has an annotation. region (H, W): where it may have changed by now; turn (H, W): in this window.
    removed: boxes that went.
    """

    source: Example
    image: np.ndarray
    boxes: Boxes
    wanted: Boxes
    windows: Sequence[Window]
    annotated: bool
    region: np.ndarray
    turn: np.ndarray
    removed: int = 0


def draw(
    model: Model,
    encode: Callable[[Sequence[Boxes]], tuple[Conditions, Conditions]],
    canvases: Sequence[Canvas],
    local: LocalEdit,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> tuple[list[Canvas], list[list[local_edit.Change]]]:
    """The pictures with everything drawn, window after window, and what the model alone changed in each window.

    encode: layouts -> their condition fields and those of nothing stated. watch(done, of) is called once an evaluation.
    """
    edited, changes = list(canvases), [[] for _ in canvases]
    rounds = max(len(canvas.windows) for canvas in canvases)
    batches = sum(-(-sum(len(canvas.windows) > n for canvas in canvases) // BATCH) for n in range(rounds))
    of, numbers = batches * ((local.walk.steps - 1) * local.resamples + 1), itertools.count(1)

    def step() -> None:
        done = next(numbers)
        watch(done, max(done, of))

    for turn in range(rounds):
        which = [n for n, canvas in enumerate(canvases) if len(canvas.windows) > turn]
        windows = [canvases[n].windows[turn] for n in which]
        begun = [_begun(edited[n], window) for n, window in zip(which, windows, strict=True)]
        images = np.stack([crop_to_model(canvas.image, window) for canvas, window in zip(begun, windows, strict=True)])
        masks = np.stack([window.cover(canvas.turn) for canvas, window in zip(begun, windows, strict=True)])
        layouts = [window.visible_boxes(c.boxes, VISIBLE) for c, window in zip(begun, windows, strict=True)]
        cond, null = encode(layouts)
        found = local_edit.inpaint(Run(model, cond, null, which, step), images, masks, local)
        for n, canvas, window, made, change in zip(which, begun, windows, found.made, found.changes, strict=True):
            edited[n] = _pasted(canvas, window, made, local.feather)
            changes[n].append(change)
    return edited, changes


def _begun(canvas: Canvas, window: Window) -> Canvas:
    """With the boxes that are there when the objects of a window are: the covered ones gone, the new ones added.

    What changes is what the new boxes reach, and what is left of an object that goes, but where it lies in another's box.
    """
    shape, there, wanted = canvas.region.shape, canvas.boxes, canvas.wanted
    region = box_mask(wanted.corners[window.which], shape)
    stays = visible_part(there, region) >= KEPT
    around = AROUND / window.scale * np.array([-1, -1, 1, 1])
    rest = box_mask(there.corners[~stays] + around, shape) & ~box_mask(there.corners[stays], shape)
    region = (region | rest) & box_mask(window.corners[None], shape)
    new = [n for n in window.which if wanted.names[n]]
    boxes = Boxes(
        np.concatenate([there.corners[stays], wanted.corners[new]]),
        (*(n for n, k in zip(there.names, stays, strict=True) if k), *(wanted.names[n] for n in new)),
        there.size,
    )
    removed = canvas.removed + int((~stays).sum())
    return dataclasses.replace(canvas, boxes=boxes, region=canvas.region | region, turn=region, removed=removed)


def _pasted(canvas: Canvas, window: Window, made: np.ndarray, feather: float) -> Canvas:
    """The picture with what was made (3, h, w) where it changes in a window, at the picture's own resolution."""
    top, left, high, wide = window.top, window.left, window.rows, window.cols
    place = np.s_[:, top : top + high, left : left + wide]
    weight = feather_weights(canvas.turn[place[1:]], feather / window.scale)
    large = window.to_picture(made)
    before = canvas.image[place]
    image = canvas.image.copy()
    image[place] = np.where(weight > 0, np.clip(before + weight * (large - before), -1, 1), before)
    return dataclasses.replace(canvas, image=image)


def box_mask(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) boolean: every pixel that a box reaches."""
    region = np.zeros(shape, bool)
    for x0, y0, x1, y1 in corners:
        region[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)] = True
    return region


def visible_part(boxes: Boxes, region: np.ndarray) -> np.ndarray:
    """(N,) part of each box that lies outside of a region (H, W)."""
    left = []
    for x0, y0, x1, y1 in boxes.corners:
        inside = region[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)]
        left.append(1 - float(inside.mean()) if inside.size else 1.0)
    return np.array(left)
