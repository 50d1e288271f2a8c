"""Counterfactuals of scans against steps: how well the anomaly map finds lesions of patients that the model never saw.

The default counterfactual of the domain, with another sampler and other steps in each direction; map and post-processing are
the model's own. Beside it stands what the intensity of the scan reaches with the same rim and slice probability.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Set
from functools import cached_property
from typing import Any

import numpy as np

from diffgraft import models
from diffgraft.evaluation.scans import find_raw_scans, read_lesions
from diffgraft.evaluation.steps.result import Metric
from diffgraft.evaluation.steps.samples import STUDENT, Contenders, Measurements, Preview, Samples, Variant
from diffgraft.evaluation.steps.scores import Resamples
from diffgraft.models.defaults import student_counterfactual, student_plan
from diffgraft.models.trained_on import has_trained_on_scan
from diffgraft.requests import StepsRequest
from toolkit.evaluation.anomaly import Bootstrap, Case, anomaly_report, baselines
from toolkit.example import Error
from toolkit.formats import nifti
from toolkit.methods.anomaly_map import MapSettings
from toolkit.methods.counterfactual import check_settings, count_evaluations
from toolkit.models.folder import hash_id, training_ids
from toolkit.settings import Counterfactual

__all__ = ["Scans"]

PRECISION = Metric("auprc", "AUPRC", "high", "average precision of the anomaly map over all voxels of the heads")
DICE = Metric("dice", "Best Dice", "high", "of the map at the threshold that is best on these very scans (optimistic)")
DISTANCE = Metric(
    "distance", "Distance to the converged map", "low", "root mean square difference to the reference map inside the heads, in "
    "its standard deviations", scale="log", judged=False,
)  # fmt: skip

WIDE = "wide FLAIR x rim x slice p"


class Scans:
    """The question that a model of scans is asked: the lesions of held-out patients.

    The data are raw scans with lesion masks, or a data set prepared from them; count: of scans, the first; all where None.
    """

    unit = "scan"
    metrics = (PRECISION, DICE, DISTANCE)

    def __init__(self, request: StepsRequest) -> None:
        root, self.seed = request.model, request.seed
        self.models = Contenders(root, request.student or root, request.backend)
        meta, self.notes = models.meta(root), list[str]()
        self.domain = models.domain(meta["domain"])
        self.settings: Counterfactual = dataclasses.replace(self.domain.QUALITY["default"], seed=request.seed)
        self.maps = MapSettings.from_json(meta.get("calibration", {}).get("maps", {}))
        trained = training_ids(meta)
        if trained is None:
            raise Error(
                f"Held-out patients are known by the model's record of training, which {root} lacks. Train it again."
            )
        raw, _ = find_raw_scans(request.data)
        every = [scan for scan in nifti.find(raw, self.domain.CONTRAST) if scan.mask is not None]
        self.scans = [scan for scan in every if not has_trained_on_scan(trained, scan.label)][: request.count]
        self.count = len(self.scans)
        if not self.scans:
            raise Error(
                f"Curves need scans with lesion masks that the model was not trained on; of {len(every)} in {raw} there is "
                "none. Give others."
            )

    def identity(self, student: bool = False) -> dict[str, Any]:
        """All that the maps of the model, or of its student, depend on but sampler and steps."""
        return self.models.identity(student) | {
            "scans": [hash_id(scan.label) for scan in self.scans],
            "settings": self._shared_settings,
            "maps": dataclasses.asdict(self.maps),
        }

    @property
    def protocol(self) -> dict[str, Any]:
        """What makes the figures readable, as plain values."""
        return {
            "patients": len({scan.group for scan in self.scans}),
            "scans": self.count,
            "slices": sum(len(case.index) for case in self._cases),
            "split": "none of the model's parts was trained on any slice of these scans (checked by id)",
            "counterfactual": self._shared_settings,
            "steps": "in each direction; evaluations are those of one way up and down, of which each member of the ensemble takes one",
            "ensemble": len(self.settings.strengths) * (1 + self.settings.mirror),
            "backend": self.models.open().backend,
        }  # fmt: skip

    def evaluations(self, variant: Variant) -> int:
        """Of the denoiser in one way up and down."""
        return count_evaluations(_single(self._settings(variant)))

    def progress_steps(self, variant: Variant) -> int:
        """How often `draw` calls its watch."""
        gated = self.models.open().classifier is not None
        gate = 2 * self.maps.gate_draws * len(self.maps.gate_sigmas) if gated else 0
        return self.count * (count_evaluations(self._settings(variant)) + gate)

    def refusal(self, variant: Variant) -> str:
        """Why a variant cannot be drawn, "" where it can."""
        try:
            check_settings(self._settings(variant))
        except Error as problem:
            return str(problem)
        return ""

    def count_trained_on(self, trained: Set[str]) -> int:
        """How many of the scans are among those of a training, by the hashes of their slices."""
        return sum(has_trained_on_scan(trained, scan.label) for scan in self.scans)

    def draw(self, variant: Variant, watch: Callable[[], object]) -> Samples:
        """Of each scan: the map inside the head, the probability of its slices, and one slice of the counterfactual."""
        model, settings, arrays = self.models.open(variant), self._settings(variant), dict[str, np.ndarray]()
        target, first = self.domain.parse_prompt("healthy"), self._cases[0]
        slim = dataclasses.replace(first, images=first.images[:1], index=first.index[:1], position=first.position[:1])
        self.domain.explain(model, slim, _single(settings), self.maps, target)  # what is loaded at first use
        seconds = spent = 0.0
        for scan, case, shown in zip(self.scans, self._cases, self._previewed, strict=True):
            begun, cpu = time.monotonic(), time.process_time()
            found = self.domain.explain(model, case, settings, self.maps, target, watch)
            seconds, spent = seconds + time.monotonic() - begun, spent + time.process_time() - cpu
            arrays[f"map-{scan.label}"] = found.anomaly[case.head].astype(np.float16)
            arrays[f"probability-{scan.label}"] = found.probability.astype(np.float32)
            arrays[f"image-{scan.label}"] = found.counterfactual[shown].astype(np.float32)
        return Samples(arrays, seconds, spent)

    def measure(
        self, drawn: Mapping[Variant, Samples], reference: Variant, watch: Callable[[], object]
    ) -> Measurements:
        """Every figure of every variant, of all patients and of the same resamples of them; and what they stand beside."""
        groups = list(dict.fromkeys(scan.group for scan in self.scans))
        own = Resamples(len(groups), seed=self.seed)
        converged = self._maps(drawn[reference])
        values = {}
        for variant, samples in drawn.items():
            maps = self._maps(samples)
            values[variant] = self._find(maps, own) | {DISTANCE.name: self._distance(maps, converged, groups, own)}
            watch()
        gate = [drawn[reference].arrays[f"probability-{scan.label}"] for scan in self.scans]
        wide = [baselines.wide_gated(c.level, c.head, p) for c, p in zip(self._cases, gate, strict=True)]
        beside = {name: {WIDE: figure} for name, figure in self._find(wide, own).items()}
        return Measurements(values, beside | {DISTANCE.name: {}})

    def preview(self, drawn: Mapping[Variant, Samples], count: int) -> Preview:
        """One slice of the first scans and of their counterfactuals, in their windows."""
        cases, names = self._cases[:count], [f"image-{scan.label}" for scan in self.scans[:count]]
        inputs = [_window(case, case.level[shown]) for case, shown in zip(cases, self._previewed, strict=False)]
        images = {
            variant: [_window(case, samples.arrays[name]) for case, name in zip(cases, names, strict=True)]
            for variant, samples in drawn.items()
        }
        return Preview([f"scan {number}" for number in range(1, len(cases) + 1)], inputs, images)

    @property
    def _shared_settings(self) -> dict[str, Any]:
        """The settings that all variants have in common."""
        own = ("sampler", "steps", STUDENT)
        return {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in own}

    def _settings(self, variant: Variant) -> Counterfactual:
        if variant.sampler == STUDENT:
            return student_counterfactual(self.settings, student_plan(models.meta(self.models.student)))
        return dataclasses.replace(self.settings, sampler=variant.sampler, steps=variant.steps)

    @cached_property
    def _cases(self) -> list[Any]:
        return [self.domain.preprocess(nifti.load(scan.path, nan="zero")) for scan in self.scans]

    @cached_property
    def _truths(self) -> list[np.ndarray]:
        return [read_lesions(scan, c.volume) for scan, c in zip(self.scans, self._cases, strict=True)]

    @cached_property
    def _previewed(self) -> list[int]:
        """The slice of each scan with the most of its lesion, or its middle one."""
        sums = [truth.sum((1, 2)) for truth in self._truths]
        return [int(s.argmax()) if s.any() else len(s) // 2 for s in sums]

    def _maps(self, samples: Samples) -> list[np.ndarray]:
        """The maps on the grids of the scans, 0 outside the heads, where the rim's weight is 0."""
        maps = []
        for scan, case in zip(self.scans, self._cases, strict=True):
            whole = np.zeros(case.stack.shape, np.float32)
            whole[case.head] = samples.arrays[f"map-{scan.label}"]
            maps.append(whole)
        return maps

    def _find(self, maps: list[np.ndarray], own: Resamples) -> dict[str, np.ndarray]:
        """How well maps find the lesions."""
        cases = [
            Case(scan.group, score, truth, case.head)
            for scan, score, truth, case in zip(self.scans, maps, self._truths, self._cases, strict=True)
        ]
        head = anomaly_report(cases, bootstrap=Bootstrap(resamples=1)).regions["head"]
        assert head.counts is not None, "a report that was just made has its counts"
        drawn = head.counts.resample(own.times)
        for name, exact in (("average_precision", head.average_precision.value), ("best_dice", head.best_dice.value)):
            drawn[name][0] = np.nan if exact is None else exact  # resamples are of 8,192 thresholds, this is of all
        return {PRECISION.name: drawn["average_precision"], DICE.name: drawn["best_dice"]}

    def _distance(
        self, maps: list[np.ndarray], converged: list[np.ndarray], groups: list[str], own: Resamples
    ) -> np.ndarray:
        squares, voxels = np.zeros(len(groups)), np.zeros(len(groups))
        for scan, case, one, other in zip(self.scans, self._cases, maps, converged, strict=True):
            at = groups.index(scan.group)
            squares[at] += ((one[case.head].astype(np.float64) - other[case.head]) ** 2).sum()
            voxels[at] += case.head.sum()
        spread = np.concatenate([m[c.head] for m, c in zip(converged, self._cases, strict=True)]).std()
        return np.sqrt((own.times @ squares) / (own.times @ voxels)) / float(spread)


def _window(case: Any, image: np.ndarray) -> np.ndarray:
    """(rows, cols) of the box of a head in [-1, 1]."""
    low, high = case.window
    top, left, rows, cols = (round(each) for each in case.box)
    part = np.clip((image - low) / (high - low) * 2 - 1, -1, 1)
    return part[max(0, top) : top + rows, max(0, left) : left + cols].astype(np.float32)


def _single(settings: Counterfactual) -> Counterfactual:
    """The settings without their ensemble."""
    return dataclasses.replace(settings, strengths=settings.strengths[:1], mirror=False)
