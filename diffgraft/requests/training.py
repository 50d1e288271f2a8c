"""Requests of the verbs that make models: train and distill."""

from __future__ import annotations

from pathlib import Path

from diffgraft.requests.base import converted, optional_path, path, request
from toolkit.settings import Distillation

__all__ = ["DistillationRequest", "TrainingRequest"]


@request
class TrainingRequest:
    """Train one part of a model, or go on with a training that was stopped.

    domain: name of it. data: data set folder. model: folder that the part is added to. part, preset: of the domain's
    PRESETS; part "embedding" is textual inversion. base: model or Stable Diffusion folder that a new model begins with.
    The others change single settings of the preset, see toolkit.settings.Training; None leaves it as it is. fold -1: all.
    """

    domain: str
    data: Path = converted(converter=path)
    model: Path = converted(converter=path)
    part: str = "denoiser"
    preset: str = "small"
    base: Path | None = converted(converter=optional_path, default=None)
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    fold: int | None = None
    seed: int | None = None
    joint: bool | None = None
    lora: int | None = None
    warmup: int | None = None
    weight_decay: float | None = None
    ema: float | None = None
    sigma_mean: float | None = None
    sigma_std: float | None = None
    drop: float | None = None
    drop_each: float | None = None
    precision: str | None = None
    checkpoint_every: int | None = None
    variants: int | None = None


@request
class DistillationRequest:
    """Make `out` a copy of `model` with a few-step student.

    settings: of the student. guidance, classifier_guidance: folded in, the model's own where None. like: data set whose
    labels are asked for; a model that changes scans needs it. train_steps, batch, learning_rate: of the training.
    """

    model: Path = converted(converter=path)
    out: Path = converted(converter=path)
    settings: Distillation = Distillation()
    guidance: float | None = None
    classifier_guidance: float | None = None
    like: Path | None = converted(converter=optional_path, default=None)
    backend: str = "auto"
    train_steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
