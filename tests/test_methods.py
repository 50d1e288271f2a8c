"""Published methods on an exact world: of each the property that defines it, and the verb that lists them."""

from __future__ import annotations

import dataclasses
import json
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
from worlds import BACKENDS, Mixture

import toolkit.methods
from diffgraft.cli.methods import listing, methods
from toolkit.data import dataset
from toolkit.diffusion.model import Identity, Model
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.diffusion.schedule import strength_to_sigma
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.methods import da_fusion, dataset_expansion, diffcore_mix, guided, local_edit
from toolkit.methods.da_fusion import DAFusion
from toolkit.methods.dataset_expansion import Expansion, Judges
from toolkit.methods.diffcore_mix import DiffCoReMix
from toolkit.methods.guided import Run, Walk
from toolkit.methods.local_edit import LocalEdit

SIZE = 16
HEALTHY, RUST, UNSTATED = 0, 1, 2
PLACES = {"healthy": -0.3, "rust": 0.4}


def leaves(xp=np) -> Mixture:
    """Two classes of one grey image, darker and lighter, whose pixels vary a little and independently."""
    means = np.broadcast_to(np.array(list(PLACES.values()))[:, None, None, None], (2, 1, SIZE, SIZE))
    return Mixture(means, np.full(means.shape, 0.01), (0.5, 0.5), xp, "float32")


class Half:
    """A codec that loses something, as an autoencoder does: 2 x 2 means, and copies of them back."""

    def encode(self, image):
        return image.reshape(len(image), 1, SIZE // 2, 2, SIZE // 2, 2).mean((3, 5))

    def decode(self, latent):
        return latent.repeat(2, 2).repeat(2, 3)


def model(world: Mixture, codec=None) -> Model:
    return Model(world, codec or Identity(), world.asarray, np.asarray, "exact", "0" * 64)


def label(*values: int) -> dict[str, np.ndarray]:
    return {"label": np.array(values)}


def of(value: int, count: int) -> dict[str, np.ndarray]:
    return label(*[value] * count)


def images(value: int, count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (list(PLACES.values())[value] + 0.1 * random.standard_normal((count, 1, SIZE, SIZE))).astype(np.float32)


def lightness(made: np.ndarray) -> np.ndarray:
    return made.mean((1, 2, 3))


# ---------------------------------------------------------------------------------------------------------- the walk


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(sampler):
    settings = DAFusion(Walk(sampler, 6, seed=3))
    x = images(HEALTHY, 20)
    whole, times = da_fusion.augment(Run(model(leaves()), of(RUST, 20), of(UNSTATED, 20), range(20)), x, settings)
    rows = [17, 2, 9]
    some, own = da_fusion.augment(Run(model(leaves()), of(RUST, 3), of(UNSTATED, 3), rows), x[rows], settings)
    assert np.allclose(whole[rows], some, atol=1e-6)
    assert np.array_equal(times[rows], own)


def test_both_backends_make_the_same_image():
    made = [
        da_fusion.augment(Run(model(leaves(xp)), of(1, 5), of(2, 5), range(5)), images(0, 5), DAFusion())[0]
        for xp in BACKENDS.values()
    ]
    assert np.allclose(*made, atol=1e-5)
    strengths = np.linspace(0, 0.7, SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE).repeat(5, 0)
    made = [
        local_edit.edit(
            Run(model(leaves(xp)), of(1, 5), of(2, 5), range(5)), images(0, 5), strengths, LocalEdit()
        ).images
        for xp in BACKENDS.values()
    ]
    assert np.allclose(*made, atol=1e-5)


def test_watch_is_called_as_often_as_is_foretold():
    for sampler in SAMPLERS:
        calls = []
        settings = DAFusion(Walk(sampler, 5))
        _, times = da_fusion.augment(
            Run(model(leaves()), of(1, 40), of(2, 40), range(40), lambda calls=calls: calls.append(1)),
            images(0, 40),
            settings,
        )
        assert len(calls) == guided.count_evaluations(settings.walk, times)


def test_a_walk_that_cannot_be_is_refused():
    for walk, words in [
        (Walk("magic"), "found 'magic'"),
        (Walk(steps=0), "1 step or more"),
        (Walk(guidance=float("nan")), "finite guidance"),
    ]:
        with pytest.raises(Error, match=words):
            guided.generate(Run(model(leaves()), of(1, 1), of(2, 1), [0]), walk)


# --------------------------------------------------------------------------------------------------------- DA-Fusion


def test_insertion_times_are_even_over_0_to_1():
    times = da_fusion.insertions(DAFusion(), range(4000))
    assert sorted(set(times)) == pytest.approx(np.arange(1, 21) / 20)
    assert np.histogram(times, np.arange(0.5, 21) / 20)[0] / 4000 == pytest.approx([0.05] * 20, abs=0.015)
    assert np.array_equal(da_fusion.insertions(DAFusion(), [7, 1]), times[[7, 1]])
    assert not np.array_equal(da_fusion.insertions(DAFusion(Walk(seed=1)), range(4000)), times)
    assert set(da_fusion.insertions(DAFusion(low=0.5, high=0.5), range(9))) == {0.5}
    for low, high in [(0.0, 0.0), (-0.1, 1.0), (0.0, 1.1), (0.6, 0.5)]:
        with pytest.raises(Error, match="insertion time"):
            da_fusion.insertions(DAFusion(low=low, high=high), [0])


def test_the_later_an_image_is_left_the_more_of_it_stays():
    x = images(RUST, 400)
    settings = DAFusion(Walk(guidance=1.0))
    variants, times = da_fusion.augment(Run(model(leaves()), of(RUST, 400), of(UNSTATED, 400), range(400)), x, settings)
    alike = np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(x, variants, strict=True)])
    # every sampler is linear in a Gaussian world: what is left of the image is its share of the noisy one
    spread = np.array([[alike[times == t].mean(), 0.1 / np.hypot(0.1, strength_to_sigma(t))] for t in np.unique(times)])
    assert spread[:, 0] == pytest.approx(spread[:, 1], abs=0.02)
    assert spread[0, 0] > 0.45 > 0.05 > spread[-1, 0]
    # the class stays what it was, at every time
    assert np.all(np.abs(lightness(variants) - PLACES["rust"]) < 0.05)


