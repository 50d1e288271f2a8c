"""The text of each picture: in labels/ in place of images/, beside it, or in labels/ beside it.

A text is also of a picture whose name is the same but for case, the form of its accents, bytes that are no UTF-8, %20 for a
space, or the eight letters that Label Studio puts before it, where that leaves no doubt: one such text and one such picture.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from toolkit.data.file_names import find_file, fold_name
from toolkit.formats.box_checks import parse_number
from toolkit.formats.box_places import UPLOADED

__all__ = ["FOLDER", "folded", "is_rows", "label_folders", "pair_by_likeness", "same_rows", "texts_of"]

FOLDER = "labels"
SURROGATES = re.compile("[\ud800-\udfff]")


def texts_of(root: Path, name: str) -> list[Path]:
    """The texts of a picture of exactly its name, the likeliest first; none that a link leads out of the folder to."""
    inside, stem = root.resolve(), PurePosixPath(name).name
    tries = [
        folder / Path(stem).with_suffix(suffix) for folder in label_folders(root, name) for suffix in (".txt", ".TXT")
    ]
    met = (find_file(place.parent, place.name) for place in tries)
    found = dict.fromkeys(place for place in met if place is not None and place.resolve().is_relative_to(inside))
    return list(found)


def label_folders(root: Path, name: str) -> list[Path]:
    """Where the text of a picture may lie: labels in place of the last images, beside it, in labels beside it."""
    path = root / name
    parts = list(path.parent.relative_to(root).parts)
    places = [path.parent, path.parent / FOLDER]
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = FOLDER
        places.insert(0, root.joinpath(*parts))
    return places


def pair_by_likeness(root: Path, bare: Iterable[str], texts: Iterable[Path]) -> dict[str, Path]:
    """Name of a picture without a text -> the one text that no picture has and whose name is like its own."""
    wanted: dict[tuple[Path, str], set[str]] = defaultdict(set)
    for name in bare:
        for folder in label_folders(root, name):
            wanted[folder, folded(PurePosixPath(name).stem)].add(name)
    given: dict[str, set[Path]] = defaultdict(set)
    meant: dict[Path, set[str]] = {}
    for text in texts:
        meant[text] = wanted.get((text.parent, folded(text.stem)), set())
        for name in meant[text]:
            given[name].add(text)
    return {
        name: next(iter(found))
        for name, found in given.items()
        if len(found) == 1 and len(meant[next(iter(found))]) == 1
    }


def folded(stem: str) -> str:
    """A name without what tools change in it."""
    if SURROGATES.search(stem):  # bytes that are no UTF-8 are most often those of Windows in western Europe
        stem = stem.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return UPLOADED.sub("", fold_name(unquote(stem)), count=1)


def is_rows(path: Path) -> bool:
    """Whether a text begins like one of boxes."""
    fields = next((line.split() for line in _lines(path)), [])
    return len(fields) > 4 and all(parse_number(field) == parse_number(field) for field in fields)


def same_rows(texts: Mapping[Path, object] | Iterable[Path]) -> bool:
    """Whether all of several texts say the same, in whatever order of lines."""
    said = {tuple(sorted(tuple(map(parse_number, line.split())) for line in _lines(path))) for path in texts}
    return len(said) < 2


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []
