"""Few-step distillation: one leap of the student for many steps of its teacher, guidance of any kind folded in.

The teacher walks its own guided paths, and where a path passes the levels of the student it is written down. From each
such state the student learns, in one evaluation, either

    leap          the D whose one step of Euler leads to the next level of the path (Salimans & Ho 2022, progressive
                  distillation, arXiv:2202.00512, appendix G, with all halvings in one), sampled with euler
    consistency   the end of the path (Song et al. 2023, arXiv:2303.01469, section 3; guidance folded in as in LCM, Luo
                  et al. 2023, arXiv:2310.04378, section 4.2), sampled with consistency

Teacher paths, and not noised data, because a guided path leaves the noised data. Written down once, because
the student then needs no teacher while it trains. A path may lead up as well, which is how an encoding is distilled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp, log

import torch
from torch import Tensor, nn

from toolkit.diffusion.model import Array, Denoise, Noise, Spec
from toolkit.diffusion.samplers import Sampler
from toolkit.settings import Training
from toolkit.training.loader import Batch

__all__ = ["OBJECTIVES", "distillation", "leap", "leap_batch", "path_end", "path_levels", "teacher_path"]

SIGMA, ANSWER = "distil.sigma", "distil.answer"
"""Beside the fields of the model in a batch: the level of a state, and what the student is to answer there."""


def path_levels(levels: Sequence[float], steps: int, lowest: float) -> list[float]:
    """The levels of a walk with `steps` steps of the teacher in each leap, evenly in log sigma; a level 0 follows lowest.

    levels: strictly monotone, down or up. lowest: the teacher's last level above 0.
    """
    fine = [levels[0]]
    for start, stop in pairwise(levels):
        reached = stop if stop > 0 else min(lowest, start / 2)
        count = steps if stop > 0 else max(1, steps - 1)
        rise = (log(reached) - log(start)) / count
        fine += [exp(log(start) + rise * n) for n in range(1, count)] + [reached]
        fine += [0.0] if stop == 0 else []
    return fine


def teacher_path(
    sampler: Sampler, denoise: Denoise, x: Array, levels: Sequence[float], steps: int, lowest: float, noise: Noise
) -> list[Array]:
    """The states of a teacher's path at the student's levels, the first, x, and the last included.

    sampler: deterministic, one that asks at each level of its walk once, about the state it has reached: euler, dpmpp_2m.
    """
    seen: dict[float, Array] = {}

    def watching(state: Array, sigma: float) -> Array:
        seen.setdefault(sigma, state)
        return denoise(state, sigma)

    last = sampler(watching, x, path_levels(levels, steps, lowest), noise)
    return [*(seen[level] for level in levels[:-1]), last]


Objective = Callable[[Sequence[Array], Sequence[float], int], Array]
"""(states, levels, n) -> what the student is to answer at states[n]."""


def leap(states: Sequence[Array], levels: Sequence[float], n: int) -> Array:
    """D with x_next = D + (sigma_next / sigma) (x - D), Euler's step."""
    part = levels[n + 1] / levels[n]
    return (states[n + 1] - part * states[n]) / (1 - part)


def path_end(states: Sequence[Array], levels: Sequence[float], n: int) -> Array:
    """The end of the path."""
    return states[-1]


OBJECTIVES: dict[str, Objective] = {"leap": leap, "consistency": path_end}


def leap_batch(
    objective: Objective, states: Sequence[Tensor], levels: Sequence[float], cond: dict[str, Tensor]
) -> Batch:
    """All states of paths that were passed, each with its level and its answer; for the data loader one data set."""
    starts = range(len(levels) - 1)
    rows = len(states[0])
    told = {name: torch.cat([value] * len(starts)) for name, value in cond.items()}
    told[SIGMA] = torch.tensor([levels[n] for n in starts], dtype=torch.float32).repeat_interleave(rows)
    told[ANSWER] = torch.cat([objective(states, levels, n) for n in starts])
    # The classes that the loader draws evenly are the levels.
    return Batch(torch.cat([states[n] for n in starts]), told, torch.arange(len(starts)).repeat_interleave(rows))


def distillation(module: nn.Module, batch: Batch, spec: Spec, settings: Training, generator: torch.Generator) -> Tensor:
    """Squared error of the answer, weighted as in training (Karras et al. 2022, eq. 8): a network's error counts alike."""
    told = dict(batch.cond)
    sigma, answer = told.pop(SIGMA), told.pop(ANSWER)
    weight = (sigma**2 + spec.sigma_data**2) / (sigma * spec.sigma_data) ** 2
    error = (module(batch.image, sigma, **told) - answer) ** 2
    return (weight.reshape(-1, *[1] * (error.ndim - 1)) * error).mean()
