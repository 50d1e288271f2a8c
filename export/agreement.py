"""Whether a fused graph does what the loop that it stands for does. Numpy only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from export.runtime import fused
from export.sampling.plan import Plan, weight
from export.verify import LIMITS, Parity, compare, require, sample_conditions
from toolkit.diffusion import editing, guidance
from toolkit.diffusion.model import TEXT, Array, Cond, Denoise, Model, Spec
from toolkit.diffusion.noise import Purpose, Seeded, gaussian
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.models.folder import image_shape, spec_of

__all__ = ["check", "null_fields", "reference_counterfactuals", "reference_images"]

ROWS = 3


def check(
    root: str | Path, reference: Model, name: str = "sampler", precision: str = "fp32", backend: str = "onnx"
) -> list[Parity]:
    """Run the fused graph of a folder and the loop over the reference's parts on the same noise or images.

    Errors: a final image that is further off than the precision allows, or is not finite.
    """
    run = fused.open(root, name, precision, backend)
    spec, limit = spec_of(reference.meta), LIMITS[precision]
    cond = sample_conditions(spec, ROWS)
    if run.plan.healing is None:
        null = null_fields(spec, cond)
        ours = reference_images(reference, run.plan, cond, null, 0, range(ROWS))
        rows = [compare(f"{name}, image", ours, run(0, range(ROWS), cond, null), limit)]
    else:
        images = np.tanh(gaussian(image_shape(reference.meta), 1, range(ROWS), Purpose.START, 0))
        cond[run.plan.healing.label] = np.zeros_like(cond[run.plan.healing.label])
        ours = reference_counterfactuals(reference, run.plan, images, cond)
        theirs, anomaly = run(images, cond)
        # The change is what is compared: an image that is left as it was would agree with most of it.
        rows = [compare(f"{name}, change", ours - images, theirs - images, limit)]
        if anomaly is not None:
            rows.append(compare(f"{name}, anomaly", reference_map(run.plan, images - ours), anomaly, limit))
    for row in rows:
        require(row)
    return rows


def reference_images(model: Model, plan: Plan, cond: Cond, null: Cond, seed: int, samples: Any) -> np.ndarray:
    """What a plan says, by the sampler itself: images (N, C, H, W)."""
    wanted, plain = ({k: model.asarray(v) for k, v in fields.items()} for fields in (cond, null))
    denoise = guidance.classifier_free(_denoiser(model, plan.denoiser), wanted, plain, plan.guidance)
    (levels,) = plan.schedules
    noise = Seeded(seed, samples, spec_of(model.meta).shape, model.asarray)
    x = editing.generate(SAMPLERS[plan.sampler], denoise, levels, noise, plan.initial_scale)
    return np.clip(model.asnumpy(model.codec.decode(x / plan.final_scale)), -1, 1)


def reference_counterfactuals(model: Model, plan: Plan, images: np.ndarray, cond: Cond) -> np.ndarray:
    """The counterfactual that a plan says, by the sampler itself, one schedule and view after the other."""
    healing = plan.healing
    assert healing is not None
    null = null_fields(spec_of(model.meta), cond, healing.label)
    wanted, plain = ({k: model.asarray(v) for k, v in fields.items()} for fields in (cond, null))
    encode = guidance.conditioned(_denoiser(model, healing.encoder), plain)
    guided = guidance.classifier_free(_denoiser(model, plan.denoiser), wanted, plain, plan.guidance)
    decode = _toward(model, plan, guided, cond[healing.label])
    total = np.zeros(images.shape)
    turns = (1, -1) if healing.mirror else (1,)
    for levels in plan.schedules:
        for turn in turns:
            x = model.codec.encode(model.asarray(np.ascontiguousarray(images[..., ::turn])))
            noisy = editing.counterfactual(SAMPLERS[plan.sampler], encode, decode, x, levels, _none)
            total += model.asnumpy(model.codec.decode(noisy))[..., ::turn]
    return (total / (len(turns) * len(plan.schedules))).astype(np.float32)


def reference_map(plan: Plan, difference: np.ndarray) -> np.ndarray:
    """The map of single slices from image - counterfactual, as export.sampling.sampler says it, (N, 1, H, W)."""
    from scipy import ndimage

    healing = plan.healing
    assert healing is not None
    positive = np.maximum(difference[:, :1], 0)
    other = ndimage.gaussian_filter(positive, (0, 0, healing.opposite, healing.opposite))[..., ::-1]
    rest = np.maximum(positive - healing.symmetry * other, 0)
    return ndimage.gaussian_filter(rest, (0, 0, healing.smooth, healing.smooth))


def null_fields(spec: Spec, cond: Cond, label: str | None = None) -> dict[str, np.ndarray]:
    """The fields with nothing stated, or everything but one label; of a text some other text."""
    names = spec.fields if label is None else [label]
    null = {k: np.full_like(cond[k], spec.fields[k].null) for k in names}
    if TEXT in null:
        null[TEXT] = np.ascontiguousarray(cond[TEXT][::-1])
    return {**cond, **null}


def _toward(model: Model, plan: Plan, guided: Denoise, label: np.ndarray) -> Denoise:
    if not plan.classifier_guidance:
        return guided
    assert model.gradient is not None
    classes = model.meta["parts"]["classifier"]["classes"]
    target = model.asarray(np.eye(classes, dtype=np.float32)[label])
    along = guidance.classifier_guided(guided, model.gradient, target, plan.classifier_guidance)
    assert weight(plan, math.inf) == plan.classifier_guidance
    return guidance.interval(along, guided, plan.guidance_low, math.inf)


def _denoiser(model: Model, name: str) -> Any:
    return getattr(model, name)


def _none(step: int) -> Array:
    raise AssertionError(f"a deterministic sampler drew noise at step {step}")
