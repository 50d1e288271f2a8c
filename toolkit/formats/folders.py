"""Class folders: photographs whose class is the name of their folder, or stands in a table beside them.

    ROOT/Coffee___rust/leaf 1.jpg         a folder a class, also of a split (train/Coffee___rust/...) and below images/;
                                          which level of a deeper tree is the class, `class_tree` says
    ROOT/labels.csv or metadata.csv       filename and any of class or label, crop, condition, severity, group, ...

A table decides alone what is read, and a row that states no class has none. Without a class column the folders name the
classes. `write` makes images/<class>/<id>.png (what torchvision and keras call an ImageFolder) with labels.csv and the
manifest of a data set that name these same files; `read` reads it back. What is no usable photograph is refused with a
reason, one file at a time.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.data import dataset, labels, xmp
from toolkit.data.file_names import find_file, find_loosely, loose_names, printable, same_letters
from toolkit.data.labels import Range, Vocabulary
from toolkit.example import Annotation, Error, Example, Note, Provenance
from toolkit.formats.class_tree import NOWHERE, Place, find_files, find_places, find_strays
from toolkit.formats.photograph import SUFFIXES, read_photograph

__all__ = [
    "OUTSIDE", "TABLES", "UNLABELLED", "Aside", "Row", "class_folder", "examples", "read", "rows", "safe_name",
    "skip_or_raise", "stated_provenance", "table_lines", "unique_ids", "write",
]  # fmt: skip

Aside = Callable[[str, str], None]
"""Is told the name of a file that is put aside, and why."""

TABLES = ("labels.csv", "metadata.csv")

UNLABELLED = "unlabelled"
"""The folder of images whose class is not known."""

COPIES = re.compile(r"_(\d+deg|flip(LR|TB)|new\d+degFlip(LR|TB))$", re.IGNORECASE)
"""What augmented editions of PlantVillage append to the name of a leaf: its copies belong to its group."""

OUTSIDE = re.compile(r"/|\.\.(/|$)|[A-Za-z]:")
"""How a name begins that leads out of a folder."""


MASKS = re.compile("mask|thumb", re.IGNORECASE)
"""What a folder is named after that holds pictures made from others, alone or among them."""


@dataclass(frozen=True)
class Row:
    """One photograph and what is said of it.

    name: path below the root, with slashes. id: unique in the root, safe as a file name. folder: name of its class
    folder, "" for none. words: column -> text, without the empty ones; "class" is that of the table, else the folder.
    place: its folders; one of a plant below the class is its group.
    """

    name: str
    path: Path
    id: str
    folder: str
    words: Mapping[str, str]
    place: Place = NOWHERE

    @property
    def group(self) -> str:
        """The column group, else class folder and name of the file: train/A/1.jpg and test/A/1.jpg are one leaf.

        What lies in a folder of one plant is one group.
        """
        own = self.place.plant or "/".join(filter(None, (self.place.below, COPIES.sub("", Path(self.name).stem))))
        return self.words.get("group") or printable(same_letters(f"{self.folder}/{own}".lstrip("/")))


def rows(
    root: str | os.PathLike[str],
    aside: Aside | None = None,
    suffixes: Sequence[str] = SUFFIXES,
    level: str | None = None,
) -> list[Row]:
    """Every photograph under root in the order of their names, or of the table; none is opened.

    suffixes: of the files that a table may name. level: which folders name the class, see `class_tree.parse_levels`.
    aside(name, reason) is told of each file that is none, is missing or lies outside; without it that is an Error.
    """
    root = Path(root)
    if not root.is_dir():
        raise Error(f"Class folders lie in a folder; '{root}' is none. Check the path.")
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    found = _scanned(root, aside, level) if table is None else _listed(root, table, aside, suffixes, level)
    if not found:
        raise Error(
            f"Photographs lie in class folders, such as Coffee___rust/1.jpg, or stand in labels.csv; '{root}' holds none."
        )
    idents = unique_ids([name for name, _, _ in found])
    return [
        Row(name, root / name, ident, place.name, words, place)
        for ident, (name, place, words) in zip(idents, found, strict=True)
    ]


def unique_ids(names: Sequence[str]) -> list[str]:
    """An id for each file name below a root: its stem, with the folders where stems are not unique; safe as a file name."""
    stems = Counter(_safe(PurePosixPath(name).stem) for name in names)
    made: dict[str, None] = {}
    for name in names:
        ident = _safe(PurePosixPath(name).stem)
        if stems[ident] > 1:
            ident = _safe(name.rpartition(".")[0].replace("/", "-"))
        number, wanted = 2, ident
        while ident in made:
            ident, number = f"{wanted}-{number}", number + 1
        made[ident] = None
    return list(made)


def read(
    root: str | os.PathLike[str], size: tuple[int, int] | None = None, aside: Aside | None = None
) -> Iterator[Example]:
    """Every photograph of class folders with the label "class"; size (rows, cols) or as they are."""
    spelled: dict[str, str] = {}
    described = []
    for row in rows(root, aside):
        name = safe_name(row.words.get("class", ""))
        described.append((row, {"class": spelled.setdefault(name.casefold(), name)} if name else {}))
    known = labels.from_json({"class": sorted(filter(None, spelled.values()))} if spelled else {})
    yield from examples(described, known, size, aside)


def examples(
    described: Iterable[tuple[Row, Mapping[str, str]]],
    vocabulary: Vocabulary,
    size: tuple[int, int] | None = None,
    aside: Aside | None = None,
    watch: Callable[[], object] = lambda: None,
) -> Iterator[Example]:
    """One Example a row and its words (label -> text); a label of the vocabulary without a word is unknown.

    watch() is called once a row. What cannot be decoded, or has a word that is not in the vocabulary, is put aside.
    """
    for row, words in described:
        watch()
        try:
            known = labels.parse(vocabulary, [f"{k}={v}" for k, v in words.items() if k in vocabulary])
            image, marked = read_photograph(row.path, size)
        except Error as problem:
            skip_or_raise(aside, row.name, str(problem))
            continue
        annotation = Annotation(row.words.get("text"), {name: known.get(name, math.nan) for name in vocabulary})
        yield Example(row.id, image, annotation, row.group, provenance=stated_provenance(row.words) or marked)


def write(
    found: Iterable[Example],
    root: str | os.PathLike[str],
    vocabulary: Vocabulary,
    place: Callable[[Example], str] | None = None,
    **description: Any,
) -> int:
    """Write images/<class>/<id>.png, labels.csv and the manifest of a data set; returns the number of samples.

    place: the class folder of an example, by default that of its label "class". labels.csv spells every label of the
    vocabulary, says of each image whether it is synthetic, and holds its provenance whole.
    """
    place = place or (lambda example: class_folder(example.annotation, vocabulary))
    columns = ["filename", *vocabulary, "text", "group", "synthetic", "provenance"]
    lines: list[dict[str, object]] = []

    def noted() -> Iterator[Example]:
        for example in found:
            if example.image.shape[0] not in (1, 3):
                raise Error(f"A photograph is grey or RGB; '{example.id}' has {example.image.shape[0]} channels.")
            yield example  # and only when it has been written
            lines.append(_noted(example, place(example), vocabulary))

    with dataset.staged_folder(root) as folder:
        about = {**description, "labels": labels.to_json(vocabulary)}
        count = dataset.write(noted(), folder, place=place, **about)
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(lines)
    return count


def class_folder(annotation: Annotation, vocabulary: Vocabulary) -> str:
    """The class folder of an annotation; UNLABELLED where its class is not known."""
    return labels.spell(vocabulary, annotation.labels).get("class", UNLABELLED)


def safe_name(text: str) -> str:
    """A name as a folder's: letters, digits, _ . and - of any script; other characters become one _."""
    return re.sub(r"([^\w.-]|_)+", "_", same_letters(printable(text))).strip("_.-")


