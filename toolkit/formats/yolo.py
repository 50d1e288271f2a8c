"""YOLO: a text file a picture, a line a box, and data.yaml (Ultralytics, https://docs.ultralytics.com/datasets/detect).

    ROOT/data.yaml                    names, a list or index -> name; train, val, test: folders of pictures or lists of them
    ROOT/images/**/<name>.jpg with ROOT/labels/**/<name>.txt, or the text beside the picture
    without data.yaml: classes.txt, obj.names or _darknet.labels, one name a line, and every picture below ROOT

A line is class, x and y of the middle, width, height, in parts of the picture as it is shown; of a polygon, class x1 y1
x2 y2 ..., the extent is taken, of a pose (data.yaml has kpt_shape) the box. A picture whose text is missing or empty holds
nothing, as Ultralytics has it; but where no picture of a split has a text, the split is not annotated and left out, with a
note. A `path`, train or val that leads out of the folder, as other machines' do, is looked for inside. Corners are read to
1e-4 of a pixel. `write` makes labels/<id>.txt with ten decimals and data.yaml.
"""

from __future__ import annotations

import dataclasses
import math
import os
import posixpath
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from toolkit.data.file_names import find_file
from toolkit.example import Boxes, Error, Note
from toolkit.formats import box_claims, boxed, folders
from toolkit.formats.box_checks import StatedBox, parse_number
from toolkit.formats.box_claims import Claim, Row
from toolkit.formats.boxed import Listing, Picture
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.formats.photograph import SUFFIXES

__all__ = ["FILE", "FOLDER", "annotate", "holds", "listing", "read", "write"]

FILE, FOLDER = "data.yaml", "labels"
SPLITS = ("train", "val", "valid", "test")
NAMES = ("classes.txt", "obj.names", "_darknet.labels")
LARGEST, DEEPEST = 2**18, 20
"""Bytes and brackets in brackets of a data.yaml; more of them is something else, over which the parser would take long."""


def holds(root: Path) -> bool:
    """Whether there is a data.yaml with names, or a list of names with texts beside."""
    return _settings(root) is not None or (_listed(root) is not None and bool(box_claims.find_files(root, ".txt")))


def listing(root: str | os.PathLike[str], aside: Aside | None = None) -> Listing:
    """The pictures of the splits, or all of the folder, and the classes in the order of their indices."""
    root = Path(root)
    path = _settings(root)
    if path is None:
        path, settings = _listed(root), {}
        if path is None:
            raise Error(f"YOLO boxes need the names of their classes; '{root}' has no data.yaml and no classes.txt.")
        names = dict(enumerate(box_claims.clean_class_name(line) for line in _text(path).splitlines() if line.strip()))
    else:
        settings = _yaml(path)
        names = _names(settings["names"])
    pose = _pose(settings.get("kpt_shape"))
    claims = []
    for name, label in _pictures(root, path.parent, settings, aside).items():
        try:
            said = () if label is None else _said(_text(label), names, pose)
        except Error as problem:
            skip_or_raise(aside, name, str(problem))
            continue
        claims.append(Claim(name, said, parts=True))
    made = [_rounded(row) for row in box_claims.resolve_claims(root, claims, aside)]
    return Listing(made, tuple(dict.fromkeys(filter(None, names.values()))))


def annotate(root: Path, pictures: Sequence[Picture], names: Sequence[str]) -> None:
    """Write labels/<id>.txt and data.yaml of pictures that lie in the folder."""
    boxed.check_class_names(names)
    (root / FOLDER).mkdir()
    for picture in pictures:
        rows, cols = picture.size
        lines = []
        for (x0, y0, x1, y1), name in zip(picture.boxes.corners.tolist(), picture.boxes.names, strict=True):
            parts = ((x0 + x1) / 2 / cols, (y0 + y1) / 2 / rows, (x1 - x0) / cols, (y1 - y0) / rows)
            lines.append(f"{list(names).index(name)} {' '.join(f'{part:.10f}' for part in parts)}\n")
        (root / FOLDER / f"{picture.id}.txt").write_text("".join(lines), encoding="utf-8")
    made = sum(picture.made is not None for picture in pictures)
    # Without `path`, which Ultralytics would look for among its own data sets; train and val, because it wants both.
    value = {"train": "images", "val": "images", "nc": len(names), "names": dict(enumerate(names)), "synthetic": made}
    head = f"# {made} of {len(pictures)} pictures are synthetic: made by a model, not acquired.\n" if made else ""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    (root / FILE).write_text(head + text, encoding="utf-8")


read = boxed.reader(listing)
write = boxed.writer(annotate)
"""images/<id>.png, labels/<id>.txt, data.yaml and the manifest of a data set."""


# ------------------------------------------------------------------------------------------------------------- files


def _settings(root: Path) -> Path | None:
    """The YAML file with the classes: data.yaml before others, the folder's own before deeper ones."""
    found = [path for path in box_claims.find_files(root, ".yaml", ".yml") if len(path.relative_to(root).parts) <= 2]
    found.sort(key=lambda path: (path.stem != "data", len(path.parts), path.name))
    for path in found:
        try:
            if _yaml(path).get("names") is not None:
                return path
        except Error:
            if path.stem == "data":  # meant, and to be complained of
                return path
    return None


def _listed(root: Path) -> Path | None:
    return next(
        (path for path in box_claims.find_files(root, ".txt", ".names", ".labels", "") if path.name in NAMES), None
    )


