"""Plant disease: crop, condition and class of leaves from folders and tables, what a person asks for, and the way back."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffgraft.preparation.prepare import prepare
from diffgraft.preparation.quarantine import QUARANTINE
from domains import brain_mri, plant_disease
from toolkit.data import dataset, labels
from toolkit.data.labels import Range
from toolkit.example import Annotation, Error, Example, Provenance

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "plant"

CLASSES = ("Coffee___healthy", "Coffee___rust", "Pepper_bell___healthy", "Tea___blister_blight")
VOCABULARY = {
    "crop": ("coffee", "pepper_bell", "tea"),
    "condition": ("blister_blight", "healthy", "rust"),
    "severity": Range(0.0, 4.0),
    "class": CLASSES,
}
COFFEE = {"crop": ("coffee",), "condition": ("healthy", "rust"), "class": CLASSES[:2]}


def leaves(root: Path, *names: str) -> Path:
    """Photographs of one colour each, at these paths below root."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (128, 64), (20, 160, 10 * number)).save(path)
    return root


def table(root: Path, text: str) -> Path:
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root


def spelled(root: Path, **options) -> dict[str, dict[str, str]]:
    """id -> the known labels of a leaf in words."""
    known = plant_disease.vocabulary(root, **options)
    return {e.id: labels.spell(known, e.annotation.labels) for e in plant_disease.read(root, **options)}


# ------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("folder", "crop", "condition", "named"),
    [
        ("Coffee___rust", "coffee", "rust", "Coffee___rust"),
        ("Pepper,_bell___Bacterial_spot", "pepper_bell", "bacterial_spot", "Pepper_bell___Bacterial_spot"),
        ("Pepper__bell___healthy", "pepper_bell", "healthy", "Pepper_bell___healthy"),
        ("Corn_(maize)___Common_rust_", "corn_maize", "common_rust", "Corn_maize___Common_rust"),
        (
            "Tomato___Spider_mites Two-spotted_spider_mite", "tomato", "spider_mites_two-spotted_spider_mite",
            "Tomato___Spider_mites_Two-spotted_spider_mite",
        ),
        ("Café___rouille", "café", "rouille", "Café___rouille"),
        ("Apple Scab Leaf", None, "apple_scab_leaf", "Apple_Scab_Leaf"),
        ("3", None, "3", "3"),
    ],
)  # fmt: skip
def test_a_folder_s_name_is_crop_and_condition(tmp_path, folder, crop, condition, named):
    expected = {"crop": crop, "condition": condition, "class": named}
    assert spelled(leaves(tmp_path, f"{folder}/1.jpg")) == {"1": {k: v for k, v in expected.items() if v}}


def test_a_data_set_has_only_the_labels_that_it_states(tmp_path):
    known = plant_disease.vocabulary(leaves(tmp_path, "rust/1.jpg", "healthy/2.jpg"))
    assert known == {"condition": ("healthy", "rust"), "class": ("healthy", "rust")}
    assert set(plant_disease.fields(known)) == {"condition"}
    assert set(plant_disease.fields(VOCABULARY)) == {"crop", "condition", "severity", "severity_known"}


def test_other_letters_are_no_other_class(tmp_path):
    root = leaves(tmp_path, "Coffee___Rust/1.jpg", "coffee___rust/2.jpg", "healthy/3.jpg")
    assert plant_disease.vocabulary(root)["class"] == ("healthy", "Coffee___Rust")
    found = spelled(root)
    assert found["1"] == found["2"]
    assert "crop" not in found["3"]


