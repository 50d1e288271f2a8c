#!/usr/bin/env bash
# torch 2.13.0 (CPU, oneDNN inside): under bf16 autocast the weight gradient of a 3 x 3 convolution of stride 2 over a map that is
# one pixel wide reads memory that nobody wrote. With freed memory that held zeros it is right to bf16's rounding; with memory
# that held NaN or large numbers the very same step gives a gradient that is not finite. Maps two pixels wide, fp32, stride 1 and
# 1 x 1 kernels are right. A network that halves 16 px four times reaches such a map, trains on and reports numbers.
# Seen on AVX512 (an AMD EPYC of 2022, AVX512-BF16, no AMX; reported for AMX too). With AVX2 alone the gradient is right, so
# there this script has nothing to see and says so.
# Needs a Python of 3.10 or newer; installs torch into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2>/dev/null
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PYTHON'
import math
import sys

import torch


def weight_gradient(width: int, precision: str, freed: float) -> torch.Tensor:
    """Of one layer on the same data; `freed` is what stood in memory that was released just before."""
    torch.manual_seed(0)
    images = torch.randn(8, 16, 4, width)
    layer = torch.nn.Conv2d(16, 32, 3, stride=2, padding=1)
    released = [torch.full((1 << 20,), freed) for _ in range(64)]
    del released
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        layer(images).float().square().sum().backward()
    return layer.weight.grad


capability = torch.backends.cpu.get_cpu_capability()
print(f"torch {torch.__version__.split('+')[0]}, {capability}")
found = {}
for width in (1, 2):
    exact = weight_gradient(width, "fp32", 0.0)
    for freed in (0.0, math.nan):
        gradient = weight_gradient(width, "bf16", freed)
        error = ((gradient - exact).abs().max() / exact.abs().max()).item()
        found[width, freed == 0] = error
        print(f"map {width} px wide, freed memory held {freed}: largest error {error:.3g} of the largest gradient")
if not capability.startswith("AVX512"):
    sys.exit("this processor has no AVX512: nothing to see here" if not math.isnan(found[1, False]) else 0)
right = all(found[key] < 0.01 for key in ((1, True), (2, True), (2, False)))
if right and not found[1, False] < 0.01:
    print("as stated: the gradient over one column depends on what stood in memory before, that over two does not")
else:
    sys.exit(f"changed: {found}")
PYTHON
