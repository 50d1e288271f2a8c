"""Where the slices of a series lie, from positions that a scanner or a PACS may have rounded."""

from __future__ import annotations

import numpy as np

from toolkit.formats.dicom.files import refuse

__all__ = ["fit"]

UNEVEN = 0.02
"""Share of a step, and millimetres, by which slices may miss their places: what a scanner's own rounding does is less."""

ROUNDED = 0.05
"""Millimetres by which rounding to 0.1 mm, which some PACS do, moves a slice along each axis."""


def fit(positions: np.ndarray, normal: np.ndarray, names: list[str], series: str) -> tuple[np.ndarray, np.ndarray]:
    """The place of the first slice and the step to the next, (3,) millimetres each, of evenly spaced slices.

    positions: (S, 3), sorted along normal (3,). All slices together tell the step, so that steps of 1.2 and 1.3 mm are
    the 1.25 mm that they were; none may lie further from its place than rounding explains. Errors: two images at
    one place, uneven distances, slices that shift sideways.
    """
    count = len(positions)
    depth = positions @ normal
    gaps = np.diff(depth)
    if gaps.min() < UNEVEN:
        k = int(gaps.argmin())
        raise refuse(
            series,
            "A series has one image at each place",
            f"has {int((gaps < UNEVEN).sum())} too many ('{names[k]}' and '{names[k + 1]}', for one)",
            "Split it by echo, contrast or repetition, or remove the copies.",
        )
    first, step = _line(positions)
    usual = float(step @ normal)
    allowed = max(UNEVEN * usual, min(ROUNDED + 0.01, usual / 8))
    # Along a normal that is oblique the rounding of three coordinates adds up.
    reach = allowed * max(1.0, float(np.abs(normal).sum()))
    astray = positions - first - np.arange(count)[:, None] * step
    if np.abs(astray @ normal).max() > reach:
        raise refuse(
            series,
            "Slices lie at equal distances",
            f"has steps from {gaps.min():.3f} to {gaps.max():.3f} mm, mostly {np.median(gaps):.3f}",
            "Look for slices that are missing.",
        )
    sideways = float(np.linalg.norm(step - normal * usual))
    # Over the whole stack rounding may add up to two such misses, and to no more however long the stack is.
    slack = max(UNEVEN * usual, UNEVEN, 2 * np.sqrt(3) * ROUNDED / (count - 1))
    if np.abs(astray).max() > reach or sideways > slack:
        found = f"shifts by {max(float(np.abs(astray).max()), sideways):.3f} mm"
        raise refuse(series, "Slices lie straight above one another", found, "Resample it first.")
    return first, step


def _line(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The straight line through the first and last slice or, where that misses one, the one whose largest miss is least.

    Rounding is bounded, so that this line (Chebyshev's) is nearer to the truth than that of least squares.
    """
    count = len(positions)
    first, step = positions[0], (positions[-1] - positions[0]) / (count - 1)
    if np.abs(positions - first - np.arange(count)[:, None] * step).max() < 1e-3:
        return first, step
    line = np.array([_least_miss(column) for column in positions.T])
    return line[:, 0], line[:, 1]


def _least_miss(values: np.ndarray) -> np.ndarray:
    """Offset and slope of the line over 0, 1, 2, ... whose largest distance from values (S,) is least."""
    from scipy.optimize import linprog

    count = len(values)
    line = np.stack([np.ones(count), np.arange(count)], axis=1)
    miss = -np.ones((count, 1))
    start = values.mean()
    found = linprog(
        [0, 0, 1],
        np.block([[line, miss], [-line, miss]]),
        np.concatenate([values - start, start - values]),
        bounds=[(None, None), (None, None), (0, None)],
        method="highs",
    )
    return found.x[:2] + np.array([start, 0.0])
