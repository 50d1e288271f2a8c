"""A checkpoint's own noise levels: which of its training steps its scheduler_config.json walks down, and where it ends.

The names are diffusers'. Three families place their steps differently (Lin et al. 2023, arXiv:2305.08891, table 2, for
the spacings): DDIM and its like at `steps` whole time steps, the DPM solvers at `steps` of `steps` + 1, Euler and its
like at real ones. Two of their peculiarities are not followed, because a list of sigmas has one value a place: where
DDIM's steps are not even (linspace, or trailing with steps that do not divide the training's) diffusers goes to a place
beside the next one; and a time step that Karras' schedule rounds for the network stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from toolkit.diffusion import schedule
from toolkit.diffusion.schedule import Clock
from toolkit.example import Error

__all__ = ["SCHEDULERS", "Scheduler", "sigmas"]

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Scheduler:
    """How a class of schedulers places its steps.

    further: places beyond the steps, the lowest of which are left out. whole: at whole time steps. spacing: where the
    config names none. ends: (config) -> whether the walk ends at sigma 0, else at the clock's first. clocked: Karras'
    and exponential schedules span the clock, else the places.
    """

    further: int
    whole: bool
    spacing: str
    ends: Callable[[Config], bool]
    clocked: bool = True


def _to_zero(config: Config) -> bool:
    return config.get("final_sigmas_type", "zero") == "zero"


_DPM = Scheduler(1, True, "linspace", _to_zero)
_EULER = Scheduler(0, False, "linspace", _to_zero, clocked=False)
SCHEDULERS: Mapping[str, Scheduler] = {
    "DDIMScheduler": Scheduler(0, True, "leading", lambda config: config.get("set_alpha_to_one", True)),
    "PNDMScheduler": Scheduler(0, True, "leading", lambda config: config.get("set_alpha_to_one", False)),
    "DDPMScheduler": Scheduler(0, True, "leading", lambda config: True),
    "DPMSolverMultistepScheduler": _DPM,
    "UniPCMultistepScheduler": _DPM,
    "EulerDiscreteScheduler": _EULER,
    "EulerAncestralDiscreteScheduler": _EULER,
    "LMSDiscreteScheduler": _EULER,
}
"""The classes that are known. Of each the noise levels are taken, not the solver: that is a sampler of our own."""

_UNKNOWN = ("use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")


def sigmas(config: Config, clock: Clock, steps: int) -> list[float]:
    """The noise levels of `steps` steps of a scheduler, strictly decreasing, the last 0 or the clock's first.

    config: scheduler_config.json. clock: of the checkpoint. A step that would change nothing (DDIM's last, where it
    ends at the level it is at) is left out, so there may be one fewer. Errors: an unknown scheduler, more steps than
    there are.
    """
    kind = _known(config)
    total, spacing = len(clock.sigmas), config.get("timestep_spacing", kind.spacing)
    if not 1 <= steps <= total - kind.further:
        raise Error(
            f"Of a checkpoint's {total} training steps at least one is taken and none twice; found {steps} steps."
        )
    top = total - _clipped(config, clock)
    places = _places(spacing, top, total, steps + kind.further, kind, config.get("steps_offset", 0))[:steps]
    if places[0] > total - 1:
        raise Error(
            f"A step of a scheduler is one of the {total} trained; {steps} with an offset begin at {places[0] + 1:g}. "
            "Take fewer steps."
        )
    levels = [_level(clock, place) for place in places]
    high, low = (clock.sigmas[-1], clock.sigmas[0]) if kind.clocked else (levels[0], levels[-1])
    for name, curve in (("use_karras_sigmas", schedule.karras), ("use_exponential_sigmas", schedule.exponential)):
        if config.get(name):
            levels = curve(steps, high, low)[:-1]
    levels.append(0.0 if kind.ends(config) else clock.sigmas[0])
    return levels[:1] + [after for before, after in pairwise(levels) if after < before]


def _known(config: Config) -> Scheduler:
    name = str(config.get("_class_name"))
    if name not in SCHEDULERS:
        raise Error(
            f"A scheduler is one of {', '.join(SCHEDULERS)}; found {name}. "
            "Save the pipeline with one of these: pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
        )
    strange = [option for option in _UNKNOWN if config.get(option)]
    if strange:
        raise Error(f"A scheduler takes its noise levels from its betas; found {strange[0]}. Set it to false.")
    return SCHEDULERS[name]


def _places(spacing: str, top: int, total: int, steps: int, kind: Scheduler, offset: int) -> list[float]:
    """Time steps, counted from 0, from the noisiest down."""
    if spacing == "linspace":
        each = (top - 1) / max(1, steps - 1)
        real = [(steps - 1 - n) * each for n in range(steps)]
        return [float(round(place)) for place in real] if kind.whole else real
    if spacing == "leading":
        return [float((steps - 1 - n) * (top // steps) + offset) for n in range(steps)]
    if spacing == "trailing":
        taken = steps - kind.further
        real = [top - n * (total / taken) for n in range(taken)]
        return [round(place) - 1.0 for place in real if place > 0.5]
    raise Error(f"A spacing of time steps is leading, trailing or linspace; found '{spacing}'.")


def _clipped(config: Config, clock: Clock) -> int:
    """How many of the noisiest steps a DPM solver leaves out, where log(1 / sigma) is below its lambda_min_clipped."""
    least = float(config.get("lambda_min_clipped", -math.inf))
    return sum(-math.log(sigma) < least for sigma in clock.sigmas)


def _level(clock: Clock, place: float) -> float:
    """Sigma at a time step, linear between two."""
    low = int(place)
    if low == place:
        return clock.sigmas[low]
    return clock.sigmas[low] + (place - low) * (clock.sigmas[low + 1] - clock.sigmas[low])
