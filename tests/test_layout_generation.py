"""Images for layouts, in a world where the right image is known: what the filter turns away, the log of it, what is written.

The world: an image is black, with an ellipse in the colour of its class in each box. Its denoiser is exact for two images
that are equally likely, the right one and one with a flaw that the test chooses, so that noise decides which of the two
is drawn. Its detector reads colours, and finds every ellipse there is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from diffgraft.cli.main import app
from diffgraft.generation.generate import generate as run
from diffgraft.generation.generate import generate_with
from diffgraft.generation.layouts.filter import LayoutFilter, calibrate_filter, detect_objects, stored_calibration
from diffgraft.generation.layouts.log import DRAW_STRIDE, LOG
from diffgraft.requests import GenerationRequest, LayoutOptions
from diffgraft.requests.verb import Call
from domains import detection
from toolkit.data import dataset, xmp
from toolkit.data.labels import Vocabulary
from toolkit.diffusion.model import BOXES, OBJECTS, Identity, Model, Spec
from toolkit.example import Annotation, Boxes, Error, Example, Note
from toolkit.formats import boxed
from toolkit.models.folder import hash_id
from toolkit.networks import folder as torch_folder
from toolkit.objects import boxes as layout
from toolkit.settings import Network, Sampling, Training

NAMES = ("cell", "platelet")
VOCABULARY: Vocabulary = {"class": NAMES}
SIZE = (48, 64)
COLOURS = np.array([[1.0, -1, -1], [-1, 1, -1]])
QUICK = Sampling(sampler="euler", steps=6, guidance=1.0)

Corners = np.ndarray
Flaw = Callable[[Corners, np.ndarray], tuple[Corners, np.ndarray]]
"""(corners (N, 4) in pixels, classes (N,)) -> what the flawed image shows instead."""


def painted(corners: Corners, classes: np.ndarray) -> np.ndarray:
    """The image (3, H, W) that shows these objects."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    image = np.full((3, *SIZE), -1.0)
    for (x0, y0, x1, y1), kind in zip(corners, classes, strict=True):
        inside = ((x - (x0 + x1) / 2) / (x1 - x0) * 2) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0) * 2) ** 2 <= 1
        image[:, inside] = COLOURS[kind][:, None]
    return image


@dataclasses.dataclass(frozen=True)
class Painter:
    """The exact denoiser of two images of equal odds: the one that shows the layout, and the flawed one."""

    flaw: Flaw
    spec: Spec = dataclasses.field(default_factory=lambda: Spec((3, *SIZE), layout.fields(NAMES), sigma_max=20.0))

    def __call__(self, x, sigma, *conds):
        answers = tuple(
            np.stack([self._mean(one, sigma, b, o) for one, b, o in zip(x, cond[BOXES], cond[OBJECTS], strict=True)])
            for cond in conds
        )
        return answers if len(answers) > 1 else answers[0]

    def _mean(self, x, sigma, boxes, objects):
        there = objects < len(NAMES)
        corners = boxes[there] * np.array([SIZE[1], SIZE[0]] * 2)
        right, wrong = painted(corners, objects[there]), painted(*self.flaw(corners, objects[there]))
        odds = (((x - right) ** 2).sum() - ((x - wrong) ** 2).sum()) / (2 * sigma**2)
        part = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        return (1 - part) * right + part * wrong


def colours(images: np.ndarray) -> dict[str, np.ndarray]:
    """The detector: each patch of a colour of a class is an object, which scores 0.9."""
    count, rows, cols = len(images), SIZE[0] // 4, SIZE[1] // 4
    scores, corners = np.zeros((count, len(NAMES), rows, cols)), np.zeros((count, 4, rows, cols))
    for n, image in enumerate(images):
        for kind, colour in enumerate(COLOURS):
            near = (np.abs(image - colour[:, None, None]) < 0.6).all(0)
            for place in ndimage.find_objects(ndimage.label(near)[0]):
                down, across = place
                cell = (down.start + down.stop) // 8, (across.start + across.stop) // 8
                scores[n, kind, *cell] = 0.9
                corners[n, :, *cell] = across.start, down.start, across.stop, down.stop
    return {"scores": scores, "corners": corners}


