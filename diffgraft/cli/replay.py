"""A result made again from the record beside it, and whether the files are the same."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffgraft
from diffgraft import requests
from diffgraft.cli.comparison import DIFFERENT, EXTRA, MISSING, SAME, SAME_APART, compare
from diffgraft.requests import ReplayRequest, record
from diffgraft.requests.base import build
from diffgraft.requests.verb import Call, verb
from toolkit.example import Error

__all__ = ["ReplayResult", "replay"]


@dataclass(frozen=True)
class _Verb:
    """A verb that can be run again. name: in the package diffgraft; output: field of its request that is written to."""

    name: str
    request: type
    output: str = "out"


VERBS = {
    "prepare": _Verb("prepare", requests.PreparationRequest, "data"),
    "convert": _Verb("convert", requests.ConversionRequest),
    "train": _Verb("train", requests.TrainingRequest, "model"),
    "distill": _Verb("distill", requests.DistillationRequest),
    "generate": _Verb("generate", requests.GenerationRequest),
    "edit": _Verb("edit", requests.EditRequest),
    "counterfactual": _Verb("counterfactual", requests.CounterfactualRequest),
    "evaluate anomaly": _Verb("evaluate_anomaly", requests.AnomalyRequest),
    "evaluate distribution": _Verb("evaluate_distribution", requests.DistributionRequest),
    "evaluate classify": _Verb("evaluate_classification", requests.ClassificationRequest),
    "evaluate detect": _Verb("evaluate_detection", requests.DetectionRequest),
    "evaluate alignment": _Verb("evaluate_alignment", requests.AlignmentRequest),
    "evaluate steps": _Verb("evaluate_steps", requests.StepsRequest),
    "audit": _Verb("audit", requests.AuditRequest),
    "export": _Verb("export", requests.ExportRequest),
}
"""Name in a record -> the verb."""

NOT_READ = {"cache"}
"""Fields with folders that are made where they are not there."""


@dataclass(frozen=True)
class ReplayResult:
    """What came of it. files: file, relative to the folders -> what `diffgraft.cli.comparison.compare` says of it."""

    verb: str
    files: Mapping[str, str]

    @property
    def is_same(self) -> bool:
        """Whether every file is the same, apart from times and paths."""
        return set(self.files.values()) <= {SAME, SAME_APART}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for name, found in self.files.items():
            if found != SAME:
                yield f"{found}: {name}"
        counts = Counter(self.files.values())
        words = ", ".join(
            f"{counts[kind]} {text}"
            for kind, text in (
                (SAME, "the same bytes"), (SAME_APART, SAME_APART), (DIFFERENT, DIFFERENT), (MISSING, MISSING), (EXTRA, EXTRA)
            )
            if counts[kind]
        )  # fmt: skip
        yield f"{len(self.files)} files of {self.verb}: {words}"


@verb(ReplayRequest)
def replay(request: ReplayRequest, call: Call) -> ReplayResult:
    """Run a result again from its record, with another folder to write to, and compare the two folders file by file.

    call.tell says what has changed since: the model, the version of diffgraft. Errors: a folder without a record, what it
    was made from is not there any more, and all that the verb itself refuses.
    """
    if request.new.exists():
        raise Error(f"A replay writes a new folder; '{request.new}' is there. Name another one.")
    records = _records(request.out)
    for each in records:
        again = VERBS[each.verb]
        asked = _asked(each, again, request)
        for line in _changes(each, asked, again):
            call.tell(line)
        run = getattr(diffgraft, again.name)
        run(asked, watch=call.watch, command=call.command)
    return ReplayResult(records[0].verb, compare(request.out, request.new))


def _records(out: Path) -> list[record.Record]:
    """The records of a result: one; of a model its student's, or those of its trainings in their order."""
    places = [out]
    if (out / "model.json").is_file() and not (out / record.FILE).is_file():
        parts = json.loads((out / "model.json").read_text(encoding="utf-8"))["parts"]
        trained = [out / "training" / part for part in parts if (out / "training" / part / record.FILE).is_file()]
        places = [place for place in trained if place.name == "student"] or trained or [out]
    found = [record.read(place) for place in places]
    for each in found:
        if each.verb not in VERBS:
            raise Error(f"A run that is repeated is one of {', '.join(VERBS)}; that of '{out}' is '{each.verb}'.")
    if found[0].verb in ("train", "distill") and places == [out]:
        raise Error(f"'{out}' is the training of one part. Name the model folder it belongs to: {out.parent.parent}")
    return found


def _asked(found: record.Record, again: _Verb, request: ReplayRequest) -> Any:
    """The request of a record with its output elsewhere. Errors: what it reads is not there."""
    values = dict(found.request)
    if values.get(again.output) is None:
        raise Error(f"This {found.verb} wrote into the model that it was given. Run it again by its own name.")
    asked = build(again.request, values | {again.output: str(request.new)})
    gone = [each for each in _read(asked, again.output) if not each.exists()]
    if gone:
        raise Error(
            f"'{request.out}' was made from {', '.join(map(str, gone))}, which is not there. Paths of a record are as they "
            f"were given: replay it from the same folder, with what it was made from in its place."
        )
    return asked


def _read(value: Any, output: str = "") -> Iterator[Path]:
    """The paths of a request that its verb reads."""
    for each in dataclasses.fields(value):
        found = getattr(value, each.name)
        if each.name == output or each.name in NOT_READ:
            continue
        if isinstance(found, Path):
            yield found
        elif isinstance(found, Mapping):
            yield from (one for one in found.values() if isinstance(one, Path))
        elif dataclasses.is_dataclass(found):
            yield from _read(found)


def _changes(found: record.Record, asked: Any, again: _Verb) -> Iterator[str]:
    """What is not as it was when the result was made."""
    from toolkit.models.folder import fingerprint

    if found.version != diffgraft.__version__:
        yield f"made by diffgraft {found.version}, replayed by {diffgraft.__version__}"
    model = getattr(asked, "model", None) if again.output != "model" else None
    if found.model and model is not None:
        now = fingerprint(model)
        if not now.startswith(found.model):
            yield f"the model {model} has changed: {found.model[:16]} then, {now[:16]} now"
