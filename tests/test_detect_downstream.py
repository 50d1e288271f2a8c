"""The downstream experiment on coloured discs with boxes: equal terms, determinism, blobs, and that good pools help."""

import dataclasses

import numpy as np
import pytest
import torch

from toolkit.evaluation.detect_downstream import Pictures, train
from toolkit.evaluation.detection.blobs import Blobs, constant_boxes
from toolkit.evaluation.detection.metrics import as_truth, average_precision
from toolkit.evaluation.downstream import Arm, Recipe
from toolkit.example import Boxes, Error
from toolkit.settings import Augmentation, Network, Training

NAMES = ("red", "green")
SIZE = (24, 32)
TINY = Network((8, 8), norm_groups=4)
SHORT = Training(steps=4, batch=4, learning_rate=5e-3, warmup=2, weight_decay=0.05, ema=0.9)
AUGMENTATION = Augmentation(flip=0.5, crop=0.2, gain=0.1, border=True)


def discs(count: int, seed: int, noise: float = 0.25, most: int = 3) -> Pictures:
    """One to `most` discs of the colour of their class on noise, and the boxes round them."""
    random = np.random.default_rng(seed)
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    images, boxes = random.normal(-0.3, noise, (count, 3, *SIZE)), []
    for image in images:
        corners, names = [], []
        for kind in random.integers(len(NAMES), size=random.integers(1, most + 1)):
            radius = random.uniform(3, 5)
            x, y = random.uniform(radius, SIZE[1] - radius), random.uniform(radius, SIZE[0] - radius)
            inside = np.hypot(cols - x, rows - y) < radius
            image[:, inside] = np.where(np.arange(3) == kind, 0.5, -0.6)[:, None] + random.normal(
                0, noise, (3, inside.sum())
            )
            corners.append([x - radius, y - radius, x + radius, y + radius])
            names.append(NAMES[kind])
        boxes.append(Boxes(np.array(corners), tuple(names), SIZE))
    return Pictures(images.clip(-1, 1).astype(np.float32), boxes)


REAL, POOL, TEST = discs(6, 0), discs(30, 1), discs(20, 2)
TRUTHS = [as_truth(boxes, NAMES) for boxes in TEST.boxes]
ARMS = [
    Arm("real"),
    Arm("classical", augment=True),
    Arm("tenth", augment=True, pool="made", share=0.1),
    Arm("half", augment=True, pool="made", share=0.5),
    Arm("only", augment=True, pool="made", share=1.0),
    Arm("pretrained", augment=True, pool="made", pretrain=0.5),
]


def run(arm: Arm, real=REAL, pool=POOL, paste=None, watch=lambda *_: None, network=TINY, **changes):
    settings = dataclasses.replace(SHORT, **changes)
    own = pool if arm.pool else None
    return train(arm, real, own, TEST.images, NAMES, Recipe(AUGMENTATION, settings, network), paste, watch)


def precision(found) -> float:
    return average_precision(TRUTHS, found, NAMES, SIZE).mean_ap50


def same(one, other) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one.found, other.found, strict=True) for name in ("corners", "classes", "scores")
    )  # fmt: skip


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_takes_the_same_number_of_steps_and_images(arm):
    counted = []
    found = run(arm, watch=lambda *at: counted.append(at))
    assert counted == [(n + 1, SHORT.steps) for n in range(SHORT.steps)]
    assert len(found.losses) == SHORT.steps and sum(found.drawn.values()) == SHORT.steps * SHORT.batch
    assert len(found.found) == len(TEST.images) and found.seconds > 0
    assert np.isfinite(found.losses).all()


def test_the_share_of_synthetic_images_is_the_one_asked_for():
    drawn = {arm.name: run(arm, steps=12, batch=16, network=Network((4, 4), norm_groups=2)).drawn for arm in ARMS[2:]}
    assert drawn["tenth"]["made"] / 192 == pytest.approx(0.1, abs=0.06)
    assert drawn["half"]["made"] / 192 == pytest.approx(0.5, abs=0.1)
    assert drawn["only"] == {"": 0, "made": 192} and drawn["pretrained"] == {"": 96, "made": 96}


def test_a_run_depends_on_its_seed_alone():
    first = run(ARMS[3])
    torch.manual_seed(5)
    np.random.default_rng(7).random()
    assert first.losses == run(ARMS[3]).losses and same(first, run(ARMS[3]))
    assert first.losses != run(ARMS[3], seed=1).losses


