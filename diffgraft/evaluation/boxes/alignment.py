"""Do generated images show the layouts that they were asked to show? Detectors trained on real pictures alone look.

What they find in generated images is compared with the boxes that were asked for, beside what they find in held-out real
pictures, compared with their annotation (the most that can be expected: real annotation is incomplete, and detectors err),
and beside the same images with the layouts of others (what chance gives: where objects lie densely, some box is near).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffgraft.evaluation.boxes import alignment_report as report
from diffgraft.evaluation.boxes import judges
from diffgraft.evaluation.boxes.alignment_result import LayoutAlignment, LayoutSet
from diffgraft.evaluation.boxes.figures import nan_mean, precisions, truths_of
from diffgraft.evaluation.data import HELD_OUT, SYNTHETIC, Family, Real, boxes_of, groups
from diffgraft.evaluation.experiment import (
    image_sets,
    output,
    protocol,
    report_run,
    save,
    training_steps,
    with_steps,
)
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import read_boxed
from diffgraft.requests.evaluation import AlignmentRequest
from diffgraft.requests.verb import Call
from toolkit.evaluation.detection import intervals, stain
from toolkit.evaluation.detection.metrics import Detections, Truth, best_thresholds
from toolkit.evaluation.interval import Interval
from toolkit.example import Error, Example
from toolkit.methods import faithfulness
from toolkit.methods.faithfulness import SIDES, STATES, Judgement
from toolkit.settings import Training

__all__ = ["SHUFFLED", "alignment", "is_saturated"]

SHUFFLED = "synthetic, layouts shuffled"

TRIES = 20
"""Orders that are tried for one in which no image is given a layout like its own."""


def alignment(request: AlignmentRequest, call: Call) -> LayoutAlignment:
    """Judge the layouts of SYNTHETIC with detectors of REAL's training folds, one a seed.

    beside: other folders under names of their own, such as the images before a filter chose among them. Errors: those of
    diffgraft.evaluation.real and pools.
    """
    begun = time.monotonic()
    if SHUFFLED in request.beside:
        raise Error(f"Pools beside one another need names of their own; '{SHUFFLED}' is taken. Take another.")
    with output(request) as folder:
        real = read_boxed(request.real, request.fold)
        pools = families(real, request.synthetic, request.beside, tested=False)
        sets, settings = image_sets(real, pools), with_steps(judges.SETTINGS, request.steps, real.fold)
        steps = training_steps(call.watch, [f"judge {seed}" for seed in range(request.seeds)])
        found = judges.judge(real, sets, settings, steps, request.cache)
        truths = {name: truths_of(examples, real.names) for name, examples in sets.items()}
        least = [best_thresholds(truths[HELD_OUT], run[HELD_OUT], real.names) for run in found]
        compared, judged = {}, {}
        for name, examples in sets.items():
            call.watch("intervals", len(compared), len(sets) + 1)
            runs = [run[name] for run in found]
            judged[name] = _judgements(truths[name], runs, least)
            compared[name] = _layout_set(real.names, examples, truths[name], runs, judged[name])
        others, runs = _shuffled(truths[SYNTHETIC]), [run[SYNTHETIC] for run in found]
        judgements = _judgements(others, runs, least)
        compared[SHUFFLED] = _layout_set(real.names, sets[SYNTHETIC], others, runs, judgements)
        smallest = _smallest(real.names, judged[SYNTHETIC], judged[HELD_OUT])
        facts = _protocol(real, settings, pools, least)
        result = LayoutAlignment(compared, SYNTHETIC, real.names, smallest, facts)
        if folder is not None:
            save(folder, "evaluate alignment", request, result.numbers)
            shown = {name: (sets[name], judged[name][0]) for name in (SYNTHETIC, *request.beside, HELD_OUT)}
            report.write(folder / "report.html", result, shown, real.domain.NOTICE, report_run(call, facts, begun))
    return result


def _judgements(
    truths: Sequence[Truth], runs: Sequence[Sequence[Detections]], least: Sequence[np.ndarray]
) -> list[list[Judgement]]:
    """Every judge's word on every image; a detection counts from its class's threshold on."""
    return [
        [faithfulness.judge(truth, one[one.scores >= limit[one.classes]], limit) for truth, one in zip(truths, run, strict=True)]
        for run, limit in zip(runs, least, strict=True)
    ]  # fmt: skip


def _layout_set(
    names: Sequence[str], examples: Sequence[Example], truths: Sequence[Truth], runs: Sequence[Sequence[Detections]],
    judged: Sequence[Sequence[Judgement]],
) -> LayoutSet:  # fmt: skip
    draws = intervals.bootstrap_draws(groups(examples), len(runs))
    scores = intervals.resample_precision([intervals.match_detections(truths, run, len(names)) for run in runs], draws)
    ap50, ap = precisions(scores, names)
    # (S, N, K, sizes, states): one count a box, and (S, N, K, sizes) of what was found unasked
    counted = [[faithfulness.count_outcomes([one], len(names)) for one in run] for run in judged]
    states = np.array([[one.states for one in run] for run in counted])
    spare = np.array([[one.hallucinated for one in run] for run in counted]).sum(3)
    asked = states.sum((3, 4))
    sizes = intervals.resample_rate(states[..., 0].sum(2), states.sum((2, 4)), draws)
    of_size = states[0].sum((0, 1, 3)).tolist()
    shares = [_by_class(names, states[..., j].sum(3), asked, draws) for j in range(len(STATES))]
    return LayoutSet(
        images=len(examples),
        boxes={name: int(asked[0, :, k].sum()) for k, name in enumerate(names)},
        ap50=ap50,
        ap=ap,
        states={kind: {s: shares[j][kind] for j, s in enumerate(STATES)} for kind in (*names, "all")},
        hallucinated=_by_class(names, spare, asked, draws),
        by_size={side: sizes.interval(lambda v, n=n: v[..., n]) for n, side in enumerate(SIDES) if of_size[n]},
        counts={side: int(of_size[n]) for n, side in enumerate(SIDES) if of_size[n]},
        saturated=_saturated(names, examples, truths, draws),
        seeds=tuple(nan_mean(scores.whole[..., 0]).tolist()),
    )


def _by_class(names: Sequence[str], part: np.ndarray, of: np.ndarray, draws: intervals.Draws) -> dict[str, Interval]:
    """The rate of sums (S, N, K) over those of `of`, for each class and for all of them together."""
    each, every = intervals.resample_rate(part, of, draws), intervals.resample_rate(part.sum(2), of.sum(2), draws)
    return {name: each.interval(lambda v, k=k: v[..., k]) for k, name in enumerate(names)} | {"all": every.interval()}


def _saturated(
    names: Sequence[str], examples: Sequence[Example], truths: Sequence[Truth], draws: intervals.Draws
) -> dict[str, Interval]:
    """What needs no detector: a stain, or a plant on soil, is more saturated than what is around it."""
    if examples[0].image.shape[0] != 3:
        return {}
    part, of = np.zeros((2, 1, len(examples), len(names)))
    for n, (example, truth) in enumerate(zip(examples, truths, strict=True)):
        more = is_saturated(example.image, truth.corners)
        np.add.at(part[0, n], truth.classes, np.nan_to_num(more))
        np.add.at(of[0, n], truth.classes, ~np.isnan(more))
    return _by_class(names, part, of, draws)


def is_saturated(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
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
    names: Sequence[str], made: Sequence[Sequence[Judgement]], real: Sequence[Sequence[Judgement]]
) -> dict[str, float | None]:
    """The smallest box that works, of all classes and of each, all judges together."""
    counts = [faithfulness.count_outcomes([one for run in runs for one in run], len(names)) for runs in (made, real)]
    found = {"all": faithfulness.smallest_faithful(*counts)}
    for k, name in enumerate(names):
        own = [
            dataclasses.replace(c, states=c.states[k : k + 1], hallucinated=c.hallucinated[k : k + 1]) for c in counts
        ]
        found[name] = faithfulness.smallest_faithful(*own)
    return found


def _facts(real: Real, pool: Family) -> str:
    """How much a pool has, and what its generator saw."""
    boxes = sum(len(boxes_of(e).names) for e in pool.examples)
    seen = [each.seen for each in pool.pools.values()]
    known = set().union(*(ids for ids in seen if ids is not None)) & {e.id for e in real.test}
    saw = "not stated" if None in seen else f"{len(known)} of the {len(real.test)} held-out pictures"
    return f"{len(pool.examples)} images, {boxes} boxes; its generator was trained on {saw}"


def _protocol(
    real: Real, settings: Training, pools: Sequence[Family], least: Sequence[np.ndarray]
) -> Mapping[str, Any]:
    """What makes the figures readable, as plain values. least: of each judge, the threshold of every class."""
    facts, seeds = protocol(real, settings, len(least), pools), range(len(least))
    chosen = "of each judge and class, where F1 on the held-out real pictures is best; the same for all sets"
    return {
        "real": facts["real"],
        "test": f"{len(real.test)} pictures of {len({e.group for e in real.test})} groups, fold {real.fold}; no judge saw them",
        "judges": f"{len(least)} detectors trained from nothing on {len(real.training())} real pictures outside fold {real.fold}; none is "
        "the detector of a model folder, which decides what a filter keeps",
        "split": facts["split"],
        "network": dataclasses.asdict(judges.NETWORK) | {"kind": "one level at a quarter of the image (FCOS)"},
        "optimisation": facts["optimisation"] | {"seeds": [judges.SEED + n for n in seeds]},
        "augmentation": dataclasses.asdict(real.detector_augmentation),
        "average_precision": "COCO's protocol (overlap 0.5; mean of 0.5, 0.55 ... 0.95; 101 recalls; 100 detections an image)",
        "states": "by detections that score their class's threshold or more: matched, overlap 0.5 of the class; misplaced, "
        "0.1 to 0.5; mistaken, overlap 0.5 of another class; hallucinated, less than 0.1 with any box",
        "thresholds": {name: [round(float(limit[k]), 3) for limit in least] for k, name in enumerate(real.names)}
        | {"chosen": chosen},
        "shuffled": "the same images with the layouts of other images of the set",
        "intervals": f"95 % bootstrap over images (real: groups) and judges, {intervals.RESAMPLES} resamples",
        "smallest_box": "the side of a square of its area: the lowest size class of which, and of those above, half as large a "
        "part is matched as of held-out real boxes",
        "not_annotated": f"{real.unannotated} pictures of REAL without annotation left out",
        "pools": {pool.name: _facts(real, pool) for pool in pools},
    }  # fmt: skip
