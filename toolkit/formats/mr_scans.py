"""MR scans to be treated, from NIfTI files or DICOM series alike, and what is made of a series back as DICOM.

A DICOM series is known by a label that is made of its UID, because everything else that names it may name the patient.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.file_names import printable
from toolkit.example import Error, Provenance
from toolkit.formats import nifti
from toolkit.formats.folders import Aside

if TYPE_CHECKING:
    from toolkit.formats.dicom.series import Series, SeriesFiles

__all__ = ["Scan", "find", "load", "write_dicom"]


@dataclass(frozen=True)
class Scan:
    """One scan that `find` met.

    label: names the outputs. name: of the file, with its folders where several have one name, or UID of the series. group:
    the patient. entities: of the BIDS names of the outputs, see `nifti.result_entities`. contrast: of a file, as its path
    says it.
    """

    label: str
    name: str
    group: str
    entities: Mapping[str, str]
    path: Path | None = None
    contrast: str = "unknown"
    series: SeriesFiles | None = None


def find(root: str | Path, contrast: str, aside: Aside) -> list[Scan]:
    """The scans of a file or folder that show a contrast: its NIfTI files, else its DICOM MR series.

    A single file, and a series that is alone, is taken whatever it shows; the domain judges it. aside(name, reason) is
    told what else was met there and is not read. Errors: nothing to be treated, two scans with one label.
    """
    root = Path(root)
    if _is_dicom(root):
        return _series(root, contrast, aside)
    met = nifti.find(root, contrast if root.is_dir() else None, aside, masks=False)
    times = Counter(s.path.name for s in met)
    names = [s.path.name if times[s.path.name] == 1 else s.path.relative_to(root).as_posix() for s in met]
    entities = nifti.result_entities([(s.path, s.label) for s in met])
    found = [
        Scan(s.label, printable(name), s.group, own, s.path, s.contrast)
        for s, name, own in zip(met, names, entities, strict=True)
    ]
    seen: dict[str, Scan] = {}
    for scan in found:
        if other := seen.get(scan.label):
            raise Error(
                f"Two scans of one run need two labels; {other.name} and {scan.name} are both '{scan.label}'. Rename one, "
                "or treat them in two runs."
            )
        seen[scan.label] = scan
    return found


def load(scan: Scan, nan: str) -> tuple[nifti.Volume, Series | None]:
    """The volume of a scan, and its series where it is DICOM. Raises what nifti.load and series.load raise."""
    if scan.series is None:
        assert scan.path is not None
        volume = nifti.load(scan.path, nan=nan, contrast=scan.contrast)  # type: ignore[arg-type]
        return dataclasses.replace(volume, label=scan.label), None
    from toolkit.formats.dicom import series as dicom

    source = dicom.load(scan.series)
    # The path stands for the name of the source in messages, and the UID is the one that does not name the patient.
    volume = nifti.Volume(source.voxels, source.affine, Path(scan.name), scan.label, source.contrast)
    return volume, source


def write_dicom(
    folder: Path,
    series: Series,
    counterfactual: np.ndarray,
    anomaly: np.ndarray,
    mask: np.ndarray,
    provenance: Provenance,
) -> list[Path]:
    """Write what was made of a series, (X, Y, Z) each on its grid, below folder: all of it, or nothing.

    provenance is that of the counterfactual; the other two are maps measured on it.
    """
    from toolkit.formats.dicom import derived

    measured = dataclasses.replace(provenance, kind="map")
    try:
        return [
            *derived.write_mr_series(series, counterfactual, provenance, folder),
            derived.write_parametric_map(series, anomaly, measured, folder),
            derived.write_segmentation(series, mask, measured, folder),
        ]
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_dicom(root: Path) -> bool:
    """A DICOM file, or a folder of such without NIfTI files."""
    files = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
    if any(path.name.lower().endswith((".nii", ".nii.gz")) for path in files):
        return False
    from toolkit.formats.dicom.files import is_bare, is_dicom

    return any(is_dicom(path) or is_bare(path) for path in files)


def _series(root: Path, contrast: str, aside: Aside) -> list[Scan]:
    from toolkit.formats.dicom import series as dicom

    found = dicom.find(root, aside)
    wanted = [s for s in found if s.contrast == contrast] or (found if len(found) == 1 else [])
    if not wanted:
        shown = [s.contrast for s in found]
        seen = ", ".join(f"{shown.count(c)} {c}" for c in sorted(set(shown))) or "none"
        raise Error(
            f"A DICOM folder holds at least one {contrast} MR series to be treated; '{root}' holds: {seen}. Give the "
            "folder of the series that is meant."
        )
    for other in found:
        if other not in wanted:
            aside(
                other.uid, f"A series to be treated shows {contrast}; this one shows {other.contrast}. Give it alone."
            )
    return [Scan(_label(s), s.uid, s.group, {"sub": _label(s)}, series=s) for s in wanted]


def _label(series: SeriesFiles) -> str:
    number = series.number if series.number.isdigit() else ""
    return f"s{number}{hashlib.sha256(series.uid.encode()).hexdigest()[:8]}"
