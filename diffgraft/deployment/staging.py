"""Copies of a model folder in which exports are written and tried before the folder itself is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.data.staging import locked

__all__ = ["file_stamps", "in_one_precision", "staged_copy"]


PREFIX = ".export-"
"""Before the names of such folders."""


@contextmanager
def staged_copy(root: Path) -> Iterator[Path]:
    """A folder in the model's, so on the same disk, with a copy of its files.

    Copies, not links: neither the checker of ONNX nor ONNX Runtime reads weights through one.
    """
    with locked(root / "export", "A model folder"), tempfile.TemporaryDirectory(prefix=PREFIX, dir=root) as name:
        folder = Path(name)
        for stale in root.glob(f"{PREFIX}*"):  # of an export that was killed: this one has the lock
            if stale != folder:
                shutil.rmtree(stale, ignore_errors=True)
        for path in root.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copy2(path, folder / path.name)
        yield folder


@contextmanager
def in_one_precision(root: Path, precision: str) -> Iterator[Path]:
    """A copy with the graphs of a precision as the folder's own, for a backend that knows one name alone."""
    with staged_copy(root) as folder:
        for path in folder.glob(f"*.{precision}.onnx"):
            os.replace(path, folder / path.name.replace(f".{precision}.", "."))
        yield folder


def file_stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Of every file what changes when it is written anew."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in root.iterdir() if p.is_file()}
