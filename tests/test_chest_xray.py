"""Chest X-ray: films from tables, pictures and DICOM, what a person asks for, and what a model is told."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffgraft.preparation.prepare import prepare
from diffgraft.preparation.quarantine import QUARANTINE
from domains import chest_xray
from domains.chest_xray import FILMS, SEXES, VIEWS, VOCABULARY
from toolkit.data import labels
from toolkit.example import Annotation, Error, Note
from toolkit.formats import films
from toolkit.language import report as report_text

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
real_films = pytest.mark.skipif(not (DATA / "cxr").is_dir(), reason="no real films beside the checkout (../shared)")
real_dicom = pytest.mark.skipif(not (DATA / "dicom").is_dir(), reason="no real DICOM beside the checkout (../shared)")

TEXT = "No pleural effusion. Right upper lobe consolidation."


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (60, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, size[::-1], np.uint8)
    Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def table(root: Path, rows: list[dict[str, str]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    for number, row in enumerate(rows):
        if not (root / row["filename"]).exists():
            picture(root / row["filename"], number)
    return root


def row(name: str, **words: str) -> dict[str, str]:
    return {"filename": f"images/{name}.png", "patient_id": name, **words}


def known(example) -> dict[str, str]:
    return labels.spell(VOCABULARY, example.annotation.labels)


def test_a_table_says_view_patient_findings_and_text_and_the_rest_is_unknown(tmp_path: Path) -> None:
    root = table(
        tmp_path / "raw",
        [
            row("a", view="PA", sex="M", age="65", text=TEXT),
            row("b", view="AP Supine", findings="No Finding"),
            row("c", findings="Cardiomegaly, Effusion"),
            row("d"),
        ],
    )
    first, second, third, last = chest_xray.read(root)
    assert first.image.shape == (1, 128, 128) and first.annotation.text == TEXT
    said = known(first)
    assert said["view"] == "PA" and said["sex"] == "M" and said["age"] == "65" and said["film"] == "PA abnormal"
    assert said["consolidation"] == "present" and said["effusion"] == "absent" and "pneumothorax" not in said
    assert known(second)["film"] == "AP Supine normal" and known(second)["effusion"] == "absent"
    assert known(third)["effusion"] == known(third)["cardiomegaly"] == "present" and "film" not in known(third)
    assert not known(last) and last.annotation.text is None
    assert all(math.isnan(last.annotation.labels[name]) for name in VOCABULARY)


@pytest.mark.parametrize("findings", ["todo", "Unknown", ""])
def test_findings_that_nobody_has_stated_state_nothing(tmp_path: Path, findings: str) -> None:
    (found,) = chest_xray.read(table(tmp_path / "raw", [row("a", view="PA", findings=findings)]))
    assert known(found) == {"view": "PA"}


def test_a_patient_is_a_group(tmp_path: Path) -> None:
    root = table(tmp_path / "raw", [row("a", patient_id="x"), row("b", patient_id="x"), row("c", patient_id="")])
    assert [e.group for e in chest_xray.read(root)] == ["x", "x", "c"]


def test_bad_films_are_put_aside_with_the_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    root = table(tmp_path / "raw", [row("a"), row("b", age="old"), row("flat"), row("torn"), row("tiny")])
    Image.new("L", (60, 48), 7).save(root / "images" / "flat.png")
    (root / "images" / "torn.png").write_bytes((root / "images" / "a.png").read_bytes()[:200])
    picture(root / "images" / "tiny.png", size=(9, 9))
    counted = prepare("chest_xray", root, tmp_path / "data")
    assert counted.samples == 1
    lines = [json.loads(line) for line in (tmp_path / "data" / QUARANTINE).read_text(encoding="utf-8").splitlines()]
    told = {Path(line["source"]).stem: line["reason"] for line in lines}
    assert "number of years" in told["b"] and "one grey level" in told["flat"]
    assert "decodes whole" in told["torn"] and "16 rows" in told["tiny"]


def test_a_folder_without_a_table_is_read_and_what_is_no_film_is_put_aside(tmp_path: Path) -> None:
    picture(tmp_path / "ward" / "1.png")
    picture(tmp_path / "other ward" / "1.png", 1)
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    aside: list[str] = []
    found = list(chest_xray.read(tmp_path, aside=lambda name, reason: aside.append(name)))
    assert len({e.id for e in found}) == len({e.group for e in found}) == 2 and aside == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(Error, match="DICOM files, or pictures"):
        list(chest_xray.read(tmp_path / "empty"))
    with pytest.raises(Error, match="lie in a folder"):
        list(chest_xray.read(tmp_path / "ward" / "1.png"))


def test_only_takes_columns_of_the_table(tmp_path: Path) -> None:
    root = table(tmp_path / "raw", [row("a", licence="CC BY"), row("b", licence="CC BY-NC"), row("c", licence="CC0")])
    assert [e.id for e in chest_xray.read(root, only=["licence=cc by", "licence=CC0"])] == ["a", "c"]
    with pytest.raises(Error, match="leaves none of 3"):
        list(chest_xray.read(root, only=["view=PA"]))
    with pytest.raises(Error, match="NAME=VALUE"):
        list(chest_xray.read(root, only=["PA"]))


def test_what_may_identify_is_taken_out_of_a_text_and_said_once(tmp_path: Path) -> None:
    root = table(
        tmp_path / "raw", [row("a", text="Seen by Dr. Miller on ___. Left effusion."), row("b", text="___ clear")]
    )
    with pytest.warns(Note) as noted:
        found = list(chest_xray.read(root))
    assert all("___" not in (e.annotation.text or "") and "Miller" not in (e.annotation.text or "") for e in found)
    assert noted and all("Miller" not in str(note.message) for note in noted)
    assert known(found[0])["effusion"] == "present"


@pytest.mark.parametrize(
    ("size", "fits"), [("128x128", True), ("64", True), ("128x64", False), ("100x100", False), ("x", False)]
)
def test_a_film_is_square(tmp_path: Path, size: str, fits: bool) -> None:
    picture(tmp_path / "a.png")
    if fits:
        (found,) = chest_xray.read(tmp_path, size=size)
        assert found.image.shape[1] == found.image.shape[2] == int(size.partition("x")[0])
    else:
        with pytest.raises(Error, match="film is square"):
            list(chest_xray.read(tmp_path, size=size))


@given(st.floats(0.05, 0.95), st.floats(0.02, 1.0), st.floats(0.5, 2.0))
@settings(deadline=None, max_examples=30)
def test_grey_levels_do_not_depend_on_the_window_of_the_source(low: float, width: float, gamma: float) -> None:
    """Of any film: the same film with another window comes out the same, with its order of grey levels kept."""
    source = np.random.default_rng(1).beta(2, 2, (64, 64))
    one, other = (films.normalise(p) for p in (source, low + width * source))
    assert np.allclose(one, other, atol=2e-3) and one.min() == -1 and one.max() == 1
    assert abs(float(np.median(one))) < 0.02
    curved = films.normalise(source**gamma)
    inside = (np.abs(one) < 0.99) & (np.abs(curved) < 0.99)
    order = np.argsort(one[inside])
    assert (np.diff(curved[inside][order]) >= -1e-4).all()


# -------------------------------------------------------------------------------------------------------------- words


def test_a_person_asks_in_words_and_gets_text_and_labels() -> None:
    asked = chest_xray.parse_prompt(["text=PA view, right pleural effusion, no pneumothorax"], VOCABULARY)
    said = labels.spell(VOCABULARY, asked.labels)
    assert asked.text == "PA view, right pleural effusion, no pneumothorax"
    assert said["view"] == "PA" and said["effusion"] == "present" and said["pneumothorax"] == "absent"
    assert said["film"] == "PA abnormal" and "sex" not in said


def test_labels_that_are_set_win_over_the_text_and_an_empty_text_is_none_at_all() -> None:
    asked = chest_xray.parse_prompt(["text=woman, PA view", "view=L", "age=70"], VOCABULARY)
    assert labels.spell(VOCABULARY, asked.labels) == {"view": "L", "sex": "F", "age": "70"}
    empty = chest_xray.parse_prompt(["text="], VOCABULARY)
    assert not empty.text and not empty.labels
    with pytest.raises(Error, match="given once"):
        chest_xray.parse_prompt(["text=a", "text=b"], VOCABULARY)


@pytest.mark.parametrize("text", ["胸腔积液", "انصباب جنبي", "плевральный выпот"])
def test_a_text_in_another_script_is_noted_and_states_nothing(text: str) -> None:
    with pytest.warns(Note, match="described in English"):
        asked = chest_xray.parse_prompt([f"text={text}"], VOCABULARY)
    assert asked.text == text and not asked.labels


def test_a_text_in_another_language_with_latin_letters_is_taken_as_it_is() -> None:
    assert chest_xray.parse_prompt(["text=Pleuraerguß"], VOCABULARY).text == "Pleuraerguß"


@pytest.mark.parametrize("film", FILMS)
def test_a_film_says_its_view_and_whether_it_is_normal(film: str) -> None:
    full = labels.spell(VOCABULARY, chest_xray.infer_labels({"film": float(FILMS.index(film))}, VOCABULARY))
    assert full["view"] == film.rsplit(" ", 1)[0]
    assert (full.get("effusion") == "absent") is film.endswith(" normal")


def test_a_film_of_another_view_is_refused() -> None:
    with pytest.raises(Error, match="one view"):
        chest_xray.infer_labels({"film": float(FILMS.index("PA normal")), "view": float(VIEWS.index("L"))}, VOCABULARY)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=150)
def test_a_prompt_says_nothing_that_is_not_so(seed: int) -> None:
    """What is read out of a caption agrees with every label that the film has, and states no label that it has not."""
    chance = random.Random(seed)
    stated = {n: float(chance.random() < 0.5) for n in chance.sample(report_text.FINDINGS[1:], chance.randint(0, 5))}
    own = {
        "view": float(chance.randrange(4)),
        "sex": float(chance.randrange(2)),
        "age": float(chance.randint(18, 89)),
        **stated,
    }
    text = chest_xray.caption(Annotation(labels=own), chance)
    said = chest_xray.labels_from_text(text)
    for name in ("view", "sex", "age"):
        assert said.get(name, own[name]) == own[name], text
    implied = report_text.imply_findings(stated)
    for name, value in said.items():
        if name in report_text.FINDINGS and name != "normal":
            assert implied.get(name) == value, (text, name)


def test_ages_are_told_in_centuries_and_nothing_stated_is_null() -> None:
    fields = chest_xray.fields(VOCABULARY)
    plain = {name: field for name, field in fields.items() if name != "text"}
    rows = [Annotation(labels={"age": 70.0, "sex": 1.0, "view": 3.0}), Annotation()]
    found = chest_xray.condition(rows, plain)
    assert fields["text"].shape == (77, 64)
    assert found["age"].tolist() == pytest.approx([0.7, 0.0]) and found["age_known"].tolist() == [1.0, 0.0]
    assert found["view"].tolist() == [3, len(VIEWS)] and found["sex"].tolist() == [1, len(SEXES)]
    assert found["age"].dtype == np.float32


# --------------------------------------------------------------------------------------------------------- real films


@real_films
def test_the_real_films_are_all_read_and_most_know_their_view(tmp_path: Path) -> None:
    root = tmp_path / "cxr"
    root.mkdir()
    lines = (DATA / "cxr" / "metadata.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(lines.splitlines()))[::12]
    for one in rows:
        (root / one["filename"]).parent.mkdir(exist_ok=True)
        shutil.copyfile(DATA / "cxr" / one["filename"], root / one["filename"])
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = list(chest_xray.read(root))
    assert len(found) == len(rows)
    for example, one in zip(found, rows, strict=True):
        assert abs(float(np.median(example.image))) < 0.5
        if one["view"] in VIEWS:
            assert known(example)["view"] == one["view"]
        if one["findings"] == "No Finding":
            assert known(example)["normal"] == "present"


@real_dicom
def test_real_dicom_is_read_and_the_inverted_twin_is_the_negative(tmp_path: Path) -> None:
    found = {e.id: e for e in chest_xray.read(DATA / "dicom" / "cxr")}
    assert len(found) == 4
    plain, inverted = (found[f"rsna_16d7f894_{name}"] for name in ("mono2", "fake_mono1"))
    assert plain.group == inverted.group and known(plain)["view"] == "PA"
    # Levels are centred by a gamma, which is not the same for the negative: the order of the greys is reversed.
    ranks = [np.argsort(np.argsort(e.image.ravel())) for e in (plain, inverted)]
    assert np.corrcoef(*ranks)[0, 1] < -0.98
