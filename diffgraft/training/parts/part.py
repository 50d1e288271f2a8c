"""What a part of a model says of its training, and what a training run hands to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from diffgraft import reporting
from diffgraft.requests.verb import Call
from diffgraft.training.data import TrainingData, to_batch
from toolkit.diffusion.model import BOXES, TEXT, Spec
from toolkit.example import Annotation
from toolkit.language import tokenizer
from toolkit.models.folder import image_shape, spec_of
from toolkit.settings import Augmentation, Training
from toolkit.training.loader import Batch, augment_batch, generator
from toolkit.training.loop import Loss, Samples, Watch

__all__ = ["Evaluation", "Material", "Part", "TrainingRun", "draw_evenly", "loss_watch", "strong_augmentation"]

Evaluation = tuple[dict[str, Any], list[reporting.Block]]
"""Figures for model.json, and blocks for the report."""


@dataclass(frozen=True)
class TrainingRun:
    """What a run has resolved. root, meta: the model folder and its model.json.

    samples, held_out: images (N, C, H, W) with their conditions and classes; annotations: of either, in the same order.
    classes: names of the classes.
    """

    domain: ModuleType
    root: Path
    meta: dict[str, Any]
    settings: Training
    classes: Sequence[str]
    samples: Batch
    held_out: Batch
    annotations: Sequence[Annotation]
    held_out_annotations: Sequence[Annotation]

    @classmethod
    def of(
        cls, domain: ModuleType, root: Path, meta: dict[str, Any], settings: Training, data: TrainingData
    ) -> TrainingRun:
        """Put the examples of `data` into batches, as the model of model.json is conditioned."""
        split = (data.samples, data.held_out)
        samples, held_out = (
            to_batch(domain, spec_of(meta), image_shape(meta), part, data.vocabulary) for part in split
        )
        annotations, unseen = ([example.annotation for example in part] for part in split)
        return cls(domain, root, meta, settings, data.class_names(domain), samples, held_out, annotations, unseen)

    @property
    def spec(self) -> Spec:
        return spec_of(self.meta)

    def augmented(self, copy: int) -> Batch:
        """The samples with their conditions, changed anew for each number of a copy but 0."""
        if copy == 0:
            return self.samples
        return augment_batch(self.samples, self.domain.AUGMENTATION, generator(self.settings.seed, copy, 3))

    def captions(self, annotations: Sequence[Annotation], copy: int) -> list[str]:
        """A prompt for each annotation, worded anew for each number of a copy."""
        return [
            self.domain.caption(annotation, random.Random(f"{self.settings.seed} {copy} {n}"))
            for n, annotation in enumerate(annotations)
        ]

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (N, tokens) of prompts, by the model's own tokenizer."""
        return torch.from_numpy(tokenizer.open(self.root, self.meta["parts"][TEXT]["tokens"], cut=None)(prompts))


@dataclass(frozen=True)
class Material:
    """What the training loop is given: batches with their augmentation on the fly, and their loss.

    decode: from what the part is trained on to images. learner: the part together with whatever is trained along or stands
    between it and the batch.
    """

    samples: Samples
    loss: Loss
    decode: Callable[[Tensor], Tensor] = lambda x: x
    learner: Callable[[Any], nn.Module] = lambda module: module


@dataclass(frozen=True)
class Part:
    """One part of a model.

    entry: what model.json says of it beside network and training; called before it is built. prepare: what it is trained on.
    evaluate: the trained part, on what was held out. finalize: done to the learner, with its averaged weights, before they
    are saved.
    """

    entry: Callable[[TrainingRun], dict[str, Any]]
    prepare: Callable[[TrainingRun], Material]
    evaluate: Callable[[TrainingRun, Material, nn.Module], Evaluation]
    finalize: Callable[[TrainingRun, nn.Module], None] = lambda run, module: None


def loss_watch(call: Call, part: str) -> Watch:
    """What the training loop tells whoever follows the run, after every step."""

    def watch(done: int, of: int, loss: float) -> None:
        call.watch(f"{part} loss {loss:.4f}", done, of)

    return watch


def strong_augmentation(domain: ModuleType) -> Augmentation:
    """How images for feature network and detector are changed: as the domain's others are, unless it says more."""
    return getattr(domain, "STRONGER", domain.AUGMENTATION)


def draw_evenly(batch: Batch) -> Batch:
    """Pictures with boxes, each to be drawn as often as any other; other images stay balanced by their class.

    The class of a picture is the rarest of its objects: a handful that show none but the commonest would be a third of
    all that is drawn.
    """
    return Batch(batch.image, batch.cond, torch.zeros_like(batch.target)) if BOXES in batch.cond else batch
