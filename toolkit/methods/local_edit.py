"""Editing a part of an image towards another condition, the rest left as it is, and how much of that is true.

    edit       a change map: at every place a strength of its own (Levin & Fried 2023, Differential Diffusion,
               arXiv:2306.00950); a symptom mask is a map of one strength
    invert     up under its own labels and down under others, without noise (Su et al. 2023, DDIB, arXiv:2203.08382)
    inpaint    the masked part anew from noise, the rest known (Lugmayr et al. 2022, RePaint, arXiv:2201.09865), as
               diseased leaves were made from segmentation masks by Muhammad et al. 2023 and brain tumours, or healthy
               tissue in their place, by Rouzrokh et al. 2022 (arXiv:2210.12113)

Outside (strength 0) the pixels of the answer are those of the input, bit by bit: a latent model changes what it decodes
everywhere, so what was not asked for is put back. `change_outside` measures the model before that, and any other tool.

What differs. A place's change of a latent is that of the strongest of its pixels, so that the mask is covered; the seam
is softened over `feather` pixels inside the mask. No network is trained with masks, as SmartBrush's is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from toolkit.diffusion import editing, guidance, schedule
from toolkit.diffusion.model import Array, Denoise, Identity, Model
from toolkit.diffusion.noise import Draws
from toolkit.evaluation.similarity import WINDOW, ssim
from toolkit.example import Error
from toolkit.methods import guided
from toolkit.methods.guided import BATCH, Conditions, Run, Walk
from toolkit.methods.method import Method
from toolkit.models.folder import clock_of

__all__ = [
    "METHODS", "Change", "Edited", "LocalEdit", "change_outside", "edit", "feather_weights", "inpaint", "invert",
    "keep_outside", "reconstruct",
]  # fmt: skip

METHODS = (
    Method(
        "SDEdit",
        "Meng et al. 2021, arXiv:2108.01073",
        "A real image noised to a strength, then denoised under another condition.",
        "a conditional denoiser; an image",
        "toolkit.diffusion.editing.sdedit; diffgraft edit MODEL INPUT OUT --procedure sdedit --region whole",
    ),
    Method(
        "Differential Diffusion",
        "Levin & Fried 2023, arXiv:2306.00950",
        "An edit with a strength of its own at every place, given as a map of the image's size.",
        "a conditional denoiser; an image and a change map or a mask",
        "toolkit.methods.local_edit.edit; diffgraft edit MODEL INPUT OUT --procedure sdedit",
    ),
    Method(
        "Symptom inpainting",
        "Lugmayr et al. 2022 (RePaint), arXiv:2201.09865; Muhammad et al. 2023; Rouzrokh et al. 2022, arXiv:2210.12113",
        "The masked part of an image made anew under another condition, the rest exactly as it was.",
        "a conditional denoiser; an image and a mask",
        "toolkit.methods.local_edit.inpaint; diffgraft edit MODEL INPUT OUT --procedure inpaint",
    ),
)


@dataclass(frozen=True)
class LocalEdit:
    """Settings of `edit`, `invert` and `inpaint`: the walk; feather in pixels; RePaint's jump length and passes.

    detail: what the codec of a latent model loses of an image, fine texture, is not counted as a change, but kept.
    """

    walk: Walk = field(default_factory=Walk)
    feather: float = 2.0
    jump: int = 5
    resamples: int = 4
    detail: bool = False


@dataclass(frozen=True)
class Change:
    """What an edit changed: mean absolute difference inside and outside the mask, in units of the image (black to
    white is 2), and SSIM outside, 1 where nothing is. NaN: there is no such place.
    """

    inside: float
    outside: float
    ssim_outside: float


@dataclass(frozen=True)
class Edited:
    """images (N, C, H, W), the outside put back. made: what the model alone answers; changes: measured on that.

    moved (N, C, H, W): the change before it is weighed and added to the source, made - source, or less the codec's part.
    """

    images: np.ndarray
    changes: tuple[Change, ...]
    made: np.ndarray
    moved: np.ndarray


def edit(run: Run, images: np.ndarray, strengths: np.ndarray, settings: LocalEdit) -> Edited:
    """Every image (N, C, H, W) edited towards its condition as much as its map says: strengths (N, H, W) in [0, 1], 0 keeps.

    A strength is t / T of the model's clock, as everywhere; an image's walk starts at its strongest place. Errors: a map of
    another size than its image, or with no place to change.
    """
    _check(images, strengths)
    model = run.model
    shape = model.denoiser.spec.shape
    values, place = np.unique(strengths, return_inverse=True)
    # One at a time: the top of a map must be the very number that its schedule begins with.
    clock = clock_of(model.meta)
    reached = [schedule.strength_to_sigma(float(s), clock) if s > 0 else 0.0 for s in values]
    levels = _pooled(np.array(reached)[place.reshape(strengths.shape)], shape)

    def change(denoise: Denoise, x: Array, sigmas: list[float], noise: Draws, rows: np.ndarray) -> Array:
        local = model.asarray(np.minimum(levels[rows], sigmas[0]))
        return editing.differential(guided.sampler(settings.walk), denoise, x, local, sigmas, noise)

    strongest = strengths.max((1, 2))
    made = guided.apply(run, change, images, strongest, settings.walk)
    return keep_outside(model, images, made, strengths > 0, settings)


def invert(
    run: Run, images: np.ndarray, masks: np.ndarray, strength: float, stated: Conditions, settings: LocalEdit
) -> Edited:
    """Every image (N, C, H, W) encoded under its own labels `stated` up to the strength, decoded towards its condition.

    Deterministic, so what the labels do not speak of stays (DDIB, Su et al. 2023, arXiv:2203.08382; DDIM inversion). The
    way up is unguided. masks (N, H, W), boolean: outside, the source is put back. Errors: a sampler that draws noise.
    """
    _check(images, masks.astype(float))

    def change(denoise: Denoise, x: Array, sigmas: list[float], noise: Draws, rows: np.ndarray) -> Array:
        own = guidance.conditioned(run.model.denoiser, {k: run.model.asarray(v[rows]) for k, v in stated.items()})
        return editing.counterfactual(
            guided.sampler(settings.walk),
            guidance.with_callback(own, lambda *_: run.watch()),
            denoise,
            x,
            sigmas,
            noise,
        )

    strengths = np.full(len(images), strength)
    made = guided.apply(run, change, images, strengths, settings.walk)
    return keep_outside(run.model, images, made, masks, settings)


def inpaint(run: Run, images: np.ndarray, masks: np.ndarray, settings: LocalEdit) -> Edited:
    """Every image (N, C, H, W) with what lies in its mask (N, H, W, boolean) made anew towards its condition.

    About settings.resamples times the steps of `edit`. Errors: a mask of another size, or an empty one.
    """
    _check(images, masks.astype(float))
    model = run.model
    spec = model.denoiser.spec
    known = 1 - _pooled(masks.astype(np.float32), spec.shape)

    def change(denoise: Denoise, x: Array, sigmas: list[float], noise: Draws, rows: np.ndarray) -> Array:
        return editing.inpaint(
            guided.sampler(settings.walk), denoise, x, model.asarray(known[rows]), sigmas, noise,
            spec.initial_scale(sigmas[0]), editing.Resampling(settings.jump, settings.resamples),
        )  # fmt: skip

    made = guided.apply(run, change, images, np.ones(len(images)), settings.walk)
    return keep_outside(model, images, made, masks, settings)


def change_outside(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> Change:
    """What changed between two images (C, H, W) in [-1, 1], inside the boolean mask (H, W) and outside it.

    SSIM outside: the inside of the first image put into both, averaged over the windows that reach outside; NaN for an
    image smaller than a window.
    """
    difference = np.abs(after.astype(float) - before).mean(0)
    inside, outside = (float(difference[where].mean()) if where.any() else math.nan for where in (mask, ~mask))
    if mask.all() or min(mask.shape) < WINDOW:
        return Change(inside, outside, math.nan)
    alike = float(ssim(before[None], np.where(mask, before, after)[None])[0])
    half = WINDOW // 2
    within = np.asarray(ndimage.binary_erosion(mask, np.ones((WINDOW, WINDOW), bool)))[half:-half, half:-half]
    # A window that lies inside has two equal images, and so counts 1 in the average over all.
    return Change(inside, outside, 1 - (1 - alike) / (1 - float(within.mean())))


def _check(images: np.ndarray, strengths: np.ndarray) -> None:
    if strengths.shape != (len(images), *images.shape[-2:]):
        raise Error(
            f"A change map or mask has the size of its image; found {strengths.shape} for {images.shape}. Resize it."
        )
    if not np.all((strengths >= 0) & (strengths <= 1)) or not strengths.any(axis=(1, 2)).all():
        raise Error(
            f"A change map has values from 0 to 1 and is not 0 everywhere; found {strengths.min():.3g} to "
            f"{strengths.max():.3g}. Mark what is to change."
        )


def _pooled(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """(N, H, W) on the grid of the model's space, (N, 1, h, w): of each block the largest."""
    high, wide = (size // own for size, own in zip(values.shape[1:], shape[-2:], strict=True))
    blocks = values.reshape(len(values), shape[-2], high, shape[-1], wide)
    return blocks.max(axis=(2, 4))[:, None].astype(np.float32)


def keep_outside(model: Model, before: np.ndarray, made: np.ndarray, masks: np.ndarray, settings: LocalEdit) -> Edited:
    """Images (N, C, H, W) with what was made of them inside their masks (N, H, W, boolean), bit by bit theirs outside."""
    changes = tuple(change_outside(*triple) for triple in zip(before, made, masks, strict=True))
    weight = np.stack([feather_weights(mask, settings.feather) for mask in masks])[:, None]
    moved = made - (reconstruct(model, before) if settings.detail else before)
    blended = np.where(weight > 0, np.clip(before + weight * moved, -1, 1), before)
    return Edited(blended.astype(np.float32), changes, made, moved)


def reconstruct(model: Model, images: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) through the codec and back, unedited: what a latent model makes of them in any case."""
    if isinstance(model.codec, Identity):
        return images
    parts = [images[n : n + BATCH] for n in range(0, len(images), BATCH)]
    found = [model.asnumpy(model.codec.decode(model.codec.encode(model.asarray(part)))) for part in parts]
    return np.clip(np.concatenate(found), -1, 1).astype(np.float32)


def feather_weights(mask: np.ndarray, feather: float) -> np.ndarray:
    """(H, W) share of what was made: 0 outside, rising to 1 over `feather` pixels within the mask."""
    if feather <= 0 or mask.all() or not mask.any():
        return mask.astype(np.float32)
    # Only round the mask, which of a large film is a small part: the nearest place outside is never farther than its rim.
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    part = tuple(slice(max(at[0] - 1, 0), at[-1] + 2) for at in (rows, columns))
    weight = np.zeros(mask.shape, np.float32)
    weight[part] = np.clip(np.asarray(ndimage.distance_transform_edt(mask[part])) / (feather + 1), 0, 1)
    return weight
