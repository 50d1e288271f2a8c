"""The gate of an export and what it keeps: on models that are known exactly, and on a small model folder in every precision."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy import stats
from test_backends import SPEC, written
from worlds import two_classes

from diffgraft import models
from diffgraft.deployment.export import export as export_model
from diffgraft.requests import ExportRequest
from diffgraft.requests.record import read as requested
from export import gate, record
from export.gate import Trial
from export.record import Record
from export.verify import LIMITS, verify
from toolkit.diffusion import editing, guidance
from toolkit.diffusion.model import Identity, Model
from toolkit.diffusion.noise import Seeded
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.diffusion.schedule import karras
from toolkit.example import Error, Note
from toolkit.models.folder import fingerprint

WORLD = two_classes(dtype="float32")
SIGMAS = (0.05, 1.0, 40.0)
META = {
    "spec": {"shape": [1, 2, 2]},
    "parts": {"denoiser": {"parameterisation": "edm"}, "classifier": {"classes": 2}},
}


class Spoilt:
    """The exact denoiser whose network's own output is off by `amount`, in turns up and down, at the sigmas `where`."""

    def __init__(self, amount: float = 0.0, where: tuple[float, ...] = SIGMAS, pause: float = 0.0) -> None:
        self.spec, self.amount, self.where, self.pause = WORLD.spec, amount, where, pause

    def __call__(self, x, sigma, *given):
        time.sleep(self.pause)
        data = self.spec.sigma_data
        out = sigma * data / (sigma**2 + data**2) ** 0.5
        signs = np.where(np.arange(x[0].size) % 2, -1.0, 1.0).reshape(x.shape[1:])
        answer = WORLD(x, sigma, *given)
        return answer + self.amount * out * signs if sigma in self.where else answer


def model(**spoilt) -> Model:
    return Model(
        Spoilt(**spoilt), Identity(), WORLD.asarray, np.asarray, "numpy", "0", meta=META,
        classifier=WORLD.log_probs, gradient=WORLD.gradient,
    )  # fmt: skip


def sampled(some: Model, count: int) -> np.ndarray:
    levels = karras(8, 10.0, 0.05)
    noise = Seeded(0, range(count), WORLD.spec.shape, some.asarray)
    denoise = guidance.conditioned(some.denoiser, WORLD.label(*(n % 2 for n in range(count))))
    return editing.generate(SAMPLERS["euler"], denoise, levels, noise, levels[0])


def trial(runs=None, judge=None) -> Trial:
    return Trial(SIGMAS, runs or {"generate": sampled}, {}, "first pixel", judge)


def first_pixel(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0]


# --------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("precision", LIMITS)
def test_a_model_is_itself(precision):
    rows = verify(model(), model(), precision, SIGMAS)
    assert {(row.output, row.sigma) for row in rows} == {
        (name, sigma) for name in ("denoised", "log_probability", "gradient") for sigma in SIGMAS
    }
    assert {row.measure for row in rows} == {"max/std" if precision == "fp32" else "rmse/std"}
    assert max(row.error for row in rows) == 0


@pytest.mark.parametrize("precision", LIMITS)
def test_an_error_is_measured_on_the_output_of_the_network(precision):
    # D hides it at the one end (c_out is small) and is lost in x at the other: F shows the same error at both
    rows = [r for r in verify(model(), model(amount=1e-3), "bf16", SIGMAS) if r.output == "denoised"]
    spreads = [1e-3 / row.error for row in rows]
    assert all(0.1 < spread < 2 for spread in spreads)
    limit = LIMITS[precision].allowed
    kept = verify(model(), model(amount=0.8 * limit * min(spreads)), precision, SIGMAS)
    assert 0.3 * limit < max(row.error for row in kept) <= limit
    for sigma, spread in zip(SIGMAS, spreads, strict=True):
        spoilt = model(amount=1.3 * limit * spread, where=(sigma,))
        with pytest.raises(Error, match=rf"denoised at sigma {sigma:.3g} differs by .*take another --precision"):
            verify(model(), spoilt, precision, SIGMAS)


