"""From a request to a verb of the command line: every field that has an option here is given by it, by --config, or not at all.

Types and defaults are those of the request, so that they stand in one place. What was not given is not passed on.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import time
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Set
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from diffgraft.cli.console import Answer, Console
from diffgraft.cli.options import OUTPUT, Option
from diffgraft.requests.base import build, load

__all__ = ["COMMON", "Command", "Usage", "register"]

COMMON = {
    "config": Option(
        "YAML or JSON file of the fields of a request, or the request.json of a run; options override it.", kind=Path
    ),
    "open": Option("Open the report in a browser.", kind=bool),
    "quiet": Option("Nothing on standard output, and errors alone on standard error.", "--quiet -q", kind=bool),
    "json": Option("One JSON object on standard output: status, paths, figures, next step.", kind=bool),
    "verbose": Option("Log what is done on standard error; -vv in detail.", "--verbose -v", kind=int),
}


class Usage(typer.BadParameter):
    """A command line that is not one: an argument that is missing."""

    def format_message(self) -> str:
        return self.message


class _PanelHelp(TyperCommand):
    """A verb whose options stand in the help under the heading of their panel, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                own = getattr(param, "rich_help_panel", None) or (OUTPUT if param.name == "help" else "Options")
                heading = "Arguments" if param.param_type_name == "argument" else own
                panels.setdefault(heading, []).append(record)
        for heading in (*(name for name in panels if name != OUTPUT), OUTPUT):
            if panels[heading]:
                with formatter.section(heading):
                    formatter.write_dl(panels[heading])


@dataclasses.dataclass(frozen=True)
class Command:
    """A verb of the command line.

    run: a function (request, console) -> answer, which gives it name and help. request: its class. options: field of the
    request -> its option; a field of a value in the request is "layouts.kind". example: what it may look like. report: the
    verb writes one, which --open shows. amend(given, values): changes what the options gave, knowing what --config and the
    arguments gave.
    """

    run: Callable[[Any, Console], Answer]
    request: type
    options: Mapping[str, Option]
    example: str
    report: bool = False
    amend: Callable[[dict[str, Any], Mapping[str, Any]], object] = lambda given, values: None


def register(app: typer.Typer, command: Command) -> None:
    """Give an app a verb."""

    def called(context: typer.Context, **given: Any) -> None:
        before = context.obj if isinstance(context.obj, Console) else Console()
        console = Console(
            context.command_path.partition(" ")[2],  # with the verb it belongs to: "evaluate classify"
            quiet=bool(given["quiet"] or before.quiet),
            json=bool(given["json"] or before.json),
            verbosity=max(given["verbose"] or 0, before.verbosity),
            open=bool(given.get("open")),
        )
        with console.listening():
            request = _request(command, given, console.verb)
            code = _timed(command, request, console)
        if code:
            raise typer.Exit(int(code))

    common = {each: option for each, option in COMMON.items() if command.report or each != "open"}
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    parameters += [_parameter(field, option, command.request) for field, option in command.options.items()]
    parameters += [
        _parameter(field, dataclasses.replace(option, panel=OUTPUT), None) for field, option in common.items()
    ]
    called.__doc__ = command.run.__doc__
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    app.command(command.run.__name__, cls=_PanelHelp, epilog=f"Example: {command.example}")(called)


def _timed(command: Command, request: Any, console: Console) -> int:
    log, begun = logging.getLogger(__name__), time.monotonic()
    log.info("%s: %s", console.verb, request)
    answer = command.run(request, console)
    log.info("%s: %.1f s", console.verb, time.monotonic() - begun)
    return console.finish(answer)


# ------------------------------------------------------------------------------------------------- from field to option


def _parameter(field: str, option: Option, kind: type | None) -> inspect.Parameter:
    """What typer makes an option of. Its default is always None: only what was given is passed on."""
    annotation, default = (option.kind, None) if kind is None else _field(kind, field)
    text = option.help + ("" if default in (None, False, "", ()) else f"  [default: {default}]")
    same: dict[str, Any] = {"help": text, "show_default": False, "autocompletion": _completion(option.complete)}
    if option.positional:
        info: Any = typer.Argument(metavar=field.upper(), **same)
    else:
        counted = field == "verbose"
        info = typer.Option(
            *_flags(field, option), metavar=option.metavar, rich_help_panel=option.panel or None, count=counted, **same
        )
    word = option.kind or _on_command_line(annotation)
    annotated = Annotated[word | None, info]
    return inspect.Parameter(_identifier(field), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotated)


