"""Figures of a classification against hand counts and scikit-learn, intervals against a plain bootstrap, baselines."""

import math

import numpy as np
import pytest
from sklearn import metrics

from toolkit.data.dataset import fold_of
from toolkit.evaluation import classification as c
from toolkit.evaluation.split import few_shot, held_out, seen_in_training
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.models.folder import hash_id

random = np.random.default_rng(5)
TRUTH = random.integers(0, 4, 120)
RUNS = np.where(random.random((3, 120)) < 0.7, TRUTH, random.integers(0, 4, (3, 120)))
GROUPS = [f"leaf{n // 2}" for n in range(120)]


def test_figures_by_hand():
    found = c.figures(np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 2]), 4)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.recall == pytest.approx((2 / 3, 1.0, 0.0, None))
    assert found.precision == pytest.approx((2 / 3, 2 / 3, None, None))
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.macro_f1 == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert found.support == (3, 2, 1, 0)
    assert found.confusion == ((2, 1, 0, 0), (0, 2, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0))


def test_figures_agree_with_scikit_learn():
    found = c.figures(RUNS[0], TRUTH, 4)
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(TRUTH, RUNS[0]))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(TRUTH, RUNS[0], average="macro"))


def test_what_cannot_be_measured_is_refused():
    for predicted, truth in ((np.zeros(0, int), np.zeros(0, int)), (RUNS[0][:5], TRUTH), (RUNS[0] + 3, TRUTH)):
        with pytest.raises(Error):
            c.figures(predicted, truth, 4)
    with pytest.raises(Error, match="group"):
        c.balanced_accuracy(RUNS, TRUTH, GROUPS[:3])
    with pytest.raises(Error, match="as many runs"):
        c.difference(RUNS, RUNS[:2], TRUTH, GROUPS)


def test_an_interval_holds_the_mean_over_seeds_and_agrees_with_a_plain_bootstrap():
    found = c.balanced_accuracy(RUNS, TRUTH, GROUPS)
    assert found.value == pytest.approx(np.mean([c.figures(run, TRUTH, 4).balanced_accuracy for run in RUNS]))
    members = [np.flatnonzero(np.array(GROUPS) == name) for name in sorted(set(GROUPS))]
    draws, values = np.random.default_rng(9), []
    for _ in range(400):
        index = np.concatenate([members[k] for k in draws.integers(0, len(members), len(members))])
        chosen = RUNS[draws.integers(0, 3, 3)]
        truth, hits = TRUTH[index], chosen[:, index] == TRUTH[index]
        values.append(np.mean([hits[:, truth == kind].mean() for kind in range(4)]))
    assert [found.low, found.high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)


