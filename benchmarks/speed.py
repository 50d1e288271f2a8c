"""Time whole runs against what else one could use: the same weights, steps, noise and guidance, in separate processes.

    python benchmarks/speed.py --out docs/speed.md

Two tasks: films from prompts (models/chest_xray), and the classifier-guided counterfactual of MR slices (models/brain_mri).
Every contender is a process of its own that stays open; in each round every one makes one run of every batch size, in
another order each time, so that a machine whose speed drifts favours none. Cold start is from the start of the process to
its first image, measured alone. A contender whose images are not those of the first one is marked, and one that cannot be
run is named with the reason. The environments of the peers, and what is exported for them, are made once in --cache;
both are named by a digest of what they were made of. Needs the extras edge, openvino and train, and a C++ compiler for
torch.compile.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jobs
import numpy as np
from rivals import TASKS, Contender, Rival, Unavailable

from diffgraft.deployment.export import export
from toolkit.models.folder import fingerprint

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
STEPS = 20
SAME = 0.98
"""Correlation of the images with the first contender's, below which the two do not do the same work."""


@dataclass
class Measured:
    """What a contender did: seconds a run by batch size, correlation of its images with the first one's, or why nothing."""

    contender: Contender
    cold: float = float("nan")
    memory: float = float("nan")
    agreement: float = float("nan")
    seconds: dict[int, list[float]] = field(default_factory=dict)
    reason: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=sorted(TASKS), action="append", help="one of them alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", default="1,4", help="sizes, with commas between")
    parser.add_argument(
        "--only", default="", help="contenders that have one of these words, with commas between, and the first"
    )
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", type=Path, default=REPOSITORY / "models")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "diffgraft" / "speed")
    parser.add_argument(
        "--torch-index", default="", help="where the peers' torch comes from, as TORCH_INDEX of the Makefile"
    )
    parser.add_argument("--fast", action="store_true", help="the few-step students too, whose images are others")
    parser.add_argument("--no-peers", action="store_true", help="leave out those that need an environment of their own")
    parser.add_argument("--out", type=Path, help="Markdown file that the table is written to, beside being printed")
    options = parser.parse_args()
    batches = [int(size) for size in options.batch.split(",")]
    parts = [_head(options)]
    with tempfile.TemporaryDirectory() as scratch:
        for task in options.task or TASKS:
            place = Path(scratch) / task
            place.mkdir()
            parts.append(_task(task, options, batches, place))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


def _task(task: str, options: argparse.Namespace, batches: list[int], place: Path) -> str:
    root = options.models / TASKS[task].model
    # What is exported depends on the weights and on how they are saved.
    source = (REPOSITORY / "toolkit" / "networks" / "pipeline_save.py").read_bytes()
    made = options.cache / f"made-{hashlib.sha256(fingerprint(root).encode() + source).hexdigest()[:12]}"
    made.mkdir(parents=True, exist_ok=True)
    job = getattr(jobs, task)(root, place, made, options.steps, batches)
    environment = {"OMP_NUM_THREADS": str(options.cores), "TORCHINDUCTOR_CACHE_DIR": str(options.cache / "inductor")}
    rival = Rival(job, made, options.cache, options.torch_index, options.cores, os.environ | environment)
    words = [word for word in options.only.split(",") if word]
    wanted = [c for n, c in enumerate(TASKS[task].contenders) if not n or not words or any(w in c.label for w in words)]
    wanted = [c for c in wanted if not (options.no_peers and c.peer) and (options.fast or not c.other_work)]
    if task == "generate" and not (made / "pipeline").is_dir():
        export(root, "diffusers", made / "pipeline")
    found = _measure(wanted, rival, batches, options.rounds, place)
    return _table(task, found, batches, rival.machine(task), options.steps)


