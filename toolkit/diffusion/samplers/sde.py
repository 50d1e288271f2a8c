"""Stochastic samplers: every step forgets a part of the noise and draws it anew with noise(step). Downwards only."""

from collections.abc import Sequence
from itertools import pairwise
from math import log

from toolkit.diffusion.model import Array, Denoise, Noise

__all__ = ["consistency", "dpmpp_2m_sde", "euler_ancestral"]


def euler_ancestral(denoise: Denoise, x: Array, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Array:
    """Ancestral sampling: DDPM on any list of sigmas, which is DDIM with eta = 1. One evaluation a step.

    eta: part of the posterior's standard deviation that is drawn anew; 0 is `euler`.
    Draws q(x_next | x, x0 = denoised) of variance sigma_next^2 (1 - sigma_next^2 / sigma^2). ValueError upwards, where
    it has none. Ho et al. 2020, arXiv:2006.11239, eq. 7; Song et al. 2021, arXiv:2010.02502, eqs. 12 and 16.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        fresh = noise(i) if sigma_next > 0 else 0.0
        _downwards(sigma, sigma_next)
        up = eta * sigma_next * (1 - (sigma_next / sigma) ** 2) ** 0.5
        down = (sigma_next**2 - up**2) ** 0.5
        denoised = denoise(x, sigma)
        x = denoised + (down / sigma) * (x - denoised) + up * fresh
    return x


def dpmpp_2m_sde(denoise: Denoise, x: Array, sigmas: Sequence[float], noise: Noise) -> Array:
    """SDE-DPM-Solver++(2M), multistep. One evaluation a step; the first and a step to 0 are first order.

    The reverse SDE solved exactly but for the denoised image, which is taken as linear in log sigma. ValueError upwards.
    Lu et al. 2022, arXiv:2211.01095, eq. 18 and section 3.4, with alpha 1 and lambda = -log sigma.
    """
    previous, step_before = None, 0.0
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        fresh = noise(i) if sigma_next > 0 else 0.0
        _downwards(sigma, sigma_next)
        denoised = denoise(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        step = log(sigma / sigma_next)
        target = denoised
        if previous is not None:
            target = denoised + (step / (2 * step_before)) * (denoised - previous)
        part = (sigma_next / sigma) ** 2
        x = part * x + (1 - part) * target + sigma_next * (1 - part) ** 0.5 * fresh
        previous, step_before = denoised, step
    return x


def consistency(denoise: Denoise, x: Array, sigmas: Sequence[float], noise: Noise) -> Array:
    """Multistep consistency sampling: denoise all the way, then add fresh noise up to the next level.

    For a model that was distilled to answer, at every level, the end of the path and not the mean of all ends; of any
    other it answers samples that are too smooth. ValueError upwards.
    Song et al. 2023, Consistency Models, arXiv:2303.01469, algorithm 1, with its epsilon 0.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        fresh = noise(i) if sigma_next > 0 else 0.0
        _downwards(sigma, sigma_next)
        x = denoise(x, sigma) + sigma_next * fresh
    return x


def _downwards(sigma: float, sigma_next: float) -> None:
    if sigma_next > sigma:
        raise ValueError(
            f"A stochastic sampler only walks down; found sigma {sigma:.4g} -> {sigma_next:.4g}. "
            "Encode with a deterministic one, such as euler."
        )
