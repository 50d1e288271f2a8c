"""Results as a BIDS derivative: names that keep the entities of their source, sidecars, and what the BIDS validator says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import heads
import numpy as np
import pytest
from dicoms import classic
from foreign import needs, tool
from hypothesis import given
from hypothesis import strategies as st

from diffgraft.counterfactuals.counterfactual import counterfactual
from diffgraft.evaluation.anomaly.evaluate import evaluate_anomaly
from toolkit.formats import nifti
from toolkit.settings import Counterfactual

QUICK = Counterfactual(strengths=(0.5,), steps=3, mirror=False)

NAMES = {
    "P01_flair": "sub-P01/anat/sub-P01_desc-anomaly_FLAIR",
    "sub-01_FLAIR": "sub-01/anat/sub-01_desc-anomaly_FLAIR",
    "sub-01_ses-2_acq-3D_run-01_FLAIR": "sub-01/ses-2/anat/sub-01_ses-2_acq-3D_run-01_desc-anomaly_FLAIR",
    "sub-02_run-1_acq-3D_FLAIR": "sub-02/anat/sub-02_acq-3D_run-1_desc-anomaly_FLAIR",
    "sub-03_space-MNI152_res-2_desc-preproc_FLAIR": "sub-03/anat/sub-03_space-MNI152_res-2_desc-anomalypreproc_FLAIR",
    "sub-04_res-1_space-mine_FLAIR": "sub-04/anat/sub-04_space-mine_res-1_desc-anomaly_FLAIR",
    "sub-05_foo-1_FLAIR": "sub-05/anat/sub-05_acq-foo1_desc-anomaly_FLAIR",
    "sub-05_acq-3D_run-2a_FLAIR": "sub-05/anat/sub-05_acq-3Drun2a_desc-anomaly_FLAIR",
    "sub-06_task-rest_ce-gd_rec-x_echo-1_part-mag_chunk-3_FLAIR": (
        "sub-06/anat/sub-06_task-rest_ce-gd_rec-x_echo-1_part-mag_chunk-3_desc-anomaly_FLAIR"
    ),
    "sub-strokecase0009_ses-0001_flair": (
        "sub-strokecase0009/ses-0001/anat/sub-strokecase0009_ses-0001_desc-anomaly_FLAIR"
    ),
    "sub-07": "sub-07/anat/sub-07_desc-anomaly_FLAIR",
}
"""Source -> its map."""


def of(*names: str) -> list[dict[str, str]]:
    paths = [Path(f"{name}.nii.gz") for name in names]
    return nifti.result_entities([(path, nifti.parse_file_name(path)[0]) for path in paths])


def test_a_result_keeps_the_entities_of_its_source() -> None:
    for own, (name, wanted) in zip(of(*NAMES), NAMES.items(), strict=True):
        path = nifti.result_path(own, "anomaly", "FLAIR")
        assert path.as_posix() == wanted, name
        assert nifti.label_of_result(path, "anomaly") == (nifti.result_label(own), "FLAIR")


ENTITY = st.tuples(
    st.sampled_from(["ses", "acq", "run", "space", "desc", "foo", "echo", "dir"]), st.sampled_from("1aZ")
)
STEM = st.tuples(st.sampled_from(["01", "A"]), st.lists(ENTITY, max_size=4, unique_by=lambda pair: pair[0])).map(
    lambda parts: "_".join([f"sub-{parts[0]}", *(f"{key}-{value}" for key, value in parts[1]), "FLAIR"])
)


@given(
    st.lists(STEM, min_size=1, max_size=6, unique_by=lambda stem: nifti.parse_file_name(Path(f"{stem}.nii"))[0].lower())
)
def test_no_two_scans_meet_under_one_name(stems: list[str]) -> None:
    places = [nifti.result_path(own, "anomaly", "FLAIR").as_posix().lower() for own in of(*stems)]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    "name", ["a_FLAIR", "sub-1_desc-lesion_mask", "sub-1_FLAIR", "sub-1_desc-healthycf_FLAIR", "sub-1_desc-anomaly"]
)
def test_what_is_no_map_has_no_label_of_one(name: str) -> None:
    assert nifti.label_of_result(Path(f"{name}.nii.gz"), "anomaly") is None


# ------------------------------------------------------------------------------------------------- with a model, in files


TREATED = [name for name in NAMES if name.split("_")[0] in ("P01", "sub-01", "sub-03", "sub-04", "sub-05")]


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    for name in TREATED:
        scan, mask = heads.head(lesion=heads.LESIONS["P02"])
        heads.save(root / f"{name}.nii.gz", scan)
        stem = name.rpartition("_")[0].removesuffix("_desc-preproc")
        heads.save(root / f"{stem}{'_desc-lesion' if name.startswith('sub-') else ''}_mask.nii.gz", mask)
    (root / "sub-01_FLAIR.json").write_text('{"SkullStripped": true, "PatientName": "Doe^Jane"}')
    told = {"Resolution": "2 mm", "SpatialReference": "x"}
    (root / "sub-03_space-MNI152_res-2_desc-preproc_FLAIR.json").write_text(json.dumps(told))
    return root


@pytest.fixture(scope="module")
def made(model, scans: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    result = counterfactual(model, scans, out, settings=QUICK, backend="torch", force=True)
    assert len(result.kept) == len(TREATED)
    return out


def test_results_lie_in_folders_of_patients(made: Path) -> None:
    found = {path.relative_to(made).as_posix() for path in made.rglob("*_desc-anomaly*FLAIR.nii.gz")}
    assert found == {f"{NAMES[name]}.nii.gz" for name in TREATED}
    for name in TREATED:
        place = NAMES[name]
        for other in (place.replace("desc-anomaly", "desc-healthycf"), place.replace("_FLAIR", "_mask")):
            assert (made / f"{other}.nii.gz").is_file() and (made / f"{other}.json").is_file()


def test_sidecars_say_what_bids_asks_for(made: Path) -> None:
    told = {name: json.loads((made / f"{NAMES[name]}.json").read_text()) for name in TREATED}
    assert {name for name, each in told.items() if each["SkullStripped"]} == {"sub-01_FLAIR"}
    stated, silent = (told[name] for name in TREATED if "space" in name)
    assert (stated["Resolution"], stated["SpatialReference"]) == ("2 mm", "x")
    assert silent["SpatialReference"] == "sub-04_res-1_space-mine_FLAIR.nii.gz" and silent["Resolution"]
    for name, each in told.items():
        assert "PatientName" not in each and ("SpatialReference" in each) == ("space" in name)


def test_maps_are_found_by_those_who_measure_them(scans: Path, made: Path, tmp_path: Path) -> None:
    """In their folders, or flat with the label after sub-, as other programs and the release before write them."""
    for name in TREATED:
        label = nifti.parse_file_name(Path(f"{name}.nii.gz"))[0]
        for end in ("FLAIR.nii.gz", "FLAIR.json", "mask.json"):
            source = made / f"{NAMES[name].replace('FLAIR', end)}"
            shutil.copy(source, tmp_path / f"sub-{label}_desc-anomaly_{end}")
    one, other = (
        evaluate_anomaly(scans, maps, resamples=20, beside={"the same": beside})
        for maps, beside in ((made, tmp_path), (tmp_path, made))
    )
    assert not one.left_out and not other.left_out
    assert one.numbers["maps"] == other.numbers["maps"] and one.protocol["threshold"] == other.protocol["threshold"]


def test_results_are_no_scans(scans: Path, made: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "all")
    shutil.copytree(made, tmp_path / "all" / "made")
    assert len(nifti.find(tmp_path / "all")) == len(TREATED)


# ------------------------------------------------------------------------------------------------------- the validator


def complaints(root: Path) -> tuple[list[str], int]:
    """Errors of the BIDS validator, and how many files it saw."""
    told = subprocess.run(
        [str(tool("bids-validator-deno")), str(root), "--format", "json"], capture_output=True, text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"},
    )  # fmt: skip
    found = json.loads(told.stdout)
    issues = [issue for issue in found["issues"]["issues"] if issue["severity"] == "error"]
    assert told.returncode == (16 if issues else 0), told.stderr[-2000:]
    return [f"{i['code']} {i.get('subCode', '')} {i['location']}" for i in issues], found["summary"]["totalFiles"]


@pytest.mark.slow
@needs("bids-validator-deno")
def test_the_bids_validator_has_no_complaint(model, made: Path, tmp_path: Path) -> None:
    found, files = complaints(made)
    assert not found and files >= 6 * len(TREATED)
    # A study in DICOM, with a series that is put aside.
    classic(tmp_path / "study" / "a", np.rint(heads.head(lesion=heads.LESIONS["P02"])[0]), heads.PLAIN)
    classic(
        tmp_path / "study" / "b",
        np.rint(heads.head()[0]),
        heads.PLAIN,
        SeriesInstanceUID="1.2.6",
        SeriesDescription="T1",
    )
    counterfactual(model, tmp_path / "study", tmp_path / "out", settings=QUICK, backend="torch", force=True)
    assert (tmp_path / "out" / "dicom").is_dir() and (tmp_path / "out" / "quarantine.jsonl").is_file()
    assert not complaints(tmp_path / "out")[0]


@pytest.mark.slow
@needs("bids-validator-deno")
@pytest.mark.parametrize("contrast", ["T1gd", "ADC", "ct", "unknown"])
def test_a_scan_of_another_contrast_that_is_forced_is_valid_too(contrast: str, model, tmp_path: Path) -> None:
    name = "scan" if contrast == "unknown" else f"x_{contrast}"
    path = heads.save(tmp_path / f"{name}.nii.gz", heads.head()[0])
    counterfactual(model, path, tmp_path / "out", settings=QUICK, backend="torch", force=True)
    assert not complaints(tmp_path / "out")[0]


@pytest.mark.slow
@needs("bids-validator-deno")
def test_the_bids_validator_sees_what_is_wrong(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "spoilt")
    (tmp_path / "spoilt" / ".bidsignore").unlink()
    (path,) = (tmp_path / "spoilt" / "sub-P01").rglob("*_desc-anomaly_FLAIR.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "SkullStripped": None}))
    found = " ".join(complaints(tmp_path / "spoilt")[0])
    assert "NOT_INCLUDED" in found and "SkullStripped" in found
