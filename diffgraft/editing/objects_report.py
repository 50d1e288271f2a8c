"""What drawing objects into pictures did, measured, and the report that shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from diffgraft import reporting
from diffgraft.editing.drawing import KEPT, Job
from diffgraft.editing.windows import fitted
from diffgraft.generation.layouts.filter import detected
from diffgraft.reporting.boxes import Legend, drawn
from toolkit.diffusion.model import Model
from toolkit.evaluation.detection import agreement, as_truth
from toolkit.example import Boxes, Example
from toolkit.methods.local_edit import Change

__all__ = ["Outcome", "Shown", "outcome", "write"]

SHOWN = 12
SMALL = 400
"""Pictures narrower than this are shown at twice their size."""

AROUND = 0.3
"""Of the sides of what was drawn: what a close-up shows around it."""

PROTOCOL = (
    "What changes are the new boxes, and the place of objects that they cover by more than a part of "
    f"{1 - KEPT:.1f}: these go whole, for half of one, without a box, would be a false label. In the files nothing else differs "
    "from the source, which is counted in pixels; what the model alone would have changed there, codec included, is in its own "
    "pixels. Rim: the mean difference of neighbouring pixels on the strip inside of what changes, over which it fades in; a "
    "seam would raise it. Found: the part of the new boxes that the "
    "model's own detector finds, class and place (overlap 0.5), in what the model sees of the picture."
)


@dataclass(frozen=True)
class Shown:
    """One picture before and after. wanted: the new boxes, named "" where something was taken away; region (H, W)."""

    before: Example
    after: Example
    wanted: Boxes
    region: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What was made. inside, outside: mean absolute change by the model alone, of a range of 255, in its own pixels.

    objects, removed: boxes drawn, and objects of the pictures that went for them. differing: pixels outside of what was to
    change that differ from the source in the files. rim: of the source, of the edited pictures. found: part of the new boxes that
    the model's detector finds before and after, None without one. aside: (source, reason) of what was not used.
    """

    count: int
    objects: int
    removed: int
    inside: float
    outside: float
    ssim_outside: float
    differing: int
    rim: tuple[float, float]
    found: tuple[float, float] | None
    start_sigma: float
    aside: tuple[tuple[str, str], ...] = ()
    films: int = 0

    def lines(self) -> list[str]:
        """What was measured, as text."""
        said = [f"{self.objects} objects drawn, {self.removed} that they cover taken away"]
        said.append(f"pixels elsewhere that differ from the source: {self.differing}")
        said.append(f"steps at the rim of what changed, of 255: source {self.rim[0]:.1f}, edited {self.rim[1]:.1f}")
        if self.found is not None:
            said.append(
                f"new boxes that the model's own detector finds: before {self.found[0]:.0%}, after {self.found[1]:.0%}"
            )
        return said


def outcome(
    model: Model, names: Sequence[str], shown: Sequence[Shown], jobs: Sequence[Job],
    changes: Sequence[Sequence[Change]], start_sigma: float, aside: tuple[tuple[str, str], ...],
) -> Outcome:  # fmt: skip
    """Measure an edit."""
    flat = [change for each in changes for change in each]
    inside, outside, alike = (_mean([getattr(c, name) for c in flat]) for name in ("inside", "outside", "ssim_outside"))
    differing = sum(int((_levels(s.before) != _levels(s.after)).any(0)[~s.region].sum()) for s in shown)
    bands = [_band(s.region, job.windows[0].scale) for s, job in zip(shown, jobs, strict=True)]
    rims = [
        _mean([_steps(getattr(s, which), band) for s, band in zip(shown, bands, strict=True)])
        for which in ("before", "after")
    ]
    return Outcome(
        len(shown), sum(1 for s in shown for name in s.wanted.names if name), sum(job.removed for job in jobs),
        inside * 127.5, outside * 127.5, alike, differing, (rims[0], rims[1]), _found(model, names, shown, jobs), start_sigma, aside,
    )  # fmt: skip


