"""What a generated image has to pass before it is kept: far from the training images, no copy, of the class asked for."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft.generation.sampling import Gate, Verdict
from diffgraft.models.features import described
from toolkit.data import dataset
from toolkit.diffusion.model import Model
from toolkit.evaluation.finite import finite
from toolkit.evaluation.memorization import nearest_ncc
from toolkit.example import Annotation, Error, Example
from toolkit.methods.dataset_expansion import Expansion, judge
from toolkit.models.folder import hashed, trained_on

__all__ = ["Distance", "distance", "faithful", "fits", "no_copies", "split"]

LEAST_FITTING = 0.25
"""Part of held-out real images that fit their prompts less than an image must that is kept."""

MARGIN = 0.01
"""By how much a sample stays below the limit of its distance: resampled on the way to a file it comes a little nearer."""


@dataclass(frozen=True)
class Distance:
    """How far from the training images a sample must be: its largest NCC with one of them is below `limit`, by MARGIN.

    limit: the median over the held-out samples of the same measure. references (M, C, H, W): the training images.
    """

    limit: float
    references: np.ndarray
    held_out: int

    def gate(self) -> Gate:
        """What lets a sample pass that is far enough."""

        def judged(images: np.ndarray, _rows: Sequence[Annotation]) -> Verdict:
            near, _ = nearest_ncc(images, self.references)
            return Verdict(near < self.limit - MARGIN, near)

        rule = f"Every image must be farther from the training images than the median held-out one (NCC < {self.limit:.3f})"
        return Gate("too near", judged, rule)


def distance(model: Model, data: str | Path) -> Distance:
    """What the data set of a model's training says of how near is near. Errors: data the model was not trained on."""
    seen, unseen = split(model.meta, data)
    references = np.stack([e.image for e in seen])
    between, _ = nearest_ncc(np.stack([e.image for e in unseen]), references)
    return Distance(float(np.median(between)), references, len(unseen))


def no_copies(model: Model, data: str | Path) -> Gate:
    """What the memorisation audit would call a copy is drawn again. data: the data set of the training."""
    from diffgraft.generation.copies import reference

    known = reference(model, *split(model.meta, data))

    def judged(images: np.ndarray, _rows: Sequence[Annotation]) -> Verdict:
        found = known.compare(images)
        return Verdict(~found.copy, found.ncc)

    return Gate("copy", judged, "No image may be a copy of a training image")


def faithful(model: Model, data: str | Path) -> Gate:
    """Dataset expansion's filter: an image is of the class asked for, and as realistic as real ones are.

    Judged by the model's own feature network beside the real images of `data` that it was trained on.
    Errors: a model without features, images whose class is not asked for.
    """
    seen, _ = split(model.meta, data)
    real = described(model, np.stack([e.image for e in seen]))["features"]
    plan = model.meta["parts"]["features"]
    target = plan["target"]

    def judged(images: np.ndarray, rows: Sequence[Annotation]) -> Verdict:
        wanted = [row.labels.get(target, math.nan) for row in rows]
        if not all(known < plan["classes"] for known in wanted):
            raise Error(
                f"A filter by class needs a class that the feature network tells; of some images none is asked for. Set "
                f"{target}, or train the features anew for classes that were learned later."
            )
        found = described(model, images)
        kept = judge(found["log_probability"], found["features"], np.array(wanted, int), real, Expansion())
        return Verdict(kept.kept, np.full(len(images), math.nan))

    return Gate(
        "not faithful", judged, "Every image must be of its class and realistic, as the feature network sees it"
    )


def fits(model: Model, domain: ModuleType, data: str | Path) -> Gate:
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
        found = model.asnumpy(likeness(model.asarray(described(model, images)["features"]), texts))
        return finite(found, "cosines of prompts and images")

    _, unseen = split(model.meta, data)
    told = [domain.caption(e.annotation, random.Random(n)) for n, e in enumerate(unseen)]
    limit = float(np.quantile(cosines(np.stack([e.image for e in unseen]), told), LEAST_FITTING))

    def judged(images: np.ndarray, rows: Sequence[Annotation]) -> Verdict:
        texts = [row.text or "" for row in rows]
        if not all(texts):
            raise Error(
                "A filter by text needs a prompt for every image; of some nothing is asked for. Set a text or labels."
            )
        return Verdict(cosines(images, texts) >= limit, np.full(len(images), math.nan))

    return Gate("not its text", judged, f"Every image must fit its prompt (cosine of {limit:.2f} or more)")


def split(meta: Any, data: str | Path) -> tuple[list[Example], list[Example]]:
    """The samples of a data set that a denoiser was trained on, and the others of it.

    Errors: a data set that lacks some of the first or has none of the second.
    """
    trained = trained_on(meta, ("denoiser",)) or set()
    seen: list[Example] = []
    unseen: list[Example] = []
    for example in dataset.read(data):
        (seen if hashed(example.id) in trained else unseen).append(example)
    if not seen or len(seen) < len(trained) or not unseen:
        raise Error(
            "Comparing with the training images needs the data set of the training with samples kept back; "
            f"{data} has {len(seen)} of the {len(trained)} samples trained on and {len(unseen)} others. "
            "Give the one that train was given."
        )
    return seen, unseen