def world(flaw: Flaw, trained: tuple[str, ...] = (), faithful: dict | None = None, eyes=colours) -> Model:
    run = {"trained_on": [hash_id(name) for name in trained]}
    meta = {
        "format": 1,
        "domain": "detection",
        "labels": {"class": list(NAMES)},
        "spec": dataclasses.asdict(Painter(flaw).spec),
        "parts": {
            "denoiser": {"run": run},
            "detector": {"run": {**run, **({"faithful": faithful} if faithful else {})}},
        },
    }
    return Model(Painter(flaw), Identity(), np.asarray, np.asarray, "numpy", "f" * 64, detector=eyes, meta=meta)


def right(corners, classes):
    return corners, classes


def without_platelets(corners, classes):
    return corners[classes == 0], classes[classes == 0]


def with_one_more(corners, classes):
    return np.concatenate([corners, [[52.0, 36, 62, 46]]]), np.append(classes, 0)


def far_off(corners, classes):
    """Platelets at the other side of the image, above instead of below."""
    moved = np.stack([corners[:, 0], SIZE[0] - corners[:, 3], corners[:, 2], SIZE[0] - corners[:, 1]], 1)
    return np.where((classes == 1)[:, None], moved, corners), classes


def boxes(rng: np.random.Generator) -> Boxes:
    """Two cells and perhaps a platelet, apart from each other and from the corner at the lower right."""
    places = [(2, 2, 16, 16), (22, 4, 36, 18)] + ([(46, 4, 54, 12)] if rng.random() < 0.7 else [])
    moved = np.array(places, float) + rng.integers(0, 3, (len(places), 2)).repeat(2, 0).reshape(-1, 4)[:, [0, 1, 0, 1]]
    return Boxes(moved, ("cell", "cell", "platelet")[: len(places)], SIZE)


def real(root: Path, count: int = 24, unannotated: int = 2, **description) -> Path:
    """A real data set; of some images one cell is not annotated."""
    rng, examples = np.random.default_rng(1), []
    for n in range(count):
        own = boxes(rng)
        image = painted(own.corners, np.array([NAMES.index(name) for name in own.names])).astype(np.float32)
        told = Boxes(own.corners[1:], own.names[1:], SIZE) if n < unannotated else own
        examples.append(Example(f"real{n:02d}", image, Annotation(labels={"class": 0.0}, boxes=told), f"group{n}"))
    dataset.write(examples, root, domain="detection", labels={"class": list(NAMES)}, **description)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return real(tmp_path_factory.mktemp("boxes") / "data")


TRAINED = tuple(f"real{n:02d}" for n in range(12, 24))


