"""Measure anomaly maps against lesion masks, beside the maps that cost nothing; calibrate a model on them.

Every map of one evaluation sees the same scans, the same masks (head, inner head) and the same slice labels. The
figures and their definitions are those of toolkit.evaluation.anomaly; what is trivial is in .baselines.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffgraft import reporting
from domains import brain_mri
from toolkit.data import dataset
from toolkit.data.transforms import fit, to_window, unfit
from toolkit.evaluation import baselines
from toolkit.evaluation.anomaly import (
    REGIONS,
    AnomalyReport,
    Case,
    Difference,
    Interval,
    Stratum,
    anomaly_report,
    auroc,
    compare,
)
from toolkit.example import Error
from toolkit.formats import nifti
from toolkit.methods.anomaly_map import MapSettings
from toolkit.models.folder import fingerprint, hashed, read_meta, trained_on, write_meta

__all__ = ["Evaluation", "SliceFigures", "evaluate", "summary"]

OURS = "anomaly map"
POSITION_BANDWIDTH = 0.05
"""Of the lesion frequency by slice position, in units of the whole head."""

FEWEST_FOR_NOVELTY = 5
MOST_SLICES = 1000
"""Slice numbers in the ids that a model was trained on have three digits."""

_MAP = re.compile(r"sub-(?P<label>[A-Za-z0-9]+)_desc-anomaly_(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?", re.I)


@dataclass(frozen=True)
class SliceFigures:
    """How well one number a slice tells slices with a lesion from those without: AUROC, pooled and per patient."""

    pooled: Interval
    mean_per_patient: float | None
    patients: int
    slices: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; str() is for the terminal.

    reports: map -> its figures, the evaluated one first. differences: other map -> region -> the evaluated one less
    the other, paired. slices: what is asked -> its figures. protocol: what makes the figures readable. left_out: scan
    -> reason. warnings: what makes the figures less than they look; notes: what was decided on the way.
    calibration: what was written into the model's model.json.
    """

    reports: Mapping[str, AnomalyReport]
    differences: Mapping[str, Mapping[str, Difference]]
    slices: Mapping[str, SliceFigures]
    protocol: Mapping[str, Any]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(summary(self))

    @property
    def tables(self) -> dict[str, reporting.Table]:
        """Region -> every map beside the others, chance last."""
        return {region: _table(self, region) for region in self.reports[OURS].regions}

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN: undefined is None."""
        return {
            "maps": {name: each.as_dict() for name, each in self.reports.items()},
            "differences": {
                name: {region: asdict(gap) for region, gap in gaps.items()} for name, gaps in self.differences.items()
            },
            "slices": {name: asdict(each) for name, each in self.slices.items()},
            "protocol": dict(self.protocol),
            "left_out": dict(self.left_out),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "calibration": dict(self.calibration),
        }


@dataclass(frozen=True)
class _Scan:
    """One scan with its map; arrays (slices, rows, cols) in display order.

    labels: (slices,) 1 lesion, 0 healthy, NaN unknown. position: (slices,) 0..1 where the head is, else NaN.
    probability: (slices,) of a lesion as the map's sidecar has it. made: that sidecar; threshold, origin: the mask's.
    """

    label: str
    group: str
    case: brain_mri.Study
    truth: np.ndarray
    anomaly: np.ndarray
    labels: np.ndarray
    position: np.ndarray
    probability: np.ndarray | None
    made: Mapping[str, Any]
    threshold: float | None
    origin: str

    def about(self, name: str) -> Mapping[str, Any]:
        """A group of facts in the map's sidecar; empty where it is not there."""
        found = self.made.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def voxel_ml(self) -> float:
        return math.prod(self.case.spacing) / 1000


@dataclass(frozen=True)
class _Maker:
    """A model folder: whose weights they are and what it was trained on, as hashes."""

    root: Path
    fingerprint: str
    meta: Mapping[str, Any]

    @classmethod
    def of(cls, root: Path) -> _Maker:
        meta = read_meta(root)
        return cls(root, fingerprint(root), meta)

    @property
    def calibration(self) -> Mapping[str, Any]:
        return {"calibrated_on": ()} | self.meta.get("calibration", {})

    @property
    def recorded(self) -> bool:
        """Whether it is known of every part what it was trained on."""
        return trained_on(self.meta) is not None

    def saw(self, labels: Sequence[str]) -> bool:
        """Whether a slice of a scan of one of these labels was in the training of any part."""
        seen = {each for part in self.meta["parts"].values() for each in part.get("run", {}).get("trained_on", ())}
        return any(hashed(f"{label}-{k:03d}") in seen for label in labels for k in range(MOST_SLICES))