def test_a_table_says_crop_condition_severity_and_group(tmp_path):
    root = leaves(tmp_path, "Coffee___rust/1.jpg", "2.jpg", "3.jpg", "4.jpg")
    table(root, "filename,crop,condition,severity,group,health\nCoffee___rust/1.jpg,coffee,rust,2.5,tree,x\n"
                "2.jpg,Coffee,,,tree,\n3.jpg,,Rust,,,\n4.jpg,,,nan,,\n")  # fmt: skip
    assert plant_disease.vocabulary(root) == {
        "crop": ("coffee",), "condition": ("rust",), "severity": Range(0.0, 4.0), "class": ("rust", "Coffee___rust"),
    }  # fmt: skip
    assert spelled(root) == {
        "1": {"crop": "coffee", "condition": "rust", "severity": "2.5", "class": "Coffee___rust"},
        "2": {"crop": "coffee"},
        "3": {"condition": "rust", "class": "rust"},
        "4": {},
    }
    assert [e.group for e in plant_disease.read(root)] == ["tree", "tree", "3", "4"]


@pytest.mark.parametrize("column", ["class", "label", "Class"])
def test_a_table_s_class_is_split(tmp_path, column):
    root = table(leaves(tmp_path, "1.jpg"), f"filename,{column}\n1.jpg,Tea___Blister blight\n")
    assert spelled(root)["1"] == {"crop": "tea", "condition": "blister_blight", "class": "Tea___Blister_blight"}


def test_a_severity_beyond_the_scale_widens_it(tmp_path):
    root = table(leaves(tmp_path, "a/1.jpg", "a/2.jpg"), "filename,severity\na/1.jpg,80\na/2.jpg,3\n")
    assert plant_disease.vocabulary(root)["severity"] == Range(0.0, 80.0)


@pytest.mark.parametrize("text", ["severe", "inf", "1,5"])
def test_a_severity_that_is_no_number_puts_the_leaf_aside(tmp_path, text):
    root = table(leaves(tmp_path, "a/1.jpg", "a/2.jpg"), f'filename,severity\na/1.jpg,"{text}"\na/2.jpg,3\n')
    aside = []
    found = list(plant_disease.read(root, aside=lambda *words: aside.append(words)))
    assert [e.id for e in found] == ["2"]
    assert [name for name, reason in aside if f"found '{text}'" in reason] == ["a/1.jpg"]
    with pytest.raises(Error, match=r"a/1\.jpg: A severity is a number"):
        list(plant_disease.read(root))


# -------------------------------------------------------------------------------------------------------- only, size


@pytest.fixture
def farm(tmp_path) -> Path:
    return leaves(tmp_path / "farm", *(f"{name}/{n}.jpg" for name in CLASSES for n in range(2)))


def test_only_narrows_leaves_and_vocabulary(farm):
    only = ["crop=Coffee"]
    assert plant_disease.vocabulary(farm, only=only) == COFFEE
    assert {e.annotation.labels["class"] for e in plant_disease.read(farm, only=only)} == {0.0, 1.0}
    assert set(plant_disease.vocabulary(farm, only=["crop=coffee", "crop=tea"])["crop"]) == {"coffee", "tea"}
    assert plant_disease.vocabulary(farm, only=["crop=coffee", "condition=rust"])["class"] == ("Coffee___rust",)
    assert plant_disease.vocabulary(farm, only=["class=coffee___rust"])["class"] == ("Coffee___rust",)


def test_only_changes_no_id(farm):
    every = {e.id: e.group for e in plant_disease.read(farm)}
    some = {e.id: e.group for e in plant_disease.read(farm, only=["crop=coffee"])}
    assert len(some) == 4 and some.items() <= every.items()


@pytest.mark.parametrize(
    ("only", "reason"),
    [
        (["crop"], "NAME=VALUE"), (["colour=red"], "NAME=VALUE"), (["crop=oak"], "coffee, pepper_bell, tea; found 'oak'"),
        (["severity=2"], "of which there is none"), (["crop=tea", "condition=rust"], "that occurs, blister_blight; found 'rust'"),
    ],
)  # fmt: skip
def test_a_mistaken_only_is_refused(farm, only, reason):
    with pytest.raises(Error) as problem:
        plant_disease.read(farm, only=only)
    assert reason in str(problem.value) and "\n" not in str(problem.value)


