"""DA-Fusion: a few real images, each noised to a random level and denoised as its own class, again and again.

Trabucco et al. 2023, arXiv:2302.07944, section 4. The class condition w_i is a word learned from the few labelled
images (textual inversion, toolkit/training/textual_inversion.py), or a class that the model knew. The variant of the
real image x of class i is, in sigma units,

    x~ = sample from D(., .; w_i), started at x + sigma(t) n,    t ~ U(0, 1), one draw a variant          (section 4.2)

and a training batch takes a variant in place of its real image with probability 1/2 (section 4.3), with the standard
augmentation on both. Never from nothing: the real image sets the layout, t how much of it is left.

What differs. t is one of 1/20, 2/20, ... 1 (`insertions`), as in the paper's code, where it picks one of the solver's
steps; every variant then takes all of `steps`. A t whose sigma the training never reached starts at the highest that
it did. Guidance is ours to set; the paper's comes with Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from toolkit.diffusion import editing
from toolkit.diffusion.model import Array, Denoise
from toolkit.diffusion.noise import Draws, uniform
from toolkit.example import Error
from toolkit.methods import guided
from toolkit.methods.guided import Run, Walk
from toolkit.methods.method import Method

__all__ = ["METHODS", "DAFusion", "augment", "balanced", "insertions"]

METHODS = (
    Method(
        "DA-Fusion",
        "Trabucco et al. 2023, arXiv:2302.07944",
        "Variants of real images: noised to a random level, denoised as their own class; half of each training batch.",
        "a denoiser with the class among its conditions; labelled images, 5 or more a class",
        "diffgraft edit MODEL DATA OUT --procedure dafusion --strength 1 --variants 10; toolkit.methods.da_fusion.balanced",
    ),
    Method(
        "Textual inversion",
        "Gal et al. 2022, arXiv:2208.01618",
        "A new class learned as one embedding row from a few images, the network frozen.",
        "a trained denoiser with class conditions; 5 or more images a new class",
        "diffgraft train DOMAIN FEWSHOT MODEL --part embedding --from PRETRAINED",
    ),
)


@dataclass(frozen=True)
class DAFusion:
    """Settings of `augment`: how a variant is sampled, and between which strengths t is drawn, on how fine a grid.

    low, high: t is uniform in (low, high]; equal, t is that number. share: of the variants in a training batch.
    """

    walk: Walk = field(default_factory=Walk)
    low: float = 0.0
    high: float = 1.0
    insertions: int = 20
    share: float = 0.5


def insertions(settings: DAFusion, indices: Sequence[int]) -> np.ndarray:
    """(N,) insertion times t, a function of the seed and each variant's index alone."""
    if not 0 <= settings.low <= settings.high <= 1 or settings.high == 0 or settings.insertions < 1:
        raise Error(
            "An insertion time is drawn from (low, high] within (0, 1] on a grid of 1 or more; found "
            f"({settings.low}, {settings.high}] and {settings.insertions}. The paper's is (0, 1]."
        )
    place = np.floor(uniform((), settings.walk.seed, indices, 0) * settings.insertions) + 1
    return settings.low + (settings.high - settings.low) * place / settings.insertions


def augment(run: Run, images: np.ndarray, settings: DAFusion) -> tuple[np.ndarray, np.ndarray]:
    """One variant of every image (N, C, H, W) in [-1, 1] -> (variants, the strengths (N,) that were drawn).

    The condition of the run is the class of each image; a variant depends on its number and its image, not on the others.
    Repeat images for more variants of one.
    """
    times = insertions(settings, run.indices)

    def edit(denoise: Denoise, x: Array, levels: list[float], noise: Draws, _rows: np.ndarray) -> Array:
        return editing.sdedit(guided.sampler(settings.walk), denoise, x, levels, noise)

    return guided.apply(run, edit, images, times, settings.walk), times


def balanced(sources: Sequence[int], images: int, settings: DAFusion, draws: Sequence[int]) -> np.ndarray:
    """Which image each draw of a training set is: (len(draws),) index of a real image, or images + index of a variant.

    sources: for each variant the index of its real image, 0 to images - 1. A draw takes a real image, all alike, and
    with probability settings.share one of that image's variants in its place (section 4.3); an image without variants
    stays real.
    """
    owner = np.asarray(sources, int)
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=images)
    first = np.cumsum(counts) - counts
    chance, pick, which = uniform((3,), settings.walk.seed, draws, 1).T
    real = np.floor(pick * images).astype(int)
    taken = (chance < settings.share) & (counts[real] > 0)
    place = first[real] + np.floor(which * counts[real]).astype(int)
    return np.where(taken, images + order[np.where(taken, place, 0)] if len(order) else real, real)
