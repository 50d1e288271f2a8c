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
    "alignment": "diffgraft.alignment",
    "audit": "diffgraft.audit",
    "classify": "diffgraft.classify",
    "convert": "diffgraft.conversion",
    "counterfactual": "diffgraft.counterfactual",
    "distribution": "diffgraft.distribution",
    "edit": "diffgraft.edit",
    "evaluate": "diffgraft.evaluation",
    "export": "diffgraft.models",
    "generate": "diffgraft.generation",
    "methods": "diffgraft.methods",
    "open": "diffgraft.models",
    "prepare": "diffgraft.preparation",
    "train": "diffgraft.training",
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
