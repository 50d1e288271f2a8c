"""What a downstream experiment is made of: REAL, split by group, and synthetic pools, each checked before it is used.

A pool is refused when it holds real samples, when its generator saw a held-out sample of REAL, or when one of its
samples was made from one. A folder of data sets k<shots>-s<seed>/ is a family of few-shot pools: the generator of each
may have seen no sample of REAL but those of `toolkit.evaluation.split.few_shot`.

An experiment tells one label, or, of films with findings, every finding and every class that a model is told, each
unknown where nobody has stated it; or it finds boxes, each of a class.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft.models.folder import domain
from toolkit.data import dataset, labels
from toolkit.evaluation.split import few_images, few_shot, held_out, seen
from toolkit.example import Error, Example
from toolkit.models.folder import fingerprint, read_meta, trained_on

__all__ = [
    "FINDING",
    "Family",
    "Pool",
    "Real",
    "arrays",
    "families",
    "family",
    "findings",
    "read_boxed",
    "read_films",
    "read_real",
    "strata",
    "targets",
    "with_findings",
]

SYNTHETIC = "synthetic"
"""The name of FAKE among the pools."""

FINDING = ("absent", "present")
"""The values of a label that is a finding."""

LEARNED = 5
"""Training films with a finding present, and as many with it absent, from which it can be learned."""

_MEMBER = re.compile(r"k(?P<shots>\d+)-s(?P<seed>\d+)")


@dataclass(frozen=True)
class Real:
    """REAL with its split. examples: those with a known label; names: of the classes; test: the held-out ones.

    several: the labels that are told at once, findings first; then `label` is empty and examples are all there are.
    boxed: boxes are found, of the classes of `label`; then examples are those that are annotated, and shots are images.
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

    @property
    def findings(self) -> tuple[str, ...]:
        return tuple(name for name in self.several if self.vocabulary[name] == FINDING)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.several[len(self.findings) :]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each of several labels has."""
        return tuple(len(self.vocabulary[name]) for name in self.several)  # type: ignore[arg-type]

    @property
    def names(self) -> tuple[str, ...]:
        return self.vocabulary[self.label]  # type: ignore[return-value]

    def training(self, shots: int, seed: int) -> list[Example]:
        if self.several:
            return [e for e in self.examples if dataset.fold_of(e.group) != self.fold]
        if self.boxed:
            return few_images(self.examples, shots, seed, self.fold)
        return few_shot(self.examples, self.label, shots, seed, self.fold)


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
    def facts(self) -> str:
        """How much there is, and how much of REAL its generators saw."""
        sizes = sorted({len(pool.examples) for pool in self.pools.values()})
        seen = [pool.seen for pool in self.pools.values()]
        known = sorted({len(some) for some in seen if some is not None})
        saw = "not stated" if None in seen else _span(known)
        sets = f"{len(self.pools)} data sets" if len(self.pools) > 1 else "1 data set"
        return f"{sets} of {_span(sizes)} samples; samples of REAL that the generator saw: {saw}"

    def generator(self, real: Real, shots: int, seeds: Sequence[int]) -> str:
        """What the generator saw, as the report says it."""
        used = [pool for seed in seeds if (pool := self.at(shots, seed)) is not None]
        if any(pool.seen is None for pool in used):
            return "generator's training not stated"
        few = all(
            pool.seen <= {e.id for e in real.training(shots, seed)} for pool, seed in zip(used, seeds, strict=True)
        )
        return "few-shot generator" if few and shots else "full-data generator"


def read_real(root: Path, label: str, fold: int | None) -> Real:
    """REAL to tell one label. fold None: the one that its domain keeps back.

    Errors: a data set with synthetic samples, a label that is no class, a fold without samples.
    """
    field, vocabulary = _described(root)
    classes = [name for name, entry in vocabulary.items() if type(entry) is tuple and len(entry) > 1]
    if label not in classes:
        raise Error(
            f"Samples are classified by a label with two classes or more; '{label}' of {root} is none. Known: "
            f"{', '.join(classes) or 'none'}. Name one with --label."
        )
    fold = _fold(field, fold)
    known = [e for e in _genuine(root) if not np.isnan(e.annotation.labels.get(label, np.nan))]
    test = held_out(known, label, fold)
    if not test:
        raise Error(
            f"A test needs samples of fold {fold} with a known '{label}'; {root} has none. Take another --fold."
        )
    return Real(root, known, label, fold, vocabulary, field, test)


def read_films(root: Path, fold: int | None) -> Real:
    """REAL to tell its findings at once, and the classes among what a model is told.

    Findings that hardly any training film has, or lacks, are not among them. Errors: as `read_real`.
    """
    field, vocabulary = _described(root)
    if not findings(vocabulary):
        raise Error(
            f"Findings are labels that are absent or present; {root} has none. Name another label: --label NAME"
        )
    fold = _fold(field, fold)
    every = [_implied(e, vocabulary, field) for e in _genuine(root)]
    test = [e for e in every if dataset.fold_of(e.group) == fold]
    if not test or len(test) == len(every):
        raise Error(f"A test needs films of fold {fold}, and others; {root} has {len(test)}. Take another --fold.")
    own = targets([e for e in every if dataset.fold_of(e.group) != fold], findings(vocabulary))
    enough = np.minimum((own == 1).sum(0), (own == 0).sum(0)) >= LEARNED
    told = tuple(name for name, learned in zip(findings(vocabulary), enough, strict=True) if learned)
    if not told:
        raise Error(
            f"A finding is learned from {LEARNED} films with it and {LEARNED} without; {root} has so many of none. Label more, or "
            "tell one label: --label NAME"
        )
    told += tuple(name for name in field.LABELS if type(vocabulary.get(name)) is tuple)
    return Real(root, every, "", fold, vocabulary, field, test, told)


def read_boxed(root: Path, fold: int | None) -> Real:
    """REAL to find boxes in. fold None: the one that its domain keeps back. Errors: images of several shapes, a fold
    without annotated images, or without others; as `read_real`."""
    field, vocabulary = _described(root)
    label = getattr(field, "TARGET", "")
    names, fold = vocabulary.get(label), _fold(field, fold)
    every = [e for e in _genuine(root) if e.annotation.boxes is not None]
    there = {name for e in every for name in e.annotation.boxes.names}  # type: ignore[union-attr]
    if type(names) is not tuple or not there or not there <= set(names):
        raise Error(
            f"Boxes to find have the classes that dataset.json lists; {root} has boxes of {', '.join(sorted(there)) or 'none'}. "
            "Prepare images with boxes: diffgraft prepare detection RAW DATA"
        )
    if len({e.image.shape for e in every}) > 1:
        raise Error(f"Images of one data set share one shape; {root} has several. Prepare it again with a --size.")
    test = [e for e in every if dataset.fold_of(e.group) == fold]
    if not any(e.annotation.boxes.names for e in test) or len(test) == len(every):  # type: ignore[union-attr]
        raise Error(f"A test needs boxes in fold {fold}, and other folds; {root} lacks them. Take another --fold.")
    return Real(root, every, label, fold, vocabulary, field, test, boxed=True)


def with_findings(root: Path) -> bool:
    """Whether a data set is one of films with findings, which are told at once unless a label is named."""
    return (root / "dataset.json").is_file() and bool(findings(_described(root)[1]))


def findings(vocabulary: labels.Vocabulary) -> tuple[str, ...]:
    """The labels that are absent or present."""
    return tuple(name for name, entry in vocabulary.items() if entry == FINDING)


def families(
    real: Real,
    fake: str | Path,
    beside: Mapping[str, str | Path] | None,
    model: str | Path | None = None,
    tested: bool = True,
) -> list[Family]:
    """FAKE, called "synthetic", and the pools beside it; see `family`."""
    others = beside or {}
    if SYNTHETIC in others:
        raise Error(f"Pools beside one another need names of their own; '{SYNTHETIC}' is FAKE's. Take another.")
    first = family(SYNTHETIC, Path(fake), real, None if model is None else Path(model), tested)
    return [first, *(family(name, Path(root), real, None, tested) for name, root in others.items())]


def family(name: str, root: Path, real: Real, model: Path | None = None, tested: bool = True) -> Family:
    """Read FAKE. model: the folder of its model, where it does not say what that was trained on.

    tested: REAL's held-out samples test a classifier that is trained on FAKE, so FAKE's generator must not know them.
    """
    if (root / "manifest.jsonl").is_file():
        return Family(name, {None: _pool(root, real, model, tested)})
    found = {path: match for path in sorted(root.glob("k*-s*")) if (match := _MEMBER.fullmatch(path.name))}
    if not found:
        raise Error(
            f"FAKE is a data set, or a folder of data sets named k<shots>-s<seed>; {root} is neither. Make one: "
            f"diffgraft generate MODEL {root}"
        )
    pools: dict[tuple[int, int] | None, Pool] = {}
    for path, match in found.items():
        shots, seed = int(match["shots"]), int(match["seed"])
        pool = pools[shots, seed] = _pool(path, real, model, tested)
        strangers = (pool.seen or frozenset()) - {e.id for e in real.training(shots, seed)}
        if strangers and shots and tested:
            given = "images that few_images" if real.boxed else "samples of each class that few_shot"
            raise Error(
                f"A few-shot generator sees the {shots} {given} gives for seed {seed}; that of "
                f"{path} saw {len(strangers)} other(s), such as {min(strangers)}. Train it on these alone."
            )
    return Family(name, pools)


def arrays(examples: Sequence[Example], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) and class indices (N,)."""
    return np.stack([e.image for e in examples]), np.array([int(e.annotation.labels[label]) for e in examples])


