"""Pictures without a text: which of them are known to show nothing, as Ultralytics has it, and which are not.

One is put aside, never taken for a picture of nothing, where its text may be among those that no picture has; where it lies
among labelled ones in a folder of LabelImg, which writes no text until a picture is labelled; where a list of the set
(train.txt of darknet and CVAT) leaves it out; where another tool's file of its name says what it holds; and where it is itself a
mask, a thumbnail or a drawing of another. All others are told of in a note.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from toolkit.example import Note
from toolkit.formats.box_places import find_files
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.formats.photograph import SUFFIXES
from toolkit.formats.texts import pairs

__all__ = ["LISTS", "settle"]

LISTS = ("train.txt", "val.txt", "valid.txt", "test.txt")
"""Lists of pictures, as darknet's obj.data names them."""

MADE = re.compile(
    r"(masks?|seg(mentation)?s?|annotated|overlays?|previews?|thumb(nail)?s?|@eadir|heatmaps?|visuali[sz]ations?|predictions?)"
)
"""Folders of pictures that are made of others."""

DERIVED = re.compile(
    r"(.+)[-_. ](masks?|boxes|bbox|box|seg|segmentation|labels?|annotated|overlay|preview|thumb|thumbnail|pred|prediction|vis)"
)
"""Name of a picture that is made of another: that of the other, and what it is."""

UNLISTED = "A list of the set names its pictures; it leaves this one out, which has no text."
UNLABELLED = "A picture is labelled by a text beside it, as others of its folder are; this one has none. Label it or give it an empty text."
ALONE = "A picture has a text, or lies among those that have; in its folder none has. Give it an empty text if it shows nothing."

LARGEST = 2**26
"""Bytes of a file of another tool that is looked into."""


def settle(
    root: Path, found: Mapping[str, Path | None], ignored: frozenset[str], layout: str, aside: Aside | None
) -> dict[str, Path | None]:
    """Name of each picture that is used -> its text, or None of one that shows nothing.

    found: the text of each as its name has it. ignored: names of texts that are lists of classes. layout: "described" by a
    data.yaml, "labelimg" or "darknet" by a list of names alone.
    """
    used = {path for path in found.values() if path is not None}
    lists = [path for path in find_files(root, ".txt") if path.name in LISTS and path not in used]
    skipped = used | set(lists)
    unused = [path for path in find_files(root, ".txt") if path not in skipped and path.name not in ignored]
    bare = [name for name, label in found.items() if label is None]
    alike = pairs.pair_by_likeness(root, bare, unused)
    pictures = dict(found) | alike
    orphans = _orphans(root, pictures, [path for path in unused if path not in alike.values()], aside)
    listed = _listed(lists) if layout != "described" else None
    labelled = {(root / name).parent for name, label in pictures.items() if label is not None}
    beside = {label.parent for name, label in pictures.items() if label and label.parent == (root / name).parent}
    stems = {(PurePosixPath(name).parent, PurePosixPath(name).stem) for name in pictures}
    kept: dict[str, Path | None] = {}
    empty = 0
    for name, label in pictures.items():
        reason = ""
        if label is None:
            place = root / name
            reason = orphans.get(name, "") or _derived(name, stems) or _said_elsewhere(root, name)
            if not reason and listed is not None:
                reason = "" if place.name in listed else UNLISTED
            elif not reason and layout == "labelimg" and place.parent in beside:
                reason = UNLABELLED
            elif not reason and layout != "described" and place.parent not in labelled:
                reason = ALONE
        if reason:
            skip_or_raise(aside, name, reason)
            continue
        kept[name] = label
        empty += label is None
    if empty:
        one = empty == 1
        line = (
            f"{empty} {'picture has' if one else 'pictures have'} no text and {'is' if one else 'are'} "
            f"taken as showing nothing, in '{root}'."
        )
        warnings.warn(line, Note, stacklevel=4)
    return kept


