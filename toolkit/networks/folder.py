"""Parts of a model folder (toolkit/models/folder.py) as torch modules: build, save, load, and open the whole as a Model."""

from __future__ import annotations

import filecmp
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from toolkit.data.staging import share
from toolkit.diffusion.finite import check_inputs
from toolkit.diffusion.model import OBJECTS, TEXT, Codec, Cond, Identity, Model, Spec
from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.models.folder import clock_of, fingerprint, image_shape, read_meta, spec_of, write_meta
from toolkit.networks import pretrained, student
from toolkit.networks.autoencoder import Autoencoder
from toolkit.networks.classifier import NoisyClassifier
from toolkit.networks.detector import Detector
from toolkit.networks.features import FeatureNet
from toolkit.networks.layout import BoxUNet
from toolkit.networks.preconditioning import PARAMETERISATIONS, Preconditioned, clock_of_steps
from toolkit.networks.text import TextEncoder
from toolkit.networks.unet import ConditionalUNet, TextUNet
from toolkit.settings import Network

__all__ = ["build", "load_part", "open", "round_trip", "save_part"]

GRAPHS = {
    "denoiser": ("denoiser.onnx",),
    "student": ("student.onnx",),
    "classifier": ("classifier.onnx", "gradient.onnx"),
    "codec": ("encoder.onnx", "decoder.onnx"),
    "features": ("features.onnx",),
    "detector": ("detector.onnx",),
    "text": ("text.onnx", "look.onnx"),
}
"""Part -> the graphs that `diffgraft export` makes of it."""


def build(part: str, meta: Mapping[str, Any]) -> nn.Module:
    """A fresh, untrained part as model.json describes it."""
    if part not in meta["parts"]:
        raise Error(f"This model has no {part}. Train one: diffgraft train {meta['domain']} DATA MODEL --part {part}")
    plan = meta["parts"][part]
    network = Network.from_json(plan["network"])
    return BUILDERS[part](network, plan, meta)


def _denoiser(network: Network, plan: Mapping[str, Any], meta: Mapping[str, Any]) -> nn.Module:
    spec, form = spec_of(meta), PARAMETERISATIONS[plan["parameterisation"]]
    if "unet" in plan:
        unet: nn.Module = pretrained.text_unet_of(plan["unet"])
    else:
        kind = TextUNet if TEXT in spec.fields else BoxUNet if OBJECTS in spec.fields else ConditionalUNet
        unet = kind(network, spec.shape, spec.fields)
    known = {"sigma_data": lambda: spec.sigma_data, "clock": lambda: clock_of_steps(clock_of(meta).sigmas)}
    needed = inspect.signature(form).parameters
    return Preconditioned(unet, functools.partial(form, **{k: made() for k, made in known.items() if k in needed}))


BUILDERS: Mapping[str, Callable[[Network, Mapping[str, Any], Mapping[str, Any]], nn.Module]] = {
    "denoiser": _denoiser,
    "classifier": lambda network, plan, meta: NoisyClassifier(network, spec_of(meta).shape, plan["classes"]),
    "codec": lambda network, plan, meta: (
        pretrained.autoencoder_of(plan["vae"])
        if "vae" in plan
        else Autoencoder(network, image_shape(meta), plan["latent_channels"])
    ),
    "features": lambda network, plan, meta: FeatureNet(network, image_shape(meta), plan["classes"]),
    "detector": lambda network, plan, meta: Detector(network, image_shape(meta), len(plan["classes"])),
    "text": lambda network, plan, meta: TextEncoder(network, plan),
    "student": lambda network, plan, meta: student.add_changes(build("denoiser", meta), plan["rank"]),
}
"""Part -> the network that is one: (network, its entry in model.json, model.json) -> module."""

CHANGES = {"student": "denoiser"}
"""Part that is kept as its changes of another -> that other, without which it is nothing."""


