"""One training loop for every part of every model, on accelerate; it continues where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn

from toolkit.diffusion.model import Spec
from toolkit.settings import Augmentation, Training
from toolkit.training import checkpoint
from toolkit.training.finite import finite_step, finite_weights
from toolkit.training.loader import Batch, draw_batch, generator

__all__ = ["Loss", "Samples", "Watch", "fit"]

Loss = Callable[[nn.Module, Batch, Spec, Training, torch.Generator], Tensor]
Watch = Callable[[int, int, float], None]
"""(step, steps, smoothed loss), called after every step."""

VALIDATION_ROUNDS = 4


@dataclass(frozen=True)
class Samples:
    """train: what is drawn from, augmented anew at every step. held_out: what is only measured, as it is; may be empty."""

    train: Batch
    held_out: Batch
    augmentation: Augmentation


def fit(
    module: nn.Module,
    loss: Loss,
    samples: Samples,
    spec: Spec,
    settings: Training,
    folder: Path,
    watch: Watch = lambda *_: None,
) -> dict[str, Tensor]:
    """Train `module` and return the exponential average of its weights.

    folder keeps the checkpoints and log.jsonl: {"step", "loss", "validation", "seconds"} a line. Run again with the
    same arguments it continues; steps beyond those in the checkpoint are added. Held-out data are measured with the same
    noise every time. Errors: a loss, a gradient or weights that are not finite; nothing of them
    is kept.
    """
    AcceleratorState._reset_state()  # else an earlier run in this process would dictate the precision of this one
    accelerator = Accelerator(mixed_precision="bf16" if settings.precision == "bf16" else "no")
    set_seed(settings.seed)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99)
    )
    module, optimizer = accelerator.prepare(module, optimizer)
    plain = accelerator.unwrap_model(module)
    restored = checkpoint.load(folder, plain, optimizer)
    average, facts = restored or (
        {k: v.detach().clone() for k, v in plain.state_dict().items()},
        {"step": 0, "smooth": None},
    )
    average = {k: v.to(accelerator.device) for k, v in average.items()}
    begun, first, smooth = time.monotonic(), facts["step"], facts["smooth"]
    finite_weights(first, average)
    _trim_log(folder / "log.jsonl", first)
    for step in range(first, settings.steps):
        batch = draw_batch(samples.train, settings.batch, samples.augmentation, settings.seed, step).to(
            accelerator.device
        )
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(step, settings)
        with accelerator.autocast():
            value = loss(module, batch, spec, settings, generator(settings.seed, step, 1))
        accelerator.backward(value)
        norm = accelerator.clip_grad_norm_(module.parameters(), 1.0)
        now = finite_step(step, value, norm)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(settings.ema, (1 + step) / (10 + step))
        for name, weight in plain.state_dict().items():
            # A batch norm counts its batches in an integer, which has no average.
            average[name].lerp_(weight, 1 - decay) if weight.is_floating_point() else average[name].copy_(weight)
        smooth = now if smooth is None else smooth + 0.02 * (now - smooth)
        watch(step + 1, settings.steps, smooth)
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            finite_weights(step + 1, average)
            folder.mkdir(parents=True, exist_ok=True)
            line = {"step": step + 1, "loss": smooth, "seconds": round(time.monotonic() - begun, 1)}
            line["validation"] = _validate(
                step + 1, plain, average, loss, samples.held_out, spec, settings, accelerator
            )
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            checkpoint.save(folder, plain, average, optimizer, step=step + 1, smooth=smooth)
    return average


def learning_rate_factor(step: int, settings: Training) -> float:
    """Linear warm-up, then a cosine to a twentieth at the last step."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    place = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * place))


@torch.no_grad()
def _validate(
    step: int,
    module: nn.Module,
    average: dict[str, Tensor],
    loss: Loss,
    held_out: Batch,
    spec: Spec,
    settings: Training,
    accelerator: Accelerator,
) -> float | None:
    if not len(held_out.image):
        return None
    kept = {k: v.detach().clone() for k, v in module.state_dict().items()}
    module.load_state_dict(average)
    module.eval()
    still = dataclasses.replace(settings, drop=0.0, drop_each=0.0)
    total = 0.0
    for number in range(VALIDATION_ROUNDS):
        batch = draw_batch(held_out, 64, Augmentation(), 0, number).to(accelerator.device)
        with accelerator.autocast():
            total += finite_step(step, loss(module, batch, spec, still, generator(0, number, 2)))
    module.train()
    module.load_state_dict(kept)
    return total / VALIDATION_ROUNDS


def _trim_log(path: Path, step: int) -> None:
    """Drop the lines of steps that are run again and what a kill tore, so that a continued run has one line a step."""
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        fresh = path.with_name(f".{path.name}")
        fresh.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        fresh.replace(path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf
