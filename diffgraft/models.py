"""Open a model folder on the backend that is there, and export it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from diffgraft import backends, exporting
from export.verify import Parity
from toolkit import dataset, pipeline_folder
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.folder import read_meta

__all__ = ["domain_of", "export", "meta", "open"]

TARGETS = ("onnx", "tensorrt", "openvino", "diffusers")


def open(root: str | os.PathLike[str], backend: str = "auto") -> Model:
    """Open a model folder. backend: "auto", or onnx, openvino, tensorrt or torch, in a precision as "openvino:bf16".

    "auto" takes the fastest that is installed, passed its gate for the folder's weights and is faster than onnx in fp32;
    else onnx where onnxruntime and the graphs are there, else torch. A folder of a Stable Diffusion pipeline is opened
    with torch, as a model of grey films.
    """
    root = Path(root)
    name, precision = ("auto", "") if backend == "auto" else backends.parsed(backend)
    if pipeline_folder.is_pipeline(root):
        return _pipeline(root, name)
    if name != "auto":
        return backends.open_as(root, name, precision)
    if model := backends.fastest(root):
        return model
    ready = importlib.util.find_spec("onnxruntime") and (root / "denoiser.onnx").is_file()
    name = "onnx" if ready or not importlib.util.find_spec("torch") else "torch"
    return backends.open_as(root, name, "fp32")


def _pipeline(root: Path, backend: str) -> Model:
    if backend not in ("auto", "torch"):
        raise Error(
            f"A pipeline folder runs with torch; for {backend} it is exported into a model folder first: "
            f"diffgraft export {root} OUT --to onnx"
        )
    if importlib.util.find_spec("torch") is None:
        raise Error("A pipeline folder needs torch, which is not installed: pip install 'diffgraft[train]'")
    from toolkit.networks import pipeline

    return pipeline.open(root, channels=1)


def export(
    root: str | os.PathLike[str],
    target: str = "onnx",
    out: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    fuse: str = "none",
) -> tuple[list[Path], list[Parity]]:
    """Write the graphs of a model folder into it and try them against torch; a failed gate leaves none behind.

    out: a new folder that is written instead: a model folder with its graphs, which a Stable Diffusion pipeline needs; for
    diffusers the model as such a pipeline. What was measured is kept in the folder's exports.json (export.record).
    """
    if target not in TARGETS:
        raise Error(f"A model is exported to {' or '.join(TARGETS)}; found '{target}'.")
    if target != "diffusers":
        exporting.check(target, precision, fuse)
    elif (precision, fuse) != ("fp32", "none"):
        raise Error("A pipeline of diffusers keeps its weights as they are. Leave --precision and --fuse out.")
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
        return exporting.export(Path(root), target, precision, fuse)
    with dataset.staged(out) as folder:
        fresh = folder / "model"
        if pipeline_folder.is_pipeline(root):
            from toolkit.networks import pipeline

            pipeline.convert(Path(root), fresh, channels=1)
        else:
            shutil.copytree(root, fresh, ignore=shutil.ignore_patterns("training", *exporting.WRITTEN))
        written, parities = exporting.export(fresh, target, precision, fuse)
        for path in fresh.iterdir():
            path.rename(folder / path.name)
        fresh.rmdir()
    return [Path(out) / path.name for path in written], parities


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
