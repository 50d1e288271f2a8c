"""Where an image is changed: boxes, a drawn mask, its own mask, or a kind of region; on the model's grid and on the file's.

A box or a mask is drawn on the image as its file shows it. A domain that crops, such as films, says how with `grid`; the
model's grid takes every pixel of its own that a box reaches, and on the file's grid the box is kept to the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.example import Error, Example
from toolkit.formats import deep_pictures

__all__ = ["DIFFERENCE", "REGIONS", "Box", "Region", "box_in_pixels", "parse_box", "parse_region", "read_mask"]

SPOTTED, SPOT = 0.3, 4.0
"""Part of the foreground that spots cover, and how far they reach, in pixels."""

NEARLY = 0.02
"""Two aspects that differ by less are one."""

NUMBER = 1 / 16
"""A level below this, beside 0 alone, is the number of a class as masks are kept for training, not a dark grey."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 of the image as its file shows it, x to the right and y down: in pixels, or, where none is above 1, in
parts of its width and height, which fit films of any size.
"""


def _spots(inside: np.ndarray, seed: int, index: int) -> np.ndarray:
    """Blobs over a part SPOTTED of a boolean region, away from its rim, a function of (seed, index) alone."""
    core = np.asarray(ndimage.binary_erosion(inside, iterations=3), bool)
    core = core if core.any() else inside
    field = ndimage.gaussian_filter(gaussian(inside.shape, seed, [index], Purpose.CHOICE, 0)[0], SPOT)
    return core & (field >= np.quantile(field[core], 1 - SPOTTED))


REGIONS: Mapping[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "spots": _spots,
    "foreground": lambda inside, seed, index: inside,
    "whole": lambda inside, seed, index: np.ones_like(inside),
}
"""Where an image without a mask is changed: patches of the foreground, all of it (the leaf), or everywhere."""

DIFFERENCE = "difference"
"""Where the model, told what an image shows and what it shall show, would change it (DiffEdit)."""

DEFAULT_REGION = {"invert": "foreground", "sdedit": "spots", "inpaint": "spots", "dafusion": "whole"}
"""What a procedure changes unless it is told otherwise. SDEdit and inpainting draw their region anew, outline and all, so
on a whole leaf the new outline would stand inside the old one."""


@dataclass(frozen=True)
class Region:
    """What a user drew or named. boxes and mask: at most one of the two; kind: one of REGIONS or DIFFERENCE, for an image
    without.
    """

    kind: str
    boxes: tuple[Box, ...] = ()
    mask: Path | None = None

    def __str__(self) -> str:
        drawn = " and ".join(",".join(f"{edge:g}" for edge in box) for box in self.boxes)
        return f"box {drawn}" if drawn else "a mask" if self.mask else self.kind

    def levels(self, domain: ModuleType, example: Example, grid: Any, seed: int, index: int) -> np.ndarray:
        """(H, W) float32 in [0, 1] on the model's grid: how much of the strength each place is given.

        grid: the domain's own of the file, or None where the image is all there is. Errors: a box that reaches beyond
        the image or lies outside what the model sees of it, a mask of another shape, no place to change.
        """
        size = example.image.shape[1:]
        if self.boxes or self.mask:
            return self._on_model(grid, size) if grid is not None else self._drawn(size, None)
        if example.annotation.mask is not None:
            return example.annotation.mask.astype(np.float32)
        whole = np.ones(size, bool)
        if self.kind == DIFFERENCE:
            return whole.astype(np.float32)  # until the model was asked
        if hasattr(domain, "foreground"):
            return REGIONS[self.kind](domain.foreground(example.image), seed, index).astype(np.float32)
        if self.kind != "whole":
            raise Error(
                f"Without a mask of its own an image of this domain has no {self.kind}: nothing in it is told from the "
                "rest. Draw where to change: --box x0,y0,x1,y1 or --mask PICTURE; or all of it: --region whole"
            )
        return whole.astype(np.float32)

    def on_file(self, grid: Any, levels: np.ndarray) -> np.ndarray:
        """(H, W) boolean on the grid of a file: what may change there at all. levels: what may on the model's grid."""
        top, left, high, wide = grid.box
        inside = np.zeros(grid.pixels.shape, bool)
        seen = Image.fromarray((levels > 0).astype(np.uint8)).resize((wide, high), Image.Resampling.NEAREST)
        inside[top : top + high, left : left + wide] = np.asarray(seen) > 0
        return inside & (self._drawn(inside.shape, grid.box) > 0) if self.boxes or self.mask else inside

    def _on_model(self, grid: Any, size: tuple[int, ...]) -> np.ndarray:
        """Boxes or mask as the model sees them."""
        top, left, high, wide = grid.box
        full = self._drawn(grid.pixels.shape, grid.box)[top : top + high, left : left + wide]
        levels = np.asarray(Image.fromarray(full).resize((size[1], size[0]), Image.Resampling.BOX))
        if not (levels > 0).any():
            raise Error(
                f"A region lies in the square that the model sees of a film, {left},{top},{left + wide},{top + high} in "
                f"pixels of this one; {self} does not. Draw it there."
            )
        return (levels > 0).astype(np.float32) if self.boxes else levels

    def _drawn(self, shape: tuple[int, ...], square: tuple[int, ...] | None) -> np.ndarray:
        """Boxes or mask on a grid (H, W), float32 in [0, 1]. square: what the model sees of it."""
        if self.mask is not None:
            return read_mask(self.mask, shape) if square is None else _on_film(self.mask, shape, square)
        high, wide = shape
        drawn = np.zeros(shape, np.float32)
        for box in self.boxes:
            x0, y0, x1, y1 = box_in_pixels(box, wide, high)
            drawn[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)] = 1
        return drawn


