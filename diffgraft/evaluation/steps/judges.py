"""Who judges generated images: the model's own networks, and what needs none. Their figures compare rows of one table.

A feature network or a detector of the model does not mind a blur that people see at once, so sharpness stands beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from diffgraft.evaluation.steps.result import Metric
from diffgraft.evaluation.steps.scores import Resamples
from diffgraft.generation.layouts.filter import detect_objects
from diffgraft.models.features import extract_features
from toolkit.diffusion.model import Model
from toolkit.evaluation.detection import intervals
from toolkit.evaluation.detection.metrics import Detections, Truth, as_truth
from toolkit.evaluation.finite import check_finite
from toolkit.example import Annotation

__all__ = ["DISTANCE", "KID", "SHARP", "boxes_precision", "judge", "metrics"]

KID = Metric(
    "kid", "KID", "low", "kernel distance to the held-out real images, in the features of the model; a squared distance, drawn by "
    "its root", scale="root",
)  # fmt: skip
ACCURACY = Metric("named", "Class named", "high", "balanced accuracy of the feature network on the class asked for")
PROBABILITY = Metric(
    "asked", "Probability of the class", "high", "mean probability that the feature network gives the class asked for"
)
LIKENESS = Metric(
    "likeness", "Cosine of prompt and image", "high", "by the text encoder and the feature network of the model"
)
BOXES = Metric(
    "ap50", "AP50 of the boxes", "high", "mean over classes; the model's own detector against the boxes asked for"
)
SHARP = Metric(
    "sharp", "Sharpness", "same", "mean absolute Laplacian, which blur lowers and noise raises; a tenth is no difference",
    slight=0.1,
)  # fmt: skip
DISTANCE = Metric(
    "distance", "Distance to the converged sample", "low", "root mean square difference to the reference image of the same "
    "noise, in standard deviations of the reference images", scale="log", judged=False,
)  # fmt: skip


def metrics(model: Model) -> tuple[Metric, ...]:
    """The figures that a model has judges for."""
    if model.detector is not None:
        return (KID, BOXES, SHARP, DISTANCE)
    return (KID, PROBABILITY, ACCURACY, *([LIKENESS] if model.likeness is not None else []), SHARP, DISTANCE)


def judge(
    model: Model,
    images: np.ndarray,
    rows: Sequence[Annotation],
    kinds: Sequence[str],
    classes: Sequence[str],
    own: Resamples,
) -> dict[str, np.ndarray]:
    """The figures of a model that say whether images show what `rows` ask for, and "features" (N, D).

    kinds (N,): the class asked for, one of `classes`, "" where it is not stated.
    """
    answers, names = extract_features(model, images), {metric.name for metric in metrics(model)}
    found = {"features": answers["features"]}
    if PROBABILITY.name in names:
        index = np.array([list(classes).index(kind) if kind else -1 for kind in kinds])
        chance = np.exp(answers["log_probability"])
        found[PROBABILITY.name] = own.mean(np.where(index < 0, np.nan, chance[np.arange(len(index)), index]))
        right = np.where(index < 0, np.nan, chance.argmax(1) == index)
        each = [own.mean(np.where(index == k, right, np.nan)) for k in sorted(set(index.tolist()) - {-1})]
        found[ACCURACY.name] = np.nanmean(each, 0)
    if model.likeness is not None and LIKENESS.name in names:
        cosines = model.likeness(model.asarray(answers["features"]), [row.text or "" for row in rows])
        found[LIKENESS.name] = own.mean(check_finite(model.asnumpy(cosines), "cosines of prompts and images"))
    if BOXES.name in names:
        truths = [as_truth(row.boxes, classes) for row in rows if row.boxes is not None]
        found[BOXES.name] = boxes_precision(detect_objects(model, images), truths, own, len(classes))
    return found


def boxes_precision(found: Sequence[Detections], truths: Sequence[Truth], own: Resamples, classes: int) -> np.ndarray:
    """(R + 1,) AP50, mean over the classes that there are."""
    runs = intervals.match_detections(truths, found, classes)
    runs = [dataclasses.replace(one, hit=one.hit[:1]) for one in runs]  # of the ten overlaps the first, 0.5
    every = np.array([[intervals.average_precision(one, times)[0] for one in runs] for times in own.times])
    return np.nanmean(every, 1)
