"""Contenders of the task counterfactual: MR slices in, what they would be without a lesion out.

Wolleb et al. 2022 (arXiv:2203.04306): encoded by DDIM with the label not stated, decoded by DDIM with the gradient of a
classifier towards "healthy". Each function opens a contender and answers run(batch) -> slices (batch, rows, columns).
All take the same noise levels, those of the linear DDPM clock, and count the evaluations the same: the first level above
0 is where a slice is taken to be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[int], np.ndarray]

CLOCK = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}


def _networks(job: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Denoiser, gradient of the classifier, and the slices with their conditions, in torch."""
    import torch

    from toolkit.networks import folder

    root, inputs = Path(job["model"]), np.load(job["inputs"])
    denoiser, classifier = folder.load_part(root, "denoiser"), folder.load_part(root, "classifier")
    data = {name: torch.from_numpy(inputs[name]) for name in inputs.files}

    def gradient(x: Any, sigma: Any, target: Any) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad((classifier(x, sigma) * target).sum(), x)[0]

    return denoiser, gradient, data


def _loop(job: dict[str, Any], compile: bool, up: Any, down: Any, alphas: Any) -> Run:
    """The loop that the schedulers of diffusers and MONAI leave to the user.

    up(x0, t, x), down(x0, t, x): one step of a scheduler that is told x0, on x_vp = x / sqrt(1 + sigma^2).
    """
    import torch

    denoiser, gradient, data = _networks(job)
    if compile:
        denoiser = torch.compile(denoiser, dynamic=False)
    steps, scale = job["timesteps"], job["guidance"]

    def run(batch: int) -> np.ndarray:
        cond = {name: data[name][:batch] for name in job["fields"]}
        x, target = data["images"][:batch] * alphas[steps[-1]] ** 0.5, data["target"][:batch]
        with torch.no_grad():
            for t in steps[:0:-1]:
                sigma = ((1 - alphas[t]) / alphas[t]).sqrt()
                x = up(denoiser(x / alphas[t].sqrt(), sigma.expand(batch), **cond), t, x)
            for t in steps:
                sigma = ((1 - alphas[t]) / alphas[t]).sqrt()
                seen = x / alphas[t].sqrt()
                x0 = denoiser(seen, sigma.expand(batch), **cond)
                x0 = x0 + scale * sigma**2 * gradient(seen.clone(), sigma.expand(batch), target)
                x = down(x0, t, x)
        return x[:, 0].numpy()

    return run