@pytest.fixture
def root(tmp_path) -> Path:
    """Where the model's weights would be: what is said of the detector is a hash of its file."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "detector.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def generate(root: Path, model: Model, out: Path, count: int = 8, seed: int = 0, labels=None, **options):
    known = {
        k: options.pop(k, v)
        for k, v in {"like": None, "format": "coco", "far_from": None, "reject_copies": None}.items()
    }
    layouts = LayoutOptions(**options) if options else None
    settings = dataclasses.replace(QUICK, seed=seed)
    request = GenerationRequest(root, out, labels or {}, count, settings, name="made", layouts=layouts, **known)
    return generate_with(model, request, Call())


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------ the world


def test_the_world_is_what_it_says(pictures: Path) -> None:
    model = world(without_platelets)
    for example in dataset.read(pictures):
        found = detect_objects(model, example.image[None])[0]
        assert len(found.classes) >= len(example.annotation.boxes.names)
        assert np.allclose(np.sort(found.scores), 0.9)


# ------------------------------------------------------------------------------------------------------------ the filter


@pytest.mark.parametrize(
    ("flaw", "state", "spare"),
    [(without_platelets, "missed", 0), (with_one_more, "matched", 1), (far_off, "missed", 1)],
)
def test_what_does_not_show_its_layout_is_drawn_again(pictures, root, tmp_path, flaw, state, spare) -> None:
    made = generate(
        root, world(flaw, TRAINED), tmp_path / "out", 12, like=pictures, kind="copy", labels={"class": 1.0}, tries=12
    )
    lines = log(tmp_path / "out")
    assert made.count == 12 and made.draws == len(lines) > 12  # half of the draws have the flaw
    assert made.rejections == {"not faithful": len(lines) - 12}
    for line in lines:
        flawed = (state in line["states"] and state != "matched") or len(line["hallucinated"]) > 0
        assert line["accepted"] is not flawed and (line["error"] > 0) is flawed
        assert len(line["hallucinated"]) == spare * flawed
        assert line["reason"] == ("not faithful" if flawed else "")
    for example in dataset.read(tmp_path / "out"):
        seen = detect_objects(world(flaw), example.image[None])[0]
        assert sorted(seen.classes.tolist()) == sorted(NAMES.index(name) for name in example.annotation.boxes.names)


def test_without_a_filter_flawed_images_stay(pictures, root, tmp_path) -> None:
    made = generate(
        root,
        world(without_platelets, TRAINED),
        tmp_path / "out",
        12,
        like=pictures,
        labels={"class": 1.0},
        filtered=False,
    )
    assert made.draws == made.count == 12 and not made.rejections and not (tmp_path / "out" / LOG).exists()
    shown = [1 in detect_objects(world(right), e.image[None])[0].classes for e in dataset.read(tmp_path / "out")]
    assert 0 < sum(shown) < 12


def test_the_log_accounts_for_every_draw(pictures, root, tmp_path) -> None:
    made = generate(root, world(without_platelets, TRAINED), tmp_path / "out", 10, like=pictures)
    lines = log(tmp_path / "out")
    assert made.draws == len(lines)
    ids = [line["image"] for line in lines if line["accepted"]]
    assert ids == sorted(ids, key=ids.index) and set(ids) == {e.id for e in dataset.read(tmp_path / "out")}
    assert all(line["image"] is None for line in lines if not line["accepted"])
    draws = {}
    for line in lines:
        assert line["draw"] == draws.get(line["place"], 0)  # none left out
        assert line["sample"] == line["draw"] * DRAW_STRIDE + line["place"] and line["layout"] == line["draw"] // 4
        assert len(line["states"]) == len(line["boxes"]) == len(line["classes"]) == len(line["overlap"])
        draws[line["place"]] = line["draw"] + 1
    said = dataset.read_info(tmp_path / "out")["settings"]
    assert said["draws"] == len(lines) and said["filter"]["rejection_rate"] == pytest.approx(
        1 - 10 / len(lines), abs=1e-4
    )
    assert len(said["filter"]["detector"]) == 16 and said["filter"]["quantile"] == 0.75
    one = next(dataset.read(tmp_path / "out"))
    assert one.provenance.kind == "synthetic" and one.provenance.settings["filter"] == said["filter"]


def test_an_image_depends_on_the_seed_and_its_number_alone(pictures, root, tmp_path) -> None:
    for name, count, seed in (("few", 3, 0), ("many", 18, 0), ("other", 3, 1)):
        generate(root, world(without_platelets, TRAINED), tmp_path / name, count, seed, like=pictures)
    few, many, other = (list(dataset.read(tmp_path / name)) for name in ("few", "many", "other"))
    for a, b in zip(few, many, strict=False):
        assert a.id == b.id and np.array_equal(a.image, b.image)
        assert np.array_equal(a.annotation.boxes.corners, b.annotation.boxes.corners)
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(few, other, strict=True))


def test_a_layout_that_never_comes_out_is_replaced_and_others_are_given_up(pictures, root, tmp_path) -> None:
    model = world(without_platelets, TRAINED)
    blind = dataclasses.replace(model, denoiser=_Never(without_platelets))
    made = generate(root, blind, tmp_path / "out", 12, like=pictures, tries=2)
    lines = log(tmp_path / "out")
    passed = [line for line in lines if line["accepted"]]
    assert 0 < len(passed) == made.count < 13
    assert all("platelet" not in line["classes"] for line in passed)
    assert any(line["layout"] > 0 for line in passed)  # for another layout than the first
    given_up = {line["place"] for line in lines} - {line["place"] for line in passed}
    assert sum(line["place"] in given_up for line in lines) == len(given_up) * 2 * 3
    assert dataset.read_info(tmp_path / "out")["settings"]["given_up"] == len(given_up) == 12 - made.count
    if given_up:
        assert f"{len(given_up)} of 12 images given up" in made.notes[-1]
    with pytest.raises(Error, match="none of 24 draws did"):
        generate(root, blind, tmp_path / "none", 4, like=pictures, tries=2, labels={"class": 1.0})
    assert not (tmp_path / "none").exists()


class _Never(Painter):
    """Always the flawed image."""

    def _mean(self, x, sigma, boxes, objects):
        there = objects < len(NAMES)
        return painted(*self.flaw(boxes[there] * np.array([SIZE[1], SIZE[0]] * 2), objects[there]))


@pytest.fixture(scope="module")
def drawn(pictures, tmp_path_factory) -> Path:
    """One run with everything on."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "detector.safetensors").write_bytes(b"weights")
    shifted = dataclasses.replace(world(shifted_cells, TRAINED), denoiser=_Never(shifted_cells))
    generate(folder, shifted, folder / "out", 8, like=pictures, relabel=True, favour_hard=True, kind="sample")
    return folder / "out"


