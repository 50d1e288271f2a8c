"""A few-step student of a model, learned from the model's own guided paths; running the same command again continues it.

The student becomes a part of a copy of the model: low-rank changes of the denoiser, the levels it was made for and what
guidance it has folded in. Everything else of the model stays as it is, and the teacher remains in it.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from diffgraft import models, reporting
from diffgraft.generation import sampling
from diffgraft.models.defaults import default_sampling
from diffgraft.requests import DistillationRequest, record
from diffgraft.requests.base import overrides
from diffgraft.requests.verb import Call, verb
from diffgraft.training import report, teacher_paths
from diffgraft.training.parts.part import loss_watch
from toolkit.data import dataset
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.methods.counterfactual import check_settings
from toolkit.models.folder import hash_id, plain_meta, read_meta, spec_of, training_ids
from toolkit.networks import folder
from toolkit.networks.student import merge_state, student_state
from toolkit.settings import Augmentation, Counterfactual, Sampling, Training
from toolkit.training.distilling import ANSWER, OBJECTIVES, SIGMA, Objective, distillation, leap_batch
from toolkit.training.loader import Batch, concatenate
from toolkit.training.loop import Samples, fit

__all__ = ["TRAINING", "distill", "newly_trained_on"]

TRAINING = Training(steps=3000, batch=32, learning_rate=1e-3, weight_decay=0.0, ema=0.998, checkpoint_every=250)
"""How a student is trained."""

HELD_OUT = 0.06
"""Part of the paths that is kept back, to see how well the student does on new ones."""

SAMPLERS = {"leap": "euler", "consistency": "consistency"}
"""Objective -> what a student of it is sampled with."""

LEFT_OUT = (record.FILE, "exports.json", "student.safetensors")
"""Files of a model that are of no use in a copy, beside its graphs."""


@verb(DistillationRequest)
def distill(request: DistillationRequest, call: Call) -> dict[str, Any]:
    """Make a copy of the model with a student in it; returns the facts of the run.

    guidance, classifier_guidance: what is folded in, the model's own defaults where None. like: a data set whose samples
    the paths show; a model whose scans are changed needs it, the others compose their conditions.
    Errors: another model or a student of other settings in `out`, settings that make no sense.
    """
    begun, root, out = time.monotonic(), request.model, request.out
    domain = models.domain_of(root)
    _check(domain, request)
    _copy_model(root, out)
    teacher, place, settings = models.open(root, request.backend), out / "training" / "student", request.settings
    training = dataclasses.replace(TRAINING, **request.changes)
    guided, entry, compute = _teacher(teacher, domain, request)
    entry |= {
        "network": teacher.meta["parts"]["denoiser"]["network"], "rank": settings.rank, "guidance": guided.guidance,
        "steps": settings.steps, "sampler": SAMPLERS[settings.objective], "distillation": settings, "training": training,
    }  # fmt: skip
    meta = read_meta(root)
    meta = plain_meta(meta | {"parts": meta["parts"] | {"student": entry}})
    origin = str((dataclasses.asdict(settings), dataclasses.asdict(guided), teacher.fingerprint))
    paths = teacher_paths.load_or_compute(place, compute, settings, origin, call.watch)
    samples = _samples(paths, OBJECTIVES[settings.objective])
    torch.manual_seed(settings.seed)
    student = folder.build("student", meta)
    student.load_state_dict(_initial_weights(student, folder.load_part(root, "denoiser").state_dict()))
    average = fit(student, distillation, samples, spec_of(meta), training, place, loss_watch(call, "student"))
    learned = student_state(student, average)
    errors = _errors(folder.round_trip("student", meta, average), samples.held_out)
    facts: dict[str, Any] = {
        "samples": settings.paths, "groups": settings.paths, "held_out_groups": [],
        "trained_on": newly_trained_on(teacher, request.like),
        "parameters": sum(weight.numel() for weight in learned.values()), "seconds": round(time.monotonic() - begun),
        "teacher": teacher.fingerprint[:16],
        "error": {f"{sigma:.3g}": round(error, 4) for sigma, error in errors.items()},
    }  # fmt: skip
    meta["parts"]["student"]["run"] = facts
    folder.save_part(out, "student", learned, meta)
    rows = [[f"{sigma:.3g}", error] for sigma, error in errors.items()]
    table = reporting.Table(["sigma", "error of the answer, in standard deviations of it"], rows, "On paths kept back")
    report.write(place, "student", facts, [table], meta["parts"]["student"], training, domain.NOTICE)
    record.save(place, "distill", request, teacher.fingerprint)
    return facts


def _check(domain: ModuleType, request: DistillationRequest) -> None:
    """What has to hold of a request for a model that changes scans."""
    if not hasattr(domain, "QUALITY"):
        return
    if request.settings.objective != "leap":
        raise Error("Encoding a scan is deterministic, and so is its student: leave --objective consistency out.")
    if request.like is None:
        raise Error("A model that changes scans learns from its ways up and down for real ones. Name them: --like DATA")


def _copy_model(root: Path, out: Path) -> None:
    """A copy of the model without graphs and trainings; one that is there is gone on with."""
    if not (out / "model.json").is_file():
        if out.exists() and any(out.iterdir()):
            raise Error(f"A student goes into a new folder; {out} is there and is no model. Name another.")
        with dataset.staged_folder(out, True, (), (root,)) as fresh:
            for path in root.iterdir():
                if path.is_file() and path.suffix != ".onnx" and path.name not in LEFT_OUT:
                    shutil.copyfile(path, fresh / path.name)
    ours, theirs = (
        {name: entry for name, entry in read_meta(place)["parts"].items() if name != "student"} for place in (out, root)
    )
    if ours != theirs:
        raise Error(f"The model in {out} is another than {root}. Name a new folder.")


def _teacher(
    model: Model, domain: ModuleType, request: DistillationRequest
) -> tuple[Sampling | Counterfactual, dict[str, Any], teacher_paths.Compute]:
    """The teacher's settings, with what is folded in; how the student is sampled; the teacher's paths."""
    settings = request.settings
    if not hasattr(domain, "QUALITY"):
        guided = dataclasses.replace(default_sampling(model.meta, student=False), **overrides(request, "guidance"))
        lowest = sampling.sigma_schedule(model, guided)[-2]
        levels = teacher_paths.student_levels(settings.steps, sampling.highest_sigma(model), lowest)
        compute = teacher_paths.generation_paths(model, domain, guided, levels, settings, request.like)
        return guided, {"levels": levels}, compute
    changes = overrides(request, "guidance", "classifier_guidance")
    quality = dataclasses.replace(domain.QUALITY["default"], steps=settings.steps, **changes)
    check_settings(quality)
    entry = {name: getattr(quality, name) for name in ("strengths", "classifier_guidance", "guidance_low")}
    assert request.like is not None, "checked before"
    return quality, entry, teacher_paths.counterfactual_paths(model, domain, quality, settings, request.like)


def _samples(paths: Sequence[teacher_paths.TeacherPath], objective: Objective) -> Samples:
    """What is learned from, and what is kept back: the last paths. Levels of different walks are classes of their own."""
    rows = [leap_batch(objective, path.states, path.levels, dict(path.cond)) for path in paths]
    kinds = {levels: n for n, levels in enumerate(dict.fromkeys(tuple(path.levels) for path in paths))}
    most = 1 + max(int(batch.target.max()) for batch in rows)
    rows = [
        dataclasses.replace(batch, target=batch.target + most * kinds[tuple(path.levels)])
        for batch, path in zip(rows, paths, strict=True)
    ]
    back = max(len(kinds), round(HELD_OUT * len(rows)) // len(kinds) * len(kinds))
    return Samples(concatenate(rows[:-back]), concatenate(rows[-back:]), Augmentation())


def _initial_weights(student: torch.nn.Module, teacher: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a fresh student of a teacher."""
    fresh = student.state_dict()
    return merge_state(
        teacher, {k: v for k, v in fresh.items() if ".parametrizations." in k and not k.endswith(".original")}
    )


@torch.no_grad()
def _errors(student: torch.nn.Module, batch: Batch) -> dict[float, float]:
    """Root mean square error of the answers at each level, in standard deviations of the answers there."""
    found = {}
    for sigma in sorted(set(batch.cond[SIGMA].tolist()), reverse=True):
        rows = batch[torch.nonzero(batch.cond[SIGMA] == sigma)[:64, 0]]
        cond = dict(rows.cond)
        level, answer = cond.pop(SIGMA), cond.pop(ANSWER)
        error = student(rows.image, level, **cond) - answer
        found[sigma] = float((error**2).mean().sqrt() / answer.std())
    return found


def newly_trained_on(teacher: Model, like: Path | None) -> list[str]:
    """Hashes of the samples that paths were begun from and that the teacher was not trained on itself."""
    known = training_ids(teacher.meta, ("denoiser",)) or set()
    return (
        [] if like is None else sorted({hash_id(e.id) for e in teacher_paths.training_examples(teacher, like)} - known)
    )
