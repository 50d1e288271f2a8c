"""COCO: one JSON file that names pictures, classes and boxes (Lin et al. 2014, https://cocodataset.org/#format-data).

    ROOT/instances*.json, also deeper (annotations/instances_train2017.json); else *.coco.json, one a split (Roboflow);
    else any JSON file that has images, annotations with a bbox, and categories
    pictures by file_name, below the JSON's folder or the one above or ROOT, or their images/, JPEGImages/, train2017/ ...

A bbox is x y width height, continuous, as everyone reads it. Where it is missing, or has no area, the box around the polygons
or the mask in runs is taken, with a note; keypoints alone give none. CVAT's box with a `rotation` becomes the upright one around
it. A crowd (iscrowd) is many objects without a box of each, and its picture is put aside; but where most objects of a file
are called so, or CVAT wrote it, which calls every mask so, they are single objects. A file whose boxes all lie between 0 and 1
has them in parts of the picture and is refused. Captions are not read. A category that no box has and that is no more than
the supercategory of others (Roboflow's first one) is no class. Numbers come back to 1e-9 of a pixel, whole ones exactly.

`write` makes instances.json with ids from 1, because pycocotools takes an annotation of id 0 for one without a match; an
image that is not real says "synthetic": true there, with its provenance.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.example import Error, Note, Provenance
from toolkit.formats import box_claims, box_places, boxed, folders
from toolkit.formats.box_checks import AROUND, StatedBox, parse_number
from toolkit.formats.box_claims import Claim
from toolkit.formats.boxed import Listing, Picture
from toolkit.formats.folders import Aside, skip_or_raise
from toolkit.objects.outlines import around_segmentation, around_turned

__all__ = ["FILE", "annotate", "holds", "listing", "read", "write"]

FILE = "instances.json"
CROWDS = "called a crowd (iscrowd) and read as one object, as its file calls most or CVAT calls every mask"
"""What is told of a box that is taken from a crowd."""

BELOW = ("", "images", "JPEGImages", "data")


TURNED = (
    "Label Studio puts a turned box of a picture that is not square beside its object in COCO's file, without a word of the turn. "
    "Where boxes were turned, export YOLOv8 OBB and read that."
)


@dataclass(frozen=True)
class CocoFile:
    """What one JSON file says.

    source: its name below the root. boxes: id of the image -> its boxes. strays: annotations of no image. unused: categories
    that are the supercategory of others and that no box of the file has.
    """

    source: str
    path: Path
    images: Sequence[Mapping[str, Any]]
    categories: Mapping[object, str]
    boxes: Mapping[object, tuple[StatedBox, ...]]
    strays: int
    contributor: str
    unused: frozenset[str]


def holds(root: Path) -> bool:
    """Whether there is a JSON file of boxes."""
    return bool(_files(root))


def listing(root: str | os.PathLike[str], aside: Aside | None = None) -> Listing:
    """The pictures that the JSON files name, and their categories in the order of the files."""
    root = Path(root)
    found = _files(root)
    if not found:
        raise Error(f"COCO boxes stand in a JSON file with images, annotations and categories; '{root}' holds none.")
    files: list[CocoFile] = []
    for path in found:
        try:
            files.append(_read(root, path))
        except Error as problem:
            skip_or_raise(aside, path.relative_to(root).as_posix(), str(problem))
    counted = sum(file.strays for file in files)
    if counted:
        warnings.warn(f"{counted} annotations without a picture of '{root}' left out.", Note, stacklevel=2)
    if any(file.contributor == "Label Studio" for file in files):
        warnings.warn(TURNED, Note, stacklevel=2)
    rows = box_claims.resolve_claims(root, _claims(root, files, aside), aside)
    return Listing(rows, *_classes(files))


def annotate(
    root: Path, pictures: Sequence[Picture], names: Sequence[str], numbers: Mapping[str, int] | None = None
) -> None:
    """Write instances.json of pictures that lie in the folder. numbers: class -> category id, from 1 without it."""
    boxed.check_class_names(names)
    ids = numbers or {name: number for number, name in enumerate(names, 1)}
    made = sum(picture.made is not None for picture in pictures)
    images, annotations = [], []
    for number_, picture in enumerate(pictures, 1):
        rows, cols = picture.size
        line: dict[str, Any] = {"id": number_, "file_name": picture.file, "width": cols, "height": rows}
        if picture.made is not None:
            line |= {"synthetic": True, "provenance": dataclasses.asdict(picture.made)}
        images.append(line | {"group": picture.group})
        for corners, name in zip(picture.boxes.corners.tolist(), picture.boxes.names, strict=True):
            x, y, width, height = corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number_,
                    "category_id": ids[name],
                    "bbox": [_short(value) for value in (x, y, width, height)],
                    "area": _short(width * height),
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    value = {
        "info": _info(pictures, made),
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": ids[name], "name": name, "supercategory": ""} for name in names],
    }
    text = json.dumps(value, allow_nan=False, default=str, separators=(",", ":"))
    (root / FILE).write_text(text + "\n", encoding="utf-8")


read = boxed.reader(listing)
write = boxed.writer(annotate)
"""images/<id>.png, instances.json and the manifest of a data set."""


# ----------------------------------------------------------------------------------------------------------- details


def _files(root: Path) -> list[Path]:
    """The JSON files of boxes; captions and keypoints of the same pictures are passed over where instances are there."""
    every = box_places.find_files(root, ".json")
    named = [path for path in every if path.name.lower().startswith("instances")]
    named = named or [path for path in every if path.name.lower().endswith(".coco.json")]
    return named or [path for path in every if _looks_so(path)]


def _looks_so(path: Path) -> bool:
    try:
        content = _content(path)
    except Error:
        return False
    lines = content["annotations"][:9]
    return all(isinstance(line, dict) and ("bbox" in line or "category_id" in line) for line in lines)


def _read(root: Path, path: Path) -> CocoFile:
    """What a JSON file says. Errors: none of COCO, or boxes in parts of the picture."""
    content = _content(path)
    categories = _categories(content["categories"])
    images = [line if isinstance(line, dict) else {} for line in content["images"]]
    known = {_key(line.get("id")) for line in images} - {None}
    lines: dict[object, list[Mapping[str, Any]]] = {}
    by_name = _ids_by_name(images, known)
    strays = 0
    for line in content["annotations"]:
        image = _key(line.get("image_id")) if isinstance(line, dict) else None
        if image not in known:  # a number is never taken for a name: it may be of an image that was taken out
            image = by_name.get(image) if isinstance(image, str) else None
        if image is None:
            strays += 1
        else:
            lines.setdefault(image, []).append(line)
    info = content.get("info")
    contributor = str(info.get("contributor", "")) if isinstance(info, dict) else ""
    every = [line for some in lines.values() for line in some]
    crowded = 2 * sum(_is_crowd(line) for line in every) > len(every)
    boxes = {image: tuple(_said(line, categories, crowded) for line in some) for image, some in lines.items()}
    if contributor != "diffgraft":
        _check_pixels([box for some in boxes.values() for box in some])
    parents = {
        box_claims.clean_class_name(line.get("supercategory"))
        for line in content["categories"]
        if line.get("supercategory") != line.get("name")
    }
    unused = {name for name in categories.values() if name in parents} - {
        box.name for some in boxes.values() for box in some
    }
    source = path.relative_to(root).as_posix()
    return CocoFile(source, path, images, categories, boxes, strays, contributor, frozenset(unused))


def _ids_by_name(images: Sequence[Mapping[str, Any]], known: set[object]) -> dict[object, object]:
    """Name or stem of a picture, which some tools write for its id -> its id, where one picture has it."""
    found: dict[object, set[object]] = {}
    for line in images:
        name, ident = line.get("file_name"), _key(line.get("id"))
        if isinstance(name, str) and ident is not None:
            path = PurePosixPath(name.replace("\\", "/"))
            for word in {name, path.name, path.stem}:
                found.setdefault(word, set()).add(ident)
    return {word: min(idents, key=str) for word, idents in found.items() if len(idents) == 1 and word not in known}


def _classes(files: Sequence[CocoFile]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of the files in the order of their ids, and the id of each where all files agree, from 1 on."""
    used = {box.name for file in files for some in file.boxes.values() for box in some}
    ids: dict[str, set[object]] = {}
    for file in files:
        for key, name in file.categories.items():
            if name and (name in used or name not in file.unused):
                ids.setdefault(name, set()).add(key)
    numbers = {name: key for name, keys in ids.items() for key in keys if type(key) is int and len(keys) == 1}
    if len(numbers) < len(ids) or len(set(numbers.values())) < len(ids) or min(numbers.values(), default=0) < 0:
        return tuple(ids), {}
    first = 1 if 0 in numbers.values() else 0
    return tuple(sorted(numbers, key=numbers.__getitem__)), {name: key + first for name, key in numbers.items()}


