"""Copies of a model folder in which exports are written and tried before the folder itself is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["renamed", "staged", "stamps"]


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """A folder in the model's, so on the same disk, with a copy of its files."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=root) as name:
        folder = Path(name)
        _copied(root, folder)
        yield folder


@contextmanager
def renamed(root: Path, precision: str) -> Iterator[Path]:
    """The folder with the graphs of a precision as its own, for a backend that knows one name alone."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=root) as name:
        folder = Path(name)
        _copied(root, folder)
        for path in folder.glob(f"*.{precision}.onnx"):
            os.replace(path, folder / path.name.replace(f".{precision}.", "."))
        yield folder


def _copied(root: Path, folder: Path) -> None:
    """Copies, not links: neither the checker of ONNX nor ONNX Runtime reads weights through one."""
    for path in root.iterdir():
        if path.is_file():
            shutil.copy2(path, folder / path.name)


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Of every file what changes when it is written anew."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in root.iterdir() if p.is_file()}
