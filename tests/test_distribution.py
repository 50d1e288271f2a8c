"""Distances of distributions: closed forms, plain loops, and what no distance may depend on."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from diffgraft.evaluation.distribution import compare as face
from diffgraft.models.features import load_backbone
from diffgraft.requests import record
from toolkit.data import dataset
from toolkit.evaluation.distribution import frechet_distance, kernel_distance, precision_recall
from toolkit.example import Annotation, Error, Example, Provenance


def normal(seed: int, n: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


# ----------------------------------------------------------------------------------------------------------- Frechet


def exact(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Points whose sample mean and sample covariance are these, to rounding."""
    points = normal(seed, n, len(mean))
    points -= points.mean(0)
    whitened = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return mean + whitened @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_gaussians_on_the_same_axes():
    first, second = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 0.25])
    shift = np.array([1.0, -2.0, 0.5])
    real, fake = exact(np.zeros(3), np.diag(first), 50, 1), exact(shift, np.diag(second), 60, 2)
    expected = (shift**2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_turned_gaussians_is_that_of_the_matrix_root():
    from scipy.linalg import sqrtm

    spread = [np.cov(normal(seed, 30, 5), rowvar=False) for seed in (3, 4)]
    real, fake = exact(np.zeros(5), spread[0], 40, 5), exact(np.ones(5), spread[1], 40, 6)
    expected = 5 + np.trace(spread[0] + spread[1] - 2 * sqrtm(spread[0] @ spread[1]).real)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_a_set_to_itself_is_nought_even_where_a_feature_is_constant():
    real = normal(7, 50)
    real[:, 2] = 4
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-8)


def test_too_few_images_have_no_frechet_distance():
    assert frechet_distance(normal(1, 7), normal(2, 7)) is not None
    assert frechet_distance(normal(1, 6), normal(2, 700)) is None
    assert frechet_distance(normal(1, 700), normal(2, 6)) is None


# ------------------------------------------------------------------------------------------------------------ kernel


def test_kernel_distance_is_the_plain_loop():
    real, fake = normal(8, 7), normal(9, 9) + 0.3

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / len(x) + 1) ** 3

    def loop(real: np.ndarray, fake: np.ndarray) -> float:
        within = [
            np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (real, fake)
        ]
        return sum(within) - 2 * np.mean([kernel(x, y) for x in real for y in fake])

    found = kernel_distance(real, fake)
    assert found.value == pytest.approx(loop(real, fake), rel=1e-9)
    left_out = [
        [loop(np.delete(real, i, 0), fake) for i in range(7)],
        [loop(real, np.delete(fake, i, 0)) for i in range(9)],
    ]
    variance = sum((len(each) - 1) * np.var(each) for each in left_out)
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_kernel_distance_of_one_distribution_is_nought_on_average_whatever_the_number():
    for n in (10, 40):
        values = [kernel_distance(normal(2 * s, n), normal(2 * s + 1, n)).value for s in range(300)]
        assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(300)
        assert min(values) < 0 < max(values)


def test_kernel_distance_does_not_depend_on_the_number_of_images_in_expectation():
    def mean(n: int) -> tuple[float, float]:
        values = [kernel_distance(normal(2 * s, n), normal(2 * s + 1, n) + 0.5).value for s in range(200)]
        return float(np.mean(values)), float(np.std(values)) / math.sqrt(200)

    (few, error_few), (many, error_many) = mean(12), mean(60)
    assert few > 5 * error_few
    assert abs(few - many) < 4 * math.hypot(error_few, error_many)


def test_the_error_of_the_kernel_distance_is_its_spread():
    found = [kernel_distance(normal(2 * s, 80), normal(2 * s + 1, 60) + 0.5) for s in range(150)]
    spread = np.std([each.value for each in found])
    assert 0.8 < np.mean([each.error for each in found]) / spread < 1.25


def test_more_images_than_are_held_at_once(monkeypatch):
    from toolkit.evaluation import distribution

    real, fake = normal(10, 60), normal(11, 50) + 0.2
    whole = kernel_distance(real, fake), precision_recall(real, fake)
    monkeypatch.setattr(distribution, "_CHUNK", 7)
    parts = kernel_distance(real, fake), precision_recall(real, fake)
    assert parts[0] == pytest.approx(whole[0], rel=1e-9)
    assert parts[1] == whole[1]


# ---------------------------------------------------------------------------------------------------------- manifold


def test_precision_and_recall_are_the_plain_loop():
    real, fake, k = normal(12, 30, 3), 0.6 * normal(13, 25, 3) + 0.4, 3

    def radii(points: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.norm(points[:, None] - points, axis=2), axis=1)[:, k]

    across = np.linalg.norm(fake[:, None] - real, axis=2)
    inside = across <= radii(real)
    found = precision_recall(real, fake, k)
    assert found.precision == pytest.approx(inside.any(1).mean())
    assert found.recall == pytest.approx((across <= radii(fake)[:, None]).any(0).mean())
    assert found.density == pytest.approx(inside.sum() / (k * 25))
    assert found.coverage == pytest.approx((across.min(0) <= radii(real)).mean())
    assert 0 < found.recall < found.precision


