"""How far synthetic images are from real ones, beside what real and trivially made images reach.

Every row is measured against the same held-out real images, with the same number of images and, where all have them,
the same share of every class: each of these figures moves with both. The floor is the real training part; no model can
be expected below it, and copies of it are there as well, so the audit stands beside.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models, reporting
from diffgraft.evaluation import subgroups
from diffgraft.evaluation.data import findings
from diffgraft.evaluation.distribution import report
from diffgraft.evaluation.distribution.result import FLOOR, SYNTHETIC, DistributionEvaluation, ImageSet, Row
from diffgraft.evaluation.subgroups import Distance
from diffgraft.generation.copies import stack_images
from diffgraft.models.features import load_backbone
from diffgraft.models.trained_on import split_by_training
from diffgraft.requests import record
from diffgraft.requests.evaluation import DistributionRequest
from diffgraft.requests.verb import Call, verb
from toolkit.data import dataset, labels
from toolkit.evaluation.distribution import frechet_distance, kernel_distance, precision_recall
from toolkit.example import Annotation, Error, Example
from toolkit.methods.mixing import cutmix, mix_within_classes, mixup
from toolkit.models.folder import fingerprint

__all__ = ["evaluate_distribution"]

MIXUP, CUTMIX = "mixup of two of a class", "CutMix of two of a class"
ALL = "all"
K = 5
"""Neighbours that a ball of precision and recall reaches to."""

FEWEST = K + 1


@verb(DistributionRequest)
def evaluate_distribution(request: DistributionRequest, call: Call) -> DistributionEvaluation:
    """Compare a synthetic data set with a real one, and each data set of `beside` with it as well.

    The split "held-out" compares with what the model was not trained on; "all" with every real image, and then there is
    no floor. Errors: samples that both data sets share, too few images.
    """
    begun, real = time.monotonic(), request.real
    synthetic = {SYNTHETIC: request.synthetic, **request.beside}
    network = load_backbone(request.model, request.features, request.cache)
    paths = (real, request.model, request.features, *synthetic.values())
    with reporting.staged_output(request.out, request.overwrite, [each for each in paths if each]) as folder:
        facts = dataset.read_info(real)
        label = network.target or (models.domain(facts["domain"]).TARGET if "domain" in facts else "")
        training, held_out, rule = _split(request)
        sets = {name: list(dataset.read(path)) for name, path in synthetic.items()}
        for name, path in synthetic.items():
            _refuse_shared(sets[name], [*training, *held_out], path, real)

        def measure(text: str, images: np.ndarray, classes: np.ndarray) -> ImageSet:
            features, named = network.predict(images, lambda done: call.watch(text, done, len(images)))
            return ImageSet(images, classes, features, named)

        def measure_all(text: str, examples: Sequence[Example], root: Path) -> ImageSet:
            return measure(text, stack_images(examples), _class_names(examples, root, label))

        measured = {name: measure_all(name, examples, synthetic[name]) for name, examples in sets.items()}
        reference = measure_all("held-out", held_out, real)
        if training:
            floor = measured[FLOOR] = measure_all("training part", training, real)
            for name, mix in {MIXUP: mixup, CUTMIX: cutmix}.items():
                mixed = mix_within_classes(mix, floor.images, floor.class_names, request.seed)
                measured[name] = measure(name, mixed, floor.class_names)
        chosen, matching = _match(measured, reference.class_names, request.seed)
        rows = [_row(name, measured[name].take(chosen[name]), reference, network.classes) for name in measured]
        protocol = {
            "feature_network": network.name,
            "backbone": network.fingerprint[:16],
            "dimensions": reference.features.shape[1],
            "image_shape": list(reference.images.shape[1:]),
            "resize_filter": "none here; images as the data set has them",
            "prepared_with": facts.get("options", {}),
            "file_format": {"real": _format(real), "fake": _format(request.synthetic)},
            "split": rule,
            "held_out_images": len(held_out),
            "images_a_row": rows[0].images,
            "images_there": {name: len(each.images) for name, each in measured.items()},
            "matching": matching,
            "neighbours": K,
            "mixing": "lam ~ Beta(1, 1), pairs of one class",
            "seed": request.seed,
        }
        sides = [
            (sets[SYNTHETIC], request.synthetic, measured[SYNTHETIC]),
            (held_out, real, reference),
            *([(training, real, measured[FLOOR])] if training else []),
        ]
        named, parts = _accuracy(reference, network.classes), _distances(facts, sides)
        result = DistributionEvaluation(rows, named, parts, protocol, _warnings(rows, reference))
        if folder is not None:
            reporting.write_metrics(folder, result.numbers)
            model = "" if request.model is None else fingerprint(request.model)
            record.save(folder, "evaluate distribution", request, model)
            run = reporting.Run(call.command, protocol, request.seed, time.monotonic() - begun)
            report.write(folder / "report.html", result, measured, reference, run)
    return result


def _split(request: DistributionRequest) -> tuple[list[Example], list[Example], str]:
    """Training images, held-out images, and how they were told apart."""
    lines, held_out, rule = split_by_training(request.real, request.model)
    training = [example for _, example in lines]
    if request.split == "held-out":
        return training, held_out, rule
    return [], [*training, *held_out], "every real image: none is held out, there is no floor"


def _refuse_shared(fake: Sequence[Example], real: Sequence[Example], fake_root: Path, real_root: Path) -> None:
    """The same image in both would be measured against itself; under whatever name, and under one name whatever it is."""
    known = {_content(example) for example in real} | {example.id for example in real}
    shared = [e.id for e in fake if _content(e) in known or (e.provenance is None and e.id in known)]
    if shared:
        raise Error(
            f"Synthetic and real samples are compared apart; {len(shared)} of {fake_root} are in {real_root} as well, "
            f"such as '{shared[0]}'. Leave them out; diffgraft audit finds near copies, too."
        )


def _content(example: Example) -> str:
    """Of the image in the 8 bits of a file: the same before and after it was written."""
    levels = np.rint((np.clip(example.image, -1, 1) + 1) * 127.5).astype(np.uint8)
    return hashlib.sha256(repr(levels.shape).encode() + levels.tobytes()).hexdigest()


def _class_names(examples: Sequence[Example], root: Path, label: str) -> np.ndarray:
    """The name of each sample's class: data sets may number their classes differently."""
    facts = dataset.read_info(root)
    if not label or "domain" not in facts:
        return np.full(len(examples), ALL)
    vocabulary = labels.vocabulary_of(facts, models.domain(facts["domain"]))
    spelled = [labels.spell(vocabulary, e.annotation.labels).get(label, "") for e in examples]
    return np.array(spelled) if any(spelled) else np.full(len(examples), ALL)


