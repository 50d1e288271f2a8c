"""One graph of any kind as a function of named arrays, whose arrays may also be bound once for many calls.

What the fused graphs need beyond `common.Run`: a loop that goes to and fro between two sets of buffers, a batch axis that
is not the first, and outputs told by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from toolkit.example import Error

__all__ = ["ENGINES", "Engine", "connect"]


class Engine(Protocol):
    """One opened graph. bind: named arrays for inputs and outputs -> a call that reads the ones and writes the others."""

    def __call__(self, feed: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]: ...

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], object]: ...


def connect(backend: str, threads: int = 0, precision: str = "fp32") -> Callable[[Path], Engine]:
    """What opens a graph. threads: of one operator; 0 takes all cores. Errors: a runtime that is missing."""
    if backend not in ENGINES:
        raise Error(f"A fused graph is run by {' or '.join(ENGINES)}; found '{backend}'.")
    return ENGINES[backend](threads, precision)


def _onnx(threads: int, _precision: str) -> Callable[[Path], Engine]:
    try:
        import onnxruntime
    except ImportError as problem:
        raise Error(
            "The onnx backend needs onnxruntime, which is not installed: pip install 'diffgraft[edge]'"
        ) from problem
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # The plan of which arrays share memory takes time with the square of a graph's length, 3 s for 8 steps, and gains
    # nothing: peak memory and speed of a run are the same without it.
    options.enable_mem_reuse = False

    class Session:
        def __init__(self, path: Path) -> None:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.names = [output.name for output in self.session.get_outputs()]

        def __call__(self, feed: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
            answers: Any = self.session.run(None, dict(feed))
            return dict(zip(self.names, answers, strict=True))

        def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
            binding = self.session.io_binding()
            taken = {value.name for value in self.session.get_inputs()}
            for name, array in inputs.items():
                if name in taken:
                    binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            return lambda: self.session.run_with_iobinding(binding)

    return Session


def _openvino(threads: int, precision: str) -> Callable[[Path], Engine]:
    try:
        import openvino as library
    except ImportError as problem:
        raise Error(
            "The openvino backend needs openvino, which is not installed: pip install 'diffgraft[openvino]'"
        ) from problem
    from export.runtime import openvino as ours
    from export.runtime import openvino_graphs

    core = library.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False, "LOG_LEVEL": "LOG_NONE"}
    settings |= {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}

    class Compiled:
        """Compiled anew for each of the first batch sizes, as the parts are."""

        def __init__(self, path: Path) -> None:
            self.path = path
            self.compiled: dict[int, Any] = {}

        def __call__(self, feed: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
            compiled = self.of(feed)
            found: Any = compiled.create_infer_request().infer({k: np.ascontiguousarray(v) for k, v in feed.items()})
            # An output has the names of all that it equals, as where an Identity ends the graph.
            return {name: np.array(found[output]) for output in compiled.outputs for name in output.get_names()}

        def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
            compiled = self.of(inputs)
            request = compiled.create_infer_request()
            for name, array in {**inputs, **outputs}.items():
                if name in outputs or any(name in value.get_names() for value in compiled.inputs):
                    request.set_tensor(name, library.Tensor(array, shared_memory=True))
            return request.infer

        def of(self, feed: Mapping[str, np.ndarray]) -> Any:
            rows = next(len(feed[name]) for name in ("x", "image", "noise", *feed) if name in feed)
            size = rows if rows in self.compiled or len(self.compiled) < ours.SHAPED else 0
            if size not in self.compiled:
                model = core.read_model(self.path)
                openvino_graphs.rewrite_deconvolutions(model)
                openvino_graphs.rewrite_group_norms(model, ours.PLACES if precision == "fp32" else ours.PLACES_REDUCED)
                if size:
                    shapes = {value.any_name: value.partial_shape for value in model.inputs}
                    model.reshape(
                        {name: [size if d.is_dynamic else d for d in shape] for name, shape in shapes.items()}
                    )
                self.compiled[size] = core.compile_model(model, "CPU", settings)
            return self.compiled[size]

    return Compiled


ENGINES: Mapping[str, Callable[[int, str], Callable[[Path], Engine]]] = {"onnx": _onnx, "openvino": _openvino}
"""Name -> (threads, precision) -> what opens a graph."""
