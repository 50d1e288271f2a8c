"""The detection domain: raw files of three formats to a data set, crops, and what a model keeps of its layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffgraft.preparation.prepare import prepare
from domains import detection
from toolkit.data import dataset
from toolkit.diffusion.model import BOXES, OBJECTS
from toolkit.example import Annotation, Boxes, Error, Example
from toolkit.formats import coco, voc, yolo

SIZE = (60, 80)
RNG = np.random.default_rng(0)


def _picture(ident: str, *boxes: tuple[str, float, float, float, float], size: tuple[int, int] = SIZE) -> Example:
    """A grey picture with a rectangle for each box, its brightness by its class."""
    image = np.full((3, *size), -0.5, np.float32)
    for name, x0, y0, x1, y1 in boxes:
        image[:, int(y0) : int(y1), int(x0) : int(x1)] = 0.2 if name == "cell" else 0.8
    corners = np.array([box[1:] for box in boxes], float).reshape(-1, 4)
    return Example(ident, image, Annotation(boxes=Boxes(corners, tuple(box[0] for box in boxes), size)), ident)


PICTURES = (
    _picture("one", ("cell", 8, 8, 28, 24), ("dot", 60, 40, 68, 48)),
    _picture("two", ("cell", 40, 20, 72, 52)),
    _picture("three"),
)


@pytest.mark.parametrize("format", [coco, voc, yolo])
def test_any_format_becomes_the_same_data_set(tmp_path: Path, format) -> None:
    format.write(PICTURES, tmp_path / "raw", ("cell", "dot"))
    for name in ("manifest.jsonl", "dataset.json"):
        (tmp_path / "raw" / name).unlink()  # as it would come from elsewhere
    found = prepare("detection", tmp_path / "raw", tmp_path / "set", size="40x32")
    assert (found.samples, found.objects) == (3, {"cell": 2, "dot": 1})
    assert found.vocabulary == {"class": ("cell", "dot")}
    read = {e.id: e for e in dataset.read(tmp_path / "set")}
    boxes = read["one"].annotation.boxes
    assert boxes.size == (32, 40) and boxes.names == ("cell", "dot")
    # 80 x 60 in 40 x 32: half the size, a row of padding above and below
    assert np.allclose(boxes.corners, [[4, 5, 14, 13], [30, 21, 34, 25]], atol=0.51)
    image = read["one"].image.mean(0)
    assert image[8:11, 6:12].min() > 0 > image[15:20, 18:28].max() and image[22:24, 31:33].min() > 0.5
    assert read["three"].annotation.boxes.names == ()
    labels = {ident: e.annotation.labels["class"] for ident, e in read.items()}
    assert (labels["one"], labels["two"]) == (1.0, 0.0) and np.isnan(labels["three"])
    about = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert about["objects"] == {"cell": 2, "dot": 1}
    assert coco.read and {e.id for e in coco.read(tmp_path / "set")} == set(read)  # the data set is COCO, too


def test_windows_cover_a_picture_and_keep_what_can_be_seen_in_them() -> None:
    whole = _picture("w", ("cell", 8, 8, 28, 24), ("dot", 38, 10, 48, 20))
    parts = list(detection.windows(whole, 40, (30, 40)))
    assert [part.image.shape for part in parts] == [(3, 30, 40)] * 4
    assert {part.group for part in parts} == {"w"} and len({part.id for part in parts}) == 4
    first, second = parts[0].annotation.boxes, parts[1].annotation.boxes
    assert first.names == ("cell",) and first.size == (30, 40)  # a fifth of the dot is not enough of it
    assert second.names == ("dot",) and np.allclose(second.corners, [[0, 10, 8, 20]])
    joined = np.concatenate([np.concatenate([p.image for p in parts[i : i + 2]], 2) for i in (0, 2)], 1)
    assert np.array_equal(joined, whole.image)


def test_windows_of_a_picture_that_is_no_multiple_overlap() -> None:
    parts = list(detection.windows(_picture("w", size=(30, 50)), 20, (20, 20)))
    assert len(parts) == 6 and all(part.image.shape == (3, 20, 20) for part in parts)


def test_every_window_of_a_large_picture_has_a_name_of_its_own() -> None:
    parts = list(detection.windows(_picture("w", size=(96, 96)), 8, (8, 8)))
    assert len({part.id for part in parts}) == len(parts) == 144


def test_a_picture_smaller_than_a_window_is_put_aside(tmp_path: Path) -> None:
    coco.write(
        [PICTURES[0], _picture("small", ("cell", 2, 2, 12, 12), size=(30, 30))], tmp_path / "raw", ("cell", "dot")
    )
    found = prepare("detection", tmp_path / "raw", tmp_path / "set", size="32x32", crop=40)
    assert [source for source, _ in found.aside] == ["small"] and "30 x 30 pixels" in found.aside[0][1]
    assert found.samples == 4 and found.groups == 1
    with pytest.raises(Error, match="8 pixels wide or more"):
        prepare("detection", tmp_path / "raw", tmp_path / "none", crop=4)
    assert not (tmp_path / "none").exists()


def test_a_condition_is_made_of_boxes_and_the_vocabulary() -> None:
    known = {"class": ("cell", "dot")}
    found = detection.condition([e.annotation for e in PICTURES], detection.fields(known), known)
    assert found[OBJECTS][0, :3].tolist() == [0, 1, 2] and np.allclose(found[BOXES][0, 0], [0.1, 8 / 60, 0.35, 0.4])


def test_a_model_keeps_layouts_and_its_smallest_boxes() -> None:
    kept = json.loads(json.dumps(detection.training_summary(PICTURES)))
    assert kept["smallest"]["dot"] == [8.0, 8.0] and kept["layouts"]


@pytest.mark.parametrize("image", [Image.new("RGB", (80, 60), "white")])
def test_one_picture_without_boxes(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "p.png")
    found = detection.read_image(tmp_path / "p.png", (32, 40))
    assert found.image.shape == (3, 32, 40) and found.annotation.boxes is None
