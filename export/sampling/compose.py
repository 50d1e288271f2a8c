"""New graphs out of the graphs of a model folder: called like functions, as often as needed, their weights kept once.

Calling a graph copies its nodes. A node that would compute what one that is there already computes is not copied but
used: so the weights, their casts to fp32 and all that follows from the condition alone are shared by every call, whatever
the graph. The weights themselves stay in the safetensors files that the graphs point into. No torch.

A body (`Composer.body`) is the inside of a Scan: what does not depend on the step goes outside, by the same rule.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from toolkit.example import Error

__all__ = ["FLOAT", "INT64", "Composer"]

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Composer:
    """A graph that is being written. Every method answers the name of a tensor, or names."""

    def __init__(self, root: Path, precision: str = "fp32", outside: Composer | None = None) -> None:
        """precision: of the graphs that are called; what a folder has in fp32 alone, such as a codec, is taken so."""
        self.root, self.precision, self.outside = root, precision, outside
        self.nodes: list[NodeProto] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.known: set[str] = set()
        if outside is None:
            self.weights: dict[bytes, TensorProto] = {}
            self.stored: set[str] = set()
            self.graphs: dict[str, ModelProto] = {}
            self.calls: dict[str, int] = {}
        else:
            self.weights, self.stored = outside.weights, outside.stored
            self.graphs, self.calls = outside.graphs, outside.calls
        self.made: dict[Any, list[str]] = {}

    # ------------------------------------------------------------------------------------------------ the graph's ends

    def input(self, name: str, shape: Sequence[int | str], kind: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        self.known.add(name)
        return name

    def output(self, name: str, value: str, shape: Sequence[int | str], kind: int = FLOAT) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"Identity.{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))

    def takes(self, graph: str) -> dict[str, tuple[int, list[int | str]]]:
        """The inputs of a graph of the folder: name -> kind, shape."""
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            )
            for value in self._graph(graph).graph.input
        }

    # ----------------------------------------------------------------------------------------------------- what it does

    def call(self, graph: str, feed: Mapping[str, str]) -> str:
        """The one output of a graph of the folder for these inputs."""
        source = self._graph(graph).graph
        names = {"": "", **feed} | {tensor.name: self._weight(graph, tensor) for tensor in source.initializer}
        number = self.calls[graph] = self.calls.get(graph, 0) + 1
        for node in source.node:
            if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
                raise Error(
                    f"A graph that is fused has no graph inside it; found {node.op_type}. Report this as a bug."
                )
            inputs = [names[name] for name in node.input]
            outputs = [f"{graph}{number}.{name}" if name else "" for name in node.output]
            names.update(zip(node.output, self._put(node, inputs, outputs), strict=True))
        return names[source.output[0].name]

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """One operator; its name, or a list of names where it has several outputs."""
        number = self.calls[""] = self.calls.get("", 0) + 1
        wanted = [f"{kind.lower()}_{number}" + (f"_{n}" if n else "") for n in range(outputs)]
        found = self._put(helper.make_node(kind, list(inputs), wanted, **attributes), list(inputs), wanted)
        return found[0] if outputs == 1 else found

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        return self._kept(numpy_helper.from_array(np.array(values, dtype, order="C"), "constant"))

    def body(self) -> Composer:
        """A graph inside this one, which sees all of it."""
        return Composer(self.root, self.precision, self)

    def graph(self, name: str) -> GraphProto:
        weights = [] if self.outside is not None else list(self.weights.values())
        used = {name for node in self.nodes for name in _reads(node)}
        return helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, [tensor for tensor in weights if tensor.name in used]
        )

    def save(self, path: Path) -> None:
        """Write the graph beside the files its weights lie in. Errors: an input whose batch is fixed."""
        versions = {(o.domain, o.version) for model in self.graphs.values() for o in model.opset_import}
        if len(versions) != 1:
            raise Error(f"Graphs that become one have one opset; found {sorted(versions)}. Export them all again.")
        model = helper.make_model(
            self.graph(path.name.partition(".")[0]), producer_name="diffgraft",
            opset_imports=[helper.make_opsetid(*version) for version in versions],
            ir_version=max(model.ir_version for model in self.graphs.values()),
        )  # fmt: skip
        for value in [*model.graph.input, *model.graph.output]:
            dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            if len(dims) > 1 and "batch" not in dims:
                raise Error(
                    f"A fused graph has a dynamic batch; '{value.name}' came out as {dims}. Report this as a bug."
                )
        partial = path.with_name(f".{path.name}")
        try:
            partial.write_bytes(model.SerializeToString())
            onnx.checker.check_model(str(partial))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------------ inside

    def _put(self, node: NodeProto, inputs: list[str], outputs: list[str]) -> list[str]:
        """Write a node where all its inputs are known, as far outside as that is, unless it is there already."""
        if self.outside is not None and all(self.outside._has(name) for name in inputs if name):
            return self.outside._put(node, inputs, outputs)
        does = NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
        key = (does.SerializeToString(deterministic=True), *inputs, len(outputs))
        if key not in self.made:
            does.input.extend(inputs)
            does.output.extend(outputs)
            does.name = f"{node.op_type}.{outputs[0]}"
            self.nodes.append(does)
            self.known.update(outputs)
            self.made[key] = outputs
        return self.made[key]

    def _has(self, name: str) -> bool:
        return name in self.known or name in self.stored or (self.outside is not None and self.outside._has(name))

    def _weight(self, graph: str, tensor: TensorProto) -> str:
        return self._kept(tensor, f"{graph}.")

    def _kept(self, tensor: TensorProto, prefix: str = "") -> str:
        """The name of a stored tensor; one that has the same numbers, or lies at the same place, is the same."""
        bare = TensorProto()
        bare.CopyFrom(tensor)
        bare.name = ""
        key = bare.SerializeToString(deterministic=True)
        if key not in self.weights:
            bare.name = f"{prefix}{tensor.name}" if prefix else f"constant_{len(self.weights)}"
            self.weights[key] = bare
            self.stored.add(bare.name)
        return self.weights[key].name

    def _graph(self, name: str) -> ModelProto:
        if name not in self.graphs:
            own = self.root / (f"{name}.onnx" if self.precision == "fp32" else f"{name}.{self.precision}.onnx")
            path = own if own.is_file() or name in NETWORKS else self.root / f"{name}.onnx"
            if not path.is_file():
                raise Error(
                    f"A fused graph is made of the model's own graphs; {self.root} lacks {path.name}. "
                    f"Write it: diffgraft export {self.root} --to onnx --precision {self.precision}"
                )
            self.graphs[name] = onnx.load(str(path), load_external_data=False)
        return self.graphs[name]


NETWORKS = ("denoiser", "student")
"""Graphs that have to be there in the precision that is asked for."""


def _reads(node: NodeProto) -> list[str]:
    inside = [name for a in node.attribute if a.type == AttributeProto.GRAPH for n in a.g.node for name in _reads(n)]
    return [*node.input, *inside]
