#!/usr/bin/env bash
# nncf 3.4.0 (with openvino 2026.4.0): post-training quantisation with nothing but a model and data puts the product x * sigmoid(x)
# of a SiLU, and the softmax of an attention, on eight bits too, not the convolutions and products of matrices alone: a
# FakeQuantize stands behind the Sigmoid and behind the Softmax. A network that is full of either, such as a U-Net of a diffusion
# model, loses more than its weights; what may not be quantised has to be named (IgnoredScope).
# Needs a Python of 3.10 or newer; installs both into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check nncf==3.4.0 openvino==2026.4.0 numpy==2.4.6 2>/dev/null
cd "$work"
NNCF_CI=1 "$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import sys

import nncf
import numpy as np
import openvino
from openvino import opset13 as op

random = np.random.default_rng(0)


def matrix(*shape: int) -> np.ndarray:
    return random.normal(0, 0.2, shape).astype(np.float32)


x = op.parameter([1, 8, 8, 8], np.float32, name="x")
one = op.convolution(x, op.constant(matrix(16, 8, 3, 3)), [1, 1], [1, 1], [1, 1], [1, 1])
silu = op.multiply(one, op.sigmoid(one))
two = op.convolution(silu, op.constant(matrix(16, 16, 3, 3)), [1, 1], [1, 1], [1, 1], [1, 1])
tokens = op.reshape(two, op.constant(np.array([1, 16, 64])), False)
scores = op.matmul(tokens, tokens, True, False)
mixed = op.matmul(tokens, op.softmax(scores, -1), False, False)
graph = openvino.Model([mixed], [x], "net")
data = nncf.Dataset([random.normal(0, 1, (1, 8, 8, 8)).astype(np.float32) for _ in range(8)])
quantised = nncf.quantize(graph, data, subset_size=8)
behind = set()
for node in quantised.get_ops():
    if node.get_type_name() == "FakeQuantize":
        source = node.input_value(0).get_node().get_type_name()
        behind |= {source}
        print(f"FakeQuantize behind {source}, into {sorted({t.get_node().get_type_name() for t in node.output(0).get_target_inputs()})}")
print("nncf", nncf.__version__, "openvino", openvino.__version__)
if {"Sigmoid", "Softmax"} <= behind:
    print("as stated: the gate of SiLU and the softmax are quantised unless they are named")
else:
    sys.exit(f"changed: FakeQuantize stands behind {sorted(behind)}")
PYTHON
