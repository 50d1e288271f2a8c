"""What a downstream experiment is made of: REAL, split by group, and synthetic pools. Numpy only.

An experiment is on one label; or, of films with findings, on every finding and every class that a model is conditioned on,
each unknown where nobody has stated it; or on boxes, each of a class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from toolkit.data import dataset, labels
from toolkit.evaluation.split import few_images, few_shot
from toolkit.example import Boxes, Example
from toolkit.settings import Augmentation

__all__ = [
    "FINDING",
    "HELD_OUT",
    "SYNTHETIC",
    "Family",
    "Pool",
    "Real",
    "boxes_of",
    "findings",
    "groups",
    "label_values",
    "stack_images",
]

SYNTHETIC, HELD_OUT = "synthetic", "held-out real"
"""The names of SYNTHETIC among the pools, and of the test among the sets of an alignment."""

FINDING = ("absent", "present")
"""The values of a label that is a finding."""


@dataclass(frozen=True)
class Real:
    """REAL with its split. examples: those with a known label; names: of the classes; test: the held-out ones.

    several: the labels that are predicted at once, findings first; then `label` is empty and examples are all there are.
    boxed: boxes are found, of the classes of `label`; then examples are those that are annotated, and shots are images.
    unannotated: how many were left out.
    """

    root: Path
    examples: Sequence[Example]
    label: str
    fold: int
    vocabulary: labels.Vocabulary
    domain: ModuleType
    test: Sequence[Example]
    several: tuple[str, ...] = ()
    boxed: bool = False
    unannotated: int = 0

    @property
    def findings(self) -> tuple[str, ...]:
        return tuple(name for name in self.several if self.vocabulary[name] == FINDING)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.several[len(self.findings) :]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each of several labels has."""
        return tuple(len(_values(self.vocabulary[name])) for name in self.several)

    @property
    def names(self) -> tuple[str, ...]:
        return _values(self.vocabulary[self.label])

    @property
    def detector_augmentation(self) -> Augmentation:
        """What a detector is trained with: the domain's stronger one, where it has one."""
        return getattr(self.domain, "STRONGER", self.domain.AUGMENTATION)

    def training(self, shots: int = 0, seed: int = 0) -> list[Example]:
        """Samples of the other folds: all of them where shots is 0, else the subset of this seed."""
        if self.several:
            return [e for e in self.examples if dataset.fold_of(e.group) != self.fold]
        if self.boxed:
            return few_images(self.examples, shots, seed, self.fold)
        return few_shot(self.examples, self.label, shots, seed, self.fold)

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """(N,) class indices of the label; of several labels (N, L), NaN where a value is unknown."""
        if self.several:
            return label_values(examples, self.several)
        return label_values(examples, [self.label])[:, 0].astype(int)


@dataclass(frozen=True)
class Pool:
    """One synthetic data set. examples: their label is an index of REAL's classes. seen: ids of REAL's samples that the
    generator saw, None where that is not stated. seconds: what making it took, where it says so."""

    root: Path
    examples: Sequence[Example]
    seen: frozenset[str] | None
    seconds: float | None


@dataclass(frozen=True)
class Family:
    """Pools of one name: one for everything (the key None), or one for each (shots, seed)."""

    name: str
    pools: Mapping[tuple[int, int] | None, Pool]

    def at(self, shots: int, seed: int) -> Pool | None:
        return self.pools.get((shots, seed), self.pools.get(None))

    @property
    def examples(self) -> list[Example]:
        """Those of all its pools."""
        return [example for pool in self.pools.values() for example in pool.examples]

    @property
    def facts(self) -> str:
        """How much there is, and how much of REAL its generators saw."""
        sizes = sorted({len(pool.examples) for pool in self.pools.values()})
        known = sorted({len(pool.seen) for pool in self.pools.values() if pool.seen is not None})
        saw = _span(known) if all(pool.seen is not None for pool in self.pools.values()) else "not stated"
        sets = f"{len(self.pools)} data sets" if len(self.pools) > 1 else "1 data set"
        return f"{sets} of {_span(sizes)} samples; samples of REAL that the generator saw: {saw}"

    def generator(self, real: Real, shots: int, seeds: Sequence[int]) -> str:
        """What the generator saw, as the report says it."""
        used = [(seed, pool) for seed in seeds if (pool := self.at(shots, seed)) is not None]
        seen = [(seed, pool.seen) for seed, pool in used if pool.seen is not None]
        if len(seen) < len(used):
            return "generator's training not stated"
        few = all(some <= {e.id for e in real.training(shots, seed)} for seed, some in seen)
        return "few-shot generator" if few and shots else "full-data generator"


def findings(vocabulary: labels.Vocabulary) -> tuple[str, ...]:
    """The labels that are absent or present."""
    return tuple(name for name, entry in vocabulary.items() if entry == FINDING)


def stack_images(examples: Sequence[Example]) -> np.ndarray:
    """(N, C, H, W)."""
    return np.stack([e.image for e in examples])


def label_values(examples: Sequence[Example], names: Sequence[str]) -> np.ndarray:
    """(N, L): the value of each label, NaN where it is unknown."""
    values = [[e.annotation.labels.get(name, math.nan) for name in names] for e in examples]
    return np.array(values, float).reshape(len(examples), len(names))


def boxes_of(example: Example) -> Boxes:
    """The boxes of an example that was read as one with boxes."""
    assert example.annotation.boxes is not None
    return example.annotation.boxes


def groups(examples: Sequence[Example]) -> list[str]:
    """What intervals draw: the group of each, such as the patient; an image without one is its own."""
    return [e.group or e.id for e in examples]


def _values(entry: tuple[str, ...] | labels.Range) -> tuple[str, ...]:
    assert isinstance(entry, tuple)
    return entry


def _span(numbers: Sequence[int]) -> str:
    return " to ".join(map(str, sorted({numbers[0], numbers[-1]})))
