"""Do synthetic images help a detector? The downstream experiment with boxes: the same small detector under every recipe
(arm), with equal optimisation steps, each tested on the same real images of the fold that is kept back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft.evaluation import experiment
from diffgraft.evaluation.boxes import report as detect_report
from diffgraft.evaluation.boxes.figures import objects, rows_of, warnings_of
from diffgraft.evaluation.boxes.result import DetectionGains, Row, said
from diffgraft.evaluation.boxes.runs import Runs, code, digest
from diffgraft.evaluation.experiment import REFERENCE, Watch, check, covered, dump
from diffgraft.evaluation.pools import Family, Real, families, read_boxed
from toolkit.evaluation import detect_downstream
from toolkit.evaluation import detection_intervals as intervals
from toolkit.evaluation.detect_downstream import Outcome, Paste, Pictures
from toolkit.evaluation.downstream import Arm
from toolkit.example import Boxes, Error, Example, Note
from toolkit.methods import copy_paste
from toolkit.objects import boxes as layout
from toolkit.objects.overlaps import Overlaps
from toolkit.settings import Augmentation, Network, Training

__all__ = ["KEYS", "STEPS", "DetectionGains", "Row", "detect"]

STEPS = 400
"""One seed of real + classical on 220 blood smears, learning rate 2e-3: mAP50 0.81 after 150 steps, 0.88 after 300."""

MADE = ("10", "50", "only", "pretrained")
"""What `arms` asks for by these words are, in this order, the arms of each pool that `experiment.arms` has."""

KEYS = ("real", "classical", "copy-paste", *MADE)

COUNTS = ("steps", "batch", "learning_rate", "warmup", "weight_decay", "ema", "precision")
"""Settings that a training depends on, seeds apart."""


PASTED = 0.5
"""Part of the real images of a batch that objects are pasted into: others stay as they were taken."""


@dataclass(frozen=True)
class _Recipe:
    """An arm; paste: objects of other training images are pasted into its real ones, toolkit.methods.copy_paste."""

    arm: Arm
    paste: bool = False


_REAL = {
    "real": _Recipe(Arm("real")),
    "classical": _Recipe(Arm(REFERENCE, augment=True)),
    "copy-paste": _Recipe(Arm("real + copy-paste", augment=True), paste=True),
}


@dataclass(frozen=True)
class _Task:
    """One training: a recipe at (shots, seed)."""

    shots: int
    seed: int
    recipe: _Recipe
    real: Sequence[Example]
    pool: Sequence[Example]

    @property
    def name(self) -> str:
        return self.recipe.arm.name


def detect(
    data: str | Path,
    fake: str | Path,
    *,
    beside: Mapping[str, str | Path] | None = None,
    arms: Sequence[str] = (),
    shots: Sequence[int] = (),
    seeds: int = 3,
    steps: int = STEPS,
    fold: int | None = None,
    model: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    watch: Watch = lambda *_: None,
) -> DetectionGains:
    """Train every arm for every number of shots and every seed, and test it on the held-out fold of REAL.

    fake, beside: synthetic data sets, or folders of few-shot ones (see diffgraft.evaluation.pools); not read where no arm draws from
    them. arms: of KEYS; none is all of them, and real + classical, which the others are compared with, is always there.
    shots: images, 0 or nothing is all. steps: of every training. fold: None is the one that the domain keeps back. model:
    of FAKE, where it does not say what its generator was trained on. out: folder for report.html and metrics.json; it keeps
    each training, and none that is there is done again, unless `overwrite`. watch(text, steps done, of all) after every step.
    Errors: see diffgraft.evaluation.pools and diffgraft.evaluation.boxes.runs; an unknown arm, no seed, a number of shots that no pool has.
    """
    check(seeds, steps, shots)
    if unknown := [key for key in arms if key not in KEYS]:
        raise Error(f"An arm is one of {', '.join(KEYS)}; found '{unknown[0]}'. Name one of these with --arms.")
    chosen = [key for key in KEYS if not arms or key in arms or key == "classical"]
    begun = time.monotonic()
    runs = Runs(None if out is None else Path(out), overwrite)
    real = read_boxed(Path(data), fold)
    pools = families(real, fake, beside, model) if set(chosen) & set(MADE) else []
    asked = sorted(set(shots), key=lambda k: k or math.inf) or [0]
    tasks, skipped = _tasks(real, pools, chosen, asked, range(seeds))
    settings, network = _settings(real, steps)
    outcomes = _run(real, tasks, settings, network, runs, watch)
    watch("intervals", 1, 1)
    rows = []
    for k in asked:
        trained: dict[Arm, list[Outcome]] = {}
        for task, outcome in zip(tasks, outcomes, strict=True):
            if task.shots == k:
                trained.setdefault(task.recipe.arm, []).append(outcome)
        rows += rows_of(real, pools, k, range(seeds), trained)
    said_of = (*skipped, *warnings_of(rows, seeds))
    result = DetectionGains(tuple(rows), objects(real), _protocol(real, settings, network, seeds, pools), said_of)
    if out is not None:
        folder = Path(out)
        dump(folder, result.numbers)
        found = {
            (task.shots, task.name): outcome.found
            for task, outcome in zip(tasks, outcomes, strict=True)
            if not task.seed
        }
        made = {each.name: next(iter(each.pools.values())).examples for each in pools}
        notice = getattr(real.domain, "NOTICE", "")
        detect_report.write(
            folder / "report.html", result, real, found, made, notice, command, time.monotonic() - begun
        )
    return result


# The experiment


def _tasks(
    real: Real, pools: Sequence[Family], chosen: Sequence[str], shots: Sequence[int], seeds: Sequence[int]
) -> tuple[list[_Task], list[str]]:
    """Every training there is to do, seed after seed, and what is left out."""
    skipped, tasks, left = covered(pools, shots, seeds, said), [], set()
    for k in shots:
        for seed in seeds:
            own = _fitting(real.training(k, seed), left)
            tasks += [_Task(k, seed, _REAL[key], own, ()) for key in chosen if key in _REAL]
            for each in pools:
                if (pool := each.at(k, seed)) is not None:
                    made = dict(zip(MADE, experiment.arms(each.name), strict=True))
                    some = _fitting(pool.examples, left)
                    tasks += [_Task(k, seed, _Recipe(made[key]), own, some) for key in chosen if key in made]
    if left:
        line = f"{len(left)} images with more than {layout.MOST} boxes are not trained on; those of the test are tested on."
        skipped.append(line)
        warnings.warn(line, Note, stacklevel=2)
    return tasks, skipped


def _fitting(examples: Sequence[Example], left: set[str]) -> list[Example]:
    """Those with no more boxes than a detector is told of; the ids of others are put into `left`."""
    kept = [e for e in examples if len(_boxes(e).names) <= layout.MOST]
    left |= {e.id for e in examples} - {e.id for e in kept}
    return kept


def _settings(real: Real, steps: int) -> tuple[Training, Network]:
    """Those of the domain's own detector, seeds apart; a tenth of the steps at most is warm-up."""
    network, plain = real.domain.PRESETS["detector"]["small"]
    return dataclasses.replace(plain, steps=steps, fold=real.fold, warmup=min(plain.warmup, -(-steps // 10))), network


def _augmentation(real: Real) -> Augmentation:
    return getattr(real.domain, "STRONGER", real.domain.AUGMENTATION)


def _run(
    real: Real, tasks: Sequence[_Task], settings: Training, network: Network, runs: Runs, watch: Watch
) -> list[Outcome]:
    test = np.stack([e.image for e in real.test])
    tested, version = digest(real.test, real.names), code(detect_downstream.train)
    with_pasting = code(detect_downstream.train, copy_paste.instances, copy_paste.paste)
    keys = []
    for task in tasks:
        plan = {
            "code": with_pasting if task.recipe.paste else version,
            "arm": _given(task.recipe.arm) | {"name": "", "pool": bool(task.recipe.arm.pool)},
            "paste": task.recipe.paste and PASTED,
            "settings": {name: getattr(settings, name) for name in COUNTS} | {"seed": task.seed},
            "network": _given(network),
            "augmentation": _given(_augmentation(real)) if task.recipe.arm.augment else {},
            "data": [digest(each, real.names) for each in (task.real, task.pool)] + [tested, len(real.names)],
        }
        keys.append(hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:24])
    missing = [n for n, key in enumerate(keys) if runs.get(key) is None]
    for done, number in enumerate(missing):
        task = tasks[number]
        text = f"{said(task.shots)}, seed {task.seed}: {task.name}"

        def step(at: int, of: int, text: str = text, done: int = done) -> None:
            watch(text, done * of + at, len(missing) * of)

        outcome = detect_downstream.train(
            task.recipe.arm, _pictures(task.real), _pictures(task.pool) if task.pool else None, test, real.names,
            _augmentation(real), dataclasses.replace(settings, seed=task.seed), network,
            _paste(task.real) if task.recipe.paste else None, step,
        )  # fmt: skip
        runs.put(keys[number], outcome, arm=task.name, shots=task.shots, seed=task.seed, steps=settings.steps)
    return [found for key in keys if (found := runs.get(key)) is not None]


def _given(value: Any) -> dict[str, Any]:
    """The fields of a frozen value that are not what they are by default, so that a new one changes no key."""
    return {
        field.name: got for field in dataclasses.fields(value) if (got := getattr(value, field.name)) != field.default
    }


def _paste(examples: Sequence[Example]) -> Paste:
    """Copy-paste among these images: what is cut out, and how near objects lie, is learned from them once."""
    own = _pictures(examples)
    objects, overlaps = copy_paste.instances(own.images, own.boxes), Overlaps.learned(own.boxes)

    def paste(image: np.ndarray, boxes: Boxes, random: np.random.Generator) -> tuple[np.ndarray, Boxes]:
        if random.random() >= PASTED:
            return image, boxes
        number = int(random.integers(2**31))
        return copy_paste.paste([image], [boxes], number, 0, objects=objects, overlaps=overlaps)

    return paste


def _pictures(examples: Sequence[Example]) -> Pictures:
    return Pictures(np.stack([e.image for e in examples]), [_boxes(e) for e in examples])


def _boxes(example: Example) -> Boxes:
    assert example.annotation.boxes is not None
    return example.annotation.boxes


def _protocol(real: Real, settings: Training, network: Network, seeds: int, pools: Sequence[Family]) -> dict[str, Any]:
    """What makes the figures readable, as plain values."""
    return {
        "real": str(real.root),
        "test": f"{len(real.test)} images of {len({e.group for e in real.test})} groups, fold {real.fold}; never trained on",
        "training_images": len(real.training(0, 0)),
        "split": "by group, a function of its name (toolkit.data.dataset.fold_of)",
        "few_shot_subsets": "toolkit.evaluation.split.few_images(examples, k, seed, fold)",
        "seeds": seeds,
        "network": dataclasses.asdict(network) | {"kind": "one level at a quarter of the image (FCOS), from scratch"},
        "optimisation": {name: getattr(settings, name) for name in COUNTS},
        "equal_terms": "steps, batch, network, first weights, schedule and the places drawn are the same in all arms of a seed",
        "shares": "of the images of each batch: 10 % of them synthetic; 50 %, as many as real ones, what others call 100 % added; "
        "only, synthetic images alone; pretrained, all of them in the first half of the steps and none in the second",
        "copy_paste": f"objects cut from the training images, pasted into {PASTED:.0%} of those drawn, before the classical augmentation",
        "augmentation": dataclasses.asdict(_augmentation(real)),
        "average_precision": "COCO's protocol (pycocotools): overlap 0.5; mean of 0.5, 0.55 ... 0.95; 101 recalls",
        "blobs": "no learned weights: for each class the map, threshold and sizes with the best F1 on the training images",
        "constant": "no image is looked at: the boxes that most often overlap one of the training images",
        "intervals": f"95 % bootstrap over groups and seeds, {intervals.RESAMPLES} resamples; differences paired",
        "pools": {each.name: each.facts for each in pools},
    }  # fmt: skip
