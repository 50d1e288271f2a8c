"""Whether two folders are the same result: file by file the same bytes, or the same apart from times and paths."""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

__all__ = ["DIFFERENT", "EXTRA", "MISSING", "SAME", "SAME_APART", "compare"]

SAME, SAME_APART, DIFFERENT = "same", "same apart from times and paths", "different"
MISSING, EXTRA = "missing", "not in the first"

TIMES = {"seconds", "cpu", "overhead", "generation"}
"""Names of what a clock measured, in JSON."""

TIMED = re.compile(r"\b(seconds|overhead|written|wall time|generation \(s\))", re.IGNORECASE)
"""Headers of columns and names of facts that show it, in a report."""

COMMAND = re.compile(r'<div class="block"><pre class="command">.*?</pre></div>', re.DOTALL)
"""How a report was asked for, which Python callers do not say."""


def compare(first: Path, second: Path) -> dict[str, str]:
    """File of either folder, relative to it -> SAME, SAME_APART, DIFFERENT, MISSING (in the second) or EXTRA (there alone)."""
    ours, theirs = (
        {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
        for root in (first, second)
    )
    roots = (first, second)
    found = {name: _verdict(path, theirs[name], roots) if name in theirs else MISSING for name, path in ours.items()}
    return found | {name: EXTRA for name in theirs if name not in ours}


def _verdict(one: Path, other: Path, roots: tuple[Path, Path]) -> str:
    if filecmp.cmp(one, other, shallow=False):
        return SAME
    plain = {".json": _plain_json, ".jsonl": _plain_lines, ".html": _plain_page}.get(one.suffix)
    if plain is None:
        return DIFFERENT
    try:
        contents = [
            plain(_placed(path.read_text(encoding="utf-8"), root))
            for path, root in zip((one, other), roots, strict=True)
        ]
    except ValueError:  # no JSON, or no text at all
        return DIFFERENT
    return SAME_APART if contents[0] == contents[1] else DIFFERENT


def _placed(text: str, root: Path) -> str:
    """A text in which the folder it lies in has no name of its own."""
    for name in (str(root.resolve()), str(root)):
        text = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w.-])", "OUT", text)
    return text


def _plain_json(text: str) -> Any:
    return _untimed(json.loads(text))


def _plain_lines(text: str) -> list[Any]:
    return [_untimed(json.loads(line)) for line in text.splitlines()]


def _plain_page(text: str) -> list[str]:
    page = _Page()
    page.feed(COMMAND.sub("", text))
    return page.content


def _untimed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _untimed(each) for name, each in value.items() if name not in TIMES}
    return [_untimed(each) for each in value] if isinstance(value, list) else value


class _Page(HTMLParser):
    """A report as its tags and texts, without those that say when it was made and how long that took."""

    def __init__(self) -> None:
        super().__init__()
        self.content: list[str] = []
        self._headers: list[str] = []
        self._column = 0
        self._name = ""
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.content.append(f"{tag} {attrs}")
        self._within = tag
        if tag == "table":
            self._headers = []
        elif tag == "tr":
            self._column = 0
        elif tag in ("th", "td"):
            self._column += 1

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "th":
            self._headers.append(data)
        elif self._within == "dt":
            self._name = data
        timed = (self._within == "dd" and TIMED.search(self._name)) or (
            self._within == "td" and TIMED.search(self._header)
        )
        self.content += [] if timed else [data]

    @property
    def _header(self) -> str:
        return self._headers[self._column - 1] if 0 < self._column <= len(self._headers) else ""
