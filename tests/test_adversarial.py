"""A codec beside an adversary: what each of the two learns from, when it begins, and what a model keeps of it."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffgraft.requests import TrainingRequest
from diffgraft.training.data import read_data, to_batch
from diffgraft.training.parts.generative import CODEC
from diffgraft.training.parts.part import TrainingRun
from diffgraft.training.report import codec_figures
from diffgraft.training.train import train
from domains import plant_disease
from toolkit.data import dataset
from toolkit.diffusion.model import Spec
from toolkit.example import Annotation, Error, Example
from toolkit.models.folder import read_meta
from toolkit.networks.autoencoder import Autoencoder
from toolkit.networks.features import FeatureNet
from toolkit.settings import Augmentation, Network, Training
from toolkit.training import losses
from toolkit.training.adversarial import Adversaries, adaptive_weight, adversarial_reconstruction, hinge
from toolkit.training.loader import Batch, generator
from toolkit.training.loop import Samples, fit

SHAPE = (3, 32, 32)
SPEC = Spec((2, 16, 16), {})
PLAIN = Training(1, 4, precision="fp32")
AGAINST = dataclasses.replace(PLAIN, adversary=0.5)


def textured(count: int, seed: int = 0) -> Batch:
    """Grey levels with a texture of single pixels, which a narrow codec cannot hold and L1 answers with grey."""
    random = np.random.default_rng(seed)
    level = random.uniform(-0.3, 0.3, (count, 1, 1, 1))
    image = level + 0.5 * random.choice([-1.0, 1.0], (count, 1, *SHAPE[1:])) * np.ones((1, 3, 1, 1))
    return Batch(torch.from_numpy(image.astype(np.float32)), {}, torch.zeros(count, dtype=torch.int64))


def pair() -> Adversaries:
    torch.manual_seed(0)
    return Adversaries(Autoencoder(Network((8, 16), norm_groups=4), SHAPE, SPEC.shape[0]), SHAPE[0])


def learned(value: torch.Tensor, module: nn.Module) -> set[str]:
    """The parameters that a loss reaches."""
    module.zero_grad()
    value.backward()
    return {name for name, weight in module.named_parameters() if weight.grad is not None and bool(weight.grad.any())}


# --------------------------------------------------------------------------------------------------------- the quarrel


def test_a_discriminator_pays_up_to_one_and_minus_one():
    assert float(hinge(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, -3.0]))) == 0
    assert float(hinge(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 0.0]))) == 1
    assert float(hinge(torch.tensor([-1.0]), torch.tensor([-2.0]))) == 1


def test_both_losses_pull_equally_hard_at_the_last_layer():
    layer = nn.Linear(3, 3, bias=False)
    out = layer(torch.randn(5, 3, generator=generator(0)))
    error, fooled = out.square().mean(), 250 * out.mean()
    ours, theirs = (torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in (error, fooled))
    weight = adaptive_weight(error, fooled, layer.weight)
    assert float(weight * theirs) == pytest.approx(float(ours), rel=1e-3)
    assert not weight.requires_grad
    assert float(adaptive_weight(error, 1e-12 * fooled, layer.weight)) <= 1e4


def test_neither_learns_from_the_loss_of_the_other():
    module, image = pair(), textured(4).image
    made, _ = module(image, torch.zeros(4, *SPEC.shape))
    names = {name.partition(".")[0] for name in learned(-module.score(made).mean(), module)}
    assert names == {"codec"}
    judged = hinge(module.judge(image), module.judge(made.detach()))
    names = {name.partition(".")[0] for name in learned(judged, module)}
    assert names == {"discriminator"}


def test_a_discriminator_judges_an_image_by_itself():
    module, image = pair().train(), textured(4).image
    assert torch.allclose(module.judge(image)[:1], module.judge(image[:1]), atol=1e-5)
    assert torch.allclose(module.score(image), module.judge(image))


def test_before_its_start_and_for_held_out_images_there_is_no_adversary():
    features = FeatureNet(Network((8, 8)), SHAPE, 2).eval().requires_grad_(False)
    module, batch = pair().train(), textured(4)
    late = dataclasses.replace(AGAINST, adversary_start=2)
    expected = losses.reconstruction(module.codec, batch, SPEC, PLAIN, generator(3), features).item()
    values = [adversarial_reconstruction(module, batch, SPEC, late, generator(3), features).item() for _ in range(3)]
    assert values[:2] == [expected, expected]
    assert values[2] != expected
    assert int(module.step) == 3
    module.eval()
    with torch.no_grad():
        value = float(adversarial_reconstruction(module, batch, SPEC, late, generator(3), features))
    assert value == pytest.approx(expected, rel=1e-6)
    assert int(module.step) == 3, "only steps of the training count"


# ---------------------------------------------------------------------------------------------------------- what is seen


def test_beside_an_adversary_images_are_as_sharp_as_they_are():
    """What is resampled is softer: an adversary would be shown that as real, and a codec learn to blur."""
    domain = SimpleNamespace(AUGMENTATION=Augmentation(flip=0.5, rotate=9.0, scale=0.2, shift=0.1, warp=0.1, crop=0.3))
    meta = {"parts": {}, "spec": dataclasses.asdict(SPEC)}
    rows = textured(8)
    runs = [
        TrainingRun(domain, Path(), meta, settings, (), rows, rows, (), ())  # type: ignore[arg-type]
        for settings in (PLAIN, AGAINST)
    ]
    plain, against = (CODEC.prepare(run) for run in runs)
    assert plain.samples.augmentation == domain.AUGMENTATION
    assert isinstance(plain.learner(nn.Linear(1, 1)), nn.Linear)
    assert against.samples.augmentation == Augmentation(flip=0.5)
    assert isinstance(against.learner(nn.Linear(1, 1)), Adversaries)


def test_sharpness_kept_is_that_of_what_comes_out_in_parts_of_what_went_in():
    class Halving(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5))

        def encode(self, image):
            return image

        def decode(self, latent):
            return latent * self.weight

    batch = textured(70)
    found = codec_figures(Halving(), batch)
    assert found["held_out_sharpness"] == pytest.approx(0.5, rel=1e-5)
    expected = 10 * np.log10(4 / (0.25 * batch.image.square().mean((1, 2, 3)).numpy()))
    assert found["held_out_psnr"] == pytest.approx(float(expected.mean()), rel=1e-5)
    empty = batch[torch.zeros(0, dtype=torch.int64)]
    assert codec_figures(Halving(), empty) == {"held_out_psnr": None, "held_out_sharpness": None}


def leaves(count: int) -> list[Example]:
    images = textured(count).image.numpy()
    rows = [{"condition": float(n % 2), "class": float(n % 2)} for n in range(count)]
    return [Example(f"s{n}", images[n], Annotation(labels=rows[n]), f"s{n}") for n in range(count)]


VOCABULARY = {"condition": ("healthy", "rust"), "class": ("healthy", "rust")}


def test_a_set_is_in_memory_once(tmp_path):
    plant_disease.write(leaves(24), tmp_path / "data", VOCABULARY)
    data = read_data(plant_disease, tmp_path / "data", 0)
    plain = {example.id: example.image for example in dataset.read(tmp_path / "data")}
    for part in (data.samples, data.held_out):
        batch = to_batch(plant_disease, Spec(SPEC.shape, plant_disease.fields(VOCABULARY)), SHAPE, part, VOCABULARY)
        assert all(np.array_equal(example.image, plain[example.id]) for example in part)
        for example, image in zip(part, batch.image.numpy(), strict=True):
            assert np.shares_memory(example.image, image)
    turned = to_batch(plant_disease, Spec(SPEC.shape, {}), SHAPE, data.samples[::-1], VOCABULARY)
    assert np.array_equal(turned.image.numpy(), np.stack([example.image for example in data.samples[::-1]]))


@pytest.mark.parametrize("change", [{"adversary": -0.1}, {"adversary_start": -1}, {"adversary": float("inf")}])
def test_an_adversary_that_cannot_be_is_refused(change):
    with pytest.raises(Error, match=r"adversary that are not negative.*found adversary") as problem:
        TrainingRequest("plant_disease", Path("data"), Path("model"), "codec", **change)
    assert len(str(problem.value).splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- training

SETTINGS = dataclasses.replace(
    AGAINST, steps=30, batch=8, learning_rate=2e-3, warmup=5, weight_decay=0.0, ema=0.95, checkpoint_every=5,
    adversary_start=12,
)  # fmt: skip


def fitted(folder: Path, settings: Training, stop: int = -1) -> tuple[Adversaries, dict[str, torch.Tensor]]:
    """Trained; or stopped after a step, as a kill does."""

    def watch(done: int, of: int, loss: float) -> None:
        if done == stop:
            raise KeyboardInterrupt

    module = pair()
    samples = Samples(textured(64), textured(8, 9), Augmentation(flip=0.5))
    loss = partial(adversarial_reconstruction, features=None)
    return module, fit(module, loss, samples, SPEC, settings, folder, watch)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [7, 13, 22])
def test_a_stopped_quarrel_goes_on_as_if_it_had_not_been(tmp_path, stop):
    """Before the adversary began, in the interval in which it began, and after."""
    settings = SETTINGS
    _, calm = fitted(tmp_path / "calm", settings)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "shot", settings, stop)
    _, shot = fitted(tmp_path / "shot", settings)
    assert calm.keys() == shot.keys()
    assert all(torch.equal(calm[name], shot[name]) for name in calm)
    names = ("weights", "average", "optimizer", "random")
    ours, theirs = (
        {f"{n} {k}": v for n in names for k, v in load_file(tmp_path / run / "latest" / f"{n}.safetensors").items()}
        for run in ("calm", "shot")
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_a_model_keeps_the_codec_and_not_its_adversary(tmp_path, monkeypatch):
    presets = {"codec": {"small": (Network((8, 16), norm_groups=4), Training(6, 4, warmup=2))}}
    monkeypatch.setattr(plant_disease, "PRESETS", presets)
    plant_disease.write(leaves(24), tmp_path / "data", VOCABULARY)
    facts = train(
        plant_disease, tmp_path / "data", tmp_path / "model", "codec", adversary=0.5, adversary_start=3, seed=1
    )
    assert facts["held_out_sharpness"] > 0
    meta = read_meta(tmp_path / "model")
    assert meta["parts"]["codec"]["training"]["adversary"] == 0.5
    assert meta["parts"]["codec"]["run"]["parameters"] == sum(
        weight.numel() for weight in Autoencoder(*presets["codec"]["small"][:1], SHAPE, 8).parameters()
    )
    assert not any("discriminator" in name for name in load_file(tmp_path / "model" / "codec.safetensors"))
    state = load_file(tmp_path / "model" / "training" / "codec" / "latest" / "weights.safetensors")
    assert any("discriminator" in name for name in state)
    assert int(state["step"]) == 6
