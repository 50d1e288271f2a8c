"""Scans with their lesion masks, their anomaly maps and what the sidecars of the maps say, as they are read from files."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft.evaluation.scans import find_raw_scans, read_lesions
from diffgraft.requests import AnomalyRequest
from diffgraft.requests.verb import Watch
from domains import brain_mri
from toolkit.example import Error
from toolkit.formats import nifti

__all__ = ["MapFolder", "MappedScan", "ScanSet", "read_scans"]

_ANOMALY = "anomaly"


@dataclass(frozen=True)
class MappedScan:
    """One scan with its mask and map; arrays (slices, rows, cols) in display order.

    labels: (slices,) 1 lesion, 0 healthy, NaN unknown. position: (slices,) 0..1 where the head is, else NaN.
    probability: (slices,) of a lesion as the map's sidecar has it. sidecar: all of it; threshold, origin: the mask's.
    """

    label: str
    group: str
    case: brain_mri.PreparedScan
    truth: np.ndarray
    anomaly: np.ndarray
    labels: np.ndarray
    position: np.ndarray
    sidecar: Mapping[str, Any]
    probability: np.ndarray | None
    threshold: float | None
    origin: str

    def facts(self, name: str) -> Mapping[str, Any]:
        """A group of facts in the map's sidecar; empty where it is not there."""
        found = self.sidecar.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def novelty(self) -> float | None:
        """Of the scan, as the sidecar has it. Errors: one that is no number."""
        found = _finite(self.facts("Novelty").get("Value"), self.label, "Novelty")
        return None if found is None else float(found)

    @property
    def voxel_ml(self) -> float:
        return math.prod(self.case.spacing) / 1000

    @property
    def lesion_ml(self) -> float:
        return float(self.truth.sum()) * self.voxel_ml


@dataclass(frozen=True)
class ScanSet:
    """The scans that have both mask and map. left_out: scan -> reason; notes: of reading.

    labels: patient -> labels of all their scans, measured or not.
    """

    root: Path
    scans: Sequence[MappedScan]
    left_out: Mapping[str, str]
    labels: Mapping[str, Sequence[str]]
    notes: Sequence[str]

    @property
    def patients(self) -> list[str]:
        """In the order of their first scans."""
        return list(dict.fromkeys(scan.group for scan in self.scans))


@dataclass(frozen=True)
class MapFolder:
    """A folder with sub-<label>[_<entities>]_desc-anomaly_<SUFFIX>.nii.gz. paths: label -> contrast -> the map."""

    paths: Mapping[str, Mapping[str, Path]]

    @classmethod
    def find(cls, root: Path) -> MapFolder:
        """Errors: no folder, no map in it, two maps of one scan."""
        if not root.is_dir():
            raise Error(f"Anomaly maps are read from a folder; '{root}' is none. Make them: diffgraft counterfactual")
        paths: dict[str, dict[str, Path]] = {}
        for path in sorted(root.rglob("sub-*_desc-anomaly*.nii*")):
            found = nifti.label_of_result(path, _ANOMALY)
            if found and found[1].lower() != "mask" and not any(p.startswith(".") for p in path.parts[-2:]):
                other = paths.setdefault(found[0], {}).setdefault(found[1], path)
                if other != path:
                    raise Error(f"A scan has one anomaly map; found '{other}' and '{path}'. Keep one of them.")
        if not paths:
            raise Error(f"A folder of maps holds sub-<label>_desc-anomaly_<SUFFIX>.nii.gz; '{root}' has none.")
        return cls(paths)

    def named(self, scans: Sequence[tuple[Path | None, str]]) -> dict[str, str]:
        """Label of a scan -> label of its maps: that of a BIDS name, or as flat folders have it, that of the scan.

        scans: file and label. A scan without a map is left out.
        """
        entities = zip(scans, nifti.result_entities(scans), strict=True)
        names = [(label, (nifti.result_label(own), label)) for (_, label), own in entities]
        return {label: next(n for n in both if n in self.paths) for label, both in names if {*both} & {*self.paths}}

    def path(self, label: str, contrast: str) -> Path:
        """The map of a scan."""
        maps = self.paths[label]
        if len(maps) > 1 and contrast not in maps:
            raise Error(f"A scan has one anomaly map; {label} has {', '.join(maps)}. Keep that of the {contrast}.")
        return maps[contrast] if contrast in maps else next(iter(maps.values()))

    def read(self, label: str, scan: nifti.Volume) -> np.ndarray:
        """The map of a scan in display order. Raises Error unless it lies on the scan's grid."""
        path = self.path(label, scan.contrast)
        volume = nifti.load(path)
        same = volume.array.shape == scan.array.shape
        apart = float(np.abs(volume.affine - scan.affine).max())
        if not same or apart > nifti.TOLERANCE:
            raise Error(
                f"A map lies on the grid of its scan; {path.name} is {volume.array.shape} and {scan.path.name} "
                f"{scan.array.shape}, their affines differ by {apart:.3g}. Resample the map, or run counterfactual again."
            )
        return nifti.display(volume)[0]


