"""A Stable Diffusion pipeline folder (toolkit/models/pipeline.py) as a Model, and as a model folder of our own.

Its parts become ours: the U-Net a denoiser in sigma units, the VAE a codec, CLIPTextModel the text encoder, with the
weights as they stand. Only networks and noise levels are the checkpoint's; samplers, guidance and editing are the engine's.
Local files alone, safetensors alone, no code from the folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from toolkit.diffusion import schedule
from toolkit.diffusion.model import TEXT, Model
from toolkit.example import Error, Note
from toolkit.language import tokenizer
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import spec_of
from toolkit.networks import folder, pretrained
from toolkit.networks.checkpoints.loading import load_network
from toolkit.networks.checkpoints.vocabulary import read_tokenizer
from toolkit.networks.preconditioning import PARAMETERISATIONS, Preconditioned, clock_of_steps
from toolkit.networks.text import TextEncoder
from toolkit.settings import Network

__all__ = ["convert", "fingerprint", "make_grey", "open", "parts"]


def open(
    root: str | os.PathLike[str], device: str | None = None, channels: int | None = None, size: int | None = None
) -> Model:
    """Open a pipeline folder, on CUDA where there is one. channels, size: as in `pipeline_folder.meta`.

    `model.text([""])` is the null of its field "text". Its own noise levels: `pipeline_folder.sigmas(model.meta, steps)`;
    the samplers euler (which is DDIM) and dpmpp_2m then walk as diffusers' DDIM and DPM++ 2M do.
    """
    root = Path(root)
    meta = pipeline_folder.read_meta(root, channels=channels, size=size)
    if schedule.clock_from_config(**meta["clock"]).capped:
        warnings.warn(
            f"The training of {root} ended in pure noise, at a sigma above {schedule.SIGMA_CAP:g}, which is taken for it.",
            Note,
            stacklevel=2,
        )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    modules = {name: module.to(place) for name, module in parts(root, meta).items()}
    tokens = read_tokenizer(root, meta["parts"][TEXT]["tokens"], meta["parts"][TEXT]["words"])
    text, _ = folder._text(modules[TEXT], tokens, place)
    return Model(
        denoiser=folder._Denoiser(modules["denoiser"], spec_of(meta), place),
        codec=folder._Codec(modules["codec"]),
        asarray=lambda value: torch.from_numpy(np.array(value)).to(place),
        asnumpy=lambda value: value.detach().cpu().numpy(),
        backend=f"torch:{place.type}",
        fingerprint=fingerprint(root),
        text=text,
        meta=meta,
    )


def convert(root: Path, out: Path, channels: int | None = None, size: int | None = None) -> None:
    """Write a pipeline as a model folder, which trains, exports and generates like one of our own.

    For fine-tuning as RoentGen's (Chambon et al. 2022, arXiv:2211.12737): the U-Net is trained on images and reports,
    the VAE stays as it is. Weights are rounded to fp16. The scheduler's config is kept in model.json. Errors: a folder
    that is not empty; what `pipeline_folder.meta` refuses.
    """
    if out.exists() and any(out.iterdir()):
        raise Error(f"A pipeline is converted into a folder of its own; {out} is not empty. Take another.")
    meta = pipeline_folder.read_meta(root, channels=channels, size=size)
    tokens = read_tokenizer(root, meta["parts"][TEXT]["tokens"], meta["parts"][TEXT]["words"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
        fresh = Path(place) / "model"
        for name, module in parts(root, meta).items():
            folder.save_part(fresh, name, module.state_dict(), meta)
        tokens.save(fresh / tokenizer.FILE)
        if out.exists():
            out.rmdir()
        os.replace(fresh, out)


def adopt_text_encoder(root: Path, out: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Make a pretrained text encoder the text part of the model folder `out`, frozen, and return its new model.json.

    root: a folder with text_encoder/ and tokenizer/, as pipelines have them. meta: of a model that has no denoiser yet,
    whose field "text" gets the encoder's width. Errors: another folder, a model with a denoiser or a text part.
    """
    taken = [name for name in ("denoiser", TEXT) if name in meta["parts"]]
    if taken:
        raise Error(
            f"A text encoder is chosen before a model is told texts; {out} has a {taken[0]}. Take a new folder."
        )
    if not (root / "text_encoder").is_dir() or not (root / "tokenizer").is_dir():
        raise Error(
            f"A pretrained text encoder is a folder with text_encoder/ and tokenizer/; {root} has not both. Save it so: "
            "CLIPTextModel.save_pretrained(FOLDER/text_encoder), CLIPTokenizer.save_pretrained(FOLDER/tokenizer)"
        )
    clip: Any = load_network(CLIPTextModel, root, "text_encoder")
    told = pipeline_folder.read_config(root, "text_encoder")
    tokens = pipeline_folder.token_limit(root, told)
    plan = {
        "network": {"channels": [clip.config.hidden_size], "layers": clip.config.num_hidden_layers},
        "tokens": tokens, "words": clip.config.vocab_size, "features": 0, "clip": pipeline_folder.public_config(told),
    }  # fmt: skip
    field = {"shape": [tokens, clip.config.hidden_size], "dtype": "float32", "null": 0.0}
    spec = meta["spec"] | {"fields": meta["spec"]["fields"] | {TEXT: field}}
    fresh = meta | {"spec": spec, "parts": meta["parts"] | {TEXT: plan}}
    text = folder.build(TEXT, fresh)
    text.clip = clip  # type: ignore[assignment]
    folder.save_part(out, TEXT, text.state_dict(), fresh)
    read_tokenizer(root, tokens, clip.config.vocab_size).save(out / tokenizer.FILE)
    return fresh


