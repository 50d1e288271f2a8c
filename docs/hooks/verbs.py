"""Tells mkdocstrings what the decorators of diffgraft.requests do, which it would otherwise have to run the code to see.

A class under `@request` is a dataclass; a function under `@verb(SomeRequest)` takes the fields of that request. Where a
docstring says "model: folder. count: ..." of such fields, it becomes a list of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import griffe

PACKAGE = "diffgraft.requests"
KEYWORDS = {"watch": "Watch", "tell": "Tell", "command": "str"}
"""What every verb takes besides, by keyword; see diffgraft.requests.verb.Call."""


class Verbs(griffe.Extension):
    """A griffe extension, named in mkdocs.yml."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """griffe calls this when a package is loaded."""
        members = list(_members(pkg))
        for one in members:
            if one.docstring is not None:
                one.docstring.value = re.sub(r"<(?=\w)", "&lt;", one.docstring.value)  # MODEL/<part> is not HTML
        requests: dict[str, griffe.Class] = {}
        for one in members:
            if isinstance(one, griffe.Class) and _is_dataclass(one):
                fields = _fields(one)
                _list(one, [field.name for field in fields])
                if one.path.startswith(PACKAGE):
                    requests[one.name] = one
                    one.labels.add("dataclass")
                    one.set_member("__init__", _init(one, fields))
        for one in members:
            if isinstance(one, griffe.Function):
                for decorator in one.decorators:
                    name = re.fullmatch(r"verb\((\w+)\)", str(decorator.value))
                    if name and name[1] in requests:
                        one.parameters = griffe.Parameters(*_fields(requests[name[1]]), *_keywords())
                        one.decorators = []
                        one.docstring = _with_link(one.docstring, name[1])


def _members(parent: griffe.Object) -> Iterator[griffe.Object]:
    """Everything that is defined in a package, itself included."""
    yield parent
    for member in parent.members.values():
        if isinstance(member, griffe.Object):
            yield from _members(member)


def _is_dataclass(one: griffe.Class) -> bool:
    return any(str(each.value) == "request" or "dataclass" in str(each.value) for each in one.decorators)


def _fields(cls: griffe.Class) -> list[griffe.Parameter]:
    """The fields of a request as parameters, with the defaults that it gives them."""
    kind = griffe.ParameterKind.positional_or_keyword
    return [
        griffe.Parameter(name, annotation=_plain(field.annotation), kind=kind, default=_default(field.value))
        for name, field in cls.members.items()
        if isinstance(field, griffe.Attribute) and field.annotation is not None and "property" not in field.labels
    ]


def _plain(annotation: Any) -> Any:
    """`Annotated[str, ...]` is a str to whoever calls."""
    found = re.fullmatch(r"Annotated\[(\w+), .*\]", str(annotation))
    return found[1] if found else annotation


def _default(value: Any) -> Any:
    """`field(default_factory=dict)` is `{}`, `converted(converter=path)` none, `converted(..., default=None)` is None."""
    call = ast.parse(str(value), mode="eval").body if value is not None else None
    if not (isinstance(call, ast.Call) and ast.unparse(call.func) in ("field", "converted")):
        return value
    named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if "default_factory" in named:
        return {"dict": "{}", "list": "[]", "tuple": "()"}.get(
            named["default_factory"], f"{named['default_factory']}()"
        )
    return named.get("default")


def _init(cls: griffe.Class, fields: list[griffe.Parameter]) -> griffe.Function:
    own = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function("__init__", parent=cls, parameters=griffe.Parameters(own, *fields), returns="None")


def _keywords() -> list[griffe.Parameter]:
    kind = griffe.ParameterKind.keyword_only
    return [griffe.Parameter(name, annotation=word, kind=kind, default="...") for name, word in KEYWORDS.items()]


def _with_link(docstring: griffe.Docstring | None, name: str) -> griffe.Docstring:
    text = "" if docstring is None else docstring.value
    return griffe.Docstring(f"{text}\n\nIts arguments are the fields of a [{name}][{PACKAGE}.{name}].")


def _list(cls: griffe.Class, names: list[str]) -> None:
    """Make a list of what a docstring says of fields: "count: of images. name, text: of each."."""
    if cls.docstring is None or not names:
        return
    field = rf"(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})"
    one = rf"{field}(?: \([^)]*\))?"
    pieces = re.split(rf"(?:(?<=[.;] )|(?<=[.;]\n)|(?<=\n)|^)((?:{one},\s+)*{one}):\s", cls.docstring.value)
    rows = [
        f"- {re.sub(rf'{field}(?![^(]*[)])', lambda found: f'`{found[0]}`', ' '.join(key.split()))}: "
        f"{' '.join(text.split()).rstrip(';')}"
        for key, text in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    cls.docstring.value = "\n".join([pieces[0].rstrip(), "", *rows])
