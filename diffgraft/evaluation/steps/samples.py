"""The samples that curves of quality against steps are made of, and the folder that keeps them.

    DIR/draws/<sampler>-<steps>-<key>.npz     arrays, and "about": what they depend on, how long they took

The key is a hash of all that the arrays depend on (weights, requests, settings, backend), so that nothing in the folder can
be out of date, and a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models
from toolkit.diffusion.model import Model
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.example import Error
from toolkit.methods.guided import Walk, evaluations_of_walk
from toolkit.models.folder import read_meta

__all__ = [
    "STUDENT", "Contenders", "Measurements", "Preview", "SampleCache", "Samples", "Variant", "evaluations", "hash_weights", "variants",
]  # fmt: skip

STUDENT = "student"
"""The name in place of a sampler's: a student has noise levels, and so steps, of its own."""

JUDGES = ("features", "detector", STUDENT)
"""Parts of a model that the images of the teacher do not depend on."""

FORMAT = 1


@dataclass(frozen=True)
class Variant:
    """By which sampler, or by the student, and in how many steps."""

    sampler: str
    steps: int

    def __str__(self) -> str:
        return f"{self.sampler}, {self.steps} step{'s' * (self.steps != 1)}"


@dataclass(frozen=True)
class Samples:
    """Arrays by name, wall time and processor time in seconds for all samples."""

    arrays: Mapping[str, np.ndarray]
    seconds: float
    cpu: float


@dataclass(frozen=True)
class Measurements:
    """values: variant -> metric -> figure; beside: metric -> name -> figure of what is not drawn by the model."""

    values: Mapping[Variant, Mapping[str, np.ndarray]]
    beside: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Preview:
    """What a report shows: what was asked for, in words; the inputs, if there are such; the images of every variant."""

    captions: Sequence[str]
    inputs: Sequence[np.ndarray]
    images: Mapping[Variant, Sequence[np.ndarray]]


@dataclass(frozen=True)
class Contenders:
    """A model, and the folder whose student stands beside it; each is opened once."""

    root: Path
    student: Path
    backend: str
    _opened: dict[Path, Model] = field(default_factory=dict, repr=False)

    def open(self, variant: Variant | None = None) -> Model:
        """The model that draws a variant; the judging one where None."""
        root = self.student if variant is not None and variant.sampler == STUDENT else self.root
        if root not in self._opened:
            self._opened[root] = models.open(root, self.backend)
        return self._opened[root]

    @property
    def student_plan(self) -> Mapping[str, Any] | None:
        """What model.json says of the student, None where there is none. steps: how many it takes."""
        return models.meta(self.student)["parts"].get(STUDENT)

    def identity(self, student: bool) -> dict[str, Any]:
        """What samples of the model, or of the student, depend on: the weights, and what runs them."""
        return {
            "weights": hash_weights(self.student if student else self.root, student),
            "backend": self.open().backend,
        }


def evaluations(variant: Variant) -> int:
    """Of the denoiser in one walk down."""
    return evaluations_of_walk(Walk(variant.sampler, variant.steps))


def variants(samplers: Iterable[str], steps: Iterable[int]) -> list[Variant]:
    """Every sampler with every number of steps. Errors: a sampler that there is not, no step."""
    samplers, steps = list(dict.fromkeys(samplers)), sorted(set(steps))
    if unknown := [name for name in samplers if name not in SAMPLERS]:
        raise Error(f"A sampler is one of {', '.join(SAMPLERS)}; found '{unknown[0]}'.")
    if not samplers or not steps or steps[0] < 1:
        raise Error(
            f"Curves have one solver and one number of steps or more, each 1 or more; found {samplers} and {steps}."
        )
    return [Variant(name, number) for name in samplers for number in steps]


def hash_weights(root: Path, student: bool = False) -> str:
    """Of the weights that images of the model, or of its student, depend on; not of those that judge them."""
    digest = hashlib.sha256()
    parts: set[str] = set(read_meta(root)["parts"]) - set(JUDGES)
    for part in sorted(parts | {STUDENT} if student else parts):
        digest.update(part.encode())
        digest.update((root / f"{part}.safetensors").read_bytes())
    return digest.hexdigest()


class SampleCache:
    """The samples of one model for one question. identity: all that they depend on but the variant, plain values."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder / "draws"
        key = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
        self.key = hashlib.sha256(key.encode()).hexdigest()

    def get(self, variant: Variant) -> Samples | None:
        """The samples of a variant, None if there are none. Errors: a damaged file."""
        path = self._path(variant)
        if not path.is_file():
            return None
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                return Samples({n: file[n] for n in file.files if n != "about"}, about["seconds"], about["cpu"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
            raise Error(f"{path} holds draws that diffgraft wrote; it does not: {problem}. Delete it.") from problem

    def put(self, variant: Variant, samples: Samples) -> None:
        """Keep samples, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {
            "way": [variant.sampler, variant.steps],
            "base": self.key,
            "seconds": samples.seconds,
            "cpu": samples.cpu,
        }
        arrays: dict[str, Any] = {**samples.arrays, "about": np.array(json.dumps(about))}
        part = self.folder / f".{os.getpid()}.npz"
        try:
            np.savez_compressed(part, **arrays)
            part.replace(self._path(variant))
        finally:
            part.unlink(missing_ok=True)

    def variants(self) -> list[Variant]:
        """Those that there are samples of."""
        found = []
        for path in self.folder.glob(f"*-*-{self.key[:16]}.npz"):
            sampler, steps, _ = path.name.rsplit("-", 2)
            found.append(Variant(sampler, int(steps)))
        return sorted(found, key=lambda variant: (variant.sampler, variant.steps))

    def _path(self, variant: Variant) -> Path:
        return self.folder / f"{variant.sampler}-{variant.steps}-{self.key[:16]}.npz"
