"""Low-rank changes (LoRA) folded into the weights of a checkpoint: W + weight alpha / rank B A, computed in fp32.

Hu et al. 2021, arXiv:2106.09685; of a convolution B A is the kernel of the two that follow each other, with a third
between them where the file has one (LoCon; Yeh et al. 2023, arXiv:2309.14859, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from toolkit.example import Error
from toolkit.models import lora
from toolkit.models.lora import Change

__all__ = ["fold"]


@torch.no_grad()
def fold(path: Path, weight: float, unet: Any, text_encoder: nn.Module) -> int:
    """Add the changes in a LoRA file, `weight` times, to both networks in place; returns how many layers were changed.

    Errors: a layer that they have not or that is of another size, values that are not finite.
    """
    changes, tensors = lora.read_changes(path), load_file(path)
    layers = {"unet": _unet_layers(unet), "text_encoder": _text_layers(text_encoder)}
    done = []
    for change in changes:
        layer = _layer(change, layers, path)
        scale = weight * change.scale * (float(tensors[change.alpha]) if change.alpha else 1.0)
        done.append((layer, scale * _product(change, tensors, layer, path)))
        if not bool(torch.isfinite(done[-1][1]).all()):
            raise Error(
                f"Low-rank changes are finite numbers; those of {change.layer} in {path} are not. Copy it again."
            )
    for layer, difference in done:
        layer.weight += difference
    return len(done)


def _product(change: Change, tensors: Mapping[str, Tensor], layer: Any, path: Path) -> Tensor:
    """B A in the shape of the layer's weight."""
    down, up = tensors[change.down].float(), tensors[change.up].float()
    if change.mid is not None:
        middle = tensors[change.mid].float()
        found = torch.einsum("op,pqhw,qi->oihw", up.flatten(1), middle, down.flatten(1))
    else:
        found = up.flatten(1) @ down.flatten(1)
    wanted = layer.weight.shape
    if math.prod(found.shape) != math.prod(wanted) or found.shape[0] != wanted[0]:
        raise Error(
            f"Low-rank changes are of the checkpoint that they were made for; {path} changes {change.layer} of {list(found.shape)}, "
            f"which here is {list(wanted)}. Take a checkpoint of the same kind (1.x, 2.x)."
        )
    return found.reshape(wanted)


def _layer(change: Change, layers: Mapping[str, Mapping[str, nn.Module]], path: Path) -> nn.Module:
    name = change.layer.replace(".", "_")
    networks = [change.network] if change.network else list(layers)
    for network in networks:
        if name in layers[network]:
            return layers[network][name]
    raise Error(
        f"Low-rank changes are of the checkpoint that they were made for; {path} changes {change.layer}, which is no layer here. "
        "Take a checkpoint of the same kind (1.x, 2.x)."
    )


def _unet_layers(unet: Any) -> dict[str, nn.Module]:
    """Layers with a weight matrix by diffusers' names and by the original code's, dots as underscores."""
    found = _named(unet)
    starts = lora.original_names(unet.config)
    for name, module in list(found.items()):
        for start, original in starts.items():
            if f"{name}.".startswith(start):
                inner = f"{name}.".removeprefix(start).rstrip(".")
                found[(original + lora.RESNET.get(inner, inner)).rstrip(".")] = module
    return {name.replace(".", "_"): module for name, module in found.items()}


def _text_layers(text_encoder: nn.Module) -> dict[str, nn.Module]:
    """The same with and without the "text_model." that one generation of transformers writes before each."""
    found = {name.removeprefix("text_model."): module for name, module in _named(text_encoder).items()}
    both = found | {f"text_model.{name}": module for name, module in found.items()}
    return {name.replace(".", "_"): module for name, module in both.items()}


def _named(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