def targets(examples: Sequence[Example], names: Sequence[str]) -> np.ndarray:
    """(N, L): the value of each label, NaN where it is unknown."""
    return np.array([[e.annotation.labels.get(name, math.nan) for name in names] for e in examples], float)


def strata(real: Real) -> dict[str, dict[str, np.ndarray]]:
    """Other labels -> value -> the test samples that have it; a label that follows from the class says nothing new."""
    found = {}
    for other in real.vocabulary:
        values: dict[str, list[int]] = {}
        for n, example in enumerate(real.test):
            value = example.annotation.labels.get(other, math.nan)
            if not math.isnan(value):
                values.setdefault(f"{value:g}", []).append(n)
        kinds = [{real.test[n].annotation.labels[real.label] for n in index} for index in values.values()]
        if 2 <= len(values) <= 10 and any(len(each) > 1 for each in kinds):
            entry = real.vocabulary[other]
            names = {v: entry[int(v)] if type(entry) is tuple else v for v in values}
            found[other] = {names[v]: np.array(values[v]) for v in sorted(values, key=float)}
    return found


def _pool(root: Path, real: Real, model: Path | None, tested: bool) -> Pool:
    facts = dataset.info(root)
    vocabulary = labels.of(facts, real.domain)
    every = list(dataset.read(root))
    if genuine := [e.id for e in every if e.provenance is None]:
        raise Error(
            f"FAKE holds synthetic samples only; {root} has {len(genuine)} without provenance, such as {genuine[0]}. "
            "Leave the real ones out: the experiment adds REAL's."
        )
    shape = real.examples[0].image.shape
    if wrong := [e for e in every if e.image.shape != shape]:
        raise Error(
            f"REAL and FAKE share one shape, {shape}; {root} has {wrong[0].image.shape}. Generate at that size."
        )
    if real.boxed:
        _refuse_unboxed(root, real, every)
    examples = every if real.boxed else [_renamed(e, vocabulary, real, root) for e in every]
    if tested and not (real.several or real.boxed):
        _refuse_lacking(root, real, examples)
    known_to_it = _trained_on(root, facts, model)
    sources = {e.provenance.source for e in every if e.provenance is not None} - {None}
    known = seen(real.examples, known_to_it or (), sources)
    if tested:
        _refuse_leaks(root, real, seen(real.test, known_to_it or ()), seen(real.test, (), sources))
    return Pool(root, examples, None if known_to_it is None else frozenset(known), _seconds(facts))


