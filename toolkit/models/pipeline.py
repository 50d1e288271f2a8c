"""A Stable Diffusion pipeline folder as files: what its configs say, in the words of model.json, without a network library.

    model_index.json        which class each part is: diffusers' and transformers' own, never code that comes with the folder
    unet/, vae/             config.json and *.safetensors of a UNet2DConditionModel and an AutoencoderKL
    text_encoder/           likewise of a CLIPTextModel
    tokenizer/              vocab.json and merges.txt, or tokenizer.json
    scheduler/              scheduler_config.json

Stable Diffusion 1.x and 2.x and what was fine-tuned from them: text to image with one text encoder. Only JSON, text and
safetensors are ever read, and only files of the folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.diffusion import schedule, spacing
from toolkit.diffusion.model import TEXT
from toolkit.example import Error
from toolkit.models.weights import find_weights

__all__ = [
    "PARAMETERISATION",
    "is_pipeline",
    "public_config",
    "read_config",
    "read_meta",
    "sigmas",
    "token_limit",
]

INDEX = "model_index.json"
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
PARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel", "CLIPTextModelWithProjection")),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "scheduler": ("diffusers", tuple(spacing.SCHEDULERS)),
}
"""Part -> the library and the classes of it that are known."""

FURTHER = {
    "text_encoder_2": "a second text encoder (SDXL)", "text_encoder_3": "a third text encoder (SD 3)",
    "transformer": "a transformer in place of a U-Net", "image_encoder": "an image encoder",
    "controlnet": "a ControlNet", "prior": "a prior", "movq": "a MoVQ decoder",
}  # fmt: skip
"""Parts of pipelines of other kinds."""

CHANNELS = {
    9: "an inpainting U-Net",
    8: "a U-Net that edits an image",
    7: "an upscaler's U-Net",
    5: "a U-Net that sees depth",
}
CONDITIONS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)
"""What a U-Net may be told beside text and time, and is not here."""

PARAMETERISATION = {"epsilon": "epsilon", "v_prediction": "velocity", "sample": "sample"}
"""diffusers' prediction_type -> the name in `toolkit.networks.preconditioning`."""

PRIVATE = ("_name_or_path", "architectures", "torch_dtype", "dtype", "transformers_version", "_diffusers_version")
"""What a config says of where it comes from."""


def is_pipeline(root: str | os.PathLike[str]) -> bool:
    """Whether a folder is a diffusers pipeline, known here or not."""
    return (Path(root) / INDEX).is_file()


def read_meta(
    root: str | os.PathLike[str], domain: str = "chest_xray", channels: int | None = None, size: int | None = None
) -> dict[str, Any]:
    """The model.json of a pipeline, as if it were a model folder, with the pipeline's scheduler under "scheduler".

    channels: of the images, 1 for grey ones of a VAE that has three; None: the VAE's. size: of their sides in pixels, for
    a U-Net that is used, or trained, at another size than it was; None: the U-Net's. Errors: another kind of pipeline, a
    part that is missing or unknown, weights that are no safetensors.
    """
    root = Path(root)
    named = _check_index(root)
    unet, vae, clip = (read_config(root, part) for part in ("unet", "vae", "text_encoder"))
    # The class is the index's: a config keeps the name of the one that it was first written by.
    told = read_config(root, "scheduler") | {"_class_name": named["scheduler"][1]}
    clock = spacing.clock_config(told)
    _check_fit(root, unet, vae, clip, told)
    own, factor = vae.get("out_channels", 3), 2 ** (len(vae["block_out_channels"]) - 1)
    channels = own if channels is None else channels
    if channels not in (own, 1) or own not in (1, 3) or vae.get("in_channels", 3) != own:
        raise Error(
            f"The images of a pipeline are grey or have its VAE's channels, 1 or 3; {root} has {vae.get('in_channels', 3)} in "
            f"and {own} out, asked for were {channels}. Ask for 1, or for the VAE's."
        )
    rows, columns = _sides(unet, factor, size, root)
    # StableDiffusionPipeline puts these in whatever the file says.
    told |= {"steps_offset": 1, "clip_sample": False}
    ends = schedule.clock_from_config(**clock).sigmas
    tokens = token_limit(root, clip)
    field = {"shape": [tokens, clip["hidden_size"]], "dtype": "float32", "null": 0.0}
    return {
        "format": 1,
        "domain": domain,
        "labels": {},
        "image_shape": [channels, rows * factor, columns * factor],
        "clock": clock,
        "scheduler": public_config(told),
        "spec": {
            "shape": [unet["in_channels"], rows, columns],
            "fields": {TEXT: field},
            "sigma_min": ends[0],
            "sigma_max": ends[-1],
            "sigma_data": 1.0,
            "initial_variance": 1.0,
        },
        "parts": {
            "denoiser": {
                "network": _network(unet),
                "parameterisation": PARAMETERISATION[told.get("prediction_type", "epsilon")],
                "unet": public_config(unet),
            },
            "codec": {
                "network": _network(vae),
                "latent_channels": vae.get("latent_channels", 4),
                "vae": public_config(vae) | {"in_channels": channels, "out_channels": channels},
            },
            TEXT: {
                "network": {"channels": [clip["hidden_size"]], "layers": clip["num_hidden_layers"]},
                "tokens": tokens,
                "words": clip["vocab_size"],
                "features": 0,
                "clip": public_config(clip),
            },
        },
    }  # fmt: skip


