"""A data set is a folder with manifest.jsonl; real and synthetic ones have the same shape.

    DATA/manifest.jsonl     one line a sample: id, file, group, fold, labels, text, boxes, mask, geometry, provenance
    DATA/dataset.json       what the folder is: domain, source, settings, counts
    DATA/images/<id>.png    (1, H, W): 16-bit grey, (3, H, W): 8-bit RGB; other channel counts are <id>.npy; a writer
                            may place them in folders, images/<class>/<id>.png
    DATA/masks/<id>.png     8-bit, 255 inside

JSON without NaN: an unknown label is null in files and NaN in arrays. A PNG that was not acquired carries the mark of
`toolkit.data.xmp`. A folder is written beside its place and moved there when it is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from toolkit.data import xmp
from toolkit.data.file_names import printable
from toolkit.data.staging import staged_folder
from toolkit.example import Annotation, Boxes, Error, Example, Geometry, Provenance

__all__ = ["FOLDS", "fold_of", "read", "read_info", "staged_folder", "write"]

FOLDS = 4


def fold_of(group: str) -> int:
    """The fold of a group (patient, leaf, field): a function of its name alone, so that no list has to be kept."""
    return int(hashlib.sha256(f"fold:{group}".encode()).hexdigest()[:8], 16) % FOLDS


def write(
    examples: Iterable[Example],
    root: str | os.PathLike[str],
    *,
    place: Callable[[Example], str] | None = None,
    **description: Any,
) -> int:
    """Write a data set to a new folder and return the number of samples; nothing is left behind on an error.

    place: the folder below images/ that an example's image goes to, such as its class. description: what dataset.json
    holds; it is written last, so that a dict in it may be filled while the examples are read.
    """
    root = Path(root)
    with staged_folder(root) as folder:
        (folder / "images").mkdir()
        seen: set[str] = set()
        with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
            for example in examples:
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", example.id) or example.id in seen:
                    raise Error(f"A sample's id must be unique and safe as a file name; found '{example.id}'.")
                seen.add(example.id)
                if not np.isfinite(example.image).all():
                    raise Error(f"An image has finite values; that of sample '{example.id}' has not. Leave it out.")
                try:
                    line = json.dumps(_line(example, folder, place), allow_nan=False, separators=(",", ":"))
                except (ValueError, TypeError) as problem:
                    raise Error(f"A sample must fit into JSON; '{example.id}' does not: {problem}.") from problem
                manifest.write(line + "\n")
        if not seen:
            raise Error(f"A data set needs at least one sample; none was found for {root}. Check the input folder.")
        _dump(folder / "dataset.json", {"format": 1, "samples": len(seen), **description})
    return len(seen)


def read(root: str | os.PathLike[str]) -> Iterator[Example]:
    """The samples of a data set folder, in the order of its manifest."""
    root = Path(root)
    for number, line in enumerate(_manifest(root), 1):
        try:
            example = _example(json.loads(line), root)
        except Error:
            raise
        except Exception as problem:  # a damaged PNG or array may raise anything, from EOFError to a tokenizer's error
            words = " ".join(f"{type(problem).__name__}: {problem}".split())
            raise Error(f"{root / 'manifest.jsonl'} line {number} is not a sample, {words}.") from problem
        yield example


def read_info(root: str | os.PathLike[str]) -> dict[str, Any]:
    """dataset.json of a data set folder."""
    path = Path(root) / "dataset.json"
    if not path.is_file():
        raise Error(
            f"A data set is a folder with dataset.json; {root} has none. Make one: diffgraft prepare DOMAIN RAW {root}"
        )
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as problem:
        raise Error(f"A data set has a dataset.json that diffgraft wrote; {path} is not: {problem}.") from problem


def _manifest(root: Path) -> list[str]:
    path = root / "manifest.jsonl"
    if not path.is_file():
        raise Error(
            f"A data set is a folder with manifest.jsonl; {root} has none. Make one: diffgraft prepare DOMAIN RAW {root}"
        )
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as problem:
        raise Error(f"A manifest is UTF-8 text; {path} is not: {problem}. Prepare the data set again.") from problem


def _line(example: Example, folder: Path, place: Callable[[Example], str] | None) -> dict[str, Any]:
    annotation = example.annotation
    line: dict[str, Any] = {"id": example.id, "file": _save_image(example, folder, place)}
    group = printable(example.group)
    line |= {"group": group, "fold": fold_of(group)}
    line["labels"] = {k: None if np.isnan(v) else float(v) for k, v in annotation.labels.items()}
    if annotation.text is not None:
        line["text"] = annotation.text
    if annotation.boxes is not None:
        line["boxes"] = {"corners": annotation.boxes.corners.tolist(), "names": list(annotation.boxes.names)}
    if annotation.mask is not None:
        (folder / "masks").mkdir(exist_ok=True)
        line["mask"] = f"masks/{example.id}.png"
        Image.fromarray(annotation.mask.astype(np.uint8) * 255).save(folder / line["mask"])
    if example.geometry is not None:
        line["geometry"] = dataclasses.asdict(example.geometry) | {"affine": example.geometry.affine.tolist()}
    line["provenance"] = None if example.provenance is None else dataclasses.asdict(example.provenance)
    return line


def _save_image(example: Example, folder: Path, place: Callable[[Example], str] | None) -> str:
    image, stem = example.image, f"images/{example.id}"
    if place is not None:
        below = place(example)
        if not re.fullmatch(r"\w([\w.-]{0,149}\w)?", below):
            raise Error(f"A folder of images is named with letters, digits, '_', '-' and '.'; found '{below}'.")
        stem = f"images/{below}/{example.id}"
        (folder / stem).parent.mkdir(exist_ok=True)
    if image.shape[0] not in (1, 3):
        name = f"{stem}.npy"
        np.save(folder / name, image.astype(np.float32), allow_pickle=False)
        return name
    name, depth = f"{stem}.png", 65535 if image.shape[0] == 1 else 255
    levels = np.rint((np.clip(image, -1, 1) + 1) * (depth / 2)).astype(np.uint16 if depth > 255 else np.uint8)
    marks = PngImagePlugin.PngInfo()
    if example.provenance is not None:
        marks.add_itxt(xmp.KEYWORD, xmp.packet(example.provenance))
    Image.fromarray(levels[0] if image.shape[0] == 1 else levels.transpose(1, 2, 0)).save(folder / name, pnginfo=marks)
    return name


def _example(line: Mapping[str, Any], root: Path) -> Example:
    image = _load_image(_inside(root, line["file"]))
    boxes = line.get("boxes")
    mask = _levels(_inside(root, line["mask"])) > 127 if line.get("mask") else None
    annotation = Annotation(
        text=line.get("text"),
        labels={k: float("nan") if v is None else float(v) for k, v in line["labels"].items()},
        boxes=_boxes(boxes, image.shape[1:]) if boxes is not None else None,
        mask=mask,
    )
    place = line.get("geometry")
    geometry = None
    if place:
        geometry = Geometry(
            affine=np.asarray(place["affine"], float),
            shape=tuple(place["shape"]),
            window=tuple(place["window"]),
            index=place["index"],
            box=tuple(place["box"]) if place["box"] else None,
        )
    provenance = Provenance(**line["provenance"]) if line.get("provenance") else None
    return Example(line["id"], image, annotation, line["group"], geometry, provenance)


def _boxes(line: Mapping[str, Any], size: tuple[int, int]) -> Boxes:
    return Boxes(np.asarray(line["corners"], float).reshape(-1, 4), tuple(line["names"]), size)


def _inside(root: Path, name: str) -> Path:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise Error(f"A manifest names files inside its own folder; found '{name}'.")
    return path


def _load_image(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    levels = _levels(path)
    depth = 255 if levels.dtype == np.uint8 else 65535
    image = levels.astype(np.float32) * (2.0 / depth) - 1.0
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _levels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def _dump(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8")
