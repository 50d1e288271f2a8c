"""Train one part of a model from a prepared data set; running the same command again continues it."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from diffgraft.generation.sampling import without_text
from diffgraft.training import report as training_report
from diffgraft.training.parts import PARTS, Plan, Run
from toolkit.data import dataset, labels
from toolkit.diffusion import schedule
from toolkit.diffusion.model import TEXT, Field, Spec
from toolkit.example import Annotation, Error, Example
from toolkit.language import tokenizer
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import as_json, hashed, image_shape, read_meta, spec_of, write_meta
from toolkit.networks import folder
from toolkit.networks.autoencoder import reduction
from toolkit.networks.unet import adopt
from toolkit.settings import Training
from toolkit.training import low_rank, textual_inversion
from toolkit.training.loader import Batch
from toolkit.training.loop import fit

__all__ = ["learn_embedding", "take_text", "to_batch", "train"]

FIRST_STAGE = ("features", "codec", "text")
"""Parts that a model takes over whole from the one it starts from. Features name classes, and so only come along where
the classes are the same."""


def train(
    domain: ModuleType,
    data: Path,
    root: Path,
    part: str = "denoiser",
    preset: str = "small",
    watch: Callable[[int, int, float], None] = lambda *_: None,
    base: Path | None = None,
    **changes: object,
) -> dict[str, object]:
    """Train `part` with a preset of the domain, changed as asked, and save it; returns the facts of the run.

    Groups (patients, leaves) of the held-out fold are never trained on. The ids that were trained on are kept as hashes
    in model.json, so that an evaluation can refuse to test on them. What was learned is shown in
    root/training/<part>/report.html. base: a model folder of which a new model takes codec and features, and the part
    its first weights (transfer learning); what that model was trained on counts as seen by this one too. It may be a
    Stable Diffusion pipeline, which then becomes a model folder whose U-Net is fine-tuned, as RoentGen is.
    """
    begun = time.monotonic()
    if part not in domain.PRESETS or preset not in domain.PRESETS[part]:
        known = "; ".join(f"--part {p} --preset {'|'.join(q)}" for p, q in domain.PRESETS.items())
        raise Error(f"This domain has no part '{part}' with preset '{preset}'. Known: {known}.")
    network, settings = domain.PRESETS[part][preset]
    settings = dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})
    _check(settings)
    about = dataset.info(data)
    origin = about.get("domain", _name(domain))
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
    vocabulary = labels.of(about, domain)
    if base is not None and pipeline_folder.is_pipeline(base):
        _take_over(base, root, vocabulary, seen[0].image.shape)
        base = None
    meta = read_meta(root) if (root / "model.json").is_file() else _new_meta(domain, vocabulary, seen, base)
    _check_fit(root, meta, domain, vocabulary, seen[0])
    classes = vocabulary[domain.TARGET]
    plan: dict[str, object] = {"network": network, "training": settings, "augmentation": domain.AUGMENTATION}
    about_it = Plan(domain, root, meta, network, classes, [e.annotation for e in seen])
    taken = _pretrained(meta, part)
    plan |= taken or PARTS[part].plan(about_it)
    plain = as_json(meta | {"parts": meta["parts"] | {part: plan}})
    torch.manual_seed(settings.seed)
    module = folder.build(part, plain)
    if base is not None:
        _begin_from(base, root, part, module, plain)
    if taken:
        module.load_state_dict(folder.load_part(root, part).state_dict())
    if settings.lora:
        low_rank.add(module, settings.lora, float(settings.lora))
    spec, place = spec_of(plain), root / "training" / part
    batches = [to_batch(domain, spec, image_shape(plain), part_of, vocabulary) for part_of in (seen, unseen)]
    run = Run(domain, root, plain, spec, settings, *batches, classes, [e.annotation for e in (*seen, *unseen)])
    material = PARTS[part].see(run)
    learner = material.learner(module)
    average = fit(
        learner, material.loss, material.samples, material.held_out, spec, settings, material.augmentation, place, watch
    )
    learner.load_state_dict(average)
    PARTS[part].finish(run, learner.eval())
    average = low_rank.merged(module) if settings.lora else module.state_dict()
    facts: dict[str, object] = {
        "samples": len(run.samples.image),
        "groups": len({e.group for e in seen}),
        "held_out_groups": sorted(hashed(group) for group in {e.group for e in unseen}),
        "trained_on": sorted({hashed(e.id) for e in seen} | _seen_before(base, part)),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "seconds": round(time.monotonic() - begun),
    }
    figures, blocks = PARTS[part].show(run, material, folder.as_saved(part, plain, average))
    facts |= figures | (
        {} if base is None else {"base": hashed(str(read_meta(base)["parts"].get(part, {}).get("run")))}
    )
    plain["parts"][part] |= {"run": facts}
    if hasattr(domain, "typical"):
        plain["typical"] = domain.typical(seen)
    if "crop" in about.get(
        "options", {}
    ):  # what windows of a picture the model was shown, which it is shown again to edit
        plain["crop"] = about["options"]["crop"]
    folder.save_part(root, part, average, plain)
    training_report.write(place, part, facts, blocks, plain["parts"][part], settings, domain.NOTICE)
    return facts


def take_text(domain: ModuleType, data: Path, root: Path, base: Path) -> int:
    """Give a new model the pretrained text encoder in the folder `base`, frozen; returns the number of its parameters."""
    from toolkit.networks import pipeline

    vocabulary, one = labels.of(dataset.info(data), domain), next(iter(dataset.read(data)))
    meta = read_meta(root) if (root / "model.json").is_file() else _new_meta(domain, vocabulary, [one], None)
    if TEXT not in meta["spec"]["fields"]:
        raise Error(
            f"A text encoder is for a model that is told texts; those of {_name(domain)} are not. Leave it out."
        )
    fresh = pipeline.take_text(base, root, meta)
    return sum(p.numel() for p in folder.load_part(root, TEXT, fresh).parameters())


def learn_embedding(
    domain: ModuleType,
    data: Path,
    root: Path,
    part: str = "embedding",
    preset: str = "small",
    watch: Callable[[int, int, float], None] = lambda *_: None,
    base: Path | None = None,
    **changes: object,
) -> dict[str, object]:
    """Textual inversion: learn only the classes of `data` that the model `base` lacks, the network frozen.

    Takes what `train` takes; without a fold all of the data, as a few images are, are learned from.
    """
    if base is None:
        raise Error("An embedding is learned for a trained model, which was not named. Name it: --from MODEL")
    settings = dataclasses.replace(textual_inversion.SETTINGS, **{k: v for k, v in changes.items() if v is not None})
    _check(settings)
    vocabulary = labels.of(dataset.info(data), domain)
    examples = [e for e in dataset.read(data) if settings.fold is None or dataset.fold_of(e.group) != settings.fold]
    learned = textual_inversion.learn(base, examples, root, vocabulary, settings, domain.AUGMENTATION, watch)
    facts = {"samples": len(examples), "groups": len({e.group for e in examples}), "held_out_groups": [], **learned}
    _show_embedding(domain, root, vocabulary, examples, settings, facts)
    return facts


def _show_embedding(
    domain: ModuleType, root: Path, vocabulary: labels.Vocabulary, examples: list[Example], settings: Training,
    facts: dict[str, object],
) -> None:  # fmt: skip
    """The report of an embedding: samples of the learned classes beside the images they were learned from."""
    meta = read_meta(root)
    spec, whole = spec_of(meta), labels.from_json(meta["labels"])
    known = [
        dataclasses.replace(
            e, annotation=Annotation(labels=labels.translated(e.annotation.labels, vocabulary, whole))
        )
        for e in examples
    ]  # fmt: skip
    batches = [to_batch(domain, spec, image_shape(meta), part, whole) for part in (known, [])]
    run = Run(domain, root, meta, spec, dataclasses.replace(settings, variants=1), *batches, whole[domain.TARGET])
    _, blocks = PARTS["denoiser"].show(run, PARTS["denoiser"].see(run), folder.load_part(root, "denoiser"))
    plan = meta["parts"]["denoiser"]["embedding"]
    training_report.write(root / "training" / "embedding", "embedding", facts, blocks, plan, settings, domain.NOTICE)


def to_batch(
    domain: ModuleType, spec: Spec, shape: tuple[int, ...], examples: list[Example], vocabulary: labels.Vocabulary
) -> Batch:
    """All examples as one Batch; an empty list gives an empty one. shape: (C, H, W) of an image."""
    known = without_text(spec.fields)
    values = [e.annotation.labels.get(domain.TARGET, math.nan) for e in examples]
    images = np.stack([e.image for e in examples]) if examples else np.zeros((0, *shape), np.float32)
    return Batch(
        image=torch.from_numpy(images),
        cond={
            k: torch.from_numpy(v)
            for k, v in domain.condition([e.annotation for e in examples], known, vocabulary).items()
        },
        target=torch.tensor([-1 if math.isnan(v) else int(v) for v in values], dtype=torch.int64),
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


def _check_fit(
    root: Path, meta: Mapping[str, Any], domain: ModuleType, vocabulary: labels.Vocabulary, example: Example
) -> None:
    if meta["domain"] != _name(domain) or image_shape(meta) != example.image.shape:
        raise Error(
            f"All parts of a model share domain and image shape; {root} is {meta['domain']} {list(image_shape(meta))}, "
            f"the data are {_name(domain)} {list(example.image.shape)}."
        )
    if labels.of(meta, domain) != vocabulary:
        raise Error(
            f"All parts of a model share the names of their labels; {root} knows {labels.to_json(labels.of(meta, domain))}, "
            f"the data {labels.to_json(vocabulary)}. Train a new model from it: --from {root}"
        )


# ---------------------------------------------------------------------------------------------------- where it begins


def _new_meta(
    domain: ModuleType, vocabulary: labels.Vocabulary, examples: list[Example], base: Path | None
) -> dict[str, Any]:
    """model.json of a model without parts. A domain with codec presets has latent models, of the base's codec if any."""
    shape = examples[0].image.shape
    meta: dict[str, Any] = {"format": 1, "domain": _name(domain), "labels": labels.to_json(vocabulary), "parts": {}}
    fields: Mapping[str, Field] = domain.fields(vocabulary)
    if base is not None:
        own = read_meta(base)
        kept = {"clock": own["clock"]} if "clock" in own else {}
        inner = _latent_shape(spec_of(own).shape, image_shape(own)[1] // spec_of(own).shape[1], shape)
        spec = dataclasses.replace(spec_of(own), shape=inner, fields=fields)
        return as_json(meta | kept | {"spec": spec, "image_shape": (image_shape(own)[0], *shape[1:])})
    if "codec" in domain.PRESETS:
        meta["image_shape"] = shape
        shape = _latent_shape((domain.LATENT_CHANNELS,), reduction(domain.PRESETS["codec"]["small"][0]), shape)
    if not hasattr(domain, "CLOCK"):
        return as_json(meta | {"spec": Spec(shape=shape, fields=fields)})
    ends = schedule.described(**domain.CLOCK).sigmas
    spec = Spec(shape, fields, sigma_min=ends[0], sigma_max=ends[-1], sigma_data=1.0, initial_variance=1.0)
    return as_json(meta | {"clock": domain.CLOCK, "spec": spec})


def _latent_shape(base: tuple[int, ...], factor: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, h, w) of the latents of images (C, H, W): networks are convolutional, so that a base's fit any size."""
    if shape[1] % factor or shape[2] % factor:
        raise Error(
            f"The sides of a latent model's images are multiples of {factor}; found {shape[2]} x {shape[1]}. "
            "Prepare the data with another --size."
        )
    return base[0], shape[1] // factor, shape[2] // factor


def _take_over(base: Path, root: Path, vocabulary: labels.Vocabulary, shape: tuple[int, ...]) -> None:
    """Make a new model folder of a Stable Diffusion pipeline, for images of (C, H, W); one that is there is gone on with."""
    from toolkit.networks import pipeline

    if (root / "model.json").is_file():
        return
    pipeline.convert(base, root, channels=shape[0], size=shape[-1])
    write_meta(root, read_meta(root) | {"labels": labels.to_json(vocabulary)})


def _pretrained(meta: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What describes a part that was taken over from a pipeline, its own network in place of a preset's; {} for others."""
    known = meta["parts"].get(part, {})
    if not {"unet", "vae", "clip"} & known.keys():
        return {}
    return {k: v for k, v in known.items() if k not in ("training", "augmentation", "run")}


def _begin_from(base: Path, root: Path, part: str, module: nn.Module, plain: dict[str, Any]) -> None:
    """Give a part the weights of the base model's, and the model the base's codec and features where it has none."""
    theirs = read_meta(base)
    root.mkdir(parents=True, exist_ok=True)
    for other in FIRST_STAGE:
        target = theirs["parts"].get(other, {}).get("target")
        same = target is None or theirs["labels"].get(target) == plain["labels"].get(target)
        if other != part and other in theirs["parts"] and other not in plain["parts"] and same:
            plain["parts"][other] = theirs["parts"][other]
            shutil.copyfile(base / f"{other}.safetensors", root / f"{other}.safetensors")
            if other == TEXT:
                shutil.copyfile(base / tokenizer.FILE, root / tokenizer.FILE)
    if part in theirs["parts"]:
        adopt(
            module, folder.load_part(base, part), labels.from_json(theirs["labels"]), labels.from_json(plain["labels"])
        )


def _seen_before(base: Path | None, part: str) -> set[str]:
    """Hashes of what a base model's denoiser, codec and features were trained on."""
    if base is None:
        return set()
    parts = read_meta(base)["parts"]
    return {h for p in (*FIRST_STAGE, part) for h in parts.get(p, {}).get("run", {}).get("trained_on", ())}


def _name(domain: ModuleType) -> str:
    return domain.__name__.rpartition(".")[2]
