"""grad_x log p(target | x; sigma) of a convolutional classifier as an ordinary graph.

torch.onnx exports no autograd. So the gradient is traced into plain operators first (make_fx with decompositions of
the backward operators that ONNX does not know), then exported like any module. target is a row of class weights and
enters as a product, not as an index: the backward of an index is a scatter, which TensorRT does not parse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["gradient_module"]

aten = torch.ops.aten


def gradient_module(classifier: nn.Module, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A module (x (B, *shape), sigma (B,), target (B, classes)) -> gradient (B, *shape), batch dynamic, size fixed."""

    def gradient(x: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
        point = x.detach().requires_grad_(True)
        return torch.autograd.grad((classifier(point, sigma) * target).sum(), point)[0]

    # The tracer gives equal sizes one symbol, so the batch has a size that no other axis has.
    rows = next(n for n in (7, 11, 13, 17, 19) if n not in (*shape, classes))
    example = torch.randn(rows, *shape), torch.ones(rows), torch.full((rows, classes), 1.0 / classes)
    return make_fx(gradient, decomposition_table=_table(), tracing_mode="symbolic", _allow_non_fake_inputs=True)(
        *example
    )


def _table() -> dict[Any, Any]:
    known = get_decompositions(
        [
            aten.silu_backward,
            aten.gelu_backward,
            aten.native_layer_norm_backward,
            aten._softmax_backward_data,
            aten._log_softmax_backward_data,
        ]
    )
    return known | {
        aten.convolution_backward.default: _convolution_backward,
        aten.native_group_norm_backward.default: _group_norm_backward,
    }


def _convolution_backward(*arguments: Any) -> tuple[Tensor | None, None, None]:
    """The input gradient of a convolution is its transposed convolution; weights and biases are constants here."""
    # As aten.convolution_backward has them.
    grad, x, weight, _, stride, padding, dilation, transposed, _, groups, mask = arguments
    missing = [
        x.shape[2 + d]
        - ((grad.shape[2 + d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (weight.shape[2 + d] - 1) + 1)
        for d in range(len(stride))
    ]
    if transposed:
        raise NotImplementedError("a transposed convolution in a guidance classifier")
    own = aten.convolution.default(grad, weight, None, stride, padding, dilation, True, missing, groups)
    return (own if mask[0] else None), None, None


def _group_norm_backward(*arguments: Any) -> tuple[Tensor | None, None, None]:
    """Wu & He 2018 (arXiv:1803.08494): y = (x - mean) rstd weight + bias, so with g = grad weight and
    z = (x - mean) rstd: dx = rstd (g - mean(g) - z mean(g z)), means over a group."""
    # As aten.native_group_norm_backward has them.
    grad, x, mean, rstd, weight, batch, channels, size, groups, mask = arguments
    shape = x.shape
    grouped = (batch, groups, channels // groups * size)
    scaled = grad if weight is None else grad * weight.reshape(1, -1, *[1] * (x.ndim - 2))
    g, rstd = scaled.reshape(grouped), rstd.reshape(batch, groups, 1)
    z = (x.reshape(grouped) - mean.reshape(batch, groups, 1)) * rstd
    own = rstd * (g - g.mean(2, keepdim=True) - z * (g * z).mean(2, keepdim=True))
    return (own.reshape(shape) if mask[0] else None), None, None