def save_part(root: Path, part: str, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write one part's weights, rounded to fp16, and model.json; each file is whole or not there.

    Graphs of other weights are removed: they point into the old file and hold its small constants.
    """
    root.mkdir(parents=True, exist_ok=True)
    half = {k: _rounded(v).to("cpu").contiguous() for k, v in weights.items()}
    if not all(bool(torch.isfinite(v).all()) for v in half.values()):
        raise Error(f"Weights must fit in fp16; those of '{part}' do not. Train with a lower learning rate.")
    fresh, final = root / f".{part}.safetensors", root / f"{part}.safetensors"
    save_file(half, fresh)
    share(fresh)
    if not final.is_file() or not filecmp.cmp(fresh, final, shallow=False):
        _forget(root, part)
        meta = _without(root, meta, [other for other, base in CHANGES.items() if base == part])
    os.replace(fresh, final)
    write_meta(root, meta)


def _without(root: Path, meta: Mapping[str, Any], parts: Sequence[str]) -> Mapping[str, Any]:
    """model.json without some parts, whose files are removed."""
    for part in parts:
        _forget(root, part)
        (root / f"{part}.safetensors").unlink(missing_ok=True)
    return {**meta, "parts": {name: plan for name, plan in meta["parts"].items() if name not in parts}}


def _forget(root: Path, part: str) -> None:
    """Remove the graphs of a part in every precision, the fused ones, and what is said of exports."""
    stems = [Path(graph).stem for graph in GRAPHS.get(part, ())]
    own = [f"{stem}.{kind}" for stem in stems for kind in ("onnx", "*.onnx", "*.xml", "*.bin")]
    fused = [f"{stem}{rest}" for stem in ("step", "sampler") for rest in ("*.onnx", "*.json")]
    for pattern in (*own, *fused, "exports.json"):
        for path in root.glob(pattern):
            path.unlink()


def round_trip(part: str, meta: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """A part as everyone will open it: its weights rounded to fp16, evaluated in fp32."""
    module = build(part, meta).to(next(iter(weights.values())).device)
    module.load_state_dict({k: _rounded(v).float() if v.is_floating_point() else v for k, v in weights.items()})
    return module.eval().requires_grad_(False)


def _rounded(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.float16) if weight.is_floating_point() else weight.detach()


def load_part(root: Path, part: str, meta: Mapping[str, Any] | None = None) -> nn.Module:
    """One part with its weights, in fp32, ready to evaluate. meta: instead of the folder's model.json."""
    module, path = build(part, meta or read_meta(root)), root / f"{part}.safetensors"
    try:
        weights = load_file(path)
        if part in CHANGES:
            weights = student.merge_state(load_file(root / f"{CHANGES[part]}.safetensors"), weights)
        module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
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
    classifier = gradient = features = detector = text = likeness = few = None
    codec: Codec = Identity()
    if "student" in meta["parts"]:
        few = _Denoiser(load_part(root, "student").to(place), spec_of(meta), place)
    if "classifier" in meta["parts"]:
        network = load_part(root, "classifier").to(place)
        classifier, gradient = _classifier(network), _gradient(network)
    if "codec" in meta["parts"]:
        codec = _Codec(load_part(root, "codec").to(place))
    if "features" in meta["parts"]:
        features = _features(load_part(root, "features").to(place))
    if "detector" in meta["parts"]:
        detector = _features(load_part(root, "detector").to(place))
    if "text" in meta["parts"]:
        encoder = load_part(root, "text").to(place)
        text, likeness = _text(encoder, tokenizer.open(root, meta["parts"]["text"]["tokens"]), place)
    return Model(
        denoiser=denoiser,
        codec=codec,
        asarray=lambda value: torch.from_numpy(np.array(value)).to(place),
        asnumpy=lambda value: value.detach().cpu().numpy(),
        backend=f"torch:{place.type}",
        fingerprint=weights,
        student=few,
        classifier=classifier,
        gradient=gradient,
        features=features,
        detector=detector,
        text=text,
        likeness=likeness,
        meta=meta,
    )


class _Denoiser:
    def __init__(self, module: nn.Module, spec: Spec, device: torch.device) -> None:
        self.module, self.spec, self.device = module, spec, device

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float | Tensor, *conds: Cond) -> Any:
        level = _levels(sigma, x)
        check_inputs({"x": x, "sigma": level})
        for cond in conds:
            check_inputs(cond)
        if len(conds) < 2:
            return self.module(x, level, **(conds[0] if conds else {}))
        joined = {name: torch.cat([cond[name] for cond in conds]) for name in conds[0]}
        together = self.module(torch.cat([x] * len(conds)), torch.cat([level] * len(conds)), **joined)
        return tuple(together.chunk(len(conds)))


def _levels(sigma: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))


class _Codec:
    def __init__(self, module: Any) -> None:
        self.module = module

    @torch.inference_mode()
    def encode(self, image: Tensor, /) -> Tensor:
        check_inputs({"image": image})
        return self.module.encode(image)

    @torch.inference_mode()
    def decode(self, latent: Tensor, /) -> Tensor:
        check_inputs({"latent": latent})
        return self.module.decode(latent)


def _features(network: nn.Module):
    @torch.inference_mode()
    def describe(image: Tensor, /) -> Mapping[str, Tensor]:
        check_inputs({"image": image})
        return network(image)

    return describe


def _text(network: Any, tokens: tokenizer.Tokenizer, device: torch.device):
    @torch.inference_mode()
    def read(texts: Sequence[str], /) -> Tensor:
        return network(torch.from_numpy(tokens(texts)).to(device))[0]

    @torch.inference_mode()
    def likeness(features: Tensor, texts: Sequence[str], /) -> Tensor:
        check_inputs({"features": features})
        return (network.look(features) * network(torch.from_numpy(tokens(texts)).to(device))[1]).sum(1)

    return read, likeness if network.looks is not None else None


def _classifier(network: nn.Module):
    @torch.inference_mode()
    def classify(x: Tensor, sigma: float | Tensor, /) -> Tensor:
        level = _levels(sigma, x)
        check_inputs({"x": x, "sigma": level})
        return network(x, level)

    return classify


def _gradient(network: nn.Module):
    def gradient(x: Tensor, sigma: float | Tensor, target: Tensor, /) -> Tensor:
        level = _levels(sigma, x)
        check_inputs({"x": x, "sigma": level, "target": target})
        with torch.enable_grad():
            point = x.detach().clone().requires_grad_(True)
            chosen = (network(point, level) * target).sum()
            return torch.autograd.grad(chosen, point)[0]

    return gradient
