"""OpenVINO: what is changed in a graph before it is compiled, its buffers, its precisions, int8, and what auto takes.

That it is the same function as the other backends is in test_backends.py, which it is one line of.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from diffgraft import models
from diffgraft.models import backends
from export import record
from export.runtime import common, openvino, openvino_graphs, ort
from export.verify import noisy_input, sample_conditions, verify
from toolkit.diffusion.model import Denoiser
from toolkit.example import Error, Note
from toolkit.models.folder import fingerprint

ov = pytest.importorskip("openvino", reason="openvino is not installed")
MODELS = Path(__file__).parents[1] / "models"
BRAIN, LEAF = MODELS / "brain_mri", MODELS / "plant_disease"
bf16 = pytest.mark.skipif(not openvino.supports("bf16"), reason="this CPU does not compute in bf16")


@pytest.fixture(scope="module")
def brain() -> Any:
    return openvino.open(BRAIN)


@pytest.fixture(scope="module")
def leaf() -> Any:
    return openvino.open(LEAF)


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(BRAIN, tmp_path / "copy", ignore=shutil.ignore_patterns("exports.json", "*.int8.*")))


def asked(denoiser: Denoiser, rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return noisy_input(denoiser.spec, 1.0, range(rows)), sample_conditions(denoiser.spec, rows)


def furthest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / expected.std())


# --------------------------------------------------------------------------------------------------- what it may not hide


@pytest.mark.parametrize("backend", [ort, openvino], ids=["onnx", "openvino"])
def test_no_network_computes_on_with_nan(backend):
    # OpenVINO 2026.4 makes -1 of NaN in Clip and 0 in Relu: the picture would be whole and wrong.
    model = backend.open(LEAF)
    image = np.zeros((1, *model.meta["image_shape"]), np.float32)
    latent = model.codec.encode(image)
    assert np.isfinite(latent).all()
    image[0, 0, 5, 7] = latent[0, 0, 0, 0] = np.nan
    for call, array in ((model.codec.encode, image), (model.codec.decode, latent), (model.features, image)):
        with pytest.raises(Error, match=r"finite numbers; of the .* 1 are NaN or infinite"):
            call(array)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*/*.onnx")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_graph_needs_what_runtimes_compute_differently(path):
    graph = onnx.load(path, load_external_data=False).graph
    # ONNX Runtime 1.31 loses digits in opset 21's where the mean is large beside the spread (0.37 at a mean of 1000).
    assert "GroupNormalization" not in {node.op_type for node in graph.node}
    # OpenVINO 2026.4 ignores antialias.
    assert not [a for n in graph.node if n.op_type == "Resize" for a in n.attribute if a.name == "antialias" and a.i]


# ---------------------------------------------------------------------------------------------------------- its buffers


def test_an_answer_is_not_written_over_and_inputs_are_left_alone(leaf):
    x, cond = asked(leaf.denoiser, 2)
    given = x.copy()
    first = leaf.denoiser(x, 1.0, cond)
    kept = first.copy()
    assert furthest(leaf.denoiser(2 * x, 5.0, cond), kept) > 0.1
    assert np.array_equal(first, kept)
    first *= 0  # nor does what is done with an answer reach the next one
    assert np.array_equal(leaf.denoiser(x, 1.0, cond), kept)
    assert np.array_equal(x, given)
    x *= 0.5  # inputs are read where they lie: what they hold now counts
    assert furthest(leaf.denoiser(x, 1.0, cond), kept) > 0.01


def test_any_batch_size_answers_alike(leaf):
    # more sizes than are compiled for one by one
    x, cond = asked(leaf.denoiser, 7)
    whole = leaf.denoiser(x, 1.0, cond)
    for rows in range(1, openvino.SHAPED + 3):
        found = leaf.denoiser(x[:rows], 1.0, {k: v[:rows] for k, v in cond.items()})
        assert furthest(found, whole[:rows]) < 1e-5


def test_arrays_may_lie_in_any_order_and_threads_do_not_count(leaf):
    x, cond = asked(leaf.denoiser, 2)
    expected = leaf.denoiser(np.ascontiguousarray(x[..., ::-1]), 1.0, cond)
    assert np.array_equal(leaf.denoiser(x[..., ::-1], 1.0, cond), expected)
    assert furthest(openvino.open(LEAF, threads=1).denoiser(x[..., ::-1], 1.0, cond), expected) < 1e-5


# ------------------------------------------------------------------------------------------------- what is changed before


def test_norms_are_spread_over_large_maps_only():
    read = ov.Core().read_model
    every = openvino_graphs.rewrite_group_norms(read(BRAIN / "denoiser.onnx"), 1)
    large = openvino_graphs.rewrite_group_norms(read(BRAIN / "denoiser.onnx"), openvino.PLACES_REDUCED)
    assert 5 < large < every < 40
    # layer norms and what follows no fold of a map are left
    assert openvino_graphs.rewrite_group_norms(read(MODELS / "chest_xray" / "text.onnx"), 1) == 0


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (4.0, 0.5), (-30.0, 3.0)])
def test_a_spread_norm_is_the_norm(mean, spread):
    # the variance is taken as E[x^2] - E[x]^2, which cancels where the mean is far
    from openvino import opset13 as op

    x = (mean + spread * np.random.default_rng(0).standard_normal((2, 12, 16, 8))).astype(np.float32)
    given = op.parameter([-1, 12, 16, 8], np.float32)
    folded = op.reshape(given, np.array([0, 3, -1]), special_zero=True)
    norm = op.mvn(folded, np.array([2]), True, 1e-5, "INSIDE_SQRT")
    neutral = op.add(op.multiply(norm, np.ones((1, 3, 1), np.float32)), np.zeros((1, 3, 1), np.float32))
    graph = ov.Model([op.reshape(neutral, op.shape_of(given), special_zero=False)], [given])
    groups = x.astype(float).reshape(2, 3, -1)
    expected = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    assert openvino_graphs.rewrite_group_norms(graph, 1) == 1
    assert not [node for node in graph.get_ops() if node.get_type_name() == "MVN"]
    found = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    assert np.abs(found - expected.reshape(x.shape)).max() < 1e-3


def test_a_norm_that_does_more_is_left():
    from openvino import opset13 as op

    given = op.parameter([-1, 12, 16, 8], np.float32)
    norm = op.mvn(op.reshape(given, np.array([0, 3, -1]), True), np.array([2]), True, 1e-5, "INSIDE_SQRT")
    scaled = op.add(op.multiply(norm, np.full((1, 3, 1), 2, np.float32)), np.zeros((1, 3, 1), np.float32))
    graph = ov.Model([op.reshape(scaled, op.shape_of(given), False)], [given])
    assert openvino_graphs.rewrite_group_norms(graph, 1) == 0


def test_the_gradient_does_not_take_the_weights_of_another_layout(brain):
    # convolutions and transposed ones over the same weights: without `convolved` wrong by 9 standard deviations
    reference = ort.open(BRAIN)
    x, target = noisy_input(brain.denoiser.spec, 0.05, range(3)), np.eye(2, dtype=np.float32)[[0, 1, 0]]
    assert furthest(brain.gradient(x, 0.05, target), reference.gradient(x, 0.05, target)) < 1e-4


@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 1), (2, 0))])
def test_a_transposed_convolution_becomes_a_convolution(pads):
    from openvino import opset13 as op

    random = np.random.default_rng(1)
    x, weights = (random.standard_normal(s).astype(np.float32) for s in ((2, 3, 7, 6), (3, 5, 3, 3)))
    given = op.parameter([-1, 3, 7, 6], np.float32)

    def graph() -> Any:
        answer = op.convolution_backprop_data(given, op.constant(weights), [1, 1], None, *pads, [1, 1])
        return ov.Model([answer], [given])

    changed = graph()
    assert openvino_graphs.rewrite_deconvolutions(changed) == 1
    assert "Convolution" in {node.get_type_name() for node in changed.get_ops()}
    plain, turned = (
        ov.Core().compile_model(g, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0] for g in (graph(), changed)
    )
    assert furthest(turned, plain) < 1e-5


# ------------------------------------------------------------------------------------------------------------ precisions


@bf16
def test_in_bf16_what_judges_stays_in_fp32(leaf):
    half = openvino.open(LEAF, precision="bf16")
    assert half.backend == "openvino:bf16"
    x, cond = asked(half.denoiser, 2)
    assert 1e-4 < furthest(half.denoiser(x, 1.0, cond), leaf.denoiser(x, 1.0, cond)) < 0.1
    image = half.codec.decode(x)
    assert 1e-4 < furthest(image, leaf.codec.decode(x)) < 0.1
    assert np.array_equal(half.features(image)["log_probability"], leaf.features(image)["log_probability"])


def test_a_precision_that_there_is_not_is_refused(copy):
    with pytest.raises(Error, match="fp32, bf16, int8; found 'fp16'"):
        openvino.open(BRAIN, precision="fp16")
    with pytest.raises(Error, match=r"denoiser\.int8\.xml.*--to openvino --precision int8"):
        openvino.open(copy, precision="int8")
    for name in ("denoiser.int8.xml", "denoiser.int8.bin"):
        (copy / name).write_text("<net>of other weights</net>")
    with pytest.raises(Error, match="present weights"):
        openvino.open(copy, precision="int8")


def test_a_graph_that_does_not_fit_is_named_at_its_first_use(copy):
    (copy / "denoiser.onnx").write_bytes((LEAF / "decoder.onnx").read_bytes())
    model = openvino.open(copy)  # it is an ONNX graph
    with pytest.raises(Error, match=r"denoiser\.onnx does not"):
        model.denoiser(noisy_input(model.denoiser.spec, 1.0, range(1)), 1.0, sample_conditions(model.denoiser.spec, 1))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=bf16)])
@pytest.mark.parametrize("name", ["brain_mri", "chest_xray", "detection", "plant_disease"])
def test_the_starter_models_pass(name, precision):
    # every part, at three noise levels: max/std 1e-4, or rmse/std 8e-2
    found = verify(ort.open(MODELS / name), openvino.open(MODELS / name, precision=precision), precision)
    assert {"denoised"} < {parity.output for parity in found}


# ------------------------------------------------------------------------------------------------------------------ int8


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("nncf"), reason="nncf is not installed")
@pytest.mark.filterwarnings("ignore")  # of the library that quantises and of what it imports
def test_int8_is_stable_and_near(tmp_path):
    from export.graphs.quantize import quantize, trajectories

    copy = Path(shutil.copytree(LEAF, tmp_path / "copy", ignore=shutil.ignore_patterns("exports.json", "*.int8.*")))
    written = quantize(copy)
    graphs = [f"{name}.int8.{kind}" for name in ("denoiser", "student") for kind in ("xml", "bin")]
    assert [path.name for path in written] == graphs
    assert written[1].stat().st_size < 0.75 * (copy / "denoiser.safetensors").stat().st_size
    other = tmp_path / "other"
    other.mkdir()
    again = quantize(copy, into=other)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]
    content = written[0].read_bytes() + written[1].read_bytes()
    assert not [word for word in (b"/tmp", b"/work", b"/root", b".py", bytes(tmp_path)) if word in content]
    # nncf 3.4 quantises the gate of SiLU and the softmax of attention unless it is told not to
    graph = ov.Core().read_model(written[0])
    behind = {
        target.get_node().get_type_name()
        for node in graph.get_ops() if node.get_type_name() == "FakeQuantize"
        for target in node.output(0).get_target_inputs()
    }  # fmt: skip
    assert behind == {"Convolution"}
    whole, small = openvino.open(copy), openvino.open(copy, precision="int8")
    assert small.backend == "openvino:int8"
    # on other noise than it was calibrated on, on the way where images are made
    for feed in trajectories(whole, whole.denoiser, seed=9)[::5]:
        x, sigma, cond = feed["x"], feed["sigma"], {k: v for k, v in feed.items() if k not in ("x", "sigma")}
        expected = whole.denoiser(x, sigma, cond)
        error = np.sqrt(np.square(small.denoiser(x, sigma, cond) - expected).mean()) / expected.std()
        assert 1e-5 < error < 8e-2, "in int8 it cannot be exact"
    # other weights: the quantised ones are of the old
    path = copy / "features.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Error, match="present weights"):
        openvino.open(copy, precision="int8")


# -------------------------------------------------------------------------------------------------------- what auto takes


def passed(root: Path, target: str, precision: str, ratio: float, **changes: Any) -> None:
    """Say of a folder that an export passed its gate."""
    row = record.Record(
        target=target, precision=precision, fuse="none", opset=20, weights=fingerprint(root),
        files=record.hashes(root, ["denoiser.onnx"]), ran=f"{target}:{precision}", machine="", versions={},
        speed=[{"batch": 1, "seconds": 1 / ratio, "ratio": ratio}],
    )  # fmt: skip
    record.add(root, dataclasses.replace(row, **changes))


def test_auto_takes_what_passed_and_is_faster(copy):
    assert models.open(copy).backend == "onnx:cpu"
    passed(copy, "onnx", "fp32", 2.0)
    passed(copy, "openvino", "fp32", 2.09)
    assert models.open(copy).backend == "onnx:cpu"  # not worth it
    passed(copy, "openvino", "fp32", 2.11)
    assert models.open(copy).backend == "openvino:fp32"
    passed(copy, "tensorrt", "fp64", 90.0)  # no such precision
    assert models.open(copy).backend == "openvino:fp32"


@bf16
def test_auto_takes_the_fastest(copy):
    for precision, ratio in (("fp32", 2.2), ("bf16", 3.0)):
        passed(copy, "openvino", precision, ratio)
    assert models.open(copy).backend == "openvino:bf16"


@pytest.mark.parametrize(
    "changes",
    [{"weights": "0" * 64}, {"files": {"denoiser.onnx": "0" * 64}}, {"ran": "torch:bf16"}, {"fuse": "sampler"}],
)
def test_auto_takes_nothing_that_did_not_pass_as_it_lies_there(copy, changes):
    passed(copy, "openvino", "fp32", 9.0, **changes)
    assert models.open(copy).backend == "onnx:cpu"


def test_auto_passes_over_what_does_not_open(copy):
    passed(copy, "openvino", "int8", 9.0)
    with pytest.warns(Note, match="openvino:int8 passed its gate but does not open here"):
        assert models.open(copy).backend == "onnx:cpu"


@pytest.mark.parametrize("name", ["cuda", "openvino:fp16", "torch:bf16", "", ":", "auto:fp16"])
def test_a_backend_that_there_is_not_is_refused(name):
    with pytest.raises(Error, match="backend"):
        models.open(BRAIN, name)


def test_a_backend_is_opened_by_name_and_precision():
    assert models.open(BRAIN, "openvino").backend == "openvino:fp32"
    assert models.open(BRAIN, "onnx:fp32").backend == "onnx:cpu"
    assert set(backends.backend_names()) >= {"auto", "onnx", "openvino:int8", "tensorrt:bf16", "torch"}
    assert set(common.PRECISIONS) >= set(openvino.PRECISIONS)


def test_the_command_line_names_them_all():
    from diffgraft.cli.main import Backend

    assert set(Backend) <= set(backends.backend_names())
    assert {each.partition(":")[0] for each in Backend} == {"auto", *backends.PRECISIONS}
