"""What is checked before a network is called: that it is given finite numbers.

A runtime computes on with NaN as it likes: OpenVINO 2026.4 makes -1 of it in Clip and 0 in Relu, so that a picture comes
out that nothing tells from a good one. Plain comparisons, the same on numpy arrays and on torch tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from toolkit.example import Error

__all__ = ["check_images", "check_inputs"]


def check_inputs(feed: Mapping[str, Any]) -> None:
    """Named arrays of any shape and type, as they are given to a network. Errors: one holds NaN or an infinite number."""
    for name, values in feed.items():
        finite = abs(values) < math.inf
        if not bool(finite.all()):
            whole = math.prod(values.shape)
            raise Error(
                f"A network is given finite numbers; of the {whole} of its input '{name}' {whole - int(finite.sum())} are NaN "
                "or infinite. Look for them in the image that is read; if there are none, take --precision fp32."
            )


def check_images(images: Any) -> Any:
    """Images of any shape as they are. Errors: one holds NaN or an infinite number, which would be saved as black."""
    if not bool((abs(images) < math.inf).all()):
        raise Error(
            "A picture is made of finite numbers; what the model gave holds NaN or infinite ones. Take --precision fp32."
        )
    return images
