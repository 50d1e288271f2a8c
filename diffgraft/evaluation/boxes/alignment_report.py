"""The report on layouts: figures, what became of every kind of box, and the pictures with both boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.boxes.alignment_result import LayoutAlignment
from toolkit.evaluation.detection.metrics import as_boxes
from toolkit.example import Boxes, Example
from toolkit.methods.faithfulness import SIDES, STATES, Judgement, size_names

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
_SIZES = "Side: of a square of the same area, in pixels of the image."
_IMAGES = "Solid: asked for (real: annotated). Broken: found by one judge."


def write(path: Path, result: LayoutAlignment, shown: Shown, notice: str, run: reporting.Run) -> None:
    """shown: set -> its images and what the first judge says of each; the last is the real one."""
    sets = list(result.sets)
    panels = {kind: {name: found.ap50[kind] for name, found in result.sets.items()} for kind in ("mean", *result.names)}
    plot = reporting.ForestPlot(panels, "AP50 with 95 % intervals", lambda _, name: sets.index(name))
    coloured = all(found.saturated for found in result.sets.values())
    sections = [
        reporting.Section("Average precision", [_precision(result), plot], _FIGURES),
        reporting.Section("What became of the boxes", [_states(result)], _STATES),
        reporting.Section("By size of box", _sizes(result), _SIZES),
        reporting.Section("The trivial reference", [_saturated(result)] if coloured else [], _STAIN),
        reporting.Section("Images", _sheets(result, shown), _IMAGES),
        reporting.protocol_section(result.protocol),
    ]
    made, real = result.sets[result.judged], next(iter(result.sets.values()))
    reporting.write(
        path, "Do generated images show their layouts?",
        f"mean AP50 {made.ap50['mean']} on generated images, {real.ap50['mean']} on held-out real ones", sections, run,
        notice=notice, next_step="See whether they help a detector: diffgraft evaluate detect REAL SYNTHETIC",
    )  # fmt: skip


def _precision(result: LayoutAlignment) -> reporting.Table:
    kinds = ("mean", *result.names)
    rows = [
        [
            name, found.images, sum(found.boxes.values()), *(found.ap50[k] for k in kinds), *(found.ap[k] for k in kinds),
            " ".join(f"{value:.3f}" for value in found.seeds),
        ]
        for name, found in result.sets.items()
    ]  # fmt: skip
    figures = [*(f"AP50, {k}" for k in kinds), *(f"AP, {k}" for k in kinds)]
    caption = f"{result.protocol['judges'].partition(';')[0]}; 95 % intervals over images and judges"
    return reporting.Table(["Images", "n", "Boxes", *figures, "Mean AP50, each judge"], rows, caption)


def _states(result: LayoutAlignment) -> reporting.Table:
    rows = [
        [
            name, kind, found.boxes.get(kind, sum(found.boxes.values())), *(found.states[kind][state] for state in STATES),
            found.hallucinated[kind],
        ]
        for kind in (*result.names, "all")
        for name, found in result.sets.items()
    ]  # fmt: skip
    return reporting.Table(["Images", "Class", "Boxes", *(s.capitalize() for s in STATES), "Hallucinated"], rows)


def _sizes(result: LayoutAlignment) -> list[reporting.Block]:
    words = size_names()
    rows: list[list[Any]] = []
    for n, side in enumerate(SIDES):
        if any(side in found.counts for found in result.sets.values()):
            found = [(each.by_size.get(side, "-"), each.counts.get(side, 0)) for each in result.sets.values()]
            rows.append([words[n], *(f"{share} ({count})" for share, count in found)])
    works = "; ".join(
        f"{kind}: {'none' if side is None else f'from {side:g} px on'}" for kind, side in result.smallest.items()
    )
    text = f"Boxes that work, matched at least half as often as held-out real ones of their size. {works}."
    return [reporting.Text(text), reporting.Table(["Side of the box", *result.sets], rows, "Part matched (boxes)")]


def _saturated(result: LayoutAlignment) -> reporting.Table:
    kinds = (*result.names, "all")
    rows = [[name, *(found.saturated[k] for k in kinds)] for name, found in result.sets.items()]
    return reporting.Table(["Images", *kinds], rows, "Boxes more saturated than the rest of their image")


def _sheets(result: LayoutAlignment, shown: Shown) -> list[reporting.Block]:
    blocks: list[reporting.Block] = [reporting.BoxLegend(result.names, "found")]
    for name, (examples, judged) in shown.items():
        pairs = list(zip(examples, judged, strict=True))
        first = pairs[:SHOWN]
        blocks.append(_sheet(result.names, first, f"{name}: the first {len(first)}"))
        worst = sorted(pairs, key=lambda pair: -pair[1].error)[:WORST]
        if name == result.judged and len(pairs) > SHOWN:
            blocks.append(_sheet(result.names, worst, f"{name}: the {len(worst)} that agree least"))
    return blocks


def _sheet(names: tuple[str, ...], pairs: Sequence[tuple[Example, Judgement]], caption: str) -> reporting.Sheet:
    pictures = []
    for example, one in pairs:
        size = (example.image.shape[1], example.image.shape[2])
        asked, found = as_boxes(one.asked, names, size), as_boxes(one.found, names, size)
        both = Boxes(np.concatenate([asked.corners, found.corners]), (*asked.names, *found.names), size)
        broken = [False] * len(asked.names) + [True] * len(found.names)
        pictures.append(reporting.draw_boxes(example.image, both, names, dashed=broken))
    return reporting.Sheet(pictures, [_words(one) for _, one in pairs], COLUMNS, caption)


def _words(one: Judgement) -> str:
    counts = Counter(one.states)
    counts["hallucinated"] = len(one.hallucinated)
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "nothing asked, nothing found"