def test_size_is_width_by_height(farm):
    assert {e.image.shape for e in plant_disease.read(farm)} == {(3, *plant_disease.SIZE)}
    assert {e.image.shape for e in plant_disease.read(farm, size="48x32")} == {(3, 32, 48)}


@pytest.mark.parametrize("size", ["64", "64x", "x64", "-8x8", "4x64", "64x99999", "axb", "64x64x3"])
def test_a_mistaken_size_is_refused(farm, size):
    with pytest.raises(Error, match=f"found '{size}'"):
        plant_disease.read(farm, size=size)


# ------------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["crop=coffee", "condition=rust"], {"crop": "coffee", "condition": "rust", "class": "Coffee___rust"}),
        (["condition=rust"], {"crop": "coffee", "condition": "rust", "class": "Coffee___rust"}),
        (["condition=healthy"], {"condition": "healthy"}),
        (["crop=coffee"], {"crop": "coffee"}),
        (["class=Tea___blister_blight"], {"crop": "tea", "condition": "blister_blight", "class": CLASSES[3]}),
        (["condition=rust", "severity=3"],
         {"crop": "coffee", "condition": "rust", "severity": "3", "class": "Coffee___rust"}),
        ([], {}),
    ],
)  # fmt: skip
def test_what_follows_from_the_words_is_filled_in(asked, expected):
    assert labels.spell(VOCABULARY, plant_disease.parse_prompt(asked, VOCABULARY).labels) == expected


def test_the_only_crop_need_not_be_said():
    assert labels.spell(COFFEE, plant_disease.parse_prompt(["condition=healthy"], COFFEE).labels) == {
        "crop": "coffee", "condition": "healthy", "class": "Coffee___healthy",
    }  # fmt: skip
    assert labels.spell(COFFEE, plant_disease.parse_prompt([], COFFEE).labels) == {"crop": "coffee"}


@pytest.mark.parametrize(
    "asked",
    [["crop=tea", "condition=rust"], ["class=Coffee___rust", "crop=tea"], ["class=Coffee___rust", "condition=healthy"]],
)
def test_a_leaf_that_there_is_none_of_is_refused(asked):
    with pytest.raises(
        Error, match=r"name a class of the model, Coffee___healthy, .*; found (crop|condition|class)="
    ) as problem:
        plant_disease.parse_prompt(asked, VOCABULARY)
    assert "\n" not in str(problem.value)


def test_complete_takes_unknown_for_unknown():
    known = {"crop": math.nan, "condition": 2.0, "severity": math.nan, "class": math.nan}
    found = plant_disease.infer_labels(known, VOCABULARY)
    assert (found["crop"], found["class"]) == (0.0, 1.0) and math.isnan(found["severity"])


def test_without_crops_a_condition_is_the_class():
    known = {"condition": ("healthy", "rust"), "class": ("Healthy", "Rust")}
    assert plant_disease.parse_prompt(["condition=rust"], known).labels == {"condition": 1.0, "class": 1.0}
    assert plant_disease.class_folder(plant_disease.parse_prompt(["condition=rust"], known), known) == "Rust"


