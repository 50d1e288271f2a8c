"""COCO, Pascal VOC and YOLO: what is written comes back, other libraries read it, and the layouts that tools write are read."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from box_sets import FORMATS, annotation, bbox, example, found, image, instances, picture, same, text
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffgraft.preparation.convert import convert
from diffgraft.requests import record
from toolkit.data import dataset, xmp
from toolkit.example import Error, Example, Note, Provenance
from toolkit.formats import boxed, coco, voc
from toolkit.formats.box_checks import apply_orientation
from toolkit.formats.photograph import read_photograph

TOLERANCE = {"coco": 1e-9, "voc": 0.0, "yolo": 1e-4}
"""Pixels."""

NAMES = ("red cell", "white & <odd>", "no", "7", "Blattläuse")
MADE = Provenance("synthetic", "0123abcd", "generate", 7, {"steps": 20})
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "boxes"
real_boxes = pytest.mark.skipif(not REAL.is_dir(), reason="no real boxes beside the checkout (../shared/data/boxes)")


# -------------------------------------------------------------------------------------------------------- round trips


@st.composite
def sets(draw) -> list[Example]:
    """A few pictures of different sizes with whole and fractional boxes, or none; some of them synthetic."""
    made = []
    for number in range(draw(st.integers(1, 3))):
        rows, cols = draw(st.integers(8, 40)), draw(st.integers(8, 40))
        corners = []
        for _ in range(draw(st.integers(0, 4))):
            sides = []
            for end in (cols, rows):
                low = draw(st.one_of(st.integers(0, end - 1).map(float), st.floats(0.001, end - 1.5)))
                high = draw(st.one_of(st.just(float(end)), st.floats(low + 0.5, end)))
                sides.append((low, high))
            (x0, x1), (y0, y1) = sides
            corners.append((x0, y0, x1, y1))
        names = draw(st.lists(st.sampled_from(NAMES), min_size=len(corners), max_size=len(corners)))
        more = {"provenance": MADE} if draw(st.booleans()) else {}
        channels = draw(st.sampled_from((1, 3)))
        made.append(example(f"p{number}", corners, names, (rows, cols), channels, group=f"field {number % 2}", **more))
    return made


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=8, deadline=None)
@given(written=sets())
def test_what_is_written_is_read_back(name, written):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "out"
        assert FORMATS[name].write(written, root, NAMES, domain="detection") == len(written)
        assert boxed.find_format(root) is FORMATS[name]
        read = list(boxed.read(root))
        for ours, theirs, prepared in zip(written, read, dataset.read(root), strict=True):
            same(ours, theirs, TOLERANCE[name])
            same(ours, prepared, 0.0)
            assert np.abs(ours.image - theirs.image).max() < 1e-6
        names = boxed.names(root)
        used = {n for e in written for n in e.annotation.boxes.names}
        assert names == (tuple(sorted(used)) if name == "voc" else NAMES)


@pytest.mark.parametrize(("first", "second"), list(product(FORMATS, FORMATS)))
@settings(max_examples=2, deadline=None)
@given(written=sets().filter(lambda found: any(e.annotation.boxes.names for e in found)))
def test_any_to_any_and_the_files_are_the_same(first, second, written):
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        FORMATS[first].write(written, one, NAMES)
        counted = convert(one, two, second)
        assert (counted.source, counted.target, counted.pictures) == (first, second, len(written))
        assert counted.boxes == sum(len(e.annotation.boxes.names) for e in written) == sum(counted.classes.values())
        for ours, theirs in zip(written, boxed.read(two), strict=True):
            same(ours, theirs, 2e-4)
            file = f"images/{ours.id}.png"
            assert (one / file).read_bytes() == (two / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), list(product(FORMATS, FORMATS)))
@settings(max_examples=40, deadline=None)
@given(written=sets().filter(lambda found: any(e.annotation.boxes.names for e in found)))
def test_any_to_any_many_times(first, second, written):
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        FORMATS[first].write(written, one, NAMES)
        for ours, theirs in zip(written, boxed.read(one), strict=True):
            same(ours, theirs, TOLERANCE[first])
        convert(one, two, second)
        for ours, theirs in zip(written, boxed.read(two), strict=True):
            same(ours, theirs, 2e-4)


def test_a_chain_of_all_formats_leaves_whole_pixels_as_they_are(tmp_path):
    """640 x 480 in parts with ten decimals, and back: what was whole is whole again, exactly."""
    rng = np.random.default_rng(0)
    low, extent = rng.integers(0, 300, (200, 2)), rng.integers(1, 170, (200, 2))
    corners = np.concatenate([low, low + extent], 1).astype(float)
    coco.write([example("a", corners, ["cell"] * 200, (480, 640))], tmp_path / "0", ["cell"])
    for place, format in enumerate(("yolo", "voc", "yolo", "coco", "voc"), 1):
        convert(tmp_path / f"{place - 1}", tmp_path / f"{place}", format)
        ((row,)) = boxed.rows(tmp_path / f"{place}")
        assert (row.boxes.corners == corners).all()


def test_the_record_of_a_run_is_taken_for_no_annotation(tmp_path):
    coco.write([example("a", np.array([[1.0, 2, 9, 8]]), ["cell"], (20, 30))], tmp_path / "coco", ["cell"])
    for one, two in (("coco", "yolo"), ("yolo", "voc"), ("voc", "again")):
        target = "coco" if two == "again" else two
        result = convert(tmp_path / one, tmp_path / two, target)
        kept = record.read(tmp_path / two)
        assert (kept.verb, kept.request["target"], kept.model) == ("convert", target, "")
        assert boxed.find_format(tmp_path / two).__name__.endswith(target) and result.aside == ()
        ((row,)) = boxed.rows(tmp_path / two)
        assert row.boxes.names == ("cell",)
    (tmp_path / "again" / "instances.json").rename(tmp_path / "again" / "boxes.json")
    ((row,)) = coco.listing(tmp_path / "again").rows  # any JSON file with boxes, of which the record is none
    assert row.boxes.names == ("cell",)


# ---------------------------------------------------------------------------------------------------- other libraries


@pytest.fixture(scope="module")
def sample() -> list[Example]:
    corners = [(0, 0, 10, 8), (3.25, 4.5, 32, 24), (1, 1, 2, 2)]
    return [
        example("a", corners, (NAMES[0], NAMES[1], NAMES[0]), provenance=MADE),
        example("b", [(5, 6, 9, 20)], NAMES[2:3], (40, 16)),
        example("c"),
    ]


def test_pycocotools_reads_ours(sample, tmp_path):
    from pycocotools.coco import COCO

    coco.write(sample, tmp_path / "out", NAMES)
    with redirect_stdout(StringIO()):
        theirs = COCO(str(tmp_path / "out" / "instances.json"))
    assert [c["name"] for c in theirs.loadCats(theirs.getCatIds())] == list(NAMES)
    for ours, line in zip(sample, theirs.loadImgs(theirs.getImgIds()), strict=True):
        boxes = ours.annotation.boxes
        with Image.open(tmp_path / "out" / line["file_name"]) as file:
            assert file.size == (line["width"], line["height"]) == boxes.size[::-1]
        assert line.get("synthetic", False) is (ours.provenance is not None)
        told = theirs.loadAnns(theirs.getAnnIds(imgIds=line["id"]))
        assert [theirs.cats[a["category_id"]]["name"] for a in told] == list(boxes.names)
        corners = np.array([a["bbox"] for a in told]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        assert np.allclose(corners, boxes.corners, atol=1e-9)
        assert all(a["area"] == pytest.approx(a["bbox"][2] * a["bbox"][3]) and a["iscrowd"] == 0 for a in told)
    assert theirs.dataset["info"]["synthetic"] == 1
    assert "1 of 3 are synthetic" in theirs.dataset["info"]["description"]


def opened_by_supervision(root: Path, format: str) -> dict[str, tuple[np.ndarray, list[str]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it runs without OpenCV
        import supervision

        read = supervision.DetectionDataset
        images = str(root / "images")
        ways = {
            "coco": lambda: read.from_coco(str(root), str(root / "instances.json")),
            "voc": lambda: read.from_pascal_voc(images, str(root / "Annotations")),
            "yolo": lambda: read.from_yolo(images, str(root / "labels"), str(root / "data.yaml")),
        }
        data = ways[format]()
        return {Path(path).stem: (found.xyxy, [data.classes[n] for n in found.class_id]) for path, _, found in data}


@pytest.mark.parametrize("format", FORMATS)
def test_supervision_reads_ours(format, sample, tmp_path):
    FORMATS[format].write(sample, tmp_path / "out", NAMES)
    theirs = opened_by_supervision(tmp_path / "out", format)
    for ours in sample:
        corners, names = theirs[ours.id]
        assert names == list(ours.annotation.boxes.names)
        # It keeps 32 bits, and of VOC whole pixels alone.
        assert np.abs(corners.reshape(-1, 4) - ours.annotation.boxes.corners).max(initial=0) < 1e-4


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_synthetic_is_marked_so(format, sample, tmp_path):
    root = tmp_path / "out"
    FORMATS[format].write(sample, root, NAMES)
    assert xmp.read(root / "images" / "a.png") == "synthetic"
    places = {"coco": "instances.json", "voc": "Annotations/a.xml", "yolo": "data.yaml"}
    assert "synthetic" in (root / places[format]).read_text(encoding="utf-8")
    (root / "metadata.csv").unlink()  # the files alone still say so
    assert [e.provenance is not None for e in boxed.read(root)] == [True, False, False]


# -------------------------------------------------------------------------------------------------------- EXIF


PAINTED = (8, 4, 20, 10)


def turned_file(path: Path, orientation: int, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[float, ...]]:
    """A file whose shown picture, width x height, is black with white in PAINTED; its stored size and the box there."""
    shown = Image.new("RGB", size)
    shown.paste("white", PAINTED)
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = shown.transpose(back[orientation]) if orientation in back else shown
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.save(path, exif=exif)
    return stored.size, stored.convert("L").getbbox()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_boxes_turn_with_the_stored_pixels(tmp_path, orientation, suffix):
    """A picture on its side, 6, tells of the set that its boxes are of the stored pixels, so that those of 2, 3, 4 are."""
    images, annotations = [], []
    for ident, value in enumerate((orientation, 6), 1):
        size, (x0, y0, x1, y1) = turned_file(tmp_path / f"{ident}{suffix}", value, (40, 24))
        if suffix == ".jpg":  # what JPEG smears over the edge
            x0, y0, x1, y1 = np.round(turned_box(value, size)).tolist()
        images.append(image(ident, f"{ident}{suffix}", size))
        annotations.append(bbox(x0, y0, x1 - x0, y1 - y0, image=ident))
    instances(tmp_path, images, annotations)
    for row in boxed.rows(tmp_path):
        assert (row.size, row.boxes.size) == ((24, 40), (24, 40))
        assert row.boxes.corners.tolist() == [list(map(float, PAINTED))]
        shown, _ = read_photograph(row.path)
        assert shown.shape == (3, 24, 40)
        x0, y0, x1, y1 = map(int, row.boxes.corners[0])
        assert shown[:, y0:y1, x0:x1].mean() > 0.9
        assert shown.sum() == pytest.approx(-3 * 24 * 40 + 2 * 3 * 12 * 6, abs=60)


def turned_box(orientation: int, stored: tuple[int, int]) -> np.ndarray:
    """PAINTED on the stored pixels: the inverse of each turn is itself, but for 6 and 8."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    return apply_orientation(np.array([PAINTED], float), inverse, (24, 40))[0]


