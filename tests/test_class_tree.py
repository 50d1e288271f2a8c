"""Which level of a tree of folders is the class."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import diffgraft
from toolkit.example import Error, Note
from toolkit.formats import folders
from toolkit.formats.class_tree import find_places

KAGGLE = "New Plant Diseases Dataset(Augmented)"


def places(*paths: str, level: str | None = None) -> dict[str, str]:
    """Folder -> class."""
    return {
        "/".join(p): place.name for p, place in find_places([tuple(p.split("/")) for p in paths], "R", level).items()
    }


CERTAIN = {
    "a folder a class": {"rust": "rust", "healthy": "healthy"},
    "words of any language": {"karat": "karat", "sehat": "sehat"},
    "one class": {"rust": "rust"},
    "divided by plant": {f"{c}/plant_{n:02d}": c for c in ("Coffee___rust", "Coffee___healthy") for n in (0, 1)},
    "divided by plant, without words": {"karat/plant_1": "karat", "sehat/plant_1": "sehat"},
    "divided by day": {"rust/2024-05-03": "rust", "healthy/2024-05-03": "healthy"},
    "divided by number": {"A/1": "A", "A/2": "A", "B/1": "B"},
    "divided by site": {"Leaf Rust/Brazil/a": "Leaf Rust", "Healthy/Kenya/b": "Healthy"},
    "divided by severity": {"rust/mild": "rust", "rust/severe": "rust", "healthy": "healthy"},
    "divided in part": {"karat": "karat", "karat/more": "karat", "sehat": "sehat"},
    "splits": {"train/rust": "rust", "val/rust": "rust", "test/healthy": "healthy"},
    "splits of other names": {"Training set/karat": "karat", "validation/karat": "karat", "Testing/sehat": "sehat"},
    "splits, divided": {"train/rust/plant_1": "rust", "valid/healthy/plant_2": "healthy"},
    "splits and classes": {"train/rust": "rust", "valid/rust": "rust", "healthy": "healthy"},
    "a test without labels": {"train/rust": "rust", "train/healthy": "healthy", "test": ""},
    "an archive": {"mydata/karat": "karat", "mydata/sehat": "sehat"},
    "an archive, splits": {"mydata/train/karat": "karat", "mydata/val/sehat": "sehat"},
    "two archives": {
        f"{KAGGLE}/{KAGGLE}/train/Apple___scab": "Apple___scab",
        f"{KAGGLE}/{KAGGLE}/valid/Apple___healthy": "Apple___healthy",
        "test/test": "",
    },
    "editions of the same pictures": {
        "plantvillage dataset/color/Apple___scab": "Apple___scab",
        "plantvillage dataset/segmented/Apple___scab": "Apple___scab",
        "plantvillage dataset/grayscale/Apple___healthy": "Apple___healthy",
    },
    "crop and condition": {
        "coffee/rust": "coffee___rust", "coffee/healthy": "coffee___healthy", "Tomatoes/Late blight": "Tomatoes___Late blight",
    },
    "crop and condition, splits": {"train/coffee/rust": "coffee___rust", "val/potato/healthy": "potato___healthy"},
    "crop and condition, divided": {"coffee/rust/plant_1": "coffee___rust", "corn/smut/plant_2": "corn___smut"},
    "sites of conditions": {"field_1/rust": "rust", "field_1/healthy": "healthy", "field_2/rust": "rust"},
    "one crop": {"coffee/rust": "rust", "coffee/healthy": "healthy"},
    "not labelled": {"unlabelled": "unlabelled", "rust": "rust"},
}  # fmt: skip

UNCERTAIN = {
    "words that say nothing": ("karat/utara", "karat/selatan", "sehat/utara"),
    "conditions of what": ("Esparceta/rust", "Esparceta/healthy", "Luzerne/rust"),
    "both": ("rust/healthy", "blight/infected"),
    "loose pictures of a crop": ("coffee", "coffee/rust", "potato/healthy"),
    "deeper": ("coffee/leaf/rust", "potato/leaf/healthy"),
}


@pytest.mark.parametrize("kind", CERTAIN)
def test_the_class_of_a_folder(kind):
    assert places(*CERTAIN[kind]) == CERTAIN[kind]


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_a_tree_that_does_not_tell_is_refused_with_its_levels(kind):
    with pytest.raises(
        Error, match=r"level 1 \(.*\) or level 2 \(.*\).*--level 1, --level 2, or --level 1\+2"
    ) as refusal:
        places(*UNCERTAIN[kind])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("level", "classes"), [
    ("1", {"train/karat/utara": "train"}), ("2", {"train/karat/utara": "karat"}), ("3", {"train/karat/utara": "utara"}),
    ("2+3", {"train/karat/utara": "karat___utara"}), ("1", {"a": "a"}), ("2", {"a": ""}),
])  # fmt: skip
def test_a_level_that_is_named_is_taken(level, classes):
    assert places(*classes, level=level) == classes


@pytest.mark.parametrize("level", ["0", "x", "2+1", "1+1", "1+2+3", "", "-1"])
def test_a_level_is_a_number_from_one(level):
    with pytest.raises(Error, match="1\\+2"):
        places("a/b", level=level)


@given(
    st.lists(st.text("abcxyz", min_size=3, max_size=6), min_size=2, max_size=4, unique=True),
    st.sampled_from(
        ["{c}", "{c}/plant_{n}", "{c}/2024-06-{n:02d}", "train/{c}/{n}", "data/train/{c}/leaf {n}", "images/{c}/{n}"]
    ),
)
def test_numbers_and_splits_never_name_a_class(names, form):
    """torchvision's ImageFolder, of the folder that holds the classes, gives the same."""
    found = places(*(form.format(c=name, n=n) for name in names for n in (1, 2)))
    assert set(found.values()) == set(names)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 16), (20, 160, 40)).save(path)


