"""`diffgraft replay OUT NEW`: a result made again from its record, and what is said where the files are not the same."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import BRAIN, PLANT, answer, diffgraft
from PIL import Image

import diffgraft as library
from diffgraft.cli.comparison import DIFFERENT, EXTRA, MISSING, SAME, SAME_APART, compare
from toolkit.example import Error

SCAN = BRAIN / "sample" / "sub-demo_FLAIR.nii.gz"


@pytest.fixture(scope="module")
def leaves(tmp_path_factory) -> Path:
    """Leaves of every condition, two steps each."""
    out = tmp_path_factory.mktemp("made") / "leaves"
    diffgraft("generate", PLANT, out, "-n", 1, "--steps", 2, "--each", "condition")
    return out


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Class folders of photographs, one of which is broken."""
    for number, name in enumerate(("Coffee___healthy/1.jpg", "Coffee___rust/2.jpg", "Coffee___rust/3.jpg")):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (128, 64), (20, 160, 40 * number)).save(path)
    (tmp_path / "photographs" / "Coffee___rust" / "4.jpg").write_bytes(b"no picture")
    return tmp_path / "photographs"


def same(out: Path, new: Path) -> dict[str, str]:
    """Replay and expect nothing but the same bytes, apart from what has a time or a path in it."""
    found = answer("replay", out, new)["figures"]["files"]
    apart = {name for name, verdict in found.items() if verdict != SAME}
    assert {found[name] for name in apart} <= {SAME_APART}
    assert all(Path(name).suffix in (".json", ".html") for name in apart) and "request.json" in apart
    assert len(found) > len(apart)
    return found


def test_generate_is_the_same_again(leaves, tmp_path):
    found = same(leaves, tmp_path / "again")
    assert found["report.html"] == SAME_APART
    assert found["dataset.json"] in (SAME, SAME_APART)  # it states the seconds, which two runs may share
    assert sum(name.startswith("images/") for name in found) >= 2
    shown = diffgraft("replay", leaves, tmp_path / "third").stdout
    assert re.search(r"same apart from times and paths: .*report\.html\n", shown)
    assert f"{len(found)} files of generate: " in shown and "the same bytes" in shown and DIFFERENT not in shown


def test_edit_is_the_same_again(leaves, tmp_path):
    words = ["--set", "condition=rust", "--where", "condition=healthy", "--steps", 2]
    diffgraft("edit", PLANT, leaves, tmp_path / "rust", *words, "-n", 1)
    same(tmp_path / "rust", tmp_path / "again")


def test_prepare_is_the_same_again_its_quarantine_too(photographs, tmp_path):
    diffgraft("prepare", "plant_disease", photographs, tmp_path / "data", code=3)
    assert same(tmp_path / "data", tmp_path / "again")["quarantine.jsonl"] == SAME


def test_counterfactual_is_the_same_again(tmp_path):
    words = ["--quality", "fast", "--strength", 0.3, "--steps", 2, "--force"]
    diffgraft("counterfactual", BRAIN, SCAN, tmp_path / "maps", *words)
    found = same(tmp_path / "maps", tmp_path / "again")
    assert sum(name.endswith(".nii.gz") for name in found) == 3


def test_evaluate_is_the_same_again(leaves, tmp_path):
    done = diffgraft("audit", leaves, leaves, "--model", PLANT, "--out", tmp_path / "audit", code=None)
    if done.returncode == 0:
        same(tmp_path / "audit", tmp_path / "again")


