"""The published methods that are here: what each module of toolkit/methods says of itself in its METHODS."""

from __future__ import annotations

import importlib
import pkgutil

import toolkit.methods
from toolkit.methods.method import Method

__all__ = ["listing", "methods"]


def methods() -> dict[Method, str]:
    """Every method with the file it lives in, by the name of the method."""
    found: dict[Method, str] = {}
    for module in pkgutil.iter_modules(toolkit.methods.__path__):
        own = getattr(importlib.import_module(f"toolkit.methods.{module.name}"), "METHODS", ())
        found |= dict.fromkeys(own, f"toolkit/methods/{module.name}.py")
    return dict(sorted(found.items(), key=lambda item: item[0].name.lower()))


def listing() -> str:
    """The same as text: a method a paragraph, in lines that can be searched and commands that can be copied."""
    return "\n\n".join(
        f"{method.name}: {method.paper}\n"
        f"    {method.does}\n    needs  {method.needs}\n    how    {method.how}\n    file   {file}"
        for method, file in methods().items()
    )
