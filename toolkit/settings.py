"""Every setting of a run, as frozen values: printed at the start, saved beside the result, replayable from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Augmentation", "Counterfactual", "Distillation", "Network", "Sampling", "Training"]


@dataclass(frozen=True)
class Network:
    """Size of a U-Net, an autoencoder, a classifier or a feature network.

    channels: one entry a resolution, finest first. layers: residual blocks a resolution. dropout: probability.
    attention: of the U-Net, at how many of its coarsest resolutions.
    """

    channels: tuple[int, ...]
    layers: int = 1
    attention_head_dim: int = 32
    norm_groups: int = 8
    dropout: float = 0.0
    attention: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Network:
        """Of model.json, where tuples are lists."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image that leave its labels true; each a half range, 0 is off.

    flip, flip_rows: probability of a left-right and of an up-down flip. rotate: degrees. shift: part of half the image.
    warp: elastic, of each knot, part of half the image. scale, gain, gamma: relative, log-uniform. border: what comes
    in from outside repeats the edge, instead of -1. interpolation: as torch's grid_sample names it; bicubic keeps edges.
    crop: part of the sides that a window inside the image, drawn at random, may leave out. Boxes go along with flips and
    with crop, scale and shift; a turn or a warp would leave them false.
    """

    flip: float = 0.0
    flip_rows: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    gamma: float = 0.0
    gain: float = 0.0
    border: bool = False
    warp: float = 0.0
    crop: float = 0.0
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Training:
    """One training run of one part of a model.

    sigma_mean, sigma_std: of ln sigma during training (Karras et al. 2022, table 1). drop: probability that all
    conditions of a sample are replaced by their nulls; drop_each: that one of them alone is, each by itself, for a model
    that may be told some labels and not others. fold: the fold of groups that is never trained on (None: use
    all). ema: decay of the weight average. precision: "fp32" or "bf16" (autocast; weights stay fp32). variants: augmented
    copies that are encoded once. joint: the text encoder is trained along with the denoiser, instead of frozen. lora: rank
    of the low-rank changes of the denoiser's attention that alone are trained, and then merged; 0 trains it whole.
    adversary: of the codec, weight of a discriminator that is trained along with it, from step adversary_start on; 0 is none.
    """

    steps: int
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    sigma_mean: float = -0.7
    sigma_std: float = 1.2
    drop: float = 0.15
    drop_each: float = 0.0
    seed: int = 0
    fold: int | None = 0
    precision: str = "bf16"
    checkpoint_every: int = 200
    variants: int = 16
    joint: bool = False
    lora: int = 0
    adversary: float = 0.0
    adversary_start: int = 0


@dataclass(frozen=True)
class Sampling:
    """How new images are sampled: solver, steps really taken, schedule, classifier-free guidance, seed.

    student: by the model's few-step student, which has sampler, steps and levels of its own and its guidance folded in.
    """

    sampler: str = "euler"
    steps: int = 20
    schedule: str = "karras"
    guidance: float = 1.0
    seed: int = 0
    student: bool = False


@dataclass(frozen=True)
class Counterfactual:
    """How a counterfactual is made (toolkit/methods/counterfactual.py).

    strengths: in (0, 1], t / T of the model's clock; several are averaged. steps: taken in each direction.
    guidance: classifier-free, 0 ignores the target label, 1 is plainly conditional, more extrapolates.
    classifier_guidance: scale of the classifier's gradient, 0 off; guidance_low: it is off at and below this sigma.
    mirror: also go through the left-right mirror image and average. student: by the model's few-step student, which has
    steps, strengths and guidance of its own.
    """

    strengths: tuple[float, ...] = (0.5, 0.7)
    steps: int = 10
    sampler: str = "euler"
    guidance: float = 1.0
    classifier_guidance: float = 0.0
    guidance_low: float = 0.0
    mirror: bool = True
    seed: int = 0
    student: bool = False


@dataclass(frozen=True)
class Distillation:
    """How a few-step student is made (toolkit/training/distilling.py).

    steps: evaluations of the student, in each direction where there are two. objective: leap or consistency. fine: steps
    of the teacher in each leap. paths: of the teacher. rank: of the changes. Guidance is what is folded in.
    """

    steps: int = 4
    objective: str = "leap"
    fine: int = 6
    paths: int = 2048
    rank: int = 16
    seed: int = 0
