"""Names what mkdocstrings is to show: `<!-- requests -->` becomes the requests, `<!-- results -->` what the verbs return.

The second is read from the annotations of the verbs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffgraft
from diffgraft import requests

ROOT = Path(__file__).resolve().parents[2]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this once a page."""
    if "<!-- results -->" in markdown:
        places = dict.fromkeys(results())
        markdown = markdown.replace("<!-- results -->", "\n".join(f"::: {place}" for place in places))
    if "<!-- requests -->" in markdown:
        places = [f"::: diffgraft.requests.{name}\n    options: {{members: false}}" for name in requests.__all__]
        markdown = markdown.replace("<!-- requests -->", "\n".join(places))
    return markdown


def results() -> Iterator[str]:
    """The full names of the classes of this house that the public functions return, in their order."""
    for place in diffgraft._PLACES.values():
        module, _, function = place.rpartition(".")
        tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
        origins = dict(_names(tree, module))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == function and node.returns is not None:
                words = {each.id for each in ast.walk(node.returns) if isinstance(each, ast.Name)}
                yield from sorted(origins[word] for word in words if origins.get(word, "").startswith("diffgraft."))


def _names(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Name in a module -> where it is from, of what it imports at its top and of its own classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ClassDef):
            yield node.name, f"{module}.{node.name}"
