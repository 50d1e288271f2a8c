"""No figure comes of a training that went wrong: no bf16 on maps of one pixel, and an Error for whatever is not finite.

On processors with AVX-512 the gradient of the weight of a convolution with a stride is wrong in bf16 where a map is one pixel
wide (see toolkit/networks/strided.py). The geometry is tested on any processor, `careless` does to gradients what such a
processor may do, and `written` gives it the memory with which it does.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from diffgraft.evaluation.boxes import judges
from diffgraft.evaluation.data import Real
from diffgraft.models.features import extract_features
from diffgraft.training import report
from domains import detection as smears
from toolkit.data import labels
from toolkit.diffusion.model import Identity, Model, Spec
from toolkit.evaluation import anomaly, classification, detect_downstream, downstream, findings
from toolkit.evaluation.detection.metrics import Detections, decode
from toolkit.evaluation.downstream import Arm, Labelled, Recipe
from toolkit.example import Annotation, Boxes, Error, Example
from toolkit.methods import dataset_expansion
from toolkit.models.folder import image_shape, read_meta, spec_of
from toolkit.networks import folder, pretrained, strided
from toolkit.networks.detector import Detector
from toolkit.networks.features import FeatureNet
from toolkit.settings import Augmentation, Training
from toolkit.training.loader import Batch
from toolkit.training.loop import Samples, fit
from toolkit.training.losses import clean_classification, denoising
from toolkit.training.textual_inversion import Words

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(path.parent for path in (ROOT / "models").glob("*/model.json"))
PARTS = [(root, part) for root in SHIPPED for part in read_meta(root)["parts"] if part != "text"]
SIZES = [*((n, n) for n in (16, 24, 32, 48, 64, 96, 128, 192)), (64, 128), (128, 64), (144, 192), (192, 144), (16, 128)]
SHORT = Training(3, 8, 2e-3, warmup=1, ema=0.9)


def ids(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


@contextlib.contextmanager
def calls():
    """What convolutions with a stride are called with: (least side of their maps, dtype that they compute in)."""
    seen: list[tuple[int, torch.dtype]] = []

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1:
            assert isinstance(output, Tensor)
            assert strided.sides(layer, inputs[0])[2:] == output.shape[2:]
            seen.append((min(*inputs[0].shape[2:], *output.shape[2:]), output.dtype))

    handle = register_module_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@contextlib.contextmanager
def spoiling(chosen):
    """The gradients of what layers answer are NaN where `chosen(layer, inputs, output)`."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad and chosen(layer, inputs, output):
            output.register_hook(lambda gradient: gradient * math.nan)

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def careless():
    """A processor whose bf16 convolutions with a stride have no gradient on maps of one pixel."""

    def broken(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> bool:
        if not isinstance(layer, nn.Conv2d) or max(layer.stride) == 1 or output.dtype != torch.bfloat16:
            return False
        return min(strided.sides(layer, inputs[0])) < 2

    return spoiling(broken)


@pytest.fixture
def unguarded(monkeypatch):
    """Networks as they would be without the guard."""
    monkeypatch.setattr(strided, "_forward", nn.Conv2d.forward)


# ------------------------------------------------------------------------------------------------------- where bf16 ends


def answer(module: nn.Module, part: str, spec: Spec, image: Tensor, reduced: int) -> object:
    """What a part says of images (B, C, H, W), in bf16; one that works on latents of some, `reduced` times smaller."""
    rows, cols = image.shape[2] // reduced, image.shape[3] // reduced
    x = torch.randn(len(image), spec.shape[0], rows, cols)
    cond = {k: torch.zeros(len(image), *f.shape, dtype=getattr(torch, f.dtype)) for k, f in spec.fields.items()}
    asked = {
        "denoiser": lambda: module(x, torch.ones(len(x)), **cond),
        "student": lambda: module(x, torch.ones(len(x)), **cond),
        "classifier": lambda: module(x, torch.ones(len(x))),
        "codec": lambda: module(image, x),
        "features": lambda: module(image),
        "detector": lambda: module(image),
    }
    with torch.autocast("cpu", torch.bfloat16):
        return asked[part]()


def strides(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1]


def narrow(root: Path, part: str) -> tuple[dict, int, int]:
    """model.json with networks of as many resolutions and few channels; how much a latent is reduced; a side's divisor."""
    meta = copy.deepcopy(read_meta(root))
    for plan in meta["parts"].values():
        count = len(plan["network"]["channels"])
        plan["network"] |= {"channels": [8] * count, "norm_groups": 4, "attention_head_dim": 8}
    codec = meta["parts"].get("codec")
    reduced = 1 if codec is None else 2 ** (len(codec["network"]["channels"]) - 1)
    own = len(meta["parts"][part]["network"]["channels"]) - 1
    return meta, reduced, reduced * 2**own if part in ("denoiser", "student") else reduced


def test_every_part_that_convolves_is_tried():
    assert {part for _, part in PARTS} | {"text"} == set(folder.BUILDERS)


@pytest.mark.parametrize(("root", "part"), PARTS, ids=ids)
def test_no_map_below_two_pixels_is_convolved_with_a_stride_in_bf16(root, part):
    meta, reduced, divisor = narrow(root, part)
    module, spec = folder.build(part, meta), spec_of(meta)
    for rows, cols in SIZES:
        if rows % divisor or cols % divisor:
            continue  # the network takes no such images
        with calls() as seen, torch.no_grad():
            answer(module, part, spec, torch.randn(2, image_shape(meta)[0], rows, cols), reduced)
        assert len(seen) >= len(strides(module)) > 0
        assert all(kind == torch.float32 for least, kind in seen if least < 2), (rows, cols)
        assert all(kind == torch.bfloat16 for least, kind in seen if least >= 2), (rows, cols)


def test_networks_of_small_images_do_reach_such_maps(unguarded):
    for make in (FeatureNet, Detector):
        with calls() as seen, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            make(downstream.NETWORK, (1, 16, 16), 2)(torch.randn(2, 1, 16, 16))
        assert [kind for least, kind in seen if least < 2] == [torch.bfloat16] * 4


@pytest.mark.parametrize(("root", "part"), PARTS, ids=ids)
def test_the_shipped_networks_reach_no_such_map_at_their_size(root, part):
    meta = read_meta(root)
    module, spec = folder.build(part, meta), spec_of(meta)
    shape = image_shape(meta)
    with calls() as seen, torch.no_grad():
        answer(module.eval(), part, spec, torch.randn(1, *shape), shape[1] // spec.shape[1])
    assert seen and all(least >= 2 and kind == torch.bfloat16 for least, kind in seen)


def test_networks_of_diffusers_are_guarded_too():
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    for module in (pretrained.text_unet_of(unet.config), pretrained.autoencoder_of(vae.config)):
        assert strides(module)
        assert all(layer.forward.__func__ is strided._forward for layer in strides(module))


def test_without_autocast_and_in_names_nothing_changes():
    plain, guarded = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(3, 4, 3, stride=2, padding=1)
    guarded.load_state_dict(plain.state_dict())
    assert strided.guarded(guarded) is guarded and list(guarded.state_dict()) == list(plain.state_dict())
    for size in (1, 2, 5):
        x = torch.randn(2, 3, size, size)
        assert torch.equal(guarded(x), plain(x))
    twin = copy.deepcopy(guarded)
    twin.weight.data.zero_()
    assert torch.equal(guarded(x), plain(x)) and torch.equal(twin(x), twin.bias[:, None, None].expand(2, 4, 3, 3))


def written(value: float) -> None:
    """Leave memory that holds `value`, of many sizes, to whoever asks for some next."""
    blocks = [torch.full((size,), value) for size in (2**4, 2**8, 2**12, 2**16, 2**20) for _ in range(40)]
    blocks.clear()


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (8, 1), (1, 8), (2, 2)], ids=str)
@pytest.mark.parametrize("channels", [8, 48])
def test_the_gradient_of_a_layer_that_is_kept_out_of_bf16_is_that_of_fp32(size, channels):
    layer = strided.guarded(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
    exact = nn.Conv2d(channels, channels, 3, stride=2, padding=1).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(4, channels, *size)
    exact(x.double()).square().sum().backward()
    for form in (torch.contiguous_format, torch.channels_last):
        layer.to(memory_format=form).zero_grad()
        written(math.nan)
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x.contiguous(memory_format=form))
        out.square().sum().backward()
        torch.testing.assert_close(layer.weight.grad, exact.weight.grad.float())


