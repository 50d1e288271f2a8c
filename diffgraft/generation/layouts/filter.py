"""The filter of images that were made for layouts: the model's detector, and the limit that it is measured by on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffgraft.generation.layouts.source import held_out_from_detector
from toolkit.diffusion.model import Model
from toolkit.evaluation.detection.metrics import Detections, as_truth, decode
from toolkit.example import Boxes, Error
from toolkit.methods import faithfulness
from toolkit.methods.faithfulness import Calibration, Judgement

__all__ = ["LayoutFilter", "calibrate_filter", "detect_objects", "stored_calibration"]

BATCH = 16


@dataclass(frozen=True)
class LayoutFilter:
    """What an image is judged by: the calibration of the detector, the limit of the error, and what they were measured on."""

    calibration: Calibration
    limit: float
    quantile: float
    measured_on: str
    names: tuple[str, ...]

    def judge(self, model: Model, images: np.ndarray, layouts: Sequence[Boxes]) -> list[Judgement]:
        """What the detector of a model says of images (N, C, H, W) for their layouts."""
        found = detect_objects(model, images)
        return [
            faithfulness.judge(as_truth(boxes, self.names), each, self.calibration.thresholds)
            for boxes, each in zip(layouts, found, strict=True)
        ]


def stored_calibration(model: Model) -> Calibration | None:
    """What training measured of the detector on images that were held out; None where it did not."""
    known = model.meta["parts"].get("detector", {}).get("run", {}).get("faithful")
    return None if known is None else Calibration.from_json(known)


def detect_objects(model: Model, images: np.ndarray) -> list[Detections]:
    """What a model's detector finds on images (N, C, H, W) in [-1, 1], with all scores. Errors: a model without one."""
    if model.detector is None:
        raise Error("Looking for objects needs a model with a detector; this one has none: train --part detector")
    found: list[Detections] = []
    for first in range(0, len(images), BATCH):
        dense = model.detector(model.asarray(images[first : first + BATCH]))
        found += decode({name: model.asnumpy(value) for name, value in dense.items()})
    return found


def calibrate_filter(
    model: Model, names: tuple[str, ...], check: Path | None, like: Path | None, quantile: float
) -> LayoutFilter:
    """What images are judged by: measured on the real images of `check`, else on those of `like` that were held out from the
    detector, where there are enough; else at training.

    Errors: a model without a detector, nothing to measure on, a quantile that was not measured.
    """
    if model.detector is None:
        raise Error("A filter needs a model with a detector; this one has none. Train one: --part detector")
    where = check
    real = [] if check is None else held_out_from_detector(model.meta, check, names)
    if check is None and like is not None:
        real, where = held_out_from_detector(model.meta, like, names, other_sizes=False), like
    if check is not None or len(real) >= faithfulness.LEAST_REAL:
        asked = [as_truth(e.annotation.boxes, names) for e in real if e.annotation.boxes is not None]
        found = detect_objects(model, np.stack([e.image for e in real])) if real else []
        known, measured_on = faithfulness.calibrate(asked, found, names), f"{len(real)} held-out images of {where}"
    elif (stored := stored_calibration(model)) is not None:
        known, measured_on = stored, f"{stored.counts.images} images held out at training"
    else:
        raise Error(
            "A filter needs to know how the detector does on real images that it did not learn from, and neither the model "
            "nor --like tells. Give such images: --check DATA, or leave the filter out: --no-filter"
        )
    return LayoutFilter(known, known.limit(quantile), quantile, measured_on, names)
