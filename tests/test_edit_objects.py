"""Objects drawn into real pictures: by a model that is known exactly, where the boxes say, and nothing else is touched."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffgraft.editing.edit import edit_with
from diffgraft.requests import EditRequest
from diffgraft.requests.verb import Call
from toolkit.data import dataset
from toolkit.diffusion.model import BOXES, OBJECTS, Identity, Model, Spec
from toolkit.example import Annotation, Boxes, Error, Example, Note
from toolkit.formats import voc
from toolkit.methods.object_drawing import Window, crop_to_model, group_windows
from toolkit.objects import boxes as layout
from toolkit.objects import layout_summary
from toolkit.settings import Sampling

NAMES = ("a", "b")
SIZE = (24, 32)
GROUND, COLOURS = 0.4, {"a": -0.5, "b": 0.9}
VOCABULARY = {"class": NAMES}
STEPS = Sampling(sampler="dpmpp_2m", steps=6)


def _world(boxes: Boxes | None, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(3, H, W) a flat ground with a flat rectangle in each box."""
    image = np.full((3, *size), GROUND, np.float32)
    for (x0, y0, x1, y1), name in zip(boxes.corners, boxes.names, strict=True) if boxes is not None else ():
        image[:, round(y0) : round(y1), round(x0) : round(x1)] = COLOURS[name]
    return image


class _Known:
    """The denoiser of images that are their layout's rectangles and Gaussian noise of standard deviation 0.1."""

    spec = Spec((3, *SIZE), layout.fields(NAMES), sigma_max=20.0)

    def __init__(self) -> None:
        self.told: list[Boxes] = []

    def __call__(self, x: np.ndarray, sigma: float, *conds: dict[str, np.ndarray]) -> Any:
        answers = []
        for cond in conds:
            means = []
            for corners, objects in zip(cond[BOXES], cond[OBJECTS], strict=True):
                there = objects < len(NAMES)
                pixels = corners[there] * np.array([SIZE[1], SIZE[0]] * 2)
                boxes = Boxes(pixels, tuple(NAMES[k] for k in objects[there]), SIZE)
                self.told.append(boxes)
                means.append(_world(boxes))
            mean = np.stack(means)
            answers.append((mean + 0.01 / (0.01 + sigma**2) * (x - mean)).astype(np.float32))
        return tuple(answers) if len(answers) > 1 else answers[0]


def _model(**meta: Any) -> tuple[Model, _Known]:
    known = _Known()
    typical = {"smallest": {"a": [4.0, 4.0], "b": [4.0, 4.0]}}
    about = {"domain": "detection", "labels": {"class": list(NAMES)}, "image_shape": [3, *SIZE], "typical": typical}
    spec = {"spec": {"shape": [3, *SIZE]}, "parts": {"denoiser": {}}}
    return Model(known, Identity(), np.asarray, np.asarray, "numpy", "f" * 64, meta={**about, **spec, **meta}), known


def _edit(model: Model, source: Path, out: Path, objects: list[str], boxes: list[str] | None = None, **options: Any):
    given = {"settings": STEPS, "format": "images", **options}
    request = EditRequest(Path("model"), source, out, objects=objects, boxes=boxes or [], **given)
    return edit_with(model, request, Call())


def _picture(root: Path, size: tuple[int, int], boxes: Boxes | None, name: str = "one") -> Path:
    """A data set of one noisy picture of 8 bits."""
    noise = np.random.default_rng(0).integers(-12, 13, (3, *size))
    levels = np.rint((_world(boxes, size) + 1) * 127.5) + noise
    image = (np.clip(levels, 0, 255) * (2 / 255) - 1).astype(np.float32)
    example = Example(name, image, Annotation(labels={"class": 0.0}, boxes=boxes), "g1")
    dataset.write([example], root, domain="detection", labels={"class": list(NAMES)})
    return root


def _png(folder: Path) -> np.ndarray:
    (path,) = (folder / "images").iterdir()
    with Image.open(path) as file:
        return np.asarray(file).astype(int)


