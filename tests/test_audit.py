"""The memorisation audit: planted copies are found, real images are not called copies, and a plain search agrees."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest

from diffgraft.cli import main as cli
from diffgraft.evaluation.audit import search as face
from diffgraft.generation import copies
from diffgraft.models import trained_on
from diffgraft.requests import record
from toolkit.data import dataset
from toolkit.diffusion.model import Identity, Model
from toolkit.evaluation import memorization, neighbours
from toolkit.evaluation.features import BLOCK, cached_features
from toolkit.evaluation.memorization import Rate, Reference, audit, nearest_ncc, planted_copies
from toolkit.evaluation.neighbours import Gallery
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.models.folder import hash_id

SHAPE = (3, 32, 48)
BOTH = (True, True)


def drawn(seed: int, count: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Images with structure at every scale, none like another."""
    random = np.random.default_rng(seed)
    layers = [gaussian_filter(random.standard_normal((count, *shape)), (0, 0, s, s)) * s for s in (1, 2, 5)]
    images = sum(layers)
    return np.clip(images / (3 * images.std()), -1, 1).astype(np.float32)


def embed(images: np.ndarray) -> np.ndarray:
    """Colours and rough layout, all positive: like the features of a network behind a rectifier."""
    small = images.reshape(len(images), 3, 4, 8, 6, 8).mean((3, 5)).reshape(len(images), -1)
    return np.maximum(small @ np.random.default_rng(0).standard_normal((small.shape[1], 24)), 0)


TRAIN, HELD_OUT, FRESH = drawn(1, 100), drawn(2, 80), drawn(3, 80)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(TRAIN, HELD_OUT, embed, BOTH)


# ------------------------------------------------------------------------------------------------------------ search


@pytest.mark.parametrize("shape", [(1, 24, 26), (3, 40, 36)], ids=["small", "halved"])
def test_the_search_finds_what_a_plain_one_finds(shape, monkeypatch):
    references, queries = drawn(4, 30, shape), drawn(5, 12, shape)
    expected, index = nearest_ncc(queries, references, 3)
    monkeypatch.setattr(neighbours, "FINEST", 30)
    found = Gallery(references, None, (True, False), 3, (1.0,)).nearest(queries)
    # The mirror image is chosen by thumbnail, which may err where the two are much alike, and then by little.
    missed = expected - found.column("ncc")
    assert missed.min() > -1e-4
    assert missed.max() < 0.02
    assert np.median(missed) < 1e-4
    assert (found.index[:, 0] == index).mean() > 0.9


def test_few_of_many_at_full_resolution_are_enough():
    expected, _ = nearest_ncc(FRESH[:40], TRAIN)
    found = Gallery(TRAIN, None, (True, False), 4, (1.0,)).nearest(FRESH[:40]).column("ncc")
    assert found.max() <= expected.max() + 1e-4
    assert (expected - found).mean() < 0.02


def test_the_cosine_is_that_of_a_plain_search():
    features = embed(TRAIN)
    mean = features.mean(0)
    best, where = np.full(20, -2.0), np.zeros(20, int)
    for n, query in enumerate(FRESH[:20]):
        for view in (query, query[..., ::-1], query[:, ::-1], query[:, ::-1, ::-1]):
            u = embed(view[None])[0] - mean
            for m, v in enumerate(features - mean):
                value = u @ v / (np.linalg.norm(u) * np.linalg.norm(v))
                if value > best[n]:
                    best[n], where[n] = value, m
    found = Gallery(TRAIN, embed, BOTH).nearest(FRESH[:20])
    assert found.column("cosine") == pytest.approx(best, abs=1e-4)
    assert found.index[:, 1].tolist() == where.tolist()


@pytest.mark.parametrize(("batch", "cells"), [(1, 1), (7, 2**23), (64, 3000)])
def test_batches_change_nothing(reference, batch, cells, monkeypatch):
    whole = reference.nearest(FRESH[:20])
    monkeypatch.setattr(neighbours, "BATCH", batch)
    monkeypatch.setattr(neighbours, "CELLS", cells)
    parts = reference.nearest(FRESH[:20])
    assert parts.similarity == pytest.approx(whole.similarity, abs=1e-5)
    assert parts.index.tolist() == whole.index.tolist()


def test_images_may_lie_on_the_disk_or_in_half_precision(tmp_path, reference):
    np.save(tmp_path / "train.npy", TRAIN.astype(np.float16))
    kept = np.load(tmp_path / "train.npy", mmap_mode="r")
    found = Reference(kept, HELD_OUT[:9], embed, BOTH).nearest(FRESH[:20])
    assert found.similarity == pytest.approx(reference.nearest(FRESH[:20]).similarity, abs=2e-3)


