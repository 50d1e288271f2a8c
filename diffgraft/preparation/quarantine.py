"""Files that were put aside, each with its reason, in quarantine.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from toolkit.data.file_names import printable

__all__ = ["QUARANTINE", "Aside", "quarantine"]

Aside = list[tuple[str, str]]
"""(source, reason) of each file that could not be used; filled as they are met."""

QUARANTINE = "quarantine.jsonl"
"""Beside manifest.jsonl, one line a file that was put aside: source, reason."""


def quarantine(folder: Path, aside: Sequence[tuple[str, str]]) -> None:
    """Write which files were put aside, and why, beside the manifest; nothing where none was."""
    if aside:
        lines = (
            json.dumps({"source": printable(source), "reason": printable(reason)}) + "\n" for source, reason in aside
        )
        (folder / QUARANTINE).write_text("".join(lines), encoding="utf-8")
