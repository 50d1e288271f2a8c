"""What a trained detector finds on images that it was never trained on: precision, and the boxes to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffgraft import reporting
from diffgraft.reporting.boxes import Legend, drawn
from toolkit.evaluation.detection import (
    Detections,
    as_boxes,
    as_truth,
    average_precision,
    decode,
    thresholds,
)
from toolkit.example import Annotation, Boxes
from toolkit.methods import faithfulness

__all__ = ["figures_and_blocks", "found_on"]

SHOWN = 6
"""Held-out images in the report."""


@torch.no_grad()
def found_on(module: nn.Module, images: Tensor) -> list[Detections]:
    """What a detector module finds on images (B, C, H, W) in [-1, 1]."""
    where, found = next(module.parameters()).device, []
    for part in images.split(32):
        found += decode({name: value.cpu().numpy() for name, value in module(part.to(where)).items()})
    return found


def figures_and_blocks(
    module: nn.Module, images: Tensor, annotations: Sequence[Annotation], names: Sequence[str]
) -> tuple[dict[str, Any], list[reporting.Block]]:
    """Figures for model.json, None where nothing was held out that has an object, and blocks for the report.

    images (B, C, H, W), never trained on, and their annotations, all with boxes.
    """
    boxes = [_known(annotation) for annotation in annotations]
    if not any(each.names for each in boxes):
        nothing = dict.fromkeys(("held_out_ap50", "held_out_ap", "held_out_ap50_of", "held_out_ap_of", "thresholds"))
        return nothing, [reporting.Text("No images with objects were held out, so there is nothing to measure on.")]
    size = (images.shape[2], images.shape[3])
    found, truths = found_on(module, images), [as_truth(each, names) for each in boxes]
    judged = average_precision(truths, found, names, size)
    least = thresholds(truths, found, names)
    figures = {
        "held_out_ap50": judged.mean_ap50,
        "held_out_ap": judged.mean_ap,
        "held_out_ap50_of": {name: value if value == value else None for name, value in judged.ap50.items()},
        "held_out_ap_of": {name: value if value == value else None for name, value in judged.ap.items()},
        "thresholds": dict(zip(names, least.round(3).tolist(), strict=True)),
    }
    if len(truths) >= faithfulness.LEAST_REAL:  # what a filter of generated images goes by
        figures["faithful"] = faithfulness.calibrate(truths, found, names).to_json()
    rows = [
        [name, judged.objects[name], judged.ap50[name], judged.ap[name], float(least[k])]
        for k, name in enumerate(names)
    ]
    rows.append(["mean", sum(judged.objects.values()), judged.mean_ap50, judged.mean_ap, None])
    grid = np.linspace(0, 1, 101)
    curves = {name: list(zip(grid.tolist(), judged.curve[name].tolist(), strict=True)) for name in names}
    return figures, [
        reporting.Table(
            ["class", "objects", "AP50", "AP", "score from which on F1 is best"],
            rows,
            f"Average precision on {len(images)} held-out images (COCO's protocol)",
        ),
        reporting.Curve(
            {name: points for name, points in curves.items() if judged.objects[name]},
            "recall", "precision", "Precision at an overlap of 0.5",
        ),
        Legend(names),
        _sheet(images, boxes, found, least, names),
    ]  # fmt: skip


def _known(annotation: Annotation) -> Boxes:
    return Boxes(np.zeros((0, 4)), ()) if annotation.boxes is None else annotation.boxes


def _sheet(
    images: Tensor, boxes: Sequence[Boxes], found: Sequence[Detections], least: np.ndarray, names: Sequence[str]
) -> reporting.Sheet:
    """Images with most classes first, what is annotated above what is found."""
    order = sorted(range(len(boxes)), key=lambda n: (-len(set(boxes[n].names)), n))[:SHOWN]
    size = (images.shape[2], images.shape[3])
    sure = {n: found[n][found[n].scores >= least[found[n].classes]] for n in order}
    above = [drawn(images[n].numpy(), boxes[n], names) for n in order]
    below = [drawn(images[n].numpy(), as_boxes(sure[n], names, size), names, scores=sure[n].scores) for n in order]
    captions = ["annotated"] * len(order) + ["found"] * len(order)
    return reporting.Sheet(
        [*above, *below], captions, len(order), "Held-out images: annotated above found, with scores of 100"
    )
