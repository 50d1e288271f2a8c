"""New images for layouts: where the layouts come from, each image drawn until it shows its own, and the log of every draw.

A layout is a real one, a real one shaken, a new arrangement of real objects, or one that is sampled. A model that has a
detector looks at each image for what it was asked to show (`toolkit.methods.faithfulness`); one that errs more than most
real images is drawn again, and after some draws for another layout. Image n depends on the seed and on n alone. What was
drawn, kept or not, is in faithfulness.jsonl.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.generation import gates
from diffgraft.generation.layouts import log as layout_log
from diffgraft.generation.layouts import report as layout_report
from diffgraft.generation.layouts.filter import Filter, measured
from diffgraft.generation.layouts.log import LOG, ROUND, Draw, Made, ident
from diffgraft.generation.layouts.source import Source, source
from diffgraft.generation.result import Outcome, put, resolved
from diffgraft.generation.sampling import Gate, counted, sample, sigmas
from toolkit.data import dataset
from toolkit.data.labels import Vocabulary
from toolkit.diffusion.model import Model
from toolkit.example import Annotation, Boxes, Error, Example, Provenance
from toolkit.methods import faithfulness
from toolkit.methods.faithfulness import Calibration, Judgement
from toolkit.objects.boxes import rarest
from toolkit.settings import Sampling

__all__ = ["Layouts", "generate"]

PLACES = 3
"""Layouts that a place is given, one after another, before it is given up."""

SHOWN = 24
"""Rejected images that are kept for the report."""


@dataclass(frozen=True)
class Layouts:
    """How images for layouts are made.

    kind: of arrangement, see toolkit.objects.layouts. filtered: images are looked at; None where there is a detector. check: real
    images that the limit is measured on. quantile: part of them that keeps it. relabel: a detection that fits better
    takes the place of its box. favour_hard: hard layouts are asked for more often. tries: draws for one layout.
    keep: part of what passed that is kept, the images whose boxes score best.
    """

    kind: str = "recombine"
    filtered: bool | None = None
    check: str | Path | None = None
    quantile: float = faithfulness.QUANTILE
    relabel: bool = False
    favour_hard: bool = False
    tries: int = 4
    keep: float = 1.0


def generate(
    root: Path, model: Model, domain: ModuleType, vocabulary: Vocabulary, out: str | Path, labels: Mapping[str, float],
    count: int, settings: Sampling, layouts: Layouts | None, *, like: str | Path | None, format: str, name: str,
    far_from: str | Path | None, reject_copies: str | Path | None, overwrite: bool, command: str,
    watch: Callable[[str, int, int], None],
) -> Outcome:  # fmt: skip
    """Images for layouts as a data set in `format`, with the log and a report; see generation.generate.

    Errors: settings that make no sense, no layouts to go by, nothing to measure the limit on, no place filled.
    """
    layouts = layouts or Layouts()
    _check(layouts, count)
    names: tuple[str, ...] = vocabulary[domain.TARGET]  # type: ignore[assignment]
    wanted = labels.get(domain.TARGET, math.nan)
    compared = (like, layouts.check, far_from, reject_copies)
    with dataset.staged(
        out, overwrite, ("report.html",), [path for path in (root, *compared) if path is not None]
    ) as folder:
        filter = None
        if layouts.filtered or layouts.check is not None or (layouts.filtered is None and model.detector is not None):
            filter = measured(model, names, layouts.check, like, layouts.quantile)
        if filter is None and (layouts.relabel or layouts.favour_hard or layouts.keep < 1):
            raise Error(
                "Relabelling, favouring what is hard and keeping the best need the detector's word on every image. Leave "
                "--no-filter out, or these; a model without a detector: diffgraft train ... --part detector"
            )
        hard = filter.known.counts if filter is not None and layouts.favour_hard else None
        turned = (domain.AUGMENTATION.flip > 0, domain.AUGMENTATION.flip_rows > 0)
        held = None if math.isnan(wanted) else names[int(wanted)]
        drawn_from = source(model.meta, like, layouts.kind, settings.seed, names, held, hard, turned)
        passes = [] if far_from is None else [gates.distance(model, far_from).gate()]
        passes += [] if reject_copies is None else [gates.no_copies(model, reject_copies)]
        begun, target = time.monotonic(), _rarest(domain.TARGET, names, drawn_from)
        places = math.ceil(count / layouts.keep)
        made = _drawn(model, domain, drawn_from, target, places, settings, layouts.tries, passes, filter, watch)
        if not made.images:
            raise Error(
                f"Every image must pass what is asked of it; none of {len(made.draws)} draws did. Take another --layout, "
                "more --tries or --no-filter, and look at how well the model does."
            )
        made = _best(made, count) if layouts.keep < 1 else made
        if layouts.relabel and filter is not None:
            made = _moved(made, filter.known)
        outcome = _outcome(made, format, sigmas(model, settings)[0], filter, count)
        facts = _facts(root, made, layouts, drawn_from, filter, count)
        said = resolved(model, settings, False, outcome) | facts
        examples = list(_examples(made, target, name, said, settings.seed))
        seconds = time.monotonic() - begun
        put(model, domain, vocabulary, examples, folder, format, said, seconds)
        if filter is not None:
            layout_log.write(folder / LOG, made, name, names)
        run = reporting.Run(command=command, settings=said, seed=settings.seed, seconds=seconds)
        layout_report.write(folder / "report.html", made, names, filter, facts, run, domain.NOTICE)
    return outcome


def _check(layouts: Layouts, count: int) -> None:
    if count < 1 or layouts.tries < 1 or not 0 < layouts.keep <= 1:
        raise Error(
            "One image or more, drawn once or more, of which a part in (0, 1] is kept; found "
            f"-n {count} --tries {layouts.tries} --keep {layouts.keep:g}."
        )


# -------------------------------------------------------------------------------------------------------------- draws


def _drawn(
    model: Model, domain: ModuleType, drawn_from: Source, target: Callable[[Boxes], dict[str, float]], count: int,
    settings: Sampling, tries: int, passes: Sequence[Gate], filter: Filter | None, watch: Callable[[str, int, int], None],
) -> Made:  # fmt: skip
    """Draw for every place until something passes; after `tries` draws for another layout, of PLACES in all."""
    images: dict[int, np.ndarray] = {}
    kept: dict[int, Boxes] = {}
    draws: list[Draw] = []
    rejected: list[tuple[np.ndarray, Draw]] = []
    open_, asked = list(range(count)), {}
    for number in range(tries * PLACES if passes or filter is not None else 1):
        if number % tries == 0:
            asked = {place: drawn_from(place, number // tries) for place in open_}
        rows = [Annotation(labels=target(asked[p]), boxes=asked[p]) for p in open_]
        step = counted(watch, "sampling" if number == 0 else f"draw {number + 1}", len(open_), settings)
        fresh = sample(model, domain, rows, settings, [number * ROUND + place for place in open_], watch=step)
        reasons = [""] * len(open_)
        for gate in passes:
            good = gate.judge(fresh, rows).kept
            reasons = [r or ("" if ok else gate.name) for r, ok in zip(reasons, good, strict=True)]
        judged: list[Judgement | None] = [None] * len(open_)
        if filter is not None:
            judged = [*filter.judge(model, fresh, [asked[p] for p in open_])]
            reasons = [
                r or ("" if j.error <= filter.limit else "not faithful")  # type: ignore[union-attr]
                for r, j in zip(reasons, judged, strict=True)
            ]
        for place, image, one, reason in zip(open_, fresh, judged, reasons, strict=True):
            draw = Draw(place, number, number // tries, asked[place], one, reason)
            draws.append(draw)
            if not reason:
                images[place], kept[place] = image, asked[place]
            elif len(rejected) < SHOWN:
                rejected.append((image, draw))
        open_ = [place for place in open_ if place not in images]
        if not open_:
            break
    return Made(dict(sorted(images.items())), kept, draws, rejected)


def _best(made: Made, count: int) -> Made:
    """The `count` places whose boxes score best; the others' draws are noted as not kept."""
    places = list(made.images)
    judged = {d.place: d.judged for d in made.draws if not d.reason}
    chosen = {places[n] for n in faithfulness.best([judged[p] for p in places], count)}  # type: ignore[misc]
    draws = [
        dataclasses.replace(d, reason="not among the best") if not d.reason and d.place not in chosen else d
        for d in made.draws
    ]
    images = {place: image for place, image in made.images.items() if place in chosen}
    return dataclasses.replace(made, images=images, draws=draws)


