"""From an ONNX graph to a TensorRT engine: one path for `tensorrt` 10.x and 11.x and for `tensorrt_rtx`.

Networks are strongly typed, so precision is what the graph says. An engine belongs to one GPU, driver, TensorRT, model
and range of shapes; together they are its fingerprint, under which it is kept in the user's cache, sealed
(export/engines/signing.py). TensorRT-RTX builds without a GPU, for a compute capability that is named. Neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.engines import signing
from export.engines.progress import Watch, monitor
from toolkit.example import Error, Note

__all__ = ["LIBRARIES", "Batch", "Built", "Gpu", "Library", "build", "engine", "fingerprint", "gpu", "library"]

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""Modules with this API, in the order they are looked for."""

DEFAULT = "8.9"
"""Compute capability that is built for where there is no GPU: Ada (RTX 40, L4, L40)."""

KEPT = 8 << 30
"""Bytes of engines that the cache holds at most; those used longest ago go first."""


@dataclass(frozen=True)
class Library:
    """A module with TensorRT's Python API. rtx: builds without a GPU, and compiles for the GPU when it first runs."""

    name: str
    version: str
    module: Any
    rtx: bool


@dataclass(frozen=True)
class Gpu:
    """What an engine is built for. capability: "8.9"; driver: of CUDA, "" where the device is not here."""

    name: str
    capability: str
    driver: str = ""


@dataclass(frozen=True)
class Batch:
    """Batch sizes of an engine's optimisation profile; every dynamic axis of a graph is its batch."""

    least: int = 1
    usual: int = 4
    most: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.usual <= self.most:
            raise Error(f"Batch sizes are 1 <= least <= usual <= most; found {self.least}, {self.usual}, {self.most}.")

    def shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """(min, opt, max) of an input; -1 marks a dynamic axis."""
        sizes = (self.least, self.usual, self.most)
        return tuple(tuple(size if axis < 0 else axis for axis in shape) for size in sizes)


@dataclass(frozen=True)
class Built:
    """A serialised engine. inputs: name -> (min, opt, max) shapes, all three alike where nothing is dynamic."""

    content: bytes
    seconds: float
    layers: int
    inputs: Mapping[str, tuple[tuple[int, ...], ...]]


def library(names: tuple[str, ...] = LIBRARIES) -> Library:
    """The first of the modules that is installed and loads. Errors: none is or does; it says why of each."""
    reasons = []
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as problem:  # a missing module, or one whose own libraries do not load
            reasons.append(f"{name}: {' '.join(str(problem).split())[:120]}")
            continue
        rtx = hasattr(module, "ComputeCapability")
        return Library(name, str(module.__version__), module, rtx)
    raise Error(
        f"The tensorrt backend needs {' or '.join(names)}, and neither loads ({'; '.join(reasons)}). "
        "Install one: pip install 'diffgraft[tensorrt]' or, for RTX cards, pip install 'diffgraft[rtx]'"
    )


def gpu() -> Gpu:
    """The first NVIDIA GPU of this machine. Errors: no cuda-python, no driver or no device."""
    try:
        cuda: Any = importlib.import_module("cuda.core")
    except ImportError as problem:
        raise Error(
            "A GPU is reached by cuda-python, which is not installed: pip install 'diffgraft[tensorrt]'"
        ) from problem
    try:
        devices = cuda.Device.get_all_devices()
        driver = ".".join(str(number) for number in cuda.system.get_user_mode_driver_version())
    except Exception as problem:  # the driver's errors share no class
        words = " ".join(str(problem).split()).partition(". ")[0]
        raise Error(
            f"A GPU needs NVIDIA's driver, which does not answer ({words}). Install it and restart."
        ) from problem
    if not devices:
        raise Error("The tensorrt backend needs an NVIDIA GPU; the driver sees none.")
    return Gpu(devices[0].name, ".".join(str(number) for number in devices[0].compute_capability), driver)


def fingerprint(path: Path, weights: str, lib: Library, target: Gpu, batch: Batch, precision: str) -> dict[str, Any]:
    """All that an engine depends on. weights: fingerprint of the model folder that the graph's initialisers lie in."""
    model = hashlib.sha256(path.read_bytes() + weights.encode()).hexdigest()
    return {
        "graph": path.name, "model": model, "precision": precision, "shapes": asdict(batch), "gpu": asdict(target),
        "library": f"{lib.name} {lib.version}",
    }  # fmt: skip


