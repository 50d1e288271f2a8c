"""What annotation files say of pictures, held against the pictures: paths, sizes, orientation, boxes, groups.

A format makes a Claim of each picture that it names; `resolve_claims` answers a Row for each that can be used.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from toolkit.data.file_names import printable, same_letters
from toolkit.example import Boxes, Error, Note, Provenance
from toolkit.formats import folders
from toolkit.formats.box_checks import CheckedBoxes, StatedBox, apply_orientation, check_boxes
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.formats.photograph import DECODERS, MOST_PIXELS

__all__ = ["METADATA", "Claim", "Row", "clean_class_name", "format_size", "resolve_claims"]

METADATA = "metadata.csv"

COPIES = re.compile(r"[._](jpe?g|png|bmp|tiff?|webp)[._]rf[._][0-9A-Za-z]{8,}$", re.IGNORECASE)
"""What Roboflow's exports append to the name of a picture: its augmented copies belong to its group."""

PLACES = re.compile(
    r"(jpeg)?images?|pictures|data|labels|annotations|(train|valid|val|test)(ing|idation)?\d*", re.IGNORECASE
)
"""Folders whose name says nothing of where a picture is from."""


@dataclass(frozen=True)
class Claim:
    """What an annotation file says of one picture.

    name: path of the picture below the root. size: (rows, cols) as stated, or None. parts: corners are in parts of width
    and height. made: the provenance that the file states.
    """

    name: str
    boxes: tuple[StatedBox, ...]
    size: tuple[int, int] | None = None
    parts: bool = False
    made: Provenance | None = None


@dataclass(frozen=True)
class Row:
    """One picture and its boxes.

    name: path below the root, with slashes. id: unique in the root, safe as a file name. group: the unit a split must not
    cut. size: (rows, cols) as it is shown. orientation: EXIF's, 1 to 8; 1 is stored as shown. made: stated provenance.
    """

    name: str
    path: Path
    id: str
    group: str
    size: tuple[int, int]
    boxes: Boxes
    orientation: int = 1
    made: Provenance | None = None


def resolve_claims(root: Path, claims: Iterable[Claim], aside: Aside | None) -> list[Row]:
    """The rows of what annotation files say, once the pictures' headers have been looked at."""
    told: Counter[str] = Counter()
    said = _once(claims, aside)
    headers: dict[str, tuple[tuple[int, int], int]] = {}
    for name in sorted(said):
        try:
            headers[name] = _header(root / name)
        except Error as problem:
            skip_or_raise(aside, name, str(problem))
    stored = _stored(said, headers)
    table = _table(root / METADATA)
    made = []
    for name, (size, orientation) in headers.items():
        claim = said[name]
        shown = (size[1], size[0]) if orientation > 4 else size
        if claim.size not in (None, size, shown):
            skip_or_raise(
                aside, name,
                f"Boxes are of the picture beside them; the file says it is {format_size(claim.size)}, and it is {format_size(shown)}.",
            )  # fmt: skip
            continue
        of_pixels = orientation > 1 and (claim.size == size if size != shown and claim.size else stored)
        checked = check_boxes(claim.boxes, size if of_pixels else shown, claim.parts, lambda kind: told.update([kind]))
        boxes = checked.boxes
        if checked.unreadable or (checked.empty and not boxes.names):
            skip_or_raise(aside, name, _unusable(checked))
            continue
        for reason in checked.empty:
            skip_or_raise(aside, name, f"{reason} The picture stays.")
        if of_pixels:
            boxes = Boxes(apply_orientation(boxes.corners, orientation, size), boxes.names, shown)
        words = table.get(name, table.get(PurePosixPath(name).name, {}))
        group = words.get("group") or _group(name)
        made.append((name, group, shown, boxes, orientation, folders.stated_provenance(words) or claim.made))
    for kind, count in told.items():
        _note(f"{count} {'box was' if count == 1 else 'boxes were'} {kind} in '{root}'.")
    idents = folders.unique_ids([name for name, *_ in made])
    return [Row(name, root / name, ident, *rest) for ident, (name, *rest) in zip(idents, made, strict=True)]


