"""Stable Diffusion in one file: the configs of a pipeline folder, from the shapes of the original code's tensors.

Rombach et al. 2022, arXiv:2112.10752; names as in their code, `model.diffusion_model`, `first_stage_model` and
`cond_stage_model`. What no shape tells is what all checkpoints of that generation have: 32 groups, and 8 heads (1.x) or heads of
64 (2.x). What a network predicts is not in its shapes either: it is epsilon in 1.x, and has to be said of 2.x.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolkit.example import Error
from toolkit.models import published, weights
from toolkit.models.weights import Stored

__all__ = ["OPEN_CLIP", "check_whole", "configs", "is_second", "renamed"]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
STATED = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
}
"""Words of the metadata "modelspec.prediction_type" -> diffusers'."""

INPAINTING = {
    9: "an inpainting U-Net",
    8: "a U-Net that edits an image",
    7: "an upscaler's U-Net",
    5: "a U-Net that sees depth",
}

Shapes = Mapping[str, Stored]


def configs(path: Path, prediction: str | None = None) -> dict[str, dict[str, Any]]:
    """Part -> its config, of unet, vae, text_encoder and scheduler, for the checkpoint in a file.

    prediction: what the U-Net predicts, in diffusers' words; None: as the file says, or epsilon for 1.x. Errors: another kind
    of file, parts that are missing, a 2.x checkpoint of which nobody says what it predicts.
    """
    tensors, about, second = check_whole(path)
    try:
        unet, vae = _unet(tensors, path), _vae(tensors)
        clip = _open_clip(tensors) if second else _clip(tensors)
    except KeyError as problem:
        raise Error(f"A checkpoint in one file is whole; {path} lacks {problem.args[0]}. Copy it again.") from problem
    predicted = prediction or _prediction(tensors, about, second, path)
    unet["sample_size"] = _size(about, unet["sample_size"] if predicted == "epsilon" or not second else 96)
    scheduler = {
        "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
        "timestep_spacing": "leading", "prediction_type": predicted, "rescale_betas_zero_snr": "ztsnr" in tensors,
    }  # fmt: skip
    return {"unet": unet, "vae": vae, "text_encoder": clip, "scheduler": scheduler}


def check_whole(path: Path) -> tuple[Shapes, Mapping[str, str], bool]:
    """The tensors of a file, its metadata and whether it is of Stable Diffusion 2.x. Errors: no whole checkpoint."""
    held, about = weights.header(path)
    tensors = {renamed(name): stored for name, stored in held.items()}
    found = published.identify_names(tensors)
    if found.kind != published.CHECKPOINT:
        raise published.refusal(path)
    for name, stored in tensors.items():
        weights.check_kind(path, name, stored)
    second = is_second(tensors)
    first_names = {
        "U-Net": UNET + "input_blocks.0.0.weight", "VAE": VAE + "encoder.conv_in.weight",
        "text encoder": (OPEN_CLIP if second else CLIP + "embeddings.") + "token_embedding.weight",
    }  # fmt: skip
    missing = [part for part, name in first_names.items() if name not in tensors]
    if missing:
        raise Error(
            f"A checkpoint in one file, of which diffgraft export FILE FOLDER --to diffusers makes a pipeline folder, has a "
            f"U-Net, a VAE and a text encoder; {path} is {found.words} and has no {missing[0]}. {published.WHOLE}"
        )
    return tensors, about, second


def is_second(names: Iterable[str]) -> bool:
    """Whether a checkpoint with tensors of these names is of Stable Diffusion 2.x, whose text encoder is OpenCLIP's."""
    return any(name.startswith(OPEN_CLIP) for name in names)


def renamed(name: str) -> str:
    """A tensor's name as the original code has it; merging programs have left a word out of the text encoder's."""
    start = "cond_stage_model.transformer."
    return CLIP + name.removeprefix(start) if re.match(re.escape(start) + r"(embeddings|encoder|final)", name) else name


def _prediction(tensors: Shapes, about: Mapping[str, str], second: bool, path: Path) -> str:
    said = STATED.get(about.get("modelspec.prediction_type", "").lower())
    if said or "v_pred" in tensors:
        return said or "v_prediction"
    if second:
        raise Error(
            f"A checkpoint in one file does not show what it predicts, and those of Stable Diffusion 2.x differ; {path} is one. "
            "Say it, as its makers do (768 pixels: v_prediction, base: epsilon): --prediction v_prediction"
        )
    return "epsilon"


