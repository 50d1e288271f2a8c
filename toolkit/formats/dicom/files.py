"""One DICOM file, opened with the checks that pydicom leaves out.

Contract. `read_file` returns a dataset only of a file that is DICOM, names its transfer syntax and does not unpack to far
more than it is. Everything else is an Error in one line, which names the file and never the patient: no value of an
element that could hold a name is quoted, nor what pydicom says of it. `elements` and `pixels` keep to the same.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import BaseTag

from toolkit.example import Error

__all__ = ["FLOATS", "LARGEST", "PIXEL_DATA", "is_bare", "is_dicom", "read_file", "refuse"]

LARGEST = 2**31
"""Bytes of one file, and of its pixels once decoded."""

SMALL, INFLATION = 2**26, 100
"""A deflated file may unpack to 64 MiB, or to a hundred times its size: images do not shrink further, bombs do."""
PIXEL_DATA = BaseTag(0x7FE00010)
FLOATS = (BaseTag(0x7FE00008), BaseTag(0x7FE00009))


def refuse(name: str, rule: str, found: str, remedy: str) -> Error:
    """The Error of a file: the rule, what was found, the remedy."""
    return Error(f"{rule}; '{name}' {found}. {remedy}")


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM files do, whatever its name is."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


_GROUPS = (0x0002, 0x0008)
"""Groups with which a dataset begins: the file meta information, or the identification of the image."""

_FORMS = {
    b"AE",
    b"AS",
    b"CS",
    b"DA",
    b"DT",
    b"IS",
    b"LO",
    b"OB",
    b"PN",
    b"SH",
    b"SQ",
    b"TM",
    b"UI",
    b"UL",
    b"UN",
    b"US",
}
"""Value representations of the first elements of these groups."""


def is_bare(path: Path) -> bool:
    """Whether the file begins as a DICOM dataset without the 128 bytes and DICM before it: old consoles write so."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return False
    if len(start) < 8 or size < 132:
        return False
    for order in ("<", ">"):
        group, element, length = struct.unpack(f"{order}HHI", start)
        if group in _GROUPS and element <= 0x0100 and (start[4:6] in _FORMS or length < min(size, 2**16)):
            return True
    return False


def read_file(path: str | Path, pixels: bool = True, only: Sequence[str] | None = None, bare: bool = False) -> Dataset:
    """The dataset of a file, with `file_meta`. pixels: False stops before them. only: keywords, to read no others.

    A deflated file is unpacked here and comes back as Explicit VR Little Endian. bare: take a dataset without preamble
    too, in the transfer syntax that it names or, uncompressed, shows.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise refuse(path.name, "A DICOM file is a file", "is none", "Give a file.")
        if size > LARGEST:
            raise refuse(path.name, "A DICOM file has at most 2^31 bytes", f"has {size}", "Split it.")
        if bare and not is_dicom(path) and is_bare(path):
            return _bare(path, pixels, only)
        if not is_dicom(path):
            raise refuse(path.name, "A DICOM file has DICM at byte 128", "has not", "Convert it, or leave it out.")
        # pydicom warns of what it mends and quotes it, names of patients included.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta = read_file_meta_info(path)
            syntax = meta.get("TransferSyntaxUID")
            if not syntax:
                raise refuse(path.name, "A DICOM file names its transfer syntax", "names none", "Export it again.")
            if syntax == uid.DeflatedExplicitVRLittleEndian:
                return _inflated(path, meta, pixels, only)
            tags = None if only is None else list(only)
            return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags)
    except Error:
        raise
    except OSError as problem:
        found = f"is not: {problem.strerror}" if problem.strerror else "is damaged"
        raise refuse(path.name, "A DICOM file must be readable", found, "Check the path.") from None
    except Exception as problem:  # a damaged file may raise anything, and its words may quote the file
        found = f"is damaged ({type(problem).__name__})"
        raise refuse(path.name, "A DICOM file must be whole", found, "Export it again.") from None


def _bare(path: Path, pixels: bool, only: Sequence[str] | None) -> Dataset:
    tags = None if only is None else list(only)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags, force=True)
        implicit, little = data.original_encoding
        if not data.file_meta.get("TransferSyntaxUID"):
            known = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
            data.file_meta.TransferSyntaxUID = known if little else uid.ExplicitVRBigEndian
    if data.file_meta.TransferSyntaxUID == uid.DeflatedExplicitVRLittleEndian:
        raise refuse(path.name, "A deflated file has its preamble", "has none", "Export it again.")
    return data


def _inflated(path: Path, meta: FileMetaDataset, pixels: bool, only: Sequence[str] | None) -> Dataset:
    content = path.read_bytes()
    length = meta.get("FileMetaInformationGroupLength")
    if not length:
        raise refuse(path.name, "A deflated file gives the length of its first group", "does not", "Export it again.")
    packed = content[132 + 12 + int(length) :]
    limit = min(LARGEST, max(SMALL, INFLATION * len(packed)))
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacked = unpacking.decompress(packed, limit)
    if unpacking.unconsumed_tail:
        raise refuse(
            path.name,
            "A deflated file unpacks to what an image may be",
            f"has {len(packed)} bytes and unpacks to more than {limit}",
            "Leave it out, or export it uncompressed where its source is known.",
        )
    if not unpacking.eof:
        raise refuse(path.name, "A DICOM file must be whole", "ends inside its deflated part", "Copy it again.")
    stop = None if pixels else lambda tag, vr, length: tag in (PIXEL_DATA, *FLOATS)
    tags: list[BaseTag | int] | None = None if only is None else [BaseTag(tag_for_keyword(k) or 0) for k in only]
    data = read_dataset(io.BytesIO(unpacked), False, True, stop_when=stop, specific_tags=tags)
    data.set_original_encoding(False, True, data.get("SpecificCharacterSet", "iso8859"))
    data.file_meta = meta
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return data
