"""Train one part of a model from a prepared data set; running the same command again continues it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from toolkit import dataset
from toolkit.diffusion.model import Spec
from toolkit.example import Error, Example
from toolkit.folder import read_meta, spec_of
from toolkit.networks import folder
from toolkit.training import losses
from toolkit.training.loader import Batch
from toolkit.training.loop import fit

__all__ = ["train"]

LOSSES = {"denoiser": losses.denoising, "classifier": losses.classification}


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
    model.json, so that an evaluation can refuse to test on them.
    """
    if part not in domain.PRESETS or preset not in domain.PRESETS[part]:
        known = "; ".join(f"--part {p} --preset {'|'.join(q)}" for p, q in domain.PRESETS.items())
        raise Error(f"This domain has no part '{part}' with preset '{preset}'. Known: {known}.")
    network, settings = domain.PRESETS[part][preset]
    settings = dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})
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
    begun = time.monotonic()
    spec = spec_of(plain)
    average = fit(
        module, LOSSES[part], samples, held_out, spec, settings, domain.AUGMENTATION, root / "training" / part, watch
    )
    facts = {
        "samples": len(samples.image),
        "groups": len({e.group for e in seen}),
        "held_out_groups": sorted({e.group for e in unseen}),
        "trained_on": [_hash(e.id) for e in seen],
        "parameters": sum(p.numel() for p in module.parameters()),
        "seconds": round(time.monotonic() - begun),
    }
    plain["parts"][part] |= {"run": facts}
    folder.save_part(root, part, average, plain)
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


def _new_meta(domain: ModuleType, examples: list[Example]) -> dict[str, object]:
    spec = Spec(shape=examples[0].image.shape, fields=domain.FIELDS)
    return {"format": 1, "domain": _name(domain), "spec": spec, "parts": {}}


def _name(domain: ModuleType) -> str:
    return domain.__name__.rpartition(".")[2]


def _as_json(meta: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(meta, default=dataclasses.asdict))


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]
