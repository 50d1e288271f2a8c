"""Generated images against steps: the same requests and the same noise, whatever the sampler, judged by the model's own networks.

Requests are those of held-out samples, which the model never saw. Judges: KID of the feature network against the held-out
images; the class that it names, the cosine of prompt and image, or the detector on the boxes, whatever the model has; and
the distance to the converged sample of the same noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from diffgraft import models
from diffgraft.evaluation.data import stack_images
from diffgraft.evaluation.steps.judges import DISTANCE, KID, SHARP, judge, metrics
from diffgraft.evaluation.steps.result import Metric
from diffgraft.evaluation.steps.samples import STUDENT, Contenders, Measurements, Preview, Samples, Variant, evaluations
from diffgraft.evaluation.steps.scores import Resamples, kernel_distances
from diffgraft.generation.sampling import sample, sigma_schedule
from diffgraft.models.defaults import default_sampling
from diffgraft.models.features import extract_features
from diffgraft.models.trained_on import partition, split_by_training
from diffgraft.requests import StepsRequest
from toolkit.data import dataset, labels
from toolkit.diffusion.model import OBJECTS, Model
from toolkit.evaluation.similarity import sharpness
from toolkit.example import Annotation, Error, Example
from toolkit.methods.guided import BATCH
from toolkit.methods.mixing import mix_within_classes, mixup
from toolkit.settings import Sampling

__all__ = ["Images"]

COUNT = 96
FLOOR, HELD_OUT, TRIVIAL = "real, training part", "held-out real", "mixup of two of a class"
SHUFFLED, ANOTHER, CODED = "requests shuffled", "another sample", "held-out real, through the codec"


class Images:
    """The question that a generating model is asked, and its judges.

    Requests are those of as many held-out samples as images are asked for, taken again with other noise where there are
    fewer. rows: the requests; sources: the held-out samples that they are of.
    """

    unit = "image"

    def __init__(self, request: StepsRequest) -> None:
        root, self.count, self.seed = request.model, request.count or COUNT, request.seed
        self.models = Contenders(root, request.student or root, request.backend)
        meta = models.meta(root)
        self.domain, self.settings = models.domain(meta["domain"]), default_sampling(meta, student=False)
        self.vocabulary = labels.vocabulary_of(meta, self.domain)
        self.target = meta["parts"].get("features", {}).get("target", "")
        theirs = labels.vocabulary_of(dataset.read_info(request.data), self.domain)
        trained, held_out, self.split = split_by_training(request.data, root)
        self.training = [self._relabel(example, theirs) for _, example in trained]
        self.held_out = [self._relabel(example, theirs) for example in held_out]
        self.rows, self.sources, self.notes = self._requests(meta)
        if "features" not in meta["parts"]:
            raise Error(
                f"Images are judged by the model's feature network, which {root} lacks. Train one: "
                f"diffgraft train {meta['domain']} {request.data} {root} --part features"
            )

    def identity(self, student: bool = False) -> dict[str, Any]:
        """All that the images of the model, or of its student, depend on but sampler and steps."""
        rows = [[row.text, {k: repr(v) for k, v in row.labels.items()}, _plain_boxes(row)] for row in self.rows]
        return self.models.identity(student) | {
            "rows": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
            "guidance": self.settings.guidance, "schedule": self.settings.schedule, "seed": self.seed,
        }  # fmt: skip

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return metrics(self.models.open())

    @property
    def protocol(self) -> dict[str, Any]:
        """What makes the figures readable, as plain values."""
        model = self.models.open()
        return {
            "requests": f"of {len(self.sources)} held-out samples, {self.count} images; {self.split}",
            "held_out_images": len(self.held_out),
            "guidance": self.settings.guidance,
            "schedule": self.settings.schedule,
            "start_sigma": round(sigma_schedule(model, self.settings)[0], 4),
            "seed": self.seed,
            "backend": model.backend,
            "judges": "the model's own networks (their figures compare rows of this table, nothing else)",
        }

    evaluations = staticmethod(evaluations)

    def progress_steps(self, variant: Variant) -> int:
        """How often `draw` calls its watch."""
        return -(-self.count // BATCH) * evaluations(variant)

    def refusal(self, variant: Variant) -> str:
        """Why a variant cannot be drawn, "" where it can."""
        return ""

    def count_trained_on(self, trained: Set[str]) -> int:
        """How many of the held-out samples are among those of a training, by their hashes."""
        return len(partition(self.held_out, trained)[0])

    def draw(self, variant: Variant, watch: Callable[[], object]) -> Samples:
        """images (N, C, H, W) in [-1, 1], in half precision."""
        model, settings = self.models.open(variant), self._settings(variant)
        sample(
            model, self.domain, self.rows[:1], self._settings(Variant("euler", 1)), [0]
        )  # what is loaded at first use
        begun, cpu = time.monotonic(), time.process_time()
        images = sample(model, self.domain, self.rows, settings, range(self.count), watch=watch)
        seconds, spent = time.monotonic() - begun, time.process_time() - cpu
        return Samples({"images": images.astype(np.float16)}, seconds, spent)

    def measure(
        self, drawn: Mapping[Variant, Samples], reference: Variant, watch: Callable[[], object]
    ) -> Measurements:
        """Every figure of every variant, of all images and of the same resamples of them; and what they stand beside."""
        model, own = self.models.open(), Resamples(self.count, seed=self.seed)
        held_out = stack_images(self.held_out)
        real, of_real = extract_features(model, held_out)["features"], Resamples(len(held_out), seed=self.seed + 1)
        converged = _images(drawn[reference])
        values: dict[Variant, dict[str, np.ndarray]] = {}
        for variant, samples in drawn.items():
            images = _images(samples)
            found = self._judge(model, images, self.rows, own)
            features = found.pop("features")
            values[variant] = found | {
                KID.name: kernel_distances(real, features, of_real.times, own.times),
                SHARP.name: own.mean(sharpness(images)),
                DISTANCE.name: own.distance(images, converged),
            }
            watch()
        training = stack_images(self.training)
        of_training = Resamples(len(training), seed=self.seed + 2)
        kinds = np.array(self._kinds([example.annotation for example in self.training]))
        floors = {FLOOR: training, TRIVIAL: mix_within_classes(mixup, training, kinds, self.seed)}
        sources = [self.held_out[n] for n in self.sources]
        requests = [self._request(example, n) for n, example in enumerate(sources)]
        right = self._judge(model, stack_images(sources), requests, Resamples(len(sources), seed=self.seed))
        wrong = self._judge(model, converged, self._shuffled(), own)
        beside = {name: {HELD_OUT: right[name], SHUFFLED: wrong[name]} for name in right if name != "features"}
        beside[KID.name] = {
            name: kernel_distances(
                real, extract_features(model, images)["features"], of_real.times, of_training.times
            )
            for name, images in floors.items()
        }  # fmt: skip
        beside[DISTANCE.name] = {ANOTHER: own.distance(np.roll(converged, 1, 0), converged)}
        beside[SHARP.name] = {
            HELD_OUT: of_real.mean(sharpness(held_out)), CODED: of_real.mean(sharpness(_through_codec(model, held_out))),
        }  # fmt: skip
        return Measurements(values, beside)

    def preview(self, drawn: Mapping[Variant, Samples], count: int) -> Preview:
        """The first images, one a class in turn; there are no inputs, for images are made of noise."""
        kinds = self._kinds(self.rows)
        turns = [(kinds[:n].count(kind), n) for n, kind in enumerate(kinds)]
        shown = sorted(n for _, n in sorted(turns)[:count])
        rows = [self.rows[n] for n in shown]
        captions = [row.text or labels.describe(self.vocabulary, row.labels) for row in rows]
        return Preview(captions, [], {variant: list(_images(samples)[shown]) for variant, samples in drawn.items()})

    def _settings(self, variant: Variant) -> Sampling:
        if variant.sampler == STUDENT:
            own = default_sampling(models.meta(self.models.student), student=True)
            return dataclasses.replace(own, seed=self.seed)
        return dataclasses.replace(self.settings, sampler=variant.sampler, steps=variant.steps, seed=self.seed)

    def _relabel(self, example: Example, theirs: labels.Vocabulary) -> Example:
        """The sample with the labels of the model's vocabulary."""
        own = labels.translate(example.annotation.labels, theirs, self.vocabulary)
        return dataclasses.replace(example, annotation=dataclasses.replace(example.annotation, labels=own))

    def _requests(self, meta: Mapping[str, Any]) -> tuple[list[Annotation], list[int], list[str]]:
        """What is asked for, image by image; the held-out samples that it is of; what was left out."""
        usable, notes = list(range(len(self.held_out))), []
        fields = meta["spec"]["fields"]
        if OBJECTS in fields:
            most = fields[OBJECTS]["shape"][0] - 1
            boxes = [example.annotation.boxes for example in self.held_out]
            usable = [n for n, each in enumerate(boxes) if each is not None and 1 <= len(each.names) <= most]
            if left := len(boxes) - len(usable):
                notes.append(f"{left} held-out samples have no box, or more than the {most} that the model can be told")
        if not usable:
            raise Error(
                "Requests are those of held-out samples; none can be asked for. Give the data it was trained on."
            )
        order = np.random.default_rng(self.seed).permutation(usable).tolist()
        picked = [order[n % len(order)] for n in range(self.count)]
        return [self._request(self.held_out[k], n) for n, k in enumerate(picked)], picked[: len(order)], notes

    def _request(self, example: Example, number: int) -> Annotation:
        """A real sample as a request; a text is worded anew, as whole reports are what a model remembers images by."""
        row, text = example.annotation, None
        if hasattr(self.domain, "caption"):
            text = self.domain.caption(row, random.Random(f"{self.seed} {number}"))
        return Annotation(text, row.labels, row.boxes)

    def _shuffled(self) -> list[Annotation]:
        order = np.random.default_rng(self.seed).permutation(self.count)
        moved = np.empty(self.count, int)
        moved[order] = np.roll(order, 1)  # in a ring, so that none keeps its own
        return [self.rows[n] for n in moved]

    def _kinds(self, rows: Sequence[Annotation]) -> list[str]:
        """The class that each was asked to show, "" where it is not stated."""
        return [labels.spell(self.vocabulary, row.labels).get(self.target, "") for row in rows]

    def _judge(
        self, model: Model, images: np.ndarray, rows: Sequence[Annotation], own: Resamples
    ) -> dict[str, np.ndarray]:
        """The figures of alignment, and the features."""
        classes = self.vocabulary[self.target]
        assert isinstance(classes, tuple), "a feature network tells the values of a label that has names"
        return judge(model, images, rows, self._kinds(rows), classes, own)


def _through_codec(model: Model, images: np.ndarray) -> np.ndarray:
    """Images encoded and decoded: as sharp as the model could make them."""
    parts = [images[n : n + BATCH] for n in range(0, len(images), BATCH)]
    decoded = [model.asnumpy(model.codec.decode(model.codec.encode(model.asarray(part)))) for part in parts]
    return np.clip(np.concatenate(decoded), -1, 1)


def _plain_boxes(row: Annotation) -> Any:
    return None if row.boxes is None else [np.round(row.boxes.corners, 3).tolist(), list(row.boxes.names)]


def _images(samples: Samples) -> np.ndarray:
    return samples.arrays["images"].astype(np.float32)
