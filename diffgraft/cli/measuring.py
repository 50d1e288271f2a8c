"""Verbs that measure: evaluate, a verb for each question, and audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

import diffgraft
from diffgraft.cli.command import Command, register
from diffgraft.cli.console import Answer, Console, need
from diffgraft.cli.evaluate_group import EvaluateGroup
from diffgraft.cli.exits import Exit
from diffgraft.cli.options import (
    OVERWRITE,
    TRAINING,
    Argument,
    Option,
    backend,
    names,
    numbers,
    pairs,
    samplers,
)
from diffgraft.requests.evaluation import (
    DETECTION_ARMS,
    AlignmentRequest,
    AnomalyRequest,
    AuditRequest,
    ClassificationRequest,
    DetectionRequest,
    DistributionRequest,
    StepsRequest,
)

__all__ = ["QUESTIONS", "VERBS", "evaluate"]

REAL, SYNTHETIC = Argument("Data set of real samples."), Argument("Synthetic data set.")
SHARED = {
    "out": Option("New folder for report.html and metrics.json."),
    "beside": Option("NAME=FOLDER, another one to measure beside it; repeat.", kind=list[str], read=pairs),
    "overwrite": OVERWRITE,
}
MODEL = Option("Model that made what is measured, where that does not say what it was trained on.")
NETWORK = {
    "model": Option("The model: its feature network, and what it was trained on."),
    "features": Option("Feature network as an ONNX file, instead of the model's."),
}
FEW_SHOT = Argument("Synthetic data set, or folder of few-shot ones k<shots>-s<seed>.")
TRAININGS = {
    "seeds": Option("Trainings of each kind.", panel=TRAINING),
    "steps": Option("Of every training.", panel=TRAINING),
    "fold": Option("Fold that tests and is never trained on; the domain's own unless given.", panel=TRAINING),
}
LABEL = Option("Label to tell; class, or every finding of films, unless given.")

ANOMALY = {
    "scans": Argument("Scans with lesion masks, or one of them; or a data set prepared from them."),
    "maps": Argument("Output of counterfactual."),
    "atlas": Option("Data set of training patients, for the healthy-atlas baseline."),
    "calibrate": Option("Model folder that is given the threshold found here."),
    "model": Option("Model that made the maps, where they do not lead to it."),
    "only": Option("Text file of the patients to take, one name a line.", kind=Path),
    **SHARED,
}
DISTRIBUTION = {
    "real": REAL,
    "synthetic": SYNTHETIC,
    **NETWORK,
    "split": Option("Compare with the held-out part of REAL, or all.", complete=("held-out", "all")),
    **SHARED,
}
CLASSIFY = {
    "real": REAL,
    "synthetic": FEW_SHOT,
    "label": LABEL,
    "shots": Option("Real samples of each class, 0 (or nothing) for all; repeat."),
    "model": MODEL,
    **SHARED,
    **TRAININGS,
}
DETECT = {
    "real": REAL,
    "synthetic": FEW_SHOT,
    "arms": Option(
        "real, classical, copy-paste, 10, 50, only, pretrained; all unless given; repeat.",
        complete=DETECTION_ARMS,
    ),
    "shots": Option("Real images, 0 (or nothing) for all; repeat."),
    "model": MODEL,
    **SHARED,
    **TRAININGS,
}
ALIGNMENT = {"real": REAL, "synthetic": SYNTHETIC, "label": LABEL, "model": MODEL, **SHARED, **TRAININGS}
STEPS = {
    "data": Argument("Data set of real samples, or scans."),
    "model": Argument("Model folder."),
    "out": Option("Folder for report.html and metrics.json; curves that are in it are added to."),
    "counts": Option("Of the solvers, as 1,2,4,8,20,50.", "--steps", kind=str, read=numbers),
    "samplers": Option(
        "Solvers, as euler,dpmpp_2m,heun,dpmpp_2m_sde, which is the default.", kind=str, read=names, complete=samplers
    ),
    "count": Option("Images of each (96), or scans (all that are held out).", "-n --count"),
    "student": Option("Folder whose few-step student stands beside; the model's own."),
    "backend": backend(panel=""),
    "overwrite": OVERWRITE,
}
AUDIT = {
    "train": Argument("Data set that the model was trained on."),
    "synthetic": Argument("Data set of what the model made."),
    "holdout": Option("Real data set that was not trained on, instead of what TRAIN kept back."),
    **NETWORK,
    "out": SHARED["out"],
    "overwrite": OVERWRITE,
}


def _cached(given: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Features are kept for the next run."""
    from diffgraft.models.features import cache_folder

    if "cache" not in values:
        given["cache"] = cache_folder()


