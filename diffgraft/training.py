"""Train one part of a model from a prepared data set; running the same command again continues it."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from diffgraft import report
from toolkit import dataset
from toolkit.diffusion import editing, guidance, schedule
from toolkit.diffusion.model import Spec
from toolkit.diffusion.noise import Purpose, Seeded, gaussian
from toolkit.diffusion.samplers import ode
from toolkit.example import Error, Example
from toolkit.folder import hashed, read_meta, spec_of
from toolkit.networks import folder
from toolkit.settings import Training
from toolkit.training import losses
from toolkit.training.loader import Batch
from toolkit.training.loop import fit

__all__ = ["train"]

LOSSES = {"denoiser": losses.denoising, "classifier": losses.classification}

CLEAN = 0.05
"""The noise level at which an image of 8 bits is all but clean; a classifier is trained and judged there."""

SHOWN = 5
"""Samples of each class in the report of a denoiser."""


def train(
    domain: ModuleType,
    data: Path,
    root: Path,
    part: str = "denoiser",
    preset: str = "small",
    watch: Callable[[int, int, float], None] = lambda *_: None,
    **changes: object,
) -> dict[str, object]:
    """Train `part` with a preset of the domain, changed as asked, and save it; returns the facts of the run.

    Groups (patients) of the held-out fold are never trained on. The ids that were trained on are kept as hashes in
    model.json, so that an evaluation can refuse to test on them. What was learned is shown in
    root/training/<part>/report.html; a classifier's AUROC on clean held-out images is its "held_out_auroc", None
    where nothing was held out.
    """
    begun = time.monotonic()
    if part not in domain.PRESETS or preset not in domain.PRESETS[part]:
        known = "; ".join(f"--part {p} --preset {'|'.join(q)}" for p, q in domain.PRESETS.items())
        raise Error(f"This domain has no part '{part}' with preset '{preset}'. Known: {known}.")
    network, settings = domain.PRESETS[part][preset]
    settings = dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})
    _check(settings)
    origin = dataset.info(data).get("domain", _name(domain))
    if origin != _name(domain):
        raise Error(
            f"A model is trained on data of its own domain; {data} is {origin}, not {_name(domain)}. "
            f"Prepare it anew: diffgraft prepare {_name(domain)} RAW DATA"
        )
    examples = list(dataset.read(data))
    seen = [e for e in examples if settings.fold is None or dataset.fold_of(e.group) != settings.fold]
    unseen = [e for e in examples if settings.fold is not None and dataset.fold_of(e.group) == settings.fold]
    if not seen:
        raise Error(f"Training needs samples outside fold {settings.fold}; {data} has none. Choose another --fold.")
    meta = read_meta(root) if (root / "model.json").is_file() else _as_json(_new_meta(domain, seen))
    if meta["domain"] != _name(domain) or tuple(meta["spec"]["shape"]) != seen[0].image.shape:
        raise Error(
            f"All parts of a model share domain and image shape; {root} is {meta['domain']} {meta['spec']['shape']}."
        )
    plan: dict[str, object] = {"network": network, "training": settings, "augmentation": domain.AUGMENTATION}
    plan |= {"parameterisation": "edm"} if part == "denoiser" else {"classes": len(domain.CLASSES)}
    meta = meta | {"parts": meta["parts"] | {part: plan}}
    plain = _as_json(meta)
    torch.manual_seed(settings.seed)
    module = folder.build(part, plain)
    samples, held_out = to_batch(domain, seen), to_batch(domain, unseen, like=seen[0])
    if part == "classifier":
        samples, held_out = (b[b.target >= 0] for b in (samples, held_out))
        if len(samples.target.unique()) < 2:
            raise Error(
                f"A classifier needs slices of both classes with a known label; {data} has only one. Label more."
            )
    spec, place = spec_of(plain), root / "training" / part
    average = fit(module, LOSSES[part], samples, held_out, spec, settings, domain.AUGMENTATION, place, watch)
    learned = _as_saved(part, plain, average)
    facts: dict[str, object] = {
        "samples": len(samples.image),
        "groups": len({e.group for e in seen}),
        "held_out_groups": sorted(hashed(group) for group in {e.group for e in unseen}),
        "trained_on": [hashed(e.id) for e in seen],
        "parameters": sum(p.numel() for p in module.parameters()),
        "seconds": round(time.monotonic() - begun),
    }
    if part == "classifier":
        facts["held_out_auroc"] = _auroc(_odds(learned, held_out, CLEAN), held_out)
        blocks = _classifier_blocks(learned, samples, held_out)
    else:
        blocks = _denoiser_blocks(domain, learned, spec, samples, held_out)
    plain["parts"][part] |= {"run": facts}
    plain["typical"] = domain.typical(seen)
    folder.save_part(root, part, average, plain)
    _write_report(place, part, facts, blocks, plain["parts"][part], settings)
    return facts


def to_batch(domain: ModuleType, examples: list[Example], like: Example | None = None) -> Batch:
    """All examples as one Batch; an empty list gives an empty Batch of the shape of `like`."""
    if not examples:
        assert like is not None
        return to_batch(domain, [like])[torch.zeros(0, dtype=torch.long)]
    labels = [e.annotation.labels.get(domain.TARGET, math.nan) for e in examples]
    return Batch(
        image=torch.from_numpy(np.stack([e.image for e in examples])),
        cond={k: torch.from_numpy(v) for k, v in domain.condition([e.annotation for e in examples]).items()},
        target=torch.tensor([-1 if math.isnan(v) else int(v) for v in labels]),
    )


def _check(settings: Training) -> None:
    rules = {
        "steps": settings.steps >= 1,
        "batch": settings.batch >= 1,
        "learning_rate": 0 < settings.learning_rate < math.inf,
        "seed": 0 <= settings.seed < 2**63,
        "fold": settings.fold is None or -1 <= settings.fold < dataset.FOLDS,
    }
    for name, kept in rules.items():
        if not kept:
            raise Error(
                "Training takes 1 step or more, batches of 1 or more, a learning rate and a seed that are not negative, "
                f"and a fold from -1 to {dataset.FOLDS - 1}; found {name} = {getattr(settings, name)}."
            )


# ------------------------------------------------------------------------------------------------------------- report


def _as_saved(part: str, plain: dict[str, Any], average: dict[str, Tensor]) -> nn.Module:
    """The part as everyone will open it: averaged weights, rounded to fp16, evaluated in fp32."""
    module = folder.build(part, plain).to(next(iter(average.values())).device)
    module.load_state_dict({k: v.to(torch.float16).to(torch.float32) for k, v in average.items()})
    return module.eval().requires_grad_(False)


def _write_report(
    place: Path, part: str, facts: dict[str, object], blocks: list[report.Block], plan: dict[str, object],
    settings: Training,
) -> None:  # fmt: skip
    log = [json.loads(line) for line in (place / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curves = {
        "training": [(line["step"], line["loss"]) for line in log],
        "held out": [(line["step"], line["validation"]) for line in log if line["validation"] is not None],
    }
    shown = {k: v for k, v in facts.items() if k not in ("held_out_groups", "trained_on")}
    shown["held_out_groups"] = len(cast("list[str]", facts["held_out_groups"]))
    loss = report.Curve({k: v for k, v in curves.items() if v}, "step", "loss", "Loss")
    report.write(
        place / "report.html",
        f"Training of the {part}",
        f"{settings.steps} steps, {facts['samples']} images",
        [
            report.Section(
                "Loss",
                [loss],
                "Training: smoothed, with augmentation. Held out: of the averaged weights, never trained on.",
            ),
            report.Section("What it learned", blocks),
            report.Section("Facts", [report.Facts(shown)]),
        ],
        report.Run(settings={k: v for k, v in plan.items() if k != "run"}, seed=settings.seed),
        notice=report.RESEARCH_USE,
        next_step="Write the graphs that run without torch: diffgraft export MODEL --to onnx",
    )


def _denoiser_blocks(
    domain: ModuleType, module: nn.Module, spec: Spec, samples: Batch, held_out: Batch
) -> list[report.Block]:
    """New images of every class beside real ones of the same condition, and one image denoised from several levels."""
    where = next(module.parameters()).device
    blocks: list[report.Block] = []
    for label, name in enumerate(domain.CLASSES):
        rows = _spread_out(samples, torch.nonzero(samples.target == label)[:, 0], spec)
        if not len(rows):
            continue
        real = samples[rows].to(where)
        noise = Seeded(label, range(len(rows)), spec.shape, lambda value: torch.from_numpy(value).to(where))
        sigmas = schedule.karras(18, spec.sigma_max, CLEAN)
        with torch.no_grad():
            denoise = guidance.conditioned(lambda x, sigma, cond: module(x, _level(sigma, x), **cond), real.cond)
            made = editing.generate(ode.dpmpp_2m, denoise, sigmas, noise, spec.initial_scale(sigmas[0]))
        images = [*made.cpu().numpy(), *real.image.cpu().numpy()]
        captions = ["generated"] * len(rows) + ["real"] * len(rows)
        blocks.append(report.Sheet(images, captions, len(rows), f"{name}: generated above real of the same condition"))
    other = held_out if len(held_out.image) else samples
    one = other[torch.tensor([len(other.image) // 2])].to(where)
    noise = torch.from_numpy(gaussian(spec.shape, 0, [0], Purpose.START, 0)).to(where)
    levels = (0.1, 0.3, 1.0, 3.0, 10.0)
    with torch.no_grad():
        guesses = [module(one.image + s * noise, _level(s, one.image), **one.cond)[0].cpu().numpy() for s in levels]
    images = [one.image[0].cpu().numpy(), *guesses]
    captions = ["clean", *(f"from sigma {s:g}" for s in levels)]
    kind = "A held-out image" if len(held_out.image) else "An image"
    return [*blocks, report.Sheet(images, captions, len(images), f"{kind}, denoised from several noise levels")]


def _spread_out(samples: Batch, rows: Tensor, spec: Spec) -> Tensor:
    """At most SHOWN of the rows, evenly over the range of the numbers that they are conditioned on."""
    numbers = [k for k, f in spec.fields.items() if f.dtype == "float32" and not f.shape]
    order = sorted(rows.tolist(), key=lambda row: [float(samples.cond[k][row]) for k in numbers])
    kept = min(SHOWN, len(order))
    return torch.tensor([order[int((n + 0.5) * len(order) / kept)] for n in range(kept)], dtype=torch.long)


def _classifier_blocks(module: nn.Module, samples: Batch, held_out: Batch) -> list[report.Block]:
    """How well it tells held-out images apart at each noise level, beside what their position alone would tell."""
    if len(held_out.target.unique()) < 2:
        return [report.Text("No images of both classes were held out, so there is nothing to measure on.")]
    levels = (CLEAN, 0.2, 0.5, 1.0, 2.0, 5.0)
    reached = [_auroc(_odds(module, held_out, s), held_out) for s in levels]
    rows: list[list[object]] = [[f"classifier at sigma {s:g}", value] for s, value in zip(levels, reached, strict=True)]
    curves = {"classifier": list(zip(levels, reached, strict=True))}
    if "position" in held_out.cond:
        alone = _auroc(_rate(samples, held_out.cond["position"]), held_out)
        rows.append(["position alone: how often training images of that position are of class 1", alone])
        curves["position alone"] = [(levels[0], alone), (levels[-1], alone)]
    caption = f"AUROC on {len(held_out.image)} held-out images"
    return [
        report.Curve(curves, "sigma", "AUROC", caption, log_x=True),
        report.Table(["by", "AUROC"], rows, caption, {"AUROC": "max"}),
    ]


def _odds(module: nn.Module, batch: Batch, sigma: float) -> np.ndarray:
    """(B,) log-probability, negated, that an image with noise of level sigma is of class 0."""
    where, odds = next(module.parameters()).device, []
    with torch.no_grad():
        for rows in torch.arange(len(batch.image)).split(64):
            noise = torch.from_numpy(gaussian(batch.image.shape[1:], 0, rows.tolist(), Purpose.START, 0))
            x = (batch.image[rows] + sigma * noise).to(where)
            odds.append(-module(x, _level(sigma, x))[:, 0].cpu().numpy())
    return np.concatenate([np.zeros(0, np.float32), *odds])


def _rate(samples: Batch, position: Tensor) -> np.ndarray:
    """How often samples near each position are not of class 0, a Gaussian of 0.05 wide counting as near."""
    near = torch.exp(-0.5 * ((position[:, None] - samples.cond["position"][None]) / 0.05) ** 2) + 1e-9
    return ((near * (samples.target > 0)).sum(1) / near.sum(1)).numpy()


def _auroc(score: np.ndarray, batch: Batch) -> float | None:
    from sklearn.metrics import roc_auc_score

    truth = (batch.target > 0).numpy()
    return float(roc_auc_score(truth, score)) if truth.any() and not truth.all() else None


def _level(sigma: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)


def _new_meta(domain: ModuleType, examples: list[Example]) -> dict[str, object]:
    spec = Spec(shape=examples[0].image.shape, fields=domain.FIELDS)
    return {"format": 1, "domain": _name(domain), "spec": spec, "parts": {}}


def _name(domain: ModuleType) -> str:
    return domain.__name__.rpartition(".")[2]


def _as_json(meta: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(meta, default=dataclasses.asdict))
