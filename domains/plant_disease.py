"""Plant disease: photographs of leaves by crop, condition and severity.

Class folders are named Crop___condition, as PlantVillage's are; a table of labels may say the same and more (see
`toolkit.formats.folders`). Crop and condition are words in small letters (Pepper,_bell___Bacterial_spot is pepper_bell
and bacterial_spot), the class is a folder name, severity a number from 0 (none) to 4. A folder without ___ names a
condition of a crop that is not stated: a data set that states no crop, or no severity, has no such label.

    fields  crop, condition (an index, or their number for not stated), severity and severity_known
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from toolkit.data import dataset, labels
from toolkit.data.file_names import printable
from toolkit.data.labels import Range, Vocabulary
from toolkit.diffusion.model import Field
from toolkit.example import Annotation, Error, Example
from toolkit.formats import folders
from toolkit.formats.class_tree import JOIN
from toolkit.formats.folders import Aside, Row
from toolkit.formats.photograph import parse_size, read_photograph
from toolkit.settings import Augmentation, Network, Training

__all__ = [
    "AUGMENTATION", "FORMAT", "LABELS", "LATENT_CHANNELS", "NOTICE", "PRESETS", "SIZE", "TARGET", "UNITS", "VOCABULARY",
    "class_folder", "condition", "fields", "foreground", "infer_labels", "parse_prompt", "read", "read_image",
    "vocabulary", "write",
]  # fmt: skip

SIZE = (64, 128)
"""Rows and columns: a leaf lies along its photograph."""

UNITS = ("photographs", "leaves")
"""What a sample and a group of samples are called."""

NOTICE = "Research use only. Generated and edited leaves are training material, not observations."
"""What every report of this domain says."""

LABELS = ("crop", "condition", "severity")
"""The labels that become condition fields."""

TARGET = "class"
FORMAT = "folders"
"""What `generate` writes unless something else is asked for."""

VOCABULARY: dict[str, tuple[str, ...] | Range] = {}
"""Every data set has its own."""

AUGMENTATION = Augmentation(
    flip=0.5, flip_rows=0.5, rotate=8.0, scale=0.08, shift=0.03, gamma=0.1, gain=0.08, border=True
)
LATENT_CHANNELS = 8
PRESETS = {
    "features": {
        "small": (
            Network((24, 48, 64, 96), dropout=0.1),
            Training(steps=800, batch=32, learning_rate=2e-3, weight_decay=0.05, ema=0.99, precision="fp32"),
        ),
    },
    "codec": {
        "small": (
            Network((16, 32, 64)),
            Training(steps=4500, batch=8, learning_rate=2e-3, weight_decay=0.0, ema=0.99, checkpoint_every=250),
        ),
    },
    "denoiser": {
        "small": (
            Network((48, 64, 72), attention=1, attention_head_dim=24, dropout=0.05),
            Training(
                steps=12000, batch=32, sigma_mean=-0.4, sigma_std=1.2, ema=0.9995, drop_each=0.1, checkpoint_every=500
            ),
        ),
    },
}
"""Part -> preset -> network and training, to be trained in this order. Measured on two CPU cores; see the model card."""

SEVERITY = Range(0.0, 4.0)
"""The scale of Esgario et al. (2020); a data set that goes beyond has a longer one."""


def vocabulary(root: str | Path, only: Sequence[str] = (), level: str | None = None, **_: Any) -> Vocabulary:
    """The labels of raw files and their values; those of a folder that diffgraft wrote are the ones it was written with."""
    return _vocabulary(Path(root), _described(Path(root), only, lambda *_: None, level), only)


def read(
    root: str | Path,
    size: str = f"{SIZE[1]}x{SIZE[0]}",
    only: Sequence[str] = (),
    level: str | None = None,
    aside: Aside | None = None,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> Iterator[Example]:
    """Every leaf under root, fitted into width x height without changing its shape.

    only: words such as "crop=coffee"; one name given twice allows either value. level: which folders name the class, such
    as 1, or 1+2 for crop and condition (see `toolkit.formats.class_tree`). aside(name, reason) is told of a file
    that cannot be used, and the rest is read; without it that is an Error. watch(done, of) is called once a file.
    """
    root = Path(root)
    wanted = parse_size(size)
    found = _described(root, only, aside, level)
    done = iter(range(1, len(found) + 1))
    return folders.examples(
        found, _vocabulary(root, found, only), wanted, aside, lambda: watch(next(done), len(found))
    )  # fmt: skip


def fields(vocabulary: Vocabulary) -> dict[str, Field]:
    """The model's condition: those of LABELS that the vocabulary has."""
    return labels.fields(vocabulary, [name for name in LABELS if name in vocabulary])


