"""One DICOM file, opened with the checks that pydicom leaves out.

Contract. `opened` returns a dataset only of a file that is DICOM, names its transfer syntax and does not unpack to far
more than it is; `pixels` returns stored values only when the file holds exactly the pixels that it states, in a transfer
syntax that decodes without guessing. `numbers`, `rescale` and `orientation` return finite numbers that make sense.
Everything else is an Error in one line, which names the file and never the patient: no value of an element that could
hold a name is quoted, nor what pydicom says of it.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.pixels import get_decoder
from pydicom.tag import BaseTag

from toolkit.example import Error
from toolkit.formats.dicom import jpeg_lossless

__all__ = [
    "identifier", "is_dicom", "is_synthetic", "items", "number", "numbers", "opened", "orientation", "patient_key", "pixels",
    "refuse", "rescale", "spacing", "text", "word",
]  # fmt: skip

LARGEST = 2**31
"""Bytes of one file, and of its pixels once decoded."""

MOST_PIXELS = 2**26
"""Pixels of one frame; the largest detectors have 2^25."""

SMALL, INFLATION = 2**26, 100
"""A deflated file may unpack to 64 MiB, or to a hundred times its size: images do not shrink further, bombs do."""

SQUARE = 1e-3
"""By how much direction cosines may miss unit length and right angle: what rounding in a file does is less."""

OURS = "jpeg_lossless"
"""The decoder of this package."""

# Which of pydicom's decoders reads what, so that what is read does not depend on what else is installed.
DECODERS = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: OURS,
    uid.JPEGLosslessSV1: OURS,
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pillow",
    uid.JPEG2000: "pillow",
}
_PIXEL_DATA = BaseTag(0x7FE00010)
_FLOATS = (BaseTag(0x7FE00008), BaseTag(0x7FE00009))


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


def opened(path: str | Path, pixels: bool = True, only: Sequence[str] | None = None) -> Dataset:
    """The dataset of a file, with `file_meta`. pixels: False stops before them. only: keywords, to read no others.

    A deflated file is unpacked here and comes back as Explicit VR Little Endian.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise refuse(path.name, "A DICOM file is a file", "is none", "Give a file.")
        if size > LARGEST:
            raise refuse(path.name, "A DICOM file has at most 2^31 bytes", f"has {size}", "Split it.")
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
    stop = None if pixels else lambda tag, vr, length: tag in (_PIXEL_DATA, *_FLOATS)
    tags = None if only is None else [BaseTag(pydicom.datadict.tag_for_keyword(k) or 0) for k in only]
    data = read_dataset(io.BytesIO(unpacked), False, True, stop_when=stop, specific_tags=tags)
    data.set_original_encoding(False, True, data.get("SpecificCharacterSet", "iso8859"))
    data.file_meta = meta
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return data


# ---------------------------------------------------------------------------------------------------------- elements


def text(data: Dataset, keyword: str) -> str:
    """An element as words, values that are several joined by a backslash; "" where it is absent or unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = data.get(keyword)
    except Exception:  # an unknown character set, a value of another kind: as good as absent
        return ""
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return "\\".join(map(str, value)).strip() if several else "" if value is None else str(value).strip()


def identifier(data: Dataset, keyword: str) -> uid.UID:
    """An element that is a UID; "" where it is absent or none."""
    words = text(data, keyword)
    return uid.UID(words if re.fullmatch(r"[0-9.]{1,64}", words) else "", validation_mode=pydicom.config.IGNORE)


def word(data: Dataset, keyword: str) -> str:
    """An element that is one code string or a number, in capitals; "" where it is absent or none.

    What is quoted in a message goes through here: in a damaged file one element may have swallowed the patient's name.
    """
    words = text(data, keyword).upper()
    return words if re.fullmatch(r"[A-Z0-9 _]{1,16}", words) else ""


def items(data: Dataset, keyword: str, name: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent. Error: it is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(data.get(keyword) or [])
    except Exception:
        raise refuse(name, f"{keyword} is a sequence", "has something else there", "Export it again.") from None


def numbers(data: Dataset, keyword: str, count: int, name: str) -> tuple[float, ...] | None:
    """`count` finite numbers of an element, or None where it is absent or empty. Error: anything else."""
    found = _values(data, keyword, name)
    if found and (len(found) != count or not all(map(math.isfinite, found))):
        rule = f"{keyword} is {'a finite number' if count == 1 else f'{count} finite numbers'}"
        words = "\\".join(f"{v:g}" for v in found[:8])
        raise refuse(name, rule, f"has {words}", "Export it again.")
    return tuple(found) or None


def number(data: Dataset, keyword: str, name: str) -> float | None:
    """The first of one or several numbers, which has to be finite, or None."""
    found = _values(data, keyword, name)
    if found and not math.isfinite(found[0]):
        raise refuse(name, f"{keyword} is a finite number", f"has {found[0]:g}", "Export it again.")
    return found[0] if found else None


def _values(data: Dataset, keyword: str, name: str) -> list[float]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = data.get(keyword)
        if value is None or value == "":
            return []
        several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        return [float(v) for v in (value if several else [value])]
    except Exception:  # pydicom's words quote the file
        raise refuse(name, f"{keyword} is a number", "has something else there", "Export it again.") from None


def rescale(data: Dataset, name: str) -> tuple[float, float]:
    """Slope and intercept of the modality rescale; 1 and 0 where none is given. Error: a slope of 0, or not finite."""
    slope, intercept = (numbers(data, keyword, 1, name) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope is not None and slope[0] == 0:
        raise refuse(name, "RescaleSlope is not 0", "has 0, so that its pixels mean nothing", "Export it again.")
    return (1.0 if slope is None else slope[0]), (0.0 if intercept is None else intercept[0])


def spacing(data: Dataset, keyword: str, name: str) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, or None where absent. Error: not positive."""
    found = numbers(data, keyword, 2, name)
    if found is None:
        return None
    if min(found) <= 0:
        raise refuse(name, f"{keyword} is positive", f"has {found[0]:g}\\{found[1]:g}", "Export it again.")
    return found[0], found[1]