def _moved(made: Made, known: Calibration) -> Made:
    """With the detector's boxes where they fit better."""
    layouts, moved = dict(made.layouts), {}
    for draw in made.draws:
        if draw.reason or draw.judged is None:
            continue
        corners, which = faithfulness.relabelled(draw.judged, known.confident)
        rows, cols = made.images[draw.place].shape[1:]
        layouts[draw.place] = Boxes(np.clip(corners, 0, [cols, rows] * 2), draw.layout.names, (rows, cols))
        moved[draw.place] = which
    return dataclasses.replace(made, layouts=layouts, moved=moved)


# ------------------------------------------------------------------------------------------------------ what is written


def _rarest(label: str, names: Sequence[str], drawn_from: Source) -> Callable[[Boxes], dict[str, float]]:
    """The label of a layout: of its classes the one of which the real layouts have fewest objects; NaN of none."""
    counts = Counter(name for boxes in drawn_from.real for name in boxes.names)

    return lambda boxes: {label: rarest(boxes, names, counts)}


def _examples(
    made: Made, target: Callable[[Boxes], dict[str, float]], name: str, said: Mapping[str, Any], seed: int
) -> Iterator[Example]:
    passed = {d.place: d for d in made.draws if not d.reason}
    for place, image in made.images.items():
        draw, boxes = passed[place], made.layouts[place]
        own: dict[str, Any] = {"sample": place, "draw": draw.number}
        if draw.judged is not None:
            own |= {"error": round(draw.judged.error, 4), "relabelled": len(made.moved.get(place, ()))}
        mark = Provenance("synthetic", said["model"], "generate", seed, {**said, **own})
        own_name = ident(name, place)
        yield Example(own_name, image, Annotation(labels=target(boxes), boxes=boxes), own_name, provenance=mark)


