"""The figures of films with findings, of log-probabilities (S, N, K) of seeds, films and the values of all labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffgraft.evaluation.data import FINDING, Real, label_values
from diffgraft.evaluation.results import UNKNOWN
from toolkit.evaluation import classification
from toolkit.evaluation.downstream import split_by_label
from toolkit.evaluation.finite import check_finite
from toolkit.evaluation.interval import Interval
from toolkit.example import Example

__all__ = ["FEWEST", "abnormality", "balanced_accuracy", "count_stated", "scores_by_label", "testable"]

FEWEST = 8
"""Films with a finding present, and as many with it absent, that an area needs."""


def scores_by_label(real: Real, log_probability: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scores of the findings (S, N, F), higher for present, and the predicted class, one (S, N) a class."""
    each = split_by_label(check_finite(log_probability, "log-probabilities of a classifier"), real.sizes)
    count, present = len(real.findings), FINDING.index("present")
    return np.stack([one[..., present] for one in each[:count]], -1), [one.argmax(-1) for one in each[count:]]


def count_stated(examples: Sequence[Example], name: str) -> tuple[int, int]:
    """How many films have a finding present, and absent."""
    column = label_values(examples, [name])[:, 0]
    return int((column == 1).sum()), int((column == 0).sum())


def testable(real: Real, sets: Mapping[str, Sequence[Example]]) -> tuple[str, ...]:
    """The findings that every set has enough films of."""
    return tuple(n for n in real.findings if all(min(count_stated(films, n)) >= FEWEST for films in sets.values()))


def balanced_accuracy(predicted: np.ndarray, truth: np.ndarray, groups: Sequence[str]) -> Interval:
    """That of a class, predicted (S, N) and truth (N,), over the films whose truth is known."""
    known = np.flatnonzero(~np.isnan(truth)).tolist()
    if not known:
        return UNKNOWN
    return classification.balanced_accuracy(predicted[:, known], truth[known].astype(int), [groups[n] for n in known])


def abnormality(real: Real, examples: Sequence[Example], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (S, N, 1) and truth (N, 1) of "something is abnormal", that the film is not normal; NaN where none says it."""
    normal = getattr(real.domain, "NORMAL", "")
    if normal not in real.findings:
        return np.zeros((*scores.shape[:2], 1)), np.full((len(examples), 1), np.nan)
    n = real.findings.index(normal)
    return -scores[..., n : n + 1], 1 - label_values(examples, [normal])
