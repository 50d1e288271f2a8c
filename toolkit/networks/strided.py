"""Convolutions with a stride, which are not computed in bf16 on the smallest maps.

The gradient of the weight of a convolution with a stride and a kernel of 3 x 3 or more is wrong in bf16 where its map is one
pixel wide: on processors with AVX-512, AMX among them, it depends on memory that nobody wrote (oneDNN 3.12, torch 2.13), so
that it is NaN, enormous or right by chance. In fp32, and on maps of 2 x 2 and more, it is right. Networks of four
resolutions get there with images of 16 pixels. Layers on such maps are so small that fp32 costs nothing, and at larger images
nothing changes.
"""

from __future__ import annotations

from types import MethodType
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["SMALLEST", "guarded", "sides"]

SMALLEST = 2
"""Side of the smallest map, going in or coming out, on which a convolution with a stride may be computed in bf16."""

Module = TypeVar("Module", bound=nn.Module)


def guarded(module: Module) -> Module:
    """`module` itself; under autocast its convolutions with a stride compute smaller maps than SMALLEST in fp32.

    To be called by every network that has such layers, when it is built. Names and weights stay as they are, and so does
    what the network computes without autocast. The weights are fp32, as autocast wants them.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1:
            # The layers are made inside of diffusers and transformers, so it is not their class that is chosen here.
            layer.forward = MethodType(_forward, layer)
    return module


def sides(layer: nn.Conv2d, x: Tensor) -> tuple[int, ...]:
    """The sides of the map that goes into a convolution, (B, C, H, W), and of the one that comes out of it."""
    assert not isinstance(layer.padding, str)
    plan = zip(x.shape[2:], layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True)
    return (*x.shape[2:], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in plan))


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    # Autocast is asked for first: a graph is traced without, and no size may be written into it.
    if not torch.is_autocast_enabled(x.device.type) or min(sides(layer, x)) >= SMALLEST:
        return nn.Conv2d.forward(layer, x)
    with torch.autocast(x.device.type, enabled=False):
        return nn.Conv2d.forward(layer, x.float())
