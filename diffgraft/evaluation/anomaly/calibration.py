"""Which models made the maps and what those were trained on; the threshold of the maps, and the calibration of a model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffgraft.evaluation.anomaly.result import SliceFigures, count_of
from diffgraft.evaluation.anomaly.scans import MappedScan, ScanSet
from diffgraft.models.trained_on import has_trained_on_scan
from diffgraft.requests import AnomalyRequest
from toolkit.evaluation.anomaly import AnomalyReport
from toolkit.example import Error
from toolkit.methods.anomaly_map import MapSettings
from toolkit.models.folder import fingerprint, hash_id, read_meta, training_ids, write_meta

__all__ = ["Makers", "MapThreshold", "check", "common_threshold", "find", "note", "write"]

FEWEST_FOR_NOVELTY = 5
"""Scans whose novelty is known that a limit of it needs."""


@dataclass(frozen=True)
class MapModel:
    """A model folder that maps may be of. trained: hashes of the samples that its parts say they were trained on."""

    root: Path
    fingerprint: str
    meta: Mapping[str, Any]
    trained: frozenset[str]

    @classmethod
    def read(cls, root: Path) -> MapModel:
        meta = read_meta(root)
        samples = (training_ids(meta, (part,)) or () for part in meta["parts"])
        return cls(root, fingerprint(root), meta, frozenset().union(*samples))

    @property
    def states_training(self) -> bool:
        """Whether it is known of every part what it was trained on."""
        return training_ids(self.meta) is not None

    def chose_threshold(self, value: float, patient: str) -> bool:
        """Whether its calibration has this threshold and this patient was among those that it was chosen on."""
        own = self.meta.get("calibration", {})
        return own.get("threshold") == value and hash_id(patient) in own.get("calibrated_on", ())


@dataclass(frozen=True)
class Makers:
    """The models that made the maps. models: label of a scan -> the model of its map, None where it is not known.

    trained: the patients of whom such a model was trained on any scan.
    """

    models: Mapping[str, MapModel | None]
    trained: Sequence[str]

    @classmethod
    def find(cls, found: ScanSet, request: AnomalyRequest) -> Makers:
        """By the fingerprints in the sidecars; a map that names no model is taken for the one of the request."""
        named = [MapModel.read(root) for root in (request.model, request.calibrate) if root is not None]
        known = list(named)
        for path in {str(scan.facts("Model").get("Path", "")) for scan in found.scans} - {""}:
            with contextlib.suppress(Error, OSError):
                known.append(MapModel.read(Path(path)))
        models: dict[str, MapModel | None] = {}
        trained = dict.fromkeys(found.patients, False)
        for scan in found.scans:
            mark = str(scan.facts("Model").get("SHA256", ""))
            fitting = [model for model in known if model.fingerprint.startswith(mark)] if mark else named
            model = models[scan.label] = fitting[0] if fitting else None
            if model and not trained[scan.group]:
                trained[scan.group] = any(has_trained_on_scan(model.trained, each) for each in found.labels[scan.group])
        return cls(models, [patient for patient, is_trained in trained.items() if is_trained])

    @property
    def split(self) -> str:
        """Whether these patients are new to the models, in words."""
        if self.trained:
            return "patients that the model was trained on are among these"
        unknown = sum(model is None or not model.states_training for model in self.models.values())
        if unknown:
            return (
                f"not checked for {unknown} of {len(self.models)} scans: what their model was trained on is not known here; name "
                "its folder as model"
            )
        return "the models that made the maps were trained on none of these patients (checked by id)"

    def warning(self, patients: int) -> str:
        """What makes the figures better than they are, empty where nothing does."""
        if not self.trained:
            return ""
        shown = ", ".join(self.trained[:5]) + (", ..." if len(self.trained) > 5 else "")
        return (
            f"The model that made these maps was trained on {len(self.trained)} of these {count_of(patients, 'patient')} "
            f"({shown}): the figures are better than on patients it has not seen."
        )


class MapThreshold(NamedTuple):
    """The maps' own threshold, if there is one for all, and whether patients other than these chose it."""

    value: float | None = None
    origin: str = ""
    from_others: bool = False
    note: str = ""
    warning: str = ""


