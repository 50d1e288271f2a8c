"""The classifier of the experiments on classes and on findings: a small network from scratch, on equal terms in all arms.

It predicts one label, or several at once; then it is trained on what is stated alone, and an unknown label is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffgraft.evaluation.data import Family, Real, findings, stack_images
from diffgraft.evaluation.experiment import REAL_ARMS, Plan, Step, protocol, training_steps
from diffgraft.evaluation.real import LEARNED
from diffgraft.requests.verb import Watch
from toolkit.evaluation import classification as scores
from toolkit.evaluation.downstream import NETWORK, Arm, Labelled, Outcome, Recipe, train
from toolkit.example import Example
from toolkit.settings import Training

__all__ = ["classifier_protocol", "judge", "train_arms"]


def train_arms(plan: Plan, settings: Training, watch: Watch) -> list[Outcome]:
    """The outcome of every task, tested on the held-out samples."""
    outcomes = []
    for task, step in zip(plan.tasks, training_steps(watch, [task.title for task in plan.tasks]), strict=True):
        own = dataclasses.replace(settings, seed=task.seed)
        outcomes.append(_train(plan.real, task.arm, (task.real, task.pool), plan.real.test, own, step))
    return outcomes


def judge(
    real: Real, sets: Mapping[str, Sequence[Example]], settings: Training, steps: Sequence[Step]
) -> dict[str, np.ndarray]:
    """Log-probabilities (S, N, K) of every set by classifiers of real samples alone. steps: what follows that of each seed."""
    every = [example for examples in sets.values() for example in examples]
    runs = [
        _train(real, REAL_ARMS[1], (real.training(), ()), every, dataclasses.replace(settings, seed=seed), step)
        for seed, step in enumerate(steps)
    ]
    ends = np.cumsum([len(examples) for examples in sets.values()])[:-1]
    parts = np.split(np.stack([run.log_probability for run in runs]), ends, 1)
    return dict(zip(sets, parts, strict=True))


def classifier_protocol(real: Real, settings: Training, seeds: int, pools: Sequence[Family]) -> dict[str, Any]:
    """What makes the figures readable, as plain values."""
    facts = protocol(real, settings, seeds, pools) | {
        "label": real.label,
        "few_shot_subsets": "toolkit.evaluation.split.few_shot(examples, label, k, seed, fold)",
        "network": dataclasses.asdict(NETWORK) | {"kind": "ResNet, from scratch"},
        "equal_terms": "steps, batch, network, first weights, schedule and the classes drawn are the same in all arms of a seed",
        "augmentation": dataclasses.asdict(real.domain.AUGMENTATION),
        "intervals": f"95 % bootstrap over groups and seeds, {scores.RESAMPLES} resamples; differences paired",
    }
    if not real.several:
        return facts
    left = [name for name in findings(real.vocabulary) if name not in real.findings]
    return facts | {
        "label": ", ".join(real.several),
        "not_learned": f"{', '.join(left) or 'none'}: fewer than {LEARNED} training films have it, or lack it",
        "unknown": "what is not stated of a film is left out, of training and test; it is not taken for absent",
        "loss": "a softmax over each label's values, the values of a label weighted inversely to their frequency",
        "network": dataclasses.asdict(NETWORK) | {"kind": "ResNet, from scratch, one head for all labels"},
    }


def _train(
    real: Real,
    arm: Arm,
    samples: tuple[Sequence[Example], Sequence[Example]],
    test: Sequence[Example],
    settings: Training,
    step: Step,
) -> Outcome:
    """samples: real and synthetic ones."""
    own, *pools = (Labelled(stack_images(part), real.targets(part)) for part in samples if part)
    drawn = {arm.pool: pools[0]} if pools else {}
    classes = real.sizes if real.several else len(real.names)
    recipe = Recipe(real.domain.AUGMENTATION, settings)
    return train(arm, own, drawn, stack_images(test), classes, recipe, step)
