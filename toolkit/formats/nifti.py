"""NIfTI volumes: read safely, show as a radiologist expects, and write back on the very same grid.

Contract. `load` returns a volume only when its place in the patient is certain; everything doubtful is refused with an
Error that names the file. `display` turns a volume into axial slices and `restore` is its exact inverse, for every axis
order, flip and spacing. `save` writes with a fresh header, so an integer source never quantises a map. `find` pairs
scans with their masks. `read` and `write` are the contract of every format: slices as Examples, and back.

Arrays are (X, Y, Z) on the grid of the file; affines are (4, 4) float64, voxel index to RAS millimetres.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from toolkit.example import Annotation, Error, Example, Geometry, Provenance

__all__ = [
    "Scan",
    "Volume",
    "dataset_description",
    "display",
    "display_spacing",
    "find",
    "label_of",
    "load",
    "read",
    "restore",
    "save",
    "sidecar",
    "write",
]

TOLERANCE = 1e-3  # largest difference of two affines, element by element, that still counts as the same grid
LARGEST = 2**31  # bytes of voxels that a header may claim
GZIP_RATIO = 1032  # deflate cannot shrink data further than this
_NOT_ACQUIRED = b"NOT ACQUIRED"

# The end of a file name says what the file shows. Left: as it is met in the wild; right: BIDS spelling where there is
# one. T1gd stays apart from T1w because one patient often has both.
CONTRASTS = {
    "flair": "FLAIR",
    "t2flair": "FLAIR",
    "t2f": "FLAIR",
    "t1": "T1w",
    "t1w": "T1w",
    "t1n": "T1w",
    "t1gd": "T1gd",
    "t1ce": "T1gd",
    "t1c": "T1gd",
    "t1post": "T1gd",
    "t2": "T2w",
    "t2w": "T2w",
    "t2star": "T2starw",
    "t2starw": "T2starw",
    "pd": "PDw",
    "pdw": "PDw",
    "dwi": "dwi",
    "adc": "ADC",
    "swi": "swi",
    "ct": "ct",
}
MASKS = (
    "mask",
    "masks",
    "msk",
    "seg",
    "dseg",
    "segmentation",
    "lesion",
    "lesions",
    "roi",
    "wmh",
    "gt",
    "label",
    "labels",
)
BRAIN_MASKS = ("brainmask", "headmask", "betmask")
MASK_FOLDERS = {*MASKS, "segmentations", "labelstr", "labelsts"}

_BIDS = re.compile(
    r"sub-(?P<sub>[A-Za-z0-9]+)(?P<entities>(?:_[A-Za-z]+-[A-Za-z0-9+]+)*)(?:_(?P<suffix>[A-Za-z0-9]+))?"
)
_SPELLINGS = "|".join(sorted(CONTRASTS, key=len, reverse=True)).replace("t2flair", "t2[_-]?flair")
_CONTRAST = re.compile(rf"(?:^|[_-])({_SPELLINGS})$", re.I)
_MASK = re.compile(rf"(?:^|[_-])({'|'.join(MASKS)})$", re.I)
_BRAIN_MASK = re.compile(r"(?:^|[_-])(?:brain|head|bet)[_-]?mask$", re.I)
_OURS = re.compile(r"_desc-(?:healthycf|anomaly)[A-Za-z0-9]*_", re.I)
_SLICE = re.compile(r"(.+)_z\d+(.*)")


@dataclass(frozen=True)
class Volume:
    """One scan on its own grid.

    array: (X, Y, Z) float32 in source units, scl_slope and scl_inter applied.
    affine: (4, 4) float64, voxel index to RAS millimetres.
    label: alphanumeric; contrast: BIDS suffix or "unknown" (see `label_of`).
    notes: what `load` had to decide; for the user's eyes.
    code: NIfTI code of the space that the affine leads to, >= 1.
    acquired: False where the header says that diffgraft made the image.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path
    label: str
    contrast: str
    notes: tuple[str, ...] = ()
    code: int = 1
    acquired: bool = True

    @property
    def spacing(self) -> np.ndarray:
        """(3,) millimetres between voxels along the source axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@dataclass(frozen=True)
class Scan:
    """One scan that `find` met. mask lies on the same grid, or is None. group is the patient: sessions share it."""

    path: Path
    label: str
    contrast: str
    mask: Path | None = None
    group: str = ""


@dataclass(frozen=True)
class _Grid:
    """What the header says, after every check that needs no voxel."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    code: int
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    notes: tuple[str, ...]
    acquired: bool


