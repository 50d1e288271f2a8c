"""`evaluate REAL FAKE --task detect`: what is refused, what is kept, what is counted and written."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffgraft.evaluation.boxes import experiment as verb
from diffgraft.evaluation.boxes.experiment import detect
from diffgraft.evaluation.boxes.figures import UNTRAINED
from diffgraft.evaluation.boxes.result import MEAN
from diffgraft.evaluation.boxes.runs import Runs, code, digest
from diffgraft.evaluation.experiment import REFERENCE, arms
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import read_boxed
from diffgraft.requests.evaluation import DETECTION_ARMS
from toolkit.data import dataset
from toolkit.data.dataset import fold_of
from toolkit.evaluation.detect_downstream import Outcome
from toolkit.evaluation.detection import blobs
from toolkit.evaluation.detection.metrics import Detections
from toolkit.evaluation.split import few_images
from toolkit.example import Annotation, Boxes, Error, Example, Note, Provenance
from toolkit.models.folder import hash_id
from toolkit.objects.boxes import MOST
from toolkit.settings import Network, Training

SIZE = (24, 32)
NAMES = ("cell", "platelet")
LABELS = {"class": list(NAMES)}
MADE = Provenance("synthetic", "0123abcd", "generate", 0)


def smear(name: str, seed: int, empty: bool = False, **more) -> Example:
    """A red disc and a small green one on noise, or neither."""
    random = np.random.default_rng(seed)
    image = random.normal(-0.3, 0.1, (3, *SIZE))
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    corners, names = [], []
    for kind, radius in () if empty else ((0, 5.0), (1, 3.0)):
        x, y = random.uniform(radius + 2, 13), random.uniform(radius + 2, SIZE[0] - radius - 2)
        x += 16 * kind
        inside = np.hypot(cols - x, rows - y) < radius
        image[:, inside] = np.where(np.arange(3) == kind, 0.6, -0.5)[:, None]
        corners.append([x - radius, y - radius, x + radius, y + radius])
        names.append(NAMES[kind])
    boxes = Boxes(np.array(corners).reshape(-1, 4), tuple(names), SIZE)
    annotation = Annotation(labels={"class": float("nan") if empty else 1.0}, boxes=more.pop("boxes", boxes))
    return Example(name, image.clip(-1, 1).astype(np.float32), annotation, more.pop("group", name), **more)


SMEARS = [smear(f"smear{n:02}", n, empty=n % 6 == 5) for n in range(36)]


def write(root: Path, examples: list[Example], labels=LABELS, **facts) -> Path:
    dataset.write(examples, root, domain="detection", labels=labels, **facts)
    return root


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A detector of the size of these images."""
    settings = Training(steps=2, batch=4, learning_rate=5e-3, warmup=2, weight_decay=0.05, ema=0.9)
    monkeypatch.setattr(
        verb, "_settings", lambda real, steps: (dataclasses.replace(settings, steps=steps), Network((8, 8)))
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("real") / "data", SMEARS)


def fake(root: Path, count: int = 6, provenance=MADE, boxes=None, **facts) -> Path:
    more = {} if boxes is None else {"boxes": boxes}
    examples = [smear(f"made{n}", 100 + n, provenance=provenance, **more) for n in range(count)]
    return write(root, examples, **facts)


def held_out_ids(real: Path) -> list[str]:
    return [e.id for e in read_boxed(real, 0).test]


def pool(real: Path, root: Path, **more):
    return families(read_boxed(real, 0), root, {}, **more)[0]


# What is refused


def test_a_generator_that_saw_a_test_image_is_refused(real, tmp_path):
    own = [e.id for e in read_boxed(real, 0).training(0, 0)]
    assert pool(real, fake(tmp_path / "good", trained_on=[hash_id(n) for n in own])).at(5, 0).seen == set(own)
    with pytest.raises(Error, match="trained on 1 of the"):
        pool(real, fake(tmp_path / "bad", trained_on=[hash_id(n) for n in own + held_out_ids(real)[:1]]))
    made = Provenance("edited", "m", "sdedit", source=held_out_ids(real)[0])
    with pytest.raises(Error, match="made from 1 of the"):
        pool(real, fake(tmp_path / "edited", provenance=made, trained_on=[]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"provenance": None}, "synthetic samples only"),
        ({"boxes": Boxes(np.array([[1.0, 1, 9, 9]]), ("leaf",), SIZE)}, "'leaf'"),
        ({"boxes": Boxes(np.zeros((0, 4)), (), SIZE)}, "learns from images with objects"),
    ],
)
def test_a_pool_that_cannot_be_used_is_refused(real, tmp_path, change, words):
    with pytest.raises(Error, match=words):
        pool(real, fake(tmp_path / "made", **change))


