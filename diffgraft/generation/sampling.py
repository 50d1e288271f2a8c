"""From annotations to images: a model's noise levels, one image an annotation, drawn again until a gate lets it pass.

Each image has a place (0 to count - 1) and a draw (0, 1, ... until one is kept); its noise is a function of the seed
and of draw * count + place alone, so that batches and places that are already filled change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from diffgraft.models.defaults import student_plan
from diffgraft.requests.verb import Watch, counter
from toolkit.data import labels
from toolkit.diffusion import editing, guidance, schedule
from toolkit.diffusion.finite import check_images
from toolkit.diffusion.model import TEXT, Array, Cond, Field, Model
from toolkit.diffusion.noise import Draws, Purpose, Seeded
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.example import Annotation, Error
from toolkit.methods.guided import BATCH, SIGMA_MIN, evaluations_of_walk
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import image_shape
from toolkit.settings import Sampling

__all__ = [
    "COHERENCE", "Gate", "Samples", "Verdict", "encode_conditions", "evaluation_counter", "highest_sigma", "label_fields",
    "rejection_sample", "sample", "sigma_schedule",
]  # fmt: skip

COHERENCE = 0.9
"""The part of the noise's variance that the slices of a volume share."""

HIGHEST = 2.8
"""Sampling starts this many standard deviations up the training's ln sigma: beyond it the network saw next to nothing."""

MOST_DRAWS = 60
"""Draws for one place before it is given up."""

COMMON = 2**63
"""Sample index of the shared noise, which no image's own reaches."""


@dataclass(frozen=True)
class Verdict:
    """A gate's answer: which images are kept (N,), and their similarity to a training image (N,), NaN where not measured."""

    kept: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Gate:
    """What an image has to pass: judge(images, their annotations) -> Verdict.

    name: of what it turns away. rule: in words, for the message when a place stays empty.
    """

    name: str
    judge: Callable[[np.ndarray, Sequence[Annotation]], Verdict]
    rule: str


@dataclass(frozen=True)
class Samples:
    """An image for every annotation (N, C, H, W), its similarity (N,), how many were drawn, rejections of each gate."""

    images: np.ndarray
    similarity: np.ndarray
    draws: int
    rejections: Mapping[str, int]


def highest_sigma(model: Model) -> float:
    """The noise level that sampling starts from: the highest that the training reached."""
    spec, training = model.denoiser.spec, model.meta["parts"]["denoiser"].get("training")
    if not training:
        return spec.sigma_max
    return min(spec.sigma_max, math.exp(training["sigma_mean"] + HIGHEST * training["sigma_std"]))


def sigma_schedule(model: Model, settings: Sampling) -> list[float]:
    """The noise levels of a run, from the highest that the training reached; "own" are those of a checkpoint's scheduler.

    A student has those that it was made for.
    """
    if settings.student:
        return list(student_plan(model.meta)["levels"])
    if settings.schedule == "own" and "scheduler" in model.meta:
        return pipeline_folder.sigmas(model.meta, settings.steps)
    known = {"karras": schedule.karras, "exponential": schedule.exponential}
    if settings.schedule not in known:
        raise Error(f"A schedule is one of {', '.join(known)}; found '{settings.schedule}'.")
    return known[settings.schedule](settings.steps, highest_sigma(model), max(model.denoiser.spec.sigma_min, SIGMA_MIN))


def encode_conditions(model: Model, domain: ModuleType, rows: Sequence[Annotation]) -> tuple[Cond, Cond]:
    """The condition fields of some annotations and those of none (unconditional), as the backend's arrays.

    Each prompt is encoded once, and so is the empty one, which is unconditional.
    """
    known, vocabulary = label_fields(model.denoiser.spec.fields), labels.vocabulary_of(model.meta, domain)
    cond, null = (
        {k: model.asarray(v) for k, v in domain.condition(annotations, known, vocabulary).items()}
        for annotations in (rows, [Annotation()] * len(rows))
    )
    if len(known) < len(model.denoiser.spec.fields):
        assert model.text is not None
        texts = [row.text or "" for row in rows]
        different = ["", *sorted(set(texts) - {""})]
        hidden = model.text(different)
        cond[TEXT] = hidden[[different.index(text) for text in texts]]
        null[TEXT] = hidden[[0] * len(texts)]
    return cond, null


