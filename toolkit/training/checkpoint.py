"""The state of a training run on disk: safetensors and JSON, whole or not at all, the previous one kept.

Never a pickle: tensors (weights, weight average, optimiser moments, RNG state) are safetensors, the rest is JSON.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from toolkit.example import Error

__all__ = ["load", "save"]


def save(
    folder: Path, module: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer, **facts: Any
) -> None:
    """Write folder/latest; what was there becomes folder/previous. A kill at any moment leaves one of them whole."""
    fresh, latest, previous = folder / f"fresh-{os.getpid()}", folder / "latest", folder / "previous"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    names = [name for name, _ in module.named_parameters()]
    state = optimizer.state_dict()["state"]
    moments = {f"{names[k]}.{moment}": value for k, row in state.items() for moment, value in row.items()}
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, fresh / "weights.safetensors")
    save_file({k: v.contiguous() for k, v in average.items()}, fresh / "average.safetensors")
    save_file({k: v.contiguous() for k, v in moments.items()}, fresh / "optimizer.safetensors")
    save_file({"cpu": torch.get_rng_state()}, fresh / "random.safetensors")
    (fresh / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    if latest.exists():
        shutil.rmtree(previous, ignore_errors=True)
        latest.replace(previous)
    fresh.replace(latest)


def load(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Put the newest whole state back and return (weight average, facts); None when there is none to continue from."""
    for stale in folder.glob("fresh-*"):
        shutil.rmtree(stale, ignore_errors=True)
    found = [folder / name for name in ("latest", "previous") if (folder / name / "state.json").is_file()]
    if not found:
        return None
    facts = json.loads((found[0] / "state.json").read_text(encoding="utf-8"))
    try:
        module.load_state_dict(load_file(found[0] / "weights.safetensors"))
    except RuntimeError as problem:
        raise Error(
            f"A run continues with the network it began with; {folder} holds another. Delete it to start anew."
        ) from problem
    moments = load_file(found[0] / "optimizer.safetensors")
    plan = optimizer.state_dict()
    for number, (name, _) in enumerate(module.named_parameters()):
        own = {k.removeprefix(f"{name}."): v for k, v in moments.items() if k.rpartition(".")[0] == name}
        if own:
            plan["state"][number] = own
    optimizer.load_state_dict(plan)
    torch.set_rng_state(load_file(found[0] / "random.safetensors")["cpu"])
    return load_file(found[0] / "average.safetensors"), facts