def _measure(wanted: Sequence[Contender], rival: Rival, batches: list[int], rounds: int, place: Path) -> list[Measured]:
    found = [Measured(contender) for contender in wanted]
    running: list[tuple[Measured, Any]] = []
    for one in found:  # one after the other: a cold start is measured alone
        try:
            process = rival.start(one.contender)
        except Unavailable as problem:
            one.reason = str(problem)
        else:
            one.cold = process.cold
            running.append((one, process))
        print(f"{one.contender.label}: {one.reason or f'{one.cold:.1f} s to the first image'}", file=sys.stderr)
    for turn in range(-1, rounds):  # the first round warms up every batch size, and its images are compared
        order = [running[(n + turn) % len(running)] for n in range(len(running))] if running else []
        for one, process in order:
            for batch in batches:
                if one.reason:
                    continue
                keep = place / f"{found.index(one)}-{batch}.npy" if turn < 0 else None
                try:
                    seconds = process.run(batch, keep)
                except Unavailable as problem:
                    one.reason = str(problem)
                    continue
                if turn >= 0:
                    one.seconds.setdefault(batch, []).append(seconds)
    for one, process in running:
        if not one.reason:
            one.memory = process.end()
            pairs = [place / f"{k}-{max(batches)}.npy" for k in (0, found.index(one))]
            if all(path.is_file() for path in pairs):
                one.agreement = float(np.corrcoef(*(np.load(path).ravel() for path in pairs))[0, 1])
    return found


# -------------------------------------------------------------------------------------------------------------- tables


def _head(options: argparse.Namespace) -> str:
    cpu = next(
        (r.split(":")[1].strip() for r in _lines("/proc/cpuinfo") if r.startswith("model name")), platform.machine()
    )
    kinds = {flag for row in _lines("/proc/cpuinfo") if row.startswith("flags") for flag in row.split()}
    has = ", ".join(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in kinds)
    arguments = " ".join(sys.argv[1:])
    return "\n".join([
        "# Speed", "",
        f"`python benchmarks/speed.py {arguments}`".replace(" `", "`"), "",
        f"{datetime.date.today()}, {cpu}, {options.cores} cores ({has}), Python {platform.python_version()}. Medians of "
        f"{options.rounds} interleaved rounds [fastest, slowest]; {options.steps} steps for all but what says fewer. Ratio: the "
        "median over rounds of the first contender's seconds over these, so above 1 is faster. Of the peak: operations of "
        "the denoiser alone over the whole run's time, as a part of what a product of 2048 x 2048 matrices reaches here "
        "in that precision. Memory: the largest of the process. Images: correlation with the first contender's.",
    ])  # fmt: skip


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def _table(task: str, found: list[Measured], batches: list[int], machine: dict[str, Any], steps: int) -> str:
    title = TASKS[task].title.format(steps=steps)
    peaks = ", ".join(f"{name} {machine[name] / 1e9:.0f}" for name in ("fp32", "bf16"))
    operations = ", ".join(f"{int(machine['flops'][str(b)]) / 1e9:.0f} at batch {b}" for b in batches)
    head = ["contender"]
    for batch in batches:
        head += [f"s an image, batch {batch}", "ratio", "of the peak"]
    rows = [[*head, "cold start s", "memory MiB", "images"]]
    rows.append(["---"] * len(rows[0]))
    rows += [_row(one, found[0], batches, machine) for one in found if not one.reason]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        "",
        f"Peak of matrix products, 10^9 operations a second: {peaks}. Operations of the denoiser, 10^9 a run: {operations}.",
    ]
    missing = [f"* {one.contender.label}: {one.reason}" for one in found if one.reason]
    return "\n".join([f"## {title}", "", *lines, *(["", "Not measured:", "", *missing] if missing else [])])


def _row(one: Measured, first: Measured, batches: list[int], machine: dict[str, Any]) -> list[str]:
    cells = [one.contender.label]
    for batch in batches:
        taken = one.seconds[batch]
        middle, low, high = (f(taken) / batch for f in (statistics.median, min, max))
        against = first.seconds.get(batch)
        ratio = statistics.median(a / b for a, b in zip(against, taken, strict=True)) if against else float("nan")
        cells += [f"{middle:.3f} [{low:.3f}, {high:.3f}]", f"{ratio:.2f}"]
        peak = machine["bf16" if one.contender.precision == "bf16" else "fp32"]
        share = float(machine["flops"][str(batch)]) / (middle * batch) / peak
        cells.append("" if one.contender.other_work else f"{share:.0%}")
    marked = one.agreement < SAME and not one.contender.other_work
    return [
        *cells,
        f"{one.cold:.1f}",
        f"{one.memory:.0f}",
        f"{one.agreement:.4f}{' **not the same**' if marked else ''}",
    ]


if __name__ == "__main__":
    main()