def test_a_batch_is_half_real_and_a_variant_stands_for_its_own_image():
    sources = [0, 0, 2, 3, 3, 3, 2, 0]  # the image 1 has no variant
    drawn = da_fusion.balanced(sources, 4, DAFusion(), range(20000))
    variant = drawn >= 4
    owner = np.where(variant, np.array(sources)[np.where(variant, drawn - 4, 0)], drawn)
    assert np.bincount(owner) / 20000 == pytest.approx([0.25] * 4, abs=0.015)
    assert [variant[owner == n].mean() for n in range(4)] == pytest.approx([0.5, 0, 0.5, 0.5], abs=0.03)
    of_3 = drawn[variant & (owner == 3)]
    assert np.bincount(of_3)[[7, 8, 9]] / len(of_3) == pytest.approx([1 / 3] * 3, abs=0.04)
    assert np.array_equal(da_fusion.balanced([], 4, DAFusion(), range(50)) < 4, np.ones(50, bool))


# -------------------------------------------------------------------------------------------------------- local edits


def spot() -> np.ndarray:
    mask = np.zeros((1, SIZE, SIZE), bool)
    mask[0, 3:10, 5:13] = True
    return mask


def edited(procedure: str, codec=None, **how):
    """A healthy leaf with a spot of rust, by either procedure; the world of half the size if there is a codec."""
    world = leaves()
    if codec:
        world = Mixture(world.means[..., ::2, ::2], world.variances[..., ::2, ::2], world.weights, np, "float32")
    x = images(HEALTHY, 3)
    place = spot().repeat(3, 0)
    asked = place if procedure == "inpaint" else place * np.float32(0.8)
    settings = LocalEdit(Walk("euler", 12, 1.0), **how)
    run = Run(model(world, codec), of(RUST, 3), of(UNSTATED, 3), range(3))
    return x, place, getattr(local_edit, procedure)(run, x, asked, settings)