def label_fields(fields: Mapping[str, Field]) -> dict[str, Field]:
    """The fields that a domain makes of labels; those of the text are the text encoder's."""
    return {name: field for name, field in fields.items() if name != TEXT}


def sample(
    model: Model,
    domain: ModuleType,
    rows: Sequence[Annotation],
    settings: Sampling,
    indices: Sequence[int],
    coherence: float = 0.0,
    watch: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """One image for each annotation and sample index, (N, C, H, W) in [-1, 1], a batch at a time.

    coherence: the part of the noise's variance that all samples of the seed share.
    """
    levels, spec = sigma_schedule(model, settings), model.denoiser.spec
    images = []
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        cond, null = encode_conditions(model, domain, rows[part])
        if settings.student:
            assert model.student is not None
            denoise = guidance.conditioned(model.student, cond)
        else:
            denoise = guidance.classifier_free(model.denoiser, cond, null, settings.guidance)
        denoise = guidance.with_callback(denoise, lambda *_: watch())
        noise: Draws = Seeded(settings.seed, indices[part], spec.shape, model.asarray)
        if coherence > 0:
            noise = _Shared(noise, Seeded(settings.seed, [COMMON], spec.shape, model.asarray), coherence)
        x = editing.generate(SAMPLERS[settings.sampler], denoise, levels, noise, spec.initial_scale(levels[0]))
        if levels[-1] > 0:  # a checkpoint may stop above 0, and there its decoder was shown x of unit variance
            x = x / spec.initial_scale(levels[-1])
        images.append(model.asnumpy(model.codec.decode(x)))
    return np.clip(check_images(np.concatenate(images)), -1, 1).astype(np.float32)


def rejection_sample(
    model: Model, domain: ModuleType, rows: Sequence[Annotation], settings: Sampling, coherence: float = 0.0,
    gates: Sequence[Gate] = (), watch: Watch = lambda *_: None,
) -> Samples:  # fmt: skip
    """An image for every annotation, drawn again until every gate lets it pass. Errors: a place that no draw fills."""
    count = len(rows)
    images = np.zeros((count, *image_shape(model.meta)), np.float32)
    similarity = np.full(count, math.nan)
    rejections = {gate.name: 0 for gate in gates}
    places, draws = np.arange(count), 0
    for draw in range(MOST_DRAWS):
        wanted = [rows[p] for p in places.tolist()]
        step = evaluation_counter(watch, draw, len(places), settings)
        drawn = sample(model, domain, wanted, settings, [draw * count + int(p) for p in places], coherence, step)
        draws += len(places)
        kept = np.ones(len(places), bool)
        for gate in gates:
            verdict = gate.judge(drawn, wanted)
            rejections[gate.name] += int((~verdict.kept).sum())
            kept &= verdict.kept
            similarity[places] = np.where(np.isnan(verdict.similarity), similarity[places], verdict.similarity)
        images[places[kept]] = drawn[kept]
        places = places[~kept]
        if not len(places):
            return Samples(images, similarity, draws, rejections)
    raise Error(
        f"{'; '.join(gate.rule for gate in gates)}; {len(places)} of {count} found none in {MOST_DRAWS} draws. "
        "Take another --seed, or fewer -n."
    )


def evaluation_counter(watch: Watch, draw: int, images: int, settings: Sampling) -> Callable[[], None]:
    """What is called once an evaluation while so many images are sampled, for the draw of that number."""
    return counter(
        watch, "sampling" if draw == 0 else f"draw {draw + 1}", -(-images // BATCH) * evaluations_of_walk(settings)
    )


@dataclass(frozen=True)
class _Shared:
    """Noise of which a part of the variance is the same for all samples; standard normal, as its two sources are."""

    own: Draws
    common: Draws
    part: float

    def __call__(self, step: int, purpose: int = Purpose.SAMPLER, /) -> Array:
        return math.sqrt(1 - self.part) * self.own(step, purpose) + math.sqrt(self.part) * self.common(step, purpose)