# ---------------------------------------------------------------------------------------------------------- reading


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
    label, named = label_of(path)
    with _open(path) as stream:
        grid = _header(path, stream)
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
                "float32). Mend the file, or set them to 0 with --nan zero."
            )
        array[bad] = 0
        notes += (f"{count} voxels that were not finite were set to 0",)
    return Volume(
        array, grid.affine, path, label, _spelling(contrast) if contrast else named, notes, grid.code, grid.acquired
    )


class _open:
    """The bytes of a .nii or .nii.gz as a stream; damage met while reading becomes an Error.

    Whether a file is compressed is decided by its content: the name is often wrong after a download.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> IO[bytes]:
        if not _is_nifti_name(self.path):
            raise Error(f"A NIfTI file ends in .nii or .nii.gz; found '{self.path}'. Convert it, or give another file.")
        try:
            self.file = self.path.open("rb")
            compressed = self.file.read(2) == b"\x1f\x8b"
            self.file.seek(0)
        except OSError as problem:
            raise Error(f"A NIfTI file must be readable; '{self.path}': {problem.strerror}. Check the path.") from None
        return gzip.GzipFile(fileobj=self.file) if compressed else self.file  # type: ignore[return-value]

    def __exit__(self, kind: type | None, problem: BaseException | None, _: object) -> None:
        self.file.close()
        if isinstance(problem, (EOFError, OSError, zlib.error)):
            raise Error(
                f"A NIfTI file must be whole; '{self.path}' is truncated or damaged ({problem}). Copy it again."
            ) from None


def _header(path: Path, stream: IO[bytes]) -> _Grid:
    """Read and judge the header at the start of the stream. Raises Error; allocates no voxels."""
    from nibabel import Nifti1Header, Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    block = stream.read(348)
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    if 540 in sizes:
        block += stream.read(540 - 348)
    kind, magic = (Nifti2Header, block[4:8]) if 540 in sizes else (Nifti1Header, block[344:348])
    if len(block) != kind.template_dtype.itemsize or not sizes & {348, 540} or magic not in (b"n+1\0", b"n+2\0"):
        raise Error(
            f"A scan must be a single-file NIfTI volume (.nii or .nii.gz); '{path}' has no NIfTI header. Convert it, "
            "for example with dcm2niix."
        )
    # check=False, because nibabel's own checks would mend a negative pixdim silently.
    header = kind(block, check=False)
    dims = [int(n) for n in header["dim"]]
    rank, shape = dims[0], dims[1 : dims[0] + 1]
    if not 1 <= rank <= 7 or min(shape) < 1:
        raise Error(f"A NIfTI header gives 1 to 7 sizes, each at least 1; '{path}' gives {dims}. Convert it again.")
    if rank < 3:
        raise Error(f"A scan has three dimensions; '{path}' has {rank} {tuple(shape)}. Give the whole volume.")
    if max(shape[3:], default=1) > 1:
        raise Error(
            f"A scan is one 3-D volume; '{path}' is a series {tuple(shape)}. Extract one volume, for example fslroi."
        )
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError):
        dtype = np.dtype("V1")
    if dtype.kind not in "iuf":
        raise Error(
            f"A scan has one real number a voxel; '{path}' has datatype code {int(header['datatype'])} (colour, "
            "complex or unknown). Convert it to a grey-scale volume."
        )
    voxels = math.prod(shape)
    start = 544 if kind is Nifti2Header else 352
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or 0 < offset < start or offset < 0 or offset > LARGEST:
        raise Error(
            f"Voxels start after the header, at byte {start} or later; '{path}' says {offset:g}. Convert it again."
        )
    offset = int(offset) or start
    needed = offset + voxels * dtype.itemsize
    if voxels * max(dtype.itemsize, 4) > LARGEST:
        raise Error(f"A scan holds at most 2^31 bytes; the header of '{path}' claims {tuple(shape)}. Check or crop it.")
    room = path.stat().st_size * (GZIP_RATIO if isinstance(stream, gzip.GzipFile) else 1)
    if needed > room:
        raise Error(
            f"A file must hold the voxels that its header claims; '{path}' claims {tuple(shape)} = {needed} bytes and "
            f"can hold at most {room}: it is truncated or damaged. Copy or convert it again."
        )
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        slope, inter = 1.0, 0.0  # both mean "not scaled"; NaN is how nibabel writes it
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise Error(f"scl_slope and scl_inter must be finite; '{path}' has {slope:g} and {inter:g}. Convert it again.")
    affine, code, notes = _orientation(path, header)
    acquired = _NOT_ACQUIRED not in bytes(header["descrip"])
    if not acquired:
        notes += ("made by diffgraft, not acquired",)
    return _Grid(
        shape=(shape[0], shape[1], shape[2]),
        affine=affine,
        code=code,
        dtype=dtype,
        offset=offset,
        slope=slope,
        inter=inter,
        notes=notes,
        acquired=acquired,
    )


def _orientation(path: Path, header: Any) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """The one affine that a header stands for, its code and what had to be decided. Raises Error where in doubt."""
    from nibabel.spatialimages import HeaderDataError

    qcode, scode = int(header["qform_code"]), int(header["sform_code"])
    # A signalling NaN warns when it is widened to double; it is refused below like any other.
    with np.errstate(invalid="ignore"):
        pixdim = np.asarray(header["pixdim"], float)
        sform = np.asarray(header.get_sform(), float) if scode > 0 else None
    if not (np.isfinite(pixdim[1:4]).all() and (pixdim[1:4] > 0).all()):
        raise Error(
            f"Voxel sizes (pixdim) must be positive; '{path}' has {pixdim[1:4].tolist()}. Convert it again from DICOM."
        )
    if qcode <= 0 and scode <= 0:
        raise Error(
            f"A scan must say how it lies in the patient; '{path}' has qform_code = sform_code = 0, so left and right "
            "are unknown. Convert it again from DICOM (dcm2niix), or set the sform once you have checked the sides."
        )
    if pixdim[0] == 0:
        header["pixdim"][0] = 1  # the standard's own rule for a qfac of 0
    with np.errstate(all="ignore"):
        try:
            qform = np.asarray(header.get_qform(), float) if qcode > 0 else None
        except (HeaderDataError, ValueError, np.linalg.LinAlgError) as problem:
            raise Error(f"The qform must be a rotation; '{path}': {problem}. Convert it again from DICOM.") from None
    for name, affine in (("qform", qform), ("sform", sform)):
        if affine is not None and not np.isfinite(affine).all():
            raise Error(f"An affine must be finite; the {name} of '{path}' is not. Convert it again from DICOM.")
        if affine is not None and _flatness(affine) < 1e-6:
            raise Error(
                f"An affine must be invertible; the {name} of '{path}' is singular. Convert it again from DICOM."
            )
    notes: tuple[str, ...] = ()
    if qform is not None and sform is not None:
        apart = float(np.abs(qform - sform).max())
        if qcode == scode and apart > TOLERANCE and not _rounded(header, qform, sform):
            raise Error(
                f"qform and sform with the same code must agree; in '{path}' (code {scode}) they differ by {apart:.3g}"
                ". Decide which is right and remove the other."
            )
        if qcode != scode:
            notes += (f"sform (code {scode}) used rather than qform (code {qcode}); they differ by {apart:.3g}",)
    if (unit := int(header["xyzt_units"]) & 7) in (1, 3):
        notes += (
            f"the header says {'metre' if unit == 1 else 'micrometre'}; sizes were read as millimetres all the same",
        )
    return (qform, qcode, notes) if sform is None else (sform, scode, notes)  # type: ignore[return-value]


def _rounded(header: Any, qform: np.ndarray, sform: np.ndarray) -> bool:
    """Whether a qform is what its sform becomes when it is stored as a quaternion.

    A header holds three of four quaternion components in float32; near half a turn the fourth is lost in rounding, and
    an honest qform may be off by 1e-3 radian. A sform with shear is no such case: there the two really differ.
    """
    axes = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
    stored = header.copy()
    stored.set_qform(sform)
    square = np.abs(axes.T @ axes - np.eye(3)).max() < 1e-5
    return bool(square and np.abs(stored.get_qform() - qform).max() <= TOLERANCE)


def _flatness(affine: np.ndarray) -> float:
    """1 for right angles, 0 where the three axes do not span space. Free of units."""
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    return float(abs(np.linalg.det(axes / lengths))) if lengths.min() > 0 else 0.0


def _voxels(path: Path, stream: IO[bytes], grid: _Grid) -> np.ndarray:
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


# ---------------------------------------------------------------------------------------------------------- display


def _axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], str]:
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
    order, reverse, letters = _axes(affine)
    steps = tuple(slice(None, None, -1 if back else 1) for back in reverse)
    return np.array(array.transpose(order)[steps], order="C"), letters


def restore(stack: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The exact inverse of `display`: (slices, rows, cols) back to (X, Y, Z) on the source grid, a copy.

    shape: the source's; raises Error where the stack does not fit it.
    """
    order, reverse, _ = _axes(affine)
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
    slices, rows, cols = (float(spacing[axis]) for axis in _axes(affine)[0])
    return slices, rows, cols


