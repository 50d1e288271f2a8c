"""What this machine and a model can do: peak of matrix products, floating-point operations of the networks.

    python machine.py TASK job.json

Prints {"fp32": ..., "bf16": ..., "flops": {BATCH: ...}}: operations a second, and operations of a whole run, where a
multiplication and an addition count as two.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE, TURNS = 2048, 15


def peak(dtype: torch.dtype) -> float:
    """The fastest of some products of two square matrices, in operations a second."""
    a, b = (torch.randn(SIDE, SIDE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - begun)
    return 2 * SIDE**3 / min(seconds)


def operations(network: Any, *given: torch.Tensor, **named: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*given, **named)
    return counter.get_total_flops()


def run_of(task: str, job: dict[str, Any], batch: int) -> int:
    """Operations of the denoiser alone in one run of a task."""
    from toolkit.models.folder import read_meta, spec_of
    from toolkit.networks import folder

    root = Path(job["model"])
    spec, denoiser = spec_of(read_meta(root)), folder.load_part(root, "denoiser")
    evaluations, rows = (job["steps"], 2 * batch) if task == "generate" else (2 * job["steps"] - 1, batch)
    fields = {
        name: torch.full((rows, *field.shape), field.null, dtype=getattr(torch, field.dtype))
        for name, field in spec.fields.items()
    }
    return evaluations * operations(denoiser, torch.zeros(rows, *spec.shape), torch.ones(rows), **fields)


def main() -> None:
    task, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    flops = {batch: run_of(task, job, batch) for batch in job["batches"]}
    print(json.dumps({"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16), "flops": flops}))


if __name__ == "__main__":
    main()