def _described(root: Path) -> tuple[ModuleType, labels.Vocabulary]:
    facts = dataset.info(root)
    field = domain(facts.get("domain", ""))
    return field, labels.of(facts, field)


def _fold(field: ModuleType, fold: int | None) -> int:
    fold = getattr(field, "FOLD", 0) if fold is None else fold
    if fold not in range(dataset.FOLDS):
        raise Error(f"A fold is a number from 0 to {dataset.FOLDS - 1}; found {fold}. Give one of these.")
    return fold


def _genuine(root: Path) -> list[Example]:
    every = list(dataset.read(root))
    if made := [e.id for e in every if e.provenance is not None]:
        raise Error(
            f"REAL holds real samples only; {root} has {len(made)} made ones, such as {made[0]}. Leave them out."
        )
    return every


def _implied(example: Example, vocabulary: labels.Vocabulary, field: ModuleType) -> Example:
    """The example with what its findings say of one another: a film with one is not normal, a normal film has none."""
    normal, known = getattr(field, "NORMAL", ""), dict(example.annotation.labels)
    others = [name for name in findings(vocabulary) if name != normal]
    if normal in vocabulary and math.isnan(known.get(normal, math.nan)) and any(known.get(n) == 1 for n in others):
        known[normal] = 0.0
    if known.get(normal) == 1:
        known |= {name: 0.0 for name in others if math.isnan(known.get(name, math.nan))}
    return dataclasses.replace(example, annotation=dataclasses.replace(example.annotation, labels=known))


