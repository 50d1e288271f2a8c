"""How a model samples unless told otherwise: its own settings or those of its few-step student, with single ones changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from toolkit.example import Error
from toolkit.settings import Counterfactual, Sampling

__all__ = ["default_sampling", "resolve_sampling", "student_counterfactual", "student_plan"]


DEFAULT = Sampling(sampler="dpmpp_2m", steps=20)


def default_sampling(meta: Mapping[str, Any], purpose: str = "sampling", student: bool | None = None) -> Sampling:
    """How a model is sampled unless something else is asked for; model.json may say it under "sampling" or "editing".

    A Stable Diffusion checkpoint has noise levels of its own, and is used to a guidance of 7.5. student: by its few-step
    student, or by the model itself; as model.json says where None. Errors: a student that the model does not have.
    """
    usual = dataclasses.replace(DEFAULT, schedule="own", guidance=7.5) if "scheduler" in meta else DEFAULT
    usual = dataclasses.replace(usual, **meta.get(purpose, {}))
    usual = usual if student is None else dataclasses.replace(usual, student=student)
    if not usual.student:
        return usual
    plan = student_plan(meta)
    return dataclasses.replace(
        usual, sampler=plan["sampler"], steps=plan["steps"], schedule="student", guidance=plan["guidance"]
    )


def resolve_sampling(
    meta: Mapping[str, Any],
    settings: Sampling | None,
    changes: Mapping[str, Any],
    purpose: str = "sampling",
    student: bool | None = None,
) -> Sampling:
    """Settings that were asked for, else the model's own, with changes of single ones: seed, steps, guidance, sampler.

    A student has solver, steps and guidance of its own; who asks for others asks for the model itself.
    Errors: a student that is asked for with any of these.
    """
    own = sorted(changes.keys() & {"steps", "guidance", "sampler"})
    if student and own:
        raise Error(f"A student has its own {', '.join(own)}. Leave --student out, or --{own[0]}.")
    if settings is None:
        settings = default_sampling(meta, purpose, False if own and student is None else student)
    elif student is not None:
        settings = dataclasses.replace(settings, student=student)
    return dataclasses.replace(settings, **changes)


def student_plan(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """What model.json says of the few-step student. Errors: there is none."""
    if "student" not in meta["parts"]:
        raise Error("This model has no few-step student. Make one: diffgraft distill MODEL OUT --steps 4")
    return meta["parts"]["student"]


def student_counterfactual(preset: Counterfactual, plan: Mapping[str, Any]) -> Counterfactual:
    """A preset as the few-step student does it: with what it has folded in, the ensemble as it was."""
    strengths = tuple(s for s in plan["strengths"] if s in preset.strengths) or tuple(plan["strengths"])
    return dataclasses.replace(
        preset, strengths=strengths, steps=plan["steps"], sampler=plan["sampler"], guidance=plan["guidance"],
        classifier_guidance=plan["classifier_guidance"], guidance_low=plan["guidance_low"], student=True,
    )  # fmt: skip
