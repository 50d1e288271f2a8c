"""The command line as a user meets it, in processes of its own: help, the whole way from raw files to maps, mistakes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import heads
import nibabel
import numpy as np
import pytest

VERBS = (
    "prepare", "train", "generate", "edit", "counterfactual", "evaluate", "audit", "export", "methods", "demo", "doctor",
)  # fmt: skip


def diffgraft(*words: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`diffgraft words ...` on one thread, in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "diffgraft.cli.main", *map(str, words)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def worked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    assert re.search(rf"Example: diffgraft {verb}\b", worked(diffgraft(verb, "--help")))


def test_all_verbs_are_tested():
    listed = re.findall(r"^  ([a-z]+) {2,}", worked(diffgraft("--help")).partition("Commands")[2], re.M)
    assert set(VERBS) <= set(listed)
    for verb in set(listed) - set(VERBS):
        assert "Example: " in worked(diffgraft(verb, "--help"))


def test_doctor_says_what_is_missing():
    assert "numpy" not in worked(diffgraft("doctor")) and "torch" in worked(diffgraft("doctor"))


@pytest.fixture(scope="module")
def files(tmp_path_factory, model) -> dict[str, Path]:
    """What the words SCAN, MODEL, TEXT ... of a command below stand for."""
    root = tmp_path_factory.mktemp("files")
    (root / "notes.txt").write_text("not a scan")
    (root / "fake_flair.nii.gz").write_text("not a scan either")
    (root / "full").mkdir()
    (root / "full" / "thesis").touch()
    return {
        "FILMS": Path(__file__).resolve().parents[1] / "models" / "chest_xray",
        "SCAN": heads.save(root / "a_flair.nii.gz", heads.head()[0]), "MODEL": model, "TEXT": root / "notes.txt",
        "FAKE": root / "fake_flair.nii.gz", "FULL": root / "full", "NOWHERE": root / "nowhere", "EMPTY": root / "nothing",
    }  # fmt: skip


MISTAKES = {
    "generate MODEL OUT --each position": "a label with named values, lesion",
    "generate MODEL OUT --balance lesion": "--like DATA",
    "generate MODEL OUT --like NOWHERE": "has none",
    "generate MODEL OUT --format folders": "folders need classes",
    "edit MODEL NOWHERE OUT": "does not exist",
    "edit MODEL SCAN OUT --procedure magic": "sdedit, inpaint, invert, dafusion",
    "train plant_disease NOWHERE OUT --part embedding": "--from MODEL",
    "counterfactual MODEL NOWHERE OUT": "does not exist",
    "counterfactual MODEL TEXT OUT": "ends in .nii or .nii.gz",
    "counterfactual NOWHERE SCAN OUT": "has none. Train one",
    "counterfactual MODEL SCAN OUT --target young": "found 'young'",
    "counterfactual MODEL SCAN OUT --strength 0": "in (0, 1]; found 0",
    "counterfactual MODEL SCAN OUT --strength 2": "in (0, 1]; found 2",
    "counterfactual MODEL SCAN OUT --strength high": "--strength",
    "counterfactual MODEL SCAN OUT --steps 0": "2 steps or more",
    "counterfactual MODEL SCAN OUT --sampler magic": "found 'magic'",
    "counterfactual MODEL SCAN OUT --sampler euler_ancestral": "needs a deterministic sampler",
    "counterfactual MODEL SCAN OUT --quality superb": "'superb' is not one of",
    "counterfactual MODEL SCAN OUT --threshold nan": "threshold of the map",
    "counterfactual MODEL SCAN FULL": "--overwrite",
    "counterfactual MODEL SCAN FULL --overwrite": "Only a folder that diffgraft wrote",
    "counterfactual MODEL SCAN TEXT/out": "Not a directory",
    "counterfactual MODEL SCAN": "Missing argument",
    "prepare brain_mri NOWHERE OUT": "does not exist",
    "prepare abdomen_ct SCAN OUT": "found 'abdomen_ct'",
    "prepare brain_mri FULL OUT": "'FULL' holds none",
    "export NOWHERE": "has none. Train one",
    "export FILMS --to diffusers": "needs a new one",
    "export FILMS --to coreml": "openvino or diffusers",
    "generate FILMS OUT --student --steps 8": "A student has its own steps",
    "generate MODEL OUT --student": "no few-step student. Make one: diffgraft distill",
    "distill MODEL OUT": "Name them: --like DATA",
    "distill FILMS OUT --objective magic": "one of leap, consistency; found 'magic'",
    "export MODEL --to openvino --precision fp16": "in fp32, bf16, int8; found 'fp16'",
    "export MODEL --fuse whole": "none, step, sampler; found 'whole'",
    "export FILMS OUT --to diffusers --precision fp16": "Leave --precision and --fuse out",
    "counterfactual FILMS SCAN OUT": "scans with a healthy class",
    "generate FILMS OUT --format folders": "folders need classes",
    "generate FILMS OUT --set finding=effusion": "one of view, sex, age",
    "generate FILMS OUT --set text=a --set text=b": "given once",
    "generate FILMS OUT --prompts NOWHERE": "text file in UTF-8",
    "generate FILMS OUT --prompts TEXT --each view": "Prompts are the texts",
    "generate MODEL OUT --format dicom": "dicom and dx films",
    "edit FILMS SCAN OUT --set text=effusion --region whole": "DICM at byte 128",
    "invent": "No such command 'invent'",
}


def mistaken(command: str, words: str, files: dict[str, Path], folder: Path) -> None:
    """The command fails with one line, and what it was to write is not there."""

    def place(word: str) -> str:
        head, slash, tail = word.partition("/")
        return str(files.get(head, head)) + slash + tail

    before = sorted(files["SCAN"].parent.rglob("*"))
    done = diffgraft(*map(place, command.split()), folder=folder)
    for name, path in files.items():
        words = words.replace(f"'{name}'", f"'{path}'")
    assert done.returncode == (2 if "See: diffgraft" in done.stderr else 1), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("diffgraft: ")
    assert words in done.stderr
    assert list(folder.iterdir()) == []
    assert sorted(files["SCAN"].parent.rglob("*")) == before


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(command, files, tmp_path):
    mistaken(command, MISTAKES[command], files, tmp_path)


SLOW_MISTAKES = {
    "generate MODEL OUT --each position": "a label with named values, lesion",
    "generate MODEL OUT --balance lesion": "--like DATA",
    "generate MODEL OUT --like NOWHERE": "has none",
    "generate MODEL OUT --format folders": "folders need classes",
    "edit MODEL NOWHERE OUT": "does not exist",
    "edit MODEL SCAN OUT --procedure magic": "sdedit, inpaint, invert, dafusion",
    "train plant_disease NOWHERE OUT --part embedding": "--from MODEL",
    "train abdomen_ct FULL OUT": "found 'abdomen_ct'",
    "train brain_mri NOWHERE OUT": "diffgraft prepare",
    "train brain_mri FULL OUT --part codec": "no part 'codec'",
    "train brain_mri FULL OUT --steps 0": "steps = 0",
    "counterfactual MODEL FAKE OUT --backend torch": "has no NIfTI header",
    "counterfactual MODEL SCAN OUT --backend onnx": "diffgraft export",
    "counterfactual MODEL SCAN OUT --backend torch --classifier-guidance 1": "AUROC of 0.8 or more",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW_MISTAKES)
def test_a_mistake_that_torch_has_to_be_loaded_for(command, files, tmp_path):
    mistaken(command, SLOW_MISTAKES[command], files, tmp_path)


@pytest.mark.slow
def test_from_raw_files_to_maps(raw, tmp_path):
    shown = worked(diffgraft("prepare", "brain_mri", raw, "data", folder=tmp_path))
    assert "6 patients in data" in shown
    next_command = re.search(r"^next: diffgraft (train .*)$", shown, re.M)
    assert next_command
    for part in ("denoiser", "classifier"):
        words = [*next_command[1].split(), "--part", part, "--steps", 2, "--batch", 2]
        shown = worked(diffgraft(*words, folder=tmp_path))
        report = re.search(r"report (\S+report\.html)", shown)
        assert report and "Research use only" in (tmp_path / report[1]).read_text()
    words = [
        "counterfactual",
        "models/mine",
        raw / "P01_flair.nii.gz",
        "out",
        "--backend",
        "torch",
        "--quality",
        "fast",
    ]
    shown = worked(diffgraft(*words, folder=tmp_path))
    assert "start sigma 3.4" in shown and "report out/report.html" in shown and "not a medical device" in shown
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    stems = ("desc-healthycf_FLAIR", "desc-anomaly_FLAIR", "desc-anomaly_mask")
    assert names == {
        *(f"sub-P01/anat/sub-P01_{stem}{end}" for stem in stems for end in (".nii.gz", ".json")),
        "manifest.jsonl", "dataset_description.json", ".bidsignore", "report.html", "request.json",
    }  # fmt: skip
    result = tmp_path / "out" / "sub-P01" / "anat" / f"sub-P01_{stems[1]}.nii.gz"
    source, made = (nibabel.load(path) for path in (raw / "P01_flair.nii.gz", result))
    assert made.shape == source.shape and np.abs(made.affine - source.affine).max() < 1e-3
    settings = json.loads(result.with_name(f"sub-P01_{stems[1]}.json").read_text())["Settings"]
    assert (settings["target"], settings["sampler"]) == ("healthy", "euler")
