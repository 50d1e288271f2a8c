"""From a folder of DICOM series to counterfactuals, maps and masks of the same study, in DICOM and NIfTI alike."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import heads
import nibabel
import numpy as np
import pydicom
import pytest
from dicoms import SECRET, classic, enhanced
from nibabel.affines import apply_affine
from pydicom import uid
from scipy import ndimage
from scipy.spatial.transform import Rotation

from diffgraft.counterfactuals.counterfactual import counterfactual
from toolkit.example import Error
from toolkit.settings import Counterfactual

QUICK = Counterfactual(strengths=(0.5,), steps=3, mirror=False)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (8, -5, 6), degrees=True).as_matrix()
AFFINES = {"1.2.5.1": heads.PLAIN, "1.2.5.2": OBLIQUE @ heads.PLAIN}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def run(model: Path, scans: Path, out: Path, **options):
    return counterfactual(model, scans, out, settings=QUICK, backend="torch", **options).scans


def head(affine: np.ndarray) -> np.ndarray:
    """Whole numbers, as a file holds them; the same head on any grid."""
    return np.rint(heads.head(affine, lesion=heads.LESIONS["P02"])[0])


def classic_head(root: Path, affine: np.ndarray = heads.PLAIN, **fields: object) -> list[Path]:
    # The grid of PLAIN is that of a DICOM slice: x to the patient's left, y to posterior.
    return classic(root, head(affine), affine, **fields)


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> SimpleNamespace:
    """A study as a scanner sends it: two FLAIR to be treated, a T1, a FLAIR with a slice missing, a CT."""
    root = tmp_path_factory.mktemp("dicom")
    study = root / "study"
    classic_head(study / "a", SeriesInstanceUID="1.2.5.1", SeriesNumber=3)
    affine = AFFINES["1.2.5.2"]
    enhanced(study / "b.dcm", head(affine), affine, varied=False, SeriesInstanceUID="1.2.5.2", SeriesNumber=4)
    classic_head(study / "t1", SeriesInstanceUID="1.2.5.3", SeriesNumber=5, SeriesDescription="AX T1")
    classic_head(study / "gap", SeriesInstanceUID="1.2.5.4", SeriesNumber=6)[7].unlink()
    classic_head(study / "ct", SeriesInstanceUID="1.2.5.5", SeriesNumber=7, SOPClassUID=uid.CTImageStorage)
    (study / "readme.txt").write_text("no image")
    outcomes = run(model, study, root / "out", command="diffgraft counterfactual ...")
    made = {o.source: o.label for o in outcomes if not o.refused}
    return SimpleNamespace(study=study, out=root / "out", outcomes=outcomes, labels=made)


def test_flair_series_are_treated_and_the_rest_is_put_aside_with_its_reason(finished) -> None:
    assert set(finished.labels) == set(AFFINES)
    lines = map(json.loads, (finished.out / "quarantine.jsonl").read_text().splitlines())
    reasons = {line["source"]: line["reason"] for line in lines}
    assert set(reasons) == {"1.2.5.3", "1.2.5.4", "1.2.5.5"}
    assert "shows T1w" in reasons["1.2.5.3"] and "equal distances" in reasons["1.2.5.4"]
    assert "CT Image Storage, 16 file(s)" in reasons["1.2.5.5"]


def test_nothing_that_a_person_reads_names_the_patient(finished) -> None:
    for path in finished.out.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".html"):
            words = path.read_text(encoding="utf-8")
            assert SECRET not in words and "Jane" not in path.name and "ID-4711" not in words
    groups = {json.loads(line)["group"] for line in (finished.out / "manifest.jsonl").read_text().splitlines()}
    assert len(groups) == 1 and "4711" not in groups.pop()


def volume_of(finished: SimpleNamespace, source: str, name: str) -> nibabel.Nifti1Image:
    patient = f"sub-{finished.labels[source]}"
    return nibabel.load(finished.out / patient / "anat" / f"{patient}_desc-{name}.nii.gz")


def dicom_of(finished: SimpleNamespace, source: str) -> Path:
    return finished.out / "dicom" / finished.labels[source]


def frames_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames (N, rows, columns) of a multi-frame object and their RAS affines (N, 4, 4), by its functional groups."""
    data = pydicom.dcmread(path)
    shared = data.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    height, width = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    affines = []
    for group in data.PerFrameFunctionalGroupsSequence:
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = axes[0] * width, axes[1] * height
        affine[:3, 3] = group.PlanePositionSequence[0].ImagePositionPatient
        affines.append(LPS @ affine)
    return data.pixel_array, np.array(affines)


@pytest.mark.parametrize("source", AFFINES)
def test_nifti_outputs_lie_where_the_series_lay(finished, source: str) -> None:
    for name in ("healthycf_FLAIR", "anomaly_FLAIR", "anomaly_mask"):
        assert np.abs(volume_of(finished, source, name).affine - AFFINES[source]).max() < 1e-3
    scale = 1 if source == "1.2.5.1" else 2
    shift = 0 if source == "1.2.5.1" else -3
    original = head(AFFINES[source]) * scale + shift
    found = volume_of(finished, source, "healthycf_FLAIR").get_fdata()
    # Air well away from the head is noise and stays what it is: no axis was flipped or exchanged on the way.
    air = ndimage.binary_erosion(original < 30 * scale, iterations=4, border_value=1)
    assert air.mean() > 0.2 and np.array_equal(found[air], original[air]) and not np.array_equal(found, original)


