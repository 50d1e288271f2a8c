"""How well an anomaly map finds lesions: voxels pooled over patients, lesions by size, healthy slices, slices.

Arrays are stacks (slices, rows, cols); a larger score is more abnormal; a voxel is called abnormal when its score is
at least the threshold. Pooling takes one threshold for all patients, so a map whose scale differs from patient to
patient loses. Confidence intervals resample patients, never voxels: voxels of one head are not independent.

Area under the precision-recall curve is average precision, sum (R_i - R_{i-1}) P_i over distinct scores. It and the
best Dice depend on the lesion voxels' scores alone as thresholds: a threshold between two of them adds only false
positives. Every curve here therefore holds those thresholds and no others, and is still exact.

numpy and scipy.ndimage. Voxels outside the region are not counted, neither as hits nor as misses; how many lesion
voxels that leaves out is reported. Undefined figures are None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from toolkit.data.head import head_mask, inner_head, otsu, rim_distance, rim_weight
from toolkit.example import Error

__all__ = [
    "HEAD_DEFINITION",
    "AnomalyReport",
    "BestDice",
    "Case",
    "Curve",
    "Difference",
    "FalsePositives",
    "Interval",
    "RegionReport",
    "Stratum",
    "anomaly_report",
    "auroc",
    "average_precision",
    "best_dice",
    "compare",
    "curve",
    "dice_at",
    "head_mask",
    "inner_head",
    "otsu",
    "rim_distance",
    "rim_weight",
    "table",
    "tuned_dice",
]

HEAD_DEFINITION = (
    "head = per slice the largest component of the filled Gaussian (2 px) > 0.5 Otsu of the volume; "
    "inner head = 18 erosions of it at 256 px"
)
REGIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"head": lambda head: head, "inner head": inner_head}


# Curves and the figures read from them


@dataclass(frozen=True)
class Curve:
    """True and false positives at falling thresholds.

    thresholds: (T,) falling; true_positives, false_positives: (T,) voxels that score at least that much.
    positives, negatives: voxels in all.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    positives: int
    negatives: int

    def average_precision(self) -> float:
        """Sum of (R_i - R_{i-1}) P_i; NaN without positives."""
        return float(_average_precision(self.true_positives, self.false_positives, self.positives))

    def dice(self) -> np.ndarray:
        """(T,) Dice at every threshold; NaN without positives."""
        return _dice(self.true_positives, self.false_positives, self.positives)


class BestDice(NamedTuple):
    """The highest Dice of any threshold, and the highest threshold that reaches it."""

    dice: float
    threshold: float


def _average_precision(hits: np.ndarray, alarms: np.ndarray, positives) -> np.ndarray:
    """Along the last axis, over which the thresholds fall."""
    positives = np.asarray(positives, float)
    recall = hits / np.maximum(positives, 1)[..., None]
    total = (np.diff(recall, prepend=0.0) * (hits / np.maximum(hits + alarms, 1))).sum(-1)
    return np.where(positives > 0, total, np.nan)


def _dice(hits: np.ndarray, alarms: np.ndarray, positives) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * hits / (np.asarray(positives, float) + hits + alarms)


class _Parts(NamedTuple):
    """The scores of lesion voxels and of the others, each rising."""

    lesion: np.ndarray
    other: np.ndarray


def _parts(scores: np.ndarray, truth: np.ndarray) -> _Parts:
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.shape != truth.shape:
        raise Error(f"Scores and truth need the same grid; found {scores.shape} and {truth.shape}.")
    scores = scores.astype(np.result_type(scores.dtype, np.float32), copy=False).ravel()
    bad = scores.size - int(np.count_nonzero(np.isfinite(scores)))
    if bad:
        raise Error(f"An anomaly map holds finite scores; found {bad} that are not. Decide what they mean first.")
    lesion = truth.ravel() > 0
    return _Parts(np.sort(scores[lesion]), np.sort(scores[~lesion]))


