"""Export a model folder: its graphs, tried before they are kept, or a pipeline of diffusers."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from diffgraft.deployment import exporting
from diffgraft.models.folder import meta
from export.verify import Parity
from toolkit.data import dataset
from toolkit.example import Error
from toolkit.models import pipeline as pipeline_folder

__all__ = ["TARGETS", "export"]


TARGETS = ("onnx", "tensorrt", "openvino", "diffusers")


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