def test_arms_of_one_seed_begin_alike():
    """With the same weights and the same images, where nothing is synthetic or changed."""
    quiet = dataclasses.replace(ARMS[3], name="quiet", augment=False)
    assert run(ARMS[0]).losses == run(dataclasses.replace(quiet, share=0.0, pool="")).losses
    assert run(quiet, pool=REAL).losses == run(ARMS[0]).losses


def test_what_is_pasted_is_trained_on_with_its_boxes():
    seen = []

    def paste(image, boxes, random):
        seen.append(random.random())
        whole = Boxes(np.array([[1.0, 1.0, 9.0, 9.0]]), ("green",), SIZE)
        return np.full_like(image, -1), whole

    found = run(Arm("pasted"), paste=paste)
    assert len(seen) == SHORT.steps * SHORT.batch and len(set(seen)) == len(seen)
    dark = Pictures(np.full_like(REAL.images, -1), [Boxes(np.array([[1.0, 1.0, 9.0, 9.0]]), ("green",), SIZE)] * 6)
    assert found.losses == run(Arm("real"), real=dark).losses
    seen.clear()
    run(Arm("only", pool="made", share=1.0), paste=paste)
    assert not seen  # into real images alone


def test_what_an_arm_cannot_have_is_refused():
    with pytest.raises(Error, match="one without the other"):
        run(ARMS[3], pool=None)
    with pytest.raises(Error, match="not mixed"):
        run(Arm("mixed", mixing=(lambda *_: _,)))
    with pytest.raises(Error, match="there are none"):
        run(Arm("real"), real=Pictures(REAL.images[:0], []))


# What learns no weights


def test_blobs_find_what_has_a_colour_of_its_own():
    clear = discs(20, 3, noise=0.05, most=1)
    truths = [as_truth(boxes, NAMES) for boxes in clear.boxes]
    blobs = Blobs.fit(clear.images, truths, len(NAMES))
    test = discs(20, 4, noise=0.05, most=1)
    found = blobs.predict(test.images)
    told = [as_truth(boxes, NAMES) for boxes in test.boxes]
    assert average_precision(told, found, NAMES, SIZE).mean_ap50 > 0.9
    assert all((np.diff(each.scores) <= 0).all() and (each.scores <= 1).all() for each in found)
    assert not any(len(each.scores) for each in blobs.predict(np.zeros((2, 3, *SIZE), np.float32)))


def test_blobs_leave_out_a_class_that_is_not_there_and_take_grey_images():
    grey = Pictures(REAL.images[:, :1], REAL.boxes)
    truths = [as_truth(boxes, NAMES) for boxes in grey.boxes]
    blobs = Blobs.fit(grey.images, truths, len(NAMES) + 1)
    assert blobs.rules[2] is None and all(rule.name in ("bright", "dark") for rule in blobs.rules[:2])
    assert all((each.classes < 2).all() for each in blobs.predict(grey.images))
    with pytest.raises(Error, match="fitted to images"):
        Blobs.fit(REAL.images[:0], [], 2)


def test_constant_boxes_are_the_most_frequent_ones():
    often, seldom = [4.0, 4, 12, 12], [20.0, 10, 28, 18]
    truths = [
        as_truth(Boxes(np.array([often, seldom][: 1 + (n == 0)]), ("red", "green")[: 1 + (n == 0)], SIZE), NAMES)
        for n in range(4)
    ]
    found = constant_boxes(truths, len(NAMES))
    assert found.corners.tolist() == [often, seldom] and found.scores.tolist() == [1, 0.25]
    assert found.classes.tolist() == [0, 1]


@pytest.mark.slow
def test_a_pool_of_true_boxes_helps_and_one_of_shuffled_boxes_hurts():
    """Six real images; sixty more that are like them, with their own boxes or with those of others."""
    pool = discs(60, 1)
    order = np.roll(np.arange(60), 7)
    false = Pictures(pool.images, [pool.boxes[n] for n in order])
    longer = {"steps": 160, "batch": 8, "warmup": 10, "ema": 0.97, "network": Network((16, 24, 32))}
    arm = Arm("half", augment=True, pool="made", share=0.5)
    plain, helped, hurt = (
        np.mean([precision(run(which, pool=some, seed=seed, **longer).found) for seed in range(2)])
        for which, some in ((Arm("classical", augment=True), None), (arm, pool), (arm, false))
    )
    assert helped > plain + 0.05 and hurt < plain - 0.05, (plain, helped, hurt)
