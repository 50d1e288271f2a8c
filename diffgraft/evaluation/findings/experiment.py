"""Films with findings: do synthetic ones help a classifier of every finding, and of the classes that a model is
conditioned on (view, sex), at once?

It is trained under every recipe (arm). Films of a patient are on one side of the split, and the generators of the
synthetic films must not have seen the held-out patients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from diffgraft.evaluation import subgroups
from diffgraft.evaluation.classifier import classifier_protocol, train_arms
from diffgraft.evaluation.data import HELD_OUT, Real, groups, label_values, stack_images
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
from diffgraft.evaluation.findings import report
from diffgraft.evaluation.findings.figures import (
    FEWEST,
    abnormality,
    balanced_accuracy,
    count_stated,
    scores_by_label,
    testable,
)
from diffgraft.evaluation.findings.result import TERMS, Films, FindingsResult, Row
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import read_films
from diffgraft.evaluation.results import row_warnings
from diffgraft.requests.evaluation import ClassificationRequest
from diffgraft.requests.verb import Call
from toolkit.evaluation import classification, findings
from toolkit.evaluation.downstream import SETTINGS, Outcome
from toolkit.evaluation.interval import Interval
from toolkit.example import Error

__all__ = ["classify"]


def classify(request: ClassificationRequest, call: Call) -> FindingsResult:
    """Train every arm for every seed on films of the other folds, and test it on the held-out patients.

    The figures are the mean area over the findings that the test has enough films of, and the balanced accuracy of the
    classes. Errors: shots or few-shot pools, a test with too few films; those of diffgraft.evaluation.real and pools.
    """
    if any(request.shots):
        raise Error(
            "Findings are learned from all films: of a few shots of each class there are none. Name one label: --label NAME"
        )
    begun = time.monotonic()
    with output(request) as folder:
        real = read_films(request.real, request.fold)
        chosen = testable(real, {HELD_OUT: real.test})
        if not chosen:
            raise Error(
                f"A test needs {FEWEST} held-out films with a finding present and {FEWEST} with it absent; fold {real.fold} of "
                f"{real.root} has none. Take another --fold, or name one label: --label NAME."
            )
        pools = families(real, request.synthetic, request.beside, request.model)
        if several := [each.name for each in pools if None not in each.pools]:
            raise Error(
                f"Findings are learned from all films, not from a few of each class; '{several[0]}' is few-shot."
            )
        plan = plan_trainings(real, pools, (), request.seeds, TERMS)
        settings = with_steps(SETTINGS, request.steps, real.fold)
        outcomes = train_arms(plan, settings, call.watch)
        rows = _rows(plan, chosen, by_arm(plan, outcomes, 0))
        counts = {name: count_stated(real.test, name) for name in chosen}
        facts = classifier_protocol(real, settings, request.seeds, pools) | {
            "figure": f"mean AUROC of the findings with {FEWEST} or more held-out films present and absent; unknown left out",
        }
        result = FindingsResult(tuple(rows), counts, facts, tuple(row_warnings(rows, request.seeds, TERMS)))
        if folder is not None:
            save(folder, "evaluate classify", request, result.numbers)
            films = Films(image_sets(real, pools), real.findings, real.classes, real.vocabulary, real.domain.NOTICE)
            report.write(folder / "report.html", result, films, report_run(call, facts, begun))
    return result


def _rows(plan: Plan, chosen: Sequence[str], trained: Mapping[str, Trained[Outcome]]) -> list[Row]:
    """A row an arm, and one a trivial baseline. chosen: the findings of the test."""
    real, index = plan.real, [plan.real.findings.index(name) for name in chosen]
    truth, patients = label_values(real.test, real.findings), groups(real.test)
    columns = label_values(real.test, real.classes).T
    runs = {name: np.stack([o.log_probability for o in each.outcomes]) for name, each in trained.items()}
    predictions = {name: scores_by_label(real, run) for name, run in (runs | _baselines(plan)).items()}
    areas = {name: findings.finding_aurocs(scores, truth, patients) for name, (scores, _) in predictions.items()}
    masks = subgroups.parts(real.test, real.vocabulary, real.domain.LABELS)
    rows = []
    for name, (scores, classes) in predictions.items():
        arm, reference = trained.get(name, Trained[Outcome]()), name == REFERENCE
        per_seed = [
            np.nanmean(findings.finding_aurocs(one[None], truth, patients, resamples=1).value[index]) for one in scores
        ]
        compared = list(zip(real.classes, classes, predictions[REFERENCE][1], columns, strict=True))
        rows.append(
            Row(
                arm=name,
                generator=arm.generator,
                macro=findings.macro_auroc(areas[name], index),
                spread=round(float(np.std(per_seed)), 6),
                gain=None if reference else findings.difference(areas[name], areas[REFERENCE], index),
                findings={c: areas[name].intervals[n] for c, n in zip(chosen, index, strict=True)},
                classes={c: balanced_accuracy(own, known, patients) for c, own, _, known in compared},
                class_gain={
                    c: None if reference else _gain(own, other, known, patients) for c, own, other, known in compared
                },
                parts=_abnormal_by_part(real, scores, masks),
                seconds=arm.seconds,
                overhead=arm.overhead,
                generation=arm.generation,
            )
        )
    return rows


def _baselines(plan: Plan) -> dict[str, np.ndarray]:
    """What costs nothing: forests (S, N, K), and how frequent each value is in the training, the same for all (1, N, K)."""
    real, own, test = plan.real, plan.real.training(), stack_images(plan.real.test)
    images, targets = stack_images(own), real.targets(own)
    forests = [
        classification.random_forest_probabilities(images, targets, test, real.sizes, seed) for seed in plan.seeds
    ]
    shares = []
    for column, size in zip(targets.T, real.sizes, strict=True):
        counts = np.array([(column == value).sum() for value in range(size)])
        shares.append(counts / max(counts.sum(), 1))
    constant = np.broadcast_to(np.concatenate(shares), (1, len(test), sum(real.sizes)))
    return {"random forest": np.stack(forests), "constant": constant}


def _gain(one: np.ndarray, other: np.ndarray, truth: np.ndarray, groups: Sequence[str]) -> Interval | None:
    """Of balanced accuracy, over the films whose class is known."""
    known = np.flatnonzero(~np.isnan(truth)).tolist()
    if not known:
        return None
    one = np.broadcast_to(one, other.shape)[:, known]  # what is constant is the same with every seed
    return classification.difference(one, other[:, known], truth[known].astype(int), [groups[n] for n in known])


def _abnormal_by_part(real: Real, scores: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Part of the test -> area of "something is abnormal"; parts with too few films are left out."""
    ill, truth = abnormality(real, real.test, scores)
    found: dict[str, float | None] = {}
    for name, here in masks.items():
        if min((truth[here] == 1).sum(), (truth[here] == 0).sum()) >= FEWEST:
            patients = groups([e for e, there in zip(real.test, here, strict=True) if there])
            found[name] = float(findings.finding_aurocs(ill[:, here], truth[here], patients, resamples=1).value[0])
    return found
