"""Lesion masks: whether one lies where its scan does, and which voxels it marks."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from toolkit.example import Error
from toolkit.formats.nifti.header import Grid
from toolkit.formats.nifti.volume import Volume, load

__all__ = ["NEAR", "load_mask", "misplaced"]

NEAR = 0.1
"""Parts of a voxel by which no corner of a mask may miss that of its scan: what rounding in a file does is less."""

REACHED = 0.5
"""The probability from which a voxel counts as lesion."""

_NOISE = 0.1
"""By how much interpolation may leave the range of probabilities."""

_WHOLE = 1e-3


def misplaced(mask: Grid | Volume, scan: Grid | Volume) -> str:
    """Why a mask does not lie on the voxels of a scan, "" where it does, in whatever order its file stores them."""
    if _way(mask, scan) is not None:
        return ""
    return (
        f"it lies on another grid, {_size(mask)} voxels of {_spacing(mask)} mm against {_size(scan)} of {_spacing(scan)} "
        "mm, or elsewhere in space. Resample it to the scan by its nearest neighbour, for example: flirt -in MASK -ref SCAN "
        "-applyxfm -usesqform -interp nearestneighbour -out MASK"
    )


def load_mask(path: Path, scan: Volume, lesions: tuple[int, ...] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The voxels of a scan that a mask marks, (X, Y, Z) bool on the grid of the scan, and notes of what was decided.

    lesions: the labels that are lesions, where that is known. Else labels above 0 are lesion, numbers between 0 and 1
    probabilities, which are lesion from 0.5; NaN is none. Raises Error for a mask on another grid, for negative numbers,
    for probabilities that never reach 0.5, for numbers that are neither labels nor probabilities, and where every voxel is
    marked.
    """
    mask = load(path, nan="zero")
    way = _way(mask, scan)
    if way is None:
        raise Error(f"A lesion mask lies on the grid of its scan; '{path.name}' does not: {misplaced(mask, scan)}.")
    marked, notes = _marked(path.name, mask.array) if lesions is None else (np.isin(np.rint(mask.array), lesions), ())
    if "not finite" in " ".join(mask.notes):
        notes = ("voxels that are no numbers (NaN) were taken as no lesion", *notes)
    order, back = way
    steps = tuple(slice(None, None, -1 if turned else 1) for turned in back)
    return np.ascontiguousarray(marked.transpose(order)[steps]), notes


def _marked(name: str, values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    low, high = float(values.min()), float(values.max())
    whole = bool((np.abs(values - np.rint(values)) <= _WHOLE * np.maximum(1, np.abs(values))).all())
    if whole:
        if low <= -0.5:
            raise Error(f"A mask holds 0 and positive labels; '{name}' holds {low:g}. Set what is no lesion to 0.")
        marked = values > REACHED
        notes: tuple[str, ...] = ()
        if len(found := np.unique(np.rint(values[marked])).astype(int)) > 1:
            shown = ", ".join(map(str, found[:6])) + (", ..." if len(found) > 6 else "")
            notes = (f"its labels {shown} were all taken as lesion",)
    elif low >= -_NOISE and high <= 1 + _NOISE:
        if 0 < high < REACHED:
            raise Error(
                f"A mask of probabilities reaches {REACHED} where there is a lesion; '{name}' ends at {high:.3g}. Scale it "
                "to 0 and 1, or set its threshold yourself."
            )
        marked, notes = values >= REACHED, (f"its probabilities were taken as lesion from {REACHED}",)
    else:
        raise Error(
            f"A mask holds 0 and 1, whole labels, or probabilities; '{name}' holds other numbers, from {low:.4g} to "
            f"{high:.4g}. Apply its threshold first."
        )
    if marked.all():
        raise Error(
            f"A lesion mask marks a part of its scan; '{name}' marks every voxel. Check whether it is inverted."
        )
    return marked, notes


def _way(mask: Grid | Volume, scan: Grid | Volume) -> tuple[tuple[int, ...], tuple[bool, ...]] | None:
    """For each axis of the scan the mask's, and whether it runs the other way; None where the grids differ."""
    way = np.linalg.inv(scan.affine) @ mask.affine
    turn = np.rint(way[:3, :3])
    if not np.array_equal(np.abs(turn) @ np.ones(3), np.ones(3)) or abs(abs(np.linalg.det(turn)) - 1) > 1e-6:
        return None
    order = tuple(int(np.abs(row).argmax()) for row in turn)
    back = tuple(bool(turn[axis, source] < 0) for axis, source in enumerate(order))
    if tuple(_shape(mask)[source] for source in order) != _shape(scan):
        return None
    corners = np.array(list(itertools.product(*((0, n - 1) for n in _shape(mask)))), float)
    there = corners @ way[:3, :3].T + way[:3, 3]
    turned = corners[:, order]
    expected = np.where(back, np.array(_shape(scan)) - 1 - turned, turned)
    return (order, back) if np.abs(there - expected).max() <= NEAR else None


def _shape(grid: Grid | Volume) -> tuple[int, ...]:
    return tuple(grid.array.shape) if isinstance(grid, Volume) else grid.shape


def _size(grid: Grid | Volume) -> str:
    return " x ".join(map(str, _shape(grid)))


def _spacing(grid: Grid | Volume) -> str:
    return " x ".join(f"{v:.4g}" for v in np.linalg.norm(grid.affine[:3, :3], axis=0))
