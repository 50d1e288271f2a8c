"""One downstream experiment: its arms, its checks, its settings and what it writes, whatever its classifier tells."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from diffgraft.evaluation.pools import Family, Real
from toolkit.data import dataset
from toolkit.evaluation import classification as scores
from toolkit.evaluation.downstream import NETWORK, SETTINGS, Arm
from toolkit.example import Error
from toolkit.methods.mixing import cutmix, mixup
from toolkit.settings import Training

__all__ = ["REAL_ARMS", "REFERENCE", "Watch", "arms", "check", "covered", "dump", "output", "protocol", "settled"]

REFERENCE = "real + classical"
Watch = Callable[[str, int, int], object]

REAL_ARMS = (
    Arm("real"),
    Arm(REFERENCE, augment=True),
    Arm("real + mixup/CutMix", mixing=(mixup, cutmix)),
    Arm("real + classical + mixup/CutMix", augment=True, mixing=(mixup, cutmix)),
)


def arms(pool: str) -> tuple[Arm, ...]:
    """The recipes of one synthetic pool, all with classical augmentation."""
    return (
        Arm(f"10 % {pool}", augment=True, pool=pool, share=0.1),
        Arm(f"50 % {pool}", augment=True, pool=pool, share=0.5),
        Arm(f"only {pool}", augment=True, pool=pool, share=1.0),
        Arm(f"pretrained on {pool}", augment=True, pool=pool, pretrain=0.5),
    )


def check(seeds: int, steps: int, shots: Sequence[int]) -> None:
    """Errors: no seed, no step, fewer than no shots."""
    if seeds < 1 or steps < 1 or any(k < 0 for k in shots):
        raise Error(
            f"An experiment has one seed and one step or more, and shots from 0; found {seeds}, {steps}, {list(shots)}."
        )


def covered(
    pools: Sequence[Family], shots: Sequence[int], seeds: Sequence[int], said: Callable[[int], str]
) -> list[str]:
    """What is left out, in words: a family's arms at numbers of shots that it has no pool for. said: such a number.

    Errors: a family without a pool for any of them, or for some seeds only.
    """
    skipped = []
    for each in pools:
        lacking = [k for k in shots if not any(each.at(k, seed) for seed in seeds)]
        if len(lacking) == len(shots):
            raise Error(
                f"A pool has samples for the shots asked for, {list(shots)}; '{each.name}' has none. Make some."
            )
        skipped += [f"'{each.name}' has no pool for {said(k)}: its arms are left out there." for k in lacking]
        for k in set(shots) - set(lacking):
            if gone := [seed for seed in seeds if each.at(k, seed) is None]:
                raise Error(
                    f"A pool has one data set a seed; '{each.name}' lacks k{k}-s{gone[0]}. Make it, or ask for fewer --seeds."
                )
    return skipped


def settled(steps: int, fold: int) -> Training:
    """The settings of every training, seeds apart; a tenth of the steps at most is warm-up."""
    return dataclasses.replace(SETTINGS, steps=steps, fold=fold, warmup=min(SETTINGS.warmup, -(-steps // 10)))


def protocol(real: Real, settings: Training, seeds: int, pools: Sequence[Family]) -> dict[str, Any]:
    """What makes the figures readable, as plain values."""
    return {
        "real": str(real.root),
        "label": real.label,
        "test": f"{len(real.test)} samples of {len({e.group for e in real.test})} groups, fold {real.fold}; never trained on",
        "training_samples": len(real.training(0, 0)),
        "split": "by group, a function of its name (toolkit.data.dataset.fold_of)",
        "few_shot_subsets": "toolkit.evaluation.split.few_shot(examples, label, k, seed, fold)",
        "seeds": seeds,
        "network": dataclasses.asdict(NETWORK) | {"kind": "ResNet, from scratch"},
        "optimisation": {
            "steps": settings.steps, "batch": settings.batch, "learning_rate": settings.learning_rate,
            "warmup": settings.warmup, "weight_decay": settings.weight_decay, "precision": settings.precision,
        },
        "equal_terms": "steps, batch, network, first weights, schedule and the classes drawn are the same in all arms of a seed",
        "augmentation": dataclasses.asdict(real.domain.AUGMENTATION),
        "intervals": f"95 % bootstrap over groups and seeds, {scores.RESAMPLES} resamples; differences paired",
        "pools": {each.name: each.facts for each in pools},
    }  # fmt: skip


def output(
    out: str | Path | None, overwrite: bool, needed: Sequence[str | Path]
) -> AbstractContextManager[Path | None]:
    """The folder of the report, moved to its place when the block ends without an error; None for no report."""
    if out is None:
        return contextlib.nullcontext()
    return dataset.staged(out, overwrite, ("metrics.json", "report.html"), needed)


def dump(folder: Path, numbers: Mapping[str, Any]) -> None:
    """Write metrics.json."""
    text = json.dumps(numbers, indent=1, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
