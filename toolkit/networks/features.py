"""The feature network of a domain: a small residual network trained on the classes of its real images.

It is what FID, KID, the memorisation audit and the filters measure with, and what the autoencoder's perceptual loss
compares. Published backbones would be larger than everything else here together, and have never seen the domain; a
number measured with this one compares models of one domain with one another, never with a paper.
"""

from __future__ import annotations

import torch.nn.functional as nnf
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from toolkit.networks.strided import guarded
from toolkit.settings import Network

__all__ = ["FeatureNet", "residual"]


def residual(network: Network, channels: int) -> ResNetModel:
    """A residual network (He et al. 2016, arXiv:1512.03385) of images with so many channels; its head is the user's."""
    return guarded(
        ResNetModel(
            ResNetConfig(
                num_channels=channels,
                embedding_size=network.channels[0],
                hidden_sizes=list(network.channels),
                depths=[network.layers] * len(network.channels),
                layer_type="basic",
            )
        )
    )


class FeatureNet(nn.Module):
    """image (B, C, H, W) in [-1, 1] -> features (B, D), log_probability (B, classes), level0 ... one map a resolution.

    network.channels: of the stages; the first works at a quarter of the image's resolution, as in He et al. 2016,
    arXiv:1512.03385, each further one at half of the one before. features: the last stage, averaged over places.
    """

    def __init__(self, network: Network, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body = residual(network, shape[0])
        self.dropout = nn.Dropout(network.dropout)
        self.head = nn.Linear(network.channels[-1], classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        # hidden_states[0] is the stem; with it the finest map has a quarter of the resolution.
        levels = self.body(image, output_hidden_states=True).hidden_states
        features = levels[-1].mean((2, 3))
        scores = self.head(self.dropout(features))
        return {
            "features": features,
            "log_probability": nnf.log_softmax(scores, 1),
            **{f"level{n}": level for n, level in enumerate(levels[1:])},
        }