def condition(
    annotations: Iterable[Annotation], fields: Mapping[str, Field], vocabulary: Vocabulary | None = None
) -> dict[str, np.ndarray]:
    """The model's fields, one row an annotation; a label that is unknown or absent becomes null."""
    return labels.condition(fields, annotations)


def parse_prompt(words: Iterable[str], vocabulary: Vocabulary) -> Annotation:
    """What a person asks for: "crop=coffee", "condition=rust"."""
    return Annotation(labels=infer_labels(labels.parse(vocabulary, words), vocabulary))


def infer_labels(known: Mapping[str, float], vocabulary: Vocabulary) -> dict[str, float]:
    """Labels with what follows from them: crop and condition of a class, the crop where only one is possible, the class.

    Errors: crop, condition and class of which there is no leaf in the vocabulary.
    """
    words = labels.spell(vocabulary, known)
    possible = [
        (name, crop, state)
        for name, (crop, state) in ((name, _split(name)) for name in _names(vocabulary, "class"))
        if words.get("class", name) == name
        and words.get("crop", crop) == crop
        and words.get("condition", state) == state
    ]
    if not possible and "class" in vocabulary:
        found = ", ".join(f"{k}={v}" for k, v in words.items() if k != "severity")
        raise Error(f"Labels name a class of the model, {', '.join(_names(vocabulary, 'class'))}; found {found}.")
    filled = dict(known)
    crops, states = {crop for _, crop, _ in possible}, {state for _, _, state in possible}
    if len(crops) == 1 and "crop" not in words:
        filled |= _index(vocabulary, "crop", *crops)
    if len(states) == 1 and "class" in words:
        filled |= _index(vocabulary, "condition", *states)
    if len(possible) == 1 and "condition" in words:
        filled |= _index(vocabulary, "class", possible[0][0])
    return filled


def class_folder(item: Example | Annotation, vocabulary: Vocabulary) -> str:
    """The class folder of an example, or of what is asked for."""
    return folders.class_folder(item.annotation if isinstance(item, Example) else item, vocabulary)


def write(examples: Iterable[Example], root: str | Path, vocabulary: Vocabulary, **description: Any) -> int:
    """Write class folders that are a data set too, and return the number of leaves."""
    return folders.write(examples, root, vocabulary, **{"domain": "plant_disease", **description})


def read_image(path: Path, size: tuple[int, int] = SIZE) -> Example:
    """A single photograph without labels, fitted into (rows, cols)."""
    image, mark = read_photograph(path, size)
    return Example(folders.unique_ids([path.name])[0], image, group=printable(path.stem), provenance=mark)


def foreground(image: np.ndarray) -> np.ndarray:
    """(rows, cols) boolean: the leaf of a photograph (3, rows, cols) in [-1, 1] on a plain ground.

    What is more colourful than the ground (Otsu 1979, on the spread of the three colours), its largest piece with its
    holes filled: brown, dry tissue is less colourful than green and lies mostly inside.
    """
    spread = (image.max(0) - image.min(0)).astype(float)
    values = np.sort(spread.ravel())
    below = np.arange(1, values.size)
    sums = np.cumsum(values)[:-1]
    gap = sums / below - (values.sum() - sums) / (values.size - below)
    coloured = spread > values[(below * (values.size - below) * gap**2).argmax()]
    pieces, count = ndimage.label(ndimage.binary_closing(coloured, iterations=2))  # type: ignore[misc]  # scipy answers a count alone only with `output`
    if not count:
        return np.ones(spread.shape, bool)
    sizes = ndimage.sum_labels(pieces > 0, pieces, np.arange(1, count + 1))
    leaf = ndimage.binary_fill_holes(pieces == 1 + np.argmax(sizes))
    return np.asarray(ndimage.binary_opening(leaf))


