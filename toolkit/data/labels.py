"""The labels of a data set or model: how they are spelled, and the condition fields that they become. Numpy only.

dataset.json and model.json keep a vocabulary under "labels", for example

    {"crop": ["coffee"], "condition": ["healthy", "rust"], "severity": [0, 4]}

A list of words names the values of a class, whose label is the index; two numbers are the range of a number. Unknown is
null in files, NaN in Annotation.labels, and the null of its field in a condition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from toolkit.diffusion.model import Field
from toolkit.example import Annotation, Error

__all__ = [
    "Range", "Vocabulary", "condition", "describe", "fields", "from_json", "parse", "spell", "to_json", "translate",
    "vocabulary_of",
]  # fmt: skip


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a label that is a number."""

    low: float
    high: float


Vocabulary = Mapping[str, "tuple[str, ...] | Range"]
"""Label name -> names of its values in the order of their indices, or the range of a number."""


def from_json(value: Mapping[str, Sequence[Any]]) -> dict[str, tuple[str, ...] | Range]:
    """A vocabulary as it stands in a file. Errors: an entry that is neither words nor two numbers."""
    vocabulary: dict[str, tuple[str, ...] | Range] = {}
    for name, entry in value.items():
        if entry and all(type(word) is str for word in entry) and len(set(entry)) == len(entry):
            vocabulary[name] = tuple(entry)
        elif len(entry) == 2 and all(type(end) in (int, float) for end in entry) and entry[0] < entry[1]:
            vocabulary[name] = Range(float(entry[0]), float(entry[1]))
        else:
            raise Error(
                f"A label has distinct names for its values, or a low and a high number; '{name}' has {entry!r}. "
                "Prepare the data set again."
            )
    return vocabulary


def to_json(vocabulary: Vocabulary) -> dict[str, list[Any]]:
    """The inverse of `from_json`."""
    return {
        name: [entry.low, entry.high] if type(entry) is Range else list(entry)  # type: ignore[arg-type]
        for name, entry in vocabulary.items()
    }


def vocabulary_of(facts: Mapping[str, Any], domain: ModuleType) -> Vocabulary:
    """The vocabulary in a dataset.json or model.json; one written before they had any has that of its domain."""
    return from_json(facts["labels"]) if facts.get("labels") else domain.VOCABULARY


def fields(vocabulary: Vocabulary, names: Iterable[str]) -> dict[str, Field]:
    """The condition fields of some labels: one a class, two a number (its value and whether it is known)."""
    found: dict[str, Field] = {}
    for name in names:
        entry = vocabulary[name]
        if type(entry) is Range:
            found |= {name: Field((), "float32", 0.0), f"{name}_known": Field((), "float32", 0.0)}
        else:
            found[name] = Field((), "int64", len(entry))  # type: ignore[arg-type]
    return found


def condition(known: Mapping[str, Field], annotations: Iterable[Annotation]) -> dict[str, np.ndarray]:
    """The arrays of the fields, one row an annotation; a label that is unknown or absent becomes its field's null."""
    rows = [a.labels for a in annotations]
    arrays = {}
    for name, field in known.items():
        values = np.array([row.get(name.removesuffix("_known"), math.nan) for row in rows], float)
        missing = np.isnan(values)
        if name.endswith("_known"):
            values = 1.0 - missing
        arrays[name] = np.where(missing, field.null, values).astype(field.dtype)
    return arrays


def parse(vocabulary: Vocabulary, words: Iterable[str]) -> dict[str, float]:
    """Labels from words such as "crop=coffee" or "severity=2"; a class may also be given by its index.

    Errors: a name that is unknown or given twice, a value that the label does not have.
    """
    labels: dict[str, float] = {}
    for word in words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if not equals or name in labels:
            raise Error(f"A label is set once, as NAME=VALUE; found '{word}'. Known: {', '.join(vocabulary)}.")
        if name not in vocabulary:
            raise Error(f"A label of this model is one of {', '.join(vocabulary)}; found '{name}'.")
        labels[name] = _value(name, vocabulary[name], text)
    return labels


def spell(vocabulary: Vocabulary, labels: Mapping[str, float]) -> dict[str, str]:
    """Labels as a person writes them; what is unknown is left out."""
    known = {name: value for name, value in labels.items() if not math.isnan(value) and name in vocabulary}
    return {
        name: f"{value:g}" if type(vocabulary[name]) is Range else vocabulary[name][int(value)]  # type: ignore[index]
        for name, value in known.items()
    }


def translate(labels: Mapping[str, float], theirs: Vocabulary, ours: Vocabulary) -> dict[str, float]:
    """Labels of one vocabulary in another, by the names of their values; what the other does not know is left out."""
    found: dict[str, float] = {}
    for name, word in spell(theirs, labels).items():
        entry = ours.get(name)
        if type(entry) is Range and type(theirs[name]) is Range:
            if entry.low <= labels[name] <= entry.high:
                found[name] = labels[name]
        elif type(entry) is tuple and word in entry:
            found[name] = float(entry.index(word))
    return found


def describe(vocabulary: Vocabulary, labels: Mapping[str, float]) -> str:
    """Labels as a caption: the names of values, numbers with theirs; what a longer name says already is left out."""
    words = spell(vocabulary, labels)
    names = {value.lower() for name, value in words.items() if type(vocabulary[name]) is not Range}
    said = [
        f"{name} {value}" if type(vocabulary[name]) is Range else value
        for name, value in words.items()
        if type(vocabulary[name]) is Range or not any(value.lower() in other for other in names - {value.lower()})
    ]
    return ", ".join(said) or "no labels set"


def _value(name: str, entry: tuple[str, ...] | Range, text: str) -> float:
    if type(entry) is not Range:
        names: tuple[str, ...] = entry  # type: ignore[assignment]
        lowered = [word.lower() for word in names]
        if text.lower() in lowered:
            return float(lowered.index(text.lower()))
        if text.isdecimal() and int(text) < len(names):
            return float(text)
        raise Error(f"The label {name} is one of {', '.join(names)}; found '{text}'. Write it as in the data set.")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not entry.low <= value <= entry.high:
        raise Error(
            f"The label {name} is a number from {entry.low:g} to {entry.high:g}; found '{text}'. Give one in that range."
        )
    return value
