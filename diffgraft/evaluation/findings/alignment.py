"""Do synthetic films show the findings, views and texts that were asked for? One classifier of all labels, trained on real
films alone, looks at synthetic films and at held-out real ones.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models
from diffgraft.evaluation import subgroups
from diffgraft.evaluation.classifier import classifier_protocol, judge
from diffgraft.evaluation.data import HELD_OUT, Family, Real, groups, label_values, stack_images
from diffgraft.evaluation.experiment import (
    REFERENCE,
    image_sets,
    output,
    report_run,
    save,
    training_steps,
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
from diffgraft.evaluation.findings.result import (
    ClassFigures,
    Films,
    FilmSet,
    FindingFigures,
    FindingsAlignment,
    Subgroup,
    TextLikeness,
)
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import read_films
from diffgraft.evaluation.results import UNKNOWN
from diffgraft.models import features as networks
from diffgraft.requests.evaluation import AlignmentRequest
from diffgraft.requests.verb import Call, Watch
from toolkit.data import dataset
from toolkit.diffusion.model import TEXT, Model
from toolkit.evaluation import findings
from toolkit.evaluation.downstream import SETTINGS
from toolkit.evaluation.finite import check_finite
from toolkit.evaluation.interval import Interval
from toolkit.example import Example
from toolkit.settings import Training

__all__ = ["alignment"]

CROSSED = "real, cross-validated"
OTHERS = 8
"""Other texts that each film is compared with."""

Sets = Mapping[str, Sequence[Example]]


def alignment(request: AlignmentRequest, call: Call) -> FindingsAlignment:
    """How well a classifier of REAL's training films recognises, in synthetic ones, the findings and classes that they
    were asked to show; beside how well it recognises them in held-out real ones.

    model: of SYNTHETIC; its feature network gives the distance of every part, and its text encoder, if it has one, how
    well films fit their texts. cross_validate: one more classifier for each other fold, so that every real film is judged
    once by one that has not seen its patient. Errors: those of diffgraft.evaluation.pools; a generator that saw a held-out
    patient.
    """
    begun = time.monotonic()
    with output(request) as folder:
        real = read_films(request.real, request.fold)
        pools = families(real, request.synthetic, request.beside, request.model)
        sets, settings = image_sets(real, pools), with_steps(SETTINGS, request.steps, real.fold)
        common = testable(real, sets)
        judged = _judge(real, sets, settings, request, call.watch)
        compared = {
            name: _film_set(real, films, log_probability, common, name == CROSSED)
            for name, (films, log_probability) in judged.items()
        }
        distances, likeness = {}, {}
        made = pools[0].name
        if request.model is not None:
            distances = _distances(real, sets[made], request.model, request.cache, call.watch)
            reader = _reader(request.model)
            likeness = {} if reader is None else _likeness(real, sets, reader, call.watch)
        result = FindingsAlignment(
            compared, made, common, next(iter(real.classes), ""),
            tuple(_subgroups(_Side.of(real, *judged[made]), _Side.of(real, *judged[HELD_OUT]), distances)), likeness,
            _protocol(real, settings, request, pools, bool(likeness)), tuple(_warnings(compared, made, pools)),
        )  # fmt: skip
        if folder is not None:
            save(folder, "evaluate alignment", request, result.numbers)
            shown = {name: sets[name] for name in (HELD_OUT, made)}
            films = Films(shown, real.findings, real.classes, real.vocabulary, real.domain.NOTICE)
            report.write_alignment(folder / "report.html", result, films, report_run(call, result.protocol, begun))
    return result


def _judge(
    real: Real, sets: Sets, settings: Training, request: AlignmentRequest, watch: Watch
) -> dict[str, tuple[Sequence[Example], np.ndarray]]:
    """The films of every set with their log-probabilities, by the classifiers of all seeds; and, cross-validated, all real
    films, each by classifiers of the folds that it is not in."""
    others = [f for f in range(dataset.FOLDS) if f != real.fold] if request.cross_validate else []
    titles = [f"fold {fold}, seed {seed}" for fold in (real.fold, *others) for seed in range(request.seeds)]
    steps = training_steps(watch, titles)
    judged = judge(real, sets, settings, steps[: request.seeds])
    films, crossed = list(real.test), [judged[HELD_OUT]]
    for at, fold in enumerate(others, 1):
        test = [e for e in real.examples if dataset.fold_of(e.group) == fold]
        turned = dataclasses.replace(real, fold=fold, test=test)
        films += test
        crossed += judge(turned, {CROSSED: test}, settings, steps[at * request.seeds :][: request.seeds]).values()
    found = {name: (sets[name], log_probability) for name, log_probability in judged.items()}
    return {HELD_OUT: found[HELD_OUT]} | ({CROSSED: (films, np.concatenate(crossed, 1))} if others else {}) | found


def _protocol(
    real: Real, settings: Training, request: AlignmentRequest, pools: Sequence[Family], texts: bool
) -> dict[str, Any]:
    """What makes the figures readable, as plain values. texts: whether films were compared with texts."""
    classifier = f"classifier of {len(real.training())} real films outside fold {real.fold}, {request.seeds} seeds"
    facts = classifier_protocol(real, settings, request.seeds, pools) | {
        "classifier": f"{classifier}; arm '{REFERENCE}'",
        "intervals": f"95 % bootstrap over patients (synthetic: images) and seeds, {findings.RESAMPLES} resamples",
        "shuffled": f"the same scores of labels shuffled over the films, {findings.SHUFFLES} times: mean and middle 95 %",
        "fewest": f"an area needs {FEWEST} films with the finding present and {FEWEST} with it absent",
    }
    if request.cross_validate:
        facts["cross_validated"] = "every fold told by a classifier of the others; pairs of one fold are compared"
    if texts:
        facts["texts"] = f"of real films composed of their labels as in training; {OTHERS} other texts a film"
    return facts


# Findings and classes


def _film_set(
    real: Real, films: Sequence[Example], log_probability: np.ndarray, common: Sequence[str], crossed: bool
) -> FilmSet:
    scores, predicted = scores_by_label(real, log_probability)
    truth, patients = label_values(films, real.findings), groups(films)
    areas = findings.finding_aurocs(
        scores, truth, patients, [dataset.fold_of(e.group) for e in films] if crossed else None
    )
    rows = []
    for name, area, shuffled in zip(
        real.findings, areas.intervals, findings.shuffled_aurocs(scores, truth), strict=True
    ):
        present, absent = count_stated(films, name)
        enough = min(present, absent) >= FEWEST
        rows.append(FindingFigures(name, present, absent, *((area, shuffled) if enough else (UNKNOWN, UNKNOWN))))
    classes = [
        _class_figures(real, name, each, label_values(films, [name])[:, 0], patients)
        for name, each in zip(real.classes, predicted, strict=True)
    ]
    macro = findings.macro_auroc(areas, [real.findings.index(name) for name in common]) if common else UNKNOWN
    return FilmSet(len(films), len(set(patients)), tuple(rows), tuple(classes), macro)


def _class_figures(
    real: Real, name: str, predicted: np.ndarray, truth: np.ndarray, patients: Sequence[str]
) -> ClassFigures:
    known, own = ~np.isnan(truth), label_values(real.training(), [name])[:, 0]
    most = np.bincount(own[~np.isnan(own)].astype(int)).argmax()
    return ClassFigures(
        name,
        int(known.sum()),
        findings.accuracy(predicted, truth, patients),
        balanced_accuracy(predicted, truth, patients),
        findings.shuffled_accuracy(predicted, truth),
        float((truth[known] == most).mean()) if known.any() else None,
    )


@dataclass(frozen=True)
class _Side:
    """One set of films by its parts. scores (S, N, 1), abnormal (N, 1): is it abnormal. predicted (S, N), truth (N,): the
    first class, if there is one."""

    masks: Mapping[str, np.ndarray]
    scores: np.ndarray
    abnormal: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, real: Real, films: Sequence[Example], log_probability: np.ndarray) -> _Side:
        scores, predicted = scores_by_label(real, log_probability)
        masks = subgroups.parts(films, real.vocabulary, real.domain.LABELS)
        first = label_values(films, [next(iter(real.classes), "")])[:, 0]
        named = predicted[0] if predicted else np.zeros(scores.shape[:2])
        return cls(masks, *abnormality(real, films, scores), named, first, np.array(groups(films)))

    def figures(self, part: str) -> tuple[Interval, Interval]:
        """The area of what is abnormal, and the accuracy of the class, in one part; unknown with too few films."""
        here = self.masks[part]
        abnormal, truth, patients = self.abnormal[here], self.truth[here], self.patients[here].tolist()
        area = accuracy = UNKNOWN
        if min((abnormal == 1).sum(), (abnormal == 0).sum()) >= FEWEST:
            area = findings.finding_aurocs(self.scores[:, here], abnormal, patients).intervals[0]
        if (~np.isnan(truth)).sum() >= FEWEST:
            accuracy = findings.accuracy(self.predicted[:, here], truth, patients)
        return area, accuracy


def _subgroups(made: _Side, held_out: _Side, distances: Mapping[str, subgroups.Distance]) -> list[Subgroup]:
    """Every part that either side has films of."""
    rows = []
    for part in made.masks:
        counts = int(made.masks[part].sum()), int(held_out.masks[part].sum())
        if any(counts):
            (area, accuracy), (real_area, real_accuracy) = made.figures(part), held_out.figures(part)
            rows.append(Subgroup(part, *counts, area, real_area, accuracy, real_accuracy, distances.get(part)))
    return rows


def _distances(
    real: Real, made: Sequence[Example], model: Path, cache: Path | None, watch: Watch
) -> dict[str, subgroups.Distance]:
    """KID of every part with the feature network of the model."""
    network = networks.load_backbone(model, None, cache)

    def side(title: str, films: Sequence[Example]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        vectors, _ = network.predict(stack_images(films), lambda done: watch(f"features, {title}", done, len(films)))
        return vectors, subgroups.parts(films, real.vocabulary, real.domain.LABELS)

    sides = side("synthetic", made), side("held-out", real.test), side("training part", real.training())
    return {each.name: each for each in subgroups.distances(*sides)}


# Text and film


def _reader(model: Path) -> Model | None:
    """The model, opened, if it has a text encoder that looks at films."""
    if TEXT not in models.meta(model)["parts"]:
        return None
    opened = models.open(model)
    return None if opened.likeness is None or opened.features is None else opened


def _likeness(real: Real, sets: Sets, model: Model, watch: Watch) -> dict[str, TextLikeness]:
    """How well the films of every set fit their texts: what was asked for, of real films what their labels say."""
    found = {}
    for at, (name, films) in enumerate(sets.items()):
        watch("texts", at, len(sets))
        texts = [
            e.annotation.text if e.provenance and e.annotation.text else _caption(real, e, n)
            for n, e in enumerate(films)
        ]
        if len(set(texts)) < 2:
            continue  # there is no other text to compare with
        vectors, draw = networks.extract_features(model, stack_images(films))["features"], random.Random(0)
        own = _cosine(model, vectors, texts)
        drawn = [[_other(texts, n, draw) for n in range(len(texts))] for _ in range(OTHERS)]
        others = np.stack([_cosine(model, vectors, each) for each in drawn])
        ahead = (own > others).mean(0) + 0.5 * (own == others).mean(0)
        means = [findings.mean(each[None], groups(films)) for each in (own, others.mean(0), ahead)]
        found[name] = TextLikeness(len(texts), *means)
    watch("texts", len(sets), len(sets))
    return found


def _cosine(model: Model, features: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """(N,), a batch at a time."""
    assert model.likeness is not None
    parts = [np.s_[n : n + networks.BATCH] for n in range(0, len(texts), networks.BATCH)]
    found = [model.asnumpy(model.likeness(model.asarray(features[p]), texts[p])) for p in parts]
    return check_finite(np.concatenate(found), "cosines of prompts and images")


def _caption(real: Real, example: Example, number: int) -> str:
    return real.domain.caption(example.annotation, random.Random(f"0 {number}"))


def _other(texts: Sequence[str], number: int, draw: random.Random) -> str:
    """The text of another film, with other words."""
    while True:
        text = draw.choice(texts)
        if text != texts[number]:
            return text


def _warnings(sets: Mapping[str, FilmSet], judged: str, pools: Sequence[Family]) -> list[str]:
    """What makes the figures less than they look. judged: the name of SYNTHETIC among the sets."""
    found = []
    if any(pool.seen is None for each in pools for pool in each.pools.values()):
        found.append(
            "What a generator was trained on is not stated: it may have seen the held-out patients. Name its folder with --model."
        )
    real, made = sets[HELD_OUT].macro, sets[judged].macro
    if real.value is not None and made.low is not None and made.low > real.value:
        found.append(
            f"Synthetic films are told better ({made}) than held-out real ones ({real}). Copies of training films would be, for the "
            "classifier was trained on these: look for them before this is believed, diffgraft audit REAL SYNTHETIC."
        )
    blind = [e.name for e in sets[HELD_OUT].findings if e.area.low is not None and e.area.low <= 0.5]
    if blind:
        found.append(
            f"In held-out real films the classifier tells {', '.join(blind)} not surely better than chance: it cannot say whether "
            "synthetic ones show it."
        )
    few = [f"{each.name} ({each.present} / {each.absent})" for each in sets[judged].findings if each.area.value is None]
    if few:
        found.append(f"Fewer than {FEWEST} requests present or absent: {', '.join(few)}.")
    return found
