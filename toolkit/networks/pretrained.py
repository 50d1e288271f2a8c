"""diffusers' networks in the shape of our own parts, and such parts as model.json describes them, without their weights.

Of a part that came from a Stable Diffusion folder model.json keeps the diffusers config, beside the `network` of the parts
of our own: "unet" of a denoiser, "vae" of a codec. So these are rebuilt with everything that their config says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from toolkit.networks.autoencoder import Autoencoder
from toolkit.networks.strided import guarded
from toolkit.networks.unet import TextUNet

__all__ = ["autoencoder", "autoencoder_of", "text_unet", "text_unet_of"]


def text_unet_of(config: Mapping[str, Any]) -> TextUNet:
    """The U-Net that a config describes, untrained."""
    return text_unet(UNet2DConditionModel.from_config(dict(config)))  # type: ignore[arg-type]


def autoencoder_of(config: Mapping[str, Any]) -> Autoencoder:
    """The codec that a config describes, untrained."""
    return autoencoder(AutoencoderKL.from_config(dict(config)))  # type: ignore[arg-type]


def text_unet(unet: UNet2DConditionModel) -> TextUNet:
    """A U-Net that is told a text and no further field."""
    module = TextUNet.__new__(TextUNet)
    nn.Module.__init__(module)
    module.unet, module.fields = guarded(unet), None
    return module


def autoencoder(vae: AutoencoderKL) -> Autoencoder:
    """A VAE as a codec: latents are (mean - shift_factor) scaling_factor, as its config says."""
    codec = Autoencoder.__new__(Autoencoder)
    nn.Module.__init__(codec)
    codec._take(vae)
    codec.shift.fill_(vae.config.get("shift_factor") or 0.0)
    codec.scale.fill_(vae.config["scaling_factor"])
    return codec