def test_an_object_is_drawn_in_its_box_and_nothing_outside_of_it_changes(tmp_path) -> None:
    there = Boxes(np.array([[2.0, 2, 10, 10], [20, 4, 28, 12]]), ("a", "b"), SIZE)
    model, known = _model()
    result = _edit(model, _picture(tmp_path / "in", SIZE, there), tmp_path / "out", ["b=4,14,14,22"])
    before, after = _png(tmp_path / "in"), _png(tmp_path / "out")
    inside = np.zeros(SIZE, bool)
    inside[14:22, 4:14] = True
    assert (before == after)[~inside].all() and result.differing == 0
    wanted = (COLOURS["b"] + 1) * 127.5
    assert abs(after[16:20, 6:12].mean() - wanted) < 20 and abs(before[16:20, 6:12].mean() - wanted) > 50
    (example,) = dataset.read(tmp_path / "out")
    boxes = example.annotation.boxes
    assert boxes.names == ("a", "b", "b") and boxes.corners.tolist() == [*there.corners.tolist(), [4, 14, 14, 22]]
    assert example.annotation.labels == {"class": 0.0} and example.group == "g1"  # the rarest is "a"
    mark = example.provenance
    assert mark.kind == "edited" and mark.source == "one" and mark.settings["objects"] == [["b", 4, 14, 14, 22]]
    assert sorted(known.told[0].names) == ["a", "b", "b"]  # the model was told what is there
    assert (
        result.outside == 0 and result.objects == 1 and result.removed == 0
    )  # a model of pixels keeps what it is given
    assert example.id == "one-inpaint0" and (tmp_path / "out" / "report.html").is_file()


class _Lossy:
    """A codec that answers everything a little darker."""

    def encode(self, image: np.ndarray, /) -> np.ndarray:
        return image

    def decode(self, latent: np.ndarray, /) -> np.ndarray:
        return latent - 0.1


def test_what_a_codec_loses_outside_of_the_boxes_is_measured_and_not_in_the_file(tmp_path) -> None:
    model, _ = _model()
    source = _picture(tmp_path / "in", SIZE, Boxes(np.zeros((0, 4)), (), SIZE))
    result = _edit(dataclasses.replace(model, codec=_Lossy()), source, tmp_path / "out", ["b=4,14,14,22"])
    assert result.outside == pytest.approx(0.1 * 127.5, rel=0.02) and result.differing == 0
    assert (_png(source) == _png(tmp_path / "out"))[:13].all()


def test_what_is_covered_goes_whole_and_what_is_mostly_seen_stays(tmp_path) -> None:
    there = Boxes(np.array([[4.0, 4, 18, 9], [8, 12, 20, 20]]), ("a", "a"), SIZE)
    model, known = _model()
    source = _picture(tmp_path / "in", SIZE, there)
    _edit(model, source, tmp_path / "out", ["b=3,3,12,14"])
    (example,) = dataset.read(tmp_path / "out")
    rest = _png(tmp_path / "out")[5:8, 14:17]  # of the first one, outside of the new box
    assert (
        abs(rest.mean() - (GROUND + 1) * 127.5) < 20
        and abs(_png(source)[5:8, 14:17].mean() - (GROUND + 1) * 127.5) > 50
    )
    inside = np.zeros(SIZE, bool)
    inside[2:11, 2:20] = inside[3:14, 3:12] = True  # the new box, and a rim of two pixels around the old one
    assert (_png(source) == _png(tmp_path / "out"))[~inside].all()
    assert example.annotation.boxes.corners.tolist() == [[8, 12, 20, 20], [3, 3, 12, 14]]
    assert example.provenance.settings["boxes_removed"] == 1
    emptied = _edit(model, source, tmp_path / "gone", [], ["3,3,15,10"])
    (example,) = dataset.read(tmp_path / "gone")
    assert example.annotation.boxes.names == ("a",) and emptied.objects == 0 and emptied.removed == 1
    assert abs(_png(tmp_path / "gone")[5:9, 5:9].mean() - (GROUND + 1) * 127.5) < 20
    assert known.told[-1].names in ((), ("a",))


def test_a_larger_picture_keeps_its_size_and_its_pixels(tmp_path) -> None:
    size = (96, 128)  # four times the model's
    there = Boxes(np.array([[10.0, 10, 42, 42]]), ("a",), size)
    model, known = _model()
    result = _edit(model, _picture(tmp_path / "in", size, there), tmp_path / "out", ["b=61,37,101,73"])
    before, after = _png(tmp_path / "in"), _png(tmp_path / "out")
    assert after.shape == (*size, 3)
    inside = np.zeros(size, bool)
    inside[37:73, 61:101] = True
    assert (before == after)[~inside].all() and (before != after)[45:65, 70:92].any(2).all()
    assert abs(after[45:65, 70:92].mean() - (COLOURS["b"] + 1) * 127.5) < 20
    assert np.allclose(known.told[0].corners, [[2.5, 2.5, 10.5, 10.5], [15.25, 9.25, 25.25, 18.25]])
    assert result.differing == 0