def _completion(complete: Iterable[str] | Callable[[], Iterable[str]] | None) -> Callable[[str], list[str]] | None:
    def offered(incomplete: str) -> list[str]:
        words = complete() if callable(complete) else complete or ()
        return [word for word in words if word.startswith(incomplete)]

    return offered if complete else None


def _flags(field: str, option: Option) -> list[str]:
    return option.flags.split() or ["--" + field.rpartition(".")[2].replace("_", "-")]


def _identifier(field: str) -> str:
    return field.replace(".", "__")


def _field(kind: type, field: str) -> tuple[Any, Any]:
    """Annotation, without None and of several the first, and default of a field, or of one in a field; None is none."""
    outer, _, inner = field.partition(".")
    found = _hints(kind)[outer]
    if typing.get_origin(found) in (typing.Union, types.UnionType):
        found = next(each for each in typing.get_args(found) if each is not type(None))
    if inner:
        return _field(found, inner)
    default = next(each.default for each in dataclasses.fields(kind) if each.name == outer)
    return found, None if default is dataclasses.MISSING else default


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _on_command_line(annotation: Any) -> Any:
    """The type of an option for a field: several values are a list, and so are names with values."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return StrEnum("Choice", {word: word for word in inner})
    if origin is None:
        return annotation
    return list[str] if issubclass(origin, Mapping) else list[inner[0]]


# ------------------------------------------------------------------------------------------------ from words to request


def _request(command: Command, given: Mapping[str, Any], verb: str) -> Any:
    """The request of what was given. Errors: what the file or the options may not be; Usage: what is missing."""
    found: dict[str, Any] = {}
    places: dict[str, Any] = {}
    for field, option in command.options.items():
        value = given[_identifier(field)]
        if value is None or value == []:
            continue
        value = value.value if isinstance(value, Enum) else value
        if option.positional:
            places[field] = value
        else:
            _place(found, field, option.read(value) if option.read else value)
    values = {} if given["config"] is None else load(given["config"], verb)
    values |= _in_order([field for field, option in command.options.items() if option.positional], places, values)
    _refuse_missing(command, values.keys() | found.keys())
    command.amend(found, values)
    return build(command.request, _merged(values, found))


def _place(found: dict[str, Any], field: str, value: Any) -> None:
    outer, _, inner = field.partition(".")
    if inner:
        found.setdefault(outer, {})[inner] = value
    else:
        found[outer] = value


def _merged(file: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file with those of options in their place, and mappings name by name."""
    both = dict(file)
    for name, value in options.items():
        inside = isinstance(value, Mapping) and isinstance(both.get(name), Mapping)
        both[name] = _merged(both[name], value) if inside else value
    return both


def _in_order(fields: list[str], places: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by their places: all of them, or, beside a file, those that it leaves open."""
    open_ = [field for field in fields if field not in file]
    if not places or len(open_) == len(fields) or len(places) == len(fields):
        return dict(places)
    if len(places) != len(open_):
        words = " ".join(field.upper() for field in fields)
        left = " ".join(field.upper() for field in open_) or "none"
        raise Usage(
            f"Beside --config, arguments are all of {words} or those it leaves open ({left}); found {len(places)}"
        )
    return dict(zip(open_, places.values(), strict=True))


def _refuse_missing(command: Command, given: Set[str]) -> None:
    nothing = dataclasses.MISSING
    fields = [each for each in dataclasses.fields(command.request) if each.default is each.default_factory is nothing]
    options = {each.name: command.options[each.name] for each in fields if each.name not in given}
    names = [name.upper() if option.positional else _flags(name, option)[0] for name, option in options.items()]
    if names:
        kinds = sorted({"argument" if option.positional else "option" for option in options.values()})
        words = ", ".join(f"'{name}'" for name in names)
        raise Usage(f"Missing {' and '.join(kinds)}{'s' * (len(names) > 1)} {words}")
