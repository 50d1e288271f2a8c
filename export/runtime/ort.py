"""ONNX Runtime on the CPU: a model folder as a Model over numpy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.runtime import common
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.models.folder import read_meta

__all__ = ["open"]


def open(root: str | os.PathLike[str], threads: int = 0, precision: str = "fp32") -> Model:
    """Open the exported graphs of a model folder. threads: of one operator; 0 takes all cores.

    precision: fp32 is <graph>.onnx, any other <graph>.<precision>.onnx. Raises Error when onnxruntime or a graph is missing, and for
    bf16, in which it computes nothing on a CPU.
    """
    if precision == "bf16":
        raise Error(
            "ONNX Runtime's CPU has no convolutions in bf16. Run these graphs with OpenVINO or TensorRT: --backend "
            "openvino:bf16; or take --backend onnx:fp16"
        )
    try:
        import onnxruntime
    except ImportError as problem:
        raise Error(
            "The onnx backend needs onnxruntime, which is not installed: pip install 'diffgraft[edge]'"
        ) from problem
    root = Path(root)
    meta = read_meta(root)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Denoiser and classifier take turns: a spinning pool of the one would starve the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3

    def session(path: Path) -> common.Run:
        # By path, not by bytes: the weights are external and lie beside the graph.
        return _run(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))

    def run(name: str) -> common.Run:
        return common.open_lazily(common.onnx_file(root, name, "onnx", precision), "onnx", session)

    backend = "onnx:cpu" if precision == "fp32" else f"onnx:{precision}"
    return common.assemble(root, meta, run, backend)


def _run(session: Any) -> common.Run:
    names = [output.name for output in session.get_outputs()]

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, dict(feed)), strict=True))

    return run