@pytest.mark.parametrize("codec", [None, Half()])
@pytest.mark.parametrize("procedure", ["edit", "inpaint"])
def test_a_healthy_leaf_gets_a_spot_and_keeps_every_pixel_around_it(procedure, codec):
    x, place, found = edited(procedure, codec, feather=0)
    outside = ~place[:, None]
    assert np.array_equal(found.images[outside], x[outside])
    assert found.images[place[:, None]].mean() == pytest.approx(PLACES["rust"], abs=0.05)
    for change in found.changes:
        assert change.inside > 0.5
        # in pixels the model itself keeps them; a codec does not, and that is said
        assert change.outside == 0 if codec is None else 0.02 < change.outside < 0.2
        assert change.ssim_outside == pytest.approx(1, abs=1e-6) if codec is None else change.ssim_outside < 0.99


def test_the_seam_is_softened_inside_the_mask_alone():
    x, place, hard = edited("edit", feather=0)
    _, _, soft = edited("edit", feather=2.0)
    assert np.array_equal(soft.images[~place[:, None]], x[~place[:, None]])
    rim, middle = (slice(None), 0, 3, slice(6, 12)), (slice(None), 0, slice(6, 7), slice(8, 10))
    assert np.array_equal(soft.images[middle], hard.images[middle])
    assert np.abs(soft.images - x)[rim].mean() < 0.5 * np.abs(hard.images - x)[rim].mean()


def test_a_change_map_is_followed_from_place_to_place():
    x = images(HEALTHY, 64)
    strengths = np.broadcast_to(np.linspace(0, 0.6, SIZE, dtype=np.float32), (64, SIZE, SIZE))
    settings = LocalEdit(Walk("euler", 20, 1.0), feather=0)
    found = local_edit.edit(Run(model(leaves()), of(RUST, 64), of(UNSTATED, 64), range(64)), x, strengths, settings)
    by_column = np.abs(found.images - x).mean((0, 1, 2))
    assert by_column[0] == 0
    assert np.all(np.diff(by_column) > -0.02)
    assert by_column[-1] > 0.6


def test_maps_that_do_not_fit_are_refused():
    x = images(HEALTHY, 2)
    for strengths, words in [
        (np.ones((2, 4, 4)), "size of its image"),
        (np.zeros((2, SIZE, SIZE)), "not 0 everywhere"),
        (np.full((2, SIZE, SIZE), 1.5), "0 to 1"),
        (np.full((2, SIZE, SIZE), np.nan), "0 to 1"),
    ]:
        with pytest.raises(Error, match=words):
            local_edit.edit(Run(model(leaves()), of(1, 2), of(2, 2), range(2)), x, strengths, LocalEdit())


def test_change_outside_is_measured_where_it_happened():
    x, mask = images(HEALTHY, 1)[0], spot()[0]
    inside = np.where(mask, x + 0.2, x)
    same = local_edit.change_outside(x, inside, mask)
    assert (same.inside, same.outside, same.ssim_outside) == (pytest.approx(0.2, abs=1e-6), 0, pytest.approx(1))
    around = local_edit.change_outside(x, np.where(mask, x, x + 0.2), mask)
    assert (around.inside, around.outside) == (0, pytest.approx(0.2, abs=1e-6))
    assert around.ssim_outside < 0.99
    # a window inside the mask says nothing: widening the mask's own change leaves the value alone
    both = local_edit.change_outside(x, x + 0.2, mask)
    assert both.ssim_outside == around.ssim_outside
    assert np.isnan(local_edit.change_outside(x, inside, np.ones_like(mask)).outside)


# -------------------------------------------------------------------------------------------------- data set expansion


def lightness_features(made: np.ndarray) -> np.ndarray:
    return np.stack([lightness(made), made.std((1, 2, 3))], 1)


def lightness_classifier(made: np.ndarray) -> np.ndarray:
    """Exact log-probabilities of the two classes."""
    return leaves().log_probs(made, 0.0)


def test_expansion_makes_the_class_that_was_asked_for():
    wanted = np.arange(40) % 2
    real = np.concatenate([images(0, 30, 1), images(1, 30, 2)])
    run = Run(model(leaves()), label(*wanted), of(UNSTATED, 40), range(40))
    judges = Judges(lightness_classifier, lightness_features, real)
    made, kept = dataset_expansion.expand(run, wanted, judges, Expansion(Walk(guidance=1.0)))
    assert np.all((lightness(made) > 0.05) == (wanted == RUST))
    assert kept.rates["kept"] > 0.8
    assert sum(kept.rates.values()) == pytest.approx(1)


