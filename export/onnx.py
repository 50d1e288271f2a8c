"""Write the ONNX graphs of a model folder, with the weights left where they are.

The initialisers of a graph are fp16 tensors that point into the folder's safetensors files (ONNX external data:
file, offset, length), each followed by a Cast to fp32: whatever backend runs the model, its weights exist once.
Nothing of this machine stays in a graph: the exporter's stack traces and names are removed.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.gradient import gradient_module
from toolkit.example import Error
from toolkit.folder import image_shape, read_meta, spec_of
from toolkit.networks.folder import load_part

__all__ = ["OPSET", "export"]

OPSET = 20
"""Runs in ONNX Runtime and builds in TensorRT in fp32; from opset 23 on TensorRT parses but does not build."""

GIVEN = "given."
"""Before the names of inputs and outputs while a graph is traced."""

SMALL = 64
"""Constants of fewer elements stay in the graph: they are shapes, epsilons and the like."""


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies in a safetensors file."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class _Graph:
    """A graph to be traced: module(*inputs) -> outputs, with the part whose file holds its weights.

    optimize: by the exporter, which would also multiply a batch norm into the convolution before it: weights that the
    file does not have. Left to the runtime, which does the same when it opens the graph.
    """

    module: nn.Module
    part: str
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    optimize: bool = True


def export(root: Path) -> list[Path]:
    """Write the graph or graphs of every part into the folder; returns them.

    denoiser.onnx; of a classifier classifier.onnx and gradient.onnx; of a codec encoder.onnx and decoder.onnx;
    features.onnx; detector.onnx; of a text encoder text.onnx and look.onnx.
    """
    meta = read_meta(root)
    written = []
    for name, graph in _graphs(root, meta):
        model = _trace(graph)
        _clean(model)
        _point_into(model, root / f"{graph.part}.safetensors")
        _save(model, root / f"{name}.onnx")
        written.append(root / f"{name}.onnx")
    return written


def _graphs(root: Path, meta: Mapping[str, Any]) -> Iterable[tuple[str, _Graph]]:
    spec = spec_of(meta)
    # Three rows, and every axis but the batch fixed; 1 and 2 would invite the exporter to specialise.
    x, sigma = torch.randn(3, *spec.shape), torch.tensor([0.5, 1.0, 2.0])
    noisy = {"x": x, "sigma": sigma}
    if "denoiser" in meta["parts"]:
        fields = {n: torch.zeros(3, *f.shape, dtype=getattr(torch, f.dtype)) for n, f in spec.fields.items()}
        denoiser = _Positional(load_part(root, "denoiser"), list(spec.fields))
        yield "denoiser", _Graph(denoiser, "denoiser", noisy | fields, ("denoised",))
    if "classifier" in meta["parts"]:
        classifier, classes = load_part(root, "classifier"), meta["parts"]["classifier"]["classes"]
        yield "classifier", _Graph(classifier, "classifier", noisy, ("log_probability",))
        target = {"target": torch.full((3, classes), 1.0 / classes)}
        gradient = gradient_module(classifier, spec.shape, classes)
        yield "gradient", _Graph(gradient, "classifier", noisy | target, ("gradient",))
    image = {"image": torch.randn(3, *image_shape(meta))}
    if "codec" in meta["parts"]:
        codec: Any = load_part(root, "codec")
        yield "encoder", _Graph(_Method(codec, codec.encode), "codec", image, ("latent",))
        yield "decoder", _Graph(_Method(codec, codec.decode), "codec", {"latent": x}, ("image",))
    for part in ("features", "detector"):
        if part in meta["parts"]:
            network = load_part(root, part)
            names = tuple(network(image["image"]))
            yield part, _Graph(_Values(network), part, image, names, optimize=False)
    if "text" in meta["parts"]:
        text: Any = load_part(root, "text")
        plan = meta["parts"]["text"]
        ids = {"ids": torch.arange(3 * plan["tokens"]).reshape(3, -1) % plan["words"]}
        yield "text", _Graph(text, "text", ids, ("hidden", "embedding")[: len(text(ids["ids"]))])
        if text.looks is not None:
            described = {"features": torch.randn(3, plan["features"])}
            yield "look", _Graph(_Method(text, text.look), "text", described, ("embedding",))


class _Method(nn.Module):
    """One method of a module as a module."""

    def __init__(self, module: nn.Module, method: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, value: Tensor) -> Tensor:
        return self.method(value)


class _Values(nn.Module):
    """A module that answers arrays by name as one that answers them in order."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(value).values())