def test_what_is_asked_for_conditions_a_model():
    fields = plant_disease.fields(VOCABULARY)
    asked = [plant_disease.parse_prompt(["condition=rust", "severity=3"], VOCABULARY), Annotation()]
    found = plant_disease.condition(asked, fields)
    assert {k: v.tolist() for k, v in found.items()} == {
        "crop": [0, 3], "condition": [2, 3], "severity": [3.0, 0.0], "severity_known": [1.0, 0.0],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- way back


@st.composite
def samples(draw, ident: str, vocabulary):
    crop, state = draw(st.sampled_from([("coffee", "healthy"), ("coffee", "rust"), ("tea", "blister_blight")]))
    known = {
        "crop": float(vocabulary["crop"].index(crop)),
        "condition": float(vocabulary["condition"].index(state)),
        "severity": draw(st.just(math.nan) | st.floats(0, 4)),
    }
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    made = st.builds(
        Provenance,
        kind=st.sampled_from(["synthetic", "edited"]),
        model=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        procedure=st.sampled_from(["generate", "sdedit"]),
        seed=st.none() | st.integers(0, 2**64 - 1),
        settings=st.dictionaries(st.text("abc", max_size=3), st.integers() | st.booleans() | st.none(), max_size=2),
        source=st.none() | st.text("abc/.", max_size=5),
    )
    return Example(
        ident,
        random.uniform(-1, 1, (3, 8, 16)).astype(np.float32),
        Annotation(labels=plant_disease.infer_labels(known, vocabulary)),
        draw(st.sampled_from(["leaf 1", "leaf, 2", 'leaf "3"', ident])),
        provenance=draw(st.none() | made),
    )


def same(found: Example, expected: Example) -> None:
    assert (found.id, found.group, found.provenance) == (expected.id, expected.group, expected.provenance)
    assert found.annotation.labels.keys() == expected.annotation.labels.keys()
    for name, value in expected.annotation.labels.items():
        assert found.annotation.labels[name] == value or (
            math.isnan(value) and math.isnan(found.annotation.labels[name])
        )
    assert np.abs(found.image - expected.image).max() <= 2 / 255


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.tuples(*(samples(f"s{k}.A_b-{k}", VOCABULARY) for k in range(n)))))
def test_what_is_written_is_read_back(wanted):
    root = Path(tempfile.mkdtemp())
    try:
        assert plant_disease.write(wanted, root / "out", VOCABULARY) == len(wanted)
        assert plant_disease.vocabulary(root / "out") == VOCABULARY
        found = list(plant_disease.read(root / "out", size="16x8"))
        listed = list(dataset.read(root / "out"))
    finally:
        shutil.rmtree(root)
    assert len(found) == len(listed) == len(wanted)
    for ours, theirs, expected in zip(found, listed, wanted, strict=True):
        same(ours, expected)
        same(theirs, expected)


def test_folders_are_named_by_class(tmp_path):
    asked = plant_disease.parse_prompt(["condition=rust"], VOCABULARY)
    example = Example("a", np.zeros((3, 8, 16), np.float32), asked)
    assert (
        plant_disease.class_folder(example, VOCABULARY)
        == plant_disease.class_folder(asked, VOCABULARY)
        == "Coffee___rust"
    )
    plant_disease.write([example], tmp_path / "out", VOCABULARY)
    assert (tmp_path / "out" / "images" / "Coffee___rust" / "a.png").is_file()
    assert dataset.read_info(tmp_path / "out")["domain"] == "plant_disease"


# ----------------------------------------------------------------------------------------------------------- prepare


def test_prepare_counts_classes_and_keeps_the_vocabulary(farm, tmp_path):
    seen = []
    counted = prepare(
        "plant_disease", farm, tmp_path / "data", watch=lambda *s: seen.append(s[1:]), only=["crop=coffee"]
    )
    assert (counted.samples, counted.groups, counted.aside) == (4, 4, ())
    assert counted.classes == {"Coffee___healthy": 2, "Coffee___rust": 2}
    assert counted.options == {"size": "128x64", "only": ["crop=coffee"], "level": None}
    assert seen == [(n, 4) for n in range(1, 5)]
    facts = dataset.read_info(tmp_path / "data")
    assert labels.vocabulary_of(facts, plant_disease) == counted.vocabulary == COFFEE
    assert facts["classes"] == counted.classes
    assert not (tmp_path / "data" / QUARANTINE).exists()
    again = prepare("plant_disease", tmp_path / "data", tmp_path / "again")
    assert again.vocabulary == COFFEE
    for one, two in zip(dataset.read(tmp_path / "data"), dataset.read(tmp_path / "again"), strict=True):
        same(two, one)


