"""Products of matrices in 8-bit integers, as ONNX Runtime runs them: weights once rounded, activations as they come."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx

__all__ = ["quantize_dynamic"]


def quantize_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with MatMul and Gemm in int8; convolutions, which are no faster so, stay as they are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "graph.onnx"
        logging.disable(logging.WARNING)  # it advises a preparation that the exporter has made
        try:
            quantize_dynamic(model, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(path)
