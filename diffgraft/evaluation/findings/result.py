"""What the experiments on films with findings found, as values and as lines for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffgraft.evaluation.results import Terms, format_experiment, format_number, numbers
from diffgraft.evaluation.subgroups import Distance
from toolkit.data.labels import Vocabulary
from toolkit.evaluation.interval import Interval
from toolkit.example import Example

__all__ = [
    "TERMS",
    "ClassFigures",
    "FilmSet",
    "Films",
    "FindingFigures",
    "FindingsAlignment",
    "FindingsResult",
    "Row",
    "Subgroup",
    "TextLikeness",
]

TERMS = Terms("films", "a class", "mean AUROC", "classifier")


@dataclass(frozen=True)
class Films:
    """Films for the sheets of a report: set -> films, the held-out real ones first; and what names them."""

    sets: Mapping[str, Sequence[Example]]
    findings: Sequence[str]
    classes: Sequence[str]
    vocabulary: Vocabulary
    notice: str


@dataclass(frozen=True)
class Row:
    """One arm, over all seeds.

    macro: mean area over the findings of the test; spread: its standard deviation over seeds; gain: less the
    reference's, paired, None for the reference itself. findings: name -> area. classes: name -> balanced accuracy;
    class_gain likewise. parts: part of the test -> area of what is abnormal there. The others as in
    `diffgraft.evaluation.experiment.Trained`.
    """

    arm: str
    generator: str
    macro: Interval
    spread: float
    gain: Interval | None
    findings: Mapping[str, Interval]
    classes: Mapping[str, Interval]
    class_gain: Mapping[str, Interval | None]
    parts: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float | None = None
    overhead: float | None = None
    generation: float | None = None

    @property
    def shots(self) -> int:
        """Findings are learned from all films."""
        return 0

    @property
    def score(self) -> Interval:
        return self.macro

    @property
    def score_gain(self) -> Interval | None:
        return self.gain


@dataclass(frozen=True)
class FindingsResult:
    """What `classify` found of films with findings. counts: finding of the test -> (present, absent)."""

    rows: tuple[Row, ...]
    counts: Mapping[str, tuple[int, int]]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        header = f"mean AUROC of {len(self.counts)} findings ({', '.join(self.counts)}), gain over real + classical"
        classes = ["; ".join(f"{name} {value} balanced" for name, value in row.classes.items()) for row in self.rows]
        table = [(row, f"{each}  ") for row, each in zip(self.rows, classes, strict=True)]
        return format_experiment(self, {header: table})

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return {"findings": {name: list(count) for name, count in self.counts.items()}, **numbers(self)}


@dataclass(frozen=True)
class FindingFigures:
    """One finding in one set: how many films have it stated present and absent, the area, and that of shuffled labels."""

    name: str
    present: int
    absent: int
    area: Interval
    shuffled: Interval


@dataclass(frozen=True)
class ClassFigures:
    """One class, such as the view, in one set: how many films have it stated, how often it is named rightly.

    shuffled: the accuracy of shuffled labels; majority: that of always naming the most frequent one of the training.
    """

    name: str
    images: int
    accuracy: Interval
    balanced: Interval
    shuffled: Interval
    majority: float | None


@dataclass(frozen=True)
class FilmSet:
    """One set of films. macro: mean area of the findings that every set has enough films of."""

    images: int
    groups: int
    findings: tuple[FindingFigures, ...]
    classes: tuple[ClassFigures, ...]
    macro: Interval


@dataclass(frozen=True)
class Subgroup:
    """One part of SYNTHETIC and of the held-out films: is what is abnormal, and the first class, seen there as elsewhere?"""

    name: str
    fake: int
    held_out: int
    abnormal: Interval
    abnormal_held_out: Interval
    named: Interval
    named_held_out: Interval
    distance: Distance | None = None


@dataclass(frozen=True)
class TextLikeness:
    """Cosines of films and texts in one set: of a film with its own text, and with another film's.

    ahead: part of the films that are nearer to their own text than to another one, ties one half; chance is 0.5.
    """

    pairs: int
    own: Interval
    shuffled: Interval
    ahead: Interval


@dataclass(frozen=True)
class FindingsAlignment:
    """What `alignment` found of films with findings; str() is for the terminal.

    sets: the held-out real films first. judged: the name of SYNTHETIC among them. common: findings of the macro figure.
    named: the class that parts are compared by. parts, likeness: nothing without a model that can say it.
    """

    sets: Mapping[str, FilmSet]
    judged: str
    common: tuple[str, ...]
    named: str
    parts: tuple[Subgroup, ...]
    likeness: Mapping[str, TextLikeness]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def lead(self) -> str:
        """The figures of the held-out films and of SYNTHETIC in one line."""
        parts = []
        for name in (next(iter(self.sets)), self.judged):
            accuracies = [f", {c.name} named {c.accuracy}" for c in self.sets[name].classes if c.name == self.named]
            parts.append(f"{name}: mean AUROC {self.sets[name].macro}{''.join(accuracies)}")
        return "; ".join(parts)

    def __str__(self) -> str:
        lines = [str(self.protocol["classifier"])]
        common = ", ".join(self.common) or "no finding"
        for name, films in self.sets.items():
            lines.append(f"{name}: {films.images} films, mean AUROC {films.macro} ({common})")
            lines += [
                f"  {each.name:28} AUROC {each.area!s:20} shuffled {each.shuffled!s:20} "
                f"{each.present} present, {each.absent} absent"
                for each in films.findings
                if each.area.value is not None
            ]
            lines += [
                f"  {each.name:28} named {each.accuracy!s:20} shuffled {each.shuffled!s:20} "
                f"majority {format_number(each.majority)}, {each.images} films"
                for each in films.classes
            ]
        lines += [
            f"text and film, {name}: cosine {each.own}, of shuffled texts {each.shuffled}; nearer to its own {each.ahead}"
            for name, each in self.likeness.items()
        ]
        return "\n".join([*lines, *(f"note: {each}" for each in self.warnings)])

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return dataclasses.asdict(self)