def evaluate(
    data: str | Path,
    maps: str | Path,
    task: str = "anomaly",
    *,
    out: str | Path | None = None,
    atlas: str | Path | None = None,
    calibrate: str | Path | None = None,
    model: str | Path | None = None,
    only: Sequence[str] | str | Path | None = None,
    beside: Mapping[str, str | Path] | None = None,
    resamples: int = 1000,
    overwrite: bool = False,
    command: str = "",
    watch: Callable[[str, int, int], object] = lambda *_: None,
) -> Evaluation:
    """Measure the anomaly maps in `maps` on the scans with lesion masks in `data`.

    data: raw NIfTI files, or a data set prepared from them. maps: output of `counterfactual`, or any folder with
        sub-<label>_desc-anomaly_<SUFFIX>.nii.gz on the grids of the scans.
    out: new folder for report.html and metrics.json. command: printed in the report.
    atlas: data set of training patients, for the healthy-atlas baseline and for slice position alone; patients that
        are evaluated are left out of it.
    calibrate: model folder that is given the threshold, the classifier's AUROC and the novelty limit found here.
    model: the folder of the model that made the maps, where their sidecars do not lead to it.
    only: the patients to take, as a list or as a text file of one name a line.
    beside: name -> another folder of maps, measured as further rows (a control, another setting).
    watch(text, done, of) is called once a scan read and once a map measured.
    Raises Error for grids that do not agree, for nothing to measure, and for a calibration on patients that the maker
    of the maps was trained on.
    """
    if task != "anomaly":
        raise Error(f"A task is one of: anomaly; found '{task}'.")
    if out is not None and {Path(out).resolve(), *Path(out).resolve().parents} & {
        Path(maps).resolve(),
        Path(data).resolve(),
    }:
        raise Error(f"The report needs a folder of its own; '{out}' is, or lies in, what is measured. Take another.")
    begun = time.monotonic()
    signs = ("metrics.json", "report.html")
    with dataset.staged(out, overwrite, signs) if out is not None else contextlib.nullcontext() as folder:
        root, contrast = _raw(Path(data))
        scans, left_out, labels, notes = _scans(root, contrast, Path(maps), _names(only), watch)
        groups = list(dict.fromkeys(scan.group for scan in scans))
        models = _makers(scans, model, calibrate)
        makers = {scan.label: _maker(scan, models, model or calibrate) for scan in scans}
        trained = [g for g in groups if any(m and m.saw(labels[g]) for m in _of(makers, scans, g))]
        if calibrate is not None:
            _check_calibration(Path(calibrate), scans, trained, len(groups))
        threshold = _threshold(scans, makers)
        healthy = None if atlas is None else _Atlas.of(Path(atlas), set(groups))
        reports = _reports(scans, healthy, beside or {}, threshold, _split(trained, makers), resamples, watch)
        calibration = {} if calibrate is None else _calibration(Path(calibrate), reports, scans, groups, makers)
        if calibration and calibration["novelty_limit"] is None:
            notes.append(f"No novelty limit: it needs {FEWEST_FOR_NOVELTY} scans whose sidecars state their novelty.")
        alone = "One patient: the intervals, over patients, say nothing." if len(groups) == 1 else ""
        result = Evaluation(
            reports=reports,
            differences={n: compare(reports[OURS], r, resamples=resamples) for n, r in reports.items() if n != OURS},
            slices=_slices(scans, healthy, resamples),
            protocol=_protocol(reports[OURS], scans, threshold, root, healthy),
            left_out=left_out,
            warnings=tuple(each for each in (_trained_on(trained, len(groups)), threshold.warning, alone) if each),
            notes=tuple(each for each in (*notes, threshold.note, healthy.said if healthy else "") if each),
            calibration=calibration,
        )
        if folder is not None:
            text = json.dumps(result.numbers, indent=1, allow_nan=False)
            (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
            _report(folder / "report.html", result, scans, command, time.monotonic() - begun)
        if calibrate is not None:
            meta = read_meta(Path(calibrate))
            write_meta(Path(calibrate), meta | {"calibration": meta.get("calibration", {}) | calibration})
    return result


# What is measured


def _raw(data: Path) -> tuple[Path, str]:
    """The raw files and the contrast to take of them."""
    if not (data / "dataset.json").is_file():
        return data, brain_mri.CONTRAST
    info = dataset.info(data)
    raw = Path(info.get("raw", ""))
    if not info.get("raw") or not raw.exists():
        raise Error(f"Maps are measured on the scans themselves; {data} was prepared from '{raw}', which is not there.")
    return raw, info.get("options", {}).get("contrast", brain_mri.CONTRAST)


def _names(only: Sequence[str] | str | Path | None) -> tuple[str, ...] | None:
    if only is None:
        return None
    if isinstance(only, str | Path):
        if not Path(only).is_file():
            raise Error(f"The patients to take are named in a text file, one a line; '{only}' is not there.")
        only = [line.partition("#")[0].strip() for line in Path(only).read_text(encoding="utf-8").splitlines()]
    return tuple(name for name in only if name)


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", name.strip().removeprefix("sub-"))


def _scans(
    root: Path, contrast: str, folder: Path, only: tuple[str, ...] | None, watch: Callable[[str, int, int], object]
) -> tuple[list[_Scan], dict[str, str], dict[str, list[str]], list[str]]:
    """The scans that have both mask and map; what was left out and why; the labels of every patient; notes."""
    found = nifti.find(root, contrast if root.is_dir() else None)
    labels: dict[str, list[str]] = {}
    for scan in found:
        labels.setdefault(scan.group, []).append(scan.label)
    if only is not None:
        known = {_clean(name) for scan in found for name in (scan.group, scan.label)}
        if strangers := [name for name in only if _clean(name) not in known]:
            raise Error(f"The patients to take must be in {root}; not found: {', '.join(strangers[:5])}.")
        wanted = {_clean(name) for name in only}
        found = [scan for scan in found if {_clean(scan.group), _clean(scan.label)} & wanted]
    index = _index(folder)
    left_out = {s.label: "no lesion mask" for s in found if s.mask is None}
    left_out |= {s.label: "no map" for s in found if s.label not in index and s.mask is not None}
    if only is None and root.is_dir():
        all_labels = {label for each in labels.values() for label in each}
        left_out |= {label: "a map without a scan" for label in index if label not in all_labels}
    usable = [scan for scan in found if scan.label not in left_out]
    if not usable:
        why = "; ".join(f"{label}: {reason}" for label, reason in list(left_out.items())[:3])
        raise Error(
            f"Measuring needs at least one scan with a lesion mask and a map; {root} and {folder} have none. {why}"
        )
    scans, notes = [], []
    for number, scan in enumerate(usable, 1):
        scans.append(_scan(root, scan, index))
        notes += [f"{scan.label}: {note}" for note in scans[-1].case.volume.notes]
        watch("reading", number, len(usable))
    return scans, left_out, labels, notes


def _index(folder: Path) -> dict[str, dict[str, Path]]:
    """Label -> contrast -> the map in a folder of them."""
    if not folder.is_dir():
        raise Error(f"Anomaly maps are read from a folder; '{folder}' is none. Make them: diffgraft counterfactual")
    index: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("sub-*_desc-anomaly_*")):
        match = _MAP.fullmatch(path.name)
        if match and match["suffix"].lower() != "mask" and not any(p.startswith(".") for p in path.parts[-2:]):
            other = index.setdefault(match["label"], {}).setdefault(match["suffix"], path)
            if other != path:
                raise Error(f"A scan has one anomaly map; found '{other}' and '{path}'. Keep one of them.")
    if not index:
        raise Error(f"A folder of maps holds sub-<label>_desc-anomaly_<SUFFIX>.nii.gz; '{folder}' has none.")
    return index


