"""Names that are not UTF-8, and names in decomposed letters: each is carried through every verb under a safe name."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from heads import head, save
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import diffgraft
from diffgraft.cli.console import Console, as_object
from diffgraft.cli.exits import Exit
from toolkit.data.file_names import find_file, printable
from toolkit.example import Error
from toolkit.formats import films, folders, mr_scans, nifti
from toolkit.formats.voc import FROM_ONE

NAMES = {
    "latin-1": b"gr\xfcn0",
    "cp437": b"gr\x81n0",
    "gbk": b"\xc8\xbe1",
    "shift-jis": b"\x8c\xdd\x96\xe1",
    "euro %": b"50%\x80",
}
"""Names as they come out of a zip that another system wrote."""


def place(root: Path, name: bytes) -> Path:
    """A path below a folder that is made; skips where the file system holds UTF-8 alone."""
    path = root / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system holds no name that is not UTF-8")
    return path


def picture(root: Path, name: bytes, grey: int = 90, size: tuple[int, int] = (64, 48)) -> Path:
    path = place(root, name)
    levels = np.random.default_rng(grey).integers(0, 256, (size[1], size[0], 3), np.uint8)
    with path.open("wb") as file:
        Image.fromarray(levels).save(file, "JPEG")
    return path


def yolo(root: Path, name: bytes) -> None:
    picture(root / "images", name + b".jpg")
    place(root / "labels", name + b".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images\nval: images\nnames: [RBC]\n")


def voc(root: Path, name: bytes) -> None:
    picture(root / "JPEGImages", name + b".jpg")
    place(root / "Annotations", name + b".xml").write_text(
        f"<annotation><source><annotation>{FROM_ONE}</annotation></source><size><width>64</width><height>48</height></size><object><name>RBC</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>64</xmax><ymax>48</ymax></bndbox></object></annotation>"
    )


def leaves(root: Path, name: bytes) -> None:
    picture(root / "Coffee___rust", name + b".jpg")


def class_folder(root: Path, name: bytes) -> None:
    place(root, name).unlink()
    picture(root / os.fsdecode(name), b"1.jpg")


def film(root: Path, name: bytes) -> None:
    picture(root, name + b".jpg")


def scan(root: Path, name: bytes) -> None:
    path = place(root, name + b"_flair.nii")
    save(path, head(lesion=(25, 20, 10))[0])


KINDS: dict[str, tuple[str, Callable[[Path, bytes], None]]] = {
    "yolo": ("detection", yolo),
    "voc": ("detection", voc),
    "leaves": ("plant_disease", leaves),
    "class folders": ("plant_disease", class_folder),
    "films": ("chest_xray", film),
    "scans": ("brain_mri", scan),
}


def check_text(folder: Path) -> None:
    """What was written is UTF-8, whatever the names of the sources, and its JSON holds no half of a pair."""
    for path in folder.rglob("*"):
        str(path.relative_to(folder)).encode()
        if path.suffix in (".json", ".jsonl", ".csv", ".yaml", ".txt", ".xml"):
            text = path.read_bytes().decode()
            if path.suffix == ".jsonl":
                for line in text.splitlines():
                    json.dumps(json.loads(line), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_no_utf_8_is_prepared(tmp_path, kind, name):
    domain, make = KINDS[kind]
    make(tmp_path / "raw", NAMES[name])
    made = diffgraft.prepare(domain, tmp_path / "raw", tmp_path / "out")
    assert (made.groups, made.aside) == (1, ())
    check_text(tmp_path / "out")


@pytest.mark.parametrize("target", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_a_name_that_is_no_utf_8_is_converted(tmp_path, kind, target):
    for name in NAMES.values():
        KINDS[kind][1](tmp_path / "raw", name)
    made = diffgraft.convert(tmp_path / "raw", tmp_path / "out", target=target)
    assert (made.pictures, made.boxes, made.aside) == (len(NAMES), len(NAMES), ())
    check_text(tmp_path / "out")
    again = diffgraft.convert(tmp_path / "out", tmp_path / "again", target=target)
    assert (again.pictures, again.boxes) == (len(NAMES), len(NAMES))


def test_a_damaged_file_of_such_a_name_is_put_aside_by_it(tmp_path):
    leaves(tmp_path / "raw", b"good")
    place(tmp_path / "raw/Coffee___rust", b"gr\xfcn.jpg").write_bytes(b"no picture")
    made = diffgraft.prepare("plant_disease", tmp_path / "raw", tmp_path / "out")
    assert [source for source, _ in made.aside] == ["Coffee___rust/gr%FCn.jpg"]
    (line,) = (tmp_path / "out/quarantine.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["source"] == "Coffee___rust/gr%FCn.jpg"
    with pytest.raises(Error, match="gr%FCn"):
        list(folders.read(tmp_path / "raw"))


def test_classes_whose_names_differ_in_one_byte_stay_two(tmp_path):
    for name in (b"gr\xfcn", b"gr\xe4n"):
        class_folder(tmp_path, name)
    assert len({e.annotation.labels["class"] for e in folders.read(tmp_path)}) == 2


def test_a_folder_of_such_a_name_is_read_and_written(tmp_path):
    place(tmp_path, b"r\xf6h").unlink()
    raw, out = tmp_path / os.fsdecode(b"r\xf6h"), tmp_path / os.fsdecode(b"aus\xe4")
    leaves(raw, b"a")
    assert diffgraft.prepare("plant_disease", raw, out).samples == 1
    assert diffgraft.prepare("plant_disease", out, tmp_path / "again").samples == 1
    assert json.loads((out / "request.json").read_text("utf-8"))["request"]["raw"] == str(raw)


def test_films_with_letters_of_any_script_have_safe_ids(tmp_path):
    for name in ("Müller", "患者", "Möller", "plain name"):
        film(tmp_path / "raw", os.fsencode(name))
    assert diffgraft.prepare("chest_xray", tmp_path / "raw", tmp_path / "out").samples == 4
    assert films.single_row(tmp_path / "raw/plain name.jpg").id == "plain_name"


def test_a_scan_to_be_treated_is_named_in_letters_that_can_be_written(tmp_path):
    scan(tmp_path, b"M\xfcller")
    (found,) = mr_scans.find(tmp_path, "FLAIR", lambda *_: None)
    assert found.name == "M%FCller_flair.nii"
    nifti.write_sidecar(tmp_path / "x.nii", Sources=[found.name])


def test_the_console_says_such_names(capfdbinary):
    name = os.fsdecode(b"gr\xfcn")
    Console().say(f"{name} 50%")
    Console().warn(name)
    Console().error(name)
    out, err = capfdbinary.readouterr()
    assert out == b"gr%FCn 50%\n" and err == b"gr%FCn\ndiffgraft: gr%FCn\n"
    answer = as_object("prepare", Exit.DONE, paths={"data": Path(name)}, figures={"classes": [name]})
    assert json.loads(answer)["paths"] == {"data": "gr%FCn"} and "\\ud" not in answer


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_the_bytes_of_a_name_come_back(name):
    said = printable(os.fsdecode(name))
    said.encode()
    assert printable(said) == said
    assert said.encode() == name or unquote_to_bytes(said) == name


# ------------------------------------------------------------------------------------------ composed and decomposed


@pytest.fixture(params=["NFC in the table", "NFD in the table"])
def forms(request) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """How names are spelled in the table, and on the disk."""

    def spelled(form: str) -> Callable[[str], str]:
        return lambda text: unicodedata.normalize(form, text)

    return (spelled("NFC"), spelled("NFD")) if request.param.startswith("NFC") else (spelled("NFD"), spelled("NFC"))


def test_a_table_names_leaves_in_other_code_points(tmp_path, forms):
    table, disk = forms
    picture(tmp_path / "raw" / disk("Kühl"), os.fsencode(disk("Café_1.jpg")))
    picture(tmp_path / "raw", b"b.jpg")
    (tmp_path / "raw/labels.csv").write_text(
        f"filename,crop,condition\n{table('Kühl/Café_1.jpg')},coffee,rust\nb.jpg,coffee,healthy\n", encoding="utf-8"
    )
    made = diffgraft.prepare("plant_disease", tmp_path / "raw", tmp_path / "out")
    assert (made.classes, made.aside) == ({"coffee___healthy": 1, "coffee___rust": 1}, ())


def test_a_table_names_films_in_other_code_points(tmp_path, forms):
    table, disk = forms
    picture(tmp_path / "raw", os.fsencode(disk("Café_1.jpg")))
    (tmp_path / "raw/metadata.csv").write_text(f"filename,view\n{table('Café_1.jpg')},PA\n", encoding="utf-8")
    assert diffgraft.prepare("chest_xray", tmp_path / "raw", tmp_path / "out").samples == 1


def test_boxes_name_pictures_in_other_code_points(tmp_path, forms):
    table, disk = forms
    name = "Café_1"
    picture(tmp_path / "coco/images", os.fsencode(disk(f"{name}.jpg")))
    content = {
        "images": [{"id": 1, "file_name": table(f"{name}.jpg"), "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9]}],
        "categories": [{"id": 1, "name": "RBC"}],
    }
    (tmp_path / "coco/instances.json").write_text(json.dumps(content))
    yolo(tmp_path / "yolo", b"x")
    (tmp_path / "yolo/images/x.jpg").rename(tmp_path / "yolo/images" / disk(f"{name}.jpg"))
    (tmp_path / "yolo/labels/x.txt").rename(tmp_path / "yolo/labels" / table(f"{name}.txt"))
    voc(tmp_path / "voc", b"x")
    (tmp_path / "voc/JPEGImages/x.jpg").rename(tmp_path / "voc/JPEGImages" / disk(f"{name}.jpg"))
    (tmp_path / "voc/Annotations/x.xml").rename(tmp_path / "voc/Annotations" / table(f"{name}.xml"))
    for source in ("coco", "yolo", "voc"):
        made = diffgraft.convert(tmp_path / source, tmp_path / f"{source}-out", target="coco")
        assert (made.pictures, made.boxes, made.aside) == (1, 1, ()), source


def test_a_mask_is_found_in_other_code_points(tmp_path, forms):
    table, disk = forms
    scan, mask = head(lesion=(25, 20, 10))
    save(tmp_path / disk("André_flair.nii"), scan)
    save(tmp_path / table("André_mask.nii"), mask)
    (found,) = nifti.find(tmp_path)
    assert found.mask is not None


def test_the_same_letters_are_one_id(tmp_path, forms):
    one, other = (picture(tmp_path / form("é"), os.fsencode(form("Café.jpg"))).relative_to(tmp_path) for form in forms)
    assert folders.unique_ids([one.as_posix()]) == folders.unique_ids([other.as_posix()])


def test_a_file_of_exactly_the_name_comes_first(tmp_path, forms):
    first, second = (place(tmp_path, os.fsencode(form("é.txt"))) for form in forms)
    assert find_file(tmp_path, first.name) == first and find_file(tmp_path, second.name) == second
    first.unlink()
    assert find_file(tmp_path, first.name) == second
    assert find_file(tmp_path, "è.txt") is None
