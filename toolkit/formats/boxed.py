"""Pictures with boxes: what COCO, Pascal VOC and YOLO share, and which of the three a folder holds.

A format is a module of FORMATS with

    holds(root)                     whether the folder looks like its own
    listing(root, aside)            its classes and a Row a picture; headers are read, pixels are not
    read(root, aside, watch)
    write(examples, root, names)    a data set whose images/<id>.png the annotation files name too
    annotate(root, pictures, names, numbers)    these annotation files alone

Contract. Corners are x0 y0 x1 y1 in pixels of the picture as a viewer shows it, continuous from 0 to width and height; the
right edge of the last pixel is the width. A picture is used with all of its boxes or not at all: one of which a box cannot be
read is put aside, never taken for one that shows less, or nothing. A box without an area is left out by name. Nothing outside
of the folder is opened. A picture without a box is one that holds nothing. `metadata.csv`, if there is one, says by file name
which group (patient, field) a picture belongs to, and its provenance; `write` makes one.

EXIF orientation. Boxes belong to the picture as it is shown when the size that the file states is that, and to the stored
pixels, and are turned with them, when it is theirs. Where both have one size (mirrored, upside down, square) what the
others of the set say holds, and if none of them does, the picture as it is shown: today's tools show it so to who draws.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from toolkit.data import dataset
from toolkit.example import Annotation, Boxes, Error, Example, Note, Provenance
from toolkit.formats.box_claims import METADATA, Row, clean_class_name, format_size
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.formats.photograph import read_photograph

__all__ = [
    "FORMATS", "Annotate", "Listing", "Picture", "Row", "check_any_box", "check_class_names", "examples", "find_format",
    "listing", "names", "read", "reader", "rows", "write", "write_metadata", "writer",
]  # fmt: skip

FORMATS = ("coco", "voc", "yolo")


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder and the classes that its files declare, in their order.

    numbers: class -> its index (YOLO) or id (COCO, from 1 on), where the files give each one of its own. format: of FORMATS.
    """

    rows: list[Row]
    names: tuple[str, ...]
    numbers: Mapping[str, int] = field(default_factory=dict)
    format: str = ""


@dataclass(frozen=True)
class Picture:
    """One picture of a folder that is written. file: path below the root. depth: its channels."""

    file: str
    id: str
    boxes: Boxes
    size: tuple[int, int]
    depth: int = 3
    group: str = ""
    made: Provenance | None = None


Annotate = Callable[[Path, Sequence[Picture], Sequence[str]], object]
"""(root, pictures, names of the classes): writes the annotation files of a format."""


# ----------------------------------------------------------------------------------------------------------- reading


def find_format(root: str | os.PathLike[str], format: str | None = None) -> ModuleType:
    """The format that a folder holds, or the one that is asked for. Errors: none, or several of which none is meant."""
    root = Path(root)
    if not root.is_dir():
        raise Error(f"Pictures with boxes lie in a folder; '{root}' is none. Check the path.")
    if format is not None:
        if format not in FORMATS:
            raise Error(f"A format of boxes is one of {', '.join(FORMATS)}; found '{format}'.")
        return _module(format)
    found = [name for name in FORMATS if _module(name).holds(root)]
    if not found:
        raise Error(
            f"Boxes stand in COCO JSON, in Pascal VOC XML or in YOLO text with a data.yaml; '{root}' holds none of them. "
            "Check the path."
        )
    if found == ["coco", "voc"]:
        line = f"'{root}' holds COCO JSON and Pascal VOC XML; COCO is read. To read the other, name its format: voc."
        warnings.warn(line, Note, stacklevel=2)
    elif len(found) > 1:
        raise Error(
            f"A folder holds boxes in one format; '{root}' holds {' and '.join(found)}. Move the files of the "
            f"others away, or write the one that is meant elsewhere and go on with that: "
            f"diffgraft convert {root} OUT --from {found[0]} --to coco"
        )
    return _module(found[0])


def listing(
    root: str | os.PathLike[str], format: str | None = None, aside: Aside | None = None, origin: int | None = None
) -> Listing:
    """The pictures and classes of a folder. aside(name, reason) is told what cannot be used; without it that is an Error.

    origin: where Pascal VOC's first pixel is, 0 or 1, in files that do not say it; other formats leave no doubt.
    """
    module = find_format(root, format)
    name = module.__name__.rpartition(".")[2]
    if origin is not None and (name != "voc" or origin not in (0, 1)):
        raise Error(
            f"An origin is 0 or 1, the number of the first pixel in Pascal VOC; found --origin {origin} of {name}. Leave it out."
        )
    found = module.listing(root, aside) if origin is None else module.listing(root, aside, origin)
    return dataclasses.replace(found, format=name)


def rows(
    root: str | os.PathLike[str], format: str | None = None, aside: Aside | None = None, origin: int | None = None
) -> list[Row]:
    """The pictures of a folder in the order of their names; none is decoded."""
    return listing(root, format, aside, origin).rows


def check_any_box(found: Iterable[Boxes], root: str | os.PathLike[str], aside: Sequence[tuple[str, str]]) -> None:
    """Refuse a set without one box, which shows no object or was not understood. aside: what was put aside, and why."""
    boxes = list(found)
    if not any(each.names for each in boxes):
        first = f" Put aside: {len(aside)}, the first, {aside[0][0]}: {aside[0][1]}" if aside else ""
        raise Error(
            f"A set of boxes has one box or more; '{root}' has none on its {len(boxes)} usable pictures.{first or ' Annotate one.'}"
        )


