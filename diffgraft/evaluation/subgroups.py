"""Parts of a set of films by what and whom they show, and how far the synthetic ones of each are from the real ones.

A film is in every part that fits it: one a finding that is present, one a value of each class, one a band of ages; what
is not stated is a part of its own. Numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.pools import FINDING, findings
from toolkit.data.labels import Range, Vocabulary
from toolkit.evaluation.distribution import KernelDistance, kernel_distance
from toolkit.example import Example

__all__ = ["ALL", "FEWEST", "NOTE", "Distance", "cell", "distances", "parts", "table"]

ALL = "all"
BANDS = (40, 65)
"""Years: below the first, from there to the second, above it."""

FEWEST = 6
"""Films on both sides that a distance needs."""

NOTE = (
    "A film is in every part that fits it. Floor: real films of the training part, of the same part of the patients, "
    "against the held-out ones; a synthetic set that is no further away cannot be told from real films here. ±: standard error."
)


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


def parts(examples: Sequence[Example], vocabulary: Vocabulary, told: Sequence[str]) -> dict[str, np.ndarray]:
    """Name of a part -> which examples are in it, boolean (N,). told: labels whose values are parts, beside findings.

    Every set of one vocabulary has the same parts, empty ones too.
    """
    found = {ALL: np.ones(len(examples), bool)}

    def values(label: str) -> np.ndarray:
        return np.array([e.annotation.labels.get(label, math.nan) for e in examples], float)

    for name in findings(vocabulary):
        found[f"{name} present"] = values(name) == FINDING.index("present")
    for name in told:
        entry, column = vocabulary.get(name), values(name)
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
    fake: tuple[np.ndarray, Mapping[str, np.ndarray]],
    held_out: tuple[np.ndarray, Mapping[str, np.ndarray]],
    training: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None,
) -> list[Distance]:
    """The distance of every part that any of the sets has. Each set: features (N, D), and its `parts`."""
    rows = []
    for name in fake[1]:
        here = fake[0][fake[1][name]]
        real = held_out[0][held_out[1][name]]
        seen = np.empty((0, real.shape[1])) if training is None else training[0][training[1][name]]
        if len(here) or len(real):
            rows.append(Distance(name, len(here), len(real), len(seen), _apart(real, here), _apart(real, seen)))
    return rows


def table(rows: Sequence[Distance]) -> reporting.Table:
    """The distances as a table of a report."""
    lines = [[r.name, r.fake, r.held_out, r.training, cell(r.kid), cell(r.floor)] for r in rows]
    header = ["Films", "Synthetic", "Held-out real", "Training real", "KID", "KID of training films (floor)"]
    return reporting.Table(header, lines, "Kernel distance of every part to the held-out real films of the same part")


def cell(distance: KernelDistance | None) -> str | None:
    """A distance with its error, as a cell."""
    return None if distance is None else f"{distance.value:.4f} ± {distance.error:.4f}"


def _apart(real: np.ndarray, other: np.ndarray) -> KernelDistance | None:
    return kernel_distance(real, other) if min(len(real), len(other)) >= FEWEST else None
