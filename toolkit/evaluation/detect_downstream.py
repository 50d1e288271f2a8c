"""The downstream experiment with boxes: a small detector trained from scratch under several recipes, on equal terms.

An arm is that of toolkit.evaluation.downstream, without mixing; objects may be pasted into its real images besides. All arms
take the same number of optimisation steps with the same batch, network, first weights and schedule, draw every image of a
source equally often, and depend on (seed, step) alone; arms of one seed draw the same places, so they can be paired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toolkit.diffusion.model import BOXES, OBJECTS, Spec
from toolkit.evaluation.detection.metrics import Detections, decode
from toolkit.evaluation.downstream import Arm, Recipe
from toolkit.example import Annotation, Boxes, Error
from toolkit.networks.detector import Detector
from toolkit.objects import boxes as layout
from toolkit.settings import Training
from toolkit.training.detecting import detection_loss
from toolkit.training.finite import finite_step, finite_weights
from toolkit.training.loader import Batch, augment_batch, generator
from toolkit.training.loop import learning_rate_factor

__all__ = ["Outcome", "Paste", "Pictures", "train"]

Paste = Callable[[np.ndarray, Boxes, np.random.Generator], tuple[np.ndarray, Boxes]]
"""(image (C, H, W), its boxes, randomness) -> both with objects pasted in."""

PART = 32
"""Images that are looked at together after training."""


@dataclass(frozen=True)
class Pictures:
    """images (N, C, H, W) float32 in [-1, 1] of one size, and the boxes of each, at most `toolkit.objects.boxes.MOST`."""

    images: np.ndarray
    boxes: Sequence[Boxes]


@dataclass(frozen=True)
class Outcome:
    """found: in each test image. losses: one a step taken. drawn: pool ("" = real) -> images.

    seconds: of the training alone; processor time on a CPU, which other work on the machine does not change.
    """

    found: list[Detections]
    losses: tuple[float, ...]
    drawn: Mapping[str, int]
    seconds: float


def train(
    arm: Arm,
    real: Pictures,
    pool: Pictures | None,
    test: np.ndarray,
    names: Sequence[str],
    recipe: Recipe,
    paste: Paste | None = None,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> Outcome:
    """Train one arm and find objects in the test images (N, C, H, W).

    names: of the classes. paste: for the real images of the arm, before they are augmented. What finds objects is the
    exponential average of the weights, settings.ema of the recipe. watch(step, steps) after every step.
    Errors: an arm that draws from a pool without one, or mixes images; no image to draw from; a training that did not stay
    finite.
    """
    settings = recipe.settings
    if arm.mixing:
        raise Error(f"Boxes are not mixed as labels are; arm '{arm.name}' has mixing. Leave it out.")
    if bool(arm.pool) != (pool is not None):
        raise Error(f"An arm has a pool if it draws from one; '{arm.name}' has one without the other.")
    sources = {"": real} if pool is None else {"": real, arm.pool: pool}
    if empty := [name or "the real images" for name, each in sources.items() if not len(each.images)]:
        raise Error(f"Images are drawn from what there is; of {empty[0]} there are none. Give some.")
    told = {name: _Source.of(each, names) for name, each in sources.items()}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    spec = Spec(real.images.shape[1:], layout.fields(names))
    drawn, losses, begun = dict.fromkeys(sources, 0), [], clock()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        module = Detector(recipe.network, spec.shape, len(names))
        module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of modules too
        average = {name: weight.detach().clone() for name, weight in module.state_dict().items()}
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99)
        )
        for step in range(settings.steps):
            batch, synthetic = _draw(told, arm, paste, names, settings, step)
            drawn[arm.pool] += synthetic
            drawn[""] += settings.batch - synthetic
            if arm.augment:
                batch = augment_batch(batch, recipe.augmentation, generator(settings.seed, step, 21))
            batch = batch.to(device)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * learning_rate_factor(step, settings)
            batch = Batch(batch.image.contiguous(memory_format=torch.channels_last), batch.cond, batch.target)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                loss = detection_loss(module, batch, spec, settings, generator(settings.seed, step, 1))
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            losses.append(finite_step(step, loss, norm))
            optimizer.step()
            _follow(average, module, min(settings.ema, (1 + step) / (10 + step)))
            watch(step + 1, settings.steps)
    seconds = clock() - begun
    finite_weights(settings.steps, average)
    module.load_state_dict(average)
    return Outcome(_look(module, test, device), tuple(losses), drawn, seconds)


@dataclass(frozen=True)
class _Source:
    """Pictures as tensors: images, and the condition fields of their layouts."""

    pictures: Pictures
    images: Tensor
    cond: Mapping[str, Tensor]

    @classmethod
    def of(cls, pictures: Pictures, names: Sequence[str]) -> _Source:
        return cls(pictures, torch.from_numpy(pictures.images), _told(pictures.boxes, names))


def _told(boxes: Sequence[Boxes], names: Sequence[str]) -> dict[str, Tensor]:
    arrays = layout.to_arrays([Annotation(boxes=each) for each in boxes], names)
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _draw(
    sources: Mapping[str, _Source], arm: Arm, paste: Paste | None, names: Sequence[str], settings: Training, step: int
) -> tuple[Batch, int]:
    """The batch of one step, and how many of its images come from the pool."""
    random = generator(settings.seed, step, 20)
    place = torch.rand(settings.batch, generator=random, dtype=torch.float64)
    synthetic = torch.rand(settings.batch, generator=random) < arm.share_at(step, settings.steps)
    parts = {name: (place * len(each.images)).long() for name, each in sources.items()}
    real = sources[""]
    images, cond = real.images[parts[""]], {name: values[parts[""]] for name, values in real.cond.items()}
    if paste is not None:
        for row in np.flatnonzero(~synthetic.numpy()).tolist():
            index = int(parts[""][row])
            image, boxes = paste(
                real.pictures.images[index], real.pictures.boxes[index], np.random.default_rng((settings.seed, step, 22, row))
            )  # fmt: skip
            images[row] = torch.from_numpy(image)
            for name, values in _told([boxes], names).items():
                cond[name][row] = values[0]
    if synthetic.any():
        other, chosen = sources[arm.pool], parts[arm.pool][synthetic]
        images[synthetic] = other.images[chosen]
        for name, values in other.cond.items():
            cond[name][synthetic] = values[chosen]
    target = torch.full((settings.batch,), -1)
    return Batch(images, {BOXES: cond[BOXES], OBJECTS: cond[OBJECTS]}, target), int(synthetic.sum())


@torch.no_grad()
def _follow(average: Mapping[str, Tensor], module: torch.nn.Module, decay: float) -> None:
    for name, weight in module.state_dict().items():
        # A batch norm counts its batches in an integer, which has no average.
        average[name].lerp_(weight, 1 - decay) if weight.is_floating_point() else average[name].copy_(weight)


@torch.no_grad()
def _look(module: torch.nn.Module, images: np.ndarray, device: torch.device) -> list[Detections]:
    module.eval()
    found = []
    for part in torch.from_numpy(images).split(PART):
        answer = module(part.to(device, memory_format=torch.channels_last))
        found += decode({name: values.float().cpu().numpy() for name, values in answer.items()})
    return found
