"""The downstream experiment on colour blobs: equal terms for all arms, determinism, and that good pools help, bad ones hurt."""

import dataclasses

import numpy as np
import pytest
import torch

from toolkit.evaluation.classification import figures
from toolkit.evaluation.downstream import SETTINGS, Arm, Labelled, Recipe, split_by_label, train
from toolkit.example import Error
from toolkit.methods.mixing import cutmix, mixup
from toolkit.settings import Augmentation, Network

TINY = Network((8, 8))
SHORT = dataclasses.replace(SETTINGS, steps=8, batch=8, warmup=2)
AUGMENTATION = Augmentation(flip=0.5, rotate=20, shift=0.1, gain=0.1)
CLASSES = 3


def blobs(count: int, seed: int, noise: float = 0.25) -> Labelled:
    """A disc of the colour of its class somewhere on noise; `count` a class."""
    random = np.random.default_rng(seed)
    targets = np.tile(np.arange(CLASSES), count)
    images = random.normal(0, noise, (len(targets), 3, 16, 24))
    rows, columns = np.mgrid[:16, :24]
    for image, kind in zip(images, targets, strict=True):
        place = np.hypot(rows - random.uniform(4, 12), columns - random.uniform(4, 20)) < 3
        image[kind, place] += 0.8
    return Labelled(images.clip(-1, 1).astype(np.float32), targets)


REAL, POOL, TEST = blobs(2, 0), blobs(40, 1), blobs(40, 2)
ARMS = [
    Arm("real"),
    Arm("classical", augment=True),
    Arm("mixing", augment=True, mixing=(mixup, cutmix)),
    Arm("half", augment=True, pool="made", share=0.5),
    Arm("synthetic only", pool="made", share=1.0),
    Arm("pretrained", augment=True, pool="made", pretrain=0.5),
]


def run(arm: Arm, real=REAL, pool=POOL, **changes):
    settings = dataclasses.replace(SHORT, **changes)
    return train(arm, real, {"made": pool}, TEST.images, CLASSES, Recipe(AUGMENTATION, settings, TINY))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_takes_the_same_number_of_steps_and_images(arm):
    counted = []
    settings = dataclasses.replace(SHORT, steps=5)
    found = train(
        arm,
        REAL,
        {"made": POOL},
        TEST.images,
        CLASSES,
        Recipe(AUGMENTATION, settings, TINY),
        lambda *at: counted.append(at),
    )
    assert counted == [(n + 1, 5) for n in range(5)]
    assert len(found.losses) == 5 and sum(found.drawn.values()) == 5 * settings.batch
    assert found.log_probability.shape == (120, CLASSES) and found.seconds > 0
    assert np.exp(found.log_probability).sum(1) == pytest.approx(1, abs=1e-5)


def test_shares_are_kept():
    assert run(ARMS[0]).drawn == {"": 64}
    assert run(ARMS[4]).drawn == {"": 0, "made": 64}
    assert run(ARMS[5]).drawn == {"": 32, "made": 32}
    assert 0.3 < run(ARMS[3], steps=20).drawn["made"] / 160 < 0.7


def test_a_run_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = run(ARMS[3])
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = run(ARMS[3])
    assert np.array_equal(first.log_probability, again.log_probability) and first.losses == again.losses
    assert not np.array_equal(first.log_probability, run(ARMS[3], seed=1).log_probability)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # nor does it disturb the caller's


def test_classes_are_drawn_equally_often_however_many_there_are():
    seen = []

    def spy(images, weights, random):
        seen.append(weights.argmax(1))
        return images, weights

    rare = Labelled(POOL.images[:81], np.where(np.arange(81) < 3, POOL.targets[:81], POOL.targets[:81] % 2))
    run(Arm("spy", mixing=(spy,)), real=rare, steps=40)
    counts = np.bincount(np.concatenate(seen), minlength=CLASSES)
    assert counts.min() > 0.2 * counts.sum()


def test_arms_of_one_seed_see_the_same_classes():
    seen = {"a": [], "b": []}

    def spy(name):
        def mix(images, weights, random):
            seen[name].append(weights.argmax(1))
            return images, weights

        return mix

    run(Arm("a", mixing=(spy("a"),)))
    run(Arm("b", augment=True, mixing=(spy("b"),), pool="made", share=0.5))
    assert np.array_equal(seen["a"], seen["b"])


def test_bf16_runs():
    found = run(ARMS[0], precision="bf16")
    assert np.isfinite(found.log_probability).all() and found.log_probability.dtype == np.float32


