"""What a part of a model is trained on: functions (module, batch, randomness) -> scalar loss."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from toolkit.diffusion.model import Spec
from toolkit.settings import Training
from toolkit.training.loader import Batch

__all__ = ["classification", "denoising"]


def noise_levels(settings: Training, count: int, generator: torch.Generator) -> Tensor:
    """(count,) sigmas with ln sigma ~ N(sigma_mean, sigma_std^2), stratified over the batch to lower the variance."""
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    normal = torch.erfinv((2 * place - 1).clamp(-0.9999, 0.9999)) * 2**0.5
    return (settings.sigma_mean + settings.sigma_std * normal).exp()


def denoising(module: nn.Module, batch: Batch, spec: Spec, settings: Training, generator: torch.Generator) -> Tensor:
    """Weighted denoising error (Karras et al. 2022, eq. 8): equal weight to every noise level at initialisation.

    With probability settings.drop all conditions of a sample become null, for classifier-free guidance
    (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
    """
    image = batch.image
    sigma = noise_levels(settings, len(image), generator).to(image)
    noise = torch.randn(image.shape, generator=generator).to(image)
    dropped = (torch.rand(len(image), generator=generator) < settings.drop).to(image.device)
    cond = {
        name: torch.where(dropped, torch.full_like(value, spec.fields[name].null), value)
        for name, value in batch.cond.items()
    }
    denoised = module(image + sigma.reshape(-1, 1, 1, 1) * noise, sigma, **cond)
    weight = (sigma**2 + spec.sigma_data**2) / (sigma * spec.sigma_data) ** 2
    return (weight.reshape(-1, 1, 1, 1) * (denoised - image) ** 2).mean()


def classification(
    module: nn.Module, batch: Batch, spec: Spec, settings: Training, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of the class of noisy images; a third of each batch is all but clean, as the slice gate sees it."""
    image = batch.image
    sigma = noise_levels(settings, len(image), generator)
    clean = torch.rand(len(image), generator=generator) < 1 / 3
    sigma = torch.where(clean, torch.full_like(sigma, 0.05), sigma).to(image)
    noise = torch.randn(image.shape, generator=generator).to(image)
    return nnf.nll_loss(module(image + sigma.reshape(-1, 1, 1, 1) * noise, sigma), batch.target)