def test_what_is_not_finite_is_refused():
    with pytest.raises(Error, match=r"denoised at sigma 1 is not finite"):
        verify(model(), model(amount=np.nan, where=(1.0,)), "bf16", SIGMAS)


# --------------------------------------------------------------------------------------------------------------- a run


def test_all_of_the_gate_is_passed_by_the_model_itself():
    passed = gate.check(model(), model(), trial(judge=first_pixel), "bf16")
    assert passed.run["generate"].error == 0
    assert passed.domain is not None
    assert passed.domain.images == gate.JUDGED
    assert passed.domain.low < passed.domain.fp32 == passed.domain.found < passed.domain.high
    assert [row.batch for row in passed.speed] == [1, 4]


def changed(change):
    """A run whose images are changed, of the one model but not of the other."""
    reference = model()
    return reference, trial(
        {"generate": lambda some, count: sampled(some, count) if some is reference else change(sampled(some, count))}
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: np.where(np.arange(len(images))[:, None, None, None] == 1, np.nan, images), "finite"),
        (lambda images: images * 0 - 1, "3 of 3 are black or of one grey"),
        (lambda images: np.concatenate([images[:2], images[2:] * 0 + 0.3]), "1 of 3 are black"),
        (lambda images: images + 0.2 * np.random.default_rng(0).standard_normal(images.shape), "final images"),
    ],
    ids=["nan", "black", "one of them grey", "grain"],
)
def test_images_that_show_nothing_are_refused(change, words):
    reference, run = changed(change)
    for precision in ("fp32", "fp16"):
        with pytest.raises(Error, match=words):
            gate.check(reference, model(), run, precision)


def test_what_images_show_has_to_lie_in_the_interval_of_fp32():
    ours = sampled(model(), gate.JUDGED)[:, 0, 0, 0]
    low, high = gate.bootstrap_interval(ours)
    found = gate.compare_metric("first pixel", ours, ours + (high - ours.mean()) * 0.9)
    assert (found.fp32, found.low, found.high) == pytest.approx((ours.mean(), low, high))
    with pytest.raises(Error, match=rf"first pixel within {low:.3f} to {high:.3f}"):
        gate.compare_metric("first pixel", ours, ours + (high - ours.mean()) * 1.1)
    with pytest.raises(Error, match="first pixel"):
        gate.compare_metric("first pixel", ours, ours - (ours.mean() - low) * 1.1)
    assert gate.compare_metric("all alike", np.ones(5), np.ones(5)).found == 1


def test_the_interval_is_the_bootstrap_of_scipy():
    values = np.random.default_rng(1).standard_normal(24)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert gate.bootstrap_interval(values) == pytest.approx(tuple(theirs), abs=0.05)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_is_judged_needs_a_judge(precision):
    with pytest.raises(Error, match=r"no judge.*--part features"):
        gate.check(model(), model(), trial(), precision)


def test_speed_is_how_many_times_as_fast():
    slow, fast = model(pause=0.02), model(pause=0.002)
    assert all(row.ratio > 2 for row in gate.speed(slow, fast, 1.0))
    assert all(row.ratio < 0.5 for row in gate.speed(fast, slow, 1.0))


# ---------------------------------------------------------------------------------------------------------- the record


def kept(root: Path, target="onnx", precision="fp16", fuse="none", weights="w", ran="onnx:fp16", **more) -> Record:
    (root / "denoiser.fp16.onnx").write_bytes(b"graph")
    found = Record(
        target,
        precision,
        fuse,
        20,
        weights,
        record.hashes(root, ["denoiser.fp16.onnx"]),
        ran,
        record.machine(),
        {},
        **more,
    )
    record.add(root, found)
    return found