@pytest.mark.filterwarnings("ignore:.*--origin:toolkit.example.Note")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", FORMATS)
def test_boxes_of_the_picture_as_it_is_shown_stay(tmp_path, orientation, format):
    turned_file(tmp_path / "in" / "a.png", orientation, (40, 24))
    x0, y0, x1, y1 = PAINTED
    if format == "coco":
        instances(tmp_path / "in", [image(size=(40, 24))], [bbox(x0, y0, x1 - x0, y1 - y0)])
    elif format == "voc":
        text(tmp_path / "in" / "a.xml", annotation(("cell", *PAINTED), size=(40, 24)))
    else:
        text(tmp_path / "in" / "a.txt", f"0 {(x0 + x1) / 80} {(y0 + y1) / 48} {(x1 - x0) / 40} {(y1 - y0) / 24}\n")
        text(tmp_path / "in" / "classes.txt", "cell\n")
    ((row,)) = boxed.rows(tmp_path / "in")
    assert np.abs(row.boxes.corners - PAINTED).max() < 1e-4
    counted = convert(tmp_path / "in", tmp_path / "out", "coco")
    assert counted.turned == (orientation > 1)
    with Image.open(tmp_path / "out" / "images" / "a.png") as file:
        assert file.getexif().get(0x0112, 1) == 1
        assert file.convert("L").getbbox() == PAINTED
    ((again,)) = boxed.rows(tmp_path / "out")
    assert (again.boxes.corners == row.boxes.corners).all()


