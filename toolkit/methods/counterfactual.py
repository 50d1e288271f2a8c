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
from toolkit.diffusion.finite import check_images
from toolkit.diffusion.model import Array, Cond, Denoise, Denoiser, Model
from toolkit.diffusion.noise import Seeded
from toolkit.diffusion.samplers import SAMPLERS, STOCHASTIC
from toolkit.example import Error
from toolkit.methods.method import Method
from toolkit.settings import Counterfactual

__all__ = ["METHODS", "check_settings", "count_evaluations", "counterfactual", "decoder"]

METHODS = (
    Method(
        "Classifier-guided counterfactual",
        "Wolleb et al. 2022, arXiv:2203.04306",
        "The healthy image of a diseased one: encoded without a label, decoded along a classifier's gradient.",
        "a denoiser and a noise-conditional classifier; images of both classes",
        "diffgraft counterfactual MODEL SCAN OUT --guidance 0 --classifier-guidance 3",
    ),
    Method(
        "What is Healthy?",
        "Sanchez et al. 2022, arXiv:2207.12268",
        "The same with the healthy label and classifier-free guidance in place of the gradient.",
        "a denoiser with the class among its conditions",
        "diffgraft counterfactual MODEL SCAN OUT",
    ),
    Method(
        "Diff-SCM",
        "Sanchez & Tsaftaris 2022, arXiv:2202.10166",
        "The counterfactual as abduction (encode), intervention (guidance) and prediction (decode).",
        "a denoiser; a classifier or class conditions",
        "toolkit.methods.counterfactual.counterfactual",
    ),
)

FOLDED = ("strengths", "steps", "sampler", "guidance", "classifier_guidance", "guidance_low")
"""Settings that a student has folded in."""

SIGMA_MIN = 0.05
"""The last noise level above 0: below it an image of 8 bits is all but clean."""


def check_settings(settings: Counterfactual) -> None:
    """Raise the Error that these settings would run into, before any work is done."""
    usable = sorted(SAMPLERS.keys() - STOCHASTIC)
    if settings.sampler in STOCHASTIC:
        raise Error(
            f"A counterfactual needs a deterministic sampler, or the way up loses the anatomy; '{settings.sampler}' "
            f"draws noise. Use one of {', '.join(usable)}."
        )
    if settings.sampler not in usable:
        raise Error(f"A sampler is one of {', '.join(usable)}; found '{settings.sampler}'.")
    if settings.steps < 2:
        raise Error(f"A counterfactual takes 2 steps or more in each direction; found {settings.steps}. 10 is usual.")
    if not settings.strengths:
        raise Error("A counterfactual needs at least one strength in (0, 1]; found none. 0.5 is usual.")
    for name in ("guidance", "classifier_guidance", "guidance_low"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise Error(f"The setting {name} is a number from 0 up; found {getattr(settings, name)}. 0 turns it off.")
    if not 0 <= settings.seed < 2**64:
        raise Error(f"A seed is a whole number from 0 to 2^64 - 1; found {settings.seed}.")
    for strength in settings.strengths:
        if schedule.strength_to_sigma(strength) <= SIGMA_MIN:
            raise Error(
                f"A strength must reach beyond sigma {SIGMA_MIN}, where an image is all but clean; found {strength}. "
                "0.5 is usual."
            )


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


def count_evaluations(settings: Counterfactual) -> int:
    """How often `counterfactual` calls its watch: the steps up and down of every member of the ensemble."""
    walk = 2 * settings.steps - 1
    if settings.sampler == "heun":
        walk = 2 * walk - 1  # two a step, but one in the step to 0
    return walk * len(settings.strengths) * (2 if settings.mirror else 1)


def decoder(model: Model, null: Cond, target: Cond, weights: Array, settings: Counterfactual) -> Denoise:
    """The guided denoiser of the way down; guidance is off below settings.guidance_low."""
    if settings.student:
        return guidance.conditioned(_student(model, settings), target)
    wanted = guidance.classifier_free(model.denoiser, target, null, settings.guidance)
    if settings.classifier_guidance == 0:
        return wanted
    if model.gradient is None:
        raise Error(
            "Classifier guidance needs a model with a gradient, which this one lacks. Train one: --part classifier."
        )
    guided = guidance.classifier_guided(wanted, model.gradient, weights, settings.classifier_guidance)
    return guidance.interval(guided, wanted, settings.guidance_low, math.inf)


def _one(
    model: Model, images: np.ndarray, null: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray],
    weights: np.ndarray, settings: Counterfactual, sigmas: list[float], watch: Callable[[], object],
) -> np.ndarray:  # fmt: skip
    unstated, wanted = ({k: model.asarray(v) for k, v in cond.items()} for cond in (null, target))
    observe = partial(_observe, watch)
    denoiser = _student(model, settings) if settings.student else model.denoiser
    encode = guidance.with_callback(guidance.conditioned(denoiser, unstated), observe)
    decode = guidance.with_callback(decoder(model, unstated, wanted, model.asarray(weights), settings), observe)
    noise = Seeded(settings.seed, range(len(images)), images.shape[1:], model.asarray)
    x = model.codec.encode(model.asarray(images))
    return check_images(
        model.asnumpy(
            model.codec.decode(editing.counterfactual(SAMPLERS[settings.sampler], encode, decode, x, sigmas, noise))
        )
    )


def _student(model: Model, settings: Counterfactual) -> Denoiser:
    """The student, asked for at what it was made for alone. Errors: none there, other settings."""
    plan = model.meta["parts"].get("student", {})
    if model.student is None or "strengths" not in plan:
        raise Error("This model has no few-step student of its counterfactuals. Make one: diffgraft distill MODEL OUT")
    for name in FOLDED:
        ours, made = getattr(settings, name), plan[name]
        same = set(ours) <= set(made) if name == "strengths" else ours == made
        if not same:
            raise Error(
                f"A student answers at what it was made for, {name} {made}; found {ours}. Leave it out, or --no-student."
            )
    return model.student


def _observe(watch: Callable[[], object], _sigma: float, _denoised: Array) -> None:
    watch()
