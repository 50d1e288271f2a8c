"""Films with findings: do synthetic ones show what was asked for, and do they help a classifier?

One network tells every finding and the classes that a model is told (view, sex) at once. It is trained on real films
alone to judge alignment, and under every recipe (arm) to judge the gain. Films of a patient are on one side of the
split, and the generator of FAKE must not have seen the held-out patients.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import features as networks
from diffgraft import findings_report, models, subgroups
from diffgraft.classify import REAL_ARMS, REFERENCE, Watch, arms, check, dump, output, protocol, settled
from diffgraft.findings_result import Agreement, Finding, Gain, Gains, Likeness, Named, Part, Told
from diffgraft.pools import FINDING, LEARNED, Family, Real, families, read_films, targets
from diffgraft.pools import findings as known_findings
from toolkit import dataset
from toolkit.diffusion.model import TEXT, Model
from toolkit.evaluation import classification, findings
from toolkit.evaluation.anomaly import Interval
from toolkit.evaluation.downstream import NETWORK, SETTINGS, Arm, Labelled, Outcome, parted, train
from toolkit.example import Error, Example
from toolkit.settings import Training

__all__ = ["Agreement", "Gains", "alignment", "classify"]

HELD_OUT, CROSSED = "held-out real", "real, cross-validated"
FEWEST = 8
"""Films with a finding present, and as many with it absent, that an area needs."""

OTHERS = 8
"""Other texts that each film is compared with."""

UNKNOWN = Interval(None, None, None)


def alignment(
    data: str | Path,
    fake: str | Path,
    *,
    beside: Mapping[str, str | Path] | None = None,
    seeds: int = 3,
    steps: int = SETTINGS.steps,
    fold: int | None = None,
    model: str | Path | None = None,
    crossed: bool = True,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    watch: Watch = lambda *_: None,
    cache: Path | None = None,
) -> Agreement:
    """How well a classifier trained on REAL's training films tells, in synthetic ones, the findings and classes that
    they were asked to show; beside how well it tells them in held-out real ones.

    fake, beside: as in `classify`. model: of FAKE; its feature network gives the distance of every part, and its text
    encoder, if it has one, how well films fit their texts. crossed: train one more classifier for each other fold, so
    that every real film is told once by one that has not seen its patient.
    Errors: see diffgraft.pools; a generator that saw a held-out patient.
    """
    check(seeds, steps, ())
    begun = time.monotonic()
    with output(out, overwrite, [data, fake, *(beside or {}).values()]) as folder:
        real = read_films(Path(data), fold)
        pools = families(real, fake, beside, model)
        sets = {HELD_OUT: list(real.test)}
        sets |= {each.name: [e for pool in each.pools.values() for e in pool.examples] for each in pools}
        settings = settled(steps, real.fold)
        folds = [real.fold, *(f for f in range(dataset.FOLDS) if crossed and f != real.fold)]
        told = _judged(real, sets, settings, seeds, folds, watch)
        if crossed:
            sets[CROSSED] = [e for f in folds for e in _at(real, f).test]
            told[CROSSED] = np.concatenate(
                [told.pop(f"fold {f}") if f != real.fold else told[HELD_OUT] for f in folds], 1
            )
        common = _common(real, {name: sets[name] for name in told if name != CROSSED})
        shown = [HELD_OUT, *([CROSSED] if crossed else []), *(each.name for each in pools)]
        found = {name: _told(real, sets[name], told[name], common, name == CROSSED) for name in shown}
        first = pools[0].name
        distances = {} if model is None else _distances(real, sets[first], Path(model), cache, watch)
        reader, asked = None if model is None else _reader(Path(model)), {n: sets[n] for n in sets if n != CROSSED}
        likeness = {} if reader is None else _likeness(real, asked, reader, watch)
        parts = _parts(real, sets[first], told[first], told[HELD_OUT], distances)
        classifier = f"classifier of {len(real.training(0, 0))} real films outside fold {real.fold}, {seeds} seeds"
        facts = _protocol(real, settings, seeds, pools) | {
            "classifier": f"{classifier}; arm '{REFERENCE}'",
            "intervals": f"95 % bootstrap over patients (synthetic: images) and seeds, {findings.RESAMPLES} resamples",
            "shuffled": f"the same scores of labels shuffled over the films, {findings.SHUFFLES} times: mean and middle 95 %",
            "fewest": f"an area needs {FEWEST} films with the finding present and {FEWEST} with it absent",
        }
        if crossed:
            facts["cross_validated"] = "every fold told by a classifier of the others; pairs of one fold are compared"
        if likeness:
            facts["texts"] = f"of real films composed of their labels as in training; {OTHERS} other texts a film"
        named = real.classes[0] if real.classes else ""
        result = Agreement(
            found, first, common, named, tuple(parts), likeness, facts, tuple(_doubts(found, first, pools))
        )
        if folder is not None:
            dump(folder, result.numbers)
            findings_report.write_alignment(
                folder / "report.html",
                result,
                {n: sets[n] for n in (HELD_OUT, first)},
                real,
                command,
                time.monotonic() - begun,
            )
    return result


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
        chosen = _common(real, {HELD_OUT: real.test})
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
        outcomes = _trained(real, every, settings, seeds, watch)
        rows = _rows(real, pools, [arm for arm, _ in every], outcomes, chosen, seeds)
        counts = {name: _counts(real.test, name) for name in chosen}
        facts = _protocol(real, settings, seeds, pools) | {
            "figure": f"mean AUROC of the findings with {FEWEST} or more held-out films present and absent; unknown left out",
        }
        result = Gains(rows, counts, facts, tuple(_short(rows, pools, seeds)))
        if folder is not None:
            dump(folder, result.numbers)
            shown = {HELD_OUT: list(real.test)} | {p.name: list(next(iter(p.pools.values())).examples) for p in pools}
            findings_report.write(folder / "report.html", result, shown, real, command, time.monotonic() - begun)
    return result


# Training


def _at(real: Real, fold: int) -> Real:
    """The same films with another fold held out."""
    test = [e for e in real.examples if dataset.fold_of(e.group) == fold]
    return dataclasses.replace(real, fold=fold, test=test)


def _labelled(examples: Sequence[Example], real: Real) -> Labelled:
    return Labelled(np.stack([e.image for e in examples]), targets(examples, real.several))


def _judged(
    real: Real,
    sets: Mapping[str, Sequence[Example]],
    settings: Training,
    seeds: int,
    folds: Sequence[int],
    watch: Watch,
) -> dict[str, np.ndarray]:
    """Log-probabilities (S, N, K) of every set by the classifier of the first fold, and of the other folds by theirs."""
    found: dict[str, np.ndarray] = {}
    for at, fold in enumerate(folds):
        here = _at(real, fold)
        judged = dict(sets) if fold == real.fold else {f"fold {fold}": here.test}
        images = np.stack([e.image for examples in judged.values() for e in examples])
        own, runs = _labelled(here.training(0, 0), here), []
        for seed in range(seeds):
            done = at * seeds + seed
            text = f"fold {fold}, seed {seed}"
            step = dataclasses.replace(settings, seed=seed)
            tell = _teller(watch, text, done, seeds * len(folds))
            runs.append(
                train(
                    REAL_ARMS[1], own, {}, images, real.sizes, real.domain.AUGMENTATION, step, watch=tell
                ).log_probability
            )
        ends = np.cumsum([len(examples) for examples in judged.values()])[:-1]
        found |= dict(zip(judged, np.split(np.stack(runs), ends, 1), strict=True))
    return found


def _trained(
    real: Real, every: Sequence[tuple[Arm, Sequence[Example]]], settings: Training, seeds: int, watch: Watch
) -> list[list[Outcome]]:
    """One list an arm, one outcome a seed."""
    own, test = _labelled(real.training(0, 0), real), np.stack([e.image for e in real.test])
    found = []
    for at, (arm, pool) in enumerate(every):
        pools = {arm.pool: _labelled(pool, real)} if arm.pool else {}
        found.append(
            [
                train(
                    arm, own, pools, test, real.sizes, real.domain.AUGMENTATION, dataclasses.replace(settings, seed=seed),
                    watch=_teller(watch, f"{arm.name}, seed {seed}", at * seeds + seed, len(every) * seeds),
                )
                for seed in range(seeds)
            ]
        )  # fmt: skip
    return found


def _counter(watch: Watch, text: str, of: int) -> Callable[[int], object]:
    return lambda done: watch(text, done, of)


def _teller(watch: Watch, text: str, done: int, of: int) -> Any:
    return lambda step, steps: watch(text, done * steps + step, of * steps)


# Figures


def _scores(real: Real, log_probability: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(S, N, K) -> scores of the findings (S, N, F), higher for present, and the class named, one (S, N) a class."""
    each = parted(log_probability, real.sizes)
    count, present = len(real.findings), FINDING.index("present")
    return np.stack([one[..., present] for one in each[:count]], -1), [one.argmax(-1) for one in each[count:]]


