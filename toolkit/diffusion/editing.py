"""Procedures: where sampling starts and where it goes. What the model thinks is `guidance`, how it steps a sampler.

sigmas is always the decreasing schedule, its last value included; x and images are (B, C, H, W) and in the model's
space (latents of a latent model). noise is a `noise.Draws`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from toolkit.diffusion import guidance
from toolkit.diffusion.model import Array, Denoise, Noise
from toolkit.diffusion.noise import Draws, Purpose
from toolkit.diffusion.samplers import Sampler
from toolkit.example import Error

__all__ = ["Resampling", "counterfactual", "differential", "generate", "inpaint", "invert", "sdedit"]


def generate(sampler: Sampler, denoise: Denoise, sigmas: Sequence[float], noise: Draws, scale: float) -> Array:
    """New images from noise. scale: spec.initial_scale(sigmas[0]), the factor of the noise it starts from."""
    return sampler(denoise, scale * noise(0, Purpose.START), sigmas, noise)


def sdedit(sampler: Sampler, denoise: Denoise, x: Array, sigmas: Sequence[float], noise: Draws) -> Array:
    """An image with random noise up to sigmas[0], then denoised (Meng et al. 2021, SDEdit, arXiv:2108.01073, alg. 1).

    To change a part of the image only, put `guidance.keep_known` around denoise.
    """
    return sampler(denoise, x + sigmas[0] * noise(0, Purpose.START), sigmas, noise)


def differential(
    sampler: Sampler, denoise: Denoise, x: Array, levels: Array, sigmas: Sequence[float], noise: Draws
) -> Array:
    """`sdedit` with a strength of its own at every place: the change map (Levin & Fried 2023, arXiv:2306.00950, alg. 1).

    levels: broadcasts to x, the sigma up to which a place is noised: from 0, which keeps it exactly, to sigmas[0],
    which is `sdedit` there. Between, a place joins the walk at the first of the sigmas that is not above its level.
    The model sees the rest of the image, noised, all the while. Where the paper draws the noise of what is kept anew at
    each step, here it is the noise of the sampler, so that any sampler, a multistep one too, goes through undisturbed.
    """
    return sdedit(sampler, guidance.keep_above(denoise, x, levels), x, sigmas, noise)


def invert(sampler: Sampler, denoise: Denoise, x: Array, sigmas: Sequence[float]) -> Array:
    """The noisy x at sigmas[0] from which the sampler gets back to the image x (DDIM inversion).

    The image counts as a point at sigmas[-2], the last sigma with a slope. Errors: a sampler that draws noise.
    Song et al. 2021, arXiv:2010.02502, section 4.3.
    """
    return sampler(denoise, x, sigmas[-2::-1], _refused)


def counterfactual(
    sampler: Sampler, encode: Denoise, decode: Denoise, x: Array, sigmas: Sequence[float], noise: Noise
) -> Array:
    """What the image x would be under another condition: up with `encode`, down with `decode`.

    The way up is deterministic, which keeps what the condition does not speak of. decode is `guidance.classifier_guided` the
    target class, or the other condition. Errors: a sampler that draws noise.
    Wolleb et al. 2022, arXiv:2203.04306, algorithm 1; Sanchez & Tsaftaris 2022, Diff-SCM, arXiv:2202.10166.
    """
    noisy = invert(sampler, encode, x, sigmas)
    return sampler(decode, noisy, sigmas, noise)


@dataclass(frozen=True)
class Resampling:
    """How RePaint harmonises the known part and the rest: each run of `jump` steps is gone through `resamples` times, with
    fresh noise back up in between; resamples 1 is plain replacement. The paper's values (section 4.2)."""

    jump: int = 10
    resamples: int = 10


def inpaint(
    sampler: Sampler,
    denoise: Denoise,
    known: Array,
    mask: Array,
    sigmas: Sequence[float],
    noise: Draws,
    scale: float,
    resampling: Resampling = Resampling(),
) -> Array:
    """The image `known` where mask is 1, completed elsewhere.

    After each step the known part is put back at the noise level reached, see `Resampling` for how the two parts come to
    agree. About steps * resamples evaluations. The sampler is called a step at a time, so a multistep one is of
    first order here. mask: broadcasts to known, of its dtype. scale: as in `generate`.
    Lugmayr et al. 2022, RePaint, arXiv:2201.09865, algorithm 1 and section 4.2; the paper's values are the defaults.
    """
    jump, resamples = resampling.jump, resampling.resamples
    if jump < 1 or resamples < 1:
        raise Error(f"jump and resamples are 1 or more; found {jump} and {resamples}. RePaint's values are 10 and 10.")

    def blended(x: Array, sigma: float, taken: int) -> Array:
        level = known + sigma * noise(taken, Purpose.KNOWN) if sigma > 0 else known
        return level * mask + x * (1 - mask)

    last = len(sigmas) - 2
    taken = 0
    x = blended(scale * noise(0, Purpose.START), sigmas[0], taken)
    for i, back in _walk(last, jump, resamples):
        if back:
            x = x + math.sqrt(sigmas[i - back] ** 2 - sigmas[i] ** 2) * noise(taken, Purpose.JUMP)
        else:
            x = sampler(denoise, x, sigmas[i : i + 2], partial(_shifted, noise, taken))
            taken += 1
            x = blended(x, sigmas[i + 1], taken)
    return x


def _walk(last: int, jump: int, resamples: int) -> Iterator[tuple[int, int]]:
    """RePaint's path: (i, 0) is a step from sigmas[i] to the next, (i, n) a jump from sigmas[i] up by n places.

    The step from sigmas[last] to the final sigma is taken once, at the end.
    """
    for first in range(0, last, jump):
        end = min(first + jump, last)
        for turn in range(resamples):
            if turn:
                yield end, end - first
            for i in range(first, end):
                yield i, 0
    yield last, 0


def _shifted(noise: Draws, taken: int, step: int) -> Array:
    return noise(taken + step)


def _refused(step: int) -> Array:
    raise Error(
        f"Encoding an image needs a deterministic sampler; found one that draws noise at step {step}. "
        "Use euler, heun or dpmpp_2m."
    )
