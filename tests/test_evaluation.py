"""Evaluating maps against masks: figures on heads made here, what is refused, what is written, and what a calibration may
be made on."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffgraft.evaluation.anomaly.evaluate import evaluate_anomaly
from diffgraft.preparation.prepare import prepare
from diffgraft.requests import AnomalyRequest, record
from diffgraft.requests.base import build
from domains import brain_mri
from toolkit.example import Error
from toolkit.formats import nifti
from toolkit.methods.anomaly_map import MapSettings
from toolkit.models.folder import fingerprint, read_meta, write_meta

AFFINE = np.diag([-1.0, -1.0, 4.0, 1.0])
SHAPE = (64, 72, 9)
SICK = slice(3, 6)
TRIVIAL = ("FLAIR intensity", "FLAIR, 3 px smoothed", "wide FLAIR x rim")
GATED = "wide FLAIR x rim x slice p"
PATIENTS = ("Ann", "Ben", "Cid")


def head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A round brain in bright skin fat, nothing in the first slice, a fainter lesion in SICK: (image, lesion), (X, Y, Z)."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1.1, 1.1, SHAPE[0]), np.linspace(-1.1, 1.1, SHAPE[1]), indexing="ij")
    radius = np.hypot(x, y)[..., None] * np.ones(SHAPE)
    image = np.where(radius < 1, 100.0, 0.0)
    image[(radius > 0.88) & (radius < 1)] = 260
    lesion = np.zeros(SHAPE, bool)
    middle = rng.uniform(-0.3, 0.3, 2)
    lesion[..., SICK] = (np.hypot(x - middle[0], y - middle[1]) < 0.25)[..., None]
    image += 60 * lesion + rng.normal(0, 4, SHAPE)
    image[..., 0] = rng.normal(0, 1, SHAPE[:2])
    return image.astype(np.float32), lesion


def volume(array: np.ndarray, affine: np.ndarray = AFFINE) -> nifti.Volume:
    return nifti.Volume(array, affine, Path("made"), "made", "FLAIR")


def scans(root: Path, names: tuple[str, ...] = PATIENTS, bare: str = "") -> Path:
    """Scans with masks, all but the bare one's, and slices.csv."""
    rows = []
    for seed, name in enumerate(names):
        image, lesion = head(seed)
        nifti.save(root / f"{name}_flair.nii.gz", image, volume(image), "acquired")
        if name != bare:
            nifti.save(root / f"{name}_mask.nii.gz", lesion, volume(image), "mask")
        rows += [(name, k, "lesion" if lesion[..., k].any() else "no_lesion") for k in range(SHAPE[2])]
    with (root / "slices.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient", "slice", "label"), *rows])
    return root


def maps(root: Path, names: tuple[str, ...] = PATIENTS, sign: float = 1.0, **more: Any) -> Path:
    """The lesion itself as the map, slightly uneven; with sidecars, more goes into the map's."""
    for seed, name in enumerate(names):
        lesion = head(seed)[1]
        score = sign * (lesion * (0.5 + 0.01 * seed)).astype(np.float32)
        chance = np.where(lesion.any((0, 1)), 0.9, 0.1)
        about = {"SliceProbability": chance.tolist(), "Novelty": {"Value": -2.0 + 0.1 * seed}} | more
        nifti.save(path := root / f"sub-{name}_desc-anomaly_FLAIR.nii.gz", score, volume(score), "map")
        nifti.write_sidecar(path, **{key: value for key, value in about.items() if value is not None})
        nifti.save(path := root / f"sub-{name}_desc-anomaly_mask.nii.gz", score > 0.3, volume(score), "mask")
        nifti.write_sidecar(
            path, Threshold=0.3, ThresholdOrigin="best pooled Dice in the head of 5 validation patients"
        )
    return root


