"""New images of a model, as a data set folder or as one synthetic volume, with provenance and a report.

Each image has a place (0 to count - 1) and a draw (0, 1, ... until one is kept); its noise is a function of the seed
and of draw * count + place alone, so that batches and places that are already filled change nothing. The slices of a
volume also share a part of their noise, so that they are slices of one head.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft import __version__, models, report
from toolkit import dataset
from toolkit.diffusion import editing, guidance, schedule
from toolkit.diffusion.model import Array, Model
from toolkit.diffusion.noise import Draws, Purpose, Seeded
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.evaluation.memorization import nearest_ncc
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.folder import hashed
from toolkit.formats import nifti
from toolkit.settings import Sampling

__all__ = ["DEFAULT", "Distance", "Outcome", "asked", "generate", "sample", "sigmas"]

DEFAULT = Sampling(sampler="dpmpp_2m", steps=20)

SIGMA_MIN = 0.02
"""The last noise level above 0: below it an image of 8 bits is clean."""

HIGHEST = 2.8
"""Sampling starts this many standard deviations up the training's ln sigma: beyond it the network saw next to nothing."""

BATCH = 16

MOST_DRAWS = 60
"""Draws for one place before it is given up."""

MARGIN = 0.01
"""By how much a sample stays below the limit of its distance: resampled on the way to a file it comes a little nearer."""

COHERENCE = 0.9
"""The part of the noise's variance that the slices of a volume share."""

COMMON = 2**63
"""Sample index of the shared noise, which no image's own reaches."""

FORMATS = ("images", "nifti")


@dataclass(frozen=True)
class Distance:
    """How far from the training images a sample must be: its largest NCC with one of them is below `limit`, by MARGIN.

    limit: the median over the held-out samples of the same measure. references (M, C, H, W): the training images.
    """

    limit: float
    references: np.ndarray
    held_out: int


@dataclass(frozen=True)
class Outcome:
    """What was made. similarity (N,): largest NCC with a training image, where that was asked for."""

    count: int
    draws: int
    start_sigma: float
    limit: float | None = None
    similarity: tuple[float, ...] = ()

    @property
    def rejected(self) -> float:
        """Part of the draws that were put aside as too near to a training image."""
        return 1 - self.count / self.draws