def write(
    path: Path, names: Sequence[str], shown: Sequence[Shown], outcome: Outcome, run: reporting.Run, notice: str
) -> None:
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    for each in shown[:SHOWN]:
        pictures += [
            _drawn(each.before, names),
            _drawn(each.after, names),
            *(_close(e.image, each.region) for e in (each.before, each.after)),
        ]
        new = ", ".join(name or "nothing" for name in each.wanted.names)
        captions += [f"before: {each.before.id}", f"after: {new}", "before, close", "after, close"]
    facts: dict[str, Any] = {
        "Pictures": outcome.count,
        "Objects drawn": outcome.objects,
        "Objects that they cover, taken away": outcome.removed,
        "Pixels elsewhere that differ, in the files": outcome.differing,
        "Change there, of 255": outcome.inside,
        "Change elsewhere, by the model alone, of 255": outcome.outside,
        "SSIM elsewhere, by the model alone": outcome.ssim_outside,
        "Rim, source, of 255": outcome.rim[0],
        "Rim, edited, of 255": outcome.rim[1],
        "Found before": None if outcome.found is None else outcome.found[0],
        "Found after": None if outcome.found is None else outcome.found[1],
        "Starts at sigma": outcome.start_sigma,
    }
    known = {k: v for k, v in facts.items() if v is not None and v == v}
    sections = [
        reporting.Section("Before and after", [Legend(names), reporting.Sheet(pictures, captions, 4, side=640)]),
        reporting.Section("What changed", [reporting.Facts(known), reporting.Text(PROTOCOL)]),
    ]
    reporting.write(
        path, "Objects drawn into pictures", f"{outcome.count} pictures, {outcome.objects} new objects", sections, run,
        notice=notice, next_step="Look at every picture before it is used: its boxes are what was asked for.",
    )  # fmt: skip


def _found(
    model: Model, names: Sequence[str], shown: Sequence[Shown], jobs: Sequence[Job]
) -> tuple[float, float] | None:
    """Part of the new boxes that the detector finds in the windows, before and after."""
    if model.detector is None:
        return None
    run = model.meta["parts"]["detector"].get("run", {}).get("thresholds") or {}
    least = np.array([run.get(name, 0.5) for name in names])
    hits: tuple[list[bool], list[bool]] = ([], [])
    for each, job in zip(shown, jobs, strict=True):
        for window in job.windows:
            which = [n for n in window.which if each.wanted.names[n]]
            if which:
                moved = Boxes(window.moved(each.wanted.corners[which]), tuple(each.wanted.names[n] for n in which))
                seen = np.stack([fitted(e.image, window) for e in (each.before, each.after)])
                for state, found in zip(hits, detected(model, seen), strict=True):
                    told = agreement(
                        as_truth(moved, names), found[found.scores >= least[found.classes]], np.zeros(len(names))
                    )
                    state += [one == "matched" for one in told.state]
    return (float(np.mean(hits[0])), float(np.mean(hits[1]))) if hits[0] else None


def _levels(example: Example) -> np.ndarray:
    """As they are written."""
    depth = 65535 if example.image.shape[0] == 1 else 255
    return np.rint((np.clip(example.image, -1, 1) + 1) * (depth / 2)).astype(np.int32)


def _band(region: np.ndarray, scale: float) -> np.ndarray:
    """The pixels inside of a region that are next to what is outside, as far as two pixels of the model reach."""
    width = max(1, round(2 / scale))
    return region & ~np.asarray(ndimage.binary_erosion(region, np.ones((3, 3), bool), width, border_value=1))


def _steps(example: Example, band: np.ndarray) -> float:
    """Mean difference of neighbouring pixels in a strip, of 255."""
    if not band.any():
        return math.nan
    down, across = np.gradient(example.image.mean(0) * 127.5)
    return float(np.hypot(down, across)[band].mean())


def _drawn(example: Example, names: Sequence[str]) -> np.ndarray:
    boxes = example.annotation.boxes
    boxes = Boxes(np.zeros((0, 4)), ()) if boxes is None else boxes
    return drawn(example.image, boxes, names, scale=2 if example.image.shape[2] < SMALL else 1)


def _close(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """What lies around a region."""
    rows, cols = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    parts = []
    for at, whole in ((rows, region.shape[0]), (cols, region.shape[1])):
        more = math.ceil(AROUND * (at[-1] - at[0] + 1))
        parts.append(slice(max(0, at[0] - more), min(whole, at[-1] + 1 + more)))
    return image[:, parts[0], parts[1]]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