def _match(sets: Mapping[str, ImageSet], kinds: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], str]:
    """Which images of each set are measured: as many of each, in the class shares of the held-out images if possible."""
    random = np.random.default_rng(seed)
    least = min(len(each.images) for each in sets.values())
    if least < FEWEST or len(kinds) < FEWEST:
        raise Error(
            f"Distributions are compared with {FEWEST} or more images each; found {least} and {len(kinds)} held out. "
            "Generate more."
        )
    names, counts = np.unique(kinds, return_counts=True)
    share = counts / counts.sum()
    times = min((each.class_names == n).sum() / s for each in sets.values() for n, s in zip(names, share, strict=True))
    wanted = np.floor(times * share + 1e-9).astype(int)

    def pick(each: ImageSet) -> np.ndarray:
        parts = zip(names, wanted, strict=True)
        return np.concatenate([random.permutation(np.flatnonzero(each.class_names == n))[:count] for n, count in parts])

    if wanted.sum() >= max(FEWEST, 0.3 * least):
        chosen = {name: pick(each) for name, each in sets.items()}
        return chosen, "as many images of every class, in the shares of the held-out ones"
    chosen = {name: random.permutation(len(each.images))[:least] for name, each in sets.items()}
    return chosen, "as many images, classes as they come: the shares of the held-out ones could not be met"


def _row(name: str, part: ImageSet, held_out: ImageSet, names: Sequence[str]) -> Row:
    kernel = kernel_distance(held_out.features, part.features)
    manifold = precision_recall(held_out.features, part.features, K)
    classes = {}
    for kind in np.unique(held_out.class_names):
        real, fake = (each.features[each.class_names == kind] for each in (held_out, part))
        if kind != ALL and kind and min(len(real), len(fake)) >= 3:
            classes[str(kind)] = tuple(kernel_distance(real, fake))
    return Row(
        name, len(part.images), frechet_distance(held_out.features, part.features), kernel.value, kernel.error,
        *manifold, classes=classes, named=_accuracy(part, names),
    )  # fmt: skip


def _accuracy(part: ImageSet, names: Sequence[str]) -> float | None:
    """Balanced accuracy of the feature network on the classes that were asked for."""
    index = {name: k for k, name in enumerate(names)}
    rates = [
        float((part.log_probability[part.class_names == kind].argmax(1) == index[kind]).mean())
        for kind in np.unique(part.class_names)
        if kind in index
    ]
    return sum(rates) / len(rates) if rates else None


def _distances(facts: Mapping[str, Any], sides: Sequence[tuple[Sequence[Example], Path, ImageSet]]) -> list[Distance]:
    """Of films with findings, the distance of every part: all films that there are, not as many of each.

    sides: synthetic, held-out and, if there are such, training samples, each with its data set and what was measured.
    """
    domain = models.domain(facts["domain"]) if "domain" in facts else None
    known = {} if domain is None else labels.vocabulary_of(facts, domain)
    if domain is None or not findings(known):
        return []
    found = []
    for examples, root, measured in sides:
        theirs = labels.vocabulary_of(dataset.read_info(root), domain)
        same = [
            dataclasses.replace(e, annotation=Annotation(labels=labels.translate(e.annotation.labels, theirs, known)))
            for e in examples
        ]
        found.append((measured.features, subgroups.parts(same, known, domain.LABELS)))
    return subgroups.distances(*found)


def _warnings(rows: Sequence[Row], held_out: ImageSet) -> list[str]:
    found = []
    if any(row.fid is None for row in rows):
        found.append(
            f"no FID: it needs more than {held_out.features.shape[1]} images, the dimensions of the features, on both sides"
        )
    if rows[0].images < 100 or len(held_out.images) < 100:
        found.append(
            "below 100 images precision, recall, density and coverage are rough; compare within this table only"
        )
    return found


def _format(root: Path) -> str:
    """How the files of a data set are stored, which a distance between two data sets may see."""
    with (root / "manifest.jsonl").open(encoding="utf-8") as manifest:
        return Path(json.loads(next(manifest))["file"]).suffix.lstrip(".")
