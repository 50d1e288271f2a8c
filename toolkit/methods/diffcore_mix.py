"""DiffCoRe-Mix: a training image, its own generated counterpart, a filter, and the two mixed by pixels and patches.

Islam & Akhtar 2025, arXiv:2503.10687. In the order of the paper:

1. `counterparts`   for each training image a new one under its own labels (the context), the null branch of
                    classifier-free guidance replaced by a negative condition:  D(neg) + g (D(context) - D(neg))
2. `hard_cosine`    kept where cos(f(real), f(generated)) >= threshold, in an embedding of the domain; about one in ten
                    fails with good prompts, the paper says, so the rejection rate is part of the answer
3. `mix`            kept ones mixed with their real image, rejected ones leave it as it is

The formulas of the mix are ours; the paper's stored code holds none. With a weight W in [0, 1] at every pixel,

    x = W real + (1 - W) generated,    label = w y_real + (1 - w) y_generated,    w = the mean of W over the image

    pixel   W = lam                    lam ~ U(least, 1), the same everywhere
    patch   W = 1 - M                  M = 1 in a box of `area` of the image, anywhere inside
    both    W = lam (1 - M)            a blend, with a patch of the counterpart in it

What differs. The paper's threshold is 0.6 in CLIP; ours is calibrated on pairs of real images of a class, because a
cosine means something else in every embedding. The context is the labels of the image, not a sentence.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from toolkit.diffusion.noise import uniform
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.methods import guided
from toolkit.methods.guided import Run, Walk
from toolkit.methods.method import Method

__all__ = ["METHODS", "DiffCoReMix", "calibrate", "cosine", "counterparts", "hard_cosine", "hybrid", "mix", "weights"]

METHODS = (
    Method(
        "DiffCoRe-Mix",
        "Islam & Akhtar 2025, arXiv:2503.10687",
        "A counterpart for every training image, steered off a negative condition, filtered by cosine, mixed in.",
        "a conditional denoiser; a feature network; labelled images, two or more of a class",
        "toolkit.methods.diffcore_mix.counterparts, hard_cosine, mix",
    ),
)


@dataclass(frozen=True)
class DiffCoReMix:
    """Settings of `mix` and of the filter.

    percentile: of the cosines between real images of one class, the threshold of the filter. pixel, patch: whether to
    blend, whether to paste. least: the least that the real image weighs in a blend. area: (low, high) of the patch.
    """

    walk: Walk = field(default_factory=lambda: Walk(guidance=2.5))
    percentile: float = 5.0
    pixel: bool = True
    patch: bool = True
    least: float = 0.5
    area: tuple[float, float] = (0.1, 0.4)


def counterparts(run: Run, settings: DiffCoReMix) -> np.ndarray:
    """(N, C, H, W) one new image for each row of the run's condition, the context, driven away from the same row of its null.

    The negative condition acts from guidance above 1 only. Errors: less.
    """
    if settings.walk.guidance <= 1:
        raise Error(
            f"A negative condition acts at a guidance above 1; found {settings.walk.guidance}. The paper's is 7.5."
        )
    return guided.generate(run, settings.walk)


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) cosine of the angle between features (N, D) and (N, D)."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / np.maximum(lengths, 1e-12)


def calibrate(real: np.ndarray, classes: np.ndarray, settings: DiffCoReMix) -> float:
    """The threshold: settings.percentile of the cosines between two real images of one class.

    real (M, D) features, classes (M,). Errors: no class with two images.
    """
    unit = real / np.maximum(np.linalg.norm(real, axis=1, keepdims=True), 1e-12)
    pairs = np.triu(classes[:, None] == classes[None], 1)
    if not pairs.any():
        raise Error("The threshold is calibrated on pairs of real images of one class; found none. Give more images.")
    return float(np.percentile((unit @ unit.T)[pairs], settings.percentile))


def hard_cosine(real: np.ndarray, generated: np.ndarray, threshold: float) -> tuple[np.ndarray, float]:
    """Which counterparts are kept, (N,) boolean, and the share that is rejected. Features (N, D) each, in pairs."""
    kept = cosine(real, generated) >= threshold
    return kept, float(1 - kept.mean())


def weights(shape: Sequence[int], settings: DiffCoReMix, indices: Sequence[int]) -> np.ndarray:
    """(N, 1, H, W) float32: W, what the real image weighs at each pixel; a function of seed and index.

    shape: (H, W). The patch has the shape of the image and lies inside it, its sides rounded to pixels.
    """
    low, high = settings.area
    if not (0 < low <= high < 1 and 0 <= settings.least <= 1 and (settings.pixel or settings.patch)):
        raise Error(
            "Mixing needs pixel or patch, areas within (0, 1) in order, and `least` in [0, 1]; found "
            f"pixel {settings.pixel}, patch {settings.patch}, {settings.area}, {settings.least}."
        )
    weight = np.ones((len(indices), 1, *shape), np.float32)
    for part, (blend, area, down, right) in zip(weight, uniform((4,), settings.walk.seed, indices, 2), strict=True):
        if settings.pixel:
            part *= settings.least + (1 - settings.least) * blend
        if settings.patch:
            side = math.sqrt(low + (high - low) * area)
            height, width = (max(1, round(side * size)) for size in shape)
            top, left = (int(u * (n - s + 1)) for u, n, s in ((down, shape[0], height), (right, shape[1], width)))
            part[:, top : top + height, left : left + width] = 0
    return weight


def mix(
    real: np.ndarray, generated: np.ndarray, kept: np.ndarray, settings: DiffCoReMix, indices: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Each real image (N, C, H, W) with its counterpart -> (hybrids, w (N,): the weight of the real label).

    kept (N,): where it is False the real image comes back as it is, with w = 1.
    """
    weight = np.where(kept[:, None, None, None], weights(real.shape[2:], settings, indices), np.float32(1))
    return np.where(weight == 1, real, weight * real + (1 - weight) * generated), weight.mean((1, 2, 3))


def hybrid(
    real: Example, generated: Example, image: np.ndarray, weight: float, settings: DiffCoReMix, number: int = 0
) -> Example:
    """A mixed image as an Example: edited, with both sources, in the group of the real one, which no split may cut.

    A label on which the two disagree is unknown; its weight is in the provenance.
    """
    ours, theirs = real.annotation.labels, generated.annotation.labels
    labels = {k: v if theirs.get(k, v) == v else math.nan for k, v in ours.items()}
    made = {**dataclasses.asdict(settings), "generated": generated.id, "weight": float(weight)}
    model = generated.provenance.model if generated.provenance else ""
    source = Provenance("edited", model, "diffcore_mix", settings.walk.seed, made, real.id)
    annotation = Annotation(real.annotation.text, labels)
    return Example(f"{real.id}-mix{number}", image, annotation, real.group, provenance=source)
