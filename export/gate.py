"""The gate of an export: parity part by part, a whole run, what its images show, and how fast it is. Numpy only.

The face says what a model is for (`Trial`); here it is judged. An Error names the row that failed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from export.verify import LIMITS, Parity, compare, noisy_input, require, sample_conditions, verify
from toolkit.diffusion.model import Model
from toolkit.example import Error

__all__ = [
    "DomainMetric",
    "GateResult",
    "Speed",
    "Trial",
    "bootstrap_interval",
    "check",
    "check_images",
    "compare_metric",
    "speed",
    "time_pair",
]

SAMPLES = 3
"""Images of a whole run that are compared."""

JUDGED = 24
"""Images by which a domain metric is compared."""

FLATTEST = 0.3
"""Of the spread of the reference's image, that of an image that is not black or of one grey."""

RESAMPLES, LEVEL = 2000, 0.95
BATCHES, ROUNDS = (1, 4), 5


@dataclass(frozen=True)
class Trial:
    """What a model is for, as the gate tries it.

    sigmas: the lowest noise level that it is evaluated at, one between, the highest. runs: name -> (model, how many) ->
    images (N, C, H, W), the same noise for any model; says: name -> its settings, for the record. judge: (images of the
    last run, how many were asked for) -> one number an image, by judges in fp32; metric: what that number is.
    """

    sigmas: Sequence[float]
    runs: Mapping[str, Callable[[Model, int], np.ndarray]]
    says: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metric: str = ""
    judge: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class DomainMetric:
    """A domain metric: of fp32 with the bootstrap interval of its mean, and of the export."""

    metric: str
    images: int
    fp32: float
    low: float
    high: float
    found: float


@dataclass(frozen=True)
class Speed:
    """One evaluation of the denoiser at a batch size: seconds, and how many times as fast as the reference."""

    batch: int
    seconds: float
    ratio: float


@dataclass(frozen=True)
class GateResult:
    """What the gate measured. run: name -> its row, of the final images of whole runs."""

    parity: Sequence[Parity]
    run: Mapping[str, Parity]
    domain: DomainMetric | None
    speed: Sequence[Speed]


def check(reference: Model, candidate: Model, trial: Trial, precision: str = "fp32", parity: bool = True) -> GateResult:
    """All of the gate. parity: False for a candidate whose parts are not there one by one, as in a graph of a whole run.

    Errors: a row beyond its limit, an image that is not finite or shows nothing, a domain metric out of the interval of
    fp32, no judge where a precision needs one.
    """
    rows = verify(reference, candidate, precision, trial.sigmas) if parity else []
    judged = precision != "fp32" and trial.judge is not None
    if precision in ("bf16", "int8") and not judged:
        raise Error(
            f"An export in {precision} is judged by what its images show, and this model has no judge. Train one, such as "
            "--part features or --part classifier, or take --precision fp16."
        )
    runs, last = {}, list(trial.runs)[-1]
    domain = None
    for name, make in trial.runs.items():
        count = JUDGED if judged and name == last else SAMPLES
        ours, theirs = make(reference, count), make(candidate, count)
        check_images(name, ours, theirs)
        runs[name] = compare(f"{name}, final images", ours, theirs, LIMITS[precision])
        require(runs[name])
        if judged and name == last and trial.judge is not None:
            domain = compare_metric(trial.metric, trial.judge(ours), trial.judge(theirs))
    return GateResult(rows, runs, domain, speed(reference, candidate, trial.sigmas[1]))


def check_images(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raise where an image of a run is not finite, or is black or of one grey."""
    if not np.isfinite(theirs).all():
        raise Error(
            f"Images of an export are finite; of '{name}' some are not. Nothing was kept; take another --precision."
        )
    axes = tuple(range(1, ours.ndim))
    flat = theirs.std(axes) < FLATTEST * ours.std(axes)
    if flat.any():
        raise Error(
            f"Images of an export show something; of '{name}' {int(flat.sum())} of {len(flat)} are black or of one grey. "
            "Nothing was kept; take another --precision."
        )


def compare_metric(metric: str, ours: np.ndarray, theirs: np.ndarray) -> DomainMetric:
    """The metric of both, one number an image. Errors: the export's mean lies outside the interval of fp32's."""
    low, high = bootstrap_interval(ours)
    found = DomainMetric(metric, len(ours), float(ours.mean()), low, high, float(theirs.mean()))
    # What is the same number for every image has an interval of no width.
    if not low - 1e-6 <= found.found <= high + 1e-6:
        raise Error(
            f"An export shows what its model does: {metric} within {low:.3f} to {high:.3f}, the interval of fp32 over "
            f"{len(ours)} images; found {found.found:.3f}. Nothing was kept; take another --precision."
        )
    return found


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the mean, by percentiles (Efron & Tibshirani 1993, section 13.3)."""
    rows = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.asarray(values, np.float64)[rows].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def speed(reference: Model, candidate: Model, sigma: float) -> list[Speed]:
    """Of one evaluation of the denoiser by both."""
    return [time_pair(n, _evaluation(reference, sigma, n), _evaluation(candidate, sigma, n)) for n in BATCHES]


def time_pair(batch: int, ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> Speed:
    """The reference's call and the candidate's, in rounds of the two in turn after one for nothing; medians."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for call, seconds in zip((ours, theirs), taken, strict=True):
            begun = time.perf_counter()
            call()
            if number:
                seconds.append(time.perf_counter() - begun)
    slow, fast = (statistics.median(seconds) for seconds in taken)
    return Speed(batch, fast, slow / max(fast, 1e-9))


def _evaluation(model: Model, sigma: float, batch: int) -> Callable[[], object]:
    spec = model.denoiser.spec
    x = model.asarray(noisy_input(spec, sigma, range(batch)))
    cond = {name: model.asarray(value) for name, value in sample_conditions(spec, batch).items()}
    return lambda: model.asnumpy(model.denoiser(x, sigma, cond))
