"""Parts of a set of films by what and whom they show, and how far the synthetic ones of each are from the real ones.

A film is in every part that fits it: one a finding that is present, one a value of each class, one a band of ages; what
is not stated is a part of its own. Numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffgraft.evaluation.data import FINDING, findings, label_values
from toolkit.data.labels import Range, Vocabulary
from toolkit.evaluation.distribution import KernelDistance, kernel_distance
from toolkit.example import Example

__all__ = ["ALL", "FEWEST", "Distance", "distances", "format_distance", "parts"]

ALL = "all"
BANDS = (40, 65)
"""Years: below the first, from there to the second, above it."""

FEWEST = 6
"""Films on both sides that a distance needs."""


@dataclass(frozen=True)
class Distance:
    """One part: how many synthetic, held-out real and training films it has; KID with its error, None with too few.

    kid: synthetic against held-out films; floor: training films against held-out ones.
    """

    name: str
    fake: int
    held_out: int
    training: int
    kid: KernelDistance | None
    floor: KernelDistance | None


def parts(examples: Sequence[Example], vocabulary: Vocabulary, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name of a part -> which examples are in it, boolean (N,). names: labels whose values are parts, beside findings.

    Every set of one vocabulary has the same parts, empty ones too.
    """
    found = {ALL: np.ones(len(examples), bool)}
    for name in findings(vocabulary):
        found[f"{name} present"] = label_values(examples, [name])[:, 0] == FINDING.index("present")
    for name in names:
        entry, column = vocabulary.get(name), label_values(examples, [name])[:, 0]
        if type(entry) is tuple:
            found |= {f"{name} {word}": column == value for value, word in enumerate(entry)}
        elif type(entry) is Range:
            low, high = BANDS
            found[f"{name} below {low}"] = column < low
            found[f"{name} {low} to {high}"] = (column >= low) & (column <= high)
            found[f"{name} above {high}"] = column > high
        if entry is not None:
            found[f"{name} not stated"] = np.isnan(column)
    return found


def distances(
    synthetic: tuple[np.ndarray, Mapping[str, np.ndarray]],
    held_out: tuple[np.ndarray, Mapping[str, np.ndarray]],
    training: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None,
) -> list[Distance]:
    """The distance of every part that any of the sets has. Each set: features (N, D), and its `parts`."""
    rows = []
    for name in synthetic[1]:
        made, real = synthetic[0][synthetic[1][name]], held_out[0][held_out[1][name]]
        own = np.empty((0, real.shape[1])) if training is None else training[0][training[1][name]]
        if len(made) or len(real):
            rows.append(Distance(name, len(made), len(real), len(own), _distance(real, made), _distance(real, own)))
    return rows


def format_distance(distance: KernelDistance | None) -> str | None:
    """A distance with its error; None where there is none."""
    return None if distance is None else f"{distance.value:.4f} ± {distance.error:.4f}"


def _distance(real: np.ndarray, other: np.ndarray) -> KernelDistance | None:
    return kernel_distance(real, other) if min(len(real), len(other)) >= FEWEST else None
