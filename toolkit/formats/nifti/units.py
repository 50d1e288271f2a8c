"""The unit of length of a NIfTI file: inside there are millimetres, whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.example import Error

__all__ = ["MILLIMETRES", "check_width", "unit_of"]

MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}
"""Of a unit by its NIfTI code: metre, millimetre, micrometre."""

FINEST = 0.05
"""mm. Voxels that are smaller in every direction are those of no head; a few larger ones, less than a head, are a crop."""

NAMES = {1: "metre", 3: "micrometre"}

WIDTHS = 1.0, 1e4
"""mm. A field of view that is less, or more, in every direction has another unit than its header says."""


def unit_of(header: Any) -> tuple[int, tuple[str, ...]]:
    """The code of the unit, and a note where it is not the usual one. Code 0, not stated, is millimetre."""
    stated = int(header["xyzt_units"]) & 7
    if stated in NAMES:
        return stated, (f"the header says {NAMES[stated]}: sizes were converted to millimetres, outputs have its unit",)
    if stated in (0, 2):
        return 2, ()
    return 2, (f"the header has an unknown unit of length (code {stated}); sizes were read as millimetres",)


def check_width(path: Path, unit: int, affine: np.ndarray, shape: list[int]) -> None:
    """Refuse a unit that makes of a scan what nobody scans. affine: to millimetres."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0) * shape[:3]
    fine = sizes < FINEST * np.array(shape[:3])
    if unit not in NAMES and (sizes < WIDTHS[0]).all() and fine.all():
        words = " x ".join(f"{size:.3g}" for size in sizes)
        raise Error(
            f"A scan is {WIDTHS[0]:g} to {WIDTHS[1]:g} mm wide; '{path}' is {words} mm by its header, whose numbers may be in "
            "metres. Set the unit that they are in, for example with nibabel: image.header.set_xyzt_units('meter')."
        )
    if unit in NAMES and ((sizes < WIDTHS[0]).all() or (sizes > WIDTHS[1]).all()):
        words = " x ".join(f"{size:.3g}" for size in sizes)
        raise Error(
            f"A scan is {WIDTHS[0]:g} to {WIDTHS[1]:g} mm wide; '{path}' says {NAMES[unit]}, which makes it {words} mm. Set "
            "the unit that its numbers are in, for example with nibabel: image.header.set_xyzt_units('mm')."
        )