def _thresholds(lesion: np.ndarray, bins: int | None) -> np.ndarray:
    """Falling distinct lesion scores; with bins, evenly spaced quantiles of them, always with the lowest."""
    if bins is not None and lesion.size > bins:
        lesion = lesion[np.linspace(0, lesion.size - 1, bins).round().astype(int)]
    return np.unique(lesion)[::-1]


def _at_least(ordered: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return ordered.size - np.searchsorted(ordered, thresholds.astype(ordered.dtype, copy=False), "left")


def _curve(parts: _Parts, bins: int | None = None) -> Curve:
    thresholds = _thresholds(parts.lesion, bins)
    hits, alarms = _at_least(parts.lesion, thresholds), _at_least(parts.other, thresholds)
    return Curve(thresholds, hits, alarms, parts.lesion.size, parts.other.size)


def curve(scores: np.ndarray, truth: np.ndarray, *, bins: int | None = None) -> Curve:
    """The curve of scores against truth, any shape, pooled over everything that is passed.

    bins: at most so many thresholds, at quantiles of the lesion scores; None for all of them, exact. Either way the
    figures change under no strictly rising transform of the scores. Raises Error on scores that are not finite.
    """
    return _curve(_parts(scores, truth), bins)


def average_precision(scores: np.ndarray, truth: np.ndarray, *, bins: int | None = None) -> float:
    """Pooled average precision; exact without bins. NaN without positives. A constant map gets the prevalence."""
    return curve(scores, truth, bins=bins).average_precision()


def best_dice(scores: np.ndarray, truth: np.ndarray, *, bins: int | None = None) -> BestDice:
    """The best Dice over all thresholds: optimistic, the threshold sees the truth. NaN without positives."""
    return _best(curve(scores, truth, bins=bins))


def _best(found: Curve) -> BestDice:
    if not found.positives:
        return BestDice(float("nan"), float("nan"))
    dice = found.dice()
    return BestDice(float(dice.max()), float(found.thresholds[dice.argmax()]))


def dice_at(scores: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """Dice of scores >= threshold; NaN when neither truth nor prediction holds a voxel."""
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.shape != truth.shape:
        raise Error(f"Scores and truth need the same grid; found {scores.shape} and {truth.shape}.")
    called, lesion = scores >= threshold, truth > 0
    total = int(called.sum()) + int(lesion.sum())
    return 2 * int((called & lesion).sum()) / total if total else float("nan")


def tuned_dice(
    scores: np.ndarray, truth: np.ndarray, validation_scores: np.ndarray, validation_truth: np.ndarray
) -> BestDice:
    """Dice at the threshold that is best on other patients, and that threshold."""
    threshold = best_dice(validation_scores, validation_truth).threshold
    return BestDice(dice_at(scores, truth, threshold), threshold)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve; ties count one half. Labels are 1, 0 or NaN = unknown, left out. NaN with one class.

    Errors: a score that is NaN and not left out. An infinite one has its place: a slice without head is below all others.
    """
    scores, labels = np.asarray(scores, float).ravel(), np.asarray(labels, float).ravel()
    ill, well = scores[labels == 1], scores[labels == 0]
    if bad := int(np.isnan(ill).sum() + np.isnan(well).sum()):
        raise Error(f"An area under the ROC curve needs scores in an order; found {bad} that are NaN. Leave them out.")
    return float(_wins(ill, well) / (ill.size * well.size)) if ill.size and well.size else float("nan")


def _wins(ill: np.ndarray, well: np.ndarray) -> float:
    """In how many pairs the ill one scores higher, ties one half."""
    ordered = np.sort(well)
    return (np.searchsorted(ordered, ill, "left") + np.searchsorted(ordered, ill, "right")).sum() / 2


# One map on one set of patients


class Case(NamedTuple):
    """One scan. A plain tuple in this order will do.

    label: the patient; scans with one label are one patient when patients are resampled.
    score, truth, head: stacks (slices, rows, cols) on one grid: float, boolean, boolean.
    slices: (slices,) 1 = lesion, 0 = healthy, NaN = unknown; None takes them from the truth.
    voxel_ml: volume of a voxel in millilitres, None where unknown.
    """

    label: str
    score: np.ndarray
    truth: np.ndarray
    head: np.ndarray
    slices: np.ndarray | None = None
    voxel_ml: float | None = None


@dataclass(frozen=True)
class Interval:
    """A figure with its percentile bootstrap interval over patients; None where undefined."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.3f}" + ("" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]")


@dataclass(frozen=True)
class Stratum:
    """Lesions (3-D components, touching by faces, edges or corners) of one range of sizes.

    low, high: smallest and largest, in `unit`. recall: mean over lesions of the share of voxels called abnormal.
    found: share of lesions of which at least the protocol's overlap is called abnormal.
    """

    lesions: int
    low: float
    high: float
    unit: str
    recall: float
    found: float


@dataclass(frozen=True)
class FalsePositives:
    """What is called abnormal on slices labelled healthy; ml where every scan states its voxel volume."""

    slices: int
    voxels: int
    voxels_per_slice: float | None
    share: float | None
    ml: float | None
    ml_per_patient: float | None


@dataclass(frozen=True)
class _Counts:
    """Per patient what a resample adds up. Shapes (patients, thresholds), (patients,), (patients, patients)."""

    labels: tuple[str, ...]
    hits: np.ndarray
    alarms: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    hits_at: np.ndarray
    alarms_at: np.ndarray
    wins: Mapping[str, np.ndarray] = field(default_factory=dict)
    ill: np.ndarray | None = None
    well: np.ndarray | None = None

    def resample(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Every figure for every row of draws (resamples, patients), how often each patient was drawn."""
        draws = draws.astype(float)
        figures: dict[str, list[np.ndarray]] = {"average_precision": [], "best_dice": []}
        for some in np.array_split(draws, max(1, len(draws) // 64)):
            hits, alarms, positives = some @ self.hits, some @ self.alarms, some @ self.positives
            figures["average_precision"].append(_average_precision(hits, alarms, positives))
            best = _dice(hits, alarms, positives[:, None]).max(-1, initial=0)
            figures["best_dice"].append(np.where(positives > 0, best, np.nan))
        result = {name: np.concatenate(values) for name, values in figures.items()}
        result["dice"] = _dice(draws @ self.hits_at, draws @ self.alarms_at, draws @ self.positives)
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = (draws @ self.ill) * (draws @ self.well)
            for name, wins in self.wins.items():
                result[name] = ((draws @ wins) * draws).sum(1) / pairs
        return result


@dataclass(frozen=True)
class RegionReport:
    """Every figure inside one region (head or inner head).

    prevalence: lesion share of the region's voxels = average precision of chance. outside: lesion voxels that lie
    outside the region and are not counted. threshold: the one behind dice, strata and false_positives; where it comes
    from is in the protocol. dice is the validation-tuned Dice only if that is other patients.
    """

    voxels: int
    lesion_voxels: int
    outside: int
    prevalence: float | None
    average_precision: Interval
    best_dice: Interval
    best_threshold: float | None
    threshold: float | None
    dice: Interval
    patient_average_precision: Mapping[str, float | None]
    mean_patient_average_precision: float | None
    lesions: tuple[Stratum, ...]
    false_positives: FalsePositives
    slice_auroc_max: Interval
    slice_auroc_mean: Interval
    counts: _Counts | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class AnomalyReport:
    """One map on one set of patients: a RegionReport each region, and the protocol that makes the figures readable."""

    regions: Mapping[str, RegionReport]
    protocol: Mapping[str, Any]

    @property
    def best_thresholds(self) -> dict[str, float]:
        """Region -> best threshold here: what another set's anomaly_report takes as `thresholds`."""
        return {
            name: region.best_threshold for name, region in self.regions.items() if region.best_threshold is not None
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; undefined is None."""
        bare = {name: asdict(replace(region, counts=None)) for name, region in self.regions.items()}
        for region in bare.values():
            del region["counts"]
        return {"regions": bare, "protocol": dict(self.protocol)}

    def __str__(self) -> str:
        return table({"map": self})


def anomaly_report(
    cases: Iterable[Case | tuple],
    *,
    thresholds: Mapping[str, float] | None = None,
    threshold_origin: str = "",
    postprocessing: str = "not stated",
    split: str = "not stated",
    mask: str = HEAD_DEFINITION,
    lesion_edges: Sequence[float] | None = None,
    smallest_lesion: int = 10,
    overlap: float = 0.1,
    resamples: int = 1000,
    level: float = 0.95,
    bins: int = 8192,
    seed: int = 0,
) -> AnomalyReport:
    """Every figure of one map on these scans, in the head and in the inner head.

    thresholds: region -> threshold chosen on other patients (`best_thresholds` of their report), named by
        threshold_origin; None takes the best on these very scans, and the protocol says so.
    lesion_edges: inner edges of the lesion sizes, in ml where every scan states its voxel volume, else in voxels;
        None for terciles. Lesions below smallest_lesion voxels are counted in the protocol only.
    overlap: share of its voxels from which a lesion counts as found.
    resamples, level, bins, seed: bootstrap by patient over at most `bins` common thresholds; point values are exact.
    Raises Error for grids that do not agree, scores that are not finite and thresholds that lack a region.
    """
    scans = [_checked(Case(*case)) for case in cases]
    if not scans:
        raise Error("An anomaly report needs at least one scan; found none.")
    if thresholds is not None and (lacking := [name for name in REGIONS if name not in thresholds]):
        raise Error(f"Thresholds need one value for every region; {', '.join(lacking)} missing. Pass {list(REGIONS)}.")
    components = [ndimage.label(scan.truth > 0, np.ones((3, 3, 3), int))[0] for scan in scans]
    sizes = [np.bincount(found.ravel())[1:] for found in components]
    labels = tuple(dict.fromkeys(scan.label for scan in scans))
    draws = _draws(len(labels), resamples, seed)
    regions = {}
    for name, inside in REGIONS.items():
        areas = [np.asarray(inside(scan.head), bool) for scan in scans]
        parts = [_parts(scan.score[area], scan.truth[area]) for scan, area in zip(scans, areas, strict=True)]
        pooled = _curve(_pool(parts))
        best = _best(pooled)
        threshold = _number(best.threshold) if thresholds is None else float(thresholds[name])
        patients = [
            _pool([part for part, scan in zip(parts, scans, strict=True) if scan.label == who]) for who in labels
        ]
        slices = _slices(scans, areas)
        counts = _counts(labels, patients, bins, threshold, slices)
        drawn = counts.resample(draws)
        one = counts.resample(np.ones((1, len(labels))))
        alone = {who: _number(_curve(part).average_precision()) for who, part in zip(labels, patients, strict=True)}
        defined = [value for value in alone.values() if value is not None]
        total = pooled.positives + pooled.negatives
        regions[name] = RegionReport(
            voxels=total,
            lesion_voxels=pooled.positives,
            outside=sum(int(size.sum()) for size in sizes) - pooled.positives,
            prevalence=pooled.positives / total if total else None,
            average_precision=_interval(pooled.average_precision(), drawn["average_precision"], level),
            best_dice=_interval(best.dice, drawn["best_dice"], level),
            best_threshold=_number(best.threshold),
            threshold=threshold,
            dice=_interval(one["dice"][0], drawn["dice"], level),
            patient_average_precision=alone,
            mean_patient_average_precision=float(np.mean(defined)) if defined else None,
            lesions=_strata(scans, areas, components, sizes, threshold, lesion_edges, smallest_lesion, overlap),
            false_positives=_false_positives(scans, areas, threshold, len(labels)),
            slice_auroc_max=_interval(one["slice_auroc_max"][0], drawn["slice_auroc_max"], level),
            slice_auroc_mean=_interval(one["slice_auroc_mean"][0], drawn["slice_auroc_mean"], level),
            counts=counts,
        )
    known = np.concatenate([scan.slices for scan in scans])
    protocol = {
        "patients": len(labels),
        "scans": len(scans),
        "slices": known.size,
        "slices_with_lesion": int((known == 1).sum()),
        "slices_healthy": int((known == 0).sum()),
        "slices_unknown": int(np.isnan(known).sum()),
        "lesion_voxels": sum(int(size.sum()) for size in sizes),
        "mask": mask,
        "postprocessing": postprocessing,
        "split": split,
        "threshold": (threshold_origin or "given, origin not stated")
        if thresholds is not None
        else "best on these very scans (optimistic)",
        "lesions": f"3-D components of at least {smallest_lesion} voxels, found from {overlap:.0%} of the voxels; "
        f"{sum(int((size < smallest_lesion).sum()) for size in sizes)} smaller ones left out",
        "interval": f"{level:.0%}, percentile bootstrap of patients, {resamples} resamples, seed {seed}",
        "pooling": "voxels of all patients under one threshold",
    }
    return AnomalyReport(regions, protocol)


def _checked(scan: Case) -> Case:
    score, truth, head = (np.asarray(each) for each in (scan.score, scan.truth, scan.head))
    if score.ndim != 3 or not score.shape == truth.shape == head.shape:
        found = f"{score.shape}, {truth.shape} and {head.shape}"
        raise Error(f"Score, truth and head of '{scan.label}' need one grid (slices, rows, cols); found {found}.")
    labels = np.any(truth > 0, (1, 2)) if scan.slices is None else scan.slices
    labels = np.asarray(labels, float)
    if labels.shape != score.shape[:1] or not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise Error(f"'{scan.label}' needs a label 1, 0 or NaN for each of its {len(score)} slices.")
    return Case(str(scan.label), score, truth > 0, head > 0, labels, scan.voxel_ml)


def _pool(parts: Sequence[_Parts]) -> _Parts:
    if len(parts) == 1:
        return parts[0]
    return _Parts(*(np.sort(np.concatenate(each)) for each in zip(*parts, strict=True)))


class _Slices(NamedTuple):
    label: str
    labels: np.ndarray
    highest: np.ndarray
    mean: np.ndarray


def _slices(scans: Sequence[Case], areas: Sequence[np.ndarray]) -> list[_Slices]:
    """Labels, highest and mean score of the slices that meet the region and whose label is known."""
    result = []
    for scan, area in zip(scans, areas, strict=True):
        size = area.sum((1, 2))
        use = (size > 0) & ~np.isnan(scan.slices)
        inside = np.where(area[use], scan.score[use], 0).sum((1, 2), dtype=float)
        highest = np.where(area[use], scan.score[use], -np.inf).max((1, 2), initial=-np.inf)
        result.append(_Slices(scan.label, scan.slices[use], highest, inside / size[use]))
    return result


def _counts(
    labels: tuple[str, ...],
    patients: Sequence[_Parts],
    bins: int,
    threshold: float | None,
    slices: Sequence[_Slices],
) -> _Counts:
    steps = _thresholds(np.sort(np.concatenate([part.lesion for part in patients])), bins)
    # Without a threshold nothing is called abnormal.
    at = np.asarray([np.inf if threshold is None else threshold], steps.dtype)
    ill = np.array([sum(int((each.labels == 1).sum()) for each in slices if each.label == who) for who in labels])
    well = np.array([sum(int((each.labels == 0).sum()) for each in slices if each.label == who) for who in labels])

    def wins(pick: Callable[[_Slices], np.ndarray]) -> np.ndarray:
        result = np.zeros((len(labels), len(labels)))
        for one in slices:
            for other in slices:
                won = _wins(pick(one)[one.labels == 1], pick(other)[other.labels == 0])
                result[labels.index(one.label), labels.index(other.label)] += won
        return result

    return _Counts(
        labels=labels,
        hits=np.stack([_at_least(part.lesion, steps) for part in patients]).astype(float),
        alarms=np.stack([_at_least(part.other, steps) for part in patients]).astype(float),
        positives=np.array([part.lesion.size for part in patients], float),
        negatives=np.array([part.other.size for part in patients], float),
        hits_at=np.array([_at_least(part.lesion, at)[0] for part in patients], float),
        alarms_at=np.array([_at_least(part.other, at)[0] for part in patients], float),
        wins={"slice_auroc_max": wins(lambda each: each.highest), "slice_auroc_mean": wins(lambda each: each.mean)},
        ill=ill.astype(float),
        well=well.astype(float),
    )


def _draws(patients: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, patients): how often each patient is drawn. The same for every map on the same patients: paired."""
    return np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), resamples)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(value: float, drawn: np.ndarray, level: float) -> Interval:
    drawn = drawn[np.isfinite(drawn)]
    if _number(value) is None or not drawn.size:
        return Interval(_number(value), None, None)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def _strata(
    scans: Sequence[Case],
    areas: Sequence[np.ndarray],
    components: Sequence[np.ndarray],
    sizes: Sequence[np.ndarray],
    threshold: float | None,
    edges: Sequence[float] | None,
    smallest: int,
    overlap: float,
) -> tuple[Stratum, ...]:
    millilitres = all(scan.voxel_ml is not None for scan in scans)
    volume, recall = [], []
    for scan, area, component, size in zip(scans, areas, components, sizes, strict=True):
        called = component[area & (scan.score >= threshold)] if threshold is not None else component[:0]
        inside = np.bincount(component[area], minlength=len(size) + 1)[1:]
        hits = np.bincount(called.ravel(), minlength=len(size) + 1)[1:]
        use = (inside > 0) & (size >= smallest)
        volume.append(size[use] * (scan.voxel_ml if millilitres else 1.0))
        recall.append(hits[use] / inside[use])
    volume, recall = np.concatenate(volume), np.concatenate(recall)
    if not volume.size:
        return ()
    stratum = np.searchsorted(np.quantile(volume, [1 / 3, 2 / 3]) if edges is None else np.sort(edges), volume, "left")
    return tuple(
        Stratum(
            lesions=int((stratum == which).sum()),
            low=float(volume[stratum == which].min()),
            high=float(volume[stratum == which].max()),
            unit="ml" if millilitres else "voxels",
            recall=float(recall[stratum == which].mean()),
            found=float((recall[stratum == which] >= overlap).mean()),
        )
        for which in np.unique(stratum)
    )


def _false_positives(
    scans: Sequence[Case], areas: Sequence[np.ndarray], threshold: float | None, patients: int
) -> FalsePositives:
    slices = voxels = region = 0
    ml: float | None = 0.0
    for scan, area in zip(scans, areas, strict=True):
        well = scan.slices == 0
        called = area[well] & ~scan.truth[well] & (scan.score[well] >= (np.inf if threshold is None else threshold))
        slices += int(well.sum())
        voxels += int(called.sum())
        region += int(area[well].sum())
        ml = None if ml is None or scan.voxel_ml is None else ml + scan.voxel_ml * int(called.sum())
    return FalsePositives(
        slices=slices,
        voxels=voxels,
        voxels_per_slice=voxels / slices if slices else None,
        share=voxels / region if region else None,
        ml=ml,
        ml_per_patient=None if ml is None else ml / patients,
    )


# Two maps on the same patients


@dataclass(frozen=True)
class Difference:
    """One map less the other, with paired intervals: both see the same resampled patients.

    above: share of the resamples in which the first has the higher average precision.
    """

    average_precision: Interval
    best_dice: Interval
    dice: Interval
    above: float


def compare(
    one: AnomalyReport, other: AnomalyReport, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Difference]:
    """Region -> figures of one less those of other, each at its own threshold.

    Raises Error unless both reports saw the same patients, voxels and truth.
    """
    result = {}
    for name, first in one.regions.items():
        second = other.regions[name]
        a, b = first.counts, second.counts
        if a is None or b is None:
            raise Error("A comparison needs reports with their counts; these were read back. Evaluate both maps again.")
        same = a.labels == b.labels and np.array_equal(a.positives, b.positives)
        if not (same and np.array_equal(a.negatives, b.negatives)):
            raise Error(
                "A paired comparison needs the same patients, region and truth; these two reports differ in them."
            )
        draws = _draws(len(a.labels), resamples, seed)
        left, right = a.resample(draws), b.resample(draws)

        def between(figure: str, first=first, second=second, left=left, right=right) -> Interval:
            values = [getattr(region, figure).value for region in (first, second)]
            gap = float("nan") if None in values else values[0] - values[1]
            return _interval(gap, left[figure] - right[figure], level)

        result[name] = Difference(
            average_precision=between("average_precision"),
            best_dice=between("best_dice"),
            dice=between("dice"),
            above=float((left["average_precision"] > right["average_precision"]).mean()),
        )
    return result


# For people


def table(reports: Mapping[str, AnomalyReport]) -> str:
    """Maps beside one another, a block each region, with the chance line and the protocol they share.

    Raises Error when the reports do not share their patients and mask. What differs between them (post-processing,
    origin of the threshold) is printed per map.
    """
    if not reports:
        raise Error("A table needs at least one report; found none.")
    first = next(iter(reports.values()))
    fixed = ("patients", "scans", "slices", "lesion_voxels", "mask", "split")
    for name, report in reports.items():
        if differing := [key for key in fixed if report.protocol[key] != first.protocol[key]]:
            raise Error(f"Maps in one table need one protocol; '{name}' differs in {', '.join(differing)}.")
    wide = max(12, *(len(name) for name in reports))
    lines = []
    for region, facts in first.regions.items():
        share = "-" if facts.prevalence is None else f"{facts.prevalence:.4f}"
        lines += [
            f"{region}: {facts.voxels} voxels, {facts.lesion_voxels} lesion (prevalence {share}); "
            f"{facts.outside} lesion voxels outside, not counted",
            f"  {'map':{wide}}  {'AP':20} {'best Dice':20} {'Dice at threshold':20} {'AP/patient':10} "
            f"{'FP/healthy slice':16} {'slice AUROC (max)':20}",
        ]
        for name, report in reports.items():
            here = report.regions[region]
            alone, alarms = here.mean_patient_average_precision, here.false_positives.voxels_per_slice
            lines.append(
                f"  {name:{wide}}  {here.average_precision!s:20} {here.best_dice!s:20} {here.dice!s:20} "
                f"{'-' if alone is None else f'{alone:.3f}':10} {'-' if alarms is None else f'{alarms:.0f} voxels':16} "
                f"{here.slice_auroc_max!s:20}".rstrip()
            )
        if facts.prevalence is not None:
            all_called = 2 * facts.prevalence / (1 + facts.prevalence)
            lines.append(f"  {'chance':{wide}}  {facts.prevalence:<20.3f} {all_called:<20.3f}".rstrip())
        for name, report in reports.items():
            for each in report.regions[region].lesions:
                lines.append(
                    f"  {name:{wide}}  {each.lesions} lesions of {each.low:.4g} to {each.high:.4g} {each.unit}: "
                    f"recall {each.recall:.2f}, found {each.found:.2f}"
                )
        lines.append("")
    for key, value in first.protocol.items():
        values = {name: report.protocol[key] for name, report in reports.items()}
        if all(each == value for each in values.values()):
            lines.append(f"{key.replace('_', ' ')}: {value}")
        else:
            lines += [f"{key.replace('_', ' ')}, {name}: {each}" for name, each in values.items()]
    return "\n".join(lines)