def _refuse_lacking(root: Path, real: Real, examples: Sequence[Example]) -> None:
    there = {e.annotation.labels[real.label] for e in examples}
    needed = {e.annotation.labels[real.label] for e in real.examples}
    if lacking := [real.names[int(kind)] for kind in sorted(needed - there)]:
        raise Error(
            f"Every class is drawn equally often; {root} has no {', '.join(lacking)}. Generate some: --set {real.label}="
            f"{lacking[0]}"
        )


def _refuse_unboxed(root: Path, real: Real, examples: Sequence[Example]) -> None:
    for example in examples:
        boxes = example.annotation.boxes
        if boxes is None or not set(boxes.names) <= set(real.names):
            found = "no boxes" if boxes is None else f"'{min(set(boxes.names) - set(real.names))}'"
            raise Error(
                f"A synthetic image has boxes of the classes that REAL knows, {', '.join(real.names)}; '{example.id}' of {root} has "
                f"{found}. Generate with layouts of REAL's classes."
            )
    if not any(e.annotation.boxes.names for e in examples):  # type: ignore[union-attr]
        raise Error(f"A detector learns from images with objects; {root} has none. Generate some.")


def _refuse_leaks(root: Path, real: Real, trained: set[str], changed: set[str]) -> None:
    if trained:
        raise Error(
            f"A test sample must be new to the generator; that of {root} was trained on {len(trained)} of the "
            f"{len(real.test)} held-out samples of fold {real.fold}. Train it with --fold {real.fold}, or test on the fold it "
            "was not trained on."
        )
    if changed:
        raise Error(
            f"A test sample must not be what a synthetic one was made from; {root} was made from {len(changed)} of the "
            f"{len(real.test)} held-out samples of fold {real.fold}. Make it from the other folds."
        )


def _trained_on(root: Path, facts: Mapping[str, Any], model: Path | None) -> set[str] | None:
    """Hashed ids of what FAKE's model was trained on, from FAKE itself or from its model's folder; None: not stated."""
    if "trained_on" in facts:
        return set(facts["trained_on"])
    if model is None:
        return None
    mark = facts.get("model", "")
    if mark and not fingerprint(model).startswith(mark):
        raise Error(f"{root} was made by the model {mark}; {model} is {fingerprint(model)[: len(mark)]}. Name its own.")
    return trained_on(read_meta(model))


def _renamed(example: Example, vocabulary: labels.Vocabulary, real: Real, root: Path) -> Example:
    """The example with the index that its class has in REAL; with several labels, that of each one that is known."""
    if real.several:
        known = labels.translated(example.annotation.labels, vocabulary, real.vocabulary)
        if not any(name in known for name in real.several):
            raise Error(
                f"A synthetic film was asked to show something; '{example.id}' of {root} has none of "
                f"{', '.join(real.several)}. Generate with labels: --set, or --like REAL."
            )
        annotation = dataclasses.replace(example.annotation, labels=known)
        return _implied(dataclasses.replace(example, annotation=annotation), real.vocabulary, real.domain)
    name = labels.spell(vocabulary, example.annotation.labels).get(real.label)
    if name not in real.names:
        raise Error(
            f"A synthetic sample has a '{real.label}' that REAL knows; '{example.id}' of {root} has {name or 'none'}. "
            f"Known: {', '.join(real.names)}. Take another --label, or generate with that label set."
        )
    index = float(real.names.index(name))
    annotation = dataclasses.replace(example.annotation, labels={**example.annotation.labels, real.label: index})
    return dataclasses.replace(example, annotation=annotation)


def _seconds(facts: Mapping[str, Any]) -> float | None:
    settings = facts.get("settings")
    found = facts.get("seconds", settings.get("seconds") if type(settings) is dict else None)
    return float(found) if type(found) in (int, float) else None


def _span(numbers: Sequence[int]) -> str:
    return " to ".join(map(str, sorted({numbers[0], numbers[-1]})))