def _of_scan(index: Mapping[str, Mapping[str, Path]], label: str, contrast: str) -> Path:
    here = index[label]
    if len(here) > 1 and contrast not in here:
        raise Error(f"A scan has one anomaly map; {label} has {', '.join(here)}. Keep that of the {contrast}.")
    return here[contrast] if contrast in here else next(iter(here.values()))


def _map(path: Path, scan: nifti.Volume) -> np.ndarray:
    """A map in display order. Raises Error unless it lies on the scan's grid."""
    volume = nifti.load(path)
    same = volume.array.shape == scan.array.shape
    apart = float(np.abs(volume.affine - scan.affine).max())
    if not same or apart > nifti.TOLERANCE:
        raise Error(
            f"A map lies on the grid of its scan; {path.name} is {volume.array.shape} and {scan.path.name} "
            f"{scan.array.shape}, their affines differ by {apart:.3g}. Resample the map, or run counterfactual again."
        )
    return nifti.display(volume)[0]


def _sidecar(path: Path) -> dict[str, Any]:
    """The .json beside a NIfTI file; empty where there is none."""
    path = path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name, flags=re.I))
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError as problem:
        raise Error(f"A sidecar is JSON; '{path}' is not: {problem}. Write the maps again.") from None
    return content if isinstance(content, dict) else {}


def _numbers(value: Any, path: Path, name: str) -> np.ndarray | None:
    """A number or a list of numbers of a sidecar."""
    if value is None:
        return None
    try:
        found = np.asarray(value, float)
    except (TypeError, ValueError):
        found = np.array(math.nan)
    if not np.isfinite(found).all():
        raise Error(f"{name} is made of finite numbers; in the sidecar of {path.name} it is not. Write the maps again.")
    return found


def _scan(root: Path, scan: nifti.Scan, index: Mapping[str, Mapping[str, Path]]) -> _Scan:
    assert scan.mask is not None
    volume = nifti.load(scan.path, nan="zero")
    path = _of_scan(index, scan.label, scan.contrast)
    anomaly = _map(path, volume)
    case = brain_mri.study(volume)
    truth = nifti.display(nifti.load(scan.mask).array > 0, volume.affine)[0]
    labels = brain_mri.slice_labels(root, volume)
    labels = np.where(np.isnan(labels), truth.any((1, 2)), labels)
    covered = np.flatnonzero(case.head.mean((1, 2)) > brain_mri.SMALLEST_HEAD)
    position = np.full(len(truth), np.nan)
    inside = slice(covered[0], covered[-1] + 1)
    position[inside] = np.linspace(0, 1, covered[-1] + 1 - covered[0])
    made = _sidecar(path)
    of_mask = _sidecar(path.with_name(f"sub-{scan.label}_desc-anomaly_mask.nii.gz"))
    probability = _numbers(made.get("SliceProbability"), path, "SliceProbability")
    threshold = _numbers(of_mask.get("Threshold"), path, "Threshold of the mask")
    if probability is not None and probability.shape != truth.shape[:1]:
        raise Error(
            f"A sidecar has one SliceProbability a slice, {len(truth)}; that of {path.name} has {probability.size}."
        )
    return _Scan(
        label=scan.label,
        group=scan.group,
        case=case,
        truth=truth,
        anomaly=anomaly,
        labels=labels,
        position=position,
        probability=probability,
        made=made,
        threshold=None if threshold is None else float(threshold),
        origin=str(of_mask.get("ThresholdOrigin", "")),
    )


# Which patients the maps' makers have seen


def _makers(scans: Sequence[_Scan], *named: str | Path | None) -> list[_Maker]:
    """The model folders that can be looked into: those that were named, and those that sidecars lead to."""
    makers = [_Maker.of(Path(root)) for root in named if root is not None]
    for path in {str(scan.about("Model").get("Path", "")) for scan in scans} - {""}:
        with contextlib.suppress(Error, OSError):
            makers.append(_Maker.of(Path(path)))
    return makers


