"""`diffgraft evaluate A B --task classify`, the form before each question was a verb: still understood, with a note."""

from __future__ import annotations

import difflib
import shlex
import sys
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

__all__ = ["EvaluateGroup"]

VALUES = {
    "--out", "--atlas", "--calibrate", "--model", "--only", "--beside", "--label", "--shots", "--arms", "--features", "--split",
    "--seeds", "--steps", "--fold", "--samplers", "-n", "--count", "--student", "--backend",
}  # fmt: skip
"""Options of the earlier form that take a value."""

SWITCHES = {"--overwrite", "--open"}


class EvaluateGroup(TyperGroup):
    """The questions of evaluate, and the earlier form of asking them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if _is_earlier(args, list(self.commands)):
            quiet = getattr(ctx.parent and ctx.parent.obj, "quiet", False) or not {"-q", "--quiet"}.isdisjoint(args)
            args = self._rewritten(args, quiet)
        return super().parse_args(ctx, args)

    def _rewritten(self, words: list[str], quiet: bool) -> list[str]:
        """The new form of an earlier command. What the question has no use for was ignored, and is left out."""
        task, rest = _task(words)
        command = self.commands.get(task)
        if command is None:
            return [task, *rest]  # which is refused with the names of those that there are
        own = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
        kept: list[str] = []
        dropped: list[str] = []
        while rest:
            word = rest.pop(0)
            flag, equals, _ = word.partition("=")
            taken = [word, rest.pop(0)] if flag in VALUES and not equals and rest else [word]
            (dropped if flag in VALUES | SWITCHES and flag not in own else kept).extend(taken)
        left_out = f", without {shlex.join(dropped)}, which has no meaning there" if dropped else ""
        if not quiet:
            new = shlex.join(["diffgraft", "evaluate", task, *kept])
            print(f"diffgraft: note: evaluate now names its question: {new}{left_out}", file=sys.stderr)
        return [task, *kept]


def _is_earlier(words: list[str], tasks: list[str]) -> bool:
    """Whether a command is of the earlier form: it says --task, or names folders where the question should stand."""
    if any(word == "--task" or word.startswith("--task=") for word in words):
        return True
    if not words or words[0] in (*tasks, "-h", "--help"):
        return False
    return Path(words[0]).exists() or not difflib.get_close_matches(words[0], tasks, 1)


def _task(words: list[str]) -> tuple[str, list[str]]:
    """The task of an earlier command, and the words besides."""
    task, rest = "anomaly", []
    following = iter(words)
    for word in following:
        if word == "--task":
            task = next(following, "")
        elif word.startswith("--task="):
            task = word.partition("=")[2]
        else:
            rest.append(word)
    return task, rest
