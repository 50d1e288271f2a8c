"""Requests: everything that a verb is to do, as one frozen value, whoever asks.

The command line, Python callers and files (YAML, or the record of an earlier run) all build the same dataclass. Its values
are converted and checked by their annotations when it is made, and then by its own `validate`, which says what has to hold
among them; a verb never sees a request that is not whole.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from toolkit.example import Error

__all__ = ["as_json", "build", "converted", "load", "optional_path", "overrides", "path", "request"]

T = TypeVar("T")


def path(value: str | Path) -> Path:
    """What a field of type Path may be given."""
    return Path(value)


def optional_path(value: str | Path | None) -> Path | None:
    """The same, where there may be none."""
    return None if value is None else Path(value)


def converted(
    *, converter: Callable[[Any], T], default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING
) -> T:
    """A field that may be given as something else. converter: tells type checkers as what; `request` does convert."""
    return dataclasses.field(default=default, default_factory=default_factory)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, converted))
def request(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that converts and checks its values, a str to a Path for instance.

    A method `validate(self)` of the class is called after that. Errors: a value that its annotation does not allow.
    """
    validate = getattr(cls, "validate", None)

    def post_init(self: Any) -> None:
        _convert(self)
        if validate is not None:
            validate(self)

    cls.__post_init__ = post_init  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """A request from plain values, such as those of a file. Errors: a name it does not have, one that it needs missing."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(fields)}."
            raise Error(f"A {kind.__name__} has no '{name}': {hint}")
    missing = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values
    ]
    if missing:
        raise Error(f"A {kind.__name__} needs {', '.join(missing)}, which was not given. Name it.")
    return kind(**values)


def load(path: Path, verb: str = "") -> dict[str, Any]:
    """The plain values of a request from a YAML or JSON file: a mapping of its fields, or the record of an earlier run.

    Errors: a file that is not there, that is no YAML, that holds something else, or is the record of another verb than `verb`.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        words = " ".join(str(problem).split())
        raise Error(f"A request is a YAML or JSON file; '{path}' cannot be read as one: {words}.") from problem
    if isinstance(content, dict) and isinstance(content.get("request"), dict):
        if verb and content.get("verb", verb) != verb:
            raise Error(
                f"'{path}' is the record of 'diffgraft {content['verb']}', not of 'diffgraft {verb}'. Use that verb."
            )
        content = content["request"]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise Error(f"A request is a mapping of names to values, such as 'count: 60'; '{path}' holds something else.")
    return content


def overrides(value: Any, *names: str) -> dict[str, Any]:
    """Those of the fields `names` of a request that were given: not None. They change single settings."""
    found = {name: getattr(value, name) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def as_json(value: Any) -> dict[str, Any]:
    """A request as plain values for JSON, from which `build` makes it again."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(dataclasses.asdict(value))


def _convert(value: Any) -> None:
    """Replace every field by what its annotation makes of it."""
    import pydantic

    for name, adapter in _adapters(type(value)).items():
        given = getattr(value, name)
        try:
            found = adapter.validate_python(given)
        except pydantic.ValidationError as problem:
            first = problem.errors(include_url=False)[0]
            place = ".".join(map(str, (name, *(p for p in first["loc"] if not str(p).endswith("]")))))
            raise Error(
                f"The value of '{place}' does not fit a {type(value).__name__}: {first['msg']}; found {given!r}."
            ) from None
        object.__setattr__(value, name, tuple(found) if isinstance(found, list) else found)


@functools.cache
def _adapters(kind: type) -> dict[str, Any]:
    """Field -> what validates it. pydantic is imported at the first request, for the help of the command line needs none."""
    import pydantic

    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: pydantic.TypeAdapter(hints[f.name]) for f in dataclasses.fields(kind)}