def names(root: str | os.PathLike[str], format: str | None = None) -> tuple[str, ...]:
    """The classes that a folder declares, in the order of its files, or of the alphabet where it only uses them."""
    return listing(root, format, lambda *_: None).names


def examples(
    found: Sequence[Row], aside: Aside | None = None, watch: Callable[[int, int], object] = lambda *_: None
) -> Iterator[Example]:
    """One Example a row, decoded when it is asked for, in full size; watch(done, of) is called once a row."""
    for done, row in enumerate(found, 1):
        watch(done, len(found))
        try:
            image, marked = read_photograph(row.path)
            if image.shape[1:] != row.size:
                raise Error(
                    f"A picture has the size of its header, {format_size(row.size)}; this one is {format_size(image.shape[1:])}."
                )
        except Error as problem:
            skip_or_raise(aside, row.name, str(problem))
            continue
        yield Example(row.id, image, Annotation(boxes=row.boxes), row.group, provenance=row.made or marked)


def read(
    root: str | os.PathLike[str],
    format: str | None = None,
    aside: Aside | None = None,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> Iterator[Example]:
    """Every picture of a folder in any of the formats."""
    return examples(rows(root, format, aside), aside, watch)


# ----------------------------------------------------------------------------------------------------------- writing


def write(
    found: Iterable[Example],
    root: str | os.PathLike[str],
    names: Sequence[str],
    annotate: Annotate,
    **description: Any,
) -> int:
    """Write a data set, and its boxes in a format's own files beside it; returns the number of samples.

    names: the classes in their order. Errors: a picture that is not annotated, boxes that are not of `names` or outside.
    """
    pictures: list[Picture] = []

    def noted() -> Iterator[Example]:
        for example in found:
            channels, *size = example.image.shape
            if channels not in (1, 3):
                raise Error(f"A picture is grey or RGB; '{example.id}' has {channels} channels.")
            if example.annotation.boxes is None:
                raise Error(f"A picture is written with its boxes, perhaps none; '{example.id}' is not annotated.")
            boxes = _sound(example.id, example.annotation.boxes, (size[0], size[1]), names)
            annotation = dataclasses.replace(example.annotation, boxes=boxes)
            yield dataclasses.replace(example, annotation=annotation)  # and only when it has been written
            pictures.append(
                Picture(
                    f"images/{example.id}.png", example.id, boxes, (size[0], size[1]), channels, example.group, example.provenance
                )
            )  # fmt: skip

    known = {"labels": {"class": list(names)}} if names else {}
    with dataset.staged_folder(root) as folder:
        count = dataset.write(noted(), folder, **{**known, **description})
        annotate(folder, pictures, names)
        write_metadata(folder, pictures)
    return count


def reader(listing: Callable[[str | os.PathLike[str], Aside | None], Listing]):
    """The `read` of a format, made of its `listing`."""

    def read(
        root: str | os.PathLike[str], aside: Aside | None = None, watch: Callable[[int, int], object] = lambda *_: None
    ) -> Iterator[Example]:
        """Every picture in full size with its boxes. aside(name, reason) is told what cannot be used."""
        return examples(listing(root, aside).rows, aside, watch)

    return read


def writer(annotate: Annotate):
    """The `write` of a format, made of its `annotate`."""

    def write_set(
        found: Iterable[Example], root: str | os.PathLike[str], names: Sequence[str], **description: Any
    ) -> int:
        """Write a data set with the format's own files beside it; returns the number of samples. Errors: as `write`."""
        return write(found, root, names, annotate, **description)

    return write_set


def check_class_names(names: Sequence[str]) -> None:
    """Refuse classes that a file could not hold or tell apart."""
    for name in names:
        if name != clean_class_name(name) or not name or list(names).count(name) > 1:
            raise Error(f"A class has a name of its own, on one line; found {name!r} among {len(names)}.")


def write_metadata(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write metadata.csv: the group of each picture, and whether and how it was made."""
    with (folder / METADATA).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "group", "synthetic", "provenance"])
        for picture in pictures:
            made = json.dumps(dataclasses.asdict(picture.made), separators=(",", ":")) if picture.made else ""
            writer.writerow([picture.file, picture.group, "yes" if picture.made else "no", made])


def _sound(ident: str, boxes: Boxes, size: tuple[int, int], names: Sequence[str]) -> Boxes:
    """Boxes as they are written, on the picture to the last digit; or an Error."""
    if boxes.size not in (None, size):
        raise Error(
            f"Boxes are of the picture beside them; those of '{ident}' are of {format_size(boxes.size)}, it is {format_size(size)}."
        )
    if unknown := sorted(set(boxes.names) - set(names)):
        raise Error(f"A box is of a class of the set, {', '.join(names) or 'none'}; '{ident}' has '{unknown[0]}'.")
    inside = np.clip(boxes.corners, 0, [size[1], size[0]] * 2)
    if not (np.abs(inside - boxes.corners) < 1e-3).all() or not (inside[:, :2] < inside[:, 2:]).all():
        raise Error(f"A box lies in its picture and has an area; '{ident}' has one that does not. Clip it first.")
    return Boxes(inside.astype(float), boxes.names, size)


# ----------------------------------------------------------------------------------------------------------- details


def _module(name: str) -> ModuleType:
    return import_module(f"toolkit.formats.{name}")
