"""TensorRT's place among the runtimes, as far as it goes without a GPU: the ladder, the loop, pieces of batches, doctor."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.engines import engine, signing
from export.runtime import common, nvidia, ort, trt
from toolkit.example import Error, Note

MODELS = Path(__file__).resolve().parents[1] / "models"
BRAIN = MODELS / "brain_mri"


def without_gpu() -> None:
    try:
        engine.gpu()
    except Error:
        return
    pytest.skip("a GPU is here, and what is tested is a machine without one")


def test_without_a_gpu_a_folder_opens_on_the_cpu_and_one_line_says_why():
    without_gpu()
    with pytest.warns(Note) as caught:
        model = trt.open(BRAIN)
    (line,) = [str(each.message) for each in caught]
    assert model.backend == "onnx:cpu" and "\n" not in line
    assert "runs with ONNX Runtime on the CPU. TensorRT: " in line and " ONNX Runtime on CUDA: " in line
    x = np.ones((2, *model.denoiser.spec.shape), np.float32)
    cond = {name: np.full(2, field.null, field.dtype) for name, field in model.denoiser.spec.fields.items()}
    np.testing.assert_array_equal(model.denoiser(x, 1.0, cond), ort.open(BRAIN).denoiser(x, 1.0, cond))


def test_the_last_rung_has_to_hold(tmp_path):
    without_gpu()
    root = Path(shutil.copytree(BRAIN, tmp_path / "model"))
    (root / "denoiser.onnx").unlink()
    with pytest.raises(
        Error, match=r"with none\. TensorRT: .* ONNX Runtime on the CPU: .*denoiser\.onnx, which .* lacks"
    ):
        trt.open(root)


def test_a_rung_that_holds_is_taken_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trt._first(BRAIN, {"first": lambda: 1, "second": lambda: 2}) == 1


def test_onnx_runtime_that_is_asked_for_cuda_must_be_on_it():
    """It opens a session on the CPU in its place, with no more than a warning."""
    without_gpu()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(Error, match="asked for CUDA and runs on CPUExecutionProvider"):
            nvidia.cuda_run(BRAIN / "classifier.onnx")


def test_the_modules_are_looked_for_in_order_and_a_missing_one_is_named():
    with pytest.raises(
        Error, match=r"needs no_such_trt or nor_this, and neither loads \(no_such_trt: .*; nor_this: .*diffgraft\[rtx\]"
    ):
        engine.library(("no_such_trt", "nor_this"))


def test_a_gpu_that_is_not_there_is_one_line():
    without_gpu()
    with pytest.raises(Error, match=r"^A GPU ") as caught:
        engine.gpu()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def step(tmp_path_factory) -> Path:
    """A step graph of its own, x' = c0 x + c1 previous + sigma, denoised' = x: enough to see who is handed to whom."""
    state, row = ["batch", 2], ["batch"]
    inputs = {"x": state, "previous": state, "sigma": row, "coefficients": [4]}
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in named.items()]
            for named in (inputs, {"next": state, "denoised": state})]  # fmt: skip
    take = [helper.make_tensor(name, TensorProto.INT64, [1], [n]) for n, name in enumerate(("zero", "one"))]
    nodes = [
        helper.make_node("Gather", ["coefficients", "zero"], ["c0"]),
        helper.make_node("Gather", ["coefficients", "one"], ["c1"]),
        helper.make_node("Mul", ["x", "c0"], ["a"]),
        helper.make_node("Mul", ["previous", "c1"], ["b"]),
        helper.make_node("Unsqueeze", ["sigma", "one"], ["s"]),
        helper.make_node("Add", ["a", "b"], ["ab"]),
        helper.make_node("Add", ["ab", "s"], ["next"]),
        helper.make_node("Identity", ["x"], ["denoised"]),
    ]
    path = tmp_path_factory.mktemp("step") / "step.onnx"
    graph = helper.make_graph(nodes, "step", *ends, take)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def walk(rows: int, steps: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    random = np.random.default_rng(3)
    fixed = {"x": random.random((rows, 2), np.float32), "previous": np.zeros((rows, 2), np.float32)}
    return fixed, {
        "sigma": random.random((steps, rows), np.float32),
        "coefficients": random.random((steps, 4), np.float32),
    }


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_loop_hands_next_and_denoised_on(step, steps):
    fixed, each = walk(3, steps)
    found = trt.host_loop(trt._on_cpu(step), trt.CARRY)(fixed, each)
    x, previous = fixed["x"].astype(np.float64), 0.0
    for sigma, c in zip(each["sigma"], each["coefficients"], strict=True):
        x, previous = c[0] * x + c[1] * previous + sigma[:, None], x
    np.testing.assert_allclose(found["next"], x, rtol=1e-5)
    np.testing.assert_allclose(found["denoised"], previous, rtol=1e-5)


def test_a_loop_that_agrees_is_checked_twice_and_then_trusted(step):
    reference = trt.host_loop(trt._on_cpu(step), trt.CARRY)
    calls = {"candidate": 0, "reference": 0}

    def counted(name):
        def run(fixed, each):
            calls[name] += 1
            return reference(fixed, each)

        return run

    run = trt._agreed(counted("candidate"), counted("reference"), "fp32")
    for _ in range(3):
        run(*walk(2, 3))
    assert calls == {"candidate": 5, "reference": 1}, "directly, replayed, then three times what was asked"
    run(*walk(4, 3))
    assert calls["reference"] == 2, "another batch size is another capture"


@pytest.mark.parametrize("fault", ["not finite", "off", "only when replayed"])
def test_a_loop_that_differs_gives_way(step, fault):
    reference = trt.host_loop(trt._on_cpu(step), trt.CARRY)
    calls = []

    def wrong(fixed, each):
        calls.append(1)
        found = reference(fixed, each)
        if fault == "not finite":
            return found | {"next": np.full_like(found["next"], np.nan)}
        late = fault == "only when replayed"
        return found | {"next": found["next"] * (1.1 if not late or len(calls) > 1 else 1)}

    run = trt._agreed(wrong, reference, "fp16")
    fixed, each = walk(2, 3)
    with pytest.warns(Note, match=r"Steps run with ONNX Runtime on the CPU\. TensorRT: An export must agree"):
        first = run(fixed, each)
    taken = len(calls)
    np.testing.assert_array_equal(first["next"], reference(fixed, each)["next"])
    np.testing.assert_array_equal(run(fixed, each)["next"], first["next"])
    assert len(calls) == taken, "it is not asked again"


def test_a_batch_beyond_the_profile_runs_in_pieces(step):
    plain, sizes = trt._on_cpu(step), []

    def limited(feed):
        sizes.append(len(feed["x"]))
        return plain(feed)

    run = trt.split_batches(limited, frozenset({"x", "previous", "sigma"}), 4)
    fixed, each = walk(10, 1)
    feed = fixed | {name: value[0] for name, value in each.items()}
    np.testing.assert_array_equal(run(feed)["next"], plain(feed)["next"])
    assert sizes == [4, 4, 2]
    sizes.clear()
    run({name: value[:4] if name != "coefficients" else value for name, value in feed.items()})
    assert sizes == [4]


def test_engines_are_accepted_once_and_only_if_they_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    good, made_for = ort.open(BRAIN), {"engines": ["a"]}

    def off(name: str) -> common.Run:
        run = trt._on_cpu(BRAIN / f"{name}.onnx")
        return lambda feed: {k: 1.05 * v for k, v in run(feed).items()}

    bad = common.assemble(BRAIN, good.meta, off, "bad")
    with pytest.raises(Error, match="must agree"):
        trt._accept(good, bad, "fp16", made_for)
    trt._accept(good, good, "fp16", made_for)
    trt._accept(good, bad, "fp16", made_for)  # the same engines are not checked again
    with pytest.raises(Error, match="must agree"):
        trt._accept(good, bad, "fp16", {"engines": ["b"]})
    (record,) = signing.cache_folder().glob("accepted-*")
    record.write_bytes(b"forged")
    with pytest.warns(Note, match="checked anew"), pytest.raises(Error, match="must agree"):
        trt._accept(good, bad, "fp16", made_for)


def test_what_is_not_yet_run_says_so_and_is_short():
    text = Path(nvidia.__file__).read_text()
    assert "NOT YET RUN ON HARDWARE" in nvidia.__doc__
    assert len(text.splitlines()) <= 200


def test_doctor_asks_the_runtimes_and_names_what_is_not_yet_run(tmp_path):
    import onnxruntime

    from diffgraft.deployment.doctor import lines

    shutil.copytree(BRAIN, tmp_path / "brain")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.json").write_text("{}")
    told = list(lines(tmp_path))
    assert any(line.startswith("yes  onnxruntime") and onnxruntime.__version__ in line for line in told)
    (built,) = [line for line in told if line.startswith("onnxruntime was built for: ")]
    assert "CPU" in built
    for name in trt.LABELS:
        assert any(line.startswith(f"not yet run on hardware: {name} ") for line in told)
    assert any(line.startswith("gpu: ") for line in told) and any(line.startswith("tensorrt: ") for line in told)
    (brain,) = [line for line in told if line.startswith(f"{tmp_path / 'brain'}: ")]
    assert " auto takes " in brain and "diffgraft export" in brain
    (broken,) = [line for line in told if line.startswith(f"{tmp_path / 'broken'}: ")]
    assert "must be one that diffgraft wrote" in broken
    assert told[-1].startswith("next: ")


def test_doctor_names_what_passed_for_the_present_weights(tmp_path):
    from diffgraft.deployment.doctor import lines
    from export import record
    from toolkit.models.folder import fingerprint

    root = Path(shutil.copytree(BRAIN, tmp_path / "brain"))
    files = record.hashes(root, ["denoiser.onnx", "classifier.onnx", "gradient.onnx"])
    kept = record.Record("onnx", "fp32", "none", 20, fingerprint(root), files, "onnx:cpu", "here", {})
    record.add(root, kept)
    assert any("passed the gate: onnx:fp32" in line for line in lines(tmp_path))
    (root / "denoiser.onnx").write_bytes((root / "denoiser.onnx").read_bytes() + b"\0")
    assert not any("passed the gate: onnx:fp32" in line for line in lines(tmp_path))


def test_the_benchmark_of_a_gpu_stops_with_one_line_where_there_is_none():
    without_gpu()
    script = MODELS.parent / "benchmarks" / "gpu.sh"
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("nvidia-smi"):
        pytest.skip("a driver is installed")
    done = subprocess.run(["bash", script], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and not done.stdout
    assert len(done.stderr.strip().splitlines()) == 1 and "NVIDIA" in done.stderr


def test_shares_of_nested_phases_never_fall():
    from export.engines.progress import Phases

    phases, told = Phases(), []
    phases.start("build", None, 2)
    for inner in ("copy", "tune"):
        phases.start(inner, "build", 4)
        told += [phases.step(inner, number) for number in range(4)]
        told.append(phases.finish(inner))
        told.append(phases.step("build", len(told) // 6))
    told.append(phases.finish("build"))
    assert told == sorted(told) and told[-1] == 1.0 and 0 < told[0] < told[3] <= 0.5


def test_the_runtime_needs_neither_torch_nor_a_library_to_be_imported():
    code = (
        "import sys, export.engines.engine, export.runtime.trt; "
        "print(sorted({'torch', 'onnx', 'tensorrt_rtx', 'cuda'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
