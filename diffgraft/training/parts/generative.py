"""The parts that make images: codec and denoiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffgraft.training import report
from diffgraft.training.parts.part import Evaluation, Material, Part, TrainingRun, draw_evenly
from toolkit.diffusion.model import TEXT
from toolkit.example import Error
from toolkit.networks import folder
from toolkit.settings import Augmentation
from toolkit.training import adversarial, language, losses
from toolkit.training.loader import Batch, concatenate
from toolkit.training.loop import Samples

__all__ = ["CODEC", "DENOISER"]


# -------------------------------------------------------------------------------------------------------------- codec


def _prepare_codec(run: TrainingRun) -> Material:
    """Images; the perceptual part of the loss needs the model's own feature network, where it has one.

    Beside an adversary they are only changed in ways that leave every pixel as sharp as it was: what is resampled is
    softer, and would be taken for what real images look like.
    """
    features = folder.load_part(run.root, "features", run.meta) if "features" in run.meta["parts"] else None
    if not run.settings.adversary:
        loss = partial(losses.reconstruction, features=features)
        return Material(Samples(run.samples, run.held_out, run.domain.AUGMENTATION), loss)
    loss = partial(adversarial.adversarial_reconstruction, features=features)
    still = dataclasses.replace(run.domain.AUGMENTATION, rotate=0.0, scale=0.0, shift=0.0, warp=0.0, crop=0.0)
    learner = partial(adversarial.Adversaries, channels=run.samples.image.shape[1])
    return Material(Samples(run.samples, run.held_out, still), loss, learner=learner)


def _evaluate_codec(run: TrainingRun, material: Material, module: nn.Module) -> Evaluation:
    held_out = material.samples.held_out
    return report.codec_figures(module, held_out), report.codec_blocks(module, held_out)


def _finalize_codec(run: TrainingRun, module: Any) -> None:
    module.normalise(run.samples.image, run.spec.sigma_data)


# ----------------------------------------------------------------------------------------------------------- denoiser


def _prepare_denoiser(run: TrainingRun) -> Material:
    """Images, augmented on the fly; of a latent model the latents of `settings.variants` augmented copies of each.

    A model that is conditioned on text is given a prompt of its own for each copy.
    """
    if "codec" not in run.meta["parts"]:
        if "codec" in run.domain.PRESETS:
            raise Error(
                f"A latent denoiser needs the model's codec, which {run.root} lacks. Train it first: "
                f"diffgraft train {run.meta['domain']} DATA {run.root} --part codec"
            )
        return Material(Samples(run.samples, run.held_out, run.domain.AUGMENTATION), losses.denoising)
    codec: Any = folder.load_part(run.root, "codec", run.meta)
    copies = max(1, run.settings.variants)
    samples = draw_evenly(concatenate([_encode(codec, run.augmented(copy)) for copy in range(copies)]))
    held_out = _encode(codec, run.held_out)
    decode = torch.no_grad()(lambda x: codec.decode(x))
    if TEXT not in run.spec.fields:
        return Material(Samples(samples, held_out, Augmentation()), losses.denoising, decode)
    captions = [caption for copy in range(copies) for caption in run.captions(run.annotations, copy)]
    prompts = ["", *captions, *run.captions(run.held_out_annotations, 0)]
    rows = torch.arange(1, len(prompts)).split([len(captions), len(held_out.image)])
    samples, held_out = (
        Batch(batch.image, {**batch.cond, TEXT: row}, batch.target)
        for batch, row in zip((samples, held_out), rows, strict=True)
    )
    learner = partial(language.Prompted, *_prompt_table(run, prompts))
    return Material(Samples(samples, held_out, Augmentation()), losses.denoising, decode, learner)


@torch.no_grad()
def _encode(codec: Any, batch: Batch) -> Batch:
    """The latents of images in place of them."""
    parts = [codec.encode(part) for part in batch.image.split(64)]
    latents = torch.cat(parts) if parts else codec.encode(batch.image)
    return Batch(latents, batch.cond, batch.target)


def _prompt_table(run: TrainingRun, prompts: Sequence[str]) -> tuple[Tensor, Any]:
    """What `Prompted` looks prompts up in: the output of the frozen encoder, or tokens and the encoder trained along."""
    if TEXT not in run.meta["parts"]:
        raise Error(
            f"A model that is told things in words needs a text encoder, which {run.root} lacks. Train it first: "
            f"diffgraft train {run.meta['domain']} DATA {run.root} --part text"
        )
    encoder: Any = folder.load_part(run.root, TEXT, run.meta)
    ids = run.tokenize(prompts)
    if not run.settings.joint:
        return language.encode_prompts(encoder, ids), None
    return ids, encoder.requires_grad_(True)


def _evaluate_denoiser(run: TrainingRun, material: Material, module: nn.Module) -> Evaluation:
    whole = material.learner(module).eval()
    batches = material.samples.train, material.samples.held_out
    return {}, report.denoiser_blocks(whole, run.spec, *batches, run.classes, material.decode)


def _finalize_denoiser(run: TrainingRun, learner: Any) -> None:
    if getattr(learner, TEXT, None) is not None:  # trained along
        folder.save_part(run.root, TEXT, learner.text.state_dict(), run.meta)


CODEC = Part(
    entry=lambda run: {"latent_channels": run.meta["spec"]["shape"][0]},
    prepare=_prepare_codec,
    evaluate=_evaluate_codec,
    finalize=_finalize_codec,
)
DENOISER = Part(
    # On a clock of time steps the network predicts v, so that it can be saved as a Stable Diffusion U-Net.
    entry=lambda run: {"parameterisation": "velocity" if "clock" in run.meta else "edm"},
    prepare=_prepare_denoiser,
    evaluate=_evaluate_denoiser,
    finalize=_finalize_denoiser,
)
