"""A small detector of one stage and one level: for each place of a map at a quarter of the image, classes and a box.

FCOS (Tian et al. 2019, arXiv:1904.01355) without its pyramid of outputs: objects here are of one order of size, so that
one level, to which the coarser ones are merged from the top down (Lin et al. 2017, arXiv:1612.03144), finds them all. It is
trained from nothing on a few hundred images in minutes; a published detector knows more of the world and nothing of smears.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from toolkit.networks.features import residual
from toolkit.settings import Network

__all__ = ["STRIDE", "Detector"]

STRIDE = 4
"""Pixels of the image from one place of the map to the next."""

RARE, TYPICAL = 0.01, 4.0
"""What a place scores before training (Lin et al. 2017, arXiv:1708.02002, section 4.1), and its box's half side in strides."""


class Detector(nn.Module):
    """image (B, C, H, W) in [-1, 1] -> scores (B, K, h, w) probabilities and corners (B, 4, h, w), x0 y0 x1 y1 in pixels.

    network.channels: of the stages of the backbone, at 1/4, 1/8, ... of the image; what is merged has the width of the
    second. h and w are a quarter of H and W, rounded up.
    """

    def __init__(self, network: Network, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body = residual(network, shape[0])
        width, groups = network.channels[1], network.norm_groups
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in network.channels)
        self.merged = nn.Sequential(_convolution(width, width, groups), nn.Dropout2d(network.dropout))
        self.naming, self.placing = (_convolution(width, width, groups) for _ in range(2))
        self.classes, self.sides = nn.Conv2d(width, classes, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        for last, bias in ((self.classes, math.log(RARE / (1 - RARE))), (self.sides, math.log(TYPICAL))):
            assert last.bias is not None  # a convolution has one unless told otherwise
            nn.init.normal_(last.weight, std=0.01)
            nn.init.constant_(last.bias, bias)

    def dense(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K, h, w) and distances (B, 4, h, w) to the left, top, right and bottom side in pixels."""
        levels: Any = self.body(image, output_hidden_states=True).hidden_states
        found = None
        for lateral, level in zip(reversed(self.lateral), reversed(levels[1:]), strict=True):
            # To the size of the finer map, which at an odd one is not twice that of the coarser.
            above = 0 if found is None else nnf.interpolate(found, size=level.shape[2:], mode="nearest")
            found = lateral(level) + above
        shared = self.merged(found)
        sides = self.sides(self.placing(shared)).float().clamp(max=math.log(256))
        return self.classes(self.naming(shared)).float(), STRIDE * sides.exp()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        logits, sides = self.dense(image)
        boxes = corners(sides)
        rows, cols = image.shape[2:]
        most = torch.tensor([cols, rows, cols, rows], dtype=boxes.dtype, device=boxes.device)[None, :, None, None]
        return {"scores": logits.sigmoid(), "corners": torch.minimum(boxes.clamp(min=0), most)}


def places(rows: int, cols: int, device: torch.device) -> Tensor:
    """(2, rows, cols): x and y of the middle of each place of a map, in pixels."""
    across, down = ((torch.arange(n, device=device) + 0.5) * STRIDE for n in (cols, rows))
    return torch.stack([across.expand(rows, cols), down[:, None].expand(rows, cols)])


def corners(sides: Tensor) -> Tensor:
    """Distances to the sides (B, 4, h, w) -> corners of the boxes (B, 4, h, w), in pixels."""
    middle = places(sides.shape[2], sides.shape[3], sides.device)
    return torch.cat([middle - sides[:, :2], middle + sides[:, 2:]], 1)


def _convolution(into: int, out: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1, bias=False), nn.GroupNorm(groups, out), nn.ReLU(inplace=True)
    )