def test_a_crop_is_found_at_its_scale_only():
    crops = planted_copies(TRAIN, BOTH, 60, 1)["crop"]
    with_zoom = Gallery(TRAIN, None, BOTH).nearest(crops).column("ncc")
    without = Gallery(TRAIN, None, BOTH, zooms=(1.0,)).nearest(crops).column("ncc")
    assert np.median(with_zoom) > 0.9
    assert np.median(without) < np.median(with_zoom) - 0.05


def test_a_constant_image_is_like_nothing():
    flat = np.full((2, *SHAPE), 0.3, np.float32)
    assert Gallery(TRAIN).nearest(flat).column("ncc").tolist() == [0, 0]
    assert Gallery(flat).nearest(TRAIN[:2]).column("ncc").tolist() == [0, 0]


def test_no_queries_no_answer(reference):
    found = reference.nearest(FRESH[:0])
    assert found.similarity.shape == found.index.shape == (0, 3)
    assert reference.is_copy(FRESH[:0]).shape == (0,)


# ------------------------------------------------------------------------------------------------------------ audit


def test_copies_are_named_and_others_are_not():
    fake = np.concatenate([FRESH[:50], TRAIN[[7]], TRAIN[[9], :, :, ::-1], TRAIN[[11], :, ::-1]])
    found = audit(Reference(TRAIN, HELD_OUT, embed, BOTH), fake, plant=15)
    assert found.copy[50:].all()
    assert found.nearest[50:].tolist() == [7, 9, 11]
    assert found.nearness[50:].min() > 1
    assert found.copies.count == found.copy.sum() <= 3 + 3
    assert found.valid
    assert found.recall.value == 1
    assert set(found.planted) == {"exact", "5% darker", "5% brighter", "crop", "noise", "left-right", "up-down"}
    assert found.resolution == pytest.approx(1 / 80)
    real = found.held_out.similarity.max(0)
    assert list(found.thresholds.values()) == pytest.approx(real.tolist())  # the largest: fewer than 1,000


def test_real_images_are_called_copies_no_more_often_than_stated():
    found = audit(Reference(TRAIN, HELD_OUT, embed, BOTH), FRESH, plant=5)
    # Three measures, each exceeded by the next image with probability 1 / 81: three of 80 are expected at most.
    assert found.copies.count <= 8
    assert found.mistaken.count <= 3
    low, high = found.mistaken.interval
    assert low < 3 / 81 < high
    for name, (fake, real) in found.above.items():
        assert real.value <= (0.05 if name != "any" else 0.15)
        assert fake.interval[0] < real.interval[1]


def test_a_mirror_image_counts_if_it_is_asked_for():
    mirrored = TRAIN[:10, :, ::-1]
    assert Reference(TRAIN, HELD_OUT, None, (False, True)).is_copy(mirrored).all()
    assert not Reference(TRAIN, HELD_OUT, None, (True, False)).is_copy(mirrored).any()
    assert "up-down" not in planted_copies(TRAIN, (True, False), 5)


def test_the_embedding_finds_what_pixels_do_not():
    def sizes(images: np.ndarray) -> np.ndarray:
        return np.abs(images).reshape(len(images), -1)

    negative = -TRAIN[:10]
    assert Reference(TRAIN, HELD_OUT, sizes).is_copy(negative).all()
    assert not Reference(TRAIN, HELD_OUT, None).is_copy(negative).any()


def test_an_audit_that_cannot_find_copies_is_invalid():
    held_out = np.concatenate([HELD_OUT[:30], TRAIN[:1]])  # the threshold is a copy itself
    found = audit(Reference(TRAIN, held_out, None), FRESH[:10], plant=10)
    assert found.thresholds["ncc"] == pytest.approx(1)
    assert not found.valid
    assert found.recall.value < 0.99


def test_an_audit_is_the_same_every_time():
    first, second = (audit(Reference(TRAIN, HELD_OUT[:30], embed), FRESH[:10], plant=5) for _ in range(2))
    assert np.array_equal(first.fake.similarity, second.fake.similarity)
    assert first.planted == second.planted


