"""What the experiments on films with findings found, as values and as lines for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffgraft.evaluation.classes.result import signed
from diffgraft.evaluation.subgroups import Distance
from toolkit.evaluation.anomaly import Interval

__all__ = ["Agreement", "Finding", "Gain", "Gains", "Likeness", "Named", "Part", "Told"]


@dataclass(frozen=True)
class Finding:
    """One finding in one set: how many films have it stated present and absent, the area, and that of shuffled labels."""

    name: str
    present: int
    absent: int
    area: Interval
    shuffled: Interval


@dataclass(frozen=True)
class Named:
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
class Told:
    """One set of films. macro: mean area of the findings that every set has enough films of."""

    images: int
    groups: int
    findings: tuple[Finding, ...]
    classes: tuple[Named, ...]
    macro: Interval


@dataclass(frozen=True)
class Part:
    """One part of FAKE and of the held-out films: is what is abnormal, and the first class, told there as elsewhere?"""

    name: str
    fake: int
    held_out: int
    abnormal: Interval
    abnormal_held_out: Interval
    named: Interval
    named_held_out: Interval
    distance: Distance | None = None


@dataclass(frozen=True)
class Likeness:
    """Cosines of films and texts in one set: of a film with its own text, and with another film's.

    ahead: part of the films that are nearer to their own text than to another one, ties one half; chance is 0.5.
    """

    pairs: int
    own: Interval
    shuffled: Interval
    ahead: Interval


@dataclass(frozen=True)
class Agreement:
    """What `alignment` found of films with findings; str() is for the terminal.

    sets: the held-out real films first. judged: the name of FAKE among them. common: findings of the macro figure.
    named: the class that parts are told by. parts, likeness: nothing without a model that can say it.
    """

    sets: Mapping[str, Told]
    judged: str
    common: tuple[str, ...]
    named: str
    parts: tuple[Part, ...]
    likeness: Mapping[str, Likeness]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    @property
    def numbers(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Gain:
    """One arm, over all seeds.

    macro: mean area over the findings of the test; spread: its standard deviation over seeds; gain: less the
    reference's, paired, None for the reference itself. findings: name -> area. classes: name -> balanced accuracy;
    class_gain likewise. parts: part of the test -> area of what is abnormal there. seconds, overhead, generation: as in
    `classify_result.Row`.
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


@dataclass(frozen=True)
class Gains:
    """What `classify` found of films with findings. counts: finding of the test -> (present, absent)."""

    rows: tuple[Gain, ...]
    counts: Mapping[str, tuple[int, int]]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"test: {self.protocol['test']}"]
        lines.append(
            f"mean AUROC of {len(self.counts)} findings ({', '.join(self.counts)}), gain over real + classical"
        )
        for row in self.rows:
            others = "; ".join(f"{name} {value} balanced" for name, value in row.classes.items())
            lines.append(f"  {row.arm:36} {row.macro!s:22} {signed(row.gain):24} {others}  {row.generator}".rstrip())
        return "\n".join([*lines, *(f"note: {each}" for each in self.warnings)])

    @property
    def numbers(self) -> dict[str, Any]:
        return {
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "findings": {name: list(count) for name, count in self.counts.items()},
            "protocol": dict(self.protocol),
            "warnings": list(self.warnings),
        }


def _lines(result: Agreement) -> list[str]:
    lines = [str(result.protocol["classifier"])]
    for name, told in result.sets.items():
        lines.append(
            f"{name}: {told.images} films, mean AUROC {told.macro} ({', '.join(result.common) or 'no finding'})"
        )
        for each in told.findings:
            if each.area.value is not None:
                lines.append(
                    f"  {each.name:28} AUROC {each.area!s:20} shuffled {each.shuffled!s:20} "
                    f"{each.present} present, {each.absent} absent"
                )
        for each in told.classes:
            lines.append(
                f"  {each.name:28} named {each.accuracy!s:20} shuffled {each.shuffled!s:20} "
                f"majority {_number(each.majority)}, {each.images} films"
            )
    for name, each in result.likeness.items():
        lines.append(
            f"text and film, {name}: cosine {each.own}, of shuffled texts {each.shuffled}; nearer to its own {each.ahead}"
        )
    return [*lines, *(f"note: {each}" for each in result.warnings)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def lead(result: Agreement) -> str:
    """The figures of every set, in one line."""
    return "; ".join(
        f"{name}: mean AUROC {told.macro}"
        + "".join(f", {each.name} named {each.accuracy}" for each in told.classes if each.name == result.named)
        for name, told in ((name, result.sets[name]) for name in (next(iter(result.sets)), result.judged))
    )


def stated(findings: Sequence[Finding]) -> list[str]:
    """Names of the findings that have an area."""
    return [each.name for each in findings if each.area.value is not None]
