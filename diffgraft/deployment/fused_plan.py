"""What a model's fused graphs do: the plan of its own default run, or of the settings that are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffgraft.generation.sampling import sigma_schedule
from diffgraft.models.defaults import default_sampling
from diffgraft.models.folder import domain as domain_named
from export.sampling.plan import Healing, Plan
from toolkit.diffusion import schedule
from toolkit.methods.anomaly_map import MapSettings
from toolkit.methods.counterfactual import SIGMA_MIN, check_settings
from toolkit.models.folder import image_shape, read_meta, spec_of
from toolkit.settings import Counterfactual, Sampling

__all__ = ["default_settings", "plan_of"]


def default_settings(root: Path) -> Counterfactual | Sampling:
    """Of a model's own run: a counterfactual where its domain has one, else new images."""
    meta = read_meta(root)
    domain = domain_named(meta["domain"])
    return domain.QUALITY["default"] if hasattr(domain, "QUALITY") else default_sampling(meta)


def plan_of(root: Path, settings: Counterfactual | Sampling | None = None) -> Plan:
    """The plan of a run of a model folder, by its own settings where None."""
    meta, settings = read_meta(root), default_settings(root) if settings is None else settings
    if isinstance(settings, Sampling):
        return _generation(meta, settings)
    return _counterfactual(meta, settings, domain_named(meta["domain"]).TARGET)


def _network(settings: Counterfactual | Sampling) -> dict[str, Any]:
    """Solver, graph and guidance; a student has its guidance folded in."""
    graph, guidance = ("student", 1.0) if settings.student else ("denoiser", settings.guidance)
    return {"sampler": settings.sampler, "denoiser": graph, "guidance": guidance}


def _generation(meta: Mapping[str, Any], settings: Sampling) -> Plan:
    """New images as `diffgraft generate` makes them."""
    spec = spec_of(meta)
    # The schedule is a function of the folder alone, and no backend has to be opened for it.
    model: Any = SimpleNamespace(meta=meta, denoiser=SimpleNamespace(spec=spec))
    levels = sigma_schedule(model, settings)
    return Plan(
        schedules=(tuple(levels),),
        initial_scale=spec.initial_scale(levels[0]),
        final_scale=spec.initial_scale(levels[-1]) if levels[-1] > 0 else 1.0,
        **_network(settings),
    )


def _counterfactual(meta: Mapping[str, Any], settings: Counterfactual, label: str) -> Plan:
    """Counterfactuals as `diffgraft counterfactual` makes them, with the map of one slice."""
    check_settings(settings)
    network, highest = _network(settings), [schedule.strength_to_sigma(strength) for strength in settings.strengths]
    maps = MapSettings.from_json(meta.get("calibration", {}).get("maps", {}))
    smooth = maps.smooth * image_shape(meta)[-1] / 256
    return Plan(
        schedules=tuple(tuple(schedule.karras(settings.steps, sigma, SIGMA_MIN)) for sigma in highest),
        classifier_guidance=0.0 if settings.student else settings.classifier_guidance,
        guidance_low=settings.guidance_low,
        healing=Healing(label, settings.mirror, network["denoiser"], smooth, symmetry=maps.symmetry),
        **network,
    )
