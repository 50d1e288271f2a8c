"""Stable Diffusion in one file, in the names of the original code: small pipelines written the way the large ones are handed out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pipelines
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

UNET, VAE = "model.diffusion_model.", "first_stage_model."
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2", "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1", "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0", "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0", "up_blocks.1.attentions.1": "output_blocks.3.1",
}  # fmt: skip
"""Of a U-Net of two levels with one layer each, attention in the first."""

VAE_NAMES = (
    (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"), (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.0\.resnets\.(\d)", r"up.1.block.\1"), (r"up_blocks\.1\.resnets\.(\d)", r"up.0.block.\1"),
    (r"up_blocks\.0\.upsamplers\.0", "up.1.upsample"), (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"), (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"), (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"),
)  # fmt: skip


def write(place: Path, second: bool = False) -> tuple[Path, Path]:
    """A pipeline folder and the same checkpoint as one file. second: in the generation of Stable Diffusion 2."""
    torch.manual_seed(4)
    wide = {"block_out_channels": (32, 64), "norm_num_groups": 32}
    heads: Any = {"attention_head_dim": [1, 1], "use_linear_projection": True} if second else {"attention_head_dim": 8}
    unet = pipelines.unet(**wide, **heads, sample_size=64, cross_attention_dim=64)
    root = pipelines.write(
        place / "pipeline", unet=unet, vae=pipelines.vae(**wide, sample_size=512), pad="!" if second else pipelines.END
    )
    config = CLIPTextConfig.from_pretrained(root / "text_encoder")
    gate = {"hidden_act": "gelu"} if second else {}
    text = CLIPTextModel(
        CLIPTextConfig(**config.to_dict() | {"hidden_size": 64, "num_attention_heads": 1} | gate)
    ).eval()
    text.save_pretrained(root / "text_encoder")
    vae = pipelines.AutoencoderKL.from_pretrained(root / "vae")
    weights = {UNET + unet_name(name): value for name, value in unet.state_dict().items()}
    weights |= {VAE + vae_name(name): _shaped(name, value) for name, value in vae.state_dict().items()}
    plain = {name.removeprefix("text_model."): value for name, value in text.state_dict().items()}
    weights |= (
        open_clip(plain) if second else {f"cond_stage_model.transformer.text_model.{k}": v for k, v in plain.items()}
    )
    weights["alphas_cumprod"] = torch.rand(1000)
    path = place / "v1-5-pruned.safetensors"
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return root, path


def unet_name(name: str) -> str:
    start = next(start for start in sorted(OUTER, key=len, reverse=True) if name.startswith(f"{start}."))
    inner = name.removeprefix(start + ".")
    for theirs, ours in RESNET.items() if "resnets" in start else ():
        inner = re.sub(rf"^{theirs}\b", ours, inner)
    return f"{OUTER[start]}.{inner}"


def vae_name(name: str) -> str:
    for pattern, word in VAE_NAMES:
        name = re.sub(pattern, word, name)
    return name


def _shaped(name: str, value: Tensor) -> Tensor:
    """The attention of the original VAE has convolutions."""
    return value[:, :, None, None] if ".attentions." in name and value.ndim == 2 else value


def open_clip(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder in OpenCLIP's names, with the last layer that Stable Diffusion 2 leaves out."""
    start = "cond_stage_model.model."
    found = {
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"], "ln_final.bias": text["final_layer_norm.bias"],
        "text_projection": torch.eye(64), "logit_scale": torch.ones(()),
    }  # fmt: skip
    inner = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for layer in range(3):
        source, target = f"encoder.layers.{min(layer, 1)}.", f"transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            joined = [text[f"{source}self_attn.{part}_proj.{end}"] for part in "qkv"]
            found[f"{target}attn.in_proj_{end}"] = torch.cat(joined)
            found |= {f"{target}{new}.{end}": text[f"{source}{old}.{end}"] for old, new in inner.items()}
    return {start + name: value.clone() for name, value in found.items()}
