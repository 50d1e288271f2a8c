"""Guidance on a world whose conditional models, classifier and gradient are exact."""

import numpy as np
import pytest
import torch
from worlds import BACKENDS, three_classes, two_classes

from toolkit.diffusion import guidance
from toolkit.diffusion.noise import Seeded
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.diffusion.schedule import karras
from toolkit.example import Error


def setting(backend="numpy", count=4, sigma=0.7):
    world = three_classes(BACKENDS[backend])
    clean, _ = world.sample(count)
    x = clean + sigma * world.asarray(Seeded(0, range(count), world.spec.shape)(0))
    return world, x, sigma


def counted(denoiser):
    """The denoiser, and a list of the number of conditions of each of its calls."""
    calls = []

    def call(x, sigma, *conds):
        calls.append(len(conds))
        return denoiser(x, sigma, *conds)

    return call, calls


def test_the_worlds_gradient_is_that_of_its_classifier():
    world, x, sigma = setting("torch")
    x.requires_grad_()
    target = world.one_hot(0, 1, 2, 2) * 0.7 + 0.1
    (auto,) = torch.autograd.grad((target * world.log_probs(x, sigma)).sum(), x)
    assert torch.allclose(world.gradient(x.detach(), sigma, target), auto, atol=1e-12)


def test_the_worlds_denoiser_satisfies_tweedie():
    world, x, sigma = setting("torch")
    x.requires_grad_()
    (score,) = torch.autograd.grad(torch.logsumexp(world._log_joint(x, sigma), 1).sum(), x)
    denoised = guidance.conditioned(world, world.label(3))(x.detach(), sigma)
    assert torch.allclose(denoised, (x + sigma**2 * score).detach(), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
def test_toward_at_scale_one_is_the_conditional_model(backend, sigma):
    # Bayes: score(x | y) = score(x) + grad log p(y | x). Fixes the sign, the sigma^2 and the scale at once.
    world, x, _ = setting(backend)
    denoise = guidance.conditioned(world, world.label(3))
    guided = guidance.classifier_guided(denoise, world.gradient, world.one_hot(2, 2, 2, 2), 1.0)(x, sigma)
    assert np.allclose(guided, guidance.conditioned(world, world.label(2))(x, sigma), atol=1e-10)
    assert not np.allclose(guided, denoise(x, sigma), atol=1e-2)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("scale", "least", "most"), [(1.0, 0.97, 1.0), (0.0, 0.35, 0.65), (-1.0, 0.0, 0.35)])
def test_toward_drives_samples_to_the_class(label, scale, least, most):
    world = two_classes()
    noise = Seeded(3, range(256), world.spec.shape)
    denoise = guidance.conditioned(world, world.label(2))
    guided = guidance.classifier_guided(denoise, world.gradient, world.one_hot(*[label] * 256), scale)
    found = SAMPLERS["euler"](guided, 20.0 * noise(0, 0), karras(40, 20.0), noise)
    assert least <= (np.argmax(world.log_probs(found, 0.0), 1) == label).mean() <= most


def test_toward_rises_with_the_scale():
    world = three_classes()
    noise = Seeded(3, range(64), world.spec.shape)
    denoise = guidance.conditioned(world, world.label(3))
    means = []
    for scale in [0, 0.5, 1, 2, 4]:
        guided = guidance.classifier_guided(denoise, world.gradient, world.one_hot(*[2] * 64), scale)
        found = SAMPLERS["heun"](guided, 20.0 * noise(0, 0), karras(40, 20.0), noise)
        means.append(world.log_probs(found, 0.1)[:, 2].mean())
    assert np.all(np.diff(means) > 0)


