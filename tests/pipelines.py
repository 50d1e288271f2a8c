"""Small Stable Diffusion pipelines as folders on disk, with the files and the layout of the large ones."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel

from toolkit.diffusion.schedule import SIGMA_CAP

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ["e f", "ef f", "u s", "i o", "io n</w>", "us ion</w>", "eff usion</w>", "r i", "l e", "n o", "s t</w>"]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
"""The noise of Stable Diffusion."""


def vocabulary() -> dict[str, int]:
    """As CLIP's: every byte, every byte that ends a word, the merges, start and end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in MERGES),
        START,
        END,
    ]
    return {token: number for number, token in enumerate(tokens)}


def unet(**changes: Any) -> UNet2DConditionModel:
    """A U-Net whose answer has a standard deviation of about 1."""
    plan: dict[str, Any] = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 16), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24, "attention_head_dim": 4, "norm_num_groups": 4,
    }  # fmt: skip
    module = UNet2DConditionModel(**plan | changes)
    with torch.no_grad():
        module.conv_out.weight *= 2
        for name, weight in module.named_parameters():
            if "attn2.to_" in name and name.endswith("weight"):
                weight *= 2  # else a random network would hardly hear what it is told
    return module.eval()


def taught(module: UNet2DConditionModel, prediction: str, steps: int = 80) -> UNet2DConditionModel:
    """A U-Net that has learned what noise is, so that a walk ends in numbers of about 1 and not of sigma_max."""
    random = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(module.parameters(), 4e-3)
    for _ in range(steps):
        noise, part = (torch.randn(4, 4, 8, 8, generator=random) for _ in range(2))
        image, text = part.mean((2, 3), keepdim=True) * 4, torch.randn(4, 77, 24, generator=random)
        time = torch.randint(0, 1000, (4,), generator=random)
        signal = (1 - time / 1000)[:, None, None, None].clamp(0.02, 0.999)
        root, rest = signal.sqrt(), (1 - signal).sqrt()
        target = {"epsilon": noise, "v_prediction": root * noise - rest * image, "sample": image}[prediction]
        loss = (module(root * image + rest * noise, time, text).sample - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def vae(**changes: Any) -> AutoencoderKL:
    plan: dict[str, Any] = {
        "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4, "sample_size": 16,
    }  # fmt: skip
    return AutoencoderKL(**plan | changes).eval()


def write(
    root: Path,
    scheduler: Any = None,
    unet: UNet2DConditionModel | None = None,
    vae: AutoencoderKL | None = None,
    pad: str = END,
    index: dict[str, Any] | None = None,
) -> Path:
    """A whole pipeline folder with the tokenizer as two files, as those of Stable Diffusion have it."""
    torch.manual_seed(0)
    words = vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, bos_token_id=words[START], eos_token_id=words[END], pad_token_id=words[pad],
        initializer_factor=5.0,
    )  # fmt: skip
    scheduler = scheduler or DDIMScheduler(**SD, set_alpha_to_one=False, steps_offset=1)
    given = {
        "unet": unet or globals()["unet"](),
        "vae": vae or globals()["vae"](),
        "text_encoder": CLIPTextModel(config).eval(),
        "scheduler": scheduler,
    }
    for name, part in given.items():
        part.save_pretrained(root / name)
    place = root / "tokenizer"
    place.mkdir()
    (place / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad, "do_lower_case": True}
    (place / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    whole = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (root / "model_index.json").write_text(json.dumps(whole | (index or {})), encoding="utf-8")
    return root


def walked(scheduler: Any, steps: int) -> list[float]:
    """The sigmas of a diffusers scheduler, capped as ours, without those that repeat one."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):
        found = scheduler.sigmas.tolist()
    else:
        times = np.unique(scheduler.timesteps.numpy())[::-1]
        alphas = scheduler.alphas_cumprod.double()[times.copy()].tolist()
        final = {"LCMScheduler": 1.0, "TCDScheduler": float(scheduler.alphas_cumprod[0])}.get(type(scheduler).__name__)
        alphas.append(float(getattr(scheduler, "final_alpha_cumprod", 1.0)) if final is None else final)
        found = [math.sqrt((1 - a) / a) if a > 0 else math.inf for a in alphas]
    found = [min(sigma, SIGMA_CAP) for sigma in found]
    return found[:1] + [low for high, low in itertools.pairwise(found) if low < high * (1 - 1e-6)]
