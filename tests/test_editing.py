"""Editing procedures on an exact world: what is reached, what is kept, what is refused."""

from functools import partial

import numpy as np
import pytest
import torch
from worlds import BACKENDS, Mixture, three_classes, two_classes

from toolkit.diffusion import editing, guidance
from toolkit.diffusion.editing import Resampling
from toolkit.diffusion.noise import Purpose, Seeded
from toolkit.diffusion.samplers import SAMPLERS, STOCHASTIC
from toolkit.diffusion.schedule import ddpm, karras, strength_to_sigma
from toolkit.example import Error

ODE = sorted(SAMPLERS.keys() - STOCHASTIC)
ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2}
ROUND_TRIP = {"euler": 2.5e-2, "heun": 1e-4, "dpmpp_2m": 1e-4}
"""Relative error at 100 steps from strength 0.5: a first-order sampler needs about 250 for 1e-2."""
STEPS = np.array([25, 50, 100, 200])


def plain(world):
    return guidance.conditioned(world, world.label(len(world.weights)))


def rmse(found, expected):
    return float(np.sqrt(((found - expected) ** 2).mean()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(name):
    world = three_classes()
    sigmas = karras(10, 10.0)

    def made(samples):
        noise = Seeded(4, samples, world.spec.shape)
        return editing.generate(SAMPLERS[name], plain(world), sigmas, noise, 10.0)

    whole = made(range(8))
    assert np.allclose(whole[3:6], made(range(3, 6)), atol=1e-12)
    assert np.allclose(whole[5:6], made([5]), atol=1e-12)


def test_generate_starts_at_the_initial_scale():
    world = three_classes()
    noise = Seeded(4, range(2), world.spec.shape)
    seen = []
    editing.generate(lambda denoise, x, sigmas, noise: seen.append(x), plain(world), [3.0, 0.0], noise, 3.16)
    assert np.array_equal(seen[0], np.float32(3.16) * noise(0, Purpose.START))


def test_sdedit_noises_to_the_first_sigma():
    world = three_classes()
    x, _ = world.sample(500)
    noise = Seeded(4, range(500), world.spec.shape)
    noisy = editing.sdedit(lambda denoise, x, sigmas, noise: x, plain(world), x, [2.0, 0.0], noise)
    assert (noisy - x).std() == pytest.approx(2.0, rel=0.05)


def test_sdedit_changes_more_the_stronger_it_is():
    world = three_classes()
    x, _ = world.sample(128)
    noise = Seeded(4, range(128), world.spec.shape)
    changes = []
    for strength in [0.02, 0.1, 0.3, 0.6]:
        sigmas = ddpm(20, strength_to_sigma(strength))
        changes.append(rmse(editing.sdedit(SAMPLERS["euler_ancestral"], plain(world), x, sigmas, noise), x))
    assert np.all(np.diff(changes) > 0)
    assert changes[0] < 0.15 < 0.5 < changes[-1]


def changed(world, name, levels, top=3.0, count=64):
    """Images, and what a change map makes of them on a schedule from `top`."""
    x, _ = world.sample(count)
    noise = Seeded(4, range(count), world.spec.shape, world.asarray)
    sigmas = karras(20, top, 0.01)
    levels = np.asarray(levels, np.float32) if world.xp is np else torch.tensor(levels, dtype=torch.float32)
    return x, editing.differential(SAMPLERS[name], plain(world), x, levels, sigmas, noise)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_change_map_keeps_where_it_is_0_and_is_sdedit_where_it_is_full(backend, name):
    world = three_classes(BACKENDS[backend])
    x, kept = changed(world, name, 0.0)
    assert np.array_equal(np.asarray(kept), np.asarray(x))
    noise = Seeded(4, range(64), world.spec.shape, world.asarray)
    everywhere = editing.sdedit(SAMPLERS[name], plain(world), x, karras(20, 3.0, 0.01), noise)
    _, full = changed(world, name, 3.0)
    assert np.allclose(np.asarray(full), np.asarray(everywhere), atol=1e-12)
    x, half = changed(world, name, [[[[0.0, 3.0], [3.0, 3.0]]]])
    assert np.array_equal(np.asarray(half)[..., 0, 0], np.asarray(x)[..., 0, 0])
    assert rmse(np.asarray(half)[..., 1, 1], np.asarray(x)[..., 1, 1]) > 0.1


def test_an_odd_number_is_the_same_level_in_float32_on_both_backends():
    # the top of a map, stored as float32, is not below the float64 that the schedule begins with
    for xp in BACKENDS.values():
        world = three_classes(xp)
        noise = Seeded(4, range(8), world.spec.shape, world.asarray)
        x, _ = world.sample(8)
        for top in (3.4217, 14.3217, 0.7113):
            everywhere = editing.sdedit(SAMPLERS["euler"], plain(world), x, karras(20, top, 0.01), noise)
            _, found = changed(world, "euler", top, top, 8)
            assert np.allclose(np.asarray(found), np.asarray(everywhere), atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_change_map_changes_more_the_higher_it_is(name):
    world = three_classes()
    changes = []
    for level in [0.0, 0.1, 0.3, 1.0, 3.0]:
        x, found = changed(world, name, level, count=400)
        changes.append(rmse(found, x))
    assert np.all(np.diff(changes) > 0)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_a_place_that_waits_is_the_known_image_noised_to_where_the_walk_is(name):
    world, seen = three_classes(), []
    x, _ = world.sample(2000)

    def watch(y, sigma):
        seen.append(((y - x)[..., 0, 0] / sigma).std())
        return plain(world)(y, sigma)

    noise = Seeded(4, range(2000), world.spec.shape)
    levels = np.float32([[[[0.0, 3.0], [3.0, 3.0]]]])
    editing.differential(SAMPLERS[name], watch, x, levels, karras(12, 3.0, 0.05), noise)
    assert np.allclose(seen, 1, atol=0.06)


def test_what_changes_sees_what_is_kept():
    # the right pixel, made anew, agrees with the left one, which stays
    world = correlated()
    x, labels = world.sample(300)
    noise = Seeded(6, range(300), world.spec.shape)
    levels = np.float32([[[[0.0, 20.0]]]])
    found = editing.differential(SAMPLERS["heun"], plain(world), x, levels, karras(40, 20.0, 0.01), noise)
    named = np.argmax(world.log_probs(np.repeat(found[..., 1:], 2, -1), 0.0), 1)
    assert (named == labels).mean() > 0.6  # 0.25 by chance


@pytest.mark.parametrize("name", ODE)
def test_invert_then_generate_returns_the_image(name):
    world = three_classes()
    x, _ = world.sample(32)
    sampler = SAMPLERS[name]
    errors = []
    for steps in STEPS:
        # down to where D is the image, so that what is left is the error of the sampler
        sigmas = karras(int(steps), 3.42, 1e-3)
        noisy = editing.invert(sampler, plain(world), x, sigmas)
        errors.append(rmse(sampler(plain(world), noisy, sigmas, None), x) / x.std())
    assert errors[2] < ROUND_TRIP[name]
    assert rmse(noisy, x) > 1
    slope = -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]
    assert slope > ORDERS[name] - 0.2


def test_invert_gives_noise_that_looks_drawn():
    world = two_classes()
    x, _ = world.sample(2000)
    noisy = editing.invert(SAMPLERS["heun"], plain(world), x, karras(40, 20.0))
    assert noisy.std() == pytest.approx(20, rel=0.05)
    assert abs(noisy.mean()) < 1


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("name", ODE)
def test_counterfactual_moves_the_class_and_keeps_the_anatomy(name, target):
    world = two_classes()
    x, labels = world.sample(100)
    sigmas = ddpm(60, strength_to_sigma(0.5))
    noise = Seeded(0, range(100), world.spec.shape)
    healthy = guidance.classifier_guided(plain(world), world.gradient, world.one_hot(*[target] * 100), 1.0)
    found = editing.counterfactual(SAMPLERS[name], plain(world), healthy, x, sigmas, noise)

    other = labels != target
    assert 30 < other.sum() < 70
    assert np.all(np.argmax(world.log_probs(found, 0.0), 1) == target)
    assert np.abs((found - x)[other, 0, 0, 0]).mean() > 1
    anatomy = (0, [0, 1, 1], [1, 0, 1])
    kept = found[(slice(None), *anatomy)], x[(slice(None), *anatomy)]
    assert rmse(*kept) < 0.1 * kept[1].std()

    # the control: random noise of the same strength loses what deterministic encoding keeps
    lost = editing.sdedit(SAMPLERS[name], healthy, x, sigmas, noise)[(slice(None), *anatomy)]
    assert rmse(lost, kept[1]) > 0.5 * kept[1].std()


def test_counterfactual_toward_what_it_is_changes_nothing():
    world = two_classes()
    x, _ = world.sample(20)
    sigmas = karras(100, 3.42)
    found = editing.counterfactual(SAMPLERS["heun"], plain(world), plain(world), x, sigmas, None)
    assert rmse(found, x) < 1e-2 * x.std()


@pytest.mark.parametrize("sampler", [SAMPLERS[n] for n in STOCHASTIC] + [partial(SAMPLERS["euler_ancestral"], eta=0.5)])
def test_a_stochastic_sampler_cannot_encode(sampler):
    world = two_classes()
    x, _ = world.sample(2)
    noise = Seeded(0, range(2), world.spec.shape)
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return x

    with pytest.raises(Error, match=r"deterministic.*euler, heun or dpmpp_2m"):
        editing.counterfactual(sampler, denoise, denoise, x, karras(5, 3.0), noise)
    assert not calls


def correlated(xp=np):
    """Left and right pixel agree: four narrow classes on the diagonal."""
    places = np.array([-1.0, -0.35, 0.35, 1.0])
    means = np.broadcast_to(places[:, None, None, None], (4, 1, 1, 2))
    return Mixture(means, np.full(means.shape, 0.01), (0.25,) * 4, xp)


LEFT = np.array([[[[1.0, 0.0]]]])


def completed(world, known, sampler="euler_ancestral", steps=40, **how):
    noise = Seeded(6, range(len(known)), world.spec.shape, world.asarray)
    sigmas = karras(steps, 20.0, 0.01)
    mask = world.asarray(LEFT)
    return editing.inpaint(SAMPLERS[sampler], plain(world), known, mask, sigmas, noise, 20.0, Resampling(**how))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_inpaint_leaves_the_known_part_exact(backend, name):
    world = correlated(BACKENDS[backend])
    known, _ = world.sample(5)
    found = completed(world, known, name, steps=8, jump=3, resamples=2)
    assert np.array_equal(np.asarray(found)[..., 0], np.asarray(known)[..., 0])
    assert np.all(np.isfinite(np.asarray(found)))


def test_resampling_brings_the_parts_to_agree():
    # the completed pixel is of the class of the known one, its spread that of the class
    world = correlated()
    known, labels = world.sample(300)

    def wrong(found):
        return (np.argmax(world.log_probs(np.repeat(found[..., 1:], 2, -1), 0.0), 1) != labels).mean()

    replaced = wrong(completed(world, known, resamples=1))
    resampled = completed(world, known, jump=10, resamples=10)
    assert replaced > 0.05
    assert wrong(resampled) < 0.3 * replaced
    right = np.abs((resampled - np.asarray(world.means)[labels])[..., 1]) < 0.4
    assert (resampled - np.asarray(world.means)[labels])[..., 1][right].std() == pytest.approx(0.1, rel=0.2)


def test_inpaint_never_reads_the_hole():
    world = correlated()
    known, _ = world.sample(5)
    emptied = known * LEFT
    how = {"steps": 8, "jump": 3, "resamples": 2}
    assert np.array_equal(completed(world, known, **how), completed(world, emptied, **how))


def test_inpaint_walks_repaints_path_with_fresh_noise():
    sigmas = [9.0, 7.0, 5.0, 3.0, 1.0, 0.0]
    visited, draws = [], []

    def noise(step, purpose=Purpose.SAMPLER):
        draws.append((step, purpose))
        return np.zeros((1, 1, 1, 2))

    def sampler(denoise, x, sigmas, noise):
        visited.extend([tuple(sigmas)])
        noise(0)
        return x

    editing.inpaint(sampler, None, np.zeros((1, 1, 1, 2)), LEFT, sigmas, noise, 9.0, Resampling(3, 2))
    first = [(9.0, 7.0), (7.0, 5.0), (5.0, 3.0)]
    assert visited == [*first, *first, (3.0, 1.0), (3.0, 1.0), (1.0, 0.0)]
    assert len(set(draws)) == len(draws)
    assert sum(purpose == Purpose.JUMP for _, purpose in draws) == 2


def test_a_jump_adds_the_noise_that_is_missing():
    # with D = 0 and no mask x is pure noise at every level; a wrong jump would show in what the sampler is given
    noise = Seeded(0, range(100), (1, 16, 16))
    zero = np.zeros((100, 1, 16, 16), np.float32)
    levels = []

    def sampler(denoise, x, sigmas, noise):
        levels.append(x.std() / sigmas[0])
        return SAMPLERS["euler_ancestral"](denoise, x, sigmas, noise)

    sigmas = [9.0, 7.0, 5.0, 3.0, 1.0, 0.0]
    for mask in (np.float32(0), np.float32(1)):
        editing.inpaint(sampler, lambda x, sigma: 0 * x, zero, mask, sigmas, noise, 9.0, Resampling(2, 3))
    assert np.allclose(levels, 1, atol=0.02)


def test_inpaint_needs_a_jump_and_a_pass():
    for how in ({"jump": 0}, {"resamples": 0}):
        with pytest.raises(Error, match=r"found.* 0\b"):
            completed(correlated(), correlated().sample(1)[0], **how)


def test_the_procedures_run_on_torch():
    worlds = two_classes(), two_classes(torch)
    answers = []
    for world in worlds:
        x, _ = world.sample(4)
        noise = Seeded(0, range(4), world.spec.shape, world.asarray)
        to = guidance.classifier_guided(plain(world), world.gradient, world.one_hot(1, 1, 1, 1), 2.0)
        found = editing.counterfactual(SAMPLERS["dpmpp_2m"], plain(world), to, x, ddpm(10, 3.4), noise)
        found = editing.sdedit(SAMPLERS["euler_ancestral"], to, found, ddpm(10, 1.0), noise)
        answers.append(np.asarray(found))
    assert np.allclose(*answers, atol=1e-9)
