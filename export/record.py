"""exports.json of a model folder: what was exported for what, and what the gate measured before it was kept. Stdlib only.

    {"format": 1, "exports": [{"target": "onnx", "precision": "fp16", "fuse": "none", "opset": 20, "weights": ..., ...}]}

Nothing in it names a place on the machine that wrote it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from toolkit.example import Error

__all__ = ["FILE", "Record", "add", "hashes", "machine", "read", "valid_exports", "versions"]

FILE = "exports.json"
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """One export that passed.

    target: onnx, openvino or tensorrt. fuse: none, step or sampler. weights: fingerprint of the folder when it was made.
    files: graph -> SHA-256. ran: what the gate ran, a backend's name such as "onnx:cpu"; where the target itself could not
    run, as without its device, another ("torch:bf16"). parity: rows of output, sigma, measure, error, allowed. run: whole
    sampler runs by name. domain: metric, fp32, low, high, found. speed: rows of batch, seconds, ratio to the reference.
    """

    target: str
    precision: str
    fuse: str
    opset: int | None
    weights: str
    files: Mapping[str, str]
    ran: str
    machine: str
    versions: Mapping[str, str]
    parity: Sequence[Mapping[str, Any]] = field(default_factory=list)
    run: Mapping[str, Any] = field(default_factory=dict)
    domain: Mapping[str, Any] | None = None
    speed: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.target, self.precision, self.fuse

    @property
    def ratio(self) -> float:
        """How many times as fast as the reference at batch 1, by the gate's own table; 0 where it has none."""
        return next((float(row["ratio"]) for row in self.speed if row["batch"] == 1), 0.0)


def read(root: str | os.PathLike[str]) -> list[Record]:
    """What a model folder says of its exports, whatever weights they are of. Errors: a file that is not ours."""
    path = Path(root) / FILE
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        return [Record(**row) for row in content["exports"]]
    except (ValueError, KeyError, TypeError) as problem:
        raise Error(
            f"{FILE} must be one that diffgraft wrote; {path} is not: {problem}. Delete it and export again."
        ) from problem


def valid_exports(root: str | os.PathLike[str], weights: str) -> list[Record]:
    """The exports that may be run: of these weights, run by their own target in the gate, with every file as it was then."""
    found = [r for r in read(root) if r.weights == weights and r.ran.partition(":")[0] == r.target]
    return [r for r in found if _same(Path(root), r.files)]


def add(root: str | os.PathLike[str], record: Record) -> None:
    """Put a record into the folder, in place of one of the same kind; those of other weights go."""
    path = Path(root) / FILE
    kept = [r for r in read(root) if r.weights == record.weights and r.key != record.key]
    rows = [dataclasses.asdict(r) for r in sorted([*kept, record], key=lambda r: r.key)]
    text = json.dumps({"format": FORMAT, "exports": rows}, indent=1, allow_nan=False)
    partial = path.with_name(f".{FILE}")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def hashes(root: str | os.PathLike[str], names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of the folder, by name."""
    return {name: hashlib.sha256((Path(root) / name).read_bytes()).hexdigest() for name in sorted(names)}


def machine() -> str:
    """The processor and how many of its cores there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of those of some packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _same(root: Path, files: Mapping[str, str]) -> bool:
    return all((root / name).is_file() for name in files) and hashes(root, files) == dict(files)
