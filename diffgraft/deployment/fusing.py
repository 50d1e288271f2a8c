"""What a model's fused graphs are made to do: the plan of its own default run, or of the settings that are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffgraft import models
from diffgraft.counterfactuals.counterfactual import by_student
from diffgraft.generation.sampling import sigmas
from diffgraft.models.defaults import default, student_of
from export.sampling.plan import Healing, Plan
from toolkit.diffusion import schedule
from toolkit.methods.anomaly_map import MapSettings
from toolkit.methods.counterfactual import SIGMA_MIN, check
from toolkit.models.folder import read_meta, spec_of
from toolkit.settings import Counterfactual, Sampling

__all__ = ["changing", "generating", "plan_of"]


def plan_of(root: str | Path, meta: Mapping[str, Any] | None = None, **changes: Any) -> Plan:
    """The plan of a model folder: its counterfactual where its domain has one, else new images.

    changes: settings other than the model's own, such as steps=4, sampler="heun", classifier_guidance=3.0; None is left.
    student: by its few-step student, as model.json says where None.
    """
    meta = read_meta(Path(root)) if meta is None else meta
    domain = models.domain(meta["domain"])
    given = {name: value for name, value in changes.items() if value is not None and name != "student"}
    student = changes.get("student")
    if not hasattr(domain, "QUALITY"):
        return generating(meta, dataclasses.replace(default(meta, student=student), **given))
    settings = domain.QUALITY["default"]
    if student:
        settings = by_student(settings, student_of(meta))
    return changing(meta, dataclasses.replace(settings, **given), domain.TARGET)


def generating(meta: Mapping[str, Any], settings: Sampling) -> Plan:
    """New images as `diffgraft generate` makes them with these settings."""
    spec = spec_of(meta)
    # The schedule is a function of the folder alone, and no backend has to be opened for it.
    levels = sigmas(SimpleNamespace(meta=meta, denoiser=SimpleNamespace(spec=spec)), settings)  # type: ignore[arg-type]
    return Plan(
        settings.sampler,
        (tuple(levels),),
        1.0 if settings.student else settings.guidance,
        "student" if settings.student else "denoiser",
        spec.initial_scale(levels[0]),
        spec.initial_scale(levels[-1]) if levels[-1] > 0 else 1.0,
    )


def changing(meta: Mapping[str, Any], settings: Counterfactual, label: str) -> Plan:
    """Counterfactuals as `diffgraft counterfactual` makes them, with the map of one slice."""
    check(settings)
    strengths = [schedule.strength_to_sigma(strength) for strength in settings.strengths]
    maps = MapSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in _maps(meta).items()})
    graph = "student" if settings.student else "denoiser"
    width = spec_of(meta).shape[-1] if "image_shape" not in meta else meta["image_shape"][-1]
    return Plan(
        settings.sampler,
        tuple(tuple(schedule.karras(settings.steps, top, SIGMA_MIN)) for top in strengths),
        1.0 if settings.student else settings.guidance,
        graph,
        classifier_guidance=0.0 if settings.student else settings.classifier_guidance,
        guidance_low=settings.guidance_low,
        healing=Healing(label, settings.mirror, graph, maps.smooth * width / 256, symmetry=maps.symmetry),
    )


def _maps(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    return meta.get("calibration", {}).get("maps", {})