# ------------------------------------------------------------------------------------------------------ finding scans


def _is_nifti_name(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.I)


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _spelling(contrast: str) -> str:
    return CONTRASTS.get(contrast.lower().replace("_", "").replace("-", ""), contrast)


def _entities(stem: str) -> dict[str, str]:
    """Entities of a BIDS name with its suffix under ""; empty for any other name."""
    if not (match := _BIDS.fullmatch(stem)):
        return {}
    pairs = (part.split("-", 1) for part in match["entities"].split("_")[1:])
    return {"sub": match["sub"], **dict(pairs), "": match["suffix"] or ""}


def label_of(path: str | Path) -> tuple[str, str]:
    """The label and the contrast that a file name gives.

    BIDS: `sub-01_ses-2_acq-3D_FLAIR.nii.gz` -> ("01ses2acq3D", "FLAIR"): every entity is part of the label, so that
    two sessions or runs do not meet under one name (on a mask, desc- and label- are not; ce- on a T1w makes it T1gd).
    Others: `TCGA_CS_4941_flair.nii.gz` -> ("TCGACS4941", "FLAIR"): the stem without its contrast, letters and digits
    only; a bare `FLAIR.nii.gz` takes the name of its folder. Without a known contrast it is "unknown"; masks give
    "mask", masks of the whole brain "brainmask". Raises Error where no letter or digit is left.
    """
    path = Path(path)
    stem = _stem(path)
    if entities := _entities(stem):
        contrast = _spelling(entities.pop("")) or "unknown"
        if contrast.lower() in (*MASKS, *BRAIN_MASKS, "probseg"):
            whole = re.match("brain|head|bet", entities.get("desc", contrast), re.I)
            contrast = "brainmask" if whole else "mask"
            entities.pop("label", None)
            if made := _made(entities.pop("desc", "")):
                entities["desc"] = made
        if contrast == "T1w" and entities.pop("ce", None):
            contrast = "T1gd"
        label = _clean(entities.pop("sub") + "".join(key + value for key, value in entities.items()))
        return label, contrast
    contrast = "unknown"
    for pattern, name in ((_BRAIN_MASK, "brainmask"), (_MASK, "mask")):
        if contrast == "unknown" and (match := pattern.search(stem)):
            stem, contrast = stem[: match.start()], name
    if match := _CONTRAST.search(stem):
        stem = stem[: match.start()]
        contrast = _spelling(match[1]) if contrast == "unknown" else contrast
    if contrast == "unknown" and path.parent.name.lower() in MASK_FOLDERS:
        contrast = "mask"
    label = _clean(stem) or _clean(path.absolute().parent.name)
    if not label:
        raise Error(f"A file name needs a letter or digit for its label; found '{path}'. Rename it.")
    return label, contrast


