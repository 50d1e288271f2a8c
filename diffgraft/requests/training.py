"""Requests of the verbs that make models: train and distill."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from diffgraft.requests.base import converted, optional_path, overrides, path, request
from toolkit.example import Error
from toolkit.settings import Distillation, Training

__all__ = ["OBJECTIVES", "DistillationRequest", "TrainingRequest"]

OBJECTIVES = ("leap", "consistency")
"""What a student may learn; see toolkit.training.distilling."""


def domain_name(value: str | ModuleType) -> str:
    """What a field for a domain may be given: its name, or its module, whose name is kept."""
    return value if isinstance(value, str) else value.__name__.rpartition(".")[2]


class DomainName:
    """The annotation that makes pydantic convert by `domain_name`; pydantic itself is not imported before it is used."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def name(value: Any) -> Any:
            return domain_name(value) if hasattr(value, "__name__") else value

        return core_schema.no_info_before_validator_function(name, handler(source))


@request
class TrainingRequest:
    """Train one part of a model, or go on with a training that was stopped.

    domain: name or module of it. data: data set folder. model: folder that the part is added to. part, preset: of the
    domain's PRESETS; part "embedding" is textual inversion. base: model or Stable Diffusion folder that a new model begins
    with. The others change single settings of the preset, see toolkit.settings.Training; None leaves it as it is. fold: -1
    keeps nothing back.
    """

    domain: Annotated[str, DomainName] = converted(converter=domain_name)
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
    adversary: float | None = None
    adversary_start: int | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that take the place of the preset's."""
        return overrides(self, *(field.name for field in dataclasses.fields(Training)))

    def validate(self) -> None:
        from toolkit.data.dataset import FOLDS

        allowed = {
            "steps": lambda value: value >= 1,
            "batch": lambda value: value >= 1,
            "learning_rate": lambda value: 0 < value < math.inf,
            "seed": lambda value: 0 <= value < 2**63,
            "fold": lambda value: -1 <= value < FOLDS,
            "adversary": lambda value: 0 <= value < math.inf,
            "adversary_start": lambda value: value >= 0,
        }
        for name, value in self.changes.items():
            if name in allowed and not allowed[name](value):
                raise Error(
                    "Training takes 1 step or more, batches of 1 or more, a learning rate, a seed and a weight and a start of "
                    f"an adversary that are not negative, and a fold from -1 to {FOLDS - 1}; found {name} = {value}."
                )


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

    @property
    def changes(self) -> dict[str, Any]:
        """The settings of the training that take the place of the usual ones."""
        steps = {} if self.train_steps is None else {"steps": self.train_steps}
        return steps | overrides(self, "batch", "learning_rate")

    def validate(self) -> None:
        if self.settings.objective not in OBJECTIVES:
            raise Error(f"An objective is one of {', '.join(OBJECTIVES)}; found '{self.settings.objective}'.")
        for name, least in {"steps": 1, "fine": 1, "paths": 32, "rank": 1}.items():
            if (found := getattr(self.settings, name)) < least:
                raise Error(f"The setting {name} is {least} or more; found {found}.")