def _check_pixels(boxes: Sequence[StatedBox]) -> None:
    """Refuse boxes in parts of width and height, as Azure writes them."""
    corners = [value for box in boxes if not box.fault for value in box.corners]
    if corners and max(corners) <= 1.01 and any(value % 1 for value in corners):
        raise Error(
            f"A bbox is in pixels; all {len(boxes)} of this file lie between 0 and 1, as parts of the picture do. Multiply them by "
            "the width and height of their image."
        )


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as problem:
        words = " ".join(str(problem).split())
        raise Error(f"COCO is a JSON file; this one is not: {words:.200}. Export it again.") from problem
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        raise Error("COCO JSON has the lists images, annotations and categories; this file has not. Export it again.")
    return content


def _categories(lines: Sequence[Any]) -> dict[object, str]:
    """Category id -> name, "" for one without."""
    found: dict[object, str] = {}
    for line in lines:
        key = _key(line.get("id")) if isinstance(line, dict) else None
        if key is None or key in found:
            raise Error(f"A category has an id of its own; found {line!r:.200}. Export it again.")
        found[key] = box_claims.clean_class_name(line.get("name"))
    return found


def _claims(root: Path, files: Sequence[CocoFile], aside: Aside | None) -> Iterator[Claim]:
    """What all files say of their pictures. They are looked for together: who is found by its path is nobody else."""
    wanted = [(_bases(root, file.path), line.get("file_name")) for file in files for line in file.images]
    places = iter(box_places.locate_pictures(root, wanted))
    for file in files:
        times = Counter(_key(line.get("id")) for line in file.images)
        for number, line in enumerate(file.images, 1):
            key, place, given = _key(line.get("id")), next(places), line.get("file_name")
            if key is None or times[key] > 1:
                place = Error(
                    f"An image has an id of its own; {file.source} gives image {number} {line.get('id')!r:.80}."
                )
            elif file.strays and not file.boxes.get(key):
                place = Error(
                    f"An annotation is of an image of its file; {file.strays} of {file.source} are of none, and this picture, which "
                    "has no other, may be theirs. Give them the id of their image."
                )
            if isinstance(place, Error):
                named = given[:200] if isinstance(given, str) and given else f"{file.source} image {number}"
                skip_or_raise(aside, named, str(place))
            else:
                yield Claim(place, file.boxes.get(key, ()), _size(line), made=_made(line))