def engine(
    path: Path, weights: str, lib: Library, target: Gpu, batch: Batch, precision: str, watch: Watch | None = None,
    folder: Path | None = None,
) -> bytes:  # fmt: skip
    """The engine of a graph: from the user's cache, else built and kept there. folder: of the cache, the user's own."""
    folder = signing.cache_folder() if folder is None else folder
    made_for = fingerprint(path, weights, lib, target, batch, precision)
    place = folder / f"{path.stem}-{digest(made_for)[:32]}.engine"
    if place.is_file():
        try:
            content = signing.unseal(place, made_for)
            os.utime(place)
            return content
        except Error as problem:
            warnings.warn(f"{problem} The engine is built anew.", Note, stacklevel=2)
    timing = folder / f"timing-{digest({k: made_for[k] for k in ('gpu', 'library')})[:32]}.cache"
    built = build(path, lib, target, batch, watch, timing)
    signing.seal(place, made_for, built.content)
    _prune(folder)
    return built.content


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of a fingerprint: a name for a file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def build(
    path: Path, lib: Library, target: Gpu, batch: Batch | None = None, watch: Watch | None = None, timing: Path | None = None
) -> Built:  # fmt: skip
    """Build the engine of a graph that lies beside its weights.

    timing: sealed file with the times of kernels that were measured before; read and written where the library has such
    a cache (TensorRT-RTX has none). Errors: a graph that does not parse or build, in TensorRT's own words.
    """
    trt, batch, started = lib.module, batch or Batch(), time.perf_counter()
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(path))  # by path: the weights are external and lie beside the graph
    if not parsed or not network.num_outputs:
        faults = [parser.get_error(number) for number in range(parser.num_errors)]
        raise _failure(
            path,
            lib,
            "parse",
            [f"{fault.node_operator()}: {fault.desc()}" for fault in faults] or log.lines or ["it is no ONNX graph"],
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32: TF32 has 10 bits of mantissa and fails the parity check
    _for_device(config, lib, target)
    profile, inputs = builder.create_optimization_profile(), {}
    for tensor in (network.get_input(number) for number in range(network.num_inputs)):
        inputs[tensor.name] = batch.shapes(tuple(tensor.shape))
        if -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *inputs[tensor.name])
    config.add_optimization_profile(profile)
    with _timed(config, lib, timing):
        progress = monitor(trt, f"engine {path.stem}", watch)
        config.progress_monitor = progress
        serialised = builder.build_serialized_network(network, config)
    if progress.stopped is not None:
        raise progress.stopped
    if serialised is None:
        raise _failure(path, lib, "build", log.lines)
    return Built(bytes(serialised), time.perf_counter() - started, network.num_layers, inputs)


def _for_device(config: Any, lib: Library, target: Gpu) -> None:
    """Say what is built for. TensorRT builds for the device that is present; RTX for any that it knows."""
    if not lib.rtx:
        if not target.driver:
            raise Error(
                f"{lib.name} builds on the GPU that it builds for, and there is none here. Build on the device, or without "
                "one with TensorRT-RTX: pip install 'diffgraft[rtx]'"
            )
        return
    known = lib.module.ComputeCapability.__members__
    name = "SM" + target.capability.replace(".", "")
    if name not in known:
        have = ", ".join(each for each in known if each.startswith("SM"))
        raise Error(
            f"{lib.name} {lib.version} builds for {have}; {target.name} is {name}. "
            "Take TensorRT itself: pip install 'diffgraft[tensorrt]'"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[name], 0)


class _timed:
    """While an engine is built: the library's timing cache, sealed like an engine."""

    def __init__(self, config: Any, lib: Library, path: Path | None) -> None:
        self.config, self.path = config, None if lib.rtx else path

    def __enter__(self) -> None:
        if self.path is None:
            return
        known = b""
        if self.path.is_file():
            try:
                known = signing.unseal(self.path, {"timing": self.path.name})
            except Error as problem:
                warnings.warn(f"{problem} Kernels are measured anew.", Note, stacklevel=2)
        self.cache = self.config.create_timing_cache(known)
        self.config.set_timing_cache(self.cache, False)

    def __exit__(self, failed: Any, *_: Any) -> None:
        found = None if self.path is None or failed else self.config.get_timing_cache()
        if self.path is not None and found is not None:
            signing.seal(self.path, {"timing": self.path.name}, bytes(found.serialize()))


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):
        """Keeps the words of errors, so that they end up in one line and not on the terminal."""

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.lines.append(msg)

    return Log()


def _failure(path: Path, lib: Library, verb: str, lines: list[str]) -> Error:
    words = " ".join("; ".join(lines).split())[:400] or "no reason given"
    return Error(
        f"A graph must {verb} in {lib.name} {lib.version}; {path} does not: {words}. "
        f"Write it again: diffgraft export {path.parent} --to tensorrt"
    )


def _prune(folder: Path) -> None:
    """Remove the engines used longest ago until the rest fit."""
    room = KEPT
    for path in sorted(folder.glob("*.engine"), key=lambda path: path.stat().st_mtime, reverse=True):
        room -= path.stat().st_size
        if room < 0:
            path.unlink(missing_ok=True)
