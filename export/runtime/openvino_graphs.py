"""What is changed in a graph before OpenVINO compiles it: one fault of its CPU plugin, and two things that it does slowly."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["rewrite_deconvolutions", "rewrite_group_norms"]


def rewrite_deconvolutions(model: Any) -> int:
    """Rewrite transposed convolutions of stride 1 as convolutions, and give the others weights of their own; returns how many.

    The plugin keeps weights that it has packed by where they came from. In the gradient of a classifier a convolution and
    a transposed one have the same, which it packs in two ways, and of openvino 2026.4 the one is then computed with what
    was packed for the other: an error of 9 standard deviations, silently. A plain convolution is also the faster in bf16.
    """
    from openvino import opset13 as op

    found = [node for node in model.get_ops() if node.get_type_name() == "ConvolutionBackpropData"]
    for node in found:
        weights, given = _constant(node.input_value(1)), node.get_attributes()
        if weights is None:
            continue
        plain = all(n == 1 for n in (*given["strides"], *given["dilations"])) and given["auto_pad"] == "explicit"
        if not plain or len(node.inputs()) != 2 or any(given["output_padding"]):
            node.input(1).replace_source_output(op.constant(weights).output(0))
            continue
        turned = np.ascontiguousarray(weights[..., ::-1, ::-1].transpose(1, 0, 2, 3))
        before, after = ([size - 1 - p for size, p in zip(weights.shape[2:], given[side], strict=True)]
                         for side in ("pads_begin", "pads_end"))  # fmt: skip
        answer = op.convolution(node.input_value(0), op.constant(turned), [1, 1], before, after, [1, 1])
        node.output(0).replace(answer.output(0))
    return len(found)


def _constant(value: Any) -> np.ndarray | None:
    """The weights behind an input, in fp32."""
    node = value.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return np.array(node.data).astype(np.float32) if node.get_type_name() == "Constant" else None


def rewrite_group_norms(model: Any, places: int) -> int:
    """Rewrite group norms over maps of so many places or more; returns how many.

    ONNX has a group norm as an instance norm of a map folded to (batch, groups, all the rest), which the plugin can
    only compute with channels first, while its convolutions want them last: it turns every map twice, a quarter of the
    time of a U-Net at 64 x 64. Here it becomes x * a + b, with a and b from the means of x and x^2, channel by channel
    and then over the channels of a group, for which no map is turned.
    """
    from openvino import opset13 as op

    rewritten = 0
    for norm in model.get_ops():
        place = _norm(norm) if norm.get_type_name() == "MVN" else None
        if place is None:
            continue
        x, groups, end = place
        channels = x.get_partial_shape()[1].get_length()
        if x.get_partial_shape()[2].get_length() * x.get_partial_shape()[3].get_length() < places:
            continue
        within = channels // groups
        share = np.kron(np.eye(groups), np.full((within, within), 1 / within)).astype(np.float32)
        axes = np.array([2, 3])
        mean = op.matmul(op.reduce_mean(x, axes), share, False, False)
        square = op.matmul(op.reduce_mean(op.multiply(x, x), axes), share, False, False)
        spread = op.relu(op.subtract(square, op.multiply(mean, mean)))
        scale = op.power(op.add(spread, np.float32(norm.get_attributes()["eps"])), np.float32(-0.5))
        shift = op.negative(op.multiply(mean, scale))
        answer = op.add(op.multiply(x, op.unsqueeze(scale, axes)), op.unsqueeze(shift, axes))
        end.output(0).replace(answer.output(0))
        rewritten += 1
    return rewritten


def _norm(norm: Any) -> tuple[Any, int, Any] | None:
    """(x, groups, the reshape back to the shape of x) of an MVN that is a group norm of (batch, channels, height, width)."""
    fold = norm.input_value(0).get_node()
    if fold.get_type_name() != "Reshape" or norm.get_output_partial_shape(0).rank.get_length() != 3:
        return None
    x = fold.input_value(0)
    if x.get_partial_shape().rank.get_length() != 4 or any(d.is_dynamic for d in list(x.get_partial_shape())[1:]):
        return None
    # After it come the scale 1 and the shift 0 of the instance norm, and the reshape; its own scale and shift come later.
    end = norm
    for kind in ("Multiply", "Add", "Reshape"):
        users = [i.get_node() for i in end.output(0).get_target_inputs() if i.get_node().get_type_name() != "ShapeOf"]
        if [user.get_type_name() for user in users] != [kind] or not _neutral(users[0], kind):
            return None
        end = users[0]
    return x, norm.get_output_partial_shape(0)[1].get_length(), end


def _neutral(node: Any, kind: str) -> bool:
    """Whether a node multiplies by ones or adds zeros."""
    if kind == "Reshape":
        return True
    source = node.input_value(1).get_node()
    while source.get_type_name() == "Reshape":
        source = source.input_value(0).get_node()
    return source.get_type_name() == "Constant" and bool((np.array(source.data) == (kind == "Multiply")).all())
