"""Noise levels: from a number of steps to the list of sigmas that a sampler walks down, and the clock of a strength.

Every schedule answers a list of Python floats of length steps + 1, strictly decreasing, whose last value is 0 or the
`final` that was asked for. A schedule takes its first sigma as an argument, so one that starts part of the way up -
at a strength - still takes exactly `steps` steps. Python floats, because a numpy float64 would promote the image.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul

from toolkit.example import Error

__all__ = [
    "COSINE", "LINEAR", "SIGMA_CAP", "Clock", "Schedule", "clock", "clock_from_config", "cosine", "ddpm", "ddpm_sigma",
    "ddpm_time", "exponential", "from_strength", "karras", "strength_to_sigma",
]  # fmt: skip

Schedule = Callable[..., list[float]]
"""(steps, sigma_max, ...) -> steps + 1 decreasing sigmas."""

SIGMA_CAP = 4096.0
"""The largest sigma used: where the training ended in pure noise (zero terminal SNR) sigma is infinite. 1/sqrt(2^-24)
is what float32 still tells from it; diffusers caps at the same value."""


@dataclass(frozen=True)
class Clock:
    """The training time of a model: which sigma the network saw at which part of its T steps.

    sigmas: sigma after step 1, 2, ... T of the forward process, strictly increasing; time is n / T in (0, 1].
    capped: whether the last one was above SIGMA_CAP, or infinite, and was put there; a caller says so to the user.
    Between two steps log sigma is linear in time. Before the first step sigma is sigma_1 sqrt(n), as it is for any
    variance-preserving process that starts with a constant beta.
    """

    sigmas: tuple[float, ...]
    capped: bool = False

    def __post_init__(self) -> None:
        ordered = all(low < high for low, high in pairwise(self.sigmas))
        if len(self.sigmas) < 2 or not ordered or not 0 < self.sigmas[0] <= self.sigmas[-1] < math.inf:
            raise Error(
                "A clock needs two or more finite sigmas that strictly increase from above 0; "
                f"found {_shortened(self.sigmas)}. Check the noise schedule of the checkpoint."
            )

    def sigma(self, time: float) -> float:
        """Noise level at a time in (0, 1]."""
        if not 0 < time <= 1:
            raise Error(f"A strength is a part of the training time in (0, 1]; found {time}. Give one in that range.")
        step = time * len(self.sigmas)
        if step <= 1:
            return self.sigmas[0] * math.sqrt(step)
        above = min(math.ceil(step - 1), len(self.sigmas) - 1)
        low, high = self.sigmas[above - 1], self.sigmas[above]
        part = step - above
        return low ** (1 - part) * high**part

    def time(self, sigma: float) -> float:
        """Time in (0, 1] at which sigma is reached; the inverse of `sigma`. Above the last sigma it is 1."""
        if not sigma > 0:
            raise Error(f"Only a sigma above 0 has a time; found {sigma}. Leave the final 0 of a schedule out.")
        above = bisect_left(self.sigmas, sigma)
        if above == len(self.sigmas):
            return 1.0
        if above == 0:
            return (sigma / self.sigmas[0]) ** 2 / len(self.sigmas)
        low, high = self.sigmas[above - 1], self.sigmas[above]
        return (above + math.log(sigma / low) / math.log(high / low)) / len(self.sigmas)


def clock(alphas_cumprod: Iterable[float]) -> Clock:
    """Clock of a checkpoint from its cumulative alphas, the first of them after one step of noise.

    sigma^2 = (1 - a) / a (Karras et al. 2022, arXiv:2206.00364, table 1). a = 0 is allowed at the end.
    """
    sigmas = [math.sqrt((1 - a) / a) if a > 0 else math.inf for a in alphas_cumprod]
    capped = [min(sigma, SIGMA_CAP) for sigma in sigmas]
    return Clock(tuple(capped), capped != sigmas)


def _cumulative(betas: Iterable[float]) -> Iterable[float]:
    return accumulate((1 - beta for beta in betas), mul)


def _betas(signal: Callable[[float], float], steps: int = 1000, largest: float = 0.999) -> list[float]:
    """Betas whose cumulative alpha is signal(time) / signal(0), clipped at 0.999 as Nichol & Dhariwal clip theirs."""
    at = [signal(n / steps) for n in range(steps + 1)]
    return [min(1 - after / before, largest) for before, after in pairwise(at)]


def _cosine(time: float) -> float:
    """Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17."""
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(time: float) -> float:
    """Hang et al. 2024, arXiv:2407.03297, with diffusers' constants: a log SNR as Laplace's quantiles are spread."""
    log = -0.5 * math.copysign(1.0, 0.5 - time) * math.log(1 - 2 * abs(0.5 - time) + 1e-6)
    return math.sqrt(math.exp(log) / (1 + math.exp(log)))


LINEAR = clock(_cumulative(1e-4 + (0.02 - 1e-4) * n / 999 for n in range(1000)))
"""The clock of DDPM (Ho et al. 2020, arXiv:2006.11239, section 4): beta linear from 1e-4 to 0.02, T = 1000."""

COSINE = clock(_cumulative(_betas(_cosine)))
"""The cosine clock, T = 1000; its last sigma, about 20,000, is capped."""


BETAS: dict[str, Callable[[float, float, int], Iterable[float]]] = {
    "linear": lambda low, high, steps: (low + (high - low) * n / (steps - 1) for n in range(steps)),
    "scaled_linear": lambda low, high, steps: (
        (low**0.5 + (high**0.5 - low**0.5) * n / (steps - 1)) ** 2 for n in range(steps)
    ),
    "squaredcos_cap_v2": lambda low, high, steps: _betas(_cosine, steps),
    "sigmoid": lambda low, high, steps: (
        low + (high - low) / (1 + math.exp(6 - 12 * n / (steps - 1))) for n in range(steps)
    ),
    "exp": lambda low, high, steps: _betas(lambda time: math.exp(-12 * time), steps),
    "laplace": lambda low, high, steps: _betas(_laplace, steps),
}
"""diffusers' names of what beta does between its first and its last value; scaled_linear is Stable Diffusion's."""


def clock_from_config(
    beta_schedule: str = "linear",
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    num_train_timesteps: int = 1000,
    trained_betas: Iterable[float] | None = None,
    rescale_betas_zero_snr: bool = False,
) -> Clock:
    """The clock of a process in the words of a diffusers scheduler_config.json, as model.json keeps it under "clock".

    trained_betas: the betas themselves, in place of a schedule. rescale_betas_zero_snr: the root of the cumulative alpha
    is shifted to end at 0 and stretched to begin where it did (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
    """
    if trained_betas is None and beta_schedule not in BETAS:
        raise Error(f"A beta schedule is one of {', '.join(BETAS)}; found '{beta_schedule}'.")
    betas = (
        trained_betas if trained_betas is not None else BETAS[beta_schedule](beta_start, beta_end, num_train_timesteps)
    )
    alphas = list(_cumulative(betas))
    if rescale_betas_zero_snr:
        first, last = math.sqrt(alphas[0]), math.sqrt(alphas[-1])
        alphas = [((math.sqrt(a) - last) * first / (first - last)) ** 2 for a in alphas]
    return clock(alphas)


def ddpm_sigma(time: float) -> float:
    """Sigma at a time in (0, 1] of the DDPM-linear clock."""
    return LINEAR.sigma(time)


def ddpm_time(sigma: float) -> float:
    """Time in (0, 1] of a sigma on the DDPM-linear clock."""
    return LINEAR.time(sigma)


def strength_to_sigma(strength: float, clock: Clock = LINEAR) -> float:
    """Start sigma of an edit: strength is t / T on the model's own clock; 0.5 is sigma 3.42 on DDPM's."""
    return clock.sigma(strength)


def from_strength(schedule: Schedule, steps: int, strength: float, clock: Clock = LINEAR) -> list[float]:
    """Schedule that starts at a strength and takes exactly `steps` steps from there."""
    return schedule(steps, strength_to_sigma(strength, clock))


def karras(
    steps: int, sigma_max: float = 80.0, sigma_min: float = 0.002, rho: float = 7.0, final: float = 0.0
) -> list[float]:
    """Sigmas even in sigma^(1/rho), from sigma_max to sigma_min, then `final` (arXiv:2206.00364, eq. 5)."""
    if not rho > 0:
        raise Error(f"karras needs rho above 0; found {rho}. The paper's value is 7.")
    top, bottom = _capped(sigma_max) ** (1 / rho), sigma_min ** (1 / rho) if sigma_min > 0 else 0.0
    return _joined(steps, sigma_max, sigma_min, final, lambda part: (top + part * (bottom - top)) ** rho)


def exponential(steps: int, sigma_max: float = 80.0, sigma_min: float = 0.002, final: float = 0.0) -> list[float]:
    """Sigmas even in log sigma, that is in log SNR, from sigma_max to sigma_min, then `final` (arXiv:2206.00927)."""
    top = _capped(sigma_max)
    return _joined(steps, sigma_max, sigma_min, final, lambda part: top * (sigma_min / top) ** part)


def ddpm(
    steps: int,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    clock: Clock = LINEAR,
    final: float = 0.0,
) -> list[float]:
    """Sigmas at times that are even real numbers on a model's clock, as many times as steps, then `final`.

    Without sigma_max and sigma_min the times run from T to 1, both kept (Nichol & Dhariwal 2021, arXiv:2102.09672,
    section 4). With a `final` above 0 and no sigma_min the times run evenly on to `final` itself.
    """
    if sigma_max is None:
        sigma_max = clock.sigmas[-1]
    start = clock.time(_capped(sigma_max))
    if sigma_min is None and final > 0:
        end = clock.time(final)
        sigma_min = clock.sigma(start + (end - start) * (steps - 1) / steps) if steps > 1 else sigma_max
    elif sigma_min is None:
        sigma_min = clock.sigmas[0]
    end = clock.time(sigma_min)
    return _joined(steps, sigma_max, sigma_min, final, lambda part: clock.sigma(start + part * (end - start)))


def cosine(
    steps: int, sigma_max: float | None = None, sigma_min: float | None = None, final: float = 0.0
) -> list[float]:
    """Sigmas at even real times of the cosine clock, then `final` (arXiv:2102.09672, eq. 17)."""
    return ddpm(steps, sigma_max, sigma_min, COSINE, final)


def _joined(
    steps: int, sigma_max: float, sigma_min: float, final: float, curve: Callable[[float], float]
) -> list[float]:
    """curve(0) ... curve(1) at `steps` places with both ends exact, then `final`; a single step starts at sigma_max."""
    if steps < 1:
        raise Error(f"A schedule takes one step or more; found steps = {steps}. Ask for a positive number.")
    inner = [curve(n / (steps - 1)) for n in range(1, steps - 1)]
    sigmas = [_capped(sigma_max), *inner, *([sigma_min] if steps > 1 else []), final]
    if final < 0 or not all(high > low for high, low in pairwise(sigmas)):
        raise Error(
            "The sigmas of a schedule strictly decrease, sigma_max > sigma_min > final >= 0; "
            f"found {_shortened(sigmas)}. Take fewer steps, or move the ends apart."
        )
    return [float(sigma) for sigma in sigmas]


def _capped(sigma: float) -> float:
    return min(sigma, SIGMA_CAP)


def _shortened(sigmas: Iterable[float]) -> str:
    """The first and last values of a list, for a message."""
    words = [f"{sigma:.4g}" for sigma in sigmas]
    return ", ".join(words if len(words) <= 6 else [*words[:3], "...", *words[-3:]])
