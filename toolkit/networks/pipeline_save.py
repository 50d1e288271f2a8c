"""A model of ours as a Stable Diffusion pipeline folder, for what else reads those: diffusers, web front ends, converters.

    from diffusers import StableDiffusionPipeline
    StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)("PA view, no acute findings").images[0]

What such a pipeline has no word for is put into weights it has: that no further field (view, sex, age) is stated into the
bias of the time embedding, which the sum of their embeddings is added to; the shift and scale of each latent channel into
the 1 x 1 convolutions beside the latent (quant_conv, post_quant_conv). Both are exact. The text encoder's weights carry
the prefix `text_model.` and the tokenizer is vocab.json and merges.txt too: readers older than ours look for these, and
the former would otherwise leave an untrained encoder without a word.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from toolkit.data.staging import staged_folder
from toolkit.diffusion.model import TEXT
from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import read_meta, spec_of
from toolkit.networks import folder
from toolkit.networks.unet import TextUNet

__all__ = ["check_free", "folded_unet", "folded_vae", "index", "save", "scheduler", "write_json", "write_text_encoder"]

CLOCK = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
"""What `schedule.clock_from_config` takes for what a model.json leaves out, which is not what diffusers takes."""

PREDICTION = {ours: theirs for theirs, ours in pipeline_folder.PARAMETERISATION.items()}


def save(root: Path, out: Path, channels: int | None = None) -> None:
    """Write the model folder `root` as a pipeline folder `out`, in fp32, whole or not at all.

    channels: 3 writes the VAE of grey images with three equal channels, for readers that know no other; None: as it is.
    Errors: a model without text, or of another process than a VP one on latents of unit variance; a folder that is not
    empty.
    """
    meta = read_meta(root)
    check_free(out)
    _check(root, meta)
    denoiser: Any = folder.load_part(root, "denoiser", meta)
    codec: Any = folder.load_part(root, "codec", meta)
    text: Any = folder.load_part(root, TEXT, meta)
    vae = folded_vae(codec)
    if channels not in (None, vae.config["out_channels"]):
        _coloured(vae, channels)
    tokens = tokenizer.open(root, meta["parts"][TEXT]["tokens"])
    with staged_folder(out) as fresh:
        folded_unet(denoiser.network, meta).save_pretrained(fresh / "unet", safe_serialization=True)
        vae.save_pretrained(fresh / "vae", safe_serialization=True)
        write_text_encoder(fresh / "text_encoder", text.clip)
        _write_tokenizer(fresh / "tokenizer", tokens)
        told = scheduler(meta)
        write_json(fresh / "scheduler" / "scheduler_config.json", told)
        write_json(fresh / pipeline_folder.INDEX, index(told["_class_name"]))


def check_free(out: Path) -> None:
    """Refuse a place for a pipeline folder that holds something, before what is to be saved is made."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise Error(f"A pipeline is saved into a folder of its own; {out} is not empty. Take another.")


def scheduler(meta: Mapping[str, Any]) -> dict[str, Any]:
    """scheduler_config.json of a model: that of the checkpoint it came from, or DDIM from the last step of its clock to 0."""
    if "scheduler" in meta:
        return dict(meta["scheduler"])
    return {
        "_class_name": "DDIMScheduler",
        **CLOCK,
        **meta["clock"],
        "prediction_type": PREDICTION[meta["parts"]["denoiser"]["parameterisation"]],
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        "timestep_spacing": "trailing",
    }


@torch.no_grad()
def folded_unet(network: TextUNet, meta: Mapping[str, Any]) -> UNet2DConditionModel:
    """The U-Net alone, told by its weights that no field beside the text is stated."""
    if network.fields is None:
        return network.unet
    given = dict(network.unet.config) | {"class_embed_type": None}
    plain: Any = UNet2DConditionModel.from_config({k: v for k, v in given.items() if not k.startswith("_")})
    plain.load_state_dict(network.unet.state_dict())
    nulls = {
        name: torch.full((1, *field.shape), field.null, dtype=getattr(torch, field.dtype))
        for name, field in spec_of(meta).fields.items()
        if name != TEXT
    }
    plain.time_embedding.linear_2.bias += network.fields(**nulls)[0]
    return plain.eval()


