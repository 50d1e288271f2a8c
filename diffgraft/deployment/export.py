"""Export a model folder: its graphs, tried before they are kept, or a pipeline of diffusers.

Graphs are written into a copy of the model's files and tried there; only if everything that was requested passes do the new
files and what was measured of them (exports.json) reach the model folder. A failed gate leaves it as it was.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from diffgraft import models
from diffgraft.deployment.staging import file_stamps, staged_copy
from diffgraft.requests import ExportRequest
from diffgraft.requests import record as request_record
from diffgraft.requests.verb import Call, verb
from export import record
from export.verify import Parity
from toolkit.data import dataset
from toolkit.example import Error
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import fingerprint

__all__ = ["ExportResult", "export"]

NOT_COPIED = (
    "training", request_record.FILE, record.FILE, "*.onnx", "*.int8.xml", "*.int8.bin", "step*.json",
    "sampler*.json",
)  # fmt: skip
"""Patterns of what belongs to a model folder but not to the model: its history, and all that exports write."""


class ExportResult(NamedTuple):
    """written: the new files. parity: how far each output is from the model's in torch."""

    written: list[Path]
    parity: list[Parity]


@verb(ExportRequest)
def export(request: ExportRequest, call: Call) -> ExportResult:
    """Write the graphs of a model folder into it and try them against torch; a failed gate leaves none behind.

    out: a new folder that is written instead: a model folder with its graphs, which a Stable Diffusion pipeline needs; for
    diffusers the model as such a pipeline. What was measured is kept in the folder's exports.json (export.record).
    """
    root, out = request.model, request.out
    models.meta(root)  # what is no model is refused before torch is loaded
    if importlib.util.find_spec("torch") is None:
        raise Error("Exporting needs torch, which is not installed: pip install 'diffgraft[train]'")
    is_pipeline = pipeline_folder.is_pipeline(root)
    if out is None and (is_pipeline or request.target == "diffusers"):
        raise Error(
            f"What becomes another kind of folder needs a new one: diffgraft export {root} OUT --to {request.target}"
        )
    if out is None:
        return _export_graphs(root, request)  # exports.json says all that was requested
    weights = "" if is_pipeline else fingerprint(root)
    if request.target == "diffusers":
        from toolkit.networks import pipeline_save

        pipeline_save.save(root, out)
        request_record.save(out, "export", request, weights)
        return ExportResult(sorted(out.rglob("*.safetensors")), [])
    with dataset.staged_folder(out) as folder:
        if is_pipeline:
            from toolkit.networks import pipeline

            pipeline.convert(root, folder, channels=1)
        else:
            shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)
        result = _export_graphs(folder, request)
        request_record.save(folder, "export", request, weights)
    return ExportResult([out / path.name for path in result.written], result.parity)


def _export_graphs(root: Path, request: ExportRequest) -> ExportResult:
    """Write, try and keep one export, and those that it is made of where they are not there.

    Errors: a gate that is not passed; the folder is then as before.
    """
    from diffgraft.deployment.acceptance import Bench, accept
    from diffgraft.deployment.graphs import prerequisites, write_graphs
    from diffgraft.deployment.trial import trial_of

    with staged_copy(root) as folder:
        before = file_stamps(folder)
        reference = models.open(folder, "torch")
        bench = Bench(folder, reference, trial_of(reference, models.domain_of(folder)))
        parity: list[Parity] = []
        for each in (*prerequisites(folder, request), request):
            files = write_graphs(folder, each)
            accepted = accept(bench, each)
            record.add(folder, accepted.as_record(bench, each, files))
            parity += accepted.rows
        names = sorted(name for name, stamp in file_stamps(folder).items() if before.get(name) != stamp)
        for name in names:
            os.replace(folder / name, root / name)
    return ExportResult([root / name for name in names if name != record.FILE], parity)
