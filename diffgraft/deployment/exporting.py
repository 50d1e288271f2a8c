"""Exports of a model folder, each through its gate: written beside, tried as they are, and moved into the folder whole.

A copy of the model's files takes what is written; only if everything that was asked for passes do the new files
and their records (exports.json) reach the model folder. A failed gate leaves it as it was.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffgraft.deployment import folder as export_folder
from diffgraft.models import backends
from export import record
from export.gate import Domain, Passed, Speed, Trial, timed
from export.record import Record
from export.verify import Parity, told, verify
from toolkit.diffusion.model import Model
from toolkit.example import Error, Note
from toolkit.models.folder import fingerprint, image_shape, read_meta

__all__ = ["FUSES", "PRECISIONS", "WRITTEN", "check", "export"]

PRECISIONS = {
    "onnx": ("fp32", "fp16", "bf16", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16"),
}
"""Target -> the precisions that it is exported in."""

FUSES = ("none", "step", "sampler")
WRITTEN = ("*.onnx", "*.int8.xml", "*.int8.bin", "step*.json", "sampler*.json", record.FILE)
"""Patterns of all that exports write into a model folder."""

ROUNDS = 2
"""In which a whole run is timed."""

VERSIONS = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "tensorrt", "tensorrt_rtx")


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """One export: what it is for, in which precision, fused how."""

    target: str
    precision: str
    fuse: str


@dataclasses.dataclass(frozen=True)
class _Bench:
    """What exports are tried against: the model in torch, in fp32, and its trial."""

    root: Path
    reference: Model
    trial: Trial


def check(target: str, precision: str, fuse: str) -> None:
    """Raise the Error that such an export would run into, before any work is done."""
    if precision not in PRECISIONS[target]:
        raise Error(f"An export to {target} is in {', '.join(PRECISIONS[target])}; found '{precision}'.")
    if fuse not in FUSES:
        raise Error(f"A graph is fused by {', '.join(FUSES)}; found '{fuse}'.")
    if fuse != "none" and (target == "openvino" or precision == "int8"):
        raise Error(
            f"Fused graphs are ONNX in fp32, fp16 or bf16; found --to {target} --precision {precision}. OpenVINO reads "
            "them as they are: --to onnx"
        )


def export(root: Path, target: str, precision: str, fuse: str) -> tuple[list[Path], list[Parity]]:
    """Write, try and keep one export, and those that it is made of where they are not there; files and rows of parity.

    Errors: a gate that is not passed; the folder is then as before.
    """
    check(target, precision, fuse)
    with export_folder.staged(root) as folder:
        before = export_folder.stamps(folder)
        bench, rows = _bench(folder), []
        for wanted in _needed(folder, _Wanted(target, precision, fuse)):
            rows += _one(bench, wanted)
        written = sorted(name for name, stamp in export_folder.stamps(folder).items() if before.get(name) != stamp)
        for name in written:
            os.replace(folder / name, root / name)
    return [root / name for name in written if name != record.FILE], rows


def _needed(root: Path, wanted: _Wanted) -> Iterator[_Wanted]:
    """What has to be exported for it, in order: graphs in fp32, and those in its precision that a fused one is made of."""
    plain = _Wanted("onnx", "fp32", "none")
    own = _Wanted("onnx", wanted.precision, "none")
    if wanted != plain and not _there(root, "fp32"):
        yield plain
    if wanted.fuse != "none" and own != plain and not _there(root, wanted.precision):
        yield own
    yield wanted


def _there(root: Path, precision: str) -> bool:
    """Whether every graph of the model is there as ONNX in that precision."""
    from export.runtime.common import onnx_file
    from toolkit.networks.folder import GRAPHS

    parts = read_meta(root)["parts"]
    names = [Path(graph).stem for part in parts for graph in GRAPHS[part]]
    names = [name for name in names if name != "look" or parts["text"]["features"]]
    try:
        return all(onnx_file(root, name, "onnx", precision).is_file() for name in names)
    except Error:
        return False


def _bench(root: Path) -> _Bench:
    from diffgraft.deployment.metric import trial
    from diffgraft.models.folder import domain_of

    reference = backends.open_as(root, "torch", "fp32")
    return _Bench(root, reference, trial(reference, domain_of(root)))


def _one(bench: _Bench, wanted: _Wanted) -> list[Parity]:
    """Write one export, try it, and put down what was measured."""
    files, typed = _write(bench, wanted), []
    if wanted.fuse == "none":
        typed = _typed(bench) if wanted.precision == "fp16" else []
        ran, passed = _tried(bench, wanted)
    else:
        ran, passed = _tried_fused(bench, wanted)
    from export.graphs.onnx import opset_of

    record.add(
        bench.root,
        Record(
            wanted.target, wanted.precision, wanted.fuse, opset_of(wanted.precision), fingerprint(bench.root),
            record.hashes(bench.root, files), ran, record.machine(), record.versions(VERSIONS),
            [_plain(row) for row in [*typed, *passed.parity]],
            {name: _plain(row) | dict(bench.trial.says.get(name, {})) for name, row in passed.run.items()},
            None if passed.domain is None else dataclasses.asdict(passed.domain),
            [_plain(row) for row in passed.speed],
        ),
    )  # fmt: skip
    return [*typed, *passed.parity, *passed.run.values()]


def _plain(row: Parity | object) -> dict[str, object]:
    """A row as JSON has it, of four digits."""
    plain = dataclasses.asdict(row)  # type: ignore[call-overload]
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in plain.items()}


def _write(bench: _Bench, wanted: _Wanted) -> list[str]:
    """The files of an export, written where it lacks them; their names."""
    root = bench.root
    if wanted.fuse != "none":
        from diffgraft.deployment.fusing import plan_of
        from export.sampling.sampler import UNROLLED, write

        plan = plan_of(root)
        # Neither TensorRT nor OpenVINO, which tries what is in bf16, reads a loop.
        most = plan.steps if wanted.target == "tensorrt" or wanted.precision == "bf16" else UNROLLED
        return [path.name for path in write(root, wanted.fuse, plan, wanted.precision, most)]
    if wanted.target == "openvino":
        from toolkit.networks.folder import GRAPHS

        graphs = [graph for part in read_meta(root)["parts"] for graph in GRAPHS[part] if (root / graph).is_file()]
        if wanted.precision == "int8":
            from export.graphs.quantize import quantize

            graphs += [path.name for path in quantize(root)]
        return graphs
    from export.graphs.onnx import export as write_graphs

    return [path.name for path in write_graphs(root, wanted.precision)]


# -------------------------------------------------------------------------------------------------------------- the gate


def _tried(bench: _Bench, wanted: _Wanted) -> tuple[str, Passed]:
    """The graphs of an export, run by their target or, where it is not here, by another; the runner, what was measured."""
    from export import gate

    judge = functools.partial(gate.check, bench.reference, trial=bench.trial, precision=wanted.precision)
    if wanted.target == "onnx" and wanted.precision == "bf16":
        with export_folder.renamed(bench.root, wanted.precision) as folder:
            candidate = _bf16(folder)
            return candidate.backend, judge(candidate)
    if wanted.target != "tensorrt":
        candidate = backends.open_as(bench.root, wanted.target, wanted.precision)
        return candidate.backend, judge(candidate)
    if candidate := _engines(bench.root, wanted.precision):
        return candidate.backend, judge(candidate)
    return _tried(bench, dataclasses.replace(wanted, target="onnx"))


def _typed(bench: _Bench) -> list[Parity]:
    """Graphs in fp16 with every operator in the type that they state; ONNX Runtime's CPU, which runs them, takes fp32."""
    from export.graphs import typed

    rows = verify(bench.reference, typed.open(bench.root, "fp16"), "fp16", bench.trial.sigmas)
    return [dataclasses.replace(row, output=f"{row.output}, as typed") for row in rows]


