"""Pictures without a text, and texts and annotations without a picture: none becomes a picture that shows nothing by mistake."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
from box_sets import annotation, bbox, found, image, instances, picture, text

from diffgraft.preparation.convert import convert
from toolkit.example import Error, Note
from toolkit.formats import boxed

ROW = "0 0.5 0.5 0.25 0.5\n"
BOX = [("RBC", (12, 6, 20, 18))]
YAML = "train: images\nval: images\nnames: [RBC, WBC]\n"


def described(root: Path, *names: str) -> None:
    """A set of a data.yaml with one labelled picture and others."""
    text(root / "data.yaml", YAML)
    picture(root / "images" / "good.png")
    text(root / "labels" / "good.txt", ROW)
    for name in names:
        picture(root / "images" / name)


LIKE = {
    "case": ("IMG_1.PNG", "img_1"),
    "percent": ("b 1.png", "b%201"),
    "a hash before the text": ("b1.png", "1a2b3c4d-b1"),
    "a hash before the picture": ("1a2b3c4d-b1.png", "b1"),
    "accents apart": ("gru\u0308n.png", "gr\u00fcn"),
    "bytes of Windows": (os.fsdecode(b"gr\xfcn.png"), "gr\u00fcn"),
    "all": ("1a2b3c4d-GRU\u0308N 1.png", "gr\u00fcn%201"),
}


@pytest.mark.parametrize("case", LIKE)
def test_a_text_is_of_the_one_picture_whose_name_is_like_its_own(tmp_path, case):
    name, stem = LIKE[case]
    described(tmp_path, "x.png")
    (tmp_path / "images" / "x.png").rename(tmp_path / "images" / name)
    text(tmp_path / "labels" / f"{stem}.txt", ROW)
    assert found(tmp_path) == ({f"images/{name}": BOX, "images/good.png": BOX}, [])


def test_where_two_texts_are_like_a_picture_none_is_taken(tmp_path):
    described(tmp_path, "b1.png")
    for stem in ("1a2b3c4d-b1", "B1"):
        text(tmp_path / "labels" / f"{stem}.txt", ROW)
    told, aside = found(tmp_path)
    assert list(told) == ["images/good.png"] and "images/b1.png" in dict(aside)


@pytest.mark.parametrize("flat", [False, True])
def test_a_text_of_no_picture_puts_the_pictures_without_a_text_of_its_folder_aside(tmp_path, flat):
    text(tmp_path / "data.yaml", "train: [one, two]\nnames: [RBC]\n")
    for part in ("one", "two"):
        for name in ("good", "bare"):
            picture(tmp_path / part / ("" if flat else "images") / f"{part}_{name}.png")
        text(tmp_path / part / ("" if flat else "labels") / f"{part}_good.txt", ROW)
    text(tmp_path / "one" / ("" if flat else "labels") / "lost.txt", ROW)
    told, aside = found(tmp_path)
    middle = "" if flat else "images/"
    assert told == {
        f"one/{middle}one_good.png": BOX,
        f"two/{middle}two_bare.png": [],
        f"two/{middle}two_good.png": BOX,
    }
    assert "lost.txt is of no picture" in dict(aside)[f"one/{middle}one_bare.png"]


def test_pictures_without_a_text_are_told_of(tmp_path):
    described(tmp_path, "a.png", "b.png")
    with pytest.warns(Note, match="2 pictures have no text and are taken as showing nothing"):
        assert len(boxed.rows(tmp_path)) == 3


STRAYS = ["images/masks/a.png", "images/@eaDir/good.png/THUMB.png", "images/good_mask.png", "images/good_boxes.png",
          "images/thumbnails/good.png"]  # fmt: skip


@pytest.mark.parametrize("stray", STRAYS)
def test_a_picture_that_is_made_of_another_is_no_picture_of_nothing(tmp_path, stray):
    described(tmp_path, "plain_mask.png")  # whose other is not there
    picture(tmp_path / stray)
    told, aside = found(tmp_path)
    assert told == {"images/good.png": BOX, "images/plain_mask.png": []} and [name for name, _ in aside] == [stray]
    text((tmp_path / stray).with_suffix(".txt"), "")
    assert found(tmp_path)[0][stray] == []


def test_a_list_of_the_set_tells_which_pictures_are_in_it(tmp_path):
    text(tmp_path / "obj.names", "RBC\n")
    text(tmp_path / "train.txt", "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    for name in ("obj_train_data/a.png", "obj_train_data/b.png", "obj_train_data/c.png", "chart.png"):
        picture(tmp_path / name)
    text(tmp_path / "obj_train_data" / "a.txt", ROW)
    told, aside = found(tmp_path)
    assert told == {"obj_train_data/a.png": BOX, "obj_train_data/b.png": []}
    assert [name for name, _ in aside] == ["chart.png", "obj_train_data/c.png"]


def test_a_picture_that_labelimg_has_not_labelled_is_put_aside(tmp_path):
    text(tmp_path / "classes.txt", "RBC\n")
    for name in ("a", "b", "c", "runs/results"):
        picture(tmp_path / f"{name}.png")
    text(tmp_path / "a.txt", ROW)
    text(tmp_path / "b.txt", "")
    told, aside = found(tmp_path)
    assert told == {"a.png": BOX, "b.png": []} and [name for name, _ in aside] == ["c.png", "runs/results.png"]


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("place", ["images/a.json", "images/a.xml", "Annotations/a.xml"])
def test_a_picture_that_another_tool_labelled_is_not_empty(tmp_path, place, objects):
    described(tmp_path, "a.png")
    shapes = [{"label": "RBC", "points": [[1, 2], [3, 4]]}] if objects else []
    xml = annotation(*[("RBC", 1, 2, 3, 4)] * objects)
    text(tmp_path / place, xml if place.endswith("xml") else json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    told, aside = found(tmp_path, "yolo")
    assert ("images/a.png" in told) is not objects and [name for name, _ in aside] == ["images/a.png"] * objects


@pytest.mark.parametrize("other", ["", "1 0.5 0.5 0.25 0.5\n", ROW + "1 0.2 0.2 0.1 0.1\n"])
def test_two_texts_of_a_picture_that_differ_put_it_aside(tmp_path, other):
    described(tmp_path, "a.png", "same.png", "caption.png")
    for name, said in (("a", other), ("same", ROW.replace("0.5 0.5", "0.50 .5")), ("caption", "a cell of blood")):
        text(tmp_path / "labels" / f"{name}.txt", ROW)
        text(tmp_path / "images" / f"{name}.txt", said)
    told, aside = found(tmp_path)
    assert set(told) == {"images/caption.png", "images/good.png", "images/same.png"}
    assert "labels/a.txt and images/a.txt say different" in dict(aside)["images/a.png"]


TRACKS = {
    "0 0.5 0.5 0.25 0.5 0.81 7": BOX,
    "0 0.5 0.5 0.25 0.5 0.81 1": None,
    "0 0.5 0.5 0.25 0.5 0.81 1.0": None,
    "0 0.5 0.5 0.25 0.5 1 0": None,
    "0 0.25 0.25 0.75 0.75 0.5 1": [("RBC", (8, 6, 24, 24))],  # no box of 0.75 about 0.25 lies inside
    "0 0.375 0.25 0.625 0.25 0.5 0.75": BOX,
}


@pytest.mark.parametrize("row", TRACKS)
@pytest.mark.filterwarnings("ignore::toolkit.example.Note")
def test_a_confidence_and_a_track_are_no_third_point(tmp_path, row):
    described(tmp_path, "a.png")
    text(tmp_path / "labels" / "a.txt", row)
    aside: list[tuple[str, str]] = []
    told = {r.name: r.boxes for r in boxed.rows(tmp_path, aside=lambda *line: aside.append(line))}
    assert [name for name, _ in aside] == ["images/a.png"] * (TRACKS[row] is None)
    if TRACKS[row] is not None:
        assert told["images/a.png"].corners.tolist() == [list(TRACKS[row][0][1])]


def test_links_to_pictures_are_followed_inside_and_named_outside(tmp_path):
    root = tmp_path / "set"
    described(root)
    picture(root / "store" / "1.png")
    picture(tmp_path / "2.png")
    for name, target in (("in", "../store/1.png"), ("out", "../../2.png"), ("gone", "../nothing.png")):
        (root / "images" / f"{name}.png").symlink_to(target)
        text(root / "labels" / f"{name}.txt", ROW)
    told, aside = found(root)
    assert told == {"images/good.png": BOX, "images/in.png": BOX}
    assert [name for name, _ in aside] == ["images/gone.png", "images/out.png"]


@pytest.mark.parametrize("said", ["b", "b.png", "images/b.png"])
def test_the_name_of_a_picture_is_its_id_where_no_image_has_that(tmp_path, said):
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png")
    instances(
        tmp_path, [image(1, "images/a.png"), image(2, "images/b.png")], [bbox(1, 1, 5, 5), bbox(2, 2, 5, 5, image=said)]
    )
    assert found(tmp_path)[0] == {"images/a.png": [("cell", (1, 1, 6, 6))], "images/b.png": [("cell", (2, 2, 7, 7))]}


@pytest.mark.parametrize("said", [None, 9, "nobody", 2.5, True])
def test_a_picture_without_boxes_is_not_empty_where_annotations_are_of_no_image(tmp_path, said):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    instances(tmp_path, [image(), image(2, "b.png")], [bbox(1, 1, 5, 5), bbox(2, 2, 5, 5, image=said)])
    aside: list[tuple[str, str]] = []
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        rows = boxed.rows(tmp_path, aside=lambda *line: aside.append(line))
    assert [row.name for row in rows] == ["a.png"] and [name for name, _ in aside] == ["b.png"]
    assert any("1 annotations without a picture" in str(note.message) for note in notes)


def test_objects_that_labelme_keeps_as_deleted_are_no_boxes(tmp_path):
    picture(tmp_path / "a.png")
    kept = annotation(("x", 1, 2, 9, 9), ("y", 3, 4, 9, 9)).replace(
        "<name>x</name>", "<name>x</name><deleted>0</deleted>"
    )
    text(tmp_path / "a.xml", kept.replace("<name>y</name>", "<name>y</name><deleted>1</deleted>"))
    assert [n for n, _ in found(tmp_path)[0]["a.png"]] == ["x"]


def test_the_remedy_of_two_formats_works(tmp_path):
    root = tmp_path / "in"
    described(root)
    instances(root, [image(1, "good.png")], [bbox(1, 1, 5, 5)])
    with pytest.raises(Error, match=f"diffgraft convert {root} OUT --from coco --to coco"):
        boxed.rows(root)
    convert(root, tmp_path / "out", "coco", source="coco")
    assert len(boxed.rows(tmp_path / "out")) == 1
