"""The parts of a model as training knows them: what each is trained on, with which loss, and what is said of it.

A part is a value of Part; a new one is a new value, and a network in toolkit.networks.folder.BUILDERS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from diffgraft import report, training_report
from toolkit.diffusion.model import Spec
from toolkit.example import Error
from toolkit.networks import folder
from toolkit.settings import Augmentation, Training
from toolkit.training import losses
from toolkit.training.loader import Batch, augment, generator
from toolkit.training.loop import Loss

__all__ = ["PARTS", "Part", "Run", "Seen"]


@dataclass(frozen=True)
class Run:
    """What a training run has resolved. samples and held_out: images with their conditions and classes."""

    domain: ModuleType
    root: Path
    meta: Mapping[str, Any]
    spec: Spec
    settings: Training
    samples: Batch
    held_out: Batch
    classes: Sequence[str]


@dataclass(frozen=True)
class Seen:
    """What the loop is given: batches, their loss, the augmentation on the fly, what is decoded to be looked at."""

    samples: Batch
    held_out: Batch
    loss: Loss
    augmentation: Augmentation
    decode: Callable[[Tensor], Tensor] = lambda x: x


@dataclass(frozen=True)
class Part:
    """One part of a model.

    plan: its entry in model.json beside network and training. see: what it is trained on. finish: done to the averaged
    weights, as a module, before they are saved. show: figures for model.json and blocks for the report.
    """

    plan: Callable[[ModuleType, Mapping[str, Any], Sequence[str]], dict[str, Any]]
    see: Callable[[Run], Seen]
    show: Callable[[Run, Seen, nn.Module], tuple[dict[str, Any], list[report.Block]]]
    finish: Callable[[Run, nn.Module], None] = lambda run, module: None


# ----------------------------------------------------------------------------------------------------------- denoiser


def _denoiser_sees(run: Run) -> Seen:
    """Images, augmented on the fly; of a latent model the latents of `settings.variants` augmented copies of each."""
    if "codec" not in run.meta["parts"]:
        if "codec" in run.domain.PRESETS:
            raise Error(
                f"A latent denoiser needs the model's codec, which {run.root} lacks. Train it first: "
                f"diffgraft train {run.meta['domain']} DATA {run.root} --part codec"
            )
        return Seen(run.samples, run.held_out, losses.denoising, run.domain.AUGMENTATION)
    codec = folder.load_part(run.root, "codec", run.meta)
    copies = [
        Batch(_latents(codec, _variant(run, number)), run.samples.cond, run.samples.target)
        for number in range(max(1, run.settings.variants))
    ]
    held_out = Batch(_latents(codec, run.held_out.image), run.held_out.cond, run.held_out.target)
    decode = torch.no_grad()(lambda x: codec.decode(x))
    return Seen(_joined(copies), held_out, losses.denoising, Augmentation(), decode)


def _variant(run: Run, number: int) -> Tensor:
    """The training images, changed anew for each number but 0."""
    if number == 0:
        return run.samples.image
    return augment(run.samples.image, run.domain.AUGMENTATION, generator(run.settings.seed, number, 3))


@torch.no_grad()
def _latents(codec: Any, images: Tensor) -> Tensor:
    parts = [codec.encode(part) for part in images.split(64)]
    return torch.cat(parts) if parts else codec.encode(images)


def _joined(batches: Sequence[Batch]) -> Batch:
    return Batch(
        torch.cat([b.image for b in batches]),
        {k: torch.cat([b.cond[k] for b in batches]) for k in batches[0].cond},
        torch.cat([b.target for b in batches]),
    )


def _denoiser_shows(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[report.Block]]:
    return {}, training_report.denoiser_blocks(module, run.spec, seen.samples, seen.held_out, run.classes, seen.decode)


# --------------------------------------------------------------------------------------------------------- classifier


def _of_known_class(run: Run, loss: Loss) -> Seen:
    samples, held_out = (b[b.target >= 0] for b in (run.samples, run.held_out))
    if len(samples.target.unique()) < 2:
        raise Error("A classifier needs images of two or more classes with a known label; found only one. Label more.")
    return Seen(samples, held_out, loss, run.domain.AUGMENTATION)


def _classifier_shows(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[report.Block]]:
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


def _codec_shows(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[report.Block]]:
    facts = {"held_out_psnr": training_report.peak_signal_to_noise(module, seen.held_out)}
    return facts, training_report.codec_blocks(module, seen.held_out)


def _features_show(run: Run, seen: Seen, module: nn.Module) -> tuple[dict[str, Any], list[report.Block]]:
    facts = {"held_out_balanced_accuracy": training_report.balanced_accuracy(module, seen.held_out)}
    return facts, training_report.features_blocks(module, seen.held_out, run.classes)


PARTS: Mapping[str, Part] = {
    "denoiser": Part(
        plan=lambda domain, meta, classes: {"parameterisation": "edm"},
        see=_denoiser_sees,
        show=_denoiser_shows,
    ),
    "classifier": Part(
        plan=lambda domain, meta, classes: {"classes": len(classes)},
        see=lambda run: _of_known_class(run, losses.classification),
        show=_classifier_shows,
    ),
    "codec": Part(
        plan=lambda domain, meta, classes: {"latent_channels": meta["spec"]["shape"][0]},
        see=_codec_sees,
        show=_codec_shows,
        finish=_codec_finishes,
    ),
    "features": Part(
        plan=lambda domain, meta, classes: {"classes": len(classes), "target": domain.TARGET},
        see=lambda run: _of_known_class(run, losses.naming),
        show=_features_show,
    ),
}
