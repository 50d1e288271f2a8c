"""What a model is for, as the gate of an export tries it: whole runs with its own settings, and what its images show.

No data set is needed: the judges are the model's own, in fp32, and what they are shown is drawn from the same seeds by
both. Of the judges that a model has the most particular is taken: a detector whether boxes are where they were requested,
the likeness of film and prompt, a lesion classifier how far a counterfactual heals, a feature network for the class.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from diffgraft.generation.layouts.source import layout_source
from diffgraft.generation.sampling import sample, sigma_schedule
from diffgraft.models.defaults import default_sampling, student_counterfactual
from export.gate import JUDGED, Trial
from toolkit.data.labels import Range, vocabulary_of
from toolkit.diffusion.model import OBJECTS, TEXT, Model
from toolkit.evaluation.detection.metrics import as_truth, decode, layout_agreement
from toolkit.example import Annotation
from toolkit.methods.anomaly_map import MapSettings, slice_probability
from toolkit.methods.counterfactual import counterfactual
from toolkit.settings import Counterfactual, Sampling

__all__ = ["trial_conditions", "trial_of"]

Images = Callable[[], np.ndarray]
Judge = Callable[[np.ndarray], np.ndarray]
Run = Callable[[Model, int], np.ndarray]
"""(model, how many) -> images (N, C, H, W)."""

SEED = 71
GUIDED = 3.0
"""Scale of the classifier's gradient in a run that shows whether it is right."""

CONFIDENT = 0.5
"""Score from which on a detection counts."""


def trial_of(reference: Model, domain: ModuleType) -> Trial:
    """The gate's trial of a model. reference: in fp32, whose parts are the judges."""
    meta, treats_scans = reference.meta, hasattr(domain, "preprocess")
    plain = dataclasses.replace(default_sampling(meta, student=False), seed=SEED)
    levels = [level for level in sigma_schedule(reference, plain) if level > 0]
    rows = trial_conditions(reference, domain, JUDGED)
    settings: dict[str, Sampling | Counterfactual] = {"generate": plain}
    if "student" in meta["parts"] and not treats_scans:
        settings["generate by the student"] = dataclasses.replace(default_sampling(meta, student=True), seed=SEED)
    metric, judge = _judge(reference, rows)
    slices = functools.cache(lambda: sample(reference, domain, rows, plain, range(JUDGED)))
    if treats_scans:
        settings |= _counterfactual_settings(reference, domain)
        if reference.classifier is not None:
            metric, judge = "fall of the lesion's probability", _probability_fall(reference, slices)
    runs = {name: _run(domain, rows, slices, each) for name, each in settings.items()}
    records = {name: dataclasses.asdict(each) for name, each in settings.items()}
    return Trial((levels[-1], min(1.0, levels[0]), levels[0]), runs, records, metric, judge)


def trial_conditions(model: Model, domain: ModuleType, count: int) -> list[Annotation]:
    """What images are to show: layouts of the model's own, prompts, slices with a lesion, or each class in turn."""
    vocabulary = vocabulary_of(model.meta, domain)
    fields, names = model.denoiser.spec.fields, vocabulary.get(domain.TARGET, ())
    assert not isinstance(names, Range), "the target of a domain is a class"
    if OBJECTS in fields:
        if "layouts" not in model.meta.get("typical", {}):
            return [Annotation()] * count
        flips = (domain.AUGMENTATION.flip > 0, domain.AUGMENTATION.flip_rows > 0)
        source = layout_source(model.meta, None, "copy", SEED, names, None, None, flips)
        return [Annotation(boxes=source(place, 0)) for place in range(count)]
    if TEXT in fields:
        prompts = [domain.random_prompt(random.Random(f"{SEED} {n}")) for n in range(count)]
        return [domain.parse_prompt([f"{TEXT}={prompt}"], vocabulary) for prompt in prompts]
    if hasattr(domain, "slice_conditions"):
        low, high = domain.LESION
        positions = np.linspace(low, high, count)
        return [Annotation(labels={domain.TARGET: 1.0, "position": round(float(p), 4)}) for p in positions]
    if not names:
        return [Annotation()] * count
    infer = getattr(domain, "infer_labels", lambda labels, vocabulary: labels)
    return [Annotation(labels=infer({domain.TARGET: float(n % len(names))}, vocabulary)) for n in range(count)]