@pytest.mark.parametrize("count", [3, 50, 999, 1000, 1001, 2500])
def test_each_held_out_image_is_judged_without_itself(count):
    values = np.random.default_rng(count).standard_normal((count, 2))
    values[1] = values[0]
    found = memorization._exceeds_the_others(values, 0.999)
    for n in {0, 1, 2, *np.argsort(-values[:, 0])[:4].tolist()}:
        others = np.delete(values, n, 0)
        limit = np.quantile(others, 0.999, axis=0, method="inverted_cdf")
        assert found[n].tolist() == (values[n] > limit).tolist()
    assert (found.sum(0) <= max(1, count // 500)).all()


@pytest.mark.parametrize(("count", "of"), [(0, 10), (3, 40), (40, 40), (999, 1000)])
def test_the_interval_is_that_of_scipy(count, of):
    expected = binomtest(count, of).proportion_ci(method="wilson")
    assert Rate(count, of).interval == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert Rate(0, 0).interval is None
    assert str(Rate(0, 0)) == "none"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: audit(Reference(TRAIN, HELD_OUT), FRESH[:0]), "one or more"),
        (lambda: audit(Reference(TRAIN, HELD_OUT[:1]), FRESH), "two or more"),
        (lambda: audit(Reference(TRAIN[:0], HELD_OUT), FRESH), "one or more"),
        (lambda: audit(Reference(TRAIN, HELD_OUT), FRESH[..., :-1]), "own shape"),
        (lambda: Gallery(TRAIN, shifts=11), "Take fewer"),
        (lambda: Gallery(TRAIN, lambda images: images), "one row"),
    ],
)
def test_what_cannot_be_audited_is_refused(call: Callable[[], object], words):
    with pytest.raises(Error, match=words):
        call()


# ---------------------------------------------------------------------------------------------------------- features


