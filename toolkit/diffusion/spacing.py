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
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from toolkit.diffusion import schedule
from toolkit.diffusion.schedule import Clock
from toolkit.example import Error

__all__ = ["CLOCK", "SCHEDULERS", "Scheduler", "clock_config", "sigmas"]

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Scheduler:
    """How a class of schedulers makes its noise levels. What it does not know in a config is another's, and left alone.

    further: places beyond the steps, the lowest of which are left out. whole: at whole time steps. spacing: where the
    config names none. ends: (config) -> whether the walk ends at sigma 0, else at the clock's first. clocked: Karras'
    and exponential schedules span the clock, else the places. knows: options that it has. betas: where the config has none.
    """

    further: int
    whole: bool
    spacing: str
    ends: Callable[[Config], bool]
    clocked: bool = True
    knows: frozenset[str] = frozenset({"timestep_spacing"})
    betas: tuple[float, float, str] = (0.0001, 0.02, "linear")


def _to_zero(config: Config) -> bool:
    return config.get("final_sigmas_type", "zero") == "zero"


def _never(config: Config) -> bool:
    return False


def _always(config: Config) -> bool:
    return True


def _known(*names: str) -> frozenset[str]:
    return frozenset(("timestep_spacing", *names))


CURVES = ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas")
"""What takes the place of a spacing, the first that is set."""

SNR, CLIP = "rescale_betas_zero_snr", "lambda_min_clipped"
_CURVED = _known("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_FLOW = _CURVED | {"use_flow_sigmas"}
_STABLE = (0.00085, 0.012, "linear")
_DDIM = Scheduler(0, True, "leading", lambda config: config.get("set_alpha_to_one", True), knows=_known(SNR))
_DDPM = Scheduler(0, True, "leading", _always, knows=_known(SNR))
_DPM = Scheduler(1, True, "linspace", _to_zero, knows=_FLOW | {"use_lu_lambdas", SNR, CLIP})
_EULER = Scheduler(0, False, "linspace", _always, False, _CURVED)
_ENDS = {"sigma_min", "sigma_max"}
SCHEDULERS: Mapping[str, Scheduler] = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "PNDMScheduler": Scheduler(0, True, "leading", lambda config: config.get("set_alpha_to_one", False)),
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "DPMSolverMultistepScheduler": _DPM,
    "DPMSolverSinglestepScheduler": Scheduler(
        1, True, "linspace", _to_zero, knows=_FLOW - {"timestep_spacing"} | {CLIP}
    ),
    "DEISMultistepScheduler": Scheduler(1, True, "linspace", _never, knows=_FLOW),
    "SASolverScheduler": Scheduler(1, True, "linspace", _never, knows=_FLOW | {CLIP}),
    "UniPCMultistepScheduler": Scheduler(1, True, "linspace", _to_zero, knows=_FLOW | _ENDS | {SNR}),
    "EulerDiscreteScheduler": Scheduler(
        0, False, "linspace", _to_zero, False, _CURVED | _ENDS | {SNR, "timestep_type"}
    ),
    "EulerAncestralDiscreteScheduler": Scheduler(0, False, "linspace", _always, False, _known(SNR)),
    "LMSDiscreteScheduler": _EULER,
    "HeunDiscreteScheduler": replace(_EULER, betas=_STABLE),
    "KDPM2DiscreteScheduler": replace(_EULER, betas=_STABLE),
    "KDPM2AncestralDiscreteScheduler": replace(_EULER, betas=_STABLE),
    "DPMSolverSDEScheduler": replace(_EULER, betas=_STABLE),
    "LCMScheduler": Scheduler(
        0, True, "origin", _always, knows=frozenset({SNR}), betas=(0.00085, 0.012, "scaled_linear")
    ),
    "TCDScheduler": Scheduler(
        0, True, "origin", _never, knows=frozenset({SNR}), betas=(0.00085, 0.012, "scaled_linear")
    ),
}
"""The classes that are known. Of each the noise levels are taken, not the solver: that is a sampler of our own."""

ANOTHER = {
    "FlowM": "flow matching", "LTX": "flow matching", "Helios": "flow matching", "Piflow": "flow matching", "SCM": "TrigFlow",
    "EDM": "EDM's sigmas", "CosineDPM": "EDM's sigmas", "KarrasVe": "EDM's sigmas", "CMStochastic": "EDM's sigmas",
    "ScoreSde": "a stochastic equation", "IPNDM": "betas of its own", "UnCLIP": "unCLIP", "VQ": "discrete tokens",
}  # fmt: skip
"""Beginnings of the names of schedulers of other processes -> what those are."""

REMEDY = "Save the pipeline with one of these: pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
CLOCK = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "trained_betas", SNR)
"""What of a scheduler's config is the training clock, the words of `schedule.clock_from_config`."""


def clock_config(config: Config) -> dict[str, Any]:
    """The training clock that a scheduler_config.json states, with the defaults of its class for what it leaves out.

    Errors: a scheduler of another process, or of a class that is not known.
    """
    kind = _checked(config)
    usual = dict(zip(CLOCK, (*kind.betas, 1000), strict=False))
    stated = {key: config.get(key, usual.get(key)) for key in CLOCK if key != SNR or SNR in kind.knows}
    return {key: value for key, value in stated.items() if value is not None}


