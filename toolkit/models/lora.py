"""Low-rank changes of a checkpoint (LoRA) as files: which layer each tensor changes, and by how much, from names and metadata.

Hu et al. 2021, arXiv:2106.09685: W + s B A with s = alpha / rank. Three families of names are read, and all that each has
written: kohya's (lora_unet_down_blocks_0_..., in diffusers' or the original code's layers), peft's (base_model.model. ...
lora_A) and diffusers' (unet. ... lora_A, lora.down, processor.to_q_lora.down). Alpha stands in a tensor of its own, in the
metadata of the file, in adapter_config.json beside it, or nowhere: then it is the rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.example import Error
from toolkit.models import published, weights
from toolkit.models.weights import Stored

__all__ = ["Change", "original_names", "read_changes"]

UNET, TEXT, EITHER = "unet", "text_encoder", ""
PREFIXES = (
    ("lora_unet_", UNET), ("lycoris_", UNET), ("unet.", UNET), ("lora_te_", TEXT), ("lora_te1_", TEXT), ("text_encoder.", TEXT),
    ("model.diffusion_model.", UNET), ("diffusion_model.", UNET), ("base_model.model.", EITHER),
)  # fmt: skip
OTHERS = {
    "lora_te2_": "a second text encoder (SDXL)", "text_encoder_2.": "a second text encoder (SDXL)", "transformer.": "a transformer",
    "lora_te3_": "a third text encoder (SD 3)", "lora_prior_": "a prior",
}  # fmt: skip

PLACES = {"down": "down", "A": "down", "up": "up", "B": "up", "mid": "mid"}
NAMES = (
    re.compile(r"(?P<layer>.+)\.lora_(?P<place>down|up|mid|A|B)(?:\.[\w-]+)?\.weight"),
    re.compile(r"(?P<layer>.+)\.lora(?:_linear_layer)?\.(?P<place>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.processor\.(?P<old>to_(?:q|k|v|out))_lora\.(?P<place>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.(?P<old>to_(?:q|k|v|out))_lora\.(?P<place>down|up)\.weight"),
)
OLD = {"to_out": "to_out.0"}
OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}

REFUSED = (
    (re.compile(r"dora_scale$|lora_magnitude_vector"), "the magnitudes of DoRA"),
    (re.compile(r"lora_[AB]\.bias$|lora_[AB]\.[\w-]+\.bias$|\.diff_b$"), "changes of biases"),
    (re.compile(r"\.diff$"), "whole changes of a layer"), (re.compile(r"\.scalar$"), "scales of LyCORIS"),
    (re.compile(r"bundle_emb"), "textual inversions"), (re.compile(r"lora_embedding_[AB]"), "changes of embeddings"),
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A layer's change: layer as the file names it without its prefix, network "unet", "text_encoder" or "" for either.

    down, up, mid: names of its tensors, mid None for most. scale: alpha / rank.
    """

    layer: str
    network: str
    down: str
    up: str
    mid: str | None
    scale: float
    alpha: str | None = None


def read_changes(path: Path) -> list[Change]:
    """Every change in a LoRA file. A change with `alpha` has its alpha in that tensor, and `scale` is 1 / rank.

    Errors: another kind of file, changes of another kind or of another model's parts, a tensor that belongs to none.
    """
    tensors, about = weights.header(path)
    found = published.identify_names(tensors)
    if found.kind != published.LORA:
        raise Error(
            f"Changes to be folded in are low-rank ones (LoRA); {path} is {found.words}. {found.remedy or published.MERGED}"
        )
    layers: dict[str, dict[str, str]] = {}
    for name in sorted(tensors):
        layer, place = _place(name, path)
        layers.setdefault(layer, {})[place] = name
    stated = _metadata(path, about)
    return [_change(layer, names, tensors, stated, path) for layer, names in layers.items() if set(names) != {"alpha"}]


def _place(name: str, path: Path) -> tuple[str, str]:
    """The layer that a tensor changes, with its prefix, and which of its tensors it is."""
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    for pattern, words in REFUSED:
        if pattern.search(name):
            raise Error(
                f"Changes to be folded in are low-rank ones (LoRA); {path} has {words} too ({name}). {published.MERGED}"
            )
    for pattern in NAMES:
        if match := pattern.fullmatch(name):
            layer = match["layer"]
            if old := match.groupdict().get("old"):
                layer += "." + (OLD_TEXT[old] if layer.startswith("text_encoder") else OLD.get(old, old))
            return layer, PLACES[match["place"]]
    raise Error(f"A LoRA file holds factors of layers; {path} has {name}, which is none. {published.MERGED}")


