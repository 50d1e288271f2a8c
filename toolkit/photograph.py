"""A photograph as an image file holds it, turned into what a model takes; Pillow and numpy only.

Whatever cannot be decoded whole and safely is refused in one line: no EPS (it would start a program), no file that says it
has more pixels than a camera, no half a picture.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from toolkit import xmp
from toolkit.example import Error, Provenance

__all__ = ["SUFFIXES", "photograph"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
DECODERS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")

MOST_PIXELS = 120_000_000
"""A file that says it has more is refused before it is decoded: it is no photograph, or made to exhaust the memory."""

NEARLY = 0.02
"""An aspect that differs by less is made equal by stretching, which nobody sees; padding would leave a seam."""

OVERSAMPLED = 4
"""A JPEG is decoded no larger than this many times the wanted size: resampling from there looks the same."""


def photograph(path: Path, size: tuple[int, int] | None = None) -> tuple[np.ndarray, Provenance | None]:
    """(3, rows, cols) float32 in [-1, 1] of an image file as a viewer shows it, and its mark if it is not a real one.

    EXIF orientation is applied, what is transparent is white, 16 bits become 8. size: fitted inside with its aspect
    kept, antialiased (bicubic), and padded by repeating its edge. Errors: what cannot be decoded whole.
    """
    try:
        if path.stat().st_size == 0:
            raise Error("A photograph has a content; this file has 0 bytes.")
        # A camera's odd metadata makes Pillow warn; whether the picture decodes is what counts.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=DECODERS) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise Error(
                        f"A photograph has at most {MOST_PIXELS / 1e6:.0f} million pixels; this one says it has "
                        f"{file.width} x {file.height}."
                    )
                if size is not None:
                    file.draft(None, (OVERSAMPLED * max(size),) * 2)
                file.load()
                picture = _rgb(ImageOps.exif_transpose(file))
                marked = xmp.provenance(file.info)
    except Error:
        raise
    except Exception as problem:  # a damaged file may raise anything, from SyntaxError to struct.error
        words = " ".join(str(problem).replace(str(path), path.name).split()).rstrip(".") or type(problem).__name__
        raise Error(f"A photograph decodes whole; this file does not: {words}.") from problem
    levels = np.asarray(picture if size is None else _fitted(picture, size))
    if size is not None:
        high, wide = (total - had for total, had in zip(size, levels.shape, strict=False))
        levels = np.pad(levels, ((high // 2, high - high // 2), (wide // 2, wide - wide // 2), (0, 0)), "edge")
    return (levels.transpose(2, 0, 1).astype(np.float32) * (2.0 / 255) - 1.0).astype(np.float32), marked


def _rgb(file: Image.Image) -> Image.Image:
    if file.mode.startswith("I"):
        values = np.asarray(file)
        if values.min() < 0 or values.max() > 65535:
            raise Error(f"A photograph has 8 or 16 bits; this one reaches from {values.min()} to {values.max()}.")
        file = Image.fromarray(np.rint(values / 257.0).astype(np.uint8))
    if file.mode == "F":
        raise Error("A photograph has 8 or 16 bits; this one has floating-point numbers.")
    if file.has_transparency_data:
        file = Image.alpha_composite(Image.new("RGBA", file.size, "white"), file.convert("RGBA"))
    return file.convert("RGB")


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resized to the size, or, where its aspect is another, to the largest that fits inside."""
    rows, cols = size
    stretch = (cols / picture.width) / (rows / picture.height)
    if abs(math.log(stretch)) > math.log1p(NEARLY):
        scale = min(cols / picture.width, rows / picture.height)
        rows, cols = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
    return picture.resize((cols, rows), Image.Resampling.BICUBIC)
