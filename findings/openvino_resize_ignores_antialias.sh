#!/usr/bin/env bash
# openvino 2026.4.0 (CPU) reads the ONNX operator Resize with antialias = 1 (opset 18 and later) and computes it as if antialias
# were 0, without a warning: stripes of period 2 that are reduced four times become stripes instead of grey. ONNX Runtime 1.31.0
# filters them. A preprocessing step that was put into a graph gives other pictures on the two runtimes.
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
import onnxruntime
import openvino
from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT


def graph(antialias: int) -> bytes:
    x = helper.make_tensor_value_info("x", FLOAT, [1, 1, 16, 16])
    y = helper.make_tensor_value_info("y", FLOAT, [1, 1, 4, 4])
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 1, 4, 4])
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=antialias)
    body = helper.make_graph([node], "g", [x], [y], [sizes])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


image = np.zeros((1, 1, 16, 16), np.float32)
image[..., ::3] = 1  # one column in three: grey 1/3 when filtered
core, found = openvino.Core(), {}
for antialias in (0, 1):
    content = graph(antialias)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(content, None), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found["ort", antialias], found["ov", antialias] = session.run(None, {"x": image})[0], compiled(image)[0].copy()
    for name in ("ort", "ov"):
        print(f"antialias {antialias}, {name}: columns {found[name, antialias][0, 0, 1].round(3).tolist()}")
print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__)
same = np.allclose(found["ov", 0], found["ov", 1], atol=1e-6)
plain = np.allclose(found["ort", 0], found["ov", 0], atol=1e-5)
away = float(np.abs(found["ort", 1] - found["ov", 1]).max())
print(f"OpenVINO with and without antialias are {'the same' if same else 'different'}; largest difference between the runtimes {away:.2f}")
if same and plain and away > 0.1:
    print("as stated: antialias is passed over")
else:
    sys.exit("changed")
PYTHON