def _orphans(
    root: Path, pictures: Mapping[str, Path | None], unused: list[Path], aside: Aside | None
) -> dict[str, str]:
    """Why a picture without a text may have one: a text of its stem elsewhere, or one in its folder that is of no picture."""
    strays: dict[str, str] = {}
    lonely: dict[Path, list[str]] = defaultdict(list)
    for path in unused:
        place, rows = path.relative_to(root).as_posix(), pairs.is_rows(path)
        meant = rows or path.parent.name == pairs.FOLDER
        lost = meant and not _has_picture(root, path)
        if lost and pairs.FOLDER in path.relative_to(root).parts[:-1]:
            skip_or_raise(aside, place, "A text file is of a picture of its name; there is none.")
        if rows and lost:
            lonely[path.parent].append(place)
        if rows:
            strays |= {
                pairs.folded(path.stem): place,
                pairs.folded(Path(path.stem).stem): place,
            }  # a.jpg.txt of other tools
    reasons = {}
    for name, label in pictures.items():
        if label is not None:
            continue
        stray = strays.get(pairs.folded(PurePosixPath(name).stem))
        near = [place for folder in pairs.label_folders(root, name) for place in lonely.get(folder, ())]
        if stray is not None:
            reasons[name] = (
                f"The text of a picture has its name and lies in labels/ in place of images/, or beside it; "
                f"{stray} does not. Move it there."
            )
        elif near:
            few = "is of no picture" if len(near) == 1 else f"and {len(near) - 1} more are of no picture"
            reasons[name] = (
                f"A picture without a text shows nothing, but {near[0]} {few} and may be of this one. Name each text as its picture."
            )
    return reasons


def _has_picture(root: Path, text: Path) -> bool:
    """Whether a text has a picture where YOLO looks, of the set or not, read or not."""
    parts = text.relative_to(root).parts[:-1]
    places = [text.parent]
    if pairs.FOLDER in parts:
        last = len(parts) - 1 - parts[::-1].index(pairs.FOLDER)
        places += [
            root.joinpath(*parts[:last], "images", *parts[last + 1 :]),
            root.joinpath(*parts[:last], *parts[last + 1 :]),
        ]
    tries = (place / (text.stem + s) for place in places for x in SUFFIXES for s in (x, x.upper()))
    tries = [
        *tries,
        *(place / text.stem for place in places if Path(text.stem).suffix.lower() in SUFFIXES),
    ]  # a.jpg.txt
    return any(pairs.find_file(place.parent, place.name) or place.is_symlink() for place in tries)


def _listed(lists: list[Path]) -> set[str] | None:
    """Last names of the pictures that lists of the set name; None where no list names one."""
    named = set()
    for path in lists:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        named |= {line.replace("\\", "/").rpartition("/")[2].strip() for line in lines}
    return {name for name in named if PurePosixPath(name).suffix.lower() in SUFFIXES} or None


def _derived(name: str, stems: set[tuple[PurePosixPath, str]]) -> str:
    path = PurePosixPath(name)
    folder = next((part for part in path.parts[:-1] if MADE.fullmatch(part.lower())), None)
    if folder is not None:
        return (
            f"A picture without a text shows nothing; this one lies in {folder}/, where pictures made of others "
            "lie. Give it an empty text if it is none."
        )
    whole = DERIVED.fullmatch(path.stem)
    if whole is not None and (path.parent, whole[1]) in stems:
        return (
            f"A picture without a text shows nothing; this one is by its name made of {whole[1]}. "
            "Give it an empty text if it is not."
        )
    return ""


def _said_elsewhere(root: Path, name: str) -> str:
    """Why a picture is not empty that LabelMe or a tool of Pascal VOC labelled."""
    for path in _neighbours(root, name):
        try:
            content = path.read_bytes() if path.is_file() and path.stat().st_size <= LARGEST else b""
            objects = (
                b"<object>" in content
                if path.suffix == ".xml"
                else bool(content) and bool(json.loads(content).get("shapes"))
            )
        except (OSError, ValueError, AttributeError, RecursionError):
            objects = False
        if objects:
            place = path.relative_to(root).as_posix()
            return (
                f"A picture without a text shows nothing, but {place} says what this one holds. "
                "Export all of them in one format."
            )
    return ""


def _neighbours(root: Path, name: str) -> Iterator[Path]:
    path = root / name
    above = path.parent.parent if path.parent != root else root
    for folder in dict.fromkeys((path.parent, *pairs.label_folders(root, name))):
        yield from (folder / f"{path.stem}{suffix}" for suffix in (".json", ".xml"))
    for folder in ("Annotations", "annotations", "xml", "json"):
        suffixes = (".json", ".xml")
        yield from (above / folder / f"{path.stem}{suffix}" for suffix in suffixes)
