"""Samplers against the exact ODE, against diffusers' schedulers, and torch against numpy."""

import ast
import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from scipy.integrate import solve_ivp
from worlds import BACKENDS, three_classes

from toolkit.diffusion import samplers
from toolkit.diffusion.guidance import conditioned
from toolkit.diffusion.noise import Seeded
from toolkit.diffusion.samplers import SAMPLERS, STOCHASTIC
from toolkit.diffusion.samplers.sde import euler_ancestral
from toolkit.diffusion.schedule import ddpm, karras

ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2}
ODE = sorted(SAMPLERS.keys() - STOCHASTIC)
STEPS = np.array([20, 40, 80, 160])


def silent(step):
    raise AssertionError(f"A deterministic sampler drew noise at step {step}.")


def plain(world):
    return conditioned(world, world.label(len(world.weights)))


def exact(world, x, start, end):
    """The probability-flow ODE by an adaptive method of eighth order."""
    denoise = plain(world)

    def slope(sigma, flat):
        x = flat.reshape(-1, *world.spec.shape)
        return ((x - denoise(x, sigma)) / sigma).ravel()

    return solve_ivp(slope, (start, end), x.ravel(), "DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(x.shape)


def order(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def test_every_sampler_is_discovered():
    assert sorted(SAMPLERS) == ["consistency", "dpmpp_2m", "dpmpp_2m_sde", "euler", "euler_ancestral", "heun"]
    assert sorted(STOCHASTIC) == ["consistency", "dpmpp_2m_sde", "euler_ancestral"]
    assert sorted(ORDERS) == ODE


@pytest.mark.parametrize("module", [samplers, samplers.ode, samplers.sde])
def test_samplers_import_no_arithmetic(module):
    tree = ast.walk(ast.parse(inspect.getsource(module)))
    names = [node.module for node in tree if isinstance(node, ast.ImportFrom)]
    assert all(name.split(".")[0] in {"collections", "itertools", "math", "toolkit"} for name in names)
    assert not any(isinstance(node, ast.Import) for node in ast.walk(ast.parse(inspect.getsource(module))))


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("name", ODE)
def test_order_of_convergence(name, up):
    world = three_classes()
    clean, _ = world.sample(16)
    x = clean + (0.05 if up else 10.0) * Seeded(0, range(16), world.spec.shape)(0)
    target = exact(world, x, *((0.05, 10.0) if up else (10.0, 0.05)))
    errors = []
    for steps in STEPS:
        sigmas = karras(int(steps) + 1, 10.0, 0.05)[:-1]
        found = SAMPLERS[name](plain(world), x, sigmas[::-1] if up else sigmas, silent)
        errors.append(np.sqrt(((found - target) ** 2).mean()))
    assert order(STEPS, errors) == pytest.approx(ORDERS[name], abs=0.2)
    assert errors[-1] < 0.02 * target.std()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_to_zero_answers_the_denoised_image(name):
    world = three_classes()
    x = 3.0 * Seeded(0, range(4), world.spec.shape)(0)
    assert np.array_equal(SAMPLERS[name](plain(world), x, [3.0, 0.0], silent), plain(world)(x, 3.0))


@pytest.mark.parametrize("name", SAMPLERS)
def test_torch_and_numpy_agree(name):
    answers = {}
    for backend, asarray in {"numpy": np.asarray, "torch": torch.from_numpy}.items():
        world = three_classes(BACKENDS[backend], "float32")
        noise = Seeded(5, range(8), world.spec.shape, asarray)
        found = SAMPLERS[name](plain(world), 80.0 * noise(0, 0), karras(20), noise)
        assert found.dtype == BACKENDS[backend].float32
        answers[backend] = np.asarray(found)
    assert np.abs(answers["numpy"] - answers["torch"]).max() < 1e-5


def end_of_path(world):
    """The consistency function: where the probability-flow ODE leads from a noisy image."""
    return lambda x, sigma: SAMPLERS["heun"](plain(world), x, karras(12, sigma, sigma_min=min(0.02, sigma / 2)), silent)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_distribution_of_the_data(name):
    world = three_classes()
    noise = Seeded(1, range(4000), world.spec.shape)
    denoise, steps = (end_of_path(world), 4) if name == "consistency" else (plain(world), 60)
    found = SAMPLERS[name](denoise, 40.0 * noise(0, 0), karras(steps, 40.0), noise)
    data, _ = world.sample(400_000)
    assert np.abs(found.mean(0) - data.mean(0)).max() < 0.05
    assert np.abs(found.std(0) - data.std(0)).max() < 0.04
    assert np.abs(np.cov(found.reshape(4000, -1).T) - np.cov(data.reshape(400_000, -1).T)).max() < 0.04


# diffusers as a second oracle. Its networks predict eps from x_vp = x / sqrt(1 + sigma^2).


def eps(world, x_vp, sigma):
    x = x_vp * (1 + sigma**2) ** 0.5
    return (x - plain(world)(x, sigma)) / sigma


# diffusers 0.42 converts a tensor in a way that numpy 2 is to forbid
theirs_warns = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def start(count=8):
    world = three_classes(torch, "float32")
    return world, Seeded(2, range(count), world.spec.shape, torch.from_numpy)(0)


@pytest.mark.parametrize(
    ("steps", "eta", "ours"), [(20, 0.0, "euler"), (50, 0.0, "euler"), (50, 1.0, "euler_ancestral")]
)
def test_parity_with_ddim(steps, eta, ours):
    world, x_vp = start()
    scheduler = DDIMScheduler(1000, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    cumulative = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    sigmas = [*((1 - cumulative) / cumulative).sqrt().tolist(), 0.0]
    draws = [Seeded(9, range(8), world.spec.shape, torch.from_numpy)(i) for i in range(steps)]
    theirs = x_vp
    for time, sigma, draw in zip(scheduler.timesteps, sigmas, draws, strict=False):
        theirs = scheduler.step(eps(world, theirs, sigma), time, theirs, eta, variance_noise=draw).prev_sample
    x = x_vp * (1 + sigmas[0] ** 2) ** 0.5
    found = SAMPLERS[ours](plain(world), x, sigmas, draws.__getitem__)
    assert (found - theirs).abs().max() < 1e-4


@theirs_warns
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_parity_with_dpm_solver_multistep(steps):
    world, x_vp = start()
    scheduler = DPMSolverMultistepScheduler(1000, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint")
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.tolist()
    theirs = x_vp
    for time, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        theirs = scheduler.step(eps(world, theirs, sigma), time, theirs).prev_sample
    found = SAMPLERS["dpmpp_2m"](plain(world), x_vp * (1 + sigmas[0] ** 2) ** 0.5, sigmas, silent)
    assert (found - theirs).abs().max() < 1e-4


@theirs_warns
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_parity_with_sde_dpm_solver_multistep(steps):
    world, x_vp = start()
    kind = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    scheduler = DPMSolverMultistepScheduler(1000, **kind)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.tolist()
    draws = [Seeded(9, range(8), world.spec.shape, torch.from_numpy)(i) for i in range(steps)]
    theirs = x_vp
    for time, sigma, draw in zip(scheduler.timesteps, sigmas, draws, strict=False):
        noise_prediction = eps(world, theirs, sigma)
        theirs = scheduler.step(noise_prediction, time, theirs, variance_noise=draw).prev_sample
    x = x_vp * (1 + sigmas[0] ** 2) ** 0.5
    found = SAMPLERS["dpmpp_2m_sde"](plain(world), x, sigmas, draws.__getitem__)
    assert (found - theirs).abs().max() < 1e-4


@theirs_warns
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_parity_with_euler_ancestral(steps):
    world, x_vp = start()
    scheduler = EulerAncestralDiscreteScheduler(1000)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.tolist()
    x = theirs = x_vp * (1 + sigmas[0] ** 2) ** 0.5
    generator = torch.Generator().manual_seed(11)
    for time, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        noise_prediction = eps(world, scheduler.scale_model_input(theirs, time), sigma)
        theirs = scheduler.step(noise_prediction, time, theirs, generator).prev_sample
    again = torch.Generator().manual_seed(11)
    draws = [torch.randn(x.shape, generator=again) for _ in range(steps)]
    found = euler_ancestral(plain(world), x, sigmas, draws.__getitem__)
    assert (found - theirs).abs().max() < 1e-4


def test_eta_zero_is_euler():
    world, x = start()
    draws = Seeded(9, range(8), world.spec.shape, torch.from_numpy)
    found = euler_ancestral(plain(world), 10 * x, karras(10, 10.0), draws, eta=0.0)
    assert torch.allclose(found, SAMPLERS["euler"](plain(world), 10 * x, karras(10, 10.0), silent), atol=1e-6)


def test_ancestral_keeps_the_noise_level():
    # with the true image as D, a step from sigma to sigma_next leaves noise of exactly sigma_next
    noise = Seeded(0, range(200), (1, 16, 16))
    for sigma, sigma_next in pairwise(ddpm(6)[:-1]):
        x = euler_ancestral(lambda x, sigma: 0 * x, sigma * noise(99), [sigma, sigma_next], noise)
        assert x.std() == pytest.approx(sigma_next, rel=0.02)


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_stochastic_samplers_only_walk_down(name):
    with pytest.raises(ValueError, match=r"1 -> 2"):
        SAMPLERS[name](lambda x, sigma: x, np.ones((1, 1)), [1.0, 2.0], lambda step: np.zeros((1, 1)))


def test_of_a_plain_denoiser_consistency_is_too_smooth():
    # each step answers the mean of all that is possible: few steps of it have too little variance
    world, few = three_classes(), karras(4, 40.0)
    noise = Seeded(1, range(2000), world.spec.shape)
    spread = {
        kind: SAMPLERS["consistency"](denoise, 40.0 * noise(0, 0), few, noise).std(0).mean()
        for kind, denoise in (("mean", plain(world)), ("end", end_of_path(world)))
    }
    assert spread["mean"] < 0.9 * spread["end"]
