"""Does synthetic data help? The downstream experiment: the same small classifier under every recipe (arm), with equal
optimisation steps, each tested on the same real samples of the fold that is kept back.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffgraft.evaluation.classes import report as classify_report
from diffgraft.evaluation.classes.result import Classification, Row, said
from diffgraft.evaluation.experiment import (
    REAL_ARMS,
    REFERENCE,
    Watch,
    arms,
    check,
    covered,
    dump,
    output,
    protocol,
    settled,
)
from diffgraft.evaluation.findings import experiment as findings
from diffgraft.evaluation.findings.result import Gains
from diffgraft.evaluation.pools import Family, Real, arrays, families, read_real, strata, with_findings
from toolkit.evaluation import classification as scores
from toolkit.evaluation.downstream import SETTINGS, Arm, Labelled, Outcome, train
from toolkit.example import Error, Example
from toolkit.settings import Training

__all__ = ["Classification", "Row", "classify"]


@dataclass(frozen=True)
class _Task:
    """One training: an arm at (shots, seed)."""

    shots: int
    seed: int
    arm: Arm
    real: Sequence[Example]
    pool: Sequence[Example]


def classify(
    data: str | Path,
    fake: str | Path,
    *,
    beside: Mapping[str, str | Path] | None = None,
    label: str | None = None,
    shots: Sequence[int] = (),
    seeds: int = 3,
    steps: int = SETTINGS.steps,
    fold: int | None = None,
    model: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    watch: Watch = lambda *_: None,
) -> Classification | Gains:
    """Train every arm for every number of shots and every seed, and test it on the held-out fold of REAL.

    fake, beside: synthetic data sets, or folders of few-shot ones (see diffgraft.evaluation.pools). shots: samples of each class,
    0 or nothing is all. steps: of every training. model: of FAKE, where it does not say what its generator was trained
    on. out: new folder for report.html and metrics.json. watch(text, steps done, of all) after every step. label: None
    is the class of photographs, and of films every finding at once (diffgraft.evaluation.findings.experiment); fold: None is the one that the
    domain keeps back.
    Errors: see diffgraft.evaluation.pools; no seed, too few steps, a number of shots that no pool has.
    """
    check(seeds, steps, shots)
    if label is None and with_findings(Path(data)):
        if any(shots):
            raise Error(
                "Findings are learned from all films: of a few shots of each class there are none. Name one label: --label NAME"
            )
        return findings.classify(
            data, fake, beside=beside, seeds=seeds, steps=steps, fold=fold, model=model, out=out, overwrite=overwrite,
            command=command, watch=watch,
        )  # fmt: skip
    label = label or "class"
    begun = time.monotonic()
    with output(out, overwrite, [data, fake, *(beside or {}).values()]) as folder:
        real = read_real(Path(data), label, fold)
        pools = families(real, fake, beside, model)
        asked = sorted(set(shots), key=lambda k: k or math.inf) or [0]
        tasks, skipped = _tasks(real, pools, asked, range(seeds))
        settings = settled(steps, real.fold)
        outcomes = _run(real, tasks, settings, watch)
        rows = _rows(real, pools, asked, range(seeds), tasks, outcomes)
        result = Classification(
            rows, real.names, protocol(real, settings, seeds, pools), (*skipped, *_warnings(rows, seeds))
        )
        if folder is not None:
            dump(folder, result.numbers)
            shown = [real.test, *(next(iter(each.pools.values())).examples for each in pools)]
            classify_report.write(folder / "report.html", result, shown, label, command, time.monotonic() - begun)
    return result


# The experiment


def _tasks(
    real: Real, pools: Sequence[Family], shots: Sequence[int], seeds: Sequence[int]
) -> tuple[list[_Task], list[str]]:
    """Every training there is to do, and what is left out."""
    skipped, tasks = covered(pools, shots, seeds, said), []
    for k in shots:
        for seed in seeds:
            own = real.training(k, seed)
            tasks += [_Task(k, seed, arm, own, ()) for arm in REAL_ARMS]
            for each in pools:
                if (pool := each.at(k, seed)) is not None:
                    tasks += [_Task(k, seed, arm, own, pool.examples) for arm in arms(each.name)]
    return tasks, skipped


def _run(real: Real, tasks: Sequence[_Task], settings: Training, watch: Watch) -> list[Outcome]:
    test, _ = arrays(real.test, real.label)
    outcomes = []
    for number, task in enumerate(tasks):
        text = f"{said(task.shots)}, seed {task.seed}: {task.arm.name}"

        def step(at: int, of: int, text: str = text, number: int = number) -> None:
            watch(text, number * of + at, len(tasks) * of)

        pools = {task.arm.pool: Labelled(*arrays(task.pool, real.label))} if task.arm.pool else {}
        outcomes.append(
            train(
                task.arm, Labelled(*arrays(task.real, real.label)), pools, test, len(real.names),
                real.domain.AUGMENTATION, dataclasses.replace(settings, seed=task.seed), watch=step,
            )
        )  # fmt: skip
    return outcomes


def _rows(
    real: Real,
    pools: Sequence[Family],
    shots: Sequence[int],
    seeds: Sequence[int],
    tasks: Sequence[_Task],
    outcomes: Sequence[Outcome],
) -> tuple[Row, ...]:
    test, truth = arrays(real.test, real.label)
    groups = [e.group for e in real.test]
    others = strata(real)
    rows = []
    for k in shots:
        found: dict[str, list[Outcome]] = {}
        pool: dict[str, str] = {}
        for task, outcome in zip(tasks, outcomes, strict=True):
            if task.shots == k:
                found.setdefault(task.arm.name, []).append(outcome)
                pool[task.arm.name] = task.arm.pool
        runs = {name: np.stack([o.predicted for o in each]) for name, each in found.items()}
        own = [arrays(real.training(k, seed), real.label) for seed in seeds]
        runs["random forest"] = np.stack([scores.forest(*each, test, n) for n, each in zip(seeds, own, strict=True)])
        runs["majority class"] = np.stack([scores.majority(y, len(test), len(real.names)) for _, y in own])
        plain = np.mean([o.seconds for o in found[REAL_ARMS[0].name]])
        for name, predicted in runs.items():
            figures = tuple(scores.figures(run, truth, len(real.names)) for run in predicted)
            made = next((f for f in pools if f.name == pool.get(name)), None)
            used = [] if made is None else [made.at(k, seed) for seed in seeds]
            spent = [each.seconds for each in used if each is not None]
            trained = found.get(name)
            seconds = float(np.mean([o.seconds for o in trained])) if trained else None
            rows.append(
                Row(
                    shots=k,
                    arm=name,
                    generator="" if made is None else made.generator(real, k, seeds),
                    balanced=scores.balanced_accuracy(predicted, truth, groups),
                    spread=round(float(np.std([each.balanced_accuracy for each in figures])), 6),
                    gain=None if name == REFERENCE else scores.difference(predicted, runs[REFERENCE], truth, groups),
                    figures=figures,
                    calibration=(
                        float(np.mean([scores.calibration_error(o.log_probability, truth) for o in trained]))
                        if trained
                        else None
                    ),
                    seconds=seconds,
                    overhead=None if seconds is None else 100 * (seconds / plain - 1),
                    generation=None if not spent or None in spent else float(np.mean(spent)),  # type: ignore[arg-type]
                    strata={
                        other: {v: float((predicted == truth)[:, index].mean()) for v, index in values.items()}
                        for other, values in others.items()
                    },
                )
            )
    return tuple(rows)


def _warnings(rows: Sequence[Row], seeds: int) -> list[str]:
    found = []
    if any(row.generator.endswith("not stated") for row in rows):
        found.append(
            "What a generator was trained on is not stated: it may have seen the test samples. Name its folder with --model."
        )
    if any(row.shots and row.generator.startswith("full-data") for row in rows):
        found.append(
            "A full-data generator saw more labelled samples than the classifier of a few-shot arm: its gain there is not one "
            "that k samples a class would give."
        )
    for shots in dict.fromkeys(row.shots for row in rows):
        here = [row for row in rows if row.shots == shots]
        best = max(here, key=lambda row: row.balanced.value or 0.0)
        if not best.generator and any(row.generator for row in here):
            found.append(f"No arm with synthetic samples is above '{best.arm}' ({best.balanced}) with {said(shots)}.")
    if seeds < 3:
        found.append(f"{seeds} seed(s): intervals hardly cover what another seed would give. Take three or more.")
    return found
