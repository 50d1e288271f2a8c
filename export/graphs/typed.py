"""A model folder evaluated operator by operator in the types that its graphs state: the reference evaluator of ONNX, numpy.

ONNX Runtime's CPU has next to no kernels in fp16: it computes in fp32 and drops the Casts between, so that an fp16 graph
runs there without the overflow that it has on a GPU. Slow; for the gate alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.runtime import common
from toolkit.diffusion.model import Model
from toolkit.models.folder import read_meta

__all__ = ["open"]


def open(root: str | os.PathLike[str], precision: str) -> Model:
    """Open the graphs of a model folder in that precision."""
    from onnx.reference import ReferenceEvaluator

    root = Path(root)

    def evaluator(path: Path) -> common.Run:
        graph = ReferenceEvaluator(str(path), new_ops=[_pad()])

        def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            with np.errstate(all="ignore"):  # what overflows shows in the answer
                answers: Any = graph.run(None, dict(feed))
                names: Any = graph.output_names
                return dict(zip(names, answers, strict=True))

        return run

    def run(name: str) -> common.Run:
        return common.open_lazily(common.onnx_file(root, name, "onnx", precision), "onnx", evaluator)

    return common.assemble(root, read_meta(root), run, f"typed:{precision}")


def _pad() -> Any:
    """Pad as ONNX has it: a negative number crops, as where a gradient takes the padding of a convolution back."""
    from onnx.reference.op_run import OpRun

    class Pad(OpRun):
        op_domain = ""

        def _run(self, data: Any, pads: Any, value: Any = None, axes: Any = None, mode: str = "constant") -> tuple[Any]:
            low, high = np.zeros((2, data.ndim), int)
            places = range(data.ndim) if axes is None else axes
            for place, before, after in zip(places, *np.split(np.asarray(pads, int), 2), strict=True):
                low[place], high[place] = before, after
            crop = tuple(slice(max(0, -a), size - max(0, -b)) for a, b, size in zip(low, high, data.shape, strict=True))
            width = [(max(0, a), max(0, b)) for a, b in zip(low, high, strict=True)]
            return (np.pad(data[crop], width, mode=mode, **({} if value is None else {"constant_values": value})),)  # type: ignore[call-overload]

    return Pad