def parse_region(
    domain: ModuleType,
    procedure: str,
    boxes: Sequence[str],
    mask: Path | None,
    kind: str | None,
) -> Region:
    """The region of a request, checked as far as it can be without an image."""
    known = (*REGIONS, DIFFERENCE)
    if kind is not None and kind not in known:
        raise Error(f"A region is one of {', '.join(known)}; found '{kind}'. Or draw one: --mask PICTURE")
    if (boxes or mask) and (procedure == "dafusion" or (boxes and mask) or kind):
        raise Error(
            "A region is drawn by --box or by --mask or named by --region, one of the three, and dafusion changes the whole "
            f"image; found {', '.join([*['--box'] * bool(boxes), *['--mask'] * bool(mask), *['--region'] * bool(kind)])}"
            f" with {procedure}. Leave one out."
        )
    own = DEFAULT_REGION[procedure]
    if not hasattr(domain, "foreground") and procedure != "inpaint":
        own = "whole"  # nothing is told from the rest, and these procedures keep a layout by themselves
    return Region(kind or own, tuple(parse_box(words) for words in boxes), mask)


def box_in_pixels(box: Box, wide: int, high: int) -> Box:
    """A box in pixels of an image. Errors: one that reaches beyond it."""
    x0, y0, x1, y1 = box if max(box) > 1 else (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high)
    if x1 > wide or y1 > high:
        raise Error(
            f"A box lies inside its image, {wide} x {high} pixels; found {x0:g},{y0:g},{x1:g},{y1:g}. "
            "Its numbers are pixels from the upper left corner of the image in the file."
        )
    return x0, y0, x1, y1


def parse_box(words: str) -> Box:
    """A box as a user writes it. Errors: words that are none."""
    try:
        x0, y0, x1, y1 = (float(word) for word in words.split(","))
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    if not (0 <= x0 < x1 < math.inf and 0 <= y0 < y1 < math.inf):
        raise Error(
            "A box is x0,y0,x1,y1 from the upper left corner, 0 <= x0 < x1 and 0 <= y0 < y1, in pixels or, none above 1, in "
            f"parts of width and height; found '{words}'."
        )
    return x0, y0, x1, y1


def read_mask(path: Path, size: tuple[int, ...]) -> np.ndarray:
    """A grey picture at a size, in [0, 1]; in one of 0 and 1, or other numbers next to 0, the number is white."""
    with path.open("rb") as handle, Image.open(handle) as file:
        deep_pictures.check_parts(path, file)
        deep = deep_pictures.levels(path, file)[0] if deep_pictures.is_deep(file) else None
        grey = np.asarray(file.convert("L"), np.float32) / 255 if deep is None else deep[..., 0]
    if 0 < grey.max() < NUMBER and np.isin(grey, (0, grey.max())).all():
        grey = grey / grey.max()
    picture = Image.fromarray(np.ascontiguousarray(grey, np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _on_film(path: Path, shape: tuple[int, ...], place: tuple[int, ...]) -> np.ndarray:
    """A mask on the grid of a film: drawn on all of it, or on the square that the model sees."""
    with Image.open(path) as file:
        aspect = file.width / file.height
    if abs(math.log(aspect * shape[0] / shape[1])) < NEARLY:
        return read_mask(path, shape)
    if abs(math.log(aspect)) >= NEARLY:
        raise Error(
            f"A mask has the shape of its film, {shape[1]} x {shape[0]}, or is square, of what the model sees; '{path}' has "
            f"an aspect of {aspect:.3g}. Draw it on the film."
        )
    top, left, high, wide = place
    full = np.zeros(shape, np.float32)
    full[top : top + high, left : left + wide] = read_mask(path, (high, wide))
    return full
