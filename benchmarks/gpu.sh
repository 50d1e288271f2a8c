#!/usr/bin/env bash
# The one script for an NVIDIA machine: installs what is needed into a venv of its own, builds the engines of all starter
# models, checks them against ONNX Runtime in fp32, times every way to run them, prints a Markdown table with the machine
# named, and says which of the labels "not yet run on hardware" it clears.
#
#   benchmarks/gpu.sh [OUT.md]        PYTHON=python3.12, VENV=folder, PRECISION=fp16, BATCH="1 4 16" change the defaults
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stop() {
    printf '%s\n' "$*" >&2
    exit 1
}

command -v nvidia-smi >/dev/null || stop "benchmarks/gpu.sh needs an NVIDIA GPU with its driver; nvidia-smi is not here."
card=$(nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader 2>/dev/null | head -n 1) ||
    stop "benchmarks/gpu.sh needs an NVIDIA GPU with its driver; nvidia-smi does not answer."
[[ -n $card ]] || stop "benchmarks/gpu.sh needs an NVIDIA GPU with its driver; nvidia-smi lists none."

python=${PYTHON:-python3}
venv=${VENV:-.venv-gpu}
out=${1:-benchmarks/gpu.md}
precision=${PRECISION:-fp16}
read -r -a batches <<<"${BATCH:-1 4 16}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "diffgraft needs Python 3.11 or newer; name one: PYTHON=python3.12"

printf '%s\n' "GPU: $card" >&2
[[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install -q --disable-pip-version-check)
# RTX cards and the L4 and L40 run TensorRT-RTX too; data-centre cards of capability 9.0 and 10.0 take TensorRT alone.
"${pip[@]}" torch
"${pip[@]}" -e '.[train,tensorrt]' || stop "TensorRT could not be installed into $venv; see above."
# train brings the ONNX Runtime of CPUs, and both share one import name.
"$venv/bin/python" -m pip uninstall -q -y onnxruntime
"${pip[@]}" --force-reinstall --no-deps 'onnxruntime-gpu>=1.21'
"${pip[@]}" -e '.[gpu]'

exec "$venv/bin/python" benchmarks/gpu.py --precision "$precision" --batch "${batches[@]}" --out "$out"
