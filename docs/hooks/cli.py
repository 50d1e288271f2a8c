"""Writes the reference of the command line from the code: `<!-- cli -->` and `<!-- exits -->` in a page are replaced by it.

What stands here is what `--help` says, a table a panel, so that neither can be right without the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from diffgraft.cli import options
from diffgraft.cli.command import COMMON
from diffgraft.cli.exits import MEANING
from diffgraft.cli.main import app

SHARED = {*COMMON, "help"} - {"open"}
"""Options of every verb, which stand here once."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this once a page."""
    if "<!-- cli -->" in markdown:
        markdown = markdown.replace("<!-- cli -->", "\n".join(reference())).replace("<!-- shared -->", shared())
    return markdown.replace("<!-- exits -->", exits())


def exits() -> str:
    """The exit codes as a table."""
    rows = [f"| `{int(code)}` | {meaning} | `{status}` |" for code, (status, meaning) in MEANING.items()]
    return "\n".join(["| code | meaning | `status` in `--json` |", "|---|---|---|", *rows])


def reference() -> Iterator[str]:
    """Every verb, and the verbs of a verb, in the order in which the help lists them."""
    root = get_command(app)
    yield from verbs(root, root.context_class(root, info_name="diffgraft"), 2)


def shared() -> str:
    """The options of every verb as a table."""
    rows = [
        row(", ".join(option.flags.split()) or f"--{name}", option.help)
        for name, option in COMMON.items()
        if name in SHARED
    ]
    return "\n".join(["| option | |", "|---|---|", *rows, row("-h, --help", "What the verb takes, with an example.")])


def verbs(group: Any, context: Any, level: int) -> Iterator[str]:
    """The verbs of a group, each with a heading of this level."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(command, info_name=name, parent=context)
        yield f"\n{'#' * level} {inner.command_path.removeprefix('diffgraft ')}\n"
        yield f"```\n{usage(command, inner)}\n```\n"
        yield paragraph(command.help) + "\n"
        yield from examples(command.epilog)
        if hasattr(command, "list_commands"):
            yield from verbs(command, inner, level + 1)
        else:
            yield from tables(command, inner)


def usage(command: Any, context: Any) -> str:
    """The line that shows which words a command takes."""
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def tables(command: Any, context: Any) -> Iterator[str]:
    """What a command takes, a table a panel, but the options of every verb."""
    panels: dict[str, list[str]] = {}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None and param.name not in SHARED:
            argument = param.param_type_name == "argument"
            heading = getattr(param, "rich_help_panel", None) or "Options"
            panels.setdefault("Arguments" if argument else heading, []).append(row(*record))
    for heading in sorted(panels, key=lambda name: (name == options.OUTPUT, name not in ("Arguments", "Options"))):
        yield f"\n| {heading} | |\n|---|---|\n{chr(10).join(panels[heading])}\n"


def row(names: str, text: str) -> str:
    """An option with what it does and its default."""
    text, _, default = text.partition("  [default: ")
    given = re.sub(r"list\[(\w+)\]", r"\1", names)  # an option that is repeated takes one value at a time
    end = f" Default: `{default.removesuffix(']')}`." if default else ""
    return f"| `{given}` | {escape(text)}{end} |"


def examples(epilog: str | None) -> Iterator[str]:
    """The examples that end a help: "Example: command;   what another does: command"."""
    lines = []
    for part in re.split(r";\s{3}", (epilog or "").partition("Example: ")[2]):
        words, name, command = part.rpartition("diffgraft ")
        if not name:
            words, command = command, ""
        lines += [f"# {' '.join(words.split()).rstrip(':')}"] if words.strip() else []
        lines += [f"diffgraft {' '.join(command.split())}"] if command else []
    if lines:
        yield "```\n" + "\n".join(lines) + "\n```\n"


def paragraph(text: str | None) -> str:
    """Help text on one line."""
    return escape(" ".join((text or "").split()))


def escape(text: str) -> str:
    """Text that means itself in a table of Markdown."""
    return re.sub(r"([|<*\[\]])", r"\\\1", text)