def _said(line: Mapping[str, Any], categories: Mapping[object, str], crowded: bool) -> StatedBox:
    """One box. crowded: most objects of the file are called crowds, so that they are none."""
    key = _key(line.get("category_id"))
    name = categories.get(key, "") if key is not None else ""
    if not name:
        return StatedBox("", fault=f"its class is one of the categories, and {line.get('category_id')!r:.40} is none")
    words = line.get("attributes")
    attributes = words if isinstance(words, dict) else {}
    crowd = _is_crowd(line)
    if crowd and not crowded and "occluded" not in attributes:  # which CVAT says of each object
        return StatedBox(name, fault="a crowd (iscrowd) is many objects, without a box of each")
    box = line.get("bbox")
    stated = tuple(map(parse_number, box)) if isinstance(box, list) and len(box) == 4 else ()
    x, y, width, height = stated or (math.nan,) * 4
    if math.isfinite(x + y) and 0 < width < math.inf and 0 < height < math.inf:
        corners = (x, y, x + width, y + height)
        turn = parse_number(attributes.get("rotation", 0))
        if math.isfinite(turn) and turn % 180:
            return StatedBox(name, around_turned(corners, turn), how=AROUND)
        return StatedBox(name, corners, how=CROWDS if crowd else "")
    try:
        return StatedBox(name, around_segmentation(line.get("segmentation")), how=CROWDS if crowd else AROUND)
    except Error as problem:
        words = str(problem) if line.get("segmentation") else ""
    if not stated:
        return StatedBox(
            name, fault=f"a bbox is x, y, width and height, and this one is {box!r:.60}. {words}".strip(". ")
        )
    if width < 0 or height < 0:
        return StatedBox(
            name, fault=f"a width and a height are not negative, and this box has {width:g} and {height:g}"
        )
    return StatedBox(name, (x, y, x + width, y + height))


def _is_crowd(line: Mapping[str, Any]) -> bool:
    return line.get("iscrowd") in (1, True)


def _bases(root: Path, path: Path) -> list[Path]:
    """Where the pictures of a JSON file may lie, the likeliest first."""
    split = path.stem.removesuffix(".coco").rpartition("_")[2]
    above = [path.parent, path.parent.parent, root]
    inside = [base for base in dict.fromkeys(above) if base == root or root in base.parents]
    return [base / name for base in inside for name in (*BELOW, split, f"images/{split}")]


def _key(value: object) -> object:
    """An id that can be compared: an integer, also as 1.0 or "1", or a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str):
        return int(value) if value.isdecimal() and str(int(value[:20])) == value else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _size(line: Mapping[str, Any]) -> tuple[int, int] | None:
    rows, cols = parse_number(line.get("height")), parse_number(line.get("width"))
    if not (math.isfinite(rows) and math.isfinite(cols) and rows > 0 and cols > 0):
        return None
    return (round(rows), round(cols))


def _made(line: Mapping[str, Any]) -> Provenance | None:
    words = {"synthetic": str(line.get("synthetic", "no"))}
    if isinstance(line.get("provenance"), dict):
        words["provenance"] = json.dumps(line["provenance"])
    return folders.stated_provenance(words)


def _info(pictures: Sequence[Picture], made: int) -> dict[str, Any]:
    told = {
        0: "Pictures with boxes.",
        len(pictures): "Synthetic pictures, not acquired, with the boxes they were asked for.",
    }
    origins = [picture.made for picture in pictures if picture.made is not None]
    return {
        "description": told.get(made, f"Pictures with boxes; {made} of {len(pictures)} are synthetic."),
        "version": "1.0",
        "contributor": "diffgraft",
        "synthetic": made,
        **({"models": sorted({origin.model for origin in origins})} if origins else {}),
        **({"procedures": sorted({origin.procedure for origin in origins})} if origins else {}),
    }


def _short(value: float) -> float | int:
    return int(value) if value.is_integer() else value
