"""Raw scans with lesion masks, which maps are measured on."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from domains import brain_mri
from toolkit.data import dataset
from toolkit.example import Error, Note
from toolkit.formats import nifti

__all__ = ["find_raw_scans", "read_lesions"]


def find_raw_scans(data: Path) -> tuple[Path, str]:
    """The raw scans that a data set was prepared from, or `data` itself, and the contrast to take of them.

    Errors: a data set whose raw scans are not there.
    """
    if not (data / "dataset.json").is_file():
        return data, brain_mri.CONTRAST
    info = dataset.read_info(data)
    raw = Path(info.get("raw", ""))
    if not info.get("raw") or not raw.exists():
        raise Error(f"Maps are measured on the scans themselves; {data} was prepared from '{raw}', which is not there.")
    return raw, info.get("options", {}).get("contrast", brain_mri.CONTRAST)


def read_lesions(scan: nifti.Scan, volume: nifti.Volume) -> np.ndarray:
    """The lesion mask of a scan that has one, (slices, rows, cols) in display order. A Note says what was decided of it."""
    assert scan.mask is not None, "a scan without a mask is left out before"
    marked, notes = scan.marked(volume)
    for note in notes:
        warnings.warn(f"Of {scan.mask.name}: {note}.", Note, stacklevel=2)
    return nifti.display(marked, volume.affine)[0]