def test_leaves_not_images_are_resampled():
    """Ten images of each leaf that stand or fall together must not make the interval narrower."""
    truth, hit = np.tile([0, 1], 20), random.random(40) < 0.6
    runs = np.where(hit, truth, 1 - truth)[None]
    alone = c.balanced_accuracy(runs, truth, [str(n) for n in range(40)])
    repeated = np.repeat(runs, 10, 1), np.repeat(truth, 10)
    by_leaf = c.balanced_accuracy(*repeated, [str(n // 10) for n in range(400)])
    by_image = c.balanced_accuracy(*repeated, [str(n) for n in range(400)])
    assert (by_leaf.low, by_leaf.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    assert by_image.high - by_image.low < 0.5 * (alone.high - alone.low)


def test_a_paired_difference_is_narrower_than_that_of_strangers():
    worse = RUNS.copy()
    worse[:, ::10] = (TRUTH[::10] + 1) % 4
    gap = c.difference(RUNS, worse, TRUTH, GROUPS)
    one, other = (c.balanced_accuracy(runs, TRUTH, GROUPS) for runs in (RUNS, worse))
    assert gap.value == pytest.approx(one.value - other.value)
    assert 0 < gap.low < gap.value < gap.high
    assert gap.high - gap.low < (one.high - one.low) + (other.high - other.low)
    same = c.difference(RUNS, RUNS, TRUTH, GROUPS)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_calibration_error():
    sure = np.log(np.array([[0.75, 0.25]] * 8))
    assert c.calibration_error(sure, np.array([0] * 6 + [1] * 2)) == pytest.approx(0)
    assert c.calibration_error(sure, np.zeros(8, int)) == pytest.approx(0.25)
    assert c.calibration_error(sure, np.ones(8, int)) == pytest.approx(0.75)


def blob(kind: int, count: int) -> np.ndarray:
    colour = np.eye(3)[kind][:, None, None]
    return (colour * 0.8 - 0.4 + random.normal(0, 0.3, (count, 3, 8, 16))).clip(-1, 1).astype(np.float32)


def test_the_forest_finds_colours_and_the_majority_does_not():
    images, targets = np.concatenate([blob(k, 20) for k in range(3)]), np.repeat(range(3), 20)
    test = np.concatenate([blob(k, 10) for k in range(3)])
    truth = np.repeat(range(3), 10)
    assert c.figures(c.random_forest(images, targets, test, trees=30), truth, 3).balanced_accuracy > 0.9
    assert c.figures(c.majority_class(targets, 30, 3), truth, 3).balanced_accuracy == pytest.approx(1 / 3)
    assert np.array_equal(c.random_forest(images, targets, test, 1, 20), c.random_forest(images, targets, test, 1, 20))


def test_thumbnails_of_any_size():
    assert c.thumbnails(blob(0, 2)).shape == (2, 3 * 8 * 16 + 3 * 8)
    assert c.thumbnails(np.zeros((1, 1, 5, 7))).shape == (1, 5 * 7 + 8)
    flat = c.thumbnails(np.full((1, 1, 20, 33), 0.3))
    assert flat[0, :128] == pytest.approx(0.3) and flat[0, 128:].sum() == 1


# Who may see what


def leaf(name: str, kind: float, group: str = "", source: str | None = None) -> Example:
    provenance = None if source is None else Provenance("edited", "m", "sdedit", source=source)
    return Example(
        name, np.zeros((3, 2, 2), np.float32), Annotation(labels={"class": kind}), group or name, None, provenance
    )


LEAVES = [leaf(f"leaf{n:03}", n % 3) for n in range(150)] + [leaf("unknown", math.nan)]


@pytest.mark.parametrize("fold", [0, 2])
def test_subsets_are_balanced_nested_and_disjoint_from_the_test_fold(fold):
    test = {e.group for e in held_out(LEAVES, "class", fold)}
    five, ten = ({e.id for e in few_shot(LEAVES, "class", k, 7, fold)} for k in (5, 10))
    kinds = [e.annotation.labels["class"] for e in few_shot(LEAVES, "class", 5, 7, fold)]
    assert kinds == sorted(kinds) and [kinds.count(k) for k in range(3)] == [5, 5, 5]
    assert five < ten and not ten & test
    full = {e.id for e in few_shot(LEAVES, "class", 0, 7, fold)}
    assert ten < full and not full & test and len(full) + len(test) == 150


def test_a_subset_depends_on_the_seed_not_on_the_order():
    first = [e.id for e in few_shot(LEAVES, "class", 5, 0, 0)]
    assert first == [e.id for e in few_shot(LEAVES[::-1], "class", 5, 0, 0)]
    assert first != [e.id for e in few_shot(LEAVES, "class", 5, 1, 0)]


def test_a_leaf_with_several_pictures_counts_once():
    several = [leaf(f"{e.group}-{side}", e.annotation.labels["class"], e.group) for e in LEAVES[:-1] for side in "ba"]
    chosen = few_shot(several, "class", 5, 0, 0)
    assert len({e.group for e in chosen}) == 15 and all(e.id.endswith("-a") for e in chosen)
    assert {e.group for e in chosen} == {e.group for e in few_shot(LEAVES, "class", 5, 0, 0)}


def test_too_many_shots_are_refused():
    with pytest.raises(Error, match="fewer shots"):
        few_shot(LEAVES, "class", 51, 0, 0)
    with pytest.raises(Error, match="Label more"):
        few_shot([e for e in LEAVES if fold_of(e.group) == 1], "class", 1, 0, 1)


def test_what_a_generator_saw():
    trained = [hash_id("leaf003"), hash_id("from elsewhere")]
    assert seen_in_training(LEAVES, trained) == {"leaf003"}
    assert seen_in_training(LEAVES, (), [None, "leaf004"]) == {"leaf004"}
    pair = [leaf("a-1", 0, "a"), leaf("a-2", 0, "a"), leaf("b-1", 0, "b")]
    assert seen_in_training(pair, (), ["a-1"]) == {"a-1"}
    assert seen_in_training(pair, (), ["a"]) == {"a-1", "a-2"}
