"""Where the pictures lie that annotation files name: by their path, else by their last name if there is one such picture.

Label Studio, CVAT, Azure and LabelImg name a picture by its place on their server or on the machine that labelled it:
/data/upload/1/ab12cd34-leaf.jpg, C:\\Users\\me\\leaf.jpg, images\\1/leaf.jpg, images/a%20leaf.jpg, s3://bucket/leaf.jpg. Nothing
outside of the folder is ever opened: such a name is only a word to look for among the pictures below it.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from toolkit.data.file_names import find_file, fold_name, printable
from toolkit.example import Error, Note
from toolkit.formats import folders
from toolkit.formats.photograph import SUFFIXES

__all__ = ["UPLOADED", "find_files", "find_links_out", "locate_picture", "locate_pictures"]

UPLOADED = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of a picture that is uploaded."""


def find_files(root: Path, *suffixes: str, inside: Path | None = None) -> list[Path]:
    """The files below a folder with one of the suffixes, by name; without hidden ones and without links that lead out of it,
    or out of `inside`, a folder above."""
    within = (inside or root).resolve()
    return [path for path in _named(root, suffixes) if path.is_file() and path.resolve().is_relative_to(within)]


def find_links_out(root: Path, place: Path, *suffixes: str) -> list[str]:
    """Names below the root of the links below a place of it that lead out of the root, or to no file."""
    within = root.resolve()
    links = [path for path in _named(place, suffixes) if path.is_symlink()]
    return [
        path.relative_to(root).as_posix()
        for path in links
        if not path.is_file() or not path.resolve().is_relative_to(within)
    ]


def locate_pictures(root: Path, wanted: Iterable[tuple[Sequence[Path], object]]) -> list[str | Error]:
    """The path below the root of each picture that a file names, or why there is none; bases: where it is looked for.

    First by their paths, all of them; then those that are not found by their last name, among the pictures that no path has
    found: in one that differs in case, in the form of its accents, or by Label Studio's eight letters before it too. Of
    several of one name the one whose folders agree most is taken, if there is one.
    """
    given, found = [], []
    for bases, name in wanted:
        given.append(name)
        try:
            found.append(locate_picture(root, bases, name))
        except Error as problem:
            found.append(problem)
    missing = [n for n, name in enumerate(given) if isinstance(found[n], Error) and isinstance(name, str)]
    if not missing:
        return found
    there = _by_last_name(root, {name for name in found if isinstance(name, str)})
    proposed = {n: _alike(str(given[n]), there) for n in missing}
    times = Counter(names[0] for names in proposed.values() if len(names) == 1)
    taken = []
    for n, names in proposed.items():
        if len(names) == 1 and times[names[0]] == 1:
            found[n] = names[0]
            taken.append((str(given[n]), names[0]))
        elif names:
            few = " and ".join(names[:2])
            found[n] = Error(
                f"An annotation names a picture that exists; {str(given[n])[-80:]!r} is not there, and by its last name it may be "
                f"{few}{', as others may' if len(names) == 1 else ''}."
            )
    if taken:
        (said, name), count = taken[0], len(taken)
        line = f"{count} {'picture of' if count == 1 else 'pictures of'} '{root}' found by last name, such as {name} for {said[-120:]!r}."
        warnings.warn(printable(line), Note, stacklevel=3)
    return found


def locate_picture(root: Path, bases: Iterable[Path], given: object) -> str:
    """The path below the root of a picture that a file names, looked for in several folders. Errors: outside, missing."""
    bases = list(bases)
    try:
        return _at(root, bases, given)
    except Error:
        if not isinstance(given, str) or unquote(given) == given:
            raise
    return _at(root, bases, unquote(given))  # images/a%20b.jpg


# ----------------------------------------------------------------------------------------------------------- details


def _named(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """What lies below a folder, by name, with one of the suffixes and not hidden."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in suffixes
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)
    ]


def _at(root: Path, bases: Iterable[Path], given: object) -> str:
    name = posixpath.normpath(given.replace("\\", "/")) if isinstance(given, str) and given.strip() else ""
    if not name or folders.OUTSIDE.match(name) or "\0" in name:
        raise Error(f"An annotation names a picture below its own folder; found {given!r:.200}.")
    try:
        path = next((path for base in bases if (path := find_file(base, name)) is not None), None)
    except OSError as problem:  # a name that is longer than a file's can be
        raise Error(
            f"An annotation names a picture that exists; '{name:.80}...' cannot: {problem.strerror}."
        ) from problem
    if path is None:
        raise Error(f"An annotation names a picture that exists; '{name}' is not there.")
    if not path.resolve().is_relative_to(root.resolve()):
        raise Error(f"An annotation names a picture below its own folder; the link '{name}' leads out of it.")
    return posixpath.normpath(path.relative_to(root).as_posix())


def _by_last_name(root: Path, used: set[str]) -> Mapping[str, list[str]]:
    """Folded last name -> the pictures below the root that have it and are not used."""
    found = defaultdict(list)
    for path in find_files(root, *SUFFIXES):
        name = path.relative_to(root).as_posix()
        if name not in used:
            found[fold_name(path.name)].append(name)
    return found


def _alike(given: str, there: Mapping[str, list[str]]) -> list[str]:
    """The pictures that a name may mean by its last part, the folders before it counting where they are several."""
    _, local, inside = given.partition("?d=")  # of Label Studio's local files
    words = (inside if local else given).replace("\\", "/")
    words = words.partition("?")[0] if "://" in words else words
    for spelled in dict.fromkeys((words, unquote(words))):
        parts = [fold_name(part) for part in spelled.split("/")]
        for last in dict.fromkeys((parts[-1], UPLOADED.sub("", parts[-1], count=1))):
            if names := there.get(last):
                same = [(PurePosixPath(name).name in spelled, _agreement(parts[:-1], name)) for name in names]
                return [name for name, value in zip(names, same, strict=True) if value == max(same)]
    return []


def _agreement(folders_: Sequence[str], name: str) -> int:
    """How many folders before the last name are the same, from the last one on."""
    own = [fold_name(part) for part in name.split("/")[:-1]]
    count = 0
    for one, other in zip(reversed(folders_), reversed(own), strict=False):
        if one != other:
            break
        count += 1
    return count