def _size(about: Mapping[str, str], usual: int) -> int:
    """Sides of the latent, of the metadata "modelspec.resolution" such as 768x768."""
    sides = re.match(r"(\d+)", about.get("modelspec.resolution", ""))
    return int(sides[1]) // 8 if sides else usual


def _unet(tensors: Shapes, path: Path) -> dict[str, Any]:
    first = tensors[UNET + "input_blocks.0.0.weight"].shape
    if first[1] != 4:
        words = INPAINTING.get(first[1], "a U-Net of another kind")
        raise Error(f"A U-Net sees 4 latent channels; that of {path} sees {first[1]}, {words}. {published.ANOTHER}")
    channels, attends, layers, number = [], [], [], 0
    while not channels or f"{UNET}input_blocks.{number}.0.op.weight" in tensors:
        first_of_level = number = number + 1
        while f"{UNET}input_blocks.{number}.0.in_layers.2.weight" in tensors:
            number += 1
        block = f"{UNET}input_blocks.{first_of_level}."
        channels.append(tensors[block + "0.in_layers.2.weight"].shape[0])
        attends.append(block + "1.proj_in.weight" in tensors)
        layers.append(number - first_of_level)
    if any(width % 32 for width in channels):
        raise Error(
            f"The widths of Stable Diffusion's U-Net are multiples of 32; {path} has {', '.join(map(str, channels))}. "
            "Name a pipeline folder of the same sizes, whose configs serve: --like FOLDER"
        )
    places = (f"{UNET}input_blocks.{place}.1." for place in range(1, number))
    attention = next((place for place in places if place + "proj_in.weight" in tensors), f"{UNET}input_blocks.1.1.")
    linear = len(tensors[attention + "proj_in.weight"].shape) == 2
    width = tensors[attention + "transformer_blocks.0.attn2.to_k.weight"].shape[1]
    return {
        "sample_size": 64, "in_channels": first[1], "out_channels": tensors[UNET + "out.2.weight"].shape[0],
        "block_out_channels": channels, "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "down_block_types": ["CrossAttnDownBlock2D" if seen else "DownBlock2D" for seen in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if seen else "UpBlock2D" for seen in attends[::-1]],
        "cross_attention_dim": width, "use_linear_projection": linear,
        "attention_head_dim": [max(1, each // 64) for each in channels] if linear else 8,
    }  # fmt: skip


def _vae(tensors: Shapes) -> dict[str, Any]:
    seen = tensors[VAE + "encoder.conv_in.weight"].shape[1]
    channels, layers = [], 0
    while VAE + f"encoder.down.{len(channels)}.block.0.conv1.weight" in tensors:
        level = f"{VAE}encoder.down.{len(channels)}.block."
        channels.append(tensors[level + "0.conv1.weight"].shape[0])
        layers = sum(name.startswith(level) and name.endswith(".conv1.weight") for name in tensors)
    return {
        "in_channels": seen, "out_channels": tensors[VAE + "decoder.conv_out.weight"].shape[0], "block_out_channels": channels,
        "layers_per_block": layers, "latent_channels": tensors[VAE + "post_quant_conv.weight"].shape[1],
        "down_block_types": ["DownEncoderBlock2D"] * len(channels), "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "sample_size": 512, "scaling_factor": 0.18215,
    }  # fmt: skip


def _clip(tensors: Shapes) -> dict[str, Any]:
    words, width = tensors[CLIP + "embeddings.token_embedding.weight"].shape
    layers = {name.split(".")[5] for name in tensors if name.startswith(CLIP + "encoder.layers.")}
    return _text(
        words, width, len(layers), tensors[CLIP + "encoder.layers.0.mlp.fc1.weight"].shape[0], "quick_gelu"
    ) | {"max_position_embeddings": tensors[CLIP + "embeddings.position_embedding.weight"].shape[0]}


def _open_clip(tensors: Shapes) -> dict[str, Any]:
    """Stable Diffusion 2 reads the last layer but one."""
    words, width = tensors[OPEN_CLIP + "token_embedding.weight"].shape
    block = OPEN_CLIP + "transformer.resblocks."
    layers = {name.removeprefix(block).split(".")[0] for name in tensors if name.startswith(block)}
    return _text(words, width, len(layers) - 1, tensors[block + "0.mlp.c_fc.weight"].shape[0], "gelu") | {
        "max_position_embeddings": tensors[OPEN_CLIP + "positional_embedding"].shape[0]
    }


def _text(words: int, width: int, layers: int, inner: int, gate: str) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": words, "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": max(1, width // 64), "hidden_act": gate,
        "projection_dim": width, "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1,
    }  # fmt: skip
