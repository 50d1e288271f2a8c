"""Verbs: functions that take one request, and may be called with its fields instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, overload

__all__ = ["Call", "Tell", "Verb", "Watch", "counter", "verb"]

Watch = Callable[[str, int, int], object]
"""Called as work goes on: watch(what is being done, done, of)."""

Tell = Callable[[str], object]
"""Called with a line for the user, such as the settings that were resolved, before the work begins."""


def _quiet(*_: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Call:
    """Who follows a run. None of it changes a result. command: how it was asked for, printed in the report."""

    watch: Watch = _quiet
    tell: Tell = _quiet
    command: str = ""


def counter(watch: Watch, text: str, of: int) -> Callable[[], None]:
    """A function to be called once an evaluation, of so many: it tells watch(text, done, of)."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        watch(text, done, max(done, of))

    return step


P = ParamSpec("P")
Q = TypeVar("Q")
R = TypeVar("R")
Request = TypeVar("Request", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Verb(Protocol[P, Request, Result]):  # pyright: ignore[reportInvalidTypeVarUse]
    """A verb of diffgraft: `verb(request)`, or `verb(model, out, count=3)` with the fields of its request."""

    @overload
    def __call__(self, request: Request, /, *, watch: Watch = ..., tell: Tell = ..., command: str = ...) -> Result: ...

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result: ...


def verb(kind: Callable[P, Q]) -> Callable[[Callable[[Q, Call], R]], Verb[P, Q, R]]:
    """Decorator for `def run(request, call)`: it can then be called with a request of this kind or with its fields.

    watch, tell and command are taken as keywords beside either and reach the function as its Call.
    """

    build: Any = kind  # a class, which a type checker sees as the function that its fields are given to
    own: Any = kind

    def decorate(run: Callable[[Q, Call], R]) -> Verb[P, Q, R]:
        @functools.wraps(run)
        def called(*args: Any, watch: Watch = _quiet, tell: Tell = _quiet, command: str = "", **fields: Any) -> R:
            alone = len(args) == 1 and not fields and isinstance(args[0], own)
            return run(args[0] if alone else build(*args, **fields), Call(watch, tell, command))

        fields = inspect.signature(build)
        follow = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in ("watch", "tell")]
        called.__signature__ = fields.replace(  # type: ignore[attr-defined]
            parameters=[*fields.parameters.values(), *follow],
            return_annotation=inspect.signature(run).return_annotation,
        )
        return called  # type: ignore[return-value]

    return decorate
