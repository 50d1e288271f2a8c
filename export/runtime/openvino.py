"""OpenVINO on the CPU: a model folder as a Model over numpy arrays, in fp32, bf16 or int8.

It reads the same ONNX files as ONNX Runtime, weights in the safetensors beside them. In bf16 and int8 only what is
sampled with runs reduced; what tells, measures or is compared with a threshold of the folder stays in fp32.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.runtime import common, openvino_graphs
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.models.folder import fingerprint, read_meta

__all__ = ["PRECISIONS", "open", "supports"]

PRECISIONS = ("fp32", "bf16", "int8")

EXACT = ("classifier", "gradient", "features", "detector", "text", "look")
"""Graphs in fp32 whatever is asked for: what is told, measured or compared with a threshold of the folder - and the
gradient, which passes through its network twice and is near the limit in bf16 (rmse 0.08 of its spread)."""

SHAPED = 4
"""Batch sizes that are compiled for, one by one, before the rest share a graph of any batch size.

For a fixed batch the plugin plans memory and layouts once: 1.2 to 1.35 times as fast, for 0.1 to 0.4 s of compiling.
"""

PLACES = 256
"""Places of a map, height times width, from which a group norm is rewritten: below, its many small operators cost more."""

PLACES_REDUCED = 1024
"""The same in bf16, where moving a map to the layout of the norm and back costs half as much."""


def open(root: str | os.PathLike[str], threads: int = 0, precision: str = "fp32") -> Model:
    """Open the exported graphs of a model folder. threads: of one operator; 0 takes all cores.

    Raises Error when openvino or a graph is missing, or when the CPU does not compute in bf16.
    """
    openvino = _library()
    if precision not in PRECISIONS:
        raise Error(f"The openvino backend computes in {', '.join(PRECISIONS)}; found '{precision}'.")
    root = Path(root)
    meta = read_meta(root)
    core = openvino.Core()
    able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not able:
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
        raise Error(
            f"bf16 needs a CPU that computes in it (AVX512-BF16 or AMX), which '{name}' does not. Take openvino."
        )
    settings = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False, "LOG_LEVEL": "LOG_NONE"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads

    def run(name: str) -> common.Run:
        reduced = precision != "fp32" and able and name not in EXACT
        chosen = settings | {"INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32"}
        path = _file(root, name, precision)
        return common.open_lazily(path, "openvino", lambda path: _Graph(core, path, chosen))

    return common.assemble(root, meta, run, f"openvino:{precision}")


def supports(precision: str) -> bool:
    """Whether OpenVINO is installed and this CPU computes in that precision."""
    try:
        core = _library().Core()
    except Error:
        return False
    return precision in ("fp32", "int8") or (
        precision == "bf16" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    )


def _library() -> Any:
    try:
        import openvino
    except ImportError as problem:
        raise Error(
            "The openvino backend needs openvino, which is not installed: pip install 'diffgraft[openvino]'"
        ) from problem
    return openvino


def _file(root: Path, name: str, precision: str) -> Path:
    path = root / f"{name}.int8.xml"
    if precision != "int8" or name not in common.INTEGER:
        return common.onnx_file(root, name, "openvino")
    common.check_graph_file(path, "openvino", precision)
    common.check_graph_file(path.with_suffix(".bin"), "openvino", precision)
    # The weights of such a graph are its own: changed weights of the folder would not reach it.
    if fingerprint(root) not in path.read_text(encoding="utf-8", errors="replace"):
        raise Error(
            f"A quantised graph must be of the folder's present weights; {path} is of others or is damaged. "
            f"Write it: diffgraft export {root} --to openvino --precision int8"
        )
    return path


class _Graph:
    """One graph, compiled for each of the first batch sizes it is asked for, and for any other once."""

    def __init__(self, core: Any, path: Path, settings: Mapping[str, Any]) -> None:
        self.core, self.settings = core, settings
        self.model = core.read_model(path)
        reduced = settings["INFERENCE_PRECISION_HINT"] != "f32"
        openvino_graphs.rewrite_deconvolutions(self.model)
        openvino_graphs.rewrite_group_norms(self.model, PLACES_REDUCED if reduced else PLACES)
        self.requests: dict[int, Any] = {}
        # One request computes one thing at a time, and its buffers are its own.
        self.lock = threading.Lock()

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(next(iter(feed.values())))
        with self.lock:
            size = rows if rows in self.requests or len(self.requests) < SHAPED else 0
            if size not in self.requests:
                self.requests[size] = self._compiled(size)
            request = self.requests[size]
            # Inputs are read where they lie, outputs are copied out: the next call writes over the request's own.
            found: Any = request.infer({k: np.ascontiguousarray(v) for k, v in feed.items()}, share_inputs=True)
            return {_name(output): np.asarray(found[output]) for output in request.model_outputs}

    def _compiled(self, rows: int) -> Any:
        model = self.model.clone()
        if rows:
            model.reshape({value.any_name: [rows, *list(value.partial_shape)[1:]] for value in model.inputs})
        return self.core.compile_model(model, "CPU", self.settings).create_infer_request()


def _name(output: Any) -> str:
    """Of an output in the graph; the tensor itself may go by another that an optimiser gave it."""
    return output.get_node().get_friendly_name().removesuffix("/sink_port_0")
