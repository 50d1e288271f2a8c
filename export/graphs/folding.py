"""What TensorRT wants of a graph and the exporter does not give, put right when the graph is written.

A graph that the exporter did not optimise computes, for one, the axes of a mean from two constants. ONNX Runtime does
not mind; TensorRT reads the axes while it parses, and resolves no Reshape for them. And it has no transposed convolution
in bf16. Only small constants and casts are touched: weights stay where they are.
"""

from __future__ import annotations

import math
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

__all__ = ["fold", "widen_deconvolutions"]

SMALL = 64
"""A constant of more elements is a weight and stays where it is."""


def fold(model: onnx.ModelProto) -> int:
    """Replace every small value that no input reaches by a constant, in place; answers how many nodes went.

    External and large initialisers are not read, so no weight is copied. Nodes with subgraphs, random ones and those
    that make an output of the graph stay.
    """
    graph = model.graph
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL and math.prod(tensor.dims) <= SMALL
    }
    outputs = {value.name for value in graph.output}
    kept, made = [], {}
    for node in graph.node:
        value = None
        if set(node.input) - {""} <= set(known) and _plain(node) and not set(node.output) & outputs:
            value = _evaluate(node, {name: known[name] for name in node.input if name}, model)
        if value is None or value.size > SMALL:
            kept.append(node)
        else:
            known[node.output[0]] = made[node.output[0]] = value
    read, whole = {name for node in kept for name in node.input} | outputs, _inside(kept)
    tensors = [tensor for tensor in graph.initializer if tensor.name in read or whole]
    tensors += [numpy_helper.from_array(value, name) for name, value in made.items() if name in read or whole]
    folded = len(graph.node) - len(kept)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)
    return folded


def widen_deconvolutions(model: onnx.ModelProto) -> int:
    """Let every transposed convolution of a bf16 graph compute in fp32, with casts around it, in place; answers how many.

    TensorRT builds it in fp32 and fp16 and not in bf16; it is what the gradient of a convolution is made of.
    """
    nodes, found = [], 0
    for node in model.graph.node:
        if node.op_type != "ConvTranspose":
            nodes.append(node)
            continue
        found += 1
        answer, wide = node.output[0], [f"{name}.wide{found}" for name in node.input]
        nodes += [
            helper.make_node("Cast", [name], [new], name=f"Cast.{new}", to=TensorProto.FLOAT)
            for name, new in zip(node.input, wide, strict=True)
        ]
        node.input[:], node.output[:] = wide, [f"{answer}.wide"]
        cast = helper.make_node("Cast", [f"{answer}.wide"], [answer], name=f"Cast.{answer}", to=TensorProto.BFLOAT16)
        nodes += [node, cast]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return found


def _plain(node: onnx.NodeProto) -> bool:
    subgraph = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
    return (
        len(node.output) == 1 and not subgraph and not node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
    )


def _inside(nodes: list[onnx.NodeProto]) -> bool:
    """Whether a node holds a subgraph, which may read any value by name."""
    return any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for n in nodes for a in n.attribute)


def _evaluate(node: onnx.NodeProto, values: dict, model: onnx.ModelProto):
    """The one output of a node, by the reference implementation of ONNX."""
    inputs = [numpy_helper.from_array(value, name) for name, value in values.items()]
    output = helper.make_empty_tensor_value_info(node.output[0])
    alone = helper.make_model(
        helper.make_graph([node], "constant", [], [output], inputs),
        opset_imports=model.opset_import, ir_version=model.ir_version,
    )  # fmt: skip
    answers: Any = ReferenceEvaluator(alone).run(None, {})
    return answers[0]
