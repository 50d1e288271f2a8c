"""The report of images that were made for layouts: what was asked for, what came, and what the filter made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffgraft import reporting
from diffgraft.reporting.boxes import Legend, drawn
from toolkit.evaluation.detection import as_boxes
from toolkit.example import Boxes
from toolkit.methods import faithfulness
from toolkit.methods.faithfulness import STATES, Counts

if TYPE_CHECKING:
    from diffgraft.generation.layouts.filter import Filter
    from diffgraft.generation.layouts.log import Draw, Made

__all__ = ["write"]

SHOWN, COLUMNS = 24, 4

UNASKED = "not asked for"
"""Of a box in a picture that the detector found and nobody asked for."""

CIRCULAR = (
    "The detector that filters is the detector of the model, so that what it does not see is not corrected, and the numbers "
    "after the filter are what it let pass: no measure of the images. For that, train a fresh detector on them and test it "
    "on real images, or have a detector look that had no part in this."
)


def write(
    path: Path, made: Made, names: tuple[str, ...], filter: Filter | None, facts: Mapping[str, Any], run: reporting.Run,
    notice: str,
) -> None:  # fmt: skip
    """report.html of a run."""
    asked = sum(len(boxes.names) for boxes in made.layouts.values())
    title = "Images with the boxes that are their labels"
    places = list(made.images)[:SHOWN]
    pictures = [drawn(made.images[place], made.layouts[place], names) for place in places]
    passed = {draw.place: draw for draw in made.draws if not draw.reason}
    sheet = reporting.Sheet(pictures, [_caption(passed[place], names) for place in places], COLUMNS)
    note = f"The first {len(places)} of {len(made.images)}." if len(places) < len(made.images) else ""
    sections = [reporting.Section(title, [Legend(names), sheet], note)]
    if filter is not None:
        sections += _judged(made, names, filter, facts)
    reporting.write(
        path,
        "Images for layouts",
        f"{len(made.images)} synthetic images, {asked} boxes",
        sections,
        run,
        notice=notice,
        next_step="Look at the images and their boxes before they are used; synthetic images are training material.",
    )


def _judged(made: Made, names: tuple[str, ...], filter: Filter, facts: Mapping[str, Any]) -> list[reporting.Section]:
    first = [d.judged for d in made.draws if d.number == 0 and d.judged is not None]
    last = [d.judged for d in made.draws if not d.reason and d.judged is not None]
    before, after = (faithfulness.counted(judged, len(names)) for judged in (first, last))
    real, known = filter.known.counts, facts["filter"]
    found = {
        "Draws": len(made.draws),
        "Rejected": f"{known['rejection_rate']:.1%}",
        "Images kept": len(made.images),
        "Of these for another layout than the first": known["images_of_another_layout"],
        "Given up": facts["given_up"],
        "Largest error that is kept": filter.limit,
        "That is the error which is not exceeded by": f"{filter.quantile:.0%} of {filter.measured_on}",
        "Boxes moved to where the detector has them": known["relabelled_boxes"],
    }
    sections = [
        reporting.Section("What the filter did", [reporting.Facts(found), reporting.Text(CIRCULAR)]),
        reporting.Section(
            "What came of the boxes",
            [
                _classes(before, names, f"First draws, before the filter ({before.images} images)"),
                _classes(after, names, f"Images that are kept ({after.images})"),
                _classes(real, names, f"Real held-out images ({real.images}), with the boxes of their annotation"),
            ],
            "Matched: a detection of its class overlaps the box by half or more. Misplaced: by less. Mistaken: only one of "
            "another class does. Hallucinated: objects that nobody asked for; of real images, also what nobody annotated.",
        ),
        _sizes(before, after, real),
    ]
    if made.rejected:
        shown = made.rejected[:SHOWN]
        pictures = [_rejected(image, draw, names) for image, draw in shown]
        captions = [_caption(draw, names) for _, draw in shown]
        block = [Legend((*names, UNASKED), "asked for and not matched"), reporting.Sheet(pictures, captions, COLUMNS)]
        sections.append(reporting.Section("Rejected", block, f"{len(shown)} of {len(made.draws) - len(made.images)}."))
    return sections


def _classes(counts: Counts, names: Sequence[str], caption: str) -> reporting.Table:
    """A row a class: what became of its boxes, in all sizes."""
    states, spare = counts.states.sum(1), counts.hallucinated.sum(1)
    rows: list[list[Any]] = [_row(name, states[k], int(spare[k])) for k, name in enumerate(names)]
    rows.append(_row("all", states.sum(0), int(spare.sum())))
    return reporting.Table(["class", "requested", *STATES, "matched, part", "hallucinated"], rows, caption)


def _row(name: str, states: np.ndarray, spare: int) -> list[Any]:
    asked = int(states.sum())
    return [name, asked, *states.tolist(), float(states[0] / asked) if asked else None, spare]


def _sizes(before: Counts, after: Counts, real: Counts) -> reporting.Section:
    works = faithfulness.smallest_faithful(before, real)
    rows = []
    for number, name in enumerate(faithfulness.size_names()):
        line: list[Any] = [name]
        for counts in (before, after, real):
            asked = int(counts.asked[:, number].sum())
            line += [asked, float(counts.matched[:, number].sum() / asked) if asked else None]
        if any(line[1::2]):
            rows.append(line)
    said = (
        "No size of box is found half as often as real ones are."
        if works is None
        else f"Boxes from {works:g} px on are found at least half as often as real ones before the filter."
    )
    header = ["side of box", "first draws", "matched", "kept", "matched", "real", "matched"]
    note = "Side: of a square of the same area, in pixels of the image."
    return reporting.Section(
        "Matched by size", [reporting.Text(said), reporting.Table(header, rows, "Boxes and the part matched")], note
    )


def _rejected(image: np.ndarray, draw: Draw, names: tuple[str, ...]) -> np.ndarray:
    """The layout with what was not matched broken, and what was found unasked."""
    one = draw.judged
    if one is None:
        return drawn(image, draw.layout, names)
    spare = as_boxes(one.found[one.hallucinated], names, (image.shape[1], image.shape[2]))
    corners = np.concatenate([draw.layout.corners, spare.corners])
    whole = Boxes(corners, (*draw.layout.names, *[UNASKED] * len(spare.names)))
    missed = [state != "matched" for state in one.states] + [False] * len(spare.names)
    return drawn(image, whole, (*names, UNASKED), dashed=missed)


def _caption(draw: Draw, names: Sequence[str]) -> str:
    one = draw.judged
    if one is None:
        return draw.reason
    parts = [(names[k], state) for k, state in zip(one.asked.classes, one.states, strict=True) if state != "matched"]
    parts += [(names[k], "hallucinated") for k in one.found.classes[one.hallucinated]]
    said = ", ".join(f"{count} {name} {state}" for (name, state), count in sorted(Counter(parts).items()))
    reason = f"{draw.reason}; " if draw.reason else ""
    return f"{reason}error {one.error:.2f}{': ' if said else ''}{said}"