def _groups(examples: Sequence[Example]) -> list[str]:
    return [e.group or e.id for e in examples]


def _counts(examples: Sequence[Example], name: str) -> tuple[int, int]:
    column = targets(examples, [name])[:, 0]
    return int((column == 1).sum()), int((column == 0).sum())


def _common(real: Real, sets: Mapping[str, Sequence[Example]]) -> tuple[str, ...]:
    """The findings that every set has enough films of."""
    return tuple(n for n in real.findings if all(min(_counts(examples, n)) >= FEWEST for examples in sets.values()))


def _told(
    real: Real, examples: Sequence[Example], log_probability: np.ndarray, common: Sequence[str], crossed: bool
) -> Told:
    scores, named = _scores(real, log_probability)
    truth, groups = targets(examples, real.findings), _groups(examples)
    blocks = [dataset.fold_of(e.group) for e in examples] if crossed else None
    found = findings.areas(scores, truth, groups, blocks)
    chance = findings.shuffled_areas(scores, truth)
    rows = []
    for n, name in enumerate(real.findings):
        present, absent = _counts(examples, name)
        enough = min(present, absent) >= FEWEST
        rows.append(
            Finding(name, present, absent, *((found.intervals[n], chance[n]) if enough else (UNKNOWN, UNKNOWN)))
        )
    classes = [
        _named(real, name, predicted, targets(examples, [name])[:, 0], groups)
        for name, predicted in zip(real.classes, named, strict=True)
    ]
    macro = findings.macro(found, [real.findings.index(name) for name in common]) if common else UNKNOWN
    return Told(len(examples), len(set(groups)), tuple(rows), tuple(classes), macro)


