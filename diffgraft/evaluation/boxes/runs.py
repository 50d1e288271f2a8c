"""Finished trainings of a downstream experiment with boxes, kept in OUT so that none is done twice.

    OUT/runs.jsonl       one line a training: key, arm, shots, seed, seconds, losses, how many images were drawn from where
    OUT/runs/<key>.npz   what it found in the test images

A key is a hash of all that a training depends on: images and boxes, recipe, network, settings, seed, and the code that
trains. So an experiment that was stopped, or is run again with more arms or seeds, trains what it lacks.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from toolkit.evaluation.detect_downstream import Outcome
from toolkit.evaluation.detection.metrics import Detections
from toolkit.example import Error, Example

__all__ = ["Runs", "code", "digest"]

LINES, FOLDER = "runs.jsonl", "runs"
VALUES = ("toolkit.example", "toolkit.settings")
WRITTEN = ("report.html", "metrics.json", "request.json")


class Runs:
    """The trainings in a folder; None keeps them in memory alone.

    anew: forget those that are there. Nothing is written before there is something to keep.
    Errors: a folder with other things in it, unless diffgraft wrote them.
    """

    def __init__(self, root: Path | None, anew: bool = False) -> None:
        self.root, self.known, self.anew = root, dict[str, Outcome](), anew
        self.lines: dict[str, dict[str, Any]] = {}
        if root is None or not root.exists():
            return
        if not root.is_dir() or (any(root.iterdir()) and not (root / LINES).is_file()):
            raise Error(
                f"Output must be a new folder, or that of an earlier run of this experiment, which goes on; {root} is neither. Take "
                "another."
            )
        if not anew and (root / LINES).is_file():
            self.lines = {line["key"]: line for line in _read(root / LINES)}

    def get(self, key: str) -> Outcome | None:
        """A finished training; None if there is none, or what it found was lost."""
        if key in self.known or self.root is None or key not in self.lines:
            return self.known.get(key)
        try:
            with np.load(self.root / FOLDER / f"{key}.npz", allow_pickle=False) as file:
                found = _unpacked({name: file[name] for name in file.files})
        except (OSError, ValueError, KeyError):
            return None
        line = self.lines[key]
        self.known[key] = Outcome(found, tuple(line["losses"]), line["drawn"], line["seconds"])
        return self.known[key]

    def put(self, key: str, outcome: Outcome, **facts: Any) -> None:
        """Keep a training, as `get` gives it back. facts: for the reader of runs.jsonl."""
        packed = _packed(outcome.found)
        losses = tuple(round(loss, 4) for loss in outcome.losses)
        self.known[key] = Outcome(_unpacked(packed), losses, outcome.drawn, round(outcome.seconds, 2))
        if self.root is None:
            return
        (self.root / FOLDER).mkdir(parents=True, exist_ok=True)
        if self.anew:
            for path in [*(self.root / FOLDER).glob("*.npz"), *(self.root / name for name in (LINES, *WRITTEN))]:
                path.unlink(missing_ok=True)
            self.anew = False
        fresh = self.root / FOLDER / f".{key}.{os.getpid()}.npz"
        np.savez_compressed(fresh, **packed)
        os.replace(fresh, self.root / FOLDER / f"{key}.npz")
        self.lines[key] = {
            "key": key, **facts, "seconds": self.known[key].seconds, "drawn": dict(outcome.drawn), "losses": losses,
        }  # fmt: skip
        with (self.root / LINES).open("a+b") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":  # what a kill tore
                file.write(b"\n")
            file.write(json.dumps(self.lines[key]).encode() + b"\n")


def digest(examples: Iterable[Example], names: Sequence[str]) -> str:
    """A hash of images and their boxes."""
    found = hashlib.sha256()
    for example in examples:
        boxes = example.annotation.boxes
        assert boxes is not None
        kinds = [list(names).index(name) for name in boxes.names]
        found.update(np.ascontiguousarray(example.image).tobytes())
        found.update(json.dumps([boxes.corners.round(3).tolist(), kinds]).encode())
    return found.hexdigest()


def code(*starts: Callable[..., Any]) -> str:
    """A hash of what functions do: of their syntax trees, and of those of every function, class and number of the toolkit
    that they name, and so on. Words and layout do not count, so that a comment changes nothing."""
    found: dict[str, str] = {}
    waiting = list(starts)
    while waiting:
        each: Any = waiting.pop()
        name = f"{each.__module__}.{each.__qualname__}"
        if name in found:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        for node in ast.walk(tree):
            if type(body := getattr(node, "body", None)) is list:
                body[:] = [line for line in body if not _words(line)]
        found[name] = ast.dump(tree)
        for called, value in _named(tree, vars(sys.modules[each.__module__])):
            if type(value) in (bool, int, float, str, tuple):
                found[f"{each.__module__}.{called}"] = repr(value)
            elif _ours(value):
                waiting.append(value)
    return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()


def _ours(value: Any) -> bool:
    """Whether something of the toolkit does anything; what is only a value has its own part of a key."""
    module = getattr(value, "__module__", None) or ""
    return module.startswith("toolkit.") and module not in VALUES and hasattr(value, "__qualname__")


def _named(tree: ast.AST, space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What names of a module, and of modules that it knows by name, stand in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in space:
            yield node.id, space[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = space.get(node.value.id)
            if isinstance(module, ModuleType) and hasattr(module, node.attr):
                yield f"{node.value.id}.{node.attr}", getattr(module, node.attr)


def _words(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of runs.jsonl; one that a kill tore is no finished training."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append({**json.loads(line)})
        except (ValueError, TypeError):
            continue
    return [line for line in found if "key" in line]


def _packed(found: Sequence[Detections]) -> dict[str, Any]:
    return {
        "count": np.array([len(each.scores) for each in found], np.int64),
        "corners": np.concatenate([each.corners.reshape(-1, 4) for each in found]).astype(np.float32),
        "classes": np.concatenate([each.classes for each in found]).astype(np.int16),
        "scores": np.concatenate([each.scores for each in found]).astype(np.float32),
    }


def _unpacked(arrays: Mapping[str, np.ndarray]) -> list[Detections]:
    ends = np.cumsum(arrays["count"])[:-1]
    parts = (np.split(arrays[name], ends) for name in ("corners", "classes", "scores"))
    return [Detections(c.astype(float), k.astype(int), s.astype(float)) for c, k, s in zip(*parts, strict=True)]
