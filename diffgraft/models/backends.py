"""Which runtime opens a model folder, and in which precision: by what is installed, what the machine computes in, and what
passed the gate of `diffgraft export`."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

from export import record
from toolkit.diffusion.model import Model
from toolkit.example import Error, Note
from toolkit.models.folder import fingerprint

__all__ = ["PRECISIONS", "backend_names", "fastest", "open_as", "parse_backend"]

PRECISIONS = {
    "onnx": ("fp32", "fp16", "bf16", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp16", "fp32", "bf16"),
    "torch": ("fp32",),
}
"""Backend -> the precisions that it runs, the first of which is meant where none is named."""

LIBRARY = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
"""Backend -> the module without which it is not there; that of tensorrt has two names."""

GAIN = 1.05
"""So many times as fast as onnx in fp32 has to be what is taken instead of it."""


def backend_names() -> list[str]:
    """All that a backend may be called."""
    plain = [f"{name}:{p}" for name, precisions in PRECISIONS.items() for p in precisions if name != "torch"]
    return ["auto", *PRECISIONS, *plain]


def parse_backend(backend: str) -> tuple[str, str]:
    """Name and precision of what is written name or name:precision."""
    name, _, precision = backend.partition(":")
    if name not in PRECISIONS:
        raise Error(f"A backend is one of auto, {', '.join(PRECISIONS)}; found '{backend}'.")
    if precision and precision not in PRECISIONS[name]:
        raise Error(f"The backend {name} runs in {', '.join(PRECISIONS[name])}; found '{backend}'.")
    return name, precision or PRECISIONS[name][0]


def open_as(root: Path, name: str, precision: str) -> Model:
    """A model folder with one backend."""
    if name == "torch":
        if importlib.util.find_spec("torch") is None:
            raise Error("The torch backend needs torch, which is not installed: pip install 'diffgraft[train]'")
        from toolkit.networks import folder

        return folder.open(root)
    from export.runtime import openvino, ort, trt

    return {"onnx": ort, "openvino": openvino, "tensorrt": trt}[name].open(root, precision=precision)


def fastest(root: Path) -> Model | None:
    """A folder with what was measured to be the fastest here, if that is faster than onnx in fp32; else None.

    Of the exports that passed the gate for the present weights, by the speed that was measured then. What passed but does
    not open here is noted and passed over.
    """
    for name, precision in _faster(root):
        try:
            return open_as(root, name, precision)
        except Error as problem:
            warnings.warn(f"{name}:{precision} passed its gate but does not open here: {problem}", Note, stacklevel=3)
    return None


def _faster(root: Path) -> Iterator[tuple[str, str]]:
    """Backend and precision of each export that is worth it, the fastest first."""
    if not record.read(root):
        return
    ratios = {
        (each.target, each.precision): each.ratio
        for each in record.valid_exports(root, fingerprint(root))
        if each.fuse == "none" and each.precision in PRECISIONS.get(each.target, ())
    }
    least = GAIN * ratios.pop(("onnx", "fp32"), 1.0)
    for (name, precision), ratio in sorted(ratios.items(), key=lambda item: -item[1]):
        if ratio >= least and _there(name, precision):
            yield name, precision


def _there(name: str, precision: str) -> bool:
    """Whether the runtime is installed and the machine computes in that precision."""
    if name == "tensorrt":
        return any(importlib.util.find_spec(module) for module in ("tensorrt", "tensorrt_rtx"))
    if not importlib.util.find_spec(LIBRARY[name]):
        return False
    if name != "openvino":
        return True
    from export.runtime import openvino

    return openvino.supports(precision)
