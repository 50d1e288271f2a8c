"""New images of a model, as a data set folder, as class folders or as one synthetic volume, with provenance and a report.

How an image depends on its seed is in `sampling`. The slices of a volume also share a part of their noise, so that they
are slices of one head.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft import __version__, models, reporting
from diffgraft.generation import gates
from diffgraft.generation.layouts import generate as layout_generation
from diffgraft.generation.layouts.generate import Layouts
from diffgraft.generation.result import BOXED, COHERENCE, FILMS, FORMATS, Outcome, format_of, put, resolved
from diffgraft.generation.sampling import filled, sigmas
from diffgraft.models.defaults import default
from toolkit.data import dataset
from toolkit.data.balance import like as drawn_like
from toolkit.data.labels import Vocabulary, parse, to_json, told
from toolkit.data.labels import of as vocabulary_of
from toolkit.diffusion.model import OBJECTS, TEXT, Model
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.formats import nifti
from toolkit.models.folder import spec_of
from toolkit.settings import Sampling

__all__ = ["asked", "default", "generate", "in_words", "worded"]


def generate(
    model_path: str | Path,
    out: str | Path,
    labels: Mapping[str, float] | None = None,
    count: int = 16,
    settings: Sampling | None = None,
    *,
    text: str | None = None,
    prompts: Sequence[str] = (),
    like: str | Path | None = None,
    balance: str | None = None,
    each: str | None = None,
    volume: bool = False,
    format: str | None = None,
    name: str = "",
    far_from: str | Path | None = None,
    reject_copies: str | Path | None = None,
    faithful_to: str | Path | None = None,
    fits_text: str | Path | None = None,
    layouts: Layouts | None = None,
    backend: str = "auto",
    overwrite: bool = False,
    command: str = "",
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> Outcome:
    """Sample `count` images with the given labels (unset: null) and write them to a new folder, with a report.

    text: what to show in words, for a model with a text encoder; without it the words are composed of the labels.
    prompts: several texts, of which each is given `count` images.
    settings: the model's own default where None. like: a data set from which each image's labels are drawn, so that
    with `balance`, a label, that data set and the new one together have its values evenly; `labels` then override.
    each: a label of which every value is given `count` images.
    volume: the images are slices of one head from its low to its high end, with a lesion in the middle part (none
    with lesion = 0). format: "images", a data set folder; "folders", one with a folder for each class and labels.csv;
    "nifti", one volume sub-<name>_<contrast>.nii.gz with its sidecar; "dicom" and "dx", a data set folder that has every
    image as dicom/<id>.dcm too, Secondary Capture or DX; "coco", "voc" and "yolo", one that has its boxes in that format
    too; None is the domain's own. far_from: the data set
    of the training; see gates.Distance. reject_copies: the same, but only what the audit calls a copy is drawn again.
    faithful_to: the same, what the feature network does not take for its class, or for real, is drawn again. fits_text:
    the same, what fits its prompt less than most real images fit theirs is drawn again. layouts: how images are made by a
    model that is told boxes, which are then arranged like those of `like`; `labels` name a class that each shall hold.
    watch(label, done, of) is called once an evaluation.
    Errors: labels the domain does not know, a model without these data, a place that no draw fills.
    """
    model = models.open(model_path, backend)
    domain = models.domain(model.meta["domain"])
    vocabulary = vocabulary_of(model.meta, domain)
    settings = settings or default(model.meta)
    format = format or format_of(domain)
    volume, labels = volume or format == "nifti", labels or {}
    _check(domain, vocabulary, labels, count, settings, volume, format, name)
    if (text is not None or prompts) and TEXT not in model.denoiser.spec.fields:
        raise Error(f"A text is for a model with a text encoder; {model_path} has none. Set labels: --set NAME=VALUE")
    name = name or f"synthetic{settings.seed}"
    if OBJECTS in model.denoiser.spec.fields:
        if any(option is not None for option in (balance, each, faithful_to, fits_text)):
            raise Error(
                "Images for layouts go with --set, --like, --far-from and --reject-copies; leave --balance, --each, "
                "--faithful-to and --fits-text out. Their own filter looks for the boxes."
            )
        return layout_generation.generate(
            Path(model_path), model, domain, vocabulary, out, labels, count, settings, layouts, like=like, format=format,
            name=name, far_from=far_from, reject_copies=reject_copies, overwrite=overwrite, command=command, watch=watch,
        )  # fmt: skip
    if layouts is not None:
        raise Error(f"Layouts are for a model that is told boxes; {model_path} is not. Leave those options out.")
    if prompts:
        if text is not None or like is not None or each is not None:
            raise Error("Prompts are the texts of all images; leave --set text=, --like and --each out.")
        known = [domain.ask([f"{TEXT}={prompt}"], vocabulary) for prompt in prompts]
        rows = [Annotation(a.text, {**a.labels, **labels}) for a in known for _ in range(count)]
    else:
        rows = _rows(domain, vocabulary, labels, count, settings.seed, like, balance, each, volume)
        rows = [dataclasses.replace(row, text=text or row.text) for row in rows]
    rows, beside = in_words(model, domain, rows, settings.seed), count if prompts or each is not None else None
    count = len(rows)
    compared = (like, far_from, reject_copies, faithful_to, fits_text)
    needed = [path for path in (model_path, *compared) if path is not None]
    with dataset.staged(out, overwrite, ("report.html",), needed) as folder:
        far = None if far_from is None else gates.distance(model, far_from)
        passes = [] if far is None else [far.gate()]
        passes += [] if reject_copies is None else [gates.no_copies(model, reject_copies)]
        passes += [] if faithful_to is None else [gates.faithful(model, faithful_to)]
        passes += [] if fits_text is None else [gates.fits(model, domain, fits_text)]
        begun = time.monotonic()
        drawn = filled(model, domain, rows, settings, COHERENCE if volume else 0.0, passes, watch)
        images, near = drawn.images, drawn.similarity
        outcome = Outcome(
            count, format, drawn.draws, sigmas(model, settings)[0], None if far is None else far.limit,
            () if np.isnan(near).any() else tuple(near.tolist()), drawn.turned_away,
        )  # fmt: skip
        made = resolved(model, settings, volume, outcome)
        if format == "nifti":
            _write_volume(folder, domain, name, images, rows, made, outcome)
        else:
            examples = _examples(images, rows, name, made, settings.seed, outcome, volume)
            put(model, domain, vocabulary, examples, folder, format, made, time.monotonic() - begun)
        run = reporting.Run(command=command, settings=made, seed=settings.seed, seconds=time.monotonic() - begun)
        _write_report(folder / "report.html", images, rows, vocabulary, outcome, far, run, domain.NOTICE, beside)
    return outcome


def asked(root: str | Path, words: Iterable[str]) -> Annotation:
    """What words such as "condition=rust" or "text=PA view" ask for, with what follows, as a model folder knows it."""
    meta = models.meta(root)
    domain, given = models.domain(meta["domain"]), list(words)
    vocabulary = vocabulary_of(meta, domain)
    if TEXT in spec_of(meta).fields:
        return domain.ask(given, vocabulary)
    found = parse(vocabulary, given)
    return Annotation(labels=domain.complete(found, vocabulary) if found and hasattr(domain, "complete") else found)


def worded(root: str | Path, words: Iterable[str]) -> Annotation:
    """What words ask for as a model folder knows it, and nothing that follows from them."""
    meta = models.meta(root)
    domain, given = models.domain(meta["domain"]), list(words)
    if TEXT in spec_of(meta).fields:
        return domain.ask(given, vocabulary_of(meta, domain))
    return Annotation(labels=parse(vocabulary_of(meta, domain), given))


def in_words(model: Model, domain: ModuleType, rows: Sequence[Annotation], seed: int) -> list[Annotation]:
    """Annotations with a text where the model is told things in words: their own, or one composed of their labels.

    The text of a real image is worded anew: whole reports are what a model remembers images by.
    """
    if TEXT not in model.denoiser.spec.fields:
        return list(rows)
    return [
        row if row.text or not row.labels
        else dataclasses.replace(row, text=domain.caption(row, random.Random(f"{seed} {n}")))
        for n, row in enumerate(rows)
    ]  # fmt: skip


def _rows(
    domain: ModuleType, vocabulary: Vocabulary, wanted: Mapping[str, float], count: int, seed: int,
    like: str | Path | None, balance: str | None, each: str | None, volume: bool,
) -> list[Annotation]:  # fmt: skip
    """What to ask for, image by image."""
    if volume:
        return domain.series(count, wanted)
    if each is not None:
        values = vocabulary.get(each)
        if type(values) is not tuple or like is not None:
            classes = ", ".join(name for name, entry in vocabulary.items() if type(entry) is tuple)
            raise Error(f"--each takes a label with named values, {classes}, and goes without --like; found '{each}'.")
        every = [{**wanted, each: float(n)} for n in range(len(values))]
        full = [domain.complete(row, vocabulary) if hasattr(domain, "complete") else row for row in every]
        return [Annotation(labels=row) for row in full for _ in range(count)]
    if like is None:
        if balance is not None:
            raise Error("--balance evens out a data set; none was given. Name it: --like DATA")
        return [Annotation(labels=wanted)] * count
    theirs = vocabulary_of(dataset.info(like), domain)
    if {k: theirs[k] for k in theirs} != {k: vocabulary[k] for k in vocabulary}:
        raise Error(
            f"--like takes a data set with the labels of the model, {to_json(vocabulary)}; {like} has "
            f"{to_json(theirs)}. Prepare it with the classes the model was trained on."
        )
    rows = drawn_like([e.annotation for e in dataset.read(like)], count, seed, balance)
    if hasattr(domain, "caption"):
        rows = [Annotation(domain.caption(row, random.Random(f"{seed} {n}")), row.labels) for n, row in enumerate(rows)]
    return [Annotation(None if wanted else row.text, {**row.labels, **wanted}) for row in rows]


def _check(
    domain: ModuleType,
    vocabulary: Vocabulary,
    wanted: Mapping[str, float],
    count: int,
    settings: Sampling,
    volume: bool,
    format: str,
    name: str,
) -> None:
    own = {"folders": all(hasattr(domain, need) for need in ("complete", "write"))}
    own |= {name: name in getattr(domain, "FORMATS", ()) for name in (*FILMS, *BOXED)}
    if format not in FORMATS or not own.get(format, True):
        raise Error(
            f"A format is one of {', '.join(FORMATS)}; folders need classes, dicom and dx films, {', '.join(BOXED)} boxes; "
            f"found '{format}'."
        )
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
    parse(vocabulary, [f"{key}={value:g}" for key, value in wanted.items()])


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
        Notice=reporting.RESEARCH_USE,
        GeneratedBy={"Name": "diffgraft", "Version": __version__},
        Provenance=dataclasses.asdict(Provenance("synthetic", made["model"], "generate", made["seed"], made)),
        Units="arbitrary",
        SliceOrder="inferior to superior",
        Labels={k: [round(float(row.labels[k]), 4) for row in rows] for k in rows[0].labels},
        **distances,
    )


def _write_report(
    path: Path, images: np.ndarray, rows: Sequence[Annotation], vocabulary: Vocabulary, outcome: Outcome,
    far: gates.Distance | None, run: reporting.Run, notice: str, beside: int | None,
) -> None:  # fmt: skip
    """beside: how many images of one prompt or value stand in a row; None where they are all of one kind."""
    captions = [row.text or told(vocabulary, row.labels) for row in rows]
    sections = [reporting.Section("Images", [reporting.Sheet(list(images), captions, beside)])]
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
        sections.append(reporting.Section("Distance from the training images", [reporting.Facts(found)], note))
    reporting.write(
        path,
        "Generated images",
        f"{outcome.count} synthetic images",
        sections,
        run,
        notice=notice,
        next_step="Look at every image before it is used; synthetic images are training material, not findings.",
    )
