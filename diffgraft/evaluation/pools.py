"""Read synthetic pools for a downstream experiment, each checked before it is used.

A pool is refused when it holds real samples, when its generator saw a held-out sample of REAL, or when one of its
samples was made from one. A folder of data sets k<shots>-s<seed>/ is a family of few-shot pools: the generator of each
may have seen no sample of REAL but those of `toolkit.evaluation.split.few_shot`, or `few_images` where boxes are found.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffgraft.evaluation.data import HELD_OUT, SYNTHETIC, Family, Pool, Real, boxes_of
from diffgraft.evaluation.real import complete_findings
from toolkit.data import dataset, labels
from toolkit.evaluation.split import seen_in_training
from toolkit.example import Error, Example
from toolkit.models.folder import fingerprint, read_meta, training_ids

__all__ = ["families", "family"]

_MEMBER = re.compile(r"k(?P<shots>\d+)-s(?P<seed>\d+)")


def families(
    real: Real, synthetic: Path, beside: Mapping[str, Path], model: Path | None = None, tested: bool = True
) -> list[Family]:
    """SYNTHETIC, under that name, and the pools beside it; see `family`."""
    if taken := {SYNTHETIC, HELD_OUT} & beside.keys():
        raise Error(f"Pools beside one another need names of their own; '{min(taken)}' is taken. Take another.")
    first = family(SYNTHETIC, synthetic, real, model, tested)
    return [first, *(family(name, root, real, None, tested) for name, root in beside.items())]


def family(name: str, root: Path, real: Real, model: Path | None = None, tested: bool = True) -> Family:
    """Read a pool. model: the folder of its model, where it does not say what that was trained on.

    tested: REAL's held-out samples test a network that is trained on the pool, so its generator must not know them.
    """
    if (root / "manifest.jsonl").is_file():
        return Family(name, {None: _pool(root, real, model, tested)})
    found = {path: match for path in sorted(root.glob("k*-s*")) if (match := _MEMBER.fullmatch(path.name))}
    if not found:
        raise Error(
            f"SYNTHETIC is a data set, or a folder of data sets named k<shots>-s<seed>; {root} is neither. Make one: "
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


def _pool(root: Path, real: Real, model: Path | None, tested: bool) -> Pool:
    facts, every = dataset.read_info(root), list(dataset.read(root))
    if genuine := [e.id for e in every if e.provenance is None]:
        raise Error(
            f"SYNTHETIC holds synthetic samples only; {root} has {len(genuine)} without provenance, such as {genuine[0]}. "
            "Leave the real ones out: the experiment adds REAL's."
        )
    shape = real.examples[0].image.shape
    if wrong := [e for e in every if e.image.shape != shape]:
        raise Error(
            f"REAL and SYNTHETIC share one shape, {shape}; {root} has {wrong[0].image.shape}. Generate at that size."
        )
    read = _boxed if real.boxed else _with_several if real.several else _with_class
    examples = read(root, real, every, labels.vocabulary_of(facts, real.domain))
    if tested:
        _refuse_lacking(root, real, examples)
    hashes = _trained_on(root, facts, model)
    sources = {e.provenance.source for e in every if e.provenance is not None} - {None}
    if tested:
        _refuse_leaks(root, real, seen_in_training(real.test, hashes or ()), seen_in_training(real.test, (), sources))
    known = None if hashes is None else frozenset(seen_in_training(real.examples, hashes, sources))
    return Pool(root, examples, known, _seconds(facts))


# What the examples of a pool have to show


def _with_class(
    root: Path, real: Real, examples: Sequence[Example], vocabulary: labels.Vocabulary
) -> Sequence[Example]:
    """The examples with the index that their class has in REAL."""
    found = []
    for example in examples:
        name = labels.spell(vocabulary, example.annotation.labels).get(real.label)
        if name not in real.names:
            raise Error(
                f"A synthetic sample has a '{real.label}' that REAL knows; '{example.id}' of {root} has {name or 'none'}. "
                f"Known: {', '.join(real.names)}. Take another --label, or generate with that label set."
            )
        found.append(_relabelled(example, {**example.annotation.labels, real.label: float(real.names.index(name))}))
    return found


def _with_several(
    root: Path, real: Real, examples: Sequence[Example], vocabulary: labels.Vocabulary
) -> Sequence[Example]:
    """The films with the values that their labels have in REAL, and with what their findings say of one another."""
    found = []
    for example in examples:
        known = labels.translate(example.annotation.labels, vocabulary, real.vocabulary)
        if not any(name in known for name in real.several):
            raise Error(
                f"A synthetic film was asked to show something; '{example.id}' of {root} has none of "
                f"{', '.join(real.several)}. Generate with labels: --set, or --like REAL."
            )
        found.append(complete_findings(_relabelled(example, known), real.vocabulary, real.domain))
    return found


def _boxed(root: Path, real: Real, examples: Sequence[Example], vocabulary: labels.Vocabulary) -> Sequence[Example]:
    """The images as they are: boxes name their classes."""
    if bare := [e.id for e in examples if e.annotation.boxes is None]:
        raise Error(f"A generated image has the layout that it was asked to show; '{bare[0]}' of {root} has none.")
    if unknown := {name for e in examples for name in boxes_of(e).names} - set(real.names):
        raise Error(f"A layout has the classes of REAL, {', '.join(real.names)}; {root} has '{min(unknown)}'.")
    return examples


def _relabelled(example: Example, known: Mapping[str, float]) -> Example:
    return dataclasses.replace(example, annotation=dataclasses.replace(example.annotation, labels=known))


def _refuse_lacking(root: Path, real: Real, examples: Sequence[Example]) -> None:
    """Of one label a training draws every class, of boxes it draws images with objects."""
    if real.boxed and not any(boxes_of(e).names for e in examples):
        raise Error(f"A detector learns from images with objects; {root} has none. Generate some.")
    if real.boxed or real.several:
        return
    there, needed = set(real.targets(examples).tolist()), set(real.targets(real.examples).tolist())
    if lacking := [real.names[kind] for kind in sorted(needed - there)]:
        raise Error(
            f"Every class is drawn equally often; {root} has no {', '.join(lacking)}. Generate some: --set {real.label}="
            f"{lacking[0]}"
        )


# What its generator saw


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
    """Hashed ids of what a generator was trained on, from its pool or from its model's folder; None: not stated."""
    if "trained_on" in facts:
        return set(facts["trained_on"])
    if model is None:
        return None
    mark = facts.get("model", "")
    if mark and not fingerprint(model).startswith(mark):
        raise Error(f"{root} was made by the model {mark}; {model} is {fingerprint(model)[: len(mark)]}. Name its own.")
    return training_ids(read_meta(model))


def _seconds(facts: Mapping[str, Any]) -> float | None:
    settings = facts.get("settings")
    found = facts.get("seconds", settings.get("seconds") if type(settings) is dict else None)
    return float(found) if type(found) in (int, float) else None
