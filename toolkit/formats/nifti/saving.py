"""Volumes and their JSON sidecars written, whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.example import Error
from toolkit.formats.nifti.header import TOLERANCE
from toolkit.formats.nifti.names import is_nifti_name, stem_of
from toolkit.formats.nifti.units import MILLIMETRES
from toolkit.formats.nifti.volume import Volume

__all__ = ["read_sidecar", "save", "write_dataset_description", "write_sidecar"]

# dtype and marker of each kind of file. The marker travels inside the header, so that a file that lost its name still
# says what it is.
_KINDS = {
    "intensity": (np.float32, "diffgraft intensity NOT ACQUIRED"),
    "map": (np.float32, "diffgraft map NOT ACQUIRED"),
    "mask": (np.uint8, "diffgraft mask NOT ACQUIRED"),
    "acquired": (np.float32, "diffgraft copy of an acquired image"),
}


def save(path: str | Path, array: np.ndarray, like: Volume, kind: str) -> Path:
    """Write an array on the grid of `like`, atomically, with a fresh header.

    array: (X, Y, Z) on the source grid. kind: "intensity" (float32, source units), "map" (float32), "mask" (uint8,
    whole numbers 0 to 255) or "acquired" (float32, a real image copied). A .gz is the same, byte for byte, every time.
    Both qform and sform hold the affine of `like` with its code, in its unit; what a qform cannot hold to 1e-3 (shear, some turns
    by almost 180 degrees) is in the sform alone. Raises Error for another shape, for numbers that are not finite, and
    for a mask of other values.
    """
    from nibabel import Nifti1Image

    path, array = Path(path), np.asarray(array)
    if kind not in _KINDS:
        raise Error(f"kind is one of {', '.join(_KINDS)}; found {kind!r}. Use one of these.")
    if not is_nifti_name(path):
        raise Error(f"A NIfTI file ends in .nii or .nii.gz; found '{path}'. Rename the output.")
    if array.shape != like.array.shape:
        raise Error(f"'{path}' must have its source's grid {like.array.shape}; found {array.shape}. Use restore first.")
    dtype, marker = _KINDS[kind]
    with np.errstate(over="ignore", invalid="ignore"):
        data = array.astype(dtype)
    if kind == "mask" and not np.array_equal(data, array):
        raise Error(f"A mask holds whole numbers from 0 to 255; '{path}' would hold others. Apply the threshold first.")
    if not np.isfinite(data).all():
        raise Error(f"Voxels must be finite numbers; '{path}' would hold others. Look for the step that made them.")
    scale = MILLIMETRES[like.unit]
    affine = like.affine if scale == 1 else np.diag([1 / scale, 1 / scale, 1 / scale, 1.0]) @ like.affine
    image = Nifti1Image(data, affine)
    image.header["xyzt_units"] = like.unit
    image.header["descrip"] = marker.encode()
    code = max(int(like.code), 1)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if np.abs(image.get_qform() - affine).max() > TOLERANCE / scale:
        image.header["qform_code"] = 0
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, 6, mtime=0)
    return _replace(path, content)


def _replace(path: Path, content: bytes) -> Path:
    """Write whole or not at all: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _json(path: Path, content: dict[str, Any]) -> Path:
    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    try:
        text = json.dumps(content, indent=2, allow_nan=False, default=plain, ensure_ascii=False)
    except ValueError as problem:
        raise Error(f"JSON holds finite numbers only; '{path}': {problem}. Write null for what is unknown.") from None
    return _replace(path, (text + "\n").encode())


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """What the .json beside a scan says; nothing where there is none that can be read."""
    path = Path(path)
    try:
        content = json.loads(path.with_name(stem_of(path) + ".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_sidecar(path: str | Path, **fields: Any) -> Path:
    """Write the .json beside a NIfTI file (or replace it). Raises Error for NaN: what is unknown is null."""
    path = Path(path)
    return _json(path.with_name(stem_of(path) + ".json"), fields)


IGNORED = (
    "manifest.jsonl", "quarantine.jsonl", "request.json", "report.html", "*_report.html", "dicom", "*_dwi.*", "*_ADC.*",
    "*_swi.*", "*_ct.*",
)  # fmt: skip
"""What stands in a folder of results and is nothing that BIDS knows. A folder is named without a slash at its end: the
validator (3.0.2) passes over no folder that is named with one."""


def write_dataset_description(root: str | Path, version: str, sources: Iterable[str | Path]) -> Path:
    """Write dataset_description.json and .bidsignore of a BIDS derivative made by this version of diffgraft.

    sources: the folders or addresses of the data sets that it was made from.
    """
    _replace(Path(root) / ".bidsignore", "".join(f"{line}\n" for line in IGNORED).encode())
    urls = [str(s) if re.match(r"[a-z][a-z0-9+.-]+:", str(s), re.I) else Path(s).absolute().as_uri() for s in sources]
    return _json(
        Path(root) / "dataset_description.json",
        {
            "Name": "diffgraft: healthy counterfactuals and anomaly maps",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "diffgraft", "Version": version}],
            "SourceDatasets": [{"URL": url} for url in urls],
        },
    )
