"""Every parameterisation: a network that is exactly right gives back the clean image, at every noise level."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from toolkit.diffusion.schedule import LINEAR
from toolkit.networks.preconditioning import PARAMETERISATIONS, Preconditioned, edm, velocity

SIGMAS = torch.tensor([0.002, 0.01, 0.05, 0.3, 0.5, 1.0, 3.42, 14.6, 80.0], dtype=torch.float64)
SIGMA_DATA = 0.4


def column(sigma):
    return sigma.reshape(-1, 1, 1, 1)


def clock(sigma):
    """Time steps of the DDPM-linear process: any function that is not constant would do."""
    return torch.tensor([1000 * LINEAR.time(float(s)) for s in sigma])


# What each kind of network sees and is to say for x = x0 + s n, straight from the papers, in float64.
# Karras et al. 2022, eq. 7 solved for F = (D - c_skip x) / c_out at D = x0.
INPUTS = {
    "edm": lambda x0, n, s: (x0 + s * n) / (s**2 + SIGMA_DATA**2).sqrt(),
    "epsilon": lambda x0, n, s: (1 / (1 + s**2)).sqrt() * x0 + (s**2 / (1 + s**2)).sqrt() * n,
    "velocity": lambda x0, n, s: (1 / (1 + s**2)).sqrt() * x0 + (s**2 / (1 + s**2)).sqrt() * n,
    "sample": lambda x0, n, s: (1 / (1 + s**2)).sqrt() * x0 + (s**2 / (1 + s**2)).sqrt() * n,
    "flow": lambda x0, n, s: (1 - s / (1 + s)) * x0 + s / (1 + s) * n,
}
TARGETS = {
    "edm": lambda x0, n, s: (s * x0 / SIGMA_DATA - SIGMA_DATA * n) / (s**2 + SIGMA_DATA**2).sqrt(),
    "epsilon": lambda x0, n, s: n,
    "velocity": lambda x0, n, s: (1 / (1 + s**2)).sqrt() * n - (s**2 / (1 + s**2)).sqrt() * x0,
    "sample": lambda x0, n, s: x0,
    "flow": lambda x0, n, s: n - x0,
}
CLOCKS = {
    "edm": lambda sigma: 1000 * (sigma.log() / 4) / 4,
    "epsilon": clock,
    "velocity": clock,
    "sample": clock,
    "flow": lambda sigma: 1000 * sigma / (1 + sigma),
}


class Says(nn.Module):
    """A network that remembers what it was given and gives a fixed answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.seen = answer, ()

    def forward(self, x, noise, **cond):
        self.seen = x, noise, cond
        return self.answer


def form(name):
    given = {"sigma_data": SIGMA_DATA} if name == "edm" else {"clock": clock} if name != "flow" else {}
    return partial(PARAMETERISATIONS[name], **given)


def image_and_noise():
    random = torch.Generator().manual_seed(0)
    shape = (len(SIGMAS), 2, 3, 5)
    return [torch.randn(shape, generator=random, dtype=torch.float64) * scale for scale in (SIGMA_DATA, 1)]


