"""The scans of a file or a folder, each with its lesion mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.example import Error
from toolkit.formats.nifti.header import TOLERANCE, read_grid
from toolkit.formats.nifti.names import (
    OUTPUT,
    bids_entities,
    contrast_of_mask,
    desc_prefix,
    group_of,
    is_nifti_name,
    parse_file_name,
    spell_contrast,
    stem_of,
)

__all__ = ["Scan", "find"]


@dataclass(frozen=True)
class Scan:
    """One scan that `find` met. mask lies on the same grid, or is None. group is the patient: sessions share it."""

    path: Path
    label: str
    contrast: str
    mask: Path | None = None
    group: str = ""


def find(root: str | Path, contrast: str | None = None) -> list[Scan]:
    """The scans of a file or a folder (flat, a folder a patient, or BIDS), each with its lesion mask where it has one.

    contrast: only scans that show this; "flair" and "FLAIR" are the same.
    Masks, hidden files, diffgraft's counterfactuals and maps, and scans inside `derivatives/` are no scans. A mask
    belongs to a scan by label and by grid (shape, and affine to 1e-3); one that names the contrast comes before one
    that names none, one beside the scan before one elsewhere. Raises Error where nothing is found, where two scans
    would share a label and contrast, where two masks fit equally well, or where a mask that fits by name is refused.
    """
    root = Path(root)
    wanted = spell_contrast(contrast) if contrast else None
    if root.is_file():
        return [_single(root, wanted)]
    if not root.is_dir():
        raise Error(f"Scans are read from a file or a folder; '{root}' does not exist. Check the path.")
    files = _files(root)
    named = [(path, *parse_file_name(path)) for path in files]
    scans = [
        (path, label, shows)
        for path, label, shows in named
        if shows not in ("mask", "brainmask") and "derivatives" not in path.relative_to(root).parts[:-1]
    ]
    kept = [scan for scan in scans if wanted in (None, scan[2])]
    if not kept:
        seen = (
            ", ".join(f"{sum(s[2] == name for s in scans)} {name}" for name in sorted({s[2] for s in scans})) or "none"
        )
        raise Error(
            f"A folder must hold at least one {wanted or 'scan'} (.nii or .nii.gz) to be read; '{root}' holds {seen}. "
            f"Check the folder, or end the names in _{wanted or 'FLAIR'}.nii.gz."
        )
    taken: dict[tuple[str, str], Path] = {}
    for path, label, shows in kept:
        # Without regard to case: the outputs must not meet on a file system that ignores it.
        other = taken.setdefault((label.lower(), shows), path)
        if other is not path:
            raise Error(
                f"Every scan needs a label of its own; '{other}' and '{path}' are both {label} {shows}. Rename one."
            )
    masks = _by_name(path for path, _, shows in named if shows == "mask")
    return [Scan(path, label, shows, _mask_of(path, masks), group_of(path, label)) for path, label, shows in kept]


def _files(root: Path, pattern: str = "**/*") -> list[Path]:
    # Hidden files include the ._ twins that macOS leaves on shared disks: they end in .nii.gz and are no images.
    return sorted(
        path
        for path in root.glob(pattern)
        if is_nifti_name(path)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not OUTPUT.search(path.name)
        and path.is_file()
    )


def _single(path: Path, wanted: str | None) -> Scan:
    if not is_nifti_name(path):
        raise Error(f"A NIfTI file ends in .nii or .nii.gz; found '{path}'. Convert it, or give another file.")
    label, shows = parse_file_name(path)
    if shows in ("mask", "brainmask") or OUTPUT.search(path.name):
        raise Error(
            f"A scan is needed; '{path}' is named as a mask or as a result of diffgraft. Give the acquired scan."
        )
    if wanted and shows not in (wanted, "unknown"):
        raise Error(f"A {wanted} scan is needed; '{path}' is named {shows}. Give the {wanted} scan.")
    beside = [other for other in _files(path.parent, "*") if parse_file_name(other)[1] == "mask"]
    contrast = wanted if wanted and shows == "unknown" else shows
    return Scan(path, label, contrast, _mask_of(path, _by_name(beside)), group_of(path, label))


def _keys(path: Path) -> list[Any]:
    """What a mask and its scan have in common by name: the label, or else patient, session and run.

    The second is for derivatives, which often drop entities such as acq- or rec-.
    """
    label = parse_file_name(path)[0]
    own = bids_entities(stem_of(path))
    return [label, (own["sub"], own.get("ses"), own.get("run"), desc_prefix(own.get("desc", "")))] if own else [label]


def _by_name(masks: Iterable[Path]) -> dict[Any, list[Path]]:
    index: dict[Any, list[Path]] = {}
    for mask in masks:
        for key in _keys(mask):
            index.setdefault(key, []).append(mask)
    return index


def _mask_of(scan: Path, masks: dict[Any, list[Path]]) -> Path | None:
    """The one mask of a scan, by name and grid; see `find`. masks: as `_by_name` gives them."""
    same = next((masks[key] for key in _keys(scan) if key in masks), None)
    if same is None:
        return None
    try:
        grid = read_grid(scan)
    except Error:
        return None  # `load` will say why, for this scan alone
    shows = parse_file_name(scan)[1]
    ranked = []
    for mask in same:
        other = read_grid(mask)
        if other.shape == grid.shape and np.abs(other.affine - grid.affine).max() <= TOLERANCE:
            drawn_on = contrast_of_mask(mask)
            ranked.append((0 if drawn_on == shows else 2 if drawn_on else 1, mask.parent != scan.parent, mask))
    ranked.sort()
    if len(ranked) > 1 and ranked[0][:2] == ranked[1][:2]:
        first, second = ranked[0][2], ranked[1][2]
        raise Error(f"A scan has one lesion mask; '{scan}' has '{first}' and '{second}' on its grid. Keep one of them.")
    return ranked[0][2] if ranked else None
