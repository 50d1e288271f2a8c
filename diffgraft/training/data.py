"""The data of a training: a prepared data set, split by group into what is trained on and what is kept back."""

from __future__ import annotations

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
    samples, held_out = [], []
    for example in dataset.read(root):
        kept_back = fold is not None and dataset.fold_of(example.group) == fold
        (held_out if kept_back else samples).append(example)
    if not samples:
        raise Error(f"Training needs samples outside fold {fold}; {root} has none. Choose another --fold.")
    return TrainingData(labels.vocabulary_of(info, domain), info.get("options", {}), samples, held_out)


def to_batch(
    domain: ModuleType, spec: Spec, shape: tuple[int, ...], examples: Sequence[Example], vocabulary: labels.Vocabulary
) -> Batch:
    """All examples as one Batch; an empty list gives an empty one. shape: (C, H, W) of an image."""
    images = np.stack([e.image for e in examples]) if examples else np.zeros((0, *shape), np.float32)
    cond = domain.condition([e.annotation for e in examples], label_fields(spec.fields), vocabulary)
    values = [e.annotation.labels.get(domain.TARGET, math.nan) for e in examples]
    return Batch(
        image=torch.from_numpy(images),
        cond={name: torch.from_numpy(value) for name, value in cond.items()},
        target=torch.tensor([-1 if math.isnan(v) else int(v) for v in values], dtype=torch.int64),
    )
