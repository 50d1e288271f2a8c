"""The value types that travel through diffgraft: one image, what is known about it, and the way back to its file.

Raw files become Examples, a data set is a folder of Examples, a model makes Examples, and Examples become files
again. Everything here is a frozen dataclass over numpy arrays; nothing here reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

__all__ = ["Annotation", "Boxes", "Error", "Example", "Geometry", "Note", "Provenance"]


class Error(Exception):
    """A mistake the user can mend. The message is one line: the rule, what was found, the remedy."""


class Note(UserWarning):
    """Something the user should know though the run goes on: one line, shown once."""


@dataclass(frozen=True)
class Boxes:
    """Axis-aligned boxes of one image.

    corners: (N, 4) float array, x0 y0 x1 y1 in pixels of the image, x to the right and y down.
    names: N class names. size: (rows, cols) of that image, without which a model cannot be told of them.
    """

    corners: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.corners.shape != (len(self.names), 4):
            raise Error(f"Boxes need one name and four corners each; found {self.corners.shape} for {len(self.names)}.")


@dataclass(frozen=True)
class Annotation:
    """What is known, or asked for, about one image.

    labels: name -> value. A class is an integer index, a finding 1 (present), 0 (absent) or NaN (unknown), a
        measurement a number; NaN always means unknown.
    mask: (H, W) boolean array on the grid of the image, or None.
    """

    text: str | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    boxes: Boxes | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Geometry:
    """The way from an image of the data set back to the file it came from.

    affine: (4, 4) voxel-to-world matrix of the source array, RAS millimetres.
    shape: shape of the source array.
    window: (low, high) in source units; low is -1 and high is +1 in the image.
    index: slice number along the third axis of the source array in display order, None for a whole image.
    box: (top, left, height, width) of the image on the source slice, in source pixels; it may reach over the edge.
    """

    affine: np.ndarray
    shape: tuple[int, ...]
    window: tuple[float, float]
    index: int | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Provenance:
    """How an image that was not acquired came to be. A real image has none.

    kind: "synthetic" (no source patient), "edited" (a real image changed; `source` names it) or "map" (measured on one).
    model: hash of the model folder; procedure: the editing procedure; settings: every setting that was resolved.
    """

    kind: Literal["synthetic", "edited", "map"]
    model: str
    procedure: str
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None


@dataclass(frozen=True)
class Example:
    """One image with everything that is known about it.

    id: unique within its data set, safe as a file name.
    image: (C, H, W) float32 in [-1, 1].
    group: the unit a split must not cut - the patient, the leaf, the field.
    provenance: None means that the image is real.
    """

    id: str
    image: np.ndarray
    annotation: Annotation = Annotation()
    group: str = ""
    geometry: Geometry | None = None
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            raise Error(f"An Example's image is (C, H, W); '{self.id}' has shape {self.image.shape}.")
