"""What is installed here, what each runtime really can do, and what each model folder would be run with."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from toolkit.example import Error, Note

__all__ = ["lines"]

PARTS = {
    "onnxruntime": ("run models without torch", "edge"),
    "openvino": ("run models faster on CPUs", "openvino"),
    "tensorrt": ("run models on NVIDIA GPUs", "tensorrt"),
    "tensorrt_rtx": ("the same on RTX cards; builds without one", "rtx"),
    "cuda": ("buffers and CUDA graphs for both", "tensorrt"),
    "torch": ("train and export", "train"),
    "diffusers": ("the denoising network", "train"),
    "onnx": ("write ONNX graphs", "train"),
}
"""Import name -> what it is for, and the extra that installs it."""

PACKAGES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"), "cuda": ("cuda-python",)}
"""Import name -> names of packages that bring it, where they differ."""


def lines(models: Path) -> Iterator[str]:
    """What `diffgraft doctor` prints, line by line. models: folder of model folders."""
    yield f"diffgraft {metadata.version('diffgraft')}, Python {sys.version.split()[0]}, {os.cpu_count()} cores"
    for name, (purpose, extra) in PARTS.items():
        version = _version(name)
        yield _row(version is not None, name, purpose, version or f"missing: pip install 'diffgraft[{extra}]'")
    yield ""
    yield from _runtimes()
    folders = sorted(path.parent for path in models.glob("*/model.json"))
    for folder in folders:
        yield _model(folder)
    from export.runtime.trt import LABELS

    yield ""
    for name, what in LABELS.items():
        yield f"not yet run on hardware: {name:10} {what}"
    if LABELS:
        yield "an NVIDIA machine clears those: benchmarks/gpu.sh"
    yield f"next: {_next(folders)}"


def _version(name: str) -> str | None:
    """Version of what brings an import name; None where it is not installed."""
    if importlib.util.find_spec(name) is None:
        return None
    for package in PACKAGES.get(name, (name,)):
        try:
            return f"{package} {metadata.version(package)}" if name in PACKAGES else metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "version unknown"


def _row(there: bool, name: str, purpose: str, found: str) -> str:
    return f"{'yes' if there else 'no':4} {name:13} {purpose:42} {found}"


def _runtimes() -> Iterator[str]:
    """What the runtimes say of this machine, asked rather than assumed."""
    if _version("onnxruntime"):
        import onnxruntime

        names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
        yield f"onnxruntime was built for: {', '.join(names)}"
    if _version("openvino"):
        yield f"openvino: {_openvino()}"
    from export.engines import engine

    try:
        lib = engine.library()
    except Error as problem:
        yield f"tensorrt: {problem}"
    else:
        yield f"tensorrt: {lib.name} {lib.version}{', builds without a GPU' if lib.rtx else ''}"
    try:
        device = engine.gpu()
    except Error as problem:
        yield f"gpu: none. {problem}"
    else:
        yield f"gpu: {device.name}, compute capability {device.capability}, driver for CUDA {device.driver}"


def _openvino() -> str:
    import openvino

    try:
        core = openvino.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
    except Exception as problem:  # a plug-in that does not load has no class of its own
        return f"does not open: {' '.join(str(problem).split())[:120]}"
    others = [device for device in core.available_devices if device != "CPU"]
    bf16 = "computes in bf16" if "BF16" in able else "does not compute in bf16"
    return f"CPU {name}, {bf16}" + (f"; also {', '.join(others)}" if others else "")


def _model(folder: Path) -> str:
    """What `--backend auto` takes for a folder, and which exports passed the gate for its weights."""
    from diffgraft import models
    from export import record
    from toolkit.models.folder import fingerprint

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)  # what a backend is not there for stands above
            taken = models.open(folder).backend  # graphs themselves are opened at their first call
        kept = record.valid_exports(folder, fingerprint(folder))
    except Error as problem:
        return f"{folder}: {problem}"
    passed = [f"{row.target}:{row.precision}{'' if row.fuse == 'none' else ' ' + row.fuse}" for row in kept]
    verdict = (
        f"passed the gate: {', '.join(passed)}"
        if passed
        else f"nothing exported passed yet: diffgraft export {folder} --to onnx"
    )
    return f"{folder}: auto takes {taken}; {verdict}"


def _next(folders: list[Path]) -> str:
    if folders and _version("onnxruntime"):
        return "diffgraft demo"
    return "pip install 'diffgraft[edge]'" if folders else "diffgraft demo --models FOLDER, or diffgraft train --help"
