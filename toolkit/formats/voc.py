"""Pascal VOC: one XML file a picture (Everingham et al. 2010; development kit of VOC2012, section 6).

    ROOT/Annotations/<name>.xml with ROOT/JPEGImages/<name>.jpg, or .xml beside the picture (LabelImg), at any depth;
    the picture is that of the same stem, or the one in <filename>; where they are two, the annotation is refused

Where the first pixel is. VOC counts pixels from 1 and both ends are inside: xmin 1, xmax 10 are the ten pixels 0 to 10.
Many tools write corners from 0 to the width instead, and few say so. A file tells by what its tool writes beside:

    from 1      `write` (<source>), supervision (<database> roboflow.ai), the data of the challenge (<annotation> PASCAL VOC...)
    from 0      LabelImg (a <path>, and a <database> Unknown; it writes 1 for 0), CVAT and datumaro (<database>, <annotation> and
                <image> Unknown), Label Studio (<owner><name>)

A box that begins at 0 shows that its files count from it. Of all others together corners are from 0 if one of them has a
fraction, which no pixel has, or if a box begins at 0, or none ends at the width or height; else from 1. A small folder of
which no box touches an edge may so be read a pixel too far to the right: what was taken is told of in a note, and `origin`
says otherwise.

An object without a <bndbox> that has a <polygon> (of LabelMe too) or a <robndbox> (roLabelImg) is the upright box around
it, and so is a box that CVAT turned.

`write` counts from 1, as VOC, supervision and Detectron2 do. Fractions are kept, with all their digits, and come back
exactly. `difficult` objects are objects; difficult, truncated, pose, parts and segmentation are not kept. A file with a DTD
or an entity is refused (defusedxml).
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
import xml.etree.ElementTree as xml
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from toolkit.example import Error, Note, Provenance
from toolkit.formats import box_claims, box_places, boxed
from toolkit.formats.box_checks import AROUND, StatedBox, parse_number
from toolkit.formats.box_claims import Claim
from toolkit.formats.boxed import Listing, Picture
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.formats.photograph import SUFFIXES
from toolkit.objects.outlines import Corners, around_points, around_turned

__all__ = ["FOLDER", "annotate", "holds", "listing", "read", "write"]

FOLDER = "Annotations"
FROM_ONE = "diffgraft: pixels from 1, both ends inside"
"""In <source><annotation> of a file that `write` made."""

SYNTHETIC = "synthetic, not acquired: made by diffgraft"
"""In <source><database> of a picture that is not real."""

SIDES = ("xmin", "ymin", "xmax", "ymax")
BESIDE = ("", "JPEGImages", "images", "data")


TURNED = (
    "Label Studio leaves the turn of a box out of Pascal VOC. Where boxes were turned, export YOLOv8 OBB and read that."
)


@dataclass(frozen=True)
class ParsedObject:
    """One object. corners: SIDES as they stand, or none. around: of a box that is not in SIDES, continuous. turn: degrees."""

    name: str
    corners: tuple[Decimal, ...] = ()
    around: Corners | None = None
    turn: float = 0.0
    fault: str = ""


@dataclass(frozen=True)
class ParsedFile:
    """What one file says. picture: its name, or why there is none. tool: what wrote it, "" if that is not known.

    first: where the first pixel is as far as the file tells, or None.
    """

    source: str
    picture: str | Error
    filename: str
    size: tuple[int, int] | None
    objects: tuple[ParsedObject, ...]
    tool: str
    first: int | None
    made: Provenance | None


def holds(root: Path) -> bool:
    """Whether there is an XML file that begins like an annotation."""
    return any(b"<annotation" in _head(path) for path in box_places.find_files(root, ".xml"))


def listing(root: str | os.PathLike[str], aside: Aside | None = None, origin: int | None = None) -> Listing:
    """The pictures that have an XML file, and the classes in alphabetical order. origin: where the first pixel is, 0 or 1,
    in files that do not say it themselves."""
    root = Path(root)
    found: list[ParsedFile] = []
    paths = box_places.find_files(root, ".xml")
    if not paths:
        raise Error(f"Pascal VOC boxes stand in XML files, one a picture; '{root}' holds none.")
    for path in paths:
        try:
            found.append(_read(root, path))
        except Error as problem:
            skip_or_raise(aside, path.relative_to(root).as_posix(), str(problem))
    found = _located(root, found, aside)
    taken = {read.picture for read in found}
    pictures = {path.relative_to(root).as_posix() for path in box_places.find_files(root, *SUFFIXES)}
    if bare := len(pictures - taken):
        line = f"{bare} {'picture' if bare == 1 else 'pictures'} without a usable XML file in '{root}' left out."
        warnings.warn(line, Note, stacklevel=2)
    if any(read.tool == "Label Studio" for read in found):
        warnings.warn(TURNED, Note, stacklevel=2)
    firsts = _firsts(root, found, origin)
    claims = [
        Claim(str(read.picture), tuple(_said(one, first) for one in read.objects), read.size, made=read.made)
        for read, first in zip(found, firsts, strict=True)
    ]
    names = sorted({one.name for read in found for one in read.objects if one.name})
    return Listing(box_claims.resolve_claims(root, claims, aside), tuple(names))


def annotate(
    root: Path, pictures: Sequence[Picture], names: Sequence[str], numbers: Mapping[str, int] | None = None
) -> None:
    """Write Annotations/<id>.xml of pictures that lie in the folder. numbers: VOC has none."""
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
    nodes = top.findall("object")
    objects = tuple(_object(node) for node in nodes if _text(node, "deleted") != "1")  # which LabelMe keeps
    if sum(1 for _ in top.iter("object")) > len(nodes):
        raise Error(
            "Objects stand in <annotation> itself; this file has some elsewhere. Export it again as Pascal VOC."
        )
    tool, first = _tool(top)
    made = Provenance("synthetic", "unknown", "unknown") if _text(top, "source/database") == SYNTHETIC else None
    filename = _text(top, "filename")
    picture = _picture(root, path, filename)
    return ParsedFile(path.relative_to(root).as_posix(), picture, filename, _size(top), objects, tool, first, made)


def _tool(top: Any) -> tuple[str, int | None]:
    """What wrote a file, and where its first pixel is."""
    database, annotation, image = (_text(top, f"source/{name}") for name in ("database", "annotation", "image"))
    if annotation == FROM_ONE:
        return "diffgraft", 1
    if database == "Unknown" and top.find("path") is not None:
        return "LabelImg", 0
    if database == annotation == image == "Unknown":
        return "CVAT and datumaro", 0
    if _text(top, "owner/name") == "Label Studio":
        return "Label Studio", 0
    if database == "roboflow.ai":
        return "supervision", 1
    if annotation.upper().startswith("PASCAL VOC"):
        return "the VOC challenge", 1
    return "", None


def _located(root: Path, found: Sequence[ParsedFile], aside: Aside | None) -> list[ParsedFile]:
    """The files whose picture is found, also by its last name where it does not lie beside."""
    lost = [n for n, read in enumerate(found) if isinstance(read.picture, Error) and read.filename]
    used = [((root,), read.picture) for read in found if isinstance(read.picture, str)]  # nobody else's
    places = box_places.locate_pictures(root, [*used, *(((), found[n].filename) for n in lost)])[len(used) :]
    by_name = {n: place for n, place in zip(lost, places, strict=True) if isinstance(place, str)}
    kept = []
    for n, read in enumerate(found):
        picture = by_name.get(n, read.picture)
        if isinstance(picture, Error):
            skip_or_raise(aside, read.source, str(picture))
        else:
            kept.append(dataclasses.replace(read, picture=picture))
    return kept


def _picture(root: Path, path: Path, filename: str) -> str | Error:
    """The picture of an XML file beside it: that of its stem, or the one it names. Errors: these are two."""
    above = path.parent.parent if path.parent != root else root
    bases = [base / name for base in dict.fromkeys((path.parent, above, root)) for name in BESIDE]
    by_name, problem = "", None
    try:
        by_name = box_places.locate_picture(root, bases, filename)
    except Error as found:
        problem = found
    stems = [Path(filename).stem] if by_name else []
    if path.stem in stems:
        return by_name
    for suffix in dict.fromkeys((*SUFFIXES, *(s.upper() for s in SUFFIXES))):
        try:
            by_stem = box_places.locate_picture(root, bases, path.stem + suffix)
        except Error:
            continue
        if by_name:
            raise Error(
                f"An annotation is of one picture; by its name this one is of {by_stem}, by <filename> of {by_name}."
            )
        return by_stem
    return by_name if problem is None else problem


def _object(node: Any) -> ParsedObject:
    name = box_claims.clean_class_name(_text(node, "name"))
    if not name:
        return ParsedObject("", fault="it has a name, and this one has none")
    boxes = node.findall("bndbox")
    if len(boxes) > 1:
        return ParsedObject(name, fault=f"an object has one bndbox, and this one has {len(boxes)}")
    if not boxes:
        try:
            return ParsedObject(name, around=_around(node))
        except Error as problem:
            return ParsedObject(
                name,
                fault=f"an object has a bndbox with {', '.join(SIDES)}, and this one has none. {problem}".rstrip("."),
            )
    texts = [_text(boxes[0], side) for side in SIDES]
    turn = [parse_number(_text(one, "value")) for one in node.iter("attribute") if _text(one, "name") == "rotation"]
    if not all(math.isfinite(parse_number(text)) for text in (*texts, *turn)):
        return ParsedObject(name, fault=f"its corners are finite numbers, and these are {', '.join(texts):.80}")
    try:
        corners = tuple(Decimal(text) for text in texts)
    except InvalidOperation:  # what float reads and Decimal does not
        corners = tuple(Decimal(float(text)) for text in texts)
    return ParsedObject(name, corners, turn=turn[0] if turn else 0.0)


def _around(node: Any) -> Corners:
    """The upright box around the outline of an object."""
    turned = node.find("robndbox")
    if turned is not None:
        x, y, width, height, angle = (parse_number(_text(turned, name)) for name in ("cx", "cy", "w", "h", "angle"))
        if not (math.isfinite(x + y + angle) and 0 < width < math.inf and 0 < height < math.inf):
            raise Error("Its robndbox is cx, cy, w, h and angle, which is not so.")
        return around_turned((x - width / 2, y - height / 2, x + width / 2, y + height / 2), math.degrees(angle))
    outline = node.find("polygon")
    if outline is None:
        raise Error("")
    points = [_text(point, side) for point in outline.findall("pt") for side in ("x", "y")]  # LabelMe
    for number in range(1, len(outline) // 2 + 1) if not points else ():
        points += [_text(outline, f"x{number}"), _text(outline, f"y{number}")]
    return around_points([parse_number(point) for point in points])


def _said(one: ParsedObject, first: int) -> StatedBox:
    if one.fault:
        return StatedBox(one.name, fault=one.fault)
    if one.around is not None:
        return StatedBox(one.name, one.around, how=AROUND)
    x0, y0, x1, y1 = one.corners
    if first:
        x0, x1 = _first_from_zero(x0, x1)
        y0, y1 = _first_from_zero(y0, y1)
    corners = (float(x0), float(y0), float(x1), float(y1))
    if one.turn % 180:
        return StatedBox(one.name, around_turned(corners, one.turn), how=AROUND)
    return StatedBox(one.name, corners)


def _first_from_zero(low: Decimal, high: Decimal) -> tuple[Decimal, Decimal]:
    """Sides that count from one as continuous ones. A box of less than a pixel ends before its first; others are swapped."""
    return (low - 1, high) if low - 1 <= high else (low, high - 1)


def _firsts(root: Path, found: Sequence[ParsedFile], origin: int | None) -> list[int]:
    """Where the first pixel of each file is, 0 or 1; what is taken and not stated is told of."""
    groups: dict[str, list[ParsedFile]] = {}
    for read in found:
        groups.setdefault(read.tool, []).append(read)
    taken = {tool: _taken(reads) for tool, reads in groups.items()}
    for tool, (first, why) in taken.items():
        if tool == "diffgraft" or not any(read.objects for read in groups[tool]):
            continue
        if origin is not None:
            taken[tool] = (origin, "")
        elif tool != "LabelImg":  # which is what others are measured by
            what = "pixels counted from 1, both ends inside" if first else "corners from 0 to the width"
            count = len(groups[tool])
            line = f"{count} XML {'file is' if count == 1 else 'files are'} read as {what}, because {why}, in '{root}'."
            warnings.warn(f"{line} To read the other: --origin {1 - first}", Note, stacklevel=4)
    return [taken[read.tool][0] for read in found]


def _taken(found: Sequence[ParsedFile]) -> tuple[int, str]:
    """Where files of one tool have their first pixel, and why."""
    boxes = [(one.corners, read.size) for read in found for one in read.objects if one.corners]
    known = found[0].first
    if known != 0 and found[0].tool != "diffgraft" and any(min(corners) < 1 for corners, _ in boxes):
        return 0, "a box begins before 1"
    if known is not None:
        return known, f"{found[0].tool} {'counts' if ' and ' not in found[0].tool else 'count'} so"
    if any(value % 1 for corners, _ in boxes for value in corners):
        return 0, "a corner has a fraction"
    if any(size and (max(corners[0::2]) == size[1] or max(corners[1::2]) == size[0]) for corners, size in boxes):
        return 1, "no box begins at 0 and one ends at the edge"
    return 0, "no box touches an edge"


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
