"""Which graphs an export consists of, what has to be exported before it, and how they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from diffgraft.deployment.fused_plan import plan_of
from diffgraft.requests import ExportRequest
from export.graphs import onnx
from export.runtime.common import onnx_file
from export.sampling.sampler import UNROLLED
from export.sampling.sampler import write as write_fused
from toolkit.example import Error
from toolkit.models.folder import read_meta
from toolkit.networks.folder import GRAPHS

__all__ = ["prerequisites", "write_graphs"]


def prerequisites(root: Path, request: ExportRequest) -> Iterator[ExportRequest]:
    """What is exported before it where it is not there: graphs in fp32, and those that a fused one is made of."""
    own = dataclasses.replace(request, target="onnx", fuse="none")
    plain = dataclasses.replace(own, precision="fp32")
    if request != plain and not _are_there(root, "fp32"):
        yield plain
    if request.fuse != "none" and own != plain and not _are_there(root, request.precision):
        yield own


def _are_there(root: Path, precision: str) -> bool:
    """Whether every graph of the model is there as ONNX in that precision."""
    parts = read_meta(root)["parts"]
    names = [Path(graph).stem for part in parts for graph in GRAPHS[part]]
    names = [name for name in names if name != "look" or parts["text"]["features"]]
    try:
        return all(onnx_file(root, name, "onnx", precision).is_file() for name in names)
    except Error:
        return False


def write_graphs(root: Path, request: ExportRequest) -> list[str]:
    """The files of an export, written where the folder lacks them; their names."""
    if request.fuse != "none":
        plan = plan_of(root)
        # Neither TensorRT nor OpenVINO, which tries what is in bf16, reads a loop.
        most = plan.steps if request.target == "tensorrt" or request.precision == "bf16" else UNROLLED
        return [path.name for path in write_fused(root, request.fuse, plan, request.precision, most)]
    if request.target != "openvino":
        return [path.name for path in onnx.export(root, request.precision)]
    # OpenVINO reads the graphs in ONNX; only those in int8 are its own.
    names = [graph for part in read_meta(root)["parts"] for graph in GRAPHS[part] if (root / graph).is_file()]
    if request.precision == "int8":
        from export.graphs.quantize import quantize

        names += [path.name for path in quantize(root)]
    return names