def test_in_windows_the_model_sees_objects_at_its_own_scale(tmp_path) -> None:
    size = (96, 128)
    there = Boxes(np.array([[10.0, 10, 20, 20]]), ("a",), size)
    model, known = _model()
    source = _picture(tmp_path / "in", size, there)
    result = _edit(model, source, tmp_path / "out", ["b=22,20,30,28", "b=8,20,16,28", "a=100,70,110,80"], crop=32)
    (example,) = dataset.read(tmp_path / "out")
    assert len(example.provenance.settings["windows"]) == 2  # the first two boxes share one
    assert example.annotation.boxes.names == ("a", "b", "b", "a") and result.differing == 0
    changed = (_png(tmp_path / "in") != _png(tmp_path / "out")).any(2)
    for x0, y0, x1, y1 in ((22, 20, 30, 28), (8, 20, 16, 28), (100, 70, 110, 80)):
        assert changed[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].all()
    assert any(np.allclose(b.corners[-1], [11, 7, 21, 17]) for b in known.told if b.names == ("a",))  # in the middle
    with pytest.raises(Error, match="a box is at most 24 x 18"):
        _edit(model, source, tmp_path / "other", ["b=20,20,60,28"], crop=32)
    with pytest.raises(Error, match="window lies in its picture"):
        _edit(model, source, tmp_path / "other", ["b=20,20,30,28"], crop=200)


def test_a_window_is_the_picture_there_and_back() -> None:
    window = Window(8, 16, 48, 64, SIZE, [0])
    corners = np.array([[20.0, 10, 40, 30]])
    assert np.allclose(window.to_model(corners), [[2, 1, 12, 11]])
    told = window.visible_boxes(Boxes(np.array([[20.0, 10, 40, 30], [0, 0, 18, 10]]), NAMES, (96, 128)), 0.3)
    assert told.names == ("a",) and np.allclose(told.corners, [[2, 1, 12, 11]]) and told.size == SIZE
    smooth = np.tile(np.linspace(-1, 1, 128, dtype=np.float32), (3, 96, 1))
    seen = crop_to_model(smooth, window)
    assert seen.shape == (3, *SIZE)
    assert np.abs(window.to_picture(seen) - smooth[:, 8:56, 16:80])[:, 4:-4, 4:-4].max() < 0.02


@pytest.mark.parametrize("shape", [(100, 100), (96, 200)])
def test_a_picture_of_another_aspect_is_seen_whole(shape: tuple[int, int]) -> None:
    (window,) = group_windows(np.array([[10.0, 10, 30, 30]]), shape, SIZE, None)
    corners = np.array([[0.0, 0, shape[1], shape[0]]])
    moved = window.to_model(corners)[0]
    assert (moved >= -1e-9).all() and moved[2] <= SIZE[1] + 1e-9 and moved[3] <= SIZE[0] + 1e-9
    assert (moved[2] - moved[0]) / (moved[3] - moved[1]) == pytest.approx(shape[1] / shape[0], rel=0.05)
    assert window.to_picture(np.zeros((3, *SIZE), np.float32)).shape == (3, *shape)


