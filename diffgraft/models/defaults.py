"""How a model is sampled unless told otherwise: its own settings, or those of its few-step student."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from toolkit.example import Error
from toolkit.settings import Sampling

__all__ = ["default", "student_of"]


DEFAULT = Sampling(sampler="dpmpp_2m", steps=20)


def default(meta: Mapping[str, Any], purpose: str = "sampling", student: bool | None = None) -> Sampling:
    """How a model is sampled unless something else is asked for; model.json may say it under "sampling" or "editing".

    A Stable Diffusion checkpoint has noise levels of its own, and is used to a guidance of 7.5. student: by its few-step
    student, or by the model itself; as model.json says where None. Errors: a student that the model does not have.
    """
    usual = dataclasses.replace(DEFAULT, schedule="own", guidance=7.5) if "scheduler" in meta else DEFAULT
    usual = dataclasses.replace(usual, **meta.get(purpose, {}))
    usual = usual if student is None else dataclasses.replace(usual, student=student)
    if not usual.student:
        return usual
    plan = student_of(meta)
    return dataclasses.replace(
        usual, sampler=plan["sampler"], steps=plan["steps"], schedule="student", guidance=plan["guidance"]
    )


def student_of(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """What model.json says of the few-step student. Errors: there is none."""
    if "student" not in meta["parts"]:
        raise Error("This model has no few-step student. Make one: diffgraft distill MODEL OUT --steps 4")
    return meta["parts"]["student"]
