"""What a model sees of a picture that is larger than its images: a window at the model's scale, there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from toolkit.example import Boxes, Error
from toolkit.formats.photograph import Place, placed
from toolkit.formats.photograph import fitted as fit
from toolkit.objects.boxes import clipped

__all__ = ["Window", "fitted", "grouped"]

AROUND = 0.125
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
        return placed((self.rows, self.cols), self.size)

    @property
    def scale(self) -> float:
        """Pixels of the model to one of the picture."""
        return self.place.cols / self.cols

    @property
    def corners(self) -> np.ndarray:
        """(4,) of the window in the picture."""
        return np.array([self.left, self.top, self.left + self.cols, self.top + self.rows], float)

    def moved(self, corners: np.ndarray) -> np.ndarray:
        """Corners (N, 4) in the picture -> in the image of the model; they may lie outside of it."""
        place = self.place
        factor = np.array([place.cols / self.cols, place.rows / self.rows] * 2)
        return (corners - np.array([self.left, self.top] * 2)) * factor + np.array([place.left, place.top] * 2)

    def told(self, boxes: Boxes, least: float) -> Boxes:
        """The boxes of the picture that the model is told of: those of which the part `least` lies in the window."""
        inside = clipped(boxes, tuple(self.corners), least)
        corners = Window(0, 0, self.rows, self.cols, self.size, []).moved(inside.corners)
        return Boxes(corners, inside.names, self.size)

    def reached(self, region: np.ndarray) -> np.ndarray:
        """(h, w) boolean: the pixels of the model that a region (H, W) of the picture reaches."""
        place = self.place
        part = region[self.top : self.top + self.rows, self.left : self.left + self.cols].astype(np.float32)
        seen = np.zeros(self.size, bool)
        shrunk = Image.fromarray(part).resize((place.cols, place.rows), Image.Resampling.BOX)
        seen[place.top : place.top + place.rows, place.left : place.left + place.cols] = np.asarray(shrunk) > 0
        return seen

    def enlarged(self, image: np.ndarray) -> np.ndarray:
        """An image of the model (C, h, w) on the pixels of the window (C, rows, cols), bicubic."""
        place = self.place
        part = image[:, place.top : place.top + place.rows, place.left : place.left + place.cols]
        if part.shape[1:] == (self.rows, self.cols):
            return part
        size = (self.cols, self.rows)
        return np.stack([np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in part])


def fitted(image: np.ndarray, window: Window) -> np.ndarray:
    """What the model sees (C, h, w) of a picture (C, H, W): antialiased, padded by repeating its edge."""
    part = image[:, window.top : window.top + window.rows, window.left : window.left + window.cols]
    if part.shape[1:] == window.size:
        return part
    levels = np.rint((part + 1) * 127.5).astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    seen = fit(picture, window.size)
    seen = seen[None] if seen.ndim == 2 else seen.transpose(2, 0, 1)
    return seen.astype(np.float32) * np.float32(2 / 255) - 1


def grouped(corners: np.ndarray, shape: tuple[int, int], size: tuple[int, int], crop: int | None) -> list[Window]:
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
    most = (1 - 2 * AROUND) * np.array([wide, high])
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
