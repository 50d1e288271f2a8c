"""The parts that judge images: lesion classifier, feature network and detector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffgraft.training import detector_report, report
from diffgraft.training.parts.part import Evaluation, Material, Part, TrainingRun, draw_evenly, strong_augmentation
from toolkit.diffusion.model import BOXES
from toolkit.example import Annotation, Error
from toolkit.settings import Augmentation
from toolkit.training import detecting, losses
from toolkit.training.loader import Batch
from toolkit.training.loop import Loss, Samples

__all__ = ["CLASSIFIER", "DETECTOR", "FEATURES"]


def _prepare_classes(run: TrainingRun, loss: Loss, augmentation: Augmentation) -> Material:
    """The images whose class is known."""
    samples, held_out = (_known(batch) for batch in (run.samples, run.held_out))
    if len(samples.target.unique()) < 2:
        raise Error("A classifier needs images of two or more classes with a known label; found only one. Label more.")
    return Material(Samples(samples, held_out, augmentation), loss)


def _known(batch: Batch) -> Batch:
    """The images whose class is known: the batch itself, and no copy of it, where all are."""
    known = batch.target >= 0
    return batch if bool(known.all()) else batch[known]


def _evaluate_classifier(run: TrainingRun, material: Material, module: nn.Module) -> Evaluation:
    odds = report.odds(module, material.samples.held_out, report.CLEAN)
    figures = {"held_out_auroc": report.auroc(odds, material.samples.held_out)}
    return figures, report.classifier_blocks(module, material.samples.train, material.samples.held_out)


def _evaluate_features(run: TrainingRun, material: Material, module: nn.Module) -> Evaluation:
    figures = {"held_out_balanced_accuracy": report.balanced_accuracy(module, material.samples.held_out)}
    return figures, report.features_blocks(module, material.samples.held_out, run.classes)


def _annotated(annotations: Sequence[Annotation]) -> Tensor:
    """Which images have boxes: of one that is not annotated nobody knows what it shows."""
    return torch.tensor([n for n, a in enumerate(annotations) if a.boxes is not None], dtype=torch.long)


def _prepare_detector(run: TrainingRun) -> Material:
    if BOXES not in run.samples.cond:
        raise Error(f"A detector is trained on boxes, which images of {run.meta['domain']} do not have. Leave it out.")
    if not any(annotation.boxes is not None and annotation.boxes.names for annotation in run.annotations):
        raise Error("A detector needs images with objects in boxes; found none among those to train on. Annotate some.")
    samples = draw_evenly(run.samples[_annotated(run.annotations)])
    held_out = run.held_out[_annotated(run.held_out_annotations)]
    return Material(Samples(samples, held_out, strong_augmentation(run.domain)), detecting.detection_loss)


def _evaluate_detector(run: TrainingRun, material: Material, module: nn.Module) -> Evaluation:
    annotations = [annotation for annotation in run.held_out_annotations if annotation.boxes is not None]
    return detector_report.measure_detector(module, material.samples.held_out.image, annotations, run.classes)


CLASSIFIER = Part(
    entry=lambda run: {"classes": len(run.classes)},
    prepare=lambda run: _prepare_classes(run, losses.classification, run.domain.AUGMENTATION),
    evaluate=_evaluate_classifier,
)
FEATURES = Part(
    entry=lambda run: {
        "classes": len(run.classes),
        "target": run.domain.TARGET,
        "augmentation": strong_augmentation(run.domain),
    },
    prepare=lambda run: _prepare_classes(run, losses.clean_classification, strong_augmentation(run.domain)),
    evaluate=_evaluate_features,
)
DETECTOR = Part(
    entry=lambda run: {"classes": list(run.classes), "augmentation": strong_augmentation(run.domain)},
    prepare=_prepare_detector,
    evaluate=_evaluate_detector,
)