# ----------------------------------------------------------------------------------------------------- layouts of tools


def test_coco_of_2017_and_not_its_captions(tmp_path):
    for split, name in (("train2017", "1.jpg"), ("val2017", "2.jpg")):
        picture(tmp_path / split / name)
        instances(tmp_path, [image(1, name)], [bbox(1, 2, 3, 4)], name=f"annotations/instances_{split}.json")
        text(
            tmp_path / "annotations" / f"captions_{split}.json",
            json.dumps({"images": [], "annotations": [{"caption": "x"}]}),
        )
    told, aside = found(tmp_path)
    assert told == {f"{s}/{n}.jpg": [("cell", (1, 2, 4, 6))] for s, n in (("train2017", 1), ("val2017", 2))}
    assert aside == []


def test_coco_of_roboflow_a_file_a_split_and_copies_are_one_group(tmp_path):
    for split, code in (("train", "0a1b2c3d4e"), ("train", "99aabbccdd"), ("valid", "5f6a7b8c9d")):
        picture(tmp_path / split / f"leaf-1_jpg.rf.{code}.jpg")
    for split in ("train", "valid"):
        images = [image(n, p.name) for n, p in enumerate(sorted((tmp_path / split).glob("*.jpg")))]
        instances(tmp_path, images, [bbox(1, 1, 2, 2, image=0)], name=f"{split}/_annotations.coco.json")
    rows = boxed.rows(tmp_path)
    assert len(rows) == 3
    assert {row.group for row in rows} == {"leaf-1"}
    assert len({row.id for row in rows}) == 3


