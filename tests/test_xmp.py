"""The mark of synthetic images: what is written, independent readers find; what others wrote is understood."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags

from toolkit.data import dataset, xmp
from toolkit.example import Error, Example, Provenance

CODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE = Provenance("synthetic", "3f2a9c", "generate", 7)


def written(folder: Path, made: Provenance | None, channels: int = 3) -> Path:
    """The PNG of a data set of one image."""
    dataset.write([Example("a", np.zeros((channels, 8, 9), np.float32), provenance=made)], folder / "data")
    return folder / "data" / "images" / "a.png"


def foreign(path: Path, body: str, **attributes: str) -> Path:
    """An image that another program marked."""
    spaces = " ".join(f'xmlns:{short}="{full}"' for short, full in xmp.NAMESPACES.items())
    inner = " ".join(f'{k.replace("__", ":")}="{v}"' for k, v in attributes.items())
    packet = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {spaces}><rdf:Description {inner}>{body}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )
    text, tags = PngImagePlugin.PngInfo(), TiffImagePlugin.ImageFileDirectory_v2()
    text.add_itxt(xmp.KEYWORD, packet)
    tags[700] = packet.encode()
    tags.tagtype[700] = TiffTags.BYTE
    ways = {".png": {"pnginfo": text}, ".tif": {"tiffinfo": tags}}
    Image.new("RGB", (8, 8)).save(path, **ways.get(path.suffix, {"xmp": packet.encode()}))
    return path


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("synthetic", "trainedAlgorithmicMedia"),
        ("edited", "compositeWithTrainedAlgorithmicMedia"),
        ("map", "compositeWithTrainedAlgorithmicMedia"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_not_acquired_is_marked_in_every_domain(tmp_path, kind, code, channels):
    path = written(tmp_path, Provenance(kind, "3f2a9c", "sdedit", 7), channels)
    assert xmp.read(path) == kind
    with Image.open(path) as image:
        facts = image.getxmp()["xmpmeta"]["RDF"]["Description"]
        assert xmp.provenance(image.info) == Provenance(kind, "3f2a9c", "sdedit", 7)
    assert facts["DigitalSourceType"] == CODES + code
    assert facts["CreatorTool"] == "diffgraft"
    told = facts["description"]["Alt"]["li"]["text"]
    assert all(word in told for word in ("3f2a9c", "sdedit", "seed 7")) and "\n" not in told


@pytest.mark.parametrize("channels", [1, 3])
def test_a_real_image_has_no_mark(tmp_path, channels):
    path = written(tmp_path, None, channels)
    assert xmp.read(path) is None
    assert b"iTXt" not in path.read_bytes()


def test_the_mark_changes_no_pixel(tmp_path):
    for name, made in (("real", None), ("made", MADE)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, made)
    with (
        Image.open(tmp_path / "real/data/images/a.png") as real,
        Image.open(tmp_path / "made/data/images/a.png") as made,
    ):
        assert np.array_equal(np.asarray(real), np.asarray(made))


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_the_mark_and_nothing_to_complain_of(tmp_path):
    path = written(tmp_path, MADE)
    shown = subprocess.run(
        ["exiftool", "-j", "-validate", "-XMP:all", path], capture_output=True, text=True, check=True, timeout=60
    )
    (facts,) = json.loads(shown.stdout)
    assert facts["Validate"] == "OK"
    assert facts["DigitalSourceType"] in (CODES + "trainedAlgorithmicMedia", "Trained algorithmic media")
    assert facts["CreatorTool"] == "diffgraft"
    assert facts["Description"].startswith("Synthetic image, not acquired") and "3f2a9c" in facts["Description"]


@given(
    st.builds(
        Provenance,
        kind=st.sampled_from(["synthetic", "edited", "map"]),
        model=st.text(max_size=20),
        procedure=st.text(max_size=20),
        seed=st.none() | st.integers(0, 2**64 - 1),
    )
)
def test_any_words_make_a_packet_that_is_read(made):
    found = xmp.provenance({"xmp": xmp.packet(made).encode("utf-8", "replace")})
    assert found is not None
    assert (found.kind, found.seed) == (made.kind, made.seed)
    if made.model.isascii() and made.model.isprintable():
        assert found.model == (" ".join(made.model.split()) or "unknown")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize(
    "spelled",
    [
        f"<Iptc4xmpExt:DigitalSourceType>{CODES}trainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType>",
        f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{CODES}trainedAlgorithmicMedia"/>',
    ],
)
def test_what_another_program_marked_is_synthetic_too(tmp_path, suffix, spelled):
    path = foreign(tmp_path / f"a.{suffix}", spelled)
    assert xmp.read(path) == "synthetic"
    with Image.open(path) as image:
        assert xmp.provenance(image.info) == Provenance("synthetic", "unknown", "unknown")


def test_a_camera_s_packet_is_no_mark(tmp_path):
    assert xmp.read(foreign(tmp_path / "a.jpg", "", xmp__CreatorTool="Camera 1.0")) is None
    attributes = {"Iptc4xmpExt__DigitalSourceType": CODES + "digitalCapture"}
    assert xmp.read(foreign(tmp_path / "b.jpg", "", **attributes)) is None


BOMB = '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'


@pytest.mark.parametrize("packet", ["no XML <", "", BOMB, '<a xmlns="x" diffgraft="y"/>', "\ud7ff" * 5])
def test_a_packet_that_is_none_is_no_mark_and_no_harm(packet):
    assert xmp.provenance({"xmp": packet.encode()}) is None


def test_a_seed_that_is_no_number_is_unknown():
    packet = xmp.packet(MADE).replace('Seed="7"', f'Seed="{"9" * 5000}"')
    assert xmp.provenance({"xmp": packet}) == Provenance("synthetic", "3f2a9c", "generate", None)


def test_text_after_the_pixels_is_found(tmp_path):
    path = written(tmp_path, MADE)
    data = path.read_bytes()
    begin, pixels, end = (data.index(name) - 4 for name in (b"iTXt", b"IDAT", b"IEND"))
    assert begin < pixels
    path.write_bytes(data[:begin] + data[pixels:end] + data[begin:pixels] + data[end:])
    assert xmp.read(path) == "synthetic"


def test_what_is_no_image_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(Error, match="read from an image file") as problem:
        xmp.read(tmp_path / "a.png")
    assert "\n" not in str(problem.value)
