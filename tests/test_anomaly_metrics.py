"""Anomaly metrics against scikit-learn, brute force and simulated patients; head mask on a phantom; baselines."""

import json

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from toolkit.data.head import head_mask, inner_head, otsu, rim_distance, rim_weight
from toolkit.evaluation.anomaly import (
    Bootstrap,
    EvaluationProtocol,
    LesionCriteria,
    anomaly_report,
    auroc,
    average_precision,
    baselines,
    best_dice,
    compare,
    curve,
    dice_at,
    table,
    tuned_dice,
)
from toolkit.example import Error


def mixture(seed=0, n=20_000, prevalence=0.07, shift=1.2, dtype=np.float32):
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < prevalence
    return (rng.normal(size=n) + shift * truth).astype(dtype), truth


def brute_dice(scores, truth):
    return max(dice_at(scores, truth, t) for t in np.unique(scores))


def phantom(size=128, slices=3):
    """A skull ring round a brain with a dark ventricle, a detached bright blob, and an empty last slice."""
    rows, cols = np.mgrid[:size, :size]
    radius = np.hypot(rows - size / 2, cols - size / 2)
    image = np.where(radius < 44, 80.0, 0.0)
    image[radius < 10] = 0
    image[(radius >= 38) & (radius < 41)] = 0
    image[(radius >= 41) & (radius < 44)] = 200
    image[4:12, 4:12] = 220
    stack = np.repeat(image[None], slices, 0) + np.random.default_rng(0).normal(0, 2, (slices, size, size))
    stack[-1] = 0
    return stack.astype(np.float32), radius


def patients(count=12, seed=0, shift=2.0, scale=0.0, slices=4, size=16):
    """Stacks with a block of lesion in the first slices; scale spreads the patients' score scales."""
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        truth = np.zeros((slices, size, size), bool)
        truth[: slices // 2, 3 : 3 + rng.integers(3, 7), 4:9] = True
        strength = shift * rng.uniform(0.5, 1.5)
        score = np.exp(scale * rng.normal()) * np.exp(rng.normal(size=truth.shape) + strength * truth)
        cases.append((f"p{number}", score.astype(np.float32), truth, np.ones(truth.shape, bool), None))
    return cases


# Curves


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [None, 7])
def test_average_precision_agrees_with_scikit_learn(dtype, levels):
    scores, truth = mixture(dtype=dtype)
    if levels:
        scores = np.round(scores * levels / 4)
    expected = average_precision_score(truth, scores)
    assert average_precision(scores, truth) == pytest.approx(expected, abs=1e-6)
    assert average_precision(scores, truth, bins=1000) == pytest.approx(expected, abs=1e-3)


def test_best_dice_agrees_with_brute_force():
    scores, truth = mixture(n=1500)
    dice, threshold = best_dice(scores, truth)
    assert dice == pytest.approx(brute_dice(scores, truth), abs=1e-12)
    assert dice_at(scores, truth, threshold) == pytest.approx(dice, abs=1e-12)
    assert best_dice(scores, truth, bins=300).dice == pytest.approx(dice, abs=5e-3)


def test_perfect_random_constant_and_inverted_maps():
    _, truth = mixture(n=200_000)
    noise = np.random.default_rng(5).random(truth.size)
    prevalence = truth.mean()
    assert average_precision(truth.astype(np.float32), truth) == 1
    assert best_dice(truth.astype(np.float32), truth) == (1, 1)
    assert average_precision(noise, truth) == pytest.approx(prevalence, abs=3e-3)
    assert average_precision(baselines.chance(truth), truth) == pytest.approx(prevalence, abs=1e-12)
    assert best_dice(baselines.chance(truth), truth).dice == pytest.approx(2 * prevalence / (1 + prevalence))
    inverted = average_precision(noise - truth, truth)
    assert inverted < average_precision(noise, truth)
    worst = average_precision_score(np.sort(truth)[::-1], np.arange(truth.size))
    assert inverted == pytest.approx(worst, abs=1e-6)


@pytest.mark.parametrize("bins", [None, 64])
@pytest.mark.parametrize("rise", [np.exp, lambda x: 3 * x - 7, np.cbrt])
def test_figures_do_not_change_under_a_rising_transform(rise, bins):
    scores, truth = mixture(dtype=np.float64)
    assert average_precision(rise(scores), truth, bins=bins) == pytest.approx(
        average_precision(scores, truth, bins=bins)
    )
    assert best_dice(rise(scores), truth, bins=bins).dice == pytest.approx(best_dice(scores, truth, bins=bins).dice)


