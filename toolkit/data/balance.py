"""What to generate so that a data set becomes even: how many more of each value, and annotations like its own.

Numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.example import Annotation, Error

__all__ = ["balance_counts", "sample_like"]


def balance_counts(counts: Sequence[int], more: int) -> list[int]:
    """How `more` samples are shared out so that the sums with `counts` are as even as can be.

    The smallest are filled up first; with enough of them all sums differ by one at most. Ties go to the first.
    """
    added = [0] * len(counts)
    order = np.argsort(counts, kind="stable")
    for rank in range(len(order)):
        # Raise the rank + 1 smallest together to the next level, or as far as what is left reaches.
        level = counts[order[rank]] + added[order[rank]]
        above = counts[order[rank + 1]] if rank + 1 < len(order) else None
        wanted = more if above is None else min(more, (above - level) * (rank + 1))
        each, over = divmod(wanted, rank + 1)
        for place, index in enumerate(order[: rank + 1]):
            added[index] += each + (place < over)
        more -= wanted
    return added


def sample_like(rows: Sequence[Annotation], count: int, seed: int, balance: str | None = None) -> list[Annotation]:
    """`count` annotations drawn from `rows`, their labels and texts only, so that other labels keep their joint distribution.

    balance: a label that the rows and the new ones together shall have evenly; rows that do not know it are left out.
    Errors: a label that no row has.
    """
    random = np.random.default_rng(np.random.SeedSequence([seed, count]))
    if balance is None:
        picked = [rows[i] for i in random.integers(len(rows), size=count)]
        return [Annotation(row.text, row.labels) for row in picked]
    groups: dict[float, list[Annotation]] = {}
    for row in rows:
        if balance in row.labels and not np.isnan(row.labels[balance]):
            groups.setdefault(row.labels[balance], []).append(row)
    if not groups:
        names = sorted({name for row in rows for name in row.labels})
        raise Error(f"--balance takes a label that the data have, {', '.join(names)}; found '{balance}'.")
    values = sorted(groups)
    shares = balance_counts([len(groups[v]) for v in values], count)
    return [
        Annotation(groups[value][i].text, groups[value][i].labels)
        for value, share in zip(values, shares, strict=True)
        for i in random.integers(len(groups[value]), size=share)
    ]
