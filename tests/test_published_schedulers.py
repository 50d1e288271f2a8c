"""Every scheduler that a pipeline folder may name: its noise levels are diffusers' own, or the line says what it is."""

import inspect
import itertools
import json

import diffusers
import numpy as np
import pipelines
import pytest
import torch
from pipelines import walked

from toolkit.diffusion import schedule, spacing
from toolkit.example import Error
from toolkit.models import pipeline as pipeline_folder

# diffusers 0.42 hands tensors to numpy 2 in a way that numpy does not want for long.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]

EVERY = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
OTHERS = {name for name, kind in EVERY.items() if "dummy" in kind.__module__}
"""What this installation of diffusers cannot make, without torchsde."""

KNOWN = sorted(set(spacing.SCHEDULERS) - OTHERS)
ENDS = {"set_alpha_to_one": (True, False), "final_sigmas_type": ("zero", "sigma_min")}
CURVES = ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas")


def made(name, config):
    """A scheduler of that class. PNDM begins with extra steps of another solver unless told not to."""
    return EVERY[name](**config | ({"skip_prk_steps": True} if name == "PNDMScheduler" else {}))


def test_every_known_scheduler_is_one_of_diffusers():
    assert set(spacing.SCHEDULERS) <= set(EVERY)


def options_of(kind):
    """What may be set of a class, one thing at a time: spacings, offsets, ends, curves, betas."""
    knows = inspect.signature(kind.__init__).parameters
    yield {}
    for betas in ("linear", "squaredcos_cap_v2"):
        yield {"beta_schedule": betas}
    yield {"trained_betas": np.linspace(0.0005, 0.015, 1000).tolist()}
    for name, values in ENDS.items():
        if name in knows:
            yield from ({name: value} for value in values)
    if "timestep_spacing" in knows:
        spacings = itertools.product(("leading", "trailing", "linspace"), (0, 1))
        yield from ({"timestep_spacing": place, "steps_offset": offset} for place, offset in spacings)
        yield {"timestep_spacing": "trailing", "beta_schedule": "linear"}
    for curve in CURVES:
        if curve in knows:
            yield {curve: True}
            yield from ({curve: True, "timestep_spacing": "leading"} for _ in [0] if "timestep_spacing" in knows)
            yield from ({curve: True, "final_sigmas_type": "sigma_min"} for _ in [0] if "final_sigmas_type" in knows)
            yield from ({curve: True, "sigma_min": 0.1, "sigma_max": 9.0} for _ in [0] if "sigma_max" in knows)
    if "rescale_betas_zero_snr" in knows:
        yield {"rescale_betas_zero_snr": True}
    if "lambda_min_clipped" in knows:
        yield {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"}
        yield {"lambda_min_clipped": -2.0}


@pytest.mark.parametrize(
    "name",  # diffusers takes a minute for those of DPM2 that interpolate
    [pytest.param(name, marks=pytest.mark.slow) if name.startswith("KDPM2") else name for name in KNOWN],
)
def test_noise_levels_are_the_schedulers_own(name):
    kind = EVERY[name]
    for option in options_of(kind):
        given = {"beta_start": 0.0009, "beta_end": 0.0125, "beta_schedule": "scaled_linear"} | option
        told = {"_class_name": name, **json.loads(json.dumps(dict(kind(**given).config), default=str))}
        clock = schedule.clock_from_config(**spacing.clock_config(told))
        for steps in (2, 7, 20, 50):
            found, wanted = spacing.sigmas(told, clock, steps), walked(made(name, given), steps)
            assert len(found) == len(wanted), (option, steps)
            assert found == pytest.approx(wanted, rel=2e-3, abs=1e-6), (option, steps)
            assert all(low < high for high, low in itertools.pairwise(found))


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_config_leaves_out_is_the_default_of_its_class(name):
    scheduler = made(name, {})
    bare = {"_class_name": name}
    clock = schedule.clock_from_config(**spacing.clock_config(bare))
    wanted = scheduler.alphas_cumprod.double()
    assert clock.sigmas == pytest.approx(((1 - wanted) / wanted).sqrt().tolist(), rel=1e-3)
    assert spacing.sigmas(bare, clock, 20) == pytest.approx(walked(scheduler, 20), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_class_does_not_know_changes_nothing(name):
    """A config keeps the options of the scheduler that it was made from, as diffusers' from_config does."""
    knows = inspect.signature(EVERY[name].__init__).parameters
    foreign = {
        "use_karras_sigmas": True, "rescale_betas_zero_snr": True, "final_sigmas_type": "sigma_min", "lambda_min_clipped": -1.0,
        "use_flow_sigmas": True, "timestep_spacing": "trailing", "sigma_max": 5.0, "timestep_type": "continuous",
    }  # fmt: skip
    given = {"_class_name": name} | {key: value for key, value in foreign.items() if key not in knows}
    clock = schedule.clock_from_config(**spacing.clock_config(given))
    assert spacing.sigmas(given, clock, 10) == pytest.approx(
        walked(made(name, {}).from_config(given | {"skip_prk_steps": True}), 10), rel=2e-3, abs=1e-6
    )


@pytest.mark.parametrize("betas", ["sigmoid", "laplace"])
def test_the_clocks_of_other_beta_schedules_are_diffusers(betas):
    wanted = diffusers.DDPMScheduler(beta_schedule=betas).alphas_cumprod.double()
    found = schedule.clock_from_config(betas, 0.0001, 0.02).sigmas
    known = wanted[wanted > 1e-5]
    assert found[: len(known)] == pytest.approx(((1 - known) / known).sqrt().tolist(), rel=2e-3)
    assert len(known) > 900


def test_the_exponential_clock_is_diffusers():
    wanted = diffusers.HeunDiscreteScheduler(beta_schedule="exp").alphas_cumprod.double()
    found = schedule.clock_from_config("exp").sigmas
    assert found == pytest.approx(((1 - wanted) / wanted).sqrt().tolist(), rel=2e-3)


# --------------------------------------------------------------------------------------------------------- in a folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("sd") / "pipeline")


def named(root, name, config=None):
    """The folder with another scheduler in it."""
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(config or {}), encoding="utf-8")
    index = json.loads((root / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", name]
    (root / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return root


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_folder_with_any_scheduler_is_right_or_says_what_it_has(root, name):
    place = named(root, name, {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
    if name in spacing.SCHEDULERS:
        told = pipeline_folder.read_meta(place)
        assert told["spec"]["sigma_max"] == pytest.approx(14.6146, abs=1e-3)
        assert len(pipeline_folder.sigmas(told, 10)) >= 10
        return
    with pytest.raises(Error, match=rf"A scheduler .*{name}") as problem:
        pipeline_folder.read_meta(place)
    assert "DDIMScheduler" in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_scheduler_saves_of_itself_fits_into_json(root, name, tmp_path):
    """diffusers 0.42 saves lambda_min_clipped as -Infinity, which is no JSON."""
    place = named(root, name)
    getattr(diffusers, name)(beta_schedule="scaled_linear").save_pretrained(place / "scheduler")
    told = pipeline_folder.read_meta(place)
    again = json.loads(json.dumps(told["scheduler"], allow_nan=False))
    assert pipeline_folder.sigmas(told | {"scheduler": again}, 10) == pipeline_folder.sigmas(told, 10)


@pytest.mark.parametrize(
    "name, config, words",
    [
        ("FlowMatchEulerDiscreteScheduler", {}, r"is of flow matching"),
        ("EDMEulerScheduler", {}, r"is of EDM's sigmas"),
        ("EDMDPMSolverMultistepScheduler", {}, r"is of EDM's sigmas"),
        ("IPNDMScheduler", {}, r"is of betas of its own"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, r"is set to flow matching"),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, r"is set to flow matching"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, r"tells it log sigma"),
        ("DDIMScheduler", {"beta_schedule": "odd"}, r"A beta schedule is one of .* found 'odd'"),
    ],
)
def test_another_parameterisation_is_refused_with_the_truth(root, name, config, words):
    with pytest.raises(Error, match=words):
        pipeline_folder.read_meta(named(root, name, config))


def test_the_class_is_the_one_that_the_index_names(root):
    """Where the config was written by another: diffusers opens it with the class of the index."""
    config = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "set_alpha_to_one": True}
    told = pipeline_folder.read_meta(named(root, "LCMScheduler", config))
    assert told["scheduler"]["_class_name"] == "LCMScheduler"
    wanted = diffusers.LCMScheduler.from_pretrained(root / "scheduler")
    assert pipeline_folder.sigmas(told, 4) == pytest.approx(walked(wanted, 4), rel=2e-3)
    assert torch.isfinite(torch.tensor(pipeline_folder.sigmas(told, 50))).all()
    with pytest.raises(Error, match=r"at most the 50 steps .* found 60"):
        pipeline_folder.sigmas(told, 60)