def test_tuned_dice_takes_the_threshold_of_the_other_set():
    validation, test = mixture(1), mixture(2)
    dice, threshold = tuned_dice(*test, *validation)
    assert threshold == best_dice(*validation).threshold
    assert dice == dice_at(*test, threshold) <= best_dice(*test).dice


def test_auroc_agrees_with_scikit_learn_and_leaves_unknown_labels_out():
    scores, truth = mixture(n=400, prevalence=0.4)
    scores = np.round(scores)
    labels = truth.astype(float)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(truth, scores))
    labels[::7] = np.nan
    known = ~np.isnan(labels)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels[known], scores[known]))


def test_undefined_and_refused():
    nothing = np.zeros(5)
    assert np.isnan(average_precision(nothing, nothing))
    assert np.isnan(best_dice(nothing, nothing).dice)
    assert np.isnan(dice_at(nothing, nothing, 1))
    assert dice_at(nothing, nothing, 0) == 0
    assert np.isnan(auroc(nothing, nothing))
    with pytest.raises(Error, match="finite scores; found 1"):
        curve(np.array([1, np.nan]), np.array([0, 1]))
    with pytest.raises(Error, match="same grid"):
        curve(np.zeros(3), np.zeros(4))


# The head


def test_head_mask_fills_holes_and_drops_the_detached_blob():
    stack, radius = phantom()
    head = head_mask(stack)
    assert head.dtype == bool
    assert not head[-1].any()
    for mask in head[:-1]:
        assert mask[radius < 43].all()
        assert not mask[radius > 50].any()
        assert ndimage.label(mask)[1] == 1


def test_head_mask_is_the_agreed_definition():
    stack, _ = phantom()
    air = np.percentile(stack[:-1], 0.5)
    stack[-1] = air  # a slice that shows nothing has no part in it
    rough = ndimage.gaussian_filter(stack, (0, 2, 2)) > air + 0.5 * (otsu(stack) - air)
    for mask, each in zip(head_mask(stack)[:2], rough[:2], strict=True):
        parts, count = ndimage.label(ndimage.binary_fill_holes(each))
        sizes = ndimage.sum(each | True, parts, range(1, count + 1))
        assert np.array_equal(mask, parts == 1 + np.argmax(sizes))


@pytest.mark.parametrize(("width", "steps"), [(None, 9), (256, 18), (64, 4)])
def test_inner_head_is_that_many_erosions(width, steps):
    stack, _ = phantom()
    head = head_mask(stack)
    head[0, :70, :] = True  # reaches the frame, beyond which is outside
    expected = np.stack([ndimage.binary_erosion(mask, iterations=steps) for mask in head])
    assert np.array_equal(inner_head(head, width), expected)


def test_otsu_parts_two_classes_and_refuses_one():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(10, 1, 5000), rng.normal(30, 2, 2000)])
    assert 13 < otsu(values) < 26
    with pytest.raises(Error, match="differ"):
        otsu(np.full(9, 3.0))
    with pytest.raises(Error, match="finite"):
        otsu(np.array([0, np.nan]))


def test_rim_weight_rises_from_the_edge():
    head = np.zeros((2, 40, 40), bool)
    head[0, 5:35, 5:35] = True
    weight = rim_weight(head, 8)
    assert rim_distance(head)[0, 5, 20] == 1
    assert weight.max() == 1
    assert not weight[~head].any()
    assert (np.diff(weight[0, 5:20, 20]) >= 0).all()
    assert rim_distance(np.ones((1, 9, 9), bool))[0, 4, 4] == 5


# The report


def test_report_agrees_with_pooling_by_hand():
    cases = patients()
    report = anomaly_report(cases, protocol=EvaluationProtocol("none", "simulated"), lesions=LesionCriteria(smallest=1))
    here = report.regions["head"]
    scores = np.concatenate([case[1].ravel() for case in cases])
    truth = np.concatenate([case[2].ravel() for case in cases])
    assert here.average_precision.value == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
    assert here.best_dice.value == pytest.approx(best_dice(scores, truth).dice)
    assert here.dice.value == pytest.approx(here.best_dice.value)
    assert here.average_precision.low < here.average_precision.value < here.average_precision.high
    assert here.prevalence == pytest.approx(truth.mean())
    assert here.patient_average_precision["p3"] == pytest.approx(
        average_precision_score(cases[3][2].ravel(), cases[3][1].ravel())
    )
    highest = np.concatenate([case[1].max((1, 2)) for case in cases])
    labels = np.concatenate([case[2].any((1, 2)) for case in cases])
    assert here.slice_auroc_max.value == pytest.approx(roc_auc_score(labels, highest))
    called = [(case[1][2:] >= here.threshold).sum() for case in cases]
    assert here.false_positives.voxels == sum(called)
    assert here.false_positives.slices == 24
    assert here.false_positives.ml is None
    assert sum(each.lesions for each in here.lesions) == 12
    assert report.protocol["patients"] == 12
    assert "optimistic" in report.protocol["threshold"]


