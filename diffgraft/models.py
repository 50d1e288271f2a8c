"""Open a model folder on the backend that is there, and export it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from export.verify import Parity
from toolkit import dataset, pipeline_folder
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.folder import read_meta

__all__ = ["BACKENDS", "domain_of", "export", "meta", "open"]

BACKENDS = ("auto", "onnx", "torch")
TARGETS = ("onnx", "diffusers")


def open(root: str | os.PathLike[str], backend: str = "auto") -> Model:
    """Open a model folder. "auto" takes onnx where onnxruntime and the graphs are there, else torch.

    A folder of a Stable Diffusion pipeline is opened with torch, as a model of grey films.
    """
    root = Path(root)
    if backend not in BACKENDS:
        raise Error(f"A backend is one of {', '.join(BACKENDS)}; found '{backend}'.")
    if pipeline_folder.is_pipeline(root):
        return _pipeline(root, backend)
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


def _pipeline(root: Path, backend: str) -> Model:
    if backend == "onnx":
        raise Error(
            f"A pipeline folder runs with torch; for onnx it is exported into a model folder first: "
            f"diffgraft export {root} OUT --to onnx"
        )
    if importlib.util.find_spec("torch") is None:
        raise Error("A pipeline folder needs torch, which is not installed: pip install 'diffgraft[train]'")
    from toolkit.networks import pipeline

    return pipeline.open(root, channels=1)


def export(
    root: str | os.PathLike[str], target: str = "onnx", out: str | os.PathLike[str] | None = None
) -> tuple[list[Path], list[Parity]]:
    """Write the graphs of a model folder into it and check them against torch; a failed check leaves none behind.

    out: a new folder that is written instead: for onnx a model folder with its graphs, which a Stable Diffusion pipeline
    needs; for diffusers the model as such a pipeline.
    """
    if target not in TARGETS:
        raise Error(f"A model is exported to {' or '.join(TARGETS)}; found '{target}'.")
    meta(root)  # what is no model is refused before torch is loaded
    if importlib.util.find_spec("torch") is None:
        raise Error("Exporting needs torch, which is not installed: pip install 'diffgraft[train]'")
    if out is None and (target == "diffusers" or pipeline_folder.is_pipeline(root)):
        raise Error(f"What becomes another kind of folder needs a new one: diffgraft export {root} OUT --to {target}")
    if target == "diffusers":
        from toolkit.networks import pipeline_save

        pipeline_save.save(Path(root), Path(out or ""))
        return sorted(Path(out or "").rglob("*.safetensors")), []
    if out is None:
        return _export(Path(root))
    with dataset.staged(out) as folder:
        fresh = folder / "model"
        if pipeline_folder.is_pipeline(root):
            from toolkit.networks import pipeline

            pipeline.convert(Path(root), fresh, channels=1)
        else:
            shutil.copytree(root, fresh, ignore=shutil.ignore_patterns("training", "*.onnx"))
        written, parities = _export(fresh)
        for path in fresh.iterdir():
            path.rename(folder / path.name)
        fresh.rmdir()
    return [Path(out) / path.name for path in written], parities


def _export(root: Path) -> tuple[list[Path], list[Parity]]:
    from export.onnx import export as write
    from export.verify import verify

    written = write(root)
    try:
        return written, verify(open(root, "torch"), open(root, "onnx"))
    except Error:
        for path in written:
            path.unlink()
        raise


def meta(root: str | os.PathLike[str]) -> dict[str, Any]:
    """model.json of a model folder, or what a Stable Diffusion pipeline would have there as a model of grey films."""
    if pipeline_folder.is_pipeline(root):
        return pipeline_folder.meta(root, channels=1)
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
