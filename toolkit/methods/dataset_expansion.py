"""Expanding a small data set: images of each class from a model of that set, and a filter on realism and class.

The recipe of Zhang Y. et al. 2022 (GIF, arXiv:2211.13976) as it is told in its core: a class-conditional diffusion
model trained on the small set, more images a class, and only those kept that a classifier trained on the real images
names as the class that was asked for and that lie among the real images. Realism is the score of Kynkaanniemi et al.
2019, arXiv:1904.06991, eq. 3, in a feature network of the domain:

    R(x) = max_i  r_i / |f(x) - f(x_i)|,    r_i = distance of the real image x_i to its k-th nearest real image

over the half of the real images with the smaller r_i. The lowest R allowed is what a few real images in a hundred do
not reach when they are left out of their own measure, so the filter is as strict with generated images as with real.

What differs. The paper perturbs latents of a pretrained model, guided by class consistency and diversity, where this
draws and discards; how much was discarded, and why, is part of the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from toolkit.evaluation.finite import check_finite
from toolkit.example import Error
from toolkit.methods import guided
from toolkit.methods.guided import Run, Walk
from toolkit.methods.method import Method

__all__ = ["METHODS", "Expansion", "Judges", "Selection", "expand", "judge", "lowest_realism", "realism"]

METHODS = (
    Method(
        "Data set expansion (GIF)",
        "Zhang Y. et al. 2022, arXiv:2211.13976",
        "New images of each class, kept when a classifier names the class and they lie among the real ones.",
        "a class-conditional denoiser; a feature network or any classifier; the real images",
        "diffgraft generate MODEL OUT --like DATA --faithful-to DATA -n 300; toolkit.methods.dataset_expansion.judge",
    ),
    Method(
        "Plant disease and weed synthesis by class",
        "Deng & Lu 2023; Chen D. et al. 2023; Muhammad et al. 2023",
        "A diffusion model trained, or trained further, on plant images by class enlarges a recognition set.",
        "labelled images; a model of another crop to start from where there are few",
        "diffgraft train plant_disease DATA MODEL --from PRETRAINED; diffgraft generate MODEL OUT --like DATA",
    ),
)

KEPT, OTHER_CLASS, UNREAL, SURPLUS = "kept", "another class", "unlike the real images", "beyond the best of its class"


@dataclass(frozen=True)
class Expansion:
    """Settings of `judge`.

    probability: the least that the classifier gives the class that was asked for, which also must be its first.
    neighbours: k of the realism score. missed: share of real images that the lowest realism allowed would reject.
    best: keep at most so many of a class, by probability; None keeps all.
    """

    walk: Walk = field(default_factory=Walk)
    probability: float = 0.5
    neighbours: int = 3
    missed: float = 0.05
    best: int | None = None


@dataclass(frozen=True)
class Selection:
    """kept (N,) boolean; reasons (N,) words; probability (N,) of the class asked for; realism (N,), and the lowest
    allowed; rates: reason -> share of all, "kept" among them.
    """

    kept: np.ndarray
    reasons: tuple[str, ...]
    probability: np.ndarray
    realism: np.ndarray
    lowest: float
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Judges:
    """What `expand` judges images by: images -> log-probabilities (N, K), and -> features (N, D); real images (M, C, H, W)."""

    classify: Callable[[np.ndarray], np.ndarray]
    features: Callable[[np.ndarray], np.ndarray]
    real: np.ndarray


def expand(run: Run, wanted: np.ndarray, judges: Judges, settings: Expansion) -> tuple[np.ndarray, Selection]:
    """New images (N, C, H, W), one a row of the run's condition, and which of them to keep. wanted: as in `judge`."""
    images = guided.generate(run, settings.walk)
    real = judges.features(judges.real)
    return images, judge(judges.classify(images), judges.features(images), wanted, real, settings)


def judge(
    log_probability: np.ndarray, generated: np.ndarray, wanted: np.ndarray, real: np.ndarray, settings: Expansion
) -> Selection:
    """Which generated images to keep, and why not the others.

    log_probability (N, K) of a classifier that learned from real images, the test items not among them; generated
    (N, D), real (M, D): features. wanted (N,): index of the class that was asked for.
    Errors: fewer real images than the realism score needs, a log-probability that is not finite.
    """
    if len(real) < settings.neighbours + 2:
        raise Error(
            f"The realism of an image needs {settings.neighbours + 2} real ones or more; found {len(real)}. "
            "Give more, or fewer neighbours."
        )
    check_finite(log_probability, "log-probabilities of a classifier")
    probability = np.exp(log_probability[np.arange(len(wanted)), wanted])
    named = (log_probability.argmax(1) == wanted) & (probability >= settings.probability)
    scores, lowest = realism(generated, real, settings.neighbours), lowest_realism(real, settings)
    reasons = np.where(named, np.where(scores >= lowest, KEPT, UNREAL), OTHER_CLASS).astype(object)
    if settings.best is not None:
        for label in np.unique(wanted):
            rows = np.flatnonzero((wanted == label) & (reasons == KEPT))
            reasons[rows[np.argsort(-probability[rows], kind="stable")][settings.best :]] = SURPLUS
    counts = Counter(reasons.tolist())
    rates = {reason: count / len(reasons) for reason, count in counts.items()}
    return Selection(reasons == KEPT, tuple(reasons), probability, scores, lowest, {KEPT: 0.0, **rates})


def realism(generated: np.ndarray, real: np.ndarray, neighbours: int = 3) -> np.ndarray:
    """(N,) realism of features (N, D) beside those of real images (M, D): 1 is on the edge of the nearest ball."""
    radius = np.sort(_distances(real, real), axis=1)[:, neighbours]  # the first is the image itself
    return _score(_distances(generated, real), np.broadcast_to(radius, (len(generated), len(real))))


def lowest_realism(real: np.ndarray, settings: Expansion) -> float:
    """The realism that a share settings.missed of real images does not reach, each left out of its own measure."""
    between = _distances(real, real)
    ordered = np.sort(between, axis=1)
    near, next_ = ordered[:, settings.neighbours], ordered[:, settings.neighbours + 1]
    # Without image i a ball that reached as far as i reaches one further neighbour.
    radius = np.where(between <= near[None], next_[None], near[None])
    np.fill_diagonal(between, np.inf)
    return float(np.quantile(_score(between, radius), settings.missed))


def _score(distance: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """max over the real images, the half with the smaller radius, of radius / distance."""
    usual = radius <= np.median(radius, axis=1, keepdims=True)
    return (np.where(usual, radius, 0) / np.maximum(distance, 1e-12)).max(1)


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, M) Euclidean distances."""
    one, other = one.astype(float), other.astype(float)
    squared = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    return np.sqrt(np.maximum(squared, 0))