def read_scans(request: AnomalyRequest, watch: Watch) -> ScanSet:
    """The scans that a request names and that have both mask and map. watch is called once a scan.

    Errors: patients that are not there, no scan to measure, a damaged sidecar, grids that do not agree.
    """
    root, contrast = find_raw_scans(request.scans)
    unread: dict[str, str] = {}
    found = every = nifti.find(root, contrast if root.is_dir() else None, unread.__setitem__, masks=False)
    labels: dict[str, list[str]] = {}
    for scan in found:
        labels.setdefault(scan.group, []).append(scan.label)
    only = _patient_names(request.only)
    if only is not None:
        known = {_bare(name) for scan in found for name in (scan.group, scan.label)}
        if strangers := [name for name in only if _bare(name) not in known]:
            raise Error(f"The patients to take must be in {root}; not found: {', '.join(strangers[:5])}.")
        wanted = {_bare(name) for name in only}
        found = [scan for scan in found if {_bare(scan.group), _bare(scan.label)} & wanted]
    maps = MapFolder.find(request.maps)
    named = maps.named([(scan.path, scan.label) for scan in every])
    left_out = unread | {s.label: s.doubt or "no lesion mask" for s in found if s.mask is None}
    left_out |= {s.label: "no map" for s in found if s.label not in named and s.mask is not None}
    if only is None and root.is_dir():
        left_out |= {label: "a map without a scan" for label in maps.paths if label not in named.values()}
    usable = [scan for scan in found if scan.label not in left_out]
    if not usable:
        why = "; ".join(f"{label}: {reason}" for label, reason in list(left_out.items())[:3])
        raise Error(
            f"Measuring needs at least one scan with a lesion mask and a map; {root} and {request.maps} have none. {why}"
        )
    scans, notes = [], []
    for number, scan in enumerate(usable, 1):
        scans.append(_read_scan(root, scan, maps, named[scan.label]))
        notes += [f"{scan.label}: {note}" for note in scans[-1].case.volume.notes]
        watch("reading", number, len(usable))
    return ScanSet(root, scans, left_out, labels, notes)


def _patient_names(only: Sequence[str] | Path | None) -> tuple[str, ...] | None:
    if only is None:
        return None
    if isinstance(only, Path):
        if not only.is_file():
            raise Error(f"The patients to take are named in a text file, one a line; '{only}' is not there.")
        only = [line.partition("#")[0].strip() for line in only.read_text(encoding="utf-8").splitlines()]
    return tuple(name for name in only if name)


def _bare(name: str) -> str:
    """The letters and digits of a patient's name."""
    return re.sub(r"[^A-Za-z0-9]", "", name.strip().removeprefix("sub-"))


def _read_scan(root: Path, scan: nifti.Scan, maps: MapFolder, name: str) -> MappedScan:
    """name: of the scan's maps."""
    assert scan.mask is not None, "a scan without a mask is left out before"
    volume = dataclasses.replace(nifti.load(scan.path, contrast=scan.contrast, nan="zero"), label=scan.label)
    anomaly, path = maps.read(name, volume), maps.path(name, volume.contrast)
    case = brain_mri.preprocess(volume)
    truth = read_lesions(scan, volume)
    labels = brain_mri.slice_labels(root, volume)
    covered = np.flatnonzero(case.head.mean((1, 2)) > brain_mri.SMALLEST_HEAD)
    position = np.full(len(truth), np.nan)
    position[covered[0] : covered[-1] + 1] = np.linspace(0, 1, covered[-1] + 1 - covered[0])
    of_map = _read_sidecar(path)
    of_mask = _read_sidecar(
        path.with_name(re.sub(r"_[A-Za-z0-9]+(\.nii(?:\.gz)?)$", r"_mask\1", path.name, flags=re.I))
    )
    probability = _finite(of_map.get("SliceProbability"), path.name, "SliceProbability")
    threshold = _finite(of_mask.get("Threshold"), path.name, "Threshold of the mask")
    if probability is not None and probability.shape != truth.shape[:1]:
        raise Error(
            f"A sidecar has one SliceProbability a slice, {len(truth)}; that of {path.name} has {probability.size}."
        )
    return MappedScan(
        scan.label, scan.group, case, truth, anomaly, np.where(np.isnan(labels), truth.any((1, 2)), labels), position,
        of_map, probability, None if threshold is None else float(threshold), str(of_mask.get("ThresholdOrigin", "")),
    )  # fmt: skip


def _read_sidecar(path: Path) -> dict[str, Any]:
    """The .json beside a NIfTI file; empty where there is none."""
    path = path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name, flags=re.I))
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError as problem:
        raise Error(f"A sidecar is JSON; '{path}' is not: {problem}. Write the maps again.") from None
    return content if isinstance(content, dict) else {}


def _finite(value: Any, file: str, name: str) -> np.ndarray | None:
    """A number or a list of numbers of a sidecar."""
    if value is None:
        return None
    try:
        found = np.asarray(value, float)
    except (TypeError, ValueError):
        found = np.array(math.nan)
    if not np.isfinite(found).all():
        raise Error(f"{name} is made of finite numbers; in the sidecar of {file} it is not. Write the maps again.")
    return found