def test_a_question_that_cannot_be_answered_is_refused(real, tmp_path):
    plain = [Example("a", np.zeros((3, *SIZE), np.float32), Annotation(labels={"class": 0}), "a")]
    with pytest.raises(Error, match="prepare detection"):
        read_boxed(write(tmp_path / "plain", plain), 0)
    with pytest.raises(Error, match="other folds"):
        read_boxed(write(tmp_path / "one", [e for e in SMEARS if fold_of(e.group) == 0]), 0)
    with pytest.raises(Error, match="Prepare it again"):
        small = dataclasses.replace(smear("small", 1), image=np.zeros((3, 8, 8), np.float32))
        read_boxed(write(tmp_path / "several", [*SMEARS, small]), 0)
    with pytest.raises(Error, match=r"found 'mixup'"):
        detect(real, tmp_path, arms=["mixup"])
    with pytest.raises(Error, match="one seed"):
        detect(real, tmp_path, seeds=0)
    with pytest.raises(Error, match="neither"):
        detect(real, tmp_path, arms=["10"])
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(Error, match="earlier run"):
        detect(real, tmp_path, arms=["real"], out=tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"


# Few shots


def test_few_images_are_nested_show_objects_and_spread_over_groups():
    windows = [smear(f"g{n % 8}-{n // 8}", n, empty=n % 3 == 0, group=f"g{n % 8}") for n in range(48)]
    held = [e for e in windows if fold_of(e.group) == 0]
    groups = {e.group for e in windows} - {e.group for e in held}
    few, more = (few_images(windows, k, 1, 0) for k in (3, 12))
    assert [e.id for e in more[:3]] == [e.id for e in few]
    assert all(e.annotation.boxes.names for e in more) and not {e.group for e in more} & {e.group for e in held}
    assert {e.group for e in more[: len(groups)]} == groups
    assert {e.id for e in few_images(windows, 3, 2, 0)} != {e.id for e in few}
    assert len(few_images(windows, 0, 0, 0)) == len(windows) - len(held)  # empty ones too
    with pytest.raises(Error, match="fewer shots"):
        few_images(windows, 40, 0, 0)


def few_shot_folder(root: Path, extra: tuple[str, ...] = ()) -> Path:
    for seed in (0, 1):
        own = [e.id for e in few_images(SMEARS, 4, seed, 0)]
        fake(root / f"k4-s{seed}", trained_on=[hash_id(name) for name in (*own, *extra)])
    return root


def test_a_few_shot_generator_sees_the_images_that_the_detector_sees(real, tmp_path):
    split = read_boxed(real, 0)
    assert pool(real, few_shot_folder(tmp_path / "few")).generator(split, 4, [0, 1]) == "few-shot generator"
    full = pool(real, fake(tmp_path / "full", trained_on=[hash_id(e.id) for e in split.training(0, 0)]))
    assert full.generator(split, 4, [0, 1]) == "full-data generator"
    assert "not stated" in pool(real, fake(tmp_path / "silent")).generator(split, 4, [0])
    stranger = next(e.id for e in split.training(0, 0) if e not in split.training(4, 1))
    with pytest.raises(Error, match="images that few_images gives"):
        pool(real, few_shot_folder(tmp_path / "more", extra=(stranger,)))


# What is kept


def test_a_training_is_given_back_as_it_was(tmp_path):
    found = [
        Detections(np.array([[1.25, 2, 3, 4.5]]), np.array([1]), np.array([0.5])),
        Detections(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)),
    ]
    runs = Runs(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    runs.put("k", Outcome(found, (1.23456, 1.0), {"": 8}, 2.5), arm="real")
    again = Runs(tmp_path / "out").get("k")
    assert again.losses == (1.2346, 1.0) and again.drawn == {"": 8} and again.seconds == 2.5
    for one, other in zip(found, again.found, strict=True):
        assert all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("corners", "classes", "scores"))
    with (tmp_path / "out" / "runs.jsonl").open("a") as file:
        file.write('{"key": "torn')
    runs = Runs(tmp_path / "out")
    assert runs.get("torn") is None
    runs.put("next", runs.get("k"), arm="real")
    assert Runs(tmp_path / "out").get("next") is not None and Runs(tmp_path / "out").get("k") is not None
    (tmp_path / "out" / "runs" / "k.npz").write_bytes(b"damaged")
    assert Runs(tmp_path / "out").get("k") is None
    anew = Runs(tmp_path / "out", anew=True)
    assert anew.get("next") is None
    anew.put("other", again)
    assert sorted(Runs(tmp_path / "out").lines) == ["other"]


