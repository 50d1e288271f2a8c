"""The parts of a model as training knows them: what each is trained on, with which loss, and what is said of it.

A part is a value of Part; a new one is a new value, and a network in toolkit.networks.folder.BUILDERS.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from diffgraft import reporting
from diffgraft.training import detector_report
from diffgraft.training import report as training_report
from toolkit.data.labels import Range, Vocabulary, from_json
from toolkit.diffusion.model import BOXES, TEXT, Spec
from toolkit.example import Annotation, Error
from toolkit.language import tokenizer
from toolkit.networks import folder
from toolkit.settings import Augmentation, Network, Training
from toolkit.training import detecting, language, losses
from toolkit.training.loader import Batch, augment_batch, generator, joined
from toolkit.training.loop import Loss

__all__ = ["PARTS", "Part", "Plan", "Run", "Seen"]

WORDS = 1024
"""Tokens of a tokenizer of our own: some hundred texts of one field have no more words that come back."""

PROMPTS = 16
"""Wordings of each sample that a text encoder is trained on."""

COMPOSED = 4000
"""Prompts of no sample that it is asked about beside them."""


@dataclass(frozen=True)
class Plan:
    """What is known before a part is built: model.json so far and the annotations that it will be trained on."""

    domain: ModuleType
    root: Path
    meta: Mapping[str, Any]
    network: Network
    classes: Sequence[str]
    annotations: Sequence[Annotation]


@dataclass(frozen=True)
class Run:
    """What a training run has resolved. samples and held_out: images with their conditions and classes.

    annotations: of the samples, and then of what was held out.
    """

    domain: ModuleType
    root: Path
    meta: Mapping[str, Any]
    spec: Spec
    settings: Training
    samples: Batch
    held_out: Batch
    classes: Sequence[str]
    annotations: Sequence[Annotation] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """What the loop is given: batches, their loss, the augmentation on the fly, what is decoded to be looked at.

    learner: the part with whatever is trained along or stands between it and the batch.
    """

    samples: Batch
    held_out: Batch
    loss: Loss
    augmentation: Augmentation
    decode: Callable[[Tensor], Tensor] = lambda x: x
    learner: Callable[[Any], nn.Module] = lambda module: module


@dataclass(frozen=True)
class Part:
    """One part of a model.

    plan: its entry in model.json beside network and training. see: what it is trained on. finish: done to the learner,
    with its averaged weights, before they are saved. show: figures for model.json and blocks for the report.
    """

    plan: Callable[[Plan], dict[str, Any]]
    see: Callable[[Run], Seen]
    show: Callable[[Run, Seen, nn.Module], tuple[dict[str, Any], list[reporting.Block]]]
    finish: Callable[[Run, nn.Module], None] = lambda run, module: None


# ----------------------------------------------------------------------------------------------------------- denoiser


def _denoiser_sees(run: Run) -> Seen:
    """Images, augmented on the fly; of a latent model the latents of `settings.variants` augmented copies of each.

    A model that is told things in words is told each copy in words of its own.
    """
    if "codec" not in run.meta["parts"]:
        if "codec" in run.domain.PRESETS:
            raise Error(
                f"A latent denoiser needs the model's codec, which {run.root} lacks. Train it first: "
                f"diffgraft train {run.meta['domain']} DATA {run.root} --part codec"
            )
        return Seen(run.samples, run.held_out, losses.denoising, run.domain.AUGMENTATION)
    codec = folder.load_part(run.root, "codec", run.meta)
    variants = max(1, run.settings.variants)
    changed = (_variant(run, number) for number in range(variants))
    samples = _evenly(joined([Batch(_latents(codec, copy.image), copy.cond, copy.target) for copy in changed]))
    held_out = Batch(_latents(codec, run.held_out.image), run.held_out.cond, run.held_out.target)
    decode = torch.no_grad()(lambda x: codec.decode(x))
    if TEXT not in run.spec.fields:
        return Seen(samples, held_out, losses.denoising, Augmentation(), decode)
    count, unseen = len(run.samples.image), len(run.held_out.image)
    told = [caption for number in range(variants) for caption in _captions(run, run.annotations[:count], number)]
    asked = ["", *told, *_captions(run, run.annotations[count:], 0)]
    rows = torch.arange(1, len(asked)).split([len(told), unseen])
    samples, held_out = (
        Batch(b.image, {**b.cond, TEXT: r}, b.target) for b, r in zip((samples, held_out), rows, strict=True)
    )
    return Seen(
        samples, held_out, losses.denoising, Augmentation(), decode, partial(language.Prompted, *_table(run, asked))
    )


def _evenly(batch: Batch) -> Batch:
    """Pictures with boxes, each to be drawn as often as any other; other images stay balanced by their class.

    The class of a picture is the rarest of its objects: a handful that show none but the commonest would be a third of
    all that is drawn.
    """
    return Batch(batch.image, batch.cond, torch.zeros_like(batch.target)) if BOXES in batch.cond else batch


def _captions(run: Run, annotations: Sequence[Annotation], number: int) -> list[str]:
    """A prompt for each annotation, worded anew for each number."""
    return [
        run.domain.caption(annotation, random.Random(f"{run.settings.seed} {number} {n}"))
        for n, annotation in enumerate(annotations)
    ]


def _table(run: Run, prompts: Sequence[str]) -> tuple[Tensor, Any]:
    """What `Prompted` looks prompts up in: the output of the frozen encoder, or tokens and the encoder trained along."""
    if TEXT not in run.meta["parts"]:
        raise Error(
            f"A model that is told things in words needs a text encoder, which {run.root} lacks. Train it first: "
            f"diffgraft train {run.meta['domain']} DATA {run.root} --part text"
        )
    encoder = folder.load_part(run.root, TEXT, run.meta)
    ids = torch.from_numpy(tokenizer.open(run.root, run.meta["parts"][TEXT]["tokens"], cut=None)(prompts))
    if not run.settings.joint:
        return language.told(encoder, ids), None  # type: ignore[arg-type]
    return ids, encoder.requires_grad_(True)


def _variant(run: Run, number: int) -> Batch:
    """The training images with what is said of them, changed anew for each number but 0."""
    if number == 0:
        return run.samples
    return augment_batch(run.samples, run.domain.AUGMENTATION, generator(run.settings.seed, number, 3))


@torch.no_grad()
def _latents(codec: Any, images: Tensor) -> Tensor:
    parts = [codec.encode(part) for part in images.split(64)]
    return torch.cat(parts) if parts else codec.encode(images)


def _denoiser_shows(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[reporting.Block]]:
    whole = seen.learner(module).eval()
    return {}, training_report.denoiser_blocks(whole, run.spec, seen.samples, seen.held_out, run.classes, seen.decode)


def _denoiser_finishes(run: Run, learner: Any) -> None:
    if getattr(learner, TEXT, None) is not None:  # trained along
        folder.save_part(run.root, TEXT, learner.text.state_dict(), run.meta)


# --------------------------------------------------------------------------------------------------------- classifier


def _of_known_class(run: Run, loss: Loss, augmentation: Augmentation) -> Seen:
    samples, held_out = (b[b.target >= 0] for b in (run.samples, run.held_out))
    if len(samples.target.unique()) < 2:
        raise Error("A classifier needs images of two or more classes with a known label; found only one. Label more.")
    return Seen(samples, held_out, loss, augmentation)


def stronger(domain: ModuleType) -> Augmentation:
    """How images for a feature network are changed: as the domain's others are, unless it says more."""
    return getattr(domain, "STRONGER", domain.AUGMENTATION)


