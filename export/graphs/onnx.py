"""Write the ONNX graphs of a model folder, with the weights left where they are.

The initialisers of a graph are fp16 tensors that point into the folder's safetensors files (ONNX external data:
file, offset, length), each followed by a Cast to fp32: whatever backend runs the model, its weights exist once.
Nothing of this machine stays in a graph: the exporter's stack traces and names are removed.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export.graphs.changes import Made, layers_of, merge_changes, restore_factors
from export.graphs.external import point_into
from export.graphs.folding import fold, widen_deconvolutions
from export.graphs.gradient import gradient_module
from export.graphs.half import DTYPES, to_half
from export.graphs.integer import quantize_dynamic
from export.runtime.common import onnx_name
from toolkit.example import Error
from toolkit.models.folder import image_shape, read_meta, spec_of
from toolkit.networks.folder import CHANGES, load_part

__all__ = ["OPSET", "export", "opset_of"]

OPSET = 20
"""Runs in ONNX Runtime and builds in TensorRT in fp32; from opset 23 on TensorRT parses but does not build."""

OPSET_BF16 = 22
"""The first in which convolutions and norms take bf16, and the last that builds."""

GIVEN = "given."
"""Before the names of inputs and outputs while a graph is traced."""


@dataclass(frozen=True)
class _Graph:
    """A graph to be traced: module(*inputs) -> outputs, with the part whose file holds its weights.

    optimize: by the exporter, which would also multiply a batch norm into the convolution before it: weights that the
    file does not have. Left to the runtime, which does the same when it opens the graph. made: what its weights are made
    of, of a part that is kept as changes of another.
    """

    module: nn.Module
    part: str
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    optimize: bool = True
    made: Made = dataclasses.field(default_factory=dict)


def opset_of(precision: str) -> int:
    """The version of the operators that graphs of a precision are written in."""
    return OPSET_BF16 if precision == "bf16" else OPSET


def export(root: Path, precision: str = "fp32", into: Path | None = None) -> list[Path]:
    """Write the graph or graphs of every part into the folder, or into another; returns them.

    denoiser.onnx; of a classifier classifier.onnx and gradient.onnx; of a codec encoder.onnx and decoder.onnx;
    features.onnx; detector.onnx; of a text encoder text.onnx and look.onnx. In fp16 or bf16 they are called
    denoiser.fp16.onnx and so on, but there are none of what judges, and of the gradient none in bf16; of int8 there is
    denoiser.int8.onnx alone, the product of matrices in integers. What there is not is that of fp32.
    """
    meta = read_meta(root)
    written = []
    for name, graph in _graphs(root, meta, precision):
        file = onnx_name(name, precision)
        if precision != "fp32" and file == onnx_name(name):
            continue
        if precision in DTYPES and len(graph.inputs) == 1:
            graph = dataclasses.replace(graph, module=_Wide(graph.module))
        model = _trace(graph, opset_of(precision))
        _clean(model)
        if precision == "int8":
            model = quantize_dynamic(model)
            _clean(model)
        fold(model)
        if precision == "bf16":
            widen_deconvolutions(model)
        restore_factors(model, graph.made)
        point_into(model, [root / f"{part}.safetensors" for part in (graph.part, CHANGES.get(graph.part)) if part])
        _save(model, (into or root) / file, root)
        written.append((into or root) / file)
    return written


def _graphs(root: Path, meta: Mapping[str, Any], precision: str) -> Iterable[tuple[str, _Graph]]:
    spec = spec_of(meta)
    # Three rows, and every axis but the batch fixed; 1 and 2 would invite the exporter to specialise.
    x, sigma = torch.randn(3, *spec.shape), torch.tensor([0.5, 1.0, 2.0])
    noisy = {"x": x, "sigma": sigma}
    fields = {n: torch.zeros(3, *f.shape, dtype=getattr(torch, f.dtype)) for n, f in spec.fields.items()}
    for part in ("denoiser", "student"):
        if part in meta["parts"]:
            network = load_part(root, part)
            made = layers_of(network)
            denoiser = _Positional(to_half("denoiser", merge_changes(network), precision), list(spec.fields))
            yield part, _Graph(denoiser, part, noisy | fields, ("denoised",), made=made)
    if "classifier" in meta["parts"]:
        classifier, classes = load_part(root, "classifier"), meta["parts"]["classifier"]["classes"]
        yield "classifier", _Graph(classifier, "classifier", noisy, ("log_probability",))
        target = {"target": torch.full((3, classes), 1.0 / classes)}
        gradient = gradient_module(to_half("gradient", classifier, precision), spec.shape, classes)
        yield "gradient", _Graph(gradient, "classifier", noisy | target, ("gradient",))
    image = {"image": torch.randn(3, *image_shape(meta))}
    if "codec" in meta["parts"]:
        codec: Any = to_half("codec", load_part(root, "codec"), precision)
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


class _Wide(nn.Module):
    """A module whose answers are fp32 whatever it computes in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, value: Tensor) -> Tensor | tuple[Tensor, ...]:
        answer = self.module(value)
        return answer.float() if isinstance(answer, Tensor) else tuple(each.float() for each in answer)


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


def _trace(graph: _Graph, opset: int) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1, max=4096)
    fixed = 2 if isinstance(graph.module, _Positional) else len(graph.inputs)
    shapes = tuple({0: batch} for _ in list(graph.inputs)[:fixed])
    shapes += (tuple({0: batch} for _ in list(graph.inputs)[fixed:]),) if isinstance(graph.module, _Positional) else ()
    # The exporter warns of its own future and of a torchvision that nothing here needs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.module.eval(), tuple(graph.inputs.values()), dynamo=True, external_data=False, opset_version=opset,
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


def _save(model: onnx.ModelProto, path: Path, weights: Path) -> None:
    """Checked beside the weights that it points to, then moved to where it belongs."""
    partial = weights / f".{path.name}"
    partial.write_bytes(model.SerializeToString())
    try:
        onnx.checker.check_model(str(partial))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
