"""The request of edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path

from diffgraft.requests.base import converted, optional_path, path, request
from toolkit.example import Error
from toolkit.settings import Sampling

__all__ = ["PROCEDURES", "EditRequest"]

PROCEDURES = ("sdedit", "inpaint", "invert", "dafusion")
"""See diffgraft.editing.procedures."""


@request
class EditRequest:
    """Change real images towards other labels or words, or put objects into them, as a new data set.

    model, out: folders. source: data set, folder of raw files, or one file. procedure: inpaint, invert, sdedit or dafusion.
    labels: name -> new value, a word or a number. text: what the images shall show, for a model with a text encoder.
    strength: in (0, 1], how far up the noise goes. boxes: where to change, each "x0,y0,x1,y1" in pixels of the image in its
    file or in parts of 1 of it. mask: grey picture, white where to change. region: otherwise, one of
    diffgraft.editing.region.REGIONS. objects: of a model that is told boxes, each "CLASS=x0,y0,x1,y1"; what lies in `boxes`
    is then taken away. crop: width in pixels of what such a model sees. format: of its output. where: labels that an image
    must have, NAME=VALUE. count: at most so many images, the first. variants: of each. force: edit images that
    the input gate refuses. settings and the four after it as in
    GenerationRequest.
    """

    model: Path = converted(converter=path)
    source: Path = converted(converter=path)
    out: Path = converted(converter=path)
    procedure: str = "inpaint"
    labels: Mapping[str, float | str] = field(default_factory=dict)
    text: str | None = None
    strength: float = 0.4
    boxes: Sequence[str] = ()
    mask: Path | None = converted(converter=optional_path, default=None)
    region: str | None = None
    objects: Sequence[str] = ()
    crop: int | None = None
    format: str | None = None
    where: Sequence[str] = ()
    count: int | None = None
    variants: int = 1
    settings: Sampling | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    backend: str = "auto"
    force: bool = False
    overwrite: bool = False

    @property
    def inputs(self) -> list[Path]:
        """What is read, and so may not be replaced."""
        return [self.model, self.source, *([] if self.mask is None else [self.mask])]

    def validate(self) -> None:
        if self.procedure not in PROCEDURES or not 0 < self.strength <= 1 or self.variants < 1:
            raise Error(
                f"An edit is one of {', '.join(PROCEDURES)} with a strength in (0, 1] and one variant or more; "
                f"found '{self.procedure}', {self.strength} and {self.variants}."
            )
