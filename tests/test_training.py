"""Training: what a step sees, that it learns, and that a run which was killed is the run that was not."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffgraft.requests import TrainingRequest
from diffgraft.requests.verb import Call
from diffgraft.training.train import train_part
from domains import brain_mri
from toolkit.data import dataset
from toolkit.diffusion.model import Spec
from toolkit.example import Annotation, Error, Example, Note
from toolkit.networks.classifier import NoisyClassifier
from toolkit.networks.preconditioning import Preconditioned, edm
from toolkit.networks.unet import ConditionalUNet
from toolkit.settings import Augmentation, Network, Training
from toolkit.training import checkpoint, loop, losses
from toolkit.training.loader import Batch, augment, draw_batch, generator

SIZE = 16
SPEC = Spec((1, SIZE, SIZE), brain_mri.FIELDS)
NETWORK = Network((8, 16), norm_groups=4, attention_head_dim=8)
EVERYTHING = Augmentation(flip=0.5, rotate=20.0, scale=0.2, shift=0.1, gamma=0.3, gain=0.2)


def blobs(count: int, seed: int = 0) -> Batch:
    """Grey noise, and in every second image one bright blob anywhere: class 1."""
    random = np.random.default_rng(seed)
    rows, cols = np.mgrid[:SIZE, :SIZE]
    target = np.arange(count) % 2
    place = random.uniform(3, SIZE - 3, (2, count, 1, 1))
    blob = np.exp(-((rows - place[0]) ** 2 + (cols - place[1]) ** 2) / 4)
    image = -0.5 + 0.1 * random.standard_normal((count, SIZE, SIZE)) + blob * target[:, None, None]
    labels = [{"lesion": float(k), "position": float(p)} for k, p in zip(target, random.random(count), strict=True)]
    return Batch(
        torch.from_numpy(image.clip(-1, 1).astype(np.float32))[:, None],
        {k: torch.from_numpy(v) for k, v in brain_mri.condition([Annotation(labels=row) for row in labels]).items()},
        torch.from_numpy(target),
    )


def same(one: Batch, two: Batch) -> bool:
    pairs = [(one.image, two.image), (one.target, two.target), *((one.cond[k], two.cond[k]) for k in one.cond)]
    return one.cond.keys() == two.cond.keys() and all(torch.equal(a, b) for a, b in pairs)


def run(folder: Path, module: nn.Module, loss: loop.Loss, settings: Training, samples: Batch | None = None, **more):
    return loop.fit(
        module,
        loss,
        loop.Samples(
            samples or blobs(64), more.pop("held_out", blobs(32, seed=9)), more.pop("augmentation", Augmentation())
        ),
        SPEC,
        settings,
        folder,
        **more,
    )


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Tiny(nn.Module):
    """D = a x + b, with dropout, so that the run depends on torch's own random state."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.zeros(1, SIZE, SIZE))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x, sigma, **cond):
        return self.dropout(self.scale * x + self.shift)


# ------------------------------------------------------------------------------------------------------------- loader


def test_a_batch_depends_on_seed_and_step_alone():
    samples = blobs(40)
    torch.manual_seed(1)
    first = draw_batch(samples, 8, EVERYTHING, 3, 5)
    before = torch.get_rng_state()
    torch.manual_seed(2)
    draw_batch(samples, 8, EVERYTHING, 3, 4)
    again = draw_batch(samples, 8, EVERYTHING, 3, 5)
    assert same(first, again)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before), "a draw must leave torch's own random state alone"
    for seed, step in [(3, 6), (4, 5), (5, 3)]:
        assert not torch.equal(draw_batch(samples, 8, EVERYTHING, seed, step).image, first.image)


def test_every_word_of_a_generator_matters():
    words = [*itertools.product((0, 1, 2), repeat=3), (2**31, 0, 0), (0, 2**31, 0), (2**32 - 1, 0, 0)]
    draws = {tuple(torch.rand(3, generator=generator(*w)).tolist()) for w in words}
    assert len(draws) == len(words)
    assert torch.equal(torch.rand(3, generator=generator(7, 8)), torch.rand(3, generator=generator(7, 8)))


