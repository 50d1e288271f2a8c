"""Pairwise similarity: MONAI agrees, equal images are equal, and what is further apart measures further apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from monai.metrics.regression import PSNRMetric

from toolkit.evaluation.similarity import perceptual, psnr, ssim
from toolkit.example import Error

random = np.random.default_rng(0)
A = random.uniform(-1, 1, (5, 3, 24, 40)).astype(np.float32)
NOISE = random.standard_normal(A.shape).astype(np.float32)
B = A + np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None] * NOISE


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_that_of_monai(channels):
    a, b = (torch.from_numpy((image[:, :channels] + 1) / 2) for image in (A, B))
    expected = SSIMMetric(spatial_dims=2, data_range=1.0, reduction="none")(a, b).numpy()[:, 0]
    assert ssim(A[:, :channels], B[:, :channels]) == pytest.approx(expected, abs=1e-5)
    assert ssim(a.numpy(), b.numpy(), 0, 1) == pytest.approx(expected, abs=1e-5)


def test_psnr_is_that_of_monai():
    expected = PSNRMetric(max_val=2.0, reduction="none")(torch.from_numpy(A[1:]), torch.from_numpy(B[1:])).numpy()[:, 0]
    assert psnr(A[1:], B[1:]) == pytest.approx(expected, abs=1e-3)
    assert psnr(A[:1], A[:1]).tolist() == [math.inf]


def test_psnr_of_a_known_error():
    assert psnr(A, A + 0.02) == pytest.approx(20 * math.log10(2 / 0.02), abs=1e-3)


def test_ssim_of_equal_and_of_opposite_images():
    assert ssim(A, A) == pytest.approx(1, abs=1e-6)
    assert ssim(A, -A).max() < 0
    assert (np.diff(ssim(A, B)) < 0).all()


def levels(image: np.ndarray) -> dict[str, np.ndarray]:
    return {"features": image.mean((2, 3)), "level0": image, "level1": image[..., ::2, ::4] ** 2}


def test_perceptual_distance_is_the_sum_over_levels_of_unit_vectors_apart():
    expected = np.zeros(len(A))
    for name in ("level0", "level1"):
        one, other = levels(A)[name], levels(B)[name]
        for n in range(len(A)):
            places = []
            for y in range(one.shape[2]):
                for x in range(one.shape[3]):
                    u, v = one[n, :, y, x], other[n, :, y, x]
                    places.append(((u / np.linalg.norm(u) - v / np.linalg.norm(v)) ** 2).sum())
            expected[n] += np.mean(places)
    found = perceptual(levels(A), levels(B))
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[0] == 0
    assert (np.diff(found) > 0).all()


def test_perceptual_distance_does_not_see_the_scale_of_a_level():
    louder = {name: 7 * level for name, level in levels(A).items()}
    assert perceptual(levels(A), louder) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", [ssim, psnr])
def test_images_of_two_shapes_are_refused(measure):
    with pytest.raises(Error, match="one shape"):
        measure(A, A[..., 1:])
    with pytest.raises(Error, match="one shape"):
        measure(A[0], A[0])


def test_an_image_below_the_window_is_refused():
    assert ssim(A[..., :11], A[..., :11]) == pytest.approx(1, abs=1e-6)
    with pytest.raises(Error, match="11 x 11"):
        ssim(A[..., :10], A[..., :10])


@pytest.mark.parametrize("other", [{"level0": A[:, :2]}, {"level1": A}, {}])
def test_levels_of_two_networks_are_refused(other):
    with pytest.raises(Error, match="same levels"):
        perceptual({"level0": A}, other)
    with pytest.raises(Error, match="same levels"):
        perceptual({"features": A}, {"features": A})
