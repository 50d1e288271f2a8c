"""Names of files as people have them: not always UTF-8, and not always composed as the table beside them.

A name on Linux is bytes. One that is no UTF-8 (a zip of Windows, unpacked) reaches Python with surrogates in place of
its odd bytes (PEP 383), which open the file but cannot be printed or written. macOS stores letters decomposed (NFD), most
else composed (NFC): the same word in other code points.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["find_file", "find_loosely", "fold_name", "loose_names", "printable", "same_letters"]


def printable(name: str | os.PathLike[str]) -> str:
    """A name that any file and terminal can hold: each byte that is no UTF-8 becomes % and two hex digits.

    b"gr\\xfcn" is gr%FCn, and `urllib.parse.unquote_to_bytes` gives the bytes back: a % before two such digits becomes %25.
    A name that is UTF-8 is left as it is, and so is any other text.
    """
    text = os.fspath(name)
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return "".join(map(_spelled, re.sub("%(?=[0-9A-Fa-f]{2})", "%25", text)))


def same_letters(name: str) -> str:
    """A name in composed letters (NFC): two names are one to a reader where these are equal."""
    return unicodedata.normalize("NFC", name)


def fold_name(name: str) -> str:
    """A name without case and composed: two names that differ in these alone are one to people."""
    return same_letters(name).casefold()


def find_file(folder: Path, name: str) -> Path | None:
    """The file of a name (with slashes) below a folder, whichever way its letters are composed; None where there is none.

    A file of exactly this name comes first. Errors: as of `Path.is_file`, such as a name that no file can have.
    """
    exact = folder / name
    if exact.is_file() or name.isascii():
        return exact if exact.is_file() else None
    place = folder
    for part in Path(name).parts:
        if (place / part).exists() or part == "..":
            place = place / part
            continue
        if not place.is_dir():
            return None
        wanted = same_letters(part)
        found = sorted(entry for entry in place.iterdir() if same_letters(entry.name) == wanted)
        if not found:
            return None
        place = found[0]
    return place if place.is_file() else None


def loose_names(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Names of files (with slashes) by what people call them: in any case, with and without their ending."""
    found = defaultdict(list)
    for name in names:
        for called in {fold_name(name), fold_name(_without_ending(name))}:
            found[called].append(name)
    return found


def find_loosely(known: Mapping[str, Sequence[str]], name: str) -> Sequence[str]:
    """Which of `loose_names` a name means, the nearest alone: none, one, or several that are equally near."""
    found = known.get(fold_name(name), ())
    whole = [one for one in found if fold_name(one) == fold_name(name)]
    exact = [one for one in found if same_letters(_without_ending(one)) == same_letters(name)]
    return whole or exact or found


def _without_ending(name: str) -> str:
    return name[: len(name) - len(Path(name).suffix)]


def _spelled(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"%{ord(letter) - 0xDC00:02X}"
    if "\ud800" <= letter <= "\udfff":  # half a pair, behind which no byte stands
        return "\ufffd"
    return letter