def _change(
    layer: str, names: Mapping[str, str], tensors: Mapping[str, Stored], stated: Mapping[str, Any], path: Path
) -> Change:
    lacking = [place for place in ("down", "up") if place not in names]
    if lacking:
        raise Error(f"A low-rank change is two factors; {path} has none {lacking[0]} for {layer}. Copy it again.")
    for place, other in OTHERS.items():
        if layer.startswith(place):
            raise Error(
                f"Low-rank changes are of a U-Net and one text encoder, as Stable Diffusion 1.x and 2.x have them; {path} changes "
                f"{other} ({layer}). Take the one that was made for the checkpoint."
            )
    prefix, network = next(((p, n) for p, n in PREFIXES if layer.startswith(p)), ("", UNET))
    inner = layer.removeprefix(prefix)
    shape = tensors[names["down"]].shape
    rank = shape[0] if shape else 0
    if not rank or rank not in tensors[names["up"]].shape[1:2]:
        raise Error(
            f"The factors of a low-rank change share its rank; {path} has {list(shape)} and {list(tensors[names['up']].shape)} for "
            f"{layer}. Copy it again."
        )
    kernel = len(shape) == 4 and (math.prod(shape[2:]) > 1 or "mid" in names)
    if "alpha" in names:
        return Change(inner, network, names["down"], names["up"], names.get("mid"), 1 / rank, names["alpha"])
    scale = _scale(inner, network, rank, kernel, stated)
    return Change(inner, network, names["down"], names["up"], names.get("mid"), scale)


# ----------------------------------------------------------------------------------------------------------- metadata


def _metadata(path: Path, about: Mapping[str, str]) -> dict[str, Any]:
    """What file and folder state beside the tensors: peft's config for each network, or kohya's network_alpha."""
    try:
        stated: dict[str, Any] = json.loads(about["lora_adapter_metadata"]) if "lora_adapter_metadata" in about else {}
        beside = path.with_name("adapter_config.json")
        if not stated and path.name.startswith("adapter_model") and beside.is_file():
            stated = json.loads(beside.read_text(encoding="utf-8"))
        if "ss_network_alpha" in about:
            further = json.loads(about.get("ss_network_args") or "{}") or {}
            plain = about["ss_network_alpha"]
            stated |= {"kohya": None if plain in ("None", "") else float(plain)}
            if isinstance(further, dict) and further.get("conv_alpha") is not None:
                stated |= {"kohya.conv": float(further["conv_alpha"])}
    except (ValueError, TypeError, OSError) as problem:
        raise Error(
            f"The metadata of a LoRA file is JSON and numbers; that of {path} is not: {problem}. Copy it again."
        ) from problem
    if not isinstance(stated, dict) or any(stated.get(key) for key in stated if key.rpartition(".")[2] == "use_dora"):
        raise Error(
            f"Changes to be folded in are low-rank ones (LoRA); {path} says that it is DoRA. {published.MERGED}"
        )
    return stated


def _scale(layer: str, network: str, rank: int, kernel: bool, stated: Mapping[str, Any]) -> float:
    """alpha / rank by the metadata, 1 where it says nothing."""

    def said(key: str) -> Any:
        return stated.get(f"{network}.{key}", stated.get(key)) if network else stated.get(key)

    alpha = said("lora_alpha")
    for pattern, own in (said("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = own
    if alpha is None:
        alpha = stated.get("kohya.conv", stated.get("kohya")) if kernel else stated.get("kohya")
    if alpha is None:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if said("use_rslora") else rank)


# ------------------------------------------------------------------------------------------------- the original names


def original_names(unet: Mapping[str, Any]) -> dict[str, str]:
    """Beginnings of diffusers' names of a U-Net's layers -> those of the original code, for a U-Net with this config."""
    channels, layers = unet["block_out_channels"], unet.get("layers_per_block", 2)
    counts = layers if isinstance(layers, (list, tuple)) else [layers] * len(channels)
    found = {"conv_in.": "input_blocks.0.0.", "conv_out.": "out.2.", "time_embedding.linear_1.": "time_embed.0."}
    found |= {"time_embedding.linear_2.": "time_embed.2.", "mid_block.attentions.0.": "middle_block.1."}
    found |= {"mid_block.resnets.0.": "middle_block.0.", "mid_block.resnets.1.": "middle_block.2."}
    number = 1
    for level, count in enumerate(counts):
        for layer in range(count):
            found[f"down_blocks.{level}.resnets.{layer}."] = f"input_blocks.{number}.0."
            found[f"down_blocks.{level}.attentions.{layer}."] = f"input_blocks.{number}.1."
            number += 1
        found[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{number}.0.op."
        number += 1
    number, attends = 0, ["Attn" in kind for kind in unet["up_block_types"]]
    for level, count in enumerate(counts[::-1]):
        for layer in range(count + 1):
            found[f"up_blocks.{level}.resnets.{layer}."] = f"output_blocks.{number}.0."
            found[f"up_blocks.{level}.attentions.{layer}."] = f"output_blocks.{number}.1."
            number += 1
        place = 2 if attends[level] else 1
        found[f"up_blocks.{level}.upsamplers.0.conv."] = f"output_blocks.{number - 1}.{place}.conv."
    return found


RESNET = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
"""Layers inside a residual block, diffusers' -> the original code's."""
