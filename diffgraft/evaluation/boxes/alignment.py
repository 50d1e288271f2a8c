"""Do generated images show the layouts that they were asked to show? Detectors trained on real pictures alone look.

What they find in generated images is compared with the boxes that were asked for, beside what they find in held-out real
pictures, compared with their annotation (the most that can be expected: real annotation is incomplete, and detectors err),
and beside the same images with the layouts of others (what chance gives: where objects lie densely, some box is near).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft.evaluation.boxes import judges as layout_judges
from diffgraft.evaluation.boxes.alignment_result import LayoutAlignment, Told
from diffgraft.evaluation.boxes.judges import Made, Pictures
from diffgraft.evaluation.experiment import Watch, check, dump, output
from toolkit.evaluation import detection_intervals as intervals
from toolkit.evaluation import stain
from toolkit.evaluation.anomaly import Interval
from toolkit.evaluation.detection import Detections, Truth, as_truth, thresholds
from toolkit.example import Boxes, Error, Example
from toolkit.methods import faithfulness
from toolkit.methods.faithfulness import SIDES, STATES, Judgement

__all__ = ["HELD_OUT", "SHUFFLED", "LayoutAlignment", "Told", "alignment", "stands_out"]

HELD_OUT, SYNTHETIC, SHUFFLED = "held-out real", "synthetic", "synthetic, layouts shuffled"

TRIES = 20
"""Orders that are tried for one in which no image is given a layout like its own."""


def alignment(
    data: str | Path,
    fake: str | Path,
    *,
    beside: Mapping[str, str | Path] | None = None,
    seeds: int = 3,
    steps: int = layout_judges.SETTINGS.steps,
    fold: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    watch: Watch = lambda *_: None,
    cache: Path | None = None,
) -> LayoutAlignment:
    """Judge FAKE's layouts with detectors of REAL's training folds, one a seed.

    beside: other folders under names of their own, such as the images before a filter chose among them. fold: held out;
    None is the one that the domain keeps back. cache: where judges are kept. Errors: see `layout_judges`.
    """
    from diffgraft.evaluation.boxes import alignment_report as layout_alignment_report

    check(seeds, steps, ())
    begun = time.monotonic()
    others = beside or {}
    if taken := {HELD_OUT, SYNTHETIC, SHUFFLED} & others.keys():
        raise Error(f"Folders beside FAKE need names of their own; '{min(taken)}' is taken. Give another.")
    with output(out, overwrite, [data, fake, *others.values()]) as folder:
        real = layout_judges.pictures(Path(data), fold)
        pools = [layout_judges.made(n, Path(p), real) for n, p in {SYNTHETIC: fake, **others}.items()]
        sets: dict[str, Sequence[Example]] = {HELD_OUT: real.test, **{pool.name: pool.examples for pool in pools}}
        settings = dataclasses.replace(layout_judges.SETTINGS, steps=steps, warmup=min(40, -(-steps // 10)))
        found = layout_judges.findings(real, sets, seeds, settings, cache, watch)
        truths = {name: [as_truth(_boxes(e), real.names) for e in examples] for name, examples in sets.items()}
        least = [thresholds(truths[HELD_OUT], run[HELD_OUT], real.names) for run in found]
        told, judged = {}, {}
        for name, examples in sets.items():
            watch("intervals", len(told), len(sets) + 1)
            runs = [run[name] for run in found]
            judged[name] = _judged(truths[name], runs, least)
            told[name] = _told(real, examples, truths[name], runs, judged[name])
        other = _shuffled(truths[SYNTHETIC])
        runs = [run[SYNTHETIC] for run in found]
        told[SHUFFLED] = _told(real, sets[SYNTHETIC], other, runs, _judged(other, runs, least))
        result = LayoutAlignment(
            told, SYNTHETIC, real.names, _smallest(real, judged[SYNTHETIC], judged[HELD_OUT]),
            _protocol(real, pools, settings, seeds, least),
        )  # fmt: skip
        if folder is not None:
            dump(folder, result.numbers)
            shown = {name: (sets[name], judged[name][0]) for name in (SYNTHETIC, *others, HELD_OUT)}
            layout_alignment_report.write(
                folder / "report.html", result, shown, real.domain.NOTICE, command, time.monotonic() - begun
            )
    return result


# What is told


def _judged(
    truths: Sequence[Truth], runs: Sequence[Sequence[Detections]], least: Sequence[np.ndarray]
) -> list[list[Judgement]]:
    """Every judge's word on every image; a detection counts from its class's threshold on."""
    return [
        [faithfulness.judge(truth, one[one.scores >= limit[one.classes]], limit) for truth, one in zip(truths, run, strict=True)]
        for run, limit in zip(runs, least, strict=True)
    ]  # fmt: skip


def _told(
    real: Pictures, examples: Sequence[Example], truths: Sequence[Truth], runs: Sequence[Sequence[Detections]],
    judged: Sequence[Sequence[Judgement]],
) -> Told:  # fmt: skip
    names, classes = real.names, len(real.names)
    draws = intervals.draw([e.group or e.id for e in examples], len(runs))
    scores = intervals.precision([intervals.matched(truths, run, classes) for run in runs], draws)
    # (S, N, K, sizes, states): one count a box, and (S, N, K, sizes) of what was found unasked
    each = [[faithfulness.counted([one], classes) for one in run] for run in judged]
    states = np.array([[one.states for one in run] for run in each])
    spare = np.array([[one.hallucinated for one in run] for run in each]).sum(3)
    asked = states.sum((3, 4))
    rates = intervals.rate(states.sum(3), asked[..., None], draws)
    every = intervals.rate(states.sum((2, 3)), asked.sum(2)[..., None], draws)
    unasked = intervals.rate(spare, asked, draws)
    sizes = intervals.rate(states[..., 0].sum(2), states.sum((2, 4)), draws)
    whole = intervals.rate(spare.sum(2), asked.sum(2), draws)
    counts = states[0].sum((0, 1, 3))
    return Told(
        images=len(examples),
        boxes={name: int(asked[0, :, k].sum()) for k, name in enumerate(names)},
        ap50={name: scores.interval(lambda v, k=k: v[..., k, 0]) for k, name in enumerate(names)}
        | {"mean": scores.interval(lambda v: _mean(v[..., 0]))},
        ap={name: scores.interval(lambda v, k=k: v[..., k, :].mean(-1)) for k, name in enumerate(names)}
        | {"mean": scores.interval(lambda v: _mean(v.mean(-1)))},
        states={
            name: {s: rates.interval(lambda v, k=k, j=j: v[..., k, j]) for j, s in enumerate(STATES)}
            for k, name in enumerate(names)
        }
        | {"all": {s: every.interval(lambda v, j=j: v[..., j]) for j, s in enumerate(STATES)}},
        hallucinated={name: unasked.interval(lambda v, k=k: v[..., k]) for k, name in enumerate(names)}
        | {"all": whole.interval()},
        by_size={side: sizes.interval(lambda v, n=n: v[..., n]) for n, side in enumerate(SIDES) if counts[n]},
        counts={side: int(counts[n]) for n, side in enumerate(SIDES) if counts[n]},
        saturated=_saturated(names, examples, truths, draws),
        seeds=tuple(_mean(scores.whole[..., 0]).tolist()),
    )


def _saturated(
    names: Sequence[str], examples: Sequence[Example], truths: Sequence[Truth], draws: intervals.Draws
) -> dict[str, Interval]:
    """What needs no detector: a stain, or a plant on soil, is more saturated than what is around it."""
    if examples[0].image.shape[0] != 3:
        return {}
    told = np.zeros((2, len(examples), len(names)))
    for n, (example, truth) in enumerate(zip(examples, truths, strict=True)):
        more = stands_out(example.image, truth.corners)
        np.add.at(told[0, n], truth.classes, more)
        np.add.at(told[1, n], truth.classes, ~np.isnan(more))
    told = np.nan_to_num(told)[:, None]
    each = intervals.rate(told[0], told[1], draws)
    found = {name: each.interval(lambda v, k=k: v[..., k]) for k, name in enumerate(names)}
    return found | {"all": intervals.rate(told[0].sum(2), told[1].sum(2), draws).interval()}


def stands_out(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N,) whether what lies in each box is more saturated, on average, than all that lies in none: 1, 0 or NaN.

    image (3, H, W) in [-1, 1]. NaN: a box without a pixel, or an image without an outside.
    """
    saturation = stain.saturation(image)
    places = [np.s_[round(y0) : round(y1), round(x0) : round(x1)] for x0, y0, x1, y1 in corners.tolist()]
    outside = np.ones(saturation.shape, bool)
    for place in places:
        outside[place] = False
    if not outside.any():
        return np.full(len(places), np.nan)
    around = float(saturation[outside].mean())
    return np.array([float(saturation[p].mean() > around) if saturation[p].size else np.nan for p in places])


