"""Every graph of every starter model builds as an engine; what goes wrong in a build is said in TensorRT's own words."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.engines import engine, signing
from export.engines.engine import Batch, Gpu
from export.graphs.folding import fold, widen_deconvolutions
from toolkit.example import Error, Note

pytestmark = pytest.mark.slow

MODELS = Path(__file__).resolve().parents[1] / "models"
GRAPHS = sorted(str(path.relative_to(MODELS)) for path in MODELS.glob("*/*.onnx"))
ADA = Gpu("Ada", engine.DEFAULT)
BATCH = Batch(1, 2, 4)


@pytest.fixture(scope="module")
def lib() -> engine.Library:
    try:
        return engine.library(("tensorrt_rtx",))
    except Error as problem:
        pytest.skip(str(problem))


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_of_the_starter_models_builds(lib, graph):
    path = MODELS / graph
    built = engine.build(path, lib, ADA, BATCH)
    model = onnx.load(path, load_external_data=False)
    assert set(built.inputs) == {value.name for value in model.graph.input}
    weights = sum(np.prod(t.dims) for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    assert len(built.content) > weights, "the weights are in the engine, in one byte each or more"
    assert all(shapes[0][0] == 1 and shapes[2][0] == 4 for shapes in built.inputs.values() if len(set(shapes)) > 1)


@pytest.mark.parametrize("model", sorted(path.parent.name for path in MODELS.glob("*/model.json")))
@pytest.mark.parametrize("fuse", ["step", "sampler"])
def test_fused_graphs_of_the_starter_models_build(lib, model, fuse, tmp_path):
    """Of two steps: a longer run repeats what is in them, and takes four times as long to build."""
    from diffgraft.deployment.fused_plan import default_settings, plan_of
    from export.sampling import sampler

    root = Path(shutil.copytree(MODELS / model, tmp_path / model))
    guided = {"classifier_guidance": 3.0} if (root / "gradient.onnx").is_file() else {}
    plan = plan_of(root, replace(default_settings(root), steps=2, **guided))
    graphs = [path for path in sampler.write(root, fuse, plan) if path.suffix == ".onnx"]
    assert graphs
    for path in graphs:
        built = engine.build(path, lib, ADA, BATCH)
        assert built.layers > 100 and len(built.content) > (root / "denoiser.safetensors").stat().st_size / 2


def small(path: Path, *nodes: onnx.NodeProto, **weights: np.ndarray) -> Path:
    """A graph x (batch, 4) -> y with those nodes and weights."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "small", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def linear(tmp_path) -> Path:
    return small(tmp_path / "linear.onnx", helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.eye(4, dtype=np.float32))


def test_what_does_not_parse_is_one_line_in_the_parsers_words(lib, tmp_path):
    """Strongly typed: nothing is cast on the way."""
    half = np.eye(4, dtype=np.float16)
    path = small(tmp_path / "mixed.onnx", helper.make_node("MatMul", ["x", "w"], ["y"]), w=half)
    with pytest.raises(
        Error, match=r"^A graph must (parse|build) in tensorrt_rtx .*mixed\.onnx does not: .*[Tt]ype"
    ) as caught:
        engine.build(path, lib, ADA)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("--to tensorrt")


def test_a_file_that_is_no_graph_is_one_line(lib, tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"\x00\x01 no graph")
    with pytest.raises(Error, match=r"^A graph must parse .* it is no ONNX graph"):
        engine.build(tmp_path / "noise.onnx", lib, ADA)


