"""Who may see what: held-out samples, few-shot subsets, and what a generator has seen of a data set. Numpy only.

A few-shot figure is honest only if the generator, too, saw no more than the k labelled images of a class. So the
subset is a function of the data set, k, the seed and the fold alone: a script that trains a few-shot generator asks
`few_shot` for its images and an evaluation asks `few_shot` for the classifier's, and both get the same ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

from toolkit.data.dataset import fold_of
from toolkit.example import Error, Example
from toolkit.models.folder import hash_id

__all__ = ["few_images", "few_shot", "held_out", "seen_in_training"]


def held_out(examples: Iterable[Example], label: str, fold: int) -> list[Example]:
    """The samples of the groups of one fold whose label is known, in their order."""
    return [e for e in examples if fold_of(e.group) == fold and _known(e, label)]


def few_shot(examples: Iterable[Example], label: str, k: int, seed: int, fold: int) -> list[Example]:
    """k samples of every class from the groups outside one fold; k = 0: all of them.

    Within a class, groups (leaves) are sorted by SHA-256 of "seed:group", the first k are taken and of each the sample
    whose id comes first. So the subsets of one seed are nested: that of 5 is part of that of 10. Classes by index.
    Errors: a class with fewer than k groups, nothing to take.
    """
    classes: dict[int, dict[str, Example]] = {}
    every = [e for e in examples if fold_of(e.group) != fold and _known(e, label)]
    if not every:
        raise Error(f"Training needs samples outside fold {fold} with a known '{label}'; there are none. Label more.")
    if not k:
        return every
    for example in every:
        groups = classes.setdefault(int(example.annotation.labels[label]), {})
        groups[example.group] = min(example, groups.get(example.group, example), key=lambda e: e.id)
    few = {kind: len(groups) for kind, groups in classes.items() if len(groups) < k}
    if few or k < 0:
        raise Error(
            f"A subset of {k} takes that many groups of every '{label}' outside fold {fold}; class(es) "
            f"{', '.join(f'{kind} with {n}' for kind, n in sorted(few.items())) or 'none'} fall short. Ask for fewer shots."
        )
    return [groups[name] for _, groups in sorted(classes.items()) for name in sorted(groups, key=_order(seed))[:k]]


def few_images(examples: Iterable[Example], k: int, seed: int, fold: int) -> list[Example]:
    """k images that show an object, from the groups outside one fold; k = 0: all that are annotated, empty ones too.

    Groups (sources) are sorted by SHA-256 of "seed:group", the images of one by that of "seed:id". The first image of
    each group is taken, then the second of each, until there are k. So the subsets of one seed are nested, and spread
    over as many groups as can be. Errors: fewer than k images, nothing to take.
    """
    every = [e for e in examples if fold_of(e.group) != fold and e.annotation.boxes is not None]
    showing = [e for e in every if e.annotation.boxes is not None and e.annotation.boxes.names]
    if not showing or k < 0 or k > len(showing):
        raise Error(
            f"Training takes {k or 'all'} images with boxes outside fold {fold}; {len(showing)} show an object. Ask for fewer shots, "
            "or annotate more."
        )
    if not k:
        return every
    order, groups, ranked = _order(seed), {}, []
    for example in sorted(showing, key=lambda e: (order(e.id), e.id)):
        place = groups[example.group] = groups.get(example.group, -1) + 1
        ranked.append((place, order(example.group), example.group, example))
    return [example for *_, example in sorted(ranked, key=lambda row: row[:3])[:k]]


def seen_in_training(
    real: Sequence[Example], trained_on: Iterable[str], sources: Iterable[str | None] = ()
) -> set[str]:
    """The ids of real samples that a generator saw.

    trained_on: hashed ids, as model.json keeps them. sources: what synthetic samples were made from
    (Provenance.source), each an id or, if no sample is called so, a group.
    """
    hashes, names = set(trained_on), set(sources)
    ids = {e.id for e in real}
    return {e.id for e in real if hash_id(e.id) in hashes or e.id in names or e.group in names - ids}


def _known(example: Example, label: str) -> bool:
    return not math.isnan(example.annotation.labels.get(label, math.nan))


def _order(seed: int) -> Callable[[str], str]:
    return lambda group: hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
