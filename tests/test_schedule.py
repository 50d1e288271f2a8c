"""Schedules strictly decrease, take the steps they were asked for, and the clock agrees with DDPM's."""

import math
from itertools import pairwise

import numpy as np
import pytest
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from toolkit.diffusion import schedule
from toolkit.diffusion.schedule import COSINE, LINEAR, SIGMA_CAP, clock
from toolkit.example import Error

RANGED = [schedule.karras, schedule.exponential]
TIMED = [schedule.ddpm, schedule.cosine]

steps = st.integers(1, 200)


def check(sigmas: list[float], steps: int, first: float, final: float = 0.0) -> None:
    assert len(sigmas) == steps + 1
    assert all(type(sigma) is float and math.isfinite(sigma) for sigma in sigmas)
    assert all(high > low for high, low in pairwise(sigmas))
    assert sigmas[0] == first
    assert sigmas[-1] == final


@pytest.mark.parametrize("make", RANGED)
@given(steps=steps, low=st.floats(1e-3, 10), ratio=st.floats(1.01, 1e4), final=st.sampled_from([0.0, 5e-4]))
def test_ranged_schedules_are_strict(make, steps, low, ratio, final):
    sigmas = make(steps, min(low * ratio, SIGMA_CAP), low, final=final)
    check(sigmas, steps, min(low * ratio, SIGMA_CAP), final)
    if steps > 1:
        assert sigmas[-2] == low


@pytest.mark.parametrize(("make", "time"), [(schedule.ddpm, LINEAR), (schedule.cosine, COSINE)])
@given(steps=steps, strength=st.floats(0.01, 1))
def test_a_schedule_from_a_strength_takes_all_its_steps(make, time, steps, strength):
    check(schedule.from_strength(make, steps, strength, time), steps, time.sigma(strength))


@pytest.mark.parametrize("make", TIMED)
@given(steps=steps)
def test_a_final_sigma_ends_an_even_schedule(make, steps):
    final = 0.03
    sigmas = make(steps, 10.0, final=final)
    check(sigmas, steps, 10.0, final)
    times = [(COSINE if make is schedule.cosine else LINEAR).time(sigma) for sigma in sigmas]
    assert np.allclose(np.diff(times), (times[-1] - times[0]) / steps, atol=1e-9)


def test_karras_is_even_in_the_rho_th_root():
    roots = np.array(schedule.karras(20, 80, 0.002)[:-1]) ** (1 / 7)
    assert np.allclose(np.diff(roots), np.diff(roots)[0])
    # Karras et al. 2022, eq. 5, i = 9 of N = 18, worked out by hand
    expected = (80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert schedule.karras(18, 80, 0.002)[9] == pytest.approx(expected, rel=1e-12)


def test_exponential_is_even_in_the_logarithm():
    logs = np.log(schedule.exponential(20, 80, 0.002)[:-1])
    assert np.allclose(np.diff(logs), np.diff(logs)[0])


def test_ddpm_takes_every_training_step_and_both_ends():
    assert schedule.ddpm(1000)[:-1] == pytest.approx(LINEAR.sigmas[::-1], rel=1e-9)
    times = [1000 * LINEAR.time(sigma) for sigma in schedule.ddpm(7)[:-1]]
    assert times == pytest.approx(np.linspace(1000, 1, 7), rel=1e-9)


@pytest.mark.parametrize(
    ("ours", "betas"), [(LINEAR, {"beta_end": 0.02}), (COSINE, {"beta_schedule": "squaredcos_cap_v2"})]
)
def test_clocks_agree_with_diffusers(ours, betas):
    cumulative = DDIMScheduler(1000, beta_start=1e-4, **betas).alphas_cumprod.double().numpy()
    theirs = np.minimum(np.sqrt((1 - cumulative) / cumulative), SIGMA_CAP)
    assert np.allclose(ours.sigmas, theirs, rtol=2e-3)
    assert ours.capped == (ours is COSINE)


def test_half_strength_is_sigma_3_42():
    assert schedule.strength_to_sigma(0.5) == pytest.approx(3.42, abs=0.005)
    assert schedule.ddpm_sigma(1) == pytest.approx(157.4, abs=0.05)
    assert schedule.strength_to_sigma(0.5, COSINE) == pytest.approx(1.01, abs=0.02)


def test_a_clock_interpolates_log_sigma():
    between = LINEAR.sigma(0.4005)
    assert between == pytest.approx(math.sqrt(LINEAR.sigmas[399] * LINEAR.sigmas[400]), rel=1e-9)


@pytest.mark.parametrize("time", [LINEAR, COSINE, clock([0.9, 0.5, 0.1])])
@given(strength=st.floats(1e-4, 1))
def test_a_clock_can_be_read_both_ways(time, strength):
    assert time.time(time.sigma(strength)) == pytest.approx(strength, rel=1e-9)


def test_zero_terminal_snr_is_capped_and_said():
    time = clock([0.9, 0.5, 0.0])
    assert time.capped
    assert time.sigma(1) == SIGMA_CAP
    assert not clock([0.9, 0.5]).capped
    assert schedule.ddpm(3, clock=time)[0] == SIGMA_CAP
    assert schedule.karras(3, math.inf)[0] == SIGMA_CAP


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda: schedule.karras(0), "steps = 0"),
        (lambda: schedule.karras(5, 1.0, 2.0), "found 1, "),
        (lambda: schedule.karras(5, rho=0), "rho"),
        (lambda: schedule.exponential(5, 1.0, 0.1, final=0.2), "0.2"),
        (lambda: schedule.ddpm(5, final=-1e-3, sigma_min=0.1), "-0.001"),
        (lambda: schedule.strength_to_sigma(0), "found 0"),
        (lambda: schedule.strength_to_sigma(1.5), "found 1.5"),
        (lambda: clock([0.5, 0.9]), "strictly increase"),
        (lambda: LINEAR.time(0.0), "found 0.0"),
    ],
)
def test_mistakes_are_named(wrong, found):
    with pytest.raises(Error, match=found):
        wrong()
