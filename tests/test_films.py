"""Films with findings: what is refused, whether labels that are right are told from wrong ones, and by whom it is told."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from diffgraft.evaluation import subgroups
from diffgraft.evaluation.alignment import alignment
from diffgraft.evaluation.classify import classify
from diffgraft.evaluation.data import FINDING
from diffgraft.evaluation.distribution.compare import evaluate_distribution
from diffgraft.evaluation.experiment import REAL_ARMS, arms
from diffgraft.evaluation.findings import alignment as findings_alignment
from diffgraft.evaluation.findings.result import FilmSet
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import has_findings, read_films
from domains import chest_xray
from toolkit.data import dataset
from toolkit.data.labels import Range
from toolkit.diffusion.model import Identity, Model, Spec
from toolkit.evaluation.interval import Interval
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.models.folder import hash_id

MADE = Provenance("synthetic", "0123abcd", "generate", 0)
VOCABULARY = {
    "view": ("PA", "L"), "sex": ("F", "M"), "age": Range(0.0, 120.0),
    "normal": FINDING, "opacity": FINDING, "effusion": FINDING,
}  # fmt: skip
LABELS = {k: [v.low, v.high] if isinstance(v, Range) else list(v) for k, v in VOCABULARY.items()}


def film(name: str, n: int, group: str = "", **more) -> Example:
    """A bright middle where there is an opacity, a bright foot where there is an effusion, bright sides from the side."""
    random = np.random.default_rng(n)
    opacity, effusion, view = n % 2, n // 2 % 2, n // 4 % 2
    image = random.normal(-0.5, 0.2, (1, 16, 16))
    image[:, 5:10, 5:10] += 0.9 * opacity
    image[:, 13:] += 0.9 * effusion
    image[:, :4, :3] += 0.9 * view
    known = {
        "opacity": float(opacity), "effusion": float(effusion) if n % 5 else math.nan, "view": float(view),
        "sex": float(n % 3) if n % 3 < 2 else math.nan, "age": float(20 + n % 70) if n % 7 else math.nan,
        "normal": float(not opacity and not effusion) if n % 5 else math.nan,
    }  # fmt: skip
    return Example(
        name, image.clip(-1, 1).astype(np.float32), Annotation(more.pop("text", None), known), group or name, **more
    )


def told(example: Example, **labels: float) -> Example:
    known = {**example.annotation.labels, **labels}
    return dataclasses.replace(example, annotation=Annotation(example.annotation.text, known))


FILMS = [film(f"film{n:03}", n, f"patient{n // 2}") for n in range(200)]
HELD_OUT = [e for e in FILMS if dataset.fold_of(e.group) == chest_xray.FOLD]


def write(root: Path, examples: list[Example], **facts) -> Path:
    dataset.write(examples, root, domain="chest_xray", labels=LABELS, **facts)
    return root


def made(count: int = 120) -> list[Example]:
    return [film(f"made{n}", 1000 + n, provenance=MADE, text=f"film {n % 9}") for n in range(count)]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("real") / "data", FILMS)


# What is read and refused


def test_a_film_says_what_its_findings_say_of_one_another(real):
    films = read_films(real, None)
    assert films.fold == chest_xray.FOLD and films.several == ("normal", "opacity", "effusion", "view", "sex")
    assert films.sizes == (2, 2, 2, 2, 2) and films.classes == ("view", "sex")
    assert {e.group for e in films.test}.isdisjoint(e.group for e in films.training(0, 0))
    for before, after in zip(FILMS, films.examples, strict=True):
        was, is_ = before.annotation.labels, after.annotation.labels
        if math.isnan(was["normal"]) and was["opacity"] == 1:
            assert is_["normal"] == 0
        if was["normal"] == 1:
            assert is_["effusion"] == 0
        if math.isnan(was["effusion"]) and was["normal"] != 1:
            assert math.isnan(is_["effusion"])  # unknown is not absent


def test_a_finding_that_hardly_a_training_film_has_is_not_told(tmp_path):
    own = [e for e in FILMS if dataset.fold_of(e.group) != chest_xray.FOLD]
    rare, frequent = {e.id for e in own[:4]}, {e.id for e in own[:5]}
    films = [told(e, hernia=float(e.id in rare), device=float(e.id in frequent)) for e in FILMS]
    dataset.write(films, tmp_path / "data", domain="chest_xray", labels=LABELS | {"hernia": FINDING, "device": FINDING})
    assert read_films(tmp_path / "data", None).findings == ("normal", "opacity", "effusion", "device")


def test_a_generator_that_saw_a_held_out_patient_is_refused(real, tmp_path):
    films = read_films(real, None)
    own = [hash_id(e.id) for e in films.training(0, 0)]
    good = write(tmp_path / "good", made(), trained_on=own)
    assert families(films, good, {})[0].at(0, 0).seen == {e.id for e in films.training(0, 0)}
    bad = write(tmp_path / "bad", made(), trained_on=[*own, hash_id(films.test[0].id)])
    for experiment in (alignment, classify):
        with pytest.raises(Error, match="trained on 1 of the"):
            experiment(real, bad, steps=1, seeds=1)


def test_what_cannot_be_asked_is_refused(real, tmp_path):
    silent = [dataclasses.replace(e, annotation=Annotation("a film")) for e in made(3)]
    with pytest.raises(Error, match="asked to show something"):
        families(read_films(real, None), write(tmp_path / "silent", silent), {})
    with pytest.raises(Error, match="Name one label"):
        classify(real, tmp_path / "silent", shots=[5])
    with pytest.raises(Error, match="from 0 to 3"):
        read_films(real, 7)
    with pytest.raises(Error, match="real samples only"):
        read_films(write(tmp_path / "mixed", [*FILMS, *made(1)]), None)
    few = write(tmp_path / "few", FILMS[:20])
    with pytest.raises(Error, match="present and 8 with it absent"):
        classify(few, write(tmp_path / "made", made(), trained_on=[]), steps=1, seeds=1)
    assert has_findings(real) and not has_findings(tmp_path)


def test_one_label_of_films_is_still_told_by_itself(real, tmp_path):
    fake = write(tmp_path / "made", made(), trained_on=[])
    found = alignment(real, fake, label="view", seeds=1, steps=60)
    assert found.names == ("PA", "L") and found.balanced["held-out real"].value > 0.7


# Alignment


@pytest.fixture(scope="module")
def agreement(real, tmp_path_factory):
    """FAKE is right; beside it the held-out films themselves, labels of other films, and the opposite of the truth."""
    root = tmp_path_factory.mktemp("alignment")
    right, order = made(), np.random.default_rng(0).permutation(120)
    copies = [dataclasses.replace(e, id=f"copy-{e.id}", provenance=MADE) for e in HELD_OUT]
    swapped = [dataclasses.replace(e, annotation=right[k].annotation) for e, k in zip(right, order, strict=True)]
    turned = [told(e, opacity=1 - e.annotation.labels["opacity"], normal=math.nan) for e in right]
    beside = {
        name: write(root / name, films, trained_on=[])
        for name, films in {"copies": copies, "shuffled": swapped, "opposite": turned}.items()
    }
    fake = write(root / "fake", right, trained_on=[])
    out = root / "report"
    found = alignment(real, fake, beside=beside, seeds=1, steps=40, out=out, command="diffgraft evaluate")
    return found, out


def area(told, name: str):
    return next(each for each in told.findings if each.name == name)


def test_right_labels_are_told_from_wrong_ones(agreement):
    found, _ = agreement
    assert found.common == ("opacity", "effusion")  # of "normal" the opposite says nothing
    for name in ("opacity", "effusion"):
        assert area(found.sets["held-out real"], name).area.value > 0.9
        assert area(found.sets["synthetic"], name).area.value > 0.9
        assert area(found.sets["real, cross-validated"], name).area.value > 0.9
        assert abs(area(found.sets["shuffled"], name).area.value - 0.5) < 0.15
        chance = area(found.sets["synthetic"], name).shuffled
        assert abs(chance.value - 0.5) < 0.03 and chance.low < 0.5 < chance.high < 0.7
    assert area(found.sets["opposite"], "opacity").area.value < 0.1
    assert area(found.sets["opposite"], "effusion").area.value > 0.9


def test_held_out_films_called_synthetic_give_the_real_figures(agreement):
    found, _ = agreement
    real, copies = found.sets["held-out real"], found.sets["copies"]
    for one, other in zip(real.findings, copies.findings, strict=True):
        assert (one.present, one.absent) == (other.present, other.absent)
        assert one.area.value == pytest.approx(other.area.value)
    for one, other in zip(real.classes, copies.classes, strict=True):
        assert one.accuracy.value == pytest.approx(other.accuracy.value)


def test_classes_stand_beside_chance(agreement):
    found, _ = agreement
    view, sex = found.sets["synthetic"].classes
    assert view.name == "view" and view.accuracy.value > 0.9 and view.images == 120
    assert abs(view.shuffled.value - 0.5) < 0.05 and 0.3 < view.majority < 0.7
    assert sex.images == 80 and sex.accuracy.value < 0.75  # nothing in the image says it


def test_cross_validation_tells_every_film_once_by_a_stranger(agreement):
    crossed = agreement[0].sets["real, cross-validated"]
    assert crossed.images == len(FILMS) and crossed.groups == len({e.group for e in FILMS})


def test_parts_count_what_they_should(agreement):
    parts = {part.name: part for part in agreement[0].parts}
    assert parts["all"].fake == 120 and parts["all"].held_out == len(HELD_OUT)
    assert sum(parts[f"sex {word}"].fake for word in ("F", "M", "not stated")) == 120
    assert sum(parts[f"age {band}"].held_out for band in ("below 40", "40 to 65", "above 65", "not stated")) == len(
        HELD_OUT
    )
    assert parts["opacity present"].fake == 60 and parts["opacity present"].abnormal.value is None  # all are abnormal
    assert parts["all"].abnormal.value > 0.9 < parts["all"].named.value
    assert parts["all"].distance is None  # without a model there are no features


def test_what_an_alignment_writes(agreement):
    found, root = agreement
    numbers = json.loads((root / "metrics.json").read_text())
    assert set(numbers["sets"]) == {
        "held-out real", "synthetic", "copies", "shuffled", "opposite", "real, cross-validated",
    }  # fmt: skip
    page = (root / "report.html").read_text()
    for words in ("Chance is 0.5", "opacity", "age 40 to 65", "shuffled", chest_xray.NOTICE, "not taken for absent"):
        assert words in page
    assert "opacity" in str(found) and "shuffled" in str(found)


def test_copies_of_training_films_that_are_told_too_well_are_said():
    def told_as(value: float) -> FilmSet:
        return FilmSet(9, 9, (), (), Interval(value, value - 0.05, value + 0.05))

    def said(real: float, made: float) -> list[str]:
        return findings_alignment._warnings(
            {"held-out real": told_as(real), "synthetic": told_as(made)}, "synthetic", []
        )

    assert any("diffgraft audit" in line for line in said(0.74, 0.99))
    assert not said(0.74, 0.78) and not said(0.74, 0.6)


# The gain


@pytest.fixture(scope="module")
def gains(real, tmp_path_factory):
    root = tmp_path_factory.mktemp("gain")
    fake = write(root / "fake", made(40), trained_on=[], seconds=3.5)
    return classify(real, fake, seeds=2, steps=6, out=root / "report"), root / "report"


def test_every_arm_stands_beside_the_trivial_baselines(gains):
    found, _ = gains
    assert [row.arm for row in found.rows] == [
        *(arm.name for arm in REAL_ARMS), *(arm.name for arm in arms("synthetic")), "random forest", "constant",
    ]  # fmt: skip
    assert "pretrained on synthetic" in [row.arm for row in found.rows]
    rows = {row.arm: row for row in found.rows}
    assert rows["constant"].macro.value == 0.5 and rows["constant"].classes["view"].value == 0.5
    assert rows["random forest"].macro.value > 0.85
    assert rows["real + classical"].gain is None and rows["50 % synthetic"].generator == "full-data generator"
    assert rows["50 % synthetic"].generation == 3.5 and rows["real"].overhead == 0
    for row in found.rows:
        assert set(row.findings) == set(found.counts) == {"normal", "opacity", "effusion"}
        assert row.macro.value == pytest.approx(np.mean([each.value for each in row.findings.values()]))
        if row.gain is not None:
            assert row.gain.value == pytest.approx(row.macro.value - rows["real + classical"].macro.value)
            assert row.class_gain["view"].low <= row.class_gain["view"].value <= row.class_gain["view"].high


def test_what_a_downstream_experiment_writes(gains):
    found, root = gains
    numbers = json.loads((root / "metrics.json").read_text())
    assert len(numbers["rows"]) == len(found.rows) and numbers["protocol"]["seeds"] == 2
    page = (root / "report.html").read_text()
    for words in ("Mean AUROC", "pretrained on synthetic", "View", "constant", "Overhead", "abnormal"):
        assert words in page


# Parts and distances


def test_parts_overlap_and_unknown_is_one_of_its_own():
    examples = [film("a", 1), told(film("b", 2), age=40.0), told(film("c", 3), age=65.5, sex=math.nan)]
    found = subgroups.parts(examples, VOCABULARY, chest_xray.LABELS)
    assert found["all"].tolist() == [True] * 3
    assert found["opacity present"].tolist() == [True, False, True]
    assert found["effusion present"].tolist() == [False, True, True]
    assert found["age 40 to 65"].tolist() == [False, True, False] and found["age above 65"].tolist() == [False] * 2 + [
        True
    ]
    assert found["sex not stated"].tolist() == [False, True, True] and found["sex M"].tolist() == [True, False, False]


def test_distances_are_those_of_each_part_and_the_floor_is_real():
    random = np.random.default_rng(0)
    mask = {"all": np.ones(60, bool), "some": np.arange(60) < 30, "few": np.arange(60) < 5}
    near, far = random.standard_normal((2, 60, 4))
    far[:30] += 3
    held_out = random.standard_normal((60, 4))
    rows = {each.name: each for each in subgroups.distances((far, mask), (held_out, mask), (near, mask))}
    assert rows["some"].kid.value > rows["all"].kid.value > 5 * abs(rows["all"].floor.value)
    assert rows["few"].kid is None and rows["few"].fake == 5
    assert rows["some"].floor.value < 3 * rows["some"].floor.error + 0.1


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder with a feature network alone, as it began."""
    import torch

    from toolkit.networks import folder

    part = {"network": {"channels": [8, 8], "layers": 1}, "classes": 2, "target": "view"}
    meta = {
        "format": 1, "domain": "chest_xray", "labels": LABELS, "image_shape": [1, 16, 16],
        "spec": {"shape": [1, 16, 16], "fields": {}}, "parts": {"features": part},
    }  # fmt: skip
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("model") / "model"
    folder.save_part(root, "features", folder.build("features", meta).eval().state_dict(), meta)
    return root