def test_a_record_comes_back(tmp_path):
    assert record.read(tmp_path) == []
    speed = [{"batch": 1, "seconds": 0.5, "ratio": 2.5}, {"batch": 4, "seconds": 1.0, "ratio": 3.0}]
    first = kept(
        tmp_path, speed=speed, domain={"metric": "m", "images": 24, "fp32": 1, "low": 0, "high": 2, "found": 1}
    )
    second = kept(tmp_path, precision="int8", ran="onnx:int8")
    assert record.read(tmp_path) == record.valid_exports(tmp_path, "w") == [first, second]
    assert (first.ratio, second.ratio) == (2.5, 0.0)
    content = json.loads((tmp_path / "exports.json").read_text())
    assert content["format"] == 1
    assert str(tmp_path) not in json.dumps(content)
    assert not list(tmp_path.glob(".*"))


def test_a_record_of_the_same_kind_is_replaced_and_those_of_other_weights_go(tmp_path):
    kept(tmp_path)
    kept(tmp_path, fuse="step")
    newer = kept(tmp_path, ran="onnx:other")
    assert {r.fuse: r.ran for r in record.read(tmp_path)} == {"none": newer.ran, "step": "onnx:fp16"}
    last = kept(tmp_path, precision="int8", weights="others")
    assert record.read(tmp_path) == [last]
    assert record.valid_exports(tmp_path, "w") == []


def test_only_what_its_target_ran_and_is_as_it_was_may_be_run(tmp_path):
    kept(tmp_path, target="tensorrt", ran="onnx:fp16")
    assert len(record.read(tmp_path)) == 1
    assert record.valid_exports(tmp_path, "w") == []
    kept(tmp_path)
    assert [r.target for r in record.valid_exports(tmp_path, "w")] == ["onnx"]
    (tmp_path / "denoiser.fp16.onnx").write_bytes(b"another graph")
    assert record.valid_exports(tmp_path, "w") == []
    (tmp_path / "denoiser.fp16.onnx").unlink()
    assert record.valid_exports(tmp_path, "w") == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2, "exports": []}', '{"format": 1, "exports": [{}]}'])
