"""The report of images that were made for layouts: what was asked for, what came, and what the filter made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffgraft import reporting
from toolkit.example import Boxes
from toolkit.methods import faithfulness
from toolkit.methods.faithfulness import STATES, Counts

if TYPE_CHECKING:
    from diffgraft.generation.layouts.filter import LayoutFilter
    from diffgraft.generation.layouts.log import Draw, LayoutSamples

__all__ = ["write"]

SHOWN, COLUMNS = 24, 4

UNREQUESTED = "not asked for"
"""Of a box in a picture that the detector found and nobody asked for."""

CIRCULAR = (
    "The detector that filters is the detector of the model, so that what it does not see is not corrected, and the numbers "
    "after the filter are what it let pass: no measure of the images. For that, train a fresh detector on them and test it "
    "on real images, or have a detector look that had no part in this."
)
_STATES = (
    "Matched: a detection of its class overlaps the box by half or more. Misplaced: by less. Mistaken: only one of "
    "another class does. Hallucinated: objects that nobody asked for; of real images, also what nobody annotated."
)


def write(
    path: Path, samples: LayoutSamples, names: tuple[str, ...], filter: LayoutFilter | None, facts: Mapping[str, Any],
    run: reporting.Run, notice: str,
) -> None:  # fmt: skip
    """report.html of a run. names: all classes. facts: what the data set says of the run."""
    requested = sum(len(boxes.names) for boxes in samples.layouts.values())
    places = list(samples.images)[:SHOWN]
    pictures = [reporting.draw_boxes(samples.images[place], samples.layouts[place], names) for place in places]
    kept = {draw.place: draw for draw in samples.draws if not draw.reason}
    sheet = reporting.Sheet(pictures, [_caption(kept[place], names) for place in places], COLUMNS)
    note = f"The first {len(places)} of {len(samples.images)}." if len(places) < len(samples.images) else ""
    title = "Images with the boxes that are their labels"
    sections = [reporting.Section(title, [reporting.BoxLegend(names), sheet], note)]
    if filter is not None:
        sections += [*_filter_sections(samples, names, filter, facts), _rejected(samples, names)]
    reporting.write(
        path, "Images for layouts", f"{len(samples.images)} synthetic images, {requested} boxes", sections, run,
        notice=notice,
        next_step="Look at the images and their boxes before they are used; synthetic images are training material.",
    )  # fmt: skip


def _filter_sections(
    samples: LayoutSamples, names: tuple[str, ...], filter: LayoutFilter, facts: Mapping[str, Any]
) -> list[reporting.Section]:
    first = [d.judged for d in samples.draws if d.number == 0 and d.judged is not None]
    last = [d.judged for d in samples.draws if not d.reason and d.judged is not None]
    before, after = (faithfulness.count_outcomes(judged, len(names)) for judged in (first, last))
    real, known = filter.calibration.counts, facts["filter"]
    found = {
        "Draws": len(samples.draws),
        "Rejected": f"{known['rejection_rate']:.1%}",
        "Images kept": len(samples.images),
        "Of these for another layout than the first": known["images_of_another_layout"],
        "Given up": facts["given_up"],
        "Largest error that is kept": filter.limit,
        "That is the error which is not exceeded by": f"{filter.quantile:.0%} of {filter.measured_on}",
        "Boxes moved to where the detector has them": known["relabelled_boxes"],
    }
    classes = [
        _classes(before, names, f"First draws, before the filter ({before.images} images)"),
        _classes(after, names, f"Images that are kept ({after.images})"),
        _classes(real, names, f"Real held-out images ({real.images}), with the boxes of their annotation"),
    ]
    return [
        reporting.Section("What the filter did", [reporting.Facts(found), reporting.Text(CIRCULAR)]),
        reporting.Section("What came of the boxes", classes, _STATES),
        _sizes(before, after, real),
    ]


def _rejected(samples: LayoutSamples, names: tuple[str, ...]) -> reporting.Section:
    """The first of the images that were drawn and not kept."""
    shown = samples.rejected[:SHOWN]
    pictures = [_with_misses(image, draw, names) for image, draw in shown]
    sheet = reporting.Sheet(pictures, [_caption(draw, names) for _, draw in shown], COLUMNS)
    legend = reporting.BoxLegend((*names, UNREQUESTED), "asked for and not matched")
    note = f"{len(shown)} of {len(samples.draws) - len(samples.images)}."
    return reporting.Section("Rejected", [legend, sheet] if shown else [], note)


def _classes(counts: Counts, names: Sequence[str], caption: str) -> reporting.Table:
    """A row a class: what became of its boxes, in all sizes."""
    states, spare = counts.states.sum(1), counts.hallucinated.sum(1)
    rows: list[list[Any]] = [_row(name, states[k], int(spare[k])) for k, name in enumerate(names)]
    rows.append(_row("all", states.sum(0), int(spare.sum())))
    return reporting.Table(["class", "requested", *STATES, "matched, part", "hallucinated"], rows, caption)


def _row(name: str, states: np.ndarray, spare: int) -> list[Any]:
    requested = int(states.sum())
    return [name, requested, *states.tolist(), float(states[0] / requested) if requested else None, spare]


def _sizes(before: Counts, after: Counts, real: Counts) -> reporting.Section:
    works = faithfulness.smallest_faithful(before, real)
    rows = []
    for number, name in enumerate(faithfulness.size_names()):
        line: list[Any] = [name]
        for counts in (before, after, real):
            requested = int(counts.asked[:, number].sum())
            line += [requested, float(counts.matched[:, number].sum() / requested) if requested else None]
        if any(line[1::2]):
            rows.append(line)
    conclusion = (
        "No size of box is found half as often as real ones are."
        if works is None
        else f"Boxes from {works:g} px on are found at least half as often as real ones before the filter."
    )
    header = ["side of box", "first draws", "matched", "kept", "matched", "real", "matched"]
    note = "Side: of a square of the same area, in pixels of the image."
    return reporting.Section(
        "Matched by size",
        [reporting.Text(conclusion), reporting.Table(header, rows, "Boxes and the part matched")],
        note,
    )


def _with_misses(image: np.ndarray, draw: Draw, names: tuple[str, ...]) -> np.ndarray:
    """The layout with what was not matched broken, and what was found without a request."""
    judged = draw.judged
    if judged is None:
        return reporting.draw_boxes(image, draw.layout, names)
    spare = judged.found.corners[judged.hallucinated]
    boxes = Boxes(np.concatenate([draw.layout.corners, spare]), (*draw.layout.names, *[UNREQUESTED] * len(spare)))
    missed = [state != "matched" for state in judged.states] + [False] * len(spare)
    return reporting.draw_boxes(image, boxes, (*names, UNREQUESTED), dashed=missed)


def _caption(draw: Draw, names: Sequence[str]) -> str:
    judged = draw.judged
    if judged is None:
        return draw.reason
    classes = judged.asked.classes
    parts = [(names[k], state) for k, state in zip(classes, judged.states, strict=True) if state != "matched"]
    parts += [(names[k], "hallucinated") for k in judged.found.classes[judged.hallucinated]]
    errors = ", ".join(f"{count} {name} {state}" for (name, state), count in sorted(Counter(parts).items()))
    reason = f"{draw.reason}; " if draw.reason else ""
    return f"{reason}error {judged.error:.2f}{': ' if errors else ''}{errors}"
