"""The paths of a teacher that a student learns from: what to ask for, and what the teacher then walks through.

A domain whose scans are changed has paths up (encoding, nothing stated) and down (decoding, towards a class); the others
have paths from noise. Everything is a function of a seed and of a path's number alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from diffgraft.generation import sampling
from diffgraft.generation.layouts import source as layout_source
from toolkit.data import dataset, labels
from toolkit.data.labels import Range, Vocabulary
from toolkit.diffusion import guidance, schedule
from toolkit.diffusion.model import BOXES, TEXT, Denoise, Model
from toolkit.diffusion.noise import Purpose, Seeded
from toolkit.diffusion.samplers import ode
from toolkit.example import Annotation, Error
from toolkit.methods.counterfactual import SIGMA_MIN, decoder
from toolkit.models.folder import hashed, trained_on
from toolkit.settings import Counterfactual, Sampling
from toolkit.training.distilling import passed

__all__ = ["BATCH", "Walk", "changing", "generating", "levels_of", "seen"]

BATCH = 16
UNSTATED = 0.15
"""How often a label is left open where no data set says what to ask for: the student is asked for less than all too."""

MIRRORED = 0.5


@dataclass(frozen=True)
class Walk:
    """States of some paths at the levels of the student, (N, C, H, W) each, and what the model was told, (N, ...)."""

    states: Sequence[np.ndarray]
    levels: Sequence[float]
    cond: Mapping[str, np.ndarray]


def levels_of(steps: int, highest: float, lowest: float) -> list[float]:
    """The levels of a student of so many steps from noise: those of Karras et al., less the last above 0.

    What is left of the way below is the teacher's fine work, which a student does in its last leap.
    """
    return [*schedule.karras(steps + 1, highest, lowest)[:steps], 0.0]


def generating(
    model: Model, domain: ModuleType, settings: Sampling, levels: Sequence[float], fine: int, count: int, seed: int,
    like: str | Path | None,
) -> Iterator[Callable[[], list[Walk]]]:  # fmt: skip
    """The teacher's ways from noise to `count` images under settings.guidance, BATCH at a call."""
    rows = _wanted(model, domain, count, seed, like)
    lowest = sampling.sigmas(model, settings)[-2]
    for first in range(0, count, BATCH):
        part = rows[first : first + BATCH]

        def walk(part: Sequence[Annotation] = part, first: int = first) -> list[Walk]:
            cond, null = sampling.conditions(model, domain, part)
            denoise = guidance.classifier_free(model.denoiser, cond, null, settings.guidance)
            noise = Seeded(seed, range(first, first + len(part)), model.denoiser.spec.shape, model.asarray)
            x = model.denoiser.spec.initial_scale(levels[0]) * noise(0, Purpose.START)
            return [_walked(model, denoise, x, levels, fine, lowest, cond)]

        yield walk


