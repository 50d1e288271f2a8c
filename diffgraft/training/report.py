"""What a training run shows of what it learned: samples beside real images, curves, and the figures that go with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffgraft import reporting
from toolkit.diffusion import editing, schedule
from toolkit.diffusion.model import Denoise, Spec
from toolkit.diffusion.noise import Purpose, Seeded, gaussian
from toolkit.diffusion.samplers import ode
from toolkit.evaluation.finite import check_finite
from toolkit.evaluation.similarity import sharpness
from toolkit.settings import Training
from toolkit.training.loader import Batch

__all__ = [
    "auroc", "balanced_accuracy", "classifier_blocks", "codec_blocks", "codec_figures", "denoiser_blocks", "features_blocks",
    "odds", "retrieval", "text_blocks", "write",
]  # fmt: skip

CLEAN = 0.05
"""The noise level at which an image of 8 bits is all but clean; a classifier is trained and judged there."""

SHOWN = 5
"""Samples of each class in the report of a denoiser."""


def write(
    place: Path, part: str, facts: Mapping[str, Any], blocks: Sequence[reporting.Block], plan: Mapping[str, Any],
    settings: Training, notice: str,
) -> None:  # fmt: skip
    """training/<part>/report.html: the loss, what was learned, the facts and every setting."""
    log = [json.loads(line) for line in (place / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curves = {
        "training": [(line["step"], line["loss"]) for line in log],
        "held out": [(line["step"], line["validation"]) for line in log if line["validation"] is not None],
    }
    shown = {k: v for k, v in facts.items() if k not in ("held_out_groups", "trained_on", "faithful")}
    shown["held_out_groups"] = len(facts["held_out_groups"])
    loss = reporting.Curve({k: v for k, v in curves.items() if v}, "step", "loss", "Loss")
    note = "Training: smoothed, with augmentation. Held out: of the averaged weights, never trained on."
    sections = [
        reporting.Section("Loss", [loss], note),
        reporting.Section("What it learned", blocks),
        reporting.Section("Facts", [reporting.Facts(shown)]),
    ]
    run = reporting.Run(settings={k: v for k, v in plan.items() if k != "run"}, seed=settings.seed)
    reporting.write(
        place / "report.html", f"Training of the {part}", f"{settings.steps} steps, {facts['samples']} images",
        sections, run, notice=notice,
        next_step="Write the graphs that run without torch: diffgraft export MODEL --to onnx",
    )  # fmt: skip


def denoiser_blocks(
    module: nn.Module, spec: Spec, samples: Batch, held_out: Batch, classes: Sequence[str],
    decode: Callable[[Tensor], Tensor],
) -> list[reporting.Block]:  # fmt: skip
    """New images of every class beside real ones of the same condition, and one image denoised from several levels.

    decode: from what the denoiser sees to images, (B, C, H, W).
    """
    where = next(module.parameters()).device

    def decoded(x: Tensor) -> list[np.ndarray]:
        return list(decode(x.cpu()).clamp(-1, 1).numpy())

    blocks: list[reporting.Block] = []
    for label, name in enumerate(classes):
        rows = _spread_out(samples, torch.nonzero(samples.target == label)[:, 0], spec)
        if not len(rows):
            continue
        real = samples[rows].to(where)
        noise = Seeded(label, range(len(rows)), spec.shape, lambda value: torch.from_numpy(value).to(where))
        sigmas = schedule.karras(18, spec.sigma_max, CLEAN)
        with torch.no_grad():
            denoise = _conditioned(module, real.cond)
            generated = editing.generate(ode.dpmpp_2m, denoise, sigmas, noise, spec.initial_scale(sigmas[0]))
        caption = f"{name}: generated above real of the same condition"
        blocks.append(reporting.Sheet.of_rows({"generated": decoded(generated), "real": decoded(real.image)}, caption))
    other = held_out if len(held_out.image) else samples
    one = other[torch.tensor([len(other.image) // 2])].to(where)
    noise = torch.from_numpy(gaussian(spec.shape, 0, [0], Purpose.START, 0)).to(where)
    levels = (0.1, 0.3, 1.0, 3.0, 10.0)
    with torch.no_grad():
        guesses = [_conditioned(module, one.cond)(one.image + s * noise, s) for s in levels]
    images = decoded(torch.cat([one.image, *guesses]))
    captions = ["clean", *(f"from sigma {s:g}" for s in levels)]
    kind = "A held-out image" if len(held_out.image) else "An image"
    return [*blocks, reporting.Sheet(images, captions, len(images), f"{kind}, denoised from several noise levels")]


def _conditioned(module: nn.Module, cond: Mapping[str, Tensor]) -> Denoise:
    return lambda x, sigma: module(x, _level(sigma, x), **cond)


def _spread_out(samples: Batch, rows: Tensor, spec: Spec) -> Tensor:
    """At most SHOWN of the rows, evenly over the range of the numbers that they are conditioned on."""
    numbers = [k for k, f in spec.fields.items() if f.dtype == "float32" and not f.shape]
    order = sorted(rows.tolist(), key=lambda row: [float(samples.cond[k][row]) for k in numbers])
    kept = min(SHOWN, len(order))
    return torch.tensor([order[int((n + 0.5) * len(order) / kept)] for n in range(kept)], dtype=torch.long)


def classifier_blocks(module: nn.Module, samples: Batch, held_out: Batch) -> list[reporting.Block]:
    """How well it tells held-out images apart at each noise level, beside what their position alone would tell."""
    if len(held_out.target.unique()) < 2:
        return [reporting.Text("No images of both classes were held out, so there is nothing to measure on.")]
    levels = (CLEAN, 0.2, 0.5, 1.0, 2.0, 5.0)
    reached = [auroc(odds(module, held_out, s), held_out) for s in levels]
    rows: list[list[Any]] = [[f"classifier at sigma {s:g}", value] for s, value in zip(levels, reached, strict=True)]
    curves = {"classifier": list(zip(levels, reached, strict=True))}
    if "position" in held_out.cond:
        alone = auroc(_rate(samples, held_out.cond["position"]), held_out)
        rows.append(["position alone: how often training images of that position are of class 1", alone])
        curves["position alone"] = [(levels[0], alone), (levels[-1], alone)]
    caption = f"AUROC on {len(held_out.image)} held-out images"
    return [
        reporting.Curve(curves, "sigma", "AUROC", caption, log_x=True),
        reporting.Table(["by", "AUROC"], rows, caption, {"AUROC": "max"}),
    ]


def odds(module: nn.Module, batch: Batch, sigma: float) -> np.ndarray:
    """(B,) log-probability, negated, that an image with noise of level sigma is of class 0."""
    where, odds = next(module.parameters()).device, []
    with torch.no_grad():
        for rows in torch.arange(len(batch.image)).split(64):
            noise = torch.from_numpy(gaussian(batch.image.shape[1:], 0, rows.tolist(), Purpose.START, 0))
            x = (batch.image[rows] + sigma * noise).to(where)
            odds.append(-module(x, _level(sigma, x))[:, 0].cpu().numpy())
    return check_finite(np.concatenate([np.zeros(0, np.float32), *odds]), "log-probabilities of a classifier")


def _rate(samples: Batch, position: Tensor) -> np.ndarray:
    """How often samples near each position are not of class 0, a Gaussian of 0.05 wide counting as near."""
    near = torch.exp(-0.5 * ((position[:, None] - samples.cond["position"][None]) / 0.05) ** 2) + 1e-9
    return ((near * (samples.target > 0)).sum(1) / near.sum(1)).numpy()


def auroc(score: np.ndarray, batch: Batch) -> float | None:
    from sklearn.metrics import roc_auc_score

    truth = (batch.target > 0).numpy()
    return float(roc_auc_score(truth, score)) if truth.any() and not truth.all() else None


def _level(sigma: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)


def codec_blocks(module: Any, held_out: Batch) -> list[reporting.Block]:
    """Held-out images beside what the autoencoder makes of them."""
    rows = held_out.image[torch.arange(len(held_out.image))[:: max(1, len(held_out.image) // SHOWN)]][:SHOWN]
    if not len(rows):
        return [reporting.Text("No images were held out, so there is nothing to show.")]
    images = {"held out": list(rows.numpy()), "decoded": list(reconstruct(module, rows).numpy())}
    return [reporting.Sheet.of_rows(images, "Held-out images above what their latents decode to")]


@torch.no_grad()
def reconstruct(module: Any, images: Tensor) -> Tensor:
    """(B, C, H, W) through an autoencoder and back, clipped."""
    where = next(module.parameters()).device
    parts = [module.decode(module.encode(part.to(where))).cpu() for part in images.split(32)]
    return torch.cat(parts).clamp(-1, 1)


def codec_figures(module: nn.Module, held_out: Batch) -> dict[str, float | None]:
    """How well held-out images come through an autoencoder; None where nothing was held out.

    held_out_psnr: mean in dB, of a range of 2. held_out_sharpness: of what comes out, in parts of what went in; 1 where no
    texture is lost. Few images at a time, so that a large set is not in memory twice.
    """
    errors, made, real = [], [], []
    for images in held_out.image.split(32):
        back = reconstruct(module, images)
        errors.append(((back - images) ** 2).mean((1, 2, 3)))
        made.append(sharpness(back.numpy()))
        real.append(sharpness(images.numpy()))
    if not errors or not len(errors[0]):
        return {"held_out_psnr": None, "held_out_sharpness": None}
    error = torch.cat(errors)
    check_finite(error.numpy(), "errors of an autoencoder")
    kept = np.concatenate(made).mean() / max(float(np.concatenate(real).mean()), 1e-12)
    return {"held_out_psnr": float((10 * (4 / error).log10()).mean()), "held_out_sharpness": float(kept)}


@torch.no_grad()
def _predict(module: nn.Module, batch: Batch) -> Tensor:
    """(B,) the class that a feature network predicts for each image."""
    where = next(module.parameters()).device
    scores = torch.cat([module(part.to(where))["log_probability"].cpu() for part in batch.image.split(64)])
    check_finite(scores.numpy(), "log-probabilities of a feature network")
    return scores.argmax(1)


def balanced_accuracy(module: nn.Module, held_out: Batch) -> float | None:
    """Mean recall over the classes of held-out images, None where nothing was held out."""
    if not len(held_out.image):
        return None
    predicted = _predict(module, held_out)
    recalls = [(predicted[held_out.target == k] == k).float().mean() for k in held_out.target.unique()]
    return float(torch.stack(recalls).mean())


def features_blocks(module: nn.Module, held_out: Batch, classes: Sequence[str]) -> list[reporting.Block]:
    """Which class held-out images of each class are given."""
    if not len(held_out.image):
        return [reporting.Text("No images were held out, so there is nothing to measure on.")]
    predicted, known = _predict(module, held_out), range(len(classes))
    counts = [[int(((held_out.target == k) & (predicted == j)).sum()) for j in known] for k in known]
    caption = f"{len(held_out.image)} held-out images: their class (rows) and the one they are given (columns)"
    return [reporting.confusion_table(counts, classes, caption, "class")]


@torch.no_grad()
def _cosines(module: Any, features: Tensor, ids: Tensor) -> Tensor:
    """(B, B) of every prompt and every image; features (B, D) of the images, ids (B, tokens) of their prompts."""
    cosines = module(ids)[1] @ module.look(features).T
    check_finite(cosines.cpu().numpy(), "cosines of prompts and images")
    return cosines


def retrieval(module: Any, features: Tensor, ids: Tensor) -> float | None:
    """Part of the other images that fit a prompt less than its own does, mean over prompts: chance is 0.5.

    features (B, D) of images and ids (B, tokens) of their prompts. None where there are fewer than two.
    """
    if len(features) < 2:
        return None
    likeness = _cosines(module, features, ids)
    own = likeness.diagonal()[:, None]
    below = (likeness < own).sum(1) + 0.5 * ((likeness == own).sum(1) - 1)
    return float(below.mean()) / (len(features) - 1)


def text_blocks(module: Any, features: Tensor, ids: Tensor, prompts: Sequence[str]) -> list[reporting.Block]:
    """Some prompts of held-out images with the place that their own image has among all of them."""
    if len(features) < 2:
        return [reporting.Text("No images were held out, so there is nothing to measure on.")]
    likeness = _cosines(module, features, ids)
    places = (likeness > likeness.diagonal()[:, None]).sum(1) + 1
    rows = [[prompts[n], int(places[n])] for n in range(0, len(prompts), max(1, len(prompts) // 12))]
    caption = f"Place of its own image among {len(features)} held-out images, by the cosine of prompt and image"
    return [reporting.Table(["prompt", "place"], rows, caption)]
