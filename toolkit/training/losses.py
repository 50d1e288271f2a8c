"""What a part of a model is trained on: functions (module, batch, randomness) -> scalar loss."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from toolkit.diffusion.model import BOXES, OBJECTS, Spec
from toolkit.networks.layout import coverage
from toolkit.settings import Training
from toolkit.training.loader import Batch

__all__ = [
    "area_weights", "classification", "clean_classification", "denoising", "perceptual", "reconstruction",
    "reconstruction_error",
]  # fmt: skip

PERCEPTUAL, KL = 0.5, 1e-4
"""Weights of the perceptual distance and of the KL divergence beside the error of the pixels."""


FOREGROUND, POWER = 2.0, 0.2
"""Of the weight of an object by its area: w and p of Chen et al. 2023."""


def noise_levels(settings: Training, count: int, generator: torch.Generator) -> Tensor:
    """(count,) sigmas with ln sigma ~ N(sigma_mean, sigma_std^2), stratified over the batch to lower the variance."""
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    normal = torch.erfinv((2 * place - 1).clamp(-0.9999, 0.9999)) * 2**0.5
    return (settings.sigma_mean + settings.sigma_std * normal).exp()


def denoising(module: nn.Module, batch: Batch, spec: Spec, settings: Training, generator: torch.Generator) -> Tensor:
    """Weighted denoising error (Karras et al. 2022, eq. 8): equal weight to every noise level at initialisation.

    With probability settings.drop all conditions of a sample become null, for classifier-free guidance
    (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1), and with settings.drop_each each label by itself. Of a model
    that is told boxes small objects weigh more, see `area_weights`.
    """
    image = batch.image
    sigma = noise_levels(settings, len(image), generator).to(image)
    noise = torch.randn(image.shape, generator=generator).to(image)
    dropped = (torch.rand(len(image), generator=generator) < settings.drop).to(image.device)
    cond = {}
    alone = {}
    for name, value in batch.cond.items():
        label = name.removesuffix("_known")  # a number and whether it is known go together
        if settings.drop_each and label not in alone:
            alone[label] = (torch.rand(len(image), generator=generator) < settings.drop_each).to(image.device)
        missing = dropped | alone[label] if settings.drop_each else dropped
        missing = missing.reshape(-1, *[1] * (value.ndim - 1))
        cond[name] = torch.where(missing, torch.full_like(value, spec.fields[name].null), value)
    denoised = module(image + sigma.reshape(-1, 1, 1, 1) * noise, sigma, **cond)
    weight = (sigma**2 + spec.sigma_data**2) / (sigma * spec.sigma_data) ** 2
    error = weight.reshape(-1, 1, 1, 1) * (denoised - image) ** 2
    if BOXES in batch.cond:
        there = batch.cond[OBJECTS] != spec.fields[OBJECTS].null
        error = error * area_weights(batch.cond[BOXES], there, image.shape[2], image.shape[3])
    return error.mean()


def area_weights(boxes: Tensor, there: Tensor, rows: int, cols: int) -> Tensor:
    """(B, 1, rows, cols) weights of mean 1: FOREGROUND / area^POWER in a box, 1 / (rows cols)^POWER outside of all.

    GeoDiffusion (Chen et al. 2023, arXiv:2306.04607, section 3.3): else a small object hardly counts. Where
    boxes overlap, the smallest counts. boxes (B, N, 4) in parts of width and height; there (B, N) boolean.
    """
    down, across = coverage(boxes, rows, cols)
    area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) * rows * cols).clamp(min=1.0)
    inside = (down[..., :, None] * across[..., None, :] > 0.5) & there[..., None, None]
    heavy = (inside * (FOREGROUND / area**POWER)[..., None, None]).amax(1)
    weight = torch.where(inside.any(1), heavy, torch.full_like(heavy, (rows * cols) ** -POWER))
    return (weight / weight.mean((1, 2), keepdim=True))[:, None]


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


def clean_classification(
    module: nn.Module, batch: Batch, spec: Spec, settings: Training, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of the class of clean images: how a feature network is trained."""
    return nnf.nll_loss(module(batch.image)["log_probability"], batch.target)


def reconstruction(
    module: nn.Module,
    batch: Batch,
    spec: Spec,
    settings: Training,
    generator: torch.Generator,
    features: nn.Module | None = None,
) -> Tensor:
    """`reconstruction_error` of an autoencoder, with noise of the posterior's spread."""
    noise = torch.randn((len(batch.image), *spec.shape), generator=generator).to(batch.image)
    made, kl = module(batch.image, noise)
    return reconstruction_error(made, kl, batch.image, features)


def reconstruction_error(made: Tensor, kl: Tensor, image: Tensor, features: nn.Module | None = None) -> Tensor:
    """Error of images that an autoencoder made: pixels, their differences to the neighbours, features, and a little KL.

    Rombach et al. 2022, arXiv:2112.10752, section 3.1, with L1; in place of LPIPS the domain's own feature network. The
    differences of neighbours punish a blurred edge more than L1 alone; texture takes an adversary, see `adversarial`.
    """
    error = made.to(torch.float32) - image
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    loss = error.abs().mean() + edges + KL * kl.mean()
    return loss if features is None else loss + PERCEPTUAL * perceptual(features, made, image)


def perceptual(features: nn.Module, made: Tensor, image: Tensor) -> Tensor:
    """Squared distance of the maps of a feature network, each place of a map at norm 1, summed over its maps.

    The form of Zhang et al. 2018, LPIPS, arXiv:1801.03924, eq. 1, without learned weights.
    """
    ours, theirs = features(made), features(image)
    levels = [name for name in ours if name.startswith("level")][:-1]
    return sum(((nnf.normalize(ours[n], dim=1) - nnf.normalize(theirs[n], dim=1)) ** 2).sum(1).mean() for n in levels)  # type: ignore[return-value]
