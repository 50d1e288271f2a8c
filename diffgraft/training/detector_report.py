"""What a trained detector finds on images that it was never trained on: precision, and the boxes to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffgraft import reporting
from toolkit.evaluation.detection.metrics import Detections, as_truth, average_precision, best_thresholds, decode
from toolkit.example import Annotation, Boxes
from toolkit.methods import faithfulness

__all__ = ["detect", "measure_detector"]

FIGURES = ("held_out_ap50", "held_out_ap", "held_out_ap50_of", "held_out_ap_of", "thresholds")

SHOWN = 6
"""Held-out images in the report."""


@torch.no_grad()
def detect(module: nn.Module, images: Tensor) -> list[Detections]:
    """What a detector module finds on images (B, C, H, W) in [-1, 1]."""
    where, found = next(module.parameters()).device, []
    for part in images.split(32):
        found += decode({name: value.cpu().numpy() for name, value in module(part.to(where)).items()})
    return found


def measure_detector(
    module: nn.Module, images: Tensor, annotations: Sequence[Annotation], names: Sequence[str]
) -> tuple[dict[str, Any], list[reporting.Block]]:
    """Figures for model.json, None where nothing was held out that has an object, and blocks for the report.

    images (B, C, H, W), never trained on, and their annotations, all with boxes.
    """
    boxes = [_known(annotation) for annotation in annotations]
    if not any(each.names for each in boxes):
        unknown: dict[str, Any] = dict.fromkeys(FIGURES)
        return unknown, [reporting.Text("No images with objects were held out, so there is nothing to measure on.")]
    size = (images.shape[2], images.shape[3])
    found, truths = detect(module, images), [as_truth(each, names) for each in boxes]
    judged = average_precision(truths, found, names, size)
    least = best_thresholds(truths, found, names)
    figures: dict[str, Any] = {
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
    header = ["class", "objects", "AP50", "AP", "score from which on F1 is best"]
    caption = f"Average precision on {len(images)} held-out images (COCO's protocol)"
    grid = np.linspace(0, 1, 101).tolist()
    curves = {name: list(zip(grid, judged.curve[name].tolist(), strict=True)) for name in names if judged.objects[name]}
    return figures, [
        reporting.Table(header, rows, caption),
        reporting.Curve(curves, "recall", "precision", "Precision at an overlap of 0.5"),
        reporting.BoxLegend(names),
        _sheet(images, boxes, found, least, names),
    ]


def _known(annotation: Annotation) -> Boxes:
    return Boxes(np.zeros((0, 4)), ()) if annotation.boxes is None else annotation.boxes


def _sheet(
    images: Tensor, boxes: Sequence[Boxes], found: Sequence[Detections], least: np.ndarray, names: Sequence[str]
) -> reporting.Sheet:
    """Images with most classes first, what is annotated above what is found."""
    order = sorted(range(len(boxes)), key=lambda n: (-len(set(boxes[n].names)), n))[:SHOWN]
    shown = {n: images[n].numpy() for n in order}
    rows = {
        "annotated": [reporting.draw_boxes(image, boxes[n], names) for n, image in shown.items()],
        "found": [reporting.draw_detections(image, found[n], names, least) for n, image in shown.items()],
    }
    return reporting.Sheet.of_rows(rows, "Held-out images: annotated above found, with scores of 100")
