"""Boxes as the tools of the field write them: what they mean is read, and what cannot be read never becomes a picture that shows less.

Right values of tools that are not installed here were seen with datumaro 1.13.12, label-studio-sdk 2.1.2, supervision 0.31.0,
ultralytics 8.4.190 and pycocotools 2.0.11.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from box_sets import FORMATS, annotation, bbox, example, found, image, instances, picture, text
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgraft.preparation.convert import convert
from diffgraft.preparation.prepare import prepare
from toolkit.example import Error, Note
from toolkit.formats import boxed
from toolkit.objects.outlines import around_points, around_runs, around_segmentation, around_turned

quiet = pytest.mark.filterwarnings("ignore::toolkit.example.Note")


def boxes_of(root: Path, **more) -> dict[str, list]:
    """Name of each picture -> [(class, corners)], rounded."""
    return {
        row.name: [(n, tuple(np.round(c, 3).tolist())) for n, c in zip(row.boxes.names, row.boxes.corners, strict=True)]
        for row in boxed.rows(root, **more)
    }


# ------------------------------------------------------------------------------------------- a list of classes a folder


def labelled(root: Path, day: str, file: str, order: list[str]) -> None:
    """A folder of one picture with a WBC, and its own list of classes."""
    picture(root / day / f"{day}.png")
    text(root / day / f"{day}.txt", f"{order.index('WBC')} 0.5 0.5 0.25 0.5\n")
    yaml = file.endswith(".yaml")
    text(root / day / file, f"train: .\nnames: [{', '.join(order)}]\n" if yaml else "\n".join(order) + "\n")


@pytest.mark.parametrize("second", ["classes.txt", "obj.names", "_darknet.labels", "data.yaml"])
@pytest.mark.parametrize("first", ["classes.txt", "obj.names", "_darknet.labels", "data.yaml"])
def test_each_folder_is_read_by_its_own_classes(tmp_path, first, second):
    labelled(tmp_path, "day1", first, ["RBC", "WBC"])
    labelled(tmp_path, "day2", second, ["WBC", "RBC", "Platelets"])
    told, aside = found(tmp_path, "yolo")
    assert told == {f"{day}/{day}.png": [("WBC", (12, 6, 20, 18))] for day in ("day1", "day2")}
    assert aside == []
    assert set(boxed.names(tmp_path, "yolo")) == {"RBC", "WBC", "Platelets"}
    convert(tmp_path, tmp_path / "out", "coco", source="yolo")
    assert {n for boxes in boxes_of(tmp_path / "out").values() for n, _ in boxes} == {"WBC"}


@pytest.mark.parametrize(
    ("one", "other"), [("data.yaml", "classes.txt"), ("classes.txt", "labels/classes.txt"), ("a.yaml", "b.yaml")]
)
def test_lists_of_classes_that_disagree_are_refused_by_name(tmp_path, one, other):
    picture(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.25 0.5\n")
    for file, order in ((one, ["RBC", "WBC"]), (other, ["WBC", "RBC"])):
        text(tmp_path / file, f"names: [{', '.join(order)}]\n" if file.endswith("yaml") else "\n".join(order))
    with pytest.raises(Error, match=f"class 0 {one} says 'RBC' and {other} 'WBC'"):
        convert(tmp_path, tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()


def test_lists_of_classes_that_agree_are_one_and_a_list_elsewhere_holds_for_texts_without_one(tmp_path):
    picture(tmp_path / "train" / "images" / "a.png")
    picture(tmp_path / "valid" / "images" / "b.png")
    text(tmp_path / "train" / "labels" / "a.txt", "1 0.5 0.5 0.25 0.5\n")
    text(tmp_path / "valid" / "labels" / "b.txt", "2 0.5 0.5 0.25 0.5\n")
    text(tmp_path / "train" / "labels" / "classes.txt", "x\ny\nz\n")
    text(tmp_path / "obj.names", "x\ny\n")
    told, aside = found(tmp_path)
    assert [boxes[0][0] for boxes in told.values()] == ["y"] and "index of names, and '2'" in aside[0][1]
    (tmp_path / "obj.names").unlink()
    assert [boxes[0][0] for boxes in found(tmp_path)[0].values()] == ["y", "z"]


# ------------------------------------------------------------------------------------------------------- rows of YOLO

ROWS = {
    "a confidence": ("1 0.5 0.5 0.25 0.5 0.873", (12, 6, 20, 18), "without the sixth number"),
    "a track": ("1 0.5 0.5 0.25 0.5 17", (12, 6, 20, 18), "without the sixth number"),
    "a turned box": ("1 0.5 0.25 0.625 0.5 0.5 0.75 0.375 0.5", (12, 6, 20, 18), "the upright box around"),
    "a polygon": ("1 0.375 0.25 0.625 0.25 0.5 0.75", (12, 6, 20, 18), "the upright box around"),
    "an index with a point": ("1.0 0.5 0.5 0.25 0.5", (12, 6, 20, 18), ""),
    "an edge passed by rounding": ("1 1.0 0.5 1.01 1.005", (15.84, 0, 32, 24), "cut off at the edge"),
    "a polygon passed by rounding": ("1 -0.01 0.25 1.01 0.25 0.5 0.75", (0, 6, 32, 18), "the upright box around"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_of_yolo_beside_plain_ones(tmp_path, case):
    """Ultralytics drops the whole text of a mixed one; supervision reads it as here."""
    row, corners, note = ROWS[case]
    picture(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", f"0 0.5 0.5 0.5 0.5\n{row}\n")
    text(tmp_path / "data.yaml", "train: images\nnames: [RBC, WBC]\n")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        assert boxes_of(tmp_path) == {"images/a.png": [("RBC", (8, 6, 24, 18)), ("WBC", corners)]}
    assert [note in str(one.message) for one in notes] == [True] * bool(note)


@pytest.mark.parametrize("stray", ["elsewhere/a.txt", "images/a.png.txt", "labels/train/a.txt"])
def test_a_text_where_yolo_does_not_look_is_no_picture_of_nothing(tmp_path, stray):
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png")
    text(tmp_path / stray, "0 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "labels" / "b.TXT", "0 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "data.yaml", "train: images\nnames: [RBC, WBC]\n")
    told, aside = found(tmp_path)
    assert {name: len(boxes) for name, boxes in told.items()} == {"images/b.png": 1, "images/c.png": 0}
    assert ("images/a.png", True) in [(name, stray in why) for name, why in aside]


# ------------------------------------------------------------------------------------------------- annotations of COCO

SQUARE = [8, 6, 24, 6, 24, 18, 8, 18]
RUNS = [8 * 24 + 6, *[12, 12] * 15, 12, 6 + 24 * 8]
SHORT = {"size": [24, 32], "counts": "V6<<0" + "0" * 29 + "Z6"}

SHAPES = {
    "polygons": [SQUARE[:6], SQUARE[2:]],
    "one polygon without brackets": SQUARE,
    "runs": {"size": [24, 32], "counts": RUNS},
}


@pytest.mark.parametrize("crowd", [0, 1])
@pytest.mark.parametrize("given_box", ["none", None, [], [0, 0, 0, 0], [1, 2, float("nan"), 4], "text"], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@quiet
def test_a_box_that_is_missing_is_the_one_around_the_outline(tmp_path, shape, given_box, crowd):
    picture(tmp_path / "a.png")
    line = bbox(image=1) | {"bbox": given_box, "segmentation": SHAPES[shape], "iscrowd": crowd}
    if given_box == "none":
        del line["bbox"]
    instances(tmp_path, [image()], [line])
    assert boxes_of(tmp_path) == {"a.png": [("cell", (8, 6, 24, 18))]}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"segmentation": []},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": {"size": [24, 32], "counts": [1, 2]}},
        {"segmentation": {"size": [24, 32], "counts": [24 * 32]}},
        {"segmentation": {"size": [24, 32], "counts": "\u1234"}},
        {"keypoints": [5, 5, 2, 9, 9, 2], "num_keypoints": 2},
    ],
    ids=lambda more: str(more)[:40],
)
def test_an_object_without_box_and_outline_puts_its_picture_aside(tmp_path, more):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    lines = [bbox(1, 1, 5, 5), bbox(image=2) | more, bbox(2, 2, 5, 5, image=2)]
    del lines[1]["bbox"]
    instances(tmp_path, [image(), image(2, "b.png")], lines)
    told, aside = found(tmp_path)
    assert list(told) == ["a.png"] and [name for name, _ in aside] == ["b.png"]


def test_masks_in_runs_have_the_boxes_of_pycocotools():
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for number in range(200):
        rows, cols = rng.integers(2, 40, 2)
        pixels = np.zeros((rows, cols), np.uint8)
        pixels[rng.integers(rows) :, rng.integers(cols) :] = 1
        pixels &= rng.random((rows, cols)) < (1, 0.3)[number % 2]
        if not pixels.any():
            continue
        coded = mask.encode(np.asfortranarray(pixels))
        x, y, width, height = mask.toBbox(coded)
        flat = np.concatenate([[0], pixels.flatten("F"), [2]])
        runs = np.diff(np.flatnonzero(np.diff(flat, prepend=1 - flat[0])))
        runs[0] -= 1
        for counts in (coded["counts"].decode(), runs.tolist()):
            assert around_runs(counts, [int(rows), int(cols)]) == (x, y, x + width, y + height)


@pytest.mark.parametrize(
    "value", [None, [], "x", [[]], [[1, 2, 3]], [["a"] * 6], [[True] * 6], {"counts": [0, 1, -1], "size": [1, 1]},
              {"counts": "0", "size": [0, 1]}, {"counts": "o" * 99, "size": [9, 9]}, {"counts": "P", "size": [9, 9]}],
    ids=str,
)  # fmt: skip
def test_what_is_no_outline_is_an_error(value):
    with pytest.raises(Error):
        around_segmentation(value)
    with pytest.raises(Error):
        around_points([1, 2, 3, float("nan"), 5, 6])


def crowds(root: Path, first: int, second: int, **more) -> Path:
    for name in "ab":
        picture(root / f"{name}.png")
    lines = [
        bbox(1, 1, 5, 5, iscrowd=first, **more),
        bbox(2, 2, 9, 9, iscrowd=first, **more),
        bbox(3, 3, 5, 5, image=2, iscrowd=second, **more),
    ]
    return instances(root, [image(), image(2, "b.png")], lines)  # fmt: skip


def test_crowds_are_objects_where_a_tool_calls_every_mask_so(tmp_path):
    """CVAT's masks: every object is a crowd; mixed with its boxes they tell by `occluded`, which it says of each."""
    for place, root in enumerate(
        (crowds(tmp_path / "0", 1, 1), crowds(tmp_path / "1", 0, 1, attributes={"occluded": False}))
    ):
        with pytest.warns(Note, match=f"{3 - 2 * place} box.* called a crowd"):
            told, aside = found(root)
        assert (told["a.png"], told["b.png"]) == (
            [("cell", (1, 1, 6, 6)), ("cell", (2, 2, 11, 11))],
            [("cell", (3, 3, 8, 8))],
        )
        assert aside == []
    told, aside = found(crowds(tmp_path / "2", 0, 1))  # COCO's own
    assert list(told) == ["a.png"] and [name for name, _ in aside] == ["b.png"]


