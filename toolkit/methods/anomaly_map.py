"""From an image and its healthy counterfactual to an anomaly map on the source grid.

    r   = max(0, image - counterfactual)            Wolleb et al. 2022, arXiv:2203.04306: the difference
    r'  = max(0, r - symmetry * smooth(mirror(r)))
    map = smooth(rim * r') * rim * p

Signed, because a FLAIR lesion is brighter than what should be there; less what the other side of the head shows too,
because anatomy is symmetric and a lesion seldom is; smoothed, because the voxels of a lesion agree with one another and
those of an edge do not; falling to 0 at the rim of the head, where skin fat differs between people; and weighted by p,
the classifier's probability that the slice shows a lesion. What plain intensity reaches by the same means is printed
beside it by the evaluation (Meissen et al. 2021, arXiv:2109.06023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from toolkit.data.head import rim_distance, scale_length
from toolkit.diffusion.model import Model
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.methods.method import Method

__all__ = ["METHODS", "MapSettings", "anomaly_map", "asymmetric", "rim_weight", "slice_probability"]

METHODS = (
    Method(
        "Anomaly map of a counterfactual",
        "after Wolleb et al. 2022, arXiv:2203.04306",
        "Where a scan is brighter than its healthy counterfactual, less what its mirror image shows, as a map.",
        "a denoiser and a classifier of the slices; a scan",
        "diffgraft counterfactual MODEL SCAN OUT",
    ),
)


@dataclass(frozen=True)
class MapSettings:
    """Post-processing, chosen on validation patients. Lengths in pixels of an image 256 px wide.

    smooth: in-plane Gaussian; across: Gaussian across slices, in slices. rim: where the weight of the rim begins and
    where it reaches 1. symmetry: share of the other side's difference that is taken off, 0 is off. gate_sigmas: noise
    levels at which the classifier is asked, gate_draws times each. gate_across: Gaussian of its log-odds across
    slices. gate_bias: added to the log-odds.
    """

    smooth: float = 5.0
    across: float = 0.7
    rim: tuple[float, float] = (8.0, 22.0)
    symmetry: float = 0.4
    gate_sigmas: tuple[float, ...] = (0.05, 0.2, 0.5, 1.0)
    gate_draws: int = 2
    gate_across: float = 1.0
    gate_bias: float = 0.7

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MapSettings:
        """Of model.json, where tuples are lists."""
        plain: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        return cls(**plain)


def slice_probability(
    model: Model, images: np.ndarray, settings: MapSettings, watch: Callable[[], object] = lambda: None
) -> np.ndarray:
    """(N,) probability that each of N successive slices (N, C, H, W) is not of class 0.

    The mean log-odds over noise levels, draws and the mirror image, smoothed across slices.
    """
    odds = np.zeros(len(images))
    classify = model.classifier
    assert classify is not None
    rounds = 0
    for level, sigma in enumerate(settings.gate_sigmas):
        for draw in range(settings.gate_draws):
            noise = gaussian(images.shape[1:], level, range(len(images)), Purpose.START, draw)
            for view in (images, images[..., ::-1]):
                x = np.ascontiguousarray(view + np.float32(sigma) * noise, np.float32)
                log_probability = model.asnumpy(classify(model.asarray(x), sigma))
                odds += np.log1p(-np.exp(np.minimum(log_probability[:, 0], -1e-6))) - log_probability[:, 0]
                rounds += 1
                watch()
    odds = ndimage.gaussian_filter1d(odds / rounds, settings.gate_across, mode="nearest") + settings.gate_bias
    return 1 / (1 + np.exp(-odds))


def rim_weight(head: np.ndarray, settings: MapSettings) -> np.ndarray:
    """(S, rows, cols) weight: 0 outside and at the rim of the head, 1 well inside, linear between."""
    low, high = (scale_length(length, head) for length in settings.rim)
    return np.clip((rim_distance(head) - low) / (high - low), 0, 1).astype(np.float32)


def asymmetric(residual: np.ndarray, settings: MapSettings) -> np.ndarray:
    """(N, h, w) image - counterfactual, the head in the middle -> the positive part that the mirror image lacks."""
    positive = np.maximum(residual, 0)
    other = ndimage.gaussian_filter(positive, (0, 1.5, 1.5))[..., ::-1]
    return np.maximum(positive - settings.symmetry * other, 0)


def anomaly_map(residual: np.ndarray, weight: np.ndarray, probability: np.ndarray, settings: MapSettings) -> np.ndarray:
    """The map of a stack: residual (S, rows, cols) from `asymmetric`; weight, that of the rim; probability (S,)."""
    spread = scale_length(settings.smooth, weight)
    smooth = ndimage.gaussian_filter(np.maximum(residual, 0) * weight, (settings.across, spread, spread))
    return (smooth * weight * probability[:, None, None]).astype(np.float32)
