"""The graphs of an export run against the model in torch: what has to hold of them before they are kept."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft.deployment import staging
from diffgraft.models import backends
from diffgraft.requests import ExportRequest
from export import agreement, gate, record
from export.engines import engine
from export.gate import DomainMetric, GateResult, Speed, Trial
from export.graphs import typed
from export.graphs.onnx import opset_of
from export.runtime import fused, openvino
from export.verify import Parity, sample_conditions, verify
from toolkit.diffusion.model import Model
from toolkit.example import Error, Note
from toolkit.models.folder import fingerprint, image_shape

__all__ = ["Accepted", "Bench", "accept"]

ROUNDS = 2
"""In which a whole run is timed."""

VERSIONS = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "tensorrt", "tensorrt_rtx")


@dataclasses.dataclass(frozen=True)
class Bench:
    """What exports are tried against. root: folder of the graphs; reference: the model in torch, in fp32; trial: of it."""

    root: Path
    reference: Model
    trial: Trial


@dataclasses.dataclass(frozen=True)
class Accepted:
    """An export that passed. ran: the backend that ran its graphs; passed: what was measured."""

    ran: str
    passed: GateResult

    @property
    def rows(self) -> list[Parity]:
        """Of every output, and of whole runs."""
        return [*self.passed.parity, *self.passed.run.values()]

    def as_record(self, bench: Bench, request: ExportRequest, files: Iterable[str]) -> record.Record:
        """What exports.json says of it. files: names of its graphs."""
        passed, says = self.passed, bench.trial.says
        return record.Record(
            request.target, request.precision, request.fuse, opset_of(request.precision), fingerprint(bench.root),
            record.hashes(bench.root, files), self.ran, record.machine(), record.versions(VERSIONS),
            [_plain(row) for row in passed.parity],
            {name: _plain(row) | dict(says.get(name, {})) for name, row in passed.run.items()},
            None if passed.domain is None else dataclasses.asdict(passed.domain),
            [_plain(row) for row in passed.speed],
        )  # fmt: skip


def _plain(row: Any) -> dict[str, object]:
    """A row as JSON has it, of four digits."""
    plain = dataclasses.asdict(row)
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in plain.items()}


def accept(bench: Bench, request: ExportRequest) -> Accepted:
    """Try the graphs that were written. Errors: a gate that is not passed."""
    if request.fuse != "none":
        return _accept_fused(bench, request)
    as_typed = []
    if request.precision == "fp16":
        # Every operator in the type that it states: ONNX Runtime's CPU, which runs these graphs, takes fp32 instead.
        rows = verify(bench.reference, typed.open(bench.root, "fp16"), "fp16", bench.trial.sigmas)
        as_typed = [dataclasses.replace(row, output=f"{row.output}, as typed") for row in rows]
    found = _accept_graphs(bench, request)
    return Accepted(found.ran, dataclasses.replace(found.passed, parity=[*as_typed, *found.passed.parity]))


def _accept_graphs(bench: Bench, request: ExportRequest) -> Accepted:
    """The graphs run by their target or, where it is not here, by another."""
    judge = functools.partial(gate.check, bench.reference, trial=bench.trial, precision=request.precision)
    if (request.target, request.precision) == ("onnx", "bf16"):
        with staging.in_one_precision(bench.root, "bf16") as folder:
            candidate = _open_bf16(folder)
            return Accepted(candidate.backend, judge(candidate))
    tensorrt = request.target == "tensorrt"
    candidate = None if tensorrt and not _has_gpu() else backends.open_as(bench.root, request.target, request.precision)
    if candidate is None or (tensorrt and not candidate.backend.startswith("tensorrt")):
        return _accept_graphs(bench, dataclasses.replace(request, target="onnx"))
    return Accepted(candidate.backend, judge(candidate))


def _has_gpu() -> bool:
    """Whether TensorRT and a GPU are here; if not, a line says so."""
    try:
        engine.library()
        engine.gpu()
    except Error as problem:
        warnings.warn(f"Engines are to be built on the device, from these graphs. {problem}", Note, stacklevel=2)
        return False
    return True


def _open_bf16(root: Path) -> Model:
    """Graphs whose bodies are bf16: ONNX Runtime's CPU runs none, OpenVINO does where the machine computes in it."""
    if not openvino.supports("bf16"):
        raise Error(
            "Graphs in bf16 are tried by openvino on a CPU that computes in it (AVX512-BF16 or AMX), and one of the two is "
            "not here. Install it, pip install 'diffgraft[openvino]', or take --precision fp16."
        )
    return openvino.open(root, precision="bf16")


def _accept_fused(bench: Bench, request: ExportRequest) -> Accepted:
    """A fused graph against the loop that it stands for. What images show is judged of the graphs that it is made of."""
    backend = "openvino" if request.precision == "bf16" else "onnx"
    if request.target == "tensorrt":
        _has_gpu()
    try:
        rows = agreement.check(bench.root, bench.reference, request.fuse, request.precision, backend)
    except RuntimeError as problem:
        words = " ".join(str(problem).split())[:200]
        raise Error(
            f"A fused graph has to run where it is tried; {backend} does not run this one: {words}"
        ) from problem
    parts = [r for r in record.read(bench.root) if (r.precision, r.fuse) == (request.precision, "none")]
    found: list[Mapping] = [part.domain for part in parts if part.domain]
    domain = DomainMetric(**found[0]) if found else None
    passed = GateResult(rows, {}, domain, [_image_speed(bench, request, backend)])
    return Accepted(f"{backend}:{request.precision}", passed)


def _image_speed(bench: Bench, request: ExportRequest, backend: str) -> Speed:
    """Of one image by the fused graph, and by the loop over the reference."""
    run = fused.open(bench.root, request.fuse, request.precision, backend)
    reference, plan = bench.reference, run.plan
    cond = sample_conditions(reference.denoiser.spec, 1)
    if plan.healing is None:
        null = agreement.null_fields(reference.denoiser.spec, cond)
        by_loop = functools.partial(agreement.reference_images, reference, plan, cond, null, 0, [0])
        return gate.time_pair(1, by_loop, lambda: run(0, [0], cond, null), ROUNDS)
    cond[plan.healing.label] = np.zeros_like(cond[plan.healing.label])
    image = np.zeros((1, *image_shape(reference.meta)), np.float32)
    by_loop = functools.partial(agreement.reference_counterfactuals, reference, plan, image, cond)
    return gate.time_pair(1, by_loop, lambda: run(image, cond), ROUNDS)
