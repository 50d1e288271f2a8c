"""YOLO: a text file a picture, a line a box, and data.yaml (Ultralytics, https://docs.ultralytics.com/datasets/detect).

    ROOT/data.yaml                    names, a list or index -> name; train, val, test: folders of pictures or lists of them
    ROOT/images/**/<name>.jpg with ROOT/labels/**/<name>.txt, or the text beside the picture
    without data.yaml: classes.txt, obj.names or _darknet.labels, one name a line, and every picture below ROOT
    ROOT/<folder>/...                 several of these, each read by its own list of classes

What a row and a list of classes say stands in `yolo_text`. A picture whose text is missing or empty holds nothing, as
Ultralytics has it; but where no picture of a split has a text, the split is not annotated and left out, with a note, and
`texts.textless` puts aside the pictures without a text that may have one, or are none of the set.
A `path`, train or val that leads out of the folder, as
other machines' do, is looked for inside. Corners are read to 1e-4 of a pixel. `write` makes labels/<id>.txt with ten decimals
and data.yaml.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from toolkit.example import Boxes, Error, Note
from toolkit.formats import box_claims, box_places, boxed, folders
from toolkit.formats.box_claims import Claim, Row
from toolkit.formats.boxed import Listing, Picture
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.formats.photograph import SUFFIXES
from toolkit.formats.texts import pairs, textless
from toolkit.formats.texts.pairs import FOLDER
from toolkit.formats.yolo_text import FILE, NAMES, ClassList, class_lists, classes_of, parse_rows, read_text

__all__ = ["FILE", "FOLDER", "annotate", "holds", "listing", "read", "write"]

SPLITS = ("train", "val", "valid", "test")
MOST_CLASSES = 10_000
"""Indices that are kept as they are; one beyond them is a number of something else."""


def holds(root: Path) -> bool:
    """Whether there is a data.yaml with names, or a list of names with texts beside."""
    try:
        lists = class_lists(root)
    except Error:  # a data.yaml that is broken is meant
        return True
    return any(one.settings for one in lists) or bool(lists and box_places.find_files(root, ".txt"))


def listing(root: str | os.PathLike[str], aside: Aside | None = None) -> Listing:
    """The pictures of the splits, or all of the folder, and the classes in the order of their indices."""
    root = Path(root)
    lists = class_lists(root)
    if not lists:
        raise Error(f"YOLO boxes need the names of their classes; '{root}' has no data.yaml and no classes.txt.")
    claims = []
    pictures = _pictures(root, lists, aside and _once(aside))
    for name, label in pictures.items():
        try:
            known = None if label is None else classes_of(root, lists, label, root / name)
            said = () if label is None or known is None else parse_rows(read_text(label), known)
        except Error as problem:
            skip_or_raise(aside, name, str(problem))
            continue
        claims.append(Claim(name, said, parts=True))
    made = [_rounded(row) for row in box_claims.resolve_claims(root, claims, aside)]
    return Listing(made, *_classes(root, lists))


def annotate(
    root: Path, pictures: Sequence[Picture], names: Sequence[str], numbers: Mapping[str, int] | None = None
) -> None:
    """Write labels/<id>.txt and data.yaml of pictures that lie in the folder. numbers: class -> index, its place in `names`
    without it; an index between them that no class has gets a name, because readers want one for each."""
    boxed.check_class_names(names)
    indices = numbers or {name: index for index, name in enumerate(names)}
    (root / FOLDER).mkdir()
    for picture in pictures:
        rows, cols = picture.size
        lines = []
        for (x0, y0, x1, y1), name in zip(picture.boxes.corners.tolist(), picture.boxes.names, strict=True):
            parts = ((x0 + x1) / 2 / cols, (y0 + y1) / 2 / rows, (x1 - x0) / cols, (y1 - y0) / rows)
            lines.append(f"{indices[name]} {' '.join(f'{part:.10f}' for part in parts)}\n")
        (root / FOLDER / f"{picture.id}.txt").write_text("".join(lines), encoding="utf-8")
    made = sum(picture.made is not None for picture in pictures)
    known = {index: name for name, index in indices.items()}
    every = {index: known.get(index, f"unused {index}") for index in range(max(known, default=-1) + 1)}
    # Without `path`, which Ultralytics would look for among its own data sets; train and val, because it wants both.
    value = {"train": "images", "val": "images", "nc": len(every), "names": every, "synthetic": made}
    head = f"# {made} of {len(pictures)} pictures are synthetic: made by a model, not acquired.\n" if made else ""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    (root / FILE).write_text(head + text, encoding="utf-8")


read = boxed.reader(listing)
write = boxed.writer(annotate)
"""images/<id>.png, labels/<id>.txt, data.yaml and the manifest of a data set."""


def _classes(root: Path, lists: Sequence[ClassList]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of all lists, and the index of each where the lists agree."""
    try:
        known = classes_of(root, lists).names
    except Error:  # each folder has its own
        names = dict.fromkeys(name for one in lists for _, name in sorted(one.names.items()) if name)
        return tuple(names), {}
    names = dict.fromkeys(filter(None, known.values()))
    once = len(names) == len(known) and max(known, default=0) < MOST_CLASSES
    return tuple(names), {name: index for index, name in known.items()} if once else {}