def _classifier_shows(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[reporting.Block]]:
    odds = training_report.odds(module, seen.held_out, training_report.CLEAN)
    facts = {"held_out_auroc": training_report.auroc(odds, seen.held_out)}
    return facts, training_report.classifier_blocks(module, seen.samples, seen.held_out)


# -------------------------------------------------------------------------------------------------- codec and features


def _codec_sees(run: Run) -> Seen:
    """Images; the perceptual part of the loss needs the model's own feature network, where it has one."""
    known = folder.load_part(run.root, "features", run.meta) if "features" in run.meta["parts"] else None
    loss = partial(losses.reconstruction, features=known)
    return Seen(run.samples, run.held_out, loss, run.domain.AUGMENTATION)


def _codec_finishes(run: Run, module: Any) -> None:
    module.normalise(run.samples.image, run.spec.sigma_data)


def _codec_shows(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[reporting.Block]]:
    facts = {"held_out_psnr": training_report.peak_signal_to_noise(module, seen.held_out)}
    return facts, training_report.codec_blocks(module, seen.held_out)


def _features_show(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[reporting.Block]]:
    facts = {"held_out_balanced_accuracy": training_report.balanced_accuracy(module, seen.held_out)}
    return facts, training_report.features_blocks(module, seen.held_out, run.classes)


