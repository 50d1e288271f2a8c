"""Few-step distillation: the teacher's paths, what is learned from them, and the student as a part of a model."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import three_classes

from diffgraft.requests import record
from domains import brain_mri
from toolkit.diffusion import guidance, schedule
from toolkit.diffusion.model import Spec
from toolkit.diffusion.noise import Seeded
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.example import Error
from toolkit.models.folder import fingerprint, read_meta
from toolkit.networks import folder, student
from toolkit.settings import Network, Training
from toolkit.training.distilling import ANSWER, OBJECTIVES, SIGMA, distillation, leap_batch, path_levels, teacher_path
from toolkit.training.loader import generator

DOWN = [20.0, 5.0, 1.2, 0.3, 0.0]
UP = [0.05, 0.4, 3.0]


def world():
    return three_classes(torch, "float64")


def denoise(mixture):
    cond, null = mixture.label(0, 1, 2), mixture.label(3, 3, 3)
    return guidance.classifier_free(mixture, cond, null, 2.0)


def path(levels, sampler="dpmpp_2m", steps=8):
    mixture = world()
    x = levels[0] * Seeded(3, range(3), mixture.spec.shape, torch.from_numpy)(0).double()
    return mixture, teacher_path(SAMPLERS[sampler], denoise(mixture), x, levels, steps, 0.02, lambda step: x), x


@pytest.mark.parametrize("levels", [DOWN, UP])
def test_between_the_levels_lie_even_steps(levels):
    fine = path_levels(levels, 6, 0.02)
    assert len(fine) == 6 * (len(levels) - 1) + 1
    assert [fine[6 * n] for n in range(len(levels))] == levels
    assert all((a > b) == (levels[0] > levels[-1]) for a, b in pairwise(fine))
    assert fine[-2] == (0.02 if levels is DOWN else pytest.approx(fine[-1] / (fine[-1] / fine[-2])))


@pytest.mark.parametrize("levels", [DOWN, UP])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_states_are_those_of_the_teachers_walk(levels, sampler):
    mixture, states, x = path(levels, sampler)
    assert len(states) == len(levels)
    assert torch.equal(states[0], x)
    whole = SAMPLERS[sampler](denoise(mixture), x, path_levels(levels, 8, 0.02), lambda step: x)
    assert torch.equal(states[-1], whole)


@pytest.mark.parametrize("levels", [DOWN, UP])
def test_euler_over_leaps_walks_the_path(levels):
    _, states, x = path(levels)
    answers = {level: OBJECTIVES["leap"](states, levels, n) for n, level in enumerate(levels[:-1])}
    for last in range(2, len(levels) + 1):
        found = SAMPLERS["euler"](lambda x, sigma: answers[sigma], x, levels[:last], lambda step: x)
        assert torch.allclose(found, states[last - 1], atol=1e-9)


def test_every_answer_of_consistency_is_the_end():
    _, states, _ = path(DOWN)
    assert all(torch.equal(OBJECTIVES["consistency"](states, DOWN, n), states[-1]) for n in range(4))


def test_leaps_are_rows_with_their_levels():
    _, states, _ = path(DOWN)
    batch = leap_batch(OBJECTIVES["leap"], states, DOWN, {"label": torch.tensor([0, 1, 2])})
    assert batch.image.shape[0] == 12
    assert batch.cond[SIGMA].tolist() == pytest.approx([s for s in DOWN[:-1] for _ in range(3)])
    assert batch.cond["label"].tolist() == [0, 1, 2] * 4
    assert sorted(set(batch.target.tolist())) == [0, 1, 2, 3]
    assert torch.equal(batch.cond[ANSWER][3:6], OBJECTIVES["leap"](states, DOWN, 1))


@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_the_loss_is_the_weighted_error_of_the_answer(wrong):
    _, states, _ = path(DOWN)
    batch = leap_batch(OBJECTIVES["leap"], states, DOWN, {"label": torch.tensor([0, 1, 2])})

    class Answers(torch.nn.Module):
        def forward(self, x, sigma, label):
            return batch.cond[ANSWER] + wrong

    loss = float(distillation(Answers(), batch, Spec((1, 2, 2)), Training(1), generator(0)))
    sigma = batch.cond[SIGMA]
    assert loss == pytest.approx(wrong**2 * float(((sigma**2 + 0.25) / (0.5 * sigma) ** 2).mean()), rel=1e-5)


# --------------------------------------------------------------------------------------------------------- the student

SPEC = Spec((1, 16, 16), brain_mri.FIELDS)
NETWORK = Network((8, 16), norm_groups=4, attention_head_dim=8)


@pytest.fixture
def root(tmp_path) -> Path:
    meta = {"format": 1, "domain": "brain_mri", "spec": SPEC, "parts": {
        "denoiser": {"network": NETWORK, "parameterisation": "edm"},
        "student": {"network": NETWORK, "rank": 2},
    }}  # fmt: skip
    meta = json.loads(json.dumps(meta, default=dataclasses.asdict))
    torch.manual_seed(0)
    weights = {k: v + 0.1 * torch.randn(v.shape) for k, v in folder.build("denoiser", meta).state_dict().items()}
    folder.save_part(tmp_path / "model", "denoiser", weights, meta)
    learner = folder.build("student", meta)
    changed = {k: v + 0.1 * torch.randn(v.shape) for k, v in student.student_state(learner).items()}
    folder.save_part(tmp_path / "model", "student", changed, meta)
    return tmp_path / "model"


def answer(module, sigma=1.0):
    x = Seeded(0, range(2), SPEC.shape, torch.from_numpy)(0)
    cond = {k: torch.from_numpy(v) for k, v in brain_mri.condition([brain_mri.parse_prompt("healthy")] * 2).items()}
    with torch.no_grad():
        return module(x, torch.full((2,), sigma), **cond)


def test_an_untrained_student_is_its_teacher(root):
    teacher = folder.load_part(root, "denoiser")
    expected = answer(teacher)
    changed = student.add_changes(teacher, 4)
    assert torch.allclose(answer(changed), expected, atol=1e-6)
    trained = {name.rpartition(".")[2] for name in student.student_state(changed)}
    assert {"up", "down", "bias"} <= trained
    assert not any(name.endswith("original") for name in student.student_state(changed))


def test_a_student_is_kept_as_its_changes(root):
    teacher, learner = folder.load_part(root, "denoiser"), folder.load_part(root, "student")
    assert not torch.allclose(answer(teacher), answer(learner), atol=1e-3)
    small, large = ((root / f"{part}.safetensors").stat().st_size for part in ("student", "denoiser"))
    assert small < 0.7 * large
    by_hand = folder.load_part(root, "denoiser")
    for name, module in learner.named_modules():
        if name.endswith(".parametrizations.weight.0"):
            owner = by_hand.get_submodule(name.removesuffix(".parametrizations.weight.0"))
            owner.weight += (module.up @ module.down).view_as(owner.weight)
    own = {
        k: v for k, v in student.student_state(learner.requires_grad_(True)).items() if ".parametrizations." not in k
    }
    by_hand.load_state_dict(own, strict=False)
    assert torch.allclose(answer(by_hand), answer(learner), atol=1e-5)


def test_a_model_opens_with_its_student(root):
    model = folder.open(root, "cpu")
    assert model.student is not None
    x = model.asarray(np.zeros((2, *SPEC.shape), np.float32))
    cond = {k: model.asarray(v) for k, v in brain_mri.condition([brain_mri.parse_prompt("healthy")] * 2).items()}
    assert not torch.allclose(model.student(x, 1.0, cond), model.denoiser(x, 1.0, cond), atol=1e-3)


def test_another_denoiser_has_no_student(root):
    meta = read_meta(root)
    weights = {k: v + 1 for k, v in folder.load_part(root, "denoiser").state_dict().items()}
    folder.save_part(root, "denoiser", weights, meta)
    assert "student" not in read_meta(root)["parts"]
    assert not (root / "student.safetensors").exists()


def test_the_same_denoiser_keeps_its_student(root):
    folder.save_part(root, "denoiser", folder.load_part(root, "denoiser").state_dict(), read_meta(root))
    assert "student" in read_meta(root)["parts"]
    assert folder.open(root, "cpu").student is not None


def test_a_rank_is_at_least_one(root):
    with pytest.raises(Error, match="rank 1 or more; found 0"):
        student.add_changes(folder.load_part(root, "denoiser"), 0)


def test_levels_of_a_student_reach_the_image():
    from diffgraft.training.teacher_paths import student_levels

    levels = student_levels(4, 20.0, 0.02)
    assert len(levels) == 5
    assert levels[0] == pytest.approx(20.0)
    assert levels[-1] == 0.0
    assert levels[:-1] == schedule.karras(5, 20.0, 0.02)[:4]
    assert levels[-2] > 0.1


# ------------------------------------------------------------------------------------------------------ the whole of it

STARTER = Path(__file__).parent.parent / "models" / "plant_disease"


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Path:
    """A student of two steps of the starter model, barely trained."""
    from diffgraft.training.distill import distill
    from toolkit.settings import Distillation

    out = tmp_path_factory.mktemp("distilled") / "model"
    distill(STARTER, out, Distillation(2, paths=96, fine=6, rank=8), backend="onnx", train_steps=150, batch=16)
    return out


@pytest.mark.slow
def test_a_student_comes_nearer_to_its_teacher_than_the_teacher_itself_in_as_few_steps(distilled):
    from diffgraft import models
    from diffgraft.generation import sampling
    from diffgraft.models.defaults import default_sampling
    from toolkit.example import Annotation

    model = models.open(distilled, "torch")
    domain = models.domain_of(distilled)
    rows = [
        Annotation(labels=domain.infer_labels({"condition": float(n % 5)}, domain_labels(model, domain)))
        for n in range(8)
    ]

    def drawn(settings) -> np.ndarray:
        return sampling.sample(model, domain, rows, settings, range(900, 908))

    many = drawn(dataclasses.replace(default_sampling(model.meta, student=False), steps=20))
    few = dataclasses.replace(default_sampling(model.meta, student=False), steps=2, sampler="euler")
    by_teacher, by_student = drawn(few), drawn(default_sampling(model.meta, student=True))
    assert np.abs(by_student - many).mean() < 0.7 * np.abs(by_teacher - many).mean()


def domain_labels(model, domain):
    from toolkit.data import labels

    return labels.vocabulary_of(model.meta, domain)


@pytest.mark.slow
def test_the_teacher_is_untouched_and_training_goes_on_where_it_stopped(distilled):
    from diffgraft.training.distill import distill
    from toolkit.settings import Distillation

    for name in ("denoiser", "codec", "features"):
        assert (distilled / f"{name}.safetensors").read_bytes() == (STARTER / f"{name}.safetensors").read_bytes()
    kept = record.read(distilled / "training" / "student")
    assert kept.verb == "distill" and kept.request["settings"]["paths"] == 96 and kept.model == fingerprint(STARTER)
    plan = read_meta(distilled)["parts"]["student"]
    assert len(plan["levels"]) == 3
    assert plan["guidance"] == read_meta(STARTER)["sampling"]["guidance"]
    before = (distilled / "student.safetensors").read_bytes()
    distill(STARTER, distilled, Distillation(2, paths=96, fine=6, rank=8), backend="onnx", train_steps=150, batch=16)
    assert (distilled / "student.safetensors").read_bytes() == before
    with pytest.raises(Error, match="paths of other settings"):
        distill(
            STARTER, distilled, Distillation(2, paths=96, fine=5, rank=8), backend="onnx", train_steps=150, batch=16
        )


def test_what_cannot_be_distilled(tmp_path):
    from diffgraft.training.distill import distill
    from toolkit.settings import Distillation

    brain = STARTER.parent / "brain_mri"
    for settings, root, words in (
        (Distillation(objective="magic"), STARTER, "one of leap, consistency; found 'magic'"),
        (Distillation(paths=3), STARTER, "paths is 32 or more; found 3"),
        (Distillation(steps=0), STARTER, "steps is 1 or more; found 0"),
        (Distillation(), brain, "--like DATA"),
        (Distillation(objective="consistency"), brain, "leave --objective consistency out"),
    ):
        with pytest.raises(Error, match=words):
            distill(root, tmp_path / "out", settings)
        assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(Error, match="is there and is no model"):
        distill(STARTER, tmp_path / "out", Distillation())


def test_a_student_goes_into_a_copy_without_the_history_of_its_teacher(root, tmp_path):
    from diffgraft.training.distill import _copy_model

    for name in ("request.json", "exports.json", "denoiser.onnx"):
        (root / name).write_text("{}")
    _copy_model(root, tmp_path / "out")
    copied = {path.name for path in (tmp_path / "out").iterdir()}
    assert copied == {"model.json", *(path.name for path in root.glob("*.safetensors"))} - {"student.safetensors"}


def test_every_objective_that_may_be_requested_has_a_sampler():
    from diffgraft.requests import training
    from diffgraft.training.distill import SAMPLERS as BY_OBJECTIVE

    assert set(training.OBJECTIVES) == set(OBJECTIVES) == set(BY_OBJECTIVE) and set(BY_OBJECTIVE.values()) <= set(
        SAMPLERS
    )


def test_a_model_without_a_student_says_so():
    from diffgraft.models.defaults import default_sampling

    with pytest.raises(Error, match="no few-step student"):
        default_sampling({"parts": {}}, student=True)


def test_a_student_owns_up_to_the_samples_that_its_teacher_never_saw(tmp_path):
    from types import SimpleNamespace

    from diffgraft.training.distill import newly_trained_on
    from toolkit.data import dataset
    from toolkit.example import Annotation, Example
    from toolkit.models.folder import hash_id

    image = np.zeros((1, 4, 4), np.float32)
    dataset.write(
        [Example(name, image, Annotation(labels={}), name) for name in ("a", "b")], tmp_path / "data", labels={}
    )

    def told(*names: str) -> list[str]:
        meta = {"parts": {"denoiser": {"run": {"trained_on": [hash_id(name) for name in names]}}}}
        return newly_trained_on(SimpleNamespace(meta=meta), tmp_path / "data")  # type: ignore[arg-type]

    assert told("a", "b") == told("a") == []  # paths begin with what the teacher knows
    assert told("x") == sorted([hash_id("a"), hash_id("b")])
    assert newly_trained_on(SimpleNamespace(meta={"parts": {}}), None) == []  # type: ignore[arg-type]