def eager(job: dict[str, Any], compile: str = "") -> Run:
    """torch, with the schedulers of diffusers."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    told = {**CLOCK, "prediction_type": "sample", "clip_sample": False}
    up, down = DDIMInverseScheduler(**told), DDIMScheduler(**told)
    for scheduler in (up, down):
        scheduler.set_timesteps(job["of"])
    ratio = CLOCK["num_train_timesteps"] // job["of"]
    # The inverse scheduler is told the step that it goes to.
    return _loop(
        job, bool(compile),
        lambda x0, t, x: up.step(x0, t + ratio, x).prev_sample,
        lambda x0, t, x: down.step(x0, t, x).prev_sample,
        down.alphas_cumprod,
    )  # fmt: skip


def monai(job: dict[str, Any]) -> Run:
    """torch, with MONAI's scheduler, as in MONAI's own tutorial of this method."""
    from monai.networks.schedulers import DDIMScheduler

    scheduler = DDIMScheduler(**CLOCK, prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(job["of"])
    return _loop(
        job, False,
        lambda x0, t, x: scheduler.reversed_step(x0, t, x)[0],
        lambda x0, t, x: scheduler.step(x0, t, x)[0],
        scheduler.alphas_cumprod,
    )  # fmt: skip


def numpy_loop(job: dict[str, Any]) -> Run:
    """What one writes by hand around our ONNX graphs."""
    import onnxruntime

    root, inputs = Path(job["model"]), np.load(job["inputs"])
    sigmas, scale = inputs["sigmas"].astype(np.float32), np.float32(job["guidance"])
    denoiser, gradient = (
        onnxruntime.InferenceSession(str(root / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("denoiser", "gradient")
    )

    def run(batch: int) -> np.ndarray:
        cond = {name: inputs[name][:batch] for name in job["fields"]}
        x, target = inputs["images"][:batch], inputs["target"][:batch]
        for sigma, above in _pairs(sigmas[-2::-1]):
            denoised = denoiser.run(None, {"x": x, "sigma": np.full(batch, sigma), **cond})[0]
            x = denoised + above / sigma * (x - denoised)
        for sigma, below in _pairs(sigmas):
            level = np.full(batch, sigma)
            denoised = denoiser.run(None, {"x": x, "sigma": level, **cond})[0]
            denoised += scale * sigma**2 * gradient.run(None, {"x": x, "sigma": level, "target": target})[0]
            x = denoised + below / sigma * (x - denoised)
        return x[:, 0]

    return run


def _pairs(values: np.ndarray) -> Iterator[tuple[np.float32, np.float32]]:
    return itertools.pairwise(values)


def ours(job: dict[str, Any], backend: str) -> Run:
    """This package, by the procedure that `diffgraft counterfactual` calls."""
    from diffgraft import models
    from toolkit.diffusion import editing, guidance
    from toolkit.diffusion.noise import Seeded
    from toolkit.diffusion.samplers import SAMPLERS
    from toolkit.methods.counterfactual import decoder
    from toolkit.settings import Counterfactual

    model, inputs = models.open(job["model"], backend), np.load(job["inputs"])
    settings = Counterfactual(steps=job["steps"], guidance=0.0, classifier_guidance=job["guidance"], mirror=False)
    sigmas = [float(sigma) for sigma in inputs["sigmas"]]

    def run(batch: int) -> np.ndarray:
        cond = {name: model.asarray(inputs[name][:batch]) for name in job["fields"]}
        x, target = (model.asarray(inputs[name][:batch]) for name in ("images", "target"))
        encode = guidance.with_callback(guidance.conditioned(model.denoiser, cond), _seen)
        decode = guidance.with_callback(decoder(model, cond, cond, target, settings), _seen)
        noise = Seeded(0, range(batch), x.shape[1:], model.asarray)
        return model.asnumpy(editing.counterfactual(SAMPLERS["euler"], encode, decode, x, sigmas, noise))[:, 0]

    return run


def fused(job: dict[str, Any], backend: str) -> Run:
    """This package, the whole run as one graph: slices in, counterfactuals out, and anomaly maps which are not asked here."""
    from domains import brain_mri
    from export.runtime import fused as graphs

    name, _, precision = backend.partition(":")
    make, inputs = graphs.open(job["fused"], "sampler", precision or "fp32", name), np.load(job["inputs"])

    def run(batch: int) -> np.ndarray:
        cond = {field: inputs[field][:batch] for field in job["fields"]}
        cond[brain_mri.TARGET] = np.zeros(batch, np.int64)
        return make(inputs["images"][:batch], cond)[0][:, 0]

    return run


def fast(job: dict[str, Any], backend: str) -> Run:
    """This package with the model's few-step student, as `diffgraft counterfactual` runs it on each slice."""
    from diffgraft import models
    from diffgraft.models.defaults import student_counterfactual, student_plan
    from domains import brain_mri
    from toolkit.methods.counterfactual import counterfactual

    model, inputs = models.open(job["model"], backend), np.load(job["inputs"])
    settings = student_counterfactual(brain_mri.QUALITY["fast"], student_plan(model.meta))

    def run(batch: int) -> np.ndarray:
        null = {field: inputs[field][:batch] for field in job["fields"]}
        goal = {**null, brain_mri.TARGET: np.zeros(batch, np.int64)}
        return counterfactual(model, inputs["images"][:batch], null, goal, inputs["target"][:batch], settings)[:, 0]

    return run


def _seen(*_: Any) -> None:
    """The check for NaN of `watched` is part of ours, so it is timed."""
