"""`evaluate REAL FAKE --task classify`: what is refused, what is counted, what is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffgraft.evaluation import data
from diffgraft.evaluation.alignment import alignment
from diffgraft.evaluation.classify import classify
from diffgraft.evaluation.experiment import REAL_ARMS, arms
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import read_real
from toolkit.data import dataset
from toolkit.evaluation.split import few_shot
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.models.folder import hash_id

LABELS = {"crop": ["coffee"], "severity": [0, 4], "class": ["Coffee___healthy", "Coffee___phoma", "Coffee___rust"]}
MADE = Provenance("synthetic", "0123abcd", "generate", 0)


def leaf(name: str, kind: int, seed: int, **more) -> Example:
    """A leaf whose colour is its class."""
    random = np.random.default_rng(seed)
    image = random.normal(0, 0.2, (3, 16, 24)) + 0.4 * np.eye(3)[kind][:, None, None]
    labels = {"crop": 0, "severity": seed // 3 % 3, "class": kind} | more.pop("labels", {})
    return Example(name, image.clip(-1, 1).astype(np.float32), Annotation(labels=labels), name, **more)


LEAVES = [leaf(f"leaf{n:02}", n % 3, n) for n in range(48)]


def write(root: Path, examples: list[Example], labels=LABELS, **facts) -> Path:
    dataset.write(examples, root, domain="plant_disease", labels=labels, **facts)
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("real") / "data", LEAVES)


def fake(root: Path, count: int = 6, labels=LABELS, provenance=MADE, **facts) -> Path:
    examples = [leaf(f"made{n}", n % 3, 100 + n, provenance=provenance) for n in range(count)]
    return write(root, examples, labels, **facts)


def held_out_ids(real: Path) -> list[str]:
    return [e.id for e in read_real(real, "class", 0).test]


def pool(real: Path, root: Path, **more):
    return families(read_real(real, "class", 0), root, {}, **more)[0]


# What is refused


def test_a_generator_that_saw_a_test_sample_is_refused(real, tmp_path):
    tested, own = held_out_ids(real), [e.id for e in few_shot(LEAVES, "class", 0, 0, 0)]
    good = fake(tmp_path / "good", trained_on=[hash_id(name) for name in own])
    assert pool(real, good).at(5, 0).seen == set(own)
    bad = fake(tmp_path / "bad", trained_on=[hash_id(name) for name in own + tested[:2]])
    with pytest.raises(Error, match=f"trained on 2 of the {len(tested)} held-out"):
        pool(real, bad)
    pool(real, bad, tested=False)  # the classifier of an alignment is trained on real samples alone


def test_a_sample_made_from_a_test_sample_is_refused(real, tmp_path):
    made = Provenance("edited", "m", "sdedit", source=held_out_ids(real)[0])
    with pytest.raises(Error, match="made from 1 of the"):
        pool(real, fake(tmp_path / "edited", provenance=made, trained_on=[]))


def test_the_model_says_it_where_fake_does_not(real, tmp_path):
    meta = {"spec": {"shape": [3, 16, 24], "fields": {}}, "parts": {"denoiser": {"run": {"trained_on": []}}}}
    meta["parts"]["denoiser"]["run"]["trained_on"] = [hash_id(held_out_ids(real)[0])]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text(json.dumps(meta))
    (tmp_path / "model" / "denoiser.safetensors").write_bytes(b"weights")
    made = fake(tmp_path / "made")
    assert pool(real, made).at(0, 0).seen is None
    with pytest.raises(Error, match="trained on 1 of the"):
        pool(real, made, model=tmp_path / "model")
    with pytest.raises(Error, match="was made by the model 0123abcd"):
        pool(real, fake(tmp_path / "other", model="0123abcd"), model=tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"provenance": None}, "synthetic samples only"),
        ({"count": 2}, "no Coffee___rust"),
        ({"labels": LABELS | {"class": ["Coffee___healthy", "Coffee___phoma", "Tea___rust"]}}, "Tea___rust"),
    ],
)
def test_a_pool_that_cannot_be_used_is_refused(real, tmp_path, change, words):
    with pytest.raises(Error, match=words):
        pool(real, fake(tmp_path / "made", **change))


def test_a_question_that_cannot_be_answered_is_refused(real, tmp_path):
    for label, fold, words in (("severity", 0, "two classes or more"), ("crop", 0, "--label"), ("class", 9, "0 to 3")):
        with pytest.raises(Error, match=words):
            read_real(real, label, fold)
    with pytest.raises(Error, match="real samples only"):
        read_real(write(tmp_path / "mixed", [*LEAVES, leaf("made", 0, 1, provenance=MADE)]), "class", 0)
    with pytest.raises(Error, match="neither"):
        pool(real, tmp_path)
    for change in ({"seeds": 0}, {"steps": 0}, {"shots": [-1]}):
        with pytest.raises(Error, match="one seed"):
            classify(real, tmp_path, **change)
    with pytest.raises(Error, match="names of their own"):
        classify(real, tmp_path, beside={"synthetic": tmp_path})
    with pytest.raises(Error, match="share one shape"):
        small = [Example("a", np.zeros((3, 8, 8), np.float32), Annotation(labels={"class": 0}), provenance=MADE)]
        pool(real, write(tmp_path / "small", small))


# Few shots


def few_shot_folder(root: Path, shots=(2, 3), seeds=(0, 1), extra: tuple[str, ...] = ()) -> Path:
    for k in shots:
        for seed in seeds:
            own = [e.id for e in few_shot(LEAVES, "class", k, seed, 0)]
            fake(root / f"k{k}-s{seed}", trained_on=[hash_id(name) for name in (*own, *extra)])
    return root


def test_a_few_shot_generator_sees_the_samples_that_the_classifier_sees(real, tmp_path):
    split = read_real(real, "class", 0)
    found = pool(real, few_shot_folder(tmp_path / "few", extra=("another crop",)))
    assert found.at(2, 1).seen == {e.id for e in split.training(2, 1)}
    assert found.generator(split, 2, [0, 1]) == "few-shot generator"
    assert found.at(7, 0) is None


def test_a_few_shot_generator_that_saw_more_is_refused(real, tmp_path):
    more = next(e.id for e in few_shot(LEAVES, "class", 0, 0, 0) if e not in few_shot(LEAVES, "class", 3, 0, 0))
    with pytest.raises(Error, match=r"saw \d other\(s\)"):
        pool(real, few_shot_folder(tmp_path / "few", extra=(more,)))


def test_a_generator_is_called_by_what_it_saw(real, tmp_path):
    split = read_real(real, "class", 0)
    full = pool(real, fake(tmp_path / "full", trained_on=[hash_id(e.id) for e in split.training(0, 0)]))
    assert full.generator(split, 2, [0, 1]) == "full-data generator"
    few = pool(real, fake(tmp_path / "few", trained_on=[hash_id(e.id) for e in split.training(2, 0)]))
    assert few.generator(split, 2, [0]) == "few-shot generator"
    assert few.generator(split, 2, [0, 1]) == "full-data generator"  # of seed 1 it has seen other leaves
    assert "not stated" in pool(real, fake(tmp_path / "silent")).generator(split, 2, [0])


def test_a_family_that_lacks_a_seed_or_every_shot_is_refused(real, tmp_path):
    root = few_shot_folder(tmp_path / "few")
    with pytest.raises(Error, match="lacks k2-s2"):
        classify(real, root, shots=[2], seeds=3)
    with pytest.raises(Error, match=r"\[5\]"):
        classify(real, root, shots=[5], seeds=1)


def test_labels_are_matched_by_name(real, tmp_path):
    other = {"class": ["Coffee___rust", "Coffee___healthy", "Coffee___phoma"]}
    found = pool(real, fake(tmp_path / "made", labels=other)).at(0, 0)
    assert [e.annotation.labels["class"] for e in found.examples][:3] == [2, 0, 1]


# The whole


@pytest.fixture(scope="module")
def result(real, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    few = few_shot_folder(root / "few", shots=(2,))
    full = fake(root / "full", trained_on=[], seconds=12.5)
    watched: list[tuple[str, int, int]] = []
    found = classify(
        real, few, beside={"other": full}, shots=[0, 2], seeds=2, steps=2, out=root / "report", command="diffgraft evaluate",
        watch=lambda *at: watched.append(at),
    )  # fmt: skip
    return found, root / "report", watched


def test_every_arm_stands_beside_the_trivial_baselines(result):
    found, _, watched = result
    names = [arm.name for arm in REAL_ARMS]
    trivial = ["random forest", "majority class"]
    assert [r.arm for r in found.rows if r.shots == 2] == [
        *names, *(a.name for a in arms("synthetic")), *(a.name for a in arms("other")), *trivial,
    ]  # fmt: skip
    assert [r.arm for r in found.rows if not r.shots] == [*names, *(a.name for a in arms("other")), *trivial]
    assert any("no pool for all" in each for each in found.warnings)
    trainings = 2 * (12 + 8)
    assert [at for _, at, _ in watched] == list(range(1, 2 * trainings + 1))
    assert {of for *_, of in watched} == {2 * trainings}


def test_gains_are_over_the_classical_arm_and_costs_over_the_real_one(result):
    rows = {(r.shots, r.arm): r for r in result[0].rows}
    reference = rows[2, "real + classical"]
    assert reference.gain is None and rows[2, "real"].overhead == 0
    for row in rows.values():
        if row.gain is not None:
            base = rows[row.shots, "real + classical"].balanced.value
            assert row.gain.value == pytest.approx(row.balanced.value - base)
            assert row.gain.low <= row.gain.value <= row.gain.high
    assert rows[2, "50 % other"].generation == 12.5 and rows[2, "50 % synthetic"].generation is None
    assert rows[2, "50 % synthetic"].generator == rows[2, "only other"].generator == "few-shot generator"
    assert rows[2, "majority class"].balanced.value == pytest.approx(1 / 3)
    assert rows[2, "random forest"].balanced.value > 0.8
    assert set(reference.strata) == {"severity"} and set(reference.strata["severity"]) <= {"0", "1", "2"}


def test_what_is_written(result):
    found, root, _ = result
    numbers = json.loads((root / "metrics.json").read_text())
    assert len(numbers["rows"]) == len(found.rows) and numbers["protocol"]["seeds"] == 2
    page = (root / "report.html").read_text()
    for words in (
        "Gain over real + classical",
        "few-shot generator",
        "Coffee___rust",
        "majority class",
        "fold 0",
        "Overhead",
    ):
        assert words in page
    assert "only other" in str(found) and "[" in str(found)


def test_alignment_tells_right_labels_from_wrong_ones(real, tmp_path):
    right = fake(tmp_path / "right", count=18)
    wrong = {"class": ["Coffee___phoma", "Coffee___rust", "Coffee___healthy"]}
    fake(tmp_path / "wrong", count=18, labels=wrong)
    found = alignment(
        real, right, beside={"wrong": tmp_path / "wrong"}, seeds=1, steps=40, out=tmp_path / "report",
    )  # fmt: skip
    assert found.balanced["held-out real"].value > 0.8
    assert found.balanced["synthetic"].value > 0.8 > 0.2 > found.balanced["wrong"].value
    assert "chance 0.33" in str(found) and "Named rightly" in (tmp_path / "report" / "report.html").read_text()
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["names"] == list(LABELS["class"])


@pytest.mark.slow
def test_the_command_line_refuses_in_one_line_and_writes_a_report(real, tmp_path):
    bad = fake(tmp_path / "bad", trained_on=[hash_id(held_out_ids(real)[0])])
    good = fake(tmp_path / "good", trained_on=[])
    command = [sys.executable, "-m", "diffgraft.cli.main", "evaluate", "classify", str(real)]
    words = ["--shots", "2", "--seeds", "1", "--steps", "1", "--out", str(tmp_path / "out")]
    refused = subprocess.run([*command, str(bad), *words], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "held-out" in refused.stderr
    assert not (tmp_path / "out").exists()
    done = subprocess.run([*command, str(good), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pretrained on synthetic" in done.stdout and "next: diffgraft evaluate" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "metrics.json", "request.json"}


def test_pools_are_read_without_torch():
    code = "import sys, diffgraft.evaluation.pools, toolkit.evaluation.split, toolkit.methods.mixing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert data.SYNTHETIC == "synthetic"