def test_axes_that_are_computed_do_not_parse_until_they_are_folded(lib, tmp_path):
    nodes = (
        helper.make_node("Constant", [], ["one"], value_ints=[-1]),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1]))),
        helper.make_node("Reshape", ["one", "shape"], ["axes"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    )
    path = small(tmp_path / "mean.onnx", *nodes)
    with pytest.raises(Error, match=r"ReduceMean.*constant"):
        engine.build(path, lib, ADA)
    model = onnx.load(path)
    assert fold(model) == 3
    onnx.save(model, path)
    assert [node.op_type for node in model.graph.node] == ["ReduceMean", "Sub"]
    assert engine.build(path, lib, ADA).inputs == {"x": ((1, 4), (4, 4), (16, 4))}


def test_a_transposed_convolution_in_bf16_builds_when_it_is_widened(lib, tmp_path):
    rows, kind = ["batch", 4, 8, 8], TensorProto.FLOAT
    x, y = (
        helper.make_tensor_value_info(name, kind, shape) for name, shape in (("x", rows), ("y", ["batch", 4, 16, 16]))
    )
    weight = numpy_helper.from_array(np.random.default_rng(0).random((4, 4, 2, 2), np.float32), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["w"], ["thin"], to=TensorProto.BFLOAT16),
        helper.make_node("ConvTranspose", ["half", "thin"], ["up"], strides=[2, 2]),
        helper.make_node("Cast", ["up"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "up", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.save(model, tmp_path / "up.onnx")
    with pytest.raises(Error, match=r"must build .* deconv"):
        engine.build(tmp_path / "up.onnx", lib, ADA)
    assert widen_deconvolutions(model) == 1
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "up.onnx")
    assert engine.build(tmp_path / "up.onnx", lib, ADA).layers > 3


def test_a_capability_that_the_library_lacks_is_refused(lib, linear):
    with pytest.raises(Error, match=r"builds for SM75.* H200 is SM90\. Take TensorRT itself"):
        engine.build(linear, lib, Gpu("H200", "9.0"))


def test_a_library_that_builds_on_the_device_says_so_without_one(lib, linear):
    with pytest.raises(Error, match=r"none here.*diffgraft\[rtx\]"):
        engine.build(linear, replace(lib, rtx=False), ADA)


def test_progress_rises_to_the_end_and_an_interruption_stops_the_build(lib, linear):
    told: list[tuple[str, int, int]] = []
    engine.build(linear, lib, ADA, watch=lambda *step: told.append(step))
    shares = [done for _, done, of in told]
    assert shares == sorted(set(shares)) and shares[-1] == 100 and len(shares) > 3
    assert {what for what, _, _ in told} == {"engine linear"} and {of for *_, of in told} == {100}

    def interrupted(what: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.build(linear, lib, ADA, watch=interrupted)


def test_engines_come_from_the_cache_and_spoilt_ones_are_built_anew(lib, linear, tmp_path):
    cache, built = tmp_path / "cache", []

    def asked(batch: Batch = BATCH) -> bytes:
        return engine.engine(linear, "weights", lib, ADA, batch, "fp32", lambda *_: built.append(1), cache)

    first = asked()
    built.clear()
    assert asked() == first and not built
    assert asked(Batch(1, 1, 2)) and built, "other shapes are another engine"
    assert len(list(cache.glob("*.engine"))) == 2
    spoilt = next(path for path in cache.glob("*.engine") if first in path.read_bytes())
    spoilt.write_bytes(first)
    built.clear()
    with pytest.warns(Note, match=r"is signed; .* is not\. It was not used: remove it. The engine is built anew"):
        asked()
    assert built and signing.MAGIC in spoilt.read_bytes()


def test_the_cache_lets_go_of_what_was_used_longest_ago(lib, linear, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "KEPT", 1)
    engine.engine(linear, "weights", lib, ADA, BATCH, "fp32", folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.engine"))


def test_kernel_times_are_kept_sealed(lib, linear, tmp_path):
    """With the cache of TensorRT itself, which RTX has too, though it leaves it empty and says it is deprecated."""
    path = tmp_path / "timing.cache"
    told = {"timing": path.name}

    def build() -> list[str]:
        trt = lib.module
        config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with engine._timed(config, replace(lib, rtx=False), path):
                pass
        return [str(each.message) for each in caught if each.category is Note]

    assert build() == [] and signing.unseal(path, told)
    assert build() == [], "what it wrote it reads"
    path.write_bytes(b"foreign")
    (note,) = build()
    assert note.endswith("Kernels are measured anew.") and signing.unseal(path, told)
