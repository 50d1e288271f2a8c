"""The denoiser of a model that is told a layout: boxes and their classes, as tokens and as maps.

A token for each box, its class and the Fourier features of its corners, is read by cross-attention (GeoDiffusion, Chen et
al. 2023, arXiv:2306.04607, where it is words; GLIGEN, Li et al. 2023, arXiv:2301.07093, eq. 4, where it is this sum). A
place without a box has a token that is learned (ibid., section 3.1). Attention over a coarse grid finds the object, hardly
its rim: the same boxes are also drawn onto the grid of x, and these maps stand beside it as further channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from toolkit.diffusion.model import OBJECTS, Field
from toolkit.networks.strided import guarded
from toolkit.settings import Network

__all__ = ["BoxTokens", "BoxUNet", "Raster", "coverage"]

FREQUENCIES, WIDTH, MAPS = 8, 96, 16
"""Octaves of a corner's place, width of a token, and channels of the maps."""


def coverage(boxes: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """What part of each row (B, N, rows) and of each column (B, N, cols) of a grid lies in boxes (B, N, 4), from 0 to 1.

    boxes: corners in parts of width and height. The product of the two is the part of each cell.
    """
    across, down = (
        torch.clamp(torch.minimum(b[..., None], n + 1) - torch.maximum(a[..., None], n), 0, 1)
        for a, b, n in (
            (boxes[..., 0] * cols, boxes[..., 2] * cols, torch.arange(cols, device=boxes.device)),
            (boxes[..., 1] * rows, boxes[..., 3] * rows, torch.arange(rows, device=boxes.device)),
        )
    )
    return down, across


class BoxTokens(nn.Module):
    """boxes (B, N, 4) and objects (B, N) -> tokens (B, N, width)."""

    frequencies: Tensor

    def __init__(self, classes: int, width: int = WIDTH) -> None:
        super().__init__()
        self.names = nn.Embedding(classes + 1, width)
        self.place = nn.Linear(8 * FREQUENCIES, width)
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(FREQUENCIES).mul(0.75), persistent=False)
        self.none = classes

    def forward(self, boxes: Tensor, objects: Tensor) -> Tensor:
        phase = (boxes[..., None] * self.frequencies).flatten(2)
        there = (objects != self.none).to(boxes)[..., None]
        place = self.place(torch.cat([phase.sin(), phase.cos()], 2)) * there
        return self.layers(self.names(objects) + place)


class Raster(nn.Module):
    """boxes (B, N, 4) and objects (B, N) -> maps (B, MAPS, rows, cols) of what lies where.

    Of each box: that it is there, the place within it (u, v from -1 to 1 over the box) and u^2 + v^2, so that boxes that
    overlap are told apart; each weighed for its class, and summed over the boxes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weights = nn.Embedding(classes + 1, 4 * MAPS)
        nn.init.normal_(self.weights.weight, std=0.5)
        self.none = classes

    def forward(self, boxes: Tensor, objects: Tensor, rows: int, cols: int) -> Tensor:
        there = (objects != self.none).to(boxes)[..., None]
        down, across = coverage(boxes, rows, cols)
        down = down * there
        v, u = (_within(boxes[..., 1], boxes[..., 3], rows), _within(boxes[..., 0], boxes[..., 2], cols))
        inside = down[..., :, None] * across[..., None, :]
        u, v = u[..., None, :] * inside, v[..., :, None] * inside
        # (B, N, 4, rows, cols): inside is 0 or 1 but at a rim, where its square does no harm.
        parts = torch.stack([inside, u, v, u * u + v * v], 2)
        weights = self.weights(objects).unflatten(2, (4, MAPS))
        return (weights.flatten(1, 2).transpose(1, 2) @ parts.flatten(3).flatten(1, 2)).unflatten(2, (rows, cols))


def _within(low: Tensor, high: Tensor, count: int) -> Tensor:
    """(B, N, count) place of the centre of each cell between two edges, from -1 to 1, no farther."""
    centre = (torch.arange(count, device=low.device) + 0.5) / count
    half = torch.clamp((high - low) / 2, min=1e-3)
    return torch.clamp((centre - ((low + high) / 2)[..., None]) / half[..., None], -1, 1)


class BoxUNet(nn.Module):
    """F(x, c_noise, boxes, objects): x (B, C, H, W), c_noise (B,), boxes (B, N, 4), objects (B, N)."""

    def __init__(self, network: Network, shape: tuple[int, ...], fields: Mapping[str, Field]) -> None:
        super().__init__()
        plain, attending = len(network.channels) - network.attention, network.attention
        classes = int(fields[OBJECTS].null)
        self.tokens, self.raster = BoxTokens(classes), Raster(classes)
        self.unet = UNet2DConditionModel(
            sample_size=shape[-2:],  # type: ignore[arg-type]
            in_channels=shape[0] + MAPS,
            out_channels=shape[0],
            block_out_channels=network.channels,
            layers_per_block=network.layers,
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * attending,
            up_block_types=("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",) * plain,
            cross_attention_dim=WIDTH,
            # By this name diffusers means the number of heads.
            attention_head_dim=tuple(c // network.attention_head_dim for c in network.channels),  # type: ignore[arg-type]
            norm_num_groups=network.norm_groups,
            dropout=network.dropout,
        )
        guarded(self.unet)

    def forward(self, x: Tensor, noise: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
        maps = self.raster(boxes, objects, x.shape[2], x.shape[3])
        return self.unet(torch.cat([x, maps], 1), noise, self.tokens(boxes, objects), return_dict=False)[0]
