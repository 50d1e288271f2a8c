"""slices.csv, the labels of single slices beside MR scans: columns patient, slice and label."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from toolkit.example import Error

__all__ = ["read_slice_labels"]

SPELLINGS = {"lesion": 1.0, "no_lesion": 0.0, "healthy": 0.0, "": float("nan")}
"""How the label of a slice is spelled; an empty one is not stated."""


def read_slice_labels(root: str | Path) -> dict[tuple[str, int], float]:
    """(label of the scan, stored slice index) -> 1 lesion, 0 no lesion, NaN not stated; {} where there is no table.

    root: a folder of scans or one scan; slices.csv lies in the folder or in its parent. Labels are those of
    `nifti.parse_file_name`. Errors: a table without these columns, a slice that is no whole number, an unknown label.
    """
    root = Path(root)
    folder = root if root.is_dir() else root.parent
    for path in (folder / "slices.csv", folder.parent / "slices.csv"):
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    return {
                        (re.sub(r"[^A-Za-z0-9]", "", row["patient"]), int(row["slice"])): SPELLINGS[
                            row["label"].strip()
                        ]
                        for row in csv.DictReader(file)
                    }
            except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as problem:
                words = ", ".join(f"'{word}'" for word in SPELLINGS)
                raise Error(
                    f"slices.csv has the columns patient, slice (a whole number) and label (one of {words}); {path} has "
                    f"not: {type(problem).__name__} {problem}. Mend it."
                ) from problem
    return {}
