"""What a generated image has to pass before it is kept: far from the training images, no copy, of the class asked for."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from diffgraft.generation.copies import copy_search
from diffgraft.generation.sampling import Gate, Verdict
from diffgraft.models.features import extract_features
from diffgraft.models.trained_on import split_training_set
from diffgraft.requests import GenerationRequest
from toolkit.diffusion.model import Model
from toolkit.evaluation.finite import check_finite
from toolkit.evaluation.memorization import nearest_ncc
from toolkit.example import Annotation, Error
from toolkit.methods.dataset_expansion import Expansion, judge

__all__ = ["TrainingDistance", "faithful_to_class", "fits_text", "no_copies", "requested_gates", "training_distance"]

LEAST_FITTING = 0.25
"""Part of held-out real images that fit their prompts less than an image must that is kept."""

MARGIN = 0.01
"""By how much a sample stays below the limit of its distance: resampled on the way to a file it comes a little nearer."""


@dataclass(frozen=True)
class TrainingDistance:
    """How far from the training images a sample must be: its largest NCC with one of them is below `limit`, by MARGIN.

    limit: the median over the held-out samples of the same measure. references (M, C, H, W): the training images.
    """

    limit: float
    references: np.ndarray
    held_out: int

    def gate(self) -> Gate:
        """Lets a sample pass that is far enough."""

        def judge_images(images: np.ndarray, _rows: Sequence[Annotation]) -> Verdict:
            near, _ = nearest_ncc(images, self.references)
            return Verdict(near < self.limit - MARGIN, near)

        rule = f"Every image must be farther from the training images than the median held-out one (NCC < {self.limit:.3f})"
        return Gate("too near", judge_images, rule)


def requested_gates(
    model: Model, domain: ModuleType, request: GenerationRequest
) -> tuple[list[Gate], TrainingDistance | None]:
    """The gates that a request names, each measured on its data set, and the distance that the first of them keeps."""
    distance = None if request.far_from is None else training_distance(model, request.far_from)
    gates = [] if distance is None else [distance.gate()]
    if request.reject_copies is not None:
        gates.append(no_copies(model, request.reject_copies))
    if request.faithful_to is not None:
        gates.append(faithful_to_class(model, request.faithful_to))
    if request.fits_text is not None:
        gates.append(fits_text(model, domain, request.fits_text))
    return gates, distance


def training_distance(model: Model, data: Path) -> TrainingDistance:
    """Measured on the data set of the model's training. Errors: data that the model was not trained on."""
    trained, held_out = split_training_set(model.meta, data)
    references = np.stack([e.image for e in trained])
    between, _ = nearest_ncc(np.stack([e.image for e in held_out]), references)
    return TrainingDistance(float(np.median(between)), references, len(held_out))


def no_copies(model: Model, data: Path) -> Gate:
    """Rejects what the memorisation audit would call a copy. data: the data set of the training."""
    search = copy_search(model, *split_training_set(model.meta, data))

    def judge_images(images: np.ndarray, _rows: Sequence[Annotation]) -> Verdict:
        found = search.compare(images)
        return Verdict(~found.copy, found.ncc)

    return Gate("copy", judge_images, "No image may be a copy of a training image")


def faithful_to_class(model: Model, data: Path) -> Gate:
    """Dataset expansion's filter: an image is of the class asked for, and as realistic as real ones are.

    Judged by the model's own feature network beside the real images of `data` that it was trained on.
    Errors: a model without features, images whose class is not asked for.
    """
    trained, _ = split_training_set(model.meta, data)
    real = extract_features(model, np.stack([e.image for e in trained]))["features"]
    plan = model.meta["parts"]["features"]
    target = plan["target"]

    def judge_images(images: np.ndarray, rows: Sequence[Annotation]) -> Verdict:
        wanted = [row.labels.get(target, math.nan) for row in rows]
        if not all(known < plan["classes"] for known in wanted):
            raise Error(
                f"A filter by class needs a class that the feature network tells; of some images none is asked for. Set "
                f"{target}, or train the features anew for classes that were learned later."
            )
        found = extract_features(model, images)
        kept = judge(found["log_probability"], found["features"], np.array(wanted, int), real, Expansion())
        return Verdict(kept.kept, np.full(len(images), math.nan))

    return Gate(
        "not faithful", judge_images, "Every image must be of its class and realistic, as the feature network sees it"
    )


def fits_text(model: Model, domain: ModuleType, data: Path) -> Gate:
    """The filter by likeness: an image fits its prompt as well as most held-out real images fit theirs.

    Radford et al. 2021, arXiv:2103.00020: cosine of prompt and image, with the model's own text encoder and features; the
    limit is the quantile LEAST_FITTING of held-out images of `data` under prompts composed of what they are labelled.
    Errors: a model without a text encoder that was trained beside its features; images without a prompt.
    """
    likeness = model.likeness
    if likeness is None:
        raise Error(
            "A filter by text needs a text encoder that was trained beside features; this model has none. Leave it out."
        )

    def cosines(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        found = model.asnumpy(likeness(model.asarray(extract_features(model, images)["features"]), texts))
        return check_finite(found, "cosines of prompts and images")

    _, held_out = split_training_set(model.meta, data)
    prompts = [domain.caption(e.annotation, random.Random(n)) for n, e in enumerate(held_out)]
    limit = float(np.quantile(cosines(np.stack([e.image for e in held_out]), prompts), LEAST_FITTING))

    def judge_images(images: np.ndarray, rows: Sequence[Annotation]) -> Verdict:
        texts = [row.text or "" for row in rows]
        if not all(texts):
            raise Error(
                "A filter by text needs a prompt for every image; of some nothing is asked for. Set a text or labels."
            )
        return Verdict(cosines(images, texts) >= limit, np.full(len(images), math.nan))

    return Gate("not its text", judge_images, f"Every image must fit its prompt (cosine of {limit:.2f} or more)")
