"""The request of export."""

from __future__ import annotations

from pathlib import Path

from diffgraft.requests.base import converted, optional_path, path, request

__all__ = ["ExportRequest"]


@request
class ExportRequest:
    """Write the graphs of a model folder and try them against torch; see diffgraft.deployment.export.

    target: onnx, tensorrt, openvino, or diffusers for a pipeline folder. out: a new folder instead of the model's own, which
    a Stable Diffusion pipeline and the target diffusers need. precision: fp32, fp16, bf16 or int8. fuse: none, step or sampler.
    """

    model: Path = converted(converter=path)
    target: str = "onnx"
    out: Path | None = converted(converter=optional_path, default=None)
    precision: str = "fp32"
    fuse: str = "none"