class _Positional(nn.Module):
    """A denoiser with its condition fields as positional arguments, in the order of the Spec."""

    def __init__(self, module: nn.Module, fields: list[str]) -> None:
        super().__init__()
        self.module, self.fields = module, fields

    def forward(self, x: Tensor, sigma: Tensor, *values: Tensor) -> Tensor:
        return self.module(x, sigma, **dict(zip(self.fields, values, strict=True)))


def _trace(graph: _Graph) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1, max=4096)
    fixed = 2 if isinstance(graph.module, _Positional) else len(graph.inputs)
    shapes = tuple({0: batch} for _ in list(graph.inputs)[:fixed])
    shapes += (tuple({0: batch} for _ in list(graph.inputs)[fixed:]),) if isinstance(graph.module, _Positional) else ()
    # The exporter warns of its own future and of a torchvision that nothing here needs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.module.eval(), tuple(graph.inputs.values()), dynamo=True, external_data=False, opset_version=OPSET,
            input_names=[GIVEN + name for name in graph.inputs], output_names=[GIVEN + name for name in graph.outputs],
            dynamic_shapes=shapes, verbose=False, optimize=graph.optimize,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    _name_ends(model)
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.shape.dim[0].dim_param == "":
            raise Error(f"An exported graph has a dynamic batch; '{value.name}' came out fixed. Report this as a bug.")
    return model


def _name_ends(model: onnx.ModelProto) -> None:
    """Give inputs and outputs their names; what the exporter itself called so, as it calls a reshape "view", makes way."""
    ends = [*model.graph.input, *model.graph.output]
    names = {value.name: value.name.removeprefix(GIVEN) for value in ends}
    taken = {name: f"{name}.inner" for node in model.graph.node for name in node.output if name in names.values()}
    new = names | taken
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in ends:
        value.name = names[value.name]


def _clean(model: onnx.ModelProto) -> None:
    """Remove stack traces and local paths, which are the larger part of a fresh file."""
    del model.metadata_props[:]
    model.doc_string, model.producer_name, model.producer_version = "", "diffgraft", ""
    for item in [model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info]:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.graph.value_info[:]
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"


def _point_into(model: onnx.ModelProto, path: Path) -> None:
    """Replace every weight of the graph by a reference to the same numbers, in fp16, in the safetensors file.

    A weight is recognised by its bytes: tracing renames, reshapes a norm's and may transpose a linear layer's.
    """
    index = _safetensors(path)
    kept: list[TensorProto] = []
    nodes = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < SMALL:
            kept.append(tensor)
            continue
        half = array.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), array):
            kept.append(tensor)
            continue
        found, turned = index.get(_key(half)), False
        if found is None and array.ndim == 2:
            found, turned = index.get(_key(half.T)), True
        source = TensorProto(name=f"{tensor.name}.half", data_type=TensorProto.FLOAT16)
        source.dims.extend(half.T.shape if turned and found else half.shape)
        if found is None:
            source.raw_data = half.tobytes()
        else:
            source.data_location = TensorProto.EXTERNAL
            for key, value in (("location", found.file), ("offset", found.offset), ("length", found.length)):
                source.external_data.add(key=key, value=str(value))
        kept.append(source)
        cast = f"{tensor.name}.turned" if turned and found else tensor.name
        nodes.append(helper.make_node("Cast", [source.name], [cast], name=f"Cast.{tensor.name}", to=TensorProto.FLOAT))
        if turned and found:
            nodes.append(helper.make_node("Transpose", [cast], [tensor.name], name=f"Turn.{tensor.name}", perm=[1, 0]))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    others = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes + others)


def _safetensors(path: Path) -> Mapping[bytes, _Stored]:
    """Bytes of each fp16 tensor of the file -> where it lies."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    index = {}
    for entry in header.values():
        low, high = entry["data_offsets"]
        where = _Stored(path.name, 8 + size + low, high - low)
        index[data[where.offset : where.offset + where.length]] = where
    return index


def _key(half: np.ndarray) -> bytes:
    return np.ascontiguousarray(half).tobytes()


def _save(model: onnx.ModelProto, path: Path) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(partial))
    os.replace(partial, path)


def embedded(model: onnx.ModelProto) -> Iterable[int]:
    """Bytes of every initialiser that is stored in the graph itself."""
    return (len(t.raw_data) for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL)