def test_gradients_at_16_pixels_in_bf16_are_those_of_fp32():
    images, targets = torch.randn(32, 1, 16, 16, generator=torch.manual_seed(0)), torch.arange(32) % 2
    images[targets == 1, :, 4:9, 4:9] += 1
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        module = FeatureNet(dataclasses.replace(downstream.NETWORK, dropout=0.0), (1, 16, 16), 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            scores = module(images)["log_probability"].float()
        nnf.nll_loss(scores, targets).backward()
        found.append({name: value.grad for name, value in module.named_parameters()})
    # bf16 has 8 bits, and seventeen layers of it, each normed anew, add up.
    for name, exact in found[0].items():
        assert (found[1][name] - exact).norm() < 0.5 * exact.norm(), name


# ------------------------------------------------------------------------------------------------------------ trainings


def films(count: int = 24) -> Labelled:
    """Two labels of images that show the first."""
    random = np.random.default_rng(0)
    targets = np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], 1).astype(np.float32)
    images = random.normal(-0.3, 0.2, (count, 1, 16, 16)).astype(np.float32)
    images[targets[:, 0] == 1, :, 4:9, 4:9] += 0.9
    return Labelled(images.clip(-1, 1), targets)


def classify(real: Labelled = films(), test: np.ndarray | None = None, single: bool = False, **more):
    own = Labelled(real.images, real.targets[:, 0].astype(int)) if single else real
    test = real.images if test is None else test
    return downstream.train(Arm("real"), own, {}, test, 2 if single else (2, 2), Recipe(Augmentation(), SHORT), **more)