def test_what_differs_is_named_and_is_an_exit_code(leaves, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(leaves, changed)
    first = min((changed / "images").rglob("*.png"))
    picture = Image.open(first).copy()
    picture.putpixel((0, 0), (255, 0, 255))
    picture.save(first)
    about = json.loads((changed / "dataset.json").read_text())
    (changed / "dataset.json").write_text(json.dumps(about | {"seconds": 1e6}))
    (changed / "manifest.jsonl").write_text((changed / "manifest.jsonl").read_text().replace("healthy", "rusty"))
    (changed / "notes.txt").write_text("mine")
    (changed / "labels.csv").unlink()
    done = diffgraft("replay", changed, tmp_path / "new", code=1)
    assert done.stderr.count("diffgraft: ") == 0  # it was measured, not refused
    lines = set(done.stdout.splitlines())
    assert {
        f"different: {first.relative_to(changed)}", "different: manifest.jsonl", "missing: notes.txt", "not in the first: labels.csv",
        "same apart from times and paths: dataset.json",
    } <= lines  # fmt: skip
    assert answer("replay", changed, tmp_path / "other", code=1)["status"] == "refused"


def test_a_model_that_is_gone_is_refused_and_one_that_changed_is_said(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(PLANT, model)
    diffgraft("generate", model, tmp_path / "out", "-n", 1, "--steps", 2)
    record = json.loads((tmp_path / "out" / "request.json").read_text())
    (tmp_path / "out" / "request.json").write_text(json.dumps(record | {"model": "0" * 64, "diffgraft": "0.0.1"}))
    shown = diffgraft("replay", tmp_path / "out", tmp_path / "new", code=1).stdout
    assert f"the model {model} has changed: 0000000000000000 then, {record['model'][:16]} now" in shown
    assert f"made by diffgraft 0.0.1, replayed by {library.__version__}" in shown
    assert "different: request.json" in shown
    shutil.rmtree(model)
    gone = diffgraft("replay", tmp_path / "out", tmp_path / "more", code=1)
    assert f"was made from {model}, which is not there" in gone.stderr and len(gone.stderr.splitlines()) == 1
    assert not (tmp_path / "more").exists()


def test_what_cannot_be_replayed_is_refused(leaves, tmp_path):
    with pytest.raises(Error, match=r"has none\. Name the folder that a verb wrote"):
        library.replay(tmp_path, tmp_path / "new")
    with pytest.raises(Error, match="A replay writes a new folder"):
        library.replay(leaves, leaves)
    (tmp_path / "request.json").write_text('{"verb": "magic", "request": {}, "model": "", "diffgraft": "1"}')
    with pytest.raises(Error, match=r"that of .* is 'magic'"):
        library.replay(tmp_path, tmp_path / "new")
    (tmp_path / "request.json").write_text('{"verb": "generate"}')
    with pytest.raises(Error, match="is not the record of a run"):
        library.replay(tmp_path, tmp_path / "new")
    record = {"verb": "export", "request": {"model": str(PLANT)}, "model": "", "diffgraft": library.__version__}
    (tmp_path / "request.json").write_text(json.dumps(record))
    with pytest.raises(Error, match="wrote into the model"):
        library.replay(tmp_path, tmp_path / "new")
    record = {"verb": "train", "request": {}, "model": "", "diffgraft": library.__version__}
    (tmp_path / "request.json").write_text(json.dumps(record))
    with pytest.raises(Error, match="training of one part"):
        library.replay(tmp_path, tmp_path / "new")


def test_python_callers_get_the_verdict_of_every_file(leaves, tmp_path):
    told, watched = [], []
    found = library.replay(leaves, tmp_path / "new", tell=told.append, watch=lambda *step: watched.append(step))
    assert found.is_same and found.verb == "generate" and watched and told == []
    assert found.files == compare(leaves, tmp_path / "new")


@pytest.mark.slow
def test_a_training_is_made_again(data, tmp_path):
    words = ["--steps", 2, "--batch", 2]
    diffgraft("train", "brain_mri", data, tmp_path / "model", *words)
    found = library.replay(tmp_path / "model", tmp_path / "again")
    assert found.verb == "train" and set(found.files.values()) <= {SAME, SAME_APART, DIFFERENT}
    assert (tmp_path / "again" / "model.json").is_file()


# -------------------------------------------------------------------------------------------------------- comparison


COMMAND = '<div class="block"><pre class="command">{}</pre></div>'
REPORT = (
    "{command}<dl><dt>Written</dt><dd>{time}</dd><dt>Seed</dt><dd>{seed}</dd></dl><p>in {out}</p>"
    "<table><thead><tr><th>scan</th><th>seconds</th><th>volume</th></tr></thead>"
    "<tbody><tr><td>{scan}</td><td>{seconds}</td><td>3.0</td></tr></tbody></table>"
)
FACTS = {"command": COMMAND.format("a"), "time": "today", "seed": 0, "scan": "x", "seconds": 4}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, SAME_APART), ({"command": ""}, SAME_APART), ({"seconds": 5}, SAME_APART),
        ({"command": COMMAND.format("b"), "time": "tomorrow"}, SAME_APART),
        ({"seed": 1}, DIFFERENT), ({"scan": "y"}, DIFFERENT),
    ],
)  # fmt: skip
def test_a_report_is_compared_apart_from_its_times(change, verdict, tmp_path):
    for name, facts in (("a", FACTS), ("b", FACTS | change)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text(REPORT.format(**facts, out=tmp_path / name))
    assert compare(tmp_path / "a", tmp_path / "b") == {"report.html": verdict}


def test_files_of_either_folder_are_told(tmp_path):
    for name, files in (
        ("a", {"x.png": "1", "y.json": '{"seconds": 1}', "z/only": ""}),
        ("b", {"x.png": "2", "y.json": '{"seconds": 2}', "new": ""}),
    ):
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(content)
    assert compare(tmp_path / "a", tmp_path / "b") == {
        "x.png": DIFFERENT, "y.json": SAME_APART, "z/only": MISSING, "new": EXTRA,
    }  # fmt: skip


def test_json_that_says_something_else_differs(tmp_path):
    for name, content in (("a", '{"n": 1}\n{"n": 2}\n'), ("b", '{"n": 1}\n{"n": 3}\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lines.jsonl").write_text(content)
        (tmp_path / name / "broken.json").write_text(content + name)
    assert set(compare(tmp_path / "a", tmp_path / "b").values()) == {DIFFERENT}
