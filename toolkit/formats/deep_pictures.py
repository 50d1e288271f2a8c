"""The samples of pictures of 16 bits, whole, and how many of these bits a picture uses.

Pillow keeps all 16 bits of a grey picture and the upper 8 of a colour. A camera or a detector gives 10, 12 or 14 bits, and
what writes them into 16 rarely scales them: eight bits of such a picture are next to black, a few grey levels deep. So
the white of a picture is the largest number of 8, 10, 12, 14 or 16 bits that its own largest value needs. A value of all
ones above a gap is burnt in (a label, a dead pixel) and does not count.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.example import Error

__all__ = ["check_parts", "is_deep", "levels", "orientation", "upright"]

DEPTHS = (8, 10, 12, 14, 16)

FULL = 65535

LOW_BYTES = {
    "RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B", "LA;16B": "RGBA",
    "RGBX;16B": "RGBX;16L", "RGBX;16L": "RGBX;16B",
    **{f"{kind};16N": f"{kind};16{'B' if sys.byteorder == 'little' else 'L'}" for kind in ("RGB", "RGBA", "RGBX")},
}  # fmt: skip
"""How Pillow calls the samples of a colour picture of which it keeps the upper byte -> what keeps the lower one. Grey with
alpha is read as four bytes a pixel, upper and lower of each.
"""

WHITE_IS_ZERO, PHOTOMETRIC, BITS_PER_SAMPLE = 0, 262, 258
PLANES, PLANAR_CONFIGURATION, SAMPLES_PER_PIXEL = 2, 284, 277
SMALLER_OR_MASK, NEW_SUBFILE_TYPE, IMAGE_DESCRIPTION = 1 | 4, 254, 270
"""TIFF 6.0: values and tags."""

STACK = re.compile(r"ImageJ=.*^images=(\d+)", re.S | re.M)
"""How ImageJ says of how many images a file is; it may write them after one another with one directory for all."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""EXIF orientation -> what makes a picture upright, as ImageOps.exif_transpose has it."""


def check_parts(path: Path, file: Image.Image) -> None:
    """Refuse a TIFF of which a part would be read, or parts in one another's places; file: as opened, not loaded.

    Planes of 16 bits are read as if they were of 8. Pages of 16 bits, or of ImageJ, are channels, depths or times, unless
    the later ones are smaller editions of the first or its masks.
    """
    if file.format != "TIFF":
        return
    if _in_planes(file):
        raise Error(
            "A TIFF of 16 bits keeps the colours of a pixel together (PlanarConfiguration 1); this one has a plane for each "
            "colour (2). Save it as PNG, or with interleaved channels."
        )
    stack = STACK.match(str(getattr(file, "tag_v2", {}).get(IMAGE_DESCRIPTION, "")))
    if not (stack or is_deep(file)):
        return
    pages = max(int(stack[1]) if stack else 1, _pages(path))
    if pages > 1:
        raise Error(
            f"A photograph is one picture; this TIFF is a stack of {pages} (channels, depths or times), of which none is all of "
            "it. Save what is meant as one picture of 8 or 16 bits (ImageJ: Image > Type > RGB Color)."
        )


def is_deep(file: Image.Image) -> bool:
    """Whether an opened picture, not yet loaded, has samples of more than 8 bits; which of these count is not yet asked."""
    return (
        file.mode.startswith("I")
        or _in_planes(file)
        or any(";16" in str(_raw_mode(tile.args)) for tile in _tiles(file))
    )


def levels(path: Path, file: Image.Image) -> tuple[np.ndarray | None, str]:
    """(rows, cols, 1 to 4) float32 samples in [0, 1] of a deep picture: grey or colours, and alpha if it has some; and what
    is to be said of it, or "".

    None: a colour picture that uses all 16 bits, of which the upper 8 are as good. file: as opened, not loaded; it is then.
    Errors: numbers that are no 16 bits; a kind of colours of which 8 bits are all that can be had and too few.
    """
    if file.mode.startswith("I"):
        return _grey(file)
    raw = {str(_raw_mode(tile.args)) for tile in _tiles(file)}
    file.load()
    upper = np.asarray(file)
    if upper[..., :3].max(initial=0) >= 2 ** (DEPTHS[-2] - 8) and not _has_gap(upper[..., :3]):
        return None, ""
    if not raw <= LOW_BYTES.keys():
        raise Error(
            f"A picture of 16 bits a colour uses them or is RGB; this one is {file.mode} and ends at {upper.max()} of 255. "
            "Save it with 8 bits."
        )
    found = _both_bytes(path, file.format or "", "LA;16B" in raw, upper)
    key = file.info.get("transparency")
    if isinstance(key, tuple) and found.shape[-1] == 3:
        found = np.dstack([found, np.where((found == key).all(-1), 0, FULL)])
    colours = 1 if found.shape[-1] == 2 else 3
    white, note = _white(found[..., :colours])
    alpha = found[..., colours:]
    scaled = [found[..., :colours] / white, alpha / (white if alpha.max(initial=0) <= white else FULL)]
    return np.clip(np.dstack(scaled), 0, 1).astype(np.float32), note


