"""Arrays as pictures inside a page: eight bits, reduced for display, and encoded as data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from toolkit.example import Error

__all__ = ["data_uri", "encode", "reduce", "side_by_side", "to_eight_bit", "to_picture"]


def data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def encode(picture: Image.Image) -> str:
    """A data URI: grey without loss as PNG, colour as WebP of high quality."""
    if picture.mode == "L":
        return data_uri(picture, "PNG", optimize=True)
    return data_uri(picture, "WEBP", quality=92, method=5)


def to_eight_bit(array: np.ndarray) -> np.ndarray:
    """[-1, 1] or boolean or uint8 to uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    return np.rint(np.clip(np.nan_to_num(array, nan=-1.0), -1, 1) * 127.5 + 127.5).astype(np.uint8)


def to_picture(array: np.ndarray, side: int) -> Image.Image:
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3):
        array = array[0] if shape[0] == 1 else np.moveaxis(array, 0, -1)
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise Error(f"An image of a Sheet is (H, W), (1 or 3, H, W) or (H, W, 3); found {shape}.")
    picture = Image.fromarray(np.ascontiguousarray(to_eight_bit(array)))
    return reduce(picture, min(1.0, side / max(picture.size)), Image.Resampling.LANCZOS)


def reduce(picture: Image.Image, scale: float, how: Image.Resampling) -> Image.Image:
    if scale == 1:
        return picture
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how)


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two images (C, H, W) of one height as one, (C, H, W + W + 2), with white between them."""
    gap = np.ones((left.shape[0], left.shape[1], 2), np.float32)
    return np.concatenate([left.astype(np.float32), gap, right.astype(np.float32)], 2)
