"""Volumes as axial slices in radiological display, and exactly back."""

from __future__ import annotations

import numpy as np

from toolkit.example import Error
from toolkit.formats.nifti.volume import Volume

__all__ = ["axes", "display", "display_spacing", "restore", "stored_index"]


def axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], str]:
    """Source axes for (slice, row, col), whether each is reversed, and the source orientation as letters."""
    from nibabel.orientations import io_orientation, ornt2axcodes

    orientation = io_orientation(affine)
    axis = {int(world): source for source, (world, _) in enumerate(orientation)}
    positive = [bool(sign > 0) for _, sign in orientation]
    s, a, r = axis[2], axis[1], axis[0]
    # Slices rise toward superior, rows toward posterior, columns toward the patient's left.
    return (s, a, r), (not positive[s], positive[a], positive[r]), "".join(ornt2axcodes(orientation))


def display(volume: Volume | np.ndarray, affine: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """A volume as axial slices in radiological display; an oblique grid is shown along its closest axes.

    volume: Volume, or array (X, Y, Z) of any dtype with its affine.
    Returns stack (slices, rows, cols), a copy - slice 0 is the most inferior, row 0 anterior, column 0 the patient's
    right - and the orientation of the source, for example "LPS".
    """
    array = np.asarray(getattr(volume, "array", volume))
    affine = getattr(volume, "affine", None) if affine is None else affine
    if affine is None or array.ndim != 3:
        raise Error(
            f"display needs an (X, Y, Z) array and its affine; found shape {array.shape}. Give a Volume or both."
        )
    order, reverse, letters = axes(affine)
    steps = tuple(slice(None, None, -1 if back else 1) for back in reverse)
    return np.array(array.transpose(order)[steps], order="C"), letters


def restore(stack: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The exact inverse of `display`: (slices, rows, cols) back to (X, Y, Z) on the source grid, a copy.

    shape: the source's; raises Error where the stack does not fit it.
    """
    order, reverse, _ = axes(affine)
    stack = np.asarray(stack)
    expected = tuple(int(shape[axis]) for axis in order)
    if stack.shape != expected:
        raise Error(
            f"A stack must have every slice of its source, {expected}; found {stack.shape}. Undo any resize first."
        )
    steps = tuple(slice(None, None, -1 if back else 1) for back in reverse)
    return np.array(stack[steps].transpose(np.argsort(order)), order="C")


def display_spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Millimetres between slices, rows and columns of the stack that `display` returns."""
    spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    slices, rows, cols = (float(spacing[axis]) for axis in axes(affine)[0])
    return slices, rows, cols


def stored_index(volume: Volume, displayed: int) -> int:
    """The index along the third array axis of a displayed axial slice; -1 when that axis is not the axial one."""
    direction = volume.affine[:3, 2]
    if np.argmax(np.abs(direction)) != 2:
        return -1
    return displayed if direction[2] > 0 else volume.array.shape[2] - 1 - displayed
