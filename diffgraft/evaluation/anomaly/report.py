"""The page of an evaluation of anomaly maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.anomaly.result import OURS, AnomalyEvaluation, chance_dice, count_of, describe_stratum
from toolkit.evaluation.anomaly import RegionReport

__all__ = ["write"]

NOTE = (
    "Voxels of all patients under one threshold; intervals resample patients. * Dice at the threshold that is best on these "
    f"very scans, optimistic. False positives at the threshold of the {OURS}, for the others at the best one here. Slice "
    "AUROC by the highest value of the map. Bold: best of the column."
)


def write(path: Path, result: AnomalyEvaluation, lesions: Mapping[str, float], run: reporting.Run) -> None:
    """Write report.html. lesions: patient -> ml of lesion in the measured scans."""
    facts, head = result.protocol, {name: each.regions["head"] for name, each in result.reports.items()}
    shown = dict(list(head.items())[: reporting.DotPlot.MOST])
    dots = reporting.DotPlot(
        {name: each.patient_average_precision for name, each in shown.items()}, "AUPRC of each patient, head"
    )
    lines = {name: _precision_recall(each) for name, each in shown.items()}
    curves = reporting.Curve(lines, "recall", "precision", "Precision and recall over voxels of all patients, head")
    slices = reporting.Table(
        ["By", "AUROC, pooled", "AUROC, mean of patients", "Patients with both kinds", "Slices"],
        [[name, s.pooled, s.mean_per_patient, s.patients, s.slices] for name, s in result.slices.items()],
    )
    more: list[reporting.Block] = []
    if result.written:
        more.append(reporting.Facts(result.written, "Written to the model"))
    if result.left_out:
        more.append(reporting.Table(["Scan", "Left out because of"], list(result.left_out.items())))
    reporting.write(
        path,
        "Anomaly maps against masks",
        f"{count_of(facts['patients'], 'patient')}, {facts['slices']} slices: AUPRC {head[OURS].average_precision} in the head, "
        f"best Dice {head[OURS].best_dice}",
        [
            reporting.warning_section(result.warnings),
            reporting.Section("Figures", [_table(result, region) for region in result.reports[OURS].regions], NOTE),
            reporting.Section("Patients", [dots, curves, _patients(result, lesions)]),
            reporting.Section("Compared", [_differences(result), _sizes(result)]),
            reporting.Section("Slices with a lesion", [slices], facts["slice_auroc_over"]),
            reporting.protocol_section(facts, result.notes, *more),
        ],
        run,
        notice=reporting.RESEARCH_USE,
        next_step="Look at the worst patients first, in the report of the run that made the maps.",
    )


def _table(result: AnomalyEvaluation, region: str) -> reporting.Table:
    """Every map beside the others in a region, chance last."""
    header = [
        "Map", "AUPRC", "Best Dice *", result.dice_title, "AUPRC / patient", "FP voxels / healthy slice", "Slice AUROC",
    ]  # fmt: skip
    rows: list[list[Any]] = [
        [name, here.average_precision, here.best_dice, result.dice(name, region), here.mean_patient_average_precision,
         here.false_positives.voxels_per_slice, here.slice_auroc_max.value]
        for name, here in ((name, each.regions[region]) for name, each in result.reports.items())
    ]  # fmt: skip
    if (share := result.reports[OURS].regions[region].prevalence) is not None:
        rows.append(["chance", share, chance_dice(share), None, None, None, 0.5])
    best = dict.fromkeys(["AUPRC", "Best Dice *", "AUPRC / patient", "Slice AUROC"], "max")
    return reporting.Table(
        header, rows, caption=region.capitalize() + ", see the warning" * bool(result.warnings), best=best
    )


def _differences(result: AnomalyEvaluation) -> reporting.Table:
    regions = result.reports[OURS].regions
    header = [f"{figure}, {region}" for region in regions for figure in ("AUPRC", "best Dice")]
    rows = []
    for name, gaps in result.differences.items():
        cells = [figure for gap in gaps.values() for figure in (gap.average_precision, gap.best_dice)]
        rows.append([name, *map(reporting.format_difference, cells), f"{gaps['head'].above:.0%}"])
    caption = f"{OURS.capitalize()} less the other, on the same resampled patients; ahead: in AUPRC in the head"
    return reporting.Table(["Compared with", *header, "ahead"], rows, caption)


def _sizes(result: AnomalyEvaluation) -> reporting.Table:
    strata = {name: each.regions["head"].lesions for name, each in result.reports.items()}
    header = ["Map", *map(describe_stratum, strata[OURS])]
    rows = [[name, *(f"{s.recall:.2f} (found {s.found:.2f})" for s in every)] for name, every in strata.items()]
    caption = (
        "Lesions by size: share of their voxels, and share of the lesions found; head, volumes as the files state them"
    )
    return reporting.Table(header, rows, caption)


def _patients(result: AnomalyEvaluation, lesions: Mapping[str, float]) -> reporting.Table:
    """A line a patient, worst first: where to look."""
    head = {name: each.regions["head"] for name, each in result.reports.items()}
    ours, counts = head[OURS], head[OURS].counts
    assert counts is not None, "a report that was just made has its counts"
    rows: list[list[Any]] = []
    for group, hits, alarms, lesion in zip(
        counts.labels, counts.hits_at, counts.alarms_at, counts.positives, strict=True
    ):
        dice = float(2 * hits / (hits + alarms + lesion)) if hits + alarms + lesion else None
        others = [each.patient_average_precision[group] for name, each in head.items() if name != OURS]
        best = max((precision for precision in others if precision is not None), default=None)
        rows.append([group, lesions[group], ours.patient_average_precision[group], dice, best])
    rows.sort(key=lambda row: math.inf if row[2] is None else row[2])
    used = "the threshold" if result.protocol["threshold"] is not None else "the best pooled threshold"
    header = ["Patient", "Lesion (ml)", "AUPRC", f"Dice at {used}", "Best AUPRC of the other maps"]
    return reporting.Table(header, rows, caption="Patients, worst first (head)")


def _precision_recall(report: RegionReport) -> list[tuple[float, float]]:
    counts = report.counts
    assert counts is not None, "a report that was just made has its counts"
    hits, alarms = counts.hits.sum(0), counts.alarms.sum(0)
    recall = hits / max(counts.positives.sum(), 1)
    precision = hits / np.maximum(hits + alarms, 1)
    return list(zip(recall.tolist(), precision.tolist(), strict=True))
