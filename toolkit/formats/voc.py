"""Pascal VOC: one XML file a picture (Everingham et al. 2010; development kit of VOC2012, section 6).

    ROOT/Annotations/<name>.xml with ROOT/JPEGImages/<name>.jpg, or .xml beside the picture (LabelImg), at any depth;
    the picture is that of the same stem, or the one in <filename>; where they are two, the annotation is refused

Where the first pixel is. VOC counts pixels from 1 and both ends are inside: xmin 1, xmax 10 are the ten pixels 0 to 10.
Many tools write corners from 0 to the width instead, and no file says which. Corners are taken as they stand in files of
LabelImg and of tools that write as it does (a <path>, and a <database> Unknown; LabelImg writes 1 for 0). Read from 1
(xmin - 1, ymin - 1, xmax, ymax) are files that `write` made, which say so in <source>, and all others together if none of
their boxes begins at 0 and one or more ends at the width or height; else they too are taken as they stand. A small folder
of which no box touches an edge may so be read a pixel too far to the right.

`write` counts from 1, as VOC, supervision and Detectron2 do. Fractions are kept, with all their digits, and come back
exactly. `difficult` objects are objects; difficult, truncated, pose, parts and segmentation are not kept. A file with a DTD
or an entity is refused (defusedxml).
"""

from __future__ import annotations

import math
import os
import warnings
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from toolkit.example import Error, Note, Provenance
from toolkit.formats import box_claims, boxed
from toolkit.formats.box_checks import StatedBox, parse_number
from toolkit.formats.box_claims import Claim
from toolkit.formats.boxed import Listing, Picture
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.formats.photograph import SUFFIXES

__all__ = ["FOLDER", "annotate", "holds", "listing", "read", "write"]

FOLDER = "Annotations"
FROM_ONE = "diffgraft: pixels from 1, both ends inside"
"""In <source><annotation> of a file that `write` made."""

SYNTHETIC = "synthetic, not acquired: made by diffgraft"
"""In <source><database> of a picture that is not real."""

SIDES = ("xmin", "ymin", "xmax", "ymax")
BESIDE = ("", "JPEGImages", "images", "data")


@dataclass(frozen=True)
class ParsedFile:
    """What one file says. corners: SIDES as they stand. first: of a pixel, as far as the file tells, or None."""

    picture: str
    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[Decimal, ...], str], ...]
    first: int | None
    made: Provenance | None


def holds(root: Path) -> bool:
    """Whether there is an XML file that begins like an annotation."""
    return any(b"<annotation" in _head(path) for path in box_claims.find_files(root, ".xml"))


def listing(root: str | os.PathLike[str], aside: Aside | None = None) -> Listing:
    """The pictures that have an XML file, and the classes in alphabetical order."""
    root = Path(root)
    found: list[ParsedFile] = []
    paths = box_claims.find_files(root, ".xml")
    if not paths:
        raise Error(f"Pascal VOC boxes stand in XML files, one a picture; '{root}' holds none.")
    for path in paths:
        try:
            found.append(_read(root, path))
        except Error as problem:
            skip_or_raise(aside, path.relative_to(root).as_posix(), str(problem))
    taken = {read.picture for read in found}
    pictures = {path.relative_to(root).as_posix() for path in box_claims.find_files(root, *SUFFIXES)}
    if bare := len(pictures - taken):
        line = f"{bare} {'picture' if bare == 1 else 'pictures'} without a usable XML file in '{root}' left out."
        warnings.warn(line, Note, stacklevel=2)
    from_one = _from_one([read for read in found if read.first is None])
    claims = []
    for read in found:
        one = from_one if read.first is None else read.first == 1
        claims.append(
            Claim(read.picture, tuple(_said(object_, one) for object_ in read.objects), read.size, made=read.made)
        )
    names = sorted({name for read in found for name, _, _ in read.objects if name})
    return Listing(box_claims.resolve_claims(root, claims, aside), tuple(names))


def annotate(root: Path, pictures: Sequence[Picture], names: Sequence[str]) -> None:
    """Write Annotations/<id>.xml of pictures that lie in the folder."""
    boxed.check_class_names(names)
    (root / FOLDER).mkdir()
    for picture in pictures:
        top = xml.Element("annotation")
        folder, _, name = picture.file.rpartition("/")
        source = {"database": SYNTHETIC if picture.made else "unknown", "annotation": FROM_ONE, "image": "unknown"}
        size = {"width": picture.size[1], "height": picture.size[0], "depth": picture.depth}
        _texts(top, {"folder": folder, "filename": name})
        _texts(xml.SubElement(top, "source"), source)
        _texts(xml.SubElement(top, "size"), size)
        _texts(top, {"segmented": 0})
        for corners, label in zip(picture.boxes.corners.tolist(), picture.boxes.names, strict=True):
            node = xml.SubElement(top, "object")
            _texts(node, {"name": label, "pose": "Unspecified", "truncated": 0, "difficult": 0})
            sides = (_digits(value, first) for value, first in zip(corners, (1, 1, 0, 0), strict=True))
            _texts(xml.SubElement(node, "bndbox"), dict(zip(SIDES, sides, strict=True)))
        xml.indent(top)
        (root / FOLDER / f"{picture.id}.xml").write_bytes(xml.tostring(top, "utf-8") + b"\n")


