"""diffgraft: diffusion-model data augmentation for medical and agricultural imaging.

    model = diffgraft.open("models/brain_mri")                       # onnx where it is installed, else torch
    run = diffgraft.counterfactual("models/brain_mri", "scan.nii.gz", "out")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "alignment": "diffgraft.evaluation.alignment",
    "audit": "diffgraft.evaluation.audit",
    "classify": "diffgraft.evaluation.classes.experiment",
    "convert": "diffgraft.preparation.convert",
    "counterfactual": "diffgraft.counterfactuals.counterfactual",
    "distribution": "diffgraft.evaluation.distribution",
    "edit": "diffgraft.editing.edit",
    "evaluate": "diffgraft.evaluation.anomaly.evaluate",
    "export": "diffgraft.deployment.export",
    "generate": "diffgraft.generation.generate",
    "methods": "diffgraft.cli.methods",
    "open": "diffgraft.models.open",
    "prepare": "diffgraft.preparation.prepare",
    "train": "diffgraft.training.train",
}
__all__ = ["Error", "__version__", *sorted(_PLACES)]

if TYPE_CHECKING:
    from toolkit.example import Error as Error


def __getattr__(name: str) -> Any:
    if name == "Error":
        from toolkit.example import Error

        return Error
    if name not in _PLACES:
        raise AttributeError(f"module 'diffgraft' has no attribute '{name}'")
    return getattr(importlib.import_module(_PLACES[name]), name)
