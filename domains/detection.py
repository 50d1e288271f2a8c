"""Detection: pictures of objects with a box and a class each, such as blood cells or weeds.

COCO, Pascal VOC and YOLO in and out. What a model is told is a layout, the boxes of a picture with their classes. Small
objects are seen in crops: a picture is cut into windows (`prepare --crop`), each with what of the boxes lies in it.

    fields  boxes (40, 4) in parts of width and height, objects (40,), as `toolkit.objects.boxes` has them
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toolkit.data import labels
from toolkit.data.file_names import printable
from toolkit.data.labels import Range, Vocabulary
from toolkit.diffusion.model import Field
from toolkit.example import Annotation, Boxes, Error, Example, Note
from toolkit.formats import boxed, coco, folders
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.formats.photograph import padded_place, parse_size, read_photograph, resize_and_pad
from toolkit.objects import boxes as layout
from toolkit.objects import layout_summary
from toolkit.settings import Augmentation, Network, Training

__all__ = [
    "AUGMENTATION", "FOLD", "FORMAT", "FORMATS", "LABELS", "LATENT_CHANNELS", "NOTICE", "PRESETS", "SIZE", "TARGET",
    "UNITS", "VOCABULARY", "condition", "fields", "fit_image", "parse_prompt", "read", "read_image", "training_summary",
    "vocabulary", "write",
]  # fmt: skip

SIZE = (144, 192)
"""Rows and columns of a whole smear."""

VISIBLE = 0.3
"""Part of a box that has to lie in a window for its object to be one of the window's."""

UNITS = ("pictures", "sources")
"""What a sample and a group of samples are called."""

NOTICE = "Research use only. Generated pictures are training material, not observations."
"""What every report of this domain says."""

LABELS = ()
TARGET = "class"
"""The class of which there are the fewest objects among those that a picture shows: so that it is drawn as often."""

FORMAT = "coco"
FORMATS = ("coco", "voc", "yolo")

VOCABULARY: dict[str, tuple[str, ...] | Range] = {}
"""Every data set has its own."""

AUGMENTATION = Augmentation(
    flip=0.5, flip_rows=0.5, crop=0.15, gamma=0.08, gain=0.06, border=True, interpolation="bicubic"
)
LATENT_CHANNELS = 8
FOLD = 1
"""The fold of pictures that is never trained on."""

PRESETS = {
    "features": {
        "small": (
            Network((16, 24, 32, 48), dropout=0.5),
            Training(fold=FOLD, steps=400, batch=32, learning_rate=2e-3, weight_decay=0.05, ema=0.99, precision="fp32"),
        ),
    },
    "detector": {
        "small": (
            Network((24, 48, 64, 96)),
            Training(fold=FOLD, steps=800, batch=16, learning_rate=8e-3, warmup=30, weight_decay=0.05, ema=0.99),
        ),
    },
    "codec": {
        "small": (
            Network((16, 32, 64)),
            Training(
                fold=FOLD, steps=3000, batch=6, learning_rate=2e-3, weight_decay=0.0, ema=0.99, checkpoint_every=250
            ),
        ),
    },
    "denoiser": {
        "small": (
            Network((48, 48, 56), attention=1, attention_head_dim=14, dropout=0.05),
            Training(fold=FOLD, steps=6500, batch=16, sigma_mean=-0.4, sigma_std=1.2, ema=0.9995, checkpoint_every=500),
        ),
    },
}
"""Part -> preset -> network and training, to be trained in this order. Measured on two CPU cores; see the model card."""


def vocabulary(root: str | Path, only: Sequence[str] = (), origin: int | None = None, **_: Any) -> Vocabulary:
    """The classes of raw files, in the order of their names. Errors: no box at all, with why the first file was put aside."""
    aside: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # `read` tells of them
        rows = boxed.rows(root, aside=lambda name, reason: aside.append((name, reason)), origin=origin)
    boxed.check_any_box((row.boxes for row in rows), root, aside)
    return {TARGET: tuple(sorted(_counted(_wanted(rows, only))))}