def _shuffled(truths: Sequence[Truth]) -> list[Truth]:
    """Every image with the layout of another one, of all those that are tried in the order that repeats fewest."""
    random = np.random.default_rng(0)
    count = len(truths)

    def same(order: np.ndarray) -> int:
        return sum(
            np.array_equal(a.corners, b.corners) and np.array_equal(a.classes, b.classes)
            for a, b in zip(truths, (truths[n] for n in order), strict=True)
        )

    tried = []
    for _ in range(TRIES):
        order = random.permutation(count)
        moved = np.empty(count, int)
        moved[order] = np.roll(order, 1)  # in a ring, so that none stays
        tried.append(moved)
    best = min(tried, key=same)
    return [truths[n] for n in best]


def _smallest(
    real: Pictures, made: Sequence[Sequence[Judgement]], theirs: Sequence[Sequence[Judgement]]
) -> dict[str, float | None]:
    """The smallest box that works, of all classes and of each, all judges together."""
    counts = [faithfulness.counted([one for run in runs for one in run], len(real.names)) for runs in (made, theirs)]
    found = {"all": faithfulness.smallest_faithful(*counts)}
    for k, name in enumerate(real.names):
        own = [
            dataclasses.replace(c, states=c.states[k : k + 1], hallucinated=c.hallucinated[k : k + 1]) for c in counts
        ]
        found[name] = faithfulness.smallest_faithful(*own)
    return found


