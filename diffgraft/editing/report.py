"""The reports of edited images and of objects drawn into pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffgraft import reporting
from diffgraft.editing.result import EditedImage, EditResult, ObjectEditResult
from toolkit.data import labels
from toolkit.data.labels import Vocabulary
from toolkit.example import Boxes, Example
from toolkit.methods.object_drawing import KEPT

__all__ = ["write", "write_objects"]

SHOWN, OBJECTS_SHOWN = 24, 12
"""Edited images in a report."""

SMALL = 400
"""Pictures narrower than this are shown at twice their size."""

AROUND = 0.3
"""Of the sides of what was drawn: what a close-up shows around it."""

_PROTOCOL = (
    "The probability of the wanted class and the likeness to the words are of the model's own feature network and text "
    "encoder, which learned from real images. SSIM (Wang et al. 2004, window 11) and the correlation of edges (Pearson's, "
    "of the gradient's magnitude after a Gaussian of 1 pixel) are with the source, over the whole image at the model's "
    "size: 1 is unchanged. Codec alone: through the autoencoder and back, unedited, the most that a latent model can keep. "
    "Another image: that of another source, what is alike without keeping anything. Model alone: before the pixels of the "
    "source are put back outside the region. Means over all images."
)
_OBJECTS_PROTOCOL = (
    "What changes are the new boxes, and the place of objects that they cover by more than a part of "
    f"{1 - KEPT:.1f}: these go whole, for half of one, without a box, would be a false label. In the files nothing else differs "
    "from the source, which is counted in pixels; what the model alone would have changed there, codec included, is in its own "
    "pixels. Rim: the mean difference of neighbouring pixels on the strip inside of what changes, over which it fades in; a "
    "seam would raise it. Found: the part of the new boxes that the "
    "model's own detector finds, class and place (overlap 0.5), in what the model sees of the picture."
)


def write(
    path: Path, vocabulary: Vocabulary, images: Sequence[EditedImage], films: Sequence[tuple[np.ndarray, np.ndarray]],
    result: EditResult, run: reporting.Run, notice: str,
) -> None:  # fmt: skip
    """The report of edited images. films: pairs of pictures, a film before and after on its own grid."""
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    for each in images[:SHOWN]:
        before, after = each.before, each.after
        change = np.abs(after.image - before.image).mean(0)
        pictures += [before.image, after.image, np.clip(3 * change, 0, 2) - 1, each.region * 2 - 1]
        stated, edited = (labels.describe(vocabulary, one.annotation.labels) for one in (before, after))
        captions += [f"before: {stated}", f"after: {after.annotation.text or edited}", "change, 3 x", "region"]
    grid = [picture for pair in films for picture in pair]
    grid_sheet = reporting.Sheet(grid, ["before", "after"] * len(films), 2, side=640)
    facts = {
        "Images": result.count,
        "Starts at sigma": result.start_sigma,
        "Change inside the region, of 255": result.inside,
        "Change outside, by the model alone, of 255": result.outside,
        "SSIM outside, by the model alone": result.ssim_outside,
        "Change outside in the files": "none: the pixels of the source are put back" if result.outside >= 0 else None,
        "Probability of the wanted class before": result.before,
        "The same after": result.after,
    }
    sections = [
        reporting.Section("Before and after", [reporting.Sheet(pictures, captions, 4)]),
        reporting.Section(
            "On the film's own grid",
            [grid_sheet] if films else [],
            "The change is added to the film's own pixels: what did not change is there as it was, texture and all.",
        ),
        reporting.Section(
            "What changed",
            [reporting.Facts(facts, skip_missing=True), _kept(result), reporting.Text(_PROTOCOL)],
        ),
    ]
    reporting.write(
        path, "Edited images", f"{result.count} images", sections, run,
        notice=notice, next_step="Look at every image before it is used: diffgraft evaluate shows whether it helps.",
    )  # fmt: skip


def write_objects(
    path: Path, names: Sequence[str], images: Sequence[EditedImage], result: ObjectEditResult, run: reporting.Run,
    notice: str,
) -> None:  # fmt: skip
    """The report of objects drawn into pictures. names: all classes of the model."""
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    for each in images[:OBJECTS_SHOWN]:
        pictures += [_with_boxes(one, names) for one in (each.before, each.after)]
        pictures += [_close_up(one.image, each.region) for one in (each.before, each.after)]
        new = ", ".join(name or "nothing" for name in (each.boxes.names if each.boxes else ()))
        captions += [f"before: {each.before.id}", f"after: {new}", "before, close", "after, close"]
    found_before, found_after = result.found or (None, None)
    facts = {
        "Pictures": result.count,
        "Objects drawn": result.objects,
        "Objects that they cover, taken away": result.removed,
        "Pixels elsewhere that differ, in the files": result.differing,
        "Change there, of 255": result.inside,
        "Change elsewhere, by the model alone, of 255": result.outside,
        "SSIM elsewhere, by the model alone": result.ssim_outside,
        "Rim, source, of 255": result.rim[0],
        "Rim, edited, of 255": result.rim[1],
        "Found before": found_before,
        "Found after": found_after,
        "Starts at sigma": result.start_sigma,
    }
    sheet = reporting.Sheet(pictures, captions, 4, side=640)
    sections = [
        reporting.Section("Before and after", [reporting.BoxLegend(names), sheet]),
        reporting.Section(
            "What changed", [reporting.Facts(facts, skip_missing=True), reporting.Text(_OBJECTS_PROTOCOL)]
        ),
    ]
    reporting.write(
        path, "Objects drawn into pictures", f"{result.count} pictures, {result.objects} new objects", sections, run,
        notice=notice, next_step="Look at every picture before it is used: its boxes are what was asked for.",
    )  # fmt: skip


def _kept(result: EditResult) -> reporting.Table:
    """What was wanted and what is kept at each stage; columns of which nothing is known are left out."""
    rows = [[name, row.named, row.likeness, row.ssim, row.edges] for name, row in result.rows.items()]
    header = ["", "Probability of the class", "Likeness to the words", "SSIM", "Correlation of edges"]
    used = [0, *(n for n in range(1, 5) if any(row[n] is not None and row[n] == row[n] for row in rows))]
    return reporting.Table([header[n] for n in used], [[row[n] for n in used] for row in rows], "Wanted and kept")


def _with_boxes(example: Example, names: Sequence[str]) -> np.ndarray:
    boxes = example.annotation.boxes
    boxes = Boxes(np.zeros((0, 4)), ()) if boxes is None else boxes
    return reporting.draw_boxes(example.image, boxes, names, scale=2 if example.image.shape[2] < SMALL else 1)


def _close_up(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """What lies around a region."""
    rows, cols = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    parts = []
    for at, whole in ((rows, region.shape[0]), (cols, region.shape[1])):
        more = math.ceil(AROUND * (at[-1] - at[0] + 1))
        parts.append(slice(max(0, at[0] - more), min(whole, at[-1] + 1 + more)))
    return image[:, parts[0], parts[1]]
