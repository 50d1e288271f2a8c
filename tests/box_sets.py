"""Small folders of pictures with boxes, as annotation tools write them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.example import Annotation, Boxes, Example, Note
from toolkit.formats import boxed, coco, voc, yolo

FORMATS = {"coco": coco, "voc": voc, "yolo": yolo}


def example(ident: str, corners=(), names=(), size=(24, 32), channels=3, **more) -> Example:
    image = np.random.default_rng(len(ident)).integers(0, 256, (channels, *size)) * (2.0 / 255) - 1
    boxes = Boxes(np.array(corners, float).reshape(-1, 4), tuple(names), size)
    return Example(ident, image.astype(np.float32), Annotation(boxes=boxes), more.pop("group", ident), **more)


def picture(path: Path, size=(32, 24), **options) -> Path:
    """An image file of size (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 140, 60)).save(path, **options)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def found(root: Path, format: str | None = None) -> tuple[dict[str, list], list[tuple[str, str]]]:
    """Name of each picture -> [(class, corners)], and what was put aside. What is said of VOC's first pixel and of
    pictures without a text is not heard."""
    aside: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(--origin|no text and)", Note)
        rows = boxed.rows(root, format, lambda *line: aside.append(line))
    told = {
        row.name: [(n, tuple(c)) for n, c in zip(row.boxes.names, row.boxes.corners.tolist(), strict=True)]
        for row in rows
    }
    return told, aside


def instances(root: Path, images: list, annotations: list, categories=None, name="instances.json", **more) -> Path:
    value = {"images": images, "annotations": annotations, "categories": categories or [{"id": 5, "name": "cell"}]}
    text(root / name, json.dumps(value | more))
    return root


def bbox(*box, image=1, category=5, **more) -> dict:
    return {"id": 1, "image_id": image, "category_id": category, "bbox": list(box), **more}


def image(ident=1, name="a.png", size=(32, 24), **more) -> dict:
    return {"id": ident, "file_name": name, "width": size[0], "height": size[1], **more}


def annotation(*objects, name="a.png", size=(32, 24), extra="") -> str:
    """Pascal VOC of (class, xmin, ymin, xmax, ymax)."""
    body = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for n, x0, y0, x1, y1 in objects
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{extra}{stated}{body}</annotation>"


def same(ours: Example, theirs: Example, tolerance: float) -> None:
    a, b = ours.annotation.boxes, theirs.annotation.boxes
    assert (a.names, a.size) == (b.names, b.size)
    assert np.abs(a.corners - b.corners).max(initial=0) <= tolerance
    assert (ours.id, ours.group, ours.provenance) == (theirs.id, theirs.group, theirs.provenance)