def test_rare_classes_are_drawn_as_often_as_common_ones():
    samples = blobs(100)
    target = torch.zeros(100, dtype=torch.long)
    target[:4], target[4:10] = 2, -1
    drawn = draw_batch(dataclasses.replace(samples, target=target), 6000, Augmentation(), 0, 0).target
    shares = [float((drawn == k).float().mean()) for k in (-1, 0, 2)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_drawn_sample_keeps_its_own_label_and_conditions():
    samples = blobs(50)
    drawn = draw_batch(samples, 200, Augmentation(), 0, 0)
    for image, target, *cond in zip(drawn.image, drawn.target, *drawn.cond.values(), strict=True):
        (index,) = torch.nonzero((samples.image - image).abs().amax((1, 2, 3)) < 1e-4).flatten()
        assert target == samples.target[index]
        assert [float(c) for c in cond] == [float(v[index]) for v in samples.cond.values()]


# ------------------------------------------------------------------------------------------------------- augmentation


def smooth(count: int = 4, channels: int = 1) -> torch.Tensor:
    rows, cols = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    waves = [0.6 * torch.sin(rows / 3 + k) + 0.3 * torch.cos(cols / 2 - k) for k in range(count * channels)]
    return torch.stack(waves).reshape(count, channels, SIZE, SIZE)


def test_augmentation_off_changes_nothing():
    images = torch.cat([smooth(), torch.rand(4, 1, SIZE, SIZE) * 2 - 1, torch.ones(1, 1, SIZE, SIZE)])
    assert (augment(images, Augmentation(), generator(0)) - images).abs().max() < 1e-5


def test_a_certain_flip_is_the_mirror_image():
    images = smooth()
    flipped = augment(images, Augmentation(flip=1.0), generator(0))
    assert (flipped - images.flip(-1)).abs().max() < 1e-5
    assert (images.flip(-1) - images).abs().max() > 0.1
    assert (images.flip(-2) - images).abs().max() > 0.1


def test_half_of_the_images_are_flipped():
    images = smooth(1).expand(4000, 1, SIZE, SIZE)
    flipped = augment(images, Augmentation(flip=0.5), generator(0))
    mirrored = (flipped - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    straight = (flipped - images).abs().amax((1, 2, 3)) < 1e-5
    assert torch.all(mirrored ^ straight)
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("shape", [(5, 1, 16, 16), (3, 3, 12, 20), (1, 2, 9, 7)])
def test_shape_range_and_type_are_kept(shape):
    images = torch.rand(shape, generator=generator(0)) * 2 - 1
    for step in range(20):
        changed = augment(images, EVERYTHING, generator(1, step))
        assert changed.shape == images.shape
        assert changed.dtype == torch.float32
        assert torch.all(changed.abs() <= 1)
        assert torch.all(torch.isfinite(changed))
    assert not torch.allclose(changed, images, atol=0.05)


@pytest.mark.parametrize("name", ["rotate", "scale", "shift"])
def test_what_comes_in_from_outside_is_background(name):
    half = {"rotate": 45.0, "scale": 1.0, "shift": 0.3}[name]
    white = torch.ones(50, 1, SIZE, SIZE)
    changed = augment(white, Augmentation(**{name: half}), generator(0))
    assert torch.all(changed.amin((1, 2, 3)).sort().values[:5] < -0.99)
    assert torch.all(changed[:, :, SIZE // 2, SIZE // 2] > 0.99)


@pytest.mark.parametrize("name", ["gamma", "gain"])
def test_brightness_leaves_the_background_and_the_order(name):
    ramp = torch.linspace(-1, 1, SIZE * SIZE).reshape(1, 1, SIZE, SIZE).expand(50, 1, SIZE, SIZE)
    changed = augment(ramp, Augmentation(**{name: 0.3}), generator(0)).flatten(1)
    assert torch.all(changed[:, 0] == -1)
    assert torch.all(changed.diff() >= -1e-6)
    middle = changed[:, SIZE * SIZE // 2]
    assert middle.min() < -0.05
    assert middle.max() > 0.05


def test_a_turned_disc_stays_a_disc_of_its_size():
    rows, cols = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    spot = torch.exp(-((rows - 9) ** 2 + cols**2) / 32) * 2 - 1
    for number in range(10):
        turned = augment(spot[None, None], Augmentation(rotate=40.0, flip=0.5), generator(number))[0, 0] + 1
        weight = turned / turned.sum()
        y, x = (weight * rows).sum(), (weight * cols).sum()
        assert float(torch.hypot(y, x)) == pytest.approx(9, abs=0.1)
        spread = [float((weight * (a - b) ** 2).sum()) for a, b in ((rows, y), (cols, x))]
        assert spread == pytest.approx([16, 16], rel=0.03)
        assert float((weight * (rows - y) * (cols - x)).sum()) == pytest.approx(0, abs=0.3)


# ------------------------------------------------------------------------------------------------------------- losses


class Listening(nn.Module):
    """Answers the clean image plus `error(sigma)`; keeps what it was asked."""

    def __init__(self, image: torch.Tensor, error: Callable[[torch.Tensor], torch.Tensor] = torch.zeros_like):
        super().__init__()
        self.image, self.error, self.x, self.sigma, self.cond = image, error, None, None, {}

    def forward(self, x, sigma, **cond):
        self.x, self.sigma, self.cond = x, sigma, cond
        return self.image + self.error(sigma).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("drop", [0.0, 0.15, 1.0])
def test_conditions_are_dropped_at_the_rate_that_was_asked_for(drop):
    batch = blobs(20000)
    batch = Batch(batch.image[:, :, :1, :1], batch.cond, batch.target)
    model = Listening(batch.image)
    losses.denoising(model, batch, SPEC, Training(1, drop=drop), generator(0))
    null = model.cond["lesion"] == SPEC.fields["lesion"].null
    assert float(null.float().mean()) == pytest.approx(drop, abs=0.01 if 0 < drop < 1 else 0)
    # all conditions of a sample together, and the others untouched
    assert torch.equal(null, model.cond["position_known"] == 0)
    assert torch.all(model.cond["position"][null] == 0)
    for name, value in batch.cond.items():
        assert torch.equal(model.cond[name][~null], value[~null])
        assert model.cond[name].dtype == value.dtype
    # whether a sample is dropped says nothing about its class
    if 0 < drop < 1:
        assert float(batch.target[null].float().mean()) == pytest.approx(0.5, abs=0.04)


def test_each_label_is_dropped_by_itself_too():
    batch = blobs(20000)
    batch = Batch(batch.image[:, :, :1, :1], batch.cond, batch.target)
    model = Listening(batch.image)
    losses.denoising(model, batch, SPEC, Training(1, drop=0.1, drop_each=0.2), generator(0))
    lesion = model.cond["lesion"] == SPEC.fields["lesion"].null
    position = model.cond["position_known"] == 0
    rate = 1 - 0.9 * 0.8
    assert float(lesion.float().mean()) == pytest.approx(rate, abs=0.01)
    assert float(position.float().mean()) == pytest.approx(rate, abs=0.01)
    assert float((lesion & position).float().mean()) == pytest.approx(0.1 + 0.9 * 0.04, abs=0.01)
    assert torch.all(model.cond["position"][position] == 0), "a number and whether it is known go together"


def test_noise_levels_are_lognormal_and_the_noise_is_theirs():
    batch = blobs(5000)
    batch = Batch(batch.image[:, :, :4, :4], batch.cond, batch.target)
    model = Listening(batch.image)
    losses.denoising(model, batch, SPEC, Training(1, sigma_mean=-0.5, sigma_std=1.6), generator(0))
    logs = model.sigma.log()
    assert float(logs.mean()) == pytest.approx(-0.5, abs=0.02)
    assert float(logs.std()) == pytest.approx(1.6, abs=0.03)
    noise = (model.x - batch.image) / model.sigma.reshape(-1, 1, 1, 1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert noise.std((1, 2, 3)).mean() == pytest.approx(float(torch.randn(5000, 16).std(1).mean()), abs=0.02)


def test_every_noise_level_weighs_the_same():
    # Karras et al. 2022, appendix B.6: the weight is 1 / c_out^2, so that an error of c_out counts 1
    batch = blobs(64)
    exact, off = (Listening(batch.image, error) for error in (torch.zeros_like, lambda s: edm(s, SPEC.sigma_data)[1]))
    settings = Training(1, sigma_mean=0, sigma_std=2)
    assert float(losses.denoising(exact, batch, SPEC, settings, generator(0))) == 0
    assert float(losses.denoising(off, batch, SPEC, settings, generator(0))) == pytest.approx(1, rel=1e-4)


class Guess(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.classes, self.sigma = classes, torch.zeros(0)

    def forward(self, x, sigma):
        self.sigma = sigma
        return torch.full((len(x), self.classes), -math.log(self.classes))


def test_a_classifier_that_guesses_pays_log_of_the_classes_and_sees_clean_images_too():
    batch, model = blobs(3000), Guess(2)
    batch = Batch(batch.image[:, :, :1, :1], batch.cond, batch.target)
    value = losses.classification(model, batch, SPEC, Training(1), generator(0))
    assert float(value) == pytest.approx(math.log(2), rel=1e-5)
    assert float((model.sigma == 0.05).float().mean()) == pytest.approx(1 / 3, abs=0.03)


# ----------------------------------------------------------------------------------------------------------- learning


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return NoisyClassifier(NETWORK, SPEC.shape, 2)


def denoiser(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    network = dataclasses.replace(NETWORK, dropout=dropout)
    return Preconditioned(ConditionalUNet(network, SPEC.shape, SPEC.fields), partial(edm, sigma_data=SPEC.sigma_data))


def test_a_classifier_learns_to_see_a_blob(tmp_path):
    settings = Training(150, batch=32, learning_rate=5e-3, warmup=10, ema=0.98, sigma_mean=-1.5, precision="fp32")
    module = classifier()
    test = blobs(200, seed=1)
    with torch.no_grad():
        before = (module(test.image, torch.full((200,), 0.05)).argmax(1) == test.target).float().mean()
    average = run(tmp_path, module, losses.classification, settings, blobs(400))
    module.load_state_dict(average)
    module.eval()
    with torch.no_grad():
        answer = module(test.image, torch.full((200,), 0.05))
        lost = module(test.image + 80 * torch.randn(test.image.shape, generator=generator(0)), torch.full((200,), 80.0))
    assert torch.allclose(answer.exp().sum(1), torch.ones(200), atol=1e-5)
    found = (answer.argmax(1) == test.target).float().mean()
    assert before < 0.7
    assert found > 0.95
    # in pure noise it knows that it does not know
    assert lost.exp()[:, 1].std() < 0.2
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == [150]
    assert log[-1]["validation"] < 0.5 * math.log(2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_denoiser_learns(tmp_path, precision):
    settings = Training(150, 16, 5e-3, warmup=10, ema=0.95, checkpoint_every=50, precision=precision)
    module = denoiser()
    held_out = blobs(64, seed=9)
    with torch.no_grad():
        before = float(losses.denoising(module, held_out, SPEC, settings, generator(0)))
    average = run(tmp_path, module, losses.denoising, settings, blobs(400), held_out=held_out)
    validation = [line["validation"] for line in read_log(tmp_path)]
    assert [line["step"] for line in read_log(tmp_path)] == [50, 100, 150]
    assert all(p.dtype == torch.float32 for p in average.values())
    assert validation[2] < validation[1] < validation[0] < before
    assert validation[2] < 0.3 * before
    # better than the best linear answer that ignores the image's structure, c_skip x, at a middling level
    module.load_state_dict(average)
    sigma = torch.full((64,), 0.5)
    noisy = held_out.image + 0.5 * torch.randn(held_out.image.shape, generator=generator(3))
    with torch.no_grad():
        found = (module(noisy, sigma, **held_out.cond) - held_out.image).square().mean()
    assert found < 0.3 * (0.5 * noisy - held_out.image).square().mean()
    assert torch.is_grad_enabled()


def test_the_average_follows_the_weights_and_is_what_is_returned(tmp_path):
    settings = Training(30, batch=4, learning_rate=0.05, warmup=1, ema=0.5, checkpoint_every=30, precision="fp32")
    module, seen = Tiny(), []
    average = run(
        tmp_path, module, losses.denoising, settings, watch=lambda *_: seen.append(module.scale.detach().clone())
    )
    # the decay is min(ema, (1 + step) / (10 + step)): early steps are forgotten faster
    expected = torch.tensor(0.5)
    for step, scale in enumerate(seen):
        expected = expected.lerp(scale, 1 - min(0.5, (1 + step) / (10 + step)))
    assert float(average["scale"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(average["scale"]) != float(seen[-1])


def test_validation_changes_nothing(tmp_path):
    settings = Training(12, batch=4, warmup=1, precision="fp32")
    results = []
    for every, held_out in [(1, blobs(8, 3)), (12, blobs(8, 3)), (12, blobs(8, 3)[torch.zeros(0, dtype=torch.long)])]:
        torch.manual_seed(0)
        module, folder = Tiny(), tmp_path / str(len(results))
        run(folder, module, losses.denoising, dataclasses.replace(settings, checkpoint_every=every), held_out=held_out)
        assert module.training
        results.append((module.scale.item(), read_log(folder)[-1]["loss"], read_log(folder)[-1]["validation"]))
    assert results[0] == results[1]
    assert results[2] == (*results[0][:2], None)


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth():
    settings = Training(1000, warmup=100)
    factors = [loop.learning_rate_factor(step, settings) for step in range(1001)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[99] == factors[100] == 1
    assert factors[550] == pytest.approx(0.525)
    assert factors[1000] == pytest.approx(0.05)
    assert max(factors) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, bad):
    def loss(module, batch, spec, settings, random):
        value = losses.denoising(module, batch, spec, settings, random)
        return value * bad if len(steps) == 6 else value

    steps = []
    settings = Training(20, batch=4, warmup=1, checkpoint_every=2, precision="fp32")
    empty = blobs(2)[torch.zeros(0, dtype=torch.long)]
    with pytest.raises(Error, match=f"step 6 gave {bad}") as problem:
        run(tmp_path, Tiny(), loss, settings, held_out=empty, watch=lambda *a: steps.append(a))
    assert len(str(problem.value).splitlines()) == 1
    # what is kept is the last state that was good
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 6]
    assert json.loads((tmp_path / "latest" / "state.json").read_text())["step"] == 6
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / "latest" / "weights.safetensors").values())


# -------------------------------------------------------------------------------------------------------- checkpoints

STATE = {"weights.safetensors", "average.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"}


def begun(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, torch.Tensor]]:
    """A module, its optimiser after some steps, and a weight average that is neither old nor new weights."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, betas=(0.9, 0.99))
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return module, optimizer, {k: v.detach() * 0.5 for k, v in module.state_dict().items()}


def step_on(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """One more step; its input comes from torch's random state, so it shows whether that was restored."""
    optimizer.zero_grad()
    module(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return [p.detach().clone() for p in module.parameters()]


def test_a_checkpoint_brings_everything_back(tmp_path):
    module, optimizer, average = begun()
    checkpoint.save(tmp_path, module, average, optimizer, step=3, smooth=0.1 + 0.2)
    expected = step_on(module, optimizer)
    fresh, other, _ = begun(seed=7)
    restored = checkpoint.load(tmp_path, fresh, other)
    assert restored is not None
    assert restored[1] == {"step": 3, "smooth": 0.1 + 0.2}
    assert all(torch.equal(restored[0][k], v) for k, v in average.items())
    assert all(torch.equal(a, b) for a, b in zip(step_on(fresh, other), expected, strict=True))
    assert {p.name for p in (tmp_path / "latest").iterdir()} == STATE


def test_there_is_nothing_to_continue_in_a_new_folder(tmp_path):
    module, optimizer, _ = begun()
    assert checkpoint.load(tmp_path / "new", module, optimizer) is None


def saved(folder: Path, *steps: int) -> None:
    for step in steps:
        module, optimizer, average = begun(seed=step)
        checkpoint.save(folder, module, average, optimizer, step=step)


def loaded(folder: Path) -> int:
    """The step that is continued from, having checked that weights, average and moments are of that step."""
    module, optimizer, _ = begun(seed=99)
    restored = checkpoint.load(folder, module, optimizer)
    assert restored is not None
    step = restored[1]["step"]
    theirs, their_optimizer, average = begun(seed=step)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), theirs.parameters(), strict=True))
    assert all(torch.equal(restored[0][k], v) for k, v in average.items())
    for ours, expected in zip(optimizer.state.values(), their_optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[k], expected[k]) for k in expected)
    return step


def test_the_newest_is_used_and_the_one_before_is_kept(tmp_path):
    saved(tmp_path, 1, 2, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "previous"]
    assert loaded(tmp_path) == 3
    (tmp_path / "latest").rename(tmp_path / "away")
    assert loaded(tmp_path) == 2


def test_a_half_written_state_is_ignored_and_removed(tmp_path):
    saved(tmp_path, 1, 2)
    half = tmp_path / "fresh-4242"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"\x10\x00")
    (half / "state.json").write_text('{"step": 9}')
    assert loaded(tmp_path) == 2
    assert not half.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
@pytest.mark.parametrize("kept", [0, 5, None], ids=["empty", "cut", "gone"])
def test_a_torn_newest_state_gives_way_to_the_one_before(tmp_path, name, kept):
    # A machine that lost its power may have the name of a file and not its content.
    saved(tmp_path, 1, 2)
    path = tmp_path / "latest" / name
    path.unlink() if kept is None else path.write_bytes(path.read_bytes()[:kept])
    with pytest.warns(Note, match=r"newest state of the training is damaged; it goes on with .*previous"):
        assert loaded(tmp_path) == 1
    shutil.copy(path if kept is not None else __file__, tmp_path / "previous" / name)
    with pytest.raises(Error, match=r"goes on with a whole state.*Delete"):
        loaded(tmp_path)


def test_a_killed_move_leaves_the_previous_state(tmp_path):
    saved(tmp_path, 1, 2)
    # what a kill between the two moves of `save` leaves: no latest, and a whole fresh one that nobody vouches for
    (tmp_path / "latest").rename(tmp_path / "fresh-1")
    assert loaded(tmp_path) == 1
    saved(tmp_path, 5)
    assert loaded(tmp_path) == 5


def test_another_network_is_refused_in_one_line(tmp_path):
    saved(tmp_path, 1)
    module = nn.Linear(3, 3)
    with pytest.raises(Error, match="network it began with") as problem:
        checkpoint.load(tmp_path, module, torch.optim.AdamW(module.parameters()))
    assert len(str(problem.value).splitlines()) == 1


@pytest.mark.parametrize("kept", [0, 7])
def test_a_torn_log_line_does_not_stop_a_run(tmp_path, kept):
    settings = Training(4, batch=4, warmup=1, checkpoint_every=2, precision="fp32")
    run(tmp_path, Tiny(), losses.denoising, settings)
    log = tmp_path / "log.jsonl"
    whole = read_log(tmp_path)
    log.write_text(log.read_text() + '{"step": 6, "loss": 0.123'[:kept])
    run(tmp_path, Tiny(), losses.denoising, dataclasses.replace(settings, steps=6))
    assert read_log(tmp_path)[:2] == whole
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 6]


# -------------------------------------------------------------------------------------------------------------- kill -9

TOY = SimpleNamespace(
    __name__="domains.toy",
    VOCABULARY=brain_mri.VOCABULARY,
    TARGET="lesion",
    NOTICE="A toy.",
    AUGMENTATION=EVERYTHING,
    PRESETS={
        "denoiser": {"tiny": (dataclasses.replace(NETWORK, dropout=0.1), Training(40, 8, 5e-3, 5, checkpoint_every=5))},
        "classifier": {"tiny": (dataclasses.replace(NETWORK, dropout=0.1), Training(30, 8, checkpoint_every=5))},
    },
    fields=brain_mri.fields,
    condition=brain_mri.condition,
    typical=lambda examples: {"groups": len({e.group for e in examples})},
)
"""A domain of 16 x 16 images. Dropout and every augmentation are on: all that is random takes part."""


def toy_data(root: Path) -> Path:
    batch = blobs(32)
    dataset.write(
        (
            Example(
                f"s{n}", image.numpy(), Annotation(labels={"lesion": float(k), "position": n / 32}), group=f"g{n // 2}"
            )
            for n, (image, k) in enumerate(zip(batch.image, batch.target, strict=True))
        ),
        root,
    )
    return root


def command(data: str, root: str, part: str) -> None:
    """What the subprocess runs: the same command every time. It reports each step, so that it can be shot between."""
    torch.set_num_threads(1)
    request = TrainingRequest(TOY, Path(data), Path(root), part, "tiny")
    train_part(TOY, request, Call(lambda text, step, steps: print(step, flush=True)))


def launch(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, words)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def shoot(process: subprocess.Popen[str], at: int) -> list[int]:
    """SIGKILL once it has reported step `at`; the steps it reported."""
    assert process.stdout is not None
    steps = []
    for line in process.stdout:
        steps.append(int(line))
        if steps[-1] == at:
            process.send_signal(signal.SIGKILL)
            break
    steps += [int(line) for line in process.stdout]
    assert process.wait() == -signal.SIGKILL, "the run ended before it was shot"
    process.stdout.close()
    return steps


def finished(process: subprocess.Popen[str]) -> list[int]:
    steps = [int(line) for line in process.communicate()[0].split()]
    assert process.returncode == 0
    return steps


def curve(root: Path, part: str) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(root / "training" / part)]


def everything(root: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder: model, and weights, average, moments and random state of both checkpoints."""
    return {
        f"{path.relative_to(root)}:{name}": tensor
        for path in sorted(root.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("part", "shots"), [("denoiser", (3, 13, 27)), ("classifier", (14,))])
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, part, shots):
    data = toy_data(tmp_path / "data")
    steps = TOY.PRESETS[part]["tiny"][1].steps
    calm = launch(data, tmp_path / "calm", part)
    continued_from = 0
    for at in shots:
        reported = shoot(launch(data, tmp_path / "shot", part), at)
        assert reported[0] == continued_from + 1
        continued_from = at // 5 * 5
    log = tmp_path / "shot" / "training" / part / "log.jsonl"
    # the worst moment: the line of step 5 n is written, its checkpoint is not
    with log.open("a") as file:
        file.write(json.dumps({"step": continued_from + 5, "loss": 9.0, "seconds": 1, "validation": 9.0}) + "\n")
    assert not (tmp_path / "shot" / f"{part}.safetensors").exists()
    assert finished(launch(data, tmp_path / "shot", part)) == list(range(continued_from + 1, steps + 1))
    assert finished(calm) == list(range(1, steps + 1))
    assert curve(tmp_path / "shot", part) == curve(tmp_path / "calm", part)
    assert len(curve(tmp_path / "calm", part)) == steps // 5
    shot, calm_tensors = everything(tmp_path / "shot"), everything(tmp_path / "calm")
    assert shot.keys() == calm_tensors.keys()
    assert any(":" in name and name.startswith("training") for name in shot)
    unequal = [name for name, tensor in shot.items() if not torch.equal(tensor, calm_tensors[name])]
    assert unequal == []
    only_tensors_and_text(tmp_path / "shot")


def only_tensors_and_text(root: Path) -> None:
    """No pickle anywhere: neither torch.save's zip nor a bare stream, under whatever name."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "report.html"]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl"}
    for path in files:
        if path.suffix == ".safetensors":
            content = path.read_bytes()
            length = int.from_bytes(content[:8], "little")
            json.loads(content[8 : 8 + length])
        else:
            for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
                json.loads(line)


def die_at(moment: int) -> None:
    """From now on the process kills itself, as kill -9 does, before the moment-th change that a checkpoint makes."""
    done = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal done
            done += 1
            if done == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    checkpoint.save_file = counted(checkpoint.save_file)
    for owner, name in [(Path, "replace"), (Path, "write_text"), (Path, "mkdir"), (checkpoint.shutil, "rmtree")]:
        setattr(owner, name, counted(getattr(owner, name)))


def child(work: Callable[[], object]) -> int:
    """Run in a fork; the signal it died of, 0 for none."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def shoot_everywhere(folder: str) -> None:
    """Kill a run before each single change that its checkpoints make, continue it, and compare with a calm run."""
    torch.set_num_threads(1)
    settings = Training(6, batch=4, warmup=1, checkpoint_every=2, precision="fp32")
    samples, held_out = blobs(8), blobs(4)

    def work(root: Path, moment: int = 0) -> None:
        if moment:
            die_at(moment)
        torch.manual_seed(0)
        run(root, Tiny(), losses.denoising, settings, samples, held_out=held_out)

    calm = Path(folder) / "calm"
    assert child(lambda: work(calm)) == 0
    wanted, line = everything(calm), curve_of(calm)
    for moment in range(1, 200):
        root = Path(folder) / f"shot-{moment}"
        died = child(partial(work, root, moment))
        if died:
            assert died == signal.SIGKILL
            assert child(partial(work, root)) == 0
        found = everything(root)
        assert curve_of(root) == line, moment
        assert found.keys() == wanted.keys(), moment
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items()), moment
        assert not list(root.glob("fresh-*"))
        if not died:
            print(moment - 1)
            return
    raise AssertionError("a run of 6 steps makes fewer than 200 changes")


def curve_of(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(folder)]


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_checkpoint_does_no_harm(tmp_path):
    # in a process of its own, which forks: torch's threads do not survive a fork
    (moments,) = finished(launch(tmp_path))
    # three checkpoints of four tensor files, one JSON, a folder and at least one move
    assert moments >= 3 * 7


if __name__ == "__main__":
    (command if len(sys.argv) == 4 else shoot_everywhere)(*sys.argv[1:])