def test_prepare_puts_bad_files_aside(farm, tmp_path):
    (farm / "Coffee___rust" / "0.jpg").write_bytes(b"")
    (farm / "Tea___blister_blight" / "1.jpg").write_text("not an image")
    counted = prepare("plant_disease", farm, tmp_path / "data")
    assert counted.samples == 6
    lines = [json.loads(line) for line in (tmp_path / "data" / QUARANTINE).read_text().splitlines()]
    assert [(line["source"], line["reason"]) for line in lines] == list(counted.aside)
    assert [line["source"] for line in lines] == ["Coffee___rust/0.jpg", "Tea___blister_blight/1.jpg"]
    assert "0 bytes" in lines[0]["reason"]


def test_prepare_without_a_usable_file_leaves_nothing(tmp_path):
    (tmp_path / "raw" / "rust").mkdir(parents=True)
    (tmp_path / "raw" / "rust" / "1.jpg").write_bytes(b"")
    with pytest.raises(Error, match=r"one usable file or more; .* 1 put aside, the first, rust/1\.jpg: .* 0 bytes"):
        prepare("plant_disease", tmp_path / "raw", tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_prepare_refuses_an_option_of_another_domain(farm, tmp_path):
    with pytest.raises(Error, match="plant_disease takes --size and --only and --level; found --contrast"):
        prepare("plant_disease", farm, tmp_path / "data", contrast="T1")
    with pytest.raises(Error, match="brain_mri takes --contrast; found --size"):
        prepare("brain_mri", farm, tmp_path / "data", size="64x64", contrast=None)
    assert not (tmp_path / "data").exists()


def test_prepare_replaces_only_when_told_to(farm, tmp_path):
    prepare("plant_disease", farm, tmp_path / "data")
    with pytest.raises(Error, match="new or empty"):
        prepare("plant_disease", farm, tmp_path / "data", only=["crop=tea"])
    prepare("plant_disease", farm, tmp_path / "data", overwrite=True, only=["crop=tea"])
    assert len(list(dataset.read(tmp_path / "data"))) == 2


def test_prepare_puts_a_damaged_scan_aside(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "P99_flair.nii.gz").write_text("not a scan")
    aside = []
    found = list(brain_mri.read(tmp_path / "raw", aside=lambda *words: aside.append(words)))
    assert len({e.group for e in found}) == 6
    assert [name for name, _ in aside] == ["P99_flair.nii.gz"]
    with pytest.raises(Error):
        list(brain_mri.read(tmp_path / "raw"))


# --------------------------------------------------------------------------------------------------------- real leaves


@pytest.mark.skipif(not REAL.is_dir(), reason="the leaf photographs are not here")
def test_real_leaves_are_labelled_and_grouped():
    only = ["crop=coffee", "severity=3"]
    known = plant_disease.vocabulary(REAL, only=only)
    assert known["crop"] == ("coffee",) and known["severity"] == Range(0.0, 4.0)
    aside = []
    found = list(plant_disease.read(REAL, only=only, aside=lambda *words: aside.append(words)))
    assert found and aside == []
    assert len({e.group for e in found}) == len(found)
    middle = np.mean([e.image[:, 28:36, 56:72].mean((1, 2)) for e in found], axis=0)
    assert middle.argmax() == 1  # a leaf is green
    for example in found:
        words = labels.spell(known, example.annotation.labels)
        assert words["class"] == f"Coffee___{words['condition']}" and words["severity"] == "3"


@pytest.mark.skipif(not REAL.is_dir(), reason="the leaf photographs are not here")
def test_real_class_folders_say_what_the_table_says(tmp_path):
    listed = plant_disease.vocabulary(REAL)
    (tmp_path / "images").symlink_to(REAL / "images")
    for name in ("crop", "condition", "class"):
        assert plant_disease.vocabulary(tmp_path / "images")[name] == listed[name]