def _made(desc: str) -> str:
    """The part of a desc- value that ties a mask to an image that was not acquired; see `write`."""
    return desc.split("lesion")[0] if desc.startswith(("synthetic", "edited")) else ""


def _group(path: Path, label: str) -> str:
    return _entities(_stem(path)).get("sub", label)


def find(root: str | Path, contrast: str | None = None) -> list[Scan]:
    """The scans of a file or a folder (flat, a folder a patient, or BIDS), each with its lesion mask where it has one.

    contrast: only scans that show this; "flair" and "FLAIR" are the same.
    Masks, hidden files, diffgraft's counterfactuals and maps, and scans inside `derivatives/` are no scans. A mask
    belongs to a scan by label and by grid (shape, and affine to 1e-3); one that names the contrast comes before one
    that names none, one beside the scan before one elsewhere. Raises Error where nothing is found, where two scans
    would share a label and contrast, where two masks fit equally well, or where a mask that fits by name is refused.
    """
    root = Path(root)
    wanted = _spelling(contrast) if contrast else None
    if root.is_file():
        return [_single(root, wanted)]
    if not root.is_dir():
        raise Error(f"Scans are read from a file or a folder; '{root}' does not exist. Check the path.")
    files = _files(root)
    named = [(path, *label_of(path)) for path in files]
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
    return [Scan(path, label, shows, _mask_of(path, masks), _group(path, label)) for path, label, shows in kept]


