"""Class folders: what is written is read back, odd photographs become RGB, bad files are put aside with a reason."""

from __future__ import annotations

import csv
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.data import dataset, xmp
from toolkit.example import Annotation, Error, Example, Provenance
from toolkit.formats import folders
from toolkit.formats.photograph import read_photograph

RED, GREEN = (200, 30, 20), (20, 160, 40)


def picture(path: Path, colour=GREEN, size=(32, 16), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def table(root: Path, text: str, name: str = "labels.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return root


def read(root: Path, **options) -> tuple[list[Example], dict[str, str]]:
    """The examples, and what was put aside."""
    aside: dict[str, str] = {}
    return list(folders.read(root, aside=aside.__setitem__, **options)), aside


def classes(root: Path) -> dict[str, str]:
    """Name of each file -> class that it is said to have."""
    return {row.name: row.words.get("class", "") for row in folders.rows(root)}


# ----------------------------------------------------------------------------------------------------------- layouts


def test_the_folder_is_the_class_at_any_depth(tmp_path):
    for name in (
        "train/rust/1.jpg",
        "valid/rust/2.png",
        "healthy/3.JPEG",
        ".cache/rust/4.jpg",
        "__MACOSX/rust/._1.jpg",
    ):
        picture(tmp_path / name, format="JPEG")
    assert classes(tmp_path) == {"healthy/3.JPEG": "healthy", "train/rust/1.jpg": "rust", "valid/rust/2.png": "rust"}
    found, aside = read(tmp_path)
    assert [e.annotation.labels for e in found] == [{"class": 0.0}, {"class": 1.0}, {"class": 1.0}]
    assert aside == {}


def test_names_that_differ_in_case_are_one_class(tmp_path):
    for name in ("Rust/1.png", "rust/2.png"):
        picture(tmp_path / name)
    assert {e.annotation.labels["class"] for e in read(tmp_path)[0]} == {0.0}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_table_decides_alone(tmp_path, delimiter, start):
    for name in ("a.png", "deep/b.png", "c.png"):
        picture(tmp_path / "images" / name)
    rows = [("filename", "Label", "camera"), ("images/a.png", "rust", "x"), ("images\\deep\\b.png", "", "y")]
    table(tmp_path, start + "\n".join(delimiter.join(row) for row in rows))
    assert classes(tmp_path) == {"images/a.png": "rust", "images/deep/b.png": ""}
    found, _ = read(tmp_path)
    assert found[0].annotation.labels == {"class": 0.0}
    assert math.isnan(found[1].annotation.labels["class"])


def test_a_table_without_classes_leaves_them_to_the_folders(tmp_path):
    picture(tmp_path / "rust" / "a.png")
    table(tmp_path, "file_name,group\nrust/a.png,tree 4\n", "metadata.csv")
    ((row),) = folders.rows(tmp_path)
    assert (row.words["class"], row.group) == ("rust", "tree 4")


def test_a_file_may_be_named_as_below_images(tmp_path):
    picture(tmp_path / "images" / "a.png")
    table(tmp_path, "filename,class\na.png,rust\n")
    assert classes(tmp_path) == {"images/a.png": "rust"}


def test_ids_are_unique_and_safe(tmp_path):
    names = ("rust/1.png", "healthy/1.png", "rust/a b.png", "rust/a_b.png", "rust/é.png", "rust/1.jpg")
    for name in names:
        picture(tmp_path / name)
    rows = folders.rows(tmp_path)
    assert len({row.id for row in rows}) == len(names)
    assert dataset.write((Example(row.id, np.zeros((3, 2, 2), np.float32)) for row in rows), tmp_path / "out") == len(
        names
    )


def test_without_a_column_the_file_is_the_group_and_its_copies_join_it(tmp_path):
    for name in ("train/rust/7.png", "test/rust/7.png", "train/rust/7_90deg.png", "train/rust/7_flipTB.png"):
        picture(tmp_path / name)
    picture(tmp_path / "healthy" / "7.png")
    assert {row.group for row in folders.rows(tmp_path)} == {"rust/7", "healthy/7"}


# --------------------------------------------------------------------------------------------------------- bad files


def png(width: int, height: int) -> bytes:
    """A small PNG file that says it is large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    made = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + made


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = tmp_path_factory.mktemp("jpeg") / "a.jpg"
    Image.fromarray(noise).save(path)
    return path.read_bytes()


BAD = {
    "empty.jpg": (lambda jpeg: b"", "0 bytes"),
    "text.jpg": (lambda jpeg: b"not an image", "cannot identify"),
    "truncated.jpg": (lambda jpeg: jpeg[: len(jpeg) // 2], "truncated"),
    "header.png": (lambda jpeg: png(4, 4)[:30], ""),
    "large.png": (lambda jpeg: png(11000, 11000), "at most 120 million pixels"),
    "bomb.png": (lambda jpeg: png(60000, 60000), "decompression bomb"),
    "postscript.jpg": (lambda jpeg: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),
    "notes.txt": (lambda jpeg: b"a note", "this file has .txt"),
    "phone.heic": (lambda jpeg: b"", "Convert it to JPEG"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_put_aside_with_its_reason(tmp_path, jpeg, name):
    make, reason = BAD[name]
    picture(tmp_path / "rust" / "good.png")
    (tmp_path / "rust" / name).write_bytes(make(jpeg))
    found, aside = read(tmp_path)
    assert [e.id for e in found] == ["good"]
    assert list(aside) == [f"rust/{name}"]
    assert reason in aside[f"rust/{name}"] and "\n" not in aside[f"rust/{name}"]
    with pytest.raises(Error, match=f"rust/{name}: "):
        list(folders.read(tmp_path))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("../outside.png", "below its own folder"),
        ("rust/../../outside.png", "below its own folder"),
        ("/etc/hostname", "below its own folder"),
        ("C:/outside.png", "below its own folder"),
        ("rust/none.png", "names one that does not"),
        ("rust/good.png", "names this one again"),
        ("rust/./good.png", "names this one again"),
        ("rust", "names one that does not"),
        ("rust/notes.txt", "this file has .txt"),
        ("", "line 3 has ''"),
    ],
)
def test_a_bad_line_of_a_table_is_put_aside_with_its_reason(tmp_path, given, reason):
    root = tmp_path / "root"
    picture(root / "rust" / "good.png")
    picture(tmp_path / "outside.png")
    (root / "rust" / "notes.txt").touch()
    table(root, f"filename,class\nrust/good.png,rust\n{given},rust\n")
    found, aside = read(root)
    assert [e.id for e in found] == ["good"]
    assert [reason in words for words in aside.values()] == [True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,class\na.png,rust\n", "has: name, class"),
        ("filename,class,Class\na.png,rust,rust\n", "distinct"),
        ("", "has: none"),
        ('filename,class\n"a.png,rust' + "x" * 200_000, "field larger"),
    ],
)
def test_a_table_that_is_none_is_an_error(tmp_path, text, reason):
    with pytest.raises(Error, match="table of labels") as problem:
        folders.rows(table(tmp_path, text))
    assert reason in str(problem.value) and "\n" not in str(problem.value)


def test_a_table_in_another_encoding_is_an_error(tmp_path):
    (tmp_path / "labels.csv").write_bytes("filename,class\na.png,é\n".encode("utf-16"))
    with pytest.raises(Error, match="CSV file in UTF-8"):
        folders.rows(tmp_path)


def test_a_folder_without_photographs_is_an_error(tmp_path):
    with pytest.raises(Error, match="holds none"):
        folders.rows(tmp_path)
    with pytest.raises(Error, match="is none"):
        folders.rows(tmp_path / "nowhere")
    picture(tmp_path / "loose.png")
    with pytest.raises(Error, match=r"loose\.png: A photograph lies in a folder"):
        folders.rows(tmp_path)


# ------------------------------------------------------------------------------------------------------------ pixels


def colour(path: Path) -> list[int]:
    """The 8-bit colour of an image of one colour."""
    image, _ = read_photograph(path)
    levels = np.rint((image + 1) * 127.5)
    assert image.dtype == np.float32 and image.shape[0] == 3
    return np.median(levels, axis=(1, 2)).astype(int).tolist()


GREY16 = np.full((16, 32), 128 * 257, np.uint16)

MODES = {
    "RGB.png": (Image.new("RGB", (32, 16), RED), [200, 30, 20]),
    "L.png": (Image.new("L", (32, 16), 128), [128] * 3),
    "1.png": (Image.new("1", (32, 16), 1), [255] * 3),
    "LA.png": (Image.new("LA", (32, 16), (0, 0)), [255] * 3),
    "RGBA.png": (Image.new("RGBA", (32, 16), (*RED, 0)), [255] * 3),
    "half.png": (Image.new("RGBA", (32, 16), (0, 0, 0, 128)), [127] * 3),
    "P.png": (Image.new("RGB", (32, 16), RED).quantize(4), [200, 30, 20]),
    "P.gif": (Image.new("RGB", (32, 16), RED).quantize(4), [200, 30, 20]),
    "CMYK.tif": (Image.new("CMYK", (32, 16), (0, 255, 255, 0)), [255, 0, 0]),
    "CMYK.jpg": (Image.new("CMYK", (32, 16), (0, 255, 255, 0)), [255, 0, 0]),
    "16bit.png": (Image.fromarray(GREY16), [128] * 3),
    "16bit.tif": (Image.fromarray(GREY16), [128] * 3),
    "32bit.tif": (Image.fromarray(GREY16.astype(np.int32)), [128] * 3),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path, name):
    image, expected = MODES[name]
    image.save(tmp_path / name)
    assert colour(tmp_path / name) == expected


def test_a_phone_s_file_of_two_pictures_is_its_first(tmp_path):
    first, second = (Image.new("RGB", (32, 16), level) for level in (RED, GREEN))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=100)
    assert np.abs(np.subtract(colour(tmp_path / "a.jpg"), RED)).max() <= 2


def test_a_palette_s_transparent_entry_is_white(tmp_path):
    Image.new("P", (32, 16), 0).save(tmp_path / "a.png", transparency=0)
    assert colour(tmp_path / "a.png") == [255] * 3


@pytest.mark.parametrize("values", [np.full((4, 4), 1e6, np.int32), np.full((4, 4), 0.5, np.float32)])
def test_a_file_of_measurements_is_no_photograph(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(Error, match="8 or 16 bits"):
        read_photograph(tmp_path / "a.tif")


def test_exif_orientation_is_applied(tmp_path):
    levels = np.zeros((16, 32, 3), np.uint8)
    levels[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right: what was left comes up
    Image.fromarray(levels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image, _ = read_photograph(tmp_path / "a.jpg")
    assert image.shape == (3, 32, 16)
    assert image[:, :14].mean() > 0.9 and image[:, 18:].mean() < -0.9
    small, _ = read_photograph(tmp_path / "a.jpg", (16, 8))
    assert small[:, :7].mean() > 0.9 and small[:, 9:].mean() < -0.9


def test_a_shape_is_never_stretched(tmp_path):
    levels = np.full((64, 64, 3), 255, np.uint8)
    rows, cols = np.ogrid[:64, :64]
    levels[(rows - 31.5) ** 2 + (cols - 31.5) ** 2 < 20**2] = 0
    levels[:, -1] = RED
    Image.fromarray(levels).save(tmp_path / "a.png")
    image, _ = read_photograph(tmp_path / "a.png", (32, 64))
    dark = image.max(0) < 0
    assert dark.any(0).sum() == dark.any(1).sum() == 20
    assert (image[:, :, :16] == image[:, :, 16:17]).all()
    assert (image[:, :, 48:] == image[:, :, 47:48]).all() and image[1, :, 60].max() < image[1, :, 4].min()
    tall, _ = read_photograph(tmp_path / "a.png", (64, 32))
    assert (tall[:, :16] == tall[:, 16:17]).all() and tall.shape == (3, 64, 32)


def test_an_aspect_that_is_nearly_right_is_resized_plainly(tmp_path):
    gradient = np.linspace(0, 255, 129).astype(np.uint8)
    Image.fromarray(np.broadcast_to(gradient[None, :, None], (64, 129, 3)).copy()).save(tmp_path / "a.png")
    image, _ = read_photograph(tmp_path / "a.png", (32, 64))
    assert (np.diff(image[0, 0]) > 0).all()  # a repeated edge would show as two equal columns


def test_small_detail_is_averaged_not_skipped(tmp_path):
    checks = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "a.png")
    image, _ = read_photograph(tmp_path / "a.png", (16, 16))
    assert np.abs(image).max() < 0.05


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 255, (8, 16, 3), np.uint8)).resize(
        (2048, 1024), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "a.jpg", quality=95)
    smooth.save(tmp_path / "a.png")
    (quick, _), (whole, _) = (read_photograph(tmp_path / name, (32, 64)) for name in ("a.jpg", "a.png"))
    assert np.abs(quick - whole).max() < 0.06


# -------------------------------------------------------------------------------------------------------- what is not


def test_a_marked_photograph_is_not_read_as_real(tmp_path):
    made = Provenance("edited", "3f2a9c", "sdedit", 3)
    picture(tmp_path / "rust" / "made.jpg", xmp=xmp.packet(made).encode())
    picture(tmp_path / "rust" / "real.jpg")
    assert {e.id: e.provenance for e in read(tmp_path)[0]} == {"made": made, "real": None}


@pytest.mark.parametrize("stated", ["{}", '{"kind":"magic","model":"m","procedure":"p"}', "a farm in Kenya", "[1]"])
def test_a_column_provenance_that_is_not_ours_says_nothing(tmp_path, stated):
    picture(tmp_path / "a.png")
    with (table(tmp_path, "") / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["filename", "class", "provenance", "synthetic"], ["a.png", "rust", stated, ""]])
    assert read(tmp_path)[0][0].provenance is None
    text = (tmp_path / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(text.rstrip() + "yes\n")
    assert read(tmp_path)[0][0].provenance == Provenance("synthetic", "unknown", "unknown")


# ------------------------------------------------------------------------------------------------------------ writing

VOCABULARY = {"class": ("Coffee___healthy", "Coffee___rust")}


def leaf(ident: str, label: float, **more) -> Example:
    return Example(ident, np.zeros((3, 8, 16), np.float32), Annotation(labels={"class": label}), ident, **more)


def test_one_file_serves_the_folders_the_table_and_the_manifest(tmp_path):
    made = [leaf("a", 1.0), leaf("b", 0.0, provenance=Provenance("synthetic", "m", "generate", 1)), leaf("c", math.nan)]
    assert folders.write(made, tmp_path / "out", VOCABULARY, domain="toy") == 3
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert files == {
        "images/Coffee___rust/a.png", "images/Coffee___healthy/b.png", f"images/{folders.UNLABELLED}/c.png",
    }  # fmt: skip
    assert [e.id for e in dataset.read(tmp_path / "out")] == ["a", "b", "c"]
    with (tmp_path / "out" / "labels.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["filename"] for line in lines} == files
    assert [line["synthetic"] for line in lines] == ["no", "yes", "no"]
    assert dataset.read_info(tmp_path / "out")["labels"] == {"class": ["Coffee___healthy", "Coffee___rust"]}
    (tmp_path / "out" / "labels.csv").unlink()  # the folders alone say the same, and the mark what is synthetic
    found = {e.id: e for e in read(tmp_path / "out")[0]}
    assert [found[k].annotation.labels["class"] for k in "ab"] == [1.0, 0.0]
    assert math.isnan(found["c"].annotation.labels["class"])
    assert [found[k].provenance is None for k in "abc"] == [True, False, True]


@pytest.mark.parametrize("place", ["..", "a/b", "/tmp", "", ".hidden", "a\0b", "a b", "a\n", "x" * 200])
def test_a_folder_that_is_no_name_is_refused(tmp_path, place):
    with pytest.raises(Error, match="folder of images") as problem:
        folders.write([leaf("a", 1.0)], tmp_path / "out", VOCABULARY, place=lambda _: place)
    assert len(str(problem.value)) > 20
    assert list(tmp_path.iterdir()) == []


def test_other_channels_are_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(Error, match="grey or RGB"):
        folders.write([leaf("a", 1.0), Example("b", np.zeros((4, 8, 8), np.float32))], tmp_path / "out", VOCABULARY)
    assert list(tmp_path.iterdir()) == []
