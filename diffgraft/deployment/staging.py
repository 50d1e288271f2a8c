"""Copies of a model folder in which exports are written and tried before the folder itself is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["file_stamps", "in_one_precision", "staged_copy"]


@contextmanager
def staged_copy(root: Path) -> Iterator[Path]:
    """A folder in the model's, so on the same disk, with a copy of its files.

    Copies, not links: neither the checker of ONNX nor ONNX Runtime reads weights through one.
    """
    with tempfile.TemporaryDirectory(prefix=".export-", dir=root) as name:
        folder = Path(name)
        for path in root.iterdir():
            if path.is_file():
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
