"""Classical mixing: each method has the property that defines it, and leaves what it is given alone."""

import numpy as np
import pytest

from toolkit.methods.mixing import cutmix, cutout, mixup, patch_shuffle

CLASSES = 4
WEIGHTS = np.tile(np.eye(CLASSES, dtype=np.float32), (4, 1))
FLAT = np.broadcast_to(WEIGHTS.argmax(1).astype(np.float32)[:, None, None, None], (16, 3, 12, 20)).copy()
"""An image of a class is that number everywhere, so that a mixed image tells what it is made of."""
NOISE = np.random.default_rng(1).uniform(-1, 1, (16, 3, 13, 20)).astype(np.float32)
VALUES = np.arange(CLASSES, dtype=np.float32)


@pytest.mark.parametrize("mix", [mixup, cutout, cutmix, patch_shuffle])
def test_shapes_types_weights_and_inputs_stay(mix):
    images, weights = NOISE.copy(), WEIGHTS.copy()
    mixed, shares = mix(images, weights, np.random.default_rng(0))
    assert mixed.shape == images.shape and mixed.dtype == images.dtype and shares.dtype == weights.dtype
    assert shares.sum(1) == pytest.approx(1, abs=1e-6) and shares.min() >= 0
    assert np.array_equal(images, NOISE) and np.array_equal(weights, WEIGHTS)
    again = mix(images, weights, np.random.default_rng(0))
    assert np.array_equal(again[0], mixed) and np.array_equal(again[1], shares)


def test_mixup_takes_the_same_convex_combination_of_images_and_labels():
    mixed, shares = mixup(FLAT, WEIGHTS, np.random.default_rng(0), alpha=1.0)
    assert mixed == pytest.approx(np.broadcast_to((shares @ VALUES)[:, None, None, None], mixed.shape), abs=1e-5)
    assert (np.count_nonzero(shares, axis=1) == 2).any()
    assert np.ptp(shares.max(1)) > 0.2  # every pair has a lam of its own


def test_a_small_alpha_leaves_most_images_nearly_alone():
    random = np.random.default_rng(0)
    strongest = [np.mean([mixup(FLAT, WEIGHTS, random, alpha)[1].max(1) for _ in range(50)]) for alpha in (0.05, 5.0)]
    assert strongest[0] > 0.9 > strongest[1]


def test_cutmix_weighs_a_label_by_the_area_that_shows_it():
    mixed, shares = cutmix(FLAT, WEIGHTS, np.random.default_rng(0))
    area = np.stack([(mixed == value).mean((1, 2, 3)) for value in VALUES], 1)
    assert shares == pytest.approx(area, abs=1e-6)
    assert (np.count_nonzero(shares, axis=1) == 2).sum() > 4


def test_cutmix_pastes_one_box_from_the_same_place():
    mixed, _ = cutmix(NOISE, WEIGHTS, np.random.default_rng(2))
    for n, image in enumerate(mixed):
        changed = (image != NOISE[n]).all(0)
        if changed.any():
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert any(np.array_equal(image[:, changed], other[:, changed]) for other in NOISE)


def test_cutout_removes_one_square_and_no_more():
    cut, shares = cutout(NOISE, WEIGHTS, np.random.default_rng(0), side=0.5)
    gone = (cut != NOISE).all(1)
    assert np.array_equal(shares, WEIGHTS)
    assert not cut[np.broadcast_to(gone[:, None], cut.shape)].any()
    assert np.array_equal(
        cut[~np.broadcast_to(gone[:, None], cut.shape)], NOISE[~np.broadcast_to(gone[:, None], cut.shape)]
    )
    inside = [(mask.any(1).sum(), mask.any(0).sum(), mask.sum()) for mask in gone]
    assert all(rows * columns == count and 0 < rows <= 7 and 0 < columns <= 7 for rows, columns, count in inside)
    assert len({count for *_, count in inside}) > 1  # the centre is anywhere, so some reach over the edge


@pytest.mark.parametrize("window", [2, 3])
def test_patch_shuffle_keeps_the_pixels_of_every_patch(window):
    shuffled, shares = patch_shuffle(NOISE, WEIGHTS, np.random.default_rng(0), window, probability=1.0)
    assert np.array_equal(shares, WEIGHTS)
    down, across = 13 // window, 20 // window
    assert np.array_equal(shuffled[:, :, down * window :], NOISE[:, :, down * window :])
    for row in range(down):
        for column in range(across):
            place = np.s_[:, :, row * window : (row + 1) * window, column * window : (column + 1) * window]
            before, after = (a[place].reshape(16, 3, -1) for a in (NOISE, shuffled))
            # the same colours, pixel for pixel: channels stay together
            assert all(sorted(b.T.tolist()) == sorted(a.T.tolist()) for b, a in zip(before, after, strict=True))
    assert (shuffled != NOISE).mean() > 0.4


def test_patch_shuffle_leaves_most_images_alone_by_default():
    images = np.random.default_rng(0).uniform(-1, 1, (2000, 1, 4, 4)).astype(np.float32)
    shuffled, _ = patch_shuffle(images, np.ones((2000, 1), np.float32), np.random.default_rng(0))
    assert 0.03 < (shuffled != images).any((1, 2, 3)).mean() < 0.07
