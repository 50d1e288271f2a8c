"""The first stage of a latent model: diffusers' AutoencoderKL with latents of one scale, as the model's Codec.

Latents are the posterior's mean, shifted and scaled channel by channel to mean 0 and standard deviation sigma_data, so
that the denoiser meets the noise levels it would in pixel space (Rombach et al. 2022, arXiv:2112.10752, section 3.3 and
appendix G). Convolutional throughout: any image whose sides are multiples of the reduction.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from toolkit.example import Error
from toolkit.networks.strided import guarded
from toolkit.settings import Network

__all__ = ["Autoencoder", "from_diffusers", "reduction"]


def reduction(network: Network | Mapping[str, Any]) -> int:
    """How many pixels of the image's side are one of the latent's: every resolution but the first halves it."""
    channels = network.channels if isinstance(network, Network) else network["channels"]
    return 2 ** (len(channels) - 1)


class Autoencoder(nn.Module):
    """image (B, C, H, W) in [-1, 1] <-> latent (B, latent_channels, H / f, W / f), f = reduction(network)."""

    # Any: diffusers annotates the answers of encode and decode as both of the kinds that return_dict chooses between.
    vae: Any
    shift: Tensor
    scale: Tensor

    def __init__(self, network: Network, shape: tuple[int, ...], latent_channels: int) -> None:
        super().__init__()
        levels = len(network.channels)
        self._take(
            AutoencoderKL(
                in_channels=shape[0],
                out_channels=shape[0],
                block_out_channels=network.channels,  # type: ignore[arg-type]  # tuple[int] is any length there
                down_block_types=("DownEncoderBlock2D",) * levels,  # type: ignore[arg-type]
                up_block_types=("UpDecoderBlock2D",) * levels,  # type: ignore[arg-type]
                layers_per_block=network.layers,
                latent_channels=latent_channels,
                norm_num_groups=network.norm_groups,
                mid_block_add_attention=False,
            )
        )

    def _take(self, vae: AutoencoderKL) -> None:
        self.vae = guarded(vae)
        self.register_buffer("shift", torch.zeros(vae.config["latent_channels"]))
        self.register_buffer("scale", torch.ones(vae.config["latent_channels"]))

    def encode(self, image: Tensor) -> Tensor:
        """The latent of an image: the posterior's mean, normalised."""
        mean = self.vae.encode(image).latent_dist.mean
        return (mean - _spread(self.shift)) * _spread(self.scale)

    def decode(self, latent: Tensor) -> Tensor:
        """The image of a latent."""
        return self.vae.decode(latent / _spread(self.scale) + _spread(self.shift)).sample

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """For training: the image decoded from the posterior's mean + std * noise, and the KL divergence, (B,).

        noise: of the latent's shape, standard normal. The KL is that to N(0, 1), a mean over the latent's elements.
        """
        posterior = self.vae.encode(image).latent_dist
        kl = posterior.kl() / posterior.mean[0].numel()
        return self.vae.decode(posterior.mean + posterior.std * noise).sample, kl

    @property
    def last_layer(self) -> Tensor:
        """The weights that every image leaves through."""
        return self.vae.decoder.conv_out.weight

    @torch.no_grad()
    def normalise(self, images: Tensor, spread: float) -> None:
        """Set shift and scale so that the latents of `images` have mean 0 and the standard deviation `spread`."""
        means = torch.cat([self.vae.encode(part).latent_dist.mean for part in images.split(32)])
        self.shift.copy_(means.mean((0, 2, 3)))
        self.scale.copy_(spread / means.std((0, 2, 3)))


def from_diffusers(root: str | os.PathLike[str]) -> Autoencoder:
    """The VAE of a diffusers folder (a pipeline's, or its vae/ alone), scaled as its config says: safetensors only.

    Its latents are (mean - shift_factor) * scaling_factor, of standard deviation about 1 for a Stable Diffusion VAE, so a
    model on them has sigma_data 1. Errors: no VAE there, weights that are no safetensors.
    """
    path = Path(root)
    path = path / "vae" if (path / "vae" / "config.json").is_file() else path
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise Error(
            f"A diffusers VAE is a folder with config.json and safetensors weights; {path} has not both. "
            "Save it anew: vae.save_pretrained(folder)"
        )
    codec = Autoencoder.__new__(Autoencoder)
    nn.Module.__init__(codec)
    codec._take(AutoencoderKL.from_pretrained(path, local_files_only=True, use_safetensors=True))
    codec.shift.fill_(codec.vae.config.get("shift_factor") or 0.0)
    codec.scale.fill_(codec.vae.config["scaling_factor"])
    return codec.eval().requires_grad_(False)


def _spread(values: Tensor) -> Tensor:
    return values[None, :, None, None]