def test_what_divides_a_class_is_said_and_a_plant_is_one_group(tmp_path):
    for name in ("rust/plant_07/1.png", "rust/plant_07/2.png", "rust/plant_08/1.png", "healthy/plant_07/1.png"):
        picture(tmp_path / name)
    with pytest.warns(Note, match="healthy, rust.*--level 2"):
        rows = folders.rows(tmp_path)
    assert [row.group for row in rows] == ["healthy/plant_07", "rust/plant_07", "rust/plant_07", "rust/plant_08"]
    assert [row.words["class"] for row in rows] == ["healthy", "rust", "rust", "rust"]


def test_files_of_one_name_in_two_days_are_two_leaves(tmp_path):
    for name in ("rust/2024-05-03/1.png", "rust/2024-05-04/1.png", "healthy/2024-05-03/1.png"):
        picture(tmp_path / name)
    with pytest.warns(Note):
        assert len({row.group for row in folders.rows(tmp_path)}) == 3


def test_a_table_without_classes_leaves_them_to_the_right_level(tmp_path):
    for name in ("rust/plant_1/1.png", "healthy/plant_2/1.png"):
        picture(tmp_path / name)
    (tmp_path / "labels.csv").write_text("filename,camera\nrust/plant_1/1.png,x\nhealthy/plant_2/1.png,x\n")
    with pytest.warns(Note):
        assert [row.words["class"] for row in folders.rows(tmp_path)] == ["rust", "healthy"]


def test_a_level_is_given_to_prepare_and_kept(tmp_path):
    for name in ("karat/utara/1.png", "sehat/selatan/2.png"):
        picture(tmp_path / "raw" / name)
    with pytest.raises(Error, match="--level 1, --level 2"):
        diffgraft.prepare("plant_disease", tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        made = diffgraft.prepare("plant_disease", tmp_path / "raw", tmp_path / "out", level="1")
        assert made.classes == {"karat": 1, "sehat": 1}
    made = diffgraft.prepare("plant_disease", tmp_path / "raw", tmp_path / "two", level="1+2")
    assert made.classes == {"karat___utara": 1, "sehat___selatan": 1}
    with pytest.raises(Error, match=r"takes .*found --level"):
        diffgraft.prepare("detection", tmp_path / "raw", tmp_path / "three", level="1")