def shifted_cells(corners, classes):
    """Cells two pixels to the left: an overlap of about 3/4."""
    return np.where((classes == 0)[:, None], corners - [[2, 0, 2, 0]], corners), classes


def test_a_box_is_moved_to_where_the_object_is(drawn: Path) -> None:
    moved = [row for line in log(drawn) for row in line["relabelled"]]
    assert moved
    for example in dataset.read(drawn):
        line = next(line for line in log(drawn) if line["image"] == example.id)
        told = example.annotation.boxes.corners
        for row in line["relabelled"]:
            assert row["from"] == line["boxes"][row["box"]]
            assert told[row["box"]] == pytest.approx(row["to"], abs=0.01)
        kept = [n for n in range(len(told)) if n not in {row["box"] for row in line["relabelled"]}]
        assert told[kept] == pytest.approx(np.array(line["boxes"])[kept], abs=0.01)
        assert len(told) == len(line["boxes"])  # nothing is dropped
    left = [row["to"][0] - row["from"][0] for row in moved]
    assert np.median(left) == pytest.approx(-2, abs=0.6)
    said = dataset.read_info(drawn)["settings"]
    assert said["filter"]["relabelled_boxes"] == len(moved) and said["favour_hard"] is True


def test_the_report_says_what_came_of_the_boxes(drawn: Path) -> None:
    page = (drawn / "report.html").read_text()
    for words in (
        "First draws, before the filter",
        "Images that are kept",
        "Real held-out images",
        "Matched by size",
        "at least half",
    ):
        assert words in page
    assert "train a fresh detector" in page  # the filter's own word is no result
    assert page.count("data:image/") >= 8


# --------------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("format", ["coco", "voc", "yolo", "images"])
def test_every_format_is_read_back_with_its_boxes_and_its_mark(pictures, root, tmp_path, format) -> None:
    generate(root, world(right, TRAINED), tmp_path / "out", 4, like=pictures, format=format)
    first = {e.id: e for e in dataset.read(tmp_path / "out")}
    assert len(first) == 4 and dataset.read_info(tmp_path / "out")["synthetic"] is True
    assert all(e.provenance.kind == "synthetic" and e.annotation.boxes.size == SIZE for e in first.values())
    assert all(
        xmp.KEYWORD in (tmp_path / "out" / "images" / f"{name}.png").read_bytes().decode("latin-1") for name in first
    )
    if format == "images":
        return
    again = {e.id: e for e in boxed.read(tmp_path / "out", format)}
    assert set(again) == set(first)
    for name, example in again.items():
        told = first[name].annotation.boxes
        assert example.image.shape == (3, *SIZE) and np.abs(example.image - first[name].image).max() < 0.01
        assert example.annotation.boxes.names == told.names
        assert example.annotation.boxes.corners == pytest.approx(told.corners, abs=0.51 if format == "voc" else 1e-3)
        assert example.provenance is not None and example.provenance.kind == "synthetic"


def test_the_label_of_an_image_is_its_rarest_class(pictures, root, tmp_path) -> None:
    generate(root, world(right, TRAINED), tmp_path / "out", 8, like=pictures)
    told = list(dataset.read(tmp_path / "out"))
    assert {e.annotation.labels["class"] for e in told} == {0.0, 1.0}
    assert all(e.annotation.labels["class"] == ("platelet" in e.annotation.boxes.names) for e in told)


# ------------------------------------------------------------------------------------------- layouts, and what is chosen


def test_layouts_are_those_that_the_model_was_trained_on(pictures) -> None:
    known = source(pictures, TRAINED)
    assert len(known.real) == 12 and "12 that the model was trained on" in known.origin
    assert len(source(pictures, ()).real) == 24 and "all 24" in source(pictures, ()).origin