def test_the_group_is_the_name_or_what_the_table_says(tmp_path):
    for name in ("images/field A/1.png", "images/field B/1.png", "test/2.png", "train/2.png", "3.png"):
        picture(tmp_path / name)
    text(tmp_path / "metadata.csv", "filename,group\n3.png,farm 9\n")
    names = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")]
    instances(tmp_path, [image(n, name) for n, name in enumerate(names)], [])
    assert {row.name: row.group for row in boxed.rows(tmp_path)} == {
        "images/field A/1.png": "field A/1", "images/field B/1.png": "field B/1", "test/2.png": "2", "train/2.png": "2",
        "3.png": "farm 9",
    }  # fmt: skip


def test_voc_of_the_development_kit_counts_from_one(tmp_path):
    picture(tmp_path / "VOC2012" / "JPEGImages" / "2007_1.jpg")
    objects = [("dog", 1, 1, 10, 8), ("cat", 5, 6, 32, 24)]
    text(tmp_path / "VOC2012" / "Annotations" / "2007_1.xml", annotation(*objects, name="2007_1.jpg"))
    told, _ = found(tmp_path)
    assert told == {"VOC2012/JPEGImages/2007_1.jpg": [("dog", (0, 0, 10, 8)), ("cat", (4, 5, 32, 24))]}
    with pytest.warns(Note, match=r"counted from 1, .* one ends at the edge, .*--origin 0"):
        assert boxed.names(tmp_path) == ("cat", "dog")


