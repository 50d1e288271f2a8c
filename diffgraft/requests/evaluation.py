"""Requests of evaluate, one a question, and of audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path

from diffgraft.requests.base import converted, optional_path, path, request
from toolkit.example import Error

__all__ = [
    "DETECTION_ARMS",
    "AlignmentRequest",
    "AnomalyRequest",
    "AuditRequest",
    "ClassificationRequest",
    "DetectionRequest",
    "DistributionRequest",
    "StepsRequest",
]

DETECTION_ARMS = ("real", "classical", "copy-paste", "10", "50", "only", "pretrained")
"""Recipes of a detector: of real pictures alone, and of each synthetic pool, by the part that is synthetic in per cent."""


@request
class AnomalyRequest:
    """Measure anomaly maps against lesion masks.

    scans: raw scans with masks, or a data set prepared from them. maps: output of counterfactual. out: new folder for
    report.html and metrics.json. atlas: data set of training patients, for the healthy-atlas baseline. calibrate: model
    folder that is given the threshold found here. model: that made the maps. only: patients to take, as names or as a text
    file of one a line. beside: name -> another folder of maps. resamples: of the bootstrap.
    """

    scans: Path = converted(converter=path)
    maps: Path = converted(converter=path)
    out: Path | None = converted(converter=optional_path, default=None)
    atlas: Path | None = converted(converter=optional_path, default=None)
    calibrate: Path | None = converted(converter=optional_path, default=None)
    model: Path | None = converted(converter=optional_path, default=None)
    only: Sequence[str] | Path | None = None
    beside: Mapping[str, Path] = field(default_factory=dict)
    resamples: int = 1000
    overwrite: bool = False

    def validate(self) -> None:
        """Errors: an output folder in what is measured."""
        if self.out is not None:
            out = self.out.resolve()
            if {out, *out.parents} & {self.maps.resolve(), self.scans.resolve()}:
                raise Error(
                    f"The report needs a folder of its own; '{self.out}' is, or lies in, what is measured. Take another."
                )


@request
class DistributionRequest:
    """Compare a synthetic data set with a real one: KID, FID, precision, recall, density, coverage.

    model: whose feature network measures, and what it was not trained on is held out; features: an ONNX file instead.
    split: held-out, or all. cache: folder where features are kept. beside: name -> another synthetic data set.
    """

    real: Path = converted(converter=path)
    synthetic: Path = converted(converter=path)
    model: Path | None = converted(converter=optional_path, default=None)
    features: Path | None = converted(converter=optional_path, default=None)
    split: str = "held-out"
    out: Path | None = converted(converter=optional_path, default=None)
    cache: Path | None = converted(converter=optional_path, default=None)
    beside: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0
    overwrite: bool = False

    def validate(self) -> None:
        """Errors: a split that there is not."""
        if self.split not in ("held-out", "all"):
            raise Error(f"A split is held-out or all; found '{self.split}'.")


@request
class ClassificationRequest:
    """What synthetic samples do for a classifier, tested on the held-out fold of real ones.

    synthetic, beside: data sets, or folders of few-shot ones k<shots>-s<seed>. label: to tell; class, or every finding of
    films, where None. shots: real samples of each class, 0 is all. seeds: trainings of each kind. steps: of each training,
    the experiment's own where None. fold: tests and is never trained on; the domain's own where None. model: that made the
    synthetic samples, where they do not say.
    """

    real: Path = converted(converter=path)
    synthetic: Path = converted(converter=path)
    label: str | None = None
    shots: Sequence[int] = ()
    seeds: int = 3
    steps: int | None = None
    fold: int | None = None
    model: Path | None = converted(converter=optional_path, default=None)
    beside: Mapping[str, Path] = field(default_factory=dict)
    out: Path | None = converted(converter=optional_path, default=None)
    overwrite: bool = False

    def validate(self) -> None:
        _check_trainings(self.seeds, self.steps, self.shots)


@request
class DetectionRequest:
    """What synthetic pictures do for a detector. arms: of DETECTION_ARMS, none is all of them; the others as in
    ClassificationRequest, shots being images. out keeps each training, and none that is there is repeated.
    """

    real: Path = converted(converter=path)
    synthetic: Path = converted(converter=path)
    arms: Sequence[str] = ()
    shots: Sequence[int] = ()
    seeds: int = 3
    steps: int | None = None
    fold: int | None = None
    model: Path | None = converted(converter=optional_path, default=None)
    beside: Mapping[str, Path] = field(default_factory=dict)
    out: Path | None = converted(converter=optional_path, default=None)
    overwrite: bool = False

    def validate(self) -> None:
        _check_trainings(self.seeds, self.steps, self.shots)
        if unknown := [arm for arm in self.arms if arm not in DETECTION_ARMS]:
            raise Error(
                f"An arm is one of {', '.join(DETECTION_ARMS)}; found '{unknown[0]}'. Name one of these with --arms."
            )


@request
class AlignmentRequest:
    """Whether images show what they were asked to show: their class, their findings or their boxes; as in
    ClassificationRequest. cache: folder where features and judges are kept. cross_validate: of films, predict the
    findings of every real one, too, by classifiers of the other folds.
    """

    real: Path = converted(converter=path)
    synthetic: Path = converted(converter=path)
    label: str | None = None
    seeds: int = 3
    steps: int | None = None
    fold: int | None = None
    model: Path | None = converted(converter=optional_path, default=None)
    beside: Mapping[str, Path] = field(default_factory=dict)
    out: Path | None = converted(converter=optional_path, default=None)
    cache: Path | None = converted(converter=optional_path, default=None)
    cross_validate: bool = True
    overwrite: bool = False

    def validate(self) -> None:
        _check_trainings(self.seeds, self.steps)


@request
class StepsRequest:
    """Quality of a model against its number of steps, on the held-out samples of a data set.

    counts, samplers: of the solvers, the experiment's own where None. count: images (96), or scans (all). student: folder
    whose student is measured beside the model; the model's own where None. out may hold such curves, to which this adds.
    """

    data: Path = converted(converter=path)
    model: Path = converted(converter=path)
    out: Path = converted(converter=path)
    counts: Sequence[int] | None = None
    samplers: Sequence[str] | None = None
    count: int | None = None
    student: Path | None = converted(converter=optional_path, default=None)
    backend: str = "auto"
    seed: int = 0
    overwrite: bool = False

    def validate(self) -> None:
        """Errors: too few samples."""
        if self.count is not None and self.count < 2:
            raise Error(f"Figures with intervals need 2 samples or more; found {self.count}. Raise -n.")


@request
class AuditRequest:
    """Find copies of training images among generated ones.

    train: data set that the model was trained on. synthetic: what it made. holdout: real data set that was not trained on;
    without it, what `model` did not train on of `train`, or else the fold that a training keeps back. model: its feature
    network is the embedding, unless `features`, an ONNX file, is. plant: planted copies of each kind.
    """

    train: Path = converted(converter=path)
    synthetic: Path = converted(converter=path)
    holdout: Path | None = converted(converter=optional_path, default=None)
    model: Path | None = converted(converter=optional_path, default=None)
    features: Path | None = converted(converter=optional_path, default=None)
    out: Path | None = converted(converter=optional_path, default=None)
    cache: Path | None = converted(converter=optional_path, default=None)
    plant: int = 100
    overwrite: bool = False


def _check_trainings(seeds: int, steps: int | None, shots: Sequence[int] = ()) -> None:
    """Errors: no seed, no step, fewer than no shots."""
    if seeds < 1 or (steps is not None and steps < 1) or any(k < 0 for k in shots):
        raise Error(
            "An experiment has one seed and one step or more, and shots from 0; found "
            f"{seeds}, {'its own steps' if steps is None else steps}, {list(shots)}."
        )
