"""What is checked before scores become a figure: NaN has a place in every order and is some class's maximum. Numpy only."""

from __future__ import annotations

import numpy as np

from toolkit.example import Error

__all__ = ["check_finite"]


def check_finite(scores: np.ndarray, name: str) -> np.ndarray:
    """The scores as they are, of any shape. name: what they are, in the plural. Errors: some are not finite."""
    if bad := scores.size - int(np.isfinite(scores).sum()):
        raise Error(
            f"A figure is made of finite scores; of {scores.size} {name} {bad} are not. Train the network that gave them anew, "
            "in fp32."
        )
    return scores
