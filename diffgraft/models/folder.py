"""What a model folder says of itself, and the domain that it belongs to."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.example import Error
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import read_meta

__all__ = ["domain", "domain_of", "meta"]


def meta(root: str | os.PathLike[str]) -> dict[str, Any]:
    """model.json of a model folder, or what a Stable Diffusion pipeline would have there as a model of grey films."""
    if pipeline_folder.is_pipeline(root):
        return pipeline_folder.read_meta(root, channels=1)
    return read_meta(Path(root))


def domain_of(root: str | os.PathLike[str]) -> ModuleType:
    """The domain module that a model folder belongs to."""
    return domain(meta(root)["domain"])


def domain(name: str) -> ModuleType:
    """A domain by its name."""
    import pkgutil

    import domains

    known = sorted(m.name for m in pkgutil.iter_modules(domains.__path__))
    if name not in known:
        raise Error(f"A domain is one of {', '.join(known)}; found '{name}'.")
    return importlib.import_module(f"domains.{name}")
