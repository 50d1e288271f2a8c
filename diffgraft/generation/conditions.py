"""What each image is to show: the labels, texts and data set of a request as one annotation an image."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from diffgraft.generation.job import GenerationJob
from toolkit.data import balance, dataset, labels
from toolkit.diffusion.model import TEXT, Model
from toolkit.example import Annotation, Error

__all__ = ["compose_prompts", "requested_annotations"]


def requested_annotations(job: GenerationJob) -> list[Annotation]:
    """What to sample, image by image: `count` for each of several texts or values.

    Errors: a volume with positions of its own, no label with named values, a data set with other labels.
    """
    request, prompt = job.request, job.prompt
    if job.prompts:
        texts = [Annotation(each.text, {**each.labels, **prompt.labels}) for each in job.prompts]
        rows = [each for each in texts for _ in range(request.count)]
    elif request.is_volume:
        rows = job.domain.slice_conditions(request.count, prompt.labels)
    elif request.each is not None:
        rows = [each for each in _every_value(job, request.each) for _ in range(request.count)]
    elif request.like is not None:
        rows = _rows_like(job, request.like)
    else:
        rows = [Annotation(labels=prompt.labels)] * request.count
    rows = [dataclasses.replace(row, text=prompt.text or row.text) for row in rows]
    return compose_prompts(job.model, job.domain, rows, job.settings.seed)


def compose_prompts(model: Model, domain: ModuleType, rows: Sequence[Annotation], seed: int) -> list[Annotation]:
    """Annotations with a text where the model has a text encoder: their own, or one that is composed of their labels."""
    if TEXT not in model.denoiser.spec.fields:
        return list(rows)
    return [
        row if row.text or not row.labels
        else dataclasses.replace(row, text=domain.caption(row, random.Random(f"{seed} {n}")))
        for n, row in enumerate(rows)
    ]  # fmt: skip


def _every_value(job: GenerationJob, name: str) -> list[Annotation]:
    """One annotation for each value of a label."""
    vocabulary, domain = job.vocabulary, job.domain
    values = vocabulary.get(name)
    if type(values) is not tuple or job.request.like is not None:
        classes = ", ".join(name for name, entry in vocabulary.items() if type(entry) is tuple)
        raise Error(f"--each takes a label with named values, {classes}, and goes without --like; found '{name}'.")
    rows = [{**job.prompt.labels, name: float(n)} for n in range(len(values))]
    return [
        Annotation(labels=domain.infer_labels(r, vocabulary) if hasattr(domain, "infer_labels") else r) for r in rows
    ]


def _rows_like(job: GenerationJob, data: Path) -> list[Annotation]:
    """Annotations drawn from a data set, texts worded anew: whole reports are what a model remembers images by."""
    ours, theirs = job.vocabulary, labels.vocabulary_of(dataset.read_info(data), job.domain)
    if {**theirs} != {**ours}:
        raise Error(
            f"--like takes a data set with the labels of the model, {labels.to_json(ours)}; {data} has "
            f"{labels.to_json(theirs)}. Prepare it with the classes the model was trained on."
        )
    seed, own = job.settings.seed, job.prompt.labels
    rows = balance.sample_like([e.annotation for e in dataset.read(data)], job.request.count, seed, job.request.balance)
    if hasattr(job.domain, "caption"):
        rows = [
            Annotation(job.domain.caption(row, random.Random(f"{seed} {n}")), row.labels) for n, row in enumerate(rows)
        ]
    return [Annotation(None if own else row.text, {**row.labels, **own}) for row in rows]