def pictures(count: int = 8) -> detect_downstream.Pictures:
    random = np.random.default_rng(0)
    images = random.normal(-0.3, 0.2, (count, 3, 16, 16)).clip(-1, 1).astype(np.float32)
    return detect_downstream.Pictures(images, [Boxes(np.array([[3.0, 3, 11, 11]]), ("RBC",), (16, 16))] * count)


def detect(real: detect_downstream.Pictures = pictures(), test: np.ndarray | None = None, **more):
    return detect_downstream.train(
        Arm("real"), real, None, real.images if test is None else test, ("RBC",),
        Recipe(Augmentation(), SHORT, judges.NETWORK), **more,
    )  # fmt: skip


def fitting(tmp_path: Path, **more):
    """A feature network by the loop that trains every part. watch, loss, samples and held_out may be given."""
    real, spec = films(), Spec((1, 16, 16))
    batch = Batch(torch.from_numpy(real.images), {}, torch.from_numpy(real.targets[:, 0]).long())
    torch.manual_seed(0)
    return fit(
        more.get("module") or FeatureNet(downstream.NETWORK, spec.shape, 2), more.get("loss", clean_classification),
        Samples(more.get("samples", batch), more.get("held_out", batch), Augmentation()), spec, SHORT, tmp_path / "run",
        more.get("watch", lambda *_: None),
    )  # fmt: skip


def judged() -> list:
    real = pictures()
    examples = [
        Example(f"smear{n}", image, Annotation(boxes=boxes), f"smear{n}")
        for n, (image, boxes) in enumerate(zip(real.images, real.boxes, strict=True))
    ]
    own = Real(Path(), examples, "class", -1, {"class": ("RBC",)}, smears, examples, boxed=True)
    return judges.judge(own, {"real": examples}, SHORT, [lambda *_: None], None)


