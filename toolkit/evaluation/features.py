"""Features of a data set, computed once a block of images and kept as .npy files. Numpy only.

    FOLDER/<fingerprint of the network>-<hash of the block>.npy      (n, D) float32

The name holds all that the features depend on, so that nothing in the folder can be out of date: another network or
another image is another file, and a data set that has grown computes its last blocks only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toolkit.example import Error, Example

__all__ = ["BLOCK", "Features", "cached_features"]

BLOCK = 256
"""Images a file."""


class Features(NamedTuple):
    """values (n, D) float32, and what makes them readable: backbone, images, dimensions, image shape, what was reused."""

    values: np.ndarray
    protocol: dict[str, Any]


def cached_features(
    features: Callable[[np.ndarray], np.ndarray],
    images: Iterable[np.ndarray] | Iterable[Example],
    fingerprint: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    batch: int = 32,
    watch: Callable[[int], object] = lambda _: None,
) -> Features:
    """The features of images (C, H, W) in [-1, 1], or of samples, in their order.

    features: (n, C, H, W) float32 -> (n, D). fingerprint: of the network's weights; its first 16 characters name it.
    folder: where blocks are kept; None keeps nothing. watch(done) is called once a batch. Errors: no image, images of
    two shapes, an answer that is not one row of finite numbers an image.
    """
    blocks, reused, done, shape = [], 0, 0, None
    for block in _blocks(images):
        if shape is None:
            shape = block.shape[1:]
        if block.shape[1:] != shape:
            raise Error(
                f"Features are taken of images of one shape; found {shape} and {block.shape[1:]}. Prepare again."
            )
        path = None if folder is None else Path(folder) / f"{fingerprint[:16]}-{_hash(block)}.npy"
        values = None if path is None else _kept(path, len(block))
        reused += 0 if values is None else len(block)
        if values is None:
            parts = []
            for first in range(0, len(block), batch):
                parts.append(_checked(features(block[first : first + batch]), len(block[first : first + batch])))
                watch(done + min(first + batch, len(block)))
            values = np.concatenate(parts)
            if path is not None:
                _keep(path, values)
        done += len(block)
        watch(done)
        blocks.append(values)
    if shape is None:
        raise Error("Features are taken of one or more images; found none. Check the data set.")
    values = np.concatenate(blocks)
    protocol = {
        "backbone": fingerprint[:16],
        "images": len(values),
        "dimensions": values.shape[1],
        "image_shape": list(shape),
        "reused": reused,
    }
    return Features(values, protocol)


def _blocks(images: Iterable[Any]) -> Iterator[np.ndarray]:
    block: list[np.ndarray] = []
    for image in images:
        array = np.asarray(getattr(image, "image", image), np.float32)
        if block and array.shape != block[0].shape:
            yield np.stack(block)
            block = []
        block.append(array)
        if len(block) == BLOCK:
            yield np.stack(block)
            block = []
    if block:
        yield np.stack(block)


def _hash(block: np.ndarray) -> str:
    digest = hashlib.sha256(repr(block.shape).encode())
    digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()[:32]


def _kept(path: Path, count: int) -> np.ndarray | None:
    """The block in a file, or None where there is none or it is damaged: then it is computed again."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values if values.ndim == 2 and len(values) == count and values.dtype == np.float32 else None


def _keep(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, values, allow_pickle=False)
    part.replace(path)


def _checked(values: np.ndarray, count: int) -> np.ndarray:
    values = np.asarray(values, np.float32)
    if values.ndim != 2 or len(values) != count or not np.isfinite(values).all():
        raise Error(
            f"A feature network answers one row of finite numbers an image; found shape {values.shape} for {count}. "
            "Take another."
        )
    return values