def test_a_distribution_covers_itself_and_nothing_far_away():
    real = normal(14, 200)
    assert precision_recall(real, real) == (1, 1, pytest.approx(1, abs=0.4), 1)
    same = precision_recall(real, normal(15, 200))
    assert min(same) > 0.6
    assert precision_recall(real, normal(15, 200) + 100) == (0, 0, 0, 0)


def test_a_collapsed_model_is_precise_and_recalls_nothing():
    real = normal(16, 200)
    found = precision_recall(real, real[:1] + 1e-3 * normal(17, 200))
    assert found.precision == 1
    assert found.recall < 0.05
    assert found.coverage < 0.2


def test_far_from_nought_features_measure_the_same():
    real, fake = normal(18, 60), normal(19, 60)
    assert precision_recall(real + 1e6, fake + 1e6) == precision_recall(real, fake)


def test_a_duplicate_is_a_neighbour():
    real = np.concatenate([normal(20, 10)] * 2)
    assert precision_recall(real, real + 1e-3, 1).precision == 0


@pytest.mark.parametrize(
    ("real", "fake", "words"),
    [
        (normal(1, 9), normal(1, 9, 5), "one feature network"),
        (normal(1, 9)[0], normal(1, 9)[0], "one feature network"),
        (normal(1, 1), normal(1, 9), "more images"),
        (normal(1, 9), np.full((9, 6), np.nan), "finite"),
    ],
)
@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall])
def test_what_cannot_be_compared_is_refused(measure, real, fake, words):
    with pytest.raises(Error, match=words):
        measure(real, fake)


# -------------------------------------------------------------------------------------------------------------- face

SHAPE = (3, 16, 24)
LABELS = {"class": ["a", "b"]}


def leaves(seed: int, kinds: list[int], level: float = 0.0) -> np.ndarray:
    """Images that differ from class to class by their brightness, and by `level` from data set to data set."""
    random = np.random.default_rng(seed)
    own = random.normal(0, 0.1, (len(kinds), SHAPE[0], 2, 3)).repeat(8, 2).repeat(8, 3)
    return np.clip(own + 0.5 * np.array(kinds)[:, None, None, None] - 0.25 + level, -1, 1).astype(np.float32)


def written(root: Path, images: np.ndarray, kinds: list[int], prefix: str, synthetic: bool, names=("a", "b")) -> Path:
    made = Provenance("synthetic", "0123", "generate", 0) if synthetic else None
    rows = [
        Example(f"{prefix}{n}", image, Annotation(labels={"class": kind}), f"{prefix}{n}", provenance=made)
        for n, (image, kind) in enumerate(zip(images, kinds, strict=True))
    ]
    dataset.write(rows, root, domain="plant_disease", labels={"class": list(names)})
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    image = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", *SHAPE])
    pooled = helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["n", 3, 2, 3])
    node = helper.make_node("AveragePool", ["picture"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8])
    graph = helper.make_graph([node], "features", [image], [pooled])
    path = tmp_path_factory.mktemp("network") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