def clean_class_name(name: object) -> str:
    """A class name on one line, "" for what is none: a text or an integer."""
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())[:200]


def format_size(size: Sequence[int] | None) -> str:
    """A size (rows, cols) as it is said: width x height."""
    return "unknown" if size is None else f"{size[1]} x {size[0]}"


# ----------------------------------------------------------------------------------------------------------- details


def _unusable(checked: CheckedBoxes) -> str:
    """Why a picture is put aside for its boxes: one that shows less than it holds would teach what is not so."""
    first, *others = checked.unreadable or checked.empty
    more = f" So it is with {len(others)} more." if others else ""
    return f"{first}{more} A picture is used with all of its boxes or not at all."


def _once(claims: Iterable[Claim], aside: Aside | None) -> dict[str, Claim]:
    """Name -> the one claim about a picture; several that differ are refused, because none is known to be complete."""
    found: dict[str, list[Claim]] = {}
    for claim in claims:
        known = found.setdefault(claim.name, [])
        if repr(claim) not in map(repr, known):  # by its text, because NaN is not itself
            known.append(claim)
    for name, known in found.items():
        if len(known) > 1:
            skip_or_raise(aside, name, f"A picture is annotated once; {len(known)} annotations of this one differ.")
    return {name: known[0] for name, known in found.items() if len(known) == 1}


def _header(path: Path) -> tuple[tuple[int, int], int]:
    """((rows, cols) of the stored pixels, EXIF orientation 1 to 8) of an image file, without decoding it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=DECODERS) as file:
                size = (file.height, file.width)
                # Not PngImageFile's own, which decodes the whole picture to look for metadata behind it.
                orientation = Image.Image.getexif(file).get(0x0112, 1)
    except Exception as problem:  # a damaged file may raise anything, from SyntaxError to struct.error
        words = " ".join(str(problem).replace(str(path), path.name).split()).rstrip(".") or type(problem).__name__
        raise Error(f"A picture is an image file; this one is not: {words}.") from problem
    if size[0] * size[1] > MOST_PIXELS:
        raise Error(
            f"A picture has at most {MOST_PIXELS / 1e6:.0f} million pixels; this one says it is {format_size(size)}."
        )
    return size, orientation if orientation in range(1, 9) else 1


def _stored(said: Mapping[str, Claim], headers: Mapping[str, tuple[tuple[int, int], int]]) -> bool:
    """Whether the set's boxes are those of the stored pixels, by the pictures on the side that state their size."""
    sides = [
        said[name].size == size
        for name, (size, orientation) in headers.items()
        if orientation > 4 and size[0] != size[1] and said[name].size in (size, size[::-1])
    ]
    return bool(sides) and all(sides)


def _table(path: Path) -> dict[str, dict[str, str]]:
    """File name -> column -> text of metadata.csv; nothing where there is none of ours."""
    if not path.is_file():
        return {}
    try:
        _, lines = folders.table_lines(path)
    except Error as problem:
        _note(f"Groups of pictures are not read: {problem}")
        return {}
    found = {}
    for _, line in lines:
        words = {column: text.strip() for column, text in line.items() if text.strip()}
        given = words.get("filename") or words.get("file_name")
        if given:
            found[posixpath.normpath(given.replace("\\", "/"))] = words
    return found


def _group(name: str) -> str:
    """What a picture is of, by its name: copies that a tool made of it belong to it, whatever split they lie in."""
    path = PurePosixPath(name)
    parts = [part for part in path.parts[:-1] if not PLACES.fullmatch(part)]
    return printable(same_letters("/".join([*parts, COPIES.sub("", path.stem)])))


def _note(line: str) -> None:
    warnings.warn(line, Note, stacklevel=3)
