"""What lies beside the slices of series and is no DICOM that can be read: a slice of one of them, or another file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["SIDE", "lost_slices"]

SIDE = {
    ".txt", ".md", ".rst", ".pdf", ".doc", ".docx", ".html", ".htm", ".css", ".js", ".log", ".json", ".jsonl", ".xml", ".yaml",
    ".yml", ".toml", ".ini", ".cfg", ".csv", ".tsv", ".xls", ".xlsx", ".bval", ".bvec", ".sh", ".py", ".m", ".r", ".exe",
    ".dll", ".inf", ".ico", ".bat", ".lnk", ".db",
}  # fmt: skip
"""Endings of files that lie beside images and hold none."""

FOREIGN = {
    ".nrrd",
    ".mha",
    ".mhd",
    ".mgz",
    ".par",
    ".rec",
    ".nii",
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".zip",
    ".7z",
    ".tar",
    ".tgz",
    ".mp4",
    ".avi",
}
"""Endings of files of other formats: told, and no slice unless named like one."""

UNFINISHED = {".part", ".filepart", ".crdownload", ".tmp", ".gz"}
"""Endings that a copy under way, or packing, adds to a name."""


def lost_slices(members: Mapping[Path, str], broken: Iterable[Path]) -> dict[str, list[Path]]:
    """Series -> files that cannot be read and are, by their names, slices of it.

    members: file -> the series it belongs to. A file belongs where those do whose names, but for their digits, are its
    own and come next to it in its folder: between two slices of one series it is a third one, between two series it
    may be of either. Where no name is alike it belongs to the series of its folder, if that is one: names may be random.
    """
    broken = list(broken)
    rows: dict[tuple[Path, str], list[tuple[Path, str | None]]] = defaultdict(list)
    for path, series in (*members.items(), *((path, None) for path in broken)):
        rows[path.parent, re.sub(r"\d+", "", _whole(path).name)].append((path, series))
    found: dict[str, list[Path]] = defaultdict(list)
    for row in rows.values():
        row.sort(key=lambda each: _natural(_whole(each[0]).name))
        for at, (path, series) in enumerate(row):
            if series is None:
                before = next((s for _, s in reversed(row[:at]) if s), None)
                after = next((s for _, s in row[at + 1 :] if s), None)
                for neighbour in {before, after} - {None}:
                    found[neighbour].append(path)  # type: ignore[index]
    _by_folder(members, broken, found)
    return found


def _by_folder(members: Mapping[Path, str], broken: list[Path], found: dict[str, list[Path]]) -> None:
    """Add the files that no name gave to a series, to the one of their folder."""
    folders: dict[Path, set[str]] = defaultdict(set)
    for path, series in members.items():
        folders[path.parent].add(series)
    given = {path for paths in found.values() for path in paths}
    for path in broken:
        if path not in given and len(folders[path.parent]) == 1 and _whole(path).suffix.lower() not in FOREIGN:
            (series,) = folders[path.parent]
            found[series].append(path)


def _whole(path: Path) -> Path:
    """The path without the endings of UNFINISHED."""
    while path.suffix.lower() in UNFINISHED:
        path = path.with_suffix("")
    return path


def _natural(name: str) -> list[tuple[int, str]]:
    """IM9 before IM10."""
    return [
        (int(part), part) if part.isdecimal() and part.isascii() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
