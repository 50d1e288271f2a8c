"""What is written of a scan: NIfTI files with sidecars, DICOM objects of a series, and its line in the manifest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffgraft import __version__, reporting
from diffgraft.counterfactuals.plan import Plan
from diffgraft.counterfactuals.result import ScanResult
from toolkit.example import Provenance
from toolkit.formats import nifti
from toolkit.formats.mr_scans import Scan, write_dicom

if TYPE_CHECKING:
    from toolkit.formats.dicom.series import Series

__all__ = ["write_manifest", "write_scan"]

HEALTHY, ANOMALY, MASK = "healthycf", "anomaly", "mask"


def write_scan(
    folder: Path, scan: Scan, source: tuple[nifti.Volume, Series | None], stacks: Mapping[str, np.ndarray],
    probability: np.ndarray, plan: Plan, novelty: float,
) -> None:  # fmt: skip
    """The files of a scan. source: as it was loaded; stacks: healthycf, anomaly and mask, in display orientation.

    probability: of a lesion, one a slice.
    """
    volume, series = source
    grids = {
        name: nifti.restore(np.ascontiguousarray(stack), volume.affine, volume.array.shape)
        for name, stack in stacks.items()
    }
    if series is not None:
        provenance = _provenance(scan, plan)
        write_dicom(folder / "dicom" / scan.label, series, grids[HEALTHY], grids[ANOMALY], grids[MASK], provenance)
    _write_nifti(folder, scan, volume, grids, probability, plan, novelty)


def _provenance(scan: Scan, plan: Plan) -> Provenance:
    """Everything that the outputs of a scan depend on."""
    settings = dataclasses.asdict(plan.counterfactual) | {
        "target": plan.target, "threshold": plan.threshold, "maps": dataclasses.asdict(plan.maps),
    }  # fmt: skip
    return Provenance("edited", plan.fingerprint, "counterfactual", plan.counterfactual.seed, settings, scan.name)


def _write_nifti(
    folder: Path, scan: Scan, source: nifti.Volume, made: Mapping[str, np.ndarray], probability: np.ndarray, plan: Plan,
    novelty: float,
) -> None:  # fmt: skip
    """made: (X, Y, Z) on the grid of the source, by the last word of their names."""
    suffix = nifti.suffix_of(source.contrast)
    stated = nifti.read_sidecar(scan.path) if scan.path is not None else {}
    common = {
        # Whole heads are what the input gate asks for, unless the source says otherwise.
        "SkullStripped": stated.get("SkullStripped") is True,
        **_required(scan, stated),
        "Sources": [scan.name],
        "GeneratedBy": {"Name": "diffgraft", "Version": __version__},
        "Synthetic": True,
        "Notice": reporting.RESEARCH_USE,
        "Model": {"Path": plan.model, "SHA256": plan.fingerprint, "Backend": plan.backend},
        "Settings": dataclasses.asdict(plan.counterfactual) | {"target": plan.target},
        "PostProcessing": dataclasses.asdict(plan.maps),
        "Novelty": {"Value": novelty, "Limit": plan.novelty_limit},
        "Notes": list(source.notes),
    }
    files = {
        (HEALTHY, suffix): (made["healthycf"], "intensity", {
            "Description": "AI counterfactual, NOT ACQUIRED: the scan as the model expects it without a lesion. The change "
            "was made at the model's resolution, weighted by the slice's probability of a lesion, and subtracted from the "
            "scan; outside the head and at its rim the scan is untouched.",
            "Units": "arbitrary, those of the source",
        }),
        (ANOMALY, suffix): (made["anomaly"], "map", {
            "Description": "Anomaly map: smoothed positive difference between the scan and its counterfactual in window "
            "units, less a share of that of the mirror image, times the weight of the head's rim and the slice's "
            "probability of a lesion. One scale for all scans.",
            "Units": "fraction of half the intensity window",
            "SliceProbability": [round(float(p), 4) for p in probability],
            "SliceOrder": "inferior to superior",
        }),
        (ANOMALY, MASK): (made["mask"], "mask", {
            "Description": "Anomaly map at or above the threshold",
            "Type": "ROI",
            "Units": "1 above the threshold",
            "Threshold": plan.threshold,
            "ThresholdOrigin": plan.threshold_origin,
        }),
    }  # fmt: skip
    for (desc, end), (array, kind, own) in files.items():
        place = folder / nifti.result_path(scan.entities, desc, end)
        path = place.with_name(f"{place.name}.nii.gz")
        nifti.save(path, array, source, kind)
        nifti.write_sidecar(path, **own, **common)


def _required(scan: Scan, stated: Mapping[str, object]) -> dict[str, object]:
    """What BIDS asks of a sidecar because of an entity in its name; the grid is that of the source, whatever it is."""
    own = {"space": ("SpatialReference", scan.name), "res": ("Resolution", "that of the source")}
    return {key: stated.get(key) or value for entity, (key, value) in own.items() if entity in scan.entities}


def write_manifest(path: Path, scans: Sequence[ScanResult], plan: Plan) -> None:
    """One line a scan."""
    with path.open("w", encoding="utf-8") as file:
        for scan in scans:
            file.write(json.dumps(_line(scan, plan), allow_nan=False) + "\n")


def _line(scan: ScanResult, plan: Plan) -> dict[str, object]:
    result = {k: v for k, v in dataclasses.asdict(scan).items() if k not in ("refused", "seconds", "group")}
    settings = dataclasses.asdict(plan.counterfactual)
    provenance = Provenance("edited", plan.fingerprint, "counterfactual", settings["seed"], settings, scan.source)
    return {
        "id": f"sub-{scan.label}",
        "group": scan.group,
        "source": scan.source,
        "provenance": dataclasses.asdict(provenance),
        "result": result,
    }