def model(root: Path, saw: str = "", weights: bytes = b"weights", **calibration: Any) -> Path:
    """A model folder as far as an evaluation looks into it; its denoiser saw slice 4 of one patient."""
    root.mkdir()
    (root / "denoiser.safetensors").write_bytes(weights)
    seen = [hashlib.sha256(f"{saw}-004".encode()).hexdigest()[:16]] if saw else []
    spec = {"shape": [1, 64, 64], "fields": {}}
    parts = {"denoiser": {"run": {"trained_on": seen}}, "classifier": {"run": {"trained_on": []}}}
    write_meta(root, {"format": 1, "domain": "brain_mri", "spec": spec, "parts": parts, "calibration": calibration})
    return root


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scans(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    return maps(tmp_path / "maps")


def test_a_perfect_map_is_perfect_and_its_inverse_is_bad(raw, perfect, tmp_path):
    result = evaluate_anomaly(raw, perfect, beside={"upside down": maps(tmp_path / "inverse", sign=-1)}, resamples=100)
    names = ["anomaly map", "upside down", *TRIVIAL, GATED]
    assert list(result.reports) == names and list(result.differences) == names[1:]
    for region in ("head", "inner head"):
        best, worst = (result.reports[name].regions[region] for name in names[:2])
        assert best.average_precision.value == best.best_dice.value == best.dice.value == 1
        assert worst.average_precision.value <= worst.prevalence < 0.1
        gap = result.differences["upside down"][region].average_precision
        assert gap.value == 1 - worst.average_precision.value and gap.low > 0.9
    # Skin fat is brighter than the lesion: a trivial map is only as good as its rim weight.
    figures = {name: result.reports[name].regions["head"].average_precision.value for name in names}
    assert figures["FLAIR intensity"] < 0.4 < figures["wide FLAIR x rim"] <= figures[GATED] < 1
    assert result.slices["slice classifier"].pooled.value == result.slices["slice classifier"].mean_per_patient == 1
    assert result.slices["slice classifier"].slices == 8 * 3, "the slice without a head is not asked"


def test_the_terminal_gets_figures_protocol_and_what_they_are_worth(raw, perfect):
    said = str(evaluate_anomaly(raw, perfect, resamples=50))
    assert "3 patients, 3 scans, 27 slices (9 with lesion, 18 healthy)" in said
    for words in (
        "Validation-tuned Dice",
        "optimistic",
        "5 validation patients",
        "Otsu",
        "bootstrap",
        "not checked for 3",
    ):
        assert words in said, words
    assert "WARNING" not in said
    for name in ("anomaly map", *TRIVIAL, GATED, "chance"):
        assert len(re.findall(rf"^  {re.escape(name)}  ", said, re.M)) == 2, name


def test_report_and_metrics_are_whole(raw, perfect, tmp_path):
    out = tmp_path / "out"
    result = evaluate_anomaly(raw, perfect, out=out, resamples=50, command="diffgraft evaluate <RAW> MAPS")
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "report.html", "request.json"]

    def refuse(word: str) -> None:
        raise AssertionError(word)

    numbers = json.loads((out / "metrics.json").read_text(), parse_constant=refuse)
    assert numbers == json.loads(json.dumps(result.numbers))
    assert numbers["maps"]["anomaly map"]["regions"]["head"]["average_precision"]["value"] == 1
    page = (out / "report.html").read_text()
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", page)
    assert {link[:1] for link in re.findall(r'(?:src|href)="([^"]*)"', page)} <= {"#", "d"}
    for words in (
        "Research use only",
        "Validation-tuned Dice",
        "Ann",
        "AUPRC of each patient",
        "&lt;RAW&gt;",
        *TRIVIAL,
    ):
        assert words in page, words
    with pytest.raises(Error, match="new or empty"):
        evaluate_anomaly(raw, perfect, out=out)
    for inside in (perfect, perfect / "report"):
        with pytest.raises(Error, match="folder of its own"):
            evaluate_anomaly(raw, perfect, out=inside, overwrite=True)
    assert len(list(perfect.iterdir())) == 12


def test_the_record_beside_a_report_is_its_request(raw, perfect, tmp_path):
    request = AnomalyRequest(raw, perfect, tmp_path / "out", only=["Ann", "Cid"], resamples=20)
    evaluate_anomaly(request)
    found = record.read(tmp_path / "out")
    assert found.verb == "evaluate anomaly" and build(AnomalyRequest, found.request) == request


def test_what_is_left_out_is_named(tmp_path):
    raw = scans(tmp_path / "raw", (*PATIENTS, "Dot"), bare="Ben")
    made = maps(tmp_path / "maps", ("Ann", "Ben", "Cid"))
    maps(made, ("Ann", "Ben", "Cid", "Zoe"))
    result = evaluate_anomaly(raw, made, resamples=20)
    assert result.left_out == {"Ben": "no lesion mask", "Dot": "no map", "Zoe": "a map without a scan"}
    assert result.protocol["patients"] == 2
    for line in ("left out, no lesion mask: Ben", "left out, no map: Dot", "left out, a map without a scan: Zoe"):
        assert line in str(result)
    with pytest.raises(Error, match="at least one scan") as refusal:
        evaluate_anomaly(raw, made, only=["Ben", "Dot"])
    assert "\n" not in str(refusal.value)


