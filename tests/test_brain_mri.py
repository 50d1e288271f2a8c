"""Brain MRI from raw file to anomaly map: what is read, what the model is shown, what is written and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import heads
import nibabel
import numpy as np
import pytest
import torch
from nibabel.affines import from_matvec

from diffgraft import models
from diffgraft.counterfactuals.counterfactual import counterfactual
from diffgraft.preparation.prepare import prepare
from diffgraft.requests import record
from diffgraft.training.data import to_batch
from diffgraft.training.train import train
from domains import brain_mri
from toolkit.data import dataset
from toolkit.data.head import inner_head
from toolkit.diffusion.model import Spec
from toolkit.example import Error
from toolkit.formats import nifti
from toolkit.methods.anomaly_map import MapSettings, rim_weight
from toolkit.methods.counterfactual import count_evaluations
from toolkit.networks import folder as torch_folder
from toolkit.settings import Counterfactual

QUICK = Counterfactual(strengths=(0.5,), steps=3, mirror=False)
NOT_FINITE = re.compile(r"\b(NaN|Infinity)\b")


def turned(degrees: float, spacing: tuple[float, float, float], flips: tuple[int, int, int], shape) -> np.ndarray:
    """An affine turned about two axes, with its middle at the middle of the patient."""
    a = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    matrix = about_z @ about_x @ np.diag(np.multiply(spacing, flips))
    return from_matvec(matrix, -matrix @ ((np.array(shape) - 1) / 2))


SMALL = (44, 44, 10)
SHAPE = (60, 72, 14)
SAGITTAL = (60, 15, 12)
GRIDS = {
    "plain": (SMALL, from_matvec(np.diag([-4.6, -4.6, 14.0]), [98.9, 98.9, -63.0])),
    "oblique": (SHAPE, turned(9, (3.4, 3.2, 12.0), (-1, -1, 1), SHAPE)),
    "flipped": (SHAPE, turned(0, (3.4, 3.2, 12.0), (1, 1, -1), SHAPE)),
    "anisotropic": ((96, 40, 12), turned(4, (2.0, 5.1, 14.0), (-1, 1, 1), (96, 40, 12))),
    "sagittal": (SAGITTAL, from_matvec([[0, 0, 12.5], [-3.4, 0, 0], [0, 11.0, 0]], [-68.75, 100.3, -77.0])),
}


def scan_of(folder: Path, grid: str = "plain", name: str = "X1", code: int = 1) -> Path:
    shape, affine = GRIDS[grid]
    array, _ = heads.head(affine, shape, heads.LESIONS["P01"], seed=7)
    return heads.save(folder / f"{name}_flair.nii.gz", array, affine, code)


def run(model: Path, scans: Path, out: Path, settings: Counterfactual = QUICK, **options):
    return counterfactual(model, scans, out, settings=settings, **({"backend": "torch"} | options)).scans


def with_meta(model: Path, folder: Path, **calibration: object) -> Path:
    """A copy of the model with its own calibration."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("training"))
    meta = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(meta | {"calibration": calibration}))
    return folder


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(folder.rglob("*.nii.gz"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


# ------------------------------------------------------------------------------------------------------------- reading


def labels(root: Path) -> dict[str, float]:
    return {e.id: e.annotation.labels["lesion"] for e in brain_mri.read(root)}


def test_a_label_is_that_of_slices_csv_else_what_the_mask_says_else_unknown(tmp_path):
    scan, mask = heads.head(lesion=heads.LESIONS["P01"])
    for name in ("A-1", "B", "C"):
        heads.save(tmp_path / f"{name}_flair.nii.gz", scan)
    for name in ("A-1", "B"):
        heads.save(tmp_path / f"{name}_mask.nii.gz", mask)
    marked = [int(k) for k in np.flatnonzero(mask.any((0, 1)))]
    # against its mask, so that it shows which of the two counted; patient names are compared without signs
    rows = [f"A-1,{k},{'no_lesion' if k in marked else 'lesion'}" for k in range(4, 12)] + ["A-1,3, "]
    (tmp_path / "slices.csv").write_text("\n".join(["patient,slice,label", *rows]))
    found = labels(tmp_path)
    assert {k: found[f"A1-{k:03d}"] for k in range(4, 12)} == {k: float(k not in marked) for k in range(4, 12)}
    assert np.isnan(found["A1-003"])
    assert [k for k in range(16) if found.get(f"B-{k:03d}")] == marked
    unknown = [value for name, value in found.items() if name.startswith("C-")]
    assert unknown and np.isnan(unknown).all()


def test_slices_csv_counts_slices_as_they_are_stored(tmp_path):
    shape, affine = GRIDS["flipped"]
    scan, mask = heads.head(affine, shape, (20, 10, 40))
    heads.save(tmp_path / "A_flair.nii.gz", scan, affine)
    marked = mask.any((0, 1))
    assert marked.any() and not np.array_equal(marked, marked[::-1])
    rows = [f"A,{k},{'lesion' if marked[k] else 'no_lesion'}" for k in range(shape[2])]
    (tmp_path / "slices.csv").write_text("\n".join(["patient,slice,label", *rows]))
    shown = {f"A-{shape[2] - 1 - k:03d}" for k in np.flatnonzero(marked)}
    assert {name for name, value in labels(tmp_path).items() if value == 1} == shown


@pytest.mark.parametrize("row", ["A,3,perhaps", "A,three,lesion", "A,3", "A"])
def test_a_slices_csv_that_is_not_understood_is_refused(tmp_path, row):
    scan_of(tmp_path, name="A")
    (tmp_path / "slices.csv").write_text(f"patient,slice,label\n{row}\n")
    with pytest.raises(Error, match=r"slices\.csv has the columns") as problem:
        labels(tmp_path)
    assert len(str(problem.value).splitlines()) == 1


def test_all_slices_of_a_patient_are_in_one_fold(tmp_path, raw):
    scan, _ = heads.head()
    for session in ("01", "02"):
        heads.save(tmp_path / f"sub-7/ses-{session}/anat/sub-7_ses-{session}_FLAIR.nii.gz", scan)
    for name in ("P01", "P02", "P03"):
        shutil.copy(raw / f"{name}_flair.nii.gz", tmp_path)
    counted = prepare("brain_mri", tmp_path, tmp_path / "data")
    assert counted.groups == 4
    folds = defaultdict(set)
    for line in (tmp_path / "data" / "manifest.jsonl").read_text().splitlines():
        sample = json.loads(line)
        folds[sample["group"]].add(sample["fold"])
    assert set(folds) == {"7", "P01", "P02", "P03"}
    assert all(len(fold) == 1 for fold in folds.values())
    assert {group: fold.pop() for group, fold in folds.items()} == {g: dataset.fold_of(g) for g in folds}


def test_training_never_sees_a_mask(tmp_path, data):
    heads.raw_folder(tmp_path / "raw", masks=False)
    prepare("brain_mri", tmp_path / "raw", tmp_path / "data")
    with_masks, without = (list(dataset.read(root)) for root in (data, tmp_path / "data"))
    assert any(e.annotation.mask is not None and e.annotation.mask.any() for e in with_masks)
    assert all(e.annotation.mask is None for e in without)
    spec = Spec((1, brain_mri.SIZE, brain_mri.SIZE), brain_mri.FIELDS)
    one, two = (
        to_batch(brain_mri, spec, spec.shape, examples, brain_mri.VOCABULARY) for examples in (with_masks, without)
    )
    assert {f.name for f in dataclasses.fields(one)} == {"image", "cond", "target"}
    assert set(one.cond) == set(brain_mri.FIELDS)
    pairs = [(one.image, two.image), (one.target, two.target), *((one.cond[k], two.cond[k]) for k in one.cond)]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert all(value.shape == (len(with_masks),) for value in one.cond.values())


# --------------------------------------------------------------------------------------------------------------- study


def volume(array: np.ndarray, affine: np.ndarray = heads.PLAIN) -> nifti.Volume:
    return nifti.Volume(array, affine, Path("x_flair.nii.gz"), "x", "FLAIR")


def test_a_study_shows_the_whole_head_in_a_window_of_the_brain():
    case = brain_mri.preprocess(volume(heads.head(lesion=heads.LESIONS["P01"])[0]))
    low, high = case.window
    middle = np.median(case.stack[inner_head(case.head)])
    assert (middle - low) / (high - low) == pytest.approx(brain_mri.BRAIN_LEVEL, abs=1e-6)
    top, left, height, width = case.box
    rows, cols = (np.flatnonzero(case.head.any((0, 3 - axis))) for axis in (1, 2))
    assert top <= rows[0] and rows[-1] < top + height
    assert left <= cols[0] and cols[-1] < left + width
    assert height * case.spacing[1] == pytest.approx(width * case.spacing[2], abs=max(case.spacing[1:]))
    assert case.images.shape == (len(case.index), 1, brain_mri.SIZE, brain_mri.SIZE)
    assert case.images.dtype == np.float32
    assert (case.position[0], case.position[-1]) == (0, 1)


def test_what_is_brighter_than_the_window_is_clipped():
    scan, mask = heads.head(lesion=heads.LESIONS["P01"])
    scan[mask] = 1e5
    case = brain_mri.preprocess(volume(scan))
    assert case.images.min() >= -1
    assert case.images.max() == pytest.approx(1)
    assert case.window[1] < 2000, "a bright lesion must not move the window"


@pytest.mark.parametrize("count", [16, 47, 48, 49, 96, 200])
def test_thin_slices_are_sampled_evenly_and_interpolated_between(count):
    affine = from_matvec(np.diag([-7.0, -7.0, 144.0 / count]), [108.5, 108.5, -72 + 72 / count])
    case = brain_mri.preprocess(volume(heads.head(affine, (32, 32, count))[0], affine))
    assert 3 <= len(case.index) <= brain_mri.MOST_SLICES
    assert len(set(np.diff(case.index))) == 1
    assert case.index[-1] - case.index[0] > 0.8 * count
    ramp = np.broadcast_to(case.index[:, None, None].astype(np.float32), (len(case.index), 64, 64))
    back = brain_mri._to_source(case, ramp)
    top, left, height, width = (max(0, edge) for edge in case.box)
    seen = back[case.index[0] : case.index[-1] + 1, top : top + height, left : left + width]
    assert np.allclose(seen, np.arange(case.index[0], case.index[-1] + 1)[:, None, None], atol=1e-3)
    assert not back[: case.index[0]].any() and not back[case.index[-1] + 1 :].any()


def test_what_shows_no_head_is_refused():
    ball, _ = heads.head(shape=(64, 64, 2))
    with pytest.raises(Error, match="at least 3 axial slices"):
        brain_mri.preprocess(volume(ball))
    with pytest.raises(Error, match="differ"):
        brain_mri.preprocess(volume(np.zeros((32, 32, 8), np.float32)))


# ------------------------------------------------------------------------------------------------------------- explain


@pytest.fixture(scope="module")
def opened(model):
    return torch_folder.open(model, "cpu")


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_explain_changes_nothing_beyond_the_changed_region(opened, sampler):
    case = brain_mri.preprocess(volume(heads.head(lesion=heads.LESIONS["P02"])[0]))
    settings, maps = dataclasses.replace(QUICK, sampler=sampler), MapSettings()
    calls = []
    finding = brain_mri.explain(
        opened, case, settings, maps, brain_mri.parse_prompt("healthy"), lambda: calls.append(1)
    )
    assert len(calls) == count_evaluations(settings) + 2 * maps.gate_draws * len(maps.gate_sigmas)
    outside = rim_weight(case.head, maps) == 0
    outside[: case.index[0]] = outside[case.index[-1] + 1 :] = True
    assert np.array_equal(finding.counterfactual[outside], case.stack[outside])
    assert (finding.counterfactual[~outside] != case.stack[~outside]).any()
    assert finding.anomaly.dtype == finding.counterfactual.dtype == np.float32
    assert finding.anomaly.shape == finding.counterfactual.shape == case.stack.shape
    assert finding.anomaly.min() >= 0
    assert finding.anomaly.max() > 0
    assert not finding.anomaly[~case.head].any()
    assert finding.probability.shape == (len(case.stack),)
    assert 0 <= finding.probability.min() <= finding.probability.max() <= 1


# ------------------------------------------------------------------------------------------------------------ the face


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> SimpleNamespace:
    """One run over a folder of scans on every kind of grid, with one file that is no scan at all."""
    root = tmp_path_factory.mktemp("face")
    for code, grid in enumerate(GRIDS):
        scan_of(root / "scans", grid, name=f"scan-{grid}", code=code % 4 + 1)
    (root / "scans" / "broken_flair.nii.gz").write_bytes(b"no NIfTI")
    outcomes = run(model, root / "scans", root / "out", command="diffgraft counterfactual ...")
    return SimpleNamespace(scans=root / "scans", out=root / "out", outcomes=outcomes)


OUTPUTS = ("desc-healthycf_FLAIR", "desc-anomaly_FLAIR", "desc-anomaly_mask")


def result(folder, label, name):
    return folder / f"sub-{label}" / "anat" / f"sub-{label}_{name}"


def test_outputs_have_exactly_the_agreed_names(finished):
    names = {
        f"sub-scan{grid}/anat/sub-scan{grid}_{output}{end}"
        for grid in GRIDS
        for output in OUTPUTS
        for end in (".nii.gz", ".json")
    }
    names |= {f"sub-scan{grid}_report.html" for grid in GRIDS}
    names |= {"manifest.jsonl", "quarantine.jsonl", "dataset_description.json", "report.html", "request.json"}
    names |= {".bidsignore"}
    assert {path.relative_to(finished.out).as_posix() for path in finished.out.rglob("*") if path.is_file()} == names
    assert [path.name for path in finished.out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("grid", GRIDS)
def test_outputs_lie_on_the_grid_of_their_source(finished, grid):
    source = nibabel.load(finished.scans / f"scan-{grid}_flair.nii.gz")
    kinds = {}
    for output in OUTPUTS:
        made = nibabel.load(result(finished.out, f"scan{grid}", f"{output}.nii.gz"))
        assert made.shape == source.shape
        code = int(source.header["sform_code"])
        assert int(made.header["sform_code"]) == int(made.header["qform_code"]) == code
        for affine in (made.affine, made.get_sform(), made.get_qform()):
            assert np.abs(affine - source.affine).max() < 1e-3
        values = np.asarray(made.dataobj)
        assert np.isfinite(values).all()
        kinds[output] = (made.get_data_dtype().name, values)
    assert [kind for kind, _ in kinds.values()] == ["float32", "float32", "uint8"]
    anomaly, mask = kinds[OUTPUTS[1]][1], kinds[OUTPUTS[2]][1]
    assert anomaly.min() >= 0
    assert set(np.unique(mask)) <= {0, 1}
    sidecar = json.loads(result(finished.out, f"scan{grid}", f"{OUTPUTS[2]}.json").read_text())
    assert np.array_equal(mask == 1, anomaly >= np.float32(sidecar["Threshold"]))
    # air is noise and stays what it is, voxel by voxel: no axis was flipped or exchanged on the way there and back
    study = brain_mri.preprocess(nifti.load(finished.scans / f"scan-{grid}_flair.nii.gz"))
    air = ~nifti.restore(study.head, source.affine, source.shape)
    assert air.mean() > 0.2
    assert np.array_equal(kinds[OUTPUTS[0]][1][air], np.asarray(source.dataobj)[air])
    assert not anomaly[air].any()


def test_there_is_one_float_anomaly_map_a_scan(finished):
    maps = [p for p in finished.out.rglob("*anomaly*.nii.gz") if nibabel.load(p).get_data_dtype().kind == "f"]
    assert sorted(p.name for p in maps) == sorted(f"sub-scan{grid}_desc-anomaly_FLAIR.nii.gz" for grid in GRIDS)


@pytest.mark.parametrize("output", OUTPUTS)
def test_sidecars_say_what_a_file_is(finished, output):
    text = result(finished.out, "scanplain", f"{output}.json").read_text()
    assert not NOT_FINITE.search(text)
    sidecar = json.loads(text)
    assert sidecar["Sources"] == ["scan-plain_flair.nii.gz"]
    assert sidecar["Description"] and sidecar["Units"]
    assert sidecar["Synthetic"] is True
    assert sidecar["Settings"]["strengths"] == [0.5]
    assert ("Threshold" in sidecar and "ThresholdOrigin" in sidecar) == (output == "desc-anomaly_mask")


def test_a_bad_file_in_a_folder_is_put_aside_and_the_rest_goes_on(finished):
    assert [o.source for o in finished.outcomes if o.refused] == ["broken_flair.nii.gz"]
    (aside,) = (json.loads(line) for line in (finished.out / "quarantine.jsonl").read_text().splitlines())
    assert aside["source"] == "broken_flair.nii.gz"
    assert "has no NIfTI header" in aside["reason"]
    manifest = [json.loads(line) for line in (finished.out / "manifest.jsonl").read_text().splitlines()]
    assert {line["id"] for line in manifest} == {f"sub-scan{grid}" for grid in GRIDS}
    assert all(line["provenance"]["kind"] == "edited" and line["provenance"]["source"] for line in manifest)
    description = json.loads((finished.out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "diffgraft"


def test_the_record_of_a_run_is_no_scan_of_it(finished, model):
    kept = record.read(finished.out)
    assert (kept.verb, kept.model) == ("counterfactual", models.open(model, "torch").fingerprint)
    assert kept.request["settings"]["steps"] == QUICK.steps
    with pytest.raises(Error, match="holds none"):
        nifti.find(finished.out)


def test_reports_hold_all_they_show(finished):
    for path in finished.out.glob("*.html"):
        page = path.read_text()
        assert "Research use only" in page
        outside = re.findall(r"(?:src|href)=[\"'](?!data:|#)([^\"']*)|url\((?!data:|#)([^)]*)\)|@import", page)
        assert [link for link in outside if any(link)] == []
    assert "broken" in (finished.out / "report.html").read_text()


def test_a_rerun_and_single_runs_give_the_same_bytes(model, finished, tmp_path):
    together = digests(finished.out)
    for name, grid in [("once", "plain"), ("again", "plain"), ("other", "oblique")]:
        run(model, finished.scans / f"scan-{grid}_flair.nii.gz", tmp_path / name)
        alone = digests(tmp_path / name)
        assert len(alone) == 3
        assert alone == {file: together[file] for file in alone}


# -------------------------------------------------------------------------------------------------------------- refused


def refused(words: str, model: Path, scans: Path, out: Path, **options) -> str:
    """The one line that a run is refused with; it leaves nothing behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(Error, match=words) as problem:
        run(model, scans, out, **options)
    assert len(str(problem.value).splitlines()) == 1
    assert sorted(out.parent.iterdir()) == before
    return str(problem.value)


def test_two_scans_with_one_label_are_refused(model, tmp_path):
    scan_of(tmp_path / "scans", name="X-1")
    scan_of(tmp_path / "scans", name="X_1")
    refused("X1", model, tmp_path / "scans", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no NIfTI", None])
def test_a_single_bad_file_is_an_error_and_leaves_nothing(model, tmp_path, content):
    path = scan_of(tmp_path / "scans")
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    refused("NIfTI|claims", model, path, tmp_path / "out")
    refused("NIfTI|claims", model, path.parent, tmp_path / "out")


def test_a_folder_of_bad_files_alone_is_an_error_and_leaves_nothing(model, tmp_path):
    for name in "ab":
        scan_of(tmp_path / "scans", name=name).write_bytes(b"no NIfTI")
    refused("all 2 were refused", model, tmp_path / "scans", tmp_path / "out")


def test_output_that_exists_is_kept_unless_it_is_a_run_to_be_replaced(model, tmp_path):
    scan = scan_of(tmp_path / "scans")
    run(model, scan, tmp_path / "out")
    refused("--overwrite", model, scan, tmp_path / "out")
    (tmp_path / "out" / "old").touch()
    run(model, scan, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "old").exists()
    # what diffgraft did not write, or needs for this very run, is never deleted
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    refused("Only a folder that diffgraft wrote", model, scan, tmp_path / "thesis", overwrite=True)
    refused("never replaces what it reads", model, scan, scan.parent, overwrite=True)
    refused("never replaces what it reads", model, scan, tmp_path, overwrite=True)
    assert (tmp_path / "thesis" / "chapter").exists() and scan.exists()


def test_a_failed_overwrite_keeps_the_old_run(model, tmp_path):
    scan = scan_of(tmp_path / "scans")
    run(model, scan, tmp_path / "out")
    kept = digests(tmp_path / "out")
    scan.write_bytes(b"no NIfTI")
    refused("NIfTI", model, scan, tmp_path / "out", overwrite=True)
    assert digests(tmp_path / "out") == kept


@pytest.mark.parametrize("auroc", [None, 0.6])
def test_a_weak_classifier_may_not_guide(model, tmp_path, auroc):
    weak = with_meta(model, tmp_path / "weak", **({} if auroc is None else {"classifier_auroc": auroc}))
    settings = dataclasses.replace(QUICK, classifier_guidance=1.0)
    refused("AUROC of 0.8 or more", weak, scan_of(tmp_path / "scans"), tmp_path / "out", settings=settings)


def test_a_strong_classifier_may_guide(model, tmp_path):
    strong = with_meta(model, tmp_path / "strong", classifier_auroc=0.95)
    scan = scan_of(tmp_path / "scans")
    run(strong, scan, tmp_path / "plain")
    run(strong, scan, tmp_path / "guided", dataclasses.replace(QUICK, classifier_guidance=20.0))
    one, two = digests(tmp_path / "plain"), digests(tmp_path / "guided")
    name = "sub-X1/anat/sub-X1_desc-healthycf_FLAIR.nii.gz"
    assert one[name] != two[name]


def test_the_gate_refuses_with_a_score_and_force_treats(model, tmp_path):
    strict = with_meta(model, tmp_path / "strict", novelty_limit=-99.0)
    scan = scan_of(tmp_path / "scans")
    words = refused("has a novelty of", strict, scan, tmp_path / "out")
    assert re.search(r"novelty of -?\d+\.\d+, the limit is -99\.00", words) and "--force" in words
    (outcome,) = run(strict, scan, tmp_path / "out", force=True)
    assert any("--force" in note for note in outcome.notes)
    assert json.loads(result(tmp_path / "out", "X1", "desc-anomaly_FLAIR.json").read_text())["Novelty"]["Limit"] == -99


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strengths": (0.0,)}, r"in \(0, 1\]; found 0"),
        ({"strengths": (2.0,)}, r"in \(0, 1\]; found 2"),
        ({"strengths": (float("nan"),)}, r"in \(0, 1\]; found nan"),
        ({"strengths": ()}, "at least one strength"),
        ({"strengths": (1e-6,)}, "must reach beyond sigma"),
        ({"steps": 0}, "2 steps or more"),
        ({"steps": 1}, "2 steps or more"),
        ({"sampler": "magic"}, "one of dpmpp_2m, euler, heun; found 'magic'"),
        ({"sampler": "euler_ancestral"}, "'euler_ancestral' draws noise"),
        ({"guidance": float("nan")}, "guidance is a number from 0 up"),
        ({"classifier_guidance": -1.0}, "classifier_guidance is a number from 0 up"),
        ({"seed": -1}, "seed is a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(model, tmp_path, changes, words):
    settings = dataclasses.replace(QUICK, **changes)
    refused(words, model, scan_of(tmp_path / "scans"), tmp_path / "out", settings=settings)


def test_target_and_threshold_out_of_range_are_refused(model, tmp_path):
    scan = scan_of(tmp_path / "scans")
    refused("one of healthy, lesion; found 'young'", model, scan, tmp_path / "out", target="young")
    for threshold in (0.0, -1.0, float("nan"), float("inf")):
        refused("threshold of the map", model, scan, tmp_path / "out", threshold=threshold)


# ------------------------------------------------------------------------------------------------------------- training


def test_training_leaves_a_report_and_facts(model, data, held_out):
    parts = json.loads((model / "model.json").read_text())["parts"]
    auroc = parts["classifier"]["run"]["held_out_auroc"]
    assert 0 <= auroc <= 1
    hidden = hashlib.sha256(b"P02").hexdigest()[:16]
    assert hidden in parts["classifier"]["run"]["held_out_groups"]
    assert "P02" not in (model / "model.json").read_text(), "model.json names no patient"
    pages = {part: (model / "training" / part / "report.html").read_text() for part in parts}
    for page in pages.values():
        assert "Research use only" in page and "<svg" in page and "held out" in page
        assert not re.search(r"P0\d", re.sub(r"base64,[^\"]*", "", page)), "no patient is named"
    assert pages["denoiser"].count("generated") >= 8 and "from sigma 1" in pages["denoiser"]
    assert "position alone" in pages["classifier"] and f"{auroc:.3f}" in pages["classifier"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps = 0"), ({"batch": 0}, "batch = 0"), ({"learning_rate": -1.0}, "learning_rate = -1"),
        ({"seed": -1}, "seed = -1"), ({"fold": 4}, "fold = 4"),
    ],
)  # fmt: skip
def test_training_settings_out_of_range_are_refused(data, tmp_path, changes, words):
    with pytest.raises(Error, match=words):
        train(brain_mri, data, tmp_path / "model", **changes)
    assert not (tmp_path / "model").exists()


def test_training_refuses_the_data_of_another_domain_and_data_that_is_not_there(data, tmp_path):
    other = shutil.copytree(data, tmp_path / "data")
    info = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(info | {"domain": "plant_disease"}))
    with pytest.raises(Error, match="is plant_disease, not brain_mri"):
        train(brain_mri, other, tmp_path / "model")
    with pytest.raises(Error, match="diffgraft prepare"):
        train(brain_mri, tmp_path / "nowhere", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_classifier_without_held_out_patients_has_no_auroc(data, tmp_path):
    facts = train(brain_mri, data, tmp_path / "model", "classifier", steps=1, batch=2, fold=-1)
    assert facts["held_out_auroc"] is None
    assert "nothing to measure on" in (tmp_path / "model" / "training" / "classifier" / "report.html").read_text()


# ---------------------------------------------------------------------------------------------------- the starter model

STARTER = Path(__file__).parents[1] / "models" / "brain_mri"
REAL = Path(__file__).parents[2] / "shared" / "data" / "mri" / "lgg"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real scans beside the checkout (../shared/data/mri/lgg)")
def test_starter_model_accepts_a_real_scan_and_doubts_a_turned_one():
    opened = models.open(STARTER, "onnx")
    source = nifti.load(REAL / "TCGA_DU_7298" / "TCGA_DU_7298_flair.nii.gz")
    assert brain_mri.input_warnings(opened, brain_mri.preprocess(source)) == []
    turns = {
        "back to front": source.array[:, ::-1],
        "upside down": source.array[:, :, ::-1],
        "90 degrees": np.rot90(source.array, axes=(0, 1)),
    }
    for words, array in turns.items():
        turned = dataclasses.replace(source, array=np.ascontiguousarray(array))
        assert any(words in doubt for doubt in brain_mri.input_warnings(opened, brain_mri.preprocess(turned))), words
    named = dataclasses.replace(source, contrast="T1w")
    assert any("T1w" in doubt for doubt in brain_mri.input_warnings(opened, brain_mri.preprocess(named)))


@pytest.mark.skipif(not REAL.is_dir(), reason="no real scans beside the checkout (../shared/data/mri/lgg)")
def test_starter_model_knows_lesion_slices_of_a_patient_it_never_saw():
    opened = models.open(STARTER, "onnx")
    scan = next(s for s in nifti.find(REAL, "FLAIR") if s.label == "TCGAHT7884")
    case = brain_mri.preprocess(nifti.load(scan.path))
    mask, _ = nifti.display(nifti.load(scan.mask).array > 0, case.volume.affine)
    ill = mask.any((1, 2))[case.index]
    settings = dataclasses.replace(brain_mri.QUALITY["fast"], steps=6)
    finding = brain_mri.explain(opened, case, settings, MapSettings(), brain_mri.parse_prompt("healthy"))
    probability = finding.probability[case.index]
    assert probability[ill].min() > probability[~ill].mean() and probability[ill].mean() > 0.7
    inside, outside = finding.anomaly[mask].mean(), finding.anomaly[case.head & ~mask].mean()
    assert inside > 10 * outside
