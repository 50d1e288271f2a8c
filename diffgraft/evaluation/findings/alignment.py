"""Do synthetic films show the findings, views and texts that were asked for? One network of all labels, trained on real
films alone, tells them in synthetic films and in held-out real ones.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffgraft import models
from diffgraft.evaluation import subgroups
from diffgraft.evaluation.experiment import REFERENCE, Watch, check, dump, output, settled
from diffgraft.evaluation.findings import report as findings_report
from diffgraft.evaluation.findings.classifier import (
    FEWEST,
    HELD_OUT,
    UNKNOWN,
    abnormality,
    balanced_accuracy,
    by_label,
    facts_of,
    judge,
    patients,
    tally,
    testable,
    with_fold,
)
from diffgraft.evaluation.findings.result import Agreement, Finding, Likeness, Named, Part, Told
from diffgraft.evaluation.pools import Family, Real, families, read_films, targets
from diffgraft.models import features as networks
from toolkit.data import dataset
from toolkit.diffusion.model import TEXT, Model
from toolkit.evaluation import findings
from toolkit.evaluation.anomaly import Interval
from toolkit.evaluation.downstream import SETTINGS
from toolkit.evaluation.finite import finite
from toolkit.example import Example

__all__ = ["Agreement", "alignment"]

CROSSED = "real, cross-validated"
OTHERS = 8
"""Other texts that each film is compared with."""


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
    Errors: see diffgraft.evaluation.pools; a generator that saw a held-out patient.
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
        told = judge(real, sets, settings, seeds, folds, watch)
        if crossed:
            sets[CROSSED] = [e for f in folds for e in with_fold(real, f).test]
            told[CROSSED] = np.concatenate(
                [told.pop(f"fold {f}") if f != real.fold else told[HELD_OUT] for f in folds], 1
            )
        common = testable(real, {name: sets[name] for name in told if name != CROSSED})
        shown = [HELD_OUT, *([CROSSED] if crossed else []), *(each.name for each in pools)]
        found = {name: _told(real, sets[name], told[name], common, name == CROSSED) for name in shown}
        first = pools[0].name
        distances = {} if model is None else _distances(real, sets[first], Path(model), cache, watch)
        reader, asked = None if model is None else _reader(Path(model)), {n: sets[n] for n in sets if n != CROSSED}
        likeness = {} if reader is None else _likeness(real, asked, reader, watch)
        parts = _parts(real, sets[first], told[first], told[HELD_OUT], distances)
        classifier = f"classifier of {len(real.training(0, 0))} real films outside fold {real.fold}, {seeds} seeds"
        facts = facts_of(real, settings, seeds, pools) | {
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


# What is told


def _told(
    real: Real, examples: Sequence[Example], log_probability: np.ndarray, common: Sequence[str], crossed: bool
) -> Told:
    scores, named = by_label(real, log_probability)
    truth, groups = targets(examples, real.findings), patients(examples)
    blocks = [dataset.fold_of(e.group) for e in examples] if crossed else None
    found = findings.areas(scores, truth, groups, blocks)
    chance = findings.shuffled_areas(scores, truth)
    rows = []
    for n, name in enumerate(real.findings):
        present, absent = tally(examples, name)
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
        balanced_accuracy(predicted, truth, groups),
        findings.shuffled_accuracy(predicted, truth),
        float((truth[known] == most).mean()) if known.any() else None,
    )


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
        scores, named = by_label(real, log_probability)
        normal = getattr(real.domain, "NORMAL", None) in real.findings
        abnormal = abnormality(real, examples, scores) if normal else (scores[..., :0], np.empty((len(examples), 0)))
        first = (named[0], targets(examples, real.classes[:1])[:, 0]) if named else None
        masks = subgroups.parts(examples, real.vocabulary, real.domain.LABELS)
        sides.append((masks, abnormal, first, np.array(patients(examples))))
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


def _counter(watch: Watch, text: str, of: int) -> Callable[[int], object]:
    return lambda done: watch(text, done, of)


# Text and film


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
        means = (findings.mean(each[None], patients(examples)) for each in (own, others.mean(0), ahead))
        found[name] = Likeness(len(texts), *means)
    watch("texts", len(sets), len(sets))
    return found


def _cosine(model: Model, features: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """(N,), a batch at a time."""
    assert model.likeness is not None
    parts = [np.s_[n : n + networks.BATCH] for n in range(0, len(texts), networks.BATCH)]
    found = [model.asnumpy(model.likeness(model.asarray(features[p]), texts[p])) for p in parts]
    return finite(np.concatenate(found), "cosines of prompts and images")


def _composed(real: Real, example: Example, number: int) -> str:
    return real.domain.caption(example.annotation, random.Random(f"0 {number}"))


def _other(texts: Sequence[str], number: int, chance: random.Random) -> str:
    """The text of another film, worded otherwise."""
    while True:
        text = chance.choice(texts)
        if text != texts[number]:
            return text


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