def test_the_filter_says_why_an_image_was_rejected():
    real = np.concatenate([images(0, 30, 1), images(1, 30, 2)])
    grey = np.full((4, 1, SIZE, SIZE), 0.4, np.float32)  # of the class by its lightness, but flat
    made = np.concatenate([images(1, 10, 3), images(0, 6, 4), grey])
    settings = Expansion(best=5)
    kept = dataset_expansion.judge(
        lightness_classifier(made), lightness_features(made), np.ones(20, int), lightness_features(real), settings
    )
    assert set(kept.reasons[10:16]) == {"another class"}
    assert set(kept.reasons[16:]) == {"unlike the real images"}
    assert kept.kept.sum() == 5 and not kept.kept[10:].any()
    assert kept.rates["another class"] == 0.3 and kept.rates["kept"] == 0.25
    assert np.all(kept.realism[16:] < kept.lowest)


def test_the_filter_is_as_strict_with_real_images_as_it_says():
    random = np.random.default_rng(0)
    real, others = random.standard_normal((2, 400, 4))
    for missed in (0.05, 0.2):
        lowest = dataset_expansion.lowest_realism(real, Expansion(missed=missed))
        assert (dataset_expansion.realism(others, real) < lowest).mean() == pytest.approx(missed, abs=0.05)
    assert (dataset_expansion.realism(others + 4, real) < lowest).mean() > 0.99


def test_leaving_one_out_is_leaving_one_out():
    real = np.random.default_rng(0).standard_normal((30, 2))
    every = [float(dataset_expansion.realism(real[n : n + 1], np.delete(real, n, 0))[0]) for n in range(30)]
    lowest = [dataset_expansion.lowest_realism(real, Expansion(missed=q)) for q in (0.0, 0.5, 1.0)]
    # the radii above the median are left out of both, and which they are may differ by the image that is left out
    assert lowest == pytest.approx(np.quantile(every, [0.0, 0.5, 1.0]), rel=0.15)
    with pytest.raises(Error, match="needs 5 real"):
        dataset_expansion.judge(np.zeros((1, 2)), real[:1], np.zeros(1, int), real[:4], Expansion())


# ------------------------------------------------------------------------------------------------------- DiffCoRe-Mix


def overlapping() -> Mixture:
    """Two classes so near one another that guidance has something to drive apart."""
    means = np.broadcast_to(np.array([-0.1, 0.1])[:, None, None, None], (2, 1, 1, 1))
    return Mixture(means, np.full(means.shape, 0.04), (0.5, 0.5), np, "float32")


def test_a_negative_condition_drives_away_from_it():
    settings = DiffCoReMix(Walk("heun", 20, 3.0))
    made = [
        float(
            diffcore_mix.counterparts(Run(model(overlapping()), of(RUST, 300), of(k, 300), range(300)), settings).mean()
        )
        for k in (RUST, UNSTATED, HEALTHY)
    ]
    plain, null, negative = made
    assert plain == pytest.approx(0.1, abs=0.03)  # driven from itself to itself: nothing happens
    assert plain < null - 0.02 < negative - 0.05
    with pytest.raises(Error, match="guidance above 1"):
        diffcore_mix.counterparts(Run(model(overlapping()), of(1, 1), of(0, 1), [0]), DiffCoReMix(Walk(guidance=1.0)))


def test_the_cosine_threshold_rejects_as_many_real_pairs_as_it_says_and_all_that_point_elsewhere():
    random = np.random.default_rng(0)
    classes = np.repeat([0, 1], 100)
    axes = np.eye(2, 8)[classes]
    real = axes + 0.2 * random.standard_normal((200, 8))
    threshold = diffcore_mix.calibrate(real, classes, DiffCoReMix(percentile=10))
    again = axes + 0.2 * random.standard_normal((200, 8))
    kept, rejected = diffcore_mix.hard_cosine(real, again, threshold)
    assert rejected == pytest.approx(0.1, abs=0.06) == 1 - kept.mean()
    kept, rejected = diffcore_mix.hard_cosine(real, again[::-1], threshold)
    assert rejected > 0.95
    assert diffcore_mix.cosine(real, 5 * real) == pytest.approx(np.ones(200))
    with pytest.raises(Error, match="pairs of real images"):
        diffcore_mix.calibrate(real[[0, 100]], classes[[0, 100]], DiffCoReMix())


