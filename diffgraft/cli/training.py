"""Verbs that make models: train and distill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffgraft
from diffgraft.cli.command import Command
from diffgraft.cli.console import Answer, Console, need
from diffgraft.cli.options import FILMS, SAMPLING, TRAINING, Argument, Option, backend, domain
from diffgraft.requests.training import OBJECTIVES, DistillationRequest, TrainingRequest

__all__ = ["VERBS"]

PARTS = ("denoiser", "classifier", "codec", "features", "text", "detector", "embedding")

TRAIN = {
    "domain": domain(),
    "data": Argument("Data set folder, from prepare."),
    "model": Argument("Model folder; parts are added to it."),
    "part": Option("denoiser, classifier, codec, features, text, detector or embedding.", complete=PARTS),
    "preset": Option("Size and length of the training."),
    "base": Option("Model, or Stable Diffusion pipeline folder, whose weights a new one begins with.", "--from"),
    "steps": Option("Instead of the preset's.", panel=TRAINING),
    "batch": Option("Instead of the preset's.", panel=TRAINING),
    "learning_rate": Option("Instead of the preset's.", panel=TRAINING),
    "fold": Option("Fold of patients kept back, 0 to 3; -1 trains on all.", panel=TRAINING),
    "seed": Option("Instead of the preset's.", panel=TRAINING),
    "lora": Option("Rank: train low-rank changes of the attention alone, and merge them (LoRA).", panel=TRAINING),
    "adversary": Option("Of the codec: weight of a discriminator that keeps texture; 0 is none.", panel=TRAINING),
    "adversary_start": Option("Step from which on it takes part.", panel=TRAINING),
    "joint": Option("Train the text encoder along with the denoiser, instead of frozen.", "--joint", panel=FILMS),
}

DISTILL = {
    "model": Argument("Model folder: the teacher."),
    "out": Argument("New folder: the model with a student in it."),
    "settings.steps": Option("Evaluations of the student, in each direction."),
    "like": Option("Data set whose labels are asked for; scans to be changed come from it."),
    "settings.objective": Option(
        "leap: to the next level; consistency: to the end of the path, sampled with fresh noise.",
        complete=OBJECTIVES,
    ),
    "guidance": Option("Folded in; the model's own unless given.", panel=SAMPLING),
    "classifier_guidance": Option("Folded in: scale of the classifier's gradient, for scans.", panel=SAMPLING),
    "settings.paths": Option("Of the teacher, to learn from.", panel=TRAINING),
    "settings.fine": Option("Steps of the teacher for one of the student.", panel=TRAINING),
    "settings.rank": Option("Of the changes to each layer.", panel=TRAINING),
    "train_steps": Option("Training steps, instead of 3000.", panel=TRAINING),
    "batch": Option("Instead of 32.", panel=TRAINING),
    "learning_rate": Option("Instead of 0.001.", panel=TRAINING),
    "settings.seed": Option("Of the noise.", panel=TRAINING),
    "backend": backend(),
}


def train(request: TrainingRequest, console: Console) -> Answer:
    """Train one part of a model. Run the same command again to continue after a stop."""
    need("torch", "train")
    from diffgraft.models import domain

    facts = console.run(diffgraft.train, request)
    if "frozen" in facts:
        console.say(f"{request.part}: {facts['parameters']:,} parameters of {request.base}, frozen")
        next_step = f"diffgraft train {request.domain} {request.data} {request.model}"
        return Answer(next_step, {"model": request.model}, facts)
    samples, groups = domain(request.domain).UNITS
    answer = _trained(request.model, request.part, facts, f"diffgraft export {request.model} --to onnx")
    console.say(
        f"{request.part}: {facts['parameters']:,} parameters, {facts['samples']} {samples} of {facts['groups']} {groups}, "
        f"{len(facts['held_out_groups'])} {groups} kept back, {facts['seconds']} s; report {answer.paths['report']}"
    )
    return answer


def distill(request: DistillationRequest, console: Console) -> Answer:
    """A few-step student of a model, with its guidance folded in. Run the same command again to continue after a stop."""
    need("torch", "train")
    facts = console.run(diffgraft.distill, request)
    for sigma, error in facts["error"].items():
        console.say(f"sigma {sigma:8} error of the answer {error:.3f} of its spread, on paths kept back")
    next_step = f"diffgraft evaluate steps DATA {request.out} --out REPORT; diffgraft export {request.out} --to onnx"
    answer = _trained(request.out, "student", facts, next_step)
    console.say(
        f"student of {request.settings.steps} steps: {facts['parameters']:,} parameters of its own, {facts['seconds']} s; "
        f"report {answer.paths['report']}"
    )
    return answer


def _trained(model: Path, part: str, facts: Mapping[str, Any], next_step: str) -> Answer:
    """What is to be said of a training, without the names of what it was trained on."""
    figures = {name: value for name, value in facts.items() if name not in ("trained_on", "held_out_groups")}
    return Answer(next_step, {"model": model, "report": model / "training" / part / "report.html"}, figures)


VERBS = (
    Command(train, TrainingRequest, TRAIN, "diffgraft train brain_mri work/mri models/mine --part classifier"),
    Command(
        distill, DistillationRequest, DISTILL,
        "diffgraft distill models/plant_disease models/fast --steps 4;   of a model that changes scans: diffgraft distill "
        "models/brain_mri models/fast --steps 4 --like work/mri",
    ),
)  # fmt: skip
