"""One map measured on one set of patients, region by region."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from toolkit.evaluation.anomaly.bootstrap import percentile_interval, resample_patients
from toolkit.evaluation.anomaly.curves import (
    Parts,
    best_of,
    count_at_least,
    count_wins,
    curve_of,
    finite_or_none,
    lesion_thresholds,
    split_scores,
)
from toolkit.evaluation.anomaly.report import (
    REGIONS,
    AnomalyReport,
    Bootstrap,
    Counts,
    EvaluationProtocol,
    FalsePositives,
    LesionCriteria,
    RegionReport,
    Stratum,
)
from toolkit.example import Error

__all__ = ["Case", "anomaly_report"]


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


class _Scan(NamedTuple):
    """A Case that was checked; slices are known, and truth and head are boolean."""

    label: str
    score: np.ndarray
    truth: np.ndarray
    head: np.ndarray
    slices: np.ndarray
    voxel_ml: float | None


def anomaly_report(
    cases: Iterable[tuple[Any, ...]],
    *,
    thresholds: Mapping[str, float] | None = None,
    protocol: EvaluationProtocol = EvaluationProtocol(),  # noqa: B008 - frozen
    lesions: LesionCriteria = LesionCriteria(),  # noqa: B008 - frozen
    bootstrap: Bootstrap = Bootstrap(),  # noqa: B008 - frozen
) -> AnomalyReport:
    """Every figure of one map on these scans, each a Case, in the head and in the inner head.

    thresholds: region -> threshold chosen on other patients (`best_thresholds` of their report), named by
        protocol.threshold_origin; None takes the best on these very scans, and the protocol of the report says so.
    bootstrap: intervals only; point values are exact.
    Raises Error for grids that do not agree, scores that are not finite and thresholds that lack a region.
    """
    scans = [_checked(Case(*case)) for case in cases]
    if not scans:
        raise Error("An anomaly report needs at least one scan; found none.")
    if thresholds is not None and (lacking := [name for name in REGIONS if name not in thresholds]):
        raise Error(f"Thresholds need one value for every region; {', '.join(lacking)} missing. Pass {list(REGIONS)}.")
    components = [_components(scan.truth) for scan in scans]
    sizes = [np.bincount(found.ravel())[1:] for found in components]
    labels = tuple(dict.fromkeys(scan.label for scan in scans))
    draws = resample_patients(len(labels), bootstrap)
    regions = {}
    for name, inside in REGIONS.items():
        areas = [np.asarray(inside(scan.head), bool) for scan in scans]
        region = _Region(scans, areas, components, sizes)
        threshold = None if thresholds is None else float(thresholds[name])
        regions[name] = _region_report(region, labels, threshold, lesions, bootstrap, draws)
    known = np.concatenate([scan.slices for scan in scans])
    stated = {
        "patients": len(labels),
        "scans": len(scans),
        "slices": known.size,
        "slices_with_lesion": int((known == 1).sum()),
        "slices_healthy": int((known == 0).sum()),
        "slices_unknown": int(np.isnan(known).sum()),
        "lesion_voxels": sum(int(size.sum()) for size in sizes),
        "mask": protocol.mask,
        "postprocessing": protocol.postprocessing,
        "split": protocol.split,
        "threshold": (protocol.threshold_origin or "given, origin not stated")
        if thresholds is not None
        else "best on these very scans (optimistic)",
        "lesions": f"3-D components of at least {lesions.smallest} voxels, found from {lesions.overlap:.0%} of the voxels; "
        f"{sum(int((size < lesions.smallest).sum()) for size in sizes)} smaller ones left out",
        "interval": f"{bootstrap.level:.0%}, percentile bootstrap of patients, {bootstrap.resamples} resamples, seed {bootstrap.seed}",
        "pooling": "voxels of all patients under one threshold",
    }
    return AnomalyReport(regions, stated)


class _Region(NamedTuple):
    """The scans of one region. areas: of each scan the region; components, sizes: of each its lesions in the whole scan."""

    scans: Sequence[_Scan]
    areas: Sequence[np.ndarray]
    components: Sequence[np.ndarray]
    sizes: Sequence[np.ndarray]


def _region_report(
    region: _Region,
    labels: tuple[str, ...],
    threshold: float | None,
    lesions: LesionCriteria,
    bootstrap: Bootstrap,
    draws: np.ndarray,
) -> RegionReport:
    """threshold: None for the best one here. draws: see `resample_patients`."""
    scans = region.scans
    parts = [split_scores(scan.score[area], scan.truth[area]) for scan, area in zip(scans, region.areas, strict=True)]
    pooled = curve_of(_pool(parts))
    best = best_of(pooled)
    threshold = finite_or_none(best.threshold) if threshold is None else threshold
    patients = [_pool([part for part, scan in zip(parts, scans, strict=True) if scan.label == who]) for who in labels]
    slices = _slices(scans, region.areas)
    counts = _counts(labels, patients, bootstrap.bins, threshold, slices)
    drawn = counts.resample(draws)
    one = counts.resample(np.ones((1, len(labels))))
    alone = {
        who: finite_or_none(curve_of(part).average_precision()) for who, part in zip(labels, patients, strict=True)
    }
    defined = [value for value in alone.values() if value is not None]
    total = pooled.positives + pooled.negatives
    return RegionReport(
        voxels=total,
        lesion_voxels=pooled.positives,
        outside=sum(int(size.sum()) for size in region.sizes) - pooled.positives,
        prevalence=pooled.positives / total if total else None,
        average_precision=percentile_interval(pooled.average_precision(), drawn["average_precision"], bootstrap.level),
        best_dice=percentile_interval(best.dice, drawn["best_dice"], bootstrap.level),
        best_threshold=finite_or_none(best.threshold),
        threshold=threshold,
        dice=percentile_interval(one["dice"][0], drawn["dice"], bootstrap.level),
        patient_average_precision=alone,
        mean_patient_average_precision=float(np.mean(defined)) if defined else None,
        lesions=_strata(region, threshold, lesions),
        false_positives=_false_positives(region, threshold, len(labels)),
        slice_auroc_max=percentile_interval(one["slice_auroc_max"][0], drawn["slice_auroc_max"], bootstrap.level),
        slice_auroc_mean=percentile_interval(one["slice_auroc_mean"][0], drawn["slice_auroc_mean"], bootstrap.level),
        counts=counts,
    )


def _checked(scan: Case) -> _Scan:
    score, truth, head = (np.asarray(each) for each in (scan.score, scan.truth, scan.head))
    if score.ndim != 3 or not score.shape == truth.shape == head.shape:
        found = f"{score.shape}, {truth.shape} and {head.shape}"
        raise Error(f"Score, truth and head of '{scan.label}' need one grid (slices, rows, cols); found {found}.")
    labels = np.any(truth > 0, (1, 2)) if scan.slices is None else scan.slices
    labels = np.asarray(labels, float)
    if labels.shape != score.shape[:1] or not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise Error(f"'{scan.label}' needs a label 1, 0 or NaN for each of its {len(score)} slices.")
    return _Scan(str(scan.label), score, truth > 0, head > 0, labels, scan.voxel_ml)


def _components(truth: np.ndarray) -> np.ndarray:
    """The lesions of a stack, numbered from 1: they touch by faces, edges or corners."""
    numbered, _ = ndimage.label(truth, np.ones((3, 3, 3), int))  # type: ignore[misc]  # scipy answers a count alone only with `output`
    return numbered


def _pool(parts: Sequence[Parts]) -> Parts:
    if len(parts) == 1:
        return parts[0]
    return Parts(*(np.sort(np.concatenate(each)) for each in zip(*parts, strict=True)))


class _Slices(NamedTuple):
    label: str
    labels: np.ndarray
    highest: np.ndarray
    mean: np.ndarray


def _slices(scans: Sequence[_Scan], areas: Sequence[np.ndarray]) -> list[_Slices]:
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
    patients: Sequence[Parts],
    bins: int,
    threshold: float | None,
    slices: Sequence[_Slices],
) -> Counts:
    steps = lesion_thresholds(np.sort(np.concatenate([part.lesion for part in patients])), bins)
    # Without a threshold nothing is called abnormal.
    at = np.asarray([np.inf if threshold is None else threshold], steps.dtype)
    ill = np.array([sum(int((each.labels == 1).sum()) for each in slices if each.label == who) for who in labels])
    well = np.array([sum(int((each.labels == 0).sum()) for each in slices if each.label == who) for who in labels])

    def wins(pick: Callable[[_Slices], np.ndarray]) -> np.ndarray:
        result = np.zeros((len(labels), len(labels)))
        for one in slices:
            for other in slices:
                won = count_wins(pick(one)[one.labels == 1], pick(other)[other.labels == 0])
                result[labels.index(one.label), labels.index(other.label)] += won
        return result

    return Counts(
        labels=labels,
        hits=np.stack([count_at_least(part.lesion, steps) for part in patients]).astype(float),
        alarms=np.stack([count_at_least(part.other, steps) for part in patients]).astype(float),
        positives=np.array([part.lesion.size for part in patients], float),
        negatives=np.array([part.other.size for part in patients], float),
        hits_at=np.array([count_at_least(part.lesion, at)[0] for part in patients], float),
        alarms_at=np.array([count_at_least(part.other, at)[0] for part in patients], float),
        wins={"slice_auroc_max": wins(lambda each: each.highest), "slice_auroc_mean": wins(lambda each: each.mean)},
        ill=ill.astype(float),
        well=well.astype(float),
    )


def _strata(region: _Region, threshold: float | None, criteria: LesionCriteria) -> tuple[Stratum, ...]:
    edges = criteria.edges
    millilitres = all(scan.voxel_ml is not None for scan in region.scans)
    volumes, recalls = [], []
    for scan, area, component, size in zip(*region, strict=True):
        called = component[area & (scan.score >= threshold)] if threshold is not None else component[:0]
        inside = np.bincount(component[area], minlength=len(size) + 1)[1:]
        hits = np.bincount(called.ravel(), minlength=len(size) + 1)[1:]
        use = (inside > 0) & (size >= criteria.smallest)
        volumes.append(size[use] * (scan.voxel_ml if millilitres and scan.voxel_ml is not None else 1.0))
        recalls.append(hits[use] / inside[use])
    volume, recall = np.concatenate(volumes), np.concatenate(recalls)
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
            found=float((recall[stratum == which] >= criteria.overlap).mean()),
        )
        for which in np.unique(stratum)
    )


def _false_positives(region: _Region, threshold: float | None, patients: int) -> FalsePositives:
    slices = voxels = healthy = 0
    ml: float | None = 0.0
    for scan, area in zip(region.scans, region.areas, strict=True):
        well = scan.slices == 0
        called = area[well] & ~scan.truth[well] & (scan.score[well] >= (np.inf if threshold is None else threshold))
        slices += int(well.sum())
        voxels += int(called.sum())
        healthy += int(area[well].sum())
        ml = None if ml is None or scan.voxel_ml is None else ml + scan.voxel_ml * int(called.sum())
    return FalsePositives(
        slices=slices,
        voxels=voxels,
        voxels_per_slice=voxels / slices if slices else None,
        share=voxels / healthy if healthy else None,
        ml=ml,
        ml_per_patient=None if ml is None else ml / patients,
    )
