"""Deterministic samplers: the probability-flow ODE dx/dsigma = (x - D(x, sigma)) / sigma, downwards or upwards.

(Karras et al. 2022, arXiv:2206.00364, eqs. 1 and 3.) A step to sigma 0 answers the denoised image exactly. Upwards
they encode an image into noise; a walk never starts at sigma 0, where the ODE has no slope.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log

from toolkit.diffusion.model import Array, Denoise, Noise

__all__ = ["dpmpp_2m", "euler", "heun"]


def euler(denoise: Denoise, x: Array, sigmas: Sequence[float], noise: Noise) -> Array:
    """Euler's method, which in these units is DDIM with eta = 0. First order, one evaluation a step.

    Song et al. 2021, DDIM, arXiv:2010.02502, eq. 12 with cumulative alphas; eq. 14 for the change of units.
    """
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = denoised + (sigma_next / sigma) * (x - denoised)
    return x


def heun(denoise: Denoise, x: Array, sigmas: Sequence[float], noise: Noise) -> Array:
    """Heun's method. Second order, two evaluations a step; a step to sigma 0 is Euler's.

    Karras et al. 2022, arXiv:2206.00364, algorithm 1.
    """
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        slope = (x - denoised) / sigma
        guess = x + (sigma_next - sigma) * slope
        slope_next = (guess - denoise(guess, sigma_next)) / sigma_next
        x = x + (sigma_next - sigma) * 0.5 * (slope + slope_next)
    return x


def dpmpp_2m(denoise: Denoise, x: Array, sigmas: Sequence[float], noise: Noise) -> Array:
    """DPM-Solver++(2M), multistep. Second order, one evaluation a step; the first and a step to 0 are first order.

    Lu et al. 2022, arXiv:2211.01095, algorithm 2, with lambda = -log sigma.
    """
    previous, step_before = None, 0.0
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        step = log(sigma / sigma_next)
        target = denoised
        if previous is not None:
            target = denoised + (step / (2 * step_before)) * (denoised - previous)
        x = target + (sigma_next / sigma) * (x - target)
        previous, step_before = denoised, step
    return x