def parts(root: Path, meta: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Denoiser, codec and text encoder of a pipeline, with its weights, in fp32. meta: `pipeline_folder.meta` of it."""
    plan, unet = meta["parts"]["denoiser"], load_network(UNet2DConditionModel, root, "unet")
    form = functools.partial(
        PARAMETERISATIONS[plan["parameterisation"]],
        clock=clock_of_steps(schedule.clock_from_config(**meta["clock"]).sigmas),
    )
    vae = load_network(AutoencoderKL, root, "vae")
    if meta["image_shape"][0] != vae.config["out_channels"]:
        make_grey(vae)
    about = meta["parts"][TEXT]
    text = TextEncoder(Network.from_json(about["network"]), about)
    text.clip = load_network(CLIPTextModel, root, "text_encoder")
    found = {
        "denoiser": Preconditioned(pretrained.text_unet(unet), form),
        "codec": pretrained.autoencoder(vae),
        TEXT: text,
    }
    return {name: module.eval().requires_grad_(False) for name, module in found.items()}


@torch.no_grad()
def make_grey(vae: AutoencoderKL) -> None:
    """Make a VAE of three channels one of grey images: it sees the grey in all three and answers their mean."""
    first, last = vae.encoder.conv_in, vae.decoder.conv_out
    seen = nn.Conv2d(1, first.out_channels, 3, padding=1).to(first.weight)
    seen.weight.copy_(first.weight.sum(1, keepdim=True))
    seen.bias.copy_(first.bias)  # type: ignore[union-attr]
    said = nn.Conv2d(last.in_channels, 1, 3, padding=1).to(last.weight)
    said.weight.copy_(last.weight.mean(0, keepdim=True))
    said.bias.copy_(last.bias.mean(0, keepdim=True))  # type: ignore[union-attr]
    vae.encoder.conv_in, vae.decoder.conv_out = seen, said
    vae.register_to_config(in_channels=1, out_channels=1)


def fingerprint(root: Path) -> str:
    """SHA-256 over the weights of the parts, as `toolkit.models.folder.fingerprint` is of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(
        path for part in ("unet", "vae", "text_encoder") for path in (root / part).glob("*.safetensors")
    ):
        digest.update(f"{path.parent.name}/{path.name}".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