def source(pictures, trained: tuple[str, ...], kind: str = "copy", wanted=None, hard=None):
    from diffgraft.generation.layouts import source as layout_source

    return layout_source.layout_source(world(right, trained).meta, pictures, kind, 0, NAMES, wanted, hard, (True, True))


@pytest.mark.parametrize("kind", ["copy", "jitter", "recombine", "sample"])
def test_a_class_that_is_asked_for_is_in_every_layout(pictures, kind) -> None:
    plain, asked = (source(pictures, TRAINED, kind, wanted) for wanted in (None, "platelet"))
    held = ["platelet" in plain(place, 0).names for place in range(20)]
    assert 0 < sum(held) < 20
    assert all("platelet" in asked(place, attempt).names for place in range(20) for attempt in (0, 1))


def test_another_attempt_is_another_layout(pictures) -> None:
    known = source(pictures, TRAINED, "recombine")
    a, b, again = known(3, 0), known(3, 1), known(3, 0)
    assert np.array_equal(a.corners, again.corners)
    assert a.corners.shape != b.corners.shape or not np.array_equal(a.corners, b.corners)


def test_hard_layouts_are_asked_for_more_often(pictures) -> None:
    def blind(images):  # to every other platelet and more
        dense = colours(images)
        dense["scores"][::2, 1] = 0
        return dense

    judge = calibrate_filter(world(right, TRAINED, eyes=blind), NAMES, pictures, None, 0.75)
    counts = judge.calibration.counts
    assert counts.matched[1].sum() < counts.asked[1].sum()
    plain, hard = (source(pictures, TRAINED, "copy", hard=h) for h in (None, counts))
    shares = [np.mean(["platelet" in known(place, 0).names for place in range(200)]) for known in (plain, hard)]
    # Of two layouts the one with a platelet: 1 - (1 - p)^2.
    assert shares[1] == pytest.approx(1 - (1 - shares[0]) ** 2, abs=0.06) and shares[1] > shares[0] + 0.05


def test_the_best_part_of_what_passed_is_kept(pictures, root, tmp_path) -> None:
    def unsure(images):  # scores from 0.6 to 0.9, an image as much as its pixels say
        dense = colours(images)
        part = np.array([(image > 0).sum() % 7 / 6 for image in images])
        dense["scores"] *= (1 - part / 3)[:, None, None, None]
        return dense

    made = generate(
        root, world(right, TRAINED, eyes=unsure), tmp_path / "out", 4, like=pictures, keep=0.5, quantile=0.9
    )
    lines = log(tmp_path / "out")
    kept = [line["confidence"] for line in lines if line["accepted"]]
    others = [line["confidence"] for line in lines if line["reason"] == "not among the best"]
    assert made.count == len(kept) == len(others) == 4 and min(kept) >= max(others) and max(kept) > min(others)
    assert made.rejections["not among the best"] == 4


# ------------------------------------------------------------------------------------- the limit, and what is refused


def test_the_limit_is_measured_on_real_images_that_the_detector_has_not_seen(pictures, tmp_path) -> None:
    model = world(right, TRAINED)
    judge = calibrate_filter(model, NAMES, None, pictures, 0.9)
    assert isinstance(judge, LayoutFilter) and judge.measured_on == f"12 held-out images of {pictures}"
    # Two of twelve real images have a cell that is not annotated, one of two: 0.5 of the cells, and half of that with a platelet.
    assert judge.calibration.counts.images == 12 and judge.calibration.counts.hallucinated.sum() == 2
    assert 0 < judge.limit <= 0.5 and calibrate_filter(model, NAMES, None, pictures, 0.75).limit == 0
    other = real(tmp_path / "other", 9, 0)
    assert calibrate_filter(world(right, ()), NAMES, other, pictures, 0.9).measured_on.startswith("9 held-out")
    stored = world(right, tuple(f"real{n:02d}" for n in range(24)), judge.calibration.to_json())
    kept = calibrate_filter(stored, NAMES, None, pictures, 0.9)
    assert kept.measured_on == "12 images held out at training" and kept.limit == pytest.approx(judge.limit, abs=1e-5)
    assert stored_calibration(stored) is not None and stored_calibration(model) is None