def _maker(scan: _Scan, models: Sequence[_Maker], otherwise: str | Path | None) -> _Maker | None:
    """The model that made a map, by its fingerprint; a map that names none is taken for the named model's."""
    if mark := str(scan.about("Model").get("SHA256", "")):
        return next((m for m in models if m.fingerprint.startswith(mark)), None)
    return None if otherwise is None else next(m for m in models if m.root == Path(otherwise))


def _of(makers: Mapping[str, _Maker | None], scans: Sequence[_Scan], group: str) -> Iterator[_Maker | None]:
    return (makers[scan.label] for scan in scans if scan.group == group)


def _trained_on(trained: Sequence[str], patients: int) -> str:
    if not trained:
        return ""
    shown = ", ".join(trained[:5]) + (", ..." if len(trained) > 5 else "")
    return (
        f"The model that made these maps was trained on {len(trained)} of these {_count(patients, 'patient')} ({shown}): the figures "
        "are better than on patients it has not seen."
    )


def _split(trained: Sequence[str], makers: Mapping[str, _Maker | None]) -> str:
    if trained:
        return "patients that the model was trained on are among these"
    unknown = sum(maker is None or not maker.recorded for maker in makers.values())
    if unknown:
        return (
            f"not checked for {unknown} of {len(makers)} scans: what their model was trained on is not known here; name "
            "its folder as model"
        )
    return "the models that made the maps were trained on none of these patients (checked by id)"


class _Threshold(NamedTuple):
    """The maps' own threshold, if there is one for all, and whether patients other than these chose it."""

    value: float | None = None
    origin: str = ""
    from_others: bool = False
    note: str = ""
    warning: str = ""


def _threshold(scans: Sequence[_Scan], makers: Mapping[str, _Maker | None]) -> _Threshold:
    found = {(scan.threshold, scan.origin) for scan in scans}
    if len(found) > 1:
        return _Threshold(note="The masks' sidecars do not agree on one threshold: Dice at a threshold is left out.")
    value, origin = found.pop()
    if value is None:
        return _Threshold()
    chosen = [
        scan
        for scan, own in ((scan, makers[scan.label]) for scan in scans)
        if own and own.calibration.get("threshold") == value and hashed(scan.group) in own.calibration["calibrated_on"]
    ]
    if chosen:
        warning = f"The threshold {value:.4g} was chosen on {len(chosen)} of these {len(scans)} scans: Dice at it is optimistic."
        return _Threshold(float(value), origin, warning=warning)
    return _Threshold(float(value), origin or "origin not stated", "validation" in origin.lower())


# The maps beside one another


@dataclass(frozen=True)
class _Atlas:
    """Healthy slices of other patients, and how often a slice at a position has a lesion there."""

    atlas: baselines.Atlas
    positions: np.ndarray
    lesion: np.ndarray
    said: str

    @classmethod
    def of(cls, root: Path, evaluated: set[str]) -> _Atlas:
        every = [e for e in dataset.read(root) if e.provenance is None]
        rows = [
            (e, *(e.annotation.labels.get(name, math.nan) for name in ("position", brain_mri.TARGET))) for e in every
        ]
        known = [row for row in rows if row[0].group not in evaluated and not math.isnan(row[1] + row[2])]
        healthy = [row for row in known if row[2] == 0]
        excluded = {e.group for e in every} & evaluated
        if not healthy:
            raise Error(
                f"An atlas needs healthy slices of patients that are not evaluated; {root} has none, {len(excluded)} "
                "of its patients are evaluated. Give a data set with others."
            )
        said = (
            f"Healthy atlas of {len(healthy)} slices of {len({e.group for e, *_ in healthy})} patients; those "
            f"of that data set that are evaluated here, {len(excluded)}, were left out of it."
        )
        images = (np.stack([e.image[0] for e, *_ in healthy]) + 1) / 2
        atlas = baselines.healthy_atlas(images, np.array([position for _, position, _ in healthy]))
        return cls(atlas, np.array([position for _, position, _ in known]), np.array([row[2] for row in known]), said)

    def score(self, scan: _Scan, probability: np.ndarray) -> np.ndarray:
        """Healthy-atlas z-score x rim x probability on the grid of the scan."""
        case, size = scan.case, self.atlas.mean.shape[1:]
        inside = np.flatnonzero(~np.isnan(scan.position))
        images = np.stack([fit(to_window(case.stack[k], case.window), case.box, size, -1.0) for k in inside])
        head = np.stack([fit(case.head[k].astype(np.float32), case.box, size, 0.0) > 0.5 for k in inside])
        small = baselines.atlas_score(
            (images + 1) / 2,
            self.atlas,
            scan.position[inside],
            head,
            probability[inside],
            width=case.stack.shape[2] * size[1] / case.box[3],
        )
        full = np.zeros(case.stack.shape, np.float32)
        for k, one in zip(inside, small, strict=True):
            full[k] = np.maximum(unfit(one, case.box, full.shape[1:], 0.0), 0)
        return full

    def frequency(self, position: np.ndarray) -> np.ndarray:
        """How often a slice at these positions has a lesion in the atlas's patients."""
        weight = np.exp(-0.5 * ((position[:, None] - self.positions) / POSITION_BANDWIDTH) ** 2)
        return (weight @ self.lesion) / np.maximum(weight.sum(1), 1e-12)


