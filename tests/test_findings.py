"""Findings told: areas against scikit-learn and plain loops, coverage of the intervals, and what chance gives."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from toolkit.evaluation import classification, findings
from toolkit.example import Error


def world(seed: int, n: int = 60, shift: float = 1.0, runs: int = 2) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores (S, N, 3) in coarse steps, so that there are ties; truth with a third unknown; two images a group."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, (n, 3)).astype(float)
    scores = np.round(random.standard_normal((runs, n, 3)) + shift * truth, 1)
    truth[random.random(truth.shape) < 0.3] = np.nan
    return scores, truth, [f"patient{k // 2}" for k in range(n)]


def test_an_area_is_that_of_scikit_learn_and_unknown_is_left_out():
    scores, truth, groups = world(0)
    found = findings.finding_aurocs(scores, truth, groups, resamples=10)
    for f in range(3):
        known = ~np.isnan(truth[:, f])
        each = [roc_auc_score(truth[known, f], run[known, f]) for run in scores]
        assert found.value[f] == pytest.approx(np.mean(each))
    assert findings.macro_auroc(found, [0, 2]).value == pytest.approx(found.value[[0, 2]].mean())


def test_a_resample_is_the_area_of_the_images_it_drew():
    """A resample in which every group is drawn as often as a plain copy of the data would have it."""
    scores, truth, groups = world(1, runs=1)
    found = findings.finding_aurocs(scores, truth, groups, resamples=4, seed=3)
    names = np.unique(groups)
    random = np.random.default_rng(3)
    times = random.multinomial(len(names), np.full(len(names), 1 / len(names)), 4)
    for drawn, count in zip(found.drawn, times, strict=True):
        often = dict(zip(names, count, strict=True))
        index = np.repeat(np.arange(len(groups)), [often[g] for g in groups])
        known = index[~np.isnan(truth[index, 0])]
        assert drawn[0] == pytest.approx(roc_auc_score(truth[known, 0], scores[0, known, 0]))


def test_blocks_are_compared_within_themselves():
    """Two folds whose models score on scales far apart: together they would rank folds, apart they rank findings."""
    scores, truth, groups = world(2, runs=1)
    block = np.arange(60) % 2
    found = findings.finding_aurocs(scores + 100 * block[:, None], truth, groups, block, resamples=2)
    hits, pairs = 0.0, 0
    for b in (0, 1):
        here = (block == b) & ~np.isnan(truth[:, 0])
        count = int(truth[here, 0].sum() * (1 - truth[here, 0]).sum())
        hits, pairs = hits + count * roc_auc_score(truth[here, 0], scores[0, here, 0]), pairs + count
    assert found.value[0] == pytest.approx(hits / pairs)


def test_intervals_hold_the_area_of_the_population():
    """Scores N(1, 1) against N(0, 1): the area is Phi(1 / sqrt 2)."""
    held = 0
    for seed in range(120):
        random = np.random.default_rng(seed)
        truth = (np.arange(80) % 2)[:, None].astype(float)
        scores = (random.standard_normal((80, 1)) + truth)[None]
        (interval,) = findings.finding_aurocs(scores, truth, [str(k) for k in range(80)], resamples=200).intervals
        held += interval.low <= 0.7602 <= interval.high
    assert 0.88 <= held / 120 <= 0.99


def test_groups_widen_an_interval():
    """Every image four times over is no more evidence, unless it is said to be."""
    scores, truth, _ = world(4, n=40, runs=1)
    many, long = np.repeat(scores, 4, 1), np.repeat(truth, 4, 0)
    apart = findings.finding_aurocs(many, long, [str(k) for k in range(160)]).intervals[0]
    together = findings.finding_aurocs(many, long, [str(k // 4) for k in range(160)]).intervals[0]
    assert together.high - together.low > 1.6 * (apart.high - apart.low)


def test_a_difference_is_paired():
    scores, truth, groups = world(5)
    one = findings.finding_aurocs(scores, truth, groups)
    same = findings.difference(one, one, [0, 1])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    worse = findings.finding_aurocs(-scores, truth, groups)
    assert findings.difference(one, worse, [0]).low > 0


def test_shuffled_truths_give_chance_and_a_true_area_lies_outside():
    scores, truth, groups = world(6, n=120, shift=2.0)
    chance = findings.shuffled_aurocs(scores, truth)
    found = findings.finding_aurocs(scores, truth, groups, resamples=2).value
    for each, value in zip(chance, found, strict=True):
        assert abs(each.value - 0.5) < 0.02 and each.low < 0.5 < each.high < value


def test_one_kind_alone_has_no_area():
    scores, truth, groups = world(7)
    truth[:, 1] = np.where(np.isnan(truth[:, 1]), np.nan, 1.0)
    found = findings.finding_aurocs(scores, truth, groups, resamples=5)
    assert found.intervals[1].value is None and str(found.intervals[1]) == "-"
    assert findings.shuffled_aurocs(scores, truth, 3)[1].value is None
    assert findings.macro_auroc(found, [0, 1]).value == pytest.approx(found.value[0])
    assert findings.macro_auroc(found, [1]).value is None


def test_accuracy_is_the_part_that_is_right_and_unknown_is_left_out():
    truth = np.array([0.0, 1.0, np.nan, 2.0])
    predicted = np.array([[0, 1, 0, 1], [0, 0, 2, 1]])
    found = findings.accuracy(predicted, truth, list("abcd"))
    assert found.value == pytest.approx(3 / 6) and found.low <= 0.5 <= found.high
    assert findings.accuracy(predicted, np.full(4, np.nan), list("abcd")).value is None
    even = np.tile([0, 1], 200)
    chance = findings.shuffled_accuracy(even[None], even.astype(float))
    assert abs(chance.value - 0.5) < 0.02 and chance.low < 0.5 < chance.high < 0.6


def test_forests_of_several_labels_are_those_of_each():
    random = np.random.default_rng(9)
    images, test = (random.uniform(-1, 1, (n, 1, 16, 16)).astype(np.float32) for n in (60, 20))
    kinds = random.integers(0, 3, 60)
    images += 0.4 * kinds[:, None, None, None]
    targets = np.stack([kinds, kinds == 0, np.full(60, np.nan)], 1).astype(float)
    targets[:5, 1] = np.nan
    found = classification.random_forest_probabilities(images, targets, test, (3, 2, 2), seed=1)
    assert np.array_equal(found[:, :3].argmax(1), classification.random_forest(images, kinds, test, seed=1))
    rest = classification.random_forest(images[5:], (kinds[5:] == 0).astype(int), test, seed=1)
    assert np.array_equal(found[:, 3:5].argmax(1), rest)
    assert (found[:, 5:] == 0.5).all()


def test_shapes_that_differ_are_refused():
    scores, truth, groups = world(8)
    with pytest.raises(Error, match="a group an image"):
        findings.finding_aurocs(scores, truth, groups[1:])
    with pytest.raises(Error, match="a group an image"):
        findings.finding_aurocs(scores[0], truth, groups)
    with pytest.raises(Error, match="Every image has a group"):
        findings.mean(scores[:, :, 0], groups[1:])
