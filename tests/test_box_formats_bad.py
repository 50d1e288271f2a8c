"""Bad boxes are left out by name, bad pictures and files put aside, hostile ones refused; none of them ends in a traceback."""

from __future__ import annotations

import dataclasses
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from box_sets import FORMATS, annotation, bbox, example, found, image, instances, picture, text

from toolkit.example import Annotation, Boxes, Error, Note
from toolkit.formats import boxed

# ------------------------------------------------------------------------------------------------------------ bad boxes

BAD_COCO = {
    "negative": (bbox(9, 9, -4, 5), "are not negative"),
    "not a number": (bbox(float("nan"), 1, 2, 3), "finite"),
    "endless": (bbox(1, 1, float("inf"), 3), "finite"),
    "huge": (bbox(1, 1, 10**400, 3), "finite"),
    "a word": (bbox("x", 1, 2, 3), "finite"),
    "truth": (bbox(True, 1, 2, 3), "finite"),
    "three numbers": (bbox(1, 2, 3), "x, y, width and height"),
    "no bbox": ({"image_id": 1, "category_id": 5}, "x, y, width and height"),
    "unknown class": (bbox(1, 2, 3, 4, category=6), "one of the categories, and 6"),
    "class is a list": (bbox(1, 2, 3, 4, category=[5]), "one of the categories"),
    "outside": (bbox(33, 2, 5, 5), "lies outside"),
    "above": (bbox(3, -9, 5, 5), "lies outside"),
}

BAD_YOLO = {
    "unknown class": ("1 0.5 0.5 0.1 0.1", "index of names"),
    "class below 0": ("-1 0.5 0.5 0.1 0.1", "index of names"),
    "class is a word": ("cell 0.5 0.5 0.1 0.1", "index of names"),
    "class and a half": ("0.5 0.5 0.5 0.1 0.1", "index of names"),
    "negative": ("0 0.5 0.5 -0.1 0.1", "not negative"),
    "not a number": ("0 nan 0.5 0.1 0.1", "finite"),
    "endless": ("0 inf 0.5 0.1 0.1", "finite"),
    "huge": ("0 1e308 1e308 1e308 1e308", "1e+308 is none"),
    "a word": ("0 x 0.5 0.1 0.1", "finite"),
    "three numbers": ("0 0.5 0.5 0.1", "4 numbers or a polygon"),
    "seven numbers": ("0 0.5 0.5 0.1 0.1 0.9 0.1 0.2", "4 numbers or a polygon"),
    "a confidence first": ("0 0.9 0.2 0.5 0.1 0.5", "parts of width and height"),
    "commas": ("0,0.5,0.5,0.1,0.1", "apart by spaces"),
    "decimal commas": ("0 0,5 0,5 0,1 0,1", "apart by spaces"),
    "outside": ("0 1.2 0.5 0.1 0.1", "1.2 is none"),
    "a polygon outside": ("0 0.5 0.5 0.6 0.5 0.6 1.02", "1.02 is none"),
    "the class alone": ("0", "4 numbers or a polygon"),
    "pixels": ("0 16 12 8 8", "pixels are not read"),
}

BAD_VOC = {
    "a word": (("cell", "x", 5, 5, 9), "finite"),
    "empty": (("cell", "", 5, 5, 9), "finite"),
    "not a number": (("cell", "nan", 5, 5, 9), "finite"),
    "endless": (("cell", "1e999", 5, 5, 9), "finite"),
    "no class": (("", 1, 5, 5, 9), "has a name"),
    "outside": (("cell", 40, 5, 50, 9), "lies outside"),
}  # fmt: skip


def judged(root: Path, format: str, reason: str) -> None:
    """One box of three cannot be read, so that the picture is put aside: it would show less than it holds."""
    told, aside = found(root, format)
    assert told == {}
    ((name, why),) = aside
    assert name.endswith("a.png")
    assert why.startswith("Box 2") and "cannot be read" in why and reason in why and "\n" not in why
    assert why.endswith("A picture is used with all of its boxes or not at all.")
    with pytest.raises(Error, match="Box 2"), warnings.catch_warnings():  # nobody to tell
        warnings.filterwarnings("ignore", ".*--origin", Note)
        boxed.rows(root, format)


@pytest.mark.parametrize("case", BAD_COCO)
def test_a_bad_box_of_coco(tmp_path, case):
    line, reason = BAD_COCO[case]
    picture(tmp_path / "a.png")
    instances(tmp_path, [image()], [bbox(1, 1, 5, 5), line, bbox(2, 2, 5, 5)])
    judged(tmp_path, "coco", reason)