def words(tmp_path: Path, **more):
    """One new value of a class, learned in the table of a frozen denoiser."""
    vocabulary, real = {"condition": ("healthy", "rust")}, films()
    known = Spec((1, 16, 16), labels.fields(vocabulary, vocabulary))
    plan = {"network": {"channels": [8] * 5, "norm_groups": 4, "attention_head_dim": 8}, "parameterisation": "edm"}
    meta = json.loads(json.dumps({"spec": dataclasses.asdict(known), "parts": {"denoiser": plan}}))
    field = dataclasses.replace(known.fields["condition"], null=3)
    batch = Batch(torch.from_numpy(real.images), {"condition": torch.full((24,), 2)}, torch.zeros(24, dtype=torch.long))
    return fit(
        Words(folder.build("denoiser", meta), {"condition": 1}), denoising,
        Samples(batch, batch[batch.target > 0], Augmentation()),
        dataclasses.replace(known, fields={"condition": field}), SHORT, tmp_path / "run",
    )  # fmt: skip


LOOPS = {
    "classes": lambda tmp_path, **more: classify(single=True, **more),
    "findings": lambda tmp_path, **more: classify(**more),
    "boxes": lambda tmp_path, **more: detect(**more),
    "parts": fitting,
    "judges": lambda tmp_path, **more: judged(),
    "words": words,
}
"""Every loop, and who else calls it; of images of 16 pixels, in bf16."""


@pytest.mark.parametrize("name", LOOPS)
def test_a_training_at_16_pixels_in_bf16_stays_finite_on_a_careless_processor(name, tmp_path):
    with careless():
        LOOPS[name](tmp_path)


@pytest.mark.parametrize("name", ["classes", "findings", "boxes", "parts", "judges"])
def test_without_the_guard_it_ends_in_an_error_and_not_in_a_figure(name, tmp_path, unguarded):
    with careless(), pytest.raises(Error, match=r"must be finite; step \d"):
        LOOPS[name](tmp_path)


@pytest.mark.parametrize("name", LOOPS)
def test_a_gradient_that_is_not_finite_ends_a_training(name, tmp_path):
    with spoiling(lambda *_: True), pytest.raises(Error, match=r"A training (loss|gradient) must be finite; step \d"):
        LOOPS[name](tmp_path)


@pytest.mark.parametrize("name", ["classes", "findings", "boxes", "parts"])
def test_one_in_the_last_step_does_too(name, tmp_path):
    last = []

    def watch(step: int, steps: int, *_: float) -> None:
        if step + 1 == steps:
            last.append(step)

    wanted = r"gradient must be finite; step 2|weights must be finite; after step 3"
    with spoiling(lambda *_: bool(last)), pytest.raises(Error, match=wanted):
        LOOPS[name](tmp_path, watch=watch)


def test_a_part_that_did_not_stay_finite_is_not_kept(tmp_path):
    seen = []

    def loss(module, batch, *rest) -> Tensor:
        seen.append(clean_classification(module, batch, *rest))
        return seen[-1] * (math.nan if len(seen) == 3 else 1)

    with pytest.raises(Error, match="loss must be finite; step 2 gave nan"):
        fitting(tmp_path, loss=loss)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_not_finite_is_not_continued(tmp_path):
    from safetensors.torch import load_file, save_file

    fitting(tmp_path)
    path = tmp_path / "run" / "latest" / "average.safetensors"
    weights = load_file(path)
    weights["head.bias"].fill_(math.nan)
    save_file(weights, path)
    with pytest.raises(Error, match=r"weights must be finite; after step 3 1 tensors are not, such as 'head.bias'"):
        fitting(tmp_path)


def test_images_that_are_not_finite_end_in_an_error(tmp_path):
    bad = films()
    bad.images[:, 0, 3, 3] = math.nan
    boxed = pictures()
    boxed.images[:, 0, 3, 3] = math.nan
    some = Batch(torch.from_numpy(bad.images), {}, torch.zeros(24, dtype=torch.long))
    for train in (
        lambda: classify(bad), lambda: classify(bad, single=True), lambda: detect(boxed),
        lambda: fitting(tmp_path, samples=some), lambda: fitting(tmp_path / "other", held_out=some),
    ):  # fmt: skip
        with pytest.raises(Error, match="loss must be finite"):
            train()
    with pytest.raises(Error, match=r"of 96 log-probabilities of a classifier 96 are not"):
        classify(test=bad.images)
    with pytest.raises(Error, match="scores of a detector"):
        detect(test=boxed.images)


