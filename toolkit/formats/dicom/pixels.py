"""The stored pixels of a DICOM dataset: only where the file holds exactly those that it states, and they decode surely."""

from __future__ import annotations

import struct
import warnings

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

from toolkit.formats.dicom import jpeg_lossless
from toolkit.formats.dicom.elements import code_string, identifier, numbers
from toolkit.formats.dicom.files import FLOATS, LARGEST, PIXEL_DATA, refuse

__all__ = ["DECODERS", "stored_pixels"]

MOST_PIXELS = 2**26
"""Pixels of one frame; the largest detectors have 2^25."""

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


def stored_pixels(data: Dataset, name: str) -> np.ndarray:
    """Stored values, (frames, rows, columns), or (frames, rows, columns, 3) of a colour image, as RGB where YBR.

    Bits beside those that are stored, where overlays and rubbish are found, are left out, compressed or not (PS3.5
    8.1.1). No rescale, window or palette is applied. Errors: no pixels, other numbers of them than stated, a transfer
    syntax without a decoder, damage.
    """
    if PIXEL_DATA not in data:
        found = "has floating-point pixels" if any(tag in data for tag in FLOATS) else "has none"
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
        if code_string(data, "PhotometricInterpretation") == "YBR_FULL_422":
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
                found = _lossless(content, frames, allocated, code_string(data, "PixelRepresentation") == "1")
            else:
                # Which bits count is settled here for all: pydicom leaves the others out in some syntaxes alone.
                options = {"decoding_plugin": decoder, "correct_unused_bits": False}
                found, _ = get_decoder(syntax).as_array(data, **options)
    except Exception as problem:  # what a damaged codestream raises depends on the decoder
        found = f"does not ({type(problem).__name__})"
        raise refuse(name, "Pixel data decode whole", found, "Export it again.") from None
    found = found if frames > 1 or decoder == OURS else found[None]
    if found.shape[:3] != (frames, rows, columns):
        raise refuse(name, "Rows and Columns fit the pixel data", f"decodes to {found.shape}", "Export it again.")
    return _used_bits(found, stored)


def _used_bits(found: np.ndarray, stored: int) -> np.ndarray:
    """The values of the lowest bits; of a signed type the highest of these is the sign."""
    above = max(0, 8 * found.itemsize - stored)
    return (found << above) >> above if above else found


def _lossless(content: bytes, frames: int, allocated: int, signed: bool) -> np.ndarray:
    """(frames, rows, columns) of JPEG Lossless frames, which hold a signed value as the bits that it is stored in."""
    images = np.stack([jpeg_lossless.decode(stream) for stream in generate_frames(content, number_of_frames=frames)])
    return images.view(np.int16 if signed else np.uint16).astype(f"{'i' if signed else 'u'}{allocated // 8}")


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
