"""The state of a training run on disk: safetensors and JSON, whole or not at all, the previous one kept.

Never a pickle: tensors (weights, weight average, optimiser moments, RNG state) are safetensors, the rest is JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from toolkit.data.staging import sync
from toolkit.example import Error, Note

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
    sync(fresh)
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
    found = [path for path in (folder / "latest", folder / "previous") if path.is_dir()]
    torn = []
    for path in found:
        try:
            state = _State.read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
            torn.append(f"{path}: {' '.join(str(problem).split())}")
            continue
        if torn:
            warnings.warn(
                f"The newest state of the training is damaged; it goes on with {path}. {torn[0]}", Note, stacklevel=2
            )
        return _restore(state, folder, module, optimizer)
    if torn:
        raise Error(f"A training goes on with a whole state; {'; '.join(torn)}. Delete {folder} to start anew.")
    return None


@dataclass(frozen=True)
class _State:
    """What `save` wrote."""

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    moments: dict[str, Tensor]
    random: Tensor
    facts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> _State:
        weights, average, moments, random = (
            load_file(folder / f"{name}.safetensors") for name in ("weights", "average", "optimizer", "random")
        )
        facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return cls(weights, average, moments, random["cpu"], {**facts})


def _restore(
    state: _State, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        module.load_state_dict(state.weights)
    except RuntimeError as problem:
        raise Error(
            f"A run continues with the network it began with; {folder} holds another. Delete it to start anew."
        ) from problem
    plan = optimizer.state_dict()
    for number, (name, _) in enumerate(module.named_parameters()):
        own = {k.removeprefix(f"{name}."): v for k, v in state.moments.items() if k.rpartition(".")[0] == name}
        if own:
            plan["state"][number] = own
    optimizer.load_state_dict(plan)
    torch.set_rng_state(state.random)
    return state.average, state.facts
