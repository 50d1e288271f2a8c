"""The weights of a graph as references to the numbers in a model folder's safetensors files (ONNX external data)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["SMALL", "embedded_bytes", "point_into"]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)

SMALL = 64
"""Constants of fewer elements stay in the graph: they are shapes, epsilons and the like."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a safetensors file."""

    file: str
    offset: int
    length: int


def point_into(model: onnx.ModelProto, paths: Sequence[Path]) -> None:
    """Replace every weight of the graph by a reference to the same numbers, in fp16, in a safetensors file.

    A weight is recognised by its bytes: tracing renames, reshapes a norm's and may transpose a linear layer's. One of a
    body in fp16 is used as it lies there, one in bf16 is the rounded value, made of it by a Cast.
    """
    kinds = {t.data_type for t in model.graph.initializer} & set(FLOATS)
    indices = {kind: {k: v for path in paths for k, v in stored_tensors(path, kind).items()} for kind in kinds}
    kept: list[TensorProto] = []
    nodes = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type not in FLOATS or array.size < SMALL:
            kept.append(tensor)
            continue
        half = array if tensor.data_type == TensorProto.BFLOAT16 else array.astype(np.float16)
        if tensor.data_type == TensorProto.FLOAT and not np.array_equal(half.astype(np.float32), array):
            kept.append(tensor)
            continue
        index = indices[tensor.data_type]
        found, turned = index.get(_key(half)), False
        if found is None and array.ndim == 2:
            found, turned = index.get(_key(half.T)), True
        if found is None and tensor.data_type != TensorProto.FLOAT:
            kept.append(tensor)
            continue
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
        if tensor.data_type == TensorProto.FLOAT16:
            # No Cast: the stored tensor takes the name that its user knows, or that of what is to be turned.
            source.name = cast
        else:
            nodes.append(
                helper.make_node("Cast", [source.name], [cast], name=f"Cast.{tensor.name}", to=tensor.data_type)
            )
        if turned and found:
            nodes.append(helper.make_node("Transpose", [cast], [tensor.name], name=f"Turn.{tensor.name}", perm=[1, 0]))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    others = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes + others)


def stored_tensors(path: Path, kind: int) -> Mapping[bytes, Stored]:
    """Bytes of each fp16 tensor of the file, as a graph with weights of this kind has them -> where it lies."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    index = {}
    for entry in header.values():
        low, high = entry["data_offsets"]
        where = Stored(path.name, 8 + size + low, high - low)
        own = data[where.offset : where.offset + where.length]
        if kind == TensorProto.BFLOAT16 and entry["dtype"] == "F16":
            own = np.frombuffer(own, np.float16).astype(np.float32).astype(BFLOAT16).tobytes()
        index[own] = where
    return index


def _key(half: np.ndarray) -> bytes:
    return np.ascontiguousarray(half).tobytes()


def embedded_bytes(model: onnx.ModelProto) -> Iterable[int]:
    """Bytes of every initialiser that is stored in the graph itself."""
    return (len(t.raw_data) for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL)
