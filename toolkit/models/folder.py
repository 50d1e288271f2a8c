"""A model folder as files: model.json, weights, graphs - readable without any network library.

    model.json               format, domain, spec, parts {name: network, parameterisation, training, run}, the domain's own
    denoiser.safetensors     weights in fp16, once: torch reads them and the ONNX graphs point into this file
    classifier.safetensors, codec.safetensors, features.safetensors      likewise, if the model has one
    denoiser.onnx, classifier.onnx, gradient.onnx, encoder.onnx, ...     written by `diffgraft export`

Only safetensors, ONNX and JSON are ever read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolkit.diffusion import schedule
from toolkit.diffusion.model import Field, Spec
from toolkit.diffusion.schedule import Clock
from toolkit.example import Error
from toolkit.models import published

__all__ = [
    "clock_of", "fingerprint", "hash_id", "image_shape", "plain_meta", "read_meta", "spec_of", "training_ids",
    "write_meta",
]  # fmt: skip


def read_meta(root: Path) -> dict[str, Any]:
    """model.json of a model folder."""
    path = Path(root) / "model.json"
    if not path.is_file():
        raise published.refusal(Path(root))
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        spec_of(meta)
    except (ValueError, KeyError, TypeError) as problem:
        raise Error(
            f"model.json must be one that diffgraft wrote; {path} is not: {problem}. Export the model again."
        ) from problem
    return meta


def plain_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """model.json as it will be read again: settings and specs as plain values."""
    return json.loads(json.dumps(meta, default=dataclasses.asdict))


def write_meta(root: Path, meta: Mapping[str, Any]) -> None:
    """Write model.json in one piece."""
    root.mkdir(parents=True, exist_ok=True)
    text = json.dumps(meta, indent=1, allow_nan=False)
    (root / ".model.json").write_text(text + "\n", encoding="utf-8")
    os.replace(root / ".model.json", root / "model.json")


def spec_of(meta: Mapping[str, Any]) -> Spec:
    """The Spec in a model.json."""
    plain = dict(meta["spec"])
    fields = {name: Field(tuple(f["shape"]), f["dtype"], f["null"]) for name, f in plain["fields"].items()}
    return Spec(**(plain | {"shape": tuple(plain["shape"]), "fields": fields}))


def image_shape(meta: Mapping[str, Any]) -> tuple[int, ...]:
    """(C, H, W) of the model's images; without a codec they are what the denoiser itself sees."""
    return tuple(meta.get("image_shape", meta["spec"]["shape"]))


def clock_of(meta: Mapping[str, Any]) -> Clock:
    """The training clock of a model, which strengths are told by: its own, or the linear one of DDPM where it has none."""
    return schedule.clock_from_config(**meta["clock"]) if "clock" in meta else schedule.LINEAR


def hash_id(name: str) -> str:
    """A sample's id or a patient's name as model.json keeps it: to be recognised, not to be read."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def training_ids(meta: Mapping[str, Any], parts: Iterable[str] | None = None) -> set[str] | None:
    """Hashes of every sample that a model, or those of its `parts` that it has, was trained on; None: a part does not say.

    What an evaluation may not test on. Unknown is not none: it must not pass for a model that saw nothing.
    """
    runs = [part.get("run", {}) for name, part in meta["parts"].items() if parts is None or name in parts]
    if not all("trained_on" in run for run in runs):
        return None
    return {each for run in runs for each in run["trained_on"]}


def fingerprint(root: Path) -> str:
    """SHA-256 over the weights, part by part: what "which model was that" means in every provenance record."""
    digest = hashlib.sha256()
    paths = sorted(Path(root).glob("*.safetensors"))
    if not paths:
        raise Error(f"A model folder has its weights in *.safetensors; {root} has none. Copy the whole folder.")
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
