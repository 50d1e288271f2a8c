"""Pictures with boxes from one format into another: COCO, Pascal VOC and YOLO, any to any.

The files of the pictures are copied as they are, byte by byte. The one exception is a picture that its EXIF orientation
turns: tools disagree on whether to turn the boxes with it, so it is written upright, as a PNG without loss, and its boxes
with it. Each picture is decoded once, so that a damaged one is put aside and not passed on.

    OUT/images/<id>.*       with instances.json, or Annotations/<id>.xml, or labels/<id>.txt and data.yaml
    OUT/metadata.csv        group, synthetic, provenance of each picture, which not every format has a place for
    OUT/conversion.json     what was read and written, and how much of it
    OUT/request.json        the request, from which the run is repeated
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from diffgraft.preparation.quarantine import Aside, quarantine
from diffgraft.requests import ConversionRequest, record
from diffgraft.requests.verb import Call, verb
from toolkit.data import dataset, xmp
from toolkit.example import Error, Provenance
from toolkit.formats import boxed, deep_pictures
from toolkit.formats.boxed import Listing, Picture, Row
from toolkit.formats.photograph import read_photograph

__all__ = ["FILE", "ConversionResult", "convert"]

FILE = "conversion.json"

SAVED = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that a PNG holds."""


@dataclass(frozen=True)
class ConversionResult:
    """What was counted. source: the format that was read. classes: name -> boxes. aside: (file, reason) of what was left out."""

    source: str
    target: str
    pictures: int
    boxes: int
    classes: Mapping[str, int]
    turned: int
    aside: tuple[tuple[str, str], ...]

    def summary(self, out: Path) -> list[str]:
        """What was counted, as lines for a person."""
        lines = [f"{count:8} {name}" for name, count in self.classes.items()]
        lines.append(f"{self.pictures} pictures with {self.boxes} boxes, {self.source} to {self.target}, in {out}")
        if self.turned:
            lines.append(f"{self.turned} turned by their EXIF orientation and written upright, as PNG")
        return lines


@verb(ConversionRequest)
def convert(request: ConversionRequest, call: Call) -> ConversionResult:
    """Write the pictures and boxes of a folder in another format.

    The format of the source is found by what is there unless it is given. Errors: no usable picture, no box, an unknown
    format; then nothing is written.
    """
    raw, target = request.raw, request.target
    if target not in boxed.FORMATS:
        raise Error(f"A format of boxes is one of {', '.join(boxed.FORMATS)}; found '{target}'.")
    aside: Aside = []

    def put_aside(name: str, reason: str) -> None:
        aside.append((name, reason))

    found = boxed.listing(raw, request.source, put_aside, request.origin)
    writer = boxed.find_format(raw, target)
    pictures: list[Picture] = []
    turned = 0
    with dataset.staged_folder(request.out, request.overwrite, signs=(FILE,), needed=[raw]) as folder:
        (folder / "images").mkdir()
        by_id = {row.id: row for row in found.rows}
        for example in boxed.examples(found.rows, put_aside, lambda done, of: call.watch("copying", done, of)):
            row = by_id[example.id]
            file = _copied(row, folder, example.provenance)
            turned += row.orientation > 1
            pictures.append(
                Picture(file, row.id, row.boxes, row.size, _depth(folder / file), example.group, example.provenance)
            )
        if not pictures:
            first = f" The first put aside, {aside[0][0]}: {aside[0][1]}" if aside else ""
            raise Error(f"A conversion needs one usable picture or more; '{raw}' has none.{first}")
        boxed.check_any_box((picture.boxes for picture in pictures), raw, aside)
        writer.annotate(folder, pictures, found.names, _numbers(found, target))
        boxed.write_metadata(folder, pictures)
        quarantine(folder, aside)
        classes = Counter(dict.fromkeys(found.names, 0))
        classes.update(name for picture in pictures for name in picture.boxes.names)
        result = ConversionResult(
            source=found.format,
            target=target,
            pictures=len(pictures),
            boxes=classes.total(),
            classes=dict(classes),
            turned=turned,
            aside=tuple(aside),
        )
        facts = dataclasses.asdict(result) | {"raw": str(raw.absolute()), "aside": len(aside)}
        (folder / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        record.save(folder, "convert", request)
    return result


def _numbers(found: Listing, target: str) -> Mapping[str, int] | None:
    """The number of each class in the target; None where they are counted anew, in the order of the source.

    What has ids keeps them, and an index of YOLO is the id before it. COCO's ids may have gaps, which YOLO has no use for.
    """
    if (found.format, target) == ("yolo", "coco"):
        return {name: index + 1 for name, index in found.numbers.items()}
    return found.numbers if found.format == target else None


def _copied(row: Row, folder: Path, made: Provenance | None) -> str:
    """Copy a picture's file, or write it upright; returns its path below the folder."""
    if row.orientation == 1:
        file = f"images/{row.id}{row.path.suffix.lower()}"
        shutil.copyfile(row.path, folder / file)
        return file
    file = f"images/{row.id}.png"
    marks = PngImagePlugin.PngInfo()
    if made is not None:
        marks.add_itxt(xmp.KEYWORD, xmp.packet(made))
    with warnings.catch_warnings(), row.path.open("rb") as handle, Image.open(handle) as stored:
        warnings.simplefilter("ignore")  # of a camera's odd metadata
        deep = deep_pictures.is_deep(stored) and not stored.mode.startswith("I")
        upright = _eight_bits(row.path) if deep else ImageOps.exif_transpose(stored)
        upright = upright if upright.mode in SAVED else upright.convert("RGB")
        upright.info.pop("exif", None)
        upright.save(folder / file, pnginfo=marks, icc_profile=stored.info.get("icc_profile"))
    return file


def _eight_bits(path: Path) -> Image.Image:
    """A picture of 16 bits a colour as it is shown."""
    levels = read_photograph(path)[0].transpose(1, 2, 0)
    return Image.fromarray(np.rint((levels + 1) * 127.5).astype(np.uint8))


def _depth(path: Path) -> int:
    """Channels as Pascal VOC counts them: 1 of a grey picture, 3 of any other."""
    with Image.open(path) as file:
        return 1 if file.mode in ("1", "L", "LA", "F") or file.mode.startswith("I") else 3