def _files(root: Path, pattern: str = "**/*") -> list[Path]:
    # Hidden files include the ._ twins that macOS leaves on shared disks: they end in .nii.gz and are no images.
    return sorted(
        path
        for path in root.glob(pattern)
        if _is_nifti_name(path)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not _OURS.search(path.name)
        and path.is_file()
    )


def _single(path: Path, wanted: str | None) -> Scan:
    if not _is_nifti_name(path):
        raise Error(f"A NIfTI file ends in .nii or .nii.gz; found '{path}'. Convert it, or give another file.")
    label, shows = label_of(path)
    if shows in ("mask", "brainmask") or _OURS.search(path.name):
        raise Error(
            f"A scan is needed; '{path}' is named as a mask or as a result of diffgraft. Give the acquired scan."
        )
    if wanted and shows not in (wanted, "unknown"):
        raise Error(f"A {wanted} scan is needed; '{path}' is named {shows}. Give the {wanted} scan.")
    beside = [other for other in _files(path.parent, "*") if label_of(other)[1] == "mask"]
    contrast = wanted if wanted and shows == "unknown" else shows
    return Scan(path, label, contrast, _mask_of(path, _by_name(beside)), _group(path, label))


def _keys(path: Path) -> list[Any]:
    """What a mask and its scan have in common by name: the label, or else patient, session and run.

    The second is for derivatives, which often drop entities such as acq- or rec-.
    """
    label = label_of(path)[0]
    own = _entities(_stem(path))
    return [label, (own["sub"], own.get("ses"), own.get("run"), _made(own.get("desc", "")))] if own else [label]


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
        grid = _grid(scan)
    except Error:
        return None  # `load` will say why, for this scan alone
    shows = label_of(scan)[1]
    ranked = []
    for mask in same:
        other = _grid(mask)
        if other.shape == grid.shape and np.abs(other.affine - grid.affine).max() <= TOLERANCE:
            drawn_on = _drawn_on(mask)
            ranked.append((0 if drawn_on == shows else 2 if drawn_on else 1, mask.parent != scan.parent, mask))
    ranked.sort()
    if len(ranked) > 1 and ranked[0][:2] == ranked[1][:2]:
        first, second = ranked[0][2], ranked[1][2]
        raise Error(f"A scan has one lesion mask; '{scan}' has '{first}' and '{second}' on its grid. Keep one of them.")
    return ranked[0][2] if ranked else None