def test_only_takes_names_or_a_file_of_them(raw, perfect, tmp_path):
    (tmp_path / "only.txt").write_text("# kept back\nsub-Ann\n\nCid  # late\n")
    for only in (["Ann", "Cid"], tmp_path / "only.txt", str(tmp_path / "only.txt")):
        result = evaluate_anomaly(raw, perfect, only=only, resamples=20)
        assert list(result.reports["anomaly map"].regions["head"].patient_average_precision) == ["Ann", "Cid"]
        assert not result.left_out
    for wrong in (["Ann", "Nobody"], tmp_path / "absent.txt"):
        with pytest.raises(Error, match=r"Nobody|absent\.txt"):
            evaluate_anomaly(raw, perfect, only=wrong)


@pytest.mark.parametrize("change", ["shape", "affine"])
def test_another_grid_is_refused(raw, perfect, change):
    score = np.ones((*SHAPE[:2], SHAPE[2] - (change == "shape")), np.float32)
    moved = AFFINE + (change == "affine") * np.eye(4, k=3) * 0.01
    nifti.save(perfect / "sub-Ben_desc-anomaly_FLAIR.nii.gz", score, volume(score, moved), "map")
    with pytest.raises(Error, match="grid of its scan") as refusal:
        evaluate_anomaly(raw, perfect)
    assert "sub-Ben" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"SliceProbability": [0.5] * 4}, "one SliceProbability a slice"),
        ({"SliceProbability": [0.5] * 8 + ["much"]}, "finite numbers"),
        ('{"SliceProbability": NaN', "is JSON"),
    ],
)
def test_a_damaged_sidecar_is_refused(raw, perfect, content, words):
    text = content if isinstance(content, str) else json.dumps(content)
    (perfect / "sub-Cid_desc-anomaly_FLAIR.json").write_text(text)
    with pytest.raises(Error, match=words):
        evaluate_anomaly(raw, perfect)


def test_maps_without_sidecars_have_no_gate_and_no_threshold(raw, perfect, tmp_path):
    for path in perfect.glob("*.json"):
        path.unlink()
    result = evaluate_anomaly(raw, perfect, out=tmp_path / "out", resamples=20)
    assert list(result.reports) == ["anomaly map", *TRIVIAL]
    assert result.protocol["threshold"] is None and list(result.slices) == ["highest value of the map in the head"]
    (perfect / "sub-Ann_desc-anomaly_mask.json").write_text('{"Threshold": 0.2}')
    result = evaluate_anomaly(raw, perfect, resamples=20)
    assert result.protocol["threshold"] is None and any("do not agree" in note for note in result.notes)


def test_slices_csv_comes_before_the_mask(perfect, tmp_path):
    raw = scans(tmp_path / "raw")
    table = (raw / "slices.csv").read_text()
    (raw / "slices.csv").write_text(table.replace("Ann,6,no_lesion", "Ann,6,lesion"))
    assert evaluate_anomaly(raw, perfect, resamples=20).protocol["slices_with_lesion"] == 10
    (raw / "slices.csv").unlink()
    result = evaluate_anomaly(raw, perfect, resamples=20)
    assert result.protocol["slices_with_lesion"] == 9 and result.protocol["slices_healthy"] == 18


def test_the_atlas_leaves_the_evaluated_patients_out(perfect, tmp_path):
    raw = scans(tmp_path / "raw", (*PATIENTS, "Dot", "Eve"))
    prepare("brain_mri", raw, tmp_path / "data")
    result = evaluate_anomaly(tmp_path / "data", perfect, atlas=tmp_path / "data", only=list(PATIENTS), resamples=50)
    note = next(note for note in result.notes if "atlas" in note)
    assert "10 slices of 2 patients" in note and "evaluated here, 3," in note
    atlas = result.reports["healthy atlas z x rim x slice p"].regions["head"]
    assert atlas.average_precision.value > 0.7
    # Every patient has the lesion in the same slices, so that position alone knows all.
    assert result.slices["slice position alone"].pooled.value == 1
    with pytest.raises(Error, match="not evaluated"):
        evaluate_anomaly(
            scans(tmp_path / "few", ("Dot",)), maps(tmp_path / "dot", ("Dot",)), atlas=_data(tmp_path, "few")
        )


def _data(root: Path, name: str) -> Path:
    prepare("brain_mri", root / name, root / f"{name}-data")
    return root / f"{name}-data"


