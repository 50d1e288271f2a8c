"""LoRA: a large network adapted by low-rank changes of its attention alone, and merged back into plain weights.

Hu et al. 2021, arXiv:2106.09685, eq. 3: W x becomes W x + (alpha / r) B A x with A random and B zero at first, and only A
and B are trained. Merged, W + (alpha / r) B A, the network is of the same size and the same graph as before, so nothing
that runs or exports it knows of it. The layers are peft's.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from toolkit.example import Error

__all__ = ["TARGETS", "add_adapters", "merge_adapters"]

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The four projections of every attention, as diffusers names them; the paper's W_q, W_k, W_v and W_o."""

BASE, ADAPTER = ".base_layer.", ".lora_"


def add_adapters(unet: nn.Module, rank: int, alpha: float, targets: tuple[str, ...] = TARGETS) -> nn.Module:
    """`unet` itself, whatever is around it, with adapters in its attention and everything else frozen.

    rank: r. alpha: the change is scaled by alpha / r. It answers as before until it is trained; `train` and an optimiser
    over the parameters that want a gradient do the rest. Errors: a network without attention, one that has adapters.
    """
    if rank < 1 or not alpha > 0:
        raise Error(f"A low-rank change has a rank of 1 or more and an alpha above 0; found {rank} and {alpha}.")
    if any(isinstance(module, LoraLayer) for module in unet.modules()):
        raise Error("A network is adapted once; this one has adapters already. Merge them first.")
    if not any(name.endswith(targets) for name, _ in unet.named_modules()):
        raise Error(
            f"A low-rank change is one of attention ({', '.join(targets)}); this network has none. Train it whole."
        )
    # peft puts a float rank of its own where alpha is no integer, so alpha goes in as it is.
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=True)  # type: ignore[arg-type]
    return inject_adapter_in_model(config, unet)


@torch.no_grad()
def merge_adapters(unet: nn.Module) -> dict[str, Tensor]:
    """The state of an adapted network as plain weights, under the names they had before; the network is left as it is.

    Without adapters it is the state as it stands.
    """
    changed: dict[str, Any] = {name: module for name, module in unet.named_modules() if isinstance(module, LoraLayer)}
    plain = {}
    for name, value in unet.state_dict().items():
        owner, _, last = name.rpartition(BASE)
        if ADAPTER in name:
            continue
        if owner not in changed:
            plain[name] = value.detach().clone()
            continue
        change = changed[owner].get_delta_weight("default").to(value) if last == "weight" else 0.0
        plain[f"{owner}.{last}"] = value.detach() + change
    return plain
