"""What benchmarks/gpu.sh runs: engines of all starter models, their parity, and the table of every way to run them.

    python benchmarks/gpu.py --precision fp16 --batch 1 4 16 --out benchmarks/gpu.md
    python benchmarks/gpu.py --rehearse --steps 2 --rounds 1      without a GPU: what can run does, on the CPU

One task for all: Euler steps of the denoiser without guidance, from the same noise. The contenders take turns in every
round, and the table has medians; a result that is not finite or not that of torch in fp32 is marked. Needs the extras
train, gpu and tensorrt.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.engines import engine
from export.engines.engine import Batch
from export.graphs.onnx import export
from export.runtime import common, nvidia, ort, trt
from export.sampling import plan, sampler
from export.verify import LIMITS, compare, verify
from toolkit.diffusion import schedule
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.example import Error, Note
from toolkit.models.folder import fingerprint, read_meta, spec_of
from toolkit.networks.folder import load_part

REPOSITORY = Path(__file__).resolve().parent.parent
HIGH, LOW = 20.0, 0.02
Run = Callable[[], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=REPOSITORY / "models")
    parser.add_argument("--precision", default="fp16", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with what runs there; clears nothing")
    parser.add_argument("--only", nargs="+", help="names of models")
    options = parser.parse_args()
    try:
        machine = None if options.rehearse else engine.gpu()
    except Error as problem:
        sys.exit(str(problem))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = "rehearsal on a CPU" if machine is None else f"{machine.name}, CUDA driver {machine.driver}"
    lines = [
        f"## {name}",
        f"{datetime.date.today()}, torch {torch.__version__}, {options.precision}, {options.steps} Euler steps, {options.rounds} "
        "rounds in turn, medians. `ratio` is to torch eager in fp32; `rmse/std` from its result.",
        "",
        "| model | batch | contender | ms a run | ratio | rmse/std |",
        "|---|---|---|---|---|---|",
    ]
    cleared: dict[str, set[bool]] = {label: set() for label in ("engines", "replay", "onnx-cuda")}
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        for source in sorted(path.parent for path in options.models.glob("*/model.json")):
            if options.only and source.name not in options.only:
                continue
            root = prepared(source, Path(place) / source.name, options.precision, options.steps)
            if not options.rehearse:
                whole(root, options.precision, max(options.batch), cleared, notes)
            for batch in options.batch:
                runs = contenders(root, batch, max(options.batch), options, cleared, notes)
                lines += table(source.name, batch, runs, options.rounds)
                print("\n".join(lines[-len(runs) :]), file=sys.stderr, flush=True)
    lines += ["", *notes, ""]
    done = [label for label, seen in cleared.items() if seen == {True}] if not options.rehearse else []
    lines.append(
        f"cleared: {', '.join(done) or 'nothing'} (remove these lines of LABELS in export/runtime/trt.py, and commit this table)"
    )
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def prepared(source: Path, root: Path, precision: str, steps: int) -> Path:
    """A copy of a model folder with the graphs of a precision and its step graph."""
    shutil.copytree(source, root)
    spec = spec_of(read_meta(root))
    levels = tuple(schedule.karras(steps, min(HIGH, spec.sigma_max), LOW))
    told = plan.Plan("euler", (levels,), initial_scale=spec.initial_scale(levels[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx warns about itself
        for each in {"fp32", precision}:
            if each != "fp32" or not (root / "denoiser.onnx").is_file():
                export(root, each)
            sampler.write(root, "step", told, each)
    return root


def whole(root: Path, precision: str, most: int, cleared: dict[str, set[bool]], notes: list[str]) -> None:
    """Every graph of a folder as an engine, and in ONNX Runtime on CUDA: parity with ONNX Runtime in fp32 on the CPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Note)
        model = trt.open(root, precision, Batch(1, min(4, most), most), progress)
    cleared["engines"].add(model.backend.startswith("tensorrt"))
    notes += [f"* {each.message}" for each in caught if each.category is Note]
    try:
        rows = verify(ort.open(root), trt._cuda(root, read_meta(root), precision), precision)
        cleared["onnx-cuda"].add(all(row.error <= row.allowed for row in rows))
    except Error as problem:
        cleared["onnx-cuda"].add(False)
        notes.append(f"* {root.name}: ONNX Runtime on CUDA: {problem}")