# ----------------------------------------------------------------------------------------------------------- detector


def _annotated(run: Run) -> tuple[list[int], list[int]]:
    """Which samples, and which of those held out, have boxes: of what is not annotated nobody knows what it shows."""
    count = len(run.samples.image)
    known = [n for n, annotation in enumerate(run.annotations) if annotation.boxes is not None]
    return [n for n in known if n < count], [n - count for n in known if n >= count]


def _detector_sees(run: Run) -> Seen:
    if BOXES not in run.samples.cond:
        raise Error(f"A detector is trained on boxes, which images of {run.meta['domain']} do not have. Leave it out.")
    ours, unseen = _annotated(run)
    samples, held_out = (
        run.samples[torch.tensor(ours, dtype=torch.long)],
        run.held_out[torch.tensor(unseen, dtype=torch.long)],
    )
    if not any(run.annotations[n].boxes.names for n in ours):  # type: ignore[union-attr]
        raise Error("A detector needs images with objects in boxes; found none among those to train on. Annotate some.")
    return Seen(_evenly(samples), held_out, detecting.detecting, stronger(run.domain))


def _detector_shows(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[reporting.Block]]:
    annotations = [run.annotations[len(run.samples.image) + n] for n in _annotated(run)[1]]
    return detector_report.figures_and_blocks(module, seen.held_out.image, annotations, run.classes)


# --------------------------------------------------------------------------------------------------------------- text


def _text_plan(plan: Plan) -> dict[str, Any]:
    """A tokenizer is learned first, from the texts and from what is composed of the labels."""
    if "features" not in plan.meta["parts"]:
        raise Error(
            f"A text encoder is trained beside the feature network, which {plan.root} lacks. Train it first: "
            f"diffgraft train {plan.meta['domain']} DATA {plan.root} --part features"
        )
    tokens = plan.meta["spec"]["fields"][TEXT]["shape"][0]
    if not (plan.root / tokenizer.FILE).is_file():
        texts = [a.text for a in plan.annotations if a.text]
        made = [plan.domain.caption(a, random.Random(n)) for n in range(4) for a in plan.annotations]
        tokenizer.train([*texts, *made, *_composed(plan.domain, 500)], tokens, WORDS).save(plan.root / tokenizer.FILE)
    known = tokenizer.open(plan.root, tokens).words
    width = plan.meta["parts"]["features"]["network"]["channels"][-1]
    return {"tokens": tokens, "words": known, "features": width}


def _composed(domain: ModuleType, count: int) -> list[str]:
    return [domain.composed(random.Random(n)) for n in range(count)]


