"""A noise-conditional image classifier with multiple-instance pooling, for guidance and for the slice gate.

Convolutional throughout, so that the graph of its input gradient consists of ordinary operators. Each place of a
coarse grid gives evidence for each class against class 0 ("nothing there"); log-mean-exp pools the places, so one
small lesion is enough (Pinheiro & Collobert 2015, arXiv:1411.6228, eq. 6). Trained on noisy images at all noise
levels (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from toolkit.networks.preconditioning import edm
from toolkit.networks.strided import guarded
from toolkit.settings import Network

__all__ = ["NoisyClassifier"]

SHARPNESS = 2.0


class NoisyClassifier(nn.Module):
    """log p(class | x; sigma): x (B, C, H, W), sigma (B,) -> (B, classes) log-probabilities.

    All blocks but the last are followed by a halving of the grid: with three entries of network.channels a
    64 x 64 image is judged on a 16 x 16 grid.
    """

    def __init__(self, network: Network, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        width = 4 * network.channels[0]
        self.time = Timesteps(network.channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embed = TimestepEmbedding(network.channels[0], width)
        self.stem = nn.Conv2d(shape[0], network.channels[0], 3, padding=1)
        self.blocks, self.halve = nn.ModuleList(), nn.ModuleList()
        before = network.channels[0]
        for level, channels in enumerate(network.channels):
            for _ in range(network.layers):
                self.blocks.append(
                    ResnetBlock2D(
                        in_channels=before,
                        out_channels=channels,
                        temb_channels=width,
                        groups=network.norm_groups,
                        dropout=network.dropout,
                    )
                )
                before = channels
            if level + 1 < len(network.channels):
                self.halve.append(guarded(Downsample2D(channels, use_conv=True, name="op")))
        self.layers = network.layers
        self.norm = nn.GroupNorm(network.norm_groups, before)
        self.head = nn.Conv2d(before, classes - 1, 1)

    def evidence(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(B, classes - 1, h, w) log-odds of each class against class 0 at each place."""
        _, _, scale, noise = edm(sigma.to(torch.float32))
        embedding = self.embed(self.time(noise))
        hidden = self.stem(scale.reshape(-1, 1, 1, 1) * x)
        for number, block in enumerate(self.blocks, 1):
            hidden = block(hidden, embedding)
            if number % self.layers == 0 and number // self.layers <= len(self.halve):
                hidden = self.halve[number // self.layers - 1](hidden)
        return self.head(nnf.silu(self.norm(hidden)))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        places = self.evidence(x, sigma).to(torch.float32).flatten(2) * SHARPNESS
        pooled = (places.exp().mean(2) + 1e-6).log() / SHARPNESS
        return nnf.log_softmax(nnf.pad(pooled, (1, 0)), 1)
