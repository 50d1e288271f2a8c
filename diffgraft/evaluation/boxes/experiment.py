"""Do synthetic images help a detector? The same small detector under every recipe (arm)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffgraft.evaluation.boxes import report
from diffgraft.evaluation.boxes.figures import blob_warnings, count_objects, precision_rows
from diffgraft.evaluation.boxes.result import TERMS, DetectionResult, Row
from diffgraft.evaluation.boxes.runs import Runs, code, digest
from diffgraft.evaluation.data import Real, boxes_of, stack_images
from diffgraft.evaluation.experiment import (
    OPTIMISATION,
    POOL_ARMS,
    REAL_ARMS,
    Plan,
    Task,
    by_arm,
    plan_trainings,
    protocol,
    report_run,
    save,
    training_steps,
    with_steps,
)
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import read_boxed
from diffgraft.evaluation.results import row_warnings
from diffgraft.requests.evaluation import DETECTION_ARMS, DetectionRequest
from diffgraft.requests.verb import Call, Watch, verb
from toolkit.evaluation import detect_downstream
from toolkit.evaluation.detect_downstream import Outcome, Paste, Pictures
from toolkit.evaluation.detection import intervals
from toolkit.evaluation.downstream import Arm, Recipe
from toolkit.example import Boxes, Example, Note
from toolkit.methods import copy_paste
from toolkit.objects import boxes as layout
from toolkit.objects.overlaps import Overlaps
from toolkit.settings import Network, Training

__all__ = ["STEPS", "detect"]

STEPS = 400
"""One seed of real + classical on 220 blood smears, learning rate 2e-3: mAP50 0.81 after 150 steps, 0.88 after 300."""

COPY_PASTE = Arm("real + copy-paste", augment=True)
"""Objects of other training images are pasted into its real ones: toolkit.methods.copy_paste."""

PASTED = 0.5
"""Part of the real images of a batch that objects are pasted into: others stay as they were taken."""

_REAL = dict(zip(DETECTION_ARMS, (*REAL_ARMS[:2], COPY_PASTE), strict=False))


@verb(DetectionRequest)
def detect(request: DetectionRequest, call: Call) -> DetectionResult:
    """Train every arm for every number of shots and every seed, and test it on the held-out fold of REAL.

    Pools are not read where no arm draws from them. real + classical, which the other arms are compared with, is always
    there. OUT keeps each training, and none that is there is done again, unless `overwrite`.
    Errors: those of diffgraft.evaluation.real, pools and boxes.runs; a number of shots that no pool has.
    """
    begun = time.monotonic()
    arms = [key for key in DETECTION_ARMS if not request.arms or key in request.arms or key == "classical"]
    runs = Runs(request.out, request.overwrite)
    real = read_boxed(request.real, request.fold)
    drawn = bool(set(arms) & set(POOL_ARMS))
    pools = families(real, request.synthetic, request.beside, request.model) if drawn else []
    own = [arm for key, arm in _REAL.items() if key in arms]
    plan = _without_crowded(plan_trainings(real, pools, request.shots, request.seeds, TERMS, own, arms))
    settings, network = _settings(real, STEPS if request.steps is None else request.steps)
    outcomes = _train(plan, settings, network, runs, call.watch)
    call.watch("intervals", 1, 1)
    rows: list[Row] = []
    for shots in plan.shots:
        rows += precision_rows(plan, shots, by_arm(plan, outcomes, shots))
    notes = (*plan.skipped, *row_warnings(rows, request.seeds, TERMS), *blob_warnings(rows))
    result = DetectionResult(tuple(rows), count_objects(real), _protocol(plan, settings, network), notes)
    if request.out is not None:
        save(request.out, "evaluate detect", request, result.numbers)
        first = zip(plan.tasks, outcomes, strict=True)
        found = {(task.shots, task.arm.name): outcome.found for task, outcome in first if not task.seed}
        pictures = report.Images(real.test, found, {each.name: each.examples for each in pools})
        run = report_run(call, result.protocol, begun)
        report.write(request.out / "report.html", result, pictures, getattr(real.domain, "NOTICE", ""), run)
    return result


def _without_crowded(plan: Plan) -> Plan:
    """The plan without images that have more boxes than a detector is trained on; those of the test stay."""

    def crowded(example: Example) -> bool:
        return len(boxes_of(example).names) > layout.MOST

    left = {e.id for task in plan.tasks for e in (*task.real, *task.pool) if crowded(e)}
    if not left:
        return plan
    line = f"{len(left)} images with more than {layout.MOST} boxes are not trained on; those of the test are tested on."
    warnings.warn(line, Note, stacklevel=3)
    kept = [[[e for e in part if not crowded(e)] for part in (task.real, task.pool)] for task in plan.tasks]
    tasks = [dataclasses.replace(t, real=own, pool=pool) for t, (own, pool) in zip(plan.tasks, kept, strict=True)]
    return dataclasses.replace(plan, tasks=tasks, skipped=(*plan.skipped, line))


def _settings(real: Real, steps: int) -> tuple[Training, Network]:
    """Those of the domain's own detector, seeds apart."""
    network, plain = real.domain.PRESETS["detector"]["small"]
    return with_steps(plain, steps, real.fold), network


