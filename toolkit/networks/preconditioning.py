"""Any eps / v / x0 / flow / EDM network as a denoiser in sigma units.

Every parameterisation has the form D(x; sigma) = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022,
arXiv:2206.00364, eq. 7), so one is a function sigma -> (c_skip, c_out, c_in, c_noise). With x = x0 + sigma n:

    VP      x_vp = x / sqrt(1 + sigma^2), alpha_bar = 1 / (1 + sigma^2); c_noise is the training time step
    flow    x_t = (1 - t) x0 + t n = x / (1 + sigma), t = sigma / (1 + sigma)

x, sigma, the coefficients and D stay in fp32 whatever the network computes in: D = x - sigma eps cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "PARAMETERISATIONS", "Parameterisation", "Preconditioned", "clock_of_steps", "edm", "epsilon", "flow", "sample",
    "velocity",
]  # fmt: skip

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]
Parameterisation = Callable[[Tensor], Coefficients]
Clock = Callable[[Tensor], Tensor]
"""sigma -> the time step that the network was trained with."""


def edm(sigma: Tensor, sigma_data: float = 0.5) -> Coefficients:
    """Karras et al. 2022, table 1; c_noise = ln(sigma) / 4, on the 0..1000 scale of a sinusoidal time embedding."""
    total = (sigma**2 + sigma_data**2).sqrt()
    return sigma_data**2 / total**2, sigma * sigma_data / total, 1 / total, 250.0 * sigma.log() / 4


def epsilon(sigma: Tensor, clock: Clock) -> Coefficients:
    """The network predicts the noise of a VP process: D = x - sigma eps."""
    return torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), clock(sigma)


def velocity(sigma: Tensor, clock: Clock) -> Coefficients:
    """The network predicts v = sqrt(abar) n - sqrt(1 - abar) x0 (Salimans & Ho 2022, arXiv:2202.00512)."""
    return 1 / (1 + sigma**2), -sigma * (1 + sigma**2).rsqrt(), (1 + sigma**2).rsqrt(), clock(sigma)


def sample(sigma: Tensor, clock: Clock) -> Coefficients:
    """The network predicts x0 of a VP process."""
    return torch.zeros_like(sigma), torch.ones_like(sigma), (1 + sigma**2).rsqrt(), clock(sigma)


def flow(sigma: Tensor) -> Coefficients:
    """The network predicts n - x0 of a rectified flow (Liu et al. 2022, arXiv:2209.03003); its time is 1000 t."""
    time = sigma / (1 + sigma)
    return 1 - time, -time, 1 - time, 1000.0 * time


PARAMETERISATIONS = {function.__name__: function for function in (edm, epsilon, velocity, sample, flow)}


def clock_of_steps(sigmas: Sequence[float]) -> Clock:
    """The clock of a process of len(sigmas) steps: step n, counted from 0, where sigma is sigmas[n].

    Between two of them log sigma is linear in the step, and outside the nearest is meant. In plain arithmetic, without
    a search, so that it exports.
    """
    logs = torch.tensor(sigmas, dtype=torch.float64).log()
    rises = torch.stack([logs[:-1], 1 / logs.diff()]).to(torch.float32)

    def clock(sigma: Tensor) -> Tensor:
        low, slope = rises.to(sigma.device)
        # Every interval below sigma counts one step, the one that sigma lies in its part, those above none.
        return ((sigma.log()[:, None] - low) * slope).clamp(0, 1).sum(1)

    return clock


class Preconditioned(nn.Module):
    """A network as D(x, sigma, cond): x (B, C, H, W), sigma (B,), both fp32; the network body may be in half."""

    def __init__(self, network: nn.Module, parameterisation: Parameterisation) -> None:
        super().__init__()
        self.network, self.parameterisation = network, parameterisation

    def forward(self, x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        skip, out, scale, noise = (
            c.reshape(-1, *[1] * (x.ndim - 1)) for c in self.parameterisation(sigma.to(torch.float32))
        )
        predicted = self.network(scale * x, noise.flatten(), **cond)
        return skip * x + out * predicted.to(torch.float32)