def test_report_is_json_without_nan_and_prints_its_protocol():
    cases = patients(3)
    cases[0] = (*cases[0][:2], np.zeros_like(cases[0][2]), cases[0][3], np.array([0, 0, np.nan, 0]))
    report = anomaly_report(cases, bootstrap=Bootstrap(200))
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["regions"]["head"]["patient_average_precision"]["p0"] is None
    assert plain["protocol"]["slices_unknown"] == 1
    text = table({"one": report, "two": report})
    for word in ("chance", "0.5 Otsu", "bootstrap", "prevalence", "slices unknown: 1", "not stated"):
        assert word in text
    assert str(report).startswith("head:")


def test_healthy_scans_alone_have_false_positives_but_no_precision():
    cases = [(who, score, truth & False, head, None, 0.001) for who, score, truth, head, _ in patients(3)]
    report = anomaly_report(cases, thresholds={"head": 2.0, "inner head": 2.0}, bootstrap=Bootstrap(50))
    here = report.regions["head"]
    assert here.average_precision.value is None
    assert here.best_dice.value is None
    assert here.slice_auroc_max.value is None
    assert here.false_positives.ml == pytest.approx(0.001 * here.false_positives.voxels) != 0
    assert anomaly_report(cases, bootstrap=Bootstrap(50)).regions["head"].false_positives.voxels == 0
    assert "-" in table({"map": report})


def test_lesions_are_stratified_by_size():
    truth = np.zeros((3, 32, 32), bool)
    truth[0, 2:4, 2:4] = True  # 4 voxels, missed
    truth[0:2, 10:15, 10:15] = True  # 50 voxels, half found
    truth[1, 20:30, 20:30] = True  # 100 voxels, found
    score = np.zeros(truth.shape, np.float32)
    score[0, 10:15, 10:15] = 1
    score[1, 20:30, 20:30] = 1
    case = ("a", score, truth, np.ones(truth.shape, bool), None, 0.01)
    limits = {"head": 0.5, "inner head": 0.5}
    options = {"thresholds": limits, "bootstrap": Bootstrap(10)}
    small, middle, large = anomaly_report([case], lesions=LesionCriteria(smallest=1), **options).regions["head"].lesions
    assert (small.low, small.recall, small.found, small.unit) == (0.04, 0, 0, "ml")
    assert (middle.low, middle.recall, middle.found) == (0.5, 0.5, 1)
    assert (large.low, large.recall, large.found) == (1.0, 1, 1)
    low, high = anomaly_report([case], lesions=LesionCriteria([0.2], smallest=1), **options).regions["head"].lesions
    assert (low.lesions, high.lesions, high.recall) == (1, 2, 0.75)


def test_pooling_punishes_patients_on_different_scales():
    same, spread = anomaly_report(patients(seed=3)), anomaly_report(patients(seed=3, scale=3.0))
    a, b = same.regions["head"], spread.regions["head"]
    assert b.average_precision.value < a.average_precision.value - 0.1
    assert b.average_precision.value < b.mean_patient_average_precision - 0.1


def test_scans_of_one_patient_are_resampled_together():
    cases = patients(6)
    renamed = [(f"q{number // 2}", *case[1:]) for number, case in enumerate(cases)]
    apart, together = anomaly_report(cases), anomaly_report(renamed)
    assert (together.protocol["patients"], together.protocol["scans"]) == (3, 6)
    value = apart.regions["head"].average_precision.value
    assert together.regions["head"].average_precision.value == pytest.approx(value)


def test_thresholds_come_from_other_patients():
    validation = anomaly_report(patients(seed=8), bootstrap=Bootstrap(50))
    report = anomaly_report(
        patients(seed=9),
        thresholds=validation.best_thresholds,
        protocol=EvaluationProtocol(threshold_origin="12 validation patients"),
        bootstrap=Bootstrap(50),
    )
    here = report.regions["head"]
    assert here.threshold == validation.regions["head"].best_threshold
    assert here.dice.value <= here.best_dice.value
    assert report.protocol["threshold"] == "12 validation patients"
    with pytest.raises(Error, match="inner head missing"):
        anomaly_report(patients(2), thresholds={"head": 1.0})


