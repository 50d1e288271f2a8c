"""Parts of a model folder (toolkit/folder.py) as torch modules: build, save, load, and open the whole as a Model."""

from __future__ import annotations

import filecmp
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from toolkit.diffusion.model import Cond, Identity, Model, Spec
from toolkit.example import Error
from toolkit.folder import fingerprint, read_meta, spec_of, write_meta
from toolkit.networks.classifier import NoisyClassifier
from toolkit.networks.preconditioning import PARAMETERISATIONS, Preconditioned
from toolkit.networks.unet import ConditionalUNet
from toolkit.settings import Network

__all__ = ["build", "load_part", "open", "save_part"]

GRAPHS = {"denoiser": ("denoiser.onnx",), "classifier": ("classifier.onnx", "gradient.onnx")}
"""Part -> the graphs that `diffgraft export` makes of it."""


def build(part: str, meta: Mapping[str, Any]) -> nn.Module:
    """A fresh, untrained part as model.json describes it."""
    if part not in meta["parts"]:
        raise Error(f"This model has no {part}. Train one: diffgraft train {meta['domain']} DATA MODEL --part {part}")
    spec, plan = spec_of(meta), meta["parts"][part]
    network = Network(**{k: tuple(v) if isinstance(v, list) else v for k, v in plan["network"].items()})
    if part == "classifier":
        return NoisyClassifier(network, spec.shape, plan["classes"])
    form = PARAMETERISATIONS[plan["parameterisation"]]
    return Preconditioned(
        ConditionalUNet(network, spec.shape, spec.fields), functools.partial(form, sigma_data=spec.sigma_data)
    )


def save_part(root: Path, part: str, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write one part's weights, rounded to fp16, and model.json; each file is whole or not there.

    Graphs of other weights are removed: they point into the old file and hold its small constants.
    """
    root.mkdir(parents=True, exist_ok=True)
    half = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in weights.items()}
    if not all(bool(torch.isfinite(v).all()) for v in half.values()):
        raise Error(f"Weights must fit in fp16; those of '{part}' do not. Train with a lower learning rate.")
    fresh, final = root / f".{part}.safetensors", root / f"{part}.safetensors"
    save_file(half, fresh)
    if not final.is_file() or not filecmp.cmp(fresh, final, shallow=False):
        for graph in GRAPHS.get(part, ()):
            (root / graph).unlink(missing_ok=True)
    os.replace(fresh, final)
    write_meta(root, meta)


def load_part(root: Path, part: str) -> nn.Module:
    """One part with its weights, in fp32, ready to evaluate."""
    module, path = build(part, read_meta(root)), root / f"{part}.safetensors"
    try:
        module.load_state_dict({k: v.to(torch.float32) for k, v in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as problem:
        words = " ".join(str(problem).split())[:200]
        raise Error(f"Weights must fit model.json; {path} does not: {words}. Copy the whole folder.") from problem
    return module.eval().requires_grad_(False)


def open(root: str | os.PathLike[str], device: str | None = None) -> Model:
    """Open a model folder with torch, on CUDA where there is one."""
    root = Path(root)
    meta = read_meta(root)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    weights = fingerprint(root)
    denoiser = _Denoiser(load_part(root, "denoiser").to(place), spec_of(meta), place)
    classifier = gradient = None
    if "classifier" in meta["parts"]:
        network = load_part(root, "classifier").to(place)
        classifier, gradient = _classifier(network, place), _gradient(network, place)
    return Model(
        denoiser=denoiser,
        codec=Identity(),
        asarray=lambda value: torch.from_numpy(np.array(value)).to(place),
        asnumpy=lambda value: value.detach().cpu().numpy(),
        backend=f"torch:{place.type}",
        fingerprint=weights,
        classifier=classifier,
        gradient=gradient,
        meta=meta,
    )


class _Denoiser:
    def __init__(self, module: nn.Module, spec: Spec, device: torch.device) -> None:
        self.module, self.spec, self.device = module, spec, device

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float | Tensor, *conds: Cond) -> Any:
        level = _levels(sigma, x)
        if len(conds) < 2:
            return self.module(x, level, **(conds[0] if conds else {}))
        joined = {name: torch.cat([cond[name] for cond in conds]) for name in conds[0]}
        together = self.module(torch.cat([x] * len(conds)), torch.cat([level] * len(conds)), **joined)
        return tuple(together.chunk(len(conds)))


def _levels(sigma: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))


def _classifier(network: nn.Module, device: torch.device):
    @torch.inference_mode()
    def classify(x: Tensor, sigma: float | Tensor, /) -> Tensor:
        return network(x, _levels(sigma, x))

    return classify


def _gradient(network: nn.Module, device: torch.device):
    def gradient(x: Tensor, sigma: float | Tensor, target: Tensor, /) -> Tensor:
        with torch.enable_grad():
            point = x.detach().clone().requires_grad_(True)
            chosen = (network(point, _levels(sigma, x)) * target).sum()
            return torch.autograd.grad(chosen, point)[0]

    return gradient
