"""Stable Diffusion in one file, opened: diffusers' conversion of its names, with configs from toolkit/models/original.py.

The tokenizer is in no such file: it comes from a pipeline folder of the same kind, or, for CLIP's own vocabulary, from an
installed package that brings it (open_clip, clip), of which a text file is read and no code is run.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.models import original
from toolkit.models import pipeline as pipeline_folder

__all__ = ["Opened", "open_single_file"]

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
"""CLIP's merges as OpenAI and open_clip hand them out."""

MERGES = 49152 - 256 - 2
"""How many of its lines are merges of CLIP's."""

PACKAGES = ("open_clip", "clip")


@dataclass(frozen=True)
class Opened:
    """A checkpoint as a pipeline's networks and files. scheduler: its config. tokenizer: file name -> content."""

    unet: Any
    vae: Any
    text_encoder: Any
    scheduler: Mapping[str, Any]
    tokenizer: Mapping[str, str]


def open_single_file(path: Path, like: Path | None = None, prediction: str | None = None) -> Opened:
    """The checkpoint in a safetensors file. like: pipeline folder of the same kind, whose tokenizer and configs serve.

    prediction: what its U-Net predicts where neither file nor folder says it. Errors: another kind of file, weights that
    are missing or do not fit, no tokenizer.
    """
    told = _with_those_of(like, path, prediction)
    words = tokenizer_files(told["text_encoder"], like, path)
    state = {original.renamed(name): _plain(value) for name, value in load_file(path).items()}
    found = {}
    for part, (kind, convert) in NETWORKS.items():
        try:
            module = kind(told[part])
            missing, _ = module.load_state_dict(convert(dict(state), told[part], module), strict=False)
        except KeyError as problem:
            raise Error(
                f"A checkpoint in one file is whole; {path} lacks {problem.args[0]}. Copy it again."
            ) from problem
        except (ValueError, RuntimeError, TypeError) as problem:
            words = " ".join(str(problem).split())[:200]
            raise Error(
                f"The {part} of a checkpoint in one file fits its config; {path} does not: {words}. "
                "Name a pipeline folder of the same kind, whose configs serve: --like FOLDER"
            ) from problem
        if missing:
            raise Error(f"A checkpoint in one file is whole; {path} lacks {part}.{missing[0]}. Copy it again.")
        found[part] = module.eval()
    return Opened(found["unet"], found["vae"], found["text_encoder"], told["scheduler"], words)


def _with_those_of(like: Path | None, path: Path, prediction: str | None) -> dict[str, dict[str, Any]]:
    """The configs of the checkpoint, those of the folder before those of its shapes."""
    names = {"scheduler": "scheduler_config.json"}
    parts = ("unet", "vae", "text_encoder", "scheduler")
    stated = {} if like is None else {
        part: pipeline_folder.read_config(like, part)
        for part in parts if (like / part / names.get(part, "config.json")).is_file()
    }  # fmt: skip
    if prediction is None and "scheduler" in stated:
        prediction = stated["scheduler"].get("prediction_type", "epsilon")
    if len(stated) == len(parts):
        original.check_whole(path)
        return stated | {"scheduler": stated["scheduler"] | {"prediction_type": prediction}}
    return original.configs(path, prediction) | stated


def _text_weights(state: dict[str, Tensor], config: Mapping[str, Any], module: Any) -> dict[str, Tensor]:
    if original.is_second(state):
        found = convert_open_clip_checkpoint(module, state, prefix=original.OPEN_CLIP)
    else:
        found = convert_ldm_clip_checkpoint(state)
    plain = {name.removeprefix("text_model."): value for name, value in found.items()}
    return {f"text_model.{name}": value for name, value in plain.items()} if hasattr(module, "text_model") else plain


NETWORKS: Mapping[str, tuple[Callable[[Any], Any], Callable[[dict[str, Tensor], Any, Any], dict[str, Tensor]]]] = {
    "unet": (UNet2DConditionModel.from_config, lambda state, config, _: convert_ldm_unet_checkpoint(state, config)),
    "vae": (AutoencoderKL.from_config, lambda state, config, _: convert_ldm_vae_checkpoint(state, config)),
    "text_encoder": (lambda config: CLIPTextModel(CLIPTextConfig(**config)), _text_weights),
}
"""Part -> how it is built from its config, and its weights under today's names: (file's tensors, config, network)."""


def _plain(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


# ---------------------------------------------------------------------------------------------------------- tokenizer


def tokenizer_files(clip: Mapping[str, Any], like: Path | None, path: Path) -> dict[str, str]:
    """Names and contents of the files of a tokenizer with as many tokens as the text encoder knows."""
    if like is not None:
        place = like / "tokenizer" if (like / "tokenizer").is_dir() else like
        files = [each for each in sorted(place.iterdir()) if each.suffix in (".json", ".txt")] if place.is_dir() else []
        if not {tokenizer.FILE, "vocab.json"} & {each.name for each in files}:
            raise Error(
                f"A tokenizer is vocab.json with merges.txt, or {tokenizer.FILE}; {place} has none. Name another --like."
            )
        return {each.name: each.read_text(encoding="utf-8") for each in files}
    found = next((each for each in map(_installed, PACKAGES) if each), None)
    usual = clip["vocab_size"] == MERGES + 512 + 2
    if not usual or found is None:
        raise Error(
            f"A checkpoint in one file is without its tokenizer; {path} knows {clip['vocab_size']} tokens. Name a pipeline folder "
            f"that has it: --like FOLDER{', or install CLIP vocabulary: pip install --no-deps open_clip_torch' if usual else ''}"
        )
    with gzip.open(found, "rt", encoding="utf-8") as file:
        merges = [line.strip() for line in file][1 : MERGES + 1]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # printable bytes come first
    ends = [letter + "</w>" for letter in letters]
    words = [*letters, *ends, *(merge.replace(" ", "") for merge in merges), tokenizer.START, tokenizer.END]
    pad = "!" if clip["hidden_act"] == "gelu" else tokenizer.END  # as Stable Diffusion 2 and 1 were trained
    about = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": clip["max_position_embeddings"], "do_lower_case": True,
        "bos_token": tokenizer.START, "eos_token": tokenizer.END, "unk_token": tokenizer.END, "pad_token": pad,
    }  # fmt: skip
    return {
        "vocab.json": json.dumps({word: number for number, word in enumerate(words)}, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": json.dumps(about, indent=2),
    }


def _installed(package: str) -> Path | None:
    """The vocabulary in a package, which is not imported."""
    found = importlib.util.find_spec(package)
    path = Path(found.origin).with_name(VOCABULARY) if found and found.origin else None
    return path if path and path.is_file() else None