@pytest.mark.parametrize(
    ("objects", "extra", "first"),
    [
        ([("a", 1, 1, 9, 9), ("a", 2, 2, 32, 20)], "", (0, 0, 9, 9)),
        ([("a", 1, 1, 9, 9), ("a", 2, 2, 31, 20)], "", (1, 1, 9, 9)),
        ([("a", 1, 1, 9, 9), ("a", 0, 2, 32, 20)], "", (1, 1, 9, 9)),
        ([("a", 1, 1, 9, 9), ("a", 2, 2, 32, 20)], "<path>/x/a.png</path><source><database>Unknown</database></source>", (1, 1, 9, 9)),
        ([("a", "1.5", "45.70000076293945", 9, 90)], "", None),
        ([("a", 1.5, 1, 9, 9), ("a", 2, 2, 32, 20)], "", (1.5, 1, 9, 9)),
        ([("a", 9.5, 8, "2", "1")], "", (2, 1, 9.5, 8)),
    ],
    ids=["ends at the width", "ends nowhere", "begins at 0", "LabelImg", "outside", "fraction", "swapped"],
)  # fmt: skip
def test_where_the_first_pixel_is(tmp_path, objects, extra, first):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", annotation(*objects, extra=extra))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        told, aside = found(tmp_path)
    assert ([c for _, c in told.get("a.png", [])][:1] or [None])[0] == first
    assert len(aside) == (first is None)