# ------------------------------------------------------------------------------------------------------------- words


def _described(
    root: Path, only: Sequence[str], aside: Aside | None, level: str | None = None
) -> list[tuple[Row, dict[str, str]]]:
    """The photographs that pass `only`, with label -> word."""
    spelled: dict[str, str] = {}
    found = []
    for row in folders.rows(root, aside, level=level):
        try:
            words = _words(row)
        except Error as problem:
            folders.skip_or_raise(aside, row.name, str(problem))
            continue
        if "class" in words:  # the same crop and condition in other letters are one class, spelled as it came first
            words["class"] = spelled.setdefault(words["class"].lower(), words["class"])
        found.append((row, words))
    for name, allowed in _filters(only).items():
        values = {words[name].lower() for _, words in found if name in words}
        if not allowed <= values:
            raise Error(
                f"--only {name}=VALUE takes a value that occurs, {', '.join(sorted(values)) or 'of which there is none'}; "
                f"found '{', '.join(sorted(allowed - values))}'."
            )
        found = [(row, words) for row, words in found if words.get(name, "").lower() in allowed]
    if not found:
        raise Error(
            f"A data set needs one leaf or more; '{root}' has none with {' and '.join(only) or 'usable labels'}."
        )
    return found


def _words(row: Row) -> dict[str, str]:
    """Crop, condition, severity and class of a photograph, as far as they are stated."""
    crop, state = _split(row.words.get("class", ""))
    crop = _key(row.words.get("crop", "")) or crop
    state = _key(row.words.get("condition", "")) or state
    named = ""
    if state:
        named = JOIN.join(word for word in (crop, state) if word)
        for spelling in (row.words.get("class", ""), row.folder):
            if _split(spelling) == (crop, state):
                named = JOIN.join(folders.safe_name(part) for part in spelling.split(JOIN, 1) if part)
                break
    words = {"crop": crop, "condition": state, "severity": _severity(row.words.get("severity", "")), "class": named}
    return {name: word for name, word in words.items() if word}


def _severity(text: str) -> str:
    try:
        value = float(text or "nan")
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise Error(f"A severity is a number, or empty where it is not known; found '{text}'.")
    return "" if math.isnan(value) else repr(value)


def _split(name: str) -> tuple[str, str]:
    """Crop and condition of a class name; without ___ there is no crop."""
    crop, join, state = name.partition(JOIN)
    return (_key(crop), _key(state)) if join else ("", _key(name))


def _key(text: str) -> str:
    return folders.safe_name(text).lower()


def _filters(only: Sequence[str]) -> dict[str, set[str]]:
    allowed: dict[str, set[str]] = {}
    for word in only:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or name not in (*LABELS, TARGET):
            raise Error(f"--only takes NAME=VALUE with a name of {', '.join((*LABELS, TARGET))}; found '{word}'.")
        spelled = {"severity": _severity, "class": str.lower}.get(name, _key)
        allowed.setdefault(name, set()).add(spelled(value))
    return allowed


def _vocabulary(root: Path, found: Sequence[tuple[Row, Mapping[str, str]]], only: Sequence[str]) -> Vocabulary:
    if not only and (root / "manifest.jsonl").is_file() and (root / "dataset.json").is_file():
        facts = dataset.read_info(root)
        if "labels" in facts:
            return labels.from_json(facts["labels"])
    made: dict[str, tuple[str, ...] | Range] = {}
    for name in (*LABELS, TARGET):
        values = {words[name] for _, words in found if name in words}
        if values and name == "severity":
            numbers = [float(value) for value in values]
            made[name] = Range(min(SEVERITY.low, *numbers), max(SEVERITY.high, *numbers))
        elif values:
            made[name] = tuple(sorted(values, key=_split if name == TARGET else str))
    return made


def _names(vocabulary: Vocabulary, name: str) -> tuple[str, ...]:
    return vocabulary.get(name, ())  # type: ignore[return-value]


def _index(vocabulary: Vocabulary, name: str, word: str) -> dict[str, float]:
    """{name: index} of a word; {} where the vocabulary has none."""
    names = _names(vocabulary, name)
    return {name: float(names.index(word))} if word in names else {}
