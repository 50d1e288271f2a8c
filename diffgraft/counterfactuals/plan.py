"""Everything that a run resolves before it begins: settings, post-processing, threshold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from diffgraft.models.defaults import student_counterfactual, student_plan
from diffgraft.requests import CounterfactualRequest
from diffgraft.requests.base import overrides
from toolkit.diffusion.model import Model
from toolkit.diffusion.schedule import strength_to_sigma
from toolkit.example import Error
from toolkit.methods.anomaly_map import MapSettings
from toolkit.settings import Counterfactual

__all__ = ["Plan", "resolve_plan", "resolve_settings"]

CHANGES = ("strengths", "steps", "sampler", "guidance", "classifier_guidance", "guidance_low", "mirror", "seed")
"""Fields of a request that change single settings."""


@dataclass(frozen=True)
class Plan:
    """What a run resolved; saved, and enough to run it again. sigmas: where each of the strengths starts."""

    model: str
    backend: str
    fingerprint: str
    target: str
    counterfactual: Counterfactual
    maps: MapSettings
    threshold: float
    threshold_origin: str
    sigmas: tuple[float, ...]
    classifier_auroc: float | None
    novelty_limit: float | None

    def lines(self, scans: int) -> list[str]:
        """What a user is told before the work begins."""
        return [
            f"model {self.model} ({self.fingerprint}) on {self.backend}; {scans} scan(s)",
            f"{self.counterfactual}; start sigma {', '.join(map(str, self.sigmas))}",
            f"threshold {self.threshold:.4f} ({self.threshold_origin})",
        ]


def resolve_settings(request: CounterfactualRequest, domain: ModuleType, meta: dict[str, Any]) -> Counterfactual:
    """The settings of a request: its own or those of its quality, as a student does it, with its changes.

    Errors: a domain whose scans have no counterfactual, a student that is not there.
    """
    if not hasattr(domain, "QUALITY"):
        raise Error(
            f"A counterfactual is of scans with a healthy class, brain_mri; {request.model} is of another domain, "
            f"{meta['domain']}. Change its images with: diffgraft edit {request.model} INPUT OUT"
        )
    preset: Counterfactual = request.settings or domain.QUALITY[request.quality]
    if request.student:
        preset = student_counterfactual(preset, student_plan(meta))
    return dataclasses.replace(preset, **overrides(request, *CHANGES))


def resolve_plan(request: CounterfactualRequest, model: Model, domain: ModuleType, settings: Counterfactual) -> Plan:
    """Resolve a run. Errors: a classifier too weak to guide."""
    own = model.meta.get("calibration", {})
    auroc, given = own.get("classifier_auroc"), request.threshold
    if settings.classifier_guidance > 0 and (auroc is None or auroc < domain.WEAKEST_CLASSIFIER):
        raise Error(
            f"Classifier guidance needs a classifier with a slice AUROC of {domain.WEAKEST_CLASSIFIER} or more on patients "
            f"it has not seen; this one's is {auroc}. Train a better one, or use --classifier-guidance 0."
        )
    return Plan(
        model=str(request.model),
        backend=model.backend,
        fingerprint=model.fingerprint[:16],
        target=request.target,
        counterfactual=settings,
        maps=MapSettings.from_json(own.get("maps", {})),
        threshold=float(own.get("threshold", 0.1) if given is None else given),
        threshold_origin=own.get("threshold_origin", "not calibrated") if given is None else "given by the user",
        sigmas=tuple(round(strength_to_sigma(s), 3) for s in settings.strengths),
        classifier_auroc=auroc,
        novelty_limit=own.get("novelty_limit"),
    )
