"""What an image would look like under another label, its anatomy kept, and the ensemble over ways to ask.

One procedure serves three papers. An image is encoded into noise deterministically, then decoded towards the target:

    Wolleb et al. 2022 (arXiv:2203.04306)              decode: null label, classifier guidance towards the target
    Sanchez et al. 2022, What is Healthy? (2207.12268) encode: null label; decode: target label, classifier-free
    Sanchez & Tsaftaris 2022, Diff-SCM (2202.10166)    abduction = encode, intervention = guidance, do(label)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from toolkit.diffusion import editing, guidance, schedule
from toolkit.diffusion.model import Array, Cond, Denoise, Model
from toolkit.diffusion.noise import Seeded
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.example import Error
from toolkit.settings import Counterfactual

__all__ = ["counterfactual", "decoder", "evaluations"]

SIGMA_MIN = 0.05
"""The last noise level above 0: below it an image of 8 bits is all but clean."""


def counterfactual(
    model: Model,
    images: np.ndarray,
    null: Mapping[str, np.ndarray],
    target: Mapping[str, np.ndarray],
    weights: np.ndarray,
    settings: Counterfactual,
    watch: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """The counterfactual of every image, averaged over strengths and mirror images: (N, C, H, W) -> the same.

    null, target: condition fields with the label not stated, and as wanted; weights (N, classes): the class that the
    classifier is to see. watch is called once an evaluation. Errors: classifier guidance without a classifier.
    """
    turns = [False, True] if settings.mirror else [False]
    total = np.zeros_like(images)
    for strength in settings.strengths:
        sigmas = schedule.karras(settings.steps, schedule.strength_to_sigma(strength), SIGMA_MIN)
        for mirrored in turns:
            x = np.ascontiguousarray(images[..., ::-1]) if mirrored else images
            changed = _one(model, x, null, target, weights, settings, sigmas, watch)
            total += changed[..., ::-1] if mirrored else changed
    return total / (len(settings.strengths) * len(turns))


def evaluations(settings: Counterfactual) -> int:
    """How often `counterfactual` calls its watch: the steps up and down of every member of the ensemble."""
    per_step = 2 if settings.sampler == "heun" else 1
    return (2 * settings.steps - 1) * per_step * len(settings.strengths) * (2 if settings.mirror else 1)


def decoder(model: Model, null: Cond, target: Cond, weights: Array, settings: Counterfactual) -> Denoise:
    """The guided denoiser of the way down; guidance is off below settings.guidance_low."""
    wanted = guidance.classifier_free(model.denoiser, target, null, settings.guidance)
    if settings.classifier_guidance == 0:
        return wanted
    if model.gradient is None:
        raise Error(
            "Classifier guidance needs a model with a gradient, which this one lacks. Train one: --part classifier."
        )
    guided = guidance.toward(wanted, model.gradient, weights, settings.classifier_guidance)
    return guidance.interval(guided, wanted, settings.guidance_low, math.inf)


def _one(
    model: Model, images: np.ndarray, null: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray],
    weights: np.ndarray, settings: Counterfactual, sigmas: list[float], watch: Callable[[], object],
) -> np.ndarray:  # fmt: skip
    unstated, wanted = ({k: model.asarray(v) for k, v in cond.items()} for cond in (null, target))
    observe = partial(_observe, watch)
    encode = guidance.watched(guidance.conditioned(model.denoiser, unstated), observe)
    decode = guidance.watched(decoder(model, unstated, wanted, model.asarray(weights), settings), observe)
    noise = Seeded(settings.seed, range(len(images)), images.shape[1:], model.asarray)
    x = model.codec.encode(model.asarray(images))
    return model.asnumpy(
        model.codec.decode(editing.counterfactual(SAMPLERS[settings.sampler], encode, decode, x, sigmas, noise))
    )


def _observe(watch: Callable[[], object], _sigma: float, _denoised: Array) -> None:
    watch()