def _kinds(
    scans: Sequence[_Scan], healthy: _Atlas | None, beside: Mapping[str, str | Path]
) -> dict[str, tuple[str, Callable[[_Scan], np.ndarray]]]:
    """Name -> (post-processing, score of a scan), the evaluated map first."""
    gate = all(scan.probability is not None for scan in scans)
    trivial: dict[str, tuple[str, Callable[[_Scan], Any]]] = {
        "FLAIR intensity": ("none", lambda s: baselines.raw(s.case.stack)),
        "FLAIR, 3 px smoothed": ("Gaussian 3 px", lambda s: baselines.smoothed(s.case.stack)),
        "wide FLAIR x rim": (
            "percentile-normalised, Gaussian 12 px, rim 20 px",
            lambda s: baselines.wide(s.case.stack, s.case.head),
        ),
    }
    if gate:
        trivial["wide FLAIR x rim x slice p"] = (
            "percentile-normalised, Gaussian 12 px, rim 20 px, slice probability of the sidecars",
            lambda s: baselines.wide_gated(s.case.stack, s.case.head, s.probability),
        )
    if healthy is not None:
        trivial["healthy atlas z x rim" + " x slice p" * gate] = (
            "z-score on the model's grid, Gaussian 6 px, rim 20 px" + ", slice probability of the sidecars" * gate,
            lambda s: healthy.score(s, s.probability if gate else np.ones(len(s.truth))),
        )
    if taken := {OURS, *trivial} & set(beside):
        raise Error(f"Maps beside one another need names of their own; {', '.join(taken)} is taken.")
    others = {name: ("that of the files", _reader(name, Path(root), scans)) for name, root in beside.items()}
    return {OURS: ("that of the files", lambda s: s.anomaly), **others, **trivial}


def _reports(
    scans: Sequence[_Scan],
    healthy: _Atlas | None,
    beside: Mapping[str, str | Path],
    threshold: _Threshold,
    split: str,
    resamples: int,
    watch: Callable[[str, int, int], object],
) -> dict[str, AnomalyReport]:
    kinds, reports = _kinds(scans, healthy, beside), {}
    for number, (name, (how, score)) in enumerate(kinds.items(), 1):
        known = name == OURS and threshold.value is not None
        reports[name] = anomaly_report(
            [Case(s.group, score(s), s.truth, s.case.head, s.labels, s.voxel_ml) for s in scans],
            thresholds=dict.fromkeys(REGIONS, threshold.value) if known else None,
            threshold_origin=threshold.origin,
            postprocessing=how,
            split=split,
            resamples=resamples,
        )
        watch("measuring", number, len(kinds))
    return reports


def _reader(name: str, root: Path, scans: Sequence[_Scan]) -> Callable[[_Scan], np.ndarray]:
    index = _index(root)
    if lacking := [scan.label for scan in scans if scan.label not in index]:
        raise Error(f"Maps beside one another cover the same scans; '{name}' lacks {', '.join(lacking[:5])}.")
    return lambda scan: _map(_of_scan(index, scan.label, scan.case.volume.contrast), scan.case.volume)


def _slices(scans: Sequence[_Scan], healthy: _Atlas | None, resamples: int) -> dict[str, SliceFigures]:
    """AUROC of whatever gives one number a slice, over the slices that show enough head."""
    asked: dict[str, Callable[[_Scan], np.ndarray]] = {}
    if all(scan.probability is not None for scan in scans):
        asked["slice classifier"] = lambda scan: scan.probability  # type: ignore[assignment, return-value]
    if healthy is not None:
        asked["slice position alone"] = lambda scan: healthy.frequency(np.nan_to_num(scan.position))
    asked["highest value of the map in the head"] = _highest
    return {name: _slice_figures(scans, ask, resamples) for name, ask in asked.items()}


def _highest(scan: _Scan) -> np.ndarray:
    return np.where(scan.case.head, scan.anomaly, -np.inf).max((1, 2))


def _slice_figures(scans: Sequence[_Scan], ask: Callable[[_Scan], np.ndarray], resamples: int) -> SliceFigures:
    groups = list(dict.fromkeys(scan.group for scan in scans))
    scores: list[list[np.ndarray]] = [[] for _ in groups]
    labels: list[list[np.ndarray]] = [[] for _ in groups]
    for scan in scans:
        inside = ~np.isnan(scan.position)
        scores[groups.index(scan.group)].append(ask(scan)[inside])
        labels[groups.index(scan.group)].append(scan.labels[inside])
    value = [np.concatenate(each) for each in scores]
    truth = [np.concatenate(each) for each in labels]
    draws = np.random.default_rng(0).integers(0, len(groups), (resamples, len(groups)))
    drawn = np.array(
        [auroc(np.concatenate([value[k] for k in d]), np.concatenate([truth[k] for k in d])) for d in draws]
    )
    drawn = drawn[np.isfinite(drawn)]
    pooled = _number(auroc(np.concatenate(value), np.concatenate(truth)))
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn.size and pooled is not None else (None, None)
    alone = [a for a in (auroc(v, t) for v, t in zip(value, truth, strict=True)) if not math.isnan(a)]
    return SliceFigures(
        Interval(pooled, _number(low), _number(high)),
        float(np.mean(alone)) if alone else None,
        len(alone),
        sum(map(len, value)),
    )


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _protocol(
    ours: AnomalyReport,
    scans: Sequence[_Scan],
    threshold: _Threshold,
    root: Path,
    healthy: _Atlas | None,
) -> dict[str, Any]:
    """What is common to all maps, and how the evaluated ones were made."""
    counted = {
        k: v
        for k, v in ours.protocol.items()
        if k not in ("postprocessing", "threshold") and not k.startswith("slices_")
    }
    shown = sum(int((~np.isnan(scan.position)).sum()) for scan in scans)
    missed = sum(int(((scan.labels == 1) & np.isnan(scan.position)).sum()) for scan in scans)
    makers = sorted({str(scan.about("Model").get("SHA256", "not stated")) for scan in scans})
    settings = {json.dumps(scan.made.get("Settings"), sort_keys=True) for scan in scans}
    post = {json.dumps(scan.made.get("PostProcessing"), sort_keys=True) for scan in scans}
    return counted | {
        "data": root.name,
        "slices_with_lesion": ours.protocol["slices_with_lesion"],
        "slices_healthy": ours.protocol["slices_healthy"],
        "slice_auroc_over": f"{shown} slices whose head covers over {brain_mri.SMALLEST_HEAD:.0%} of them; "
        f"{missed} slices with a lesion lie outside",
        "threshold": threshold.value,
        "threshold_origin": threshold.origin or None,
        "threshold_from_other_patients": None if threshold.value is None else threshold.from_others,
        "threshold_of_other_maps": "best on these very scans (optimistic)",
        "models": makers,
        "settings": json.loads(settings.pop()) if len(settings) == 1 else f"{len(settings)} different",
        "map_postprocessing": json.loads(post.pop()) if len(post) == 1 else f"{len(post)} different",
        "atlas": None if healthy is None else healthy.said,
        "voxel_volume": "as the files state it",
    }


