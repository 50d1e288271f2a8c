"""Films: grey levels against pydicom and the standard's formulas, what a file states, and what is refused."""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut, apply_windowing
from pydicom.sequence import Sequence

from toolkit.example import Error
from toolkit.formats.dicom import jpeg_lossless, pixels
from toolkit.formats.dicom.film import Film, read_film

DATA = Path(__file__).parents[2] / "shared" / "data" / "dicom" / "cxr"
real_films = pytest.mark.skipif(not DATA.is_dir(), reason="shared/data/dicom/cxr is not beside this checkout")
SECRET = "Doe^Jane"
SHAPE = (8, 6)


def stored() -> np.ndarray:
    """12 bits, every value another."""
    return (np.arange(48).reshape(SHAPE) * 80 + 100).astype(np.uint16)


def dataset(array: np.ndarray | None = None, **fields: Any) -> Dataset:
    array = stored() if array is None else array
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.Modality = uid.ComputedRadiographyImageStorage, "CR"
    data.SOPInstanceUID = uid.generate_uid()
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = SECRET, "ID-4711", "19500615", "F"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.StudyDate = "1.2.3", "1.2.4", "20100614"
    data.Rows, data.Columns = array.shape[:2]
    data.SamplesPerPixel = 3 if array.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if array.ndim == 3 else "MONOCHROME2"
    if array.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * array.itemsize
    data.BitsStored = 12 if array.dtype == np.uint16 else data.BitsAllocated
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(array.dtype.kind == "i")
    data.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def save(path: Path, data: Dataset | None = None, **fields: Any) -> Path:
    data = dataset(**fields) if data is None else data
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        data.SOPClassUID,
        data.SOPInstanceUID,
    )
    data.save_as(path, enforce_file_format=True)
    return path


def read(tmp_path: Path, **fields: Any) -> Film:
    return read_film(save(tmp_path / "x.dcm", **fields))


def lut(keyword: str, first: int, table: np.ndarray, bits: int) -> dict[str, Any]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(table), first, bits])
    item.add_new("LUTData", "US", table.tolist())
    if keyword == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    return {keyword: Sequence([item])}


# -------------------------------------------------------------------------------------------------------- grey levels


def test_without_a_window_the_range_is_that_of_the_pixels(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert np.allclose(found.pixels, np.arange(48).reshape(SHAPE) / 47, atol=1e-7) and found.pixels.dtype == np.float32


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", ""])
@pytest.mark.parametrize(("center", "width"), [(2000, 1500), (1024.5, 1), (4095, 4096), (0, 300)])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, -100), (-2, 4000)])
def test_windows_are_those_of_the_standard(
    tmp_path: Path, function: str, center: float, width: float, slope: float, intercept: float
) -> None:
    """Oracle: pydicom's apply_windowing, which spreads a window over what the stored bits and the rescale can hold."""
    fields = {"WindowCenter": center, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": intercept}
    data = dataset(**fields, **({"VOILUTFunction": function} if function else {}))
    values = stored().astype(float) * slope + intercept
    with np.errstate(over="ignore"):
        expected = np.asarray(apply_windowing(values, data), float)
    expected = (expected - intercept) / (4095 * slope)
    if np.ptp(expected) < 1e-9:
        with pytest.raises(Error, match="one grey level"):
            read_film(save(tmp_path / "x.dcm", data))
    else:
        assert np.allclose(read_film(save(tmp_path / "x.dcm", data)).pixels, expected, atol=2e-6)


def test_sixteen_bits_are_kept_until_the_window(tmp_path: Path) -> None:
    array = (40000 + np.arange(48).reshape(SHAPE)).astype(np.uint16)
    found = read(tmp_path, array=array, BitsStored=16, HighBit=15, WindowCenter=40024, WindowWidth=49)
    assert len(np.unique(found.pixels)) >= 47


def test_the_first_of_several_windows_counts(tmp_path: Path) -> None:
    several = read(tmp_path, WindowCenter=[2000, 300], WindowWidth=[1500, 20])
    assert np.array_equal(several.pixels, read(tmp_path, WindowCenter=2000, WindowWidth=1500).pixels)


def test_look_up_tables_are_applied_before_anything_else(tmp_path: Path) -> None:
    values = (np.arange(48).reshape(SHAPE) % 40).astype(np.uint8)
    table = (np.arange(32) ** 2).astype(np.uint16)
    data = dataset(values, **lut("VOILUTSequence", 4, table, 10), WindowCenter=1, WindowWidth=2)
    expected = np.asarray(apply_voi_lut(values, data), float) / 1023
    assert np.allclose(read_film(save(tmp_path / "a.dcm", data)).pixels, expected, atol=1e-6)
    data = dataset(values, **lut("ModalityLUTSequence", 4, table, 16))
    expected = table[np.clip(values.astype(int) - 4, 0, 31)] / 961
    assert np.allclose(read_film(save(tmp_path / "b.dcm", data)).pixels, expected, atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"WindowCenter": 2000, "WindowWidth": 1500}])