def sigmas(told: Mapping[str, Any], steps: int) -> list[float]:
    """The noise levels of the checkpoint's own scheduler at so many steps. told: `read_meta`, or a model.json made of one."""
    return spacing.sigmas(told["scheduler"], schedule.clock_from_config(**told["clock"]), steps)


def token_limit(root: Path, clip: Mapping[str, Any]) -> int:
    """How many tokens a prompt has, start and end with it. clip: the config of the text encoder."""
    stated = read_config(root, "tokenizer") if (root / "tokenizer" / "tokenizer_config.json").is_file() else {}
    return min(int(stated.get("model_max_length", 77)), clip.get("max_position_embeddings", 77))


def read_config(root: Path, part: str) -> dict[str, Any]:
    """The config of one part of a pipeline."""
    names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    return _json(root / part / names.get(part, "config.json"))


# ------------------------------------------------------------------------------------------------------------- checks


def _check_index(root: Path) -> dict[str, Any]:
    """Part -> its library and class, as model_index.json names them."""
    index = _json(root / INDEX)
    given = {name: part for name, part in index.items() if isinstance(part, list) and part and part[0]}
    strange = [FURTHER[name] for name in given if name in FURTHER]
    if index.get("_class_name") not in PIPELINES or strange:
        found = f"{index.get('_class_name')}{' with ' if strange else ''}{', '.join(strange)}"
        raise Error(
            f"A pipeline folder is one of Stable Diffusion 1.x or 2.x, text to image, {' or '.join(PIPELINES)}; {root} is "
            f"{found}. Take a checkpoint of Stable Diffusion 1.x or 2.x."
        )
    for name, (library, classes) in PARTS.items():
        if name not in given or not (root / name).is_dir():
            raise Error(f"A pipeline folder has {', '.join(PARTS)}; {root} has no {name}. Copy the whole folder.")
        if name == "scheduler" and given[name][0] == library:
            spacing.clock_config({"_class_name": given[name][1]})  # says what another one is
        if given[name][0] != library or given[name][1] not in classes:
            raise Error(
                f"A pipeline's {name} is {' or '.join(classes)} of {library}, and no code of the folder is run; "
                f"{root / INDEX} names {given[name][1]} of {given[name][0]}. Take a checkpoint of known parts."
            )
    return given


def _check_fit(
    root: Path, unet: Mapping[str, Any], vae: Mapping[str, Any], clip: Mapping[str, Any], told: Mapping[str, Any]
) -> None:
    for part in ("unet", "vae", "text_encoder"):
        find_weights(root, part)
    seen, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if seen != latent or unet.get("out_channels", 4) != latent:
        raise Error(
            f"A U-Net sees and answers its VAE's {latent} latent channels; that of {root} sees {seen} and answers "
            f"{unet.get('out_channels', 4)}{', ' + CHANNELS[seen] if seen in CHANNELS else ''}. "
            "Take the text-to-image checkpoint."
        )
    strange = [name for name in CONDITIONS if unet.get(name) is not None]
    if strange:
        raise Error(
            f"A U-Net is told the text and the time; that of {root} has {strange[0]} = {unet[strange[0]]}. "
            "Take a Stable Diffusion 1.x or 2.x checkpoint."
        )
    if unet.get("cross_attention_dim") != clip.get("hidden_size"):
        raise Error(
            f"A U-Net attends to tokens of its text encoder's width; {root} has {unet.get('cross_attention_dim')} and "
            f"{clip.get('hidden_size')}. Take both from one checkpoint."
        )
    if told.get("prediction_type", "epsilon") not in PARAMETERISATION:
        raise Error(
            f"A U-Net predicts {', '.join(PARAMETERISATION)}; {root / 'scheduler' / 'scheduler_config.json'} says "
            f"{told['prediction_type']}. Take a checkpoint of Stable Diffusion 1.x or 2.x."
        )


def _sides(unet: Mapping[str, Any], factor: int, size: int | None, root: Path) -> tuple[int, int]:
    """(rows, columns) of the latent."""
    if size is not None:
        if size < factor or size % factor:
            raise Error(
                f"The sides of this pipeline's images are multiples of {factor}; found {size}. Take one that is."
            )
        return size // factor, size // factor
    own = unet.get("sample_size")
    if own is None:
        raise Error(f"A U-Net's config states its sample_size; that of {root} does not. Give the size of the images.")
    return (int(own[0]), int(own[1])) if isinstance(own, list) else (int(own), int(own))


# ------------------------------------------------------------------------------------------------------------ reading


def _network(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The size of a network as model.json tells it; it is built from its config, which says more."""
    layers = plain.get("layers_per_block", 1)
    return {
        "channels": list(plain["block_out_channels"]),
        "layers": max(layers) if isinstance(layers, list) else layers,
        "norm_groups": plain.get("norm_num_groups") or 32,
        "attention": sum("Attn" in name for name in plain.get("down_block_types", ())),
    }


def public_config(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of its part. A number without end, such as -Infinity for "nothing is clipped", is what diffusers
    writes for a default and no JSON: it is left out."""
    return {key: value for key, value in plain.items() if key not in PRIVATE and not _is_endless(value)}


def _is_endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise Error(f"A pipeline folder has {path.name}; {path.parent} has none. Copy the whole folder.") from problem
    except (OSError, ValueError) as problem:
        raise Error(f"{path.name} of a pipeline is JSON; {path} is not: {problem}. Copy the folder anew.") from problem
    if not isinstance(plain, dict):
        raise Error(f"{path.name} of a pipeline is a JSON object; {path} is not. Copy the folder anew.")
    return plain
