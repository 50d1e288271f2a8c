"""The skeleton of the experiments on classes, findings and boxes: which trainings there are, and what is written of them.

A training is an arm (recipe) at a number of shots and a seed. All arms of a seed take the same number of optimisation
steps, and each is tested on the same real samples of the fold that is kept back.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from diffgraft.evaluation.data import HELD_OUT, Family, Real
from diffgraft.evaluation.results import Terms, known_mean
from diffgraft.reporting.output import staged_output, write_metrics
from diffgraft.reporting.page import Run
from diffgraft.requests import record
from diffgraft.requests.evaluation import AlignmentRequest, ClassificationRequest, DetectionRequest
from diffgraft.requests.verb import Call, Watch
from toolkit.evaluation.downstream import Arm
from toolkit.example import Error, Example
from toolkit.methods.mixing import cutmix, mixup
from toolkit.models.folder import fingerprint
from toolkit.settings import Training

__all__ = [
    "OPTIMISATION",
    "POOL_ARMS",
    "REAL_ARMS",
    "REFERENCE",
    "Plan",
    "Step",
    "Task",
    "Trained",
    "arms",
    "by_arm",
    "image_sets",
    "output",
    "plan_trainings",
    "protocol",
    "report_run",
    "save",
    "training_steps",
    "with_steps",
]

REFERENCE = "real + classical"

REAL_ARMS = (
    Arm("real"),
    Arm(REFERENCE, augment=True),
    Arm("real + mixup/CutMix", mixing=(mixup, cutmix)),
    Arm("real + classical + mixup/CutMix", augment=True, mixing=(mixup, cutmix)),
)
POOL_ARMS = ("10", "50", "only", "pretrained")
"""The arms of each pool; see `arms`."""

OPTIMISATION = ("steps", "batch", "learning_rate", "warmup", "weight_decay", "precision")

Request = ClassificationRequest | DetectionRequest | AlignmentRequest
Step = Callable[[int, int], object]
"""Called after every step of a training: step(done, of)."""


class Outcome(Protocol):
    """What a training came to. seconds: of the training alone."""

    @property
    def seconds(self) -> float: ...


AnyOutcome = TypeVar("AnyOutcome", bound=Outcome)


@dataclass(frozen=True)
class Task:
    """One training: an arm at (shots, seed), on real samples and, if it draws from a pool, on synthetic ones."""

    title: str
    shots: int
    seed: int
    arm: Arm
    real: Sequence[Example]
    pool: Sequence[Example]


@dataclass(frozen=True)
class Plan:
    """Every training of an experiment. shots: ascending, 0 (all samples) last. skipped: what is left out, in words."""

    real: Real
    pools: Sequence[Family]
    shots: Sequence[int]
    seeds: Sequence[int]
    tasks: Sequence[Task]
    skipped: Sequence[str]


@dataclass(frozen=True)
class Trained(Generic[AnyOutcome]):
    """One arm at one number of shots: an outcome a seed, and what they cost. A trivial baseline has and costs nothing.

    generator: what that of its pool saw. seconds: of a training; overhead: of that over "real", in per cent.
    generation: seconds that making the pool took.
    """

    outcomes: Sequence[AnyOutcome] = ()
    generator: str = ""
    seconds: float | None = None
    overhead: float | None = None
    generation: float | None = None


def arms(pool: str, keys: Sequence[str] = POOL_ARMS) -> tuple[Arm, ...]:
    """The recipes of one synthetic pool, all with classical augmentation. keys: which of them."""
    every = (
        Arm(f"10 % {pool}", augment=True, pool=pool, share=0.1),
        Arm(f"50 % {pool}", augment=True, pool=pool, share=0.5),
        Arm(f"only {pool}", augment=True, pool=pool, share=1.0),
        Arm(f"pretrained on {pool}", augment=True, pool=pool, pretrain=0.5),
    )
    return tuple(arm for key, arm in zip(POOL_ARMS, every, strict=True) if key in keys)


def plan_trainings(
    real: Real,
    pools: Sequence[Family],
    shots: Sequence[int],
    seeds: int,
    terms: Terms,
    own_arms: Sequence[Arm] = REAL_ARMS,
    pool_arms: Sequence[str] = POOL_ARMS,
) -> Plan:
    """Every arm at every number of shots and every seed. own_arms: those of REAL alone; pool_arms: keys of each pool's.

    Errors: a family without a pool for any of the shots, or for some seeds only.
    """
    counts = sorted(set(shots), key=lambda k: k or math.inf) or [0]
    skipped, tasks = _lacking(pools, counts, range(seeds), terms), []
    for k in counts:
        for seed in range(seeds):
            own = real.training(k, seed)
            drawn = [(arm, ()) for arm in own_arms]
            for each in pools:
                if (pool := each.at(k, seed)) is not None:
                    drawn += [(arm, pool.examples) for arm in arms(each.name, pool_arms)]
            tasks += [
                Task(f"{terms.shots(k)}, seed {seed}: {arm.name}", k, seed, arm, own, made) for arm, made in drawn
            ]
    return Plan(real, pools, counts, range(seeds), tasks, skipped)


def training_steps(watch: Watch, titles: Sequence[str]) -> list[Step]:
    """What follows each of these trainings, all of the same length: it tells `watch` how far they are together."""

    def follow(number: int, title: str) -> Step:
        return lambda at, of: watch(title, number * of + at, len(titles) * of)

    return [follow(number, title) for number, title in enumerate(titles)]


def by_arm(plan: Plan, outcomes: Sequence[AnyOutcome], shots: int) -> dict[str, Trained[AnyOutcome]]:
    """The outcomes of one number of shots. outcomes: of every task."""
    found: dict[Arm, list[AnyOutcome]] = {}
    for task, outcome in zip(plan.tasks, outcomes, strict=True):
        if task.shots == shots:
            found.setdefault(task.arm, []).append(outcome)
    seconds = {arm.name: float(np.mean([o.seconds for o in each])) for arm, each in found.items()}
    plain = seconds.get(REAL_ARMS[0].name)
    trained = {}
    for arm, each in found.items():
        overhead = 100 * (seconds[arm.name] / plain - 1) if plain else None
        pool = next((p for p in plan.pools if p.name == arm.pool), None)
        used = [] if pool is None else [pool.at(shots, seed) for seed in plan.seeds]
        generator = "" if pool is None else pool.generator(plan.real, shots, plan.seeds)
        spent = known_mean([p.seconds for p in used if p is not None])
        trained[arm.name] = Trained(each, generator, seconds[arm.name], overhead, spent)
    return trained


def image_sets(real: Real, pools: Sequence[Family]) -> dict[str, list[Example]]:
    """What an alignment judges: the held-out real samples, and all that each family has."""
    return {HELD_OUT: list(real.test), **{each.name: each.examples for each in pools}}


def with_steps(settings: Training, steps: int | None, fold: int) -> Training:
    """The settings of every training, seeds apart; a tenth of the steps at most is warm-up. steps: None leaves them."""
    steps = settings.steps if steps is None else steps
    return dataclasses.replace(settings, steps=steps, fold=fold, warmup=min(settings.warmup, -(-steps // 10)))


def protocol(
    real: Real, settings: Training, seeds: int, pools: Sequence[Family], samples: str = "samples"
) -> dict[str, Any]:
    """What makes the figures of any experiment readable, as plain values."""
    return {
        "real": str(real.root),
        "test": f"{len(real.test)} {samples} of {len({e.group for e in real.test})} groups, fold {real.fold}; never trained on",
        f"training_{samples}": len(real.training()),
        "split": "by group, a function of its name (toolkit.data.dataset.fold_of)",
        "seeds": seeds,
        "optimisation": {name: getattr(settings, name) for name in OPTIMISATION},
        "pools": {each.name: each.facts for each in pools},
    }


def output(request: Request) -> AbstractContextManager[Path | None]:
    """The folder of the report, moved to its place when the block ends without an error; None for no report."""
    needed = [request.real, request.synthetic, *request.beside.values()]
    return staged_output(request.out, request.overwrite, needed)


def save(folder: Path, verb: str, request: Request, numbers: Mapping[str, Any]) -> None:
    """metrics.json, and the record of the request."""
    write_metrics(folder, numbers)
    record.save(folder, verb, request, "" if request.model is None else fingerprint(request.model))


def report_run(call: Call, protocol: Mapping[str, Any], begun: float) -> Run:
    """How a report came to be. begun: time.monotonic() at the start."""
    return Run(call.command, protocol["optimisation"], seed=0, seconds=time.monotonic() - begun)


def _lacking(pools: Sequence[Family], shots: Sequence[int], seeds: Sequence[int], terms: Terms) -> list[str]:
    """What is left out, in words: a family's arms at numbers of shots that it has no pool for."""
    skipped = []
    for each in pools:
        lacking = [k for k in shots if not any(each.at(k, seed) for seed in seeds)]
        if len(lacking) == len(shots):
            raise Error(
                f"A pool has samples for the shots asked for, {list(shots)}; '{each.name}' has none. Make some."
            )
        skipped += [f"'{each.name}' has no pool for {terms.shots(k)}: its arms are left out there." for k in lacking]
        for k in set(shots) - set(lacking):
            if gone := [seed for seed in seeds if each.at(k, seed) is None]:
                raise Error(
                    f"A pool has one data set a seed; '{each.name}' lacks k{k}-s{gone[0]}. Make it, or ask for fewer --seeds."
                )
    return skipped