def _train(plan: Plan, settings: Training, network: Network, runs: Runs, watch: Watch) -> list[Outcome]:
    """The outcome of every task, in their order; those that `runs` has are not trained again."""
    real, test = plan.real, stack_images(plan.real.test)
    keys = _keys(plan, settings, network)
    missing = [n for n, key in enumerate(keys) if runs.get(key) is None]
    for number, step in zip(missing, training_steps(watch, [plan.tasks[n].title for n in missing]), strict=True):
        task = plan.tasks[number]
        outcome = detect_downstream.train(
            task.arm, _pictures(task.real), _pictures(task.pool) if task.pool else None, test, real.names,
            Recipe(real.detector_augmentation, dataclasses.replace(settings, seed=task.seed), network),
            _paste(task.real) if task.arm == COPY_PASTE else None, step,
        )  # fmt: skip
        runs.put(keys[number], outcome, arm=task.arm.name, shots=task.shots, seed=task.seed, steps=settings.steps)
    return [found for key in keys if (found := runs.get(key)) is not None]


def _keys(plan: Plan, settings: Training, network: Network) -> list[str]:
    """A hash of all that each training depends on."""
    real = plan.real
    tested, plain = digest(real.test, real.names), code(detect_downstream.train)
    pasting = code(detect_downstream.train, copy_paste.find_instances, copy_paste.paste)

    def key(task: Task) -> str:
        paste = task.arm == COPY_PASTE
        depends = {
            "code": pasting if paste else plain,
            "arm": _changed(task.arm) | {"name": "", "pool": bool(task.arm.pool)},
            "paste": paste and PASTED,
            "settings": {name: getattr(settings, name) for name in (*OPTIMISATION, "ema")} | {"seed": task.seed},
            "network": _changed(network),
            "augmentation": _changed(real.detector_augmentation) if task.arm.augment else {},
            "data": [digest(each, real.names) for each in (task.real, task.pool)] + [tested, len(real.names)],
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]

    return [key(task) for task in plan.tasks]


def _changed(value: Any) -> dict[str, Any]:
    """The fields of a frozen value that are not what they are by default, so that a new one changes no key."""
    return {f.name: own for f in dataclasses.fields(value) if (own := getattr(value, f.name)) != f.default}


def _paste(examples: Sequence[Example]) -> Paste:
    """Copy-paste among these images: what is cut out, and how near objects lie, is learned from them once."""
    own = _pictures(examples)
    objects, overlaps = copy_paste.find_instances(own.images, own.boxes), Overlaps.learn(own.boxes)

    def paste(image: np.ndarray, boxes: Boxes, random: np.random.Generator) -> tuple[np.ndarray, Boxes]:
        if random.random() >= PASTED:
            return image, boxes
        number = int(random.integers(2**31))
        return copy_paste.paste([image], [boxes], number, 0, objects=objects, overlaps=overlaps)

    return paste


def _pictures(examples: Sequence[Example]) -> Pictures:
    return Pictures(stack_images(examples), [boxes_of(e) for e in examples])


def _protocol(plan: Plan, settings: Training, network: Network) -> dict[str, Any]:
    """What makes the figures readable, as plain values."""
    facts = protocol(plan.real, settings, len(plan.seeds), plan.pools, "images")
    return facts | {
        "few_shot_subsets": "toolkit.evaluation.split.few_images(examples, k, seed, fold)",
        "network": dataclasses.asdict(network) | {"kind": "one level at a quarter of the image (FCOS), from scratch"},
        "optimisation": facts["optimisation"] | {"ema": settings.ema},
        "equal_terms": "steps, batch, network, first weights, schedule and the places drawn are the same in all arms of a seed",
        "shares": "of the images of each batch: 10 % of them synthetic; 50 %, as many as real ones, what others call 100 % added; "
        "only, synthetic images alone; pretrained, all of them in the first half of the steps and none in the second",
        "copy_paste": f"objects cut from the training images, pasted into {PASTED:.0%} of those drawn, before the classical augmentation",
        "augmentation": dataclasses.asdict(plan.real.detector_augmentation),
        "average_precision": "COCO's protocol (pycocotools): overlap 0.5; mean of 0.5, 0.55 ... 0.95; 101 recalls",
        "blobs": "no learned weights: for each class the map, threshold and sizes with the best F1 on the training images",
        "constant": "no image is looked at: the boxes that most often overlap one of the training images",
        "intervals": f"95 % bootstrap over groups and seeds, {intervals.RESAMPLES} resamples; differences paired",
    }  # fmt: skip