def test_monochrome1_is_the_exact_inverse(tmp_path: Path, fields: dict[str, float]) -> None:
    plain = read(tmp_path, **fields).pixels
    assert np.abs(read(tmp_path, **fields, PhotometricInterpretation="MONOCHROME1").pixels + plain - 1).max() < 1e-7


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("limit", [None, 4050])
def test_padding_is_black_and_left_out_of_the_range(tmp_path: Path, kind: str, limit: int | None) -> None:
    array = stored()
    array[:, 0], array[0, 0] = 4095, 4095 if limit is None else 4060
    extra = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    found = read(tmp_path, array=array, PhotometricInterpretation=kind, PixelPaddingValue=4095, **extra).pixels
    assert (found[:, 0] == 0).all()
    inside = stored()[:, 1:].astype(float)
    expected = (inside - inside.min()) / np.ptp(inside)
    assert np.allclose(found[:, 1:], 1 - expected if kind == "MONOCHROME1" else expected, atol=1e-6)


def test_signed_values_keep_their_sign(tmp_path: Path) -> None:
    array = (np.arange(48).reshape(SHAPE) - 24).astype(np.int16)
    found = read(tmp_path, array=array, BitsStored=12, HighBit=11, WindowCenter=0, WindowWidth=48)
    assert found.pixels[0, 0] < 0.02 and abs(float(found.pixels[4, 0]) - 0.5) < 0.02