def _outcome(made: Made, format: str, start: float, filter: Filter | None, count: int) -> Outcome:
    turned_away = Counter(draw.reason for draw in made.draws if draw.reason)
    notes = []
    if filter is not None:
        notes.append(
            f"an image's error may be up to {filter.limit:.3f}, as that of {filter.quantile:.0%} of {filter.measured_on} is"
        )
    if len(made.images) < count:
        notes.append(f"{count - len(made.images)} of {count} images given up: no draw passed for any of their layouts")
    return Outcome(
        len(made.images),
        format,
        len(made.draws),
        start,
        turned_away=dict(sorted(turned_away.items())),
        notes=tuple(notes),
    )


def _facts(
    root: Path, made: Made, layouts: Layouts, drawn_from: Source, filter: Filter | None, count: int
) -> dict[str, Any]:
    """What the settings say of the layouts and of the filter, all of it resolved."""
    facts: dict[str, Any] = {"layout": layouts.kind, "layouts_of": drawn_from.where, "favour_hard": layouts.favour_hard}
    facts |= {"draws": len(made.draws), "given_up": max(0, count - len(made.images))}
    if filter is None:
        return facts | {"filter": None}
    replaced = sum(draw.attempt > 0 for draw in made.draws if not draw.reason)
    return facts | {
        "filter": {
            "limit": round(filter.limit, 5),
            "quantile": filter.quantile,
            "measured_on": filter.measured_on,
            "thresholds": dict(zip(filter.names, np.round(filter.known.thresholds, 4).tolist(), strict=True)),
            "detector": hashlib.sha256((root / "detector.safetensors").read_bytes()).hexdigest()[:16],
            "rejection_rate": round(1 - len(made.images) / len(made.draws), 4),
            "tries": layouts.tries,
            "images_of_another_layout": replaced,
            "keep": layouts.keep,
            "relabelled_boxes": sum(len(which) for which in made.moved.values()) if layouts.relabel else None,
        }
    }
