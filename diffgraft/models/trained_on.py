"""Which samples and scans a model was trained on, by the hashes of their ids that model.json keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.data import dataset
from toolkit.example import Error, Example
from toolkit.models.folder import hash_id, read_meta, training_ids

__all__ = ["TrainingSplit", "has_trained_on_scan", "partition", "split_by_training", "split_training_set"]

GENERATORS = ("denoiser", "codec")
"""The parts that make images, and could keep one."""

FOLD = 0
"""What a training keeps back unless it is told otherwise."""

SLICES = 1000
"""The id of a slice is that of its scan and a number of three digits."""


class TrainingSplit(NamedTuple):
    """The real samples of a data set as a training divides them. rule: how they were told apart, in words.

    trained: what was trained on, each with its line in the manifest, from 0. held_out: what was not.
    """

    trained: list[tuple[int, Example]]
    held_out: list[Example]
    rule: str


def has_trained_on_scan(trained: Set[str], label: str) -> bool:
    """Whether any slice of a scan is among the samples of a training. trained: their hashes."""
    return any(hash_id(f"{label}-{number:03d}") in trained for number in range(SLICES))


def partition(examples: Iterable[Example], trained: Set[str]) -> tuple[list[Example], list[Example]]:
    """The samples that are among those of a training, and the others. trained: hashes of its samples."""
    parts: tuple[list[Example], list[Example]] = [], []
    for example in examples:
        parts[hash_id(example.id) not in trained].append(example)
    return parts


def split_training_set(meta: Mapping[str, Any], data: str | Path) -> tuple[list[Example], list[Example]]:
    """The samples of a data set that a denoiser was trained on, and the others of it.

    Errors: a data set that lacks some of the first or has none of the second.
    """
    trained = training_ids(meta, ("denoiser",)) or set()
    own, others = partition(dataset.read(data), trained)
    if not own or len(own) < len(trained) or not others:
        raise Error(
            "Comparing with the training images needs the data set of the training with samples kept back; "
            f"{data} has {len(own)} of the {len(trained)} samples trained on and {len(others)} others. "
            "Give the one that train was given."
        )
    return own, others


def split_by_training(train: Path, model: Path | None = None, holdout: Path | None = None) -> TrainingSplit:
    """Split the real samples of a data set into those that were trained on and those that were not.

    With a model, by what its generating parts record of their training; else by the fold that a training keeps back.
    holdout: a data set to take the held-out samples from instead. Errors: a model that was not trained on these data, no
    held-out image, samples that both data sets have.
    """
    lines = [(line, example) for line, example in enumerate(dataset.read(train)) if example.provenance is None]
    hashes = set() if model is None else training_ids(read_meta(model), GENERATORS) or set()
    if hashes:
        own = [hash_id(example.id) in hashes for _, example in lines]
        if not any(own):
            raise Error(
                f"TRAIN is the data set that the model was trained on; {train} has none of its {len(hashes)} "
                "samples. Give the one that train was given."
            )
        rule = "held-out: what the model was not trained on"
        if sum(own) < len(hashes):
            rule += f"; {len(hashes) - sum(own)} samples that its base saw are not in these data and not searched"
    else:
        own = [dataset.fold_of(example.group) != FOLD for _, example in lines]
        rule = f"held-out: fold {FOLD}, which training keeps back by default; --model MODEL would tell for certain"
    trained = [each for each, is_own in zip(lines, own, strict=True) if is_own]
    held_out = [example for (_, example), is_own in zip(lines, own, strict=True) if not is_own]
    if holdout is not None:
        held_out = [example for example in dataset.read(holdout) if example.provenance is None]
        trained = trained if hashes else lines
        rule = "held-out: a data set of its own"
        shared = {example.id for _, example in trained} & {example.id for example in held_out}
        if shared:
            raise Error(
                f"Held-out samples are none that were trained on; {holdout} and {train} share {len(shared)}. Take others."
            )
    if not trained or len(held_out) < 2:
        raise Error(
            f"An audit needs training images and two or more held-out ones; found {len(trained)} and {len(held_out)} in {train}. "
            "Add --holdout with real images that were not trained on."
        )
    return TrainingSplit(trained, held_out, rule)