def _yaml(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST:
        raise Error(f"A data.yaml is small; {path.name} has {path.stat().st_size} bytes.")
    text = _text(path)
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


def _text(path: Path) -> str:
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


def _pictures(root: Path, base: Path, settings: Mapping[str, Any], aside: Aside | None) -> dict[str, Path | None]:
    """Name of each picture -> its text, or None where it has none."""
    groups = {split: _entries(root, base, settings, split, aside) for split in SPLITS if settings.get(split)}
    if not any(groups.values()):
        groups = {"": [path.relative_to(root).as_posix() for path in box_claims.find_files(root, *SUFFIXES)]}
    found: dict[str, Path | None] = {}
    used: set[Path] = set()
    for split, names in groups.items():
        labels = {name: _label(root, name) for name in names}
        if labels and not any(labels.values()):
            if not split:
                raise Error(
                    f"YOLO boxes stand in a text file a picture; '{root}' has none for its {len(labels)} pictures."
                )
            line = (
                f"No picture of '{split}' has a text file: {len(labels)} that are not annotated left out of '{root}'."
            )
            warnings.warn(line, Note, stacklevel=4)
            continue
        found |= labels
        used |= {path for path in labels.values() if path is not None}
    for path in box_claims.find_files(root, ".txt"):
        if path.parent.name == FOLDER and path.name not in NAMES and path not in used and not _image_of(root, path):
            skip_or_raise(
                aside, path.relative_to(root).as_posix(), "A text file is of a picture of its name; there is none."
            )
    return found


def _entries(root: Path, base: Path, settings: Mapping[str, Any], split: str, aside: Aside | None) -> list[str]:
    """The pictures of a split: of folders, or of lists of files."""
    given, found = settings[split], []
    above = settings.get("path")
    for entry in given if isinstance(given, list) else [given]:
        place = _inside(root, base, above, entry)
        if place is None:
            line = f"'{split}' of data.yaml is a folder or a list below '{root}'; {entry!r:.120} is none and left out."
            warnings.warn(line, Note, stacklevel=5)
        elif place.is_dir():
            found += [path.relative_to(root).as_posix() for path in box_claims.find_files(place, *SUFFIXES)]
        else:
            for line in filter(None, map(str.strip, _text(place).splitlines())):
                try:
                    found.append(box_claims.locate_picture(root, (place.parent, base, root), line))
                except Error as problem:
                    skip_or_raise(aside, line[:200], str(problem))
    return list(dict.fromkeys(found))


def _inside(root: Path, base: Path, above: object, entry: object) -> Path | None:
    """What an entry of data.yaml means, if it lies in the folder; ../ of another place's layout is looked for inside."""
    if not isinstance(entry, str):
        return None
    words = entry.replace("\\", "/")
    tries = [words, posixpath.normpath(words).lstrip("./") or "."]
    bases = [base, root]
    if isinstance(above, str) and not folders.OUTSIDE.match(posixpath.normpath(above.replace("\\", "/"))):
        bases.insert(0, base / above)
    inside = root.resolve()
    for place in (place / name for name in tries for place in bases):
        try:
            if place.resolve().is_relative_to(inside) and (
                place.is_dir() or (place.suffix == ".txt" and place.is_file())
            ):
                return root / place.resolve().relative_to(inside)
        except (OSError, ValueError):  # too long a name, or one with a zero byte
            continue
    return None


def _label(root: Path, name: str) -> Path | None:
    """The text of a picture: in the folder labels in place of the last images, else beside it or in labels beside it."""
    path = root / name
    parts = list(path.relative_to(root).parts)
    tries = [path.with_suffix(".txt"), path.parent / FOLDER / f"{path.stem}.txt"]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = FOLDER
        tries.insert(0, root.joinpath(*parts).with_suffix(".txt"))
    inside = root.resolve()
    met = (find_file(place.parent, place.name) for place in tries)
    return next((place for place in met if place is not None and place.resolve().is_relative_to(inside)), None)


def _image_of(root: Path, label: Path) -> bool:
    """Whether a text in a folder labels has a picture, read or not."""
    parts = label.relative_to(root).parts
    last = len(parts) - 2 - parts[-2::-1].index(FOLDER)
    places = (
        root.joinpath(*parts[:last], "images", *parts[last + 1 :]),
        root.joinpath(*parts[:last], *parts[last + 1 :]),
    )
    tries = (place.with_suffix(s) for place in places for x in SUFFIXES for s in (x, x.upper()))
    return any(find_file(place.parent, place.name) for place in tries)


# ------------------------------------------------------------------------------------------------------------- lines


def _said(text: str, names: Mapping[int, str], pose: int) -> tuple[StatedBox, ...]:
    return tuple(_box(line.split(), names, pose) for line in text.splitlines() if line.strip())


def _box(fields: Sequence[str], names: Mapping[int, str], pose: int) -> StatedBox:
    index, *values = map(parse_number, fields)
    name = names.get(int(index), "") if math.isfinite(index) and index.is_integer() else ""
    if not name:
        return StatedBox("", fault=f"its class is an index of names, and '{fields[0]:.40}' is none")
    if not all(map(math.isfinite, values)):
        return StatedBox(name, fault=f"a line is of finite numbers, and this one is '{' '.join(fields):.80}'")
    if len(values) == 4 or len(fields) == pose:
        x, y, width, height = values[:4]
        if width < 0 or height < 0:
            return StatedBox(
                name, fault=f"a width and a height are not negative, and this box has {width:g} and {height:g}"
            )
        return StatedBox(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) < 6 or len(values) % 2:
        return StatedBox(
            name, fault=f"a line is a class with 4 numbers or a polygon of 3 points or more; this has {len(values)}"
        )
    return StatedBox(name, (min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])))


def _rounded(row: Row) -> Row:
    """Corners to 1e-4 of a pixel: what is whole in pixels is no longer so in parts with a few decimals."""
    boxes = Boxes(row.boxes.corners.round(4), row.boxes.names, row.boxes.size)
    return dataclasses.replace(row, boxes=boxes)