def test_scale_zero_is_the_model_itself():
    world, x, sigma = setting()
    denoise = guidance.conditioned(world, world.label(3))
    off = guidance.classifier_guided(denoise, world.gradient, world.one_hot(0), 0)
    assert off is denoise
    assert off(x, sigma).tobytes() == denoise(x, sigma).tobytes()
    assert guidance.rescale_guidance(denoise, off, 0) is denoise


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("scale", "calls"), [(0, [1]), (1, [1]), (3.0, [2]), (0.5, [2]), (-1.0, [2])])
def test_classifier_free(backend, scale, calls):
    world, x, sigma = setting(backend)
    denoiser, made = counted(world)
    guided = guidance.classifier_free(denoiser, world.label(1), world.label(3), scale)(x, sigma)
    wanted, null = world(x, sigma, world.label(1)), world(x, sigma, world.label(3))
    assert made == calls
    # the paper's form: (1 + w) conditional - w unconditional, w = scale - 1
    assert np.allclose(guided, (1 + (scale - 1)) * wanted - (scale - 1) * null, atol=1e-12)


def test_a_negative_condition_drives_away():
    world = two_classes()
    noise = Seeded(3, range(128), world.spec.shape)
    for label in (0, 1):
        away = guidance.classifier_free(world, world.label(2), world.label(label), 2.0)
        found = SAMPLERS["euler"](away, 20.0 * noise(0, 0), karras(40, 20.0), noise)
        assert (np.argmax(world.log_probs(found, 0.0), 1) == label).mean() < 0.3


def test_interval_holds_above_low_up_to_high():
    denoise = guidance.interval(lambda x, sigma: "guided", lambda x, sigma: "plain", 0.5, 2.0)
    assert [denoise(None, sigma) for sigma in (0.1, 0.5, 0.51, 2.0, 2.01)] == [
        "plain",
        "plain",
        "guided",
        "guided",
        "plain",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rescaled_has_the_spread_of_the_plain_model(backend):
    world, x, sigma = setting(backend)
    plain = guidance.conditioned(world, world.label(1))
    strong = guidance.classifier_free(world, world.label(1), world.label(3), 7.0)

    def spread(values):
        return np.asarray(values).reshape(len(values), -1).std(1)

    whole = guidance.rescale_guidance(strong, plain, 1.0)(x, sigma)
    assert np.allclose(spread(whole), spread(plain(x, sigma)), rtol=1e-8)
    assert not np.allclose(spread(strong(x, sigma)), spread(plain(x, sigma)), rtol=0.1)
    part = guidance.rescale_guidance(strong, plain, 0.3)(x, sigma)
    assert np.allclose(part, 0.3 * whole + 0.7 * strong(x, sigma), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_keeping_leaves_the_known_part_exact(backend, name):
    world = three_classes(BACKENDS[backend], "float32")
    known, _ = world.sample(3)
    mask = world.asarray([[[[1.0, 0.0], [0.0, 1.0]]]])
    noise = Seeded(1, range(3), world.spec.shape, world.asarray)
    denoise = guidance.conditioned(world, world.label(3))
    found = SAMPLERS[name](guidance.keep_known(denoise, known, mask), 20.0 * noise(0, 0), karras(10, 20.0), noise)
    kept = np.broadcast_to(np.asarray(mask) == 1, found.shape)
    assert np.array_equal(np.asarray(found)[kept], np.asarray(known)[kept])
    assert np.all(np.asarray(found)[~kept] != np.asarray(known)[~kept])


@pytest.mark.parametrize("backend", BACKENDS)
def test_watched_tells_and_changes_nothing(backend):
    world, x, _ = setting(backend)
    denoise = guidance.conditioned(world, world.label(3))
    seen = []
    watched = guidance.with_callback(denoise, lambda sigma, denoised: seen.append((sigma, denoised)))
    found = SAMPLERS["euler"](watched, x, [2.0, 1.0, 0.0], None)
    assert [sigma for sigma, _ in seen] == [2.0, 1.0]
    assert np.array_equal(seen[-1][1], found)
    assert np.array_equal(found, SAMPLERS["euler"](denoise, x, [2.0, 1.0, 0.0], None))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_watched_stops_at_the_first_value_that_is_not_finite(backend, value):
    world, x, _ = setting(backend)
    bad = world.asarray(np.where(np.arange(16).reshape(4, 1, 2, 2) == 13, value, 0.0))
    watched = guidance.with_callback(lambda x, sigma: bad, lambda sigma, denoised: pytest.fail("watch saw it"))
    with pytest.raises(Error, match=r"finite.*at sigma 2\.5.*float32"):
        watched(x, 2.5)