# Calibrating a model


def _check_calibration(root: Path, scans: Sequence[_Scan], trained: Sequence[str], patients: int) -> None:
    """Refuse what would make a threshold worthless."""
    if trained:
        raise Error(
            f"A threshold is chosen on patients that the model has not seen; {len(trained)} of these {patients} were trained "
            f"on, first {trained[0]}. Take patients kept back (--only), or maps of models that were trained without them."
        )
    settings = MapSettings(**read_meta(root).get("calibration", {}).get("maps", {}))
    own = json.loads(json.dumps(asdict(settings)))
    for scan in scans:
        made = scan.about("PostProcessing")
        for name in own.keys() & made.keys():
            if made[name] != own[name]:
                raise Error(
                    f"A threshold belongs to the post-processing of its maps; {name} is {made[name]} in that of "
                    f"{scan.label} and {own[name]} in {root / 'model.json'}. Make the maps with the same."
                )


def _calibration(
    root: Path,
    reports: Mapping[str, AnomalyReport],
    scans: Sequence[_Scan],
    groups: Sequence[str],
    makers: Mapping[str, _Maker | None],
) -> dict[str, Any]:
    threshold = reports[OURS].regions["head"].best_threshold
    if threshold is None:
        raise Error(
            "A threshold is chosen on lesions; there is no lesion voxel in the head of these scans. Take others."
        )
    origin = f"best pooled Dice in the head of {len(groups)} validation patients"
    others = [maker for maker in makers.values() if maker is None or maker.fingerprint != fingerprint(root)]
    if others and all(maker is not None and maker.recorded for maker in others):
        origin += ", maps of a model trained on other patients of the same data"
    elif others:
        origin += ", maps of another model, whose training patients are not known here"
    values = [_numbers(scan.about("Novelty").get("Value"), Path(scan.label), "Novelty") for scan in scans]
    novelty = np.array([value for value in values if value is not None])
    limit = float(novelty.max() + 3 * novelty.std(ddof=1)) if len(novelty) >= FEWEST_FOR_NOVELTY else None
    classifier = _slices(scans, None, 0).get("slice classifier")
    return {
        "threshold": float(threshold),
        "threshold_origin": origin,
        "classifier_auroc": None if classifier is None else classifier.pooled.value,
        "novelty_limit": limit,
        "calibrated_on": [hashed(group) for group in groups],
    }


# For people


