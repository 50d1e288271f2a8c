"""Samplers: how the way from one noise level to the next is integrated.

A sampler is a plain function (denoise, x, sigmas, noise) -> x. x belongs to sigmas[0] > 0, the answer to sigmas[-1].
It uses + - * / on x and nothing else, so one source serves numpy arrays, torch tensors and the rows of an identity
matrix; for that last use its state is linear in x, the noise and what denoise answers. To add one, write a function in
`ode` (asks for no noise, also walks up, which is inversion) or in `sde` and name it in `__all__`.
"""

from collections.abc import Callable, Sequence

from toolkit.diffusion.model import Array, Denoise, Noise
from toolkit.diffusion.samplers import ode, sde

__all__ = ["SAMPLERS", "STOCHASTIC", "Sampler"]

Sampler = Callable[[Denoise, Array, Sequence[float], Noise], Array]

SAMPLERS: dict[str, Sampler] = {name: getattr(module, name) for module in (ode, sde) for name in module.__all__}

STOCHASTIC: frozenset[str] = frozenset(sde.__all__)
"""Names of the samplers that draw noise on the way, and so cannot encode an image."""
