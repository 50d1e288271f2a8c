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
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.generation.gates import requested_gates
from diffgraft.generation.job import GenerationJob, Made
from diffgraft.generation.layouts import report
from diffgraft.generation.layouts.filter import LayoutFilter, calibrate_filter
from diffgraft.generation.layouts.log import DRAW_STRIDE, LOG, Draw, LayoutSamples, write_log
from diffgraft.generation.layouts.source import LayoutSource, layout_source
from diffgraft.generation.output import resolved_settings, sample_id
from diffgraft.generation.result import GenerationResult
from diffgraft.generation.sampling import Gate, evaluation_counter, sample, sigma_schedule
from diffgraft.requests.verb import Call, Watch
from toolkit.example import Annotation, Boxes, Error, Example, Provenance
from toolkit.methods import faithfulness
from toolkit.methods.faithfulness import Calibration, Judgement
from toolkit.objects.boxes import rarest_class

__all__ = ["draw_for_layouts"]

PLACES = 3
"""Layouts that a place is given, one after another, before it is given up."""

SHOWN = 24
"""Rejected images that are kept for the report."""


def draw_for_layouts(job: GenerationJob, call: Call) -> Made[GenerationResult]:
    """Images for layouts; their data set has the log beside it.

    Errors: no layouts to go by, nothing to measure the limit on, no place filled.
    """
    request, model, settings, options = job.request, job.model, job.settings, job.request.layout_options
    filter = _filter(job)
    source = _source(job, filter)
    label = _rarest_label(job.domain.TARGET, source)
    gates, _ = requested_gates(model, job.domain, request)
    begun, start = time.monotonic(), sigma_schedule(model, settings)[0]
    call.tell(f"{settings}; start sigma {start:.3g}")
    drawn = _draw(job, source, label, math.ceil(request.count / options.keep), gates, filter, call.watch)
    if not drawn.images:
        raise Error(
            f"Every image must pass what is asked of it; none of {len(drawn.draws)} draws did. Take another --layout, "
            "more --tries or --no-filter, and look at how well the model does."
        )
    if options.keep < 1:
        drawn = _best(drawn, request.count)
    if options.relabel and filter is not None:
        drawn = _relabelled(drawn, filter.calibration)
    result = GenerationResult(
        len(drawn.images), job.format, settings, start, len(drawn.draws), rejections=drawn.rejections,
        notes=_notes(drawn, filter, request.count),
    )  # fmt: skip
    facts = _facts(job, drawn, source.origin, filter)
    resolved = resolved_settings(model, result) | facts

    def finish(folder: Path, run: reporting.Run) -> GenerationResult:
        if filter is not None:
            write_log(folder / LOG, drawn, request.prefix(settings.seed), job.class_names)
        report.write(folder / "report.html", drawn, job.class_names, filter, facts, run, job.domain.NOTICE)
        return result

    return Made([*_examples(job, drawn, label, resolved)], resolved, begun, finish)


def _filter(job: GenerationJob) -> LayoutFilter | None:
    """The filter, where one is asked for or the model has a detector. Errors: options that need one where there is none."""
    options = job.request.layout_options
    asked = job.model.detector is not None if options.filtered is None else options.filtered
    if asked or options.check is not None:
        return calibrate_filter(job.model, job.class_names, options.check, job.request.like, options.quantile)
    if options.relabel or options.favour_hard or options.keep < 1:
        raise Error(
            "Relabelling, favouring what is hard and keeping the best need the detector's word on every image. Leave "
            "--no-filter out, or these; a model without a detector: diffgraft train ... --part detector"
        )
    return None


def _source(job: GenerationJob, filter: LayoutFilter | None) -> LayoutSource:
    """Where the layouts come from; each holds the class that is asked for."""
    options, names = job.request.layout_options, job.class_names
    hard = filter.calibration.counts if filter is not None and options.favour_hard else None
    flips = (job.domain.AUGMENTATION.flip > 0, job.domain.AUGMENTATION.flip_rows > 0)
    value = job.prompt.labels.get(job.domain.TARGET, math.nan)
    holds = None if math.isnan(value) else names[int(value)]
    return layout_source(job.model.meta, job.request.like, options.kind, job.settings.seed, names, holds, hard, flips)


# -------------------------------------------------------------------------------------------------------------- draws