def skip_or_raise(aside: Aside | None, name: str, reason: str) -> None:
    """Put a file aside, or raise an Error where nobody is told."""
    if aside is None:
        raise Error(printable(f"{name}: {reason}"))
    aside(printable(name), printable(reason))


# ----------------------------------------------------------------------------------------------------------- listing


def _scanned(root: Path, aside: Aside | None, level: str | None) -> list[tuple[str, Place, dict[str, str]]]:
    """(name, place, words) of the files in class folders."""
    images = root / "images"
    base = images if images.is_dir() and any(path.is_dir() for path in images.iterdir()) else root
    found, pictures = [], []

    def refused(path: Path, reason: str) -> None:
        skip_or_raise(aside, path.relative_to(root).as_posix(), reason)

    for path in find_files(base, root, refused):
        below = path.relative_to(root)
        if path.suffix.lower() in SUFFIXES:
            pictures.append(below)
        elif path.parent not in (root, images) and path.name != "Thumbs.db":
            skip_or_raise(aside, below.as_posix(), _no_image(path))
    strays = find_strays(pictures)
    for below, reason in strays.items():
        skip_or_raise(aside, below.as_posix(), reason)
    pictures = [below for below in pictures if below not in strays]
    places = _places(root, pictures, level)
    for below in pictures:
        place = places[below]
        if place.name:
            found.append((below.as_posix(), place, {} if place.name == UNLABELLED else {"class": place.name}))
        else:
            skip_or_raise(
                aside, below.as_posix(), "A photograph lies in a folder named after its class; this one does not."
            )
    return found


def _places(root: Path, pictures: Sequence[Path], level: str | None) -> dict[Path, Place]:
    """The place of each picture, given by its path below the root."""
    parents = {
        below: below.parent.parts[1:] if below.parts[0] == "images" else below.parent.parts for below in pictures
    }

    def told(line: str) -> None:
        warnings.warn(printable(line), Note, stacklevel=6)

    found = find_places(parents.values(), root, level, told)
    return {below: found[parts] for below, parts in parents.items()}