def test_a_record_that_is_not_ours_is_refused(tmp_path, content):
    (tmp_path / "exports.json").write_text(content)
    with pytest.raises(Error, match=r"exports\.json must be one that diffgraft wrote"):
        record.read(tmp_path)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("openvino", "fp16", "none"), "in fp32, bf16, int8; found 'fp16'"),
        (("tensorrt", "int8", "none"), "in fp32, fp16, bf16; found 'int8'"),
        (("onnx", "fp8", "none"), "found 'fp8'"),
        (("onnx", "fp32", "all"), "none, step, sampler; found 'all'"),
        (("onnx", "int8", "step"), "Fused graphs are ONNX in fp32, fp16 or bf16"),
        (("openvino", "fp32", "sampler"), "Fused graphs are ONNX"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(asked, words):
    with pytest.raises(Error, match=words):
        ExportRequest("model", asked[0], None, *asked[1:])


# ------------------------------------------------------------------------------------------------- a small model folder

slow = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:copyreg"),
    pytest.mark.filterwarnings("ignore:.*The axis name. batch will not be used:UserWarning"),
]
GRAPHS = ("classifier", "denoiser", "gradient")
HALF = ("denoiser", "gradient")
"""Those that there are in fp16."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The small model of the conformance suite, exported in fp32 and fp16."""
    root = written(tmp_path_factory.mktemp("exported") / "model")
    for precision in ("fp32", "fp16"):
        export_model(root, "onnx", precision=precision)
    return root


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def state(root: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


class TestExported:
    pytestmark = slow

    def test_files_and_records(self, folder):
        graphs = {f"{name}.onnx" for name in GRAPHS} | {f"{name}.fp16.onnx" for name in HALF}
        assert {p.name for p in folder.glob("*.onnx")} == graphs
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
        fingerprint = models.open(folder, "onnx").fingerprint
        found = {r.precision: r for r in record.valid_exports(folder, fingerprint)}
        assert set(found) == {"fp32", "fp16"}
        assert set(found["fp16"].files) == {f"{name}.fp16.onnx" for name in HALF}
        assert set(found["fp16"].run) == {"generate", "guided counterfactual", "counterfactual"}
        assert found["fp32"].domain is None
        domain = found["fp16"].domain
        assert domain is not None
        assert domain["metric"] == "fall of the lesion's probability"
        outputs = {(row["output"], row["measure"]) for row in found["fp16"].parity}
        assert outputs == {
            (name + own, "rmse/std")
            for name in ("denoised", "log_probability", "gradient")
            for own in ("", ", as typed")
        }
        # ONNX Runtime's CPU computes in fp32, whatever the types; operator by operator the roundings show
        typed = [
            r["error"] for r in found["fp16"].parity if r["output"] in ("denoised, as typed", "gradient, as typed")
        ]
        assert 1e-4 < min(typed) <= max(typed) <= 5e-3
        assert str(folder) not in (folder / "exports.json").read_text()

    @pytest.mark.parametrize("name", HALF)
    def test_a_half_graph_is_typed_and_uses_the_weights_as_they_lie(self, folder, name):
        whole = onnx.load(folder / f"{name}.fp16.onnx", load_external_data=False)
        onnx.checker.check_model(str(folder / f"{name}.fp16.onnx"), full_check=True)
        ends = [*whole.graph.input, *whole.graph.output]
        assert {v.type.tensor_type.elem_type for v in ends} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
        external = {t.name for t in whole.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
        cast = {n.input[0] for n in whole.graph.node if n.op_type == "Cast"}
        wide = external & cast
        # those of the embeddings of numbers are used in fp32
        assert len(external - wide) > 2 * len(wide)
        convolutions = [n for n in whole.graph.node if n.op_type == "Conv"]
        assert convolutions
        assert all(n.input[1] in external - wide for n in convolutions)

    def test_what_overflows_as_typed_is_refused(self, copy, monkeypatch):
        # a group norm whose statistics are taken in fp16; of activations of some hundreds the squares are beyond it
        from safetensors.torch import load_file

        from export.graphs import half
        from toolkit.models.folder import read_meta
        from toolkit.networks.folder import save_part

        monkeypatch.setattr(half._Norm, "forward", lambda self, x: self.norm(x))
        weights = load_file(copy / "denoiser.safetensors")
        loud = {k: v * 4000 if k.endswith("conv_in.weight") else v for k, v in weights.items()}
        save_part(copy, "denoiser", loud, read_meta(copy))
        with pytest.raises(Error, match=r"denoised at sigma .*Nothing was kept"):
            export_model(copy, "onnx", precision="fp16")
        assert not list(copy.glob("denoiser*.onnx"))
        assert not (copy / "exports.json").exists()

    def test_bf16_is_tried_by_openvino_and_told_of_by_onnxruntime(self, copy):
        from export.runtime import openvino, ort

        if not openvino.supports("bf16"):
            pytest.skip("openvino on a CPU that computes in bf16")
        export_model(copy, "onnx", precision="bf16")
        found = {r.precision: r for r in record.read(copy)}["bf16"]
        assert found.ran == "openvino:bf16"
        assert 1e-3 < max(row["error"] for row in found.parity) <= 8e-2
        assert found not in record.valid_exports(copy, found.weights)
        with pytest.raises(Error, match="no convolutions in bf16"):
            ort.open(copy, precision="bf16")

    def test_int8_of_products(self, copy):
        written, _ = export_model(copy, "onnx", precision="int8")
        assert [p.name for p in written] == ["denoiser.int8.onnx"]
        kinds = {n.op_type for n in onnx.load(written[0], load_external_data=False).graph.node}
        assert "MatMulInteger" in kinds
        assert "Conv" in kinds
        assert "ConvInteger" not in kinds
        found = {r.precision: r for r in record.read(copy)}["int8"]
        assert 1e-5 < max(row["error"] for row in found.parity if row["output"] == "denoised") <= 8e-2

    def test_graphs_for_tensorrt_are_kept_with_a_line_where_there_is_no_device(self, copy):
        from export.engines.engine import gpu

        try:
            gpu()
        except Error:
            pass
        else:
            pytest.skip("a machine without a GPU")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            export_model(copy, "tensorrt", precision="fp16")
        notes = [str(w.message) for w in said if issubclass(w.category, Note)]
        assert len([n for n in notes if "built on the device" in n]) == 1
        found = {r.target: r for r in record.read(copy)}["tensorrt"]
        assert found.ran == "onnx:fp16"
        assert found not in record.valid_exports(copy, found.weights)

    @pytest.mark.parametrize(("precision", "kind"), [("fp32", "another weight"), ("fp16", "nan")])
    def test_a_spoilt_graph_leaves_the_folder_as_it_was(self, copy, monkeypatch, precision, kind):
        from export.graphs import onnx as graphs

        whole = graphs.point_into

        def spoilt(graph, paths):
            whole(graph, paths)
            if paths[0].name != "denoiser.safetensors":
                return
            if kind == "nan":
                few = [
                    t
                    for t in graph.graph.initializer
                    if t.data_location != onnx.TensorProto.EXTERNAL and t.data_type in (1, 10)
                ]
                few[0].CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(few[0]) * np.nan, few[0].name))
                return
            largest = max(graph.graph.initializer, key=lambda t: np.prod(t.dims) * bool(t.external_data))
            (offset,) = (e for e in largest.external_data if e.key == "offset")
            offset.value = str(int(offset.value) - 64)

        monkeypatch.setattr(graphs, "point_into", spoilt)
        before = state(copy)
        with pytest.raises(Error, match=r"denoised at sigma .* (differs by|is not finite).*Nothing was kept"):
            export_model(copy, "onnx", precision=precision)
        assert state(copy) == before

    def test_other_weights_take_all_exports_away(self, copy):
        from safetensors.torch import load_file

        from toolkit.models.folder import read_meta
        from toolkit.networks.folder import save_part

        for name in ("denoiser.int8.xml", "denoiser.int8.bin", "sampler.fp16.onnx", "sampler.fp16.json", "step.onnx"):
            (copy / name).write_bytes(b"")
        weights = load_file(copy / "denoiser.safetensors")
        save_part(copy, "denoiser", weights, read_meta(copy))
        assert (copy / "exports.json").is_file()
        save_part(copy, "denoiser", {k: v * 0.5 for k, v in weights.items()}, read_meta(copy))
        rest = {"classifier.onnx", "gradient.onnx", "gradient.fp16.onnx"}
        assert {p.name for p in copy.iterdir()} - rest == {
            "model.json",
            "denoiser.safetensors",
            "classifier.safetensors",
        }

    def test_a_new_folder_has_the_exports_that_were_asked_for_alone(self, folder, tmp_path):
        out = tmp_path / "out"
        written, _ = export_model(folder, "openvino", out)
        assert {p.name for p in written} == {f"{name}.onnx" for name in GRAPHS}
        assert {p.name for p in out.glob("*.onnx")} == {f"{name}.onnx" for name in GRAPHS}
        assert {r.key for r in record.read(out)} == {("onnx", "fp32", "none"), ("openvino", "fp32", "none")}
        kept = requested(out)
        assert kept.verb == "export" and kept.request["out"] == str(out) and kept.model == fingerprint(folder)
        assert not (folder / "request.json").exists(), "in place, exports.json says all that was requested"
        assert dataclasses.asdict(models.open(out, "openvino").denoiser.spec) == dataclasses.asdict(SPEC)
