"""The grayscale pipeline of films, step by step and against dcmtk, pixel by pixel; which part of the body a file names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from test_dicom_film import code, dataset, read, save, stored

from toolkit.example import Error, Provenance
from toolkit.formats.dicom.edited import write_edited_film
from toolkit.formats.dicom.film import read_film

SQUARED = np.rint((np.arange(4096) / 4095) ** 2 * 4095).astype(int)
"""A table of 12 bits."""

WHOLE = {"WindowCenter": 2048, "WindowWidth": 4096}
"""Shows 12 bits as they are: v / 4095."""


def table(
    entries: Any,
    first: int = 0,
    bits: int = 12,
    kind: str = "US",
    keyword: str = "VOILUTSequence",
    count: int | None = None,
) -> dict[str, Any]:
    """A look-up table as a file holds it. kind: VR of the first value; entries: numbers, or bytes as OW."""
    item = Dataset()
    item.add_new("LUTDescriptor", kind, [len(entries) % 65536 if count is None else count, first, bits])
    item.add_new(
        "LUTData",
        "OW" if isinstance(entries, bytes) else "US",
        entries if isinstance(entries, bytes) else [*map(int, entries)],
    )
    if keyword == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    return {keyword: Sequence([item])}


def signed() -> np.ndarray:
    """12 bits, from -1948 to 1812."""
    return (stored().astype(int) - 2048).astype(np.int16)


# --------------------------------------------------------------------------------------------------- presentation LUT


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", ["", "IDENTITY", "INVERSE", "LIN OD"])
@pytest.mark.parametrize("shown", [{}, WHOLE, table(SQUARED)], ids=["range", "window", "table"])
def test_the_shape_says_whether_a_film_is_inverted_and_else_its_kind_does(
    tmp_path: Path, kind: str, shape: str, shown: dict[str, Any]
) -> None:
    """dcmtk 3.6.7, dcm4che and Weasis do the same: INVERSE of a MONOCHROME1 film is no second inversion."""
    plain = read(tmp_path, **shown).pixels
    found = read(
        tmp_path, **shown, PhotometricInterpretation=kind, **({"PresentationLUTShape": shape} if shape else {})
    )
    inverted = shape == "INVERSE" if shape in ("IDENTITY", "INVERSE") else kind == "MONOCHROME1"
    assert np.abs(found.pixels - (1 - plain if inverted else plain)).max() < 1e-6
    contradicts = (kind, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE"))
    assert any(shape in note for note in found.doubts) if contradicts else not found.doubts


# ----------------------------------------------------------------------------------------------------- look-up tables


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_white_is_the_largest_entry_of_a_table_whose_bits_are_those_of_something_else(
    tmp_path: Path, bits: int
) -> None:
    """The bits may be those of the storage (16) or of the display (8); Horos and Cornerstone show the largest entry white."""
    found = read(tmp_path, **table(SQUARED, bits=bits))
    assert np.abs(found.pixels - SQUARED[stored()] / 4095).max() < 1e-6
    assert bool(found.doubts) == (bits != 12)
    # A table that stays a little below what its bits hold is as it is meant.
    darker = read(tmp_path, **table(SQUARED * 3 // 4))
    assert np.abs(darker.pixels - (SQUARED * 3 // 4)[stored()] / 4095).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    first=st.sampled_from([0, 1, 100, 30000, 40000, -1, -1000, -2048]),
    count=st.sampled_from([1000, 2**12, 40000, 2**16]),
    kind=st.sampled_from(["US", "SS"]),
    by=st.sampled_from(["rescale", "pixels"]),
)
def test_the_first_value_of_a_table_has_the_sign_that_the_values_need(
    tmp_path_factory, first: int, count: int, kind: str, by: str
) -> None:
    """Whatever the VR that it was written with, 16 bits are all that it has; 0 entries are 65536."""
    if by == "rescale":
        # Values that begin within the table, by an intercept.
        pixels, fields = stored(), {"RescaleSlope": 1, "RescaleIntercept": first}
        values = stored().astype(int) + first
    else:
        low = max(min(first, 30000), -30000)
        pixels = (np.arange(48).reshape(8, 6) + low).astype(np.int16)
        fields, values = {"BitsStored": 16, "HighBit": 15}, pixels.astype(int)
        if low != first:
            return
    entries = np.linspace(0, 65535, count).astype(int)

    def word(value: int) -> int:
        value %= 65536
        return value - 65536 if kind == "SS" and value > 32767 else value

    shown = table(entries.astype("<u2").tobytes(), word(first), 16, kind, count=count % 65536)
    expected = entries[np.clip(values - first, 0, count - 1)] / 65535
    place = tmp_path_factory.getbasetemp() / "first.dcm"
    if np.ptp(expected) == 0:
        return
    assert np.abs(read_film(save(place, array=pixels, **fields, **shown)).pixels - expected).max() < 1e-6


@pytest.mark.parametrize("big", [False, True], ids=["little", "big endian"])
@pytest.mark.parametrize("count", [255, 256])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_entries_of_eight_bits_lie_one_or_two_in_a_word(
    tmp_path: Path, big: bool, count: int, packed: bool, as_bytes: bool
) -> None:
    entries = (np.arange(count) ** 2 // 256).astype(np.uint8)
    if packed:
        pairs = np.append(entries, 0)[: count + count % 2].astype(int)
        words = pairs[::2] | pairs[1::2] << 8
    else:
        words = entries.astype(int)
    content: Any = words.astype(">u2" if big else "<u2").tobytes() if as_bytes else words
    values = (np.arange(48).reshape(8, 6) * 5).astype(np.uint8)
    data = dataset(values, **table(content, bits=8, count=count))
    if big:
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    path = tmp_path / "x.dcm"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        data.SOPClassUID,
        data.SOPInstanceUID,
    )
    data.save_as(path, enforce_file_format=True, little_endian=not big, implicit_vr=False)
    assert np.abs(read_film(path).pixels - entries[values] / 255).max() < 1e-6


def test_a_modality_table_comes_before_a_window_and_its_sign_is_read_likewise(tmp_path: Path) -> None:
    fields = table(SQUARED, 65536 - 2048, keyword="ModalityLUTSequence") | WHOLE
    found = read(tmp_path, array=signed(), BitsStored=12, HighBit=11, **fields)
    assert np.abs(found.pixels - SQUARED[stored()] / 4095).max() < 1e-6


def test_which_of_several_is_taken_is_said(tmp_path: Path) -> None:
    two = Sequence([*table(SQUARED)["VOILUTSequence"], *table(SQUARED[::-1])["VOILUTSequence"]])
    found = read(tmp_path, VOILUTSequence=two, **WHOLE)
    assert np.abs(found.pixels - SQUARED[stored()] / 4095).max() < 1e-6
    assert "2 VOI LUTs and 1 window" in found.doubts[0]
    found = read(tmp_path, WindowCenter=[2048, 300], WindowWidth=[4096, 20])
    assert np.abs(found.pixels - stored() / 4095).max() < 1e-6 and "has 2" in found.doubts[0]
    assert not read(tmp_path, **WHOLE).doubts


@pytest.mark.parametrize("value", [-2000, 63536])
def test_padding_of_signed_pixels_is_found_whatever_its_sign_was_written_as(tmp_path: Path, value: int) -> None:
    array = np.maximum(signed(), -1900).astype(np.int16)
    array[:, 0] = -2000
    data = dataset(
        array, BitsStored=12, HighBit=11, WindowCenter=0, WindowWidth=4096, PhotometricInterpretation="MONOCHROME1"
    )
    data.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)
    assert (read_film(save(tmp_path / "x.dcm", data)).pixels[:, 0] == 0).all()


# -------------------------------------------------------------------------------------------------------- edited films

PIPELINES: dict[str, dict[str, Any]] = {
    "range": {},
    "window": {"WindowCenter": 2000, "WindowWidth": 1500},
    "exact": {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
    "rescale": {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 2500, "WindowWidth": 4000},
    "negative slope": {"RescaleSlope": -1, "RescaleIntercept": 4095, **WHOLE},
    "table": table(SQUARED),
    "table that states 16 bits": table(SQUARED, bits=16),
    "table of signed values": table(SQUARED, 65536 - 1000) | {"RescaleSlope": 1, "RescaleIntercept": -1000},
    "two tables": {
        "VOILUTSequence": Sequence([*table(SQUARED)["VOILUTSequence"], *table(SQUARED[::-1])["VOILUTSequence"]])
    },
    "modality table": table(SQUARED, keyword="ModalityLUTSequence") | {"WindowCenter": 2000, "WindowWidth": 1500},
}
SHAPES = ("", "IDENTITY", "INVERSE")
KINDS = ("MONOCHROME1", "MONOCHROME2")


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_film_is_shown_as_it_was_edited(tmp_path: Path, pipeline: str, kind: str) -> None:
    """What is written has a pipeline of its own, whatever that of its source: nothing of it is applied twice."""
    array = np.tile(stored(), (4, 4))
    shape = {"PresentationLUTShape": "INVERSE"} if kind == "MONOCHROME2" else {}
    source = save(tmp_path / "x.dcm", array=array, PhotometricInterpretation=kind, **PIPELINES[pipeline], **shape)
    shown = read_film(source).pixels
    edited = shown.copy()
    edited[3:9, 3:9] = np.linspace(0, 1, 36).reshape(6, 6)
    write_edited_film(source, edited, "effusion", Provenance("edited", "m", "inpaint", 0, {}, "x"), tmp_path / "y.dcm")
    found = read_film(tmp_path / "y.dcm")
    assert np.abs(found.pixels - edited).max() < 1 / 4095
    assert found.pixels.max() == 1 and found.pixels.min() == 0


def test_a_film_by_a_table_that_states_too_many_bits_reaches_white(tmp_path: Path) -> None:
    """4095 of 16 bits would be 0.0625, next to black."""
    array = np.linspace(0, 4095, 48).reshape(8, 6).astype(np.uint16)
    assert read(tmp_path, array=array, **table(SQUARED, bits=16)).pixels.max() == 1


# ------------------------------------------------------------------------------------------------ the part of the body


def region(meaning: str, value: str = "1") -> Sequence:
    found = code(value)
    found[0].CodeMeaning = meaning
    return found


CAPTURE = {"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "OT"}

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "hand": ({"BodyPartExamined": "HAND"}, "HAND"),
    "left knee": ({"BodyPartExamined": "L KNEE"}, "KNEE"),
    "feet": ({"BodyPartExamined": "FEET"}, "FEET"),
    "lumbar spine": ({"BodyPartExamined": "LSPINE"}, "LSPINE"),
    "skull in German": ({"BodyPartExamined": "SCHÄDEL", "SpecificCharacterSet": "ISO_IR 100"}, "SCHADEL"),
    "pelvis by its region": ({"AnatomicRegionSequence": region("Pelvis")}, "PELVIS"),
    "hip by its series": ({"SeriesDescription": "Hip 2 views, left"}, "HIP"),
    "ankle by its protocol": ({"ProtocolName": "ANKLE_AP"}, "ANKLE"),
    "breast": ({"ViewPosition": "MLO"}, "breast"),
    "thoracic spine": ({"BodyPartExamined": "THORACIC SPINE"}, "SPINE"),
    "thoracic spine by its series": ({"SeriesDescription": "Spine, thoracic AP"}, "SPINE"),
    "thoracolumbar spine": ({"BodyPartExamined": "THORACOLUMBAR SPINE"}, "SPINE"),
    "thoracic vertebrae": ({"SeriesDescription": "Thoracic vertebrae lat"}, "SPINE"),
    "T spine": ({"SeriesDescription": "T-SPINE LAT"}, "SPINE"),
    "extremities": ({"BodyPartExamined": "EXTREMITIES"}, "EXTREMITIES"),
    "upper extremity, short": ({"BodyPartExamined": "UPPER_EXT"}, "EXTREMITY"),
    "lower limb": ({"SeriesDescription": "LOWER LIMB"}, "EXTREMITY"),
    "tibia and fibula, short": ({"SeriesDescription": "TIB/FIB AP"}, "TIB"),
    "jaws": ({"BodyPartExamined": "OPG"}, "OPG"),
    "teeth": ({"SeriesDescription": "Dental"}, "DENTAL"),
    "vertebra": ({"BodyPartExamined": "VERTEBRA"}, "VERTEBRA"),
    "knee by its study": ({"StudyDescription": "XR KNEE LEFT"}, "KNEE"),
    "dose report": ({**CAPTURE, "SeriesDescription": "Dose Report"}, "dose report"),
    "dose report that took over the part": ({**CAPTURE, "SeriesDescription": "DOSE REPORT", "BodyPartExamined": "CHEST"}, "dose report"),
    "dose report by its kind": ({**CAPTURE, "ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, "DOSE"),
    "screen": ({**CAPTURE, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "SCREEN"),
    "screenshot": ({**CAPTURE, "SeriesDescription": "Screenshot"}, "screenshot"),
    "scanned letter": ({**CAPTURE, "ConversionType": "SD"}, "scanned document"),
    "drawing": ({**CAPTURE, "ConversionType": "DRW"}, "drawing"),
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
    "report page": ({**CAPTURE, "SeriesDescription": "Report page 1"}, "report"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # pydicom warns while this test writes what is no code string
@pytest.mark.parametrize("case", OTHERS)
def test_what_says_that_it_shows_no_chest_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    fields, word = OTHERS[case]
    with pytest.raises(Error) as refusal:
        read(tmp_path, **fields)
    message = str(refusal.value)
    assert word in message and "x.dcm" in message and "Leave it out." in message and "\n" not in message


CHESTS: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"BodyPartExamined": "CHEST"}, False),
    ({"BodyPartExamined": "THORAX"}, False),
    ({"BodyPartExamined": "CHESTABDOMEN"}, False),
    ({"BodyPartExamined": "PORT CHEST", "SeriesDescription": "hand written"}, False),
    ({"BodyPartExamined": "TÓRAX", "SpecificCharacterSet": "ISO_IR 100"}, False),
    ({"BodyPartExamined": "Thorax pa"}, False),
    ({"BodyPartExamined": "RIBS"}, False),
    ({"BodyPartExamined": "THORACIC"}, False),
    ({"SeriesDescription": "Chest and thoracic spine"}, False),
    ({"StudyDescription": "XR CHEST AND KNEE"}, False),
    ({"BodyPartExamined": "CHEST", "StudyDescription": "XR KNEE LEFT"}, False),
    ({"AnatomicRegionSequence": region("Thoracic structure", "51185008")}, False),
    ({"AnatomicRegionSequence": region("Chest", "T-D3000")}, False),
    ({"SeriesDescription": "W033 Thorax p.a., head up, arms raised"}, False),
    ({"SeriesDescription": "head up, nasal tube"}, False),
    ({"BodyPartExamined": "BPX"}, True),
    ({**CAPTURE, "SeriesDescription": "AI chest radiograph, NOT ACQUIRED"}, False),
    ({**CAPTURE, "ConversionType": "WSD", "BodyPartExamined": "CHEST"}, False),
    ({**CAPTURE, "ConversionType": "WSD"}, True),
]


@pytest.mark.filterwarnings("ignore")  # pydicom warns while this test writes what is no code string
@pytest.mark.parametrize(("fields", "doubtful"), CHESTS)
def test_a_chest_is_read_and_what_says_too_little_is_noted(
    tmp_path: Path, fields: dict[str, Any], doubtful: bool
) -> None:
    assert any("look whether it is a chest" in note for note in read(tmp_path, **fields).doubts) == doubtful


# ---------------------------------------------------------------------------------------------------------------- dcmtk


def shown_by_dcmtk(path: Path, *options: str) -> np.ndarray:
    """In [0, 1], of 16 bits."""
    from PIL import Image

    out = path.with_suffix(".pgm")
    subprocess.run(["dcm2pnm", "--write-16-bit-pnm", *options, str(path), str(out)], check=True, capture_output=True)
    with Image.open(out) as file:
        return np.asarray(file, float) / 65535


DCMTK: dict[str, tuple[list[str], float]] = {
    # Options of dcm2pnm 3.6.7, and by how much its arithmetic may differ, in parts of white.
    "range": (["+Wm"], 1e-4),
    "window": (["+Wi", "1"], 1e-4),
    "sigmoid": (["+Wi", "1"], 1e-4),
    "rescale": (["+Wi", "1"], 1e-4),
    "negative slope": (["+Wi", "1"], 1e-4),
    "table": (["+Wl", "1"], 5e-4),
    "table of signed values": (["+Wl", "1"], 5e-4),
    "two tables": (["+Wl", "1"], 5e-4),
    "modality table": (["+Wi", "1"], 1e-4),
}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dcm2pnm"), reason="dcmtk is not installed")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pipeline", DCMTK)
def test_dcmtk_shows_every_pixel_alike(tmp_path: Path, pipeline: str, kind: str, shape: str) -> None:
    options, allowed = DCMTK[pipeline]
    fields = {"PhotometricInterpretation": kind} | ({"PresentationLUTShape": shape} if shape else {})
    path = save(tmp_path / "x.dcm", **PIPELINES[pipeline], **fields)
    assert np.abs(shown_by_dcmtk(path, *options) - read_film(path).pixels).max() < allowed


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dcm2pnm"), reason="dcmtk is not installed")
def test_dcmtk_shows_a_table_that_states_too_many_bits_as_dark_as_it_states(tmp_path: Path) -> None:
    """The one case of the table above in which another picture is right: the same curve, its end at 4095 of 65535."""
    path = save(tmp_path / "x.dcm", **PIPELINES["table that states 16 bits"])
    assert np.abs(shown_by_dcmtk(path, "+Wl", "1") * 65535 / 4095 - read_film(path).pixels).max() < 5e-4
