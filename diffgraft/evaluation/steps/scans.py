"""Counterfactuals of scans against steps: how well the anomaly map finds lesions of patients that the model never saw.

The default counterfactual of the domain, with another solver and other steps in each direction; map and post-processing are
the model's own. Beside it stands what the intensity of the scan reaches with the same rim and slice probability.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models
from diffgraft.counterfactuals.counterfactual import by_student
from diffgraft.evaluation.steps.draws import STUDENT, Drawn, Way, weights
from diffgraft.evaluation.steps.scores import Measured, Metric, Resamples
from diffgraft.models.defaults import student_of
from toolkit.data import dataset
from toolkit.diffusion.model import Model
from toolkit.evaluation import baselines
from toolkit.evaluation.anomaly import Case, anomaly_report
from toolkit.example import Error
from toolkit.formats import nifti
from toolkit.methods.anomaly_map import MapSettings
from toolkit.methods.counterfactual import check, evaluations
from toolkit.models.folder import hashed
from toolkit.settings import Counterfactual

__all__ = ["Scans"]

PRECISION = Metric("auprc", "AUPRC", "high", "average precision of the anomaly map over all voxels of the heads")
DICE = Metric("dice", "Best Dice", "high", "of the map at the threshold that is best on these very scans (optimistic)")
DISTANCE = Metric(
    "distance", "Distance to the converged map", "low", "root mean square difference to the reference map inside the heads, in "
    "its standard deviations", scale="log", judged=False,
)  # fmt: skip

WIDE = "wide FLAIR x rim x slice p"
MOST_SLICES = 1000
"""Slice numbers in the ids that a model was trained on have three digits."""


class Scans:
    """The question that a model of scans is asked: the lesions of held-out patients.

    data: raw scans with lesion masks, or a data set prepared from them. count: of scans, the first; all where None.
    """

    unit = "scan"

    def __init__(
        self, data: Path, root: Path, count: int | None, backend: str, seed: int, student: Path | None
    ) -> None:
        self.root, self.backend, self.seed = root, backend, seed
        self.student = root if student is None else student
        meta = models.meta(root)
        self.domain = models.domain(meta["domain"])
        self.settings = dataclasses.replace(self.domain.QUALITY["default"], seed=seed)
        own = meta.get("calibration", {}).get("maps", {})
        self.maps = MapSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in own.items()})
        self.notes: list[str] = []
        seen = {each for part in meta["parts"].values() for each in part.get("run", {}).get("trained_on", ())}
        if not all("trained_on" in part.get("run", {}) for part in meta["parts"].values()):
            raise Error(
                f"Held-out patients are known by the model's record of training, which {root} lacks. Train it again."
            )
        self.raw = _raw(data)
        every = [scan for scan in nifti.find(self.raw, self.domain.CONTRAST) if scan.mask is not None]
        unseen = [scan for scan in every if not _saw(seen, scan.label)]
        self.scans = unseen[:count]
        self.count = len(self.scans)
        if not self.scans:
            raise Error(
                f"Curves need scans with lesion masks that the model was not trained on; of {len(every)} in {self.raw} there is "
                "none. Give others."
            )
        self._opened: dict[Path, Model] = {}

    # what is drawn

    @property
    def identity(self) -> dict[str, Any]:
        """All that the maps of the teacher depend on but solver and steps."""
        return self._identity(weights(self.root))

    @property
    def student_identity(self) -> dict[str, Any]:
        """The same of the student's."""
        return self._identity(weights(self.student, student=True))

    def cost(self, way: Way) -> int:
        """How often `draw` calls its watch."""
        return self.count * (evaluations(self._settings(way)) + self._gate)

    def check(self, way: Way) -> str:
        """Why a way cannot be gone, "" where it can."""
        try:
            check(self._settings(way))
        except Error as problem:
            return str(problem)
        return ""

    def draw(self, way: Way, watch: Callable[[], object]) -> Drawn:
        """Of each scan: the map inside the head, the probability of its slices, and one slice of the counterfactual."""
        model = self._model(self.student if way.sampler == STUDENT else self.root)
        settings, arrays = self._settings(way), {}
        warm = dataclasses.replace(settings, strengths=settings.strengths[:1], mirror=False)
        first = self._cases[0]
        slim = dataclasses.replace(first, images=first.images[:1], index=first.index[:1], position=first.position[:1])
        self.domain.explain(model, slim, warm, self.maps, self.domain.ask("healthy"))  # what is loaded at first use
        seconds = spent = 0.0
        for scan, case, shown in zip(self.scans, self._cases, self._shown, strict=True):
            begun, cpu = time.monotonic(), time.process_time()
            found = self.domain.explain(model, case, settings, self.maps, self.domain.ask("healthy"), watch)
            seconds, spent = seconds + time.monotonic() - begun, spent + time.process_time() - cpu
            arrays[f"map-{scan.label}"] = found.anomaly[case.head].astype(np.float16)
            arrays[f"probability-{scan.label}"] = found.probability.astype(np.float32)
            arrays[f"image-{scan.label}"] = found.counterfactual[shown].astype(np.float32)
        return Drawn(arrays, seconds, spent)

    def met(self, seen: set[str]) -> int:
        """How many of the scans are among these hashes of what a training saw."""
        return sum(_saw(seen, scan.label) for scan in self.scans)

    # what is measured

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (PRECISION, DICE, DISTANCE)

    def measure(self, drawn: Mapping[Way, Drawn], reference: Way, watch: Callable[[], object]) -> Measured:
        """Every figure of every way, of all patients and of the same resamples of them; and what they stand beside."""
        groups = list(dict.fromkeys(scan.group for scan in self.scans))
        own = Resamples(len(groups), seed=self.seed)
        converged = self._maps(drawn[reference])
        values = {}
        for way, one in drawn.items():
            maps = self._maps(one)
            values[way] = self._found(maps, own) | {DISTANCE.name: self._distance(maps, converged, groups, own)}
            watch()
        gate = [drawn[reference].arrays[f"probability-{scan.label}"] for scan in self.scans]
        wide = [baselines.wide_gated(c.stack, c.head, p) for c, p in zip(self._cases, gate, strict=True)]
        trivial = self._found(wide, own)
        return Measured(
            values, {metric.name: {WIDE: trivial[metric.name]} for metric in (PRECISION, DICE)} | {DISTANCE.name: {}}
        )

    def strip(self, drawn: Drawn, count: int) -> list[np.ndarray]:
        """One slice of the counterfactual of the first scans, in their windows."""
        return [self._window(k, drawn.arrays[f"image-{scan.label}"]) for k, scan in enumerate(self.scans[:count])]

    def captions(self, count: int) -> list[str]:
        return [f"scan {k + 1}" for k in range(len(self.scans[:count]))]

    def inputs(self, count: int) -> list[np.ndarray]:
        """The same slices of the scans themselves."""
        return [self._window(k, self._cases[k].stack[self._shown[k]]) for k in range(len(self.scans[:count]))]

    @property
    def protocol(self) -> dict[str, Any]:
        """What makes the figures readable, as plain values."""
        return {
            "patients": len({scan.group for scan in self.scans}),
            "scans": self.count,
            "slices": sum(len(case.index) for case in self._cases),
            "split": "none of the model's parts was trained on any slice of these scans (checked by id)",
            "counterfactual": self._asked,
            "steps": "in each direction; evaluations are those of one way up and down, of which each member of the ensemble takes one",
            "ensemble": len(self.settings.strengths) * (1 + self.settings.mirror),
            "backend": self._model(self.root).backend,
        }  # fmt: skip

    # how it is done

    @property
    def _gate(self) -> int:
        has = self._model(self.root).classifier is not None
        return 2 * self.maps.gate_draws * len(self.maps.gate_sigmas) if has else 0

    def walk(self, way: Way) -> int:
        """Evaluations of the denoiser in one way up and down."""
        one = dataclasses.replace(self._settings(way), strengths=self.settings.strengths[:1], mirror=False)
        return evaluations(one)

    def _identity(self, of: str) -> dict[str, Any]:
        return {
            "weights": of, "scans": [hashed(scan.label) for scan in self.scans], "settings": self._asked,
            "maps": dataclasses.asdict(self.maps), "backend": self._model(self.root).backend,
        }  # fmt: skip

    @property
    def _asked(self) -> dict[str, Any]:
        """The settings that all ways have in common."""
        own = ("sampler", "steps", STUDENT)
        return {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in own}

    def _model(self, root: Path) -> Model:
        if root not in self._opened:
            self._opened[root] = models.open(root, self.backend)
        return self._opened[root]

    def _settings(self, way: Way) -> Counterfactual:
        if way.sampler == STUDENT:
            return by_student(self.settings, student_of(models.meta(self.student)))
        return dataclasses.replace(self.settings, sampler=way.sampler, steps=way.steps)

    @cached_property
    def _cases(self) -> list[Any]:
        return [self.domain.study(nifti.load(scan.path, nan="zero")) for scan in self.scans]

    @cached_property
    def _truths(self) -> list[np.ndarray]:
        found = []
        for scan, case in zip(self.scans, self._cases, strict=True):
            assert scan.mask is not None
            found.append(nifti.display(nifti.load(scan.mask).array > 0, case.volume.affine)[0])
        return found

    @cached_property
    def _shown(self) -> list[int]:
        """The slice of each scan with the most of its lesion, or its middle one."""
        sums = [truth.sum((1, 2)) for truth in self._truths]
        return [int(s.argmax()) if s.any() else len(s) // 2 for s in sums]

    def _maps(self, drawn: Drawn) -> list[np.ndarray]:
        """The maps on the grids of the scans, 0 outside the heads, where the rim's weight is 0."""
        maps = []
        for scan, case in zip(self.scans, self._cases, strict=True):
            whole = np.zeros(case.stack.shape, np.float32)
            whole[case.head] = drawn.arrays[f"map-{scan.label}"]
            maps.append(whole)
        return maps

    def _found(self, maps: list[np.ndarray], own: Resamples) -> dict[str, np.ndarray]:
        cases = [
            Case(scan.group, score, truth, case.head)
            for scan, score, truth, case in zip(self.scans, maps, self._truths, self._cases, strict=True)
        ]
        head = anomaly_report(cases, resamples=1).regions["head"]
        assert head.counts is not None
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

    def _window(self, number: int, image: np.ndarray) -> np.ndarray:
        """(rows, cols) of the head's box in [-1, 1]."""
        case = self._cases[number]
        low, high = case.window
        top, left, rows, cols = (round(each) for each in case.box)
        part = np.clip((image - low) / (high - low) * 2 - 1, -1, 1)
        return part[max(0, top) : top + rows, max(0, left) : left + cols].astype(np.float32)


def _raw(data: Path) -> Path:
    """The raw scans of a data set, or the folder itself."""
    if not (data / "dataset.json").is_file():
        return data
    raw = Path(dataset.info(data).get("raw", ""))
    if not raw.is_dir():
        raise Error(f"Maps are measured on the scans themselves; {data} was prepared from '{raw}', which is not there.")
    return raw


def _saw(seen: set[str], label: str) -> bool:
    return any(hashed(f"{label}-{k:03d}") in seen for k in range(MOST_SLICES))
