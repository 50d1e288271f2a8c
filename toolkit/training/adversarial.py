"""An autoencoder beside a discriminator of patches, both trained at once, so that texture is kept which no distance asks for.

Rombach et al. 2022, arXiv:2112.10752, appendix G: the errors of `losses.reconstruction`, and from a step on the score of a
discriminator that sees patches (Isola et al. 2017, arXiv:1611.07004, section 3.2.2), under the weight of Esser et al. 2021,
arXiv:2012.09841, eq. 7. Both are one module with one optimiser: no gradient of one's loss reaches the other, so that a step
is a step of both, and a checkpoint holds both. The weights alone of the autoencoder are what a model keeps.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor, nn
from torch.func import functional_call

from toolkit.diffusion.model import Spec
from toolkit.networks.strided import guarded
from toolkit.settings import Training
from toolkit.training import losses
from toolkit.training.loader import Batch

__all__ = ["Adversaries", "adaptive_weight", "adversarial_reconstruction", "hinge"]

CHANNELS, LAYERS = 32, 2
"""Of the discriminator: filters of its first layer, and layers after it. Its patches are 34 pixels wide."""

GROUPS = 8
"""Of its normalisation, which sees one image at a time: a batch is made or real, and would be told by its statistics."""

HEAVIEST = 1e4
"""Bound of the adaptive weight, as in the code of Esser et al."""


class Adversaries(nn.Module):
    """An autoencoder and the discriminator of its images; called, it is the autoencoder.

    step: training steps so far, a buffer, so that a continued run begins with the adversary where an undisturbed one does.
    """

    step: Tensor

    def __init__(self, codec: Any, channels: int) -> None:
        super().__init__()
        self.codec = codec
        norm = ("group", {"num_groups": GROUPS})
        self.discriminator = guarded(
            PatchDiscriminator(2, channels=CHANNELS, in_channels=channels, num_layers_d=LAYERS, norm=norm)
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.codec(image, noise)

    def normalise(self, images: Tensor, spread: float) -> None:
        """As the autoencoder's."""
        self.codec.normalise(images, spread)

    def judge(self, image: Tensor) -> Tensor:
        """A score a patch, high for real ones, through which the discriminator learns."""
        return self.discriminator(image)[-1].float()

    def score(self, made: Tensor) -> Tensor:
        """The same score, through which only what made the image learns."""
        still = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, still, (made,))[-1].float()


def adversarial_reconstruction(
    module: Any,
    batch: Batch,
    spec: Spec,
    settings: Training,
    generator: torch.Generator,
    features: nn.Module | None = None,
) -> Tensor:
    """`losses.reconstruction` of Adversaries, from step settings.adversary_start on with their quarrel. Scalar.

    settings.adversary: weight beside the adaptive one; d in eq. 2 of Esser et al. Held-out images, seen in `eval`, are
    measured by the reconstruction alone.
    """
    noise = torch.randn((len(batch.image), *spec.shape), generator=generator).to(batch.image)
    made, kl = module(batch.image, noise)
    error = losses.reconstruction_error(made, kl, batch.image, features)
    if not module.training:
        return error
    module.step += 1
    if int(module.step) <= settings.adversary_start:
        return error
    fooled = -module.score(made).mean()
    weight = adaptive_weight(error, fooled, module.codec.last_layer)
    judged = hinge(module.judge(batch.image), module.judge(made.detach()))
    return error + settings.adversary * weight * fooled + judged


def adaptive_weight(error: Tensor, fooled: Tensor, layer: Tensor) -> Tensor:
    """Weight under which two losses pull equally hard at the last layer (Esser et al. 2021, eq. 7). Scalar, no gradient."""
    ours, theirs = (torch.autograd.grad(loss, layer, retain_graph=True)[0].float().norm() for loss in (error, fooled))
    return (ours / (theirs + 1e-4)).clamp(0.0, HEAVIEST).detach()


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """What a discriminator pays for its scores (Lim & Ye 2017, arXiv:1705.02894): none beyond 1 and -1. Scalar."""
    return ((1 - real).relu().mean() + (1 + made).relu().mean()) / 2
