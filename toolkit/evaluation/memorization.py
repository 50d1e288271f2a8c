"""How near an image comes to the images a model was trained on. Numpy only."""

from __future__ import annotations

import math

import numpy as np

from toolkit.example import Error

__all__ = ["nearest_ncc"]

_CHUNK = 512


def nearest_ncc(queries: np.ndarray, references: np.ndarray, shifts: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """The reference most like each query, under left-right flips and shifts of up to `shifts` pixels.

    queries (N, C, H, W), references (M, C, H, W). The query without a border of `shifts` pixels is laid over every
    place of the reference, as it is and mirrored, and correlated with what lies below, both less their mean and over
    their norm: a shifted, mirrored, brightened or stretched copy has 1, up to rounding. Where nothing but a constant
    is compared it is 0.

    Returns similarity (N,) in [-1, 1] and the index (N,) of the reference. Errors: shapes that differ, no reference,
    images too small for the shifts.
    """
    if queries.ndim != 4 or references.ndim != 4 or queries.shape[1:] != references.shape[1:] or not len(references):
        raise Error(
            "Images are compared as (N, C, H, W) with one or more (M, C, H, W); "
            f"found {queries.shape} and {references.shape}. Bring them to one shape."
        )
    height, width = queries.shape[2] - 2 * shifts, queries.shape[3] - 2 * shifts
    if shifts < 0 or height < 2 or width < 2:
        raise Error(
            f"Shifts leave at least 2 x 2 pixels to compare; found {shifts} for {queries.shape[2:]}. Take fewer."
        )
    inner = queries[..., shifts : shifts + height, shifts : shifts + width]
    templates = np.concatenate([_unit(inner), _unit(inner[..., ::-1])])
    best = np.full(len(queries), -np.inf, np.float32)
    index = np.zeros(len(queries), int)
    for first in range(0, len(references), _CHUNK):
        chunk = references[first : first + _CHUNK]
        # One matrix product a shift: for few shifts and many pairs that is faster than any Fourier transform.
        for top in range(2 * shifts + 1):
            for left in range(2 * shifts + 1):
                below = _unit(chunk[..., top : top + height, left : left + width])
                found = (templates @ below.T).reshape(2, len(queries), len(chunk)).max(0)
                nearest = found.argmax(1)
                value = found[np.arange(len(queries)), nearest]
                closer = value > best
                best[closer], index[closer] = value[closer], first + nearest[closer]
    return np.clip(best, -1, 1), index


def _unit(images: np.ndarray) -> np.ndarray:
    """Each image as a row of mean 0 and norm 1; one that is constant as zeros."""
    rows = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    flat = norm <= 1e-9 * np.abs(images).max(initial=1e-30)
    return np.where(flat, 0, rows / np.where(flat, 1, norm)).astype(np.float32)
