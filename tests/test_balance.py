"""Evening out a data set: how many more of each value, and labels that stay together."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.balance import balance_counts, sample_like
from toolkit.example import Annotation, Error

ROWS = [
    Annotation(labels={"condition": float(k), "severity": float(10 * k + n)})
    for k, n in [(0, 0)] * 6 + [(1, 1)] * 2 + [(2, 2)]
]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 200))
def test_the_sums_are_as_even_as_can_be(counts, more):
    added = balance_counts(counts, more)
    sums = [c + a for c, a in zip(counts, added, strict=True)]
    assert sum(added) == more
    assert min(added) >= 0
    raised = [s for s, a in zip(sums, added, strict=True) if a]
    # Nothing was raised while something else lay more than one below it.
    assert not raised or max(raised) <= min(sums) + 1


def test_balanced_rows_fill_up_the_rare_ones_first():
    drawn = sample_like(ROWS, 9, seed=0, balance="condition")
    total = Counter(r.labels["condition"] for r in [*ROWS, *drawn])
    assert total == {0.0: 6, 1.0: 6, 2.0: 6}
    assert Counter(r.labels["condition"] for r in sample_like(ROWS, 5, 0, "condition")) == {1.0: 2, 2.0: 3}


def test_other_labels_keep_their_company():
    for row in sample_like(ROWS, 30, seed=1, balance="condition"):
        assert row.labels["severity"] == 11 * row.labels["condition"]


def test_a_draw_depends_on_its_seed_alone():
    drawn = [[row.labels["severity"] for row in sample_like(ROWS, 8, seed)] for seed in (3, 3, 4, 5, 6)]
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn))) > 1


def test_a_label_that_no_row_has():
    with pytest.raises(Error, match="condition, severity; found 'crop'"):
        sample_like(ROWS, 3, 0, "crop")
