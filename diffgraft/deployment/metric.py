"""What a model is for, as the gate of an export tries it: whole runs with its own settings, and what its images show.

No data set is needed: the judges are the model's own, in fp32, and what they are shown is drawn from the same seeds by
both. Of the judges that a model has the most particular is asked: a detector whether boxes are where they were asked for,
the likeness of film and prompt, a lesion classifier how far a counterfactual heals, a feature network for the class.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft.counterfactuals.counterfactual import by_student
from diffgraft.generation.layouts.source import source
from diffgraft.generation.sampling import sample, sigmas
from diffgraft.models.defaults import default
from export.gate import JUDGED, Trial
from toolkit.data.labels import of as vocabulary_of
from toolkit.diffusion.model import OBJECTS, TEXT, Model
from toolkit.evaluation.detection import agreement, as_truth, decode
from toolkit.example import Annotation
from toolkit.methods.anomaly_map import MapSettings, slice_probability
from toolkit.methods.counterfactual import counterfactual
from toolkit.settings import Counterfactual, Sampling

__all__ = ["trial"]

Judge = Callable[[np.ndarray], np.ndarray]

SEED = 71
GUIDED = 3.0
"""Scale of the classifier's gradient in a run that shows whether it is right."""

SURE = 0.5
"""Score from which on a detection counts."""


def trial(reference: Model, domain: ModuleType) -> Trial:
    """The gate's trial of a model. reference: in fp32, whose parts are the judges."""
    meta = reference.meta
    plain = dataclasses.replace(default(meta, student=False), seed=SEED)
    levels = [level for level in sigmas(reference, plain) if level > 0]
    rows = asked(reference, domain, JUDGED)
    every = {"generate": plain}
    if "student" in meta["parts"] and not hasattr(domain, "study"):
        every["generate by the student"] = dataclasses.replace(default(meta, student=True), seed=SEED)
    runs = {name: _generation(domain, rows, settings) for name, settings in every.items()}
    says: dict[str, Mapping[str, Any]] = {name: dataclasses.asdict(settings) for name, settings in every.items()}
    metric, judge = _judge(reference, rows)
    if hasattr(domain, "study"):
        slices = _once(lambda: sample(reference, domain, rows, plain, range(JUDGED)))
        healing = _healing(reference, domain)
        runs |= {name: _counterfactual(domain, rows, slices, settings) for name, settings in healing.items()}
        says |= {name: dataclasses.asdict(settings) for name, settings in healing.items()}
        if reference.classifier is not None:
            metric, judge = "fall of the lesion's probability", _fall(reference, slices)
    return Trial((levels[-1], min(1.0, levels[0]), levels[0]), runs, says, metric, judge)


def asked(model: Model, domain: ModuleType, count: int) -> list[Annotation]:
    """What images are asked for: layouts of the model's own, prompts, slices with a lesion, or each class in turn."""
    vocabulary = vocabulary_of(model.meta, domain)
    fields = model.denoiser.spec.fields
    if OBJECTS in fields:
        names: Any = vocabulary[domain.TARGET]
        if "layouts" not in model.meta.get("typical", {}):
            return [Annotation()] * count
        flips = (domain.AUGMENTATION.flip > 0, domain.AUGMENTATION.flip_rows > 0)
        drawn = source(model.meta, None, "copy", SEED, names, None, None, flips)
        return [Annotation(boxes=drawn(place, 0)) for place in range(count)]
    if TEXT in fields:
        prompts = [domain.composed(random.Random(f"{SEED} {n}")) for n in range(count)]
        return [domain.ask([f"{TEXT}={prompt}"], vocabulary) for prompt in prompts]
    if hasattr(domain, "series"):
        low, high = domain.LESION
        positions = np.linspace(low, high, count)
        return [Annotation(labels={domain.TARGET: 1.0, "position": round(float(p), 4)}) for p in positions]
    classes = vocabulary.get(domain.TARGET, ())
    values = [float(n % len(classes)) for n in range(count)] if isinstance(classes, tuple) and classes else []
    rows = [{domain.TARGET: value} for value in values]
    complete = getattr(domain, "complete", None)
    return [Annotation(labels=complete(r, vocabulary) if complete else r) for r in rows] or [Annotation()] * count


