"""Unique identifiers that a rerun makes again: 2.25.<UUID as a number> (PS3.5 B.2), the UUID version 5 of what was made.

Contract. The same words give the same UID on every machine, and other words another one. Words of an object name
everything that it depends on - its source or sample, the model, every setting and condition, the kind of output, the
version of the program and the SHA-256 of its pixels - because a PACS that holds a UID takes another object with that
UID for the same, keeps the old one, or breaks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import uuid
from typing import Any

import numpy as np
from pydicom.uid import UID

from toolkit.example import Annotation, Provenance

__all__ = ["describe_annotation", "describe_provenance", "digest", "uid"]

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:diffgraft:dicom:1")


def uid(*words: str) -> UID:
    """The UID of some words, at most 44 characters. Two lists of words that differ anywhere have two UIDs."""
    return UID(f"2.25.{uuid.uuid5(NAMESPACE, json.dumps(words)).int}")


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of the values of arrays, with their shapes and types."""
    found = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        found.update(f"{little.dtype.str}{little.shape}".encode())
        found.update(little.tobytes())
    return found.hexdigest()


def describe_provenance(provenance: Provenance) -> str:
    """Everything that a provenance states, as one word, but the source: its UID names that, a path is one machine's."""
    return _json(dataclasses.asdict(dataclasses.replace(provenance, source=None)))


def describe_annotation(annotation: Annotation) -> str:
    """What an image was asked to show, as one word: its text and its labels; boxes and masks by their digest."""
    labels = {name: None if math.isnan(value) else float(value) for name, value in annotation.labels.items()}
    boxes = annotation.boxes and [digest(annotation.boxes.corners), *annotation.boxes.names]
    mask = None if annotation.mask is None else digest(annotation.mask)
    return _json({"text": annotation.text, "labels": labels, "boxes": boxes, "mask": mask})


def _json(value: Any) -> str:
    def plain(other: Any) -> Any:
        return other.tolist() if hasattr(other, "tolist") else str(other)

    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain)
