"""Guidance: functions that change what the model thinks, Denoise -> Denoise, and can be put around one another.

All work on the denoised image D in sigma units, where score = (D - x) / sigma^2, so a term g in the score is
g sigma^2 in D. The same source runs on numpy arrays and on torch tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from toolkit.diffusion.model import Array, Cond, Denoise, Denoiser, Gradient
from toolkit.example import Error

__all__ = [
    "classifier_free", "classifier_guided", "conditioned", "interval", "keep_above", "keep_known", "rescale_guidance",
    "with_callback",
]  # fmt: skip


def conditioned(denoiser: Denoiser, cond: Cond) -> Denoise:
    """The denoiser under one condition."""
    return lambda x, sigma: denoiser(x, sigma, cond)


def classifier_free(denoiser: Denoiser, cond: Cond, null: Cond, scale: float) -> Denoise:
    """Classifier-free guidance: D(null) + scale (D(cond) - D(null)).

    scale: 0 unconditional, 1 conditional, above 1 extrapolates; the paper's w is scale - 1. At 0 and 1 only the one
    condition is evaluated, otherwise both in one call. null: the unstated condition, or in its place a negative one,
    which the sample is driven away from. Ho & Salimans 2022, arXiv:2207.12598, eq. 6.
    """
    if scale == 0:
        return conditioned(denoiser, null)
    if scale == 1:
        return conditioned(denoiser, cond)

    def guided(x: Array, sigma: float) -> Array:
        wanted, plain = denoiser(x, sigma, cond, null)
        return plain + scale * (wanted - plain)

    return guided


def classifier_guided(denoise: Denoise, gradient: Gradient, target: Array, scale: float) -> Denoise:
    """Classifier guidance: D + scale sigma^2 grad_x log p(target | x; sigma). Scale 0 is `denoise` itself.

    target: (B, classes) weights. Dhariwal & Nichol 2021, arXiv:2105.05233, eq. 14 and algorithm 2, whose
    eps - sqrt(1 - a) grad log p is this in the units of D: the sign is plus because D = x - sigma eps.
    """
    if scale == 0:
        return denoise
    return lambda x, sigma: denoise(x, sigma) + (scale * sigma**2) * gradient(x, sigma, target)


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` where low < sigma <= high and `plain` elsewhere (Kynkaanniemi et al. 2024, arXiv:2404.07724)."""
    return lambda x, sigma: (guided if low < sigma <= high else plain)(x, sigma)


def rescale_guidance(guided: Denoise, plain: Denoise, phi: float) -> Denoise:
    """`guided`, with a part phi of it brought to the standard deviation, per sample, of the conditional `plain`.

    Lin et al. 2023, arXiv:2305.08891, section 3.4, taken on the denoised image. Phi 0 is `guided` itself.
    """
    if phi == 0:
        return guided

    def denoise(x: Array, sigma: float) -> Array:
        strong = guided(x, sigma)
        ratio = ((_variance(plain(x, sigma)) + 1e-12) / (_variance(strong) + 1e-12)) ** 0.5
        return strong * (phi * ratio + (1 - phi))

    return denoise


def keep_known(denoise: Denoise, known: Array, mask: Array) -> Denoise:
    """D, but the known image where mask is 1. A walk down to sigma 0 leaves that part exactly as it is.

    known: shape of x, at sigma 0. mask: broadcasts to x, of the dtype of x; values between 0 and 1 blend.
    """
    return lambda x, sigma: denoise(x, sigma) * (1 - mask) + known * mask


def keep_above(denoise: Denoise, known: Array, levels: Array) -> Denoise:
    """D at the places whose level sigma has come down to, the known image everywhere else.

    known: shape of x, at sigma 0. levels: broadcasts to x, in units of sigma. Under a constant D every sampler answers
    D plus the noise of its sigma, so until its turn comes a place is the known image, noised to where the walk is; a
    place of level 0 stays exactly as it is. See `editing.differential`.
    """

    def denoised(x: Array, sigma: float) -> Array:
        # Two products, because torch has no 1 - mask of a boolean and numpy would make a float64 of it.
        return denoise(x, sigma) * (levels >= sigma) + known * (levels < sigma)

    return denoised


def with_callback(denoise: Denoise, watch: Callable[[float, Array], object]) -> Denoise:
    """`denoise` that tells watch(sigma, denoised) at each evaluation: progress, previews. Stops at the first NaN."""

    def watching(x: Array, sigma: float) -> Array:
        denoised = denoise(x, sigma)
        mean = float(denoised.mean())
        if not math.isfinite(mean):
            raise Error(
                f"A denoised image has finite values; found {mean} on average at sigma {sigma:.4g}. "
                "Lower the guidance, or run the model in float32."
            )
        watch(sigma, denoised)
        return denoised

    return watching


def _variance(x: Array) -> Array:
    """Variance of each sample, shape (B, 1, ...). Not .var or .std: numpy and torch divide by different numbers."""
    axes = tuple(range(1, x.ndim))
    return ((x - x.mean(axis=axes, keepdims=True)) ** 2).mean(axis=axes, keepdims=True)