def _draw(
    job: GenerationJob, source: LayoutSource, label: Callable[[Boxes], dict[str, float]], count: int, gates: Sequence[Gate],
    filter: LayoutFilter | None, watch: Watch,
) -> LayoutSamples:  # fmt: skip
    """Draw for every place until something passes; after some draws for another layout, of PLACES in all.

    label: the label of an image for a layout.
    """
    tries = job.request.layout_options.tries
    images: dict[int, np.ndarray] = {}
    kept: dict[int, Boxes] = {}
    draws: list[Draw] = []
    rejected: list[tuple[np.ndarray, Draw]] = []
    places, layouts = list(range(count)), {}
    for number in range(tries * PLACES if gates or filter is not None else 1):
        if number % tries == 0:
            layouts = {place: source(place, number // tries) for place in places}
        rows = [Annotation(labels=label(layouts[p]), boxes=layouts[p]) for p in places]
        step = evaluation_counter(watch, number, len(places), job.settings)
        indices = [number * DRAW_STRIDE + place for place in places]
        fresh = sample(job.model, job.domain, rows, job.settings, indices, watch=step)
        reasons = [""] * len(places)
        for gate in gates:
            passed = gate.judge(fresh, rows).kept
            reasons = [r or ("" if ok else gate.name) for r, ok in zip(reasons, passed, strict=True)]
        judged: Sequence[Judgement | None] = [None] * len(places)
        if filter is not None:
            judged = filter.judge(job.model, fresh, [layouts[p] for p in places])
            reasons = [
                r or ("" if j is None or j.error <= filter.limit else "not faithful")
                for r, j in zip(reasons, judged, strict=True)
            ]
        for place, image, one, reason in zip(places, fresh, judged, reasons, strict=True):
            draw = Draw(place, number, number // tries, layouts[place], one, reason)
            draws.append(draw)
            if not reason:
                images[place], kept[place] = image, layouts[place]
            elif len(rejected) < SHOWN:
                rejected.append((image, draw))
        places = [place for place in places if place not in images]
        if not places:
            break
    return LayoutSamples(dict(sorted(images.items())), kept, draws, rejected)


def _best(drawn: LayoutSamples, count: int) -> LayoutSamples:
    """The `count` places whose boxes score best; the others' draws are noted as not kept."""
    judged = {p: j for p in drawn.images if (j := drawn.kept[p].judged) is not None}  # in the order of the places
    places = list(judged)
    chosen = {places[n] for n in faithfulness.most_faithful([*judged.values()], count)}
    draws = [
        dataclasses.replace(d, reason="not among the best") if not d.reason and d.place not in chosen else d
        for d in drawn.draws
    ]
    images = {place: image for place, image in drawn.images.items() if place in chosen}
    return dataclasses.replace(drawn, images=images, draws=draws)


def _relabelled(drawn: LayoutSamples, calibration: Calibration) -> LayoutSamples:
    """With the detector's boxes where they fit better."""
    layouts, relabelled = dict(drawn.layouts), {}
    for place, draw in drawn.kept.items():
        if draw.judged is None:
            continue
        corners, which = faithfulness.relabel(draw.judged, calibration.confident)
        rows, cols = drawn.images[place].shape[1:]
        layouts[place] = Boxes(np.clip(corners, 0, [cols, rows] * 2), draw.layout.names, (rows, cols))
        relabelled[place] = which
    return dataclasses.replace(drawn, layouts=layouts, relabelled=relabelled)


# ------------------------------------------------------------------------------------------------------ what is written


def _rarest_label(target: str, source: LayoutSource) -> Callable[[Boxes], dict[str, float]]:
    """The label of a layout: of its classes the one of which the real layouts have fewest objects; NaN of none."""
    counts = Counter(name for boxes in source.real for name in boxes.names)
    return lambda boxes: {target: rarest_class(boxes, source.names, counts)}


def _examples(
    job: GenerationJob, drawn: LayoutSamples, label: Callable[[Boxes], dict[str, float]], settings: Mapping[str, Any]
) -> Iterator[Example]:
    prefix = job.request.prefix(job.settings.seed)
    for place, image in drawn.images.items():
        draw, boxes = drawn.kept[place], drawn.layouts[place]
        own: dict[str, Any] = {"sample": place, "draw": draw.number}
        if draw.judged is not None:
            own |= {"error": round(draw.judged.error, 4), "relabelled": len(drawn.relabelled.get(place, ()))}
        provenance = Provenance("synthetic", settings["model"], "generate", job.settings.seed, {**settings, **own})
        name = sample_id(prefix, place)
        yield Example(name, image, Annotation(labels=label(boxes), boxes=boxes), name, provenance=provenance)


def _notes(drawn: LayoutSamples, filter: LayoutFilter | None, count: int) -> list[str]:
    notes = []
    if filter is not None:
        notes.append(
            f"an image's error may be up to {filter.limit:.3f}, as that of {filter.quantile:.0%} of {filter.measured_on} is"
        )
    if len(drawn.images) < count:
        notes.append(f"{count - len(drawn.images)} of {count} images given up: no draw passed for any of their layouts")
    return notes


def _facts(job: GenerationJob, drawn: LayoutSamples, origin: str, filter: LayoutFilter | None) -> dict[str, Any]:
    """What the settings say of the layouts and of the filter, all of it resolved. origin: of the layouts, in words."""
    options, missing = job.request.layout_options, max(0, job.request.count - len(drawn.images))
    facts: dict[str, Any] = {"layout": options.kind, "layouts_of": origin, "favour_hard": options.favour_hard}
    facts |= {"draws": len(drawn.draws), "given_up": missing}
    if filter is None:
        return facts | {"filter": None}
    weights = (job.request.model / "detector.safetensors").read_bytes()
    return facts | {
        "filter": {
            "limit": round(filter.limit, 5),
            "quantile": filter.quantile,
            "measured_on": filter.measured_on,
            "thresholds": dict(zip(filter.names, np.round(filter.calibration.thresholds, 4).tolist(), strict=True)),
            "detector": hashlib.sha256(weights).hexdigest()[:16],
            "rejection_rate": round(1 - len(drawn.images) / len(drawn.draws), 4),
            "tries": options.tries,
            "images_of_another_layout": sum(draw.attempt > 0 for draw in drawn.kept.values()),
            "keep": options.keep,
            "relabelled_boxes": sum(map(len, drawn.relabelled.values())) if options.relabel else None,
        }
    }
