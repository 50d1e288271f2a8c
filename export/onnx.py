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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.gradient import gradient_module
from toolkit.example import Error
from toolkit.folder import read_meta, spec_of
from toolkit.networks.folder import load_part

__all__ = ["OPSET", "export"]

OPSET = 20
"""Runs in ONNX Runtime and builds in TensorRT in fp32; from opset 23 on TensorRT parses but does not build."""

SMALL = 64
"""Constants of fewer elements stay in the graph: they are shapes, epsilons and the like."""


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies in a safetensors file."""

    file: str
    offset: int
    length: int


def export(root: Path) -> list[Path]:
    """Write denoiser.onnx and, with a classifier, classifier.onnx and gradient.onnx into the folder; returns them."""
    meta = read_meta(root)
    spec = spec_of(meta)
    names = ["x", "sigma", *spec.fields]
    # Three rows, and every axis but the batch fixed; 1 and 2 would invite the exporter to specialise.
    x, sigma = torch.randn(3, *spec.shape), torch.tensor([0.5, 1.0, 2.0])
    fields = [torch.zeros(3, *f.shape, dtype=getattr(torch, f.dtype)) for f in spec.fields.values()]
    graphs = {
        "denoiser": (
            _Positional(load_part(root, "denoiser"), list(spec.fields)),
            [x, sigma, *fields],
            names,
            "denoised",
        )
    }
    if "classifier" in meta["parts"]:
        classifier = load_part(root, "classifier")
        classes = meta["parts"]["classifier"]["classes"]
        target = torch.full((3, classes), 1.0 / classes)
        gradient = gradient_module(classifier, spec.shape, classes)
        graphs["classifier"] = (classifier, [x, sigma], ["x", "sigma"], "log_probability")
        graphs["gradient"] = (gradient, [x, sigma, target], ["x", "sigma", "target"], "gradient")
    written = []
    for name, (module, inputs, input_names, output) in graphs.items():
        weights = "classifier" if name == "gradient" else name
        model = _trace(module, inputs, input_names, output)
        _clean(model)
        _point_into(model, root / f"{weights}.safetensors")
        _save(model, root / f"{name}.onnx")
        written.append(root / f"{name}.onnx")
    return written


class _Positional(nn.Module):
    """A denoiser with its condition fields as positional arguments, in the order of the Spec."""

    def __init__(self, module: nn.Module, fields: list[str]) -> None:
        super().__init__()
        self.module, self.fields = module, fields

    def forward(self, x: Tensor, sigma: Tensor, *values: Tensor) -> Tensor:
        return self.module(x, sigma, **dict(zip(self.fields, values, strict=True)))


def _trace(module: nn.Module, inputs: list[Tensor], names: list[str], output: str) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1, max=4096)
    fixed = 2 if isinstance(module, _Positional) else len(inputs)
    shapes = tuple({0: batch} for _ in inputs[:fixed])
    shapes += (tuple({0: batch} for _ in inputs[fixed:]),) if isinstance(module, _Positional) else ()
    # The exporter warns of its own future and of a torchvision that nothing here needs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(), tuple(inputs), dynamo=True, external_data=False, opset_version=OPSET, input_names=names,
            output_names=[output], dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.shape.dim[0].dim_param == "":
            raise Error(f"An exported graph has a dynamic batch; '{value.name}' came out fixed. Report this as a bug.")
    return model


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