def _generation(domain: ModuleType, rows: Sequence[Annotation], settings: Sampling) -> Any:
    return lambda model, count: sample(model, domain, rows[:count], settings, range(count))


def _healing(model: Model, domain: ModuleType) -> dict[str, Counterfactual]:
    """One member of the default ensemble, the farthest; with a classifier also guided by it, and by the student."""
    usual = domain.QUALITY["default"]
    one = dataclasses.replace(usual, strengths=usual.strengths[-1:], mirror=False, seed=SEED)
    found = {}
    if model.gradient is not None:
        found["guided counterfactual"] = dataclasses.replace(one, classifier_guidance=GUIDED)
    if "student" in model.meta["parts"]:
        by = by_student(one, model.meta["parts"]["student"])
        found["counterfactual by the student"] = dataclasses.replace(by, strengths=by.strengths[-1:])
    return found | {"counterfactual": one}


def _counterfactual(
    domain: ModuleType, rows: Sequence[Annotation], slices: Callable[[], np.ndarray], settings: Counterfactual
) -> Any:
    """(model, how many) -> healthy images of the first of the slices."""

    def run(model: Model, count: int) -> np.ndarray:
        known = [row.labels["position"] for row in rows[:count]]
        null, goal = (
            domain.condition([Annotation(labels={domain.TARGET: value, "position": p}) for p in known])
            for value in (np.nan, 0.0)
        )
        weights = np.eye(len(domain.CLASSES), dtype=np.float32)[np.zeros(count, int)]
        return counterfactual(model, slices()[:count], null, goal, weights, settings)

    return run


def _judge(model: Model, rows: Sequence[Annotation]) -> tuple[str, Judge | None]:
    """What the judges say of images of these rows, one number each, and what it is."""
    if model.detector is not None and all(row.boxes is not None for row in rows):
        return "part of the boxes found", lambda images: _found(model, images, rows)
    if model.likeness is not None and model.features is not None and all(row.text for row in rows):
        return "likeness of film and prompt", lambda images: _likeness(model, images, rows)
    target = model.meta["parts"].get("features", {}).get("target")
    if model.features is not None and all(target in row.labels for row in rows):
        return f"probability of the {target}", lambda images: _probability(model, images, rows, target)
    return "", None


def _found(model: Model, images: np.ndarray, rows: Sequence[Annotation]) -> np.ndarray:
    assert model.detector is not None
    names = model.meta["parts"]["detector"]["classes"]
    answer = {k: model.asnumpy(v) for k, v in model.detector(model.asarray(images)).items()}
    shown = decode(answer, SURE)
    told = [
        agreement(as_truth(row.boxes, names), one, SURE).state
        for row, one in zip(rows, shown, strict=True)
        if row.boxes
    ]
    return np.array([np.mean([state == "matched" for state in states]) if states else 1.0 for states in told])


def _likeness(model: Model, images: np.ndarray, rows: Sequence[Annotation]) -> np.ndarray:
    assert model.features is not None
    assert model.likeness is not None
    shown = model.features(model.asarray(images))["features"]
    return model.asnumpy(model.likeness(shown, [row.text or "" for row in rows]))


def _probability(model: Model, images: np.ndarray, rows: Sequence[Annotation], target: str) -> np.ndarray:
    assert model.features is not None
    answer = model.asnumpy(model.features(model.asarray(images))["log_probability"])
    return np.exp(answer[np.arange(len(rows)), [int(row.labels[target]) for row in rows]])


def _fall(model: Model, slices: Callable[[], np.ndarray]) -> Judge:
    # No smoothing over the slices: they are of as many heads.
    settings = MapSettings(gate_across=1e-3)
    before = _once(lambda: slice_probability(model, slices(), settings))
    return lambda images: before() - slice_probability(model, images, settings)


def _once(make: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    kept: list[np.ndarray] = []

    def get() -> np.ndarray:
        if not kept:
            kept.append(make())
        return kept[0]

    return get
