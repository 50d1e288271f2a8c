"""The figures of diffgraft.detect: precision with its intervals, beside that of what learns no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffgraft.evaluation.boxes.result import MEAN, Figures, Row, mean, said
from diffgraft.evaluation.classes.result import by_shots
from diffgraft.evaluation.experiment import REAL_ARMS, REFERENCE
from diffgraft.evaluation.pools import Family, Real
from toolkit.evaluation import detection_intervals as intervals
from toolkit.evaluation.anomaly import Interval
from toolkit.evaluation.blobs import Blobs, constant
from toolkit.evaluation.detect_downstream import Outcome
from toolkit.evaluation.detection import Detections, Precision, Truth, as_truth, average_precision
from toolkit.evaluation.downstream import Arm
from toolkit.example import Example

__all__ = ["UNTRAINED", "objects", "rows_of", "truths_of", "warnings_of"]

UNTRAINED = ("blobs", "constant")
"""What costs nothing: toolkit.evaluation.blobs."""


def rows_of(
    real: Real, pools: Sequence[Family], shots: int, seeds: Sequence[int], trained: Mapping[Arm, Sequence[Outcome]]
) -> list[Row]:
    """One row an arm at one number of shots. trained: one outcome a seed."""
    truths, size = truths_of(real.test, real.names), real.test[0].image.shape[1:]
    draws = intervals.draw([e.group for e in real.test], len(seeds))
    arms = {arm.name: arm for arm in trained}
    found = {arm.name: [o.found for o in each] for arm, each in trained.items()} | _untrained(real, shots, seeds)
    judged = {
        name: intervals.precision([intervals.matched(truths, run, len(real.names)) for run in each], draws)
        for name, each in found.items()
    }
    seconds = {arm.name: float(np.mean([o.seconds for o in each])) for arm, each in trained.items()}
    plain = seconds.get(REAL_ARMS[0].name)
    rows = []
    for name, each in found.items():
        figures = tuple(_figures(average_precision(truths, run, real.names, size)) for run in each)
        made = next((f for f in pools if name in arms and f.name == arms[name].pool), None)
        spent = [] if made is None else [used.seconds for seed in seeds if (used := made.at(shots, seed)) is not None]
        per_seed = [f.ap50[MEAN] or 0.0 for f in figures]
        ap50, ap = _intervals(judged[name], real.names)
        gain50, gain = (
            (None, None) if name == REFERENCE else _intervals(_less(judged[name], judged[REFERENCE]), real.names)
        )
        rows.append(
            Row(
                shots=shots,
                arm=name,
                generator="" if made is None else made.generator(real, shots, seeds),
                figures=figures,
                ap50=ap50,
                ap=ap,
                gain50=gain50,
                gain=gain,
                spread=round(float(np.std(per_seed)), 6),
                median=float(np.median(per_seed)),
                seconds=seconds.get(name),
                overhead=100 * (seconds[name] / plain - 1) if name in seconds and plain else None,
                generation=None if not spent or None in spent else float(np.mean(spent)),  # type: ignore[arg-type]
            )
        )
    return rows


def _untrained(real: Real, shots: int, seeds: Sequence[int]) -> dict[str, list[list[Detections]]]:
    """What costs nothing, on the same training images as the detectors of each seed."""
    test, found = np.stack([e.image for e in real.test]), {name: [] for name in UNTRAINED}
    for seed in seeds if shots else seeds[:1]:
        own = real.training(shots, seed)
        truths = truths_of(own, real.names)
        blobs = Blobs.fit(np.stack([e.image for e in own]), truths, len(real.names))
        for name, each in zip(
            UNTRAINED, (blobs.find(test), [constant(truths, len(real.names))] * len(test)), strict=True
        ):
            found[name].append(each)
    # All images are the same ones for every seed.
    return {name: each if shots else each * len(seeds) for name, each in found.items()}


def _figures(judged: Precision) -> Figures:
    parts = [{**each, MEAN: whole} for each, whole in ((judged.ap50, judged.mean_ap50), (judged.ap, judged.mean_ap))]
    return Figures(
        *({name: None if value != value else float(value) for name, value in part.items()} for part in parts)
    )


def _intervals(judged: intervals.Resampled, names: Sequence[str]) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """At an overlap of 0.5, and over 0.5 to 0.95: a class or MEAN -> its interval."""
    parts: list[dict[str, Interval]] = []
    for of in (lambda v: v[..., 0], lambda v: v.mean(-1)):
        each = {name: judged.interval(lambda v, k=k, of=of: of(v)[..., k]) for k, name in enumerate(names)}
        parts.append(each | {MEAN: judged.interval(lambda v, of=of: mean(of(v)))})
    return parts[0], parts[1]


def _less(one: intervals.Resampled, other: intervals.Resampled) -> intervals.Resampled:
    """The difference, paired: of the same seeds, and in every draw of the same images."""
    return intervals.Resampled(one.whole - other.whole, one.many - other.many, one.runs)


def truths_of(examples: Sequence[Example], names: Sequence[str]) -> list[Truth]:
    """What is annotated in each image, all of which have boxes."""
    return [as_truth(e.annotation.boxes, names) for e in examples]  # type: ignore[arg-type]


def objects(real: Real) -> dict[str, int]:
    """How many of each class the test images show."""
    truths = truths_of(real.test, real.names)
    return {name: int(sum((t.classes == k).sum() for t in truths)) for k, name in enumerate(real.names)}


# What is said of them


def warnings_of(rows: Sequence[Row], seeds: int) -> list[str]:
    """What makes the figures less than they look."""
    found = []
    if any(row.generator.endswith("not stated") for row in rows):
        found.append(
            "What a generator was trained on is not stated: it may have seen the test images. Name its folder with --model."
        )
    if any(row.shots and row.generator.startswith("full-data") for row in rows):
        found.append(
            "A full-data generator saw more annotated images than the detector of a few-shot arm: its gain there is not one that so "
            "few images would give."
        )
    for shots, here in by_shots(rows).items():
        best = max(here, key=lambda row: row.value)
        if not best.generator and any(row.generator for row in here):
            found.append(f"No arm with synthetic images is above '{best.arm}' ({best.ap50[MEAN]}) with {said(shots)}.")
        weaker = [row.arm for row in here if row.seconds is not None and row.value <= _blobs(here).value]
        if weaker:
            found.append(
                f"Blobs of a colour are not worse than {', '.join(weaker)} with {said(shots)}: train for more --steps."
            )
    if seeds < 3:
        found.append(f"{seeds} seed(s): intervals hardly cover what another seed would give. Take three or more.")
    return found


def _blobs(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row.arm == UNTRAINED[0])
