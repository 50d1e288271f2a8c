"""Weights as files: what the header of a safetensors file says, and which files of a folder are the weights of one part.

A part has one file or several (shards), plain or of a variant such as fp16, under every name that diffusers and transformers
have written, with V the variant and STEM diffusion_pytorch_model or model:

    STEM.safetensors                     STEM-00001-of-00004.safetensors
    STEM.V.safetensors                   STEM.V-00001-of-00004.safetensors      STEM-00001-of-00004.V.safetensors

A shard says itself how many there are, and each header which tensors it holds, so that an index file is only checked, never
followed. Nothing but headers and JSON is read here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.example import Error

__all__ = ["LINEAR_TYPES", "Stored", "WeightSet", "check_kind", "find_weights", "header", "read_weights"]

STEM = {"text_encoder": "model"}
"""Part -> how its weights are called; diffusers' networks are all called the same."""

NAME = re.compile(
    r"(?P<stem>[A-Za-z_]\w*?)(?:\.(?P<before>[\w-]+?))?"
    r"(?:-(?P<number>\d{5})-of-(?P<count>\d{5})(?:\.(?P<after>[\w-]+))?)?\.safetensors"
)

LINEAR_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Kinds of numbers that are a weight as they stand."""

SCALED = ("scaled_fp8", "scale_weight", "weight_scale", "weight_scale_inv")
"""Ends of the names of what 8-bit weights are to be multiplied by."""

LARGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


@dataclass(frozen=True)
class Stored:
    """A tensor as its header describes it; dtype in the format's words."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightSet:
    """The files that together are the weights of one part. variant: None for the plain ones. paths: the shards in order."""

    stem: str
    variant: str | None
    paths: tuple[Path, ...]

    @property
    def is_plain(self) -> bool:
        """Whether both libraries find it without being told a variant."""
        return len(self.paths) == 1 and self.variant is None


def header(path: str | os.PathLike[str]) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata. Errors: another file, one that is cut off."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(b"version "):
                raise Error(
                    f"Weights are a safetensors file; {path} is what Git keeps in the place of one. Fetch it: git lfs pull"
                )
            if length > min(size, LARGEST_HEADER):
                raise ValueError("no header")
            plain = json.loads(file.read(length))
        about = plain.pop("__metadata__", None) or {}
        tensors = {name: Stored(each["dtype"], tuple(each["shape"])) for name, each in plain.items()}
        end = 8 + length + max((each["data_offsets"][1] for each in plain.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        words = " ".join(str(problem).split())[:100]
        raise Error(f"Weights are a safetensors file; {path} is none: {words}. Copy it again.") from problem
    if size != end:
        raise Error(f"{path} must have {end} bytes by its own header; it has {size}. Copy it again.")
    return tensors, {str(key): str(value) for key, value in about.items()}


def find_weights(root: Path, part: str) -> WeightSet:
    """Which of several sets of weights a part is opened with: the plain one, else fp16, else the first by its name.

    Errors: none there that are safetensors, a shard that is missing.
    """
    stem, place = STEM.get(part, "diffusion_pytorch_model"), root / part
    found: dict[str | None, dict[str, list[Path]]] = {}
    for path in sorted(place.glob("*.safetensors")):
        name = NAME.fullmatch(path.name)
        if name and name["stem"] == stem:
            counted = found.setdefault(name["before"] or name["after"], {})
            counted.setdefault(name["count"] or "", []).append(path)
    if not found:
        _refuse_others(place, stem)
    variant = None if None in found else "fp16" if "fp16" in found else min(found, key=str)
    count, paths = min(found[variant].items())  # one file before shards, as transformers has it
    if count:
        _check_count(place, paths, int(count))
    return WeightSet(stem, variant, tuple(paths))


def read_weights(found: WeightSet) -> dict[str, tuple[Path, Stored]]:
    """Every tensor of a set of weights and the file that it is in.

    Errors: a file that is none or is cut off, numbers of another kind than a weight's, a tensor in two shards, an index
    that is no index or names a tensor that no shard has.
    """
    tensors: dict[str, tuple[Path, Stored]] = {}
    for path in found.paths:
        for name, stored in header(path)[0].items():
            if name in tensors:
                raise Error(
                    f"A tensor is in one shard; {name} is in {tensors[name][0]} and {path.name}. Copy the whole folder."
                )
            check_kind(path, name, stored)
            tensors[name] = path, stored
    if len(found.paths) > 1:
        _check_index(found, tensors)
    return tensors


# ------------------------------------------------------------------------------------------------------------- checks


def _refuse_others(place: Path, stem: str) -> None:
    others = sorted(p.name for end in ("bin", "ckpt", "pt", "pth", "msgpack", "h5") for p in place.glob(f"*.{end}"))
    others += sorted(path.name for path in place.glob("*.safetensors"))
    there = f"only {', '.join(others[:4])}" if others else "none"
    raise Error(
        f"Weights are read from safetensors files alone, called {stem}.safetensors; {place} has {there}. "
        "Save the pipeline anew: pipe.save_pretrained(folder, safe_serialization=True)"
    )


def _check_count(place: Path, paths: Sequence[Path], count: int) -> None:
    numbers = [int(NAME.fullmatch(path.name)["number"]) for path in paths]  # type: ignore[index]
    missing = [number for number in range(1, count + 1) if number not in numbers]
    if missing or len(numbers) != count:
        which = f"lacks number {missing[0]}" if missing else "has one twice"
        raise Error(
            f"Weights in {count} shards are numbered 1 to {count}; {place} has {len(paths)} files such as "
            f"{paths[0].name} and {which}. Copy the whole folder."
        )


def check_kind(path: Path, name: str, stored: Stored) -> None:
    if name.endswith(SCALED):
        raise Error(
            f"Weights are numbers as they stand; those of {path} are to be multiplied by others, such as {name}. "
            "Take the checkpoint in fp16."
        )
    if stored.dtype not in LINEAR_TYPES and name.endswith("weight"):
        raise Error(
            f"Weights are numbers as they stand, {', '.join(LINEAR_TYPES)}; in {path} {name} is {stored.dtype}, that is "
            "quantised. Take the checkpoint in fp16."
        )


def _check_index(found: WeightSet, tensors: Mapping[str, Any]) -> None:
    for path in sorted(found.paths[0].parent.glob(f"{found.stem}.*index*.json")):
        inner = path.name.removeprefix(found.stem).split(".")
        variants = [word for word in inner if word not in ("", "safetensors", "index", "json", "bin")]
        if variants != ([found.variant] if found.variant else []) or "bin" in inner:
            continue
        try:
            named = json.loads(path.read_text(encoding="utf-8"))["weight_map"].keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise Error(
                f"The index of shards is JSON with a weight_map; {path} is not: {problem!r}. Copy it again, or remove it."
            ) from problem
        lacking = sorted(named - tensors.keys())
        if lacking:
            raise Error(
                f"The shards of a checkpoint hold every tensor of its index; {path} names {lacking[0]}, which no shard has"
                f"{f', and {len(lacking) - 1} more' if len(lacking) > 1 else ''}. Copy the whole folder."
            )