# ------------------------------------------------------------------------------------------------------------- files


def _pictures(root: Path, lists: Sequence[ClassList], aside: Aside | None) -> dict[str, Path | None]:
    """Name of each picture -> its text, or None where it has none."""
    described = [one for one in lists if one.settings]
    if not described:
        return _settled(root, lists, _labelled(root, "", _names_below(root, root, aside)), aside)
    found: dict[str, Path | None] = {}
    for one in described:
        groups = {split: _entries(root, one, split, aside) for split in SPLITS if one.settings.get(split)}
        if not any(groups.values()):
            # Of several data.yaml each speaks of its own folder.
            groups = {"": _names_below(root, one.path.parent if len(described) > 1 else root, aside)}
        for split, names in groups.items():
            found |= _labelled(root, split, names)
    for one in lists:  # a folder that no data.yaml speaks of
        place = one.path.parent.parent if one.path.parent.name == FOLDER else one.path.parent
        if not one.settings and not any(other.path.parent in (place, *place.parents) for other in described):
            names = [name for name in _names_below(root, place, aside) if name not in found]
            found |= _labelled(root, place.name, names)
    return _settled(root, lists, found, aside)


def _names_below(root: Path, place: Path, aside: Aside | None) -> list[str]:
    for name in box_places.find_links_out(root, place, *SUFFIXES):
        skip_or_raise(
            aside,
            name,
            "A picture lies in its own folder; this one is a link that leads out of it. Copy the picture there.",
        )
    return [path.relative_to(root).as_posix() for path in box_places.find_files(place, *SUFFIXES, inside=root)]


def _labelled(root: Path, split: str, names: Sequence[str]) -> dict[str, Path | None]:
    """Name of each picture of a split -> its text; of none where no picture has one, which is not annotated."""
    labels = {name: next(iter(pairs.texts_of(root, name)), None) for name in names}
    if not labels or any(labels.values()):
        return labels
    if not split:
        raise Error(f"YOLO boxes stand in a text file a picture; '{root}' has none for its {len(labels)} pictures.")
    line = f"No picture of '{split}' has a text file: {len(labels)} that are not annotated left out of '{root}'."
    warnings.warn(line, Note, stacklevel=5)
    return {}


def _settled(
    root: Path, lists: Sequence[ClassList], found: Mapping[str, Path | None], aside: Aside | None
) -> dict[str, Path | None]:
    """The pictures whose text, or whose lack of one, leaves no doubt."""
    layout = "described"
    if not any(one.settings for one in lists):
        layout = "labelimg" if any(one.path.name == "classes.txt" for one in lists) else "darknet"
    kept = textless.settle(root, found, frozenset(NAMES), layout, aside)
    for name, label in list(kept.items()):
        texts = pairs.texts_of(root, name) if label is not None else []
        said = [path for path in texts if path == label or path.stat().st_size == 0 or pairs.is_rows(path)]
        if len(said) > 1 and not pairs.same_rows(said):
            del kept[name]
            first, second = (path.relative_to(root).as_posix() for path in said[:2])
            reason = f"A picture has one text; of this one {first} and {second} say different things. Keep the one that is right."
            skip_or_raise(aside, name, reason)
    return kept


def _entries(root: Path, one: ClassList, split: str, aside: Aside | None) -> list[str]:
    """The pictures of a split: of folders, or of lists of files."""
    given, base, found = one.settings[split], one.path.parent, []
    for entry in given if isinstance(given, list) else [given]:
        place = _inside(root, base, one.settings.get("path"), entry)
        if place is None:
            line = f"'{split}' of {one.path.name} is a folder or a list below '{root}'; {entry!r:.120} is none and left out."
            warnings.warn(line, Note, stacklevel=5)
        elif place.is_dir():
            found += _names_below(root, place, aside)
        else:
            lines = [line.strip() for line in read_text(place).splitlines() if line.strip()]
            bases = (place.parent, base, root)
            for line, name in zip(lines, box_places.locate_pictures(root, [(bases, x) for x in lines]), strict=True):
                if isinstance(name, Error):
                    skip_or_raise(aside, line[:200], str(name))
                else:
                    found.append(name)
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


def _once(aside: Aside) -> Aside:
    """Tells of each file once, also where two splits are one folder."""
    told: set[tuple[str, str]] = set()

    def tell(name: str, reason: str) -> None:
        if (name, reason) not in told:
            told.add((name, reason))
            aside(name, reason)

    return tell


def _rounded(row: Row) -> Row:
    """Corners to 1e-4 of a pixel: what is whole in pixels is no longer so in parts with a few decimals."""
    boxes = Boxes(row.boxes.corners.round(4), row.boxes.names, row.boxes.size)
    return dataclasses.replace(row, boxes=boxes)
