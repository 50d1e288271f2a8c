"""What an evaluation of an anomaly map states: figures by region with their intervals, the protocol, and a table for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from toolkit.data.head import inner_head
from toolkit.evaluation.anomaly.curves import dice_of_counts, precision_of_counts
from toolkit.evaluation.interval import Interval
from toolkit.example import Error

__all__ = [
    "HEAD_DEFINITION", "REGIONS", "AnomalyReport", "Bootstrap", "Counts", "EvaluationProtocol", "FalsePositives",
    "LesionCriteria", "RegionReport", "Stratum", "table",
]  # fmt: skip

HEAD_DEFINITION = (
    "head = per slice the largest component of the filled Gaussian (2 px) > 0.5 Otsu of the volume, both "
    "counted from air, the darkest 0.5 %; "
    "inner head = 18 erosions of it at 256 px"
)
REGIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"head": lambda head: head, "inner head": inner_head}


@dataclass(frozen=True)
class EvaluationProtocol:
    """What is stated beside the figures, because it decides what they mean.

    postprocessing: of the map. split: which patients these are. mask: how the head was found. threshold_origin: where a
    threshold that is given comes from.
    """

    postprocessing: str = "not stated"
    split: str = "not stated"
    mask: str = HEAD_DEFINITION
    threshold_origin: str = ""


@dataclass(frozen=True)
class LesionCriteria:
    """Which lesions count, and when one is found.

    edges: inner edges of the lesion sizes, in ml where every scan states its voxel volume, else in voxels; None for
    terciles. smallest: lesions of fewer voxels are counted in the protocol only. overlap: share of its voxels from which
    a lesion counts as found.
    """

    edges: Sequence[float] | None = None
    smallest: int = 10
    overlap: float = 0.1


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals over resampled patients. bins: of the common thresholds of a resample, at most."""

    resamples: int = 1000
    level: float = 0.95
    bins: int = 8192
    seed: int = 0


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
class Counts:
    """Per patient what a resample adds up.

    hits, alarms: (patients, thresholds) true and false positives; hits_at, alarms_at: (patients,) at the one threshold.
    positives, negatives: (patients,) voxels. wins: name -> (patients, patients) pairs of slices in which the ill one of the
    first patient scores higher than the healthy one of the second; ill, well: (patients,) slices.
    """

    labels: tuple[str, ...]
    hits: np.ndarray
    alarms: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    hits_at: np.ndarray
    alarms_at: np.ndarray
    wins: Mapping[str, np.ndarray]
    ill: np.ndarray
    well: np.ndarray

    def resample(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Every figure for every row of draws (resamples, patients), how often each patient was drawn."""
        draws = draws.astype(float)
        figures: dict[str, list[np.ndarray]] = {"average_precision": [], "best_dice": []}
        for some in np.array_split(draws, max(1, len(draws) // 64)):
            hits, alarms, positives = some @ self.hits, some @ self.alarms, some @ self.positives
            figures["average_precision"].append(precision_of_counts(hits, alarms, positives))
            best = dice_of_counts(hits, alarms, positives[:, None]).max(-1, initial=0)
            figures["best_dice"].append(np.where(positives > 0, best, np.nan))
        result = {name: np.concatenate(values) for name, values in figures.items()}
        result["dice"] = dice_of_counts(draws @ self.hits_at, draws @ self.alarms_at, draws @ self.positives)
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
    counts: Counts | None = field(default=None, repr=False, compare=False)


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
