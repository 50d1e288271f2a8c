"""What a diffusion model is to the engine, whatever runs it: value types and protocols, no arithmetic library.

Outside the network x = x0 + sigma * n, and the denoiser returns the posterior mean of x0 (Karras et al. 2022,
arXiv:2206.00364, eq. 2). How a network was trained (eps, v, x0, flow, EDM) is hidden behind that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = [
    "BOXES", "OBJECTS", "TEXT", "Array", "Classifier", "Codec", "Cond", "Denoise", "Denoiser", "Detector", "Features",
    "Field", "Gradient", "Identity", "Likeness", "Model", "Noise", "Spec", "Text",
]  # fmt: skip

Array = Any
"""A numpy array or a torch tensor; the engine uses + - * / ** and .mean(axis, keepdims) of it and nothing else."""

Cond = Mapping[str, Array]
"""Condition fields by name, each with a leading batch axis."""

Denoise = Callable[[Array, float], Array]
"""(x, sigma) -> denoised: all that a sampler ever sees of a model."""

TEXT = "text"
"""The field that holds the tokens of a text, (tokens, width): what the text encoder of the model answers for a prompt."""

BOXES, OBJECTS = "boxes", "objects"
"""The fields of a layout: corners (N, 4), x0 y0 x1 y1 in parts of the image's width and height, and classes (N,)."""

Noise = Callable[[int], Array]
"""Step number -> standard normal noise of the shape of x, a function of the sample's seed and the step alone."""


@dataclass(frozen=True)
class Field:
    """One named condition of a model: a graph input of its own.

    shape: without the batch axis. null: the value that means "not stated" (a reserved class index, or a number's
    value; a number also has a field "<name>_known").
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"]
    null: float


@dataclass(frozen=True)
class Spec:
    """What a model takes and over which noise levels it was trained; saved in model.json.

    shape: (C, H, W) of x. sigma_data: standard deviation of the clean data.
    initial_variance: the variance that x keeps beside the noise at the start of sampling: 1 for a variance-preserving
    process, whose prior is x_vp = n, and 0 for a variance-exploding one (EDM).
    """

    shape: tuple[int, ...]
    fields: Mapping[str, Field] = field(default_factory=dict)
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    initial_variance: float = 0.0

    def initial_scale(self, sigma: float) -> float:
        """Factor of the noise that sampling starts from: sqrt(1 + sigma^2) for VP, sigma for EDM."""
        return math.sqrt(self.initial_variance + sigma**2)


class Denoiser(Protocol):
    """A conditional denoiser, the thing that is exported.

    x (B, C, H, W), sigma a number or (B,), cond the fields of spec. Given several conditions it answers a tuple, one
    result each, and the backend may evaluate them as one batch (classifier-free guidance).
    """

    spec: Spec

    def __call__(self, x: Array, sigma: float | Array, *conds: Cond) -> Any: ...


class Classifier(Protocol):
    """A noise-conditional classifier: (x, sigma) -> log-probabilities (B, classes)."""

    def __call__(self, x: Array, sigma: float | Array, /) -> Array: ...


class Gradient(Protocol):
    """grad_x log p(target | x; sigma). target: (B, classes) weights, one-hot for a single class. Shape of x."""

    def __call__(self, x: Array, sigma: float | Array, target: Array, /) -> Array: ...


class Features(Protocol):
    """A feature network of the domain: image (B, C, H, W) in [-1, 1] -> arrays by name.

    features (B, D), log_probability (B, classes), level0, level1, ... (B, C, h, w) its maps, finest first.
    """

    def __call__(self, image: Array, /) -> Mapping[str, Array]: ...


class Detector(Protocol):
    """Objects in images: image (B, C, H, W) in [-1, 1] -> scores (B, K, h, w), corners (B, 4, h, w), K classes.

    A probability for each place of a map and class, and a box for each place, x0 y0 x1 y1 in pixels of the image.
    `toolkit.evaluation.detection.metrics.decode` reads boxes from it.
    """

    def __call__(self, image: Array, /) -> Mapping[str, Array]: ...


class Text(Protocol):
    """The text encoder: N prompts -> (N, tokens, width), what the field "text" of a denoiser is told."""

    def __call__(self, texts: Sequence[str], /) -> Array: ...


class Likeness(Protocol):
    """How well images and prompts fit: features (N, D) of N images and N prompts -> cosines (N,) in [-1, 1].

    Radford et al. 2021, arXiv:2103.00020, with the text encoder and the feature network of the model.
    """

    def __call__(self, features: Array, texts: Sequence[str], /) -> Array: ...


class Codec(Protocol):
    """The first stage of a latent model, image (B, C, H, W) in [-1, 1] <-> latent; a pixel model has the identity."""

    def encode(self, image: Array, /) -> Array: ...

    def decode(self, latent: Array, /) -> Array: ...


class Identity:
    """The codec of a pixel model."""

    def encode(self, image: Array, /) -> Array:
        return image

    def decode(self, latent: Array, /) -> Array:
        return latent


@dataclass(frozen=True)
class Model:
    """What a model folder opens as, on any backend.

    asarray turns a numpy array into the backend's array, asnumpy turns it back. student: the denoiser's few-step student,
    which answers at the levels that meta names and with its guidance folded in. meta is model.json as it stands, for
    what a domain keeps there (windows, thresholds, calibration).
    """

    denoiser: Denoiser
    codec: Codec
    asarray: Callable[[Any], Array]
    asnumpy: Callable[[Array], Any]
    backend: str
    fingerprint: str
    student: Denoiser | None = None
    classifier: Classifier | None = None
    gradient: Gradient | None = None
    features: Features | None = None
    detector: Detector | None = None
    text: Text | None = None
    likeness: Likeness | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
