"""Overlap of masks: against counting by hand, and what is empty."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.evaluation.segmentation import mask_overlap
from toolkit.example import Error


def test_overlap_is_what_counting_says():
    random = np.random.default_rng(0)
    one, other = random.random((4, 9, 11)) < 0.4, random.random((4, 9, 11)) < 0.5
    found = mask_overlap(one, other)
    both = (one & other).sum((1, 2))
    assert found.iou == pytest.approx(both / (one | other).sum((1, 2)), abs=1e-6)
    assert found.dice == pytest.approx(2 * both / (one.sum((1, 2)) + other.sum((1, 2))), abs=1e-6)
    assert found.mean_dice == pytest.approx(found.dice.mean(), abs=1e-6)


def test_what_neither_marks_counts_for_nothing():
    empty, full = np.zeros((2, 4, 4), bool), np.ones((2, 4, 4), bool)
    full[1] = False
    found = mask_overlap(full, np.stack([full[0], empty[0]]))
    assert found.dice[0] == 1
    assert np.isnan(found.dice[1])
    assert found.mean_iou == 1
    assert mask_overlap(full[:1], empty[:1]).iou.tolist() == [0]


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(Error, match="one beside the other"):
        mask_overlap(np.zeros((1, 3, 3), bool), np.zeros((1, 3, 4), bool))
