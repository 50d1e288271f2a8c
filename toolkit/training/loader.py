"""Training batches: all samples in memory, augmented on the fly, every draw a function of (seed, step) alone.

Because a step's batch, noise and augmentation depend on the seed and the step number only, a run that was stopped
and continued sees exactly what an undisturbed run would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from toolkit.diffusion.model import BOXES, OBJECTS
from toolkit.example import Error
from toolkit.settings import Augmentation

__all__ = ["Batch", "augment", "augment_batch", "concatenate", "draw_batch", "generator"]


WARP = 5
"""Knots along each side of an elastic deformation (Simard et al. 2003): one moves about a lung, not about a rib."""

VISIBLE = 0.3
"""Part of a box that has to be left in a window for what it holds to be told there."""


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


def concatenate(batches: Sequence[Batch]) -> Batch:
    """The rows of all batches, one after the other."""
    return Batch(
        torch.cat([b.image for b in batches]),
        {k: torch.cat([b.cond[k] for b in batches]) for k in batches[0].cond},
        torch.cat([b.target for b in batches]),
    )


def generator(*words: int) -> torch.Generator:
    """A generator whose state depends on the words alone."""
    seed = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(seed[0]) << 31 ^ int(seed[1]))


def draw_batch(samples: Batch, size: int, settings: Augmentation, seed: int, step: int) -> Batch:
    """The batch of one step: samples drawn with equal weight for every class that occurs, then augmented."""
    random = generator(seed, step, 0)
    _, where, counts = samples.target.unique(return_inverse=True, return_counts=True)
    index = torch.multinomial((1.0 / counts)[where], size, replacement=True, generator=random)
    return augment_batch(samples[index], settings, random)


def augment_batch(batch: Batch, settings: Augmentation, random: torch.Generator) -> Batch:
    """The images of a batch changed, and the boxes that it is told of with them. Errors: boxes that would be turned."""
    if settings == Augmentation():
        return batch
    if BOXES not in batch.cond:
        return Batch(augment(batch.image, settings, random), batch.cond, batch.target)
    if settings.rotate or settings.warp:
        raise Error("A box stays one under flips, crops and scales; found an augmentation that turns or warps images.")
    way = _way(batch.image, settings, random)
    boxes, seen = _moved(batch.cond[BOXES], way)
    objects = torch.where(seen, batch.cond[OBJECTS], batch.cond[OBJECTS][:, -1:])  # the last place is always empty
    layout = {BOXES: boxes * seen[..., None], OBJECTS: objects}
    return Batch(_sampled(batch.image, way, settings, random), {**batch.cond, **layout}, batch.target)


def augment(image: Tensor, settings: Augmentation, random: torch.Generator) -> Tensor:
    """Flip, turn, scale, shift, warp, gamma and gain of (B, C, H, W) in [-1, 1], which need not be square.

    With nothing to change the images are answered as they are, latents outside [-1, 1] too.
    """
    if settings == Augmentation():
        return image
    return _sampled(image, _way(image, settings, random), settings, random)


def _way(image: Tensor, settings: Augmentation, random: torch.Generator) -> Tensor:
    """(B, 2, 3): from a place in the changed image to its place in the image, both from -1 to 1."""
    count, uniform = len(image), _uniform(len(image), random)
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
    if settings.crop:
        kept = 1 - torch.rand(count, generator=random) * settings.crop
        way[:, :, :2] *= kept[:, None, None]
        way[:, :, 2] += (torch.rand(count, 2, generator=random) * 2 - 1) * (1 - kept)[:, None]
    return way


def _moved(boxes: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4) in parts of the image -> of the changed image, and (B, N) whether enough of each is left to see."""
    factor, shift = way[:, :, :2].diagonal(dim1=1, dim2=2), way[:, :, 2]
    corners = ((boxes * 2 - 1).unflatten(2, (2, 2)) - shift[:, None, None]) / factor[:, None, None]
    whole = torch.cat([corners.amin(2), corners.amax(2)], 2) / 2 + 0.5
    inside = whole.clamp(0, 1)
    area, left = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (whole, inside))
    return inside, left > VISIBLE * area


def _uniform(count: int, random: torch.Generator) -> Callable[[float], Tensor]:
    return lambda half: (torch.rand(count, generator=random) * 2 - 1) * half


def _sampled(image: Tensor, way: Tensor, settings: Augmentation, random: torch.Generator) -> Tensor:
    count, uniform = len(image), _uniform(len(image), random)
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
