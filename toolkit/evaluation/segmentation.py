"""How well masks agree, by MONAI's metrics: Dice and intersection over union, a figure an image. torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.meaniou import compute_iou

from toolkit.example import Error

__all__ = ["Overlap", "mask_overlap"]


@dataclass(frozen=True)
class Overlap:
    """dice, iou (N,): of each image, NaN where neither mask marks anything; mean_dice, mean_iou: of the others."""

    dice: np.ndarray
    iou: np.ndarray
    mean_dice: float
    mean_iou: float


def mask_overlap(predicted: np.ndarray, truth: np.ndarray) -> Overlap:
    """Boolean masks (N, H, W) of a prediction and of the truth. Errors: shapes that differ.

    IoU as MONAI counts it, Dice = 2 IoU / (1 + IoU), which is the same count written otherwise.
    """
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise Error(
            f"Masks are compared as (N, H, W), one beside the other; found {predicted.shape} and {truth.shape}."
        )
    pair = [torch.from_numpy(np.ascontiguousarray(mask, np.float32))[:, None] for mask in (predicted, truth)]
    empty = ~np.any(predicted | truth, axis=(1, 2))
    iou = compute_iou(*pair, include_background=True, ignore_empty=False)
    iou[torch.from_numpy(empty)] = torch.nan
    dice = 2 * iou / (1 + iou)
    mean_dice, mean_iou = (float(v[~empty].mean()) if not empty.all() else float("nan") for v in (dice, iou))
    return Overlap(dice.numpy()[:, 0], iou.numpy()[:, 0], mean_dice, mean_iou)
