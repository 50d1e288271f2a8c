"""Requests of the verbs that turn files into files: prepare and convert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffgraft.requests.base import converted, path, request

__all__ = ["ConversionRequest", "PreparationRequest"]


@request
class PreparationRequest:
    """Turn raw files into a data set folder.

    domain: name of it. raw: folder of raw files. data: new folder. contrast, size (WIDTHxHEIGHT), only (labels an image
    must have, NAME=VALUE), crop (side of windows in pixels), level (of the folders that name the class, such as 1, or 1+2
    for crop and condition), origin (0 or 1, of Pascal VOC's first pixel): options of some domains, None is the domain's own.
    """

    domain: str
    raw: Path = converted(converter=path)
    data: Path = converted(converter=path)
    contrast: str | None = None
    size: str | None = None
    only: Sequence[str] | None = None
    crop: int | None = None
    level: str | None = None
    origin: int | None = None
    overwrite: bool = False


@request
class ConversionRequest:
    """Write pictures with boxes in another format.

    target, source: coco, voc or yolo; source None is what is there. origin: 0 or 1, the number of the first pixel in a source
    of Pascal VOC that does not say it; None is by what its files show.
    """

    raw: Path = converted(converter=path)
    out: Path = converted(converter=path)
    target: str
    source: str | None = None
    origin: int | None = None
    overwrite: bool = False