def orientation(file: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 to 8."""
    found = file.getexif().get(0x0112, 1)
    return found if found in range(1, 9) else 1


def upright(found: np.ndarray, turn: int) -> np.ndarray:
    """(rows, cols, channels) float32 samples of a picture with an EXIF orientation, as a viewer shows it."""
    if turn == 1:
        return found
    turned = [Image.fromarray(np.ascontiguousarray(one)).transpose(TURNS[turn]) for one in np.moveaxis(found, 2, 0)]
    return np.dstack([np.asarray(one) for one in turned])


def _in_planes(file: Image.Image) -> bool:
    """Whether a TIFF has more than 8 bits a sample and its channels one after the other."""
    tags = getattr(file, "tag_v2", {})
    deep = max(tags.get(BITS_PER_SAMPLE, (1,))) > 8 and tags.get(SAMPLES_PER_PIXEL, 1) > 1
    return deep and tags.get(PLANAR_CONFIGURATION) == PLANES


def _pages(path: Path) -> int:
    """How many pictures a TIFF has, without smaller editions of its first and masks."""
    with path.open("rb") as handle, Image.open(handle, formats=("TIFF",)) as file:
        size, found = file.size, 1
        for page in range(1, getattr(file, "n_frames", 1)):
            file.seek(page)
            kind = getattr(file, "tag_v2", {}).get(NEW_SUBFILE_TYPE, 0)
            found += not (kind & SMALLER_OR_MASK or (file.width < size[0] and file.height < size[1]))
    return found


def _grey(file: Image.Image) -> tuple[np.ndarray, str]:
    tags = getattr(file, "tag_v2", {})
    bits = max(tags.get(BITS_PER_SAMPLE, (16,)))
    inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO  # which Pillow undoes in pictures of 8 bits alone
    file.load()  # before its shape is asked: a TIFF is turned by then
    values = np.asarray(file)
    low, high = values.min(), values.max()
    if low < 0 or high > FULL:
        raise Error(f"A photograph has 8 or 16 bits; this one reaches from {low} to {high}. Save it with 16 bits.")
    white, note = (2**bits - 1, "") if 8 < bits < 16 else _white(values)
    key = file.info.get("transparency")
    scaled = np.clip(values / white, 0, 1)
    scaled = (1 - scaled if inverted else scaled).astype(np.float32)
    seen = np.dstack([scaled, values != key]).astype(np.float32) if isinstance(key, int) else scaled[..., None]
    return seen, note


def _has_gap(values: np.ndarray) -> bool:
    """Whether upper bytes but for those of all ones would fit into fewer bits."""
    below = values[values < 255]
    return values.max(initial=0) == 255 and below.size > 0 and below.max() < 2 ** (DEPTHS[-2] - 8)


def _white(values: np.ndarray) -> tuple[int, str]:
    """The value that is white, and what is to be said where it is less than 16 bits hold."""
    high = int(values.max(initial=0))
    below = values[values < FULL]
    burnt = high == FULL and below.size > 0 and int(below.max()) < 2 ** DEPTHS[-2]
    high = int(below.max()) if burnt else high
    bits = next(bits for bits in DEPTHS if high < 2**bits)
    if bits == DEPTHS[-1]:
        return FULL, ""
    beside = ", but for burnt-in ones of 65535," * burnt
    return 2**bits - 1, (
        f"Pictures of 16 bits whose values{beside} stay below {2**bits} are read as pictures of {bits} bits: "
        f"{2**bits - 1} is white."
    )


def _both_bytes(path: Path, kind: str, grey: bool, upper: np.ndarray) -> np.ndarray:
    """(rows, cols, channels) samples of 16 bits, of the upper bytes and of the file read again for the lower ones."""
    with path.open("rb") as handle, Image.open(handle, formats=(kind,)) as again:
        again.tile = [tile._replace(args=_lower(tile.args)) for tile in _tiles(again)]
        again.load()
        lower = np.asarray(again)
    if grey:  # with alpha: four bytes a pixel
        both = lower.astype(np.int32)
        return np.dstack([both[..., 0] * 256 + both[..., 1], both[..., 2] * 256 + both[..., 3]])
    return upper.astype(np.int32) * 256 + lower


def _lower(args):
    return LOW_BYTES[args] if isinstance(args, str) else (LOW_BYTES[args[0]], *args[1:])


def _raw_mode(args):
    """How a decoder of Pillow is told what the samples are: alone, or before other things."""
    return args if isinstance(args, str) else args[0] if args else ""


def _tiles(file: Image.Image) -> list:
    return list(getattr(file, "tile", ()))
