"""Fused graphs against the samplers and procedures they stand for: coefficients, steps, whole runs."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from test_backends import SPEC, conds, images, one_hot, written
from worlds import three_classes

from diffgraft import models
from diffgraft.deployment.fused_plan import default_settings, plan_of
from diffgraft.generation.sampling import label_fields
from export.sampling import plan as plans
from export.sampling.plan import Healing, Plan
from export.sampling.tableau import steps, tableau
from toolkit.data import labels
from toolkit.diffusion import samplers
from toolkit.diffusion.guidance import classifier_free
from toolkit.diffusion.noise import Purpose, Seeded, gaussian
from toolkit.diffusion.samplers import SAMPLERS, STOCHASTIC
from toolkit.diffusion.schedule import karras
from toolkit.example import Annotation, Error
from toolkit.models.folder import read_meta, spec_of

ODE = sorted(SAMPLERS.keys() - STOCHASTIC)
DOWN = karras(6, 20.0, 0.05)
UP = DOWN[-2::-1]
WALKS = [(name, levels) for name in SAMPLERS for levels in (DOWN, UP, DOWN[:-1]) if name in ODE or levels is not UP]


def by_table(denoise, x, table, noise):
    """The sampler as its coefficients say it."""
    numbers, draws = steps(table)
    previous = 0 * x
    for sigma, (a, b, c, d), draw in zip(table.sigmas, numbers, draws, strict=True):
        denoised = denoise(x, sigma)
        x = a * x + b * denoised + c * previous + (0 if draw is None else d * noise(draw))
        previous = denoised
    return x


# ------------------------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize(("name", "levels"), WALKS)
def test_the_coefficients_are_the_sampler(name, levels):
    world = three_classes()
    denoise = classifier_free(world, world.label(0, 1), world.label(3, 3), 2.0)
    noise = Seeded(3, (0, 5), world.spec.shape, world.asarray)
    x = levels[0] * noise(0, Purpose.START)
    expected = SAMPLERS[name](denoise, x, levels, noise)
    found = by_table(denoise, x, tableau(name, levels), noise)
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()
    assert expected.std() > 0.01


@pytest.mark.parametrize(("name", "levels"), WALKS)
def test_random_linear_denoisers_are_sampled_alike(name, levels):
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((4, 4)) / 4
    noise = [rng.standard_normal((3, 4)) for _ in levels]
    x = rng.standard_normal((3, 4))

    def denoise(x, sigma):
        return x @ matrix * (1 + sigma) + sigma

    expected = SAMPLERS[name](denoise, x, levels, noise.__getitem__)
    found = by_table(denoise, x, tableau(name, levels), noise.__getitem__)
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max()


def test_euler_is_the_textbook():
    table = tableau("euler", DOWN)
    assert table.sigmas == tuple(DOWN[:-1])
    assert table.draws == ()
    for row, j, (high, low) in zip(table.rows, range(len(DOWN)), pairwise(DOWN), strict=False):
        assert row.state == pytest.approx(low / high, abs=1e-15)
        assert row.denoised == pytest.approx({j: 1 - low / high})


def test_stochastic_samplers_name_their_draws():
    for name in STOCHASTIC:
        numbers, draws = steps(tableau(name, DOWN))
        assert draws == (0, 1, 2, 3, 4, None), "a step to 0 draws nothing"
        assert (numbers[:-1, 3] > 0).all()


def test_one_step_is_the_denoised_image():
    for name in SAMPLERS:
        (row,) = tableau(name, [5.0, 0.0]).rows
        assert row == dataclasses.replace(row, state=0.0, denoised={0: 1.0}, noise={})


def test_a_sampler_that_is_not_linear_is_refused(monkeypatch):
    monkeypatch.setitem(samplers.SAMPLERS, "squared", lambda denoise, x, sigmas, noise: denoise(x, sigmas[0]) ** 2)
    with pytest.raises(Error, match="linear"):
        tableau("squared", DOWN)


def test_a_sampler_that_remembers_more_is_unrolled_only(monkeypatch):
    def third(denoise, x, sigmas, noise):
        found = [denoise(x, sigma) for sigma in sigmas[:3]]
        return found[0] + 2 * found[1] - found[2]

    monkeypatch.setitem(samplers.SAMPLERS, "third", third)
    table = tableau("third", DOWN)
    with pytest.raises(Error, match="Unroll"):
        steps(table, "third")
    assert table.rows[-1].denoised == pytest.approx({0: 1.0, 1: 2.0, 2: -1.0})


def test_a_sampler_of_many_evaluations_is_refused(monkeypatch):
    def often(denoise, x, sigmas, noise):
        for _ in range(100):
            x = denoise(x, sigmas[0])
        return x

    monkeypatch.setitem(samplers.SAMPLERS, "often", often)
    with pytest.raises(Error, match="up to 4 evaluations"):
        tableau("often", [1.0, 0.0])


# ------------------------------------------------------------------------------------------------------------- the plan


def test_a_plan_survives_its_file(tmp_path):
    plan = Plan("euler", ((2.0, 1.0, 0.0), (4.0, 1.0, 0.0)), 1.5, healing=Healing("lesion", smooth=2.0))
    path = plans.write(tmp_path / "sampler.fp16.onnx", plan, "unrolled")
    assert path.name == "sampler.fp16.json"
    found, beside = plans.read(tmp_path / "sampler.fp16.onnx")
    assert found == plan
    assert [len(walk["sigma"]) for walk in beside["table"]["up"] + beside["table"]["down"]] == [1, 1, 2, 2]
    assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedules": ((1.0,),)}, "one length"),
        ({"schedules": ((2.0, 0.0), (2.0, 1.0, 0.0)), "healing": Healing("a")}, "one length"),
        ({"schedules": ((2.0, 0.0), (3.0, 0.0))}, "one schedule"),
        ({"classifier_guidance": 1.0}, "counterfactuals alone"),
        ({"sampler": "euler_ancestral", "healing": Healing("a")}, "deterministic"),
    ],
)
def test_plans_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(Error, match=words):
        Plan(**({"sampler": "euler", "schedules": ((2.0, 1.0, 0.0),)} | changes))


def test_a_damaged_plan_is_named(tmp_path):
    graph = tmp_path / "step.onnx"
    with pytest.raises(Error, match=r"step.json is missing.*--fuse step"):
        plans.read(graph)
    (tmp_path / "step.json").write_text(json.dumps({"plan": {"sampler": "euler"}}))
    with pytest.raises(Error, match="is not"):
        plans.read(graph)


def test_guidance_is_off_at_and_below_its_limit():
    plan = Plan("euler", ((2.0, 1.0, 0.0),), classifier_guidance=3.0, guidance_low=1.0, healing=Healing("a"))
    assert [plans.weight(plan, sigma) for sigma in (0.5, 1.0, 1.01)] == [0, 0, 3]


MODELS = sorted(path.parent for path in (Path(__file__).parents[1] / "models").glob("*/model.json"))


@pytest.mark.parametrize("root", MODELS, ids=lambda root: root.name)
def test_what_is_not_stated_is_the_null_that_a_graph_has(root):
    meta = read_meta(root)
    domain, known = models.domain(meta["domain"]), label_fields(spec_of(meta).fields)
    told_nothing = domain.condition([Annotation()], known, labels.vocabulary_of(meta, domain))
    for name, field in known.items():
        assert (np.asarray(told_nothing[name]) == field.null).all(), name


@pytest.mark.parametrize("root", MODELS, ids=lambda root: root.name)
def test_a_starter_model_has_a_plan(root):
    plan = plan_of(root, dataclasses.replace(default_settings(root), steps=3))
    assert plan.steps == 3
    assert (plan.healing is None) == (root.name != "brain_mri")
    if plan.healing is None:
        assert plan.initial_scale == spec_of(read_meta(root)).initial_scale(plan.schedules[0][0])
    else:
        assert plan.healing.label == "lesion"
        assert plan.healing.smooth == pytest.approx(1.25)


# ----------------------------------------------------------------------------------------------------- graphs that run

slow = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:copyreg"),
    pytest.mark.filterwarnings("ignore:.*The axis name. batch will not be used:UserWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from export.graphs.onnx import export

    root = written(tmp_path_factory.mktemp("fused") / "model")
    export(root)
    return root


@pytest.fixture(scope="module")
def reference(folder):
    from toolkit.networks import folder as torch_folder

    return torch_folder.open(folder, "cpu")


LEVELS = tuple(karras(3, 10.0, 0.05))
SHORT = tuple(karras(3, 3.0, 0.05))
PLANS = {
    **{name: Plan(name, (LEVELS,), initial_scale=LEVELS[0]) for name in SAMPLERS},
    "classifier-free": Plan("dpmpp_2m", (LEVELS,), 2.5, initial_scale=10.0),
    "classifier-free, stochastic": Plan("dpmpp_2m_sde", (LEVELS,), 2.5, initial_scale=10.0),
    "unconditional": Plan("euler", (LEVELS,), 0.0, initial_scale=10.0),
    "ends above 0": Plan("euler", (LEVELS[:-1],), 2.0, initial_scale=10.0, final_scale=1.5),
    "one step": Plan("euler", ((10.0, 0.0),), initial_scale=10.0),
    "label": Plan("euler", (SHORT, LEVELS), healing=Healing("lesion")),
    "classifier": Plan(
        "euler", (SHORT,), 0.0, classifier_guidance=10.0, guidance_low=0.1, healing=Healing("lesion", mirror=False)
    ),
    "both, heun": Plan("heun", (SHORT, LEVELS), 1.5, classifier_guidance=5.0, guidance_low=0.5, healing=Healing("lesion")),
}  # fmt: skip
FORMS = {"step": ("step", 8), "unrolled": ("sampler", 8), "scan": ("sampler", 1)}


def told(run, count: int):
    """What a run answers for `count` images, and what is to be answered, by the reference."""
    from export.agreement import null_fields, reference_counterfactuals, reference_images, reference_map

    if run.plan.healing is None:
        cond = conds(count)
        null = null_fields(SPEC, cond)

        def expected(model):
            return (reference_images(model, run.plan, cond, null, 7, range(2, 2 + count)),)

        return (run(7, range(2, 2 + count), cond),), expected
    cond, x = conds(count, 0.0), np.tanh(images(count, seed=2))

    def expected(model):
        found = reference_counterfactuals(model, run.plan, x, cond)
        return found - x, reference_map(run.plan, x - found)

    found, anomaly = run(x, cond)
    return (found - x,) + ((anomaly,) if anomaly is not None else ()), expected


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow) for name in PLANS])
def test_a_graph_is_the_run_it_stands_for(folder, reference, name):
    from export.runtime import fused
    from export.sampling.sampler import write

    plan, seen = PLANS[name], {}
    for form, (fuse, unroll) in FORMS.items():
        if form == "scan" and plan.steps == 1:
            continue
        files = write(folder, fuse, plan, unroll=unroll)
        assert plans.read(files[0])[1]["form"] == form
        run = fused.open(folder, fuse, threads=1)
        for count in (1, 3, 5) if form == "unrolled" else (3,):
            found, expected = told(run, count)
            wanted = seen[count] if count in seen else seen.setdefault(count, expected(reference))
            for ours, theirs in zip(found, wanted, strict=False):
                assert ours.dtype == np.float32
                assert ours.shape == theirs.shape
                assert np.abs(ours - theirs).max() <= 1e-4 * theirs.std(), (form, count)
                assert theirs.std() > 0.01


@pytest.fixture(scope="module")
def guided(folder) -> Path:
    from export.sampling.sampler import write

    write(folder, "sampler", PLANS["both, heun"])
    write(folder, "step", PLANS["both, heun"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["sampler", "step"])
def test_a_run_in_one_graph_refuses_nan(guided, name, backend):
    from export.runtime import fused

    pytest.importorskip(backend.replace("onnx", "onnxruntime"))
    run = fused.open(guided, name, backend=backend, threads=1)
    x, cond = images(2), conds(2, lesion=0.0)
    assert np.isfinite(run(x, cond)[0]).all()
    x[1, 0, 2, 3] = np.nan
    with pytest.raises(Error, match="input 'image' 1 are NaN"):
        run(x, cond)


@pytest.mark.slow
def test_a_counterfactual_is_the_methods(guided, reference):
    from scipy import ndimage

    from export.runtime import fused
    from export.sampling.sampler import write
    from toolkit.diffusion.schedule import strength_to_sigma
    from toolkit.methods.anomaly_map import MapSettings, asymmetric
    from toolkit.methods.counterfactual import SIGMA_MIN, counterfactual
    from toolkit.settings import Counterfactual

    settings = Counterfactual((0.3, 0.6), 4, guidance=1.5, classifier_guidance=5.0, guidance_low=0.2)
    schedules = tuple(tuple(karras(4, strength_to_sigma(s), SIGMA_MIN)) for s in settings.strengths)
    plan = Plan(
        "euler", schedules, 1.5, classifier_guidance=5.0, guidance_low=0.2, healing=Healing("lesion", smooth=0.8)
    )
    write(guided, "sampler", plan)
    x = np.tanh(images(3, seed=2))
    expected = counterfactual(reference, x, conds(3, np.nan), conds(3, 0.0), one_hot(3, 0), settings)
    found, anomaly = fused.open(guided)(x, conds(3, 0.0))
    assert np.abs(found - expected).max() <= 1e-4 * (expected - x).std()
    map_ = ndimage.gaussian_filter(asymmetric((x - expected)[:, 0], MapSettings()), (0, 0.8, 0.8))
    assert np.abs(anomaly[:, 0] - map_).max() <= 1e-4 * map_.std()
    write(guided, "sampler", PLANS["both, heun"])


@pytest.mark.slow
def test_weights_are_not_copied(guided):
    import onnx

    whole = sum((guided / f"{part}.safetensors").stat().st_size for part in ("denoiser", "classifier"))
    for name in ("sampler", "step", "step_encode"):
        graph = onnx.load(str(guided / f"{name}.onnx"), load_external_data=False).graph
        outside = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        places = [tuple((e.key, e.value) for e in t.external_data) for t in outside]
        seen = {(*place, *t.dims) for place, t in zip(places, outside, strict=True)}
        assert len(seen) == len(places), "one reference a weight and shape"
        assert {dict(p)["location"] for p in places} <= {"denoiser.safetensors", "classifier.safetensors"}
        assert sum(int(dict(p)["length"]) for p in places) <= whole
        assert sum(len(t.raw_data) for t in graph.initializer if t not in outside) < 64 * 1024
        assert len({n.name for n in graph.node}) == len(graph.node)
    assert {p.name for p in guided.glob(".*.onnx")} == set()


@pytest.mark.slow
def test_nothing_of_this_machine_is_in_a_graph(guided):
    import onnx

    for name in ("sampler", "step"):
        model = onnx.load(str(guided / f"{name}.onnx"), load_external_data=False)
        assert not model.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        for path in (guided / f"{name}.onnx", guided / f"{name}.json"):
            assert str(guided).encode() not in path.read_bytes()
            assert b"/work" not in path.read_bytes()


@pytest.mark.slow
def test_the_step_graph_has_the_ends_that_are_promised(guided):
    import onnx

    def ends(name):
        graph = onnx.load(str(guided / f"{name}.onnx"), load_external_data=False).graph
        return [v.name for v in graph.input], [v.name for v in graph.output]

    always = ["x", "previous", "sigma", "coefficients", "noise", *SPEC.fields]
    assert ends("step") == ([*always, "target", "classifier_guidance", "guidance"], ["next", "denoised"])
    assert ends("step_encode") == (always, ["next", "denoised"])
    assert ends("sampler") == (["image", *SPEC.fields], ["counterfactual", "anomaly"])


@pytest.mark.slow
def test_a_loop_of_steps_takes_any_batch_and_leaves_its_arguments_alone(guided, reference):
    from export.runtime import fused

    run = fused.open(guided, "step", threads=1)
    x, cond = np.tanh(images(5, seed=2)), conds(5, 0.0)
    kept = x.copy()
    whole, _ = run(x, cond)
    few, _ = run(x[:2], {k: v[:2] for k, v in cond.items()})
    again, _ = run(x, cond)
    assert np.array_equal(x, kept)
    assert np.array_equal(whole, again)
    assert np.abs(whole[:2] - few).max() <= 1e-4 * (whole - x).std()


@pytest.mark.slow
def test_openvino_runs_the_same_graphs(guided, reference):
    pytest.importorskip("openvino", reason="openvino is not installed")
    from export.agreement import check

    for name in ("step", "sampler"):
        for row in check(guided, reference, name, backend="openvino"):
            assert row.error <= row.allowed


@pytest.mark.slow
def test_a_graph_that_does_another_thing_does_not_agree(guided, reference, tmp_path):
    import shutil

    from export.agreement import check
    from export.sampling.sampler import write

    copy = Path(shutil.copytree(guided, tmp_path / "copy"))
    write(copy, "sampler", PLANS["both, heun"])
    plans.write(copy / "sampler.onnx", dataclasses.replace(PLANS["both, heun"], guidance=1.6), "unrolled")
    with pytest.raises(Error, match="must agree"):
        check(copy, reference)


@pytest.mark.slow
def test_what_cannot_be_fused_is_refused_and_leaves_nothing(guided, tmp_path):
    import shutil

    from export.sampling.sampler import write

    copy = Path(shutil.copytree(guided, tmp_path / "copy", ignore=shutil.ignore_patterns("s*.onnx", "s*.json")))
    before = sorted(path.name for path in copy.iterdir())
    with pytest.raises(Error, match="step or sampler"):
        write(copy, "all", PLANS["euler"])
    with pytest.raises(Error, match=r"changes one of .*; found 'stage'"):
        write(copy, "sampler", dataclasses.replace(PLANS["label"], healing=Healing("stage")))
    with pytest.raises(Error, match=r"lacks denoiser.fp16.onnx.*--precision fp16"):
        write(copy, "sampler", PLANS["label"], "fp16")
    (copy / "gradient.onnx").unlink()
    with pytest.raises(Error, match=r"lacks gradient.onnx"):
        write(copy, "step", PLANS["classifier"])
    assert sorted(path.name for path in copy.iterdir()) == [name for name in before if name != "gradient.onnx"]


@pytest.mark.slow
def test_noise_is_that_of_the_seed_and_index(folder):
    from export.runtime import fused
    from export.sampling.sampler import write

    write(folder, "sampler", PLANS["euler_ancestral"])
    run, cond = fused.open(folder, threads=1), conds(4, 1.0)
    whole = run(5, range(4), cond)
    part = run(5, [2], {k: v[2:3] for k, v in cond.items()})
    assert np.abs(part - whole[2:3]).max() <= 1e-4 * whole.std()
    assert np.abs(run(6, range(4), cond) - whole).max() > 0.1
    start = gaussian(SPEC.shape, 5, [2], Purpose.START, 0)
    assert start.dtype == np.float32