def test_colours_become_grey(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    found = read(tmp_path, array=array, SOPClassUID=uid.SecondaryCaptureImageStorage, Modality="OT")
    grey = array @ np.array([0.299, 0.587, 0.114])
    assert np.allclose(found.pixels, (grey - grey.min()) / np.ptp(grey), atol=1e-6) and "grey" in found.notes[0]


# -------------------------------------------------------------------------------------------------------------- shape


@settings(max_examples=40, deadline=None)
@given(turned=st.booleans(), down=st.booleans(), left=st.booleans())
def test_an_orientation_that_is_stated_is_undone(tmp_path_factory, turned: bool, down: bool, left: bool) -> None:
    """Rows toward the patient's left and columns toward the feet is how a frontal film is looked at."""
    upright = stored()
    array, row, column = upright, "L", "F"
    if not left:
        array, row = array[:, ::-1], "R"
    if not down:
        array, column = array[::-1], "H"
    if turned:
        array, row, column = array.T, column, row
    place = tmp_path_factory.getbasetemp() / "turned.dcm"
    found = read_film(save(place, array=np.ascontiguousarray(array), PatientOrientation=[row, column]))
    assert np.allclose(found.pixels, np.arange(48).reshape(SHAPE) / 47, atol=1e-7)
    assert bool(found.notes) == (turned or not down or not left)


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"])
def test_pixels_that_are_not_square_are_made_so(tmp_path: Path, keyword: str) -> None:
    wide = read(tmp_path, **{keyword: [1, 2]})  # a pixel is 1 high and 2 wide
    assert wide.pixels.shape == (8, 12) and "square" in wide.notes[0]
    tall = read(tmp_path, **{keyword: [2, 1]})
    assert tall.pixels.shape == (16, 6)
    assert np.allclose(tall.pixels.mean(), np.mean(np.arange(48) / 47), atol=0.01)
    turned = read(tmp_path, **{keyword: [2, 1]}, PatientOrientation=["F", "L"])
    assert turned.pixels.shape == (6, 16)
    assert read(tmp_path, **{keyword: [1, 1]}).pixels.shape == SHAPE


def test_a_spacing_of_zero_in_both_directions_is_as_good_as_none(tmp_path: Path) -> None:
    found = read(tmp_path, PixelSpacing=[0, 0])
    assert found.pixels.shape == SHAPE and "not stated" in found.notes[0]


# ----------------------------------------------------------------------------------------------------- what is stated


def code(value: str, **inner: Any) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "x"
    for name, sequence in inner.items():
        setattr(item, name, sequence)
    return Sequence([item])


VIEWS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"ViewPosition": "PA"}, "PA"),
    ({"ViewPosition": "AP"}, "AP"),
    ({"ViewPosition": "LL"}, "L"),
    ({"ViewPosition": "RL"}, "L"),
    ({"ViewPosition": "LLD", "SeriesDescription": "PA"}, ""),
    ({"ViewPosition": "", "SeriesDescription": "view: PA"}, "PA"),
    ({"SeriesDescription": "CHEST PA AND LAT"}, ""),
    ({"SeriesDescription": "W033 Thorax p.a."}, "PA"),
    ({"SeriesDescription": "APPLE"}, ""),
    ({"ProtocolName": "CHEST AP SUPINE"}, "AP Supine"),
    ({"ViewPosition": "AP", "SeriesDescription": "bedside supine"}, "AP Supine"),
    ({"ViewPosition": "PA", "SeriesDescription": "supine"}, "PA"),
    ({"ViewCodeSequence": code("272479007")}, "PA"),
    ({"ViewCodeSequence": code("R-10206")}, "AP"),
    ({"ViewCodeSequence": code("399173006")}, "L"),
    ({"ViewCodeSequence": code("399348003"), "PatientOrientationCodeSequence": code(
        "102538003", PatientOrientationModifierCodeSequence=code("40199007"))}, "AP Supine"),
    ({"PatientOrientation": ["A", "F"]}, "L"),
    ({"PatientOrientation": ["L", "F"]}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "view"), VIEWS)
def test_the_view_is_read_as_far_as_it_is_stated(tmp_path: Path, fields: dict[str, Any], view: str) -> None:
    assert read(tmp_path, **fields).view == view


def years(birth: str = "", study: str = "20100614", age: str = "") -> dict[str, str]:
    return {"PatientBirthDate": birth, "StudyDate": study, "PatientAge": age}


@pytest.mark.filterwarnings("ignore")  # pydicom warns of ages that are none while they are written
@pytest.mark.parametrize(
    ("fields", "age"),
    [
        (years(age="062Y"), 62), (years(age="62"), 62), (years(age="006M"), 0.5), (years(age="010D"), 10 / 365.25),
        (years(age="004W"), 28 / 365.25), (years(birth="19500615"), 59.997), (years(birth="1950.06.15"), 59.997),
        (years(birth="19500615", age="061Y"), 61), (years(), math.nan), (years(birth="20200101"), math.nan),
        (years(birth="19500615", study="190"), math.nan), (years(age="412Y"), math.nan), (years(birth="19501361"), math.nan),
    ],
)  # fmt: skip
def test_ages(tmp_path: Path, fields: dict[str, str], age: float) -> None:
    assert read(tmp_path, **fields).age == pytest.approx(age, abs=2e-3, nan_ok=True)


@pytest.mark.filterwarnings("ignore")  # pydicom warns of small letters while they are written
def test_the_patient_is_a_key_and_no_name(tmp_path: Path) -> None:
    found = read(tmp_path)
    other = read(tmp_path, PatientID="ID-4712", PatientName=SECRET)
    nameless = read(tmp_path, PatientID="", StudyInstanceUID="1.2.77")
    assert len({found.patient, other.patient, nameless.patient}) == 3 and found.patient == read(tmp_path).patient
    assert not any(word in str(found) for word in ("4711", "Doe", "Jane"))
    assert (found.sex, found.synthetic, found.text) == ("F", False, "")
    assert read(tmp_path, PatientSex="O").sex == "" and read(tmp_path, SyntheticData="YES").synthetic
    assert (
        read(tmp_path, ImageComments="no finding").text == ""
        and read(tmp_path, BodyPartExamined="chest").body == "CHEST"
    )