def sigmas(config: Config, clock: Clock, steps: int) -> list[float]:
    """The noise levels of `steps` steps of a scheduler, strictly decreasing, the last 0 or the clock's first.

    config: scheduler_config.json. clock: of the checkpoint. A step that would change nothing (DDIM's last, where it
    ends at the level it is at) is left out, so there may be one fewer. Errors: an unknown scheduler, more steps than
    there are.
    """
    kind = _checked(config)
    config = {key: value for key, value in config.items() if key not in OPTIONS or key in kind.knows}
    total, spacing = len(clock.sigmas), config.get("timestep_spacing", kind.spacing)
    if not 1 <= steps <= total - kind.further:
        raise Error(
            f"Of a checkpoint's {total} training steps at least one is taken and none twice; found {steps} steps."
        )
    if spacing == "origin":
        places = _original(total, steps, int(config.get("original_inference_steps") or 50))
    else:
        top = total - _clipped(config, clock)
        places = _places(spacing, top, total, steps + kind.further, kind, config.get("steps_offset", 0))[:steps]
    if places[0] > total - 1:
        raise Error(
            f"A step of a scheduler is one of the {total} trained; {steps} with an offset begin at {places[0] + 1:g}. "
            "Take fewer steps."
        )
    levels = [_level(clock, place) for place in places]
    high, low = (clock.sigmas[-1], clock.sigmas[0]) if kind.clocked else (levels[0], levels[-1])
    chosen = next((name for name in CURVES if config.get(name)), None)
    if chosen:
        high, low = config.get("sigma_max") or high, config.get("sigma_min") or low
        levels = _CURVE[chosen](steps, high, low)
    levels.append(0.0 if kind.ends(config) else clock.sigmas[0])
    return levels[:1] + [after for before, after in pairwise(levels) if after < before]


def _beta_levels(steps: int, high: float, low: float) -> list[float]:
    """Lee et al. 2024, arXiv:2407.12173: levels between two at quantiles of Beta(0.6, 0.6)."""
    from scipy.special import betaincinv

    parts = [1 - n / max(1, steps - 1) for n in range(steps)]
    return [low + (high - low) * float(betaincinv(0.6, 0.6, part)) for part in parts]


_CURVE: Mapping[str, Callable[[int, float, float], list[float]]] = {
    "use_karras_sigmas": lambda steps, high, low: schedule.karras(steps, high, low)[:-1],
    "use_lu_lambdas": lambda steps, high, low: schedule.exponential(steps, high, low)[:-1],
    "use_exponential_sigmas": lambda steps, high, low: schedule.exponential(steps, high, low)[:-1],
    "use_beta_sigmas": _beta_levels,
}
"""Option -> (steps, highest, lowest) -> so many levels. Lu et al.'s lambdas (arXiv:2206.00927) are even in log sigma."""

OPTIONS = frozenset((*CURVES, *_ENDS, "timestep_spacing", "use_flow_sigmas", "timestep_type", SNR, CLIP))
"""What some classes know and others do not."""


def _checked(config: Config) -> Scheduler:
    name = str(config.get("_class_name"))
    if name not in SCHEDULERS:
        other = next((process for start, process in ANOTHER.items() if name.startswith(start)), None)
        if other:
            raise Error(
                f"A scheduler adds noise by betas, as Stable Diffusion 1.x and 2.x were trained; {name} is of {other}. "
                "Take a checkpoint of that kind; if this U-Net is one, save it with the DDIMScheduler that it was trained with."
            )
        raise Error(f"A scheduler is one of {', '.join(SCHEDULERS)}; found {name}. {REMEDY}")
    kind = SCHEDULERS[name]
    if (config.get("use_flow_sigmas") and "use_flow_sigmas" in kind.knows) or config.get(
        "prediction_type"
    ) == "flow_prediction":
        raise Error(
            f"A scheduler adds noise by betas, as Stable Diffusion 1.x and 2.x were trained; {name} is set to flow matching "
            "(use_flow_sigmas or flow_prediction). Take a checkpoint of that kind."
        )
    if config.get("timestep_type") == "continuous" and "timestep_type" in kind.knows:
        raise Error(
            f"A U-Net is told time steps, as Stable Diffusion 1.x and 2.x were trained; {name} tells it log sigma "
            "(timestep_type continuous). Take a checkpoint of that kind."
        )
    return kind


def _original(total: int, steps: int, origin: int) -> list[float]:
    """Time steps out of those `origin` that a latent consistency model was distilled at (Luo et al. 2023, arXiv:2310.04378)."""
    if not steps <= origin <= total:
        raise Error(
            f"This scheduler takes at most the {origin} steps that it was distilled at; found {steps}. Take fewer."
        )
    walked = [(n + 1) * (total // origin) - 1 for n in range(origin)][::-1]
    return [float(walked[n * origin // steps]) for n in range(steps)]


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