def _listed(
    root: Path, table: Path, aside: Aside | None, suffixes: Sequence[str], level: str | None
) -> list[tuple[str, Place, dict[str, str]]]:
    """(name, place, words) of the files in a table."""
    found, seen = [], set()
    columns, lines = table_lines(table)
    folders_name_classes = not {"class", "label", "condition"} & set(columns)
    there = [path.relative_to(root).as_posix() for path in find_files(root, root, lambda *_: None)]
    there = [name for name in there if PurePosixPath(name).suffix.lower() in suffixes]
    known = loose_names(there)
    for number, line in lines:
        words = {k: v.strip() for k, v in line.items() if v and v.strip()}
        given = words.pop("filename", "") or words.pop("file_name", "")
        name = posixpath.normpath(given.replace("\\", "/"))
        # By its words alone: a link that the owner of the folder made is followed.
        outside = not given or OUTSIDE.match(name)
        met = None if outside else find_file(root, name) or find_file(root, f"images/{name}")
        near = () if outside or met else find_loosely(known, name) or find_loosely(known, f"images/{name}")
        met = root / near[0] if len(near) == 1 else met
        path = met or root / name
        name = name if met is None else met.relative_to(root).as_posix()
        if outside:
            reason = f"A table names files below its own folder; line {number} has '{given}'."
        elif name in seen:
            reason = f"A table names each file once; line {number} names this one again."
        elif len(near) > 1:
            reason = (
                f"A table names one file a line; line {number} may mean {near[0]} or {near[1]}. Write its whole name."
            )
        elif met is None:
            reason = f"A table names files that exist; line {number} names one that does not."
        elif path.suffix.lower() not in suffixes:
            reason = _no_image(path)
        else:
            reason = ""
        seen.add(name)
        if reason:
            skip_or_raise(aside, given or f"{table.name} line {number}", reason)
            continue
        folder = path.parent.name if path.parent not in (root, root / "images") else ""
        stated = words.pop("label", "")
        named = words.get("class") or stated
        found.append((name, Place(folder), words | ({"class": named} if named else {})))
    if aside is not None:
        _name_unlisted(root, [name for name in there if name not in seen], (name for name, _, _ in found), table, aside)
    if not folders_name_classes:
        return found
    places = _places(root, [Path(name) for name, _, _ in found], level)
    return [
        (name, place, words | ({"class": place.name} if place.name not in ("", UNLABELLED) else {}))
        for name, place, words in ((name, places[Path(name)], words) for name, _, words in found)
    ]


def _name_unlisted(root: Path, names: Sequence[str], listed: Iterable[str], table: Path, aside: Aside) -> None:
    """Put aside the pictures of a folder that its table lists by no name; of masks and thumbnails nobody expects that."""
    strays = find_strays(PurePosixPath(name) for name in names)
    read = {(root / name).resolve() for name in listed} if names else set()
    for name in names:
        made = PurePosixPath(name) in strays or MASKS.search(posixpath.dirname(name))
        if not made and (root / name).resolve() not in read:
            skip_or_raise(
                aside,
                name,
                f"A table decides what is read; {table.name} has no line of this file. Add one, or leave it.",
            )


def table_lines(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a table, in small letters, and its lines with their numbers."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        head = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
        columns = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        lines = [(reader.line_num, {k: v for k, v in line.items() if type(v) is str}) for line in reader]
    except (UnicodeDecodeError, csv.Error) as problem:
        raise Error(
            f"A table of labels is a CSV file in UTF-8; {table} is not: {problem}. Save it as such."
        ) from problem
    if not {"filename", "file_name"} & set(columns) or len(set(columns)) < len(columns):
        raise Error(
            "A table of labels has a column filename and distinct others (class or label, or crop and condition; severity, "
            f"group); {table} has: {', '.join(columns) or 'none'}. Name them so in its first line, or move it away."
        )
    return columns, lines


def _no_image(path: Path) -> str:
    kind = path.suffix.lower() or "a name without one"
    return f"A photograph ends in {', '.join(SUFFIXES)}; this file has {kind}. Convert it to JPEG or PNG."


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", same_letters(printable(name))).lstrip("._-")[:150] or "image"


# ------------------------------------------------------------------------------------------------------------- table


def _noted(example: Example, folder: str, vocabulary: Vocabulary) -> dict[str, object]:
    """The line of labels.csv of an example."""
    origin = example.provenance
    numbers = {
        k: repr(float(v))  # all digits, so that the number that is read is the one that was written
        for k, v in example.annotation.labels.items()
        if type(vocabulary.get(k)) is Range and not math.isnan(v)
    }
    return {
        "filename": f"images/{folder}/{example.id}.png",
        **labels.spell(vocabulary, example.annotation.labels),
        **numbers,
        "text": example.annotation.text,
        "group": example.group,
        "synthetic": "no" if origin is None else "yes",
        "provenance": "" if origin is None else json.dumps(dataclasses.asdict(origin), separators=(",", ":")),
    }


def stated_provenance(words: Mapping[str, str]) -> Provenance | None:
    """What a table says of the origin of an image; a column provenance that is not ours says nothing."""
    try:
        found = Provenance(**json.loads(words["provenance"]))
        xmp.packet(found)  # what cannot be marked was not written here
        return found
    except (KeyError, ValueError, TypeError):
        made = words.get("synthetic", "no").lower() in ("yes", "true", "1")
        return Provenance("synthetic", "unknown", "unknown") if made else None
