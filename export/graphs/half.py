"""The bodies of a model's networks in fp16 or bf16; what goes in and out of them, and all preconditioning, stays fp32.

D = x - sigma eps cancels, and a sinusoid of a noise level or of a corner needs its digits: so x, sigma, the coefficients,
the embeddings of numbers and every input and output of a graph are fp32, with Casts between (strongly typed, as TensorRT
from version 11 on wants it). A softmax or a length that is an answer is taken in fp32 too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

__all__ = ["DTYPES", "to_half"]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> what a body computes in."""


class _Into(nn.Module):
    """A module that is given its floating arguments as `inside`, but those at the places `keep`; answers tensors as `outside`."""

    def __init__(
        self,
        module: nn.Module,
        inside: torch.dtype,
        outside: torch.dtype | None = None,
        keep: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        # Not the module's own `to`: that of diffusers says something about modules of which there are none.
        self.module, self.inside, self.outside, self.keep = nn.Module.to(module, inside), inside, outside, keep

    def forward(self, *values: Any, **named: Any) -> Any:
        given = [v if n in self.keep else _cast(v, self.inside) for n, v in enumerate(values)]
        answer = self.module(*given, **{k: _cast(v, self.inside) for k, v in named.items()})
        return answer if self.outside is None else _cast(answer, self.outside)


class _Norm(nn.Module):
    """A group norm whose mean and variance are taken in fp32: in fp16 the squares of what a body computes overflow."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        plain = nnf.group_norm(x.float(), self.norm.num_groups, eps=self.norm.eps).to(x.dtype)
        if not self.norm.affine:
            return plain
        shape = (1, -1, *[1] * (x.ndim - 2))
        return plain * self.norm.weight.reshape(shape) + self.norm.bias.reshape(shape)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def to_half(part: str, module: Any, precision: str) -> Any:
    """The part, changed in place, with its body in the given precision if it is there in that one."""
    if precision in DTYPES and part in BODIES:
        BODIES[part](module, DTYPES[precision])
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.GroupNorm) and not isinstance(parent, _Norm):
                    setattr(parent, name, _Norm(child))
    return module


def _denoiser(module: Any, dtype: torch.dtype) -> None:
    # The time step, second of its arguments, is a phase.
    module.network.unet = _Into(module.network.unet, dtype, keep=(1,))


def _gradient(module: Any, dtype: torch.dtype) -> None:
    module.embed = _Into(module.embed, torch.float32, dtype)
    module.stem = _Into(module.stem, dtype)
    for name in ("blocks", "halve", "norm", "head"):
        getattr(module, name).to(dtype)


def _codec(module: Any, dtype: torch.dtype) -> None:
    vae = module.vae
    for name in ("encoder", "quant_conv", "post_quant_conv", "decoder"):
        if getattr(vae, name) is not None:
            setattr(vae, name, _Into(getattr(vae, name), dtype))


BODIES: Mapping[str, Callable[[Any, torch.dtype], None]] = {
    "denoiser": _denoiser,
    "codec": _codec,
    "gradient": _gradient,
}
"""Part -> what puts its body into a precision; of a classifier its gradient alone. What judges stays as it is."""