def _named(real: Real, name: str, predicted: np.ndarray, truth: np.ndarray, groups: Sequence[str]) -> Named:
    known = ~np.isnan(truth)
    own = targets(real.training(0, 0), [name])[:, 0]
    most = np.bincount(own[~np.isnan(own)].astype(int)).argmax()
    return Named(
        name,
        int(known.sum()),
        findings.accuracy(predicted, truth, groups),
        _balanced(predicted, truth, groups),
        findings.shuffled_accuracy(predicted, truth),
        float((truth[known] == most).mean()) if known.any() else None,
    )


def _balanced(predicted: np.ndarray, truth: np.ndarray, groups: Sequence[str]) -> Interval:
    known = np.flatnonzero(~np.isnan(truth))
    if not len(known):
        return UNKNOWN
    return classification.balanced_accuracy(predicted[:, known], truth[known].astype(int), [groups[n] for n in known])


def _abnormal(real: Real, examples: Sequence[Example], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (S, N, 1) and truth (N, 1) of "something is abnormal": that the film is not normal."""
    n = real.findings.index(real.domain.NORMAL)
    return -scores[..., n : n + 1], 1 - targets(examples, [real.domain.NORMAL])


def _parts(
    real: Real,
    fake: Sequence[Example],
    told: np.ndarray,
    told_held_out: np.ndarray,
    distances: Mapping[str, subgroups.Distance],
) -> list[Part]:
    shown = []
    sides = []
    for examples, log_probability in ((fake, told), (real.test, told_held_out)):
        scores, named = _scores(real, log_probability)
        normal = getattr(real.domain, "NORMAL", None) in real.findings
        abnormal = _abnormal(real, examples, scores) if normal else (scores[..., :0], np.empty((len(examples), 0)))
        first = (named[0], targets(examples, real.classes[:1])[:, 0]) if named else None
        masks = subgroups.parts(examples, real.vocabulary, real.domain.LABELS)
        sides.append((masks, abnormal, first, np.array(_groups(examples))))
    for name in sides[0][0]:
        figures: list[Interval] = []
        for masks, (scores, truth), first, groups in sides:
            here = masks[name]
            few = not truth.shape[1] or min((truth[here] == 1).sum(), (truth[here] == 0).sum()) < FEWEST
            area = UNKNOWN if few else findings.areas(scores[:, here], truth[here], groups[here]).intervals[0]
            known = first is not None and (~np.isnan(first[1][here])).sum() >= FEWEST
            figures += [area, findings.accuracy(first[0][:, here], first[1][here], groups[here]) if known else UNKNOWN]  # type: ignore[index]
        counts = [int(masks[name].sum()) for masks, *_ in sides]
        if any(counts):
            area, view, real_area, real_view = figures
            shown.append(Part(name, *counts, area, real_area, view, real_view, distances.get(name)))
    return shown


def _distances(
    real: Real, fake: Sequence[Example], model: Path, cache: Path | None, watch: Watch
) -> dict[str, subgroups.Distance]:
    """KID of every part with the feature network of the model."""
    network = networks.backbone(model, None, cache)
    sides = []
    for text, examples in (("synthetic", fake), ("held-out", real.test), ("training part", real.training(0, 0))):
        images = np.stack([e.image for e in examples])
        measured, _ = network.measured(images, _counter(watch, f"features, {text}", len(images)))
        sides.append((measured, subgroups.parts(examples, real.vocabulary, real.domain.LABELS)))
    return {each.name: each for each in subgroups.distances(*sides)}


def _reader(model: Path) -> Model | None:
    """The model, opened, if it has a text encoder that looks at films."""
    if TEXT not in models.meta(model)["parts"]:
        return None
    opened = models.open(model)
    return None if opened.likeness is None or opened.features is None else opened


def _likeness(real: Real, sets: Mapping[str, Sequence[Example]], model: Model, watch: Watch) -> dict[str, Likeness]:
    """How well the films of every set fit their texts: what was asked for, of real films what their labels say."""
    found = {}
    for at, (name, examples) in enumerate(sets.items()):
        watch("texts", at, len(sets))
        texts = [
            e.annotation.text if e.provenance and e.annotation.text else _composed(real, e, n)
            for n, e in enumerate(examples)
        ]
        if len(set(texts)) < 2:
            continue  # there is no other text to compare with
        seen, chance = networks.described(model, np.stack([e.image for e in examples]))["features"], random.Random(0)
        own = _cosine(model, seen, texts)
        drawn = [[_other(texts, n, chance) for n in range(len(texts))] for _ in range(OTHERS)]
        others = np.stack([_cosine(model, seen, each) for each in drawn])
        ahead = (own > others).mean(0) + 0.5 * (own == others).mean(0)
        means = (findings.mean(each[None], _groups(examples)) for each in (own, others.mean(0), ahead))
        found[name] = Likeness(len(texts), *means)
    watch("texts", len(sets), len(sets))
    return found


def _cosine(model: Model, features: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """(N,), a batch at a time."""
    assert model.likeness is not None
    parts = [np.s_[n : n + networks.BATCH] for n in range(0, len(texts), networks.BATCH)]
    return np.concatenate([model.asnumpy(model.likeness(model.asarray(features[p]), texts[p])) for p in parts])


def _composed(real: Real, example: Example, number: int) -> str:
    return real.domain.caption(example.annotation, random.Random(f"0 {number}"))


def _other(texts: Sequence[str], number: int, chance: random.Random) -> str:
    """The text of another film, worded otherwise."""
    while True:
        text = chance.choice(texts)
        if text != texts[number]:
            return text


def _rows(
    real: Real, pools: Sequence[Family], every: Sequence[Arm], outcomes: Sequence[Sequence[Outcome]],
    chosen: Sequence[str], seeds: int,
) -> tuple[Gain, ...]:  # fmt: skip
    truth, groups = targets(real.test, real.findings), _groups(real.test)
    index = [real.findings.index(name) for name in chosen]
    runs = {arm.name: np.stack([o.log_probability for o in each]) for arm, each in zip(every, outcomes, strict=True)}
    own = _labelled(real.training(0, 0), real)
    test = np.stack([e.image for e in real.test])
    runs["random forest"] = np.stack(
        [classification.forests(own.images, own.targets, test, real.sizes, seed) for seed in range(seeds)]
    )
    runs["constant"] = np.broadcast_to(_frequencies(real), (1, len(test), sum(real.sizes)))
    areas, named = {}, {}
    for name, each in runs.items():
        scores, named[name] = _scores(real, each)
        areas[name] = findings.areas(scores, truth, groups)
    plain = np.mean([o.seconds for o in outcomes[0]])
    masks = subgroups.parts(real.test, real.vocabulary, real.domain.LABELS)
    rows = []
    for name, each in runs.items():
        arm = next((arm for arm in every if arm.name == name), None)
        made = next((f for f in pools if arm is not None and f.name == arm.pool), None)
        trained = [o.seconds for arm, each in zip(every, outcomes, strict=True) if arm.name == name for o in each]
        pool = None if made is None else made.at(0, 0)
        scores, _ = _scores(real, each)
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
                classes={c: _balanced(named[name][n], column[c], groups) for n, c in enumerate(real.classes)},
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
    ill, truth = _abnormal(real, real.test, scores)
    found: dict[str, float | None] = {}
    for name, here in masks.items():
        if min((truth[here] == 1).sum(), (truth[here] == 0).sum()) >= FEWEST:
            groups = [e.group for e, there in zip(real.test, here, strict=True) if there]
            found[name] = float(findings.areas(ill[:, here], truth[here], groups, resamples=1).value[0])
    return found


# What is said


def _protocol(real: Real, settings: Training, seeds: int, pools: Sequence[Family]) -> dict[str, Any]:
    left = [name for name in known_findings(real.vocabulary) if name not in real.findings]
    return protocol(real, settings, seeds, pools) | {
        "label": ", ".join(real.several),
        "not_learned": f"{', '.join(left) or 'none'}: fewer than {LEARNED} training films have it, or lack it",
        "unknown": "what is not stated of a film is left out, of training and test; it is not taken for absent",
        "loss": "a softmax over each label's values, the values of a label weighted inversely to their frequency",
        "network": dataclasses.asdict(NETWORK) | {"kind": "ResNet, from scratch, one head for all labels"},
    }


def _doubts(found: Mapping[str, Told], first: str, pools: Sequence[Family]) -> list[str]:
    said = []
    if any(pool.seen is None for each in pools for pool in each.pools.values()):
        said.append(
            "What a generator was trained on is not stated: it may have seen the held-out patients. Name its folder with --model."
        )
    real, made = found[HELD_OUT].macro, found[first].macro
    if real.value is not None and made.low is not None and made.low > real.value:
        said.append(
            f"Synthetic films are told better ({made}) than held-out real ones ({real}). Copies of training films would be, for the "
            "classifier was trained on these: look for them before this is believed, diffgraft audit REAL FAKE."
        )
    blind = [e.name for e in found[HELD_OUT].findings if e.area.low is not None and e.area.low <= 0.5]
    if blind:
        said.append(
            f"In held-out real films the classifier tells {', '.join(blind)} not surely better than chance: it cannot say whether "
            "synthetic ones show it."
        )
    few = [f"{each.name} ({each.present} / {each.absent})" for each in found[first].findings if each.area.value is None]
    if few:
        said.append(f"Fewer than {FEWEST} requests present or absent: {', '.join(few)}.")
    return said


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
