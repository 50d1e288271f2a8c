"""One conformance suite for every backend, on one small model folder that is written and exported once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from domains import brain_mri
from export.graphs.external import SMALL, embedded_bytes
from export.graphs.onnx import OPSET, export
from export.runtime import openvino, ort
from toolkit.diffusion.model import Model, Spec
from toolkit.diffusion.noise import Purpose, Seeded, gaussian
from toolkit.example import Annotation, Error
from toolkit.methods.counterfactual import counterfactual
from toolkit.models.folder import read_meta, spec_of
from toolkit.networks import folder as torch_folder
from toolkit.settings import Counterfactual, Network

pytestmark = [
    pytest.mark.slow,
    # torch.onnx and torch.export warn about themselves: deprecated pytree calls, an axis name that is used twice
    pytest.mark.filterwarnings("ignore::FutureWarning:copyreg"),
    pytest.mark.filterwarnings("ignore:.*The axis name. batch will not be used:UserWarning"),
]

BACKENDS = {"torch": lambda root: torch_folder.open(root, "cpu"), "onnx": ort.open, "openvino": openvino.open}
"""Name -> open(folder) -> Model. A new backend is a line here and passes what follows."""

GRAPHS = {"denoiser": "denoiser", "classifier": "classifier", "gradient": "classifier"}
"""Graph -> the part whose weights it uses."""

SPEC = Spec((1, 16, 24), brain_mri.FIELDS)
SIGMAS = (SPEC.sigma_min, 1.0, SPEC.sigma_max)
PARTS = {
    "denoiser": {"network": Network((8, 16), norm_groups=4, attention_head_dim=8), "parameterisation": "edm"},
    # 64 channels, so that the affine part of a norm is among the weights that must not be stored twice
    "classifier": {"network": Network((8, 64), norm_groups=4), "classes": 2},
}


def written(root: Path, seed: int = 1) -> Path:
    """A model folder with random weights, none of them zero: a fresh network would answer zero and prove nothing."""
    meta = {"format": 1, "domain": "brain_mri", "spec": SPEC, "parts": PARTS}
    meta = json.loads(json.dumps(meta, default=dataclasses.asdict))
    random = torch.Generator().manual_seed(seed)
    for part in PARTS:
        torch.manual_seed(seed)
        weights = torch_folder.build(part, meta).state_dict()
        changed = {k: v + 0.1 * torch.randn(v.shape, generator=random) for k, v in weights.items()}
        torch_folder.save_part(root, part, changed, meta)
    return root


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    root = written(tmp_path_factory.mktemp("conformance") / "model")
    assert [path.name for path in export(root)] == [f"{name}.onnx" for name in GRAPHS]
    return root


@pytest.fixture(scope="session")
def models(folder) -> dict[str, Model]:
    return {name: open_(folder) for name, open_ in BACKENDS.items()}


@pytest.fixture(params=BACKENDS)
def model(request, models) -> Model:
    return models[request.param]


@pytest.fixture(scope="session")
def modules(folder) -> dict[str, torch.nn.Module]:
    """The reference: the plain torch modules, called directly."""
    return {part: torch_folder.load_part(folder, part) for part in PARTS}


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A copy of the model folder to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def images(count: int, seed: int = 0) -> np.ndarray:
    return gaussian(SPEC.shape, seed, range(count), Purpose.START, 0) * np.float32(SPEC.sigma_data)


def noisy(count: int, sigma: float, seed: int = 0) -> np.ndarray:
    return images(count, seed) + np.float32(sigma) * gaussian(SPEC.shape, seed, range(count), Purpose.KNOWN, 0)


def conds(count: int, lesion: float | None = None) -> dict[str, np.ndarray]:
    """Conditions that differ from row to row, or with one label."""
    rows = [{"lesion": [0.0, 1.0, np.nan][n % 3], "position": [0.2, np.nan, 0.9, 0.5][n % 4]} for n in range(count)]
    return dict(brain_mri.condition([Annotation(labels=r if lesion is None else r | {"lesion": lesion}) for r in rows]))


def one_hot(count: int, place: int | None = None) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[[n % 2 if place is None else place for n in range(count)]]


def on(model: Model, *values: Any) -> list[Any]:
    """Arrays and conditions, handed to the backend."""
    return [
        {k: model.asarray(v) for k, v in value.items()} if isinstance(value, dict) else model.asarray(value)
        for value in values
    ]


def denoised(model: Model, x: np.ndarray, sigma: Any, *conditions: dict[str, np.ndarray]) -> Any:
    level = model.asarray(sigma) if isinstance(sigma, np.ndarray) else sigma
    answer = model.denoiser(on(model, x)[0], level, *on(model, *conditions))
    return tuple(model.asnumpy(a) for a in answer) if isinstance(answer, tuple) else model.asnumpy(answer)


def reference(module: torch.nn.Module, x: np.ndarray, sigma: Any, **cond: np.ndarray) -> np.ndarray:
    """The module, one row at a time: no batch, no joining of conditions."""
    levels = np.broadcast_to(np.asarray(sigma, np.float32), (len(x),)).copy()
    with torch.no_grad():
        rows = [
            module(*(torch.from_numpy(v[n : n + 1]) for v in (x, levels)),
                   **{k: torch.from_numpy(v[n : n + 1]) for k, v in cond.items()})
            for n in range(len(x))
        ]  # fmt: skip
    return torch.cat(rows).numpy()


def autograd(module: torch.nn.Module, x: np.ndarray, sigma: float, target: np.ndarray) -> np.ndarray:
    point = torch.from_numpy(x.copy()).requires_grad_(True)
    (module(point, torch.full((len(x),), sigma)) * torch.from_numpy(target)).sum().backward()
    assert point.grad is not None
    return point.grad.numpy()


def furthest(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in standard deviations of what is expected."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_denoiser_is_the_module(model, modules, sigma):
    x, cond = noisy(5, sigma), conds(5)
    expected = reference(modules["denoiser"], x, sigma, **cond)
    found = denoised(model, x, sigma, cond)
    assert found.dtype == np.float32
    assert furthest(found, expected) <= 1e-4 * max(1, sigma / SPEC.sigma_data)
    # The network's own output, which D hides at a small sigma. At sigma_min the difference D - c_skip x is itself
    # exact to the rounding of x only, hence the 2e-7.
    skip, out = SPEC.sigma_data**2 / (total := sigma**2 + SPEC.sigma_data**2), sigma * SPEC.sigma_data / total**0.5
    own = (expected - skip * x) / out
    assert own.std() > 0.2
    assert np.abs(found - expected).max() / out <= 1e-4 * own.std() + 2e-7 * np.abs(x).max() / out * (sigma < 0.1)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_what_the_denoiser_is_told_matters(model, sigma):
    # without this the parity of conditions would be vacuous
    x = noisy(3, sigma)
    out = sigma * SPEC.sigma_data / (sigma**2 + SPEC.sigma_data**2) ** 0.5
    plain = denoised(model, x, sigma, conds(3, 0.0))
    assert np.abs(denoised(model, x, sigma, conds(3, 1.0)) - plain).max() / out > 0.01
    moved = conds(3, 0.0) | {"position": np.array([0.9, 0.1, 0.1], np.float32)}
    assert np.abs(denoised(model, x, sigma, moved) - plain).max() / out > 0.01
    assert np.abs(denoised(model, x, sigma * 1.5, conds(3, 0.0)) - plain).max() / out > 0.01


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_classifier_is_the_module(model, modules, sigma):
    x = noisy(5, sigma)
    expected = reference(modules["classifier"], x, sigma)
    assert model.classifier is not None
    found = model.asnumpy(model.classifier(model.asarray(x), sigma))
    assert found.shape == (5, 2)
    assert furthest(found, expected) <= 1e-4
    assert np.exp(found).sum(1) == pytest.approx(1, abs=1e-5)
    assert np.abs(np.diff(expected[:, 0])).max() > 1e-3, "all images alike would prove nothing"


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_gradient_is_autograd(model, modules, sigma):
    x = noisy(5, sigma)
    for target in (one_hot(5), one_hot(5, 1), np.array([[0.25, 2.0]] * 5, np.float32)):
        expected = autograd(modules["classifier"], x, sigma, target)
        assert model.gradient is not None
        found = model.asnumpy(model.gradient(*on(model, x), sigma, *on(model, target)))
        assert found.dtype == np.float32
        assert furthest(found, expected) <= 1e-4
        assert expected.std() > 0


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_gradient_is_the_slope_of_the_classifier(model, sigma):
    x, target = noisy(3, sigma), one_hot(3, 1)
    assert model.gradient is not None
    assert model.classifier is not None

    def log_probability(at: np.ndarray) -> np.ndarray:
        return model.asnumpy(model.classifier(model.asarray(at.astype(np.float32)), sigma))[:, 1].astype(float)

    slope = model.asnumpy(model.gradient(*on(model, x), sigma, *on(model, target))).astype(float)
    length = np.sqrt((slope**2).sum((1, 2, 3), keepdims=True))
    random = gaussian(SPEC.shape, 5, range(3), Purpose.START, 0)
    for direction in (slope / length, random / np.sqrt((random**2).sum((1, 2, 3), keepdims=True))):
        step = 0.05 * max(1, sigma)
        found = (log_probability(x + step * direction) - log_probability(x - step * direction)) / (2 * step)
        expected = (slope * direction).sum((1, 2, 3))
        assert np.abs(found - expected).max() < 0.02 * length.max(), (found, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_row_does_not_depend_on_its_batch(model, count):
    # a row of its own sigma each
    sigma = np.array([0.05, 80, 1, 0.002, 14], np.float32)[:count]
    x = np.concatenate([noisy(n + 1, s)[n:] for n, s in enumerate(sigma)])
    alone = [denoised(model, x[n : n + 1], sigma[n : n + 1], {k: v[n : n + 1] for k, v in conds(count).items()})
             for n in range(count)]  # fmt: skip
    together = denoised(model, x, sigma, conds(count))
    assert together.shape == (count, *SPEC.shape)
    for row, expected in zip(together, alone, strict=True):
        assert furthest(row[None], expected) <= 1e-5
    for call, more in ((model.classifier, []), (model.gradient, [one_hot(count)])):
        whole = model.asnumpy(call(*on(model, x, sigma, *more)))
        rows = [call(*on(model, *(v[n : n + 1] for v in (x, sigma, *more)))) for n in range(count)]
        expected = np.concatenate([model.asnumpy(row) for row in rows])
        assert np.abs(whole - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_several_conditions_at_once_are_the_same_one_by_one(model, count):
    x, sigma = noisy(count, 1.0), 1.0
    asked = [conds(count, 0.0), conds(count, np.nan), conds(count, 1.0)]
    one_by_one = [denoised(model, x, sigma, cond) for cond in asked]
    for number in (2, 3):
        answers = denoised(model, x, sigma, *asked[:number])
        assert isinstance(answers, tuple)
        assert len(answers) == number
        for found, expected in zip(answers, one_by_one[:number], strict=True):
            assert furthest(found, expected) <= 1e-5
    assert furthest(one_by_one[0], one_by_one[2]) > 1e-2


def test_sigma_is_a_number_or_one_a_row(model):
    x, cond = noisy(3, 1.0), conds(3)
    expected = denoised(model, x, 1.0, cond)
    assert np.array_equal(denoised(model, x, np.ones(3, np.float32), cond), expected)
    assert np.array_equal(denoised(model, x, np.float64(1.0), cond), expected)
    assert np.array_equal(denoised(model, x, 1, cond), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(model, bad):
    # OpenVINO 2026.4 makes numbers of NaN in Clip and Relu, so that the answer would not show it.
    x, cond = noisy(2, 1.0), conds(2)
    spoilt, told = x.copy(), {k: v.copy() for k, v in cond.items()}
    spoilt[1, 0, 3, 4] = bad
    told["position"][0] = bad
    for images, sigma, labels in ((spoilt, 1.0, cond), (x, bad, cond), (x, 1.0, told)):
        with pytest.raises(Error, match=r"finite numbers; of the .* are NaN or infinite"):
            denoised(model, images, sigma, labels)
        with pytest.raises(Error, match="finite numbers"):
            denoised(model, images, sigma, labels, cond)
    assert model.classifier is not None and model.gradient is not None
    with pytest.raises(Error, match="input 'x' 1 are NaN"):
        model.classifier(model.asarray(spoilt), 1.0)
    with pytest.raises(Error, match="input 'x' 1 are NaN"):
        model.gradient(model.asarray(spoilt), 1.0, model.asarray(one_hot(2)))


def test_arguments_are_left_alone(model):
    x, cond, target = noisy(3, 1.0), conds(3), one_hot(3)
    arrays = on(model, x, cond, target)
    denoised(model, x, 1.0, cond, cond)
    assert model.gradient is not None
    model.gradient(arrays[0], 1.0, arrays[2])
    assert np.array_equal(model.asnumpy(arrays[0]), noisy(3, 1.0))
    assert np.array_equal(model.asnumpy(arrays[2]), one_hot(3))
    assert all(np.array_equal(model.asnumpy(v), cond[k]) for k, v in arrays[1].items())


def test_arrays_of_any_layout_are_taken(model):
    # a mirrored view has negative strides, and a slice of a volume is not contiguous
    x, cond = noisy(3, 1.0), conds(3)
    expected = denoised(model, np.ascontiguousarray(x[..., ::-1]), 1.0, cond)
    assert np.array_equal(denoised(model, x[..., ::-1], 1.0, cond), expected)


def test_backends_tell_the_same_about_the_folder(models, folder):
    kinds = {name: model.backend.partition(":")[0] for name, model in models.items()}
    assert kinds == {name: name for name in BACKENDS}
    for model in models.values():
        assert model.denoiser.spec == SPEC == spec_of(read_meta(folder))
        assert model.meta == read_meta(folder)
        assert len(model.fingerprint) == 64
        assert model.fingerprint == models["torch"].fingerprint


def test_noise_has_the_same_bits(models):
    draws = []
    for model in models.values():
        noise = Seeded(7, (3, 5), SPEC.shape, model.asarray)
        draws.append([model.asnumpy(noise(step, purpose)) for step in (0, 9) for purpose in Purpose])
    for other in draws[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in draws[0]]
    assert all(a.dtype == np.float32 for a in draws[0])


# --------------------------------------------------------------------------------------------------- the whole method

RECIPES = {
    "label": Counterfactual(strengths=(0.3, 0.6), steps=6),
    "classifier-free": Counterfactual(strengths=(0.5,), steps=6, guidance=2.5, mirror=False),
    "classifier": Counterfactual(strengths=(0.5,), steps=6, guidance=0.0, classifier_guidance=10.0),
    "both, heun": Counterfactual(
        strengths=(0.4,), steps=4, sampler="heun", guidance=1.5, classifier_guidance=5.0, guidance_low=0.1, mirror=False
    ),
}


def healed(model: Model, settings: Counterfactual, count: int = 3) -> np.ndarray:
    x = np.tanh(images(count, seed=2))
    return counterfactual(model, x, conds(count, np.nan), conds(count, 0.0), one_hot(count, 0), settings)


@pytest.mark.parametrize("name", RECIPES)
def test_counterfactuals_of_two_backends_agree(models, name):
    settings, x = RECIPES[name], np.tanh(images(3, seed=2))
    found = {backend: healed(model, settings) for backend, model in models.items()}
    # the change is compared: the images agree anyhow, since both keep the anatomy
    expected = found["torch"] - x
    assert np.abs(expected).mean() > 0.01
    for image in found.values():
        assert image.dtype == np.float32
        assert image.shape == x.shape
        assert np.corrcoef((image - x).ravel(), expected.ravel())[0, 1] > 0.999
        assert furthest(image - x, expected) < 1e-3
    # what steers it has a part in it
    off = dataclasses.replace(settings, guidance=0.0, classifier_guidance=0.0)
    assert np.abs(healed(models["torch"], off) - found["torch"]).max() > 0.01


# --------------------------------------------------------------------------------------------------------- the graphs


def graph(folder: Path, name: str) -> onnx.ModelProto:
    return onnx.load(folder / f"{name}.onnx", load_external_data=False)


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", GRAPHS)
def test_only_the_batch_is_dynamic(folder, name):
    values = [*graph(folder, name).graph.input, *graph(folder, name).graph.output]
    assert {dimensions(value)[0] for value in values} == {"batch"}
    shapes = {value.name: tuple(dimensions(value)[1:]) for value in values}
    assert shapes.pop("x") == SPEC.shape
    fixed = {"sigma": (), "denoised": SPEC.shape, "gradient": SPEC.shape, "log_probability": (2,), "target": (2,)}
    assert shapes == {k: fixed.get(k, ()) for k in shapes}


def test_the_inputs_are_the_fields(folder):
    fields = list(read_meta(folder)["spec"]["fields"])
    inputs = {name: [value.name for value in graph(folder, name).graph.input] for name in GRAPHS}
    assert fields == list(brain_mri.FIELDS)
    assert inputs == {
        "denoiser": ["x", "sigma", *fields],
        "classifier": ["x", "sigma"],
        "gradient": ["x", "sigma", "target"],
    }
    kinds = {v.name: v.type.tensor_type.elem_type for v in graph(folder, "denoiser").graph.input}
    types = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
    assert kinds == {"x": 1, "sigma": 1} | {k: types[f.dtype] for k, f in SPEC.fields.items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_of_plain_operators(folder, name):
    model = graph(folder, name)
    onnx.checker.check_model(str(folder / f"{name}.onnx"), full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import if o.domain == ""] == [("", OPSET)]
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    used = {node.op_type for node in model.graph.node}
    # TensorRT parses neither; a gather of labels is what their backward would come from
    assert used.isdisjoint({"ScatterElements", "ScatterND", "GatherElements"})
    # ONNX Runtime 1.31 loses digits in it where the mean is large beside the spread; ours is an InstanceNormalization
    assert "GroupNormalization" not in used
    # OpenVINO 2026.4 ignores antialias
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    assert not [a for node in resizes for a in node.attribute if a.name == "antialias" and a.i]


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_of_this_machine_is_in_a_graph(folder, name):
    content = (folder / f"{name}.onnx").read_bytes()
    traces = [b"/work", b"site-packages", b".py", b"/tmp", b"/root", str(folder).encode(), b"Traceback", b"torch.nn"]
    traces += [os.fsencode(Path.home()), b"pkg.torch", b"stack_trace"]
    assert [t for t in traces if t in content] == []
    model = graph(folder, name)
    items = [model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]
    assert [item for item in items if len(item.metadata_props) or item.doc_string] == []
    assert model.producer_name == "diffgraft"


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_are_stored_once(folder, name):
    model, weights = graph(folder, name), folder / f"{GRAPHS[name]}.safetensors"
    content = weights.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = {k: v for k, v in json.loads(content[8:start]).items() if k != "__metadata__"}
    places: dict[tuple[int, int], str] = {}
    for key, entry in header.items():
        low, high = entry["data_offsets"]
        places[start + low, high - low] = key
        assert entry["dtype"] == "F16"
    used = Counter()
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = {entry.key: entry.value for entry in tensor.external_data}
            assert where.pop("location") == weights.name
            key = places[int(where["offset"]), int(where["length"])]
            shapes = [sorted(d for d in dims if d > 1) for dims in (tensor.dims, header[key]["shape"])]
            assert shapes[0] == shapes[1]
            assert tensor.data_type == onnx.TensorProto.FLOAT16
            used[key] += 1
    # once each; a gradient refers to a norm's weights forwards and backwards
    assert set(used.values()) <= ({1, 2} if name == "gradient" else {1})
    assert max(embedded_bytes(model)) <= 8 * SMALL
    assert sum(embedded_bytes(model)) < 0.1 * len(content)
    large = {k for k, entry in header.items() if np.prod(entry["shape"]) >= SMALL}
    assert len(large) > 15
    assert large == set(used)


def test_the_folder_holds_what_it_should(folder):
    names = {f"{part}.safetensors" for part in PARTS} | {f"{name}.onnx" for name in GRAPHS} | {"model.json"}
    assert {path.name for path in folder.iterdir()} == names


def test_a_model_folder_can_be_moved(copy, models, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, open_ in BACKENDS.items():
        moved = open_(Path("copy"))
        expected = denoised(models[name], noisy(2, 1.0), 1.0, conds(2))
        assert np.array_equal(denoised(moved, noisy(2, 1.0), 1.0, conds(2)), expected)


def test_a_graph_reads_the_weights_of_the_folder(copy):
    # the proof that weights are not in the graph: other weights in the file, another answer
    path = copy / "denoiser.safetensors"
    before = denoised(BACKENDS["onnx"](copy), noisy(2, 1.0), 1.0, conds(2))
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = (np.frombuffer(content, np.float16, offset=start) * np.float16(0.5)).tobytes()
    path.write_bytes(content)
    after = denoised(BACKENDS["onnx"](copy), noisy(2, 1.0), 1.0, conds(2))
    assert np.abs(after - before).max() > 0.01


# ----------------------------------------------------------------------------------------------------- without torch

FRESH = """
import sys
import numpy as np
import export.runtime.ort
from domains import brain_mri
from toolkit.example import Annotation
from toolkit.methods.counterfactual import counterfactual
from toolkit.settings import Counterfactual