def test_sessions_of_one_patient_are_one_patient(tmp_path):
    raw, made = tmp_path / "raw", tmp_path / "maps"
    for seed, (patient, session) in enumerate((("01", "a"), ("01", "b"), ("02", "a"))):
        image, lesion = head(seed)
        like, name = volume(image), f"sub-{patient}_ses-{session}"
        nifti.save(raw / f"sub-{patient}" / f"{name}_FLAIR.nii.gz", image, like, "acquired")
        nifti.save(raw / f"sub-{patient}" / f"{name}_desc-lesion_mask.nii.gz", lesion, like, "mask")
        nifti.save(made / f"sub-{patient}ses{session}_desc-anomaly_FLAIR.nii.gz", lesion, like, "map")
    result = evaluate_anomaly(raw, made, resamples=20)
    assert (result.protocol["patients"], result.protocol["scans"]) == (2, 3)
    assert list(result.reports["anomaly map"].regions["head"].patient_average_precision) == ["01", "02"]
    # A model that saw one session saw the patient.
    seen = evaluate_anomaly(raw, made, only=["01sesb"], model=model(tmp_path / "model", "01sesa"), resamples=20)
    assert "trained on 1 of these 1 patient (" in seen.warnings[0] and "One patient" in seen.warnings[1]


def test_maps_beside_one_another_need_names_and_scans_of_their_own(raw, perfect, tmp_path):
    few = maps(tmp_path / "few", ("Ann",))
    for beside, words in (({"control": few}, "lacks Ben, Cid"), ({"FLAIR intensity": perfect}, "names of their own")):
        with pytest.raises(Error, match=words):
            evaluate_anomaly(raw, perfect, beside=beside)


# Training, validation and what may be claimed


def test_a_model_that_saw_the_patients_is_warned_of(raw, tmp_path):
    told, unseen = model(tmp_path / "told", saw="Ben"), model(tmp_path / "unseen", saw="Nobody", weights=b"other")
    mark = {"Path": str(told), "SHA256": fingerprint(told)[:16]}
    result = evaluate_anomaly(raw, maps(tmp_path / "by-it", Model=mark), out=tmp_path / "out", resamples=20)
    assert len(result.warnings) == 1 and "1 of these 3 patients (Ben)" in result.warnings[0]
    assert "WARNING: The model that made these maps was trained on" in str(result)
    assert "was trained on 1 of these 3" in (tmp_path / "out" / "report.html").read_text()
    # The fingerprint decides who made a map; where there is none, the model that is named.
    assert not evaluate_anomaly(
        raw, maps(tmp_path / "by-other", Model={"SHA256": "0" * 16}), model=told, resamples=20
    ).warnings
    plain = maps(tmp_path / "plain")
    assert evaluate_anomaly(raw, plain, model=told, resamples=20).warnings
    clean = evaluate_anomaly(raw, plain, model=unseen, resamples=20)
    assert not clean.warnings and "none of these patients" in clean.protocol["split"]
    write_meta(unseen, read_meta(unseen) | {"parts": {"denoiser": {}}})
    assert "not checked" in evaluate_anomaly(raw, plain, model=unseen, resamples=20).protocol["split"]
    assert not evaluate_anomaly(raw, plain, model=told, only=["Ann", "Cid"], resamples=20).warnings


SIX = (*PATIENTS, "Dot", "Eve", "Fay")


def test_calibration_is_written_and_keeps_what_was_there(tmp_path):
    raw, shipped = scans(tmp_path / "raw", SIX), model(tmp_path / "model", saw="Nobody", maps={"smooth": 6.0}, other=1)
    before = read_meta(shipped)
    made = maps(tmp_path / "maps", SIX, PostProcessing=asdict(MapSettings(smooth=6.0)))
    evaluate_anomaly(raw, made, calibrate=shipped, out=tmp_path / "out", resamples=20)
    after = read_meta(shipped)
    own = after.pop("calibration")
    assert after == {key: value for key, value in before.items() if key != "calibration"}
    assert own["maps"] == {"smooth": 6.0} and own["other"] == 1
    assert own["threshold"] == pytest.approx(0.5) and own["classifier_auroc"] == 1
    assert own["threshold_origin"] == "best pooled Dice in the head of 6 validation patients"
    novelty = -2 + 0.1 * np.arange(6)
    assert own["novelty_limit"] == pytest.approx(novelty.max() + 3 * novelty.std(ddof=1))
    assert own["threshold"] in json.loads((tmp_path / "out" / "metrics.json").read_text())["calibration"].values()
    # Maps that are thresholded there may not call it tuned on other patients when it was chosen on these.
    for path in made.glob("*_mask.json"):
        path.write_text(json.dumps({"Threshold": own["threshold"], "ThresholdOrigin": own["threshold_origin"]}))
    again = evaluate_anomaly(raw, made, model=shipped, resamples=20)
    assert "chosen on 6 of these 6" in again.warnings[0] and "Validation-tuned" not in str(again)


