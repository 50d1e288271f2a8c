"""Which graphs build as TensorRT engines: seconds, size and layers of each, as a Markdown table. Needs no GPU.

    python benchmarks/engines.py models/*/*.onnx

With TensorRT-RTX, for the card that is here or, without one, for compute capability 8.9. Needs the extra rtx. The exit
status is 1 if a graph did not build.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from export.engines import engine
from toolkit.example import Error


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("graphs", type=Path, nargs="+")
    parser.add_argument("--batch", type=int, nargs=3, default=[1, 4, 16], help="least, usual and most")
    options = parser.parse_args()
    lib = engine.library(("tensorrt_rtx", "tensorrt"))
    try:
        target = engine.gpu()
    except Error:
        target = engine.Gpu("no GPU", engine.DEFAULT)
    print(f"{lib.name} {lib.version}, {target.name}, compute capability {target.capability}, batch {options.batch}\n")
    print("| model | graph | precision | seconds | MiB | layers |\n|---|---|---|---|---|---|", flush=True)
    failed = 0
    for path in options.graphs:
        name, precision = (*path.stem.split("."), "fp32")[:2]
        row = f"| {path.parent.name} | {name} | {precision} |"
        try:
            built = engine.build(path, lib, target, engine.Batch(*options.batch))
        except Error as problem:
            failed += 1
            print(f"{row} does not build: {str(problem).partition(' does not: ')[2][:160]} | | |", flush=True)
        else:
            print(f"{row} {built.seconds:.1f} | {len(built.content) / 2**20:.1f} | {built.layers} |", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