def common_threshold(scans: Sequence[MappedScan], makers: Makers) -> MapThreshold:
    """The threshold that the sidecars of all masks state."""
    found = {(scan.threshold, scan.origin) for scan in scans}
    if len(found) > 1:
        return MapThreshold(note="The masks' sidecars do not agree on one threshold: Dice at a threshold is left out.")
    value, origin = found.pop()
    if value is None:
        return MapThreshold()
    models = [(scan, makers.models[scan.label]) for scan in scans]
    if chosen := sum(model is not None and model.chose_threshold(value, scan.group) for scan, model in models):
        warning = (
            f"The threshold {value:.4g} was chosen on {chosen} of these {len(scans)} scans: Dice at it is optimistic."
        )
        return MapThreshold(value, origin, warning=warning)
    return MapThreshold(value, origin or "origin not stated", "validation" in origin.lower())


def check(root: Path, found: ScanSet, trained: Sequence[str]) -> None:
    """Refuse what would make a threshold worthless: patients that were trained on, maps of other post-processing."""
    if trained:
        raise Error(
            f"A threshold is chosen on patients that the model has not seen; {len(trained)} of these {len(found.patients)} were "
            f"trained on, first {trained[0]}. Take patients kept back (--only), or maps of models that were trained without them."
        )
    settings = MapSettings.from_json(read_meta(root).get("calibration", {}).get("maps", {}))
    own = json.loads(json.dumps(asdict(settings)))
    for scan in found.scans:
        theirs = scan.facts("PostProcessing")
        for name in own.keys() & theirs.keys():
            if theirs[name] != own[name]:
                raise Error(
                    f"A threshold belongs to the post-processing of its maps; {name} is {theirs[name]} in that of "
                    f"{scan.label} and {own[name]} in {root / 'model.json'}. Make the maps with the same."
                )


def find(
    root: Path, found: ScanSet, makers: Makers, report: AnomalyReport, slices: Mapping[str, SliceFigures]
) -> dict[str, Any]:
    """What model.json keeps of the evaluated map: threshold, AUROC of the classifier, limit of novelty, patients.

    Errors: no threshold, for want of lesions.
    """
    threshold, classifier = report.regions["head"].best_threshold, slices.get("slice classifier")
    if threshold is None:
        raise Error(
            "A threshold is chosen on lesions; there is no lesion voxel in the head of these scans. Take others."
        )
    origin = f"best pooled Dice in the head of {len(found.patients)} validation patients"
    own = fingerprint(root)
    others = [model for model in makers.models.values() if model is None or model.fingerprint != own]
    if others and all(model is not None and model.states_training for model in others):
        origin += ", maps of a model trained on other patients of the same data"
    elif others:
        origin += ", maps of another model, whose training patients are not known here"
    novelty = np.array([value for scan in found.scans if (value := scan.novelty) is not None])
    limit = float(novelty.max() + 3 * novelty.std(ddof=1)) if len(novelty) >= FEWEST_FOR_NOVELTY else None
    return {
        "threshold": float(threshold),
        "threshold_origin": origin,
        "classifier_auroc": None if classifier is None else classifier.pooled.value,
        "novelty_limit": limit,
        "calibrated_on": [hash_id(patient) for patient in found.patients],
    }


def note(calibration: Mapping[str, Any]) -> str:
    """What a calibration lacks, in words."""
    if not calibration or calibration["novelty_limit"] is not None:
        return ""
    return f"No novelty limit: it needs {FEWEST_FOR_NOVELTY} scans whose sidecars state their novelty."


def write(root: Path, calibration: Mapping[str, Any]) -> None:
    """Add it to what the model.json of a folder has."""
    meta = read_meta(root)
    write_meta(root, meta | {"calibration": meta.get("calibration", {}) | calibration})
