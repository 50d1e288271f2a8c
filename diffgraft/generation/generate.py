"""New images of a model, as a data set folder, as class folders or as one synthetic volume, with provenance and a report.

How an image depends on its seed is in `sampling`. The slices of a volume also share a part of their noise, so that they
are slices of one head.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models, reporting
from diffgraft.generation import report
from diffgraft.generation.conditions import requested_annotations
from diffgraft.generation.gates import requested_gates
from diffgraft.generation.job import GenerationJob, Made, execute, resolve
from diffgraft.generation.layouts.generate import draw_for_layouts
from diffgraft.generation.output import check_format, resolved_settings, sample_id, write_volume
from diffgraft.generation.result import GenerationResult
from diffgraft.generation.sampling import COHERENCE, Samples, rejection_sample, sigma_schedule
from diffgraft.requests import GenerationRequest
from diffgraft.requests.verb import Call, verb
from toolkit.data import labels
from toolkit.diffusion.model import Model
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.example import Annotation, Error, Example, Provenance

__all__ = ["generate", "generate_with"]


@verb(GenerationRequest)
def generate(request: GenerationRequest, call: Call) -> GenerationResult:
    """Sample images with the labels, texts or layouts of a request and write them to a new folder, with a report.

    Errors: labels the domain does not know, a model without these data, a place that no draw fills.
    """
    return generate_with(models.open(request.model, request.backend), request, call)


def generate_with(model: Model, request: GenerationRequest, call: Call) -> GenerationResult:
    """The same with a model that is open."""
    job = resolve(model, request, student=request.student)
    _check(job)
    if job.takes_boxes:
        return execute(job, "generate", functools.partial(draw_for_layouts, job), call)
    rows = requested_annotations(job)
    return execute(job, "generate", functools.partial(_draw, job, rows), call)


def _check(job: GenerationJob) -> None:
    """Errors: a format or a sampler that there is not, options that are for another kind of model."""
    request, domain = job.request, job.domain
    check_format(domain, job.format)
    if request.is_volume and not hasattr(domain, "slice_conditions"):
        raise Error(
            "Volumes are made of domains with slices, such as brain_mri. Leave --volume and --format nifti out."
        )
    if job.settings.sampler not in SAMPLERS:
        raise Error(f"A sampler is one of {', '.join(SAMPLERS)}; found '{job.settings.sampler}'.")
    others = (request.balance, request.each, request.faithful_to, request.fits_text)
    if job.takes_boxes and any(option is not None for option in others):
        raise Error(
            "Images for layouts go with --set, --like, --far-from and --reject-copies; leave --balance, --each, "
            "--faithful-to and --fits-text out. Their own filter looks for the boxes."
        )
    if not job.takes_boxes and request.layouts is not None:
        raise Error(f"Layouts are for a model that is told boxes; {request.model} is not. Leave those options out.")


def _draw(job: GenerationJob, rows: Sequence[Annotation], call: Call) -> Made[GenerationResult]:
    """An image for each annotation."""
    request, model, domain = job.request, job.model, job.domain
    gates, distance = requested_gates(model, domain, request)
    begun, start = time.monotonic(), sigma_schedule(model, job.settings)[0]
    call.tell(f"{job.settings}; start sigma {start:.3g}")
    coherence = COHERENCE if request.is_volume else 0.0
    samples = rejection_sample(model, domain, rows, job.settings, coherence, gates, call.watch)
    near = samples.similarity
    result = GenerationResult(
        len(rows), job.format, job.settings, start, samples.draws, None if distance is None else distance.limit,
        () if np.isnan(near).any() else tuple(near.tolist()), samples.rejections,
    )  # fmt: skip
    settings = resolved_settings(model, result, coherence)

    def finish(folder: Path, run: reporting.Run) -> GenerationResult:
        if job.format == "nifti":
            path = folder / f"sub-{request.prefix(job.settings.seed)}_{domain.CONTRAST}.nii.gz"
            write_volume(path, domain, samples.images, rows, settings, result)
        captions = [row.text or labels.describe(job.vocabulary, row.labels) for row in rows]
        columns = request.count if request.prompts or request.each is not None else 8
        sheet = reporting.Sheet(list(samples.images), captions, columns)
        compared = None if distance is None else (len(distance.references), distance.held_out)
        report.write(folder / "report.html", sheet, result, compared, run, domain.NOTICE)
        return result

    examples = [] if job.format == "nifti" else _examples(job, samples, rows, settings, result.similarity)
    return Made([*examples], settings, begun, finish)


def _examples(
    job: GenerationJob, samples: Samples, rows: Sequence[Annotation], settings: Mapping[str, Any], near: Sequence[float]
) -> Iterator[Example]:
    """near: NCC with the nearest training image, or nothing."""
    seed = job.settings.seed
    prefix = job.request.prefix(seed)
    for n, (image, row) in enumerate(zip(samples.images, rows, strict=True)):
        own = {"nearest_ncc": round(near[n], 4)} if near else {}
        provenance = Provenance("synthetic", settings["model"], "generate", seed, {**settings, "sample": n, **own})
        name = sample_id(prefix, n)
        yield Example(name, image, row, prefix if job.request.is_volume else name, provenance=provenance)
