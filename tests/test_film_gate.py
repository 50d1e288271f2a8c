"""The input gate of films: what it lets pass and refuses, in arrays, files and `edit`."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom import uid
from test_dicom_film import save

from diffgraft.editing.edit import edit
from domains import chest_xray
from toolkit.data import film_likeness
from toolkit.example import Error, Note
from toolkit.formats import films
from toolkit.models.folder import hash_id, read_meta, training_ids

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "chest_xray"
REAL = ROOT.parent / "shared" / "data" / "cxr"
SIDE = 128


def film(seed: int, side: int = SIDE) -> np.ndarray:
    """(side, side) in [0, 1]: lungs, spine, heart, ribs and belly, each a little elsewhere."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    a, b, c, d, e, f = chance.uniform(-1, 1, 6)
    x, y = x + 0.06 * a, y + 0.06 * b
    lungs = sum(
        np.exp(-(((abs(x - s * (0.45 + 0.03 * c))) / 0.27) ** 4) - ((y + 0.1) / (0.62 + 0.05 * d)) ** 4)
        for s in (-1, 1)
    )
    heart = np.exp(-(((x - 0.15) / (0.3 + 0.05 * e)) ** 2) - ((y - 0.3) / 0.3) ** 2)
    shown = (
        0.75
        - 0.6 * lungs
        + 0.3 * heart
        + 0.15 * np.exp(-((x / 0.12) ** 2))
        + 0.05 * np.sin(28 * y + 9 * abs(x) + 3 * f) * lungs
    )
    shown = shown - 0.5 * (abs(x) > 0.95) + 0.1 * y + chance.normal(0, 0.01, x.shape)
    return np.clip((shown - shown.min()) / np.ptp(shown), 0, 1)


def page(side: int = 256) -> np.ndarray:
    drawn = Image.new("L", (side, side))
    for k in range(12):
        ImageDraw.Draw(drawn).text((8, 20 * k), f"DAP {k}.12 dGy*cm2  kV 120", fill=255)
    return np.asarray(drawn) / 255


def seen(pixels: np.ndarray) -> np.ndarray:
    return films.normalise(films.central_square(pixels, SIDE))


@pytest.fixture(scope="module")
def known() -> dict:
    return film_likeness.summarise(np.stack([seen(film(seed)) for seed in range(160)]))


def test_films_as_those_of_the_training_pass(known) -> None:
    assert sum(bool(film_likeness.doubts(known, seen(film(seed)))) for seed in range(1000, 1100)) <= 1


@pytest.mark.parametrize(
    "other", ["page", "page in black", "noise", "gradient", "upside down", "turned", "negative", "disc"]
)
def test_other_things_are_refused(known, other: str) -> None:
    plain = film(2000)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    shown = {
        "page": page(), "page in black": 1 - page(), "noise": np.random.default_rng(0).random((128, 128)), "gradient": x + y,
        "upside down": plain[::-1], "turned": np.rot90(plain), "negative": 1 - plain, "disc": (np.hypot(x, y) < 0.6) * 1.0,
    }[other]  # fmt: skip
    doubts = film_likeness.doubts(known, seen(shown))
    assert doubts
    if other in ("upside down", "negative"):
        assert any(other in line for line in doubts)


def test_of_few_films_nothing_is_kept_and_nothing_refused() -> None:
    few = np.stack([seen(film(seed)) for seed in range(film_likeness.FEWEST - 1)])
    assert film_likeness.summarise(few) == {}
    assert (
        chest_xray.input_doubts({}, seen(page())[None])
        == chest_xray.input_doubts({"typical": {}}, seen(page())[None])
        == []
    )


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, True), ({"BodyPartExamined": "CHEST"}, False), ({"ViewPosition": "PA"}, False), ({"SeriesDescription": "Thorax"}, False),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "OT", "ViewPosition": "PA"}, True),
    ],
)  # fmt: skip
def test_a_file_that_says_that_it_shows_a_chest_is_believed(known, tmp_path: Path, fields, asked: bool) -> None:
    path = save(tmp_path / "x.dcm", **fields)
    assert bool(chest_xray.input_doubts({"typical": known}, seen(page())[None], path)) == asked


def test_edit_puts_a_page_aside_and_takes_it_by_force(tmp_path: Path) -> None:
    root = tmp_path / "films"
    root.mkdir()
    Image.fromarray((page() * 255).astype(np.uint8)).save(root / "page.png")
    given = {"text": "left pleural effusion", "boxes": ["0.55,0.55,0.9,0.9"], "steps": 2, "backend": "onnx"}
    with pytest.raises(Error, match=r"page\.png does not: it has a novelty .* --force"):
        edit(MODEL, root / "page.png", tmp_path / "a", **given)
    assert not (tmp_path / "a").exists()
    with pytest.warns(Note, match="Edited because --force"):
        made = edit(MODEL, root / "page.png", tmp_path / "b", force=True, **given)
    assert made.count == 1


def test_the_starter_model_refuses_pages_and_negatives() -> None:
    meta = read_meta(MODEL)
    assert chest_xray.input_doubts(meta, seen(page())[None])
    assert len((MODEL / "model.json").read_bytes()) < 80_000


@pytest.mark.skipif(not REAL.is_dir(), reason="no real films beside the checkout (../shared/data/cxr)")
def test_the_starter_model_lets_films_pass_that_it_never_saw_and_no_negative() -> None:
    meta = read_meta(MODEL)
    trained = training_ids(meta, ("denoiser",)) or set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        unseen = [e.image for e in chest_xray.read(REAL) if hash_id(e.id) not in trained]
    refused = [bool(chest_xray.input_doubts(meta, image)) for image in unseen]
    assert len(unseen) == 77 and sum(refused) <= 1
    assert all(chest_xray.input_doubts(meta, -image) for image in unseen)
    assert np.mean([bool(chest_xray.input_doubts(meta, image[:, ::-1])) for image in unseen]) > 0.85
