"""The request of counterfactual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from diffgraft.requests.base import converted, path, request
from toolkit.example import Error
from toolkit.settings import Counterfactual

__all__ = ["CounterfactualRequest"]


@request
class CounterfactualRequest:
    """Healthy counterfactual, anomaly map and mask of each scan, on its own grid.

    model, out: folders. scans: a NIfTI file, a DICOM MR series, or a folder of them. target: what a scan becomes. settings:
    all of them, else those of `quality` (fast, default, best) in which the fields from strengths to student change single
    ones, see toolkit.settings.Counterfactual. threshold: of the mask, the model's calibrated one where None. nan: "refuse",
    or "zero" sets voxels that are not finite to 0. force: treat scans that the input gate refuses.
    """

    model: Path = converted(converter=path)
    scans: Path = converted(converter=path)
    out: Path = converted(converter=path)
    target: str = "healthy"
    settings: Counterfactual | None = None
    quality: Literal["fast", "default", "best"] = "default"
    strengths: Sequence[float] | None = None
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    classifier_guidance: float | None = None
    guidance_low: float | None = None
    mirror: bool | None = None
    seed: int | None = None
    student: bool = False
    threshold: float | None = None
    nan: str = "refuse"
    force: bool = False
    backend: str = "auto"
    overwrite: bool = False

    def validate(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise Error(
                f"A threshold of the map is a number above 0; found {self.threshold}. Leave it out for the model's own."
            )
