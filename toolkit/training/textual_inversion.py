"""Textual inversion: a new value of a class learned as one row of its embedding table, everything else frozen.

Gal et al. 2022, arXiv:2208.01618, eq. 2: the embedding that minimises the denoising loss on a few images of the thing.
Their words are rows of a text encoder's token table; here they are rows of the table of a class field
(toolkit/networks/unet.py), as DA-Fusion (toolkit/methods/da_fusion.py) needs them. A row begins as the mean of the
known values, the coarse descriptor; several classes may be learned at once.

The learned model is a folder of its own: the base's parts, with the rows put in before the null, which stays last. A
class label that the network is conditioned on and every other class label gets the new names. What the base was trained
on counts as seen, and so do the new images.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from toolkit.data import labels
from toolkit.example import Error, Example
from toolkit.models.folder import fingerprint, hash_id, image_shape, read_meta, spec_of
from toolkit.networks import folder
from toolkit.settings import Augmentation, Training
from toolkit.training.loader import Batch, augment, generator
from toolkit.training.loop import Samples, Watch, fit
from toolkit.training.losses import denoising

__all__ = ["SETTINGS", "Words", "learn", "merge_vocabularies"]

SETTINGS = Training(600, 16, 1e-2, warmup=20, ema=0.99, fold=None, precision="fp32")
"""What a few images need: a row is found in minutes, and longer training finds the images instead of the class."""

TABLE = "network.fields.classes.{}.weight"


class Words(nn.Module):
    """D(x, sigma, cond) of a frozen denoiser whose class tables have `counts[field]` further rows before the null.

    Its parameters, and its state, are the new rows alone.
    """

    def __init__(self, base: nn.Module, counts: Mapping[str, int]) -> None:
        super().__init__()
        # In a list, where nn.Module does not look: the weights of the base are neither trained nor averaged nor saved.
        self._base = [base.eval().requires_grad_(False)]
        known = {name: base.get_parameter(TABLE.format(name)) for name in counts}
        self.rows = nn.ParameterDict(
            {name: nn.Parameter(known[name][:-1].mean(0).repeat(count, 1)) for name, count in counts.items()}
        )

    def tables(self) -> dict[str, Tensor]:
        """The whole tables by the name that they have in the base's state."""
        names = {name: TABLE.format(name) for name in self.rows}
        known = {name: self._base[0].get_parameter(key) for name, key in names.items()}
        return {
            key: torch.cat([known[name][:-1], self.rows[name].to(known[name]), known[name][-1:]])
            for name, key in names.items()
        }

    def state(self) -> dict[str, Tensor]:
        """The weights of the denoiser with its new tables."""
        return self._base[0].state_dict() | {key: table.detach() for key, table in self.tables().items()}

    def forward(self, x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return functional_call(self._base[0], self.tables(), (x, sigma), cond)

    def _apply(self, fn: Any, *args: Any, **more: Any) -> nn.Module:
        self._base[0]._apply(fn, *args, **more)  # to another device together
        return super()._apply(fn, *args, **more)


def learn(
    base: Path,
    data: Sequence[Example],
    root: Path,
    vocabulary: labels.Vocabulary,
    settings: Training = SETTINGS,
    augmentation: Augmentation = Augmentation(),  # noqa: B008 - frozen
    watch: Watch = lambda *_: None,
) -> dict[str, Any]:
    """Learn the values in `data` that the model in `base` lacks, from all of the data, and write the model to `root`.

    data: labelled with the indices of `vocabulary`, the data set's own. Run again it continues a stopped run. Of
    settings, `drop` and `weight_decay` are 0 here: the null is frozen. Returns the facts that model.json keeps.
    Errors: nothing new to learn, images of another shape, the base's own folder as `root`.
    """
    begun = time.monotonic()
    meta = read_meta(base)
    if root.resolve() == base.resolve():
        raise Error(f"New words make a new model; {root} is the one they start from. Take another folder.")
    if "labels" not in meta or "denoiser" not in meta["parts"]:
        raise Error(f"New words need a denoiser with named labels; {base} has none. Train one: --part denoiser")
    known = labels.from_json(meta["labels"])
    whole = merge_vocabularies(known, _shown(vocabulary, data))
    counts = {
        name: len(whole[name]) - len(known[name])  # type: ignore[arg-type]
        for name, field in spec_of(meta).fields.items()
        if field.dtype == "int64" and whole.get(name) != known.get(name)
    }
    words = {name: list(whole[name][-count:]) for name, count in counts.items()}  # type: ignore[index]
    _check(meta, base, data, counts)
    learned = json.loads(json.dumps(meta))
    learned["labels"] = labels.to_json(whole)
    for name, count in counts.items():
        learned["spec"]["fields"][name]["null"] += count
    settings = dataclasses.replace(settings, drop=0.0, weight_decay=0.0)
    spec = spec_of(learned)
    samples = _batch(data, spec.fields, vocabulary, whole)
    if "codec" in meta["parts"]:
        samples, augmentation = _latents(base, samples, settings, augmentation), Augmentation()
    module = Words(folder.load_part(base, "denoiser"), counts)
    nothing = samples[torch.zeros(0, dtype=torch.long)]
    place = root / "training" / "embedding"
    module.load_state_dict(
        fit(module, denoising, Samples(samples, nothing, augmentation), spec, settings, place, watch)
    )
    before = learned["parts"]["denoiser"].setdefault("run", {})
    before["trained_on"] = sorted({*before.get("trained_on", ()), *(hash_id(e.id) for e in data)})
    facts = {
        "method": "textual inversion, Gal et al. 2022, arXiv:2208.01618: only these rows were learned",
        "base": fingerprint(base),
        "words": words,
        "samples": len(data),
        "trained_on": sorted(hash_id(e.id) for e in data),
        "parameters": sum(p.numel() for p in module.parameters()),
        "training": dataclasses.asdict(settings),
        "seconds": round(time.monotonic() - begun),
    }
    learned["parts"]["denoiser"]["embedding"] = facts
    _copy(base, root, learned)
    folder.save_part(root, "denoiser", module.state(), learned)
    return facts


def merge_vocabularies(
    known: labels.Vocabulary, further: labels.Vocabulary
) -> dict[str, tuple[str, ...] | labels.Range]:
    """The known vocabulary with the names of further class values behind its own; other labels as they were."""
    whole = dict(known)
    for name, entry in further.items():
        own = known.get(name)
        if type(own) is tuple and type(entry) is tuple:
            whole[name] = own + tuple(value for value in entry if value not in own)
    return whole


def _shown(vocabulary: labels.Vocabulary, data: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """The names of class values that occur in the data: of the others nothing could be learned."""
    indices = {name: {e.annotation.labels.get(name, math.nan) for e in data} for name in vocabulary}
    return {
        name: tuple(value for n, value in enumerate(entry) if n in indices[name])
        for name, entry in vocabulary.items()
        if type(entry) is tuple
    }


def _check(meta: Mapping[str, Any], base: Path, data: Sequence[Example], counts: Mapping[str, int]) -> None:
    if not counts:
        raise Error(
            f"New words are class values that the model lacks; {base} knows all of these. "
            "To train it further on them: --part denoiser --from."
        )
    shapes = {e.image.shape for e in data}
    if shapes != {image_shape(meta)}:
        raise Error(
            f"New words are learned from images of the model's shape {list(image_shape(meta))}; found "
            f"{sorted(map(list, shapes)) or 'none'}. Prepare them in that size."
        )


def _batch(data: Sequence[Example], fields: Any, own: labels.Vocabulary, whole: labels.Vocabulary) -> Batch:
    """The examples with the indices of `whole`; target tells one combination of classes from another."""
    renamed = []
    for example in data:
        values = dict(example.annotation.labels)
        for name, value in values.items():
            entry, all_ = own.get(name), whole.get(name)
            if type(entry) is tuple and type(all_) is tuple and not math.isnan(value):
                values[name] = float(all_.index(entry[int(value)]))
        renamed.append(dataclasses.replace(example.annotation, labels=values))
    cond = {k: torch.from_numpy(v) for k, v in labels.condition(fields, renamed).items()}
    classes = torch.stack([v for v in cond.values() if v.dtype == torch.int64], 1)
    return Batch(
        torch.from_numpy(np.stack([e.image for e in data])), cond, classes.unique(dim=0, return_inverse=True)[1]
    )


@torch.no_grad()
def _latents(base: Path, samples: Batch, settings: Training, augmentation: Augmentation) -> Batch:
    """Latents of `settings.variants` copies of the images, each but the first changed anew."""
    codec: Any = folder.load_part(base, "codec")
    count = max(1, settings.variants)
    copies = [
        samples.image,
        *(augment(samples.image, augmentation, generator(settings.seed, n, 3)) for n in range(1, count)),
    ]
    latents = torch.cat([codec.encode(part) for images in copies for part in images.split(64)])
    return Batch(
        latents,
        {k: v.repeat(count, *[1] * (v.ndim - 1)) for k, v in samples.cond.items()},
        samples.target.repeat(count),
    )


def _copy(base: Path, root: Path, meta: Mapping[str, Any]) -> None:
    """The parts that stay as they are, their graphs with them."""
    root.mkdir(parents=True, exist_ok=True)
    for part in meta["parts"]:
        for name in (f"{part}.safetensors", *folder.GRAPHS[part]) if part != "denoiser" else ():
            if (base / name).is_file():
                shutil.copyfile(base / name, root / name)
