"""Generated images against steps: the same requests and the same noise, whatever the solver, judged by the model's own networks.

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models
from diffgraft.evaluation.steps import judges as steps_judges
from diffgraft.evaluation.steps.draws import STUDENT, Drawn, Way, evaluations, weights
from diffgraft.evaluation.steps.judges import DISTANCE, KID, SHARP, sharpness
from diffgraft.evaluation.steps.scores import Measured, Metric, Resamples, kernel_distances
from diffgraft.generation.copies import parted
from diffgraft.generation.sampling import sample, sigmas
from diffgraft.models.defaults import default
from diffgraft.models.features import described
from toolkit.data import dataset, labels
from toolkit.diffusion.model import OBJECTS, Model
from toolkit.example import Annotation, Error, Example
from toolkit.methods.guided import BATCH
from toolkit.methods.mixing import mixup
from toolkit.models.folder import hashed
from toolkit.settings import Sampling

__all__ = ["Images"]

FLOOR, HELD_OUT, TRIVIAL = "real, training part", "held-out real", "mixup of two of a class"
SHUFFLED, ANOTHER, CODED = "requests shuffled", "another sample", "held-out real, through the codec"


class Images:
    """The question that a generating model is asked, and its judges.

    count: of images; requests are those of as many held-out samples, taken again with other noise where there are fewer.
    student: folder of another model of the same kind, whose student is measured; the model's own where None.
    """

    unit = "image"

    def __init__(self, data: Path, root: Path, count: int, backend: str, seed: int, student: Path | None) -> None:
        self.root, self.count, self.backend, self.seed = root, count, backend, seed
        meta = models.meta(root)
        self.domain, self.settings = models.domain(meta["domain"]), default(meta, student=False)
        self.vocabulary = labels.of(meta, self.domain)
        theirs = labels.of(dataset.info(data), self.domain)
        seen, unseen, self.split = parted(data, root)
        self.training = [self._known(example, theirs) for _, example in seen]
        self.held_out = [self._known(example, theirs) for example in unseen]
        self.rows, self.sources, self.notes = self._requests(meta)
        self.student = root if student is None else student
        self._opened: dict[Path, Model] = {}
        self.target = meta["parts"].get("features", {}).get("target", "")
        if "features" not in meta["parts"]:
            raise Error(
                f"Images are judged by the model's feature network, which {root} lacks. Train one: "
                f"diffgraft train {meta['domain']} {data} {root} --part features"
            )

    # what is drawn

    @property
    def identity(self) -> dict[str, Any]:
        """All that the images of the teacher depend on but solver and steps."""
        return self._identity(weights(self.root))

    @property
    def student_identity(self) -> dict[str, Any]:
        """The same of the student's."""
        return self._identity(weights(self.student, student=True))

    def cost(self, way: Way) -> int:
        """How often `draw` calls its watch."""
        return -(-self.count // BATCH) * evaluations(way)

    def draw(self, way: Way, watch: Callable[[], object]) -> Drawn:
        """images (N, C, H, W) in [-1, 1], in half precision."""
        model = self._model(self.student if way.sampler == STUDENT else self.root)
        settings = self._settings(way)
        sample(model, self.domain, self.rows[:1], self._settings(Way("euler", 1)), [0])  # what is loaded at first use
        begun, cpu = time.monotonic(), time.process_time()
        images = sample(model, self.domain, self.rows, settings, range(self.count), watch=watch)
        seconds, spent = time.monotonic() - begun, time.process_time() - cpu
        return Drawn({"images": images.astype(np.float16)}, seconds, spent)

    def walk(self, way: Way) -> int:
        """Evaluations of the denoiser for one image."""
        return evaluations(way)

    def check(self, way: Way) -> str:
        """Why a way cannot be gone, "" where it can."""
        return ""

    def met(self, seen: set[str]) -> int:
        """How many of the held-out samples are among these hashes of what a training saw."""
        return sum(hashed(example.id) in seen for example in self.held_out)

    # what is measured

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return steps_judges.metrics(self._model(self.root))

    def measure(self, drawn: Mapping[Way, Drawn], reference: Way, watch: Callable[[], object]) -> Measured:
        """Every figure of every way, of all images and of the same resamples of them; and what they stand beside."""
        model, own = self._model(self.root), Resamples(self.count, seed=self.seed)
        real = described(model, _stacked(self.held_out))["features"]
        of_real = Resamples(len(real), seed=self.seed + 1)
        names = {metric.name for metric in self.metrics}
        converged = _images(drawn[reference])
        values: dict[Way, dict[str, np.ndarray]] = {}
        beside: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
        for way, one in drawn.items():
            images = _images(one)
            found = self._judged(model, images, self.rows, own, names)
            features = found.pop("features")
            values[way] = found | {
                KID.name: kernel_distances(real, features, of_real.times, own.times),
                SHARP.name: own.mean(sharpness(images)),
                DISTANCE.name: own.distance(images, converged),
            }
            watch()
        training = described(model, _stacked(self.training))["features"]
        of_training = Resamples(len(training), seed=self.seed + 2)
        beside[KID.name] = {
            FLOOR: kernel_distances(real, training, of_real.times, of_training.times),
            TRIVIAL: kernel_distances(
                real, described(model, self._mixed())["features"], of_real.times, of_training.times
            ),
        }
        beside[DISTANCE.name] = {ANOTHER: own.distance(np.roll(converged, 1, 0), converged)}
        beside[SHARP.name] = {
            HELD_OUT: of_real.mean(sharpness(_stacked(self.held_out))),
            CODED: of_real.mean(sharpness(self._coded(model))),
        }
        sources = Resamples(len(self.sources), seed=self.seed)
        asked = [self._asked(self.held_out[n], i) for i, n in enumerate(self.sources)]
        told = self._judged(model, _stacked([self.held_out[n] for n in self.sources]), asked, sources, names)
        wrong = self._judged(model, converged, self._shuffled(), own, names)
        for name in names - {KID.name, SHARP.name, DISTANCE.name}:
            beside[name] = {HELD_OUT: told[name], SHUFFLED: wrong[name]}
        return Measured(values, beside)

    def strip(self, drawn: Drawn, count: int) -> list[np.ndarray]:
        """The first images of a way, of requests that differ where there are such."""
        return list(_images(drawn)[self.shown(count)])

    def captions(self, count: int) -> list[str]:
        """What the images of `strip` were asked to show."""
        told = [labels.told(self.vocabulary, self.rows[n].labels) for n in self.shown(count)]
        return [self.rows[n].text or told[i] for i, n in enumerate(self.shown(count))]

    def inputs(self, count: int) -> list[np.ndarray]:
        """Images are made of noise."""
        return []

    def shown(self, count: int) -> list[int]:
        """The rows that a strip shows: one a class in turn."""
        kinds = self._kinds(self.rows)
        turns = [(sum(other == kind for other in kinds[:n]), n) for n, kind in enumerate(kinds)]
        return sorted(n for _, n in sorted(turns)[:count])

    @property
    def protocol(self) -> dict[str, Any]:
        """What makes the figures readable, as plain values."""
        model = self._model(self.root)
        settings = dataclasses.asdict(self.settings)
        return {
            "requests": f"of {len(self.sources)} held-out samples, {self.count} images; {self.split}",
            "held_out_images": len(self.held_out),
            "guidance": settings["guidance"],
            "schedule": settings["schedule"],
            "start_sigma": round(sigmas(model, self.settings)[0], 4),
            "seed": self.seed,
            "backend": model.backend,
            "judges": "the model's own networks (their figures compare rows of this table, nothing else)",
        }

    # how it is done

    def _identity(self, of: str) -> dict[str, Any]:
        rows = [[row.text, {k: repr(v) for k, v in row.labels.items()}, _plain(row)] for row in self.rows]
        return {
            "weights": of,
            "rows": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
            "guidance": self.settings.guidance, "schedule": self.settings.schedule, "seed": self.seed,
            "backend": self._model(self.root).backend,
        }  # fmt: skip

    def _model(self, root: Path) -> Model:
        if root not in self._opened:
            self._opened[root] = models.open(root, self.backend)
        return self._opened[root]

    def _settings(self, way: Way) -> Sampling:
        if way.sampler == STUDENT:
            return dataclasses.replace(default(models.meta(self.student), student=True), seed=self.seed)
        return dataclasses.replace(self.settings, sampler=way.sampler, steps=way.steps, seed=self.seed)

    def _known(self, example: Example, theirs: labels.Vocabulary) -> Example:
        """The sample with the labels of the model's vocabulary."""
        own = labels.translated(example.annotation.labels, theirs, self.vocabulary)
        return dataclasses.replace(example, annotation=dataclasses.replace(example.annotation, labels=own))

    def _requests(self, meta: Mapping[str, Any]) -> tuple[list[Annotation], list[int], list[str]]:
        """What is asked for, image by image; the held-out samples that it is of; what was left out."""
        usable, notes = list(range(len(self.held_out))), []
        fields = meta["spec"]["fields"]
        if OBJECTS in fields:
            most = fields[OBJECTS]["shape"][0] - 1
            boxes = [example.annotation.boxes for example in self.held_out]
            usable = [n for n in usable if boxes[n] is not None and 1 <= len(boxes[n].names) <= most]  # type: ignore[union-attr]
            if left := len(boxes) - len(usable):
                notes.append(f"{left} held-out samples have no box, or more than the {most} that the model can be told")
        if not usable:
            raise Error(
                "Requests are those of held-out samples; none can be asked for. Give the data it was trained on."
            )
        order = np.random.default_rng(self.seed).permutation(usable).tolist()
        picked = [order[n % len(order)] for n in range(self.count)]
        rows = [self._asked(self.held_out[k], n) for n, k in enumerate(picked)]
        return rows, picked[: len(order)], notes

    def _asked(self, example: Example, number: int) -> Annotation:
        """A real sample as a request; a text is worded anew, as whole reports are what a model remembers images by."""
        row = example.annotation
        words = None
        if hasattr(self.domain, "caption"):
            words = self.domain.caption(row, random.Random(f"{self.seed} {number}"))
        return Annotation(words, row.labels, row.boxes)

    def _shuffled(self) -> list[Annotation]:
        order = np.random.default_rng(self.seed).permutation(self.count)
        moved = np.empty(self.count, int)
        moved[order] = np.roll(order, 1)  # in a ring, so that none keeps its own
        return [self.rows[n] for n in moved]

    def _kinds(self, rows: Sequence[Annotation]) -> list[str]:
        """The class that each was asked to show, "" where it is not stated."""
        return [labels.spell(self.vocabulary, row.labels).get(self.target, "") for row in rows]

    def _mixed(self) -> np.ndarray:
        """Two training images of a class, mixed: what costs nothing."""
        images, kinds = _stacked(self.training), np.array(self._kinds([e.annotation for e in self.training]))
        chance, mixed = np.random.default_rng(self.seed), np.empty_like(images)
        for kind in np.unique(kinds):
            here = np.flatnonzero(kinds == kind)
            mixed[here] = mixup(images[here], np.ones((len(here), 1), np.float32), chance, alpha=1.0)[0]
        return mixed

    def _coded(self, model: Model) -> np.ndarray:
        """The held-out images encoded and decoded: as sharp as this model could make them."""
        images = _stacked(self.held_out)
        parts = [images[n : n + BATCH] for n in range(0, len(images), BATCH)]
        made = [model.asnumpy(model.codec.decode(model.codec.encode(model.asarray(part)))) for part in parts]
        return np.clip(np.concatenate(made), -1, 1)

    def _judged(
        self, model: Model, images: np.ndarray, rows: Sequence[Annotation], own: Resamples, names: set[str]
    ) -> dict[str, np.ndarray]:
        """The figures of alignment that are asked for, and the features."""
        classes: Sequence[str] = self.vocabulary[self.target]  # type: ignore[assignment]
        return steps_judges.judged(model, images, rows, self._kinds(rows), classes, own, names)


def _plain(row: Annotation) -> Any:
    return None if row.boxes is None else [np.round(row.boxes.corners, 3).tolist(), list(row.boxes.names)]


def _images(drawn: Drawn) -> np.ndarray:
    return drawn.arrays["images"].astype(np.float32)


def _stacked(examples: Sequence[Example]) -> np.ndarray:
    return np.stack([example.image for example in examples]).astype(np.float32)
