"""Seeds under a scanner: pictures in one folder a kind.

A domain is a module like this one in `domains/`.

    fields  kind (an index, or their number for not stated)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from toolkit.data import labels
from toolkit.data.labels import Range, Vocabulary
from toolkit.diffusion.model import Field
from toolkit.example import Annotation, Error, Example
from toolkit.settings import Augmentation, Network, Training

# What the rest of diffgraft reads of a domain: its words,
UNITS = ("pictures", "seeds")
NOTICE = "Research use only."
LABELS = ("kind",)  # that a model is told
TARGET = "kind"  # that evaluations tell
VOCABULARY: dict[str, tuple[str, ...] | Range] = {}  # every data set has its own

# and how its models are trained: part -> preset -> network and training, in this order.
AUGMENTATION = Augmentation(flip=0.5, flip_rows=0.5, rotate=180.0, border=True)
PRESETS = {
    "features": {
        "small": (Network((8, 16)), Training(steps=400, batch=32, precision="fp32"))
    },
    "denoiser": {
        "small": (
            Network((16, 32), norm_groups=4, attention_head_dim=8),
            Training(steps=4000, batch=32, drop_each=0.1),
        )
    },
}
SIDE = 32


def vocabulary(root: str | Path, **_: Any) -> Vocabulary:
    """The labels of raw files with their values: the names of the folders."""
    names = tuple(sorted(path.name for path in Path(root).iterdir() if path.is_dir()))
    if not names:
        raise Error(
            f"Seeds lie in one folder a kind; '{root}' has none. Check the path."
        )
    return {"kind": names}


def read(
    root: str | Path,
    aside: Callable[[str, str], object] | None = None,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> Iterator[Example]:
    """Every picture as an Example, (1, 32, 32) in [-1, 1].

    aside(name, reason): told of a file that cannot be used. watch(done, of): progress.
    """
    names, files = vocabulary(root)["kind"], sorted(Path(root).glob("*/*.png"))
    assert isinstance(names, tuple)
    for number, path in enumerate(files, 1):
        watch(number, len(files))
        try:
            picture = Image.open(path).convert("L").resize((SIDE, SIDE))
        except (UnidentifiedImageError, OSError) as problem:
            reason = f"A picture decodes whole; this file does not: {problem}"
            if aside is None:
                raise Error(f"{reason} ({path})") from None
            aside(path.name, reason)
            continue
        image = np.asarray(picture, np.float32)[None] / 127.5 - 1
        known = {"kind": float(names.index(path.parent.name))}
        name = f"{path.parent.name}-{path.stem}"
        # group: the seed, which two pictures of it would share
        yield Example(name, image, Annotation(labels=known), group=name)


def fields(vocabulary: Vocabulary) -> dict[str, Field]:
    """The inputs of a model besides the image."""
    return labels.fields(vocabulary, LABELS)


def condition(
    annotations: Iterable[Annotation],
    fields: Mapping[str, Field],
    vocabulary: Vocabulary | None = None,
) -> dict[str, np.ndarray]:
    """Their values for some images, a row an annotation; what is not known is null."""
    return labels.condition(fields, annotations)


def parse_prompt(words: Iterable[str], vocabulary: Vocabulary) -> Annotation:
    """What a person asks for: "kind=bean"."""
    return Annotation(labels=labels.parse(vocabulary, words))