def _said(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(gap: Interval) -> str:
    interval = "" if gap.low is None else f" [{gap.low:+.2f}, {gap.high:+.2f}]"
    return "-" if gap.value is None else f"{gap.value:+.3f}{interval}"


def _dice(result: Evaluation, name: str, region: str) -> Interval:
    """Dice of the evaluated map at its own threshold; the other maps have none."""
    known = name == OURS and result.protocol["threshold"] is not None
    return result.reports[name].regions[region].dice if known else Interval(None, None, None)


def _dice_title(result: Evaluation) -> str:
    return "Validation-tuned Dice" if result.protocol["threshold_from_other_patients"] else "Dice at threshold"


def _all_called(prevalence: float) -> float:
    return 2 * prevalence / (1 + prevalence)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _size(each: Stratum) -> str:
    size = f"{each.low:.3g}" if each.low == each.high else f"{each.low:.3g} to {each.high:.3g}"
    return f"{_count(each.lesions, 'lesion')} of {size} {each.unit}"


def summary(result: Evaluation) -> list[str]:
    """The evaluation as lines of plain text."""
    facts, ours = result.protocol, result.reports[OURS].regions
    lines = [
        f"{_count(facts['patients'], 'patient')}, {_count(facts['scans'], 'scan')}, {facts['slices']} slices "
        f"({facts['slices_with_lesion']} with lesion, {facts['slices_healthy']} healthy)"
    ]
    for reason in dict.fromkeys(result.left_out.values()):
        named = [label for label, why in result.left_out.items() if why == reason]
        lines.append(
            f"left out, {reason}: {', '.join(named[:12])}" + (f" and {len(named) - 12} more" * (len(named) > 12))
        )
    lines += [f"WARNING: {each}" for each in result.warnings]
    wide = max(len(name) for name in result.reports)
    for region, first in ours.items():
        lines += [
            "",
            f"{region}: prevalence {_said(first.prevalence, 4)}, {first.outside} lesion voxels outside, not counted",
            f"  {'':{wide}}  {'AUPRC':20} {'best Dice *':20} {_dice_title(result):22} {'AUPRC/patient':14} "
            f"{OURS} less this, AUPRC",
        ]
        for name, each in result.reports.items():
            here = each.regions[region]
            gap = _signed(result.differences[name][region].average_precision) if name in result.differences else ""
            lines.append(
                f"  {name:{wide}}  {here.average_precision!s:20} {here.best_dice!s:20} {_dice(result, name, region)!s:22} "
                f"{_said(here.mean_patient_average_precision):14} {gap}".rstrip()
            )
        if (share := first.prevalence) is not None:
            lines.append(f"  {'chance':{wide}}  {share:<20.3f} {_all_called(share):.3f}")
    lines += [""]
    lines += [f"{_size(s)}: {s.recall:.0%} of their voxels, {s.found:.0%} of them found" for s in ours["head"].lesions]
    if (false := ours["head"].false_positives.voxels_per_slice) is not None:
        lines.append(f"{false:.0f} false voxels a healthy slice")
    for name, each in result.slices.items():
        mean = f"{_said(each.mean_per_patient)} mean of {_count(each.patients, 'patient')}"
        lines.append(f"slice AUROC, {name}: {each.pooled} pooled, {mean}")
    lines += ["", "* at the threshold that is best on these very scans: optimistic"]
    shown = ("mask", "split", "threshold", "threshold_origin", "lesions", "interval", "pooling", "slice_auroc_over")
    lines += [f"{key.replace('_', ' ')}: {facts[key]}" for key in shown if facts[key] is not None]
    lines += [f"note: {each}" for each in result.notes]
    return lines + [f"calibrated: {key} {value}" for key, value in result.calibration.items() if key != "calibrated_on"]


def _table(result: Evaluation, region: str) -> reporting.Table:
    header = [
        "Map", "AUPRC", "Best Dice *", _dice_title(result), "AUPRC / patient", "FP voxels / healthy slice", "Slice AUROC",
    ]  # fmt: skip
    rows: list[list[Any]] = [
        [name, here.average_precision, here.best_dice, _dice(result, name, region), here.mean_patient_average_precision,
         here.false_positives.voxels_per_slice, here.slice_auroc_max.value]
        for name, here in ((name, each.regions[region]) for name, each in result.reports.items())
    ]  # fmt: skip
    rows = [
        [None if str(cell) == "-" else str(cell) if isinstance(cell, Interval) else cell for cell in row]
        for row in rows
    ]
    if (share := result.reports[OURS].regions[region].prevalence) is not None:
        rows.append(["chance", share, _all_called(share), None, None, None, 0.5])
    best = dict.fromkeys(["AUPRC", "Best Dice *", "AUPRC / patient", "Slice AUROC"], "max")
    return reporting.Table(
        header, rows, caption=region.capitalize() + ", see the warning" * bool(result.warnings), best=best
    )


def _differences(result: Evaluation) -> reporting.Table:
    rows, header = [], ["Compared with"]
    caption = f"{OURS.capitalize()} less the other, on the same resampled patients; ahead: in AUPRC in the head"
    for name, gaps in result.differences.items():
        cells = [(gap.average_precision, gap.best_dice) for gap in gaps.values()]
        rows.append([name, *(_signed(each) for pair in cells for each in pair), f"{gaps['head'].above:.0%}"])
    header += [f"{figure}, {region}" for region in REGIONS for figure in ("AUPRC", "best Dice")]
    header.append("ahead")
    return reporting.Table(header, rows, caption=caption)


def _sizes(result: Evaluation) -> reporting.Table:
    strata = {name: each.regions["head"].lesions for name, each in result.reports.items()}
    header = ["Map", *(_size(each) for each in strata[OURS])]
    rows = [[name, *(f"{s.recall:.2f} (found {s.found:.2f})" for s in every)] for name, every in strata.items()]
    caption = (
        "Lesions by size: share of their voxels, and share of the lesions found; head, volumes as the files state them"
    )
    return reporting.Table(header, rows, caption=caption)


def _patients(result: Evaluation, scans: Sequence[_Scan]) -> reporting.Table:
    """A line a patient, worst first: where to look."""
    ours, counts = result.reports[OURS].regions["head"], result.reports[OURS].regions["head"].counts
    assert counts is not None
    others = [each.regions["head"] for name, each in result.reports.items() if name != OURS]
    rows: list[list[Any]] = []
    for group, hits, alarms, lesion in zip(
        counts.labels, counts.hits_at, counts.alarms_at, counts.positives, strict=True
    ):
        volume = sum(float(scan.truth.sum()) * scan.voxel_ml for scan in scans if scan.group == group)
        dice = float(2 * hits / (hits + alarms + lesion)) if hits + alarms + lesion else None
        known = [ap for other in others if (ap := other.patient_average_precision[group]) is not None]
        rows.append([group, volume, ours.patient_average_precision[group], dice, max(known, default=None)])
    rows.sort(key=lambda row: math.inf if row[2] is None else row[2])
    used = "the threshold" if result.protocol["threshold"] is not None else "the best pooled threshold"
    header = ["Patient", "Lesion (ml)", "AUPRC", f"Dice at {used}", "Best AUPRC of the other maps"]
    return reporting.Table(header, rows, caption="Patients, worst first (head)")


def _report(path: Path, result: Evaluation, scans: Sequence[_Scan], command: str, seconds: float) -> None:
    facts, head = result.protocol, {name: each.regions["head"] for name, each in result.reports.items()}
    shown = dict(list(head.items())[: len(_MARKS)])
    sections = [reporting.Section("Warning", [reporting.Text("\n\n".join(result.warnings))])] if result.warnings else []
    note = (
        "Voxels of all patients under one threshold; intervals resample patients. * Dice at the threshold that is best on these "
        f"very scans, optimistic. False positives at the threshold of the {OURS}, for the others at the best one here. Slice "
        "AUROC by the highest value of the map. Bold: best of the column."
    )
    dots = _Dots({name: each.patient_average_precision for name, each in shown.items()}, "AUPRC of each patient, head")
    lines = {name: _precision_recall(each.counts) for name, each in shown.items()}
    curves = reporting.Curve(lines, "recall", "precision", "Precision and recall over voxels of all patients, head")
    slices = reporting.Table(
        ["By", "AUROC, pooled", "AUROC, mean of patients", "Patients with both kinds", "Slices"],
        [[name, str(s.pooled), s.mean_per_patient, s.patients, s.slices] for name, s in result.slices.items()],
    )
    left = reporting.Table(["Scan", "Left out because of"], list(result.left_out.items()))
    written = {key: value for key, value in result.calibration.items() if key != "calibrated_on"}
    sections += [
        reporting.Section("Figures", list(result.tables.values()), note),
        reporting.Section("Patients", [dots, curves, _patients(result, scans)]),
        reporting.Section("Compared", [_differences(result), _sizes(result)]),
        reporting.Section("Slices with a lesion", [slices], facts["slice_auroc_over"]),
        reporting.Section("Protocol", [
            reporting.Facts({name.replace("_", " "): value for name, value in facts.items()}),
            *([reporting.Text("\n\n".join(result.notes))] if result.notes else []),
            *([reporting.Facts(written, "Written to the model")] if written else []),
            *([left] if result.left_out else []),
        ]),
    ]  # fmt: skip
    reporting.write(
        path,
        "Anomaly maps against masks",
        f"{_count(facts['patients'], 'patient')}, {facts['slices']} slices: AUPRC {head[OURS].average_precision} in the head, "
        f"best Dice {head[OURS].best_dice}",
        sections,
        reporting.Run(command=command, seconds=seconds, seed=0),
        notice=reporting.RESEARCH_USE,
        next_step="Look at the worst patients first, in the report of the run that made the maps.",
    )


def _precision_recall(counts: Any) -> list[tuple[float, float]]:
    hits, alarms = counts.hits.sum(0), counts.alarms.sum(0)
    recall = hits / max(counts.positives.sum(), 1)
    precision = hits / np.maximum(hits + alarms, 1)
    return list(zip(recall.tolist(), precision.tolist(), strict=True))


_MARKS = (
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="5" style="fill:var(--c0)"/>',
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:none;stroke:var(--c1);stroke-width:1.75"/>',
    '<path d="M{x:.1f} {y:.1f}m0 -5l5 5l-5 5l-5 -5z" style="fill:none;stroke:var(--c2);stroke-width:1.75"/>',
    '<path d="M{x:.1f} {y:.1f}m-4 -4h8v8h-8z" style="fill:none;stroke:var(--c3);stroke-width:1.75"/>',
    '<path d="M{x:.1f} {y:.1f}m0 -5l5 9h-10z" style="fill:none;stroke:var(--c4);stroke-width:1.75"/>',
    '<path d="M{x:.1f} {y:.1f}m-4 -4l8 8m0 -8l-8 8" style="fill:none;stroke:var(--c5);stroke-width:1.75"/>',
)


@dataclass(frozen=True)
class _Dots:
    """A row a patient, a mark a map, from 0 to 1; the best patient of the first map on top. At most six maps."""

    series: Mapping[str, Mapping[str, float | None]]
    caption: str

    def html(self, key: str) -> str:
        first = next(iter(self.series.values()))
        rows = sorted(first, key=lambda name: -(first[name] if first[name] is not None else -1.0))  # type: ignore[operator]
        left, width, step, top = 130, 414, 20, 8
        bottom = top + step * len(rows)

        def across(value: float) -> float:
            return left + value * width

        parts = [
            f'<path class="grid" d="M{across(tick / 5):.1f} {top}V{bottom}"/>'
            f'<text x="{across(tick / 5):.1f}" y="{bottom + 18}" text-anchor="middle">{tick / 5:g}</text>'
            for tick in range(6)
        ]
        for number, name in enumerate(rows):
            y = top + step * (number + 0.5)
            parts.append(
                f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(name[:17])}</text>'
                f'<path class="grid" d="M{left} {y:.1f}h{width}"/>'
            )
            for mark, values in reversed(list(zip(_MARKS, self.series.values(), strict=False))):
                if (value := values.get(name)) is not None:
                    parts.append(mark.format(x=across(value), y=y))
        legend = "".join(
            f'<li><svg viewBox="0 0 16 14" width="16" height="14" aria-hidden="true">{mark.format(x=8, y=7)}</svg>'
            f"{escape(name)}</li>"
            for mark, name in zip(_MARKS, self.series, strict=False)
        )
        said = f"{self.caption}: {', '.join(self.series)}; the numbers are in the table below"
        return (
            f'<figure class="block curve"><h3>{escape(self.caption)}</h3><div class="wide">'
            f'<svg viewBox="0 0 560 {bottom + 24}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg></div>'
            f'<ul class="legend">{legend}</ul></figure>'
        )
