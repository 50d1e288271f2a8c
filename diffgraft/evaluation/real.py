"""Read REAL for a downstream experiment: on one label, on all findings of films, or on boxes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from diffgraft.evaluation.data import Real, boxes_of, findings, label_values
from diffgraft.models.folder import domain
from toolkit.data import dataset, labels
from toolkit.diffusion.model import OBJECTS
from toolkit.evaluation.split import held_out
from toolkit.example import Error, Example

__all__ = ["LEARNED", "complete_findings", "has_findings", "has_layouts", "read_boxed", "read_films", "read_real"]

LEARNED = 5
"""Training films with a finding present, and as many with it absent, from which it can be learned."""


def read_real(root: Path, label: str, fold: int | None) -> Real:
    """REAL with one label. fold None: the one that its domain keeps back.

    Errors: a data set with synthetic samples, a label that is no class, a fold without samples.
    """
    field, vocabulary = _description(root)
    classes = [name for name, entry in vocabulary.items() if type(entry) is tuple and len(entry) > 1]
    if label not in classes:
        raise Error(
            f"Samples are classified by a label with two classes or more; '{label}' of {root} is none. Known: "
            f"{', '.join(classes) or 'none'}. Name one with --label."
        )
    fold = _fold(field, fold)
    known = [e for e in _real_examples(root) if not np.isnan(e.annotation.labels.get(label, np.nan))]
    test = held_out(known, label, fold)
    if not test:
        raise Error(
            f"A test needs samples of fold {fold} with a known '{label}'; {root} has none. Take another --fold."
        )
    return Real(root, known, label, fold, vocabulary, field, test)


def read_films(root: Path, fold: int | None) -> Real:
    """REAL with its findings, and the classes among what a model is conditioned on, all at once.

    Findings that hardly any training film has, or lacks, are not among them. Errors: as `read_real`.
    """
    field, vocabulary = _description(root)
    if not findings(vocabulary):
        raise Error(
            f"Findings are labels that are absent or present; {root} has none. Name another label: --label NAME"
        )
    fold = _fold(field, fold)
    every = [complete_findings(e, vocabulary, field) for e in _real_examples(root)]
    own, test = _split(every, fold)
    if not test or not own:
        raise Error(f"A test needs films of fold {fold}, and others; {root} has {len(test)}. Take another --fold.")
    values = label_values(own, findings(vocabulary))
    enough = np.minimum((values == 1).sum(0), (values == 0).sum(0)) >= LEARNED
    learned = tuple(name for name, some in zip(findings(vocabulary), enough, strict=True) if some)
    if not learned:
        raise Error(
            f"A finding is learned from {LEARNED} films with it and {LEARNED} without; {root} has so many of none. Label more, or "
            "tell one label: --label NAME"
        )
    learned += tuple(name for name in field.LABELS if type(vocabulary.get(name)) is tuple)
    return Real(root, every, "", fold, vocabulary, field, test, learned)


def read_boxed(root: Path, fold: int | None) -> Real:
    """REAL with boxes. fold None: the one that its domain keeps back. Errors: images of several shapes, no boxes in the
    fold or in the others; as `read_real`."""
    field, vocabulary = _description(root)
    label = getattr(field, "TARGET", "")
    names, fold = vocabulary.get(label), _fold(field, fold)
    every = _real_examples(root)
    boxed = [e for e in every if e.annotation.boxes is not None]
    there = {name for e in boxed for name in boxes_of(e).names}
    if type(names) is not tuple or not there or not there <= set(names):
        raise Error(
            f"Boxes to find have the classes that dataset.json lists; {root} has boxes of {', '.join(sorted(there)) or 'none'}. "
            "Prepare images with boxes: diffgraft prepare detection RAW DATA"
        )
    if len({e.image.shape for e in boxed}) > 1:
        raise Error(f"Images of one data set share one shape; {root} has several. Prepare it again with a --size.")
    own, test = _split(boxed, fold)
    if not all(any(boxes_of(e).names for e in part) for part in (own, test)):
        raise Error(f"A test needs boxes in fold {fold}, and other folds; {root} lacks them. Take another --fold.")
    left = len(every) - len(boxed)
    return Real(root, boxed, label, fold, vocabulary, field, test, boxed=True, unannotated=left)


def has_findings(root: Path) -> bool:
    """Whether a data set is one of films with findings, which are predicted at once unless a label is named."""
    return _is_described(root, lambda _, vocabulary: bool(findings(vocabulary)))


def has_layouts(root: Path) -> bool:
    """Whether a data set is one whose model is conditioned on boxes."""
    return _is_described(root, lambda field, vocabulary: OBJECTS in field.fields(vocabulary))


def complete_findings(example: Example, vocabulary: labels.Vocabulary, field: ModuleType) -> Example:
    """The example with what its findings say of one another: a film with one is not normal, a normal film has none."""
    normal, known = getattr(field, "NORMAL", ""), dict(example.annotation.labels)
    others = [name for name in findings(vocabulary) if name != normal]
    if normal in vocabulary and math.isnan(known.get(normal, math.nan)) and any(known.get(n) == 1 for n in others):
        known[normal] = 0.0
    if known.get(normal) == 1:
        known |= {name: 0.0 for name in others if math.isnan(known.get(name, math.nan))}
    return dataclasses.replace(example, annotation=dataclasses.replace(example.annotation, labels=known))


def _is_described(root: Path, fits: Callable[[ModuleType, labels.Vocabulary], bool]) -> bool:
    return (root / "dataset.json").is_file() and fits(*_description(root))


def _description(root: Path) -> tuple[ModuleType, labels.Vocabulary]:
    """The domain of a data set, and its vocabulary."""
    facts = dataset.read_info(root)
    field = domain(facts.get("domain", ""))
    return field, labels.vocabulary_of(facts, field)


def _fold(field: ModuleType, fold: int | None) -> int:
    chosen = int(getattr(field, "FOLD", 0)) if fold is None else fold
    if chosen not in range(dataset.FOLDS):
        raise Error(f"A fold is a number from 0 to {dataset.FOLDS - 1}; found {chosen}. Give one of these.")
    return chosen


def _real_examples(root: Path) -> list[Example]:
    every = list(dataset.read(root))
    if synthetic := [e.id for e in every if e.provenance is not None]:
        raise Error(
            f"REAL holds real samples only; {root} has {len(synthetic)} made ones, such as {synthetic[0]}. Leave them out."
        )
    return every


def _split(examples: Sequence[Example], fold: int) -> tuple[list[Example], list[Example]]:
    """Those of the other folds, and those of this one."""
    own = [e for e in examples if dataset.fold_of(e.group) != fold]
    return own, [e for e in examples if dataset.fold_of(e.group) == fold]
