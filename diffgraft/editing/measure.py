"""What an edit did, measured beside what nothing, the codec alone and another image would have done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from diffgraft.editing.result import EditedImage, EditResult, Measured, ObjectEditResult
from diffgraft.generation.layouts.filter import detect_objects
from diffgraft.models.features import extract_features
from toolkit.diffusion.model import Identity, Model
from toolkit.evaluation.detection.metrics import as_truth, layout_agreement
from toolkit.evaluation.finite import check_finite
from toolkit.evaluation.similarity import WINDOW, ssim
from toolkit.example import Annotation, Boxes, Example
from toolkit.methods.local_edit import Change, Edited, reconstruct
from toolkit.methods.object_drawing import Canvas, crop_to_model
from toolkit.methods.text_edit import edge_correlation

__all__ = ["measure", "measure_objects"]


def measure(
    model: Model, sources: np.ndarray, edited: Edited, wanted: Sequence[Annotation], variants: int, start_sigma: float
) -> EditResult:
    """Measure an edit. sources (N, C, H, W): the images that were edited, one after another `variants` times each."""
    stages = {"source": sources}
    if not isinstance(model.codec, Identity):
        stages["codec alone"] = reconstruct(model, sources)
    stages |= {"model alone": edited.made, "edited": edited.images}
    if len(sources) > variants:
        stages["another image"] = np.roll(sources, variants, axis=0)
    rows = {name: _measured(model, images, sources, wanted) for name, images in stages.items()}
    return EditResult(len(sources), *_mean_change(edited.changes), rows, start_sigma)


def measure_objects(
    model: Model, names: Sequence[str], images: Sequence[EditedImage], canvases: Sequence[Canvas],
    changes: Sequence[Sequence[Change]], start_sigma: float, aside: tuple[tuple[str, str], ...],
) -> ObjectEditResult:  # fmt: skip
    """Measure what drawing objects did. images, canvases, changes: one a picture."""
    bands = [_band(each.region, canvas.windows[0].scale) for each, canvas in zip(images, canvases, strict=True)]
    before, after = (
        _mean(_steps(getattr(each, stage), band) for each, band in zip(images, bands, strict=True))
        for stage in ("before", "after")
    )
    inside, outside, alike = _mean_change([change for each in changes for change in each])
    return ObjectEditResult(
        count=len(images),
        objects=sum(1 for canvas in canvases for name in canvas.wanted.names if name),
        removed=sum(canvas.removed for canvas in canvases),
        inside=inside,
        outside=outside,
        ssim_outside=alike,
        differing=sum(int((_levels(e.before) != _levels(e.after)).any(0)[~e.region].sum()) for e in images),
        rim=(before, after),
        found=_found(model, names, images, canvases),
        start_sigma=start_sigma,
        aside=aside,
    )


def _measured(model: Model, images: np.ndarray, sources: np.ndarray, wanted: Sequence[Annotation]) -> Measured:
    large = min(images.shape[2:]) >= WINDOW
    kept = [float(ssim(images[n : n + 1], sources[n : n + 1])[0]) if large else math.nan for n in range(len(images))]
    found = None if model.features is None else extract_features(model, images)
    named = likeness = None
    if found is not None:
        plan = model.meta["parts"]["features"]
        classes = np.array([row.labels.get(plan["target"], math.nan) for row in wanted])
        known = np.flatnonzero(classes < plan["classes"])  # the rest: not stated, or learned after this network was
        if len(known):
            named = float(np.exp(found["log_probability"][known, classes[known].astype(int)]).mean())
        prompted = [n for n, row in enumerate(wanted) if row.text]
        if prompted and model.likeness is not None:
            features = model.asarray(found["features"][prompted])
            cosines = model.asnumpy(model.likeness(features, [wanted[n].text or "" for n in prompted]))
            likeness = float(check_finite(cosines, "cosines of prompts and images").mean())
    return Measured(named, likeness, _mean(kept), _mean(edge_correlation(images, sources).tolist()))


def _found(
    model: Model, names: Sequence[str], images: Sequence[EditedImage], canvases: Sequence[Canvas]
) -> tuple[float, float] | None:
    """Part of the new boxes that the detector finds in the windows, before and after."""
    if model.detector is None:
        return None
    run = model.meta["parts"]["detector"].get("run", {}).get("thresholds") or {}
    least = np.array([run.get(name, 0.5) for name in names])
    hits: tuple[list[bool], list[bool]] = ([], [])
    for each, canvas in zip(images, canvases, strict=True):
        for window in canvas.windows:
            which = [n for n in window.which if canvas.wanted.names[n]]
            if which:
                moved = Boxes(
                    window.to_model(canvas.wanted.corners[which]), tuple(canvas.wanted.names[n] for n in which)
                )
                views = np.stack([crop_to_model(e.image, window) for e in (each.before, each.after)])
                for state, found in zip(hits, detect_objects(model, views), strict=True):
                    sure = found[found.scores >= least[found.classes]]
                    states = layout_agreement(as_truth(moved, names), sure, np.zeros(len(names))).state
                    state += [one == "matched" for one in states]
    return (float(np.mean(hits[0])), float(np.mean(hits[1]))) if hits[0] else None


def _mean_change(changes: Sequence[Change]) -> tuple[float, float, float]:
    """Change inside and outside, of a range of 255, and SSIM outside, by the model alone."""
    inside, outside, alike = (
        _mean(getattr(change, name) for change in changes) for name in ("inside", "outside", "ssim_outside")
    )
    return inside * 127.5, outside * 127.5, alike


def _levels(example: Example) -> np.ndarray:
    """As they are written."""
    depth = 65535 if example.image.shape[0] == 1 else 255
    return np.rint((np.clip(example.image, -1, 1) + 1) * (depth / 2)).astype(np.int32)


def _band(region: np.ndarray, scale: float) -> np.ndarray:
    """The pixels inside of a region that are next to what is outside, as far as two pixels of the model reach."""
    width = max(1, round(2 / scale))
    return region & ~np.asarray(ndimage.binary_erosion(region, np.ones((3, 3), bool), width, border_value=1), bool)


def _steps(example: Example, band: np.ndarray) -> float:
    """Mean difference of neighbouring pixels in a strip, of 255."""
    if not band.any():
        return math.nan
    down, across = np.gradient(example.image.mean(0) * 127.5)
    return float(np.hypot(down, across)[band].mean())


def _mean(values: Iterable[float]) -> float:
    """Of the values that are not NaN; NaN where there is none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
