"""What a model was trained on, what it was not, and which generated images are copies of the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models
from diffgraft.models import features as networks
from toolkit.data import dataset
from toolkit.diffusion.model import Model
from toolkit.evaluation.memorization import Reference
from toolkit.example import Error, Example
from toolkit.models.folder import hashed, read_meta, trained_on

__all__ = ["largest_shift", "mirror_axes", "parted", "reference", "stacked"]


MAKING = ("denoiser", "codec")
"""The parts that make images, and could keep one."""


FOLD = 0
"""What a training keeps back unless it is told otherwise."""


def reference(model: Model, seen: Sequence[Example], unseen: Sequence[Example]) -> Reference:
    """What `generate --reject-copies` asks: built once, then `.compare(images)` for every batch (N, C, H, W).

    seen: what the model was trained on; unseen: real samples that it was not. Its feature network, if it has one, is
    the embedding.
    """

    def embed(images: np.ndarray) -> np.ndarray:
        return networks.described(model, images)["features"]

    images = stacked(seen)
    return Reference(
        images, stacked(unseen), embed if model.features else None, mirror_axes(model.meta), largest_shift(images.shape)
    )


def parted(
    train: str | Path, model: str | Path | None = None, holdout: str | Path | None = None
) -> tuple[list[tuple[int, Example]], list[Example], str]:
    """What was trained on, with its line in the manifest; real images that were not; and how they were told apart.

    With a model, by the hashes that it keeps of what its generating parts were trained on. Errors: a model that was not
    trained on these data, no held-out image.
    """
    examples = [(line, example) for line, example in enumerate(dataset.read(train)) if example.provenance is None]
    trained = set() if model is None else trained_on(read_meta(Path(model)), MAKING) or set()
    if trained:
        seen = [(line, example) for line, example in examples if hashed(example.id) in trained]
        rest = [example for _, example in examples if hashed(example.id) not in trained]
        if not seen:
            raise Error(
                f"TRAIN is the data set that the model was trained on; {train} has none of its {len(trained)} "
                "samples. Give the one that train was given."
            )
        how = "held-out: what the model was not trained on"
        if len(seen) < len(trained):
            how += f"; {len(trained) - len(seen)} samples that its base saw are not in these data and not searched"
    else:
        seen = [(line, example) for line, example in examples if dataset.fold_of(example.group) != FOLD]
        rest = [example for _, example in examples if dataset.fold_of(example.group) == FOLD]
        how = f"held-out: fold {FOLD}, which training keeps back by default; --model MODEL would tell for certain"
    if holdout is not None:
        rest = [example for example in dataset.read(holdout) if example.provenance is None]
        seen = seen if trained else examples
        how = "held-out: a data set of its own"
        ids = {example.id for _, example in seen} & {example.id for example in rest}
        if ids:
            raise Error(
                f"Held-out samples are none that were trained on; {holdout} and {train} share {len(ids)}. Take others."
            )
    if not seen or len(rest) < 2:
        raise Error(
            f"An audit needs training images and two or more held-out ones; found {len(seen)} and {len(rest)} in {train}. "
            "Add --holdout with real images that were not trained on."
        )
    return seen, rest, how


def stacked(examples: Iterable[Example]) -> np.ndarray:
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
