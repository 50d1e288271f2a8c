"""The evaluated maps beside the maps that cost nothing, and how well single numbers tell slices with a lesion apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffgraft.evaluation.anomaly.result import OURS, SliceFigures
from diffgraft.evaluation.anomaly.scans import MapFolder, MappedScan
from diffgraft.evaluation.data import label_values, stack_images
from domains import brain_mri
from toolkit.data import dataset
from toolkit.data.transforms import fit, to_window, unfit
from toolkit.evaluation.anomaly import auroc, baselines
from toolkit.evaluation.interval import Interval
from toolkit.example import Error

__all__ = ["HealthyAtlas", "MapKind", "map_kinds", "slice_figures"]

POSITION_BANDWIDTH = 0.05
"""Of the lesion frequency by slice position, in units of the whole head."""

Score = Callable[[MappedScan], np.ndarray]
"""The map (slices, rows, cols), or the number of each slice (slices,), of a scan."""


@dataclass(frozen=True)
class HealthyAtlas:
    """Healthy slices of other patients, and how often a slice at a position has a lesion there.

    positions, lesion: of all their slices. description: how many, in words.
    """

    atlas: baselines.Atlas
    positions: np.ndarray
    lesion: np.ndarray
    description: str

    @classmethod
    def read(cls, root: Path, evaluated: set[str]) -> HealthyAtlas:
        """Of a data set. evaluated: patients to leave out. Errors: no healthy slice of another patient."""
        every = [e for e in dataset.read(root) if e.provenance is None]
        excluded = {e.group for e in every} & evaluated
        others = [e for e in every if e.group not in evaluated]
        values = label_values(others, ("position", brain_mri.TARGET))
        known = ~np.isnan(values).any(1)
        positions, lesion = values[known].T
        healthy = [others[n] for n in np.flatnonzero(known & (values[:, 1] == 0))]
        if not healthy:
            raise Error(
                f"An atlas needs healthy slices of patients that are not evaluated; {root} has none, {len(excluded)} "
                "of its patients are evaluated. Give a data set with others."
            )
        description = (
            f"Healthy atlas of {len(healthy)} slices of {len({e.group for e in healthy})} patients; those "
            f"of that data set that are evaluated here, {len(excluded)}, were left out of it."
        )
        images = (stack_images(healthy)[:, 0] + 1) / 2
        return cls(baselines.healthy_atlas(images, positions[lesion == 0]), positions, lesion, description)

    def score(self, scan: MappedScan, probability: np.ndarray) -> np.ndarray:
        """Healthy-atlas z-score x rim x probability on the grid of the scan."""
        case, (_, rows, cols) = scan.case, self.atlas.mean.shape
        size = (rows, cols)
        inside = np.flatnonzero(~np.isnan(scan.position))
        images = np.stack([fit(to_window(case.level[k], case.window), case.box, size, -1.0) for k in inside])
        head = np.stack([fit(case.head[k].astype(np.float32), case.box, size, 0.0) > 0.5 for k in inside])
        width = case.stack.shape[2] * cols / case.box[3]
        small = baselines.atlas_score(
            (images + 1) / 2, self.atlas, scan.position[inside], head, probability[inside], width=width
        )
        full = np.zeros(case.stack.shape, np.float32)
        for k, one in zip(inside, small, strict=True):
            full[k] = np.maximum(unfit(one, case.box, case.stack.shape[1:], 0.0), 0)
        return full

    def frequency(self, position: np.ndarray) -> np.ndarray:
        """How often a slice at these positions has a lesion in the atlas's patients."""
        weight = np.exp(-0.5 * ((position[:, None] - self.positions) / POSITION_BANDWIDTH) ** 2)
        return (weight @ self.lesion) / np.maximum(weight.sum(1), 1e-12)


@dataclass(frozen=True)
class MapKind:
    """One way to score the voxels of a scan. postprocessing: of its map, in words."""

    postprocessing: str
    score: Score


