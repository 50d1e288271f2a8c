"""MR series as exports leave them: without preamble, with rounded positions, with a slice that cannot be read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from dicoms import affine_of, changed, classic, enhanced, voxels_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from toolkit.example import Error, Provenance
from toolkit.formats import mr_scans
from toolkit.formats.dicom import series as mr

PLAIN = affine_of((0, 0, 0), (1, 1, 5))


def one(root: Path) -> mr.Series:
    (found,) = mr.load_all(root)
    return found


def without_preamble(path: Path, syntax: uid.UID, meta: bool = False) -> None:
    """Rewrite a file without its first 132 bytes, and without or with its file meta information."""
    read = pydicom.dcmread(path)
    data = Dataset({element.tag: element for element in read})  # of no encoding yet
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    data.PixelData = np.frombuffer(read.PixelData, "<u2").astype(f"{order}u2").tobytes()
    data.file_meta = read.file_meta
    data.file_meta.TransferSyntaxUID = syntax
    plain = path.with_name("plain")
    data.save_as(plain, enforce_file_format=True)
    content = plain.read_bytes()
    length = 12 + pydicom.dcmread(plain).file_meta.FileMetaInformationGroupLength
    path.write_bytes(content[132 + (0 if meta else length) :])
    plain.unlink()


# ----------------------------------------------------------------------------------------------------------- preamble


@pytest.mark.parametrize("meta", [False, True], ids=["bare", "with meta"])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("which", [slice(None), slice(2, None), slice(0, 1)], ids=["all", "some", "one"])
def test_a_series_without_preambles_is_whole(tmp_path: Path, which: slice, syntax: uid.UID, meta: bool) -> None:
    for path in classic(tmp_path, voxels_of(), PLAIN)[which]:
        without_preamble(path, syntax, meta)
    found = one(tmp_path)
    assert np.array_equal(found.voxels, voxels_of()) and np.abs(found.affine - PLAIN).max() < 1e-6
    told: list[tuple[str, str]] = []
    (scan,) = mr_scans.find(tmp_path, "FLAIR", lambda *row: told.append(row))
    assert np.array_equal(mr_scans.load(scan, "refuse")[0].array, voxels_of()) and told == []


def test_an_enhanced_file_without_preamble_is_read(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "x", voxels_of(), PLAIN, varied=False)
    without_preamble(path, uid.ImplicitVRLittleEndian)
    assert np.array_equal(one(tmp_path).voxels, voxels_of() * 2 - 3)


def deflate(path: Path) -> None:
    data = pydicom.dcmread(path)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[132:])


# ---------------------------------------------------------------------------------------------- a slice that is damaged

DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(4000)),
    "a page of an error": lambda p: p.write_bytes(b"<html>404</html>" * 20),
    "cut in its header": lambda p: p.write_bytes(p.read_bytes()[:400]),
    "cut at once": lambda p: p.write_bytes(p.read_bytes()[:140]),
    "cut in its pixels": lambda p: p.write_bytes(p.read_bytes()[:-20]),
    "deflated without preamble": deflate,
    "a picture": lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300)),
}


@pytest.mark.parametrize("at", [0, 2, -1], ids=["first", "inside", "last"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_series_with_a_slice_that_cannot_be_read_is_refused_and_never_cut(
    tmp_path: Path, damage: str, at: int
) -> None:
    paths = classic(tmp_path / "a", voxels_of((6, 5, 7)), PLAIN)
    classic(tmp_path / "b", voxels_of(), PLAIN, SeriesInstanceUID="1.2.6", SeriesNumber=8)
    DAMAGE[damage](paths[at])
    told: list[tuple[str, str]] = []
    loaded = list(mr.load_all(tmp_path, lambda *row: told.append(row)))
    assert [s.uid for s in loaded] == ["1.2.6"], "the other series goes on"
    assert "1.2.5" in {name for name, _ in told}, "the series is named with its reason"
    assert all("\n" not in reason for _, reason in told)


def test_a_damaged_slice_harms_the_series_it_lies_among_alone(tmp_path: Path) -> None:
    """A study in one folder, numbered through: IM1..4 of one series, IM5..8 of the next."""
    for number, key in enumerate(("1.2.5", "1.2.6", "1.2.7")):
        paths = classic(tmp_path / key, voxels_of(), PLAIN, SeriesInstanceUID=key, SeriesNumber=number)
        for k, path in enumerate(paths):
            path.rename(tmp_path / f"IM{number * 4 + k + 1}")
    (tmp_path / "IM6").write_bytes(bytes(600))
    told: list[tuple[str, str]] = []
    assert [s.uid for s in mr.load_all(tmp_path, lambda *row: told.append(row))] == ["1.2.5", "1.2.7"]
    assert {name for name, _ in told} == {"IM6", "1.2.6"}


NAMES = {
    "uuid": ["0b1d", "7fa4-9c", "c35e", "e8a-1f"],
    "uuid with ending": ["0b1d.dcm", "7fa4-9c.dcm", "c35e.dcm", "e8a-1f.dcm"],
    "letters": ["ab", "cd", "ef", "gh"],
}


@pytest.mark.parametrize("at", [0, 3], ids=["first", "last"])
@pytest.mark.parametrize("names", NAMES)
def test_a_damaged_slice_of_random_name_is_one_of_the_series_of_its_folder(tmp_path: Path, names: str, at: int) -> None:
    classic(tmp_path / "b", voxels_of(), PLAIN, SeriesInstanceUID="1.2.6", SeriesNumber=8)
    for path, name in zip(classic(tmp_path / "a", voxels_of(), PLAIN), NAMES[names], strict=True):
        path.rename(path.with_name(name))
    (tmp_path / "a" / NAMES[names][at]).write_bytes(b"")
    told: list[tuple[str, str]] = []
    assert [s.uid for s in mr.load_all(tmp_path, lambda *row: told.append(row))] == ["1.2.6"]
    assert any(name == "1.2.5" and NAMES[names][at] in reason for name, reason in told)


@pytest.mark.parametrize("folders", ["one", "two series"])
@pytest.mark.parametrize("ending", [".part", ".tmp", ".crdownload", ".filepart", ".gz"])
def test_a_slice_whose_copy_is_unfinished_is_not_left_out(tmp_path: Path, ending: str, folders: str) -> None:
    paths = classic(tmp_path, voxels_of(), PLAIN)
    if folders == "two series":
        for path in classic(tmp_path / "x", voxels_of(), PLAIN, SeriesInstanceUID="1.2.6", SeriesNumber=8):
            path.rename(tmp_path / f"other{path.name}")
    paths[-1].write_bytes(paths[-1].read_bytes()[:90])
    paths[-1].rename(paths[-1].with_name(paths[-1].name + ending))
    told: list[tuple[str, str]] = []
    loaded = [s.uid for s in mr.load_all(tmp_path, lambda *row: told.append(row))]
    assert "1.2.5" not in loaded and "1.2.5" in {name for name, _ in told}
    assert folders == "one" or loaded == ["1.2.6"]


def test_what_is_no_slice_by_its_name_is_told_and_does_no_harm(tmp_path: Path) -> None:
    classic(tmp_path, voxels_of(), PLAIN)
    for name in ("readme.txt", "scan.bval", "._IM0001", "thumbs.db"):
        (tmp_path / name).write_bytes(b"x" * 200)
    (tmp_path / "scan.PAR").write_bytes(b"# === DATA DESCRIPTION FILE")
    told: list[tuple[str, str]] = []
    (found,) = mr.load_all(tmp_path, lambda *row: told.append(row))
    assert found.voxels.shape == (6, 5, 4) and [name for name, _ in told] == ["scan.PAR"]


# ---------------------------------------------------------------------------------------------------------- positions


def rounded(root: Path, spacing: float, count: int, digits: int, angles: Any = (0, 0, 0)) -> np.ndarray:
    """A series whose positions were rounded; returns its true affine."""
    affine = affine_of(angles, (0.9, 0.9, spacing))
    for path in classic(root, voxels_of((6, 5, count)), affine):
        changed(
            path,
            lambda d: setattr(d, "ImagePositionPatient", [round(float(v), digits) for v in d.ImagePositionPatient]),
        )
    return affine


@settings(max_examples=25, deadline=None)
@given(
    spacing=st.sampled_from([0.55, 0.625, 0.9, 1.0, 1.25, 1.3333, 3.3, 5.5]),
    count=st.integers(3, 24),
    digits=st.integers(1, 3),
    angles=st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-180, 180)] * 3)),
)
def test_rounded_positions_are_the_even_slices_they_were(tmp_path_factory, spacing, count, digits, angles) -> None:
    root = tmp_path_factory.mktemp("rounded")
    affine = rounded(root, spacing, count, digits, angles)
    found = one(root)
    assert np.array_equal(found.voxels, voxels_of((6, 5, count)))
    for k in range(count):
        apart = (found.affine - affine) @ (0, 0, k, 1)
        assert np.abs(apart).max() < 1.7 * 10**-digits, "every slice within rounding of its true place"


def test_steps_of_12_and_13_tenths_are_a_millimetre_and_a_quarter(tmp_path: Path) -> None:
    rounded(tmp_path, 1.25, 16, 1)
    assert abs(one(tmp_path).affine[2, 2] - 1.25) < 1e-6


@settings(max_examples=25, deadline=None)
@given(spacing=st.sampled_from([0.5, 0.55, 0.9, 1.25, 5.5]), count=st.integers(4, 24), data=st.data())
def test_a_slice_missing_among_rounded_ones_is_missed(tmp_path_factory, spacing, count, data) -> None:
    root = tmp_path_factory.mktemp("missing")
    rounded(root, spacing, count, 1)
    by_place = sorted(root.iterdir(), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))
    by_place[data.draw(st.integers(1, count - 2))].unlink()
    with pytest.raises(Error, match="equal distances"):
        one(root)


@settings(max_examples=15, deadline=None)
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), digits=st.integers(4, 6))
def test_cosines_with_rounding_noise_are_one_orientation(tmp_path_factory, angles, digits) -> None:
    root = tmp_path_factory.mktemp("noise")
    affine = affine_of(angles, (0.9, 0.9, 5.5))
    for k, path in enumerate(classic(root, voxels_of(), affine)):
        noise = (-1) ** k * 0.3 * 10**-digits
        changed(
            path,
            lambda d, n=noise: setattr(
                d, "ImageOrientationPatient", [round(float(v) + n, digits) for v in d.ImageOrientationPatient]
            ),
        )
    assert np.abs(one(root).affine - affine).max() < 0.02


def test_numbers_of_images_count_for_nothing(tmp_path: Path) -> None:
    for path in classic(tmp_path, voxels_of(), PLAIN):
        changed(path, lambda d: setattr(d, "InstanceNumber", 1))
    assert np.array_equal(one(tmp_path).voxels, voxels_of())


@pytest.mark.parametrize("thickness", ["absent", "empty"])
def test_what_is_made_of_slices_of_no_stated_thickness_is_as_high_as_their_distance(
    tmp_path: Path, thickness: str
) -> None:
    for path in classic(tmp_path / "in", voxels_of(), PLAIN):
        changed(
            path,
            lambda d: delattr(d, "SliceThickness") if thickness == "absent" else d.__setattr__("SliceThickness", None),
        )
    source = one(tmp_path / "in")
    made = Provenance("edited", "model", "counterfactual", 1, {}, "s5")
    shape = source.voxels.shape
    written = mr_scans.write_dicom(
        tmp_path / "out", source, source.voxels, np.zeros(shape, np.float32), np.zeros(shape, bool), made
    )
    for path in written[-2:]:
        shared = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert float(shared.SliceThickness) == 5.0


# ------------------------------------------------------------------------------------------------------ as dcm2niix reads


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")
@pytest.mark.parametrize("spacing", [0.9, 1.25, 3.3])
def test_rounded_positions_are_what_dcm2niix_makes_of_them(tmp_path: Path, spacing: float) -> None:
    """dcm2niix 1.0.20220720 takes one step for all from two slices that follow each other, so up to 0.05 mm off."""
    rounded(tmp_path / "in", spacing, 16, 1)
    (tmp_path / "out").mkdir()
    subprocess.run(
        ["dcm2niix", "-z", "n", "-b", "n", "-f", "x", "-o", str(tmp_path / "out"), str(tmp_path / "in")],
        check=True, capture_output=True,
    )  # fmt: skip
    (path,) = (tmp_path / "out").glob("*.nii")
    theirs = nibabel.load(path)
    assert theirs.shape == (6, 5, 16)
    assert abs(np.linalg.norm(theirs.affine[:3, 2]) - np.linalg.norm(one(tmp_path / "in").affine[:3, 2])) < 0.051