def test_nothing_to_measure_on_is_refused(pictures) -> None:
    model = world(right, tuple(f"real{n:02d}" for n in range(24)))
    with pytest.raises(Error, match="--check DATA, or leave the filter out: --no-filter"):
        calibrate_filter(model, NAMES, None, pictures, 0.75)
    with pytest.raises(Error, match="found 0"):
        calibrate_filter(model, NAMES, pictures, None, 0.75)
    silent = dataclasses.replace(model, meta={**model.meta, "parts": {"denoiser": {}, "detector": {"run": {}}}})
    with pytest.raises(Error, match="record of training"):
        calibrate_filter(silent, NAMES, pictures, None, 0.75)
    with pytest.raises(Error, match="Train one"):
        calibrate_filter(dataclasses.replace(model, detector=None), NAMES, pictures, None, 0.75)


def test_a_model_without_a_detector_makes_images_that_nothing_looked_at(pictures, root, tmp_path) -> None:
    plain = dataclasses.replace(world(without_platelets, TRAINED), detector=None)
    made = generate(root, plain, tmp_path / "out", 4, like=pictures)
    assert made.count == made.draws == 4 and dataset.read_info(tmp_path / "out")["settings"]["filter"] is None
    assert not (tmp_path / "out" / LOG).exists()
    for option in ({"filtered": True}, {"relabel": True}, {"favour_hard": True}, {"keep": 0.5}, {"check": pictures}):
        with pytest.raises(Error, match="detector"):
            generate(root, plain, tmp_path / "no", 4, like=pictures, **option)
    assert not (tmp_path / "no").exists()


def test_a_model_keeps_layouts_of_its_own(pictures, root, tmp_path) -> None:
    model = world(right, TRAINED)
    with pytest.raises(Error, match="this model keeps none"):
        generate(root, model, tmp_path / "no", 2, check=pictures)
    typical = detection.training_summary(list(dataset.read(pictures)))
    own = dataclasses.replace(model, meta={**model.meta, "typical": typical})
    generate(root, own, tmp_path / "out", 2, check=pictures)
    assert dataset.read_info(tmp_path / "out")["settings"]["layouts_of"] == "the model"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "guess"}, "found 'guess'"),
        ({"tries": 0}, "--tries 0"),
        ({"keep": 0.0}, "--keep 0"),
        ({"keep": 1.5}, "--keep 1.5"),
        ({"quantile": 0.8}, "found 0.8"),
    ],
)
def test_settings_that_make_no_sense_are_refused(pictures, root, tmp_path, options, says) -> None:
    with pytest.raises(Error, match=says):
        generate(root, world(right, TRAINED), tmp_path / "out", 2, like=pictures, **options)
    assert not (tmp_path / "out").exists()


def test_other_classes_and_other_shapes_are_refused(root, tmp_path) -> None:
    rng = np.random.default_rng(0)
    wide = np.full((3, 48, 90), -1.0, np.float32)
    for name, image, told in (
        ("other", wide[:, :, :64], Boxes(np.array([[1.0, 1, 9, 9]]), ("weed",), SIZE)),
        ("wide", wide, Boxes(np.array([[1.0, 1, 9, 9]]), ("cell",), (48, 90))),
        ("plain", wide[:, :, :64], None),
    ):
        dataset.write([Example("a", image, Annotation(boxes=told), "a")], tmp_path / name, domain="detection")
    model = world(right, TRAINED, measured_on(rng))
    for name, says in (("other", "has 'weed'"), ("wide", "--size 64x48"), ("plain", "has none")):
        with pytest.raises(Error, match=says):
            generate(root, model, tmp_path / "out", 2, like=tmp_path / name)


def measured_on(rng) -> dict:
    """What training would have kept, of eight images."""
    from toolkit.evaluation.detection.metrics import as_truth
    from toolkit.methods import faithfulness

    told = [boxes(rng) for _ in range(8)]
    found = detect_objects(world(right), np.stack([painted(b.corners, as_truth(b, NAMES).classes) for b in told]))
    return faithfulness.calibrate([as_truth(b, NAMES) for b in told], found, NAMES).to_json()


