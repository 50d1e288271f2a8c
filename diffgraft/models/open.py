"""Open a model folder on the backend that is there."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from diffgraft.models import backends
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.models import pipeline as pipeline_folder

__all__ = ["open"]


def open(root: str | os.PathLike[str], backend: str = "auto") -> Model:
    """Open a model folder. backend: "auto", or onnx, openvino, tensorrt or torch, in a precision as "openvino:bf16".

    "auto" takes the fastest that is installed, passed its gate for the folder's weights and is faster than onnx in fp32;
    else onnx where onnxruntime and the graphs are there, else torch. A folder of a Stable Diffusion pipeline is opened
    with torch, as a model of grey films.
    """
    root = Path(root)
    name, precision = ("auto", "") if backend == "auto" else backends.parse_backend(backend)
    if pipeline_folder.is_pipeline(root):
        return _pipeline(root, name)
    if name != "auto":
        return backends.open_as(root, name, precision)
    if model := backends.fastest(root):
        return model
    ready = importlib.util.find_spec("onnxruntime") and (root / "denoiser.onnx").is_file()
    name = "onnx" if ready or not importlib.util.find_spec("torch") else "torch"
    return backends.open_as(root, name, "fp32")


def _pipeline(root: Path, backend: str) -> Model:
    if backend not in ("auto", "torch"):
        raise Error(
            f"A pipeline folder runs with torch; for {backend} it is exported into a model folder first: "
            f"diffgraft export {root} OUT --to onnx"
        )
    if importlib.util.find_spec("torch") is None:
        raise Error("A pipeline folder needs torch, which is not installed: pip install 'diffgraft[train]'")
    from toolkit.networks import pipeline

    return pipeline.open(root, channels=1)
