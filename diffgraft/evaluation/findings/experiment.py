"""Films with findings: do synthetic ones help a classifier that tells every finding, and the classes that a model is told
(view, sex), at once?

It is trained under every recipe (arm). Films of a patient are on one side of the split, and the generator of FAKE must
not have seen the held-out patients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffgraft.evaluation import subgroups
from diffgraft.evaluation.experiment import REAL_ARMS, REFERENCE, Watch, arms, check, dump, output, settled
from diffgraft.evaluation.findings import report as findings_report
from diffgraft.evaluation.findings.classifier import (
    FEWEST,
    HELD_OUT,
    abnormality,
    balanced_accuracy,
    by_label,
    facts_of,
    labelled,
    patients,
    tally,
    testable,
    train_arms,
)
from diffgraft.evaluation.findings.result import Gain, Gains
from diffgraft.evaluation.pools import Family, Real, families, read_films, targets
from toolkit.evaluation import classification, findings
from toolkit.evaluation.anomaly import Interval
from toolkit.evaluation.downstream import SETTINGS, Arm, Outcome
from toolkit.example import Error

__all__ = ["Gains", "classify"]


def classify(
    data: str | Path,
    fake: str | Path,
    *,
    beside: Mapping[str, str | Path] | None = None,
    seeds: int = 3,
    steps: int = SETTINGS.steps,
    fold: int | None = None,
    model: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    watch: Watch = lambda *_: None,
) -> Gains:
    """Train every arm for every seed on films of the other folds, and test it on the held-out patients.

    The figures are the mean area over the findings that the test has enough films of, and the balanced accuracy of the
    classes. Arguments and errors as in `diffgraft.classify.classify`, but all findings are told at once.
    """
    check(seeds, steps, ())
    begun = time.monotonic()
    with output(out, overwrite, [data, fake, *(beside or {}).values()]) as folder:
        real = read_films(Path(data), fold)
        chosen = testable(real, {HELD_OUT: real.test})
        if not chosen:
            raise Error(
                f"A test needs {FEWEST} held-out films with a finding present and {FEWEST} with it absent; fold {real.fold} of "
                f"{real.root} has none. Take another --fold, or name one label: --label NAME."
            )
        pools = families(real, fake, beside, model)
        if several := [each.name for each in pools if None not in each.pools]:
            raise Error(
                f"Findings are learned from all films, not from a few of each class; '{several[0]}' is few-shot."
            )
        settings = settled(steps, real.fold)
        every = [(arm, ()) for arm in REAL_ARMS]
        every += [(arm, pool.examples) for each in pools if (pool := each.at(0, 0)) for arm in arms(each.name)]
        outcomes = train_arms(real, every, settings, seeds, watch)
        rows = _rows(real, pools, [arm for arm, _ in every], outcomes, chosen, seeds)
        counts = {name: tally(real.test, name) for name in chosen}
        facts = facts_of(real, settings, seeds, pools) | {
            "figure": f"mean AUROC of the findings with {FEWEST} or more held-out films present and absent; unknown left out",
        }
        result = Gains(rows, counts, facts, tuple(_short(rows, pools, seeds)))
        if folder is not None:
            dump(folder, result.numbers)
            shown = {HELD_OUT: list(real.test)} | {p.name: list(next(iter(p.pools.values())).examples) for p in pools}
            findings_report.write(folder / "report.html", result, shown, real, command, time.monotonic() - begun)
    return result


# Figures


def _rows(
    real: Real, pools: Sequence[Family], every: Sequence[Arm], outcomes: Sequence[Sequence[Outcome]],
    chosen: Sequence[str], seeds: int,
) -> tuple[Gain, ...]:  # fmt: skip
    truth, groups = targets(real.test, real.findings), patients(real.test)
    index = [real.findings.index(name) for name in chosen]
    runs = {arm.name: np.stack([o.log_probability for o in each]) for arm, each in zip(every, outcomes, strict=True)}
    own = labelled(real.training(0, 0), real)
    test = np.stack([e.image for e in real.test])
    runs["random forest"] = np.stack(
        [classification.forests(own.images, own.targets, test, real.sizes, seed) for seed in range(seeds)]
    )
    runs["constant"] = np.broadcast_to(_frequencies(real), (1, len(test), sum(real.sizes)))
    areas, named = {}, {}
    for name, each in runs.items():
        scores, named[name] = by_label(real, each)
        areas[name] = findings.areas(scores, truth, groups)
    plain = np.mean([o.seconds for o in outcomes[0]])
    masks = subgroups.parts(real.test, real.vocabulary, real.domain.LABELS)
    rows = []
    for name, each in runs.items():
        arm = next((arm for arm in every if arm.name == name), None)
        made = next((f for f in pools if arm is not None and f.name == arm.pool), None)
        trained = [o.seconds for arm, each in zip(every, outcomes, strict=True) if arm.name == name for o in each]
        pool = None if made is None else made.at(0, 0)
        scores, _ = by_label(real, each)
        per_seed = [np.nanmean(findings.areas(one[None], truth, groups, resamples=1).value[index]) for one in scores]
        column = {c: targets(real.test, [c])[:, 0] for c in real.classes}
        reference = name == REFERENCE
        rows.append(
            Gain(
                arm=name,
                generator="" if made is None else made.generator(real, 0, range(seeds)),
                macro=findings.macro(areas[name], index),
                spread=round(float(np.std(per_seed)), 6),
                gain=None if reference else findings.difference(areas[name], areas[REFERENCE], index),
                findings={c: areas[name].intervals[n] for c, n in zip(chosen, index, strict=True)},
                classes={c: balanced_accuracy(named[name][n], column[c], groups) for n, c in enumerate(real.classes)},
                class_gain={
                    c: None if reference else _gain(named[name][n], named[REFERENCE][n], column[c], groups)
                    for n, c in enumerate(real.classes)
                },
                parts=_abnormal_by_part(real, scores, masks),
                seconds=float(np.mean(trained)) if trained else None,
                overhead=100 * (float(np.mean(trained)) / plain - 1) if trained else None,
                generation=None if pool is None else pool.seconds,
            )
        )
    return tuple(rows)


def _frequencies(real: Real) -> np.ndarray:
    """(K,): how frequent each value is among the training films whose label is known."""
    own, found = targets(real.training(0, 0), real.several), []
    for column, size in zip(own.T, real.sizes, strict=True):
        counts = np.array([(column == value).sum() for value in range(size)])
        found.append(counts / max(counts.sum(), 1))
    return np.concatenate(found)


def _gain(one: np.ndarray, other: np.ndarray, truth: np.ndarray, groups: Sequence[str]) -> Interval | None:
    known = np.flatnonzero(~np.isnan(truth))
    if not len(known):
        return None
    one = np.broadcast_to(one, other.shape)[:, known]  # what is constant is the same with every seed
    return classification.difference(one, other[:, known], truth[known].astype(int), [groups[n] for n in known])


def _abnormal_by_part(real: Real, scores: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Part of the test -> area of "something is abnormal", None with too few films."""
    if getattr(real.domain, "NORMAL", None) not in real.findings:
        return {}
    ill, truth = abnormality(real, real.test, scores)
    found: dict[str, float | None] = {}
    for name, here in masks.items():
        if min((truth[here] == 1).sum(), (truth[here] == 0).sum()) >= FEWEST:
            groups = [e.group for e, there in zip(real.test, here, strict=True) if there]
            found[name] = float(findings.areas(ill[:, here], truth[here], groups, resamples=1).value[0])
    return found


def _short(rows: Sequence[Gain], pools: Sequence[Family], seeds: int) -> list[str]:
    said = []
    if any(row.generator.endswith("not stated") for row in rows):
        said.append(
            "What a generator was trained on is not stated: it may have seen the test samples. Name its folder with --model."
        )
    best = max(rows, key=lambda row: row.macro.value or 0.0)
    if not best.generator:
        said.append(f"No arm with synthetic samples is above '{best.arm}' ({best.macro}).")
    if seeds < 3:
        said.append(f"{seeds} seed(s): intervals hardly cover what another seed would give. Take three or more.")
    return said