def test_intervals_cover_the_population():
    everyone = patients(400, seed=100)
    truth = np.concatenate([case[2].ravel() for case in everyone])
    scores = np.concatenate([case[1].ravel() for case in everyone])
    population = average_precision(scores, truth)
    covered = []
    for draw in range(40):
        chosen = np.random.default_rng(draw).choice(len(everyone), 24, replace=False)
        cases = [everyone[number] for number in chosen]
        found = anomaly_report(cases, bootstrap=Bootstrap(300, bins=256, seed=draw)).regions["head"].average_precision
        covered.append(found.low <= population <= found.high)
    assert 0.8 <= np.mean(covered) <= 1


def test_compare_is_paired():
    cases = patients(16, scale=0.5)
    noise = np.random.default_rng(0).normal(size=cases[0][1].shape)
    weaker = [(who, np.exp(np.log(score) + 0.4 * noise), *rest) for who, score, *rest in cases]
    one, other = anomaly_report(cases), anomaly_report(weaker)
    found = compare(one, other)["head"].average_precision
    single = one.regions["head"].average_precision
    gap = single.value - other.regions["head"].average_precision.value
    assert found.value == pytest.approx(gap)
    assert 0 < found.low <= found.value <= found.high
    assert found.high - found.low < single.high - single.low
    itself = compare(one, one)["head"]
    assert (itself.average_precision.low, itself.average_precision.high, itself.above) == (0, 0, 0)
    with pytest.raises(Error, match="same patients"):
        compare(one, anomaly_report(cases[1:]))


def test_report_refuses_what_does_not_fit():
    who, score, truth, head, _ = patients(1)[0]
    with pytest.raises(Error, match="one grid"):
        anomaly_report([(who, score[:2], truth, head, None)])
    with pytest.raises(Error, match="label 1, 0 or NaN"):
        anomaly_report([(who, score, truth, head, [0, 1])])
    with pytest.raises(Error, match="found none"):
        anomaly_report([])
    with pytest.raises(Error, match="finite scores"):
        anomaly_report([(who, np.full_like(score, np.inf), truth, head, None)])


# Baselines


def test_baselines_keep_the_grid_and_the_rim():
    stack, _ = phantom()
    head = head_mask(stack)
    p = np.array([0.0, 1.0, 0.5])
    image = baselines.normalised(stack, head)
    assert (image.min(), image.max() <= 1.3) == (0, True)
    for score in (baselines.raw(stack), baselines.smoothed(stack), baselines.wide(stack, head)):
        assert score.shape == stack.shape
        assert score.dtype == np.float32
    assert not baselines.wide(stack, head)[~head].any()
    assert not baselines.wide_gated(stack, head, p)[0].any()
    assert np.allclose(baselines.smoothed(stack), ndimage.gaussian_filter(stack, (0, 1.5, 1.5)))
    assert np.allclose(baselines.smoothed(stack, width=256), ndimage.gaussian_filter(stack, (0, 3, 3)))
    with pytest.raises(Error, match="one probability"):
        baselines.wide_gated(stack, head, p[:2])
    with pytest.raises(Error, match="mask is empty"):
        baselines.normalised(stack, np.zeros_like(head))


def test_atlas_finds_what_healthy_slices_do_not_have():
    rng = np.random.default_rng(0)
    positions = rng.random(300)
    rows = np.mgrid[:48, :48][0] / 48
    healthy = positions[:, None, None] * rows + rng.normal(0, 0.1, (300, 48, 48))
    atlas = baselines.healthy_atlas(healthy, positions, count=9)
    assert atlas.mean[4][24:].mean() == pytest.approx(0.5 * rows[24:].mean(), abs=0.03)
    assert np.median(atlas.spread) == pytest.approx(0.1, abs=0.04)
    at = np.array([0.2, 0.8])
    image = at[:, None, None] * rows + rng.normal(0, 0.1, (2, 48, 48))
    truth = np.zeros(image.shape, bool)
    truth[0, 18:28, 18:28] = True  # as bright as the lower rows of the other slice: abnormal at this position only
    image[truth] += 0.5
    head = np.ones(image.shape, bool)
    score = baselines.atlas_score(image, atlas, at, head, np.ones(2))
    assert average_precision(score, truth) > 0.9
    assert average_precision(image, truth) < 0.7
    assert not baselines.atlas_score(image, atlas, at, head, np.array([1.0, 0.0]))[1].any()
    with pytest.raises(Error, match="one crop grid"):
        baselines.atlas_score(image, atlas, at[:1], head, np.ones(2))
    with pytest.raises(Error, match="positive spread"):
        baselines.Atlas(atlas.mean, 0 * atlas.spread)