def test_features_are_computed_once(tmp_path):
    calls = []

    def network(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return images.mean((2, 3))

    images = drawn(6, BLOCK + 10, (3, 8, 8))
    first = cached_features(network, images, "ab" * 32, tmp_path, batch=100)
    assert sum(calls) == len(images)
    assert first.values == pytest.approx(images.mean((2, 3)))
    assert first.protocol == {
        "backbone": "ab" * 8, "images": BLOCK + 10, "dimensions": 3, "image_shape": [3, 8, 8], "reused": 0,
    }  # fmt: skip
    again = cached_features(network, (Example(str(n), image) for n, image in enumerate(images)), "ab" * 32, tmp_path)
    assert sum(calls) == len(images)
    assert again.protocol["reused"] == len(images)
    assert np.array_equal(again.values, first.values)
    longer = cached_features(network, [*images, images[0]], "ab" * 32, tmp_path)
    assert longer.protocol["reused"] == BLOCK
    changed = images.copy()
    changed[0, 0, 0, 0] += 0.01
    assert cached_features(network, changed, "ab" * 32, tmp_path).protocol["reused"] == 10
    assert cached_features(network, images, "cd" * 32, tmp_path).protocol["reused"] == 0


def test_a_damaged_block_is_computed_again(tmp_path):
    images = drawn(7, 5, (1, 8, 8))
    cached_features(lambda x: x.mean((2, 3)), images, "ab" * 32, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    found = cached_features(lambda x: x.mean((2, 3)), images, "ab" * 32, tmp_path)
    assert found.protocol["reused"] == 0
    assert found.values == pytest.approx(images.mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "images", "words"),
    [
        (embed, [], "one or more"),
        (embed, [TRAIN[0], TRAIN[0][:, 1:]], "one shape"),
        (lambda x: x, TRAIN[:3], "one row"),
        (lambda x: np.full((len(x), 2), np.nan), TRAIN[:3], "finite"),
    ],
)
def test_features_that_are_none_are_refused(network, images, words):
    with pytest.raises(Error, match=words):
        cached_features(network, images, "ab" * 32)


# -------------------------------------------------------------------------------------------------------------- face

LABELS = {"class": ["a", "b"]}


def written(root: Path, images: np.ndarray, prefix: str, synthetic: bool) -> Path:
    made = Provenance("synthetic", "0123", "generate", 0) if synthetic else None
    rows = [
        Example(f"{prefix}{n}", image, Annotation(labels={"class": n % 2}), f"{prefix}{n}", provenance=made)
        for n, image in enumerate(images)
    ]
    dataset.write(rows, root, domain="plant_disease", labels=LABELS)
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A graph whose first input and output have names of their own."""
    image = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", *SHAPE])
    pooled = helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["n", 3, 4, 6])
    node = helper.make_node("AveragePool", ["picture"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8])
    graph = helper.make_graph([node], "features", [image], [pooled])
    path = tmp_path_factory.mktemp("network") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("real") / "data", drawn(8, 80), "r", False)


@pytest.fixture(scope="module")
def fake(real, tmp_path_factory) -> Path:
    images = drawn(9, 30)
    seen = [e for e in dataset.read(real) if dataset.fold_of(e.group) != 0]
    images[4], images[5] = seen[10].image[:, ::-1], np.clip(seen[3].image * 1.02, -1, 1)
    return written(tmp_path_factory.mktemp("fake") / "data", images, "f", True)


def test_an_audit_of_folders_names_the_copies_and_shows_them(real, fake, network, tmp_path):
    found = face.audit(real, fake, features=network, out=tmp_path / "out", cache=tmp_path / "cache", plant=5)
    assert {"f4", "f5"} <= {ident for ident, copy in zip(found.ids, found.audit.copy, strict=True) if copy}
    assert "fold 0" in str(found)
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert numbers["valid"]
    rows = {row["id"]: row for row in numbers["samples"]}
    lines = list(dataset.read(real))
    seen = [e.id for e in lines if dataset.fold_of(e.group) != 0]
    assert lines[rows["f4"]["train"]].id == seen[10]
    assert rows["f5"]["copy"]
    assert numbers["protocol"]["embedding"] == "net.onnx"
    assert numbers["protocol"]["mirror_images"] == ["left-right", "up-down"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert record.read(tmp_path / "out").request["plant"] == 5
    assert "f4: NCC" in page
    assert str(tmp_path) not in page
    assert list((tmp_path / "cache").glob("*.npy"))


def test_without_a_network_there_are_two_measures(real, fake):
    found = face.audit(real, fake, plant=5)
    assert found.audit.fake.measures == ("ncc", "ssim")
    assert "two measures" in found.protocol["embedding"]


def test_what_a_model_was_trained_on_decides(real, tmp_path):
    examples = list(dataset.read(real))
    meta = {
        "format": 1, "domain": "plant_disease",
        "spec": {"shape": list(SHAPE), "fields": {}},
        "parts": {"denoiser": {"run": {"trained_on": [hash_id(e.id) for e in examples[:50]]}}},
    }  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(meta), encoding="utf-8")
    seen, unseen, how = trained_on.split_by_training(real, tmp_path)
    assert [e.id for _, e in seen] == [e.id for e in examples[:50]]
    assert [line for line, _ in seen] == list(range(50))
    assert [e.id for e in unseen] == [e.id for e in examples[50:]]
    assert "not trained on" in how
    meta["parts"]["denoiser"]["run"]["trained_on"].append(hash_id("stranger"))
    (tmp_path / "model.json").write_text(json.dumps(meta), encoding="utf-8")
    assert "1 samples that its base saw are not in these data" in trained_on.split_by_training(real, tmp_path)[2]
    meta["parts"]["denoiser"]["run"]["trained_on"] = [hash_id("stranger")]
    (tmp_path / "model.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(Error, match="none of its 1"):
        trained_on.split_by_training(real, tmp_path)


@pytest.mark.parametrize("features", [None, lambda image: {"features": embed(image)}], ids=["pixels", "network"])
def test_a_model_rejects_copies_of_what_it_was_trained_on(real, features):
    examples = list(dataset.read(real))
    model = Model(
        lambda *_: None, Identity(), np.asarray, np.asarray, "none", "", features=features, meta={"domain": "plant_disease"}
    )  # fmt: skip
    reference = copies.copy_search(model, examples[:60], examples[60:])
    images = np.stack([examples[3].image, examples[7].image[:, ::-1], FRESH[0]])
    found = reference.compare(images)
    assert found.copy.tolist() == [True, True, False]
    assert found.ncc[:2] == pytest.approx(1, abs=1e-3)
    assert reference.is_copy(images).tolist() == [True, True, False]


def test_a_holdout_shares_nothing_with_the_training_data(real, tmp_path):
    with pytest.raises(Error, match="share 80"):
        trained_on.split_by_training(real, None, real)
    other = written(tmp_path / "other", HELD_OUT[:20], "h", False)
    seen, unseen, _ = trained_on.split_by_training(real, None, other)
    assert (len(seen), len(unseen)) == (80, 20)


def test_an_invalid_audit_is_reported_and_fails(fake, tmp_path, monkeypatch, capsys):
    copied = drawn(10, 20)
    real, other = (written(tmp_path / name, copied, name, False) for name in ("real", "other"))
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["diffgraft", "audit", *map(str, (real, fake, "--holdout", other, "--out", out))])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "INVALID" in capsys.readouterr().err
    assert (out / "report.html").is_file()
    assert not json.loads((out / "metrics.json").read_text(encoding="utf-8"))["valid"]


def test_an_audit_is_a_frozen_value(real, fake):
    found = face.audit(real, fake, plant=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.ids = ()  # type: ignore[misc]
