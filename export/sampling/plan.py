"""What a fused graph is made to do, and the table that a host goes by: plain values, no graph library.

The plan stands beside its graph as JSON (`sampler.json` beside sampler.onnx), with the table of every step's noise level
and coefficients, so that any program can run the graph without knowing a sampler.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.sampling.tableau import Tableau, steps, tableau
from toolkit.diffusion.samplers import STOCHASTIC
from toolkit.example import Error

__all__ = ["Healing", "Plan", "read", "sidecar", "table", "tables", "weight", "write"]


@dataclass(frozen=True)
class Healing:
    """An image into its counterfactual: up with the label not stated, down with it, and the map of the difference.

    label: the field that is changed. mirror: also the mirror image, averaged. encoder: graph that is taken on the way up.
    smooth: of the map, standard deviation in pixels of the model's image; opposite: of what the mirror image shows, which
    counts by `symmetry`.
    """

    label: str
    mirror: bool = True
    encoder: str = "denoiser"
    smooth: float = 1.25
    opposite: float = 1.5
    symmetry: float = 0.4


@dataclass(frozen=True)
class Plan:
    """One sampler run, told whole.

    schedules: decreasing noise levels; more than one only of a counterfactual, which averages them. guidance:
    classifier-free. denoiser: the graph. initial_scale: factor of the noise that generation starts from; final_scale: x is
    divided by it before it is decoded. classifier_guidance: scale of the classifier's gradient, off at and below
    guidance_low. healing: None generates images.
    """

    sampler: str
    schedules: tuple[tuple[float, ...], ...]
    guidance: float = 1.0
    denoiser: str = "denoiser"
    initial_scale: float = 1.0
    final_scale: float = 1.0
    classifier_guidance: float = 0.0
    guidance_low: float = 0.0
    healing: Healing | None = None

    def __post_init__(self) -> None:
        lengths = {len(levels) for levels in self.schedules}
        if len(lengths) != 1 or min(lengths) < 2:
            raise Error(f"The schedules of a fused graph have one length of 2 or more; found {sorted(lengths)}.")
        if self.healing is None and len(self.schedules) != 1:
            raise Error(f"New images are sampled on one schedule; found {len(self.schedules)}.")
        if self.healing is None and self.classifier_guidance:
            raise Error("A classifier guides counterfactuals alone; found it in a plan for new images. Set it to 0.")
        if self.healing is not None and self.sampler in STOCHASTIC:
            raise Error(f"A counterfactual needs a deterministic sampler; '{self.sampler}' draws noise. Use euler.")

    @property
    def encoding(self) -> Plan | None:
        """What the step graph of the way up does, where that of the way down would do more, or another network."""
        guided = self.guidance not in (0, 1) or self.classifier_guidance != 0
        if self.healing is None or not (guided or self.healing.encoder != self.denoiser):
            return None
        return dataclasses.replace(self, guidance=1.0, classifier_guidance=0.0, denoiser=self.healing.encoder)

    @property
    def steps(self) -> int:
        return len(self.schedules[0]) - 1


def tables(plan: Plan) -> tuple[list[Tableau], list[Tableau]]:
    """Of every schedule the way up, empty where images are generated, and the way down."""
    down = [tableau(plan.sampler, levels) for levels in plan.schedules]
    if plan.healing is None:
        return [], down
    return [tableau(plan.sampler, levels[-2::-1]) for levels in plan.schedules], down


def weight(plan: Plan, sigma: float) -> float:
    """Scale of the classifier's gradient at a noise level: 0 outside the interval."""
    return plan.classifier_guidance if sigma > plan.guidance_low else 0.0


def table(plan: Plan) -> dict[str, Any]:
    """Every evaluation of every walk in the form of the step graph; None where a sampler has no such form."""

    def told(walk: Tableau) -> dict[str, Any]:
        numbers, draws = steps(walk, plan.sampler)
        scales = [weight(plan, sigma) for sigma in walk.sigmas]
        return {
            "sigma": list(walk.sigmas), "coefficients": numbers.tolist(), "draw": list(draws), "classifier_guidance": scales
        }  # fmt: skip

    up, down = tables(plan)
    return {"up": [told(walk) for walk in up], "down": [told(walk) for walk in down]}


def sidecar(graph: Path) -> Path:
    """Where the plan of a graph lies: sampler.fp16.onnx has sampler.fp16.json."""
    return graph.with_suffix(".json")


def write(graph: Path, plan: Plan, form: str) -> Path:
    """Write the plan of a graph beside it. form: "step", "unrolled" or "scan"."""
    path = sidecar(graph)
    _, down = tables(plan)
    whole = {"format": 1, "form": form, "plan": dataclasses.asdict(plan), "draws": list(down[0].draws)}
    try:
        whole["table"] = table(plan)
    except Error:  # only an unrolled graph runs such a sampler, and it needs no table
        if form != "unrolled":
            raise
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def read(graph: Path) -> tuple[Plan, Mapping[str, Any]]:
    """The plan of a graph, and all that stands beside it."""
    path = sidecar(graph)
    if not path.is_file():
        raise Error(
            f"A fused graph has its plan beside it; {path.name} is missing. Write both: "
            f"diffgraft export {graph.parent} --to onnx --fuse {graph.name.partition('.')[0]}"
        )
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        plain = dict(whole["plan"])
        healing = None if plain["healing"] is None else Healing(**plain["healing"])
        schedules = tuple(tuple(float(sigma) for sigma in levels) for levels in plain["schedules"])
        return Plan(**(plain | {"healing": healing, "schedules": schedules})), whole
    except (ValueError, KeyError, TypeError) as problem:
        raise Error(
            f"The plan of a graph is what diffgraft wrote; {path} is not: {problem}. Export it again."
        ) from problem