def test_what_contradicts_itself_is_refused():
    with pytest.raises(Error, match="from 0 to 1"):
        Arm("too much", pool="made", share=1.5)
    with pytest.raises(Error, match="one without the other"):
        Arm("no pool", share=0.5)
    with pytest.raises(Error, match="draws from 'else'"):
        run(Arm("stranger", pool="else", share=0.5))
    lacking = Labelled(POOL.images, POOL.targets % 2)
    with pytest.raises(Error, match="none of class 2"):
        run(ARMS[3], pool=lacking)


@pytest.mark.slow
def test_a_useful_pool_helps_and_wrong_labels_hurt():
    wrong = Labelled(POOL.images, np.random.default_rng(0).integers(0, CLASSES, len(POOL.targets)))
    scores = {}
    for name, arm, pool in (
        ("real", ARMS[0], POOL), ("useful", ARMS[3], POOL), ("wrong", ARMS[3], wrong), ("only wrong", ARMS[4], wrong),
        ("pretrained", ARMS[5], POOL),
    ):  # fmt: skip
        runs = [run(arm, pool=pool, steps=120, batch=16, warmup=10, seed=seed) for seed in range(2)]
        scores[name] = np.mean([figures(r.predicted, TEST.targets, CLASSES).balanced_accuracy for r in runs])
    assert scores["useful"] > scores["real"] + 0.05 and scores["pretrained"] > scores["real"] + 0.05, scores
    assert scores["wrong"] < scores["useful"] - 0.05 and scores["only wrong"] < scores["real"] - 0.05, scores


# Several labels at once


def several(samples: Labelled, unknown: float = 0.0, seed: int = 0) -> Labelled:
    """Two labels: the class, and whether it is the first one."""
    targets = np.stack([samples.targets, samples.targets == 0], 1).astype(float)
    targets[np.random.default_rng(seed).random(targets.shape) < unknown] = np.nan
    return Labelled(samples.images, targets)


def run_several(real: Labelled, pool: Labelled | None = None, arm: Arm = ARMS[1], **changes):
    settings = dataclasses.replace(SHORT, **changes)
    return train(arm, real, {"made": pool or real}, TEST.images, (CLASSES, 2), Recipe(AUGMENTATION, settings, TINY))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_tells_several_labels(arm):
    found = run_several(several(POOL, 0.3), several(POOL), arm)
    first, second = split_by_label(found.log_probability, (CLASSES, 2))
    assert first.shape == (120, CLASSES) and second.shape == (120, 2)
    for each in (first, second):
        assert np.exp(each).sum(1) == pytest.approx(1, abs=1e-5)
    assert sum(found.drawn.values()) == 8 * 8


def test_of_several_labels_a_sample_of_a_pool_brings_its_own():
    """A pool of discs of the third colour alone: whatever real sample it stands for, its targets are its own."""
    seen = []

    def spy(images, weights, random):
        seen.append(weights > 0)
        return images, weights

    third = Labelled(POOL.images[POOL.targets == 2], POOL.targets[POOL.targets == 2])
    run_several(several(REAL), several(third), Arm("spy", mixing=(spy,), pool="made", share=1.0))
    assert (np.concatenate(seen) == [False, False, True, True, False]).all()


def test_an_unknown_label_costs_nothing():
    """With one label unknown throughout, its outputs stay where they began and the other is told as by itself."""
    both, one = several(POOL), several(POOL)
    one.targets[:, 1] = np.nan
    assert run_several(one).losses[0] < run_several(both).losses[0]
    blank = Labelled(POOL.images, np.full((120, 2), np.nan))
    assert set(run_several(blank).losses) == {0.0}


def test_rare_values_weigh_as_much_as_frequent_ones():
    """Nine in ten are of one value; the first loss, of a network that knows nothing, is still ln 2 a label."""
    rare = Labelled(np.zeros((400, 3, 16, 24), np.float32), (np.arange(400) % 10 == 0).astype(float)[:, None])
    settings = dataclasses.replace(SHORT, steps=60, batch=64, learning_rate=2e-3)
    found = train(ARMS[0], rare, {}, rare.images[:1], (2,), Recipe(AUGMENTATION, settings, TINY))
    assert np.mean(found.losses[-20:]) == pytest.approx(np.log(2), abs=0.08)
    assert np.exp(found.log_probability[0]) == pytest.approx([0.5, 0.5], abs=0.15)


def test_targets_of_other_labels_are_refused():
    with pytest.raises(Error, match="a value for each label"):
        run_several(POOL)
    with pytest.raises(Error, match="a value for each label"):
        run(ARMS[0], real=several(POOL))


@pytest.mark.slow
def test_several_labels_are_learned_though_a_third_is_unknown():
    found = run_several(several(POOL, 0.33), steps=150, batch=16, warmup=10)
    first, second = split_by_label(found.log_probability, (CLASSES, 2))
    assert (first.argmax(1) == TEST.targets).mean() > 0.7
    assert (second.argmax(1) == (TEST.targets == 0)).mean() > 0.8
