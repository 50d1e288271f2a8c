"""A data set folder: what is written comes back, what is wrong is refused in one line, nothing half is left."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toolkit.data import dataset
from toolkit.example import Annotation, Boxes, Error, Example, Geometry, Provenance

# ------------------------------------------------------------------------------------------------------- strategies

numbers = st.floats(-1e6, 1e6, width=32)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=4,
)
annotations = st.builds(
    Annotation,
    text=st.none() | names,
    labels=st.dictionaries(names, numbers | st.just(math.nan), max_size=4),
)


@st.composite
def boxes(draw):
    corners = draw(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=3))
    return Boxes(np.array(corners, float).reshape(-1, 4), tuple(draw(names) for _ in corners))


@st.composite
def geometries(draw):
    affine = np.eye(4)
    affine[:3] = np.reshape(draw(st.lists(numbers, min_size=12, max_size=12)), (3, 4))
    return Geometry(
        affine=affine,
        shape=draw(st.sampled_from([(5, 6), (5, 6, 7), (256, 256, 30)])),
        window=(draw(numbers), draw(numbers)),
        index=draw(st.none() | st.integers(0, 300)),
        box=draw(st.none() | st.tuples(numbers, numbers, numbers, numbers)),
    )


provenances = st.builds(
    Provenance,
    kind=st.sampled_from(["synthetic", "edited", "map"]),
    model=names,
    procedure=names,
    seed=st.none() | st.integers(0, 2**64 - 1),
    settings=st.dictionaries(names, plain, max_size=3),
    source=st.none() | names,
)


@st.composite
def examples(draw, ident: str):
    channels, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 7)), draw(st.integers(1, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = random.uniform(-1, 1, (channels, height, width)).astype(np.float32)
    annotation = draw(annotations)
    mask = random.random((height, width)) > 0.5 if draw(st.booleans()) else None
    return Example(
        id=ident,
        image=image,
        annotation=Annotation(annotation.text, annotation.labels, draw(st.none() | boxes()), mask),
        group=draw(names),
        geometry=draw(st.none() | geometries()),
        provenance=draw(st.none() | provenances),
    )


def several():
    return st.integers(1, 3).flatmap(lambda count: st.tuples(*(examples(f"s{n}.A_b-{n}") for n in range(count))))


def blank(ident: str = "a", channels: int = 1, **more) -> Example:
    return Example(ident, np.zeros((channels, 4, 6), np.float32), **more)


def made(root: Path, *found: Example) -> Path:
    dataset.write(found or [blank()], root / "data")
    return root / "data"


def rewritten(root: Path, **changes) -> Path:
    """A data set of one sample whose manifest line was changed by hand; DELETED takes a key away."""
    folder = made(root, blank(annotation=Annotation(labels={"lesion": 1}, mask=np.ones((4, 6), bool))))
    line = json.loads((folder / "manifest.jsonl").read_text())
    line = {k: v for k, v in (line | changes).items() if v is not DELETED}
    (folder / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    return folder


DELETED = object()


def assert_one_line(problem: pytest.ExceptionInfo) -> None:
    assert len(str(problem.value).splitlines()) == 1
    assert len(str(problem.value)) > 20


# ------------------------------------------------------------------------------------------------------- round trip


def same_annotation(found: Annotation, expected: Annotation) -> None:
    assert found.text == expected.text
    assert found.labels.keys() == expected.labels.keys()
    for name, value in expected.labels.items():
        assert found.labels[name] == value or (math.isnan(value) and math.isnan(found.labels[name]))
    assert (found.boxes is None) == (expected.boxes is None)
    if expected.boxes is not None:
        assert np.array_equal(found.boxes.corners, expected.boxes.corners)
        assert found.boxes.names == expected.boxes.names
    assert (found.mask is None) == (expected.mask is None)
    if expected.mask is not None:
        assert found.mask.dtype == bool
        assert np.array_equal(found.mask, expected.mask)


def same_geometry(found: Geometry | None, expected: Geometry | None) -> None:
    assert (found is None) == (expected is None)
    if expected is not None:
        assert np.array_equal(found.affine, expected.affine)
        assert (found.shape, found.window, found.index, found.box) == (
            (expected.shape, expected.window, expected.index, expected.box)
        )
        assert type(found.shape) is type(found.window) is tuple


STEPS = {1: 2 / 65535, 2: 0, 3: 2 / 255, 4: 0}
"""Channels -> distance of two grey levels in [-1, 1]: 16-bit grey, 8-bit RGB, float32."""


@settings(max_examples=60, deadline=None)
@given(several())
def test_what_is_written_comes_back(wanted):
    root = Path(tempfile.mkdtemp())
    try:
        assert dataset.write(wanted, root / "data", domain="toy") == len(wanted)
        found = list(dataset.read(root / "data"))
        text = (root / "data" / "manifest.jsonl").read_text(encoding="utf-8")
    finally:
        shutil.rmtree(root)
    assert [e.id for e in found] == [e.id for e in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.image.dtype == np.float32
        assert ours.image.shape == theirs.image.shape
        assert np.abs(ours.image - theirs.image).max() <= STEPS[len(theirs.image)] / 2 * 1.01
        assert ours.group == theirs.group
        same_annotation(ours.annotation, theirs.annotation)
        same_geometry(ours.geometry, theirs.geometry)
        assert ours.provenance == theirs.provenance

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    for line, theirs in zip(lines, wanted, strict=True):
        unknown = {k for k, v in theirs.annotation.labels.items() if math.isnan(v)}
        assert {k for k, v in line["labels"].items() if v is None} == unknown
        assert line["fold"] == dataset.fold_of(theirs.group)


@pytest.mark.parametrize(
    ("channels", "suffix", "mode"), [(1, ".png", "I;16"), (3, ".png", "RGB"), (2, ".npy", None), (4, ".npy", None)]
)
def test_the_file_kind_follows_the_channels(tmp_path, channels, suffix, mode):
    folder = made(tmp_path, blank(channels=channels))
    (file,) = (folder / "images").iterdir()
    assert file.name == f"a{suffix}"
    if mode:
        with Image.open(file) as image:
            assert image.mode == mode


def test_ends_of_the_range_are_exact_and_what_lies_beyond_is_clipped(tmp_path):
    image = np.array([[[-1, 1, 0, -3, 3]]], np.float32)
    (found,) = dataset.read(made(tmp_path, Example("a", image)))
    assert found.image[0, 0, [0, 1, 3, 4]].tolist() == [-1, 1, -1, 1]
    assert abs(found.image[0, 0, 2]) <= 1 / 65535


def test_writing_what_was_read_changes_nothing(tmp_path):
    random = np.random.default_rng(0)
    first = [Example(f"c{c}", random.uniform(-1, 1, (c, 5, 6)).astype(np.float32)) for c in (1, 2, 3)]
    dataset.write(first, tmp_path / "one")
    dataset.write(dataset.read(tmp_path / "one"), tmp_path / "two")
    for one, two in zip(dataset.read(tmp_path / "one"), dataset.read(tmp_path / "two"), strict=True):
        assert one.image.tobytes() == two.image.tobytes()
    assert (tmp_path / "one" / "manifest.jsonl").read_bytes() == (tmp_path / "two" / "manifest.jsonl").read_bytes()


def test_an_unknown_label_is_null_in_the_file(tmp_path):
    folder = made(tmp_path, blank(annotation=Annotation(labels={"lesion": math.nan, "position": 0.25})))
    assert json.loads((folder / "manifest.jsonl").read_text())["labels"] == {"lesion": None, "position": 0.25}
    assert "NaN" not in (folder / "manifest.jsonl").read_text()


def test_the_description_is_kept(tmp_path):
    dataset.write([blank("a"), blank("b")], tmp_path / "data", domain="toy", source=Path("/somewhere"))
    assert dataset.read_info(tmp_path / "data") == {"format": 1, "samples": 2, "domain": "toy", "source": "/somewhere"}


def test_a_group_lies_in_one_fold_for_ever():
    # known answer: another split would put patients that were trained on into the test
    assert [dataset.fold_of(f"TCGA-{n}") for n in range(8)] == [1, 3, 3, 0, 3, 1, 2, 1]
    shares = np.bincount([dataset.fold_of(f"patient {n}") for n in range(4000)], minlength=dataset.FOLDS) / 4000
    assert len(shares) == dataset.FOLDS
    assert shares == pytest.approx(1 / dataset.FOLDS, abs=0.03)


# ---------------------------------------------------------------------------------------------------------- refusals


def test_an_output_in_use_is_refused_and_untouched(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(Error, match="new or empty") as problem:
        dataset.write([blank()], folder)
    assert_one_line(problem)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Error, match="new or empty"):
        dataset.write([blank()], tmp_path / "file")


def test_an_empty_folder_is_a_new_one(tmp_path):
    (tmp_path / "data").mkdir()
    dataset.write([blank()], tmp_path / "data")
    assert len(list(dataset.read(tmp_path / "data"))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_the_current_folder_is_an_output_like_any_other(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    dataset.write([blank()], ".")
    assert len(list(dataset.read(here))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_a_linked_folder_is_written_to_and_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    dataset.write([blank()], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(list(dataset.read(tmp_path / "disk"))) == 1


def broken():
    yield blank("a")
    yield blank("b")
    raise OSError("the disk is gone")


def test_a_failure_midway_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="disk"):
        dataset.write(broken(), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_takes_place_only_in_the_end(tmp_path):
    folder = made(tmp_path, blank("old"))
    with pytest.raises(OSError, match="disk"), dataset.staged_folder(folder, overwrite=True) as fresh:
        (fresh / "new.txt").write_text("new")
        assert [e.id for e in dataset.read(folder)] == ["old"]
        raise OSError("the disk is gone")
    assert [e.id for e in dataset.read(folder)] == ["old"]
    with dataset.staged_folder(folder, overwrite=True) as fresh:
        (fresh / "new.txt").write_text("new")
    assert [p.name for p in folder.iterdir()] == ["new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("signs", "there"), [(("manifest.jsonl",), ()), (("metrics.json", "report.html"), ("report.html",))]
)
def test_overwriting_never_deletes_what_diffgraft_did_not_write(tmp_path, signs, there):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    for name in there:
        (thesis / name).write_text("by chance")
    with (
        pytest.raises(Error, match="Only a folder that diffgraft wrote is replaced"),
        dataset.staged_folder(thesis, overwrite=True, signs=signs),
    ):
        pass
    assert (thesis / "chapter.txt").read_text() == "years of work"


def test_overwriting_never_deletes_what_the_run_reads(tmp_path):
    folder = made(tmp_path, blank("old"))
    with (
        pytest.raises(Error, match="never replaces what it reads"),
        dataset.staged_folder(folder, overwrite=True, needed=[folder / "images"]),
    ):
        pass
    assert [e.id for e in dataset.read(folder)] == ["old"]


UNSAFE = ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a b", "-a", ".a", "a\n", "a\0", "ä", "a" * 201]


@pytest.mark.parametrize("ident", UNSAFE)
def test_an_unsafe_id_is_refused(tmp_path, ident):
    with pytest.raises(Error, match="unique and safe"):
        dataset.write([blank("a"), blank(ident)], tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_id_is_refused(tmp_path):
    with pytest.raises(Error, match=r"unique.*'a'"):
        dataset.write([blank("a"), blank("b"), blank("a")], tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_no_data_set(tmp_path):
    with pytest.raises(Error, match="at least one sample"):
        dataset.write([], tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


GEOMETRY = Geometry(np.full((4, 4), np.nan), (4, 6), (0.0, 1.0))
NO_JSON = {
    "an infinite label": blank(annotation=Annotation(labels={"size": math.inf})),
    "an affine of NaN": blank(geometry=GEOMETRY),
    "settings with NaN": blank(provenance=Provenance("map", "m", "p", settings={"threshold": math.nan})),
    "settings with an array": blank(provenance=Provenance("map", "m", "p", settings={"threshold": np.zeros(3)})),
}


@pytest.mark.parametrize("what", NO_JSON)
def test_what_json_cannot_hold_is_refused(tmp_path, what):
    with pytest.raises(Error) as problem:
        dataset.write([NO_JSON[what]], tmp_path / "data")
    assert_one_line(problem)
    assert "'a'" in str(problem.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_refused(tmp_path, channels, value):
    image = np.zeros((channels, 4, 6), np.float32)
    image[0, 1, 2] = value
    with pytest.raises(Error, match=r"finite.*'a'"):
        dataset.write([Example("a", image)], tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [lambda p: list(dataset.read(p)), dataset.read_info])
def test_a_folder_that_is_no_data_set(tmp_path, call):
    with pytest.raises(Error, match="diffgraft prepare") as problem:
        call(tmp_path)
    assert_one_line(problem)


@pytest.mark.parametrize("key", ["file", "mask"])
@pytest.mark.parametrize("outside", ["../secret.png", "/{}/secret.png", "images/../../secret.png", "images/link.png"])
def test_a_manifest_names_nothing_outside(tmp_path, key, outside):
    # the file exists and is an image: only the place is wrong
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "secret.png")
    folder = rewritten(tmp_path, **{key: outside.format(str(tmp_path).strip("/"))})
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Error, match="inside its own folder") as problem:
        list(dataset.read(folder))
    assert_one_line(problem)


def test_an_array_that_would_run_code_is_refused(tmp_path):
    folder = rewritten(tmp_path, file="images/evil.npy")
    array = np.array([{"a": 1}], dtype=object)
    np.save(folder / "images" / "evil.npy", array, allow_pickle=True)
    with pytest.raises(Error, match="line 1") as problem:
        list(dataset.read(folder))
    assert_one_line(problem)


DAMAGED = {
    "no file": {"file": DELETED},
    "a file that is not there": {"file": "images/b.png"},
    "a folder for a file": {"file": "images"},
    "a number for a file": {"file": 5},
    "a name that no file can have": {"file": "images/\0.png"},
    "no labels": {"labels": DELETED},
    "labels as a list": {"labels": ["lesion"]},
    "labels as a word": {"labels": "lesion"},
    "a label in words": {"labels": {"lesion": "yes"}},
    "a label beyond all numbers": {"labels": {"lesion": 10**400}},
    "boxes without names": {"boxes": {"corners": [[0, 0, 1, 1]]}},
    "boxes of three corners": {"boxes": {"corners": [[0, 0, 1]], "names": ["leaf"]}},
    "boxes as a list": {"boxes": [[0, 0, 1, 1]]},
    "fewer names than boxes": {"boxes": {"corners": [[0, 0, 1, 1], [0, 0, 1, 1]], "names": ["leaf"]}},
    "an affine in words": {"geometry": {"affine": "eye", "shape": [1], "window": [0, 1], "index": 0, "box": None}},
    "a geometry without a window": {"geometry": {"affine": [[1]], "shape": [1], "index": 0, "box": None}},
    "an unknown kind of provenance": {"provenance": {"kind": "map", "model": "m", "procedure": "p", "mood": "blue"}},
    "a provenance in words": {"provenance": "synthetic"},
    "no group": {"group": DELETED},
    "no id": {"id": DELETED},
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_entry_is_one_line(tmp_path, what):
    folder = rewritten(tmp_path, **DAMAGED[what])
    with pytest.raises(Error) as problem:
        list(dataset.read(folder))
    assert_one_line(problem)


@pytest.mark.parametrize("line", ["", "{", "[]", "5", "null", '"a"', "{}", "[" * 100000, "\ufeff{}", "\x00"])
def test_a_damaged_line_is_named(tmp_path, line):
    folder = made(tmp_path, blank("a"), blank("b"))
    good, rest = (folder / "manifest.jsonl").read_text().splitlines()
    (folder / "manifest.jsonl").write_text("\n".join([good, line, rest]) + "\n", encoding="utf-8")
    reader = dataset.read(folder)
    assert next(reader).id == "a"
    with pytest.raises(Error, match=r"manifest\.jsonl line 2") as problem:
        next(reader)
    assert_one_line(problem)


def test_a_manifest_that_is_no_text(tmp_path):
    folder = made(tmp_path)
    (folder / "manifest.jsonl").write_bytes(b'{"id": "\xff\xfe"}\n')
    with pytest.raises(Error) as problem:
        list(dataset.read(folder))
    assert_one_line(problem)


@pytest.mark.parametrize("content", ["{", "[]", "\x00", ""])
def test_a_description_that_is_none(tmp_path, content):
    folder = made(tmp_path)
    (folder / "dataset.json").write_text(content)
    with pytest.raises(Error) as problem:
        dataset.read_info(folder)
    assert_one_line(problem)


def bomb(path: Path) -> None:
    """A small PNG that says it is 60000 x 60000."""
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


SPOILED = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) * 3 // 4]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "text": lambda path: path.write_text("not an image"),
    "gone": os.remove,
    "shuffled": lambda path: path.write_bytes(path.read_bytes()[:40] + bytes(200) + path.read_bytes()[40:]),
}


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("how", SPOILED)
def test_a_damaged_image_is_named(tmp_path, how, channels):
    random = np.random.default_rng(0)
    folder = made(tmp_path, Example("a", random.uniform(-1, 1, (channels, 40, 40)).astype(np.float32)))
    (file,) = (folder / "images").iterdir()
    SPOILED[how](file)
    with pytest.raises(Error, match="line 1") as problem:
        list(dataset.read(folder))
    assert_one_line(problem)


def test_a_decompression_bomb_is_refused(tmp_path):
    folder = made(tmp_path)
    bomb(folder / "images" / "a.png")
    with pytest.raises(Error, match="line 1") as problem:
        list(dataset.read(folder))
    assert_one_line(problem)