def test_a_distribution_of_films_is_told_by_parts(real, model, tmp_path):
    fake = write(tmp_path / "fake", made(), trained_on=[])
    found = evaluate_distribution(real, fake, model=model, out=tmp_path / "report")
    parts = {part.name: part for part in found.parts}
    assert parts["all"].fake == 120 and parts["opacity present"].fake == 60
    assert parts["all"].held_out + parts["all"].training == len(FILMS)
    for each in (parts["all"], parts["opacity present"], parts["sex F"]):
        assert abs(each.kid.value) < 4 * each.kid.error + 1e-3 and abs(each.floor.value) < 4 * each.floor.error + 1e-3
    assert parts["all"].kid.error < parts["age below 40"].kid.error
    assert "age 40 to 65" in str(found) and "floor" in (tmp_path / "report" / "report.html").read_text()
    bright = [dataclasses.replace(e, image=np.clip(e.image + 0.5 * (n % 2), -1, 1)) for n, e in enumerate(made())]
    worse = evaluate_distribution(real, write(tmp_path / "bright", bright, trained_on=[]), model=model)
    worse_parts = {part.name: part for part in worse.parts}
    assert worse_parts["opacity present"].kid.value > 5 * worse_parts["opacity present"].kid.error


def test_an_alignment_with_a_model_tells_how_far_each_part_is(real, model, tmp_path):
    fake = write(tmp_path / "fake", made(60), trained_on=[])
    found = alignment(real, fake, model=model, seeds=1, steps=2, cross_validate=False, out=tmp_path / "report")
    part = {each.name: each for each in found.parts}["all"]
    assert part.distance.fake == 60 and part.distance.kid is not None and part.distance.floor is not None
    assert "real, cross-validated" not in found.sets and not found.likeness
    assert f"{part.distance.kid.value:.4f}" in (tmp_path / "report" / "report.html").read_text()


