"""What YOLO's text files say: which class an index means, folder by folder, and a row a box.

Classes stand in data.yaml (`names`) or, a name a line, in classes.txt, obj.names or _darknet.labels. A list holds for the texts
of its own folder and of those below it, so that each folder that LabelImg labelled is read by its own list; one elsewhere
holds for texts that have none. Lists that hold for one text and disagree are refused by name.

A row is a class and x y width height, in parts of the picture from 0 to 1, to 1.01 as Ultralytics has it; a sixth number,
the confidence or the track of a detection, is passed over and told of, and so are a sixth and a seventh that are both; where
they may as well be the third point of a triangle, the row is unreadable. Of a polygon or a turned box, x1 y1 x2 y2 x3 y3 ...,
the upright box around it is taken, of a pose the box. Every other row is unreadable, as is one in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from toolkit.example import Error
from toolkit.formats import box_claims
from toolkit.formats.box_checks import AROUND, StatedBox, parse_number
from toolkit.formats.box_places import find_files
from toolkit.objects.outlines import around_points

__all__ = ["FILE", "NAMES", "ClassList", "class_lists", "classes_of", "parse_rows", "read_text", "read_yaml"]

FILE = "data.yaml"
NAMES = ("classes.txt", "obj.names", "_darknet.labels")
LARGEST, DEEPEST = 2**18, 20
"""Bytes and brackets in brackets of a data.yaml; more of them is something else, over which the parser would take long."""

LEAST, MOST = -0.01, 1.01
"""Of a part of width or height, as far as rounding takes it; Ultralytics refuses what lies beyond."""

SIXTH = "read without the sixth number of its row, a confidence or a track"
SEVENTH = "read without the sixth and seventh number of its row, a confidence and a track"
"""What is told of a row as detectors write it."""


@dataclass(frozen=True)
class ClassList:
    """One list of classes. names: index -> class. settings: the rest of a data.yaml. pose: numbers of a row with keypoints."""

    path: Path
    names: Mapping[int, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    pose: int = 0


# --------------------------------------------------------------------------------------------------------- the classes


def class_lists(root: Path) -> list[ClassList]:
    """Every list of classes below the root, data.yaml first and the outer ones before the inner. Errors: a broken data.yaml."""
    found: dict[Path, list[ClassList]] = {}
    for path in find_files(root, ".yaml", ".yml"):
        try:
            settings = read_yaml(path)
            if settings.get("names") is not None:
                pose = _pose(settings.get("kpt_shape"))
                found.setdefault(path.parent, []).append(ClassList(path, _names(settings["names"]), settings, pose))
        except Error:
            if path.stem == "data":  # meant, and to be complained of
                raise
    lists = []
    for beside in found.values():  # of several in one folder data.yaml is meant
        lists += [one for one in beside if one.path.stem == "data"] or beside
    for path in find_files(root, ".txt", ".names", ".labels", ""):
        if path.name in NAMES:
            lines = filter(str.strip, read_text(path).splitlines())
            lists.append(ClassList(path, dict(enumerate(map(box_claims.clean_class_name, lines)))))
    return sorted(lists, key=lambda one: (one.path.suffix not in (".yaml", ".yml"), len(one.path.parts), one.path))


def classes_of(root: Path, lists: Sequence[ClassList], *places: Path) -> ClassList:
    """What the indices of one text mean. places: the text, then its picture. Errors: no list, or several that disagree."""
    holding = [one for one in lists if any(one.path.parent in place.parents for place in places)] or list(lists)
    known: dict[int, tuple[str, Path]] = {}
    for one in holding:
        for index, name in one.names.items():
            said, path = known.setdefault(index, (name, one.path))
            if said != name:
                first, second = (p.relative_to(root).as_posix() for p in (path, one.path))
                raise Error(
                    f"Classes of one folder stand in one list; of class {index} {first} says '{said}' and {second} '{name}'. "
                    "Keep the one that the texts were written by, or give each folder its own."
                )
    names = {index: known[index][0] for index in sorted(known)}
    return ClassList(holding[0].path, names, holding[0].settings, max(one.pose for one in holding))


def read_yaml(path: Path) -> dict[str, Any]:
    """A data.yaml. Errors: none, or one that would take long."""
    if path.stat().st_size > LARGEST:
        raise Error(f"A data.yaml is small; {path.name} has {path.stat().st_size} bytes.")
    text = read_text(path)
    if max(accumulate((c in "[{") - (c in "]}") for c in text), default=0) > DEEPEST:
        raise Error(f"A data.yaml is lists of words; {path.name} has more than {DEEPEST} brackets in one another.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError, KeyError) as problem:
        words = " ".join(str(problem).split())
        raise Error(f"{path.name} is a YAML file; this one is not: {words:.200}. Export it again.") from problem
    if not isinstance(value, dict):
        raise Error(f"{path.name} of YOLO says names, train and val; this one holds no such words. Export it again.")
    return value


def read_text(path: Path) -> str:
    """The text of a file. Errors: no UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as problem:
        raise Error(f"YOLO's files are text in UTF-8; {path.name} is not: {problem!s:.120}.") from problem


