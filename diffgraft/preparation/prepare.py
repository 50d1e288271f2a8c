"""Raw files to a data set folder: what can be used is, what cannot stands in quarantine.jsonl with the reason."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from diffgraft.models.folder import domain
from diffgraft.preparation.quarantine import Aside, quarantine
from diffgraft.requests import PreparationRequest, record
from diffgraft.requests.base import overrides
from diffgraft.requests.verb import Call, verb
from toolkit.data import dataset, labels
from toolkit.data.labels import Vocabulary
from toolkit.diffusion.model import BOXES
from toolkit.example import Error, Example

__all__ = ["PreparationResult", "prepare"]


OURS = ("root", "aside", "watch")
"""What a domain's `read` is given by us; its other parameters are options of the user."""


@dataclass(frozen=True)
class PreparationResult:
    """What was counted.

    classes: class of the domain's target -> samples, every class of the vocabulary among them, and "unknown" where it
    occurs. objects: class -> boxes, of pictures that have boxes. aside: (source, reason) of each file that was not used.
    options: as resolved.
    """

    samples: int
    groups: int
    classes: Mapping[str, int]
    vocabulary: Vocabulary
    aside: tuple[tuple[str, str], ...]
    options: Mapping[str, object]
    objects: Mapping[str, int] = field(default_factory=dict)


@verb(PreparationRequest)
def prepare(request: PreparationRequest, call: Call) -> PreparationResult:
    """Read the raw files of a domain and write them as a data set.

    Errors: an option that the domain does not take, no usable file; then nothing is written.
    """
    raw, name = request.raw, request.domain
    if not raw.exists():
        raise Error(f"Raw files are read from a folder; '{raw}' does not exist. Check the path.")
    module = domain(name)
    given = overrides(request, "contrast", "size", "only", "crop", "level", "origin")
    options = _resolved(name, module, given | ({"only": [*request.only]} if request.only else {}))
    vocabulary = module.vocabulary(raw, **options)
    classes: dict[str, int] = dict.fromkeys(vocabulary.get(module.TARGET, ()), 0)
    groups: set[str] = set()
    objects: Counter[str] = Counter()
    aside: Aside = []

    def put_aside(source: str, reason: str) -> None:
        aside.append((source, reason))

    def counted(found: Iterator[Example]) -> Iterator[Example]:
        for example in found:
            groups.add(example.group)
            value = example.annotation.labels.get(module.TARGET, math.nan)
            label = "unknown" if math.isnan(value) else vocabulary[module.TARGET][int(value)]
            classes[label] = classes.get(label, 0) + 1
            if example.annotation.boxes is not None:
                objects.update(example.annotation.boxes.names)
            yield example
        if not groups:
            raise Error(_nothing(raw, aside))

    write = getattr(module, "write", _write)  # a domain with a format of its own writes that, with the same manifest
    with dataset.staged_folder(request.data, request.overwrite, needed=[raw]) as folder:
        found = module.read(raw, **options, aside=put_aside, watch=lambda done, of: call.watch("reading", done, of))
        facts = {"domain": name, "raw": str(raw.absolute()), "options": options, "classes": classes}
        facts |= {"objects": objects} if BOXES in module.fields(vocabulary) else {}
        samples = write(counted(found), folder, vocabulary, **facts)
        quarantine(folder, aside)
        record.save(folder, "prepare", request)
    return PreparationResult(samples, len(groups), classes, vocabulary, tuple(aside), options, objects)


def _write(found: Iterable[Example], root: Path, vocabulary: Vocabulary, **description: Any) -> int:
    return dataset.write(found, root, **description, labels=labels.to_json(vocabulary))


def _resolved(name: str, module: ModuleType, given: Mapping[str, object]) -> dict[str, object]:
    """Every option of the domain's `read`, as given or by default."""
    known = {k: p.default for k, p in inspect.signature(module.read).parameters.items() if k not in OURS}
    for option in given.keys() - known.keys():
        raise Error(f"The domain {name} takes {_flags(known)}; found {_flags([option])}. Leave it out.")
    return {**known, **given}


def _flags(options: Iterable[str]) -> str:
    return " and ".join(f"--{option}" for option in options) or "no options"


def _nothing(raw: Path, aside: Sequence[tuple[str, str]]) -> str:
    found = f"{len(aside)} put aside, the first, {aside[0][0]}: {aside[0][1]}" if aside else "no file of this domain."
    return f"A data set needs one usable file or more; '{raw}' has none: {found}"