def contenders(
    root: Path, rows: int, most: int, options: Any, cleared: dict[str, set[bool]], notes: list[str]
) -> dict[str, Run]:
    """Name -> one run, from noise to the last state. Those that do not open are named in the notes."""
    spec = spec_of(read_meta(root))
    made, beside = plan.read(root / "step.onnx")
    walk = beside["table"]["down"][0]
    x = np.float32(made.initial_scale) * gaussian(spec.shape, 7, range(rows), Purpose.START, 0)
    cond = {n: np.full((rows, *f.shape), 0 if f.dtype == "int64" else 0.5, f.dtype) for n, f in spec.fields.items()}
    fixed = {"x": x, "previous": np.zeros_like(x), **cond}
    each = {
        "sigma": np.repeat(np.float32(walk["sigma"])[:, None], rows, 1),
        "coefficients": np.float32(walk["coefficients"]),
        "noise": np.zeros((len(walk["sigma"]), *x.shape), np.float32),
    }
    device = "cpu" if options.rehearse else "cuda"
    found: dict[str, Run] = {}
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(options.precision)
    for name, make in {
        "torch eager fp32": lambda: by_torch(root, x, cond, made, device, "eager", None),
        f"torch eager {options.precision}": lambda: by_torch(root, x, cond, made, device, "eager", half),
        f"torch.compile {options.precision}": lambda: by_torch(root, x, cond, made, device, "compile", half),
        f"torch CUDA graph {options.precision}": lambda: by_torch(root, x, cond, made, device, "graph", half),
        f"ONNX Runtime {'CPU' if options.rehearse else 'CUDA'} {options.precision}": lambda: by_onnx(
            root, fixed, each, options
        ),
        f"TensorRT {options.precision}": lambda: by_engine(root, fixed, each, options, most, cleared),
    }.items():
        try:
            found[name] = make()
            found[name]()
        except Exception as problem:  # a contender that is not there is a line, not the end
            found.pop(name, None)
            notes.append(f"* {root.name}, batch {rows}: {name} does not run: {' '.join(str(problem).split())[:200]}")
    return found


def by_torch(
    root: Path, x: np.ndarray, cond: Mapping[str, np.ndarray], made: plan.Plan, device: str, how: str, half: Any
) -> Run:
    """The loop in torch: as it is, with its network compiled, or captured whole as one CUDA graph."""
    if device == "cpu" and how != "eager":
        raise Error("it is for GPUs")
    network: Any = load_part(root, "denoiser").to(device).eval()
    network = torch.compile(network) if how == "compile" else network
    start = torch.from_numpy(x).to(device)
    told = {name: torch.from_numpy(value).to(device) for name, value in cond.items()}
    levels = made.schedules[0]
    at = [torch.full((len(x),), sigma, device=device) for sigma in levels]

    @torch.inference_mode()
    def loop() -> torch.Tensor:
        state = start
        with torch.autocast(device, half, enabled=half is not None):
            for sigma, after, level in zip(levels, levels[1:], at, strict=False):
                state = state + (state - network(state, level, **told).float()) * ((after - sigma) / sigma)
        return state

    if how != "graph":
        return lambda: loop().cpu().numpy()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            loop()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        answer = loop()

    def replay() -> np.ndarray:
        captured.replay()
        return answer.cpu().numpy()

    return replay


def by_onnx(root: Path, fixed: Mapping[str, np.ndarray], each: Mapping[str, np.ndarray], options: Any) -> Run:
    path = common.onnx_file(root, "step", "onnx", options.precision)
    steps = trt.host_loop(trt._on_cpu(path) if options.rehearse else nvidia.cuda_run(path), trt.CARRY)
    return lambda: steps(fixed, each)["next"]


def by_engine(
    root: Path, fixed: Mapping[str, np.ndarray], each: Mapping[str, np.ndarray], options: Any, most: int,
    cleared: dict[str, set[bool]],
) -> Run:  # fmt: skip
    """All steps of the step engine as one CUDA graph, checked against ONNX Runtime in fp32."""
    lib, target = engine.library(), engine.gpu()
    path = common.onnx_file(root, "step", "tensorrt", options.precision)
    batch = Batch(1, min(4, most), most)
    own = nvidia.Engine(
        lib.module, engine.engine(path, fingerprint(root), lib, target, batch, options.precision, progress)
    )
    wanted = trt.host_loop(trt._on_cpu(root / "step.onnx"), trt.CARRY)(fixed, each)["next"]

    def run() -> np.ndarray:
        return own.loop(fixed, len(each["sigma"]), {k: v for k, v in trt.CARRY.items() if k in own.inputs}, each)[
            "next"
        ]

    for _ in range(2):  # directly, then replayed
        row = compare("next", wanted, run(), LIMITS[options.precision])
        cleared["replay"].add(row.error <= row.allowed)
    cleared["replay"].add(all(each.graph is not None for each in own.plans.values()))
    return run


def table(model: str, rows: int, runs: Mapping[str, Run], rounds: int) -> list[str]:
    """Medians of rounds in which all contenders take turns, each round beginning with another."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, np.ndarray] = {}
    names = list(runs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.perf_counter()
            answers[name] = runs[name]()
            seconds[name].append(time.perf_counter() - begun)
    first = next(iter(runs), None)
    lines = []
    for name in runs:
        median, base = statistics.median(seconds[name]), statistics.median(seconds[first or name])
        away = np.sqrt(np.mean((answers[name] - answers[first or name]) ** 2)) / answers[first or name].std()
        told = f"{away:.1e}" if np.isfinite(answers[name]).all() else "**not finite**"
        lines.append(f"| {model} | {rows} | {name} | {1000 * median:.2f} | {base / median:.2f} | {told} |")
    return lines


def progress(what: str, done: int, of: int) -> None:
    print(f"\r{what} {100 * done // of:3} %", end="\n" if done == of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
