"""Tells mkdocstrings what the decorators of diffgraft.requests do, which it would otherwise have to run the code to see.

A class under `@request` is a dataclass; a function under `@verb(SomeRequest)` takes the fields of that request. Where a
docstring says "model: folder. count: ..." of such fields, it becomes a list of them.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

PACKAGE = "diffgraft.requests"
KEYWORDS = {"watch": "Watch", "tell": "Tell", "command": "str"}
"""What every verb takes besides, by keyword; see diffgraft.requests.verb.Call."""


class Verbs(griffe.Extension):
    """A griffe extension, named in mkdocs.yml."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """griffe calls this when a package is loaded."""
        classes: dict[str, griffe.Class] = {}
        functions: list[griffe.Function] = []
        _collect(pkg, classes, functions)
        for one in classes.values():
            if any(str(decorator.value) == "request" for decorator in one.decorators):
                one.labels.add("dataclass")
                fields = _fields(one)
                one.set_member("__init__", _init(one, fields))
                _list(one, [field.name for field in fields])
            elif any("dataclass" in str(decorator.value) for decorator in one.decorators):
                _list(one, [field.name for field in _fields(one)])
        for function in functions:
            for decorator in function.decorators:
                name = re.fullmatch(r"verb\((\w+)\)", str(decorator.value))
                if name and name[1] in classes:
                    function.parameters = griffe.Parameters(*_fields(classes[name[1]]), *_keywords())
                    function.decorators = []
                    function.docstring = _with_link(function.docstring, name[1])


def _collect(module: griffe.Object, classes: dict[str, griffe.Class], functions: list[griffe.Function]) -> None:
    for member in module.members.values():
        if isinstance(member, griffe.Class):
            classes[member.name] = member
        elif isinstance(member, griffe.Function):
            functions.append(member)
        elif isinstance(member, griffe.Module):
            _collect(member, classes, functions)


def _fields(cls: griffe.Class) -> list[griffe.Parameter]:
    """The fields of a request as parameters, with the defaults that it gives them."""
    kind = griffe.ParameterKind.positional_or_keyword
    return [
        griffe.Parameter(name, annotation=field.annotation, kind=kind, default=_default(field.value))
        for name, field in cls.members.items()
        if isinstance(field, griffe.Attribute) and field.annotation is not None and "property" not in field.labels
    ]


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
