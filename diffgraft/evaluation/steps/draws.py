"""How a model is drawn for curves of quality against steps, and the folder that keeps what was drawn.

    DIR/draws/<solver>-<steps>-<key>.npz     arrays, and "about": what they depend on, how long they took

The key is a hash of all that the arrays depend on (weights, what was asked for, settings, backend), so that nothing in the
folder can be out of date, and a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.diffusion.samplers import SAMPLERS
from toolkit.example import Error
from toolkit.methods.guided import Walk, walked
from toolkit.models.folder import read_meta

__all__ = ["STUDENT", "Drawn", "Kept", "Way", "evaluations", "student_steps", "ways", "weights"]

STUDENT = "student"
"""The name in place of a solver's: a student has noise levels, and so steps, of its own."""

JUDGES = ("features", "detector", STUDENT)
"""Parts of a model that the images of the teacher do not depend on."""

FORMAT = 1


@dataclass(frozen=True)
class Way:
    """By which solver, or by the student, and in how many steps."""

    sampler: str
    steps: int

    def __str__(self) -> str:
        return f"{self.sampler}, {self.steps} step{'s' * (self.steps != 1)}"


@dataclass(frozen=True)
class Drawn:
    """Arrays by name, wall time and processor time in seconds for all samples."""

    arrays: Mapping[str, np.ndarray]
    seconds: float
    cpu: float


def evaluations(way: Way) -> int:
    """Of the denoiser in one walk down."""
    return walked(Walk(way.sampler, way.steps))


def ways(samplers: Iterable[str], steps: Iterable[int]) -> list[Way]:
    """Every solver with every number of steps. Errors: a solver that there is not, no step."""
    samplers, steps = list(dict.fromkeys(samplers)), sorted(set(steps))
    if unknown := [name for name in samplers if name not in SAMPLERS]:
        raise Error(f"A sampler is one of {', '.join(SAMPLERS)}; found '{unknown[0]}'.")
    if not samplers or not steps or steps[0] < 1:
        raise Error(
            f"Curves have one solver and one number of steps or more, each 1 or more; found {samplers} and {steps}."
        )
    return [Way(name, number) for name in samplers for number in steps]


def student_steps(meta: Mapping[str, Any]) -> int | None:
    """The steps of a model's student, None where it has none."""
    part = meta["parts"].get(STUDENT)
    return None if part is None else int(part["steps"])


def weights(root: Path, student: bool = False) -> str:
    """Hash of the weights that images of the teacher, or of the student, depend on; not of those that judge them."""
    digest = hashlib.sha256()
    parts = [part for part in read_meta(root)["parts"] if part not in JUDGES]
    for part in sorted([*parts, *([STUDENT] if student else [])]):
        digest.update(part.encode())
        digest.update((root / f"{part}.safetensors").read_bytes())
    return digest.hexdigest()


class Kept:
    """What was drawn of one model for one question; identity: all that it depends on but the way, plain values."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder / "draws"
        self.base = _hash({"format": FORMAT, **identity})

    def get(self, way: Way) -> Drawn | None:
        """What was drawn in a way, None if it was not."""
        path = self._path(way)
        if not path.is_file():
            return None
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                return Drawn({n: file[n] for n in file.files if n != "about"}, about["seconds"], about["cpu"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
            raise Error(f"{path} holds draws that diffgraft wrote; it does not: {problem}. Delete it.") from problem

    def put(self, way: Way, drawn: Drawn) -> None:
        """Keep it, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"way": [way.sampler, way.steps], "base": self.base, "seconds": drawn.seconds, "cpu": drawn.cpu}
        part = self.folder / f".{os.getpid()}.npz"
        try:
            np.savez_compressed(part, about=np.array(json.dumps(about)), **drawn.arrays)
            part.replace(self._path(way))
        finally:
            part.unlink(missing_ok=True)

    def there(self) -> list[Way]:
        """The ways of which there are draws."""
        found = []
        for path in sorted(self.folder.glob(f"*-*-{self.base[:16]}.npz")):
            sampler, steps, _ = path.name.rsplit("-", 2)
            found.append(Way(sampler, int(steps)))
        return sorted(found, key=lambda way: (way.sampler, way.steps))

    def _path(self, way: Way) -> Path:
        return self.folder / f"{way.sampler}-{way.steps}-{self.base[:16]}.npz"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