@pytest.mark.parametrize("turn", [30, "30.0", -150])
@quiet
def test_a_turned_box_of_cvat_is_the_upright_one_around_it(tmp_path, turn):
    """Of 10 x 4 about (16, 12), turned by 30 degrees: 10 cos + 4 sin by 10 sin + 4 cos."""
    picture(tmp_path / "coco" / "a.png")
    instances(tmp_path / "coco", [image()], [bbox(11, 10, 10, 4, attributes={"occluded": False, "rotation": turn})])
    picture(tmp_path / "voc" / "a.png")
    said = f"<attributes><attribute><name>rotation</name><value>{turn}</value></attribute></attributes></object>"
    source = "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>"
    whole = annotation(("cell", 11.0, 10.0, 21.0, 14.0), extra=source).replace("</object>", said)
    text(tmp_path / "voc" / "a.xml", whole)
    for format in ("coco", "voc"):
        assert boxes_of(tmp_path / format)["a.png"] == [("cell", (10.67, 7.768, 21.33, 16.232))]
    assert around_turned((0, 0, 4, 2), 90) == pytest.approx((1, -1, 3, 3))


def test_boxes_in_parts_of_the_picture_are_no_pixels(tmp_path):
    """Azure's export; a box of less than a pixel each would be read."""
    picture(tmp_path / "a.png")
    instances(tmp_path, [image()], [bbox(0.1, 0.2, 0.5, 0.25), bbox(0.4, 0.2, 0.5, 0.8)])
    assert "parts of the picture" in found(tmp_path)[1][0][1]
    with pytest.raises(Error, match="usable picture"):
        convert(tmp_path, tmp_path / "out", "yolo")


