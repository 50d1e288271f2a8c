"""The request of generate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path

from diffgraft.requests.base import converted, optional_path, path, request
from toolkit.example import Error
from toolkit.settings import Sampling

__all__ = ["GenerationRequest", "LayoutOptions"]


@request
class LayoutOptions:
    """How images for layouts of boxes are made.

    kind: of arrangement, see toolkit.objects.layouts. filtered: images are looked at by the detector; None where there is
    one. check: real images that the filter's limit is measured on. quantile: part of them that keeps it. relabel: a
    detection that fits better takes the place of its box. favour_hard: hard layouts are asked for more often. tries: draws
    for one layout. keep: part of what passed that is kept, the images whose boxes score best.
    """

    kind: str = "recombine"
    filtered: bool | None = None
    check: Path | None = converted(converter=optional_path, default=None)
    quantile: float = 0.75
    relabel: bool = False
    favour_hard: bool = False
    tries: int = 4
    keep: float = 1.0


@request
class GenerationRequest:
    """New images of a model, as a data set folder, as class folders or as one synthetic volume.

    model, out: folders. labels: name -> value, unset is null. A word ("rust") is looked up in the model's vocabulary,
    and what follows from it is added; numbers are taken as they are. count: of images, of each prompt or value, or
    slices of the volume. settings: the model's own where None; sampler, steps, guidance, seed, student change single ones.
    text: what to show in words, for a model with a text encoder; without it the words are composed of the labels.
    prompts: several texts, each of which is given `count` images. like: data set from which each image's labels are drawn,
    so that with `balance`, a label, that data set and the new one together have its values evenly; `labels` then override.
    each: a label of which every value is given `count` images. volume: the images are slices of one head, from its low to
    its high end. format: images, folders, nifti, dicom, dx, coco, voc or yolo; None is the domain's own. name: of the
    volume or samples. far_from, reject_copies, faithful_to, fits_text: training data sets, see diffgraft.generation.gates.
    layouts: for a model that is told boxes. backend: what runs the model, as "openvino:bf16".
    """

    model: Path = converted(converter=path)
    out: Path = converted(converter=path)
    labels: Mapping[str, float | str] = field(default_factory=dict)
    count: int = 16
    settings: Sampling | None = None
    text: str | None = None
    prompts: Sequence[str] = ()
    like: Path | None = converted(converter=optional_path, default=None)
    balance: str | None = None
    each: str | None = None
    volume: bool = False
    format: str | None = None
    name: str = ""
    far_from: Path | None = converted(converter=optional_path, default=None)
    reject_copies: Path | None = converted(converter=optional_path, default=None)
    faithful_to: Path | None = converted(converter=optional_path, default=None)
    fits_text: Path | None = converted(converter=optional_path, default=None)
    layouts: LayoutOptions | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    student: bool | None = None
    backend: str = "auto"
    overwrite: bool = False

    @property
    def inputs(self) -> list[Path]:
        """What is read, and so may not be replaced."""
        data = (
            self.like,
            self.far_from,
            self.reject_copies,
            self.faithful_to,
            self.fits_text,
            self.layout_options.check,
        )
        return [self.model, *(path for path in data if path is not None)]

    @property
    def layout_options(self) -> LayoutOptions:
        """As they were given, else the defaults."""
        return self.layouts or LayoutOptions()

    @property
    def is_volume(self) -> bool:
        """Whether the images are slices of one head; one NIfTI file always has such."""
        return self.volume or self.format == "nifti"

    def prefix(self, seed: int) -> str:
        """What the name of the volume, or of each image, begins with."""
        return self.name or f"synthetic{seed}"

    def validate(self) -> None:
        guidance = self.settings.guidance if self.guidance is None and self.settings is not None else self.guidance
        if self.count < 1 or not math.isfinite(guidance or 0.0):
            stated = "" if guidance is None else f" and {guidance}"
            raise Error(
                f"One image or more, with a finite guidance; found {self.count}{stated}. Change -n or --guidance."
            )
        if self.name and not (self.name.isascii() and self.name.isalnum()):
            raise Error(f"A name is letters and digits alone; found '{self.name}'. Give another --name.")
        if self.prompts and not (self.text is None and self.like is None and self.each is None):
            raise Error("Prompts are the texts of all images; leave --set text=, --like and --each out.")
        if self.balance is not None and self.like is None:
            raise Error("--balance evens out a data set; none was given. Name it: --like DATA")
        layouts = self.layout_options
        if layouts.tries < 1 or not 0 < layouts.keep <= 1:
            raise Error(
                "One image or more, drawn once or more, of which a part in (0, 1] is kept; found "
                f"-n {self.count} --tries {layouts.tries} --keep {layouts.keep:g}."
            )
