"""The folder of an evaluation: report.html for people beside metrics.json for programs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from toolkit.data import dataset

__all__ = ["staged_output", "write_metrics"]

METRICS, REPORT = "metrics.json", "report.html"


def staged_output(
    out: str | Path | None, overwrite: bool = False, needed: Sequence[str | Path] = ()
) -> AbstractContextManager[Path | None]:
    """The folder of a report, moved to its place when the block ends without an error; None where `out` is None.

    needed: what is read meanwhile and may not be replaced. Errors: those of `dataset.staged_folder`.
    """
    if out is None:
        return contextlib.nullcontext()
    return dataset.staged_folder(out, overwrite, (METRICS, REPORT), needed)


def write_metrics(folder: Path, numbers: Mapping[str, Any]) -> None:
    """metrics.json of plain values, None for what is unknown. Errors: ValueError for NaN or an infinite number."""
    text = json.dumps(numbers, indent=1, allow_nan=False)
    (folder / METRICS).write_text(text + "\n", encoding="utf-8")
