"""What lies in a folder of scans and is not read, each with its reason: nothing is left out in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from toolkit.formats.nifti.names import is_nifti_name

__all__ = ["REMEDIES", "other_files", "remedy"]

_CONVERT = "Convert it: nib-convert {name} {stem}.nii.gz (it comes with nibabel)"
REMEDIES = {
    ".mgz": _CONVERT,
    ".mgh": _CONVERT,
    ".hdr": "Convert the pair: nib-convert {stem}.img {stem}.nii.gz, once you have checked left and right if it is Analyze",
    ".img": "Convert the pair: nib-convert {stem}.img {stem}.nii.gz, once you have checked left and right if it is Analyze",
    ".nrrd": "Convert it with SimpleITK or 3D Slicer",
    ".nhdr": "Convert it with SimpleITK or 3D Slicer",
    ".mha": "Convert it with SimpleITK or 3D Slicer",
    ".mhd": "Convert it with SimpleITK or 3D Slicer",
    ".mnc": "Convert it with mnc2nii",
    ".par": "Convert it with dcm2niix",
    ".rec": "Convert it with dcm2niix",
    ".head": "Convert it: 3dAFNItoNIFTI {stem}",
    ".brik": "Convert it: 3dAFNItoNIFTI {stem}",
    ".nia": "Convert it to .nii.gz",
}
"""Endings of other files of volumes -> what to do with one."""

_SIDE = {
    ".txt", ".md", ".rst", ".pdf", ".doc", ".docx", ".html", ".htm", ".css", ".js", ".log", ".json", ".jsonl", ".xml", ".yaml",
    ".yml", ".toml", ".ini", ".cfg", ".csv", ".tsv", ".xls", ".xlsx", ".bval", ".bvec", ".mat", ".sh", ".py", ".m", ".r",
    ".db", ".png", ".jpg", ".jpeg", ".svg", ".gif", ".bib", ".cff", ".ipynb", ".lta", ".xfm",
}  # fmt: skip
"""Endings of files that lie beside scans and are none."""

_BARE = {"README", "CHANGES", "LICENSE", "LICENCE", "CITATION", "DATASET_DESCRIPTION"}


def other_files(root: Path) -> Iterator[tuple[str, str]]:
    """(name, reason) of every file of a folder, at any depth, that is no NIfTI file and may hold an image.

    DICOM is told once a folder. Hidden files and what holds no images by its name (tables, texts, sidecars) are not told.
    """
    from toolkit.formats.dicom.files import is_dicom  # pydicom, which NIfTI alone does not need

    series: Counter[Path] = Counter()
    for path in sorted(root.glob("**/*")):
        below = path.relative_to(root)
        if is_nifti_name(path) or any(part.startswith(".") for part in below.parts) or not path.is_file():
            continue
        ending = _ending(path)
        if ending in _SIDE or path.stem.upper() in _BARE:
            continue
        if ending not in REMEDIES and is_dicom(path):
            series[path.parent] += 1
        else:
            yield path.name, f"A scan to be read is a NIfTI file (.nii, .nii.gz); this is none. {remedy(path)}."
    for folder, count in series.items():
        name = folder.relative_to(root).as_posix() if folder != root else root.name
        yield (
            name,
            f"A folder that holds NIfTI files is read as such; these {count} DICOM files beside them are not. Convert "
            "them with dcm2niix, or give their folder alone to counterfactual.",
        )


def remedy(path: Path) -> str:
    """What to do with a file that is no NIfTI file."""
    stem = path.name[: len(path.name) - len(_whole_ending(path))]
    return REMEDIES.get(_ending(path), "Convert it to .nii.gz, or leave it out").format(name=path.name, stem=stem)


def _whole_ending(path: Path) -> str:
    compressed = path.suffix.lower() in (".gz", ".bz2", ".zst") and len(path.suffixes) > 1
    return "".join(path.suffixes[-2:]) if compressed else path.suffix


def _ending(path: Path) -> str:
    """Without the one of a compressor: x.img.gz is an .img."""
    return "." + _whole_ending(path).lower().strip(".").split(".")[0]
