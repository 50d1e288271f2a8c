"""Pictures of 16 bits that use fewer: as good as their 8 bits in every domain, or put aside; never black without a word."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffgraft.editing.region import read_mask
from domains import chest_xray, detection, plant_disease
from toolkit.example import Error, Note
from toolkit.formats import deep_pictures, folders
from toolkit.formats.films import read_levels
from toolkit.formats.photograph import read_photograph

BITS = (8, 10, 12, 14, 16)
SIZE = (24, 40)


def png(values: np.ndarray, filter: int = 0, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits (W3C, Portable Network Graphics): (rows, cols, 1 to 4), by filter 0 (none) or 2 (up)."""
    rows, cols, channels = values.shape
    content = values.astype(">u2").tobytes()
    lines = np.frombuffer(content, np.uint8).reshape(rows, -1)
    coded = lines if filter == 0 else np.diff(lines, axis=0, prepend=np.zeros_like(lines[:1]))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", cols, rows, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    data = b"".join(bytes([filter]) + line.tobytes() for line in coded)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


def tiff(
    values: np.ndarray,
    order: str = "<",
    deflated: bool = False,
    photometric: int | None = None,
    turn: int = 1,
    planes: bool = False,
) -> bytes:
    """A TIFF 6.0 of 16 bits in one strip, or in one a plane."""
    rows, cols, channels = values.shape
    parts = [values[..., n] for n in range(channels)] if planes else [values]
    strips = [part.astype(f"{order}u2").tobytes() for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    starts = [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    content = b"".join(strips)
    where = 8 + len(content)
    kind = photometric if photometric is not None else 2 if channels > 2 else 1
    tags = [
        (256, 3, 1, cols), (257, 3, 1, rows), (258, 3, channels, 16), (259, 3, 1, 8 if deflated else 1), (262, 3, 1, kind),
        (273, 4, len(strips), starts), (274, 3, 1, turn), (277, 3, 1, channels), (278, 3, 1, rows),
        (279, 4, len(strips), [*map(len, strips)]), (284, 3, 1, 2 if planes else 1),
    ]  # fmt: skip
    tags += [(338, 3, 1, 2)] if channels in (2, 4) else []
    after, beyond, entries = b"", where + 2 + 12 * len(tags) + 4, b""
    for tag, kind, count, value in tags:
        each = value if isinstance(value, list) else [value] * count
        words = struct.pack(f"{order}{count}{'H' if kind == 3 else 'I'}", *each)
        if len(words) > 4:
            words, after = struct.pack(f"{order}I", beyond + len(after)), after + words
        entries += struct.pack(f"{order}HHI", tag, kind, count) + words.ljust(4, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, where)
    return head + content + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + after


CONTAINERS = {
    "png": (".png", png),
    "png filtered": (".png", lambda values: png(values, 2)),
    "tiff": (".tif", tiff),
    "tiff of Motorola": (".tif", lambda values: tiff(values, ">")),
    "tiff deflated": (".tiff", lambda values: tiff(values, deflated=True)),
    "tiff of Motorola, deflated": (".tiff", lambda values: tiff(values, ">", True)),
}


def shades(channels: int, seed: int = 0) -> np.ndarray:
    """(rows, cols, channels) in [0, 1]: smooth, both ends reached, alpha 1."""
    y, x = np.mgrid[-1 : 1 : SIZE[0] * 1j, -1 : 1 : SIZE[1] * 1j]
    chance = np.random.default_rng(seed)
    waves = [np.sin(a * x + b * y + c) for a, b, c in chance.uniform(-4, 4, (min(channels, 3), 3))]
    found = np.dstack([(wave - wave.min()) / np.ptp(wave) for wave in waves])
    if channels in (2, 4):
        found = np.dstack([found[..., : channels - 1], np.ones(SIZE)])
    return found


def shown(path: Path, **options) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        return read_photograph(path, **options)[0]


@settings(max_examples=80, deadline=None)
@given(
    container=st.sampled_from([*CONTAINERS]),
    channels=st.sampled_from([1, 2, 3, 4]),
    bits=st.sampled_from(BITS),
    seed=st.integers(0, 3),
    fitted=st.booleans(),
)
def test_a_picture_is_as_good_as_its_eight_bits(
    tmp_path_factory, container: str, channels: int, bits: int, seed: int, fitted: bool
) -> None:
    if "tiff" in container and channels == 2:
        return  # Pillow knows none of grey with alpha
    suffix, write = CONTAINERS[container]
    values, root = shades(channels, seed), tmp_path_factory.getbasetemp()
    path, plain = root / f"deep{suffix}", root / "plain.png"
    path.write_bytes(write(np.rint(values * (2**bits - 1))))
    colours = values[..., : 1 if channels < 3 else 3]
    Image.fromarray(np.rint(np.broadcast_to(colours, (*SIZE, 3)) * 255).astype(np.uint8)).save(plain)
    size = {"size": (16, 32)} if fitted else {}
    worst = np.abs(shown(path, **size) - shown(plain, **size)).max() * 127.5
    # A colour picture that uses all 16 bits is read by its upper 8, as always: up to one level below; fitted, rounded twice.
    assert worst <= (2.01 if fitted else 1.01)
    assert len(np.unique(shown(path))) > 150


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_taken_for_white_is_said_in_one_line(tmp_path: Path, bits: int, channels: int) -> None:
    (tmp_path / "x.png").write_bytes(png(np.rint(shades(channels) * (2**bits - 1))))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read_photograph(tmp_path / "x.png")
    assert [f"as pictures of {bits} bits" in str(one.message) for one in said] == [True] * (bits < 16)


@pytest.mark.parametrize("domain", ["films", "photographs", "boxes"])
@pytest.mark.parametrize("bits", BITS)
def test_every_domain_that_opens_pictures_reads_them_alike(tmp_path: Path, domain: str, bits: int) -> None:
    values = np.tile(shades(1), (4, 2, 1)) if domain == "films" else np.tile(shades(3), (3, 3, 1))
    deep, plain = tmp_path / "deep.png", tmp_path / "plain.png"
    deep.write_bytes(png(np.rint(values * (2**bits - 1))))
    Image.fromarray(np.rint(np.squeeze(values) * 255).astype(np.uint8)).save(plain)
    read = {"films": chest_xray, "photographs": plant_disease, "boxes": detection}[domain].read_image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        both = [read(path, (96, 96)).image for path in (deep, plain)]
    assert np.sqrt(((both[0] - both[1]) ** 2).mean()) < 0.01
    assert len(np.unique(both[0])) > 100


def test_a_film_of_sixteen_bits_keeps_all_of_them(tmp_path: Path) -> None:
    values = np.rint(shades(1) * 65535)
    (tmp_path / "x.png").write_bytes(png(values))
    assert np.abs(read_levels(tmp_path / "x.png").pixels - values[..., 0] / 65535).max() < 1e-6


def test_what_is_burnt_in_above_the_detectors_bits_is_white_and_dims_nothing(tmp_path: Path) -> None:
    values = np.rint(shades(1) * 4095)
    values[:3, :8] = 65535
    (tmp_path / "x.png").write_bytes(png(values))
    with pytest.warns(Note, match="burnt-in"):
        found = read_levels(tmp_path / "x.png").pixels
    assert np.abs(found[3:] - values[3:, :, 0] / 4095).max() < 1e-6 and (found[:3, :8] == 1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_photograph_that_would_be_black_is_put_aside_with_the_reason(tmp_path: Path, channels: int) -> None:
    """Nearly all of it in 12 bits, a few values anywhere above: neither is the white that is meant."""
    values = np.rint(shades(channels) * 4000)
    values[0, 0], values[0, 1] = 50000, 30000
    (tmp_path / "rust").mkdir()
    (tmp_path / "rust" / "x.png").write_bytes(png(values))
    aside: dict[str, str] = {}
    assert not list(folders.read(tmp_path, aside=aside.__setitem__))
    assert "next to black" in aside["rust/x.png"] and "8 bits" in aside["rust/x.png"]


def test_a_film_that_would_be_black_is_stretched_as_any(tmp_path: Path) -> None:
    values = np.tile(np.rint(shades(1) * 4000), (4, 4, 1))
    plain = tmp_path / "plain.png"
    Image.fromarray(np.rint(values[..., 0] / 4000 * 255).astype(np.uint8)).save(plain)
    values[0, 0], values[0, 1] = 50000, 30000
    (tmp_path / "x.png").write_bytes(png(values))
    both = [chest_xray.read_image(path, (64, 64)).image for path in (tmp_path / "x.png", plain)]
    assert np.sqrt(((both[0] - both[1]) ** 2).mean()) < 0.01


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_whose_white_is_zero_is_no_negative(tmp_path: Path, bits: int, order: str) -> None:
    """Pillow 13 inverts those of 8 bits and not those of 16."""
    values = np.rint(shades(1) * (2**bits - 1))
    (tmp_path / "x.tif").write_bytes(tiff(2**bits - 1 - values, order, photometric=0))
    if order == ">":  # which Pillow does not know
        with pytest.raises(Error):
            shown(tmp_path / "x.tif")
    else:
        assert np.abs((shown(tmp_path / "x.tif")[0] + 1) / 2 - values[..., 0] / (2**bits - 1)).max() < 1e-5


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_the_orientation_of_a_camera_is_applied(tmp_path: Path, turn: int, channels: int) -> None:
    from PIL import ImageOps

    values = np.rint(shades(channels) * 4095)
    (tmp_path / "x.tif").write_bytes(tiff(values, turn=turn))
    plain = Image.fromarray(np.rint(np.broadcast_to(values, (*SIZE, 3)) / 4095 * 255).astype(np.uint8))
    plain.getexif()[274] = turn
    expected = np.asarray(ImageOps.exif_transpose(plain)).transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(shown(tmp_path / "x.tif") - expected).max() * 127.5 < 1.01


def test_one_colour_may_be_transparent(tmp_path: Path) -> None:
    values = np.rint(shades(3) * 4095)
    values[:4] = (9, 8, 7)
    key = struct.pack(">3H", 9, 8, 7)
    chunk = struct.pack(">I", 6) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
    (tmp_path / "x.png").write_bytes(png(values, extra=chunk))
    found = shown(tmp_path / "x.png")
    assert (found[:, :4] == 1).all() and np.abs((found[0, 4:] + 1) / 2 - values[4:, :, 0] / 4095).max() < 1e-5


@pytest.mark.parametrize("top", [1, 255, 4095, 65535])
@pytest.mark.parametrize("deep", [False, True])
def test_a_mask_of_two_values_is_black_and_white(tmp_path: Path, top: int, deep: bool) -> None:
    drawn = np.zeros(SIZE, np.uint16 if deep else np.uint8)
    drawn[4:9, 5:20] = top if deep else min(top, 255)
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", SIZE), (drawn > 0).astype(np.float32))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_grey_tiff_that_is_turned_is_not_scrambled(tmp_path: Path, kind: type, turn: int) -> None:
    """Pillow 13.0.0, opened by its name: the rows of one of 24 x 40 are read 40 x 24."""
    values = np.rint(shades(1)[..., 0] * np.iinfo(kind).max).astype(kind)
    plain = Image.fromarray(values)
    plain.save(tmp_path / "x.tif", tiffinfo={274: turn})
    method = deep_pictures.TURNS.get(turn)
    expected = np.asarray(plain if method is None else plain.transpose(method)) / np.iinfo(kind).max
    assert np.abs((shown(tmp_path / "x.tif")[0] + 1) / 2 - expected).max() < 1e-5


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [12, 16])
def test_planes_of_sixteen_bits_are_put_aside_with_the_reason(tmp_path: Path, order, deflated, channels, bits) -> None:
    """Pillow 13.0.0 reads the bytes of the planes as if these had 8 bits; of compressed ones, the upper bytes alone."""
    values = np.rint(np.tile(shades(channels), (3, 3, 1)) * (2**bits - 1))
    (tmp_path / "rust").mkdir()
    path = tmp_path / "rust" / "x.tif"
    path.write_bytes(tiff(values, order, deflated, planes=True))
    aside: dict[str, str] = {}
    assert not list(folders.read(tmp_path, aside=aside.__setitem__))
    assert "PlanarConfiguration 1" in aside["rust/x.tif"]
    with pytest.raises(Error, match="PlanarConfiguration 1"):
        detection.read_image(path, (96, 96))


@pytest.mark.parametrize("says", ["", "ImageJ=1.54f\nimages=3\nchannels=3\nmode=composite\n"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_stack_of_channels_is_no_grey_photograph(tmp_path: Path, kind: type, says: str) -> None:
    if kind is np.uint8 and not says:
        return  # pages of 8 bits are those of a scanner: the first is read
    pages = [Image.fromarray(np.rint(shades(3)[..., n] * np.iinfo(kind).max).astype(kind)) for n in range(3)]
    about = {270: says} if says else {}
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:], tiffinfo=about)
    pages[0].save(tmp_path / "one directory.tif", tiffinfo=about)
    for name in ("x.tif", "one directory.tif")[: 2 if says else 1]:
        with pytest.raises(Error, match="a stack of 3"):
            shown(tmp_path / name)


def test_a_smaller_edition_of_a_picture_is_no_page(tmp_path: Path) -> None:
    page = Image.fromarray(np.rint(shades(1)[..., 0] * 65535).astype(np.uint16))
    page.save(tmp_path / "x.tif", save_all=True, append_images=[page.resize((10, 6))])
    page.save(tmp_path / "plain.tif")
    assert np.array_equal(shown(tmp_path / "x.tif"), shown(tmp_path / "plain.tif"))
