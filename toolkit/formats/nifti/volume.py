"""One volume of one file, read only where its place in the patient and its voxels are certain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from toolkit.example import Error
from toolkit.formats.nifti.header import Grid, open_stream, read_header
from toolkit.formats.nifti.names import parse_file_name, spell_contrast

__all__ = ["Volume", "load"]


@dataclass(frozen=True)
class Volume:
    """One scan on its own grid.

    array: (X, Y, Z) float32 in source units, scl_slope and scl_inter applied.
    affine: (4, 4) float64, voxel index to RAS millimetres.
    label: alphanumeric; contrast: BIDS suffix or "unknown" (see `label_of`).
    notes: what `load` had to decide; for the user's eyes.
    code: NIfTI code of the space that the affine leads to, >= 1.
    acquired: False where the header says that diffgraft made the image.
    unit: NIfTI code of the unit that the file has its lengths in; here they are millimetres whatever it is.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path
    label: str
    contrast: str
    notes: tuple[str, ...] = ()
    code: int = 1
    acquired: bool = True
    unit: int = 2

    @property
    def spacing(self) -> np.ndarray:
        """(3,) millimetres between voxels along the source axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def load(path: str | Path, *, nan: Literal["refuse", "zero"] = "refuse", contrast: str | None = None) -> Volume:
    """Read one .nii or .nii.gz volume.

    nan: "zero" replaces voxels that are not finite by 0 (and says so in `notes`); "refuse" raises.
    contrast: what the scan shows, where the file name does not say it.
    Raises Error for anything that is no NIfTI file, is truncated, has no certain place in the patient (both codes 0;
    equal codes with different affines; an affine or pixdim that is not finite, singular, zero or negative), is no
    single 3-D scalar volume, claims more voxels than the file can hold, or holds voxels that are not finite.
    """
    path = Path(path)
    if nan not in ("refuse", "zero"):
        raise Error(f"nan is 'refuse' or 'zero'; found {nan!r}. Use one of the two.")
    label, named = parse_file_name(path)
    with open_stream(path) as stream:
        grid = read_header(path, stream)
        raw = _voxels(path, stream, grid)
    # Scaling runs in double precision and ends in float32; what overflows is caught below as not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        if (grid.slope, grid.inter) != (1.0, 0.0):
            raw = raw.astype(np.float64) * grid.slope + grid.inter
        array = np.ascontiguousarray(raw.astype(np.float32).reshape(grid.shape, order="F"))
    notes = grid.notes
    bad = ~np.isfinite(array)
    if count := int(bad.sum()):
        if nan == "refuse":
            raise Error(
                f"Voxels must be finite numbers; '{path}' holds {count} that are not (NaN, infinite or too large for "
                "float32). Mend the file (fslmaths IN -nan OUT sets them to 0), or treat it with counterfactual --nan zero."
            )
        array[bad] = 0
        notes += (f"{count} voxels that were not finite were set to 0",)
    return Volume(
        array,
        grid.affine,
        path,
        label,
        spell_contrast(contrast) if contrast else named,
        notes,
        grid.code,
        grid.acquired,
        grid.unit,
    )


def _voxels(path: Path, stream: IO[bytes], grid: Grid) -> np.ndarray:
    """(voxels,) raw numbers in file order. Raises Error where the file ends early."""
    size = math.prod(grid.shape) * grid.dtype.itemsize
    stream.seek(grid.offset)
    data = stream.read(size)
    if len(data) < size:
        raise Error(
            f"A file must hold the voxels that its header claims; '{path}' ends after {len(data)} of {size} bytes: it "
            "is truncated. Copy or convert it again."
        )
    # Reading on to the end makes gzip compare its checksum; bounded, so that a padded file cannot keep us busy.
    for _ in range(64):
        if not stream.read(2**20):
            break
    return np.frombuffer(data, grid.dtype)