def _names(value: object) -> dict[int, str]:
    """Index -> class, from a list or a mapping."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    found = {}
    for index, name in pairs:
        key = parse_number(index)
        if (
            not (math.isfinite(key) and key.is_integer() and key >= 0)
            or isinstance(name, bool)
            or not box_claims.clean_class_name(name)
        ):
            raise Error(
                "names of data.yaml are a list of words, or index: word; found "
                f"{type(index).__name__} {str(index)[:40] if isinstance(index, (str, int)) else ''}: {type(name).__name__}. "
                "Put words such as no, on or null in quotes."
            )
        found[int(key)] = box_claims.clean_class_name(name)
    return found


def _pose(value: object) -> int:
    """Numbers of a line that has keypoints; 0 without."""
    if isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 < n < 10000 for n in value):
        return 5 + value[0] * value[1]
    return 0


# --------------------------------------------------------------------------------------------------------------- rows


def parse_rows(text: str, known: ClassList) -> tuple[StatedBox, ...]:
    """The boxes of one text."""
    return tuple(_row(line, known) for line in text.splitlines() if line.strip())


def _row(line: str, known: ClassList) -> StatedBox:
    fields = line.split()
    index, *values = map(parse_number, fields)
    if "," in line or ";" in line:
        return StatedBox(
            "", fault=f"numbers of a row stand apart by spaces and have a point, and this row is '{line.strip():.80}'"
        )
    name = known.names.get(int(index), "") if math.isfinite(index) and index.is_integer() else ""
    if not name:
        return StatedBox("", fault=f"its class is an index of names, and '{fields[0]:.40}' is none")
    if not all(map(math.isfinite, values)):
        return StatedBox(name, fault=f"a row is of finite numbers, and this one is '{' '.join(fields):.80}'")
    if len(values) in (4, 5) or len(fields) == known.pose:
        return _box(name, values[:4], SIXTH if len(values) == 5 else "")
    if len(values) < 6 or len(values) % 2:
        return StatedBox(
            name, fault=f"a row is a class with 4 numbers or a polygon of 3 points or more; this has {len(values)}"
        )
    if len(values) == 6 and values[5].is_integer() and 0 <= values[4] <= 1 and values[5] >= 0:
        tracked = _box(name, values[:4], SEVENTH)
        if not tracked.fault and values[5] > 1:  # which no part of the picture is
            return tracked
        if not tracked.fault:
            return StatedBox(
                name,
                fault=f"a row is a box or a polygon, and '{' '.join(fields):.80}' may be either: "
                "a triangle, or a box with a confidence and a track",
            )
    return _within(name, values) or StatedBox(name, around_points(values), how=AROUND)


def _box(name: str, values: Sequence[float], how: str) -> StatedBox:
    x, y, width, height = values
    if width < 0 or height < 0:
        return StatedBox(
            name, fault=f"a width and a height are not negative, and this box has {width:g} and {height:g}"
        )
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    # Where a sixth number is first of all, as some detectors had it, the five are no box, and few of them lie inside.
    return _within(name, (*values, *corners) if how else values) or StatedBox(name, corners, how=how)


def _within(name: str, values: Sequence[float]) -> StatedBox | None:
    """What is said of a row that is not in parts of the picture; None of one that is."""
    beyond = [value for value in values if not LEAST <= value <= MOST]
    if not beyond:
        return None
    return StatedBox(
        name,
        fault=f"numbers of a row are parts of width and height from 0 to 1, and {beyond[0]:g} is none; pixels are not read",
    )
