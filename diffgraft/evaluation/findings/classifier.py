"""One network that tells every label of a film at once: findings, and the classes that a model is told (view, sex).

It is trained on what is stated alone: an unknown label is left out, of training and test. Films of a patient are on one
side of the split. What it tells are log-probabilities (S, N, K) of seeds, films and the values of all labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffgraft.evaluation.experiment import REAL_ARMS, Watch, protocol
from diffgraft.evaluation.pools import FINDING, LEARNED, Family, Real, targets
from diffgraft.evaluation.pools import findings as known_findings
from toolkit.data import dataset
from toolkit.evaluation import classification
from toolkit.evaluation.anomaly import Interval
from toolkit.evaluation.downstream import NETWORK, Arm, Labelled, Outcome, parted, train
from toolkit.evaluation.finite import finite
from toolkit.example import Example
from toolkit.settings import Training

__all__ = [
    "FEWEST", "HELD_OUT", "UNKNOWN", "abnormality", "balanced_accuracy", "by_label", "facts_of", "judge", "labelled", "patients",
    "tally", "testable", "train_arms", "with_fold",
]  # fmt: skip

HELD_OUT = "held-out real"
FEWEST = 8
"""Films with a finding present, and as many with it absent, that an area needs."""

UNKNOWN = Interval(None, None, None)


def with_fold(real: Real, fold: int) -> Real:
    """The same films with another fold held out."""
    test = [e for e in real.examples if dataset.fold_of(e.group) == fold]
    return dataclasses.replace(real, fold=fold, test=test)


def labelled(examples: Sequence[Example], real: Real) -> Labelled:
    return Labelled(np.stack([e.image for e in examples]), targets(examples, real.several))


def judge(
    real: Real,
    sets: Mapping[str, Sequence[Example]],
    settings: Training,
    seeds: int,
    folds: Sequence[int],
    watch: Watch,
) -> dict[str, np.ndarray]:
    """Log-probabilities (S, N, K) of every set by the classifier of the first fold, and of the other folds by theirs."""
    found: dict[str, np.ndarray] = {}
    for at, fold in enumerate(folds):
        here = with_fold(real, fold)
        judged = dict(sets) if fold == real.fold else {f"fold {fold}": here.test}
        images = np.stack([e.image for examples in judged.values() for e in examples])
        own, runs = labelled(here.training(0, 0), here), []
        for seed in range(seeds):
            done = at * seeds + seed
            text = f"fold {fold}, seed {seed}"
            step = dataclasses.replace(settings, seed=seed)
            tell = _teller(watch, text, done, seeds * len(folds))
            runs.append(
                train(
                    REAL_ARMS[1], own, {}, images, real.sizes, real.domain.AUGMENTATION, step, watch=tell
                ).log_probability
            )
        ends = np.cumsum([len(examples) for examples in judged.values()])[:-1]
        found |= dict(zip(judged, np.split(np.stack(runs), ends, 1), strict=True))
    return found


def train_arms(
    real: Real, every: Sequence[tuple[Arm, Sequence[Example]]], settings: Training, seeds: int, watch: Watch
) -> list[list[Outcome]]:
    """One list an arm, one outcome a seed."""
    own, test = labelled(real.training(0, 0), real), np.stack([e.image for e in real.test])
    found = []
    for at, (arm, pool) in enumerate(every):
        pools = {arm.pool: labelled(pool, real)} if arm.pool else {}
        found.append(
            [
                train(
                    arm, own, pools, test, real.sizes, real.domain.AUGMENTATION, dataclasses.replace(settings, seed=seed),
                    watch=_teller(watch, f"{arm.name}, seed {seed}", at * seeds + seed, len(every) * seeds),
                )
                for seed in range(seeds)
            ]
        )  # fmt: skip
    return found


def _teller(watch: Watch, text: str, done: int, of: int) -> Any:
    return lambda step, steps: watch(text, done * steps + step, of * steps)


# Figures


def by_label(real: Real, log_probability: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(S, N, K) -> scores of the findings (S, N, F), higher for present, and the class named, one (S, N) a class."""
    each = parted(finite(log_probability, "log-probabilities of a classifier"), real.sizes)
    count, present = len(real.findings), FINDING.index("present")
    return np.stack([one[..., present] for one in each[:count]], -1), [one.argmax(-1) for one in each[count:]]


def patients(examples: Sequence[Example]) -> list[str]:
    return [e.group or e.id for e in examples]


def tally(examples: Sequence[Example], name: str) -> tuple[int, int]:
    column = targets(examples, [name])[:, 0]
    return int((column == 1).sum()), int((column == 0).sum())


def testable(real: Real, sets: Mapping[str, Sequence[Example]]) -> tuple[str, ...]:
    """The findings that every set has enough films of."""
    return tuple(n for n in real.findings if all(min(tally(examples, n)) >= FEWEST for examples in sets.values()))


def balanced_accuracy(predicted: np.ndarray, truth: np.ndarray, groups: Sequence[str]) -> Interval:
    known = np.flatnonzero(~np.isnan(truth))
    if not len(known):
        return UNKNOWN
    return classification.balanced_accuracy(predicted[:, known], truth[known].astype(int), [groups[n] for n in known])


def abnormality(real: Real, examples: Sequence[Example], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (S, N, 1) and truth (N, 1) of "something is abnormal": that the film is not normal."""
    n = real.findings.index(real.domain.NORMAL)
    return -scores[..., n : n + 1], 1 - targets(examples, [real.domain.NORMAL])


def facts_of(real: Real, settings: Training, seeds: int, pools: Sequence[Family]) -> dict[str, Any]:
    left = [name for name in known_findings(real.vocabulary) if name not in real.findings]
    return protocol(real, settings, seeds, pools) | {
        "label": ", ".join(real.several),
        "not_learned": f"{', '.join(left) or 'none'}: fewer than {LEARNED} training films have it, or lack it",
        "unknown": "what is not stated of a film is left out, of training and test; it is not taken for absent",
        "loss": "a softmax over each label's values, the values of a label weighted inversely to their frequency",
        "network": dataclasses.asdict(NETWORK) | {"kind": "ResNet, from scratch, one head for all labels"},
    }