@pytest.mark.parametrize("source", AFFINES)
def test_dicom_outputs_hold_what_the_nifti_ones_hold_at_the_same_places(finished, source: str) -> None:
    """Every voxel of every frame, by the coordinates that each file gives it itself."""
    folder = dicom_of(finished, source)
    for name, path in (("anomaly_FLAIR", "anomaly_map.dcm"), ("anomaly_mask", "anomaly_segmentation.dcm")):
        volume = volume_of(finished, source, name)
        values, seen = volume.get_fdata(), np.zeros(volume.shape, bool)
        frames, affines = frames_of(folder / path)
        for frame, affine in zip(frames, affines, strict=True):
            columns, rows = np.meshgrid(np.arange(frame.shape[1]), np.arange(frame.shape[0]))
            there = apply_affine(affine, np.stack([columns, rows, np.zeros_like(rows)], -1).astype(float))
            index = apply_affine(np.linalg.inv(volume.affine), there)
            nearest = np.rint(index).astype(int)
            assert np.abs(index - nearest).max() < 1e-3, "on the grid"
            at = tuple(np.moveaxis(nearest, -1, 0))
            assert np.array_equal(frame.astype(np.float32), values[at].astype(np.float32))
            seen[at] = True
        assert seen.all(), "every slice has a frame"


@pytest.mark.parametrize("source", AFFINES)
def test_dicom_outputs_belong_to_the_patient_and_say_that_they_are_not_acquired(finished, source: str) -> None:
    paths = sorted(dicom_of(finished, source).rglob("*.dcm"))
    assert len(paths) == 16 + 2
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    kinds = {uid.ParametricMapStorage, uid.SegmentationStorage, uid.MRImageStorage}
    assert {data.SOPClassUID for data in found} == kinds
    assert len({data.SeriesInstanceUID for data in found}) == 3 and len({data.SOPInstanceUID for data in found}) == 18
    for data in found:
        assert (str(data.PatientName), data.PatientID) == (SECRET, "ID-4711")
        assert (data.StudyInstanceUID, data.FrameOfReferenceUID, data.SyntheticData) == ("1.2.3", "1.2.4", "YES")
        assert data.SeriesInstanceUID not in AFFINES and "NOT ACQUIRED" in data.SeriesDescription


def test_a_rerun_gives_the_same_bytes(model, finished, tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        paths = [p for p in sorted(folder.rglob("*")) if p.name.endswith((".dcm", ".nii.gz"))]
        return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}

    run(model, finished.study / "a", tmp_path / "alone")
    alone, together = digests(tmp_path / "alone"), digests(finished.out)
    assert len(alone) == 18 + 3 and all(together[name] == digest for name, digest in alone.items())


def test_what_was_made_is_not_treated_again(model, finished, tmp_path: Path) -> None:
    shutil.copytree(dicom_of(finished, "1.2.5.1"), tmp_path / "again")
    with pytest.raises(Error, match="holds: none"):
        run(model, tmp_path / "again", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_series_alone_is_judged_by_what_it_shows(model, tmp_path: Path) -> None:
    classic_head(tmp_path / "t1", SeriesDescription="AX T1")
    with pytest.raises(Error, match="its name says T1w"):
        run(model, tmp_path / "t1", tmp_path / "out")
    (outcome,) = run(model, tmp_path / "t1", tmp_path / "out", force=True)
    assert not outcome.refused
    classic_head(tmp_path / "two" / "a", SeriesDescription="AX T1")
    classic_head(tmp_path / "two" / "b", SeriesDescription="", SeriesInstanceUID="1.2.6", MRAcquisitionType="3D")
    for path in (tmp_path / "two" / "b").iterdir():
        data = pydicom.dcmread(path)
        data.InversionTime = None
        data.save_as(path)
    with pytest.raises(Error, match=r"at least one FLAIR MR series .* 1 T1w, 1 unknown"):
        run(model, tmp_path / "two", tmp_path / "out2")
    assert run(model, tmp_path / "two" / "b", tmp_path / "out3")[0].refused == ""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")
@pytest.mark.parametrize("source", AFFINES)
def test_dcm2niix_makes_the_nifti_counterfactual_of_the_dicom_one(finished, tmp_path: Path, source: str) -> None:
    subprocess.run(
        ["dcm2niix", "-z", "n", "-b", "n", "-f", "x", "-o", str(tmp_path), str(dicom_of(finished, source) / "counterfactual")],
        check=True, capture_output=True,
    )  # fmt: skip
    (path,) = tmp_path.glob("*.nii")
    theirs, ours = nibabel.as_closest_canonical(nibabel.load(path)), volume_of(finished, source, "healthycf_FLAIR")
    ours = nibabel.as_closest_canonical(ours)
    slope = float(pydicom.dcmread(dicom_of(finished, source) / "counterfactual" / "0001.dcm").RescaleSlope)
    assert np.abs(theirs.affine - ours.affine).max() < 1e-3
    assert np.abs(theirs.get_fdata() - ours.get_fdata()).max() <= slope / 2 + 1e-3
