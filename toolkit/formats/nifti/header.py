"""The header of a NIfTI file, checked before a voxel is read: shape, numbers, and the one place in the patient."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from toolkit.example import Error
from toolkit.formats.nifti.affine import TOLERANCE, judge
from toolkit.formats.nifti.names import is_nifti_name
from toolkit.formats.nifti.units import check_width, unit_of

__all__ = ["TOLERANCE", "Grid", "open_stream", "read_grid", "read_header"]

LARGEST = 2**31  # bytes of voxels that a header may claim
GZIP_RATIO = 1032  # deflate cannot shrink data further than this
_NOT_ACQUIRED = b"NOT ACQUIRED"


@dataclass(frozen=True)
class Grid:
    """What the header says, after every check that needs no voxel.

    shape: voxels along X, Y and Z. affine: (4, 4) float64, voxel index to RAS millimetres; code: NIfTI's, of the space it
    leads to. dtype, offset: of the raw numbers in the file; slope, inter: what makes source units of them. unit: NIfTI's
    code of the unit that the file has lengths in.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    code: int
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    notes: tuple[str, ...]
    acquired: bool
    unit: int = 2


class open_stream:
    """The bytes of a .nii or .nii.gz as a stream; damage met while reading becomes an Error.

    Whether a file is compressed is decided by its content: the name is often wrong after a download.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> IO[bytes]:
        if not is_nifti_name(self.path):
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


def read_header(path: Path, stream: IO[bytes]) -> Grid:
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
    unit, notes = unit_of(header)
    affine, code, decided = judge(path, header, unit)
    check_width(path, unit, affine, shape)
    notes += decided
    acquired = _NOT_ACQUIRED not in bytes(header["descrip"])
    if not acquired:
        notes += ("made by diffgraft, not acquired",)
    return Grid(
        shape=(shape[0], shape[1], shape[2]),
        affine=affine,
        code=code,
        dtype=dtype,
        offset=offset,
        slope=slope,
        inter=inter,
        notes=notes,
        acquired=acquired,
        unit=unit,
    )


def read_grid(path: Path) -> Grid:
    with open_stream(path) as stream:
        return read_header(path, stream)
