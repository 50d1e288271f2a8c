"""What the alignment of layouts found, as values and as lines for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.evaluation.interval import Interval
from toolkit.methods.faithfulness import STATES

__all__ = ["LayoutAlignment", "LayoutSet"]


@dataclass(frozen=True)
class LayoutSet:
    """What the judges see in one set of images beside its boxes, means over the judges with 95 % intervals.

    boxes: class -> how many were asked for. ap50, ap: class, or "mean" of the classes that occur -> average precision.
    states: class or "all" -> what became of a box (STATES) -> share. hallucinated: class or "all" -> found objects that
    touch no box, for each box of the class. by_size: lower side of a size class -> share matched; counts: how many boxes.
    saturated: class or "all" -> share of boxes that are more saturated than the rest of their image, if it has colour.
    seeds: mean AP50 of each judge.
    """

    images: int
    boxes: Mapping[str, int]
    ap50: Mapping[str, Interval]
    ap: Mapping[str, Interval]
    states: Mapping[str, Mapping[str, Interval]]
    hallucinated: Mapping[str, Interval]
    by_size: Mapping[int, Interval]
    counts: Mapping[int, int]
    saturated: Mapping[str, Interval]
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class LayoutAlignment:
    """What `alignment` found; str() is for the terminal. sets: the held-out real pictures first, shuffled layouts last.

    smallest: class or "all" -> the side of the smallest box that works, see `faithfulness.smallest_faithful`.
    """

    sets: Mapping[str, LayoutSet]
    judged: str
    names: tuple[str, ...]
    smallest: Mapping[str, float | None]
    protocol: Mapping[str, Any]

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return _plain(dataclasses.asdict(self))

    def __str__(self) -> str:
        lines = [str(self.protocol["judges"]), "AP50 of each class, mean AP50, mean AP50:95"]
        for name, found in self.sets.items():
            each = "  ".join(f"{k} {found.ap50[k]}" for k in self.names)
            lines.append(f"  {name:30} {each}  mean {found.ap50['mean']}  {found.ap['mean']}  ({found.images} images)")
        lines.append("boxes that were asked for: " + ", ".join(STATES) + "; found unasked, for each")
        for name, found in self.sets.items():
            for kind in (*self.names, "all"):
                shares = "  ".join(f"{found.states[kind][state]!s:20}" for state in STATES)
                lines.append(f"  {name:30} {kind:12} {shares}  {found.hallucinated[kind]}")
        works = ", ".join(f"{k} {'none' if v is None else f'{v:g} px'}" for k, v in self.smallest.items())
        lines.append(f"smallest box that works: {works}   (matched at least half as often as real ones)")
        shares = ", ".join(f"{name} {found.saturated['all']}" for name, found in self.sets.items() if found.saturated)
        return "\n".join([*lines, f"boxes more saturated than the rest of their image: {shares or '-'}"])


def _plain(value: Any) -> Any:
    """For JSON: NaN is None, and what names a size is a text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and value != value else value
