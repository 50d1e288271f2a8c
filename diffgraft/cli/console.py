"""What a verb says: lines on standard output or one JSON object there, and on standard error how far it is and what is wrong."""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from diffgraft.cli.exits import MEANING, Exit
from diffgraft.requests.verb import Verb
from toolkit.data.file_names import printable

__all__ = ["Answer", "Console", "as_object", "need", "one_line"]

Q = TypeVar("Q")
R = TypeVar("R")

LOGGERS = ("diffgraft", "domains", "export", "toolkit")
MOST_ASIDE = 5
"""So many quarantined inputs are named on standard error; the file names them all."""


@dataclass(frozen=True)
class Answer:
    """What a verb has to show when it is done.

    next: the command, or the thing to do, that comes after it. paths: name -> file or folder that was written. figures:
    name -> numbers, nested as they like. quarantined: inputs that were put aside. code: how the run ends, where that is
    neither done nor quarantined.
    """

    next: str = ""
    paths: Mapping[str, Path | None] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    quarantined: int = 0
    code: Exit | None = None

    @property
    def exit_code(self) -> Exit:
        return self.code or (Exit.QUARANTINED if self.quarantined else Exit.DONE)


@dataclass(frozen=True)
class Console:
    """Where the lines of a verb go.

    quiet: standard output stays empty, and standard error has errors alone. json: standard output is one JSON object at
    the end. verbosity: 1 logs what is done, 2 in detail. open: the report is shown in a browser.
    """

    verb: str = ""
    quiet: bool = False
    json: bool = False
    verbosity: int = 0
    open: bool = False

    @property
    def command(self) -> str:
        """How the run was asked for, as a shell takes it."""
        return shlex.join(["diffgraft", *sys.argv[1:]])

    def say(self, text: object) -> None:
        """A line of the result on standard output."""
        if not (self.quiet or self.json):
            print(printable(str(text)), flush=True)

    def warn(self, text: str) -> None:
        """A line that the user should see although the work goes on."""
        if not self.quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def quarantined(self, aside: Sequence[tuple[str, str]], folder: Path) -> None:
        """The first inputs that were put aside, with the reason, and where all of them are named."""
        from diffgraft.preparation.quarantine import QUARANTINE

        for source, reason in aside[:MOST_ASIDE]:
            self.warn(f"put aside: {source}: {reason}")
        if aside:
            self.warn(f"{len(aside)} put aside, each with its reason in {folder / QUARANTINE}")

    def error(self, text: str) -> None:
        """A line about what went wrong, quiet or not."""
        print(f"diffgraft: {printable(text)}", file=sys.stderr, flush=True)

    def say_next(self, answer: Answer) -> None:
        """What to do next."""
        if answer.next:
            self.say(f"next: {answer.next}")

    def finish(self, answer: Answer) -> Exit:
        """The end of a verb: what to do next, or the whole answer as JSON."""
        self.say_next(answer)
        if self.json:
            paths = {name: str(path) for name, path in answer.paths.items() if path is not None}
            print(
                as_object(
                    self.verb, answer.exit_code, paths=paths, figures=answer.figures, quarantined=answer.quarantined,
                    next=answer.next,
                ),
                flush=True,
            )  # fmt: skip
        report = answer.paths.get("report")
        if self.open and report is not None:
            import webbrowser

            webbrowser.open(report.resolve().as_uri())
        return answer.exit_code

    def run(self, verb: Verb[..., Q, R], request: Q) -> R:
        """A verb of the library with its request: its progress is shown, and what it tells is said."""
        with self.progress() as watch:
            return verb(request, watch=watch, tell=self.say, command=self.command)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """A line that moves while something takes long whose length is not known."""
        with _stderr(self.quiet).status(text):
            yield

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """A bar with time left: watch(text, done, of). A new text with done = 1 begins a new bar of its own."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(),
        )  # fmt: skip
        log = logging.getLogger(__name__)
        with ExitStack() as stack:
            bar = Progress(*columns, console=_stderr(self.quiet))
            current: Any = None

            def watch(text: str, done: int, of: int) -> None:
                nonlocal current
                log.debug("%s: %d of %d", text, done, of)
                if current is None:  # not before: what is refused at once leaves one line and no empty bar
                    stack.enter_context(bar)
                if current is None or bar.tasks[-1].total != of or done <= bar.tasks[-1].completed:
                    current = bar.add_task(text, total=of)
                bar.update(current, description=text, completed=done, total=of)

            yield watch

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes of the library become lines, and its log, at the verbosity asked for, goes to standard error."""
        from toolkit.example import Note

        said: set[str] = set()  # what a library does with filters meanwhile makes Python forget

        def note(message: Any, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, Note):
                if str(message) not in said:
                    self.warn(f"diffgraft: note: {message}")
                said.add(str(message))
            elif not self.quiet:
                others(message, category, *rest, **named)

        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        loggers = [logging.getLogger(name) for name in LOGGERS]
        levels = [logger.level for logger in loggers]
        others = warnings.showwarning
        with warnings.catch_warnings():
            warnings.showwarning = note
            warnings.simplefilter("default", Note)
            for logger in loggers if self.verbosity else ():
                logger.setLevel(logging.INFO if self.verbosity == 1 else logging.DEBUG)
                logger.addHandler(handler)
            try:
                yield
            finally:
                for logger, level in zip(loggers, levels, strict=True):
                    logger.removeHandler(handler)
                    logger.setLevel(level)


class _Stderr(logging.StreamHandler):
    """To what standard error is at the moment, for a progress bar takes its place while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def as_object(verb: str, code: Exit, **rest: Any) -> str:
    """The one JSON object of --json. Numbers that are not finite are null, as in every file."""
    from pydantic_core import to_jsonable_python

    content = {"verb": verb, "status": MEANING[code][0], "exit_code": int(code), **rest}
    # Ahead of `dumps`, which would write half a pair of code units where a name is no UTF-8; strict readers refuse that.
    return json.dumps(_finite(to_jsonable_python(content, inf_nan_mode="constants", fallback=str)), allow_nan=False)


def need(package: str, extra: str) -> None:
    """Errors: a package that a verb cannot do without is not installed."""
    import importlib.util

    from toolkit.example import Error

    if importlib.util.find_spec(package) is None:
        raise Error(f"This verb needs {package}, which is not installed: pip install 'diffgraft[{extra}]'")


def one_line(text: object) -> str:
    """Text without its line breaks."""
    return " ".join(str(text).split())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _stderr(quiet: bool) -> Any:
    from rich.console import Console as Rich

    return Rich(stderr=True, quiet=quiet)