def generate(
    model_path: str | Path,
    out: str | Path,
    labels: Mapping[str, float] | None = None,
    count: int = 16,
    settings: Sampling = DEFAULT,
    *,
    volume: bool = False,
    format: str = "images",
    name: str = "",
    far_from: str | Path | None = None,
    backend: str = "auto",
    overwrite: bool = False,
    command: str = "",
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> Outcome:
    """Sample `count` images with the given labels (unset: null) and write them to a new folder, with a report.

    volume: the images are slices of one head from its low to its high end, with a lesion in the middle part (none
    with lesion = 0). format: "images", a data set folder; "nifti", one volume sub-<name>_<contrast>.nii.gz with its
    sidecar. far_from: the data set of the training; see Distance. watch(label, done, of) is called once an evaluation.
    Errors: labels the domain does not know, a model without these data, a place that no draw fills.
    """
    model = models.open(model_path, backend)
    domain = models.domain(model.meta["domain"])
    labels = labels or {}
    _check(domain, labels, count, settings, volume or format == "nifti", format, name)
    volume, name = volume or format == "nifti", name or f"synthetic{settings.seed}"
    rows = domain.series(count, labels) if volume else [Annotation(labels=labels)] * count
    needed = [model_path] if far_from is None else [model_path, far_from]
    with dataset.staged(out, overwrite, ("report.html",), needed) as folder:
        far = None if far_from is None else distance(model, far_from)
        begun = time.monotonic()
        images, similarity, draws = _filled(model, domain, rows, settings, COHERENCE if volume else 0.0, far, watch)
        outcome = Outcome(
            count, draws, sigmas(model, settings)[0], None if far is None else far.limit,
            () if far is None else tuple(similarity.tolist()),
        )  # fmt: skip
        made = _made(model, settings, volume, outcome)
        if format == "nifti":
            _write_volume(folder, domain, name, images, rows, made, outcome)
        else:
            examples = _examples(images, rows, name, made, settings.seed, outcome, volume)
            about = {"domain": model.meta["domain"], "synthetic": True, "model": model.fingerprint, "settings": made}
            dataset.write(examples, folder, **about)
        run = report.Run(command=command, settings=made, seed=settings.seed, seconds=time.monotonic() - begun)
        _write_report(folder / "report.html", images, rows, outcome, far, run)
    return outcome


def asked(domain: ModuleType, words: Iterable[str]) -> dict[str, float]:
    """Labels from words such as "lesion=1". Errors: a name that is unknown or given twice, a value out of range."""
    labels: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name in labels:
            raise Error(f"A label is set once, as NAME=VALUE; found '{word}'. Known: {', '.join(domain.RANGES)}.")
        try:
            labels[name] = float(text)
        except ValueError:
            raise Error(f"The value of a label is a number; found '{word}'. Write, for example, {name}=1.") from None
    _check_labels(domain, labels)
    return labels


def sigmas(model: Model, settings: Sampling) -> list[float]:
    """The noise levels of a run, from the highest that the training reached."""
    spec, training = model.denoiser.spec, model.meta["parts"]["denoiser"].get("training")
    top = spec.sigma_max
    if training:
        top = min(top, math.exp(training["sigma_mean"] + HIGHEST * training["sigma_std"]))
    known = {"karras": schedule.karras, "exponential": schedule.exponential}
    if settings.schedule not in known:
        raise Error(f"A schedule is one of {', '.join(known)}; found '{settings.schedule}'.")
    return known[settings.schedule](settings.steps, top, max(spec.sigma_min, SIGMA_MIN))


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
    levels, spec = sigmas(model, settings), model.denoiser.spec
    images = []
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        wanted, null = (
            {k: model.asarray(v) for k, v in domain.condition(annotations).items()}
            for annotations in (rows[part], [Annotation()] * len(rows[part]))
        )
        denoise = guidance.classifier_free(model.denoiser, wanted, null, settings.guidance)
        denoise = guidance.watched(denoise, lambda *_: watch())
        noise: Draws = Seeded(settings.seed, indices[part], spec.shape, model.asarray)
        if coherence > 0:
            noise = _Shared(noise, Seeded(settings.seed, [COMMON], spec.shape, model.asarray), coherence)
        x = editing.generate(SAMPLERS[settings.sampler], denoise, levels, noise, spec.initial_scale(levels[0]))
        images.append(model.asnumpy(model.codec.decode(x)))
    return np.clip(np.concatenate(images), -1, 1).astype(np.float32)


def distance(model: Model, data: str | Path) -> Distance:
    """What the data set of a model's training says of how near is near. Errors: data the model was not trained on."""
    trained = set(model.meta["parts"]["denoiser"].get("run", {}).get("trained_on", ()))
    seen: list[np.ndarray] = []
    unseen: list[np.ndarray] = []
    for example in dataset.read(data):
        (seen if hashed(example.id) in trained else unseen).append(example.image)
    if not seen or len(seen) < len(trained) or not unseen:
        raise Error(
            f"--far-from needs the data set of the training with samples kept back; {data} has {len(seen)} of the "
            f"{len(trained)} samples trained on and {len(unseen)} others. Give the one that train was given."
        )
    references = np.stack(seen)
    between, _ = nearest_ncc(np.stack(unseen), references)
    return Distance(float(np.median(between)), references, len(unseen))


@dataclass(frozen=True)
class _Shared:
    """Noise of which a part of the variance is the same for all samples; standard normal, as its two sources are."""

    own: Draws
    common: Draws
    part: float

    def __call__(self, step: int, purpose: int = Purpose.SAMPLER, /) -> Array:
        return math.sqrt(1 - self.part) * self.own(step, purpose) + math.sqrt(self.part) * self.common(step, purpose)


def _check(
    domain: ModuleType,
    labels: Mapping[str, float],
    count: int,
    settings: Sampling,
    volume: bool,
    format: str,
    name: str,
) -> None:
    if format not in FORMATS:
        raise Error(f"A format is one of {', '.join(FORMATS)}; found '{format}'.")
    if volume and not hasattr(domain, "series"):
        raise Error(
            "Volumes are made of domains with slices, such as brain_mri. Leave --volume and --format nifti out."
        )
    if settings.sampler not in SAMPLERS:
        raise Error(f"A sampler is one of {', '.join(SAMPLERS)}; found '{settings.sampler}'.")
    if count < 1 or not math.isfinite(settings.guidance):
        raise Error(
            f"One image or more, with a finite guidance; found {count} and {settings.guidance}. Change -n or --guidance."
        )
    if name and not (name.isascii() and name.isalnum()):
        raise Error(f"A name is letters and digits alone; found '{name}'. Give another --name.")
    _check_labels(domain, labels)


def _check_labels(domain: ModuleType, labels: Mapping[str, float]) -> None:
    for name, value in labels.items():
        if name not in domain.RANGES:
            raise Error(f"A label of this model is one of {', '.join(domain.RANGES)}; found '{name}'.")
        low, high = domain.RANGES[name]
        whole = domain.FIELDS[name].dtype == "int64"
        if not low <= value <= high or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise Error(
                f"The label {name} is {kind} from {low:g} to {high:g}; found {value:g}. Give one in that range."
            )


def _filled(
    model: Model, domain: ModuleType, rows: Sequence[Annotation], settings: Sampling, coherence: float,
    far: Distance | None, watch: Callable[[str, int, int], None],
) -> tuple[np.ndarray, np.ndarray, int]:  # fmt: skip
    """An image for every place, its NCC with the nearest training image, and how many were drawn."""
    count = len(rows)
    images = np.zeros((count, *model.denoiser.spec.shape), np.float32)
    similarity = np.ones(count)
    places, draws = np.arange(count), 0
    for draw in range(MOST_DRAWS):
        step = _counted(watch, "sampling" if draw == 0 else f"draw {draw + 1}", len(places), settings)
        drawn = sample(
            model, domain, [rows[p] for p in places], settings, [draw * count + int(p) for p in places], coherence, step
        )
        draws += len(places)
        if far is None:
            return drawn, similarity, draws
        near, _ = nearest_ncc(drawn, far.references)
        kept = near < far.limit - MARGIN
        images[places[kept]], similarity[places[kept]] = drawn[kept], near[kept]
        places = places[~kept]
        if not len(places):
            return images, similarity, draws
    raise Error(
        f"Every image must be farther from the training images than the median held-out one (NCC < {far.limit:.3f}); "
        f"{len(places)} of {count} found none in {MOST_DRAWS} draws. Take another --seed, or fewer -n."
    )


def _counted(
    watch: Callable[[str, int, int], None], label: str, images: int, settings: Sampling
) -> Callable[[], None]:  # fmt: skip
    of = -(-images // BATCH) * (2 * settings.steps - 1 if settings.sampler == "heun" else settings.steps)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        watch(label, done, of)

    return step


def _made(model: Model, settings: Sampling, volume: bool, outcome: Outcome) -> dict[str, Any]:
    """Every setting that was resolved."""
    made = dataclasses.asdict(settings) | {"count": outcome.count, "start_sigma": round(outcome.start_sigma, 4)}
    made |= {"backend": model.backend, "model": model.fingerprint[:16], "coherence": COHERENCE if volume else 0.0}
    if outcome.limit is not None:
        made |= {"ncc_limit": round(outcome.limit, 4), "draws": outcome.draws, "rejected": round(outcome.rejected, 4)}
    return made


def _examples(
    images: np.ndarray, rows: Sequence[Annotation], name: str, made: Mapping[str, Any], seed: int, outcome: Outcome,
    volume: bool,
) -> Iterable[Example]:  # fmt: skip
    for n, (image, row) in enumerate(zip(images, rows, strict=True)):
        own = {"nearest_ncc": round(outcome.similarity[n], 4)} if outcome.similarity else {}
        provenance = Provenance("synthetic", made["model"], "generate", seed, {**made, "sample": n, **own})
        ident = f"{name}-{n:04d}"
        yield Example(ident, image, row, name if volume else ident, provenance=provenance)


def _write_volume(
    folder: Path, domain: ModuleType, name: str, images: np.ndarray, rows: Sequence[Annotation], made: Mapping[str, Any],
    outcome: Outcome,
) -> None:  # fmt: skip
    path = folder / f"sub-{name}_{domain.CONTRAST}.nii.gz"
    scan = domain.scan(images, path)
    nifti.save(path, scan.array, scan, "intensity")
    distances = {} if outcome.limit is None else {
        "NearestTrainingNCC": [round(s, 4) for s in outcome.similarity], "HeldOutMedianNCC": round(outcome.limit, 4),
        "Draws": outcome.draws, "Rejected": round(outcome.rejected, 4),
    }  # fmt: skip
    nifti.sidecar(
        path,
        Description="Synthetic volume, NOT ACQUIRED: every slice was generated by the model from noise. No patient.",
        Synthetic=True,
        Notice=report.RESEARCH_USE,
        GeneratedBy={"Name": "diffgraft", "Version": __version__},
        Provenance=dataclasses.asdict(Provenance("synthetic", made["model"], "generate", made["seed"], made)),
        Units="arbitrary",
        SliceOrder="inferior to superior",
        Labels={k: [round(float(row.labels[k]), 4) for row in rows] for k in rows[0].labels},
        **distances,
    )


def _write_report(
    path: Path, images: np.ndarray, rows: Sequence[Annotation], outcome: Outcome, far: Distance | None, run: report.Run
) -> None:
    captions = [", ".join(f"{k} {v:g}" for k, v in row.labels.items()) or "no labels set" for row in rows]
    sections = [report.Section("Images", [report.Sheet(list(images), captions)])]
    if far is not None:
        found = {
            "Nearest training image, median of the samples": float(np.median(outcome.similarity)),
            "The same, highest": max(outcome.similarity),
            "Limit: median of the held-out images": far.limit,
            "Held-out images": far.held_out,
            "Training images": len(far.references),
            "Draws": outcome.draws,
            "Rejected": f"{outcome.rejected:.0%}",
        }
        note = "Largest normalised cross-correlation with a training image over mirror images and shifts up to 4 px."
        sections.append(report.Section("Distance from the training images", [report.Facts(found)], note))
    report.write(
        path,
        "Generated images",
        f"{outcome.count} synthetic images",
        sections,
        run,
        notice=report.RESEARCH_USE,
        next_step="Look at every image before it is used; synthetic images are training material, not findings.",
    )
