"""Open a model folder on the backend that is there, and export it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from export.verify import Parity
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.folder import read_meta

__all__ = ["BACKENDS", "domain_of", "export", "meta", "open"]

BACKENDS = ("auto", "onnx", "torch")


def open(root: str | os.PathLike[str], backend: str = "auto") -> Model:
    """Open a model folder. "auto" takes onnx where onnxruntime and the graphs are there, else torch."""
    root = Path(root)
    if backend not in BACKENDS:
        raise Error(f"A backend is one of {', '.join(BACKENDS)}; found '{backend}'.")
    if backend == "auto":
        ready = importlib.util.find_spec("onnxruntime") and (root / "denoiser.onnx").is_file()
        backend = "onnx" if ready or not importlib.util.find_spec("torch") else "torch"
    if backend == "onnx":
        from export.runtime import ort

        return ort.open(root)
    if importlib.util.find_spec("torch") is None:
        raise Error("The torch backend needs torch, which is not installed: pip install 'diffgraft[train]'")
    from toolkit.networks import folder

    return folder.open(root)


def export(root: str | os.PathLike[str], target: str = "onnx") -> tuple[list[Path], list[Parity]]:
    """Write the graphs of a model folder into it and check them against torch; a failed check leaves none behind."""
    if target != "onnx":
        raise Error(f"A model is exported to onnx; found '{target}'.")
    meta(root)  # what is no model is refused before torch is loaded
    if importlib.util.find_spec("torch") is None:
        raise Error("Exporting needs torch, which is not installed: pip install 'diffgraft[train]'")
    from export.onnx import export as write
    from export.verify import verify

    written = write(Path(root))
    try:
        return written, verify(open(root, "torch"), open(root, "onnx"))
    except Error:
        for path in written:
            path.unlink()
        raise


def meta(root: str | os.PathLike[str]) -> dict[str, Any]:
    """model.json of a model folder."""
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
