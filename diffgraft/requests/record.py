"""The record of a run: its request, whole, in a file beside its result, so that it can be run again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffgraft.requests.base import as_json, converted, path, request
from toolkit.example import Error

__all__ = ["FILE", "Record", "ReplayRequest", "read", "save"]

FILE = "request.json"


@dataclass(frozen=True)
class Record:
    """What was asked for. verb: its name; model: fingerprint of the model that did it, empty where there was none."""

    verb: str
    request: dict[str, Any]
    model: str
    version: str


@request
class ReplayRequest:
    """Make a result again from its record. out: folder of the result, which a verb wrote. new: folder to write to."""

    out: Path = converted(converter=path)
    new: Path = converted(converter=path)


def save(folder: Path, verb: str, request: Any, model: str = "") -> None:
    """Write the record of a run into the folder of its result."""
    from diffgraft import __version__

    content = {"verb": verb, "request": as_json(request), "model": model, "diffgraft": __version__}
    (folder / FILE).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(folder: Path) -> Record:
    """The record beside a result. Errors: a folder without one, a record that is damaged."""
    path = folder / FILE
    if not path.is_file():
        raise Error(f"A run is repeated from its {FILE}; '{folder}' has none. Name the folder that a verb wrote.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(content["verb"], dict(content["request"]), str(content["model"]), str(content["diffgraft"]))
    except (ValueError, KeyError, TypeError) as problem:
        raise Error(
            f"'{path}' is not the record of a run: {type(problem).__name__} {problem}. Run the verb anew."
        ) from None
