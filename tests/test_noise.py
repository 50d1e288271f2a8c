"""Noise belongs to a (seed, sample, purpose, step) and to nothing else."""

from itertools import product

import numpy as np
import pytest
import torch

from toolkit.diffusion.noise import Purpose, Seeded, gaussian, uniform
from toolkit.example import Error

SHAPE = (1, 5, 7)
KNOWN_ANSWER = [-0.69502425, -0.09028908, 1.51565516]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_bits_do_not_depend_on_the_batch(batch):
    alone = np.concatenate([gaussian(SHAPE, 7, [n], Purpose.SAMPLER, 4) for n in range(24)])
    batched = [gaussian(SHAPE, 7, range(n, n + batch), Purpose.SAMPLER, 4) for n in range(0, 24, batch)]
    assert np.concatenate(batched).tobytes() == alone.tobytes()
    assert alone.dtype == np.float32
    assert gaussian(SHAPE, 7, [9, 2, 9], Purpose.SAMPLER, 4).tobytes() == alone[[9, 2, 9]].tobytes()


def test_every_number_of_a_draw_matters():
    draws = [
        gaussian((64,), seed, [sample], purpose, step).tobytes()
        for seed, sample, purpose, step in product(range(3), range(3), Purpose, range(3))
    ]
    assert len(set(draws)) == len(draws) == 27 * len(Purpose)


def test_neighbouring_draws_share_no_value():
    # one step's stream must not be another's, shifted: the counters lie 2^128 apart
    values = np.concatenate([gaussian((20000,), 0, [0], Purpose.START, step)[0] for step in range(3)])
    assert len(np.unique(values)) > 0.99 * len(values)
    assert abs(np.corrcoef(values[:20000], values[20000:40000])[0, 1]) < 0.03


def test_it_is_standard_normal():
    values = gaussian((100, 100), 1, range(10), Purpose.START, 0).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1


def test_uniform_numbers_are_the_samples_own_and_even():
    numbers = uniform((3,), 1, range(4000), 0)
    assert np.array_equal(numbers[[7, 2]], uniform((3,), 1, [7, 2], 0))
    assert len(np.unique(np.concatenate([numbers.ravel(), uniform((3,), 1, range(4000), 1).ravel()]))) == 24000
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.histogram(numbers, 10, (0, 1))[0] / 12000 == pytest.approx([0.1] * 10, abs=0.015)


def test_a_seed_means_the_same_tomorrow():
    # known answer: a change of purpose numbers, of the key or of numpy's stream changes every image of every seed
    assert gaussian((3,), 42, [5], Purpose.KNOWN, 17)[0] == pytest.approx(KNOWN_ANSWER, abs=1e-6)
    assert [purpose.value for purpose in Purpose] == [0, 1, 2, 3, 4]


def test_a_backend_gets_its_own_arrays_with_the_same_bits():
    ours = Seeded(3, (4, 5), SHAPE)
    theirs = Seeded(3, (4, 5), SHAPE, torch.from_numpy)
    assert isinstance(theirs(2), torch.Tensor)
    assert theirs(2).numpy().tobytes() == ours(2).tobytes() == ours(2, Purpose.SAMPLER).tobytes()
    assert ours(2).shape == (2, *SHAPE)


def test_64_bit_seeds_and_no_others():
    gaussian((1,), 2**64 - 1, [2**64 - 1], Purpose.START, 0)
    for wrong in [-1, 2**64]:
        with pytest.raises(Error, match=f"seed = {wrong}"):
            gaussian((1,), wrong, [0], Purpose.START, 0)
