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


def found(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """File -> class, and file -> reason of what was put aside."""
    aside: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        rows = folders.rows(root, aside.__setitem__)
    return {row.name: row.words.get("class", "") for row in rows}, aside


LEAVES = {"Coffee___rust/IMG_0.png": "Coffee___rust", "Coffee___healthy/IMG_0.png": "Coffee___healthy"}


@pytest.mark.parametrize("stray", [
    "Coffee___rust/IMG_0_mask.png", "Coffee___rust/img_0-Mask.tif", "Coffee___rust/mask_IMG_0.png",
    "Coffee___rust/IMG_0_thumb.jpg", "Coffee___rust/IMG_0.segmentation.png", "Coffee___rust/IMG_0_gt.png",
    "Coffee___rust/@eaDir/IMG_0.png/SYNOPHOTO_THUMB_XL.jpg", "@eaDir/IMG_0.jpg", "Coffee___rust/.@__thumb/x.jpg",
    "masks/Coffee___rust/IMG_0.png", "Coffee___rust/masks/IMG_0.png", "Coffee___rust_masks/IMG_0.png",
    "Coffee___rust/.thumbnails/IMG_0.png", "thumbnails/Coffee___rust/IMG_0.png", "SegmentationClass/IMG_0.png",
    "hand_masks/IMG_0.png",
])  # fmt: skip
def test_masks_and_thumbnails_are_no_leaves(tmp_path, stray):
    for name in (*LEAVES, stray):
        picture(tmp_path / name)
    read, aside = found(tmp_path)
    assert read == LEAVES
    hidden = "/." in stray  # never looked into
    assert list(aside) == [stray] * (not hidden) and all("mask" in reason for reason in aside.values())


@pytest.mark.parametrize("name", [
    "Coffee___rust/IMG_1_mask.png", "Coffee___rust/unmasked.png", "Coffee___rust/IMG_0_2.png", "Coffee___rust/mask.png",
    "Coffee___rust/photos_with_masks/IMG_0.png",
])  # fmt: skip
def test_a_leaf_without_an_original_beside_it_is_read(tmp_path, name):
    for one in (*LEAVES, name):
        picture(tmp_path / one)
    assert found(tmp_path) == (LEAVES | {name: "Coffee___rust"}, {})


@pytest.mark.parametrize("store", [".store/mite", "store/mite", "healthy/../.store"])
def test_a_linked_class_folder_within_the_root_is_read_once(tmp_path, store):
    for name in ("healthy/1.png", "rust/1.png", f"{store}/1.png"):
        picture(tmp_path / name)
    (tmp_path / "mite").symlink_to(tmp_path / store)
    read, aside = found(tmp_path)
    assert read == {"healthy/1.png": "healthy", "rust/1.png": "rust", "mite/1.png": "mite"}
    assert all("'mite/1.png'" in reason for reason in aside.values())
    assert list(aside) == ["store/mite/1.png"] * (store == "store/mite")


@pytest.mark.parametrize("target", ["../outside/mite", ".", "..", "nowhere"])
def test_a_link_that_is_not_followed_is_named(tmp_path, target):
    for name in ("root/healthy/1.png", "root/rust/1.png", "outside/mite/1.png"):
        picture(tmp_path / name)
    (tmp_path / "root" / "mite").symlink_to(target)
    read, aside = found(tmp_path / "root")
    assert read == {"healthy/1.png": "healthy", "rust/1.png": "rust"}
    assert list(aside) == ["mite"] and "Copy" in aside["mite"]


@pytest.mark.parametrize(("given", "there"), [
    ("1.jpg", "1.JPG"), ("1.jpg", "images/1.JPG"), ("Rust/1.JPG", "rust/1.jpg"), ("1", "1.jpg"), ("rust/IMG.1", "rust/IMG.1.png"),
    ("img_1", "images/IMG_1.png"),
])  # fmt: skip
def test_a_name_of_a_table_may_lack_its_ending_or_its_case(tmp_path, given, there):
    picture(tmp_path / there)
    picture(tmp_path / "2.png")
    (tmp_path / "labels.csv").write_text(f"filename,class\n{given},rust\n2.png,healthy\n")
    assert found(tmp_path)[0] == {there: "rust", "2.png": "healthy"}


def test_a_name_that_may_mean_two_files_means_none(tmp_path):
    for name in ("1.jpg", "1.png", "A.PNG", "a.png", "b.png"):
        picture(tmp_path / name)
    (tmp_path / "labels.csv").write_text("filename,class\n1,rust\na.png,rust\nb.png,rust\n")
    read, aside = found(tmp_path)
    assert read == {"a.png": "rust", "b.png": "rust"}
    assert "1.jpg or 1.png" in aside["1"] and "no line" in aside["A.PNG"]


def test_pictures_that_a_table_does_not_list_are_named(tmp_path):
    for name in ("rust/1.png", "rust/2.png", ".hidden/3.png", "masks/1.png"):
        picture(tmp_path / name)
    (tmp_path / "labels.csv").write_text("filename,class\nrust/1.png,rust\n")
    read, aside = found(tmp_path)
    assert len(read) == 1 and list(aside) == ["rust/2.png"] and "labels.csv has no line" in aside["rust/2.png"]
