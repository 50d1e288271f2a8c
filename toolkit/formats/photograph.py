"""A photograph as an image file holds it, turned into what a model takes; Pillow and numpy only.

Whatever cannot be decoded whole and safely is refused in one line: no EPS (it would start a program), no file that says it
has more pixels than a camera, no half a picture.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from toolkit.data import xmp
from toolkit.example import Error, Note, Provenance
from toolkit.formats import deep_pictures

__all__ = ["SUFFIXES", "Place", "padded_place", "parse_size", "read_photograph", "resize_and_pad"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
DECODERS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")

MOST_PIXELS = 120_000_000
"""A file that says it has more is refused before it is decoded: it is no photograph, or made to exhaust the memory."""

NEARLY = 0.02
"""An aspect that differs by less is made equal by stretching, which nobody sees; padding would leave a seam."""

OVERSAMPLED = 4
"""A JPEG is decoded no larger than this many times the wanted size: resampling from there looks the same."""


NEXT_TO_BLACK, SHARE = 1 / 16, 0.995
"""A picture of 16 bits of which so much stays below this part of white shows nothing once it has 8."""


def read_photograph(
    path: Path, size: tuple[int, int] | None = None, stretched: bool = False
) -> tuple[np.ndarray, Provenance | None]:
    """(3, rows, cols) float32 in [-1, 1] of an image file as a viewer shows it, and its mark if it is not a real one.

    EXIF orientation is applied, what is transparent is white, 16 bits are those that are used (see `deep_pictures`). size:
    fitted inside with its aspect kept, antialiased (bicubic), and padded by repeating its edge. stretched: who asks spreads
    the grey levels, so that a dark picture of 16 bits is as good as any. Errors: what cannot be decoded whole.
    """
    try:
        if path.stat().st_size == 0:
            raise Error("A photograph has a content; this file has 0 bytes.")
        # A camera's odd metadata makes Pillow warn; whether the picture decodes is what counts.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # By a handle: what Pillow 13 maps into memory by a name, grey TIFF, it does not turn but scrambles.
            with path.open("rb") as handle, Image.open(handle, formats=DECODERS) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise Error(
                        f"A photograph has at most {MOST_PIXELS / 1e6:.0f} million pixels; this one says it has "
                        f"{file.width} x {file.height}."
                    )
                deep_pictures.check_parts(path, file)
                is_deep = deep_pictures.is_deep(file)
                deep, note = deep_pictures.levels(path, file) if is_deep else (None, "")
                if deep is None:
                    if size is not None:
                        file.draft(None, (OVERSAMPLED * max(size), OVERSAMPLED * max(size)))
                    file.load()
                    picture = _rgb(ImageOps.exif_transpose(file))
                    levels = np.asarray(picture) if size is None else resize_and_pad(picture, size)
                else:
                    levels = _deep_rgb(deep_pictures.upright(deep, deep_pictures.orientation(file)), size)
                if is_deep and not stretched and np.quantile(levels, SHARE) < NEXT_TO_BLACK * 255:
                    raise Error(
                        f"A photograph shows something; {SHARE:.1%} of this one's values of 16 bits lie in the darkest "
                        f"{NEXT_TO_BLACK:.0%} of them, next to black. Save it with 8 bits, brighter."
                    )
                marked = xmp.provenance(file.info)
    except Error:
        raise
    except Exception as problem:  # a damaged file may raise anything, from SyntaxError to struct.error
        words = " ".join(str(problem).replace(str(path), path.name).split()).rstrip(".") or type(problem).__name__
        raise Error(f"A photograph decodes whole; this file does not: {words}.") from problem
    if note:
        warnings.warn(note, Note, stacklevel=2)
    return (levels.transpose(2, 0, 1).astype(np.float32) * (2.0 / 255) - 1.0).astype(np.float32), marked


@dataclass(frozen=True)
class Place:
    """Where a picture comes to lie in an image that it was fitted into, in pixels of the image."""

    top: int
    left: int
    rows: int
    cols: int


def padded_place(shape: tuple[int, int], size: tuple[int, int]) -> Place:
    """The place of a picture of (rows, cols) in an image of the size: all of it, or the largest inside of its aspect."""
    rows, cols = size
    stretch = (cols / shape[1]) / (rows / shape[0])
    if abs(math.log(stretch)) > math.log1p(NEARLY):
        scale = min(cols / shape[1], rows / shape[0])
        rows, cols = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    return Place((size[0] - rows) // 2, (size[1] - cols) // 2, rows, cols)


def resize_and_pad(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(rows, cols, ...) levels of a picture resized into its place, antialiased (bicubic), padded by repeating its edge."""
    place = padded_place((picture.height, picture.width), size)
    levels = np.asarray(picture.resize((place.cols, place.rows), Image.Resampling.BICUBIC))
    down, right = size[0] - place.rows - place.top, size[1] - place.cols - place.left
    return np.pad(levels, ((place.top, down), (place.left, right), *[(0, 0)] * (levels.ndim - 2)), "edge")


def parse_size(text: str) -> tuple[int, int]:
    """(rows, cols) of words such as 128x64, width first."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.strip().isdecimal() and height.strip().isdecimal()) or not 8 <= int(width) <= 4096:
        raise Error(f"A size is WIDTHxHEIGHT in pixels, such as 128x64; found '{text}'.")
    if not 8 <= int(height) <= 4096:
        raise Error(f"A size is WIDTHxHEIGHT of 8 to 4096 pixels each; found '{text}'.")
    return int(height), int(width)


def _rgb(file: Image.Image) -> Image.Image:
    if file.mode == "F":
        raise Error("A photograph has 8 or 16 bits; this one has floating-point numbers. Save it with 16 bits.")
    if file.has_transparency_data:
        file = Image.alpha_composite(Image.new("RGBA", file.size, "white"), file.convert("RGBA"))
    return file.convert("RGB")


def _deep_rgb(samples: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """(rows, cols, 3) levels from 0 to 255, not rounded, of samples in [0, 1] with 1 to 4 channels."""
    channels = samples.shape[2]
    colours, alpha = (samples[..., :-1], samples[..., -1:]) if channels in (2, 4) else (samples, 1.0)
    shown = np.broadcast_to(colours * alpha + 1 - alpha, (*samples.shape[:2], 3)) * np.float32(255)
    if size is None:
        return shown
    parts = [resize_and_pad(Image.fromarray(np.ascontiguousarray(shown[..., n])), size) for n in range(3)]
    return np.clip(np.dstack(parts), 0, 255)
