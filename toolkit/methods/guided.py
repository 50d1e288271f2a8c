"""What the methods share: images through one editing procedure, a batch at a time, in the space of the model.

An edit is a function (denoise, x, sigmas, noise, rows) -> x on the arrays of the backend: x the encoded images of the
batch, or zeros where there are none; sigmas the schedule from their strength; rows which of the whole they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.diffusion import editing, guidance, schedule
from toolkit.diffusion.finite import check_images
from toolkit.diffusion.model import Array, Denoise, Model
from toolkit.diffusion.noise import Draws, Seeded
from toolkit.diffusion.samplers import SAMPLERS, Sampler
from toolkit.example import Error
from toolkit.models.folder import clock_of
from toolkit.settings import Sampling

__all__ = [
    "BATCH", "Conditions", "Edit", "Run", "Walk", "apply", "check_settings", "count_evaluations", "evaluations_of_walk",
    "generate", "sampler", "sigmas",
]  # fmt: skip

Edit = Callable[[Denoise, Array, list[float], Draws, np.ndarray], Array]
Conditions = Mapping[str, np.ndarray]
"""Condition fields by name, one row an image."""

BATCH = 16

SIGMA_MIN = 0.02
"""The last noise level above 0: below it an image of 8 bits is clean."""


@dataclass(frozen=True)
class Walk:
    """How a method walks down: sampler, steps really taken, classifier-free guidance, seed.

    sigma_max: the highest noise level that the training reached, None the model's own; a walk from beyond starts there.
    """

    sampler: str = "dpmpp_2m"
    steps: int = 20
    guidance: float = 2.0
    seed: int = 0
    sigma_max: float | None = None


@dataclass(frozen=True)
class Run:
    """What a method is run on, beside its images and its settings.

    cond, null: what each of N images is to show, and what stands in its place in classifier-free guidance - the unstated
    condition, or a negative one; N rows each. indices: the number of each image in the whole run, of which its noise is a
    function. watch is called once an evaluation.
    """

    model: Model
    cond: Conditions
    null: Conditions
    indices: Sequence[int]
    watch: Callable[[], object] = lambda: None


def check_settings(settings: Walk) -> None:
    """Raise the Error that these settings would run into, before any work is done."""
    if settings.sampler not in SAMPLERS:
        raise Error(f"A sampler is one of {', '.join(SAMPLERS)}; found '{settings.sampler}'.")
    if settings.steps < 1 or not math.isfinite(settings.guidance):
        raise Error(
            f"A walk takes 1 step or more with a finite guidance; found {settings.steps} and {settings.guidance}."
        )


def sampler(settings: Walk) -> Sampler:
    return SAMPLERS[settings.sampler]


def sigmas(model: Model, settings: Walk, strength: float = 1.0) -> list[float]:
    """The schedule from a strength in (0, 1] on the model's own clock, or from the highest level that was trained."""
    spec = model.denoiser.spec
    reached = schedule.strength_to_sigma(strength, clock_of(model.meta))
    top = min(reached, settings.sigma_max or spec.sigma_max, spec.sigma_max)
    bottom = max(spec.sigma_min, min(SIGMA_MIN, top / 2))
    if top <= bottom:
        raise Error(
            f"A walk starts above the model's lowest noise level, {bottom:g}; found {top:.3g}. Raise the strength."
        )
    return schedule.karras(settings.steps, top, bottom)


def apply(run: Run, edit: Edit, images: np.ndarray | None, strengths: np.ndarray, settings: Walk) -> np.ndarray:
    """`edit` of every image (N, C, H, W) in [-1, 1], clipped to it; without images x is 0 in the space of the model.

    strengths (N,): where the walk of each begins; those of one strength share a batch.
    """
    check_settings(settings)
    model = run.model
    made: dict[int, np.ndarray] = {}
    for strength, rows in _batches(strengths):
        levels = sigmas(model, settings, strength)
        wanted, plain = ({k: model.asarray(v[rows]) for k, v in c.items()} for c in (run.cond, run.null))
        denoise = guidance.classifier_free(model.denoiser, wanted, plain, settings.guidance)
        denoise = guidance.with_callback(denoise, lambda *_: run.watch())
        spec = model.denoiser.spec
        noise = Seeded(settings.seed, [int(run.indices[row]) for row in rows], spec.shape, model.asarray)
        if images is None:
            x = model.asarray(np.zeros((len(rows), *spec.shape), np.float32))
        else:
            x = model.codec.encode(model.asarray(images[rows]))
        found = model.asnumpy(model.codec.decode(edit(denoise, x, levels, noise, rows)))
        made |= dict(zip(rows.tolist(), found, strict=True))
    return np.clip(check_images(np.stack([made[row] for row in range(len(made))])), -1, 1).astype(np.float32)


def generate(run: Run, settings: Walk) -> np.ndarray:
    """New images (N, C, H, W) from noise, one a row of the run's condition."""
    scale = run.model.denoiser.spec.initial_scale

    def edit(denoise: Denoise, _x: Array, levels: list[float], noise: Draws, _rows: np.ndarray) -> Array:
        return editing.generate(sampler(settings), denoise, levels, noise, scale(levels[0]))

    return apply(run, edit, None, np.ones(len(run.indices)), settings)


def count_evaluations(settings: Walk, strengths: np.ndarray) -> int:
    """How often watch is called, but by inpainting, which repeats its steps."""
    return sum(1 for _ in _batches(strengths)) * evaluations_of_walk(settings)


def evaluations_of_walk(settings: Walk | Sampling) -> int:
    """How often a walk down asks the model: heun twice a step, but once in the step to 0."""
    return 2 * settings.steps - 1 if settings.sampler == "heun" else settings.steps


def _batches(strengths: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Each strength that occurs with rows that have it, at most BATCH at a time."""
    for strength in np.unique(strengths):
        rows = np.flatnonzero(strengths == strength)
        for first in range(0, len(rows), BATCH):
            yield float(strength), rows[first : first + BATCH]
