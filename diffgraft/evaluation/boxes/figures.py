"""The figures of `detect`: precision with its intervals, beside that of what learns no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffgraft.evaluation.boxes.result import BLOBS, MEAN, TERMS, Figures, Row
from diffgraft.evaluation.data import Real, boxes_of, groups, stack_images
from diffgraft.evaluation.experiment import REFERENCE, Plan, Trained
from diffgraft.evaluation.results import by_shots
from toolkit.evaluation.detect_downstream import Outcome
from toolkit.evaluation.detection import intervals
from toolkit.evaluation.detection.blobs import Blobs, constant_boxes
from toolkit.evaluation.detection.metrics import Detections, Precision, Truth, as_truth, average_precision
from toolkit.evaluation.interval import Interval
from toolkit.example import Example

__all__ = ["UNTRAINED", "blob_warnings", "count_objects", "nan_mean", "precision_rows", "precisions", "truths_of"]

UNTRAINED = (BLOBS, "constant")
"""What costs nothing: toolkit.evaluation.detection.blobs."""


def precision_rows(plan: Plan, shots: int, trained: Mapping[str, Trained[Outcome]]) -> list[Row]:
    """A row an arm, and one a trivial baseline, at one number of shots."""
    real = plan.real
    truths, size = truths_of(real.test, real.names), real.test[0].image.shape[1:]
    draws = intervals.bootstrap_draws(groups(real.test), len(plan.seeds))
    found = {name: [o.found for o in each.outcomes] for name, each in trained.items()} | _untrained(plan, shots)
    judged = {
        name: intervals.resample_precision(
            [intervals.match_detections(truths, run, len(real.names)) for run in each], draws
        )
        for name, each in found.items()
    }
    rows = []
    for name, each in found.items():
        arm = trained.get(name, Trained[Outcome]())
        figures = tuple(_figures(average_precision(truths, run, real.names, size)) for run in each)
        per_seed = [f.ap50[MEAN] or 0.0 for f in figures]
        ap50, ap = precisions(judged[name], real.names)
        gain50, gain = None, None
        if name != REFERENCE:
            gain50, gain = precisions(_less(judged[name], judged[REFERENCE]), real.names)
        rows.append(
            Row(
                shots=shots,
                arm=name,
                generator=arm.generator,
                figures=figures,
                ap50=ap50,
                ap=ap,
                gain50=gain50,
                gain=gain,
                spread=round(float(np.std(per_seed)), 6),
                median=float(np.median(per_seed)),
                seconds=arm.seconds,
                overhead=arm.overhead,
                generation=arm.generation,
            )
        )
    return rows


def precisions(judged: intervals.Resampled, names: Sequence[str]) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """At an overlap of 0.5, and over 0.5 to 0.95: a class or MEAN -> its interval. judged: (..., K, 10)."""
    parts: list[dict[str, Interval]] = []
    for of in (lambda v: v[..., 0], lambda v: v.mean(-1)):
        each = {name: judged.interval(lambda v, k=k, of=of: of(v)[..., k]) for k, name in enumerate(names)}
        parts.append(each | {MEAN: judged.interval(lambda v, of=of: nan_mean(of(v)))})
    return parts[0], parts[1]


def nan_mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without what is not defined; NaN where nothing is."""
    known = ~np.isnan(values)
    return np.divide(np.nansum(values, -1), known.sum(-1), out=np.full(values.shape[:-1], np.nan), where=known.any(-1))


def truths_of(examples: Sequence[Example], names: Sequence[str]) -> list[Truth]:
    """What is annotated in each image, all of which have boxes."""
    return [as_truth(boxes_of(e), names) for e in examples]


def count_objects(real: Real) -> dict[str, int]:
    """How many of each class the test images show."""
    truths = truths_of(real.test, real.names)
    return {name: int(sum((t.classes == k).sum() for t in truths)) for k, name in enumerate(real.names)}


def blob_warnings(rows: Sequence[Row]) -> list[str]:
    """Which detectors are not better than what learns no weights."""
    found = []
    for shots, here in by_shots(rows).items():
        blobs = next(row for row in here if row.arm == BLOBS)
        weaker = [row.arm for row in here if row.seconds is not None and row.value <= blobs.value]
        if weaker:
            found.append(
                f"Blobs of a colour are not worse than {', '.join(weaker)} with {TERMS.shots(shots)}: train for more --steps."
            )
    return found


def _untrained(plan: Plan, shots: int) -> dict[str, list[list[Detections]]]:
    """What costs nothing, on the same training images as the detectors of each seed."""
    names, test, found = plan.real.names, stack_images(plan.real.test), {name: [] for name in UNTRAINED}
    for seed in plan.seeds if shots else plan.seeds[:1]:
        own = plan.real.training(shots, seed)
        truths = truths_of(own, names)
        blobs = Blobs.fit(stack_images(own), truths, len(names))
        baselines = blobs.predict(test), [constant_boxes(truths, len(names))] * len(test)
        for name, each in zip(UNTRAINED, baselines, strict=True):
            found[name].append(each)
    # All images are the same ones for every seed.
    return {name: each if shots else each * len(plan.seeds) for name, each in found.items()}


def _figures(judged: Precision) -> Figures:
    parts = [{**each, MEAN: whole} for each, whole in ((judged.ap50, judged.mean_ap50), (judged.ap, judged.mean_ap))]
    return Figures(
        *({name: None if value != value else float(value) for name, value in part.items()} for part in parts)
    )


def _less(one: intervals.Resampled, other: intervals.Resampled) -> intervals.Resampled:
    """The difference, paired: of the same seeds, and in every draw of the same images."""
    return intervals.Resampled(one.whole - other.whole, one.many - other.many, one.runs)