# ----------------------------------------------------------------------------------------------------------- refusals

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "slope 0": ({"RescaleSlope": 0}, "RescaleSlope"),
    "slope NaN": ({"RescaleSlope": "NaN"}, "RescaleSlope"),
    "slope infinite": ({"RescaleSlope": "inf"}, "RescaleSlope"),
    "intercept NaN": ({"RescaleIntercept": "NaN"}, "RescaleIntercept"),
    "spacing negative": ({"PixelSpacing": [-0.1, 0.1]}, "positive"),
    "spacing 0 once": ({"PixelSpacing": [0, 0.1]}, "positive"),
    "spacing NaN": ({"PixelSpacing": ["NaN", 0.1]}, "finite"),
    "one spacing": ({"ImagerPixelSpacing": 0.1}, "2 finite numbers"),
    "needles": ({"PixelSpacing": [0.1, 0.9]}, "4 times"),
    "too many rows": ({"Rows": 9}, "fit the pixel data"),
    "too few rows": ({"Rows": 7}, "fit the pixel data"),
    "no rows": ({"Rows": 0}, "rows, columns"),
    "65535 rows and columns": ({"Rows": 65535, "Columns": 65535}, "at most"),
    "no pixels": ({"PixelData": None}, "integer pixel data"),
    "two frames": ({"NumberOfFrames": 2}, "one frame"),
    "12 of 8 bits": ({"BitsStored": 20}, "BitsStored"),
    "bits elsewhere": ({"HighBit": 15}, "HighBit"),
    "64 bits": ({"BitsAllocated": 64}, "8, 16 or 32"),
    "window width 0": ({"WindowCenter": 1, "WindowWidth": 0}, "WindowWidth"),
    "window NaN": ({"WindowCenter": "NaN", "WindowWidth": 10}, "WindowCenter"),
    "window of another range": ({"WindowCenter": 60000, "WindowWidth": 10}, "one grey level"),
    "unknown function": ({"WindowCenter": 1000, "WindowWidth": 10, "VOILUTFunction": "CUBIC"}, "VOILUTFunction"),
    "blank": ({"array": np.full(SHAPE, 7, np.uint16)}, "one grey level"),
    "all padding": ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 5000}, "one grey level"),
    "CT": ({"SOPClassUID": uid.CTImageStorage, "Modality": "CT"}, "CT Image Storage"),
    "MR": ({"SOPClassUID": uid.MRImageStorage, "Modality": "MR"}, "MR Image Storage"),
    "capture of a CT": ({"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "CT"}, "(CT)"),
    "raw": ({"SOPClassUID": uid.DigitalXRayImageStorageForProcessing, "Modality": "DX"}, "for presentation"),
    "no photometric interpretation": ({"PhotometricInterpretation": ""}, "MONOCHROME"),
    "damaged table": ({**lut("VOILUTSequence", 0, np.arange(5), 12)}, "look-up table"),
}  # fmt: skip
BAD["damaged table"][0]["VOILUTSequence"][0].LUTDescriptor = [9, 0, 12]


@pytest.mark.filterwarnings("ignore")  # pydicom warns while this test writes what is wrong
@pytest.mark.parametrize("case", BAD)
def test_a_doubtful_film_is_refused_in_one_line_that_names_the_file_and_nobody(tmp_path: Path, case: str) -> None:
    fields, word = BAD[case]
    data = dataset(**fields)
    if fields.get("PixelData", b"") is None:
        del data.PixelData
    path = save(tmp_path / "x.dcm", data)
    with pytest.raises(Error) as refusal:
        read_film(path)
    message = str(refusal.value)
    assert word in message and "x.dcm" in message and "\n" not in message
    assert not any(secret in message for secret in ("Doe", "Jane", "4711"))


def test_what_is_no_dicom_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"hello", bytes(132), b"\x89PNG" + bytes(600), bytes(128) + b"DICM")):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(content)
        with pytest.raises(Error, match=path.name):
            read_film(path)
    for name in ("absent.dcm", "."):
        with pytest.raises(Error):
            read_film(tmp_path / name)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.dcm")
    whole = path.read_bytes()
    for cut in sorted({*range(0, len(whole), 13), len(whole) - 1}):
        path.write_bytes(whole[:cut])
        with pytest.raises(Error, match=r"x\.dcm"):
            read_film(path)


