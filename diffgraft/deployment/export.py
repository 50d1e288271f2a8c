"""Export a model folder: its graphs, tried before they are kept, or a pipeline of diffusers.

Graphs are written into a copy of the model's files and tried there; only if everything that was requested passes do the new
files and what was measured of them (exports.json) reach the model folder. A failed gate leaves it as it was.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
from toolkit.models import published
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

    out: a new folder that is written instead: a model folder with its graphs, which a Stable Diffusion pipeline and a checkpoint
    in one file need; for diffusers the model as such a pipeline, with low-rank changes folded in. What was
    measured is kept in the folder's exports.json (export.record).
    """
    root, out = request.model, request.out
    _check_source(request)  # what is no model is refused before torch is loaded
    if importlib.util.find_spec("torch") is None:
        raise Error("Exporting needs torch, which is not installed: pip install 'diffgraft[train]'")
    is_pipeline = pipeline_folder.is_pipeline(root) or root.is_file()
    if out is None and (is_pipeline or request.target == "diffusers"):
        raise Error(
            f"What becomes another kind of folder needs a new one: diffgraft export {root} OUT --to {request.target}"
        )
    if out is None:
        return _export_graphs(root, request)  # exports.json says all that was requested
    weights = "" if is_pipeline else fingerprint(root)
    if request.target == "diffusers":
        _write_pipeline(request, out)
        request_record.save(out, "export", request, weights)
        return ExportResult(sorted(out.rglob("*.safetensors")), [])
    with dataset.staged_folder(out) as folder:
        if is_pipeline:
            from toolkit.networks import pipeline

            with _whole_pipeline(request, out) as source:
                pipeline.convert(source, folder, channels=1)
        else:
            shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)
        result = _export_graphs(folder, request)
        request_record.save(folder, "export", request, weights)
    return ExportResult([out / path.name for path in result.written], result.parity)


def _check_source(request: ExportRequest) -> None:
    """Refuse what is no model, and what does not go with the kind that it is."""
    root = request.model
    if root.is_file():
        if published.is_checkpoint(root):
            return
        raise published.refusal(root)
    models.meta(root)
    if request.like is not None or request.prediction is not None:
        raise Error(f"--like and --prediction are for a checkpoint in one file; {root} is a folder. Leave them out.")
    if request.lora and not pipeline_folder.is_pipeline(root):
        raise Error(
            f"Low-rank changes in files are folded into the checkpoint of Stable Diffusion that they were made for; {root} is a "
            "model folder. Name the pipeline or the file that it came from: diffgraft export PIPELINE OUT --to diffusers --lora FILE"
        )


def _write_pipeline(request: ExportRequest, out: Path) -> None:
    """A model folder, a pipeline folder or a checkpoint in one file as a pipeline folder."""
    if pipeline_folder.is_pipeline(request.model) or request.model.is_file():
        from toolkit.networks.checkpoints import writing

        writing.write_pipeline(request.model, out, request.lora, request.like, request.prediction)
    else:
        from toolkit.networks import pipeline_save

        pipeline_save.save(request.model, out)


@contextmanager
def _whole_pipeline(request: ExportRequest, out: Path) -> Iterator[Path]:
    """The pipeline folder of a request: its own, or one beside `out` for as long as it is needed."""
    if pipeline_folder.is_pipeline(request.model) and not request.lora:
        yield request.model
        return
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
        _write_pipeline(request, Path(place) / "pipeline")
        yield Path(place) / "pipeline"


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