def test_a_key_follows_the_data_and_the_code():
    names = list(NAMES)
    moved = dataclasses.replace(SMEARS[0].annotation.boxes, corners=SMEARS[0].annotation.boxes.corners + 1)
    other = dataclasses.replace(SMEARS[0], annotation=dataclasses.replace(SMEARS[0].annotation, boxes=moved))
    assert digest(SMEARS[:2], names) == digest(SMEARS[:2], names) != digest([other, SMEARS[1]], names)
    assert code(blobs.constant_boxes) == code(blobs.constant_boxes) != code(blobs.Blobs)


def test_code_counts_what_is_called_and_not_what_is_said(tmp_path, monkeypatch):
    def version(text: str) -> str:
        (tmp_path / "changing.py").write_text(text)
        sys.modules.pop("changing", None)
        import importlib
        import linecache

        linecache.clearcache()
        importlib.invalidate_caches()
        module = importlib.import_module("changing")
        for each in vars(module).values():
            if getattr(each, "__module__", "") == "changing":
                each.__module__ = "toolkit.changing"
        monkeypatch.setitem(sys.modules, "toolkit.changing", module)
        return code(module.start)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = version("N = 1\n\ndef inner(x):\n    return x + N\n\ndef start(x):\n    return inner(x)\n")
    said = version(
        'N = 1\n\n"A."\n\ndef inner(x):\n    "Words."\n    return x + N  # why\n\ndef start(x):\n    return inner(x)\n'
    )
    assert first == said
    assert first != version("N = 2\n\ndef inner(x):\n    return x + N\n\ndef start(x):\n    return inner(x)\n")
    assert first != version("N = 1\n\ndef inner(x):\n    return x - N\n\ndef start(x):\n    return inner(x)\n")


def counted(monkeypatch) -> list[tuple[str, int, bool]]:
    """Every training that is done: its arm, its seed, whether something is pasted."""
    done, train = [], verb.detect_downstream.train

    def spy(arm, *rest):
        done.append((arm.name, rest[4].settings.seed, rest[5] is not None))
        return train(arm, *rest)

    monkeypatch.setattr(verb, "detect_downstream", SimpleNamespace(train=spy))
    monkeypatch.setattr(verb, "code", lambda *_: "the same")
    return done


def test_a_second_run_trains_what_is_missing_and_says_the_same(real, tmp_path, monkeypatch):
    done = counted(monkeypatch)
    plan = {"arms": ["real"], "steps": 2, "out": tmp_path / "out", "shots": [4]}
    first = detect(real, tmp_path / "none", seeds=1, **plan)
    assert done == [("real", 0, False), (REFERENCE, 0, False)]
    done.clear()
    assert detect(real, tmp_path / "none", seeds=1, **plan).rows == first.rows and not done
    made = fake(tmp_path / "made", trained_on=[])
    more = detect(real, made, seeds=2, **plan | {"arms": ["real", "copy-paste", "50"]})
    names = ["real + copy-paste", "50 % synthetic"]
    assert done == [
        *((name, 0, name == names[0]) for name in names), ("real", 1, False), (REFERENCE, 1, False), (names[0], 1, True),
        (names[1], 1, False),
    ]  # fmt: skip
    assert more.rows[0].figures[0] == first.rows[0].figures[0]
    done.clear()
    detect(real, made, seeds=1, **plan | {"steps": 3})
    assert len(done) == 2
    done.clear()
    detect(real, made, seeds=1, overwrite=True, **plan)
    assert len(done) == 2
    assert len((tmp_path / "out" / "runs.jsonl").read_text().splitlines()) == 2


# The whole


