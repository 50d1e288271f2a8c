"""What every training checks, so that none that went wrong ends in a figure: its losses, gradients and weights are finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from toolkit.example import Error

__all__ = ["finite_step", "finite_weights"]


def finite_step(step: int, loss: Tensor, norm: Tensor | None = None) -> float:
    """The loss of a step, a scalar, as a number. Called before the step is taken.

    norm: of the gradient, where it is computed anyway; elsewhere a gradient that is not finite shows in the loss of the
    next step, and that of the last one in the weights. Errors: one of the two is not finite.
    """
    found = {name: float(value.detach()) for name, value in (("loss", loss), ("gradient", norm)) if value is not None}
    for name, value in found.items():
        if not math.isfinite(value):
            raise Error(
                f"A training {name} must be finite; step {step} gave {value}. Lower the learning rate or use fp32."
            )
    return found["loss"]


def finite_weights(step: int, weights: Mapping[str, Tensor]) -> None:
    """For the state of a network after `step` steps, before it is kept or judges. Errors: weights that are not finite."""
    if bad := [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]:
        raise Error(
            f"Trained weights must be finite; after step {step} {len(bad)} tensors are not, such as '{bad[0]}'. "
            "Train anew, with a lower learning rate or in fp32."
        )
