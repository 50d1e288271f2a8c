"""Pictures with boxes from one format into another: COCO, Pascal VOC and YOLO, any to any.

The files of the pictures are copied as they are, byte by byte. The one exception is a picture that its EXIF orientation
turns: tools disagree on whether to turn the boxes with it, so it is written upright, as a PNG without loss, and its boxes
with it. Each picture is decoded once, so that a damaged one is put aside and not passed on.

    OUT/images/<id>.*       with instances.json, or Annotations/<id>.xml, or labels/<id>.txt and data.yaml
    OUT/metadata.csv        group, synthetic, provenance of each picture, which not every format has a place for
    OUT/conversion.json     what was read and written, and how much of it
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, PngImagePlugin

from diffgraft.preparation.quarantine import quarantine
from toolkit.data import dataset, xmp
from toolkit.example import Error, Provenance
from toolkit.formats import boxed
from toolkit.formats.boxed import Picture, Row

__all__ = ["FILE", "Converted", "convert", "told"]

FILE = "conversion.json"

SAVED = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that a PNG holds."""


@dataclass(frozen=True)
class Converted:
    """What was counted. source: the format that was read. classes: name -> boxes. aside: (file, reason) of what was left out."""

    source: str
    target: str
    pictures: int
    boxes: int
    classes: Mapping[str, int]
    turned: int
    aside: tuple[tuple[str, str], ...]


def convert(
    raw: str | Path,
    out: str | Path,
    target: str,
    source: str | None = None,
    watch: Callable[[int, int], object] = lambda *_: None,
    overwrite: bool = False,
) -> Converted:
    """Write the pictures and boxes of a folder in another format; returns what was counted.

    target, source: of boxed.FORMATS; source is found by what is there unless given. watch(done, of) is called once a
    picture. Errors: no usable picture, an unknown format; then nothing is written.
    """
    raw, out = Path(raw), Path(out)
    if target not in boxed.FORMATS:
        raise Error(f"A format of boxes is one of {', '.join(boxed.FORMATS)}; found '{target}'.")
    aside: list[tuple[str, str]] = []

    def put_aside(name: str, reason: str) -> None:
        aside.append((name, reason))

    module, writer = boxed.find(raw, source), boxed.find(raw, target)
    found = module.listing(raw, put_aside)
    read = module.__name__.rpartition(".")[2]
    pictures: list[Picture] = []
    turned = 0
    with dataset.staged(out, overwrite, signs=(FILE,), needed=[raw]) as folder:
        (folder / "images").mkdir()
        by_id = {row.id: row for row in found.rows}
        for example in boxed.examples(found.rows, put_aside, watch):
            row = by_id[example.id]
            file = _copied(row, folder, example.provenance)
            turned += row.orientation > 1
            pictures.append(
                Picture(file, row.id, row.boxes, row.size, _depth(folder / file), example.group, example.provenance)
            )
        if not pictures:
            first = f" The first put aside, {aside[0][0]}: {aside[0][1]}" if aside else ""
            raise Error(f"A conversion needs one usable picture or more; '{raw}' has none.{first}")
        writer.annotate(folder, pictures, found.names)
        boxed.tabled(folder, pictures)
        quarantine(folder, aside)
        classes = Counter(dict.fromkeys(found.names, 0))
        classes.update(name for picture in pictures for name in picture.boxes.names)
        made = Converted(read, target, len(pictures), classes.total(), dict(classes), turned, tuple(aside))
        facts = dataclasses.asdict(made) | {"raw": str(raw.absolute()), "aside": len(aside)}
        (folder / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return made


def _copied(row: Row, folder: Path, made: Provenance | None) -> str:
    """Copy a picture's file, or write it upright; returns its path below the folder."""
    if row.orientation == 1:
        file = f"images/{row.id}{row.path.suffix.lower()}"
        shutil.copyfile(row.path, folder / file)
        return file
    file = f"images/{row.id}.png"
    marks = PngImagePlugin.PngInfo()
    if made is not None:
        marks.add_itxt(xmp.KEYWORD, xmp.mark(made))
    with warnings.catch_warnings(), Image.open(row.path) as stored:
        warnings.simplefilter("ignore")  # of a camera's odd metadata
        upright = ImageOps.exif_transpose(stored)
        upright = upright if upright.mode in SAVED else upright.convert("RGB")
        upright.info.pop("exif", None)
        upright.save(folder / file, pnginfo=marks, icc_profile=stored.info.get("icc_profile"))
    return file


def _depth(path: Path) -> int:
    """Channels as Pascal VOC counts them: 1 of a grey picture, 3 of any other."""
    with Image.open(path) as file:
        return 1 if file.mode in ("1", "L", "LA", "F") or file.mode.startswith("I") else 3


def told(made: Converted, out: Path) -> Sequence[str]:
    """The lines that a person is told."""
    lines = [f"{count:8} {name}" for name, count in made.classes.items()]
    lines.append(f"{made.pictures} pictures with {made.boxes} boxes, {made.source} to {made.target}, in {out}")
    if made.turned:
        lines.append(f"{made.turned} turned by their EXIF orientation and written upright, as PNG")
    return lines
