"""Training batches: all samples in memory, augmented on the fly, every draw a function of (seed, step) alone.

Because a step's batch, noise and augmentation depend on the seed and the step number only, a run that was stopped
and continued sees exactly what an undisturbed run would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from toolkit.settings import Augmentation

__all__ = ["Batch", "augment", "draw", "generator"]


WARP = 5
"""Knots along each side of an elastic deformation (Simard et al. 2003): one moves about a lung, not about a rib."""


@dataclass(frozen=True)
class Batch:
    """image (B, C, H, W) in [-1, 1]; cond: the model's fields, (B, ...) each; target (B,) class index, -1 unknown."""

    image: Tensor
    cond: Mapping[str, Tensor]
    target: Tensor

    def __getitem__(self, index: Tensor) -> Batch:
        return Batch(self.image[index], {k: v[index] for k, v in self.cond.items()}, self.target[index])

    def to(self, device: torch.device) -> Batch:
        return Batch(self.image.to(device), {k: v.to(device) for k, v in self.cond.items()}, self.target.to(device))


def generator(*words: int) -> torch.Generator:
    """A generator whose state depends on the words alone."""
    seed = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(seed[0]) << 31 ^ int(seed[1]))


def draw(samples: Batch, size: int, settings: Augmentation, seed: int, step: int) -> Batch:
    """The batch of one step: samples drawn with equal weight for every class that occurs, then augmented."""
    random = generator(seed, step, 0)
    _, where, counts = samples.target.unique(return_inverse=True, return_counts=True)
    index = torch.multinomial((1.0 / counts)[where], size, replacement=True, generator=random)
    batch = samples[index]
    return Batch(augment(batch.image, settings, random), batch.cond, batch.target)


def augment(image: Tensor, settings: Augmentation, random: torch.Generator) -> Tensor:
    """Flip, turn, scale, shift, warp, gamma and gain of (B, C, H, W) in [-1, 1], which need not be square.

    With nothing to change the images are answered as they are, latents outside [-1, 1] too.
    """
    if settings == Augmentation():
        return image
    count = len(image)

    def uniform(half: float) -> Tensor:
        return (torch.rand(count, generator=random) * 2 - 1) * half

    angle = uniform(settings.rotate) * (math.pi / 180)
    scale = uniform(math.log1p(settings.scale)).exp()
    mirror = torch.where(torch.rand(count, generator=random) < settings.flip, -1.0, 1.0)
    # The grid counts in halves of the width and of the height: a turn in pixels is none in those units.
    aspect = image.shape[3] / image.shape[2]
    rows = torch.stack([angle.cos() * scale * mirror, -angle.sin() * scale / aspect, uniform(settings.shift)], 1)
    columns = torch.stack([angle.sin() * scale * mirror * aspect, angle.cos() * scale, uniform(settings.shift)], 1)
    way = torch.stack([rows, columns], 1)
    if settings.flip_rows:  # drawn only if asked for, so that a run without it sees what it always saw
        upside = torch.where(torch.rand(count, generator=random) < settings.flip_rows, -1.0, 1.0)
        way[:, :, 1] *= upside[:, None]
    grid = nnf.affine_grid(way, list(image.shape), align_corners=False)
    if settings.warp:
        knots = (torch.rand(count, 2, WARP, WARP, generator=random) * 2 - 1) * settings.warp
        field = nnf.interpolate(knots, size=image.shape[2:], mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    outside = "border" if settings.border else "zeros"
    sampled = nnf.grid_sample(
        image + 1, grid.to(image), mode=settings.interpolation, padding_mode=outside, align_corners=False
    )
    unit = (sampled / 2).clamp(0, 1)
    gamma = uniform(math.log1p(settings.gamma)).exp().to(image)
    gain = uniform(math.log1p(settings.gain)).exp().to(image)
    bright = unit.pow(gamma.reshape(-1, 1, 1, 1)) * gain.reshape(-1, 1, 1, 1)
    return bright.clamp(0, 1) * 2 - 1