read = boxed.reader(listing)
write = boxed.writer(annotate)
"""images/<id>.png, Annotations/<id>.xml and the manifest of a data set."""


# ----------------------------------------------------------------------------------------------------------- details


def _read(root: Path, path: Path) -> ParsedFile:
    try:
        top = fromstring(path.read_bytes(), forbid_dtd=True)
    except DefusedXmlException as problem:
        raise Error(
            f"An annotation is XML without a DTD or entities; this file has one ({type(problem).__name__})."
        ) from problem
    except (xml.ParseError, ValueError, LookupError, OSError) as problem:
        words = " ".join(str(problem).split())
        raise Error(f"An annotation is an XML file; this one is not: {words:.200}. Export it again.") from problem
    if top.tag != "annotation":
        raise Error(f"An annotation of Pascal VOC is an <annotation>; this file is a <{top.tag!s:.60}>. Move it away.")
    objects = tuple(_object(node) for node in top.findall("object"))
    drawn = top.find("path") is not None and _text(top, "source/database") == "Unknown"
    first = 1 if _text(top, "source/annotation") == FROM_ONE else 0 if drawn else None
    made = Provenance("synthetic", "unknown", "unknown") if _text(top, "source/database") == SYNTHETIC else None
    return ParsedFile(_picture(root, path, _text(top, "filename")), _size(top), objects, first, made)


def _picture(root: Path, path: Path, filename: str) -> str:
    """The picture of an XML file: that of its stem, or the one it names."""
    above = path.parent.parent if path.parent != root else root
    bases = [base / name for base in dict.fromkeys((path.parent, above, root)) for name in BESIDE]
    by_name, problem = "", None
    try:
        by_name = box_claims.locate_picture(root, bases, filename)
    except Error as found:
        problem = found
    stems = [Path(filename).stem] if by_name else []
    if path.stem in stems:
        return by_name
    for suffix in dict.fromkeys((*SUFFIXES, *(s.upper() for s in SUFFIXES))):
        try:
            by_stem = box_claims.locate_picture(root, bases, path.stem + suffix)
        except Error:
            continue
        if by_name:
            raise Error(
                f"An annotation is of one picture; by its name this one is of {by_stem}, by <filename> of {by_name}."
            )
        return by_stem
    if problem is not None:
        raise problem
    return by_name


def _object(node: Any) -> tuple[str, tuple[Decimal, ...], str]:
    """(class, corners as they stand, why it is no box)."""
    name = box_claims.clean_class_name(_text(node, "name"))
    texts = [_text(node, f"bndbox/{side}") for side in SIDES]
    if not name:
        return "", (), "it has a name, and this one has none"
    if not all(math.isfinite(parse_number(text)) for text in texts):
        return name, (), f"its corners are finite numbers, and these are {', '.join(texts):.80}"
    try:
        return name, tuple(Decimal(text) for text in texts), ""
    except InvalidOperation:  # what float reads and Decimal does not
        return name, tuple(Decimal(float(text)) for text in texts), ""


def _said(found: tuple[str, tuple[Decimal, ...], str], from_one: bool) -> StatedBox:
    name, corners, fault = found
    if fault:
        return StatedBox(name, fault=fault)
    x0, y0, x1, y1 = corners
    if from_one:
        x0, x1 = _first_from_zero(x0, x1)
        y0, y1 = _first_from_zero(y0, y1)
    return StatedBox(name, (float(x0), float(y0), float(x1), float(y1)))


def _first_from_zero(low: Decimal, high: Decimal) -> tuple[Decimal, Decimal]:
    """Sides that count from one as continuous ones. A box of less than a pixel ends before its first; others are swapped."""
    return (low - 1, high) if low - 1 <= high else (low, high - 1)


def _from_one(found: Sequence[ParsedFile]) -> bool:
    """Whether files that do not say so count pixels from 1."""
    low, ends = math.inf, False
    for read in found:
        for _, corners, fault in read.objects:
            if not fault:
                low = min(low, *map(float, corners))
                ends |= read.size is not None and (
                    max(corners[0::2]) == read.size[1] or max(corners[1::2]) == read.size[0]
                )
    return ends and low >= 1


def _size(top: Any) -> tuple[int, int] | None:
    """As stated; some tools write 0 for what they do not know."""
    rows, cols = parse_number(_text(top, "size/height")), parse_number(_text(top, "size/width"))
    if not (math.isfinite(rows) and math.isfinite(cols) and rows > 0 and cols > 0):
        return None
    return (round(rows), round(cols))


def _text(node: Any, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _texts(node: xml.Element, texts: dict[str, Any]) -> None:
    for tag, text in texts.items():
        xml.SubElement(node, tag).text = str(text)


def _digits(value: float, first: int) -> str:
    """A corner from 0 as one from `first`, with all its digits and none too many."""
    exact = Decimal(repr(value)) + first
    return str(int(exact)) if exact == int(exact) else f"{exact.normalize():f}"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""
