"""Writes the reference of the command line from the code: `<!-- cli -->` and `<!-- exits -->` in a page are replaced by it.

What stands here is what `--help` says, a table a panel, so that neither can be right without the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from diffgraft.cli.exits import MEANING
from diffgraft.cli.main import app

COMMON = "Output"
"""The panel that ends every help."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this once a page."""
    if "<!-- cli -->" in markdown:
        markdown = markdown.replace("<!-- cli -->", "\n".join(reference()))
    return markdown.replace("<!-- exits -->", exits())


def exits() -> str:
    """The exit codes as a table."""
    rows = [f"| `{int(code)}` | {meaning} | `{status}` |" for code, (status, meaning) in MEANING.items()]
    return "\n".join(["| code | meaning | `status` in `--json` |", "|---|---|---|", *rows])


def reference() -> Iterator[str]:
    """Every verb, and the verbs of a verb, in the order in which the help lists them."""
    root = get_command(app)
    context = root.context_class(root, info_name="diffgraft")
    yield from options(root, context)
    yield from verbs(root, context, 2)


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
            yield from options(command, inner)


def usage(command: Any, context: Any) -> str:
    """The line that shows which words a command takes."""
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def options(command: Any, context: Any) -> Iterator[str]:
    """What a command takes, a table a panel, those of every verb last."""
    panels: dict[str, list[str]] = {}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None:
            argument = param.param_type_name == "argument"
            heading = getattr(param, "rich_help_panel", None) or (COMMON if param.name == "help" else "Options")
            panels.setdefault("Arguments" if argument else heading, []).append(row(*record))
    for heading in sorted(panels, key=lambda name: (name == COMMON, name not in ("Arguments", "Options"))):
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
        words, _, command = part.rpartition("diffgraft ")
        lines += [f"# {words.strip().rstrip(':')}"] if words.strip() else []
        lines += [f"diffgraft {' '.join(command.split())}"] if command else []
    if lines:
        yield "```\n" + "\n".join(lines) + "\n```\n"


def paragraph(text: str | None) -> str:
    """Help text on one line."""
    return escape(" ".join((text or "").split()))


def escape(text: str) -> str:
    """Text that means itself in a table of Markdown."""
    return re.sub(r"([|<*\[\]])", r"\\\1", text)