def _shown(result: Any, request: Any, console: Console, next_step: str) -> Answer:
    """The table of an evaluation, and where its report is."""
    console.say(result)
    report = None if request.out is None else request.out / "report.html"
    if report is not None:
        console.say(f"report {report}")
    return Answer(next_step, paths={"out": request.out, "report": report}, figures=result.numbers)


def anomaly(request: AnomalyRequest, console: Console) -> Answer:
    """Anomaly maps against lesion masks, beside the trivial baselines."""
    result = console.run(diffgraft.evaluate_anomaly, request)
    return _shown(
        result, request, console, "compare the settings that move these numbers: diffgraft counterfactual --help"
    )


def distribution(request: DistributionRequest, console: Console) -> Answer:
    """How far synthetic images are from real ones: KID, FID, precision, recall, density, coverage."""
    result = console.run(diffgraft.evaluate_distribution, request)
    model = "" if request.model is None else f" --model {request.model}"
    return _shown(result, request, console, f"diffgraft audit {request.real} {request.synthetic}{model}")


def classify(request: ClassificationRequest, console: Console) -> Answer:
    """What synthetic samples do for a classifier, tested on real ones that nothing was trained on."""
    need("torch", "train")
    result = console.run(diffgraft.evaluate_classification, request)
    return _shown(result, request, console, f"diffgraft evaluate alignment {request.real} {request.synthetic}")


def detect(request: DetectionRequest, console: Console) -> Answer:
    """What synthetic pictures do for a detector, tested on real ones that nothing was trained on."""
    need("torch", "train")
    result = console.run(diffgraft.evaluate_detection, request)
    return _shown(result, request, console, f"diffgraft evaluate alignment {request.real} {request.synthetic}")


def alignment(request: AlignmentRequest, console: Console) -> Answer:
    """Whether images show what they were asked to show: their class, their findings or their boxes."""
    need("torch", "train")
    from diffgraft.evaluation.real import has_layouts

    result = console.run(diffgraft.evaluate_alignment, request)
    question = "detect" if has_layouts(request.real) else "classify"
    return _shown(result, request, console, f"diffgraft evaluate {question} {request.real} {request.synthetic}")


def steps(request: StepsRequest, console: Console) -> Answer:
    """In how few steps a model is as good: quality against the number of steps, and its few-step student beside."""
    result = console.run(diffgraft.evaluate_steps, request)
    return _shown(result, request, console, f"diffgraft distill {request.model} OUT --steps 4")


def audit(request: AuditRequest, console: Console) -> Answer:
    """Find copies of training images among generated ones; exit status 1 where planted copies are not found either."""
    result = console.run(diffgraft.audit, request)
    answer = _shown(
        result, request, console, "leave copies out from the start: diffgraft generate MODEL OUT --reject-copies TRAIN"
    )
    if not result.audit.valid:
        console.error(result.verdict)
        return dataclasses.replace(answer, next="", code=Exit.REFUSED)
    return answer


evaluate = typer.Typer(
    name="evaluate",
    cls=EvaluateGroup,
    rich_markup_mode=None,
    help="Measure what was made: anomaly maps against masks, or synthetic samples against real ones and by what they are "
    "good for, beside the trivial baselines.",
    epilog="Example: diffgraft evaluate anomaly scans/ out/ --out report/;   does it help a classifier: diffgraft evaluate "
    "classify work/coffee made/ --shots 10 --shots 0 --out report/",
)
QUESTIONS = (
    Command(
        anomaly, AnomalyRequest, ANOMALY, report=True,
        example="diffgraft evaluate anomaly scans/ out/ --out report/",
    ),
    Command(
        distribution, DistributionRequest, DISTRIBUTION, report=True, amend=_cached,
        example="diffgraft evaluate distribution work/coffee made/ --model models/mine --out report/",
    ),
    Command(
        classify, ClassificationRequest, CLASSIFY, report=True,
        example="diffgraft evaluate classify work/coffee made/ --shots 10 --shots 0 --out report/",
    ),
    Command(
        detect, DetectionRequest, DETECT, report=True,
        example="diffgraft evaluate detect work/cells made/ --shots 20 --shots 0 --out report/",
    ),
    Command(
        alignment, AlignmentRequest, ALIGNMENT, report=True, amend=_cached,
        example="diffgraft evaluate alignment work/coffee made/ --out report/",
    ),
    Command(
        steps, StepsRequest, STEPS, report=True,
        example="diffgraft evaluate steps work/coffee models/plant_disease --out report/",
    ),
)  # fmt: skip
for _command in QUESTIONS:
    register(evaluate, _command)

VERBS = (
    Command(
        audit, AuditRequest, AUDIT, report=True, amend=_cached,
        example="diffgraft audit work/coffee out/ --model models/mine --out report/",
    ),
)  # fmt: skip