def test_ids_as_text_are_those_as_numbers(tmp_path):
    picture(tmp_path / "a.png")
    instances(tmp_path, [image("1")], [bbox(1, 1, 5, 5, image=1, category="5"), bbox(1, 1, 4, 4, image="1")])
    assert boxes_of(tmp_path) == {"a.png": [("cell", (1, 1, 6, 6)), ("cell", (1, 1, 5, 5))]}


# ------------------------------------------------------------------------------------------------ VOC, and its first pixel

UNKNOWN = "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>"
STUDIO = (
    "<source><database>MyDatabase</database><annotation>COCO2017</annotation><image>flickr</image></source>"
    "<owner><name>Label Studio</name></owner>"
)
WRITERS = {
    "CVAT and datumaro": (UNKNOWN, 0),
    "Label Studio": (STUDIO, 0),
    "supervision": ("<source><database>roboflow.ai</database></source>", 1),
    "the VOC challenge": (
        "<source><database>The VOC2007 Database</database><annotation>PASCAL VOC2007</annotation></source>",
        1,
    ),
}


@pytest.mark.parametrize("other", [None, 0, 1])
@pytest.mark.parametrize("number", [int, float])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_first_pixel_is_told_by_who_wrote_the_file(tmp_path, writer, number, other):
    """One box of which ends at the width, none of which begins at 0, which of files of nobody says that they count from 1."""
    extra, first = WRITERS[writer]
    picture(tmp_path / "in" / "a.png")
    corners = [(3, 4, 9, 9), (2, 2, 32, 20)]
    text(tmp_path / "in" / "a.xml", annotation(*[("x", *map(number, c)) for c in corners], extra=extra))
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        told = boxes_of(tmp_path / "in", origin=other)
    taken = first if other is None else other
    assert told == {"a.png": [("x", (x0 - taken, y0 - taken, x1, y1)) for x0, y0, x1, y1 in corners]}
    lines = [str(note.message) for note in notes]
    assert sum(f"because {writer} count" in line and f"--origin {1 - first}" in line for line in lines) == (
        other is None
    )
    assert sum("turn" in line for line in lines) == (writer == "Label Studio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(tmp_path / "in", tmp_path / "out", "yolo", origin=other)
        data = prepare("detection", tmp_path / "in", tmp_path / "data", size="32x24", origin=other)
    assert boxes_of(tmp_path / "out")["images/a.png"] == told["a.png"]
    assert boxes_of(tmp_path / "data")["images/a.png"] == told["a.png"]
    assert data.objects == {"x": 2}


def test_a_first_pixel_is_of_voc_alone(tmp_path):
    picture(tmp_path / "a.png")
    instances(tmp_path, [image()], [bbox(1, 1, 5, 5)])
    for origin, root in ((1, tmp_path), (2, tmp_path)):
        with pytest.raises(Error, match=f"found --origin {origin} of coco. Leave it out"):
            boxed.rows(root, origin=origin)


OUTLINES = {
    "supervision's polygon": "<polygon><x1>8</x1><y1>6</y1><x2>24</x2><y2>6</y2><x3>16</x3><y3>18</y3></polygon>",
    "LabelMe": "<polygon>"
    + "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((8, 6), (24, 6), (9, 18)))
    + "</polygon>",
    "roLabelImg": "<robndbox><cx>16</cx><cy>12</cy><w>12</w><h>16</h><angle>1.5707963267948966</angle></robndbox>",
}


@pytest.mark.parametrize("case", OUTLINES)
@quiet
def test_an_outline_of_voc_is_the_box_around_it(tmp_path, case):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", annotation(extra=f"<object><name>x</name>{OUTLINES[case]}</object>"))
    assert boxes_of(tmp_path) == {"a.png": [("x", (8, 6, 24, 18))]}


@pytest.mark.parametrize(
    "inside",
    ["", "<bndbox/>", "<bndbox><xmin/><ymin/><xmax/><ymax/></bndbox>", "<polygon/>", "<polygon><x1>1</x1><y1>1</y1></polygon>",
     "<robndbox><cx>16</cx></robndbox>", "<point><x>1</x><y>2</y></point>",
     "<bndbox><xmin>1,5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>",
     2 * "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>",
     "<object><name>y</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"],
)  # fmt: skip
@quiet
def test_an_object_of_voc_that_cannot_be_read_puts_its_picture_aside(tmp_path, inside):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    text(tmp_path / "a.xml", annotation(("x", 2, 3, 5, 6)))
    text(
        tmp_path / "b.xml",
        annotation(("x", 2, 3, 5, 6), name="b.png", extra=f"<object><name>x</name>{inside}</object>"),
    )
    told, aside = found(tmp_path)
    assert list(told) == ["a.png"] and len(aside) == 1 and aside[0][0] in ("b.png", "b.xml")


# -------------------------------------------------------------------------------------- pictures named by another's place

PLACES = {
    "..\\..\\label-studio\\media\\upload\\4\\b0.jpg": "b0.jpg",
    "images\\1/b0.jpg": "b0.jpg",
    "/data/upload/1/b0.jpg": "b0.jpg",
    "/data/upload/1/0a1b2c3d-b0.jpg": "b0.jpg",
    "/data/local-files/?d=sub/b0.jpg": "b0.jpg",
    "https://host.example/data/upload/1/b0.jpg?token=1": "b0.jpg",
    "s3://bucket/a%20b0.jpg": "a b0.jpg",
    "images/a%20b0.jpg": "a b0.jpg",
    "D:\\work\\B0.JPG": "b0.jpg",
    "file:///pictures/Bla\u0308tter.jpg": "Blätter.jpg",
}


def naming(root: Path, format: str, given: str) -> None:
    """A set whose annotation names one picture so."""
    if format == "coco":
        instances(root, [image(0, given)], [bbox(8, 6, 16, 12, image=0)], name="result.json")
    elif format == "voc":
        text(root / "xml" / "task-1.xml", annotation(("cell", 8, 6, 24, 18), name=given))
    else:
        text(root / "data.yaml", "train: list.txt\nnames: [cell]\n")
        text(root / "list.txt", f"{given}\n")


@pytest.mark.parametrize("given_name", PLACES)
@pytest.mark.parametrize("format", FORMATS)
@quiet
def test_a_picture_is_found_by_its_last_name(tmp_path, format, given_name):
    real = PLACES[given_name]
    picture(tmp_path / "images" / real)
    text(tmp_path / "labels" / Path(real).with_suffix(".txt"), "0 0.5 0.5 0.5 0.5\n")
    naming(tmp_path, format, given_name)
    assert boxes_of(tmp_path, format=format) == {f"images/{real}": [("cell", (8, 6, 24, 18))]}


def test_a_last_name_of_several_is_taken_only_where_the_folders_tell(tmp_path):
    for place in ("1/b0.jpg", "2/b0.jpg", "c.jpg"):
        picture(tmp_path / "images" / place)
    told = {"/data/upload/1/b0.jpg": "images/1/b0.jpg", "/data/upload/7/b0.jpg": None, "/x/d.jpg": None}
    for given_name, place in told.items():
        naming(tmp_path, "coco", given_name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names, aside = found(tmp_path)
        assert list(names) == ([place] if place else []) and len(aside) == (place is None)
    # Who is found by its path is nobody else, and one that two may be is none's.
    instances(tmp_path, [image(0, "images/c.jpg"), image(1, "/y/c.jpg")], [], name="result.json")
    names, aside = found(tmp_path)
    assert list(names) == ["images/c.jpg"] and [name for name, _ in aside] == ["/y/c.jpg"]
    instances(tmp_path, [image(0, "/x/c.jpg"), image(1, "/y/c.jpg")], [], name="result.json")
    names, aside = found(tmp_path)
    assert names == {} and len(aside) == 2


@pytest.mark.parametrize(
    "given_name", ["%2e%2e/x.png", "..%2Fx.png", "/x.png", "%2Fetc%2Fpasswd", "a%00.png", "?d=../x.png", "away.png"]
)
@pytest.mark.parametrize("format", FORMATS)
@quiet
def test_no_name_leads_out_of_the_folder(tmp_path, format, given_name):
    picture(tmp_path / "x.png")
    root = tmp_path / "in"
    picture(root / "images" / "a.png")
    text(root / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    (root / "away.png").symlink_to(tmp_path / "x.png")
    naming(root, format, given_name)
    rows = boxed.rows(root, format, lambda *_: None)
    assert [row.name for row in rows] == ["images/a.png"] * (
        format == "yolo"
    )  # all that is there, where a list names nothing


# ----------------------------------------------------------------------------------------------------- sets without a box


@pytest.mark.parametrize("format", FORMATS)
@quiet
def test_a_set_without_one_box_is_refused(tmp_path, format):
    FORMATS[format].write([example("a"), example("b")], tmp_path / "in", ["x"])
    for run in (
        lambda: convert(tmp_path / "in", tmp_path / "out", "coco"),
        lambda: prepare("detection", tmp_path / "in", tmp_path / "out"),
    ):
        with pytest.raises(Error, match=r"one box or more.* none on its 2 usable pictures"):
            run()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_box_without_an_area_marks_nothing_and_alone_it_makes_no_empty_picture(tmp_path):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    instances(tmp_path, [image(), image(2, "b.png")], [bbox(3, 3, 0, 5), bbox(1, 1, 5, 5), bbox(9, 9, 0, 0, image=2)])
    told, aside = found(tmp_path)
    assert told == {"a.png": [("cell", (1, 1, 6, 6))]}
    assert [(name, why.endswith("The picture stays.")) for name, why in aside] == [
        ("a.png", True),
        ("b.png", False),
    ] or [(name, why.endswith("The picture stays.")) for name, why in aside] == [("b.png", False), ("a.png", True)]


# --------------------------------------------------------------------------------------------------- classes of convert


def categories(root: Path) -> dict[str, int]:
    return {line["name"]: line["id"] for line in json.loads((root / "instances.json").read_text())["categories"]}


def indices(root: Path) -> list[str]:
    import yaml

    names = yaml.safe_load((root / "data.yaml").read_text())["names"]
    return [names[n] for n in range(len(names))]


ROBOFLOW = [{"id": 0, "name": "cells", "supercategory": "none"}] + [
    {"id": n, "name": name, "supercategory": "cells"} for n, name in enumerate(("Platelets", "RBC", "WBC"), 1)
]
CLASSES = {
    "gaps": ([{"id": 3, "name": "b"}, {"id": 7, "name": "a"}], {"b": 3, "a": 7}, ["b", "a"]),
    "out of order": ([{"id": 2, "name": "a"}, {"id": 1, "name": "b"}], {"b": 1, "a": 2}, ["b", "a"]),
    "from 0": ([{"id": 0, "name": "b"}, {"id": 1, "name": "a"}], {"b": 1, "a": 2}, ["b", "a"]),
    "Roboflow's parent": (ROBOFLOW, {"Platelets": 1, "RBC": 2, "WBC": 3}, ["Platelets", "RBC", "WBC"]),
    "words": ([{"id": "x", "name": "b"}, {"id": "y", "name": "a"}], {"b": 1, "a": 2}, ["b", "a"]),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_keep_their_ids_and_their_order(tmp_path, case):
    """Also those without a box. An unused parent category, Roboflow's first one, moves no index."""
    lines, ids, order = CLASSES[case]
    picture(tmp_path / "in" / "a.png")
    used = lines[-1]["id"]
    instances(tmp_path / "in", [image()], [bbox(1, 1, 5, 5, category=used)], lines)
    place = tmp_path / "in"
    for step, target in enumerate(("coco", "yolo", "yolo", "coco", "yolo")):
        out = tmp_path / f"{step}"
        convert(place, out, target)
        place = out
        if target == "yolo":
            assert indices(out) == order
        elif step == 0:
            assert categories(out) == ids
        else:
            assert categories(out) == {name: n for n, name in enumerate(order, 1)}
        assert boxes_of(out)["images/a.png"] == [(lines[-1]["name"], (1, 1, 6, 6))]


def test_indices_of_yolo_with_a_gap_stay(tmp_path):
    picture(tmp_path / "in" / "images" / "a.png")
    text(tmp_path / "in" / "labels" / "a.txt", "4 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "in" / "data.yaml", "train: images\nnames: {1: a, 4: b}\n")
    convert(tmp_path / "in", tmp_path / "yolo", "yolo")
    assert indices(tmp_path / "yolo") == ["unused 0", "a", "unused 2", "unused 3", "b"]
    assert (tmp_path / "yolo" / "labels" / "a.txt").read_text().startswith("4 ")
    convert(tmp_path / "in", tmp_path / "coco", "coco")
    assert categories(tmp_path / "coco") == {"a": 2, "b": 5}


def test_a_parent_category_that_has_a_box_is_a_class(tmp_path):
    picture(tmp_path / "a.png")
    instances(tmp_path, [image()], [bbox(1, 1, 5, 5, category=0)], ROBOFLOW)
    assert boxed.names(tmp_path) == ("cells", "Platelets", "RBC", "WBC")


def test_ids_of_0_are_read_and_not_written(tmp_path):
    """pycocotools takes an annotation of id 0 for one that nothing matched: perfect detections of one object get no AP at all."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    picture(tmp_path / "in" / "a.png")
    instances(
        tmp_path / "in", [image(0)], [bbox(1, 1, 5, 5, image=0, category=0) | {"id": 0}], [{"id": 0, "name": "x"}]
    )
    convert(tmp_path / "in", tmp_path / "out", "coco")
    with redirect_stdout(StringIO()):
        truth = COCO(str(tmp_path / "out" / "instances.json"))
        ((line,),) = [truth.loadAnns(truth.getAnnIds())]
        assert line["id"] == line["image_id"] == line["category_id"] == 1
        score = COCOeval(truth, truth.loadRes([{**line, "score": 0.9}]), "bbox")
        score.evaluate()
        score.accumulate()
        score.summarize()
    assert score.stats[0] == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------- a row that is damaged


def damage(root: Path, format: str, box: int, place: int, odd: str) -> None:
    """Put an odd word in the place of a number, or of the class, of one box of `a`; 9 leaves the number out."""
    if format == "yolo":
        path = root / "labels" / "a.txt"
        lines = path.read_text().splitlines()
        fields = lines[box].split()
        fields[place % 5 : place % 5 + 1] = [] if odd == "out" else [odd]
        lines[box] = " ".join(fields)
        path.write_text("\n".join(lines) + "\n")
    elif format == "voc":
        path = root / "Annotations" / "a.xml"
        parts = path.read_text().split("<object>")
        side = ("name", "xmin", "ymin", "xmax", "ymax")[place % 5]
        head, tail = parts[box + 1].split(f"<{side}>")
        rest = tail.split(f"</{side}>")[1]
        parts[box + 1] = head + ("" if odd == "out" else f"<{side}>{odd}</{side}>") + rest
        path.write_text("<object>".join(parts))
    else:
        path = root / "instances.json"
        content = json.loads(path.read_text())
        line = [line for line in content["annotations"] if line["image_id"] == 1][box]
        if place % 5 == 0:
            line["category_id"] = None if odd == "out" else odd
        else:
            line["bbox"][place % 5 - 1 : place % 5] = [] if odd == "out" else [odd]
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=25, deadline=None)
@given(
    box=st.integers(0, 2),
    place=st.integers(0, 4),
    odd=st.sampled_from(
        ("out", "x", "", "nan", "inf", "-inf", "1e999", "640", "-300", "0x5", "1_0", "5;", "0,5", "None", "7.5")
    ),
)
def test_a_damaged_row_never_makes_a_picture_that_shows_less(format, box, place, odd):
    """It is put aside with its reason, or the row still says a box (7.5 may be a corner in pixels, a word a class of VOC)."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        root = Path(folder) / "set"
        corners = [(1, 1, 9.5, 9), (2, 2, 30, 20), (3, 4, 8, 9)]
        FORMATS[format].write(
            [example("a", corners, ["x", "y", "x"]), example("b", [(3, 4, 8, 9)], ["y"])], root, ["x", "y"]
        )
        whole, _ = found(root, format)
        damage(root, format, box, place, odd)
        told, aside = found(root, format)
        assert told["images/b.png"] == whole["images/b.png"]
        if "images/a.png" in told:
            assert len(told["images/a.png"]) == 3 and aside == []
            others = [n for n in range(3) if n != box]
            assert [told["images/a.png"][n] for n in others] == [whole["images/a.png"][n] for n in others]
        else:
            assert [name for name, _ in aside] == ["images/a.png"] and aside[0][1].startswith(f"Box {box + 1}")
