"""The calls that need an NVIDIA GPU: TensorRT engines between pinned buffers, CUDA-graph replay, ONNX Runtime on CUDA.

NOT YET RUN ON HARDWARE. It was written against the APIs of TensorRT(-RTX), cuda-python (cuda.core) and onnxruntime, and
is type-checked against the first two (tests/test_tensorrt_types.py); benchmarks/gpu.sh runs it and says which of
`trt.LABELS` it clears. Everything that can be run without a GPU stands elsewhere: export/engines/engine.py, runtime/trt.py.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.example import Error

if TYPE_CHECKING:  # tensorrt has the same classes; the RTX wheel is the one that can be checked without a GPU
    from cuda.core._device import Device
    from cuda.core._memory._buffer import Buffer
    from cuda.core._stream import Stream
    from cuda.core.graph import Graph, GraphBuilder
    from tensorrt_rtx_bindings.tensorrt_rtx import Dims, ICudaEngine, IExecutionContext, Runtime

__all__ = ["Engine", "cuda_run"]

ALIGNED = 256
"""Bytes that a tensor's address has to be a multiple of (IExecutionContext::setTensorAddress)."""

PLANS = 8
"""Sets of shapes that an engine keeps buffers for."""


class Engine:
    """A deserialised engine: arrays by input name -> arrays by output name. One plan of buffers for each set of shapes.

    content: an engine whose seal was checked (export.engines.signing); it is native code. dynamic: inputs with a batch axis.
    """

    def __init__(self, trt: Any, content: bytes) -> None:
        self.device: Device = importlib.import_module("cuda.core").Device(0)
        self.device.set_current()
        self.stream: Stream = self.device.create_stream()
        self.runtime: Runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine: ICudaEngine | None = self.runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise Error("An engine is for the GPU, driver and TensorRT that are here; TensorRT refuses this one.")
        self.engine = engine
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        self.types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self.dynamic = frozenset(name for name in self.inputs if -1 in _axes(engine.get_tensor_shape(name)))
        self.plans: dict[Any, _Plan] = {}

    def __call__(self, feed: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
        return self.loop(feed, 1, {}, {})

    def loop(
        self, feed: Mapping[str, np.ndarray], steps: int, carry: Mapping[str, str], each: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The engine `steps` times, with nothing between two calls; answers the outputs of the last.

        carry: input -> the output that it is given in the next step (its first value is in feed). each: input -> one
        value a step, (steps, ...). All calls are one CUDA graph and the states lie in two buffers that take turns.
        """
        self.device.set_current()
        shapes = {name: (each[name].shape[1:] if name in each else feed[name].shape) for name in self.inputs}
        key = (steps, tuple(sorted(carry.items())), tuple(sorted(each)), tuple(sorted(shapes.items())))
        if key not in self.plans:
            while len(self.plans) >= PLANS:
                self.plans.pop(next(iter(self.plans))).close()
            self.plans[key] = _Plan(self, shapes, steps, dict(carry), frozenset(each))
        return self.plans[key].run({**feed, **each})


class _Plan:
    """Buffers for one set of shapes, a context of its own, and what is enqueued between them, captured once."""

    def __init__(
        self,
        owner: Engine,
        shapes: Mapping[str, tuple[int, ...]],
        steps: int,
        carry: dict[str, str],
        each: frozenset[str],
    ) -> None:
        self.owner, self.steps, self.carry, self.each = owner, steps, carry, each
        self.context: IExecutionContext = owner.engine.create_execution_context()
        for name, shape in shapes.items():
            if not self.context.set_input_shape(name, tuple(shape)):
                raise Error(f"An engine takes the shapes that it was built for; {name} has {tuple(shape)}.")
        self.shapes = {name: _axes(self.context.get_tensor_shape(name)) for name in (*owner.inputs, *owner.outputs)}
        self.bytes = {name: math.prod(shape) * owner.types[name].itemsize for name, shape in self.shapes.items()}
        self.stride = {name: -(-size // ALIGNED) * ALIGNED for name, size in self.bytes.items()}
        pinned = importlib.import_module("cuda.core").LegacyPinnedMemoryResource()
        self.host: dict[str, Buffer] = {}
        self.device: dict[str, Buffer] = {}
        for name, stride in self.stride.items():
            size = stride * (steps if name in each else 1)
            self.host[name] = pinned.allocate(size, stream=owner.stream)
            self.device[name] = owner.device.allocate(size, stream=owner.stream)
        self.graph: Graph | None = None
        self.warm = False

    def run(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        stream = self.owner.stream
        for name in self.owner.inputs:
            self._write(name, values[name])
        if self.graph is not None:
            self.graph.launch(stream)
        else:
            self._enqueue(stream, int(stream.handle))
        stream.sync()
        answer = {name: self._view(name)[0, : self.bytes[name]].copy() for name in self.owner.outputs}
        if not self.warm:  # the first run loads and, with RTX, compiles kernels, which must not happen while capturing
            self.warm, self.graph = True, self._captured()
        return {name: raw.view(self.owner.types[name]).reshape(self.shapes[name]) for name, raw in answer.items()}

    def close(self) -> None:
        self.owner.stream.sync()
        if self.graph is not None:
            self.graph.close()
        for buffer in (*self.host.values(), *self.device.values()):
            buffer.close()

    def _captured(self) -> Graph | None:
        stream = self.owner.stream
        capturable = getattr(self.context, "is_stream_capturable", None)  # TensorRT-RTX alone has it
        if capturable is not None and not capturable(int(stream.handle)):
            return None
        builder = stream.create_graph_builder()
        builder.begin_building()
        try:
            self._enqueue(builder, int(builder.stream.handle))
        finally:
            builder.end_building()
        return builder.complete()

    def _enqueue(self, stream: Stream | GraphBuilder, handle: int) -> None:
        """Copy in, call the engine `steps` times, copy out. A state and its output swap buffers at each step."""
        for name in self.owner.inputs:
            self.device[name].copy_from(self.host[name], stream=stream)
        place = {name: int(buffer.handle) for name, buffer in self.device.items()}
        for step in range(self.steps):
            for name in (*self.owner.inputs, *self.owner.outputs):
                self.context.set_tensor_address(
                    name, place[name] + (step * self.stride[name] if name in self.each else 0)
                )
            if not self.context.execute_async_v3(handle):
                raise Error("TensorRT did not run an engine. Build it again: remove the cache of engines.")
            if step + 1 < self.steps:
                for state, output in self.carry.items():
                    place[state], place[output] = place[output], place[state]
        swapped = {int(buffer.handle): buffer for buffer in self.device.values()}
        for name in self.owner.outputs:
            swapped[place[name]].copy_to(self.host[name], stream=stream)

    def _view(self, name: str) -> np.ndarray:
        """The pinned buffer as bytes, (steps or 1, stride)."""
        raw = (ctypes.c_uint8 * self.host[name].size).from_address(int(self.host[name].handle))
        return np.ctypeslib.as_array(raw).reshape(-1, self.stride[name])

    def _write(self, name: str, value: np.ndarray) -> None:
        for line, row in zip(self._view(name), value if name in self.each else [value], strict=True):
            line[: self.bytes[name]] = np.ascontiguousarray(row, self.owner.types[name]).reshape(-1).view(np.uint8)


def _axes(shape: Dims) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in range(len(shape)))


def cuda_run(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """A graph in ONNX Runtime on CUDA, its inputs and outputs bound to GPU buffers. Errors: it is not on CUDA after all."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()  # CUDA and cuDNN from their wheels
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=[("CUDAExecutionProvider", {"use_tf32": "0"})])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise Error(f"ONNX Runtime was asked for CUDA and runs on {', '.join(session.get_providers())}.")
    names = [output.name for output in session.get_outputs()]

    def run(feed: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
        binding = session.io_binding()
        for name, value in feed.items():
            held = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), "cuda", 0)
            binding.bind_ortvalue_input(name, held)
        for name in names:
            binding.bind_output(name, "cuda", 0)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    return run