def test_whoever_takes_a_gradient_step_checks_what_comes_of_it():
    trainings = [
        path
        for house in ("toolkit", "diffgraft", "domains", "export", "benchmarks")
        for path in (ROOT / house).rglob("*.py")
        if ".backward(" in (text := path.read_text(encoding="utf-8")) or ".step()" in text
    ]
    assert {path.name for path in trainings} == {"loop.py", "downstream.py", "detect_downstream.py"}
    for path in trainings:
        text = path.read_text(encoding="utf-8")
        assert "finite_step(" in text and "finite_weights(" in text, path


# --------------------------------------------------------------------------------------------------- scores and figures

TRUTH = np.array([0, 1, 0, 1])


def dense(score: float = 0.5, corner: float = 1.0) -> dict[str, np.ndarray]:
    return {"scores": np.full((1, 2, 4, 4), score), "corners": np.full((1, 4, 4, 4), corner)}


class Stub(nn.Module):
    """A network that names no class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor, *_: Tensor) -> dict[str, Tensor] | Tensor:
        found = torch.full((len(image), 2), math.nan)
        return found if _ else {"log_probability": found}

    def look(self, features: Tensor) -> Tensor:
        return features


def held_out() -> Batch:
    return Batch(torch.zeros(4, 1, 8, 8), {}, torch.from_numpy(TRUTH))


def nameless() -> Model:
    nothing = types.SimpleNamespace(spec=Spec((1, 8, 8)))
    tell = {"features": np.full((4, 2), math.nan)}
    return Model(nothing, Identity(), np.asarray, np.asarray, "numpy", "0", features=lambda _: tell)  # type: ignore[arg-type]


NOT_FINITE = np.full((1, 4, 2), math.nan)
FIGURES = {
    "outcome": lambda: downstream.Outcome(NOT_FINITE[0], (), {}, 0.0),
    "calibration": lambda: classification.calibration_error(NOT_FINITE[0], TRUTH),
    "areas": lambda: findings.finding_aurocs(NOT_FINITE, np.stack([TRUTH, TRUTH], 1).astype(float), list("abcd")),
    "shuffled areas": lambda: findings.shuffled_aurocs(NOT_FINITE, np.stack([TRUTH, TRUTH], 1).astype(float)),
    "auroc": lambda: anomaly.auroc(NOT_FINITE[0, :, 0], TRUTH),
    "average precision": lambda: anomaly.average_precision(NOT_FINITE[0, :, 0], TRUTH),
    "scores of boxes": lambda: decode(dense(score=math.nan)),
    "corners of boxes": lambda: decode(dense(corner=math.inf)),
    "detections": lambda: Detections(np.zeros((1, 4)), np.zeros(1, int), np.array([math.nan])),
    "expansion": lambda: dataset_expansion.judge(
        NOT_FINITE[0], np.zeros((4, 2)), TRUTH, np.random.default_rng(0).random((30, 2)), dataset_expansion.Expansion()
    ),
    "features": lambda: extract_features(nameless(), np.zeros((4, 1, 8, 8), np.float32)),
    "part, accuracy": lambda: report.balanced_accuracy(Stub(), held_out()),
    "part, classes": lambda: report.features_blocks(Stub(), held_out(), ("a", "b")),
    "part, auroc": lambda: report.auroc(report.odds(Stub(), held_out(), 0.1), held_out()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_scores_that_are_not_finite_are_no_figure(name):
    with pytest.raises(Error, match=r"finite|NaN"):
        FIGURES[name]()


def test_what_is_unknown_and_what_is_lowest_still_counts():
    scores = np.array([-math.inf, 0.5, 0.2, 0.7, math.nan])
    assert anomaly.auroc(scores, np.array([0.0, 1, 0, 1, math.nan])) == 1