# Text and film


def reading(noise: float) -> Model:
    """A model whose text encoder reads "kind k" and whose features are the kind that an image shows, somewhat blurred."""
    axes = np.eye(3)

    def look(image):
        kind = np.rint(image[:, 0, 0, 0] * 2 + 1).astype(int)
        return {"features": axes[kind] + noise * np.random.default_rng(0).standard_normal((len(kind), 3))}

    def likeness(features, texts):
        words = axes[[int(text[-1]) for text in texts]]
        return (features * words).sum(1) / np.linalg.norm(features, axis=1)

    def nothing(*_):
        raise AssertionError("no image is made here")

    nothing.spec = Spec((1, 1, 1))
    return Model(nothing, Identity(), np.asarray, np.asarray, "numpy", "0", features=look, likeness=likeness)


def test_films_that_fit_their_texts_are_told_from_those_that_do_not(real):
    films = read_films(real, None)
    kinds = [n % 3 for n in range(90)]
    images = [np.full((1, 1, 1), (kind - 1) / 2, np.float32) for kind in kinds]
    sets = {
        name: [
            Example(f"{n}", image, Annotation(f"kind {(kind + shift) % 3}"), provenance=MADE)
            for n, (image, kind) in enumerate(zip(images, kinds, strict=True))
        ]
        for name, shift in (("right", 0), ("wrong", 1))
    }
    found = findings_alignment._likeness(films, sets, reading(0.0), lambda *_: None)
    assert found["right"].own.value == 1 and found["right"].shuffled.value == 0 and found["right"].ahead.value == 1
    assert found["wrong"].own.value == 0 and found["wrong"].ahead.value == pytest.approx(0.25, abs=0.08)
    blurred = findings_alignment._likeness(films, sets, reading(0.8), lambda *_: None)["right"]
    assert 0.5 < blurred.ahead.low < blurred.ahead.value < 0.95 and blurred.pairs == 90
    same = {"same": [dataclasses.replace(e, annotation=Annotation("kind 0")) for e in sets["right"]]}
    assert findings_alignment._likeness(films, same, reading(0.0), lambda *_: None) == {}


def test_a_text_is_compared_with_another_films_words():
    import random

    texts = ["a", "b", "a", "c"]
    drawn = {findings_alignment._other(texts, 0, random.Random(n)) for n in range(50)}
    assert drawn == {"b", "c"}
