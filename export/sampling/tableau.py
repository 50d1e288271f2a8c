"""A sampler as numbers: the coefficients of its steps, found by feeding it the rows of an identity matrix.

A sampler's state is linear in where it starts, the noise it draws and what denoise answers (toolkit.diffusion.samplers).
So it is run once on unit vectors, one for the start, each draw and each answer, and every state comes out as a row of
coefficients. No sampler is known by name here: a new one is exported because it is linear.

States are told by the one before, s_j+1 = a s_j + sum b_k denoised_k + sum d_n noise_n, where j counts evaluations.
Euler, DPM-Solver++(2M), ancestral sampling and Heun (each of its two evaluations is a row of its own, the guess being a
state like any other) need of these s_j, denoised_j, denoised_j-1 and one draw: the four coefficients of the step graph.
numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from toolkit.diffusion.model import Array
from toolkit.diffusion.samplers import SAMPLERS, Sampler
from toolkit.example import Error

__all__ = ["Row", "Tableau", "steps", "tableau"]

MOST = 4
"""Evaluations and draws that one step may take."""

SMALL = 1e-11
"""A coefficient below this part of its row is the rounding of a zero."""


@dataclass(frozen=True)
class Row:
    """The next state: `state` times the one before, denoised by evaluation and noise by draw, each times its number."""

    state: float
    denoised: Mapping[int, float]
    noise: Mapping[int, float]


@dataclass(frozen=True)
class Tableau:
    """sigmas: noise level of each evaluation. rows: the state after each. draws: the steps whose noise is asked for."""

    sigmas: tuple[float, ...]
    rows: tuple[Row, ...]
    draws: tuple[int, ...]


def tableau(sampler: str, sigmas: Sequence[float]) -> Tableau:
    """The coefficients of a sampler on a schedule, which may also go up. Errors: unknown, or not linear."""
    if sampler not in SAMPLERS:
        raise Error(f"A sampler is one of {', '.join(SAMPLERS)}; found '{sampler}'.")
    most = MOST * len(sigmas)
    basis = np.eye(1 + 2 * most)
    drawn: dict[int, int] = {}
    asked: list[tuple[float, np.ndarray]] = []
    since: list[list[int]] = [[]]

    def denoise(x: Array, sigma: float) -> Array:
        asked.append((sigma, x))
        since.append([])
        return basis[1 + most + len(asked) - 1]

    def noise(step: int) -> Array:
        place = drawn.setdefault(step, len(drawn))
        since[-1].append(1 + place)
        return basis[1 + place]

    try:
        last = SAMPLERS[sampler](denoise, basis[0], list(sigmas), noise)
    except IndexError as problem:
        raise Error(
            f"A sampler that is exported takes up to {MOST} evaluations a step; {sampler} takes more."
        ) from problem
    states = [state for _, state in asked] + [last]
    _linear(sampler, SAMPLERS[sampler], sigmas, last, most)
    # What a sampler draws before it asks for the first time belongs to the first step.
    fresh = [since[0] + since[1], *since[2:]]
    rows = tuple(
        _row(before, after, 1 + most + j, fresh[j], list(drawn), most)
        for j, (before, after) in enumerate(pairwise(states))
    )
    return Tableau(tuple(float(sigma) for sigma, _ in asked), rows, tuple(drawn))


def _row(before: np.ndarray, after: np.ndarray, own: int, fresh: list[int], drawn: list[int], most: int) -> Row:
    """after as a multiple of before and as little else as can be."""
    local = [own, *([own - 1] if own > 1 + most else []), *fresh]
    far = np.ones(len(before), bool)
    far[local] = False
    length = float(before[far] @ before[far])
    part = float(after[far] @ before[far]) / length if length > 0 else 0.0
    part = part if abs(part) > SMALL else 0.0
    rest = after - part * before
    rest[np.abs(rest) <= SMALL * np.abs(after).max()] = 0
    used = [int(place) for place in np.flatnonzero(rest)]
    return Row(
        part,
        {place - 1 - most: float(rest[place]) for place in used if place > most},
        {drawn[place - 1]: float(rest[place]) for place in used if 1 <= place <= most},
    )


def _linear(name: str, sampler: Sampler, sigmas: Sequence[float], last: np.ndarray, most: int) -> None:
    """Raise Error where numbers of another kind do not give what the coefficients say."""
    values = np.random.default_rng(0).standard_normal(len(last))
    drawn: dict[int, int] = {}
    answers = iter(values[1 + most :])
    found = sampler(
        lambda _x, _sigma: next(answers), values[0], list(sigmas),
        lambda step: values[1 + drawn.setdefault(step, len(drawn))],
    )  # fmt: skip
    expected = float(last @ values)
    if not abs(float(found) - expected) <= 1e-9 * float(np.abs(last * values).sum() + 1e-300):
        raise Error(
            f"A sampler that is exported is linear in x, noise and denoised; {name} gives {found:.6g} where its coefficients "
            f"give {expected:.6g}. Export another."
        )


def steps(table: Tableau, sampler: str = "the sampler") -> tuple[np.ndarray, tuple[int | None, ...]]:
    """The form of the step graph: coefficients (E, 4) of state, denoised, previous denoised and noise; each one's draw.

    Errors: a sampler that remembers more, which only an unrolled graph can do.
    """
    numbers = np.zeros((len(table.rows), 4))
    draws: list[int | None] = []
    for j, row in enumerate(table.rows):
        if not set(row.denoised) <= {j, j - 1} or len(row.noise) > 1:
            raise Error(
                f"A step takes its state, two denoised images and one draw; evaluation {j} of {sampler} takes the denoised "
                f"{sorted(row.denoised)} and {len(row.noise)} draws. Unroll it: --fuse sampler with up to 8 steps."
            )
        numbers[j] = row.state, row.denoised.get(j, 0.0), row.denoised.get(j - 1, 0.0), sum(row.noise.values())
        draws.append(next(iter(row.noise), None))
    return numbers, tuple(draws)