def orientation(data: Dataset, name: str) -> np.ndarray:
    """(3, 3) unit vectors in LPS: along a row, down a column, and their normal. Error: absent or not orthonormal."""
    found = numbers(data, "ImageOrientationPatient", 6, name)
    if found is None:
        raise refuse(
            name, "A slice says how it lies in the patient", "has no ImageOrientationPatient", "Export it again."
        )
    row, column = np.array(found[:3]), np.array(found[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > SQUARE:
        raise refuse(
            name,
            "ImageOrientationPatient is two unit vectors at a right angle",
            f"has lengths {lengths[0]:.4g} and {lengths[1]:.4g} and a scalar product of {row @ column:.4g}",
            "Export it again.",
        )
    row, column = row / lengths[0], column / lengths[1]
    return np.stack([row, column, np.cross(row, column)])


def is_synthetic(data: Dataset) -> bool:
    """Whether the file says of itself that some of its content was made artificially: (0008,001C) Synthetic Data."""
    return word(data, "SyntheticData") == "YES"


def patient_key(data: Dataset) -> str:
    """A stable key of the patient that does not tell who it is: of the ID and its issuer, else of the study.

    Whoever has the list of IDs can find the key of each; it keeps names out of logs and is no de-identification.
    """
    known = text(data, "PatientID"), text(data, "IssuerOfPatientID")
    words = "\0".join(("patient", *known) if known[0] else ("study", text(data, "StudyInstanceUID")))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ pixels


def pixels(data: Dataset, name: str) -> np.ndarray:
    """Stored values, (frames, rows, columns), or (frames, rows, columns, 3) of a colour image, as RGB where YBR.

    No rescale, window or palette is applied. Errors: no pixels, other numbers of them than stated, a transfer syntax
    without a decoder, damage.
    """
    if _PIXEL_DATA not in data:
        found = "has floating-point pixels" if any(tag in data for tag in _FLOATS) else "has none"
        raise refuse(name, "An image has integer pixel data", found, "Give an image.")
    rows, columns, frames, samples, allocated, stored = _stated(data, name)
    try:
        content = data.PixelData or b""
    except Exception:  # a value representation that is none
        raise refuse(name, "Pixel data are bytes", "has something else there", "Export it again.") from None
    syntax = identifier(data.file_meta, "TransferSyntaxUID")
    decoder = _decoder(syntax, stored, name)
    if syntax.is_encapsulated:
        _check_frames(content, name, rows, columns, frames)
    else:
        needed = rows * columns * frames * samples * allocated // 8
        if word(data, "PhotometricInterpretation") == "YBR_FULL_422":
            needed = needed * 2 // 3
        held = len(content)
        if held - needed not in (0, needed % 2):
            raise refuse(
                name,
                "Rows and Columns fit the pixel data",
                f"states {frames} x {rows} x {columns} = {needed} bytes and holds {held}",
                "Copy or export it again.",
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if decoder == OURS:
                found = _lossless(content, frames, allocated, stored, word(data, "PixelRepresentation") == "1")
            else:
                found, _ = get_decoder(syntax).as_array(data, decoding_plugin=decoder)
    except Exception as problem:  # what a damaged codestream raises depends on the decoder
        found = f"does not ({type(problem).__name__})"
        raise refuse(name, "Pixel data decode whole", found, "Export it again.") from None
    found = found if frames > 1 or decoder == OURS else found[None]
    if found.shape[:3] != (frames, rows, columns):
        raise refuse(name, "Rows and Columns fit the pixel data", f"decodes to {found.shape}", "Export it again.")
    return found


def _lossless(content: bytes, frames: int, allocated: int, stored: int, signed: bool) -> np.ndarray:
    """(frames, rows, columns) of JPEG Lossless frames, which hold a signed value as the bits that it is stored in."""
    images = np.stack([jpeg_lossless.decode(stream) for stream in generate_frames(content, number_of_frames=frames)])
    if signed:
        images = (images << (16 - stored)).astype(np.int16) >> (16 - stored)
    return images.astype(f"{'i' if signed else 'u'}{allocated // 8}")


def _stated(data: Dataset, name: str) -> tuple[int, int, int, int, int, int]:
    """Rows, columns, frames, samples a pixel, bits allocated and stored, judged before a pixel is allocated."""
    keywords = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit")
    found = [numbers(data, keyword, 1, name) for keyword in keywords]
    rows, columns, frames, samples, allocated, stored, high = (None if v is None else int(v[0]) for v in found)
    frames, samples = 1 if frames is None else frames, 1 if samples is None else samples
    if rows is None or columns is None or min(rows, columns, frames) < 1:
        raise refuse(
            name, "An image has rows, columns and frames", f"states {rows}, {columns}, {frames}", "Export it again."
        )
    if rows * columns > MOST_PIXELS or rows * columns * frames * samples * max(4, (allocated or 8) // 8) > LARGEST:
        size = f"{frames} x {rows} x {columns}"
        raise refuse(name, f"An image has at most {MOST_PIXELS} pixels and 2^31 bytes", f"states {size}", "Split it.")
    if samples not in (1, 3) or allocated not in (8, 16, 32) or (samples == 3 and allocated != 8):
        found = f"has {samples} samples of {allocated} bits"
        raise refuse(name, "An image has one sample of 8, 16 or 32 bits, or three of 8", found, "Convert it.")
    stored = allocated if stored is None else stored
    if not 1 <= stored <= allocated or high not in (None, stored - 1):
        found = f"has BitsStored {stored} of {allocated}, HighBit {high}"
        raise refuse(name, "HighBit is BitsStored - 1, within BitsAllocated", found, "Export it again.")
    return rows, columns, frames, samples, allocated, stored


def _decoder(syntax: uid.UID, stored: int, name: str) -> str:
    """The pydicom plug-in of a transfer syntax."""
    plugin = DECODERS.get(syntax)
    # Of JPEG Extended, Pillow reads what JPEG Baseline could hold.
    if plugin is None or (syntax == uid.JPEGExtended12Bit and stored > 8):
        raise refuse(
            name,
            "Pixel data are uncompressed, RLE, JPEG, JPEG Lossless, JPEG-LS or JPEG 2000",
            f"has {syntax.name} of {stored} bits",
            "Convert it to Explicit VR Little Endian.",
        )
    if plugin not in ("", OURS) and plugin not in get_decoder(syntax).available_plugins:
        remedy = f"Install {plugin}, or convert it to Explicit VR Little Endian."
        raise refuse(name, f"{syntax.name} needs the decoder {plugin}", "cannot be read without", remedy)
    return plugin


def _check_frames(content: bytes, name: str, rows: int, columns: int, frames: int) -> None:
    """Refuse codestreams that are not as large as the file says, before a decoder allocates what they ask for."""
    try:
        streams = list(generate_frames(content, number_of_frames=frames))
    except Exception:
        streams = []
    if len(streams) != frames:
        raise refuse(name, f"The file states {frames} compressed frames", f"holds {len(streams)}", "Copy it again.")
    for stream in streams:
        size = _size_of(stream)
        if size not in (None, (rows, columns)):
            found = f"states {rows} x {columns} and holds a picture of {size[0]} x {size[1]}"
            raise refuse(name, "Rows and Columns fit the pixel data", found, "Export it again.")


def _size_of(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 codestream gives itself; None for another one (RLE).

    ITU-T T.81 B.2.2 (frame header), T.87 C.2.2, T.800 A.5.1 (SIZ).
    """
    if (at := stream[:4096].find(b"\xff\x4f\xff\x51")) >= 0 and len(stream) >= at + 24:
        wide, high, left, top = struct.unpack(">4I", stream[at + 8 : at + 24])
        return high - top, wide - left
    if stream[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return struct.unpack(">HH", stream[at + 5 : at + 9])
        else:
            at += 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    return 0, 0  # no frame header: fits no image, so it is refused
