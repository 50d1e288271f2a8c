"""How a detector is trained: which places stand for which object, and the loss of what they say of it.

What nobody marked counts as ground, as it does in average precision. Where annotators left objects out, such as cells cut
by the rim of a smear, a detector learns to leave them out too: scores are lower there, and figures on images annotated
alike do not show it. A box that it misses at a rim says less than one in the middle.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from toolkit.diffusion.model import BOXES, OBJECTS, Spec
from toolkit.networks.detector import STRIDE, corners, places
from toolkit.settings import Training
from toolkit.training.loader import Batch

__all__ = ["assign_targets", "detection_loss", "generalised_iou"]

RADIUS = 1.5
"""Places whose middle is at most this many strides from that of a box, in each direction, stand for it."""

ALPHA, GAMMA = 0.75, 2.0
"""Of the loss of places without an object (Zhang et al. 2021, eq. 2)."""

PLACED = 2.0
"""Weight of the loss of the boxes beside that of the classes."""


def detection_loss(
    module: nn.Module, batch: Batch, spec: Spec, settings: Training, generator: torch.Generator
) -> Tensor:
    """Varifocal loss of the classes and 1 - GIoU of the boxes, each over the number of places that stand for an object.

    Zhang et al. 2021, arXiv:2008.13367, eq. 2: a place of an object has to score, for its class, the overlap of its box
    with the object's; others, weighed by alpha p^gamma, nought. Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    classes = int(spec.fields[OBJECTS].null)
    logits, sides = module.dense(batch.image)  # type: ignore[operator]
    rows, cols = logits.shape[2:]
    height, width = batch.image.shape[2:]
    boxes = batch.cond[BOXES].float() * torch.tensor([width, height] * 2, device=logits.device)
    which = assign_targets(boxes, batch.cond[OBJECTS] < classes, rows, cols)
    there = which >= 0
    chosen = which.clamp(min=0).flatten(1)
    goal = boxes.gather(1, chosen[..., None].expand(-1, -1, 4)).unflatten(1, (rows, cols))[there]
    kind = batch.cond[OBJECTS].gather(1, chosen).unflatten(1, (rows, cols))[there]
    made = corners(sides).permute(0, 2, 3, 1)[there]
    plain, general = generalised_iou(made, goal)
    quality = torch.zeros_like(logits).permute(0, 2, 3, 1)
    quality[there] = nnf.one_hot(kind, classes).to(quality) * plain.detach().clamp(min=0.0)[:, None]
    quality = quality.permute(0, 3, 1, 2)
    error = nnf.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    weight = torch.where(quality > 0, quality, ALPHA * logits.detach().sigmoid() ** GAMMA)
    count = there.sum().clamp(min=1)
    return (weight * error).sum() / count + PLACED * (1 - general).sum() / count


def assign_targets(boxes: Tensor, there: Tensor, rows: int, cols: int) -> Tensor:
    """(B, rows, cols): the index of the box that each place of the map stands for, -1 for none.

    boxes (B, N, 4) in pixels, there (B, N). A place near the middle of a box, and inside of it, stands for it (the center
    sampling of Tian et al. 2019, v2), and the place that the middle of a box lies in does however small it is. Of several
    boxes the smallest.
    """
    middle = places(rows, cols, boxes.device).permute(1, 2, 0)[None, None]  # (1, 1, rows, cols, 2)
    low, high = boxes[:, :, None, None, :2], boxes[:, :, None, None, 2:]
    away = (middle - (low + high) / 2).abs().amax(-1)
    inside = ((middle > low) & (middle < high)).all(-1)
    own = (low + high) / 2 // STRIDE == middle // STRIDE
    near = ((away <= RADIUS * STRIDE) & inside | own.all(-1)) & there[..., None, None]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    size = torch.where(near, area[..., None, None], torch.inf)
    least, which = size.min(1)
    return torch.where(least < torch.inf, which, -1)


def generalised_iou(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes (M, 4) with boxes (M, 4), pair by pair, and the generalised one, in [-1, 1]."""
    sides = torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])
    around = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    both, hull = sides.clamp(min=0).prod(1), around.prod(1).clamp(min=1e-6)
    union = ((first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - both).clamp(min=1e-6)
    plain = both / union
    return plain, plain - (hull - union) / hull
