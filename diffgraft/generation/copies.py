"""Which generated images are copies of the images that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffgraft import models
from diffgraft.models.features import extract_features
from toolkit.diffusion.model import Model
from toolkit.evaluation.memorization import Reference
from toolkit.example import Error, Example

__all__ = ["copy_search", "largest_shift", "mirror_axes", "stack_images"]


def copy_search(model: Model, trained: Sequence[Example], held_out: Sequence[Example]) -> Reference:
    """What `generate --reject-copies` asks: built once, then `.compare(images)` for every batch (N, C, H, W).

    trained: what the model was trained on; held_out: real samples that it was not. Its feature network, if it has one,
    is the embedding.
    """

    def embed(images: np.ndarray) -> np.ndarray:
        return extract_features(model, images)["features"]

    images = stack_images(trained)
    embedding = embed if model.features else None
    return Reference(images, stack_images(held_out), embedding, mirror_axes(model.meta), largest_shift(images.shape))


def stack_images(examples: Iterable[Example]) -> np.ndarray:
    """Images (N, C, H, W) in half precision, which tells the levels of a photograph apart at half the memory.

    Errors: none, images of two shapes.
    """
    images = [example.image.astype(np.float16) for example in examples]
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise Error(f"Images are compared in one shape; found {sorted(shapes) or 'no image'}. Prepare them alike.")
    return np.stack(images)


def mirror_axes(info: Mapping[str, Any]) -> tuple[bool, bool]:
    """Mirror images count as copies where training made them; left-right ones always."""
    return True, models.domain(info["domain"]).AUGMENTATION.flip_rows > 0 if "domain" in info else False


def largest_shift(shape: tuple[int, ...]) -> int:
    """As many pixels as leave SSIM its window, 4 at most."""
    return max(0, min(4, (min(shape[2:]) - 11) // 2))
