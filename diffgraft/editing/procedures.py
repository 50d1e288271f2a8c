"""The editing procedures that a user can name, each with how often it asks the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from toolkit.diffusion.model import TEXT, Model
from toolkit.methods import da_fusion, local_edit, text_edit
from toolkit.methods.guided import BATCH, Run, count_evaluations
from toolkit.methods.local_edit import Edited, LocalEdit

__all__ = ["PROCEDURES", "Conditions", "Procedure", "Work"]


@dataclass(frozen=True)
class Conditions:
    """The condition fields of what images are to show, of what they show now, and of nothing stated (unconditional)."""

    target: Mapping[str, np.ndarray]
    current: Mapping[str, np.ndarray]
    null: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """What a procedure is given: images (N, C, H, W), masks (N, H, W), conditions, and how to walk.

    step: is called once an evaluation.
    """

    model: Model
    images: np.ndarray
    masks: np.ndarray
    strength: float
    cond: Conditions
    local: LocalEdit
    step: Callable[[], object] = lambda: None

    @property
    def indices(self) -> range:
        """The sample index of each image, on which its noise depends."""
        return range(len(self.images))

    @property
    def run(self) -> Run:
        return Run(self.model, self.cond.target, self.cond.null, self.indices, self.step)


@dataclass(frozen=True)
class Procedure:
    """run: how images are edited. evaluations: how often that asks the model, by a sampler that asks once a step."""

    run: Callable[[Work], Edited]
    evaluations: Callable[[Work], int]


def _sdedit(work: Work) -> Edited:
    maps = work.masks * work.strength
    return local_edit.edit(work.run, work.images, maps, work.local)


def _inpaint(work: Work) -> Edited:
    return local_edit.inpaint(work.run, work.images, work.masks > 0, work.local)


def _invert(work: Work) -> Edited:
    invert = text_edit.counterfactual if TEXT in work.model.denoiser.spec.fields else local_edit.invert
    return invert(work.run, work.images, work.masks > 0, work.strength, work.cond.current, work.local)


def _da_fusion(work: Work) -> Edited:
    made, _ = da_fusion.augment(work.run, work.images, da_fusion.DAFusion(work.local.walk, high=work.strength))
    edited = local_edit.keep_outside(work.model, work.images, made, np.ones(work.masks.shape, bool), work.local)
    return edited if work.local.detail else dataclasses.replace(edited, images=made)


def _batches(work: Work) -> int:
    return -(-len(work.images) // BATCH)


def _insertions(work: Work) -> np.ndarray:
    return da_fusion.insertions(da_fusion.DAFusion(work.local.walk, high=work.strength), work.indices)


PROCEDURES: Mapping[str, Procedure] = {
    "sdedit": Procedure(_sdedit, lambda w: count_evaluations(w.local.walk, (w.masks * w.strength).max((1, 2)))),
    "inpaint": Procedure(_inpaint, lambda w: _batches(w) * ((w.local.walk.steps - 1) * w.local.resamples + 1)),
    "invert": Procedure(_invert, lambda w: _batches(w) * (2 * w.local.walk.steps - 1)),
    "dafusion": Procedure(_da_fusion, lambda w: count_evaluations(w.local.walk, _insertions(w))),
}
"""sdedit: noised to the strength, then denoised; inpaint: the region anew from noise; invert: encoded under its own
labels, decoded under the new ones; dafusion: whole-image variants at random strengths up to the given one."""
