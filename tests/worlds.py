"""A world whose diffusion model is known exactly: Gaussian classes. An oracle for everything that uses a denoiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from toolkit.diffusion.model import Field, Spec

BACKENDS = {"numpy": np, "torch": torch}


@dataclass(frozen=True)
class Mixture:
    """Images whose class k is Gaussian with mean means[k] and independent pixels of variance variances[k].

    means, variances: (K, C, H, W). weights: (K,). xp: numpy or torch; dtype: name of its float type.
    The mixture is a Denoiser with the field "label" (K = not stated); log_probs is the exact Classifier and gradient
    its exact Gradient.
    """

    means: Any
    variances: Any
    weights: Any
    xp: ModuleType = np
    dtype: str = "float64"

    @property
    def spec(self) -> Spec:
        fields = {"label": Field((), "int64", len(self.weights))}
        return Spec(np.shape(self.means)[1:], fields)

    def asarray(self, values) -> Any:
        return self.xp.asarray(np.array(values), dtype=getattr(self.xp, self.dtype))

    def label(self, *classes: int) -> dict[str, Any]:
        return {"label": self.xp.asarray(np.asarray(classes))}

    def one_hot(self, *classes: int) -> Any:
        return self.asarray(np.eye(len(self.weights))[list(classes)])

    def sample(self, count: int, seed: int = 0) -> tuple[Any, np.ndarray]:
        """count images and their classes."""
        rng = np.random.default_rng(seed)
        labels = rng.choice(len(self.weights), count, p=np.asarray(self.weights) / np.sum(self.weights))
        spread = np.sqrt(np.asarray(self.variances))[labels]
        return self.asarray(np.asarray(self.means)[labels] + spread * rng.standard_normal(spread.shape)), labels

    def __call__(self, x, sigma, *conds):
        answers = tuple(self._posterior_mean(x, sigma, cond) for cond in conds)
        return answers if len(answers) > 1 else answers[0]

    def log_probs(self, x, sigma):
        """log p(k | x; sigma), (B, K)."""
        joint = self._log_joint(x, sigma)
        top = self.xp.amax(joint, 1).reshape(-1, 1)
        return joint - top - self.xp.log(self.xp.exp(joint - top).sum(1)).reshape(-1, 1)

    def gradient(self, x, sigma, target):
        """grad_x of sum_k target_k log p(k | x; sigma)."""
        slopes = self._away(x) / -self._variances(sigma)
        share = target - self.xp.exp(self.log_probs(x, sigma)) * target.sum(1).reshape(-1, 1)
        return (share[:, :, None] * slopes).sum(1).reshape(x.shape)

    def _posterior_mean(self, x, sigma, cond):
        clean = self.asarray(self.variances).reshape(1, len(self.weights), -1)
        means = x.reshape(len(x), 1, -1) - self._away(x) * (sigma**2 / (clean + sigma**2))
        label = np.broadcast_to(np.asarray(cond["label"]), (len(x),))
        stated = self.asarray(label[:, None] == np.arange(len(self.weights)))
        unknown = self.asarray(label[:, None] == len(self.weights))
        weights = stated + unknown * self.xp.exp(self.log_probs(x, sigma))
        return (weights[:, :, None] * means).sum(1).reshape(x.shape)

    def _away(self, x):
        return x.reshape(len(x), 1, -1) - self.asarray(self.means).reshape(1, len(self.weights), -1)

    def _variances(self, sigma):
        return self.asarray(self.variances).reshape(1, len(self.weights), -1) + sigma**2

    def _log_joint(self, x, sigma):
        variances = self._variances(sigma)
        likelihood = -0.5 * (self._away(x) ** 2 / variances + self.xp.log(2 * math.pi * variances)).sum(2)
        return likelihood + self.asarray(np.log(self.weights))


def two_classes(xp: ModuleType = np, dtype: str = "float64") -> Mixture:
    """Class -1 and class +1 in the first pixel; the other three are the anatomy, alike in both classes."""
    means = np.zeros((2, 1, 2, 2))
    means[:, 0, 0, 0] = [-1, 1]
    variances = np.broadcast_to(np.array([[[0.04, 0.5], [0.3, 0.2]]]), means.shape)
    return Mixture(means, variances, (0.5, 0.5), xp, dtype)


def three_classes(xp: ModuleType = np, dtype: str = "float64") -> Mixture:
    """Unlike classes in every pixel, unlike weights: nothing cancels by symmetry."""
    rng = np.random.default_rng(3)
    means, variances = rng.uniform(-1, 1, (3, 1, 2, 2)), rng.uniform(0.02, 0.3, (3, 1, 2, 2))
    return Mixture(means, variances, (0.5, 0.3, 0.2), xp, dtype)
