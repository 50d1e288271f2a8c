"""How a run ends: the exit codes, one table, and which of them a problem is."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from enum import IntEnum

__all__ = ["MEANING", "Exit", "Stopped", "code_of", "listen", "table"]


class Exit(IntEnum):
    """Exit codes of every verb."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    QUARANTINED = 3
    DISK_FULL = 75
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


MEANING = {
    Exit.DONE: ("done", "done"),
    Exit.REFUSED: ("refused", "refused, or measured and found wanting; nothing was written, or the report says why"),
    Exit.USAGE: ("usage", "usage: an unknown option, an argument that is missing"),
    Exit.QUARANTINED: ("quarantined", "done, but some inputs were quarantined, each with its reason"),
    Exit.DISK_FULL: ("disk full", "the disk is full: free space and run the same command again"),
    Exit.HUNG_UP: ("interrupted", "the terminal is gone (SIGHUP); as interrupted"),
    Exit.INTERRUPTED: ("interrupted", "interrupted; a training goes on where it was when it is run again"),
    Exit.TERMINATED: ("interrupted", "asked to end (SIGTERM); as interrupted"),
}
"""Exit code -> its status in --json, and what it means."""


class Stopped(BaseException):
    """Raised where a signal other than Ctrl-C's ends a run, so that what it has begun is cleared away.

    No KeyboardInterrupt: typer makes 130 of one, whatever its class.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


def listen() -> None:
    """Have SIGTERM and SIGHUP end a run as Ctrl-C does; one that is ignored, as nohup has SIGHUP ignored, stays so."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once: a second one must not end the clearing away
        raise Stopped(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


def table() -> str:
    """The exit codes as text, one a line."""
    return "\n".join(f"{code:>5}  {meaning}" for code, (_, meaning) in MEANING.items())


def code_of(problem: BaseException) -> Exit | None:
    """What a run that was ended by this exits with; None for a defect of the program, which deserves its traceback."""
    from toolkit.example import Error

    if isinstance(problem, Stopped):
        return Exit(128 + problem.signal)
    if isinstance(problem, KeyboardInterrupt) or type(problem).__name__ == "Abort":
        return Exit.INTERRUPTED
    if any(_is_disk_full(each) for each in _chain(problem)):
        return Exit.DISK_FULL
    if isinstance(problem, Error | OSError):
        return Exit.REFUSED
    return Exit.USAGE if hasattr(problem, "format_message") else None  # how typer states a mistake of the user


def _chain(problem: BaseException | None) -> Iterator[BaseException]:
    """A problem and what it came of."""
    seen = set()
    while problem is not None and id(problem) not in seen:
        seen.add(id(problem))
        yield problem
        problem = problem.__cause__ or problem.__context__


def _is_disk_full(problem: BaseException) -> bool:
    """Also where a library, such as safetensors, has put the number of the error into words."""
    number = getattr(problem, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(problem)
