"""The graphs of a model for runtimes without PyTorch. Needs PyTorch, once."""

import json
import shutil
from pathlib import Path

import diffgraft

OUT = Path("examples/out/exported")
shutil.rmtree(OUT, ignore_errors=True)
shutil.copytree("models/plant_disease", OUT, ignore=shutil.ignore_patterns("*.onnx"))

result = diffgraft.export(
    OUT, "onnx", tell=print
)  # or "openvino", "tensorrt"; precision="bf16"; fuse="sampler"
for file in result.written:
    print(f"{file.name:16} {file.stat().st_size / 1024:6.0f} KiB")
record = json.loads((OUT / "exports.json").read_text())
print("measured, and kept in exports.json:", ", ".join(record))

made = diffgraft.generate(
    OUT, "examples/out/by_onnx", count=2, backend="onnx", overwrite=True
)
print(made.count, "leaves by ONNX Runtime")
