"""COCO: one JSON file that names pictures, classes and boxes (Lin et al. 2014, https://cocodataset.org/#format-data).

    ROOT/instances*.json, also deeper (annotations/instances_train2017.json); else *.coco.json, one a split (Roboflow);
    else any JSON file that has images, annotations with a bbox, and categories
    pictures by file_name, below the JSON's folder or the one above or ROOT, or their images/, JPEGImages/, train2017/ ...

A bbox is x y width height, continuous, as everyone reads it. A crowd (iscrowd) is no object and is counted in a note;
polygons, keypoints and captions are not read. Numbers come back to 1e-9 of a pixel, whole ones exactly. `write` makes
instances.json; an image that is not real says "synthetic": true there, with its provenance.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.example import Error, Note, Provenance
from toolkit.formats import box_claims, boxed, folders
from toolkit.formats.box_checks import StatedBox, parse_number
from toolkit.formats.box_claims import Claim
from toolkit.formats.boxed import Listing, Picture
from toolkit.formats.folders import Aside, skip_or_raise

__all__ = ["FILE", "annotate", "holds", "listing", "read", "write"]

FILE = "instances.json"
BELOW = ("", "images", "JPEGImages", "data")


def holds(root: Path) -> bool:
    """Whether there is a JSON file of boxes."""
    return bool(_files(root))


def listing(root: str | os.PathLike[str], aside: Aside | None = None) -> Listing:
    """The pictures that the JSON files name, and their categories in the order of the files."""
    root = Path(root)
    found = _files(root)
    if not found:
        raise Error(f"COCO boxes stand in a JSON file with images, annotations and categories; '{root}' holds none.")
    claims: list[Claim] = []
    names: dict[str, None] = {}
    counted: Counter[str] = Counter()
    for path in found:
        try:
            content = _content(path)
            categories = _categories(content["categories"])
        except Error as problem:
            skip_or_raise(aside, path.relative_to(root).as_posix(), str(problem))
            continue
        names |= dict.fromkeys(filter(None, categories.values()))
        claims += _claims(root, path, content, categories, aside, counted)
    for kind, count in counted.items():
        warnings.warn(f"{count} {kind} of '{root}' left out.", Note, stacklevel=2)
    return Listing(box_claims.resolve_claims(root, claims, aside), tuple(names))


def annotate(root: Path, pictures: Sequence[Picture], names: Sequence[str]) -> None:
    """Write instances.json of pictures that lie in the folder."""
    boxed.check_class_names(names)
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
                    "category_id": list(names).index(name) + 1,
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
        "categories": [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate(names, 1)],
    }
    text = json.dumps(value, allow_nan=False, default=str, separators=(",", ":"))
    (root / FILE).write_text(text + "\n", encoding="utf-8")


read = boxed.reader(listing)
write = boxed.writer(annotate)
"""images/<id>.png, instances.json and the manifest of a data set."""


# ----------------------------------------------------------------------------------------------------------- details


def _files(root: Path) -> list[Path]:
    """The JSON files of boxes; captions and keypoints of the same pictures are passed over where instances are there."""
    every = box_claims.find_files(root, ".json")
    named = [path for path in every if path.name.lower().startswith("instances")]
    named = named or [path for path in every if path.name.lower().endswith(".coco.json")]
    return named or [path for path in every if _looks_so(path)]


def _looks_so(path: Path) -> bool:
    try:
        content = _content(path)
    except Error:
        return False
    return all(isinstance(line, dict) and "bbox" in line for line in content["annotations"][:9])


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


def _claims(
    root: Path, path: Path, content: Mapping[str, Any], categories: Mapping[object, str], aside: Aside | None,
    counted: Counter[str],
) -> Iterator[Claim]:  # fmt: skip
    source = path.relative_to(root).as_posix()
    boxes: dict[object, list[StatedBox]] = {}
    images = [line if isinstance(line, dict) else {} for line in content["images"]]
    times = Counter(_key(line.get("id")) for line in images)
    for line in content["annotations"]:
        image = _key(line.get("image_id")) if isinstance(line, dict) else None
        if image is None or image not in times:
            counted["annotations without a picture"] += 1
        elif line.get("iscrowd") in (1, True):
            counted["crowds (iscrowd), which are no objects,"] += 1
        else:
            boxes.setdefault(image, []).append(_said(line, categories))
    bases = _bases(root, path)
    for place, line in enumerate(images, 1):
        key = _key(line.get("id"))
        try:
            if key is None or times[key] > 1:
                raise Error(f"An image has an id of its own; {source} gives image {place} {line.get('id')!r:.80}.")
            name = box_claims.locate_picture(root, bases, line.get("file_name"))
        except Error as problem:
            given = line.get("file_name")
            skip_or_raise(
                aside, given[:200] if isinstance(given, str) and given else f"{source} image {place}", str(problem)
            )
            continue
        yield Claim(name, tuple(boxes.get(key, ())), _size(line), made=_made(line))


def _said(line: Mapping[str, Any], categories: Mapping[object, str]) -> StatedBox:
    key, box = _key(line.get("category_id")), line.get("bbox")
    name = categories.get(key, "") if key is not None else ""
    if not name:
        return StatedBox("", fault=f"its class is one of the categories, and {line.get('category_id')!r:.40} is none")
    if not isinstance(box, list) or len(box) != 4:
        return StatedBox(name, fault=f"a bbox is x, y, width and height, and this one is {box!r:.60}")
    x, y, width, height = map(parse_number, box)
    if width < 0 or height < 0:
        return StatedBox(
            name, fault=f"a width and a height are not negative, and this box has {width:g} and {height:g}"
        )
    return StatedBox(name, (x, y, x + width, y + height))


def _bases(root: Path, path: Path) -> list[Path]:
    """Where the pictures of a JSON file may lie, the likeliest first."""
    split = path.stem.removesuffix(".coco").rpartition("_")[2]
    above = [path.parent, path.parent.parent, root]
    inside = [base for base in dict.fromkeys(above) if base == root or root in base.parents]
    return [base / name for base in inside for name in (*BELOW, split, f"images/{split}")]


def _key(value: object) -> object:
    """An id that can be compared: an integer, also as 1.0, or a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
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