model = export.runtime.ort.open(sys.argv[1])
x = np.load(sys.argv[2])
rows = [[Annotation(labels={"lesion": v, "position": 0.5})] * len(x) for v in (np.nan, 0.0)]
null, wanted = map(brain_mri.condition, rows)
settings = Counterfactual(strengths=(0.5,), steps=4, classifier_guidance=10.0)
weights = np.tile(np.array([[1, 0]], np.float32), (len(x), 1))
np.save(sys.argv[3], counterfactual(model, x, null, wanted, weights, settings))
heavy = {"torch", "diffusers", "accelerate", "onnx", "onnxscript", "sklearn", "monai", "transformers", "safetensors"}
print(model.backend, *sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
assert "torch" not in sys.modules
"""


def test_a_fresh_process_needs_no_torch(folder, models, tmp_path):
    x = np.tanh(images(2, seed=4))
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FRESH, str(folder), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["onnx:cpu"]
    assert "torch" in sys.modules, "else the question would be no question"
    null, wanted = (brain_mri.condition([Annotation(labels={"lesion": v, "position": 0.5})] * 2) for v in (np.nan, 0.0))
    settings = Counterfactual(strengths=(0.5,), steps=4, classifier_guidance=10.0)
    expected = counterfactual(models["torch"], x, null, wanted, one_hot(2, 0), settings)
    assert np.abs(np.load(tmp_path / "y.npy") - expected).max() < 1e-4
    assert np.abs(expected - x).max() > 0.01


# ------------------------------------------------------------------------------------------------------------ errors


def refused(open_: Any, root: Path, words: str) -> None:
    with pytest.raises(Error, match=words) as problem:
        open_(root)
    assert len(str(problem.value).splitlines()) == 1
    assert 30 < len(str(problem.value)) < 600


@pytest.mark.parametrize("name", GRAPHS)
def test_a_missing_graph_is_named(copy, name):
    (copy / f"{name}.onnx").unlink()
    refused(BACKENDS["onnx"], copy, rf"{name}\.onnx.*diffgraft export")
    BACKENDS["torch"](copy)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x0a" * 50])
def test_a_damaged_graph_is_named(copy, name, content):
    (copy / f"{name}.onnx").write_bytes(content)
    refused(BACKENDS["onnx"], copy, rf"{name}\.onnx.*diffgraft export")


@pytest.mark.parametrize("open_", BACKENDS.values(), ids=BACKENDS)
class TestAFolderThatIsNoModel:
    def test_without_model_json(self, open_, copy):
        (copy / "model.json").unlink()
        refused(open_, copy, r"model\.json")

    def test_nothing_there_at_all(self, open_, tmp_path):
        refused(open_, tmp_path / "nowhere", r"model\.json")

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"spec": {}}', '{"spec": 5}', "\x00"])
    def test_with_a_spoilt_model_json(self, open_, copy, content):
        (copy / "model.json").write_text(content)
        refused(open_, copy, r"model\.json")

    def test_without_weights(self, open_, copy):
        for path in copy.glob("*.safetensors"):
            path.unlink()
        refused(open_, copy, "safetensors")

    @pytest.mark.parametrize("part", PARTS)
    def test_without_the_weights_of_a_part(self, open_, copy, part):
        (copy / f"{part}.safetensors").unlink()
        refused(open_, copy, rf"{part}\.safetensors")

    @pytest.mark.parametrize("part", PARTS)
    def test_with_half_the_weights_of_a_part(self, open_, copy, part):
        path = copy / f"{part}.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refused(open_, copy, part)

    def test_without_a_denoiser(self, open_, copy):
        meta = json.loads((copy / "model.json").read_text())
        del meta["parts"]["denoiser"]
        (copy / "model.json").write_text(json.dumps(meta))
        for path in copy.glob("denoiser.*"):
            path.unlink()
        refused(open_, copy, "denoiser.*--part denoiser")

    def test_without_a_classifier_it_still_denoises(self, open_, copy):
        meta = json.loads((copy / "model.json").read_text())
        del meta["parts"]["classifier"]
        (copy / "model.json").write_text(json.dumps(meta))
        for name in ("classifier.safetensors", "classifier.onnx", "gradient.onnx"):
            (copy / name).unlink()
        model = open_(copy)
        assert model.classifier is None
        assert model.gradient is None
        assert np.isfinite(healed(model, RECIPES["classifier-free"])).all()
        with pytest.raises(Error, match="--part classifier"):
            healed(model, RECIPES["classifier"])


def test_weights_of_another_network_are_refused(copy):
    meta = json.loads((copy / "model.json").read_text())
    meta["parts"]["denoiser"]["network"]["channels"] = [8, 24]
    (copy / "model.json").write_text(json.dumps(meta))
    refused(BACKENDS["torch"], copy, r"denoiser\.safetensors")


@pytest.mark.parametrize("part", PARTS)
def test_new_weights_take_the_old_graphs_away(copy, part):
    # small constants of the old weights are in the old graphs: with new weights they would answer nonsense, silently
    meta = read_meta(copy)
    same = load_file(copy / f"{part}.safetensors")
    torch_folder.save_part(copy, part, same, meta)
    assert {path.stem for path in copy.glob("*.onnx")} == set(GRAPHS)
    torch_folder.save_part(copy, part, {k: v * 0.5 for k, v in same.items()}, meta)
    assert {path.stem for path in copy.glob("*.onnx")} == {name for name, of in GRAPHS.items() if of != part}
    refused(BACKENDS["onnx"], copy, "diffgraft export")


def test_weights_beyond_half_precision_are_refused(tmp_path, copy):
    weights = load_file(copy / "denoiser.safetensors")
    before = (copy / "denoiser.safetensors").read_bytes()
    name = next(iter(weights))
    too_large = {k: v.float() + (1e6 if k == name else 0) for k, v in weights.items()}
    with pytest.raises(Error, match="fp16"):
        torch_folder.save_part(copy, "denoiser", too_large, read_meta(copy))
    assert (copy / "denoiser.safetensors").read_bytes() == before