KINDS = [n % 3 % 2 for n in range(240)]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("real") / "data", leaves(1, KINDS), KINDS, "r", False)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """From the distribution of the real ones, with more of class b; the classes are numbered the other way."""
    kinds = [n % 2 for n in range(60)]
    images = leaves(2, kinds)
    return written(tmp_path_factory.mktemp("good") / "data", images, [1 - k for k in kinds], "f", True, ("b", "a"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("bad") / "data", leaves(3, KINDS[:60], 0.3), KINDS[:60], "f", True)


def test_a_good_model_is_at_the_floor_and_a_bad_one_is_not(real, good, bad, network, tmp_path):
    found = face.evaluate_distribution(
        real, good, features=network, beside={"bad": bad}, out=tmp_path / "out", cache=tmp_path / "cache"
    )
    rows = {row.name: row for row in found.rows}
    assert list(rows) == [face.SYNTHETIC, "bad", face.FLOOR, face.MIXUP, face.CUTMIX]
    assert len({row.images for row in found.rows}) == 1
    for name in (face.SYNTHETIC, face.FLOOR):
        assert abs(rows[name].kid) < 4 * rows[name].kid_error
        assert rows[name].precision > 0.7
        assert set(rows[name].classes) == {"a", "b"}
        assert max(value - 4 * error for value, error in rows[name].classes.values()) < 0
    assert rows["bad"].kid > 3 * rows["bad"].kid_error
    assert min(value - 5 * error for value, error in rows["bad"].classes.values()) > 0
    assert rows["bad"].precision < 0.5
    assert rows["bad"].fid > 5 * rows[face.SYNTHETIC].fid
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert numbers["protocol"]["images_a_row"] == rows["bad"].images
    assert numbers["protocol"]["matching"].endswith("shares of the held-out ones")
    assert numbers["protocol"]["file_format"] == {"real": "png", "fake": "png"}
    assert numbers["protocol"]["feature_network"] == "net.onnx"
    assert record.read(tmp_path / "out").verb == "evaluate distribution"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Nearest neighbours" in page
    assert str(tmp_path) not in page
    assert face.MIXUP in str(found)
    again = face.evaluate_distribution(real, good, features=network, beside={"bad": bad}, cache=tmp_path / "cache")
    assert json.loads(json.dumps(again.numbers))["rows"] == numbers["rows"]


def test_all_real_images_leave_no_floor(real, good, network):
    found = face.evaluate_distribution(real, good, features=network, split="all")
    assert [row.name for row in found.rows] == [face.SYNTHETIC]
    assert found.protocol["held_out_images"] == 240


def test_a_class_that_is_missing_is_said(real, network, tmp_path):
    kinds = [0] * 30
    fake = written(tmp_path / "fake", leaves(4, kinds), kinds, "f", True)
    found = face.evaluate_distribution(real, fake, features=network)
    assert "could not be met" in found.protocol["matching"]
    assert {row.images for row in found.rows} == {30}
    assert set(found.rows[0].classes) == {"a"}
    assert found.rows[0].kid > found.rows[0].classes["a"][0]


def test_few_images_have_no_frechet_distance(real, network, tmp_path):
    fake = written(tmp_path / "fake", leaves(5, KINDS[:18]), KINDS[:18], "f", True)
    found = face.evaluate_distribution(real, fake, features=network)
    assert found.rows[0].fid is None
    assert "no FID" in str(found)
    assert json.dumps(found.numbers, allow_nan=False)


@pytest.mark.parametrize("change", [lambda x: x, lambda x: np.clip(x + 1e-4, -1, 1)], ids=["same", "as written"])
def test_images_in_both_are_refused(real, network, tmp_path, change):
    images = leaves(6, KINDS[:20])
    images[7] = change(next(dataset.read(real)).image)
    fake = written(tmp_path / "fake", images, KINDS[:20], "f", True)
    with pytest.raises(Error, match="such as 'f7'"):
        face.evaluate_distribution(real, fake, features=network)
    with pytest.raises(Error, match="240 of"):
        face.evaluate_distribution(real, real, features=network)


def test_the_feature_network_of_a_model_names_classes(real, good, tmp_path):
    import torch

    from toolkit.networks import folder
    from toolkit.settings import Network

    network = dataclasses.asdict(Network((8, 8)))
    part = {"network": network, "classes": 2, "target": "class"}
    meta = {
        "format": 1, "domain": "plant_disease", "labels": LABELS, "image_shape": list(SHAPE),
        "spec": {"shape": list(SHAPE), "fields": {}}, "parts": {"features": json.loads(json.dumps(part))},
    }  # fmt: skip
    torch.manual_seed(0)
    module = folder.build("features", meta).eval()
    folder.save_part(tmp_path / "model", "features", module.state_dict(), meta)
    opened = load_backbone(tmp_path / "model", None)
    images = leaves(7, KINDS[:10])
    with torch.inference_mode():
        expected = folder.load_part(tmp_path / "model", "features")(torch.from_numpy(images))
    features, named = opened.predict(images)
    assert features == pytest.approx(expected["features"].numpy(), abs=1e-5)
    assert named == pytest.approx(expected["log_probability"].numpy(), abs=1e-5)
    found = face.evaluate_distribution(real, good, model=tmp_path / "model")
    images, kinds = zip(*((e.image, int(e.annotation.labels["class"])) for e in dataset.read(real) if
                          dataset.fold_of(e.group) == 0), strict=True)  # fmt: skip
    hit = opened.predict(np.stack(images).astype(np.float16))[1].argmax(1) == np.array(kinds)
    balanced = np.mean([hit[np.array(kinds) == kind].mean() for kind in (0, 1)])
    assert found.held_out_named == pytest.approx(balanced)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--features FILE"),
        ({"features": "none.onnx"}, "not there"),
        ({"split": "train", "features": ""}, "a split is"),
    ],
)
def test_what_cannot_be_measured_is_refused(real, good, options, words):
    with pytest.raises(Error, match=f"(?i){words}"):
        face.evaluate_distribution(real, good, **options)


def test_a_graph_for_other_images_is_refused(real, good, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(Error, match="none that runs"):
        load_backbone(None, path)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [image], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 8, 8])])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(Error, match="takes images"):
        face.evaluate_distribution(real, good, features=path)
