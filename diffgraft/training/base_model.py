"""Where a model begins: its first model.json, and what it takes over from a trained model or a Stable Diffusion pipeline."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from diffgraft.requests.training import domain_name
from diffgraft.training.data import TrainingData
from toolkit.data import labels
from toolkit.diffusion import schedule
from toolkit.diffusion.model import TEXT, Field, Spec
from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.models.folder import image_shape, plain_meta, read_meta, spec_of, write_meta
from toolkit.networks import folder
from toolkit.networks.autoencoder import reduction
from toolkit.networks.unet import transfer_weights
from toolkit.training import low_rank

__all__ = [
    "adopt_text_encoder", "begin", "convert_pipeline", "initial_network", "pretrained_entry", "trained_before",
]  # fmt: skip

FIRST_STAGE = ("features", "codec", "text")
"""Parts that a model takes over whole from the one it starts from. Features name classes, and so only come along where
the classes are the same."""


def begin(domain: ModuleType, root: Path, base: Path | None, data: TrainingData) -> dict[str, Any]:
    """model.json of the model in `root`, a new one where there is none. Errors: a model of another domain, shape or labels."""
    meta = read_meta(root) if _is_there(root) else _new_meta(domain, base, data)
    name, shape = domain_name(domain), data.samples[0].image.shape
    if meta["domain"] != name or image_shape(meta) != shape:
        raise Error(
            f"All parts of a model share domain and image shape; {root} is {meta['domain']} {list(image_shape(meta))}, "
            f"the data are {name} {list(shape)}."
        )
    vocabulary = labels.vocabulary_of(meta, domain)
    if vocabulary != data.vocabulary:
        raise Error(
            f"All parts of a model share the names of their labels; {root} knows {labels.to_json(vocabulary)}, "
            f"the data {labels.to_json(data.vocabulary)}. Train a new model from it: --from {root}"
        )
    return meta


def _is_there(root: Path) -> bool:
    return (root / "model.json").is_file()


def _new_meta(domain: ModuleType, base: Path | None, data: TrainingData) -> dict[str, Any]:
    """model.json of a model without parts. A domain with codec presets has latent models, of the base's codec if any."""
    shape = data.samples[0].image.shape
    meta: dict[str, Any] = {
        "format": 1, "domain": domain_name(domain), "labels": labels.to_json(data.vocabulary), "parts": {},
    }  # fmt: skip
    fields: Mapping[str, Field] = domain.fields(data.vocabulary)
    if base is not None:
        own = read_meta(base)
        clock = {"clock": own["clock"]} if "clock" in own else {}
        inner = _latent_shape(spec_of(own).shape, image_shape(own)[1] // spec_of(own).shape[1], shape)
        spec = dataclasses.replace(spec_of(own), shape=inner, fields=fields)
        return plain_meta(meta | clock | {"spec": spec, "image_shape": (image_shape(own)[0], *shape[1:])})
    if "codec" in domain.PRESETS:
        meta["image_shape"] = shape
        shape = _latent_shape((domain.LATENT_CHANNELS,), reduction(domain.PRESETS["codec"]["small"][0]), shape)
    if not hasattr(domain, "CLOCK"):
        return plain_meta(meta | {"spec": Spec(shape=shape, fields=fields)})
    ends = schedule.clock_from_config(**domain.CLOCK).sigmas
    spec = Spec(shape, fields, sigma_min=ends[0], sigma_max=ends[-1], sigma_data=1.0, initial_variance=1.0)
    return plain_meta(meta | {"clock": domain.CLOCK, "spec": spec})


def _latent_shape(base: tuple[int, ...], factor: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, h, w) of the latents of images (C, H, W): networks are convolutional, so that a base's fit any size."""
    if shape[1] % factor or shape[2] % factor:
        raise Error(
            f"The sides of a latent model's images are multiples of {factor}; found {shape[2]} x {shape[1]}. "
            "Prepare the data with another --size."
        )
    return base[0], shape[1] // factor, shape[2] // factor


def initial_network(root: Path, part: str, meta: dict[str, Any], base: Path | None, lora: int) -> nn.Module:
    """A part's network with the weights that it begins with: the base's, those taken from a pipeline, or fresh ones.

    The first stage of the base is copied into the model, and into `meta`, where it has none. lora: rank of low-rank
    changes, which alone are then trained; 0 is none.
    """
    network = folder.build(part, meta)
    if base is not None:
        _copy_first_stage(base, root, part, meta)
        own = read_meta(base)
        if part in own["parts"]:
            transfer_weights(
                network, folder.load_part(base, part), *(labels.from_json(m["labels"]) for m in (own, meta))
            )
    if pretrained_entry(meta, part):
        network.load_state_dict(folder.load_part(root, part).state_dict())
    if lora:
        low_rank.add_adapters(network, lora, float(lora))
    return network


def _copy_first_stage(base: Path, root: Path, part: str, meta: dict[str, Any]) -> None:
    own = read_meta(base)
    root.mkdir(parents=True, exist_ok=True)
    for other in FIRST_STAGE:
        target = own["parts"].get(other, {}).get("target")
        same = target is None or own["labels"].get(target) == meta["labels"].get(target)
        if other != part and other in own["parts"] and other not in meta["parts"] and same:
            meta["parts"][other] = own["parts"][other]
            for name in (f"{other}.safetensors", *([tokenizer.FILE] if other == TEXT else [])):
                shutil.copyfile(base / name, root / name)


def trained_before(base: Path | None, part: str) -> set[str]:
    """Hashes of what the base model's part and first stage were trained on."""
    parts = {} if base is None else read_meta(base)["parts"]
    return {h for p in (*FIRST_STAGE, part) for h in parts.get(p, {}).get("run", {}).get("trained_on", ())}


# ----------------------------------------------------------------------------------------------------------- pipelines


def convert_pipeline(base: Path, root: Path, data: TrainingData) -> None:
    """Make a new model folder of a Stable Diffusion pipeline, for the images of `data`; one that is there is gone on with."""
    from toolkit.networks import pipeline

    if not _is_there(root):
        shape = data.samples[0].image.shape
        pipeline.convert(base, root, channels=shape[0], size=shape[-1])
        write_meta(root, read_meta(root) | {"labels": labels.to_json(data.vocabulary)})


def pretrained_entry(meta: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What describes a part that was taken over from a pipeline, its own network in place of a preset's; {} for others."""
    entry = meta["parts"].get(part, {})
    if not {"unet", "vae", "clip"} & entry.keys():
        return {}
    return {name: value for name, value in entry.items() if name not in ("training", "augmentation", "run")}


def adopt_text_encoder(domain: ModuleType, root: Path, base: Path, data: TrainingData) -> dict[str, Any]:
    """Give a new model the pretrained text encoder in the folder `base`, frozen; returns the facts of it."""
    from toolkit.networks import pipeline

    meta = read_meta(root) if _is_there(root) else _new_meta(domain, None, data)
    if TEXT not in meta["spec"]["fields"]:
        raise Error(
            f"A text encoder is for a model that is told texts; those of {domain_name(domain)} are not. Leave it out."
        )
    fresh = pipeline.adopt_text_encoder(base, root, meta)
    return {"parameters": sum(p.numel() for p in folder.load_part(root, TEXT, fresh).parameters()), "frozen": True}