@pytest.mark.parametrize("case", BAD_YOLO)
def test_a_bad_box_of_yolo(tmp_path, case):
    line, reason = BAD_YOLO[case]
    picture(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n0 0.25 0.5 0.1 0.1\n")
    text(tmp_path / "data.yaml", "train: images\nnames: [cell]\n")
    judged(tmp_path, "yolo", reason)


@pytest.mark.parametrize("case", BAD_VOC)
def test_a_bad_box_of_voc(tmp_path, case):
    line, reason = BAD_VOC[case]
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", annotation(("cell", 1, 1, 5, 5), line, ("cell", 2, 2, 9, 9)))
    judged(tmp_path, "voc", reason)


def test_what_reaches_over_the_edge_is_cut_and_what_is_swapped_put_in_order_with_a_note(tmp_path):
    picture(tmp_path / "a.png")
    objects = [("x", 10, 9, 2, 20), ("x", -5, 3, 9, 9), ("x", 20, 20, 40, 25), ("x", 0, 0, 33, 24)]
    text(tmp_path / "a.xml", annotation(*objects))
    with pytest.warns(Note) as notes:
        told, aside = found(tmp_path)
    assert [c for _, c in told["a.png"]] == [(2, 9, 10, 20), (0, 3, 9, 9), (20, 20, 32, 24), (0, 0, 32, 24)]
    assert aside == []
    lines = sorted(str(note.message).partition(" in '")[0] for note in notes)
    assert lines == ["1 box was put in order", "2 boxes were cut off at the edge"]  # up to a pixel without a word


def test_a_crowd_is_no_object(tmp_path):
    picture(tmp_path / "a.png")
    lines = [bbox(1, 1, 5, 5), bbox(2, 2, 9, 9, iscrowd=1), bbox(1, 1, 2, 2, image=77)]
    instances(tmp_path, [image()], lines)
    with pytest.warns(Note, match="1 annotations without a picture"):
        told, aside = found(tmp_path)
    assert told == {}
    assert [(name, "many objects, without a box of each" in why) for name, why in aside] == [("a.png", True)]


# ------------------------------------------------------------------------------------------------- bad and hostile files

ESCAPES = [
    "../x.png",
    "/etc/passwd",
    "C:\\x.png",
    "..\\x.png",
    "a/../../x.png",
    "",
    None,
    7,
    "x\0.png",
    "y" * 5000,
    "away.png",
]


UNSAID = {"coco": (), "voc": ("x\0.png",), "yolo": ("", None, 7)}
"""What the files of a format cannot say at all."""


@pytest.mark.parametrize(("format", "name"), [(f, e) for f in FORMATS for e in ESCAPES if e not in UNSAID[f]])
def test_nothing_outside_is_opened(tmp_path, format, name):
    picture(tmp_path / "x.png")
    root = tmp_path / "in"
    picture(root / "a.png")
    (root / "away.png").symlink_to(tmp_path / "x.png")
    if format == "coco":
        instances(root, [image(), image(2, name)], [])
    elif format == "voc":
        text(root / "a.xml", annotation(("x", 2, 3, 5, 6)))
        text(root / "b.xml", annotation(("x", 2, 3, 5, 6), name=name))
    else:
        text(root / "a.txt", "0 0.5 0.5 0.1 0.1\n")
        text(root / "data.yaml", "train: [list.txt]\nnames: [x]\n")
        text(root / "list.txt", f"a.png\n{name}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        told, aside = found(root)
    assert list(told) == ["a.png"]
    assert len(aside) == 1
    assert "picture" in aside[0][1]


@pytest.mark.parametrize("entry", ["../x", "/etc", "C:\\x", "out"])
def test_a_split_outside_is_not_read(tmp_path, entry):
    picture(tmp_path / "x" / "secret.png")
    picture(tmp_path / "in" / "images" / "a.png")
    text(tmp_path / "in" / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "x")
    text(tmp_path / "in" / "data.yaml", f"path: ..\ntrain: images\nval: {entry}\nnames: [cell]\n")
    with pytest.warns(Note, match="'val' of data.yaml"):
        assert list(found(tmp_path / "in")[0]) == ["images/a.png"]


BOMB = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
BAD_XML = {
    "entities": (f'<!DOCTYPE x [<!ENTITY e0 "ha">{BOMB}]><annotation>&e9;</annotation>', "without a DTD"),
    "external": ('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>', "without a DTD"),
    "a DTD elsewhere": ('<!DOCTYPE x SYSTEM "http://example.org/x.dtd"><annotation/>', "without a DTD"),
    "truncated": (annotation(("x", 1, 1, 5, 5))[:80], "is an XML file"),
    "text": ("hello", "is an XML file"),
    "empty": ("", "is an XML file"),
    "another": ("<annotations><image/></annotations>", "is an <annotation>"),
    "encoding": ('<?xml version="1.0" encoding="nonsense-8"?><annotation/>', "is an XML file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_XML)
def test_a_bad_file_of_voc_is_put_aside(tmp_path, case):
    content, reason = BAD_XML[case]
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
    text(tmp_path / "a.xml", annotation(("x", 2, 3, 5, 6)))
    text(tmp_path / "b.xml", content)
    with pytest.warns(Note, match="1 picture without a usable XML"):
        told, aside = found(tmp_path)
    assert list(told) == ["a.png"]
    ((name, why),) = aside
    assert name == "b.xml" and reason in why and "\n" not in why


BAD_JSON = {
    "truncated": '{"images": [',
    "text": "hello",
    "empty": "",
    "a list": "[]",
    "deep": "[" * 100_000,
    "no lists": '{"images": {}, "annotations": [], "categories": []}',
    "two categories of one id": '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
    "a category without id": '{"images": [], "annotations": [], "categories": [{"name": "a"}]}',
    "a number too long": '{"images": [], "annotations": [], "categories": [{"id": ' + "9" * 5000 + "}]}",
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_bad_file_of_coco_is_put_aside(tmp_path, case):
    picture(tmp_path / "a.png")
    instances(tmp_path, [image()], [])
    text(tmp_path / "instances_2.json", BAD_JSON[case])
    told, aside = found(tmp_path)
    assert list(told) == ["a.png"]
    assert [name for name, _ in aside] == ["instances_2.json"]
    with pytest.raises(Error, match="instances_2"):
        boxed.rows(tmp_path)


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
BAD_YAML = {
    "an object": "names: !!python/object/apply:os.system ['true']",
    "truncated": "names: [a,",
    "text": "hello",
    "laughs": f"{LAUGHS}names: [*a9]",
    "a truth": "names: [yes, no]",
    "nothing": "names: [a, null]",
    "negative": "names: {-1: a}",
    "a word": "names: {a: 1}",
    "a text": "names: cell",
    "deep": "names: " + "[" * 100_000,
    "deep blocks": "- " * 5000,
    "large": "names: [a]\n#" + "x" * 2**18,
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_bad_data_yaml_is_one_line(tmp_path, case):
    picture(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1\n")
    text(tmp_path / "data.yaml", BAD_YAML[case] + "\ntrain: images\n" * (case == "names"))
    if case == "a text":  # no class at all: no box can be read
        assert len(found(tmp_path)[1]) == 1
        return
    with pytest.raises(Error) as problem:
        found(tmp_path)
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 600


def test_pictures_that_do_not_fit_their_annotation_are_put_aside(tmp_path):
    for name in ("good", "size", "twice", "repeated", "damaged", "empty"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "damaged.png").write_bytes(b"no image")
    (tmp_path / "empty.png").write_bytes(b"")
    images = [
        image(1, "good.png"), image(2, "size.png", (640, 480)), image(3, "twice.png"), image(4, "twice.png"), image(5, "repeated.png"),
        image(5, "repeated.png"), image(6, "damaged.png"), image(7, "missing.png"), image(8, "empty.png"), "no image",
        image(None, "good.png"),
    ]  # fmt: skip
    instances(tmp_path, images, [bbox(1, 1, 5, 5), bbox(1, 1, 5, 5, image=3)])
    told, aside = found(tmp_path)
    assert list(told) == ["good.png"]
    assert Counter(name for name, _ in aside) == Counter(
        ["size.png", "twice.png", "repeated.png", "repeated.png", "damaged.png", "missing.png", "empty.png", "good.png",
         "instances.json image 10"]
    )  # fmt: skip


def test_a_picture_that_is_said_the_same_of_twice_is_one(tmp_path):
    picture(tmp_path / "a.png")
    for name in ("instances_train.json", "instances_trainval.json"):
        instances(tmp_path, [image()], [bbox(1, 1, 5, 5)], name=name)
    assert found(tmp_path) == ({"a.png": [("cell", (1, 1, 6, 6))]}, [])


def test_a_text_of_yolo_that_is_none_or_has_no_picture(tmp_path):
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png")
    text(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "labels" / "b.txt").write_bytes(b"\xff\xfe0")
    text(tmp_path / "labels" / "gone.txt", "0 0.5 0.5 0.1 0.1\n")
    text(tmp_path / "data.yaml", "train: images\nnames: [cell]\n")
    told, aside = found(tmp_path)
    assert list(told) == ["images/a.png"]
    assert [name for name, _ in aside] == ["labels/gone.txt", "images/b.png"]


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_true_is_not_written(format, tmp_path):
    write = FORMATS[format].write
    good = example("a", [(1, 1, 5, 5)], ["x"])
    for bad, match in (
        (example("b", [(1, 1, 1, 5)], ["x"]), "has an area"),
        (example("b", [(1, 1, 50, 5)], ["x"]), "lies in its picture"),
        (example("b", [(np.nan, 1, 5, 5)], ["x"]), "lies in its picture"),
        (example("b", [(1, 1, 5, 5)], ["y"]), "is of a class"),
        (dataclasses.replace(good, id="b", annotation=Annotation()), "not annotated"),
        (example("b", channels=2), "grey or RGB"),
        (
            dataclasses.replace(good, id="b", annotation=Annotation(boxes=Boxes(np.zeros((0, 4)), (), (9, 9)))),
            "beside them",
        ),
    ):
        with pytest.raises(Error, match=match):
            write([good, bad], tmp_path / "out", ["x"])
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(Error, match="name of its own"):
        write([good], tmp_path / "out", ["x", "x"])
    with pytest.raises(Error, match="on one line"):
        write([good], tmp_path / "out", ["x", "a\nb"])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------- fuzz


def written_set(root: Path, format: str) -> list[Path]:
    """A set of two pictures; the files that a damage may strike."""
    FORMATS[format].write(
        [example("a", [(1, 1, 9.5, 9), (2, 2, 30, 20)], ["x", "y"]), example("b", [(3, 4, 8, 9)], ["y"])],
        root,
        ["x", "y"],
    )
    patterns = {"coco": ["instances.json"], "voc": ["Annotations/*.xml"], "yolo": ["labels/*.txt", "data.yaml"]}
    return [path for pattern in [*patterns[format], "metadata.csv"] for path in sorted(root.glob(pattern))]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, repeated, or a number or word put where another was."""
    at, end = sorted((rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)))
    odd = rng.choice(
        [
            b"nan",
            b"-1",
            b"1e999",
            b"null",
            b"[]",
            b"{}",
            b"\xff",
            b"\0",
            b'"',
            b"<",
            b"&x;",
            b"../..",
            b"9" * 40,
            b"\n",
            b": ",
        ]
    )
    ways = [
        lambda: content[:at] + odd + content[at:],
        lambda: content[:at] + odd + content[min(at + len(odd), len(content)):],
        lambda: content[:at],
        lambda: content[:at] + content[end:],
        lambda: content[:end] + content[at:],
        lambda: content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
    ]  # fmt: skip
    return rng.choice(ways)()


def fuzz(root: Path, format: str, times: int) -> Counter[str]:
    """What became of damaged files: read, put aside or refused. Anything but an Error comes through."""
    files, rng, outcomes = written_set(root, format), random.Random(times), Counter()
    for _ in range(times):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, rng))
        aside: list[tuple[str, str]] = []
        try:
            rows = boxed.rows(root, format, lambda *line, told=aside: told.append(line))
            for row in rows:
                low, high = row.boxes.corners[:, :2], row.boxes.corners[:, 2:]
                assert (low >= 0).all() and (high <= row.size[::-1]).all() and (low < high).all()
            outcomes["put aside" if aside else "read"] += 1
        except Error as problem:
            assert "\n" not in str(problem)
            outcomes["refused"] += 1
        assert all("\n" not in reason for _, reason in aside)
        path.write_bytes(whole)
    return outcomes


@pytest.mark.filterwarnings("ignore::toolkit.example.Note")
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_are_read_put_aside_or_refused(format, tmp_path):
    outcomes = fuzz(tmp_path / "set", format, 60)
    assert outcomes["put aside"] + outcomes["refused"] > 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::toolkit.example.Note")
@pytest.mark.parametrize("format", FORMATS)
def test_thousands_of_damaged_files(format, tmp_path):
    outcomes = fuzz(tmp_path / "set", format, 3000)
    print(format, dict(outcomes))
    assert outcomes.total() == 3000
