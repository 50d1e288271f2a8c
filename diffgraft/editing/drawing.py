"""Drawing objects into pictures, window after window: what the model is told and shown, and what of its answer is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from diffgraft.editing.windows import Window, fitted
from diffgraft.generation.sampling import conditions
from toolkit.diffusion.model import Model
from toolkit.example import Annotation, Boxes, Example
from toolkit.methods import local_edit
from toolkit.methods.guided import BATCH
from toolkit.methods.local_edit import LocalEdit, weighed

__all__ = ["FEATHER", "KEPT", "Job", "covered", "draw", "left_of"]

KEPT = 0.7
"""Part of a box of the picture that has to lie outside of the new boxes for its object to stay. What is covered more goes
whole: half a cell with a straight edge is no cell, and one without a box would teach a detector not to see it.
"""

AROUND = 1.5
"""Pixels of the model around the box of an object that goes: its rim and its halo."""

VISIBLE = 0.3
"""Part of a box that has to lie in a window for the model to be told of it, as in its training."""

FEATHER = 1.0
"""Pixels of the model over which what is new fades in, inside of its box."""


@dataclass(frozen=True)
class Job:
    """One picture. image (3, H, W) as it is by now; boxes: that are there by now; wanted: all that was asked for.

    known: the picture has an annotation. region (H, W): where it may have changed by now; turn (H, W): in this window.
    removed: boxes that went.
    """

    source: Example
    image: np.ndarray
    boxes: Boxes
    wanted: Boxes
    windows: Sequence[Window]
    known: bool
    region: np.ndarray
    turn: np.ndarray
    removed: int = 0


def draw(
    model: Model, domain: ModuleType, jobs: Sequence[Job], local: LocalEdit, watch: Callable[[str, int, int], None]
) -> tuple[list[Job], list[list[local_edit.Change]]]:
    """The pictures with everything drawn, window after window, and what the model alone changed in each window."""
    edited, changes = list(jobs), [[] for _ in jobs]
    rounds = max(len(job.windows) for job in jobs)
    evaluations = (local.walk.steps - 1) * local.resamples + 1
    of = sum(-(-sum(len(job.windows) > n for job in jobs) // BATCH) for n in range(rounds)) * evaluations
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        watch("inpaint", done, max(done, of))

    for turn in range(rounds):
        which = [n for n, job in enumerate(jobs) if len(job.windows) > turn]
        windows = [jobs[n].windows[turn] for n in which]
        begun = [_begun(edited[n], window) for n, window in zip(which, windows, strict=True)]
        seen = np.stack([fitted(job.image, window) for job, window in zip(begun, windows, strict=True)])
        masks = np.stack([window.reached(job.turn) for job, window in zip(begun, windows, strict=True)])
        told = [window.told(job.boxes, VISIBLE) for job, window in zip(begun, windows, strict=True)]
        wanted, null = conditions(model, domain, [Annotation(boxes=boxes) for boxes in told])
        cond, plain = ({k: model.asnumpy(v) for k, v in c.items()} for c in (wanted, null))
        found = local_edit.inpaint(model, seen, masks, cond, plain, local, which, step)
        for n, job, window, made, change in zip(which, begun, windows, found.made, found.changes, strict=True):
            edited[n] = _pasted(job, window, made, local.feather)
            changes[n].append(change)
    return edited, changes


def _begun(job: Job, window: Window) -> Job:
    """With the boxes that are there when the objects of a window are: the covered ones gone, the new ones added.

    What changes is what the new boxes reach, and what is left of an object that goes, but where it lies in another's box.
    """
    shape = job.region.shape
    region = covered(job.wanted.corners[window.which], shape)
    stays = left_of(job.boxes, region) >= KEPT
    around = AROUND / window.scale * np.array([-1, -1, 1, 1])
    rest = covered(job.boxes.corners[~stays] + around, shape) & ~covered(job.boxes.corners[stays], shape)
    region = (region | rest) & covered(window.corners[None], shape)
    new = [n for n in window.which if job.wanted.names[n]]
    boxes = Boxes(
        np.concatenate([job.boxes.corners[stays], job.wanted.corners[new]]),
        (*(n for n, k in zip(job.boxes.names, stays, strict=True) if k), *(job.wanted.names[n] for n in new)),
        job.boxes.size,
    )
    gone = job.removed + int((~stays).sum())
    return dataclasses.replace(job, boxes=boxes, region=job.region | region, turn=region, removed=gone)


def _pasted(job: Job, window: Window, made: np.ndarray, feather: float) -> Job:
    """The picture with what was made (3, h, w) where it changes in a window, at the picture's own resolution."""
    top, left, high, wide = window.top, window.left, window.rows, window.cols
    place = np.s_[:, top : top + high, left : left + wide]
    weight = weighed(job.turn[place[1:]], feather / window.scale)
    large = window.enlarged(made)
    before = job.image[place]
    image = job.image.copy()
    image[place] = np.where(weight > 0, np.clip(before + weight * (large - before), -1, 1), before)
    return dataclasses.replace(job, image=image)


def covered(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) boolean: every pixel that a box reaches."""
    region = np.zeros(shape, bool)
    for x0, y0, x1, y1 in corners:
        region[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)] = True
    return region


def left_of(boxes: Boxes, region: np.ndarray) -> np.ndarray:
    """(N,) part of each box that lies outside of a region (H, W)."""
    left = []
    for x0, y0, x1, y1 in boxes.corners:
        inside = region[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)]
        left.append(1 - float(inside.mean()) if inside.size else 1.0)
    return np.array(left)
