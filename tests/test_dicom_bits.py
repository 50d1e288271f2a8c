"""Bits above those that are stored, in every transfer syntax, of films and MR series alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from dicoms import affine_of, classic
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from test_dicom_film import dataset, lossless, save

from toolkit.formats.dicom import series
from toolkit.formats.dicom.film import read_film
from toolkit.formats.dicom.pixels import stored_pixels

SYNTAXES = ("native", "RLE", "JPEG Lossless", "JPEG-LS", "JPEG 2000")


def compress(data: Dataset, syntax: str) -> None:
    """Its 16-bit words in another syntax, every bit of them kept and no sign known to the codestream."""
    words = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
    if syntax == "JPEG 2000":
        out = io.BytesIO()
        Image.fromarray(words).save(out, "JPEG2000", irreversible=False, no_jp2=True)
        data.PixelData = encapsulate([out.getvalue()])
        data.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    elif syntax == "JPEG Lossless":
        data.PixelData = encapsulate([lossless(words)])
        data.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    elif syntax != "native":
        stored, data.BitsStored, data.HighBit = data.BitsStored, 16, 15
        data.compress({"RLE": uid.RLELossless, "JPEG-LS": uid.JPEGLSLossless}[syntax], generate_instance_uid=False)
        data.BitsStored, data.HighBit = stored, stored - 1
    if syntax != "native":
        data["PixelData"].VR = "OB"


def with_rubbish(values: np.ndarray, bits: int) -> np.ndarray:
    """(rows, cols) values as words of 16 bits: an overlay in the bit above them, and all bits above in some rows."""
    words = (values & (2**bits - 1)).astype("<u2")
    words[3:6] |= (0xFFFF << bits) & 0xFFFF
    words[7, ::2] |= 1 << bits
    return words


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 15])
def test_bits_above_those_that_are_stored_are_left_out(syntax: str, signed: bool, bits: int) -> None:
    """PS3.5 8.1.1. pydicom 3.0.2 leaves them out of native and RLE pixels and not of JPEG 2000 and JPEG-LS."""
    low = -(2 ** (bits - 1)) if signed else 0
    true = np.random.default_rng(bits).integers(low, low + 2**bits, (9, 24))
    words = with_rubbish(true, bits)
    data = dataset(words.view("<i2") if signed else words, BitsStored=bits, HighBit=bits - 1)
    compress(data, syntax)
    assert np.array_equal(stored_pixels(data, "x")[0], true)


@pytest.mark.parametrize("syntax", SYNTAXES[1:])
def test_a_film_with_an_overlay_in_its_pixels_is_the_same_compressed(tmp_path: Path, syntax: str) -> None:
    values = (np.arange(48 * 9).reshape(9, 48) * 9).astype(int)
    data = dataset(with_rubbish(values, 12), BitsStored=12, HighBit=11)
    plain = read_film(save(tmp_path / "a.dcm", data)).pixels
    assert np.abs(plain - values / values.max()).max() < 1e-6
    compress(data, syntax)
    assert np.array_equal(read_film(save(tmp_path / "b.dcm", data)).pixels, plain)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_series_with_an_overlay_in_its_pixels_is_the_volume_without(tmp_path: Path, syntax: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 4096, (24, 9, 4)).astype(np.float32)
    for path in classic(tmp_path, voxels, affine_of((0, 0, 0), (1, 1, 3)), BitsStored=12, HighBit=11):
        data = dcmread(path)
        values = np.frombuffer(data.PixelData, "<u2").reshape(9, 24).astype(int)
        data.PixelData = with_rubbish(values, 12).tobytes()
        compress(data, syntax)
        data.save_as(path, enforce_file_format=True)
    (found,) = series.load_all(tmp_path)
    assert np.array_equal(found.voxels, voxels)