def _drawn_on(mask: Path) -> str:
    """The contrast that the name of a mask gives (`x_flair_mask`, `sub-x_desc-lesionFLAIR_mask`), or nothing."""
    stem = _stem(mask)
    if entities := _entities(stem):
        stem = re.sub("lesions?", "_", entities.get("desc", ""), flags=re.I).strip("_")
    match = _CONTRAST.search(_MASK.sub("", stem))
    return _spelling(match[1]) if match else ""


def _grid(path: Path) -> _Grid:
    with _open(path) as stream:
        return _header(path, stream)


# ---------------------------------------------------------------------------------------------------------- writing

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
    Both qform and sform hold the affine of `like` with its code; what a qform cannot hold to 1e-3 (shear, some turns
    by almost 180 degrees) is in the sform alone. Raises Error for another shape, for numbers that are not finite, and
    for a mask of other values.
    """
    from nibabel import Nifti1Image

    path, array = Path(path), np.asarray(array)
    if kind not in _KINDS:
        raise Error(f"kind is one of {', '.join(_KINDS)}; found {kind!r}. Use one of these.")
    if not _is_nifti_name(path):
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
    image = Nifti1Image(data, like.affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = marker.encode()
    code = max(int(like.code), 1)
    image.set_sform(like.affine, code)
    image.set_qform(like.affine, code)
    if np.abs(image.get_qform() - like.affine).max() > TOLERANCE:
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


def sidecar(path: str | Path, **fields: Any) -> Path:
    """Write the .json beside a NIfTI file (or replace it). Raises Error for NaN: what is unknown is null."""
    path = Path(path)
    return _json(path.with_name(_stem(path) + ".json"), fields)


def dataset_description(root: str | Path, version: str, sources: Iterable[str | Path]) -> Path:
    """Write dataset_description.json of a BIDS derivative made by this version of diffgraft.

    sources: the folders or addresses of the data sets that it was made from.
    """
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


# -------------------------------------------------------------------------------------------------------- as Examples


def read(root: str | Path, contrast: str | None = None) -> Iterator[Example]:
    """Every axial slice of every scan under root, inferior to superior, as `display` shows it.

    image: (1, H, W) float32, -1 and +1 at the smallest and largest voxel of the whole volume. group: the patient. The
    annotation's mask is the lesion mask where the scan has one; geometry leads back to the file. A volume made by
    diffgraft keeps a provenance, so that it is never taken for a patient. Raises what `find` and `load` raise.
    """
    for scan in find(root, contrast):
        volume = load(scan.path, contrast=scan.contrast)
        low, high = float(volume.array.min()), float(volume.array.max())
        stack, _ = display(volume)
        scaled = (stack.astype(np.float64) - low) / ((high - low) or 1.0) * 2 - 1
        images = np.clip(scaled, -1, 1).astype(np.float32)
        masks = display(load(scan.mask))[0] > 0 if scan.mask else [None] * len(images)
        stem = _stem(scan.path)
        name = stem if _entities(stem).get("") else f"sub-{scan.label}_{scan.contrast}"
        kind: Literal["edited", "synthetic"] = "edited" if "_desc-edited" in stem else "synthetic"
        provenance = None if volume.acquired else Provenance(kind, model="unknown", procedure="unknown")
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            yield Example(
                id=f"{name}_z{index:03d}",
                image=image[None],
                annotation=Annotation(mask=mask),
                group=scan.group,
                geometry=Geometry(volume.affine, volume.array.shape, (low, high), index),
                provenance=provenance,
            )


def write(examples: Iterable[Example], root: str | Path) -> None:
    """Stack slices back into volumes on their source grids and write them into root.

    The slices of one volume share an id but for `_z<number>` (without it, a group), a grid and the kind of provenance.
    They become `<id>.nii.gz`; where they are not real, `_desc-<kind><rest of the id>_` comes before the contrast, and a
    map is called "anomaly". Where every slice has a mask there is `_desc-[<kind>]lesion<contrast>_mask.nii.gz` too.
    Intensities are in source units. Raises Error where a slice is missing, comes twice, has no geometry or is not of
    the size of the source slice.
    """
    volumes: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        match = _SLICE.fullmatch(example.id)
        name, rest = match.groups() if match else (example.group or example.id, "")
        kind = example.provenance.kind if example.provenance else ""
        made = {"map": "anomaly"}.get(kind, kind) + _clean(rest)
        volumes.setdefault((re.sub(r"[^A-Za-z0-9_+-]", "-", name), made), []).append(example)
    for (name, made), slices in volumes.items():
        _write_volume(Path(root), name, made, slices)


def _write_volume(root: Path, name: str, made: str, slices: list[Example]) -> None:
    geometry = slices[0].geometry
    if geometry is None or len(geometry.shape) < 3:
        raise Error(f"A NIfTI volume needs the geometry of its source; '{name}' has none. Write it as images instead.")
    order = _axes(geometry.affine)[0]
    depth, height, width = (int(geometry.shape[axis]) for axis in order)
    stack = np.zeros((depth, height, width), np.float64)
    masks = np.zeros((depth, height, width), bool)
    seen: set[int] = set()
    for example in slices:
        place = example.geometry
        if place is None or place.index is None or not 0 <= place.index < depth or place.index in seen:
            raise Error(
                f"A volume needs every slice once; '{example.id}' has no place, or one that is taken. Check the ids."
            )
        if tuple(place.shape) != tuple(geometry.shape) or np.abs(place.affine - geometry.affine).max() > TOLERANCE:
            raise Error(
                f"The slices of a volume share one grid; '{example.id}' has another. Give each volume its own ids."
            )
        if example.image.shape != (1, height, width):
            raise Error(
                f"A slice must be (1, {height}, {width}) as in its source; '{example.id}' is {example.image.shape}. "
                "Undo the fit first (toolkit.data.transforms.unfit)."
            )
        low, high = place.window
        stack[place.index] = low + (example.image[0].astype(np.float64) + 1) / 2 * (high - low)
        if example.annotation.mask is not None:
            masks[place.index] = example.annotation.mask
        seen.add(place.index)
    if len(seen) < depth:
        missing = sorted(set(range(depth)) - seen)
        raise Error(
            f"A volume needs every slice; '{name}' lacks {len(missing)} of {depth}, first {missing[0]}. Add them."
        )
    array = restore(stack, geometry.affine, geometry.shape)
    like = Volume(array, np.asarray(geometry.affine, float), Path(name), *label_of(Path(name + ".nii.gz")))
    base, _, suffix = name.rpartition("_") if "_" in name else (name, "", "")
    if made and (match := re.search(rf"_desc-({made}[A-Za-z0-9]*)", base)):
        made, base = match[1], base.replace(match[0], "")  # it was read from a file of ours, and keeps its name
    desc = f"_desc-{made}" if made else ""
    provenance = slices[0].provenance
    kind = "acquired" if provenance is None else "map" if provenance.kind == "map" else "intensity"
    save(root / (f"{base}{desc}" + (f"_{suffix}" if suffix else "") + ".nii.gz"), array, like, kind)
    if all(example.annotation.mask is not None for example in slices):
        base = re.sub(r"_desc-[A-Za-z0-9+]+", "", base)
        mask = restore(masks, geometry.affine, geometry.shape)
        save(root / f"{base}_desc-{made}lesion{_clean(suffix)}_mask.nii.gz", mask, like, "mask")