@settings(max_examples=80, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(128, 900), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_read_or_refused_but_never_crashes(tmp_path_factory, changes: list[tuple[int, int]]) -> None:
    path = save(
        tmp_path_factory.getbasetemp() / "fuzz.dcm", WindowCenter=2000, WindowWidth=1500, PixelSpacing=[0.2, 0.2]
    )
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[min(place, len(content) - 1)] = value
    path.write_bytes(content)
    try:
        found = read_film(path)
    except Error as refusal:
        assert "fuzz.dcm" in str(refusal) and "\n" not in str(refusal) and "Jane" not in str(refusal)
    else:
        assert np.isfinite(found.pixels).all() and found.pixels.min() >= 0 and found.pixels.max() <= 1


# ------------------------------------------------------------------------------------------------ transfer syntaxes


def deflated(path: Path, content: bytes) -> Path:
    """A deflated file whose dataset is `content` (Explicit VR Little Endian)."""
    empty = dataset()
    empty.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    save(path, empty)
    meta = pydicom.filereader.read_file_meta_info(path)
    start = 132 + 12 + meta.FileMetaInformationGroupLength
    packer = zlib.compressobj(9, wbits=-15)
    path.write_bytes(path.read_bytes()[:start] + packer.compress(content) + packer.flush())
    return path


def test_a_deflated_film_is_read(tmp_path: Path) -> None:
    data = dataset()
    data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    assert np.array_equal(read_film(save(tmp_path / "x.dcm", data)).pixels, read(tmp_path).pixels)


def test_a_small_file_cannot_make_us_allocate(tmp_path: Path) -> None:
    """300 MB of zeros, deflated to 0.3 MB, refused by a process that may have 600 MB more than it starts with."""
    head = pydicom.filebase.DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    data = dataset(Rows=12247, Columns=12247)
    del data.PixelData
    pydicom.filewriter.write_dataset(head, data)
    size = 12247 * 12247 * 2
    element = b"\xe0\x7f\x10\x00OW\0\0" + size.to_bytes(4, "little")
    path = deflated(tmp_path / "x.dcm", head.getvalue() + element + bytes(size))
    assert path.stat().st_size < 400_000
    code = (
        "import resource, sys\n"
        "from toolkit.formats.dicom.film import read_film\nfrom toolkit.example import Error\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)\n"
        "try: read_film(sys.argv[1])\nexcept Error as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert "unpacks to more than" in done.stdout


def test_a_picture_larger_than_the_file_says_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    for kind, syntax in (("JPEG", uid.JPEGBaseline8Bit), ("JPEG2000", uid.JPEG2000Lossless)):
        array = np.arange(48, dtype=np.uint8).reshape(SHAPE)
        for size, refused in (((6, 8), False), ((600, 800), True)):
            stream = BytesIO()
            Image.fromarray(array).resize(size).save(stream, kind)
            data = dataset(array, PixelData=encapsulate([stream.getvalue()]))
            data["PixelData"].VR = "OB"
            data.file_meta.TransferSyntaxUID = syntax
            path = save(tmp_path / "x.dcm", data)
            if refused:
                with pytest.raises(Error, match="picture of 800 x 600"):
                    read_film(path)
            else:
                assert read_film(path).pixels.shape == SHAPE


@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.MPEG2MPML, uid.JPEGExtended12Bit, "1.2.3.4"])
def test_a_transfer_syntax_without_a_decoder_is_named(tmp_path: Path, syntax: str) -> None:
    data = dataset(PixelData=encapsulate([b"\xff\xd8\xff\xd9"]))
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    path = save(tmp_path / "x.dcm", data)
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", str(syntax).encode().ljust(20, b"\0")[:20], 1)
    path.write_bytes(content if len(str(syntax)) <= 20 else b"")
    if len(str(syntax)) > 20:  # it does not fit in the place of the other: written as pydicom writes it
        data.file_meta.TransferSyntaxUID = uid.UID(syntax)
        save(path, data)
    with pytest.raises(Error, match="Pixel data are uncompressed, RLE"):
        read_film(path)