def read(
    root: str | Path,
    size: str = f"{SIZE[1]}x{SIZE[0]}",
    crop: int | None = None,
    only: Sequence[str] = (),
    origin: int | None = None,
    aside: Aside | None = None,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> Iterator[Example]:
    """Every picture under root with its boxes, fitted into width x height without changing its shape.

    crop: cut into windows of this width in pixels of the file, and of the aspect of `size`, side by side. A picture and
    its windows are one group. only: words such as "class=RBC"; a picture that shows none is left out: one where nobody has
    marked what is everywhere teaches a model to draw what it was not told. origin: 0 or 1, the first pixel of Pascal VOC
    files that do not say it. aside(name, reason) is told of a file or a box that cannot be used, and the rest is read;
    without it that is an Error. watch(done, of) is called once a picture.
    """
    wanted = parse_size(size)
    if crop is not None and not crop >= 8:
        raise Error(f"A window is 8 pixels wide or more; found --crop {crop}.")
    rows = _wanted(boxed.rows(root, aside=aside, origin=origin), only)
    counts = _counted(rows)
    names = tuple(sorted(counts))
    for whole in boxed.examples(rows, aside, watch):
        for example in [whole] if crop is None else _cut(whole, crop, wanted, aside):
            fresh = fit_image(example, wanted)
            value = layout.rarest_class(fresh.annotation.boxes, names, counts)
            yield dataclasses.replace(fresh, annotation=dataclasses.replace(fresh.annotation, labels={TARGET: value}))


def fit_image(example: Example, size: tuple[int, int]) -> Example:
    """A picture and its boxes in an image of (rows, cols), its aspect kept, padded by repeating its edge."""
    shape: tuple[int, int] = example.image.shape[1:]  # type: ignore[assignment]
    if shape == size:
        return example
    levels = resize_and_pad(_picture(example.image), size)
    place = padded_place(shape, size)
    boxes = example.annotation.boxes
    if boxes is not None:
        factor = np.array([place.cols / shape[1], place.rows / shape[0]] * 2)
        moved = boxes.corners * factor + np.array([place.left, place.top] * 2)
        boxes = Boxes(moved, boxes.names, size)
    image = levels.transpose(2, 0, 1).astype(np.float32) * np.float32(2 / 255) - 1
    return dataclasses.replace(example, image=image, annotation=dataclasses.replace(example.annotation, boxes=boxes))


def windows(example: Example, width: int, size: tuple[int, int]) -> Iterator[Example]:
    """A picture cut into windows of the width, and of the aspect of size (rows, cols), that cover it evenly.

    Windows meet; where the picture is no multiple of them, they overlap. One that is larger than the picture is refused.
    """
    rows, cols = example.image.shape[1:]
    height = max(1, round(width * size[0] / size[1]))
    if width > cols or height > rows:
        raise Error(
            f"A window lies in its picture; '{example.id}' has {cols} x {rows} pixels, the window {width} x {height}."
        )
    for i, top in enumerate(_starts(rows, height)):
        for j, left in enumerate(_starts(cols, width)):
            boxes = example.annotation.boxes
            if boxes is not None:
                boxes = layout.clip(boxes, (left, top, left + width, top + height), VISIBLE)
            part = example.image[:, top : top + height, left : left + width]
            annotation = dataclasses.replace(example.annotation, boxes=boxes)
            yield dataclasses.replace(example, id=f"{example.id}-{i}-{j}", image=part, annotation=annotation)


def fields(vocabulary: Vocabulary) -> dict[str, Field]:
    """The model's condition: a layout of the classes of the vocabulary."""
    return layout.fields(_names(vocabulary))


def condition(
    annotations: Iterable[Annotation], fields: Mapping[str, Field], vocabulary: Vocabulary
) -> dict[str, np.ndarray]:
    """The model's fields, one row an annotation."""
    return layout.to_arrays(list(annotations), _names(vocabulary))


def parse_prompt(words: Iterable[str], vocabulary: Vocabulary) -> Annotation:
    """What a person asks for: "class=WBC", a layout that holds one."""
    return Annotation(labels=labels.parse(vocabulary, words))


def training_summary(examples: Sequence[Example]) -> dict[str, Any]:
    """What a model keeps of the layouts that it was trained on: some of them, and the smallest box of each class."""
    found = [e.annotation.boxes for e in examples if e.annotation.boxes is not None and e.annotation.boxes.names]
    smallest = {
        name: [round(side, 1) for side in sides] for name, sides in layout_summary.smallest_sizes(found).items()
    }
    return {"layouts": layout_summary.to_summary(found), "smallest": smallest}


def write(found: Iterable[Example], root: str | Path, vocabulary: Vocabulary, **description: Any) -> int:
    """Write COCO that is a data set too, and return the number of pictures."""
    about = {"domain": "detection", "labels": labels.to_json(vocabulary), **description}
    return coco.write(found, root, _names(vocabulary), **about)


def read_image(path: Path, size: tuple[int, int] = SIZE) -> Example:
    """A single picture without boxes, fitted into (rows, cols)."""
    image, mark = read_photograph(path, size)
    return Example(folders.unique_ids([path.name])[0], image, group=printable(path.stem), provenance=mark)


# ------------------------------------------------------------------------------------------------------------- boxes


def _cut(whole: Example, width: int, size: tuple[int, int], aside: Aside | None) -> list[Example]:
    """The windows of a picture; one that is smaller than a window is put aside."""
    try:
        return list(windows(whole, width, size))
    except Error as problem:
        skip_or_raise(aside, whole.id, str(problem))
        return []


def _wanted(rows: list[boxed.Row], only: Sequence[str]) -> list[boxed.Row]:
    """The pictures that show one or more of every class that is asked for."""
    known = _counted(rows)
    for word in only:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or name != TARGET or value not in known:
            raise Error(
                f"--only takes {TARGET}=NAME with a class that occurs, {', '.join(sorted(known))}; found '{word}'."
            )
        rows = [row for row in rows if value in row.boxes.names]
    if not rows:
        raise Error(f"A data set needs one picture or more; none shows {' and '.join(only) or 'anything'}. Take less.")
    return rows


def _counted(rows: Iterable[boxed.Row]) -> Counter[str]:
    return Counter(name for row in rows for name in row.boxes.names)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint((image.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8))


def _starts(length: int, window: int) -> list[int]:
    return [round(start) for start in np.linspace(0, length - window, math.ceil(length / window))]


def _names(vocabulary: Vocabulary) -> tuple[str, ...]:
    return vocabulary.get(TARGET, ())  # type: ignore[return-value]