def test_a_voc_file_belongs_to_the_picture_of_its_name(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.JPG", format="JPEG")
    text(tmp_path / "Annotations" / "a.xml", annotation(("x", 2, 3, 5, 6), name="IMG_0001.jpg"))  # renamed since
    assert list(found(tmp_path)[0]) == ["JPEGImages/a.JPG"]
    picture(tmp_path / "JPEGImages" / "IMG_0001.jpg")
    with pytest.warns(Note, match="2 pictures without a usable XML"):
        told, aside = found(tmp_path)
    assert told == {}
    assert "is of one picture" in aside[0][1]


YOLO_LAYOUTS = {
    "images and labels": ("images/train/a.png", "labels/train/a.txt", "train: images/train\nval: images/train"),
    "roboflow": ("train/images/a.png", "train/labels/a.txt", "train: ../train/images\nval: ../valid/images"),
    "another machine": ("images/a.png", "labels/a.txt", "path: /content/datasets/x\ntrain: images\nval: images"),
    "among data sets": ("images/a.png", "labels/a.txt", "path: ../datasets/coco8\ntrain: images"),
    "beside": ("train/a.png", "train/a.txt", "train: [train]"),
    "a list of files": ("images/a.png", "labels/a.txt", "train: list.txt"),
    "no splits": ("deep/images/a.png", "deep/labels/a.txt", ""),
}


@pytest.mark.parametrize("layout", YOLO_LAYOUTS)
@pytest.mark.parametrize(
    "names", ["names: [cell, 'no']", "names: {0: cell, 1: 'no'}", "names:\n  1: 'no'\n  '0': cell"]
)
def test_yolo_wherever_its_files_lie(tmp_path, layout, names):
    file, label, yaml = YOLO_LAYOUTS[layout]
    picture(tmp_path / file)
    text(tmp_path / label, "1 0.5 0.5 0.25 0.5\n\n0 0.125 0.25 0.25 0.5\n")
    text(tmp_path / "list.txt", "./images/a.png\n")
    text(tmp_path / "data.yaml", f"{yaml}\n{names}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # of a split that is not there
        told, aside = found(tmp_path)
    assert told == {file: [("no", (12, 6, 20, 18)), ("cell", (0, 0, 8, 12))]}
    assert aside == []


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "train/_darknet.labels"])
def test_yolo_without_data_yaml(tmp_path, place):
    picture(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.25 0.5\n")
    text(tmp_path / place, "cell\nother\n")
    assert found(tmp_path) == ({"images/a.png": [("cell", (12, 6, 20, 18))]}, [])
    assert boxed.names(tmp_path) == ("cell", "other")


@pytest.mark.filterwarnings("ignore:.*an outline or a turned box:toolkit.example.Note")
def test_yolo_polygons_and_poses_become_their_boxes(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
    text(tmp_path / "labels" / "a.txt", "0 0.25 0.5 0.75 0.25 0.5 0.75\n0 0.5 0.5 0.25 0.5 " + "0.1 0.9 2 " * 3 + "\n")
    text(tmp_path / "data.yaml", "train: images\nnames: [cell]\nkpt_shape: [3, 3]\n")
    told, aside = found(tmp_path)
    assert told == {"images/a.png": [("cell", (8, 6, 24, 18)), ("cell", (12, 6, 20, 18))], "images/b.png": []}
    assert aside == []


def test_yolo_a_picture_without_text_holds_nothing_but_a_split_without_any_is_not_annotated(tmp_path):
    for name in ("train/images/a.png", "train/images/b.png", "train/images/c.png", "test/images/d.png"):
        picture(tmp_path / name)
    text(tmp_path / "train" / "labels" / "a.txt", "0 0.5 0.5 0.25 0.5\n")
    text(tmp_path / "train" / "labels" / "b.txt", "")
    text(tmp_path / "data.yaml", "train: train/images\ntest: test/images\nnames: [cell]\n")
    with pytest.warns(Note, match="No picture of 'test' has a text file: 1"):
        told, _ = found(tmp_path)
    assert {name: len(boxes) for name, boxes in told.items()} == {
        "train/images/a.png": 1, "train/images/b.png": 0, "train/images/c.png": 0,
    }  # fmt: skip


def test_the_format_is_found_or_asked_for(tmp_path):
    with pytest.raises(Error, match="is none"):
        boxed.find_format(tmp_path / "missing")
    picture(tmp_path / "a.png")
    text(tmp_path / "dataset.json", '{"format": 1}')
    with pytest.raises(Error, match="holds none of them"):
        boxed.find_format(tmp_path)
    text(tmp_path / "a.xml", annotation(("x", 2, 3, 5, 6)))
    assert boxed.find_format(tmp_path) is voc
    instances(tmp_path, [image()], [])
    with pytest.warns(Note, match="COCO is read"):
        assert boxed.find_format(tmp_path) is coco
    assert boxed.find_format(tmp_path, "voc") is voc
    text(tmp_path / "data.yaml", "names: [x]\n")
    with pytest.raises(Error, match="coco and voc and yolo"):
        boxed.find_format(tmp_path)
    with pytest.raises(Error, match="one of coco, voc, yolo"):
        boxed.find_format(tmp_path, "kitti")


# ----------------------------------------------------------------------------------------------------------- the verb


def run(*words: object) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", "from diffgraft.cli.main import main; main()"]
    return subprocess.run([*start, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


def test_the_verb_converts_tells_and_refuses(tmp_path):
    for name in "abc":
        picture(tmp_path / "in" / "JPEGImages" / f"{name}.jpg")
        text(
            tmp_path / "in" / "Annotations" / f"{name}.xml",
            annotation(("x", 0, 3, 5, 6), ("x", 2, 2, 2, 9), name=f"{name}.jpg"),
        )
    whole = (tmp_path / "in" / "JPEGImages" / "c.jpg").read_bytes()
    (tmp_path / "in" / "JPEGImages" / "c.jpg").write_bytes(whole[:-20])
    out = tmp_path / "out"
    done = run("convert", tmp_path / "in", out, "--to", "yolo")
    assert done.returncode == 3, done.stderr  # done, with files put aside
    assert "2 pictures with 2 boxes, voc to yolo" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("next: diffgraft prepare detection")
    assert "4 put aside" in done.stderr
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert Counter(line["source"] for line in lines) == {
        "JPEGImages/a.jpg": 1,
        "JPEGImages/b.jpg": 1,
        "JPEGImages/c.jpg": 2,
    }
    assert (out / "images" / "a.jpg").read_bytes() == (tmp_path / "in" / "JPEGImages" / "a.jpg").read_bytes()
    again = run("convert", tmp_path / "in", out, "--to", "coco")
    note, problem = again.stderr.splitlines()
    assert (again.returncode, "--origin 1" in note, "--overwrite" in problem) == (1, True, True)
    assert run("convert", tmp_path / "in", out, "--to", "coco", "--overwrite").returncode == 3
    assert boxed.find_format(out) is coco
    inside = run("convert", out, out, "--to", "voc", "--overwrite")
    assert (inside.returncode, len(inside.stderr.splitlines())) == (1, 1)


def test_a_folder_without_a_usable_picture_leaves_nothing_behind(tmp_path):
    text(tmp_path / "in" / "a.xml", annotation(("x", 2, 3, 5, 6)))
    with pytest.raises(Error, match=r"needs one usable picture or more.*a\.xml"):
        convert(tmp_path / "in", tmp_path / "out", "coco")
    with pytest.raises(Error, match="one of coco, voc, yolo; found 'kitti'"):
        convert(tmp_path / "in", tmp_path / "out", "kitti")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# ----------------------------------------------------------------------------------------------------------- real data


@real_boxes
def test_real_smears_and_fields(tmp_path):
    aside: list[tuple[str, str]] = []
    smears = boxed.rows(REAL / "bccd", aside=lambda *line: aside.append(line))
    assert len(smears) == 286
    assert Counter(n for row in smears for n in row.boxes.names) == {"RBC": 3241, "WBC": 292, "Platelets": 287}
    assert [(Path(name).stem, "has none" in why) for name, why in aside] == [
        ("BloodImage_00338", True),
        ("BloodImage_00343", True),
    ]
    with pytest.warns(Note, match="COCO is read"):
        fields = boxed.rows(REAL / "uav_potato_weed")
    assert len(fields) == 70
    assert Counter(n for row in fields for n in row.boxes.names) == {"potato": 337, "weed": 491}
    with pytest.warns(
        Note, match="70 XML files are read as corners from 0 to the width, because a box begins before 1"
    ):
        same_fields = boxed.rows(REAL / "uav_potato_weed", "voc")
    for ours, theirs in zip(fields, same_fields, strict=True):
        assert ours.name == theirs.name
        assert (ours.boxes.corners == theirs.boxes.corners).all()


@pytest.mark.slow
@real_boxes
@pytest.mark.filterwarnings("ignore::toolkit.example.Note")
@pytest.mark.parametrize("data", ["bccd", "uav_potato_weed"])
def test_real_data_through_every_pair_of_formats(data, tmp_path):
    aside: list = []
    rows = boxed.rows(REAL / data, aside=lambda *line: aside.append(line))
    for first in FORMATS:
        convert(REAL / data, tmp_path / first, first)
        for second in FORMATS:
            convert(tmp_path / first, tmp_path / "out", second, overwrite=True)
            for ours, theirs in zip(rows, boxed.rows(tmp_path / "out"), strict=True):
                assert (ours.id, ours.group, ours.size, ours.boxes.names) == (
                    theirs.id,
                    theirs.group,
                    theirs.size,
                    theirs.boxes.names,
                )
                assert (ours.boxes.corners == theirs.boxes.corners).all()
                assert ours.path.read_bytes() == theirs.path.read_bytes()