def test_a_decoder_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(PixelData=encapsulate([b"\xff\xd8\xff\xd9"]))
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    path = save(tmp_path / "x.dcm", data)
    monkeypatch.setitem(pixels.DECODERS, uid.JPEGLosslessSV1, "none of these")
    with pytest.raises(Error, match="Install none of these"):
        read_film(path)


# ------------------------------------------------------------------------------------------------------- JPEG Lossless


def predicted(x: np.ndarray, predictor: int, y: int, c: int, precision: int, top: int) -> int:
    """T.81 table H.1; the first row of an interval from the left, the first column from above."""
    if y == top:
        return int(x[y, c - 1]) if c else 1 << (precision - 1)
    left, above, corner = (int(x[y, c - 1]) if c else 0), int(x[y - 1, c]), (int(x[y - 1, c - 1]) if c else 0)
    if c == 0:
        return above
    return (left, above, corner, left + above - corner, left + ((above - corner) >> 1), above + ((left - corner) >> 1),
            (left + above) >> 1)[predictor - 1]  # fmt: skip


def lossless(x: np.ndarray, predictor: int = 1, precision: int = 16, restart: int = 0) -> bytes:
    """A plain encoder: codes of 5 bits for the 17 categories, a restart marker every `restart` rows."""
    height, width = x.shape
    table = bytes([0] + [0] * 4 + [17] + [0] * 11 + list(range(17)))
    out = b"\xff\xd8\xff\xc4" + (2 + len(table)).to_bytes(2, "big") + table
    out += b"\xff\xc3\0\x0b" + bytes([precision, *divmod(height, 256), *divmod(width, 256), 1, 1, 0x11, 0])
    if restart:
        out += b"\xff\xdd\0\x04" + (restart * width).to_bytes(2, "big")
    out += b"\xff\xda\0\x08" + bytes([1, 1, 0, predictor, 0, 0])
    step = restart or height
    for number, top in enumerate(range(0, height, step)):
        bits = ""
        for y in range(top, min(top + step, height)):
            for c in range(width):
                d = (int(x[y, c]) - predicted(x, predictor, y, c, precision, top)) & 0xFFFF
                d = d - 65536 if d > 32768 else d
                size = abs(d).bit_length()
                bits += f"{size:05b}" + (f"{d if d > 0 else d + (1 << size) - 1:0{size}b}" if 0 < size < 16 else "")
        bits += "1" * (-len(bits) % 8)
        content = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        out += (b"\xff" + bytes([0xD0 + (number - 1) % 8]) if number else b"") + content
    return out + b"\xff\xd9"


@pytest.mark.parametrize("restart", [0, 1, 3])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_jpeg_lossless_returns_every_pixel(predictor: int, restart: int) -> None:
    random = np.random.default_rng(predictor)
    for precision in (2, 8, 12, 16):
        x = random.integers(0, 2**precision, (9, 7)).astype(np.uint16)
        x[2:5] = 2**precision - 1  # stuffed bytes, and differences of 2^15 and more
        assert np.array_equal(jpeg_lossless.decode(lossless(x, predictor, precision, restart)), x)


def test_jpeg_lossless_refuses_what_is_cut_or_goes_on() -> None:
    x = np.random.default_rng(0).integers(0, 65536, (6, 5)).astype(np.uint16)
    whole = lossless(x)
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            jpeg_lossless.decode(whole[:end])
    for damaged in (
        whole[:-8] + whole[-2:],
        whole[:-2] + bytes(9) + whole[-2:],
        whole.replace(b"\xff\xc3", b"\xff\xc0"),
    ):
        with pytest.raises(ValueError):
            jpeg_lossless.decode(damaged)


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(2, 200), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_jpeg_lossless_is_decoded_or_refused(changes: list[tuple[int, int]]) -> None:
    content = bytearray(lossless(np.arange(30, dtype=np.uint16).reshape(6, 5) * 2000, restart=2))
    for place, value in changes:
        content[min(place, len(content) - 1)] = value
    with contextlib.suppress(ValueError):
        assert jpeg_lossless.decode(bytes(content)).dtype == np.uint16


