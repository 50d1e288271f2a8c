"""diffgraft: diffusion-model data augmentation for medical and agricultural imaging.

A verb of the command line is a function here. It takes its request, or the fields of it, reads folders, writes a folder and
returns what came of it:

    import diffgraft

    made = diffgraft.generate("models/plant_disease", "out", {"condition": "rust"}, count=8)
    print(made.count, "images in out, seen best in out/report.html")

    request = diffgraft.CounterfactualRequest("models/brain_mri", "scan.nii.gz", "maps", quality="fast")
    for scan in diffgraft.counterfactual(request).scans:
        print(scan.label, scan.most_abnormal)

Every one also takes watch(text, done, of), which is called as work goes on, and tell(line), which is told what was resolved
before it begins. What cannot be done is a diffgraft.Error: one line that says the rule, what was found and the remedy.

Data        prepare, convert: raw files to a data set folder, and between formats of boxes
Models      train, distill, export: parts of a model, its few-step student, its graphs for other runtimes
            open: a model folder on the runtime that is there, to compute with it directly
Images      generate, edit, counterfactual: new images, changed real ones, healthy counterfactuals of scans with anomaly maps
Evaluation  evaluate_anomaly, evaluate_distribution, evaluate_classification, evaluate_detection, evaluate_alignment,
            evaluate_steps; audit: copies of training images among generated ones
Records     replay: a result made again from the request.json beside it, and compared
            methods: the published methods that are there

A request is a frozen dataclass named like its verb, GenerationRequest, with every field documented there; it is saved whole as
request.json beside the result. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from diffgraft.cli.methods import methods
    from diffgraft.cli.replay import replay
    from diffgraft.counterfactuals.counterfactual import counterfactual
    from diffgraft.deployment.export import export
    from diffgraft.editing.edit import edit
    from diffgraft.evaluation.alignment import alignment as evaluate_alignment
    from diffgraft.evaluation.anomaly.evaluate import evaluate_anomaly
    from diffgraft.evaluation.audit.search import audit
    from diffgraft.evaluation.boxes.experiment import detect as evaluate_detection
    from diffgraft.evaluation.classify import classify as evaluate_classification
    from diffgraft.evaluation.distribution.compare import evaluate_distribution
    from diffgraft.evaluation.steps.experiment import evaluate_steps
    from diffgraft.generation.generate import generate
    from diffgraft.models.open import open
    from diffgraft.preparation.convert import convert
    from diffgraft.preparation.prepare import prepare
    from diffgraft.requests import (
        AlignmentRequest,
        AnomalyRequest,
        AuditRequest,
        ClassificationRequest,
        ConversionRequest,
        CounterfactualRequest,
        DetectionRequest,
        DistillationRequest,
        DistributionRequest,
        EditRequest,
        ExportRequest,
        GenerationRequest,
        LayoutOptions,
        PreparationRequest,
        ReplayRequest,
        StepsRequest,
        TrainingRequest,
    )
    from diffgraft.training.distill import distill
    from diffgraft.training.train import train
    from toolkit.example import Error

__all__ = [
    "AlignmentRequest", "AnomalyRequest", "AuditRequest", "ClassificationRequest", "ConversionRequest",
    "CounterfactualRequest", "DetectionRequest", "DistillationRequest", "DistributionRequest", "EditRequest", "Error",
    "ExportRequest", "GenerationRequest", "LayoutOptions", "PreparationRequest", "ReplayRequest", "StepsRequest",
    "TrainingRequest", "__version__", "audit", "convert", "counterfactual", "distill", "edit", "evaluate_alignment",
    "evaluate_anomaly", "evaluate_classification", "evaluate_detection", "evaluate_distribution", "evaluate_steps", "export",
    "generate", "methods", "open", "prepare", "replay", "train",
]  # fmt: skip

_PLACES = {
    "Error": "toolkit.example.Error",
    "audit": "diffgraft.evaluation.audit.search.audit",
    "convert": "diffgraft.preparation.convert.convert",
    "counterfactual": "diffgraft.counterfactuals.counterfactual.counterfactual",
    "distill": "diffgraft.training.distill.distill",
    "edit": "diffgraft.editing.edit.edit",
    "evaluate_alignment": "diffgraft.evaluation.alignment.alignment",
    "evaluate_anomaly": "diffgraft.evaluation.anomaly.evaluate.evaluate_anomaly",
    "evaluate_classification": "diffgraft.evaluation.classify.classify",
    "evaluate_detection": "diffgraft.evaluation.boxes.experiment.detect",
    "evaluate_distribution": "diffgraft.evaluation.distribution.compare.evaluate_distribution",
    "evaluate_steps": "diffgraft.evaluation.steps.experiment.evaluate_steps",
    "export": "diffgraft.deployment.export.export",
    "generate": "diffgraft.generation.generate.generate",
    "methods": "diffgraft.cli.methods.methods",
    "open": "diffgraft.models.open.open",
    "prepare": "diffgraft.preparation.prepare.prepare",
    "replay": "diffgraft.cli.replay.replay",
    "train": "diffgraft.training.train.train",
}
"""Public name -> where it is; the requests are in diffgraft.requests."""

_FORMER = {
    "alignment": "evaluate_alignment",
    "classify": "evaluate_classification",
    "distribution": "evaluate_distribution",
    "evaluate": "evaluate_anomaly",
}
"""Names of earlier releases, which work for this one -> what they are called now."""


def __getattr__(name: str) -> Any:
    public = _FORMER.get(name, name)
    if public not in __all__:
        raise AttributeError(f"module 'diffgraft' has no attribute '{name}'")
    module, _, attribute = _PLACES.get(public, f"diffgraft.requests.{public}").rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as problem:
        if problem.name != "torch":
            raise
        raise AttributeError(
            f"diffgraft.{name} needs torch, which is not installed: pip install 'diffgraft[train]'"
        ) from problem


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
