"""The paths of a teacher that a student learns from: what each starts from and shows, and its states at the student's levels.

A domain whose scans are changed has paths up (encoding, unconditional) and down (decoding, towards a class); the others
have paths from noise. Everything is a function of a seed and of a path's number alone, and each batch of paths is computed
once and kept in a file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraft.generation import sampling
from diffgraft.generation.layouts.source import layout_source
from diffgraft.models.trained_on import partition
from diffgraft.requests.verb import Watch
from toolkit.data import dataset, labels
from toolkit.data.labels import Range, Vocabulary
from toolkit.diffusion import guidance, schedule
from toolkit.diffusion.model import BOXES, TEXT, Denoise, Model
from toolkit.diffusion.noise import Purpose, Seeded
from toolkit.diffusion.samplers import ode
from toolkit.example import Annotation, Error, Example
from toolkit.methods.counterfactual import SIGMA_MIN, decoder
from toolkit.models.folder import training_ids
from toolkit.settings import Counterfactual, Distillation, Sampling
from toolkit.training.distilling import teacher_path

__all__ = [
    "Compute", "TeacherPath", "counterfactual_paths", "generation_paths", "load_or_compute", "student_levels",
    "training_examples",
]  # fmt: skip

BATCH = 16
UNSTATED = 0.15
"""How often a label is left open where no data set gives the conditions: the student is asked for less than all too."""

MIRRORED = 0.5
"""How often a scan is mirrored, left and right."""

NOT_HEALTHY = 0.25
"""How often a scan is decoded towards what is not healthy, which may be the target too."""


@dataclass(frozen=True)
class TeacherPath:
    """A batch of paths: states at the levels of the student, (N, C, H, W) each, and the conditions, (N, ...)."""

    states: Sequence[Tensor]
    levels: Sequence[float]
    cond: Mapping[str, Tensor]


Compute = Callable[[int], list[TeacherPath]]
"""The paths of the batch that begins with a path of this number."""


def student_levels(steps: int, highest: float, lowest: float) -> list[float]:
    """The levels of a student of so many steps from noise: those of Karras et al., less the last above 0.

    What is left of the way below is the teacher's fine work, which a student does in its last leap.
    """
    return [*schedule.karras(steps + 1, highest, lowest)[:steps], 0.0]


def generation_paths(
    model: Model, domain: ModuleType, settings: Sampling, levels: Sequence[float], distillation: Distillation,
    like: Path | None,
) -> Compute:  # fmt: skip
    """Paths from noise to images under settings.guidance, conditioned as samples of `like` are where there is one."""
    rows, spec = _conditions(model, domain, distillation, like), model.denoiser.spec
    lowest = sampling.sigma_schedule(model, settings)[-2]

    def compute(first: int) -> list[TeacherPath]:
        part = rows[first : first + BATCH]
        cond, null = sampling.encode_conditions(model, domain, part)
        denoise = guidance.classifier_free(model.denoiser, cond, null, settings.guidance)
        noise = Seeded(distillation.seed, range(first, first + len(part)), spec.shape, model.asarray)
        x = spec.initial_scale(levels[0]) * noise(0, Purpose.START)
        return [_path(model, denoise, x, levels, distillation.fine, lowest, cond)]

    return compute


def counterfactual_paths(
    model: Model, domain: ModuleType, settings: Counterfactual, distillation: Distillation, like: Path
) -> Compute:
    """Paths up and down of scans of `like` that the model was trained on, at each strength."""
    chance, count, fine = np.random.default_rng(distillation.seed), distillation.paths, distillation.fine
    known = training_examples(model, like)
    order = np.concatenate([chance.permutation(len(known)) for _ in range(-(-count // len(known)))])[:count]
    batches = [order[first : first + BATCH] for first in range(0, count, BATCH)]
    draws = [(chance.random(len(b)) < MIRRORED, chance.random(len(b)) < NOT_HEALTHY) for b in batches]

    def compute(first: int) -> list[TeacherPath]:
        scans, (mirrored, unhealthy) = [known[n] for n in batches[first // BATCH]], draws[first // BATCH]
        images = np.stack([e.image[..., ::-1] if m else e.image for e, m in zip(scans, mirrored, strict=True)])
        null, cond = (
            sampling.encode_conditions(model, domain, [
                Annotation(labels={**e.annotation.labels, domain.TARGET: float(value)})
                for e, value in zip(scans, target, strict=True)
            ])[0]
            for target in (np.full(len(scans), np.nan), unhealthy)
        )  # fmt: skip
        weights = model.asarray(np.eye(len(domain.CLASSES), dtype=np.float32)[unhealthy.astype(int)])
        down = decoder(model, null, cond, weights, settings)
        up = guidance.conditioned(model.denoiser, null)
        found = []
        for strength in settings.strengths:
            levels = schedule.karras(settings.steps, schedule.strength_to_sigma(strength), SIGMA_MIN)
            x = model.codec.encode(model.asarray(np.ascontiguousarray(images)))
            rise = _path(model, up, x, levels[-2::-1], fine, SIGMA_MIN, null)
            x = model.asarray(rise.states[-1].numpy())
            found += [rise, _path(model, down, x, levels, fine, SIGMA_MIN, cond)]
        return found

    return compute


def _path(
    model: Model, denoise: Denoise, x: Any, levels: Sequence[float], fine: int, lowest: float, cond: Mapping[str, Any]
) -> TeacherPath:
    """The path of x. fine: steps of the teacher in each leap; lowest: its last level above 0."""
    states = teacher_path(ode.dpmpp_2m, denoise, x, levels, fine, lowest, lambda step: x)

    def tensor(value: Any) -> Tensor:
        return torch.from_numpy(np.array(model.asnumpy(value)))

    return TeacherPath([tensor(state) for state in states], levels, {name: tensor(v) for name, v in cond.items()})


def training_examples(model: Model, like: Path) -> list[Example]:
    """The real samples of a data set that the model was trained on; all, where it was trained on none of them."""
    real = [e for e in dataset.read(like) if e.provenance is None]
    found = partition(real, training_ids(model.meta, ("denoiser",)) or set())[0] or real
    if not found:
        raise Error(f"Paths begin with real samples; {like} has none. Name the data set of the training: --like DATA")
    return found


# ---------------------------------------------------------------------------------------------------------- conditions


def _conditions(model: Model, domain: ModuleType, distillation: Distillation, like: Path | None) -> list[Annotation]:
    """What the image at the end of each path is to show."""
    count, seed, fields = distillation.paths, distillation.seed, model.denoiser.spec.fields
    vocabulary = labels.vocabulary_of(model.meta, domain)
    if BOXES in fields:
        names = vocabulary[domain.TARGET]
        assert not isinstance(names, Range), "boxes are of classes"
        flips = (domain.AUGMENTATION.flip > 0, domain.AUGMENTATION.flip_rows > 0)
        source = layout_source(model.meta, like, "recombine", seed, names, None, None, flips)
        return [Annotation(boxes=source(place, 0)) for place in range(count)]
    chance = random.Random(f"{seed} paths")
    if like is None:
        return [_any_condition(model, domain, vocabulary, chance) for _ in range(count)]
    known = training_examples(model, like)
    drawn = [known[chance.randrange(len(known))].annotation for _ in range(count)]
    if TEXT in fields:
        return [Annotation(domain.caption(a, chance), _drop_labels(a.labels, chance)) for a in drawn]
    return [Annotation(labels=_drop_labels(a.labels, chance)) for a in drawn]


def _any_condition(model: Model, domain: ModuleType, vocabulary: Vocabulary, chance: random.Random) -> Annotation:
    """A prompt that the domain composes, or labels of the model drawn evenly, with what follows from them."""
    fields = model.denoiser.spec.fields
    if TEXT in fields:
        return domain.parse_prompt([f"{TEXT}={domain.random_prompt(chance)}"], vocabulary)
    drawn = {
        name: chance.uniform(entry.low, entry.high) if isinstance(entry, Range) else float(chance.randrange(len(entry)))
        for name, entry in vocabulary.items()
        if name in fields
    }
    kept = _drop_labels(drawn, chance)
    return Annotation(
        labels=domain.infer_labels(kept, vocabulary) if kept and hasattr(domain, "infer_labels") else kept
    )


def _drop_labels(known: Mapping[str, float], chance: random.Random) -> dict[str, float]:
    return {name: value for name, value in known.items() if chance.random() >= UNSTATED}


# --------------------------------------------------------------------------------------------------------------- files


def load_or_compute(
    place: Path, compute: Compute, distillation: Distillation, teacher: str, watch: Watch
) -> list[TeacherPath]:
    """All paths, each batch read from its file in `place`, or computed and written there. teacher: which, with its settings.

    Errors: files of another teacher or of other settings.
    """
    wanted = torch.tensor(list(teacher.encode()), dtype=torch.uint8)
    place.mkdir(parents=True, exist_ok=True)
    found: list[TeacherPath] = []
    starts = range(0, distillation.paths, BATCH)
    for number, first in enumerate(starts, 1):
        path = place / f"paths-{number:04d}.safetensors"
        if path.is_file():
            tensors = load_file(path)
            if not torch.equal(tensors["settings"], wanted):
                raise Error(f"{place} has paths of other settings. Name a new folder, or remove that one.")
        else:
            tensors = _as_tensors(compute(first)) | {"settings": wanted}
            save_file(tensors, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        found += _from_tensors(tensors)
        watch("teacher's paths", number, len(starts))
    return found


def _as_tensors(paths: Sequence[TeacherPath]) -> dict[str, Tensor]:
    named = {}
    for n, path in enumerate(paths):
        named[f"{n}.levels"] = torch.tensor(path.levels, dtype=torch.float64)
        named |= {f"{n}.state.{i}": state for i, state in enumerate(path.states)}
        named |= {f"{n}.cond.{name}": value for name, value in path.cond.items()}
    return named


def _from_tensors(tensors: Mapping[str, Tensor]) -> list[TeacherPath]:
    found = []
    for n in range(sum(name.endswith(".levels") for name in tensors)):
        levels = tensors[f"{n}.levels"].tolist()
        states = [tensors[f"{n}.state.{i}"] for i in range(len(levels))]
        cond = {k.removeprefix(f"{n}.cond."): v for k, v in tensors.items() if k.startswith(f"{n}.cond.")}
        found.append(TeacherPath(states, levels, cond))
    return found
