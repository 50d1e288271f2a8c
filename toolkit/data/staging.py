"""Folders that are there whole or not at all, and one job at a time for each.

What a job writes grows in `.OUT.partial-PID` beside its place and is moved there when it is whole. Meanwhile the job holds
a lock, `.OUT.lock`, which the system takes from a process that dies: whoever gets it next knows that what lies beside is of
a dead job, and clears it away. An old folder that is replaced is renamed first and removed last, so that a kill between
leaves it whole under one of two names.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from toolkit.example import Error

try:
    import fcntl
except ImportError:  # Windows: two jobs with one output are not told from one another there
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked", "share", "staged_folder", "sync"]


@contextmanager
def locked(place: Path, what: str = "Output") -> Iterator[None]:
    """Hold the lock of a folder, `.NAME.lock` beside it, until the block ends. what: what the folder is, for the message.

    Errors: another job holds it, named with its process and start.
    """
    if fcntl is None:
        yield
        return
    path = place.parent / f".{place.name}.lock"
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
    file = _acquire(path)
    if file is None:
        raise Error(
            f"{what} is written by one job at a time; {place} is being written by {_holder(path)}. Wait for it, or name another."
        )
    try:
        mine = {"process": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.truncate(file, 0)
        os.write(file, json.dumps(mine).encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever opened it before finds it gone and opens a new one
        os.close(file)


def _acquire(path: Path) -> int | None:
    """The descriptor of the locked file, or None where another process has it."""
    assert fcntl is not None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        try:
            if os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # its owner removed it between: try the one that is there now


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['process']} on {held['host']} since {held['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def sync(folder: Path) -> None:
    """Have the system write a folder and all that is below it to its disk: a rename may be there before what it renames."""
    for path in (*folder.rglob("*"), folder):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def share(path: Path) -> None:
    """Give a file the access that new files have here: safetensors 0.8 writes its own for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


class staged_folder:
    """A folder that appears at `root` only when the block ends without an error; an existing one is refused.

    overwrite: replace an existing folder, if it holds every file of `signs`, by which it is known as one that diffgraft
    wrote, and none of the paths in `needed`, which the run reads. Errors: also another job that writes there, and a
    folder that appeared meanwhile, beside which the result is then kept.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        overwrite: bool = False,
        signs: Iterable[str] = ("manifest.jsonl",),
        needed: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        # Resolved, because "." has no name and a link cannot be replaced by a folder.
        self.given, self.root, self.overwrite = root, Path(root).resolve(), overwrite
        self.signs, self.needed = tuple(signs), tuple(Path(path) for path in needed)
        self.folder = self.root.parent / f".{self.root.name}.partial-{os.getpid()}"
        self.held = ExitStack()

    def __enter__(self) -> Path:
        self._refuse_what_is_there()
        self.held.enter_context(locked(self.root))
        try:
            self._clear_dead_jobs()
            self._refuse_what_is_there()
            self.folder.mkdir(parents=True)
        except BaseException:
            self.held.close()
            raise
        return self.folder

    def _clear_dead_jobs(self) -> None:
        """Remove what jobs left that were killed; an old folder that one had renamed comes back where nothing replaced it."""
        old = self._old()
        if old.is_dir() and not self.root.exists():
            old.rename(self.root)
        for path in (old, *self.root.parent.glob(f".{glob.escape(self.root.name)}.partial-*")):
            shutil.rmtree(path, ignore_errors=True)

    def _old(self) -> Path:
        return self.root.parent / f".{self.root.name}.replaced"

    def _refuse_what_is_there(self) -> None:
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            if not self.overwrite:
                raise Error(
                    f"Output must be a new or empty folder; {self.given} is not. Take another or add --overwrite."
                )
            self._refuse_to_lose()

    def _refuse_to_lose(self) -> None:
        for path in self.needed:
            if path.resolve().is_relative_to(self.root):
                raise Error(
                    f"A run never replaces what it reads; '{path}' lies in the output folder '{self.given}'. Take another."
                )
        if not all((self.root / name).is_file() for name in self.signs):
            raise Error(
                f"Only a folder that diffgraft wrote is replaced ({', '.join(self.signs)}); '{self.given}' is none. "
                "Take another."
            )

    def __exit__(self, kind: Any, *_: Any) -> None:
        with self.held:
            if kind is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
                return
            try:
                self._refuse_what_is_there()
            except Error as problem:
                kept = self._free_name()
                self.folder.rename(kept)
                raise Error(f"{problem} It appeared while the job ran, whose result is kept in {kept}.") from problem
            sync(self.folder)
            if self.root.exists():
                self.root.rename(self._old())
            self.folder.rename(self.root)
            shutil.rmtree(self._old(), ignore_errors=True)

    def _free_name(self) -> Path:
        return next(
            path
            for path in (self.root.with_name(f"{self.root.name}-{number}") for number in range(1, 10**6))
            if not path.exists()
        )