def map_kinds(
    scans: Sequence[MappedScan], atlas: HealthyAtlas | None, beside: Mapping[str, Path]
) -> dict[str, MapKind]:
    """Name -> kind of map, the evaluated one first, then those of the folders `beside`, then the trivial ones.

    Errors: a name that is taken, a folder that lacks the map of a scan.
    """
    gated = all(scan.probability is not None for scan in scans)
    trivial = {
        "FLAIR intensity": MapKind("none", lambda s: baselines.raw(s.case.level)),
        "FLAIR, 3 px smoothed": MapKind("Gaussian 3 px", lambda s: baselines.smoothed(s.case.level)),
        "wide FLAIR x rim": MapKind(
            "percentile-normalised, Gaussian 12 px, rim 20 px", lambda s: baselines.wide(s.case.level, s.case.head)
        ),
    }
    if gated:
        trivial["wide FLAIR x rim x slice p"] = MapKind(
            "percentile-normalised, Gaussian 12 px, rim 20 px, slice probability of the sidecars",
            lambda s: baselines.wide_gated(s.case.level, s.case.head, _probability(s)),
        )
    if atlas is not None:
        trivial["healthy atlas z x rim" + " x slice p" * gated] = MapKind(
            "z-score on the model's grid, Gaussian 6 px, rim 20 px" + ", slice probability of the sidecars" * gated,
            lambda s: atlas.score(s, _probability(s) if gated else np.ones(len(s.truth))),
        )
    if taken := {OURS, *trivial} & set(beside):
        raise Error(f"Maps beside one another need names of their own; {', '.join(taken)} is taken.")
    others = {name: MapKind("that of the files", _reader(name, root, scans)) for name, root in beside.items()}
    return {OURS: MapKind("that of the files", lambda s: s.anomaly), **others, **trivial}


def slice_figures(scans: Sequence[MappedScan], atlas: HealthyAtlas | None, resamples: int) -> dict[str, SliceFigures]:
    """AUROC of whatever gives one number a slice, over the slices that show enough head."""
    numbers: dict[str, Score] = {}
    if all(scan.probability is not None for scan in scans):
        numbers["slice classifier"] = _probability
    if atlas is not None:
        numbers["slice position alone"] = lambda scan: atlas.frequency(np.nan_to_num(scan.position))
    numbers["highest value of the map in the head"] = lambda scan: np.where(scan.case.head, scan.anomaly, -np.inf).max(
        (1, 2)
    )
    return {name: _slice_figures(scans, number, resamples) for name, number in numbers.items()}


def _probability(scan: MappedScan) -> np.ndarray:
    assert scan.probability is not None, "asked for only where every scan has one"
    return scan.probability


def _reader(name: str, root: Path, scans: Sequence[MappedScan]) -> Score:
    maps = MapFolder.find(root)
    named = maps.named([(scan.case.volume.path, scan.label) for scan in scans])
    if lacking := [scan.label for scan in scans if scan.label not in named]:
        raise Error(f"Maps beside one another cover the same scans; '{name}' lacks {', '.join(lacking[:5])}.")
    return lambda scan: maps.read(named[scan.label], scan.case.volume)


def _slice_figures(scans: Sequence[MappedScan], number: Score, resamples: int) -> SliceFigures:
    """Pooled over slices, with an interval over patients; and the mean over patients who have both kinds."""
    scores: dict[str, list[np.ndarray]] = {}
    labels: dict[str, list[np.ndarray]] = {}
    for scan in scans:
        inside = ~np.isnan(scan.position)
        scores.setdefault(scan.group, []).append(number(scan)[inside])
        labels.setdefault(scan.group, []).append(scan.labels[inside])
    value = [np.concatenate(each) for each in scores.values()]
    truth = [np.concatenate(each) for each in labels.values()]

    def pooled(patients: Sequence[int] | np.ndarray) -> float:
        return auroc(np.concatenate([value[k] for k in patients]), np.concatenate([truth[k] for k in patients]))

    draws = np.random.default_rng(0).integers(0, len(value), (resamples, len(value)))
    figure = Interval.from_resamples(np.array([pooled(range(len(value))), *map(pooled, draws)]))
    alone = [a for a in (auroc(v, t) for v, t in zip(value, truth, strict=True)) if not math.isnan(a)]
    return SliceFigures(figure, float(np.mean(alone)) if alone else None, len(alone), sum(map(len, value)))