@pytest.mark.parametrize(
    ("objects", "boxes", "says"),
    [
        (["c=1,1,9,9"], [], "a class that the model knows, a, b; found 'c=1,1,9,9'"),
        (["1,1,9,9"], [], "An object is CLASS=x0,y0,x1,y1"),
        (["a=9,1,1,9"], [], "0 <= x0 < x1"),
        ([], [], "found none. Name them"),
        (["a=10,10,40,20"], [], "inside its image, 32 x 24 pixels"),
        (["a=10,10,12,20"], [], "smallest box of a .* 4 x 4 pixels; found 2 x 10"),
        ([], ["10,10,40,20"], "inside its image"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path, objects, boxes, says) -> None:
    model, _ = _model()
    source = _picture(tmp_path / "in", SIZE, Boxes(np.zeros((0, 4)), (), SIZE))
    with pytest.raises(Error, match=says) as told:
        _edit(model, source, tmp_path / "out", objects, boxes)
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()


def test_one_picture_that_cannot_be_edited_is_put_aside_and_the_others_are_edited(tmp_path) -> None:
    model, _ = _model()
    good = next(iter(dataset.read(_picture(tmp_path / "a", (48, 64), Boxes(np.zeros((0, 4)), (), (48, 64))))))
    small = dataclasses.replace(
        good, id="small", image=good.image[:, :24, :32], annotation=Annotation(boxes=Boxes(np.zeros((0, 4)), (), SIZE))
    )
    dataset.write([small, good], tmp_path / "in", domain="detection", labels={"class": list(NAMES)})
    result = _edit(model, tmp_path / "in", tmp_path / "out", ["a=40,30,60,44"], variants=2)
    assert [e.id for e in dataset.read(tmp_path / "out")] == ["one-inpaint0", "one-inpaint0-1"]
    assert result.aside[0][0] == "small" and "inside its image" in result.aside[0][1]
    assert "small" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    first, second = (e.image for e in dataset.read(tmp_path / "out"))
    assert (first != second).any()  # another draw of the noise


def test_boxes_nearer_than_real_ones_are_told_of(tmp_path) -> None:
    real = [Boxes(np.array([[2.0, 2, 10, 10], [14, 2, 22, 10]]), ("a", "b"), SIZE)] * 3
    typical = {"smallest": {}, "layouts": layout_summary.to_summary(real)}
    model, _ = _model(typical=typical)
    source = _picture(tmp_path / "in", SIZE, Boxes(np.zeros((0, 4)), (), SIZE))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", Note)
        _edit(model, source, tmp_path / "out", ["a=4,4,14,14", "b=6,6,16,16"])
    said = [str(note.message) for note in told]
    assert said == [
        f"{box} overlaps another box more than real objects do." for box in ("a at 4,4,14,14", "b at 6,6,16,16")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _edit(model, source, tmp_path / "apart", ["a=2,4,12,14", "b=20,6,30,16"])


def test_a_file_finds_the_boxes_beside_it_and_one_without_is_told_of(tmp_path) -> None:
    there = Boxes(np.array([[2.0, 2, 10, 10]]), ("a",), SIZE)
    example = next(iter(dataset.read(_picture(tmp_path / "in", SIZE, there))))
    voc.write([example], tmp_path / "voc", NAMES)
    (path,) = (tmp_path / "voc").rglob("*.png")
    model, known = _model()
    _edit(model, path, tmp_path / "out", ["b=20,12,30,22"], format="voc")
    (made,) = dataset.read(tmp_path / "out")
    assert made.annotation.boxes.names == ("a", "b") and known.told[0].names == ("a", "b")
    (again,) = voc.read(tmp_path / "out")
    assert again.annotation.boxes.names == ("a", "b") and again.provenance.kind == "edited"
    (tmp_path / "alone").mkdir()
    Image.fromarray(_png(tmp_path / "in").astype(np.uint8)).save(tmp_path / "alone" / "cell 1.png")
    with pytest.warns(Note, match="has no annotation"):
        _edit(model, tmp_path / "alone" / "cell 1.png", tmp_path / "bare", ["b=20,12,30,22"])
    (made,) = dataset.read(tmp_path / "bare")
    assert made.annotation.boxes.names == ("b",) and made.provenance.settings["annotated"] == "the new objects alone"


def test_pictures_are_chosen_by_what_they_show(tmp_path) -> None:
    model, _ = _model()
    with_a = next(iter(dataset.read(_picture(tmp_path / "a", SIZE, Boxes(np.array([[2.0, 2, 10, 10]]), ("a",), SIZE)))))
    empty = dataclasses.replace(with_a, id="empty", annotation=Annotation(boxes=Boxes(np.zeros((0, 4)), (), SIZE)))
    dataset.write([empty, with_a], tmp_path / "in", domain="detection", labels={"class": list(NAMES)})
    result = _edit(model, tmp_path / "in", tmp_path / "out", ["b=20,12,30,22"], where=["class=a"])
    assert result.count == 1
    with pytest.raises(Error, match="has none with b"):
        _edit(model, tmp_path / "in", tmp_path / "none", ["b=20,12,30,22"], where=["class=b"])


def _folder(root: Path) -> Path:
    """A model folder with a denoiser that was not trained."""
    import torch

    from toolkit.networks import folder

    meta = {
        "format": 1, "domain": "detection", "labels": {"class": list(NAMES)},
        "spec": {
            "shape": [3, *SIZE], "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "initial_variance": 0.0,
            "fields": {k: dataclasses.asdict(f) for k, f in layout.fields(NAMES).items()},
        },
        "parts": {
            "denoiser": {
                "parameterisation": "edm",
                "network": {"channels": [8, 8], "layers": 1, "attention": 1, "attention_head_dim": 8, "norm_groups": 4, "dropout": 0.0},
            }
        },
    }  # fmt: skip
    torch.manual_seed(0)
    folder.save_part(root, "denoiser", folder.build("denoiser", meta).state_dict(), meta)
    return root


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    from diffgraft.cli import main as cli

    model = _folder(tmp_path / "model")
    source = _picture(tmp_path / "in", SIZE, Boxes(np.array([[2.0, 2, 10, 10]]), ("a",), SIZE))
    words = [
        "edit",
        model,
        source,
        tmp_path / "out",
        "--object",
        "b=0.5,0.5,0.9,0.9",
        "--steps",
        "2",
        "--format",
        "coco",
    ]
    monkeypatch.setattr("sys.argv", ["diffgraft", *map(str, words)])
    cli.main()
    said = capsys.readouterr().out
    assert "1 objects drawn" in said and "elsewhere that differ from the source: 0" in said
    told = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [a["category_id"] for a in told["annotations"]] == [1, 2] and told["images"][0]["synthetic"]
    monkeypatch.setattr("sys.argv", ["diffgraft", *map(str, words[:3]), str(tmp_path / "no"), "--set", "class=a"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--object CLASS=x0,y0,x1,y1" in capsys.readouterr().err
