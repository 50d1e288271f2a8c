"""DICOM that is written: what it states, that a rerun makes the same, and that derived objects lie where their source does."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path

import highdicom
import mr_sources
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.formats.dicom import derived, synthetic, uids
from toolkit.formats.dicom.derived.images import quantise
from toolkit.formats.dicom.derived.shared import copy_elements, decimal_string
from toolkit.formats.dicom.film import read_film
from toolkit.formats.dicom.series import Series, load_all

WORDS = {
    "view": ["PA", "AP", "AP Supine", "L"],
    "sex": ["F", "M"],
    "age": [0, 120],
    "pleural effusion": ["absent", "present"],
}
VIEWS = WORDS["view"]
MADE = Provenance("synthetic", "0123456789abcdef", "generate", 7, {"steps": 20, "sampler": "dpmpp_2m", "sample": 3})
EDITED = Provenance("edited", "fedcba9876543210", "counterfactual", 3, {"steps": 40, "strength": 0.5}, "sub-01")
KINDS = list(synthetic.KINDS)


def example(view: float = 0.0, seed: int = 0, **changes) -> Example:
    image = np.random.default_rng(seed).uniform(-1, 1, (1, 32, 24)).astype(np.float32)
    image[0, 0, :2] = -1, 1
    labels = {"view": view, "sex": 1.0, "age": 63.4, "pleural effusion": 1.0}
    made = Example(
        "film-0003", image, Annotation("PA view, größerer Erguss rechts", labels), "patient-secret", None, MADE
    )
    return dataclasses.replace(made, **changes)


def written(one: Example, root: Path, kind: str, **description) -> Path:
    assert (
        synthetic.write([one], root, kind, **{"labels": WORDS, "domain": "chest_xray", "seconds": 1.5, **description})
        == 1
    )
    return root / "dicom" / f"{one.id}.dcm"


def acquired(root: Path, kind: str, **changes) -> tuple[Series, np.ndarray]:
    """A series of 6 oblique slices and what its files hold."""
    array, place = mr_sources.voxels(), mr_sources.affine(tilt=17)
    if kind == "classic":
        mr_sources.classic(root, array, place, **changes)
    else:
        mr_sources.enhanced(root, array, place, order=[3, 0, 5, 1, 4, 2])
    (found,) = load_all(root)
    return found, array


# --------------------------------------------------------------------------------------------------------------- UIDs


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
@settings(max_examples=60)
def test_uids_are_valid_repeatable_and_apart(one: list[str], other: list[str]) -> None:
    found = uids.uid(*one)
    assert found.is_valid and found.startswith("2.25.") and len(found) <= 44
    assert (found == uids.uid(*other)) == (one == other)


def test_a_digest_tells_shape_type_and_value() -> None:
    zeros = np.zeros((2, 3), np.uint16)
    others = [zeros.T, zeros.astype(np.int16), zeros + np.uint16(1), zeros.astype(np.float32)]
    assert len({uids.digest(a) for a in [zeros, *others]}) == 5
    assert uids.digest(zeros + np.uint16(258)) == uids.digest((zeros + np.uint16(258)).astype(">u2"))


# -------------------------------------------------------------------------------------------------------------- films


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("view", [0.0, 1.0, 2.0, 3.0, math.nan])
def test_a_film_says_what_it_is(kind: str, view: float, tmp_path: Path) -> None:
    path = written(example(view), tmp_path, kind)
    assert path.read_bytes()[:132] == b"\0" * 128 + b"DICM"
    data = pydicom.dcmread(path)
    assert data.SyntheticData == "YES" and data.BurnedInAnnotation == "NO" and data.BodyPartExamined == "CHEST"
    assert list(data.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert data.PatientID.startswith("SYN-") and data.IssuerOfPatientID == "diffgraft"
    assert not data.PatientBirthDate and data.PatientSex == "M" and data.PatientAge == "063Y"
    assert "InstitutionName" not in data and not data.StudyDate and not data.ReferringPhysicianName
    assert "PixelSpacing" not in data and data.ImageComments == "PA view, größerer Erguss rechts"
    assert "NOT ACQUIRED" in data.SeriesDescription and data.SeriesDescription.startswith("AI ")
    assert data.Manufacturer == data.ManufacturerModelName == "diffgraft" and data.SoftwareVersions
    for fact in (MADE.model, "seed 7", "steps 20", "generate"):
        assert fact in data.DerivationDescription
    equipment = data.ContributingEquipmentSequence[-1]
    code = equipment.PurposeOfReferenceCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("109100", "DCM") and equipment.Manufacturer == "diffgraft"
    assert (data.BitsAllocated, data.BitsStored, data.HighBit) == (16, 12, 11)
    orientation = None if math.isnan(view) and kind == "sc" else ["P", "F"] if view == 3 else ["L", "F"]
    assert (list(data.PatientOrientation) if data.PatientOrientation else None) == orientation
    if kind == "sc":
        assert data.Modality == "OT" and data.ConversionType == "SYN"
    else:
        assert (
            data.Modality == "DX" and data.PresentationIntentType == "FOR PRESENTATION" and data.ImageLaterality == "U"
        )
        assert list(data.ImagerPixelSpacing) == [1, 1] and "NOT for millimetres" in data.DetectorDescription
        codes = [item.CodeValue for item in data.get("ViewCodeSequence", [])]
        assert codes == ([] if math.isnan(view) else [["272479007", "399348003", "399348003", "399067008"][int(view)]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("view", [0.0, 1.0, 2.0, 3.0])
def test_a_film_reads_back(kind: str, view: float, tmp_path: Path) -> None:
    one = example(view)
    found = read_film(written(one, tmp_path, kind))
    assert np.abs(found.pixels * 2 - 1 - one.image[0]).max() <= 1 / 4095 + 1e-6  # half of a step of 2 / 4095
    assert (found.view, found.sex, found.age, found.synthetic) == (VIEWS[int(view)], "M", 63, True)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_what_was_asked_for_enters_a_film(kind: str, tmp_path: Path) -> None:
    labels = {**example().annotation.labels, "PatientName": 3.0, "sex": math.nan, "age": math.nan}
    one = example(annotation=Annotation(None, labels), group="Doe^Jane-19600101")
    content = written(one, tmp_path, kind).read_bytes()
    data = pydicom.dcmread(tmp_path / "dicom" / "film-0003.dcm")
    assert not data.PatientSex and "PatientAge" not in data and "ImageComments" not in data
    assert b"Doe" not in content and b"effusion" not in content
    bare = pydicom.dcmread(written(one, tmp_path / "bare", kind, labels={"sex": ["F", "M"]}))
    assert "ViewCodeSequence" not in bare


@pytest.mark.parametrize("kind", KINDS)
def test_a_rerun_makes_the_same_bytes_and_a_change_another_uid(kind: str, tmp_path: Path) -> None:
    first = written(example(), tmp_path / "a", kind)
    assert first.read_bytes() == written(example(), tmp_path / "b", kind, seconds=99.0).read_bytes()
    brighter = example().image.copy()
    brighter[0, 5, 5] = -brighter[0, 5, 5]
    changed = [
        example(image=brighter),
        example(view=1.0),
        example(id="film-0004"),
        example(provenance=dataclasses.replace(MADE, model="other")),
        example(provenance=dataclasses.replace(MADE, seed=8)),
        example(provenance=dataclasses.replace(MADE, settings={**MADE.settings, "steps": 21})),
        example(annotation=dataclasses.replace(example().annotation, text="other")),
    ]
    made = [first, *(written(one, tmp_path / str(n), kind) for n, one in enumerate(changed))]
    every = [pydicom.dcmread(path) for path in made]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"):
        assert len({data.get(keyword) for data in every}) == len(every)


def test_films_that_are_not_synthetic_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    good = example()
    for bad, words in {
        "real": (example(id="b", provenance=None), "is real"),
        "edited": (example(id="b", provenance=EDITED), "kind edited"),
        "colour": (example(id="b", image=np.zeros((3, 8, 8), np.float32)), "one channel"),
        "nan": (example(id="b", image=np.full((1, 8, 8), np.nan, np.float32)), "finite"),
        "twice": (good, "unique"),
        "outside": (example(id="../b"), "safe as a file name"),
    }.values():
        with pytest.raises(Error, match=words):
            synthetic.write([good, bad], tmp_path, labels=WORDS)
        assert not list(tmp_path.iterdir())
    with pytest.raises(Error, match="sc, dx"):
        synthetic.write([good], tmp_path, "cr")
    with pytest.raises(Error, match="at least one"):
        synthetic.write([], tmp_path)


# ------------------------------------------------------------------------------------------------------------ derived


def positions(data: Dataset) -> np.ndarray:
    """(frames, 3) of a multi-frame object, sorted along the third axis of the source by its dimension index."""
    return np.array(
        [g.PlanePositionSequence[0].ImagePositionPatient for g in data.PerFrameFunctionalGroupsSequence], float
    )


def places(found: Series) -> np.ndarray:
    """(Z, 3) LPS positions of the slices of a series."""
    corners = found.affine @ np.stack([(0, 0, k, 1) for k in range(found.voxels.shape[2])], axis=1)
    return (np.diag([-1, -1, 1]) @ corners[:3]).T


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_counterfactual_is_a_series_of_the_same_patient_and_place(kind: str, tmp_path: Path) -> None:
    found, _ = acquired(tmp_path / "in", kind)
    changed = (found.voxels * 0.9 + 1).astype(np.float32)
    paths = derived.write_mr_series(found, changed, EDITED, tmp_path / "out")
    assert [path.name for path in paths] == [f"{k + 1:04d}.dcm" for k in range(6)]
    for k, path in enumerate(paths):
        data, source = pydicom.dcmread(path), found.sources[k]
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
            assert data.get(keyword) == source.get(keyword)
        assert data.SOPClassUID.name == "MR Image Storage" and data.SyntheticData == "YES"
        assert list(data.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
        assert data.SeriesInstanceUID != source.SeriesInstanceUID and data.SOPInstanceUID != source.SOPInstanceUID
        assert data.SeriesNumber == 950 and data.InstanceNumber == k + 1
        assert data.SeriesDescription == "AI healthy version, NOT ACQUIRED: t2 flair tra"
        (reference,) = data.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert reference.SpatialLocationsPreserved == "YES"
        assert reference.get("ReferencedFrameNumber") == (found.frames[k] if kind == "enhanced" else None)
        assert "InstitutionName" not in data and "PatientAddress" not in data and "PatientComments" not in data
        assert (data.RepetitionTime, data.EchoTime, data.InversionTime) == (9000, 120, 2500)
        assert data.EchoTrainLength == 16 and "IR" in data.ScanningSequence and "SE" in data.ScanningSequence
        assert data.Manufacturer == "diffgraft" and data.ContributingEquipmentSequence[0].Manufacturer == "ACME"
        np.testing.assert_allclose(np.array(data.ImagePositionPatient, float), places(found)[k], atol=1e-5)
        if kind == "classic":
            assert data.ImagePositionPatient == source.ImagePositionPatient
            assert data.ImageOrientationPatient == source.ImageOrientationPatient
            assert data.PixelSpacing == source.PixelSpacing
        shown = data.pixel_array.T * float(data.RescaleSlope) + float(data.RescaleIntercept)
        assert np.abs(shown - changed[:, :, k]).max() <= float(data.RescaleSlope) / 2 + 1e-4
    slopes = {float(pydicom.dcmread(path).RescaleSlope) for path in paths}
    # The Enhanced source has a rescale of its own, so one slope spreads the volume over 16 bits.
    assert list(slopes) == [1.0 if kind == "classic" else pytest.approx(changed.max() / 65534)]


@given(
    st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_any_range_of_voxels_survives_16_bits(low: float, width: float, whole: bool, seed: int) -> None:
    source = Dataset()
    if not whole:
        source.RescaleSlope = 0.5
    array = np.random.default_rng(seed).uniform(low, low + width, (3, 4, 2))
    like = Series(array, np.eye(4), "1", (source, source), (), "", "1")
    stored, slope, intercept = quantise(like, array)
    assert stored.itemsize == 2 and slope > 0
    assert slope == 1 or slope <= (max(low + width, 0) - min(low, 0)) / 65000
    assert np.abs(stored * slope + intercept - array).max() <= slope * 0.501 + 1e-9 * abs(low)
    for number in (slope, intercept):
        assert len(str(decimal_string(number))) <= 16 and float(str(decimal_string(number))) == number


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_an_anomaly_map_lies_on_its_source(kind: str, tmp_path: Path) -> None:
    found, _ = acquired(tmp_path / "in", kind)
    scores = (found.voxels / found.voxels.max()).astype(np.float32)
    data = pydicom.dcmread(derived.write_parametric_map(found, scores, EDITED, tmp_path / "out"))
    assert data.SOPClassUID.name == "Parametric Map Storage" and data.SyntheticData == "YES"
    assert data.StudyInstanceUID == found.sources[0].StudyInstanceUID and data.PatientName == "Doe^Jane"
    assert data.FrameOfReferenceUID == found.frame_of_reference and data.SeriesNumber == 951
    assert data.SeriesDescription.startswith("AI anomaly map, NOT ACQUIRED") and "PatientAddress" not in data
    at = positions(data)
    order = [int(np.abs(at - place).sum(1).argmin()) for place in places(found)]
    np.testing.assert_allclose(at[order], places(found), atol=1e-5)
    frames = np.frombuffer(data.FloatPixelData, "<f4").reshape(6, 20, 24)
    assert np.array_equal(frames[order].transpose(2, 1, 0), scores)
    shared = data.SharedFunctionalGroupsSequence[0]
    assert np.allclose(shared.PixelMeasuresSequence[0].PixelSpacing, [0.9, 0.8])
    assert shared.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert shared.RealWorldValueMappingSequence[0].RealWorldValueSlope == 1
    for k, n in enumerate(order):
        source = data.PerFrameFunctionalGroupsSequence[n].DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == found.sources[k].SOPInstanceUID
        assert source.get("ReferencedFrameNumber") == (found.frames[k] if kind == "enhanced" else None)
        assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert source.SpatialLocationsPreserved == "YES"


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_segmentation_lies_on_its_source(kind: str, tmp_path: Path) -> None:
    found, _ = acquired(tmp_path / "in", kind)
    mask = np.zeros(found.voxels.shape, bool)
    mask[3:9, 4:8, 1:4] = True
    mask[20, 2, 4] = True
    path = derived.write_segmentation(found, mask, EDITED, tmp_path / "out")
    data = highdicom.seg.segread(path)
    assert data.SyntheticData == "YES" and data.SegmentationType == "BINARY" and data.SeriesNumber == 952
    assert data.SeriesDescription.startswith("AI suspected anomaly, NOT ACQUIRED")
    segment = data.SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC" and "diffgraft" in segment.SegmentAlgorithmName
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion"
    at, frames = positions(data), np.atleast_3d(data.pixel_array)
    back = np.zeros(mask.shape, bool)
    for place, frame in zip(at, frames, strict=True):
        distance = np.abs(places(found) - place).sum(1)
        assert distance.min() < 1e-5
        back[:, :, distance.argmin()] = frame.T > 0
    assert np.array_equal(back, mask) and len(frames) == 6


def test_what_was_derived_is_not_read_as_acquired(tmp_path: Path) -> None:
    found, _ = acquired(tmp_path, "classic")
    derived.write_mr_series(found, found.voxels, EDITED, tmp_path)
    derived.write_parametric_map(found, found.voxels, EDITED, tmp_path)
    derived.write_segmentation(found, found.voxels > 500, EDITED, tmp_path)
    assert [each.uid for each in load_all(tmp_path)] == [found.uid]


def test_an_empty_mask_is_a_result_too(tmp_path: Path) -> None:
    found, _ = acquired(tmp_path / "in", "classic")
    data = pydicom.dcmread(
        derived.write_segmentation(found, np.zeros(found.voxels.shape, bool), EDITED, tmp_path / "out")
    )
    assert data.NumberOfFrames == 6 and not data.pixel_array.any()
    assert data.ContentDescription == "No anomaly above the threshold"


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_rerun_derives_the_same_bytes_and_other_pixels_other_uids(kind: str, tmp_path: Path) -> None:
    found, _ = acquired(tmp_path / "in", kind)

    def every(name: str, voxels: np.ndarray, made: Provenance = EDITED) -> list[Path]:
        out = tmp_path / name
        return [
            *derived.write_mr_series(found, voxels, made, out),
            derived.write_parametric_map(found, voxels, made, out),
            derived.write_segmentation(found, voxels > 500, made, out),
        ]

    first, moved = every("a", found.voxels), dataclasses.replace(EDITED, source="/another/place/sub-01")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in every("b", found.voxels, moved)]
    others = [
        every("c", 1200 - found.voxels),
        every("d", found.voxels, dataclasses.replace(EDITED, settings={**EDITED.settings, "strength": 0.6})),
        every("e", found.voxels, dataclasses.replace(EDITED, model="other")),
    ]
    uids_of = [[pydicom.dcmread(p).SOPInstanceUID for p in paths] for paths in [first, *others]]
    assert len({uid for row in uids_of for uid in row}) == 4 * len(first)


def test_names_keep_the_character_set_of_their_source(tmp_path: Path) -> None:
    def japanese(data: Dataset, _: int) -> None:
        data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        data.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"

    found, _ = acquired(tmp_path / "in", "classic", change=japanese)
    made = dataclasses.replace(EDITED, settings={"text": "größer"})
    out = tmp_path / "out"
    paths = [
        derived.write_mr_series(found, found.voxels, made, out)[0],
        derived.write_parametric_map(found, found.voxels, made, out),
    ]
    for path in [*paths, derived.write_segmentation(found, found.voxels > 900, made, out)]:
        data = pydicom.dcmread(path)
        assert data.PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう" and "gr??er" in data.DerivationDescription


def test_sparse_and_odd_sources(tmp_path: Path) -> None:
    """No dates, no names, no number, no sequence, a name without a caret, a decimal string that is too long."""

    def spare(data: Dataset, k: int) -> None:
        for keyword in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "SeriesNumber", "SeriesDescription",
                        "BodyPartExamined", "PatientPosition", "Manufacturer", "PatientBirthDate"):  # fmt: skip
            delattr(data, keyword)
        data.ScanningSequence, data.PatientName = "SE", "Doe"
        data.RescaleSlope, data.RescaleIntercept = 0.25, -17.5
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.ImageOrientationPatient = [1, 0, 0, 0, "0.98480775301220802", "0.17364817766693033"]
            normal = np.cross([1, 0, 0], [0, 0.98480775301220802, 0.17364817766693033])
            data.ImagePositionPatient = [str(round(v, 6)) for v in k * 3.3 * normal]

    found, array = acquired(tmp_path / "in", "classic", change=spare)
    out = tmp_path / "out"
    data = pydicom.dcmread(derived.write_mr_series(found, found.voxels, EDITED, out)[2])
    assert data.SeriesNumber == 900 and data.BodyPartExamined == "BRAIN" and "InversionTime" not in data
    assert all(len(str(v)) <= 16 for v in data.ImageOrientationPatient)
    shown = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    assert np.abs(shown - (array[:, :, 2].T * 0.25 - 17.5)).max() < 0.01
    found_map = pydicom.dcmread(derived.write_parametric_map(found, found.voxels, EDITED, out))
    assert found_map.PatientName == "Doe" and found_map.ContentDate == "19000101" and not found_map.StudyDate


def test_what_cannot_be_tied_to_patient_and_place_is_refused(tmp_path: Path) -> None:
    found, _ = acquired(tmp_path / "in", "classic")
    sources = [Dataset() for _ in found.sources]
    for target, source in zip(sources, found.sources, strict=True):
        target.update(source)
        target.file_meta = source.file_meta
    del sources[3].StudyInstanceUID
    torn = dataclasses.replace(found, sources=tuple(sources))
    writers = {
        derived.write_mr_series: found.voxels,
        derived.write_parametric_map: found.voxels,
        derived.write_segmentation: found.voxels > 500,
    }
    for write, voxels in writers.items():
        with pytest.raises(Error, match="lacks StudyInstanceUID"):
            write(torn, voxels, EDITED, tmp_path / "out")
        with pytest.raises(Error, match="grid of its source"):
            write(found, voxels[:, :, 1:], EDITED, tmp_path / "out")
    for write in (derived.write_mr_series, derived.write_parametric_map):
        with pytest.raises(Error, match="finite"):
            write(found, found.voxels * np.nan, EDITED, tmp_path / "out")
    with pytest.raises(Error, match="boolean"):
        derived.write_segmentation(found, found.voxels, EDITED, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    whole, _ = acquired(tmp_path / "enhanced", "enhanced")
    second = Dataset()
    second.update(whole.sources[0])
    second.file_meta, second.SOPInstanceUID = whole.sources[0].file_meta, uids.uid("second")
    parts = dataclasses.replace(whole, sources=(*whole.sources[:3], second, second, second), frames=(1, 2, 3, 1, 2, 3))
    with pytest.raises(Error, match="one file"):
        derived.write_parametric_map(parts, parts.voxels, EDITED, tmp_path / "out")
    derived.write_mr_series(found, found.voxels, EDITED, tmp_path / "out")
    with pytest.raises(Error, match="new or empty"):
        derived.write_mr_series(found, found.voxels, EDITED, tmp_path / "out")


@pytest.mark.parametrize(("age", "kept"), [("062Y", True), ("62", False), ("sixty", False), ("", True)])
def test_an_age_that_is_no_age_string_is_not_copied(age: str, kept: bool) -> None:
    """The source's mistake would make the new file invalid as well."""
    source, target = Dataset(), Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.PatientAge = age
        source.PatientSize = "1.7"
        copy_elements(source, target, ("PatientAge", "PatientSize"))
    assert ("PatientAge" in target) is kept and "PatientSize" in target