@torch.no_grad()
def folded_vae(codec: Any) -> AutoencoderKL:
    """The VAE of a codec, whose own latents are the codec's normalised ones: scaling_factor 1."""
    vae: Any = copy.deepcopy(codec.vae)
    shift, scale = codec.shift, codec.scale
    # Its moments are (mean, log variance); mean' = (mean - shift) scale.
    count = len(scale)
    first, last = vae.quant_conv, vae.post_quant_conv
    first.weight[:count] *= scale[:, None, None, None]
    first.bias[:count] = (first.bias[:count] - shift) * scale
    first.bias[count:] += 2 * scale.abs().log()
    last.bias += last.weight[:, :, 0, 0] @ shift
    last.weight /= scale[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0, shift_factor=None)
    return vae.eval()


@torch.no_grad()
def _coloured(vae: Any, channels: int) -> None:
    """A VAE of grey images as one of `channels` equal ones: it sees their mean and answers the same in each."""
    first, last = vae.encoder.conv_in, vae.decoder.conv_out
    if first.in_channels != 1:
        raise Error(f"Only grey images have equal channels; these have {first.in_channels}. Leave channels out.")
    seen = nn.Conv2d(channels, first.out_channels, 3, padding=1)
    said = nn.Conv2d(last.in_channels, channels, 3, padding=1)
    assert seen.bias is not None and said.bias is not None  # a convolution has one unless told otherwise
    seen.weight.copy_(first.weight.expand_as(seen.weight) / channels)
    seen.bias.copy_(first.bias)
    said.weight.copy_(last.weight.expand_as(said.weight))
    said.bias.copy_(last.bias.expand_as(said.bias))
    vae.encoder.conv_in, vae.decoder.conv_out = seen, said
    vae.register_to_config(in_channels=channels, out_channels=channels)


def _check(root: Path, meta: Mapping[str, Any]) -> None:
    parts, spec = meta["parts"], spec_of(meta)
    lacking = [part for part in ("denoiser", "codec", TEXT) if part not in parts]
    if lacking or TEXT not in spec.fields:
        raise Error(
            f"A Stable Diffusion pipeline is a denoiser told in words, a codec and a text encoder; {root} has no "
            f"{lacking[0] if lacking else 'field for a text'}. Train one: diffgraft train chest_xray DATA MODEL --part {TEXT}"
        )
    form = parts["denoiser"]["parameterisation"]
    if form not in PREDICTION or "clock" not in meta or not math.isclose(spec.sigma_data, 1.0):
        raise Error(
            f"A Stable Diffusion U-Net predicts {', '.join(PREDICTION)} on a clock of time steps and latents of unit "
            f"variance; {root} is {form} with sigma_data {spec.sigma_data:g}. Train it on such a clock."
        )


def index(scheduler: str) -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.38.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def write_text_encoder(place: Path, clip: Any) -> None:
    place.mkdir(parents=True)
    plain = {k: v for k, v in clip.config.to_dict().items() if k not in pipeline_folder.PRIVATE}
    write_json(place / "config.json", {"architectures": ["CLIPTextModel"], **plain, "torch_dtype": "float32"})
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in clip.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, place / "model.safetensors", {"format": "pt"})


def _write_tokenizer(place: Path, tokens: tokenizer.Tokenizer) -> None:
    place.mkdir(parents=True)
    tokens.save(place / tokenizer.FILE)
    words = sorted(tokens.body.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    merges = json.loads(tokens.body.to_str())["model"]["merges"]
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    (place / "vocab.json").write_text(json.dumps(dict(words), ensure_ascii=False), encoding="utf-8")
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    named = {
        "bos_token": tokenizer.START, "eos_token": tokenizer.END, "unk_token": tokenizer.END, "pad_token": tokens.pad,
    }  # fmt: skip
    write_json(place / "special_tokens_map.json", named)
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokens.length, "do_lower_case": True}
    write_json(place / "tokenizer_config.json", {**about, "add_prefix_space": False, "errors": "replace", **named})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
