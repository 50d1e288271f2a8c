"""Measure anomaly maps against lesion masks, beside the maps that cost nothing; calibrate a model on them.

Every map of one evaluation sees the same scans, the same masks (head, inner head) and the same slice labels. The
figures and their definitions are those of toolkit.evaluation.anomaly; what is trivial is in .baselines.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.anomaly import calibration, report
from diffgraft.evaluation.anomaly.baselines import HealthyAtlas, map_kinds, slice_figures
from diffgraft.evaluation.anomaly.calibration import Makers, MapThreshold
from diffgraft.evaluation.anomaly.result import OURS, AnomalyEvaluation
from diffgraft.evaluation.anomaly.scans import ScanSet, read_scans
from diffgraft.requests import AnomalyRequest, record
from diffgraft.requests.verb import Call, Watch, verb
from domains import brain_mri
from toolkit.evaluation.anomaly import (
    REGIONS,
    AnomalyReport,
    Bootstrap,
    Case,
    EvaluationProtocol,
    anomaly_report,
    compare,
)
from toolkit.models.folder import fingerprint

__all__ = ["evaluate_anomaly"]


@verb(AnomalyRequest)
def evaluate_anomaly(request: AnomalyRequest, call: Call) -> AnomalyEvaluation:
    """Measure the anomaly maps of a request on its scans with lesion masks.

    The patients that are evaluated are left out of the atlas. call.watch is called once a scan read and once a map
    measured. Errors: grids that do not agree, nothing to measure, a calibration on patients that the maker of the maps was
    trained on.
    """
    begun = time.monotonic()
    with reporting.staged_output(request.out, request.overwrite) as folder:
        found = read_scans(request, call.watch)
        patients, makers = found.patients, Makers.find(found, request)
        if request.calibrate is not None:
            calibration.check(request.calibrate, found, makers.trained)
        threshold = calibration.common_threshold(found.scans, makers)
        atlas = None if request.atlas is None else HealthyAtlas.read(request.atlas, set(patients))
        reports = _measure(request, found, atlas, threshold, makers.split, call.watch)
        ours, slices = reports[OURS], slice_figures(found.scans, atlas, request.resamples)
        written: dict[str, Any] = {}
        if request.calibrate is not None:
            written = calibration.find(request.calibrate, found, makers, ours, slices)
        alone = "One patient: the intervals, over patients, say nothing." if len(patients) == 1 else ""
        about_atlas = "" if atlas is None else atlas.description
        result = AnomalyEvaluation(
            reports=reports,
            differences={n: compare(ours, r, Bootstrap(request.resamples)) for n, r in reports.items() if n != OURS},
            slices=slices,
            protocol=_protocol(ours, found, threshold, about_atlas or None),
            left_out=found.left_out,
            warnings=tuple(each for each in (makers.warning(len(patients)), threshold.warning, alone) if each),
            notes=tuple(
                each for each in (*found.notes, calibration.note(written), threshold.note, about_atlas) if each
            ),
            calibration=written,
        )
        if folder is not None:
            reporting.write_metrics(folder, result.numbers)
            model = "" if request.model is None else fingerprint(request.model)
            record.save(folder, "evaluate anomaly", request, model)
            lesions = {p: sum(scan.lesion_ml for scan in found.scans if scan.group == p) for p in patients}
            run = reporting.Run(call.command, seed=0, seconds=time.monotonic() - begun)
            report.write(folder / "report.html", result, lesions, run)
        if request.calibrate is not None:
            calibration.write(request.calibrate, written)
    return result


def _measure(
    request: AnomalyRequest,
    found: ScanSet,
    atlas: HealthyAtlas | None,
    threshold: MapThreshold,
    split: str,
    watch: Watch,
) -> dict[str, AnomalyReport]:
    """Every kind of map on all scans. split: which patients these are, in words."""
    reports, kinds = {}, map_kinds(found.scans, atlas, request.beside)
    for number, (name, kind) in enumerate(kinds.items(), 1):
        own = threshold.value if name == OURS else None
        reports[name] = anomaly_report(
            [Case(s.group, kind.score(s), s.truth, s.case.head, s.labels, s.voxel_ml) for s in found.scans],
            thresholds=None if own is None else dict.fromkeys(REGIONS, own),
            protocol=EvaluationProtocol(kind.postprocessing, split, threshold_origin=threshold.origin),
            bootstrap=Bootstrap(request.resamples),
        )
        watch("measuring", number, len(kinds))
    return reports


def _protocol(ours: AnomalyReport, found: ScanSet, threshold: MapThreshold, atlas: str | None) -> dict[str, Any]:
    """What is common to all maps, and how the evaluated ones were made."""
    own = ("postprocessing", "threshold")
    counted = {k: v for k, v in ours.protocol.items() if k not in own and not k.startswith("slices_")}
    shown = sum(int((~np.isnan(scan.position)).sum()) for scan in found.scans)
    missed = sum(int(((scan.labels == 1) & np.isnan(scan.position)).sum()) for scan in found.scans)

    def common(name: str) -> Any:
        """What the sidecars of all maps say of it."""
        values = {json.dumps(scan.sidecar.get(name), sort_keys=True) for scan in found.scans}
        return json.loads(values.pop()) if len(values) == 1 else f"{len(values)} different"

    return counted | {
        "data": found.root.name,
        "slices_with_lesion": ours.protocol["slices_with_lesion"],
        "slices_healthy": ours.protocol["slices_healthy"],
        "slice_auroc_over": f"{shown} slices whose head covers over {brain_mri.SMALLEST_HEAD:.0%} of them; "
        f"{missed} slices with a lesion lie outside",
        "threshold": threshold.value,
        "threshold_origin": threshold.origin or None,
        "threshold_from_other_patients": None if threshold.value is None else threshold.from_others,
        "threshold_of_other_maps": "best on these very scans (optimistic)",
        "models": sorted({str(scan.facts("Model").get("SHA256", "not stated")) for scan in found.scans}),
        "settings": common("Settings"),
        "map_postprocessing": common("PostProcessing"),
        "atlas": atlas,
        "voxel_volume": "as the files state it",
    }
