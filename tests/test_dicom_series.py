"""MR series: the way from slices to a volume and back, refusals, and the same volumes as dcm2niix makes of them."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from dicoms import SECRET, affine_of, changed, classic, enhanced, scaled, voxels_of
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from pydicom import uid
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from toolkit.example import Error
from toolkit.formats.dicom import series as mr

DATA = Path(__file__).parents[2] / "shared" / "data" / "mri"


def one(root: Path) -> mr.Series:
    (found,) = mr.load_all(root)
    return found


# ---------------------------------------------------------------------------------------------------------- geometry

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 8)] * 3)


@settings(max_examples=25, deadline=None)
@given(angles=ANGLES, spacing=SPACINGS, seed=st.integers(0, 9))
def test_slices_in_any_order_come_back_as_the_volume_they_were(tmp_path_factory, angles, spacing, seed) -> None:
    root = tmp_path_factory.mktemp("series")
    voxels, affine = voxels_of(), affine_of(angles, spacing)
    classic(root / "c", voxels, affine, seed)
    enhanced(root / "e" / "all.dcm", voxels, affine, seed)
    for found, expected in ((one(root / "c"), voxels), (one(root / "e"), scaled(voxels))):
        assert np.array_equal(found.voxels, expected) and found.voxels.dtype == np.float32
        assert np.abs(found.affine - affine).max() < 1e-6


def test_the_sources_are_those_of_the_slices_and_hold_no_pixels(tmp_path: Path) -> None:
    voxels, affine = voxels_of(), affine_of((10, 20, 30), (1, 2, 3))
    paths = classic(tmp_path / "c", voxels, affine)
    found = one(tmp_path / "c")
    assert [s.SOPInstanceUID for s in found.sources] == [pydicom.dcmread(p).SOPInstanceUID for p in paths]
    assert not any("PixelData" in s for s in found.sources) and found.frames == ()
    assert (found.uid, found.frame_of_reference, found.description) == ("1.2.5", "1.2.4", "AX T2 FLAIR")
    enhanced(tmp_path / "e" / "x", voxels, affine)
    found = one(tmp_path / "e")
    groups = found.sources[0].PerFrameFunctionalGroupsSequence
    assert len(found.sources) == 4 and len({id(s) for s in found.sources}) == 1
    where = [groups[n - 1].FrameContentSequence[0].InStackPositionNumber for n in found.frames]
    assert where == [1, 2, 3, 4]


def test_every_slice_has_its_own_rescale(tmp_path: Path) -> None:
    voxels = voxels_of()
    for k, path in enumerate(classic(tmp_path, voxels, affine_of((0, 0, 0), (1, 1, 5)))):
        changed(path, lambda d, k=k: d.update({"RescaleSlope": k + 0.5, "RescaleIntercept": -k}))
    expected = voxels * (np.arange(4) + 0.5) - np.arange(4)
    assert np.allclose(one(tmp_path).voxels, expected, rtol=1e-6)


def test_rounding_of_positions_is_no_gap(tmp_path: Path) -> None:
    for path in classic(tmp_path, voxels_of(), affine_of((3, 5, 7), (0.9, 0.9, 5.5))):
        changed(
            path, lambda d: setattr(d, "ImagePositionPatient", [round(float(v), 2) for v in d.ImagePositionPatient])
        )
    assert np.abs(one(tmp_path).affine - affine_of((3, 5, 7), (0.9, 0.9, 5.5))).max() < 0.01


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless])
def test_compressed_slices_are_read(tmp_path: Path, syntax: uid.UID) -> None:
    voxels, affine = voxels_of(), affine_of((0, 0, 0), (1, 1, 5))
    for path in classic(tmp_path, voxels, affine):
        changed(path, lambda d: d.compress(syntax, generate_instance_uid=False))
    assert np.array_equal(one(tmp_path).voxels, voxels)


# ----------------------------------------------------------------------------------------------------------- choosing


def test_a_folder_is_searched_and_what_is_no_series_is_told(tmp_path: Path) -> None:
    voxels, affine = voxels_of(), affine_of((0, 0, 0), (1, 1, 5))
    classic(tmp_path / "a", voxels, affine, SeriesInstanceUID="1.2.10", SeriesNumber=10)
    classic(tmp_path / "b" / "c", voxels, affine, SeriesInstanceUID="1.2.2", SeriesNumber=2)
    classic(tmp_path / "bad", voxels, affine, SeriesInstanceUID="1.2.3", SeriesNumber=3)[1].unlink()
    enhanced(tmp_path / "e" / "x.dcm", voxels, affine, SeriesInstanceUID="1.2.11", SeriesNumber=11)
    classic(tmp_path / "ours", voxels, affine, SeriesInstanceUID="1.2.12", SyntheticData="YES")
    classic(tmp_path / "ct", voxels, affine, SOPClassUID=uid.CTImageStorage, SeriesInstanceUID="1.2.13")
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0")
    aside: list[tuple[str, str]] = []
    found = list(mr.load_all(tmp_path, lambda name, reason: aside.append((name, reason))))
    assert [s.uid for s in found] == ["1.2.2", "1.2.10", "1.2.11"]
    reasons = "\n".join(reason for _, reason in aside)
    assert all(word in reasons for word in ("equal distances", "CT Image Storage", "Synthetic Data YES", "broken.dcm"))
    assert "notes.txt" not in reasons and len(aside) == 4


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error, match="neither"):
        mr.find(tmp_path / "absent")
    assert mr.find(classic(tmp_path / "a", voxels_of(), np.eye(4))[0])[0].paths[0].parent == tmp_path / "a"


CONTRASTS = {
    "AX T2 FLAIR": "FLAIR", "t2_tirm_tra_dark-fluid": "FLAIR", "3D_FLAIR": "FLAIR", "T2FLAIR": "FLAIR", "Ax T1 FLAIR": "T1w",
    "SAG T1 MPRAGE": "T1w", "T1 post Gd": "T1gd", "t1ce": "T1gd", "AX T2 TSE": "T2w", "ep2d_diff_ADC": "ADC", "AX DWI b1000": "dwi",
    "T2* GRE": "T2starw", "SWI": "swi", "PD TSE": "PDw", "Post-processed": "unknown", "": "unknown",
}  # fmt: skip


@pytest.mark.parametrize("words", CONTRASTS)
def test_the_description_names_the_contrast(words: str) -> None:
    data = Dataset()
    data.SeriesDescription = words
    assert mr.contrast_of(data) == CONTRASTS[words]


def test_timing_tells_flair_where_no_word_does() -> None:
    data = Dataset()
    data.RepetitionTime, data.EchoTime, data.InversionTime = 9000, 95, 2500
    assert mr.contrast_of(data) == "FLAIR"
    data.EchoTime = 10
    assert mr.contrast_of(data) == "unknown"


# ----------------------------------------------------------------------------------------------------------- refusals


def setting(keyword: str, value: Any, which: slice = slice(1, 2)) -> Callable[[list[Path]], None]:
    def spoil(paths: list[Path]) -> None:
        for path in paths[which]:
            changed(path, lambda d: setattr(d, keyword, value))

    return spoil


def without(keyword: str, which: slice = slice(None)) -> Callable[[list[Path]], None]:
    def spoil(paths: list[Path]) -> None:
        for path in paths[which]:
            changed(path, lambda d: delattr(d, keyword))

    return spoil


def shifted(by: tuple[float, float, float], growing: bool = False) -> Callable[[list[Path]], None]:
    def spoil(paths: list[Path]) -> None:
        for k, path in enumerate(paths if growing else paths[1:2]):
            move = np.array(by) * (k if growing else 1)
            changed(
                path, lambda d, m=move: setattr(d, "ImagePositionPatient", list(np.array(d.ImagePositionPatient) + m))
            )

    return spoil


def copied(paths: list[Path]) -> None:
    shutil.copy(paths[1], paths[1].with_name("again"))


def again(paths: list[Path]) -> None:
    """A second echo of one slice."""
    data = pydicom.dcmread(paths[1])
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    data.EchoTime = 30
    data.save_as(paths[1].with_name("echo"))


def cut(paths: list[Path]) -> None:
    paths[0].write_bytes(paths[0].read_bytes()[:-20])


BAD: dict[str, tuple[Callable[[list[Path]], object], str]] = {
    "a slice missing": (lambda p: p[1].unlink(), "equal distances"),
    "uneven steps": (shifted((0, 0, 0.5)), "equal distances"),
    "a file twice": (copied, "one image at each place"),
    "two echoes": (again, "one image at each place"),
    "one slice shifted sideways": (shifted((1, 0, 0)), "straight above"),
    "sheared": (shifted((0.5, 0, 0), growing=True), "straight above"),
    "two frames of reference": (setting("FrameOfReferenceUID", "1.2.99"), "one frame of reference"),
    "no frame of reference": (without("FrameOfReferenceUID"), "name none"),
    "two studies": (setting("StudyInstanceUID", "1.2.99"), "one study"),
    "two patients": (setting("PatientID", "other"), "one patient"),
    "two orientations": (setting("ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "one orientation"),
    "two pixel spacings": (setting("PixelSpacing", [1.5, 1]), "one pixel spacing"),
    "no position": (without("ImagePositionPatient", slice(0, 1)), "ImagePositionPatient"),
    "no orientation": (without("ImageOrientationPatient", slice(0, 1)), "ImageOrientationPatient"),
    "no spacing": (without("PixelSpacing", slice(0, 1)), "PixelSpacing"),
    "oblique axes": (setting("ImageOrientationPatient", [1, 0, 0, 0.1, 0.995, 0], slice(None)), "right angle"),
    "axes too long": (setting("ImageOrientationPatient", [1.1, 0, 0, 0, 1, 0], slice(None)), "unit vectors"),
    "axes zero": (setting("ImageOrientationPatient", [0] * 6, slice(None)), "unit vectors"),
    "axes NaN": (setting("ImageOrientationPatient", ["NaN", 0, 0, 0, 1, 0], slice(None)), "finite"),
    "spacing 0": (setting("PixelSpacing", [0, 1], slice(None)), "positive"),
    "spacing 0 twice": (setting("PixelSpacing", [0, 0], slice(None)), "positive"),
    "spacing negative": (setting("PixelSpacing", [1, -1], slice(None)), "positive"),
    "spacing NaN": (setting("PixelSpacing", ["NaN", 1], slice(None)), "finite"),
    "one spacing": (setting("PixelSpacing", 1, slice(None)), "2 finite numbers"),
    "position infinite": (setting("ImagePositionPatient", ["inf", 0, 0]), "finite"),
    "slope 0": (setting("RescaleSlope", 0), "RescaleSlope"),
    "slope NaN": (setting("RescaleSlope", "NaN"), "RescaleSlope"),
    "slope infinite": (setting("RescaleSlope", "inf"), "RescaleSlope"),
    "intercept NaN": (setting("RescaleIntercept", "NaN"), "RescaleIntercept"),
    "overflow": (setting("RescaleSlope", "1e300"), "finite"),
    "more rows than pixels": (setting("Rows", 9), "Rows and Columns fit"),
    "fewer rows than pixels": (setting("Rows", 4), "Rows and Columns fit"),
    "no rows": (setting("Rows", 0), "rows, columns"),
    "frames in a classic file": (setting("NumberOfFrames", 2), "fit the pixel data"),
    "cut": (cut, "fit the pixel data"),
    "no pixels": (without("PixelData", slice(0, 1)), "integer pixel data"),
    "odd bits": (setting("HighBit", 11), "HighBit"),
    "inverted": (setting("PhotometricInterpretation", "MONOCHROME1"), "MONOCHROME2"),
    "a localizer": (setting("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], slice(None)), "localizer"),
    "two slices": (lambda p: [x.unlink() for x in p[2:]], "at least 3"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # pydicom warns while this test writes what is wrong
@pytest.mark.parametrize("case", BAD)
def test_a_doubtful_series_is_refused_in_one_line_that_names_nobody(tmp_path: Path, case: str) -> None:
    spoil, word = BAD[case]
    paths = classic(tmp_path, voxels_of(), affine_of((0, 0, 0), (1, 1, 5)))
    spoil(paths)
    with pytest.raises(Error) as refusal:
        list(mr.load_all(tmp_path))
    message = str(refusal.value)
    assert word in message and "\n" not in message
    assert SECRET.split("^")[0] not in message and "4711" not in message


def test_an_enhanced_file_with_two_echoes_or_lacking_groups_is_refused(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "x", voxels_of(), np.eye(4))
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence

    def same_place(data: Dataset) -> None:
        own = data.PerFrameFunctionalGroupsSequence
        own[1].PlanePositionSequence = own[0].PlanePositionSequence

    changed(path, same_place)
    with pytest.raises(Error, match="one image at each place"):
        one(tmp_path)
    changed(path, lambda d: setattr(d, "PerFrameFunctionalGroupsSequence", groups[:3]))
    with pytest.raises(Error, match="functional groups"):
        one(tmp_path)


# ---------------------------------------------------------------------------------- another program's reading and writing


def through_dcm2niix(dicom: Path, out: Path) -> nibabel.Nifti1Image:
    out.mkdir()
    subprocess.run(
        ["dcm2niix", "-z", "n", "-b", "n", "-f", "x", "-o", str(out), str(dicom)], check=True, capture_output=True
    )
    (path,) = out.glob("*.nii")
    return nibabel.load(path)


def corners(shape: tuple[int, ...]) -> np.ndarray:
    return np.array(list(itertools.product(*((0, n - 1) for n in shape))), float)


def disagreement(ours: mr.Series, theirs: nibabel.Nifti1Image) -> tuple[float, float]:
    """Largest distance in mm of the corners, and largest difference of voxels, once both lie on one grid.

    dcm2niix turns the rows round; which axis is which is found from the two affines alone.
    """
    way = np.linalg.inv(theirs.affine) @ ours.affine
    axes = np.rint(way[:3, :3]).astype(int)
    assert np.array_equal(np.abs(axes), np.eye(3, dtype=int)), "the same axes, but for their directions"
    values = theirs.get_fdata()
    there = np.rint(apply_affine(way, corners(ours.voxels.shape)))
    apart = np.abs(apply_affine(ours.affine, corners(ours.voxels.shape)) - apply_affine(theirs.affine, there)).max()
    steps = tuple(slice(None, None, int(axes[k, k])) for k in range(3))
    return float(apart), float(np.abs(values[steps] - ours.voxels).max())


def turned_nifti(
    source: Path, angles: tuple[float, float, float], path: Path, dtype: str = "<i2"
) -> nibabel.Nifti1Image:
    """A real scan, its affine turned. Whole numbers, because a classic MR file holds such."""
    image = nibabel.load(source)
    affine = image.affine.copy()
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ affine[:3, :3]
    values = np.rint(image.get_fdata()).clip(0).astype(dtype)
    made = nibabel.Nifti1Image(values, affine)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1)
    nibabel.save(made, path)
    return made


SCANS = ["lgg/TCGA_DU_A5TP/TCGA_DU_A5TP_flair.nii.gz", "open_ms/patient07/patient07_flair.nii.gz",
         "isles22/sub-strokecase0009/sub-strokecase0009_ses-0001_flair.nii.gz", "chronic_stroke/cstar01/cstar01_flair.nii.gz"]  # fmt: skip
TURNS = [(0.0, 0.0, 0.0), (12.0, -7.0, 20.0), (90.0, 0.0, 90.0)]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")
@pytest.mark.skipif(not shutil.which("plastimatch"), reason="plastimatch is not installed")
@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data/mri is not beside this checkout")
@pytest.mark.parametrize("angles", TURNS, ids=["as it is", "oblique", "sagittal"])
@pytest.mark.parametrize("name", SCANS)
def test_a_series_that_plastimatch_wrote_is_what_dcm2niix_makes_of_it(
    tmp_path: Path, name: str, angles: Any, record_property: Any
) -> None:
    """A real scan -> plastimatch writes DICOM -> read here and by dcm2niix: same places, same values, those of the scan."""
    scan = turned_nifti(DATA / name, angles, tmp_path / "scan.nii")
    dicom = tmp_path / "dicom"
    subprocess.run(
        ["plastimatch", "convert", "--input", str(tmp_path / "scan.nii"), "--output-dicom", str(dicom), "--modality", "MR"],
        check=True, capture_output=True,
    )  # fmt: skip
    ours = one(dicom)
    apart, different = disagreement(ours, through_dcm2niix(dicom, tmp_path / "nii"))
    from_scan = disagreement(ours, scan)
    print(
        f"\n{name} {angles}: dcm2niix {apart:.2e} mm, values {different:.3g}; scan {from_scan[0]:.2e} mm, {from_scan[1]:.3g}"
    )
    assert apart < 2e-3 and different == 0
    assert from_scan[0] < 2e-3 and from_scan[1] == 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")
@pytest.mark.parametrize("angles", TURNS, ids=["as it is", "oblique", "sagittal"])
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_series_made_here_is_what_dcm2niix_makes_of_it(tmp_path: Path, kind: str, angles: Any) -> None:
    """The DICOM is made by this file, with pydicom: no independent writer of Enhanced MR is at hand.

    One rescale for all frames: dcm2niix 1.0.20220720 applies that of the last frame to every one.
    """
    voxels, affine = voxels_of((32, 24, 10)), affine_of(angles, (0.9, 1.1, 4.5))
    if kind == "classic":
        classic(tmp_path / "in", voxels, affine)
    else:
        enhanced(tmp_path / "in" / "x.dcm", voxels, affine, varied=False)
    apart, different = disagreement(one(tmp_path / "in"), through_dcm2niix(tmp_path / "in", tmp_path / "nii"))
    print(f"\n{kind} {angles}: {apart:.2e} mm, values {different:.3g}")
    assert apart < 1e-4 and different == 0
