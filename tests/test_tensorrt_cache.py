"""What a cache of engines may hold: files that this user sealed, whole, for this very model and device."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from export.engines import signing
from export.engines.engine import Batch, Gpu, Library, digest, fingerprint
from toolkit.example import Error

HEADER = {"graph": "denoiser.onnx", "gpu": "Ada", "shapes": [1, 4, 16]}
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def sealed(tmp_path) -> Path:
    path = tmp_path / "engines" / "denoiser.engine"
    signing.seal(path, HEADER, CONTENT)
    return path


def test_what_was_sealed_comes_back(sealed):
    assert signing.unseal(sealed, HEADER) == CONTENT


def test_key_and_files_are_the_users_alone(sealed):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in sealed.parent.iterdir()}
    assert modes == {"key": 0o600, "denoiser.engine": 0o600}
    assert stat.S_IMODE(sealed.parent.stat().st_mode) == 0o700
    assert len((sealed.parent / "key").read_bytes()) == 32


def test_two_caches_have_two_keys(tmp_path):
    assert signing.key_of(tmp_path / "a") != signing.key_of(tmp_path / "b")
    assert signing.key_of(tmp_path / "a") == signing.key_of(tmp_path / "a")


@pytest.mark.parametrize("place", ["magic", "tag", "header", "content", "last"])
def test_an_altered_file_is_refused(sealed, place):
    data = bytearray(sealed.read_bytes())
    start = len(signing.MAGIC) + signing.TAG
    data[{"magic": 3, "tag": start - 1, "header": start + 20, "content": -len(CONTENT) + 5, "last": -1}[place]] ^= 1
    sealed.write_bytes(bytes(data))
    with pytest.raises(Error, match=r"^A cached file is .* not used: remove it\.$"):
        signing.unseal(sealed, HEADER)


@pytest.mark.parametrize("length", [0, 5, 19, 51, 58, 59, 200, -1])
def test_a_truncated_file_is_refused(sealed, length):
    sealed.write_bytes(sealed.read_bytes()[:length])
    with pytest.raises(Error, match="not used"):
        signing.unseal(sealed, HEADER)


def test_an_unsigned_engine_is_refused(sealed):
    sealed.write_bytes(CONTENT)
    with pytest.raises(Error, match=r"is signed; .* is not"):
        signing.unseal(sealed, HEADER)


def test_another_users_file_is_refused(sealed, tmp_path):
    other = tmp_path / "theirs" / sealed.name
    signing.seal(other, HEADER, CONTENT)
    sealed.write_bytes(other.read_bytes())
    with pytest.raises(Error, match="altered or another's"):
        signing.unseal(sealed, HEADER)


def test_an_engine_for_something_else_is_refused_though_it_is_signed(sealed):
    with pytest.raises(Error, match="is for another"):
        signing.unseal(sealed, HEADER | {"gpu": "Turing"})


def test_header_and_content_cannot_trade_bytes(sealed):
    """The length of the header is signed: without it a header could end later and swallow the content."""
    data = bytearray(sealed.read_bytes())
    data[len(signing.MAGIC) + signing.TAG] += 1
    sealed.write_bytes(bytes(data))
    with pytest.raises(Error, match="altered"):
        signing.unseal(sealed, HEADER)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="file modes of POSIX")
def test_a_key_that_others_can_read_is_worth_nothing(sealed):
    (sealed.parent / "key").chmod(0o644)
    with pytest.raises(Error, match=r"the user's alone .* has mode 644"):
        signing.unseal(sealed, HEADER)


def test_a_key_that_is_cut_off_is_refused(sealed):
    (sealed.parent / "key").write_bytes(b"short")
    with pytest.raises(Error, match="5 bytes"):
        signing.seal(sealed, HEADER, CONTENT)
    assert signing.MAGIC in sealed.read_bytes(), "the file that was there is still there"


def test_nothing_half_written_is_left(sealed):
    with pytest.raises(ValueError, match="JSON"):
        signing.seal(sealed, {"a": float("nan")}, CONTENT)
    assert signing.unseal(sealed, HEADER) == CONTENT
    assert {path.name for path in sealed.parent.iterdir()} == {"key", "denoiser.engine"}


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert signing.cache_folder() == tmp_path / "diffgraft" / "engines"


@pytest.fixture
def ingredients(tmp_path) -> dict:
    graph = tmp_path / "denoiser.onnx"
    graph.write_bytes(b"graph")
    lib, target = Library("tensorrt", "10.9", None, False), Gpu("NVIDIA L4", "8.9", "13.0")
    return {"path": graph, "weights": "w", "lib": lib, "target": target, "batch": Batch(), "precision": "fp16"}


CHANGES = {
    "weights": lambda i: i | {"weights": "other"},
    "precision": lambda i: i | {"precision": "fp32"},
    "TensorRT's version": lambda i: i | {"lib": replace(i["lib"], version="11.0")},
    "library": lambda i: i | {"lib": replace(i["lib"], name="tensorrt_rtx")},
    "card": lambda i: i | {"target": replace(i["target"], name="NVIDIA L40")},
    "capability": lambda i: i | {"target": replace(i["target"], capability="9.0")},
    "driver": lambda i: i | {"target": replace(i["target"], driver="13.1")},
    "smallest batch": lambda i: i | {"batch": Batch(2, 4, 16)},
    "usual batch": lambda i: i | {"batch": Batch(1, 8, 16)},
    "largest batch": lambda i: i | {"batch": Batch(1, 4, 32)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_ingredient_changes_the_fingerprint(ingredients, change):
    assert digest(fingerprint(**CHANGES[change](ingredients))) != digest(fingerprint(**ingredients))


def test_the_graph_changes_the_fingerprint_and_nothing_else_does(ingredients):
    before = fingerprint(**ingredients)
    assert fingerprint(**ingredients) == before
    ingredients["path"].write_bytes(b"grapH")
    assert fingerprint(**ingredients) != before


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 4), (1, 5, 4)])
def test_batch_sizes_are_in_order(sizes):
    with pytest.raises(Error, match="least <= usual <= most"):
        Batch(*sizes)


def test_a_profile_has_the_batch_in_every_dynamic_axis():
    assert Batch(1, 2, 8).shapes((-1, 3, 64, 64)) == ((1, 3, 64, 64), (2, 3, 64, 64), (8, 3, 64, 64))
    assert Batch(1, 2, 8).shapes((4,)) == ((4,), (4,), (4,))
