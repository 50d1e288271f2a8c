"""The report of diffgraft.evaluation.boxes.alignment: figures, what became of every kind of box, and the pictures with both boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.classes.report import Dots
from diffgraft.reporting.boxes import Legend, drawn
from toolkit.evaluation.anomaly import Interval
from toolkit.evaluation.detection import as_boxes
from toolkit.example import Boxes, Example
from toolkit.methods.faithfulness import SIDES, STATES, Judgement, size_names

if TYPE_CHECKING:
    from diffgraft.evaluation.boxes.alignment_result import LayoutAlignment

__all__ = ["write"]

SHOWN, COLUMNS = 12, 4
WORST = 8
"""Images of a set in the order of its manifest, and those that agree least with their layouts."""

Shown = Mapping[str, tuple[Sequence[Example], Sequence[Judgement]]]

_FIGURES = (
    "What was asked for counts as the truth of a generated image, the annotation as that of a real one. Held-out real pictures "
    "are the most that can be expected: their annotation is incomplete, and the judges err. Shuffled layouts are what chance "
    "gives. A generator that copied its training pictures would score as well: audit them too."
)
_STATES = (
    "Of the boxes that were asked for. Matched: a detection of its class overlaps it by half or more; misplaced: by less; "
    "mistaken: only one of another class does; missed: none does. Hallucinated: found objects that touch no box, for each box "
    "of the class; in real pictures these are also objects that nobody annotated."
)
_STAIN = (
    "No detector is needed to see whether something stained lies in a box: the part of the boxes of which the mean saturation is "
    "above that of everything outside of all boxes. What the judges say has to be more than this."
)


def write(
    path: Path, result: LayoutAlignment, shown: Shown, notice: str, command: str, seconds: float
) -> None:  # fmt: skip
    """shown: set -> its images and what the first judge says of each; the last is the real one."""
    sets = list(result.sets)
    panels = {
        title: {name: told.ap50[kind] for name, told in result.sets.items()}
        for title, kind in [("mean", "mean"), *((name, name) for name in result.names)]
    }
    sections = [
        reporting.Section(
            "Average precision",
            [_precision(result), Dots(panels, "AP50 with 95 % intervals", lambda _, name: sets.index(name) % 6)],
            _FIGURES,
        ),
        reporting.Section("What became of the boxes", [_states(result)], _STATES),
        reporting.Section(
            "By size of box", [*_sizes(result)], "Side: of a square of the same area, in pixels of the image."
        ),
    ]
    if all(told.saturated for told in result.sets.values()):
        sections.append(reporting.Section("The trivial reference", [_saturated(result)], _STAIN))
    sections += [
        reporting.Section(
            "Images", _sheets(result, shown), "Solid: asked for (real: annotated). Broken: found by one judge."
        ),
        reporting.Section("Protocol", [reporting.Facts({k.replace("_", " "): v for k, v in result.protocol.items()})]),
    ]
    told, real = result.sets[result.judged], next(iter(result.sets.values()))
    reporting.write(
        path,
        "Do generated images show their layouts?",
        f"mean AP50 {told.ap50['mean']} on generated images, {real.ap50['mean']} on held-out real ones",
        sections,
        reporting.Run(command=command, seconds=seconds, seed=0, settings=result.protocol["optimisation"]),
        notice=notice,
        next_step="See whether they help a detector: diffgraft evaluate REAL FAKE --task detect",
    )


def _cell(interval: Interval | None) -> str | None:
    return None if interval is None or interval.value is None else str(interval)


def _precision(result: LayoutAlignment) -> reporting.Table:
    kinds = ("mean", *result.names)
    rows = [
        [
            name, told.images, sum(told.boxes.values()), *(_cell(told.ap50[k]) for k in kinds),
            *(_cell(told.ap[k]) for k in kinds), " ".join(f"{value:.3f}" for value in told.seeds),
        ]
        for name, told in result.sets.items()
    ]  # fmt: skip
    header = [
        "Images",
        "n",
        "Boxes",
        *(f"AP50, {k}" for k in kinds),
        *(f"AP, {k}" for k in kinds),
        "Mean AP50, each judge",
    ]
    caption = f"{result.protocol['judges'].partition(';')[0]}; 95 % intervals over images and judges"
    return reporting.Table(header, rows, caption)


def _states(result: LayoutAlignment) -> reporting.Table:
    rows = [
        [
            name, kind, told.boxes.get(kind, sum(told.boxes.values())),
            *(_cell(told.states[kind][state]) for state in STATES), _cell(told.hallucinated[kind]),
        ]
        for kind in (*result.names, "all")
        for name, told in result.sets.items()
    ]  # fmt: skip
    return reporting.Table(["Images", "Class", "Boxes", *(s.capitalize() for s in STATES), "Hallucinated"], rows)


def _sizes(result: LayoutAlignment) -> list[reporting.Block]:
    words = size_names()
    rows: list[list[Any]] = []
    for n, side in enumerate(SIDES):
        if any(side in told.counts for told in result.sets.values()):
            cells = [_cell(told.by_size.get(side)) or "-" for told in result.sets.values()]
            counts = [told.counts.get(side, 0) for told in result.sets.values()]
            rows.append([words[n], *(f"{c} ({k})" for c, k in zip(cells, counts, strict=True))])
    works = "; ".join(
        f"{kind}: {'none' if side is None else f'from {side:g} px on'}" for kind, side in result.smallest.items()
    )
    said = f"Boxes that work, matched at least half as often as held-out real ones of their size. {works}."
    return [reporting.Text(said), reporting.Table(["Side of the box", *result.sets], rows, "Part matched (boxes)")]


def _saturated(result: LayoutAlignment) -> reporting.Table:
    kinds = (*result.names, "all")
    rows = [[name, *(_cell(told.saturated[k]) for k in kinds)] for name, told in result.sets.items()]
    return reporting.Table(["Images", *kinds], rows, "Boxes more saturated than the rest of their image")


def _sheets(result: LayoutAlignment, shown: Shown) -> list[reporting.Block]:
    blocks: list[reporting.Block] = [Legend(result.names, "found")]
    for name, (examples, judged) in shown.items():
        first = list(range(min(SHOWN, len(examples))))
        blocks.append(_sheet(result.names, examples, judged, first, f"{name}: the first {len(first)}"))
        worst = sorted(range(len(examples)), key=lambda n: -judged[n].error)[:WORST]
        if name == result.judged and len(examples) > SHOWN:
            blocks.append(_sheet(result.names, examples, judged, worst, f"{name}: the {len(worst)} that agree least"))
    return blocks


def _sheet(
    names: tuple[str, ...],
    examples: Sequence[Example],
    judged: Sequence[Judgement],
    chosen: Sequence[int],
    caption: str,
) -> reporting.Sheet:
    pictures = []
    for n in chosen:
        image, one = examples[n].image, judged[n]
        size = (image.shape[1], image.shape[2])
        asked, found = as_boxes(one.asked, names, size), as_boxes(one.found, names, size)
        both = Boxes(np.concatenate([asked.corners, found.corners]), (*asked.names, *found.names), size)
        broken = [False] * len(asked.names) + [True] * len(found.names)
        pictures.append(drawn(image, both, names, dashed=broken))
    return reporting.Sheet(pictures, [_words(judged[n]) for n in chosen], COLUMNS, caption)


def _words(one: Judgement) -> str:
    counted = Counter(one.states)
    counted["hallucinated"] = len(one.hallucinated)
    return ", ".join(f"{count} {state}" for state, count in counted.items() if count) or "nothing asked, nothing found"