def test_layouts_that_a_model_cannot_draw_are_left_out_with_a_note(tmp_path) -> None:
    many = Boxes(np.tile([[1.0, 1, 9, 9]], (layout.MOST + 1, 1)), ("cell",) * (layout.MOST + 1), SIZE)
    few = Boxes(np.array([[1.0, 1, 9, 9]]), ("cell",), SIZE)
    none = Boxes(np.zeros((0, 4)), (), SIZE)
    image = np.full((3, *SIZE), -1.0, np.float32)
    rows = [Example(f"s{n}", image, Annotation(boxes=b), f"s{n}") for n, b in enumerate((many, few, none))]
    dataset.write(rows, tmp_path / "data", domain="detection")
    with pytest.warns(Note, match="2 of 3 layouts"):
        assert source(tmp_path / "data", ())(0, 0).names == ("cell",)
    with pytest.warns(Note), pytest.raises(Error, match="holds a platelet"):
        source(tmp_path / "data", (), wanted="platelet")


def test_options_for_labels_and_options_for_layouts_do_not_mix(tmp_path) -> None:
    from domains import brain_mri

    part = {"network": Network((8, 16), norm_groups=4, attention_head_dim=8), "parameterisation": "edm"}
    meta = {
        "format": 1,
        "domain": "brain_mri",
        "spec": Spec((1, 16, 16), brain_mri.FIELDS),
        "parts": {"denoiser": part},
    }
    meta = json.loads(json.dumps(meta, default=dataclasses.asdict))
    torch_folder.save_part(tmp_path / "brain", "denoiser", torch_folder.build("denoiser", meta).state_dict(), meta)
    with pytest.raises(Error, match="told boxes"):
        run(tmp_path / "brain", tmp_path / "out", {}, 2, layouts=LayoutOptions())
    found = CliRunner().invoke(app, ["generate", str(tmp_path / "brain"), str(tmp_path / "out"), "--layout", "copy"])
    assert isinstance(found.exception, Error) and "told boxes" in str(found.exception)
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------- a trained model


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A data set, and a model that has learned little of it in little time: a detector and a denoiser of pixels."""
    from diffgraft.training.train import train

    folder = tmp_path_factory.mktemp("trained")
    pictures = real(folder / "data", 60, 0)
    presets = {
        "detector": {"small": (Network((12, 16, 16), norm_groups=4), Training(60, 8, 4e-3, warmup=5, ema=0.9, fold=0))},
        "denoiser": {
            "small": (
                Network((8, 16), norm_groups=4, attention=1, attention_head_dim=8),
                Training(12, 8, 2e-3, warmup=2, fold=0),
            )
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "PRESETS", presets)
        for part in presets:
            train(detection, pictures, folder / "model", part)
    return pictures, folder / "model"


@pytest.mark.slow
def test_training_keeps_what_the_filter_goes_by(trained) -> None:
    pictures, root = trained
    model = torch_folder.open(root, "cpu")
    stored = stored_calibration(model)
    assert stored is not None
    again = calibrate_filter(model, NAMES, pictures, None, 0.75)
    assert (
        again.calibration.counts.images
        == stored.counts.images
        == sum(e.group != "" and dataset.fold_of(e.group) == 0 for e in dataset.read(pictures))
    )
    assert np.abs(again.calibration.thresholds - stored.thresholds).max() < 1e-3
    assert again.limit == pytest.approx(stored.limit(0.75), abs=1e-3)


@pytest.mark.slow
def test_the_command_line_makes_images_of_the_models_own_layouts_on_every_backend(trained, tmp_path) -> None:
    from diffgraft.deployment.export import export

    _, root = trained
    export(root)
    for backend in ("torch", "onnx"):
        words = [
            "generate",
            str(root),
            str(tmp_path / backend),
            "-n",
            "3",
            "--steps",
            "3",
            "--no-filter",
            "--format",
            "yolo",
        ]
        found = CliRunner().invoke(app, [*words, "--backend", backend, "--layout", "jitter", "--set", "class=platelet"])
        assert found.exit_code == 0, found.output
    a, b = (list(dataset.read(tmp_path / backend)) for backend in ("torch", "onnx"))
    for one, other in zip(a, b, strict=True):
        assert np.array_equal(one.annotation.boxes.corners, other.annotation.boxes.corners)
        assert "platelet" in one.annotation.boxes.names and np.abs(one.image - other.image).max() < 0.05
    hopeless = CliRunner().invoke(
        app, ["generate", str(root), str(tmp_path / "no"), "-n", "2", "--steps", "2", "--tries", "1"]
    )
    assert isinstance(hopeless.exception, Error) and "none of 6 draws did" in str(hopeless.exception)
