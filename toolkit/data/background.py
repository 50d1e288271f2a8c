"""What lies round a head that was not measured: padding, masked air, no number at all - and the grey level it stands for.

In a scan as it was acquired air is dark: noise, or 0. Software writes something else there: -1024, -2000 or -32768, 0
beside a brain whose values were made z-scores (half of them are negative), 0 beside a brain that had a constant added.
Such a constant is no grey level. `level_background` puts it where air would lie, so that what follows needs no number
that is taken for absolute: every rule here is unchanged when a stack becomes a + b stack, b > 0.

Every array is a stack (slices, rows, cols). numpy and scipy.ndimage only.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["air_level", "level_background"]

FRAME = 0.02
"""A value is a constant of the background when at least this share of the outermost pixels of the slices has it."""

BRIGHT_FRAME = 0.1
"""The same of a constant that is not dark: a head that meets the frame may have saturated voxels there."""

FEWEST = 0.01
"""Share of the voxels that must be no background for it to be judged by them."""

GAP = 0.25
"""How far below the darkest of what was measured air may lie, as a share of its range. Acquired and masked scans of four
data sets have 0.0 to 0.2; what lies deeper was put there."""

WITHIN = 0.15
"""How far up the range of what was measured a constant has to lie not to be air. Acquired scans have less than 0.02."""

DARK = 0.25
"""Share of what was measured that is dark where there is air beside the constant."""

DARKEST = 0.5
"""Percentile of a scan that stands for air; a few voxels below it, as resampling leaves, are none."""

SQUARE = np.ones((1, 3, 3), bool)
"""A pixel and its neighbours within the slice."""

ROUNDS = 3
"""Constants that may lie inside one another, as padding round a masked head does."""

ROUNDING = 1e-6
"""By how much of its value the voxels of a blank slice may differ."""

BRIGHTEST = 99.9
"""Percentile of what was measured that few voxels exceed."""

WILD = 3.0
"""How far beyond air and the brightest a voxel may lie, as a share of what is between: farther is a fault of one voxel.
Acquired scans of four data sets have up to 2.1 above."""


def air_level(stack: np.ndarray) -> float:
    """The grey level of air in a stack whose background is level: the darkest half percent of its slices that show something."""
    blank = _blank(stack)
    return float(np.percentile(stack if blank.all() else stack[~blank], DARKEST))


def level_background(stack: np.ndarray) -> np.ndarray:
    """The stack, float32, with constants of its background that are not dark, or far too dark, at the level of air.

    That is the level of the air beside the constant where there is some, else GAP below the darkest of what was measured.
    A slice that is constant was not measured, whatever its value: it is at the level of air, and has no part in finding
    it. Single voxels that are WILD are at the bound. A stack that needs nothing is returned as it is: whatever was
    acquired, whole or masked with 0.
    """
    whole = np.asarray(stack, np.float32)
    blank = _blank(whole)
    if blank.all():
        return whole
    volume, padding = whole[~blank], np.unique(whole[blank])
    for _ in range(ROUNDS):
        changed = _levelled(volume, padding)
        if changed is None:
            break
        volume = changed
    air, bright = (float(v) for v in np.percentile(volume, (DARKEST, BRIGHTEST)))
    if bright > air:
        reach = WILD * (bright - air)
        volume = np.clip(volume, np.float32(air - reach), np.float32(bright + reach))
    if not blank.any():
        return volume
    result = np.full_like(whole, np.float32(air))
    result[~blank] = volume
    return result


def _blank(volume: np.ndarray) -> np.ndarray:
    """(slices,) which of them are constant."""
    low, high = volume.min((1, 2)), volume.max((1, 2))
    return high - low <= ROUNDING * np.maximum(np.abs(low), np.abs(high))


def _levelled(volume: np.ndarray, padding: np.ndarray) -> np.ndarray | None:
    """The volume with one round of constants placed, or None. padding: values of blank slices, constants as well."""
    constants = np.union1d(_frame_constants(volume), padding)
    measured = volume[~_having(volume, constants)]
    if not len(constants) or measured.size < FEWEST * volume.size:
        return None
    darkest, low, high = (float(v) for v in np.percentile(measured, (2, 5, 95)))
    dark, floor = low + WITHIN * (high - low), np.float32(darkest - GAP * (high - low))
    deep, amid = constants[constants < floor], np.union1d(_frame_constants(volume, BRIGHT_FRAME), padding)
    amid = amid[amid > dark]
    air = constants[(constants >= floor) & (constants <= dark)]
    if not high > low or not len(deep) + len(amid):
        return None
    placed = _having(volume, deep) | _regions(_having(volume, amid))
    level = air.min() if len(air) else _air_beside(volume, placed, dark)
    result = np.maximum(volume, floor) if len(deep) else volume.copy()
    result[placed] = floor if level is None else level
    return None if np.array_equal(result, volume) else result


def _having(volume: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where a volume has one of a few values."""
    found = np.zeros(volume.shape, bool)
    for value in values:
        found |= volume == value
    return found


def _frame_constants(volume: np.ndarray, share: float = FRAME) -> np.ndarray:
    """The values that make up a share of the outermost pixels; of noise in whole numbers these are several."""
    edges = (volume[:, 0], volume[:, -1], volume[:, 1:-1, 0], volume[:, 1:-1, -1])
    values, counts = np.unique(np.concatenate([edge.ravel() for edge in edges]), return_counts=True)
    return values[(counts >= share * counts.sum()) & np.isfinite(values)]


def _air_beside(volume: np.ndarray, placed: np.ndarray, dark: float) -> np.float32 | None:
    """The median of what lies two and three pixels from what was placed, if it is air: dark, and not alone in that."""
    near = np.asarray(ndimage.binary_dilation(placed, SQUARE), bool)
    beside = volume[ndimage.binary_dilation(near, SQUARE, iterations=2) & ~near]
    if not beside.size or np.median(beside) > dark or np.mean(volume[~placed] < dark) < DARK:
        return None
    return np.float32(np.median(beside))


def _regions(mask: np.ndarray) -> np.ndarray:
    """The parts of a mask that are 3 x 3 pixels somewhere: a measured voxel may have the value by chance."""
    return ndimage.binary_propagation(ndimage.binary_erosion(mask, SQUARE, border_value=1), SQUARE, mask)