def changing(
    model: Model, domain: ModuleType, settings: Counterfactual, fine: int, count: int, seed: int, like: str | Path
) -> Iterator[Callable[[], list[Walk]]]:
    """The teacher's ways up and down for scans of `like` that it was trained on, at each strength, BATCH at a call.

    A quarter of them go down towards what is not healthy, which may be asked for too.
    """
    chance = np.random.default_rng(seed)
    known = seen(model, like)
    order = np.concatenate([chance.permutation(len(known)) for _ in range(-(-count // len(known)))])[:count]
    for first in range(0, count, BATCH):
        chosen = [known[n] for n in order[first : first + BATCH]]
        mirrored = chance.random(len(chosen)) < MIRRORED
        images = np.stack([e.image[..., ::-1] if m else e.image for e, m in zip(chosen, mirrored, strict=True)])
        goals = (chance.random(len(chosen)) < 0.25).astype(int)
        rows = [
            [Annotation(labels={**e.annotation.labels, domain.TARGET: value}) for e, value in zip(chosen, told, strict=True)]
            for told in ([float("nan")] * len(chosen), goals.astype(float))
        ]  # fmt: skip

        def walk(images: np.ndarray = images, rows: list = rows, goals: np.ndarray = goals) -> list[Walk]:
            null, cond = (sampling.conditions(model, domain, part)[0] for part in rows)
            classes = len(domain.CLASSES)
            weights = model.asarray(np.eye(classes, dtype=np.float32)[goals])
            down = decoder(model, null, cond, weights, settings)
            up = guidance.conditioned(model.denoiser, null)
            found = []
            for strength in settings.strengths:
                levels = schedule.karras(settings.steps, schedule.strength_to_sigma(strength), SIGMA_MIN)
                x = model.codec.encode(model.asarray(np.ascontiguousarray(images)))
                rise = _walked(model, up, x, levels[-2::-1], fine, SIGMA_MIN, null)
                fall = _walked(model, down, model.asarray(rise.states[-1]), levels, fine, SIGMA_MIN, cond)
                found += [rise, fall]
            return found

        yield walk


def _walked(
    model: Model, denoise: Denoise, x: object, levels: Sequence[float], fine: int, lowest: float, cond: Mapping
) -> Walk:
    states = passed(ode.dpmpp_2m, denoise, x, levels, fine, lowest, lambda step: x)
    return Walk([model.asnumpy(s) for s in states], levels, {name: model.asnumpy(v) for name, v in cond.items()})


def seen(model: Model, like: str | Path) -> list:
    """The real samples of a data set that the model was trained on; all, where it was trained on none of them."""
    ours = trained_on(model.meta, ("denoiser",)) or set()
    real = [e for e in dataset.read(like) if e.provenance is None]
    found = [e for e in real if hashed(e.id) in ours] or real
    if not found:
        raise Error(f"Paths begin with real samples; {like} has none. Name the data set of the training: --like DATA")
    return found


def _wanted(
    model: Model, domain: ModuleType, count: int, seed: int, like: str | Path | None
) -> Sequence[Annotation]:  # fmt: skip
    """What each path is asked to show."""
    vocabulary = labels.of(model.meta, domain)
    if BOXES in model.denoiser.spec.fields:
        names: tuple[str, ...] = vocabulary[domain.TARGET]  # type: ignore[assignment]
        turned = (domain.AUGMENTATION.flip > 0, domain.AUGMENTATION.flip_rows > 0)
        source = layout_source.source(model.meta, like, "recombine", seed, names, None, None, turned)
        return [Annotation(boxes=source(place, 0)) for place in range(count)]
    chance = random.Random(f"{seed} paths")
    if like is None:
        return [_any(model, domain, vocabulary, chance) for _ in range(count)]
    known = seen(model, like)
    drawn = [known[chance.randrange(len(known))].annotation for _ in range(count)]
    if TEXT in model.denoiser.spec.fields:
        return [Annotation(domain.caption(a, chance), _fewer(a.labels, chance)) for a in drawn]
    return [Annotation(labels=_fewer(a.labels, chance)) for a in drawn]


def _any(model: Model, domain: ModuleType, vocabulary: Vocabulary, chance: random.Random) -> Annotation:
    """A prompt that the domain composes, or labels of the model drawn evenly, with what follows from them."""
    fields = model.denoiser.spec.fields
    if TEXT in fields:
        return domain.ask([f"{TEXT}={domain.composed(chance)}"], vocabulary)
    drawn = {
        name: chance.uniform(entry.low, entry.high) if type(entry) is Range else float(chance.randrange(len(entry)))  # type: ignore[arg-type]
        for name, entry in vocabulary.items()
        if name in fields
    }
    fewer = _fewer(drawn, chance)
    return Annotation(labels=domain.complete(fewer, vocabulary) if fewer and hasattr(domain, "complete") else fewer)


def _fewer(known: Mapping[str, float], chance: random.Random) -> dict[str, float]:
    return {name: value for name, value in known.items() if chance.random() >= UNSTATED}
