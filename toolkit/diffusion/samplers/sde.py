"""Stochastic samplers: every step forgets a part of the noise and draws it anew with noise(step). Downwards only."""

from collections.abc import Sequence
from itertools import pairwise

from toolkit.diffusion.model import Array, Denoise, Noise

__all__ = ["euler_ancestral"]


def euler_ancestral(denoise: Denoise, x: Array, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Array:
    """Ancestral sampling: DDPM on any list of sigmas, which is DDIM with eta = 1. One evaluation a step.

    eta: part of the posterior's standard deviation that is drawn anew; 0 is `euler`.
    Draws q(x_next | x, x0 = denoised) of variance sigma_next^2 (1 - sigma_next^2 / sigma^2). ValueError upwards, where
    it has none. Ho et al. 2020, arXiv:2006.11239, eq. 7; Song et al. 2021, arXiv:2010.02502, eqs. 12 and 16.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        fresh = noise(i) if sigma_next > 0 else 0.0
        if sigma_next > sigma:
            raise ValueError(
                f"A stochastic sampler only walks down; found sigma {sigma:.4g} -> {sigma_next:.4g}. "
                "Encode with a deterministic one, such as euler."
            )
        up = eta * sigma_next * (1 - (sigma_next / sigma) ** 2) ** 0.5
        down = (sigma_next**2 - up**2) ** 0.5
        denoised = denoise(x, sigma)
        x = denoised + (down / sigma) * (x - denoised) + up * fresh
    return x
