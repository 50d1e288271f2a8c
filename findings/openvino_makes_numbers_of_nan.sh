#!/usr/bin/env bash
# openvino 2026.4.0 (CPU) and onnxruntime 1.31.0 disagree about NaN in the same ONNX graph: OpenVINO's Clip(-1, 1) answers -1
# and its Relu 0 where the input is NaN; ONNX Runtime answers NaN, as the arithmetic has it. A spoilt pixel therefore leaves a
# network that runs in OpenVINO as an ordinary number, and a check of the answer for finite values passes.
# Needs a Python of 3.10 or newer; installs both into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.0 onnxruntime==1.31.0 onnx==1.22.0 numpy==2.4.6 2>/dev/null
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT


def graph(node: str) -> bytes:
    values = [helper.make_tensor_value_info(name, FLOAT, [3]) for name in ("x", "y")]
    limits = [helper.make_tensor("low", FLOAT, [], [-1.0]), helper.make_tensor("high", FLOAT, [], [1.0])]
    inputs = ["x", "low", "high"] if node == "Clip" else ["x"]
    body = helper.make_graph([helper.make_node(node, inputs, ["y"])], "g", values[:1], values[1:], limits)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


onnxruntime.set_default_logger_severity(3)
x = np.array([np.nan, 0.5, -0.5], np.float32)
found = {}
core = openvino.Core()
for node in ("Clip", "Relu", "Sigmoid"):
    content = graph(node)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(content, None), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found[node] = float(session.run(None, {"x": x})[0][0]), float(compiled(x)[0][0])
    print(f"{node}(NaN): ONNX Runtime {found[node][0]}, OpenVINO {found[node][1]}")
print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__)
nan = [np.isnan(found[node]).tolist() for node in ("Clip", "Relu", "Sigmoid")]
if nan == [[True, False], [True, False], [True, True]] and found["Clip"][1] == -1 and found["Relu"][1] == 0:
    print("as stated: Clip and Relu of OpenVINO make numbers of NaN")
else:
    sys.exit(f"changed: {found}")
PYTHON
