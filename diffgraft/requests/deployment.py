"""The request of export, and what may be asked for in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from diffgraft.requests.base import converted, optional_path, path, request
from toolkit.example import Error

__all__ = ["FUSES", "PRECISIONS", "PREDICTIONS", "TARGETS", "ExportRequest"]

PRECISIONS = {
    "onnx": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
}
"""Target of graphs -> the precisions that it is exported in."""

TARGETS = (*PRECISIONS, "diffusers")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
FUSES = ("none", "step", "sampler")


@request
class ExportRequest:
    """Write the graphs of a model folder and try them against torch; see diffgraft.deployment.export.

    target: onnx, tensorrt, openvino, or diffusers for a pipeline folder. out: a new folder instead of the model's own, which
    a Stable Diffusion pipeline and the target diffusers need. precision: fp32, fp16, bf16 or int8. fuse: none, step or sampler.
    model may be a Stable Diffusion checkpoint in one safetensors file: like is then a pipeline folder whose tokenizer and
    configs serve, prediction what its U-Net predicts. lora: file of low-rank changes -> how much of it is folded in.
    """

    model: Path = converted(converter=path)
    target: str = "onnx"
    out: Path | None = converted(converter=optional_path, default=None)
    precision: str = "fp32"
    fuse: str = "none"
    lora: Mapping[Path, float] = field(default_factory=dict)
    like: Path | None = converted(converter=optional_path, default=None)
    prediction: str | None = None

    def validate(self) -> None:
        if self.target not in TARGETS:
            raise Error(f"A model is exported to {' or '.join(TARGETS)}; found '{self.target}'.")
        if self.prediction not in (None, *PREDICTIONS):
            raise Error(f"A U-Net predicts {', '.join(PREDICTIONS)}; found --prediction {self.prediction}.")
        if not all(map(math.isfinite, self.lora.values())):
            raise Error(
                "Low-rank changes are folded in by a finite number of times. Write --lora FILE or --lora FILE=0.8"
            )
        if self.target == "diffusers":
            if (self.precision, self.fuse) != ("fp32", "none"):
                raise Error("A pipeline of diffusers keeps its weights as they are. Leave --precision and --fuse out.")
            return
        if self.precision not in PRECISIONS[self.target]:
            known = ", ".join(PRECISIONS[self.target])
            raise Error(f"An export to {self.target} is in {known}; found '{self.precision}'.")
        if self.fuse not in FUSES:
            raise Error(f"A graph is fused by {', '.join(FUSES)}; found '{self.fuse}'.")
        if self.fuse != "none" and (self.target == "openvino" or self.precision == "int8"):
            raise Error(
                f"Fused graphs are ONNX in fp32, fp16 or bf16; found --to {self.target} --precision {self.precision}. "
                "OpenVINO reads them as they are: --to onnx"
            )
