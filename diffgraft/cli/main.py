"""The command line: each verb reads folders and writes folders, prints what it resolved, and ends with what to do next.

Nothing heavy is imported before a verb runs. A mistake the user can mend is one line on standard error, without a
traceback and without partial output; how a run ended is its exit code (diffgraft.cli.exits).
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diffgraft.cli import data, deploying, making, measuring, training
from diffgraft.cli.command import COMMON, register
from diffgraft.cli.console import Console, as_object, one_line
from diffgraft.cli.exits import MEANING, Exit, code_of, listen, table
from diffgraft.cli.options import Backend
from toolkit.data.file_names import printable

__all__ = ["Backend", "app", "main"]

COMMANDS = (*data.VERBS, *training.VERBS, *making.VERBS, *measuring.VERBS, *deploying.VERBS)


class _Verbs(TyperGroup):
    """The verbs in the order in which a user comes to need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = [command.run.__name__ for command in COMMANDS]
        names.insert(names.index("audit"), "evaluate")
        return names


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Diffusion-model data augmentation for medical and agricultural imaging. Research use only.",
    epilog=f"\b\nExit codes:\n{table()}",
)


def _version(wanted: bool) -> None:
    if wanted:
        from diffgraft import __version__

        print(f"diffgraft {__version__}")
        raise typer.Exit


@app.callback()
def _flags(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=COMMON["quiet"].help)] = False,
    json: Annotated[bool, typer.Option("--json", help=COMMON["json"].help)] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help=COMMON["verbose"].help)
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.obj = Console("", quiet, json, verbose)


for _command in COMMANDS:
    register(app, _command)
app.add_typer(measuring.evaluate)


def main() -> None:
    """Entry point: runs a verb, turns what ended it into one line, and exits with its code where that is not 0."""
    words = sys.argv[1:]
    listen()
    try:
        code = Exit(app(words or ["--help"], prog_name="diffgraft", standalone_mode=False) or 0)
        line = "stopped" if MEANING[code][0] == "interrupted" else ""
    except BaseException as problem:
        found = None if isinstance(problem, SystemExit) else code_of(problem)
        if found is None:
            raise
        code, line = found, _line(problem, found)
    if line:
        _tell(line, code, "--json" in words)
    if code or not words:
        sys.exit(code or Exit.USAGE)


def _line(problem: BaseException, code: Exit) -> str:
    if MEANING[code][0] == "interrupted":
        return "stopped"
    if code != Exit.USAGE:
        return one_line(problem)
    context = getattr(problem, "ctx", None)
    place = "diffgraft [VERB]" if context is None else context.command_path
    return f"{one_line(problem.format_message()).rstrip('.')}. See: {place} --help"  # type: ignore[attr-defined]


def _verb(words: list[str]) -> str:
    """The verb that a command names; with its question, "evaluate steps"."""
    named = [word for word in words if not word.startswith("-")][:2]
    return " ".join(named if named[0:1] == ["evaluate"] else named[:1])


def _tell(line: str, code: Exit, as_json: bool) -> None:
    """An error on standard error, and as the one JSON object where that is asked for."""
    print(f"diffgraft: {printable(line)}", file=sys.stderr)
    try:
        if as_json:
            print(as_object(_verb(sys.argv[1:]), code, error=line, paths={}, figures={}, quarantined=0, next=""))
        sys.stdout.flush()
    except OSError:  # standard output is full or closed: what could not be written must not be tried again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