@pytest.mark.parametrize("signed", [False, True])
def test_a_jpeg_lossless_film_is_read(tmp_path: Path, signed: bool) -> None:
    plain = stored().astype(np.int16) - 2000 if signed else stored()
    data = dataset(plain, BitsStored=12, HighBit=11)
    expected = read_film(save(tmp_path / "plain.dcm", data)).pixels
    data.PixelData = encapsulate([lossless(plain.view(np.uint16) & 0xFFF, 1, 12)])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    assert np.array_equal(read_film(save(tmp_path / "x.dcm", data)).pixels, expected)


# ---------------------------------------------------------------------------------------------------------- real films


@real_films
def test_real_films_are_read_with_what_they_state() -> None:
    found = {path.stem: read_film(path) for path in sorted(DATA.glob("*.dcm"))}
    stated = {name: (f.pixels.shape, f.view, f.sex) for name, f in found.items()}
    assert stated == {
        "CR-MONO1-10-chest": ((440, 440), "PA", ""),
        "RG1_J2KI": ((1955, 1841), "PA", "F"),
        "rsna_16d7f894_fake_mono1": ((1024, 1024), "PA", "M"),
        "rsna_16d7f894_mono2": ((1024, 1024), "PA", "M"),
    }
    assert found["rsna_16d7f894_mono2"].age == 62 and found["RG1_J2KI"].age == pytest.approx(64.5, abs=0.05)
    assert len({f.patient for f in found.values()}) == 3
    plain, inverted = found["rsna_16d7f894_mono2"].pixels, found["rsna_16d7f894_fake_mono1"].pixels
    assert np.abs(plain.astype(float) + inverted - 1).max() < 1e-7
    for name in ("CR-MONO1-10-chest", "RG1_J2KI", "rsna_16d7f894_mono2"):
        shown = found[name].pixels
        rows, columns = (slice(n // 3, 2 * n // 3) for n in shown.shape)
        lung, middle = shown[rows, : shown.shape[1] // 3], shown[rows, columns]
        assert np.median(middle) > np.median(lung[:, lung.shape[1] // 2 :]), "the spine is brighter than the lung"


@real_films
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dcmcjpeg"), reason="dcmtk is not installed")
@pytest.mark.parametrize(
    "command",
    [
        "dcmcjpeg +e1", *(f"dcmcjpeg +el +sv {k}" for k in range(1, 8)), "dcmcjpls", "dcmcrle", "dcmconv +td",
        "dcmconv +tb", "dcmconv +ti",
    ],
)  # fmt: skip
def test_what_dcmtk_encodes_without_loss_is_the_same_film(tmp_path: Path, command: str) -> None:
    source = DATA / "CR-MONO1-10-chest.dcm"
    subprocess.run([*command.split(), str(source), str(tmp_path / "x.dcm")], check=True, capture_output=True)
    assert np.array_equal(read_film(tmp_path / "x.dcm").pixels, read_film(source).pixels)


@real_films
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dcmj2pnm"), reason="dcmtk is not installed")
@pytest.mark.parametrize("name", ["CR-MONO1-10-chest", "rsna_16d7f894_mono2", "rsna_16d7f894_fake_mono1"])
def test_dcmtk_shows_the_same_picture(tmp_path: Path, name: str) -> None:
    """dcmj2pnm renders with the file's window, or over the range of the pixels, to 8 bits."""
    from PIL import Image

    found = read_film(DATA / f"{name}.dcm").pixels
    window = "+Wi" if name.startswith("CR") else "+Wm"
    arguments = ["+op", *([window, "1"] if window == "+Wi" else [window])]
    subprocess.run(
        ["dcmj2pnm", *arguments, str(DATA / f"{name}.dcm"), str(tmp_path / "x.pgm")], check=True, capture_output=True
    )
    theirs = np.asarray(Image.open(tmp_path / "x.pgm"), float) / 255
    assert np.abs(theirs - found).max() < 1.5 / 255
