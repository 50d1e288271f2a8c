"""The starter model of coffee leaves, as it is shipped: what it makes, whether that is what was asked for, and new."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffgraft import models
from diffgraft.editing.edit import edit
from diffgraft.generation import sampling
from diffgraft.generation.generate import generate
from diffgraft.models.defaults import default_sampling
from domains import plant_disease
from toolkit.data import dataset, labels, xmp
from toolkit.evaluation.memorization import Reference
from toolkit.example import Annotation, Example
from toolkit.models.folder import hash_id, read_meta

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "plant_disease"
REAL = ROOT.parent / "shared" / "data" / "plant"
real_leaves = pytest.mark.skipif(not REAL.is_dir(), reason="no real leaves beside the checkout (../shared/data/plant)")
EACH = 8


@pytest.fixture(scope="module")
def model():
    return models.open(MODEL, "onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Eight leaves of each class, as the demo makes them."""
    out = tmp_path_factory.mktemp("leaves") / "out"
    generate(MODEL, out, {}, EACH, each="condition", backend="onnx")
    return out


@pytest.fixture(scope="module")
def leaves() -> list[Example]:
    return list(plant_disease.read(REAL, only=["crop=coffee"]))


def named(model, examples: list[Example]) -> np.ndarray:
    images = np.stack([e.image for e in examples])
    return model.features(images)["log_probability"].argmax(1)


def test_it_is_small_and_complete():
    files = {path.name for path in MODEL.iterdir() if path.is_file()}
    graphs = {"denoiser.onnx", "encoder.onnx", "decoder.onnx", "features.onnx"}
    assert graphs | {"README.md", "LICENSE", "model.json"} <= files
    assert sum(path.stat().st_size for path in MODEL.iterdir() if path.is_file()) < 6.5 * 2**20


def test_generated_leaves_show_the_class_that_was_asked_for(model, made):
    found = list(dataset.read(made))
    assert len(found) == 5 * EACH
    asked = np.array([e.annotation.labels["class"] for e in found])
    assert (named(model, found) == asked).mean() > 0.7  # 0.2 is chance
    classes = labels.vocabulary_of(read_meta(MODEL), plant_disease)["class"]
    assert {path.parent.name for path in made.glob("images/*/*.png")} == set(classes)
    assert {xmp.read(path) for path in made.glob("images/*/*.png")} == {"synthetic"}


def test_a_generated_leaf_lies_whole_on_a_plain_ground(made):
    spreads = []
    for example in dataset.read(made):
        leaf = plant_disease.foreground(example.image)
        assert 0.25 < leaf.mean() < 0.9
        ground = example.image[:, ~leaf].mean(0)
        assert ground.mean() > example.image[:, leaf].mean(), "lighter than the leaf"
        spreads.append(ground.std())
    assert np.median(spreads) < 0.35, "one light ground, with at most a shadow"
    assert max(spreads) < 0.6


def test_a_leaf_depends_on_its_seed_alone(model):
    rows = [Annotation(labels={"condition": 4.0, "crop": 0.0})] * 3
    settings = default_sampling(model.meta)
    together = sampling.sample(model, plant_disease, rows, settings, range(3))
    alone = sampling.sample(model, plant_disease, rows[:1], settings, [2])
    assert together[2:] == pytest.approx(alone, abs=1e-3)


@pytest.mark.parametrize("procedure", ["inpaint", "invert"])
def test_healthy_leaves_are_given_rust(made, tmp_path, procedure):
    outcome = edit(
        MODEL, made, tmp_path / "rust", procedure, {"condition": 4.0}, where=["condition=healthy"], backend="onnx"
    )
    assert outcome.count == EACH
    assert outcome.before is not None and outcome.after is not None
    assert outcome.before < 0.2
    assert outcome.after > 0.4


@real_leaves
def test_its_features_tell_leaves_that_it_never_saw(model, leaves):
    seen = set(read_meta(MODEL)["parts"]["features"]["run"]["trained_on"])
    unseen = [e for e in leaves if hash_id(e.id) not in seen]
    assert len(unseen) == len(leaves) - len(seen) > 200
    truth = np.array([e.annotation.labels["class"] for e in unseen])
    guess = named(model, unseen)
    recalls = [(guess[truth == k] == k).mean() for k in range(5)]
    assert np.mean(recalls) > 0.69  # a random forest on thumbnails and colours


@real_leaves
def test_every_part_kept_the_same_leaves_back(leaves):
    parts = read_meta(MODEL)["parts"]
    seen = {hash_id(e.id) for e in leaves if dataset.fold_of(e.group) != 0}
    # Its teacher's paths are all that a student learns from: it is shown no leaf.
    assert parts.pop("student")["run"]["trained_on"] == []
    assert set(parts) == {"features", "codec", "denoiser"}
    assert all(set(part["run"]["trained_on"]) == seen for part in parts.values())


@real_leaves
@pytest.mark.slow
def test_none_of_its_leaves_is_a_copy(model, leaves, made):
    seen, unseen = (
        np.stack([e.image for e in leaves if (dataset.fold_of(e.group) == 0) == held_out]) for held_out in (False, True)
    )
    known = Reference(seen, unseen, lambda x: model.features(np.asarray(x, np.float32))["features"], (True, True))
    copies = known.is_copy(np.stack([e.image for e in dataset.read(made)]))
    assert copies.sum() <= 1
    assert known.is_copy(seen[:20]).all(), "it does find copies"


def test_no_weights_of_another_crop_are_shipped():
    assert labels.vocabulary_of(read_meta(MODEL), plant_disease)["crop"] == ("coffee",)