def test_a_limit_of_novelty_needs_five_scans(raw, perfect, tmp_path):
    result = evaluate_anomaly(raw, perfect, calibrate=(target := model(tmp_path / "model")), resamples=20)
    assert read_meta(target)["calibration"]["novelty_limit"] is None
    assert any("novelty" in note for note in result.notes)


def test_calibration_refuses_patients_that_were_trained_on(raw, tmp_path):
    shipped = model(tmp_path / "model", saw="Cid")
    before = (shipped / "model.json").read_bytes()
    own = {"SHA256": fingerprint(shipped)[:16]}
    for number, mark in enumerate((None, own)):
        with pytest.raises(Error, match="has not seen; 1 of these 3") as refusal:
            evaluate_anomaly(raw, maps(tmp_path / f"maps{number}", Model=mark), calibrate=shipped, out=tmp_path / "out")
        assert "\n" not in str(refusal.value)
    assert (shipped / "model.json").read_bytes() == before and not (tmp_path / "out").exists()
    evaluate_anomaly(raw, tmp_path / "maps0", calibrate=shipped, only=["Ann", "Ben"], resamples=20)
    assert "2 validation patients" in read_meta(shipped)["calibration"]["threshold_origin"]


@pytest.mark.parametrize(
    ("saw", "words"),
    [("Nobody", "of a model trained on other patients of the same data"), (None, "not known here"), ("Ben", "")],
)
def test_models_of_other_folds_calibrate_the_shipped_one(raw, tmp_path, saw, words):
    shipped = model(tmp_path / "model", saw="Ben")
    fold = model(tmp_path / "fold", saw=saw or "", weights=b"fold")
    mark = {"SHA256": fingerprint(fold)[:16]} | ({"Path": str(fold)} if saw else {})
    made = maps(tmp_path / "maps", Model=mark)
    if not words:
        with pytest.raises(Error, match="has not seen"):
            evaluate_anomaly(raw, made, calibrate=shipped)
        return
    result = evaluate_anomaly(raw, made, calibrate=shipped, resamples=20)
    assert words in read_meta(shipped)["calibration"]["threshold_origin"] and not result.warnings


def test_a_threshold_of_other_post_processing_is_refused(raw, tmp_path):
    shipped = model(tmp_path / "model", maps={"smooth": 6.0})
    with pytest.raises(Error, match=r"smooth is 8\.0"):
        evaluate_anomaly(raw, maps(tmp_path / "maps", PostProcessing={"smooth": 8.0}), calibrate=shipped)


def test_other_inputs_are_refused_in_one_line(raw, perfect, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = (
        ((raw, tmp_path / "empty"), {}, "sub-<label>"),
        ((raw, tmp_path / "absent"), {}, "none"),
        ((tmp_path / "absent", perfect), {}, "does not exist"),
        ((raw, perfect), {"calibrate": tmp_path / "empty"}, r"model\.json"),
        ((raw, perfect), {"atlas": tmp_path / "empty"}, r"manifest\.jsonl"),
    )
    for arguments, more, words in cases:
        with pytest.raises(Error, match=words) as refusal:
            evaluate_anomaly(*arguments, **more)
        assert "\n" not in str(refusal.value)


def test_progress_is_told(raw, perfect):
    told: list[tuple[str, int, int]] = []
    evaluate_anomaly(raw, perfect, resamples=20, watch=lambda *each: told.append(each))
    assert told == [("reading", k, 3) for k in (1, 2, 3)] + [("measuring", k, 5) for k in range(1, 6)]


def test_slice_labels_follow_the_display(tmp_path):
    """Slices are stored from the top downwards here, and slices.csv counts as they are stored."""
    (tmp_path / "slices.csv").write_text("patient,slice,label\nA_n,0,lesion\nA_n,1,no_lesion\n")
    scan = nifti.Volume(np.zeros((4, 5, 3), np.float32), np.diag([1.0, 1, -1, 1]), Path("An"), "An", "FLAIR")
    assert np.array_equal(brain_mri.slice_labels(tmp_path, scan), [np.nan, 0, 1], equal_nan=True)
