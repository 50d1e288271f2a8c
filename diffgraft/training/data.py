"""The data of a training: a prepared data set, split by group into what is trained on and what is kept back.

A set of images of one size is in memory once: each example holds a row of the array that a batch is made of.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from diffgraft.generation.sampling import label_fields
from diffgraft.requests.training import domain_name
from toolkit.data import dataset, labels
from toolkit.diffusion.model import Spec
from toolkit.example import Error, Example
from toolkit.training.loader import Batch

__all__ = ["TrainingData", "read_data", "to_batch"]


@dataclass(frozen=True)
class TrainingData:
    """vocabulary: of the labels. options: that the data set was prepared with. held_out: examples of the fold kept back."""

    vocabulary: labels.Vocabulary
    options: Mapping[str, Any]
    samples: Sequence[Example]
    held_out: Sequence[Example]

    def class_names(self, domain: ModuleType) -> tuple[str, ...]:
        """The values of the label that the domain is about."""
        names = self.vocabulary[domain.TARGET]
        assert not isinstance(names, labels.Range), "the target of a domain is a class"
        return names


def read_data(domain: ModuleType, root: Path, fold: int | None) -> TrainingData:
    """Read a data set folder. fold: of groups (patients, leaves) that are kept back; None keeps back nothing.

    Errors: data of another domain, nothing outside the fold.
    """
    info, name = dataset.read_info(root), domain_name(domain)
    origin = info.get("domain", name)
    if origin != name:
        raise Error(
            f"A model is trained on data of its own domain; {root} is {origin}, not {name}. "
            f"Prepare it anew: diffgraft prepare {name} RAW DATA"
        )
    samples: list[Example] = []
    held_out: list[Example] = []
    for example in dataset.read(root):
        kept_back = fold is not None and dataset.fold_of(example.group) == fold
        (held_out if kept_back else samples).append(example)
    if not samples:
        raise Error(f"Training needs samples outside fold {fold}; {root} has none. Choose another --fold.")
    vocabulary = labels.vocabulary_of(info, domain)
    return TrainingData(vocabulary, info.get("options", {}), _in_one_array(samples), _in_one_array(held_out))


def to_batch(
    domain: ModuleType, spec: Spec, shape: tuple[int, ...], examples: Sequence[Example], vocabulary: labels.Vocabulary
) -> Batch:
    """All examples as one Batch; an empty list gives an empty one. shape: (C, H, W) of an image."""
    images = _stacked(examples) if examples else np.zeros((0, *shape), np.float32)
    cond = domain.condition([e.annotation for e in examples], label_fields(spec.fields), vocabulary)
    values = [e.annotation.labels.get(domain.TARGET, math.nan) for e in examples]
    return Batch(
        image=torch.from_numpy(images),
        cond={name: torch.from_numpy(value) for name, value in cond.items()},
        target=torch.tensor([-1 if math.isnan(v) else int(v) for v in values], dtype=torch.int64),
    )


def _in_one_array(examples: list[Example]) -> list[Example]:
    """The list, the image of each example now a row of one array; as it is where the images differ in shape."""
    if len({example.image.shape for example in examples}) == 1:
        images = np.empty((len(examples), *examples[0].image.shape), np.float32)
        for number, example in enumerate(
            examples
        ):  # one after the other, so that an image that was copied is let go of
            images[number] = example.image
            examples[number] = dataclasses.replace(example, image=images[number])
    return examples


def _stacked(examples: Sequence[Example]) -> np.ndarray:
    """The images (N, C, H, W) of examples: the array whose rows they are, in this order, else a new one."""
    images = [example.image for example in examples]
    whole = images[0].base
    rows = whole if whole is not None and whole.shape == (len(images), *images[0].shape) else ()
    if len(rows) and all(np.may_share_memory(image, row) for image, row in zip(images, rows, strict=True)):
        return np.asarray(whole)
    return np.stack(images)
