"""Does synthetic data help? The same small classifier of one label under every recipe (arm)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from diffgraft.evaluation.classes import report
from diffgraft.evaluation.classes.result import TERMS, ClassificationResult, Row
from diffgraft.evaluation.classifier import classifier_protocol, train_arms
from diffgraft.evaluation.data import Real, groups, stack_images
from diffgraft.evaluation.experiment import (
    REFERENCE,
    Plan,
    Trained,
    by_arm,
    image_sets,
    output,
    plan_trainings,
    report_run,
    save,
    with_steps,
)
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import read_real
from diffgraft.evaluation.results import row_warnings
from diffgraft.requests.evaluation import ClassificationRequest
from diffgraft.requests.verb import Call
from toolkit.evaluation import classification as scores
from toolkit.evaluation.downstream import SETTINGS, Outcome

__all__ = ["classify"]


def classify(request: ClassificationRequest, call: Call) -> ClassificationResult:
    """Train every arm for every number of shots and every seed, and test it on the held-out fold of REAL."""
    begun = time.monotonic()
    with output(request) as folder:
        real = read_real(request.real, request.label or "class", request.fold)
        pools = families(real, request.synthetic, request.beside, request.model)
        plan = plan_trainings(real, pools, request.shots, request.seeds, TERMS)
        settings = with_steps(SETTINGS, request.steps, real.fold)
        outcomes = train_arms(plan, settings, call.watch)
        rows = [row for shots in plan.shots for row in _rows(plan, shots, by_arm(plan, outcomes, shots))]
        warnings = (*plan.skipped, *row_warnings(rows, request.seeds, TERMS))
        facts = classifier_protocol(real, settings, request.seeds, pools)
        result = ClassificationResult(tuple(rows), real.names, facts, warnings)
        if folder is not None:
            save(folder, "evaluate classify", request, result.numbers)
            run = report_run(call, facts, begun)
            report.write(folder / "report.html", result, image_sets(real, pools), real.label, run)
    return result


def _rows(plan: Plan, shots: int, trained: Mapping[str, Trained[Outcome]]) -> list[Row]:
    """A row an arm, and one a trivial baseline, at one number of shots."""
    real = plan.real
    truth, classes, leaves = real.targets(real.test), len(real.names), groups(real.test)
    runs = {name: np.stack([o.predicted for o in each.outcomes]) for name, each in trained.items()}
    runs |= _baselines(plan, shots)
    others, rows = _strata(real), []
    for name, predicted in runs.items():
        arm = trained.get(name, Trained[Outcome]())
        figures = tuple(scores.figures(run, truth, classes) for run in predicted)
        errors = [scores.calibration_error(o.log_probability, truth) for o in arm.outcomes]
        rows.append(
            Row(
                shots=shots,
                arm=name,
                generator=arm.generator,
                balanced=scores.balanced_accuracy(predicted, truth, leaves),
                spread=round(float(np.std([each.balanced_accuracy for each in figures])), 6),
                gain=None if name == REFERENCE else scores.difference(predicted, runs[REFERENCE], truth, leaves),
                figures=figures,
                calibration=float(np.mean(errors)) if errors else None,
                seconds=arm.seconds,
                overhead=arm.overhead,
                generation=arm.generation,
                strata={
                    other: {v: float((predicted == truth)[:, index].mean()) for v, index in values.items()}
                    for other, values in others.items()
                },
            )
        )
    return rows


def _baselines(plan: Plan, shots: int) -> dict[str, np.ndarray]:
    """What costs nothing, on the training samples of each seed: predicted classes (S, N)."""
    real, test = plan.real, stack_images(plan.real.test)
    forests, majorities = [], []
    for seed in plan.seeds:
        own = real.training(shots, seed)
        forests.append(scores.random_forest(stack_images(own), real.targets(own), test, seed))
        majorities.append(scores.majority_class(real.targets(own), len(test), len(real.names)))
    return {"random forest": np.stack(forests), "majority class": np.stack(majorities)}


def _strata(real: Real) -> dict[str, dict[str, np.ndarray]]:
    """Other labels -> value -> the test samples that have it; a label that follows from the class says nothing new."""
    found = {}
    for other in real.vocabulary:
        values: dict[str, list[int]] = {}
        for n, example in enumerate(real.test):
            value = example.annotation.labels.get(other, math.nan)
            if not math.isnan(value):
                values.setdefault(f"{value:g}", []).append(n)
        kinds = [{real.test[n].annotation.labels[real.label] for n in index} for index in values.values()]
        if 2 <= len(values) <= 10 and any(len(each) > 1 for each in kinds):
            entry = real.vocabulary[other]
            names = {v: entry[int(v)] if type(entry) is tuple else v for v in values}
            found[other] = {names[v]: np.array(values[v]) for v in sorted(values, key=float)}
    return found