def test_every_parameterisation_is_tested():
    assert set(PARAMETERISATIONS) == set(TARGETS)


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_the_exact_network_gives_the_exact_image(name):
    (x0, n), s = image_and_noise(), column(SIGMAS)
    body = Says(TARGETS[name](x0, n, s).float())
    found = Preconditioned(body, form(name))((x0 + s * n).float(), SIGMAS.float())
    # x itself is rounded at the size of sigma, so no parameterisation can do better
    error = ((found - x0).abs() / (1 + s)).amax((1, 2, 3))
    assert found.dtype == torch.float32
    assert error.max() < 1e-6, error
    # and the test would notice a wrong answer: off by one, D is off by c_out
    body.answer = body.answer + 1
    off = (Preconditioned(body, form(name))((x0 + s * n).float(), SIGMAS.float()) - x0).abs()
    assert torch.allclose(off, column(form(name)(SIGMAS)[1]).abs().expand_as(off), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_the_network_sees_what_it_was_trained_on(name):
    (x0, n), s = image_and_noise(), column(SIGMAS)
    body = Says(torch.zeros(x0.shape))
    label = torch.arange(len(SIGMAS))
    Preconditioned(body, form(name))((x0 + s * n).float(), SIGMAS.float(), label=label)
    image, noise, cond = body.seen
    assert torch.allclose(image.double(), INPUTS[name](x0, n, s), atol=1e-5)
    assert noise.shape == (len(SIGMAS),)
    assert torch.allclose(noise.double(), CLOCKS[name](SIGMAS).double(), rtol=1e-5, atol=1e-3)
    assert set(cond) == {"label"}
    assert cond["label"] is label


def test_edm_has_the_papers_limits_and_keeps_variances_at_one():
    sigma = torch.logspace(-6, 6, 61, dtype=torch.float64)
    skip, out, scale, _ = edm(sigma, SIGMA_DATA)
    at_low, at_high = ([float(c[end]) for c in (skip, out, scale)] for end in (0, -1))
    assert at_low == pytest.approx([1, 1e-6, 1 / SIGMA_DATA], rel=1e-9)
    assert at_high == pytest.approx([0, SIGMA_DATA, 1e-6], rel=1e-9, abs=1e-9)
    # Karras et al. 2022, appendix B.6: unit variance of input and target, and c_out is the smallest possible
    assert torch.allclose(scale**2 * (sigma**2 + SIGMA_DATA**2), torch.ones_like(sigma))
    target_variance = ((1 - skip) ** 2 * SIGMA_DATA**2 + skip**2 * sigma**2) / out**2
    assert torch.allclose(target_variance, torch.ones_like(sigma))
    for factor in (1.01, 0.99):
        assert torch.all(
            (1 - factor * skip) ** 2 * SIGMA_DATA**2 + (factor * skip * sigma) ** 2 >= out**2 * (1 - 1e-12)
        )
    assert torch.all(skip.diff() < 0)
    assert torch.all(out.diff() > 0)


def test_velocity_is_edm_of_unit_data_with_the_sign_turned():
    for ours, theirs, sign in zip(velocity(SIGMAS, clock), edm(SIGMAS, 1.0), (1, -1, 1), strict=False):
        assert torch.allclose(ours, sign * theirs)


class Half(nn.Module):
    """A network body in half precision; it says what reached it."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(1, 1, 3, padding=1).to(dtype).requires_grad_(False)
        self.dtype, self.seen = dtype, []

    def forward(self, x, noise):
        self.seen = [x.dtype, noise.dtype]
        return self.layer(x.to(self.dtype))


def rms(x):
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_only_the_body_is_half(name):
    random = torch.Generator().manual_seed(3)
    sigma = torch.full((4,), 1.0)
    x = torch.randn(4, 1, 16, 16, generator=random) * math.hypot(1, SIGMA_DATA)
    whole, half = (Half(dtype) for dtype in (torch.float32, torch.float16))
    half.layer.load_state_dict(whole.layer.state_dict())
    expected = Preconditioned(whole, form(name))(x, sigma)
    found = Preconditioned(half, form(name))(x, sigma.half())
    assert half.seen == [torch.float32, torch.float32]
    assert found.dtype == torch.float32
    assert 0 < rms(found - expected) < 2e-3 * rms(expected)
    # the only rounding is the body's own
    skip, out, scale, noise = (column(c) for c in form(name)(sigma))
    assert (found - (skip * x + out * half(scale * x, noise).float())).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_high_noise_does_not_amplify_the_rounding_of_the_body(dtype):
    # c_skip x and c_out F are of one size only in the end; x in half would carry 80 times the rounding into D
    sigma, random = torch.full((4,), 80.0), torch.Generator().manual_seed(3)
    x = 80 * torch.randn(4, 1, 16, 16, generator=random)
    whole, half = Half(torch.float32), Half(dtype)
    half.layer.load_state_dict(whole.layer.state_dict())
    expected = Preconditioned(whole, form("edm"))(x, sigma)
    error = rms(Preconditioned(half, form("edm"))(x, sigma) - expected)
    skip, out, scale, _ = (c.to(dtype).reshape(-1, 1, 1, 1) for c in form("edm")(sigma))
    naive = rms(skip * x.to(dtype) + out * half(scale * x.to(dtype), sigma) - expected)
    rounding = torch.finfo(dtype).eps
    assert 0 < error < rounding * rms(expected)
    assert error < naive


def test_autocast_of_the_body_leaves_the_border_alone():
    random = torch.Generator().manual_seed(3)
    sigma, x = torch.tensor([0.002, 1.0, 80.0]), torch.randn(3, 1, 16, 16, generator=random)
    body = Half(torch.float32)
    module = Preconditioned(body, form("edm"))
    expected = module(x, sigma)
    with torch.autocast("cpu", torch.bfloat16):
        assert body.layer(x).dtype == torch.bfloat16
        found = module(x, sigma)
    assert body.seen == [torch.float32, torch.float32]
    assert found.dtype == torch.float32
    assert rms(found - expected) > 0
    # at sigma_min D is x but for c_out = sigma: in bf16 x alone would be off by 4e-3
    assert rms((found - expected)[0]) < 2e-5
