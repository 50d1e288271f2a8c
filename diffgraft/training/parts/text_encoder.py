"""The part that reads prompts: tokenizer and text encoder, trained to tell which features an image of a prompt has."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn

from diffgraft.training import report
from diffgraft.training.parts.part import Evaluation, Material, Part, TrainingRun
from toolkit.data.labels import Range, Vocabulary, from_json
from toolkit.diffusion.model import TEXT
from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.networks import folder
from toolkit.settings import Augmentation
from toolkit.training import language
from toolkit.training.loader import Batch, concatenate
from toolkit.training.loop import Samples

__all__ = ["TEXT_ENCODER"]

WORDS = 1024
"""Tokens of a tokenizer of our own: some hundred texts of one field have no more words that come back."""

PROMPTS = 16
"""Wordings of each sample that a text encoder is trained on."""

COMPOSED = 4000
"""Prompts of no sample that it is asked about beside them."""


def _entry(run: TrainingRun) -> dict[str, Any]:
    """A tokenizer is learned first, from the texts and from what is composed of the labels."""
    if "features" not in run.meta["parts"]:
        raise Error(
            f"A text encoder is trained beside the feature network, which {run.root} lacks. Train it first: "
            f"diffgraft train {run.meta['domain']} DATA {run.root} --part features"
        )
    tokens = run.meta["spec"]["fields"][TEXT]["shape"][0]
    if not (run.root / tokenizer.FILE).is_file():
        texts = [annotation.text for annotation in run.annotations if annotation.text]
        captions = [run.domain.caption(a, random.Random(n)) for n in range(4) for a in run.annotations]
        learned = tokenizer.train([*texts, *captions, *_composed(run.domain, 500)], tokens, WORDS)
        learned.save(run.root / tokenizer.FILE)
    width = run.meta["parts"]["features"]["network"]["channels"][-1]
    return {"tokens": tokens, "words": tokenizer.open(run.root, tokens).words, "features": width}


def _composed(domain: ModuleType, count: int) -> list[str]:
    return [domain.random_prompt(random.Random(n)) for n in range(count)]


def _prepare(run: TrainingRun) -> Material:
    """Features of augmented copies, and a table of wordings of each sample and of prompts that belong to none."""
    extractor: Any = folder.load_part(run.root, "features", run.meta)
    copies = [_features(extractor, run.augmented(copy), 0) for copy in range(run.settings.variants)]
    held_out = _features(extractor, run.held_out, len(run.annotations))
    annotations = [*run.annotations, *run.held_out_annotations]
    wordings = [run.captions(annotations, number) for number in range(PROMPTS)]
    captions = [wording[n] for n in range(len(annotations)) for wording in wordings]
    prompts = [*captions, *_composed(run.domain, COMPOSED)]
    vocabulary = from_json(run.meta["labels"])
    statements = torch.tensor([_statements(vocabulary, run.domain.labels_from_text(prompt)) for prompt in prompts])
    table = language.Prompts(run.tokenize(prompts), statements, PROMPTS, len(captions))
    loss = partial(language.contrastive_loss, prompts=table)
    learner = partial(language.Reader, statements.shape[1])
    return Material(Samples(concatenate(copies), held_out, Augmentation()), loss, learner=learner)


@torch.no_grad()
def _features(extractor: Any, batch: Batch, first: int) -> Batch:
    """The features of images, told apart by their number, which for the first is `first`."""
    parts = [extractor(part)["features"] for part in batch.image.split(64)]
    features = torch.cat([torch.zeros(0, extractor.head.in_features), *parts])
    numbers = torch.arange(first, first + len(features))
    return Batch(features, {"sample": numbers}, batch.target)


def _statements(vocabulary: Vocabulary, labels: Mapping[str, float]) -> list[float]:
    """What labels state: of a finding 1 or 0, of a class one statement a value, NaN where they state nothing."""
    found: list[float] = []
    for name, entry in vocabulary.items():
        value = labels.get(name, float("nan"))
        if isinstance(entry, Range):
            continue
        if len(entry) == 2:
            found.append(value)
        else:
            found += [float(value == n) if value == value else value for n in range(len(entry))]
    return found


def _evaluate(run: TrainingRun, material: Material, module: nn.Module) -> Evaluation:
    prompts = run.captions(run.held_out_annotations, 0)
    ids, features = run.tokenize(prompts), material.samples.held_out.image
    figures = {"held_out_retrieval": report.retrieval(module, features, ids)}
    return figures, report.text_blocks(module, features, ids, prompts)


TEXT_ENCODER = Part(entry=_entry, prepare=_prepare, evaluate=_evaluate)