def _counterfactual_settings(model: Model, domain: ModuleType) -> dict[str, Counterfactual]:
    """One member of the default ensemble, the farthest; with a classifier also guided by it, and by the student."""
    usual = domain.QUALITY["default"]
    one = dataclasses.replace(usual, strengths=usual.strengths[-1:], mirror=False, seed=SEED)
    found = {}
    if model.gradient is not None:
        found["guided counterfactual"] = dataclasses.replace(one, classifier_guidance=GUIDED)
    if "student" in model.meta["parts"]:
        by_student = student_counterfactual(one, model.meta["parts"]["student"])
        found["counterfactual by the student"] = dataclasses.replace(by_student, strengths=by_student.strengths[-1:])
    return found | {"counterfactual": one}


def _run(
    domain: ModuleType, rows: Sequence[Annotation], slices: Images, settings: Sampling | Counterfactual
) -> Run:  # fmt: skip
    """New images of the first rows, or healthy ones of the first slices, which have lesions."""
    if isinstance(settings, Sampling):
        return lambda model, count: sample(model, domain, rows[:count], settings, range(count))

    def heal(model: Model, count: int) -> np.ndarray:
        null, healthy = (
            domain.condition([Annotation(labels={**row.labels, domain.TARGET: value}) for row in rows[:count]])
            for value in (np.nan, 0.0)
        )
        weights = np.eye(len(domain.CLASSES), dtype=np.float32)[np.zeros(count, int)]
        return counterfactual(model, slices()[:count], null, healthy, weights, settings)

    return heal


# ------------------------------------------------------------------------------------------------------------- judges


def _judge(model: Model, rows: Sequence[Annotation]) -> tuple[str, Judge | None]:
    """What the model's judges say of images of these rows, one number each, and what it is."""
    if model.detector is not None and all(row.boxes is not None for row in rows):
        return "part of the boxes found", functools.partial(_found_boxes, model, rows)
    if model.likeness is not None and model.features is not None and all(row.text for row in rows):
        return "likeness of film and prompt", functools.partial(_likeness, model, rows)
    target = model.meta["parts"].get("features", {}).get("target")
    if model.features is not None and all(target in row.labels for row in rows):
        classes = [int(row.labels[target]) for row in rows]
        return f"probability of the {target}", functools.partial(_class_probability, model, classes)
    return "", None


def _found_boxes(model: Model, rows: Sequence[Annotation], images: np.ndarray) -> np.ndarray:
    assert model.detector is not None
    names = model.meta["parts"]["detector"]["classes"]
    answer = {k: model.asnumpy(v) for k, v in model.detector(model.asarray(images)).items()}
    truths = [as_truth(row.boxes, names) for row in rows if row.boxes is not None]
    states = [
        layout_agreement(truth, found, CONFIDENT).state
        for truth, found in zip(truths, decode(answer, CONFIDENT), strict=True)
    ]
    return np.array([np.mean([state == "matched" for state in each]) if each else 1.0 for each in states])


def _likeness(model: Model, rows: Sequence[Annotation], images: np.ndarray) -> np.ndarray:
    assert model.features is not None
    assert model.likeness is not None
    features = model.features(model.asarray(images))["features"]
    return model.asnumpy(model.likeness(features, [row.text or "" for row in rows]))


def _class_probability(model: Model, classes: Sequence[int], images: np.ndarray) -> np.ndarray:
    assert model.features is not None
    answer = model.asnumpy(model.features(model.asarray(images))["log_probability"])
    return np.exp(answer[np.arange(len(classes)), classes])


def _probability_fall(model: Model, slices: Images) -> Judge:
    # No smoothing over the slices: they are of as many heads.
    settings = MapSettings(gate_across=1e-3)
    before = functools.cache(lambda: slice_probability(model, slices(), settings))
    return lambda images: before() - slice_probability(model, images, settings)