def _engines(root: Path, precision: str) -> Model | None:
    """The folder on TensorRT, or None where it cannot run here."""
    if not _device():
        return None
    candidate = backends.open_as(root, "tensorrt", precision)
    return candidate if candidate.backend.startswith("tensorrt") else None


def _device() -> bool:
    """Whether TensorRT and a GPU are here; if not, a line says so."""
    from export.engines.engine import gpu, library

    try:
        library(), gpu()
    except Error as problem:
        warnings.warn(f"Engines are to be built on the device, from these graphs. {problem}", Note, stacklevel=2)
        return False
    return True


def _bf16(root: Path) -> Model:
    """Graphs whose bodies are bf16: ONNX Runtime's CPU runs none, OpenVINO does where the machine computes in it."""
    from export.runtime import openvino

    if not openvino.supports("bf16"):
        raise Error(
            "Graphs in bf16 are tried by openvino on a CPU that computes in it (AVX512-BF16 or AMX), and one of the two is "
            "not here. Install it, pip install 'diffgraft[openvino]', or take --precision fp16."
        )
    return openvino.open(root, precision="bf16")


def _tried_fused(bench: _Bench, wanted: _Wanted) -> tuple[str, Passed]:
    """A fused graph against the loop that it stands for. What images show is judged of the graphs that it is made of."""
    from export.agreement import check as agreed

    backend = "openvino" if wanted.precision == "bf16" else "onnx"
    if wanted.target == "tensorrt":
        _device()
    try:
        rows = agreed(bench.root, bench.reference, wanted.fuse, wanted.precision, backend)
    except RuntimeError as problem:
        words = " ".join(str(problem).split())[:200]
        raise Error(
            f"A fused graph has to run where it is tried; {backend} does not run this one: {words}"
        ) from problem
    made_of = [r for r in record.read(bench.root) if r.precision == wanted.precision and r.fuse == "none" and r.domain]
    domain = None if not made_of else Domain(**made_of[0].domain)  # type: ignore[arg-type]
    return f"{backend}:{wanted.precision}", Passed(rows, {}, domain, [_pace(bench, wanted, backend)])


def _pace(bench: _Bench, wanted: _Wanted, backend: str) -> Speed:
    """One image by the fused graph, and by the loop over the reference."""
    from export.agreement import changed, generated, unstated
    from export.runtime import fused

    run = fused.open(bench.root, wanted.fuse, wanted.precision, backend)
    spec, plan = bench.reference.denoiser.spec, run.plan
    cond = told(spec, 1)
    if plan.healing is None:
        null = unstated(spec, cond)
        return timed(
            1, lambda: generated(bench.reference, plan, cond, null, 0, [0]), lambda: run(0, [0], cond, null), ROUNDS
        )
    cond[plan.healing.label] = np.zeros_like(cond[plan.healing.label])
    image = np.zeros((1, *image_shape(bench.reference.meta)), np.float32)
    return timed(1, lambda: changed(bench.reference, plan, image, cond), lambda: run(image, cond), ROUNDS)