def _text_sees(run: Run) -> Seen:
    """Features of augmented copies, and a table of wordings of each sample and of prompts that belong to none."""
    describe: Any = folder.load_part(run.root, "features", run.meta)
    count, unseen = len(run.samples.image), len(run.held_out.image)
    copies = [
        _featured(describe, _variant(run, n).image, range(count), run.samples.target)
        for n in range(run.settings.variants)
    ]
    held_out = _featured(describe, run.held_out.image, range(count, count + unseen), run.held_out.target)
    worded = [_captions(run, run.annotations, number) for number in range(PROMPTS)]
    asked = [row[n] for n in range(count + unseen) for row in worded]
    prompts = [*asked, *_composed(run.domain, COMPOSED)]
    names = from_json(run.meta["labels"])
    says = torch.tensor([_statements(names, run.domain.understood(prompt)) for prompt in prompts])
    ids = torch.from_numpy(tokenizer.open(run.root, run.meta["parts"][TEXT]["tokens"], cut=None)(prompts))
    loss = partial(language.contrast, prompts=language.Prompts(ids, says, PROMPTS, len(asked)))
    learner = partial(language.Reader, says.shape[1])
    return Seen(joined(copies), held_out, loss, Augmentation(), learner=learner)


@torch.no_grad()
def _featured(describe: Any, images: Tensor, numbers: Iterable[int], target: Tensor) -> Batch:
    parts = [describe(part)["features"] for part in images.split(64)]
    width = describe.head.in_features
    features = torch.cat([torch.zeros(0, width), *parts])
    return Batch(features, {"sample": torch.tensor(list(numbers), dtype=torch.long)}, target)


def _statements(vocabulary: Vocabulary, labels: Mapping[str, float]) -> list[float]:
    """What labels state: of a finding 1 or 0, of a class one statement a value, NaN where they state nothing."""
    found: list[float] = []
    for name, entry in vocabulary.items():
        value = labels.get(name, float("nan"))
        if type(entry) is Range:
            continue
        if len(entry) == 2:  # type: ignore[arg-type]
            found.append(value)
        else:
            found += [float(value == n) if value == value else value for n in range(len(entry))]  # type: ignore[arg-type]
    return found


def _text_shows(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[reporting.Block]]:
    asked = _captions(run, run.annotations[len(run.samples.image) :], 0)
    ids = torch.from_numpy(tokenizer.open(run.root, run.meta["parts"][TEXT]["tokens"], cut=None)(asked))
    figures = {"held_out_retrieval": training_report.retrieval(module, seen.held_out.image, ids)}
    return figures, training_report.text_blocks(module, seen.held_out.image, ids, asked)


PARTS: Mapping[str, Part] = {
    "denoiser": Part(
        # On a clock of time steps the network predicts v, so that it can be saved as a Stable Diffusion U-Net.
        plan=lambda plan: {"parameterisation": "velocity" if "clock" in plan.meta else "edm"},
        see=_denoiser_sees,
        show=_denoiser_shows,
        finish=_denoiser_finishes,
    ),
    "classifier": Part(
        plan=lambda plan: {"classes": len(plan.classes)},
        see=lambda run: _of_known_class(run, losses.classification, run.domain.AUGMENTATION),
        show=_classifier_shows,
    ),
    "codec": Part(
        plan=lambda plan: {"latent_channels": plan.meta["spec"]["shape"][0]},
        see=_codec_sees,
        show=_codec_shows,
        finish=_codec_finishes,
    ),
    "features": Part(
        plan=lambda plan: {
            "classes": len(plan.classes),
            "target": plan.domain.TARGET,
            "augmentation": stronger(plan.domain),
        },
        see=lambda run: _of_known_class(run, losses.naming, stronger(run.domain)),
        show=_features_show,
    ),
    "detector": Part(
        plan=lambda plan: {"classes": list(plan.classes), "augmentation": stronger(plan.domain)},
        see=_detector_sees,
        show=_detector_shows,
    ),
    "text": Part(plan=_text_plan, see=_text_sees, show=_text_shows),
}