@pytest.fixture(scope="module")
def result(real, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    few, full = few_shot_folder(root / "few"), fake(root / "full", trained_on=[], seconds=12.5)
    watched: list[tuple[str, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "_settings", lambda *_: (Training(2, 4, 5e-3, 2, seed=0), Network((8, 8))))
        found = detect(
            real, few, beside={"other": full}, fold=0, shots=[0, 4], seeds=2, steps=2, out=root / "report", command="diffgraft evaluate",
            watch=lambda *at: watched.append(at),
        )  # fmt: skip
    return found, root / "report", watched


def test_every_arm_stands_beside_what_learns_nothing(result):
    found, _, watched = result
    own = ["real", REFERENCE, "real + copy-paste"]
    made = [[arm.name for arm in arms(name)] for name in ("synthetic", "other")]
    assert len(own) + len(made[0]) == len(DETECTION_ARMS)
    assert [r.arm for r in found.rows if r.shots == 4] == [*own, *made[0], *made[1], *UNTRAINED]
    assert [r.arm for r in found.rows if not r.shots] == [*own, *made[1], *UNTRAINED]
    assert any("no pool for all images" in each for each in found.warnings)
    trainings = 2 * (11 + 7)
    assert [at for _, at, _ in watched[:-1]] == list(range(1, 2 * trainings + 1))


def test_gains_are_paired_and_intervals_hold_their_values(result):
    rows = {(r.shots, r.arm): r for r in result[0].rows}
    assert rows[4, REFERENCE].gain50 is None and rows[4, "real"].overhead == 0
    for row in rows.values():
        assert row.ap50[MEAN].value == pytest.approx(np.mean([f.ap50[MEAN] for f in row.figures]), abs=1e-9)
        assert row.ap[NAMES[0]].value == pytest.approx(np.mean([f.ap[NAMES[0]] for f in row.figures]), abs=1e-9)
        if row.gain50 is not None:
            base = rows[row.shots, REFERENCE].ap50[MEAN].value
            assert row.gain50[MEAN].value == pytest.approx(row.ap50[MEAN].value - base)
            assert row.gain50[MEAN].low - 1e-9 <= row.gain50[MEAN].value <= row.gain50[MEAN].high + 1e-9
    assert rows[4, "blobs"].value > 0.8 > rows[4, "constant"].value
    assert rows[4, "50 % other"].generation == 12.5 and rows[4, "50 % synthetic"].generation is None
    assert rows[4, "only synthetic"].generator == "few-shot generator"
    assert {r.median for r in rows.values() if r.arm == "blobs" and not r.shots} == {rows[0, "blobs"].value}
    assert any("Blobs of a colour are not worse" in each for each in result[0].warnings)


def test_what_is_written(result):
    found, root, _ = result
    numbers = json.loads((root / "metrics.json").read_text())
    assert len(numbers["rows"]) == len(found.rows) and numbers["objects"] == found.objects
    page = (root / "report.html").read_text()
    for words in (
        "mAP50 over real + classical",
        "few-shot generator",
        "platelet AP50:95",
        "constant",
        "fold 0",
        "Overhead",
    ):
        assert words in page
    assert "pretrained on other" in str(found) and "100 % added" in page
    assert len((root / "runs.jsonl").read_text().splitlines()) == 36


def test_images_with_too_many_boxes_are_tested_on_and_not_trained_on(tmp_path):
    random = np.random.default_rng(0)
    low = random.uniform(0, 16, (MOST + 1, 2))
    many = Boxes(np.concatenate([low, low + 4], 1), ("cell",) * (MOST + 1), SIZE)
    crowded = [smear(f"crowd{n}", n, boxes=many) for n in range(6)]
    root = write(tmp_path / "data", SMEARS + crowded)
    with pytest.warns(Note, match=f"more than {MOST} boxes"):
        found = detect(root, tmp_path / "none", arms=["real"], seeds=1, steps=1)
    assert found.objects["cell"] > MOST  # one of them is in the fold that tests


@pytest.mark.slow
def test_the_command_line_refuses_in_one_line_and_goes_on_where_it_was(real, tmp_path):
    bad = fake(tmp_path / "bad", trained_on=[hash_id(held_out_ids(real)[0])])
    command = [sys.executable, "-m", "diffgraft.cli.main", "evaluate", "detect", str(real)]
    words = [
        "--fold",
        "0",
        "--shots",
        "4",
        "--seeds",
        "1",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    refused = subprocess.run([*command, str(bad), *words], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "held-out" in refused.stderr
    assert not (tmp_path / "out").exists()
    for _ in range(2):
        done = subprocess.run([*command, "none", *words, "--arms", "real"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "real + classical" in done.stdout and "next: diffgraft evaluate" in done.stdout
    assert len((tmp_path / "out" / "runs.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "out" / "report.html").is_file()
