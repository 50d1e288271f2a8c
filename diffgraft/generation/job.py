"""A request to generate or to edit, resolved by its model, and what every such run does: make, write, measure, report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from diffgraft import models, reporting
from diffgraft.generation.output import default_format, write_images
from diffgraft.models.defaults import resolve_sampling
from diffgraft.models.prompt import resolve_prompt
from diffgraft.requests import EditRequest, GenerationRequest, record
from diffgraft.requests.base import overrides
from diffgraft.requests.verb import Call
from toolkit.data import dataset, labels
from toolkit.data.labels import Vocabulary
from toolkit.diffusion.model import OBJECTS, TEXT, Model
from toolkit.example import Annotation, Error, Example
from toolkit.settings import Sampling

__all__ = ["EditJob", "GenerationJob", "Job", "Made", "execute", "resolve"]

Request = TypeVar("Request", GenerationRequest, EditRequest)
R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[Request]):
    """format: of the output. prompt: labels and text that were asked for; prompts: each of several texts, as labels too."""

    request: Request
    model: Model
    domain: ModuleType
    settings: Sampling
    format: str
    prompt: Annotation
    prompts: Sequence[Annotation] = ()

    @property
    def record(self) -> Request:
        """The request as it is recorded: its texts without what may identify a person."""
        texts = {"prompts": tuple(each.text or "" for each in self.prompts)} if self.prompts else {}
        return dataclasses.replace(self.request, text=self.prompt.text, **texts)

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels of the model."""
        return labels.vocabulary_of(self.model.meta, self.domain)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of the domain's target."""
        names = self.vocabulary[self.domain.TARGET]
        assert isinstance(names, tuple), "a target is a class, not a number"
        return names

    @property
    def takes_boxes(self) -> bool:
        """Whether the model is told layouts of boxes."""
        return OBJECTS in self.model.denoiser.spec.fields


GenerationJob = Job[GenerationRequest]
EditJob = Job[EditRequest]


@dataclass(frozen=True)
class Made(Generic[R]):
    """Images that were made, in memory. settings: everything that was resolved; begun: `time.monotonic` of the start.

    finish(folder, report's run): writes the report, and what belongs beside the data set in the folder; the result.
    """

    examples: Sequence[Example]
    settings: Mapping[str, Any]
    begun: float
    finish: Callable[[Path, reporting.Run], R]


def execute(job: Job[Request], verb: str, make: Callable[[Call], Made[R]], call: Call) -> R:
    """Make images, and write them with their report and the record of the request to a folder that appears when all is done."""
    request, model = job.request, job.model
    with dataset.staged_folder(request.out, request.overwrite, ("report.html",), request.inputs) as folder:
        made = make(call)
        if made.examples:
            seconds = time.monotonic() - made.begun
            write_images(model, job.domain, made.examples, folder, job.format, made.settings, seconds)
        report = reporting.Run(call.command, made.settings, job.settings.seed, time.monotonic() - made.begun)
        result = made.finish(folder, report)
        record.save(folder, verb, job.record, model.fingerprint)
    return result


def resolve(
    model: Model, request: Request, purpose: str = "sampling", student: bool | None = None, complete: bool = True
) -> Job[Request]:
    """Resolve a request for an open model. purpose, student: see `default_sampling`; complete: see `resolve_prompt`.

    Errors: a label that the model does not have, a text for a model without a text encoder, a student that is not there.
    """
    domain = models.domain(model.meta["domain"])
    prompts = request.prompts if isinstance(request, GenerationRequest) else ()
    if (prompts or request.text is not None) and TEXT not in model.denoiser.spec.fields:
        raise Error(
            f"A text is for a model with a text encoder; {request.model} has none. Set labels: --set NAME=VALUE"
        )
    changes = overrides(request, "seed", "steps", "guidance", "sampler")
    settings = resolve_sampling(model.meta, request.settings, changes, purpose, student)
    prompt = resolve_prompt(model, domain, request.labels, request.text, complete)
    texts = [resolve_prompt(model, domain, {}, text) for text in prompts]
    return Job(request, model, domain, settings, request.format or default_format(domain), prompt, texts)
