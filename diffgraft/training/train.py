"""Train one part of a model from a prepared data set; running the same command again continues it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from diffgraft import models
from diffgraft.requests import TrainingRequest, record
from diffgraft.requests.verb import Call, verb
from diffgraft.training import base_model, report
from diffgraft.training.data import TrainingData, read_data
from diffgraft.training.parts.generative import CODEC, DENOISER
from diffgraft.training.parts.judges import CLASSIFIER, DETECTOR, FEATURES
from diffgraft.training.parts.part import Part, TrainingRun, loss_watch
from diffgraft.training.parts.text_encoder import TEXT_ENCODER
from toolkit.data import labels
from toolkit.example import Annotation, Error
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import fingerprint, hash_id, plain_meta, read_meta
from toolkit.networks import folder
from toolkit.settings import Network, Training
from toolkit.training import low_rank, textual_inversion
from toolkit.training.loop import fit

__all__ = ["PARTS", "learn_embedding", "train", "train_part"]

PARTS: Mapping[str, Part] = {
    "denoiser": DENOISER,
    "classifier": CLASSIFIER,
    "codec": CODEC,
    "features": FEATURES,
    "detector": DETECTOR,
    "text": TEXT_ENCODER,
}


@verb(TrainingRequest)
def train(request: TrainingRequest, call: Call) -> dict[str, Any]:
    """Train a part with a preset of the domain, changed as requested, and save it; returns the facts of the run.

    Groups (patients, leaves) of the held-out fold are never trained on. The ids that were trained on are kept as hashes
    in model.json, so that an evaluation can refuse to test on them. What was learned is shown in
    MODEL/training/<part>/report.html. base: a model folder of which a new model takes codec and features, and the part
    its first weights (transfer learning); what that model was trained on counts as trained on by this one too. It may be a
    Stable Diffusion pipeline, which then becomes a model folder whose U-Net is fine-tuned, as RoentGen is. Two are no
    training of a network: part "embedding", and part "text" from a folder with a pretrained text encoder, which is
    taken over frozen: its facts are "parameters" and "frozen".
    """
    domain = models.domain(request.domain)
    _check_places(request)
    if request.part == "embedding":
        return learn_embedding(domain, request, call)
    if request.part == "text" and request.base is not None and (request.base / "text_encoder").is_dir():
        data, place = read_data(domain, request.data, None), request.model / "training" / request.part
        facts = base_model.adopt_text_encoder(domain, request.model, request.base, data)
        place.mkdir(parents=True, exist_ok=True)
        record.save(place, "train", request)
        return facts
    return train_part(domain, request, call)


def _check_places(request: TrainingRequest) -> None:
    """Refuse what is no place for a model and what is none to begin with, before the data are read."""
    if request.model.is_file():
        raise Error(f"A model is a folder of its own; {request.model} is a file. Name a new folder.")
    if request.base is not None and not (request.base / "text_encoder").is_dir():
        models.meta(request.base)


def train_part(domain: ModuleType, request: TrainingRequest, call: Call) -> dict[str, Any]:
    """`train` of a part that is a network, in a domain that need not be one of `domains`."""
    begun, root, name = time.monotonic(), request.model, request.part
    network, settings = _preset(domain, request)
    data = read_data(domain, request.data, settings.fold)
    base = request.base
    if base is not None and pipeline_folder.is_pipeline(base):
        base_model.convert_pipeline(base, root, data)
        base = None
    run = TrainingRun.of(domain, root, base_model.begin(domain, root, base, data), settings, data)
    run = dataclasses.replace(run, meta=_with_entry(run, name, network))
    torch.manual_seed(settings.seed)
    module = base_model.initial_network(root, name, run.meta, base, settings.lora)
    material, place = PARTS[name].prepare(run), root / "training" / name
    learner = material.learner(module)
    average = fit(learner, material.loss, material.samples, run.spec, settings, place, loss_watch(call, name))
    learner.load_state_dict(average)
    PARTS[name].finalize(run, learner.eval())
    weights = low_rank.merge_adapters(module) if settings.lora else module.state_dict()
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    facts = _facts(data, base_model.trained_before(base, name), parameters, begun)
    figures, blocks = PARTS[name].evaluate(run, material, folder.round_trip(name, run.meta, weights))
    facts |= figures
    if base is not None:
        facts["base"] = hash_id(str(read_meta(base)["parts"].get(name, {}).get("run")))
    entry = run.meta["parts"][name] | {"run": facts}
    meta = run.meta | {"parts": run.meta["parts"] | {name: entry}} | _data_facts(domain, data)
    folder.save_part(root, name, weights, meta)
    report.write(place, name, facts, blocks, entry, settings, domain.NOTICE)
    record.save(place, "train", request, "" if base is None else fingerprint(base))
    return facts


def learn_embedding(domain: ModuleType, request: TrainingRequest, call: Call) -> dict[str, Any]:
    """Textual inversion: learn only the classes of the data that the model `base` lacks, its network frozen.

    Without a fold all of the data, as a few images are, are learned from.
    """
    if request.base is None:
        raise Error("An embedding is learned for a trained model, which was not named. Name it: --from MODEL")
    settings = dataclasses.replace(textual_inversion.SETTINGS, **request.changes)
    data = read_data(domain, request.data, settings.fold)
    learned = textual_inversion.learn(
        request.base, data.samples, request.model, data.vocabulary, settings, domain.AUGMENTATION,
        loss_watch(call, "embedding"),
    )  # fmt: skip
    groups = len({example.group for example in data.samples})
    facts = {"samples": len(data.samples), "groups": groups, "held_out_groups": [], **learned}
    meta, place = read_meta(request.model), request.model / "training" / "embedding"
    run = TrainingRun.of(
        domain, request.model, meta, dataclasses.replace(settings, variants=1), _relabelled(data, meta)
    )
    # Samples of the learned classes beside the images that they were learned from.
    _, blocks = DENOISER.evaluate(run, DENOISER.prepare(run), folder.load_part(request.model, "denoiser"))
    entry = meta["parts"]["denoiser"]["embedding"]
    report.write(place, "embedding", facts, blocks, entry, settings, domain.NOTICE)
    record.save(place, "train", request, fingerprint(request.base))
    return facts


def _preset(domain: ModuleType, request: TrainingRequest) -> tuple[Network, Training]:
    if request.preset not in domain.PRESETS.get(request.part, {}):
        known = "; ".join(f"--part {p} --preset {'|'.join(q)}" for p, q in domain.PRESETS.items())
        raise Error(f"This domain has no part '{request.part}' with preset '{request.preset}'. Known: {known}.")
    network, settings = domain.PRESETS[request.part][request.preset]
    return network, dataclasses.replace(settings, **request.changes)


def _with_entry(run: TrainingRun, part: str, network: Network) -> dict[str, Any]:
    """model.json with the part in it."""
    entry = {"network": network, "training": run.settings, "augmentation": run.domain.AUGMENTATION}
    entry |= base_model.pretrained_entry(run.meta, part) or PARTS[part].entry(run)
    return plain_meta(run.meta | {"parts": run.meta["parts"] | {part: entry}})


def _facts(data: TrainingData, before: set[str], parameters: int, begun: float) -> dict[str, Any]:
    """What model.json keeps of a run: what was trained on and kept back, as counts and hashes."""
    return {
        "samples": len(data.samples),
        "groups": len({example.group for example in data.samples}),
        "held_out_groups": sorted({hash_id(example.group) for example in data.held_out}),
        "trained_on": sorted({hash_id(example.id) for example in data.samples} | before),
        "parameters": parameters,
        "seconds": round(time.monotonic() - begun),
    }


def _data_facts(domain: ModuleType, data: TrainingData) -> dict[str, Any]:
    """What model.json keeps of the data: what is typical of it, and of which windows of pictures it consists."""
    facts = {"typical": domain.training_summary(data.samples)} if hasattr(domain, "training_summary") else {}
    return facts | ({"crop": data.options["crop"]} if "crop" in data.options else {})


def _relabelled(data: TrainingData, meta: Mapping[str, Any]) -> TrainingData:
    """The examples to be trained on, with the labels of a model that knows more of them."""
    vocabulary = labels.from_json(meta["labels"])
    known = [labels.translate(e.annotation.labels, data.vocabulary, vocabulary) for e in data.samples]
    samples = [
        dataclasses.replace(e, annotation=Annotation(labels=row)) for e, row in zip(data.samples, known, strict=True)
    ]
    return TrainingData(vocabulary, data.options, samples, [])