@pytest.mark.parametrize(("pixel", "patch"), [(True, False), (False, True), (True, True)])
def test_a_label_weighs_as_much_as_is_seen_of_it(pixel, patch):
    settings = DiffCoReMix(pixel=pixel, patch=patch)
    real, generated = np.ones((500, 3, 20, 30), np.float32), -np.ones((500, 3, 20, 30), np.float32)
    made, weight = diffcore_mix.mix(real, generated, np.ones(500, bool), settings, range(500))
    # of an image of 1 and one of -1 the mean says how much of each is there
    assert made.mean((1, 2, 3)) == pytest.approx(2 * weight - 1, abs=1e-5)
    pasted = (made == -1).mean((1, 2, 3))
    if patch:
        assert 0.08 < pasted.min() < 0.13 and 0.35 < pasted.max() < 0.43
        where = np.flatnonzero((made[0, 0] == -1).any(1))
        assert np.array_equal(where, np.arange(where[0], where[-1] + 1))
        anywhere = (made[:, 0] == -1).any(0)
        assert anywhere.any(0).all() and anywhere.any(1).all()
    else:
        assert np.all(pasted == 0)
    blended = made[made > -1]
    assert (blended < 1).mean() > 0.9 if pixel else np.all(blended == 1)
    assert blended.min() >= -1e-6  # the real image weighs at least half


def test_a_rejected_counterpart_leaves_the_real_image_alone():
    real, generated = images(0, 6), images(1, 6)
    kept = np.array([True, False] * 3)
    made, weight = diffcore_mix.mix(real, generated, kept, DiffCoReMix(), range(6))
    assert np.array_equal(made[~kept], real[~kept]) and np.all(weight[~kept] == 1)
    assert np.all(np.abs(made - real).max((1, 2, 3))[kept] > 0.1) and np.all(weight[kept] < 1)
    assert made.dtype == np.float32
    again, _ = diffcore_mix.mix(real[[4]], generated[[4]], kept[[4]], DiffCoReMix(), [4])
    assert np.array_equal(again[0], made[4])


def test_a_hybrid_names_both_its_sources_and_fits_into_a_data_set(tmp_path):
    real = Example("a", images(0, 1)[0], Annotation(labels={"condition": 1.0, "crop": 0.0}), "leaf-1")
    made = Provenance("synthetic", "m" * 16, "generate", 0)
    generated = Example("g", images(1, 1)[0], Annotation(labels={"condition": 2.0, "crop": 0.0}), provenance=made)
    mixed = diffcore_mix.hybrid(real, generated, real.image, 0.7, DiffCoReMix(), 3)
    dataset.write([mixed], tmp_path / "out")
    (back,) = dataset.read(tmp_path / "out")
    assert back.provenance is not None and back.provenance.kind == "edited"
    assert (back.provenance.source, back.provenance.settings["generated"]) == ("a", "g")
    assert back.group == "leaf-1" and back.id == "a-mix3"
    assert back.annotation.labels["crop"] == 0 and np.isnan(back.annotation.labels["condition"])


# ----------------------------------------------------------------------------------------------------------- the list

SHARED = {"guided", "method"}
"""What no published method is: what they share."""


def test_every_module_of_methods_says_what_it_is():
    files = set(methods().values())
    names = {m.name for m in pkgutil.iter_modules(toolkit.methods.__path__)} - SHARED
    assert files == {f"toolkit/methods/{name}.py" for name in names}


def test_the_list_tells_paper_needs_and_how():
    shown = listing()
    for method in methods():
        assert all(getattr(method, field.name) in shown for field in dataclasses.fields(method))
        assert "20" in method.paper
    for name in ("DA-Fusion", "Textual inversion", "Differential Diffusion", "DiffCoRe-Mix", "GIF"):
        assert name in shown
    assert "arXiv:2302.07944" in shown


def test_the_list_needs_nothing_of_training():
    program = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'diffusers', 'transformers', 'sklearn', 'safetensors']);"
        "from diffgraft.cli.methods import listing; print(listing())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == listing()


def test_settings_can_be_saved_beside_a_result():
    for settings in (DAFusion(), LocalEdit(), Expansion(), DiffCoReMix()):
        assert json.loads(json.dumps(dataclasses.asdict(settings), allow_nan=False))["walk"]["steps"] == 20