def _protocol(
    real: Pictures, pools: Sequence[Made], settings: Any, seeds: int, least: Sequence[np.ndarray]
) -> dict[str, Any]:
    """What makes the figures readable, as plain values."""
    return {
        "real": str(real.root),
        "test": f"{len(real.test)} pictures of {len({e.group for e in real.test})} groups, fold {real.fold}; no judge saw them",
        "judges": f"{seeds} detectors trained from nothing on {len(real.own)} real pictures outside fold {real.fold}; none is "
        "the detector of a model folder, which decides what a filter keeps",
        "split": "by group, a function of its name (toolkit.data.dataset.fold_of)",
        "network": dataclasses.asdict(layout_judges.NETWORK) | {"kind": "one level at a quarter of the image (FCOS)"},
        "optimisation": {
            "steps": settings.steps, "batch": settings.batch, "learning_rate": settings.learning_rate,
            "warmup": settings.warmup, "weight_decay": settings.weight_decay, "precision": settings.precision,
            "seeds": [layout_judges.SEED + n for n in range(seeds)],
        },
        "augmentation": dataclasses.asdict(real.augmentation),
        "average_precision": "COCO's protocol (overlap 0.5; mean of 0.5, 0.55 ... 0.95; 101 recalls; 100 detections an image)",
        "states": "by detections that score their class's threshold or more: matched, overlap 0.5 of the class; misplaced, "
        "0.1 to 0.5; mistaken, overlap 0.5 of another class; hallucinated, less than 0.1 with any box",
        "thresholds": {
            name: [round(float(limit[k]), 3) for limit in least] for k, name in enumerate(real.names)
        } | {"chosen": "of each judge and class, where F1 on the held-out real pictures is best; the same for all sets"},
        "shuffled": "the same images with the layouts of other images of the set",
        "intervals": f"95 % bootstrap over images (real: groups) and judges, {intervals.RESAMPLES} resamples",
        "smallest_box": "the side of a square of its area: the lowest size class of which, and of those above, half as large a "
        "part is matched as of held-out real boxes",
        "not_annotated": f"{real.left} pictures of REAL without annotation left out",
        "pools": {pool.name: pool.facts for pool in pools},
    }  # fmt: skip


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without what is not defined; NaN where nothing is."""
    known = ~np.isnan(values)
    return np.divide(np.nansum(values, -1), known.sum(-1), out=np.full(values.shape[:-1], np.nan), where=known.any(-1))


def _boxes(example: Example) -> Boxes:
    assert example.annotation.boxes is not None
    return example.annotation.boxes
