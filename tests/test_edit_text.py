"""Films edited by words: what is asked of the model, where it changes, the way back to the file, and what is measured."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from worlds import Mixture, two_classes

from diffgraft import models
from diffgraft.editing import region as edit_region
from diffgraft.editing.edit import edit
from diffgraft.editing.procedures import PROCEDURES
from diffgraft.preparation.prepare import prepare
from domains import chest_xray
from domains.chest_xray import VOCABULARY, edit_prompts
from toolkit.data import dataset, labels, xmp
from toolkit.diffusion.model import TEXT, Field, Identity, Model, Spec
from toolkit.diffusion.schedule import clock_from_config
from toolkit.example import Annotation, Error
from toolkit.formats.dicom.film import read_film
from toolkit.formats.films import apply_curve, central_square
from toolkit.language import report as report_text
from toolkit.language import tokenizer
from toolkit.methods import da_fusion, guided, local_edit, text_edit
from toolkit.methods.guided import Run, Walk
from toolkit.methods.local_edit import LocalEdit
from toolkit.models.folder import clock_of
from toolkit.networks import folder
from toolkit.settings import Sampling

SIDE, TOKENS, WIDTH = 32, 77, 16
QUICK = Sampling("euler", 3, guidance=2.0)


def asked(*words: str) -> Annotation:
    return chest_xray.parse_prompt(words, VOCABULARY)


def known(annotation: Annotation) -> dict[str, str]:
    return labels.spell(VOCABULARY, annotation.labels)


# ------------------------------------------------------------------------------------------------- what the model is told


NORMAL = asked("view=PA", "sex=M", "age=60", "normal=present")
TREATED = Annotation(
    text := "AP film. Left lower lobe consolidation and a left pleural effusion. Central venous line.",
    chest_xray.infer_labels(chest_xray.labels_from_text(text), VOCABULARY),
)


@pytest.mark.parametrize("words", ["right pleural effusion", "cardiomegaly", "bilateral opacities, no pneumothorax"])
def test_a_finding_comes_and_view_and_patient_stay(words: str) -> None:
    stated, wanted = edit_prompts(NORMAL, asked(f"text={words}"), VOCABULARY)
    said = known(wanted)
    assert (said["view"], said["sex"], said["age"], said["film"]) == ("PA", "M", "60", "PA abnormal")
    assert said["normal"] == "absent"
    for name, value in report_text.findings(words).items():
        assert wanted.labels[name] == value
    # both texts say the view in the same words, and differ by what was asked for
    assert report_text.view(stated.text or "") == report_text.view(wanted.text or "") == "PA"
    assert (wanted.text or "").endswith(words) and report_text.findings(stated.text or "")["normal"] == 1
    start = (stated.text or "").partition(".")[0]
    assert (wanted.text or "").startswith(start)


def test_other_findings_are_kept_in_labels_and_in_words_with_their_side() -> None:
    _, wanted = edit_prompts(TREATED, asked("text=right pneumothorax"), VOCABULARY)
    said = report_text.statements(wanted.text or "")
    assert {(s.finding, s.side) for s in said if s.status == "present"} >= {
        ("consolidation", "left"), ("effusion", "left"), ("pneumothorax", "right"),
    }  # fmt: skip
    assert "central venous" in (wanted.text or "")
    assert all(known(wanted)[name] == "present" for name in ("consolidation", "opacity", "effusion", "device"))


def test_the_same_finding_on_the_other_side_is_on_both_and_on_the_same_side_is_said_once() -> None:
    _, both = edit_prompts(TREATED, asked("text=right pleural effusion"), VOCABULARY)
    assert {s.side for s in report_text.statements(both.text or "") if s.finding == "effusion"} == {"left", "right"}
    _, same = edit_prompts(TREATED, asked("text=large left effusion"), VOCABULARY)
    assert len([s for s in report_text.statements(same.text or "") if s.finding == "effusion"]) == 1


def test_a_finding_that_goes_takes_along_what_followed_from_it_and_leaves_no_false_normal() -> None:
    _, wanted = edit_prompts(TREATED, asked("text=no consolidation"), VOCABULARY)
    said = known(wanted)
    assert said["consolidation"] == "absent" and "opacity" not in said and said["effusion"] == "present"
    assert said["film"] == "AP abnormal"
    ill = Annotation(None, chest_xray.infer_labels({"view": 1.0, "effusion": 1.0, "normal": 0.0}, VOCABULARY))
    _, gone = edit_prompts(ill, asked("text=no effusion"), VOCABULARY)
    assert "normal" not in known(gone) and "film" not in known(gone), "nobody said that this was all"


@pytest.mark.parametrize("words", ["text=normal chest radiograph", "normal=present", "film=AP normal"])
def test_a_film_that_becomes_normal_has_nothing(words: str) -> None:
    _, wanted = edit_prompts(TREATED, asked(words), VOCABULARY)
    assert known(wanted)["film"] == "AP normal" and known(wanted)["effusion"] == "absent"
    assert report_text.findings(wanted.text or "")["normal"] == 1
    assert not [s for s in report_text.statements(wanted.text or "") if s.status == "present" and s.finding != "normal"]


def test_labels_alone_are_put_into_words() -> None:
    _, wanted = edit_prompts(TREATED, asked("cardiomegaly=present", "effusion=absent"), VOCABULARY)
    found = report_text.findings(wanted.text or "")
    assert found["cardiomegaly"] == 1 and found["effusion"] == 0 and found["consolidation"] == 1


def test_nothing_asked_for_is_the_film_as_it_is() -> None:
    for own in (NORMAL, TREATED):
        stated, wanted = edit_prompts(own, Annotation(), VOCABULARY)
        assert stated.text == wanted.text and known(wanted) == known(own)


@pytest.mark.parametrize("words", ["text=lateral view, effusion", "sex=F", "age=61"])
def test_view_and_patient_cannot_be_edited(words: str) -> None:
    with pytest.raises(Error, match="keeps view, sex, age"):
        edit_prompts(NORMAL, asked(words), VOCABULARY)


# ------------------------------------------------------------------------------------------------------- where it changes


def test_a_box_is_checked_before_any_work() -> None:
    for words in ("1,2,3", "a,2,3,4", "5,0,5,9", "0,9,9,3", "-1,0,3,3", "0,0,nan,3", "0,0,inf,9"):
        with pytest.raises(Error, match="x0,y0,x1,y1"):
            edit_region.parse_region(chest_xray, "inpaint", [words], None, None)
    for procedure, boxes, mask, kind in [
        ("dafusion", ["0,0,1,1"], None, None), ("invert", ["0,0,1,1"], "m.png", None), ("sdedit", [], "m.png", "whole"),
    ]:  # fmt: skip
        with pytest.raises(Error, match="Leave one out"):
            edit_region.parse_region(chest_xray, procedure, boxes, mask, kind)


def gradient(rows: int, columns: int) -> np.ndarray:
    """A film without noise: darker to the left, with a bright bar."""
    x, y = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    return np.clip(0.15 + 0.5 * x + 0.2 * np.sin(3 * y) + 0.1 * (np.abs(x - 0.6) < 0.1), 0, 1).astype(np.float32)


def saved(path: Path, levels: np.ndarray, depth: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(levels * depth).astype(np.uint8 if depth == 255 else np.uint16)).save(path)
    return path


def test_a_box_of_the_file_reaches_the_pixels_of_the_model_that_it_covers(tmp_path: Path) -> None:
    grid = chest_xray.source_grid(
        saved(tmp_path / "a.png", gradient(100, 164)), SIDE
    )  # the square is 32 to 132 of the columns
    example = chest_xray.read_image(tmp_path / "a.png", (SIDE, SIDE))
    region = edit_region.parse_region(chest_xray, "inpaint", ["82,25,107,50", "32,99,33,100"], None, None)
    levels = region.levels(chest_xray, example, grid, 0, 0)
    rows, columns = np.nonzero(levels[:28])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 16, 23)
    assert np.argwhere(levels[28:]).tolist() == [[3, 0]], "a box smaller than a pixel of the model has one"
    assert set(np.unique(levels)) == {0, 1}
    parts = edit_region.parse_region(chest_xray, "inpaint", ["0.5,0.25,0.65,0.5"], None, None)
    same = parts.levels(chest_xray, example, grid, 0, 0)
    assert np.argwhere(same).min(0).tolist() == [8, 16] and np.argwhere(same).max(0).tolist() == [15, 23]
    full = region.on_file(grid, levels)
    assert full[25:50, 82:107].all() and full.sum() == 25 * 25 + 1, "on the file's grid it is kept to the pixel"


@pytest.mark.parametrize(("box", "words"), [("0,0,165,10", "164 x 100"), ("0,10,30,90", "32,0,132,100")])
def test_a_box_beyond_the_film_or_what_the_model_sees_is_refused(tmp_path: Path, box: str, words: str) -> None:
    grid = chest_xray.source_grid(saved(tmp_path / "a.png", gradient(100, 164)), SIDE)
    example = chest_xray.read_image(tmp_path / "a.png", (SIDE, SIDE))
    with pytest.raises(Error, match=words):
        edit_region.parse_region(chest_xray, "invert", [box], None, None).levels(chest_xray, example, grid, 0, 0)


def test_a_mask_is_drawn_on_the_film_or_on_the_square_of_the_model(tmp_path: Path) -> None:
    grid = chest_xray.source_grid(saved(tmp_path / "a.png", gradient(100, 164)), SIDE)
    example = chest_xray.read_image(tmp_path / "a.png", (SIDE, SIDE))
    drawn = np.zeros((100, 164), np.float32)
    drawn[25:50, 82:107] = 1
    on_film = saved(tmp_path / "film.png", drawn)
    on_square = saved(tmp_path / "square.png", np.kron(drawn[:, 32:132], np.ones((2, 2))))
    found = [
        edit_region.parse_region(chest_xray, "sdedit", [], mask, None).levels(chest_xray, example, grid, 0, 0)
        for mask in (on_film, on_square)
    ]
    assert np.array_equal(found[0] > 0.5, found[1] > 0.5) and found[0][10, 18] == 1 and found[0][10, 12] == 0
    with pytest.raises(Error, match="aspect"):
        region = edit_region.parse_region(chest_xray, "sdedit", [], saved(tmp_path / "b.png", np.ones((20, 60))), None)
        region.levels(chest_xray, example, grid, 0, 0)


# ----------------------------------------------------------------------------------------------------------- the way back


@pytest.mark.parametrize("curve", ["dark", "even", "bright"])
def test_a_change_comes_back_as_what_it_was_and_nothing_else_moves(tmp_path: Path, curve: str) -> None:
    levels = gradient(256, 320) ** {"dark": 3.0, "even": 1.0, "bright": 0.4}[curve]
    texture = np.random.default_rng(0).normal(0, 0.004, levels.shape)
    grid = chest_xray.source_grid(saved(tmp_path / "a.png", np.clip(levels + texture, 0, 1)), 64)
    before = chest_xray.read_image(tmp_path / "a.png", (64, 64)).image[0]
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    change = (-0.6 * np.exp(-4 * (rows**2 + columns**2)) * before).astype(np.float32)
    weight = np.zeros(grid.pixels.shape, np.float32)
    weight[64:192, 100:220] = 1
    given = chest_xray.apply_change(grid, change, weight)
    assert np.array_equal(given[weight == 0], grid.pixels[weight == 0])
    assert np.array_equal(chest_xray.apply_change(grid, 0 * change, weight), grid.pixels)
    # as the model sees it, with the levels of the film that it came from, the change is there
    after = apply_curve(central_square(given, 64), *grid.curve)
    middle = (slice(24, 40), slice(24, 40))
    assert np.abs((after - before) - change)[middle].mean() < 0.05 * np.abs(change)[middle].mean()
    assert np.abs(change)[middle].max() > 0.08
    # the texture is that of the film, in the grey levels that the change was made in
    part = (slice(100, 150), slice(130, 190))
    seen = [apply_curve(pixels[part], *grid.curve) for pixels in (grid.pixels, given)]
    assert np.abs(np.diff(seen[1] - seen[0], 2)).mean() < 0.1 * np.abs(np.diff(seen[0], 2)).mean()


# ------------------------------------------------------------------------------------------------------ clocks and methods


def exact(world: Mixture, meta: dict | None = None) -> Model:
    return Model(world, Identity(), world.asarray, np.asarray, "exact", "0" * 64, meta=meta or {})


SD = {"clock": chest_xray.CLOCK}
COUNT = 320


def test_a_strength_is_a_part_of_the_models_own_clock() -> None:
    world = two_classes(dtype="float32")
    plain, own = exact(world), exact(world, SD)
    assert guided.sigmas(plain, Walk(), 0.5)[0] == pytest.approx(3.42, abs=0.01)
    assert guided.sigmas(own, Walk(), 0.5)[0] == clock_from_config(**chest_xray.CLOCK).sigma(0.5) != 3.42
    x, mask = np.asarray(world.sample(2)[0], np.float32), np.full((2, 2, 2), 0.5)
    label = {"label": np.array([1, 1])}
    for model in (plain, own):
        seen: list[float] = []
        watching = dataclasses.replace(model, denoiser=Watched(world, seen))
        local_edit.edit(Run(watching, label, label, range(2)), x, mask, LocalEdit(Walk("euler", 3, 1.0), feather=0))
        da_fusion.augment(Run(watching, label, label, range(2)), x, da_fusion.DAFusion(Walk("euler", 3, 1.0), 0.5, 0.5))
        assert seen[0] == seen[3] == clock_of(model.meta).sigma(0.5)


class Watched:
    """A world whose noise levels and inputs are written down; of a variance-preserving process if asked."""

    def __init__(self, world: Mixture, sigmas: list[float], inputs: list | None = None, variance: float = 0.0) -> None:
        self.world, self.sigmas, self.inputs, self.variance = (
            world,
            sigmas,
            inputs if inputs is not None else [],
            variance,
        )

    @property
    def spec(self) -> Spec:
        return dataclasses.replace(self.world.spec, sigma_max=14.6, initial_variance=self.variance)

    def __call__(self, x, sigma, *conds):
        self.sigmas.append(sigma)
        self.inputs.append(np.array(x))
        return self.world(x, sigma, *conds)


@pytest.mark.parametrize("variance", [0.0, 1.0])
def test_a_variance_preserving_model_is_noised_alike_and_starts_from_its_own_prior(variance: float) -> None:
    """x = x0 + sigma n holds for either; only what starts from noise alone has the variance that the prior keeps."""
    world = two_classes(dtype="float32")
    x, classes = world.sample(COUNT)
    x = np.clip(x, -1, 1).astype(np.float32)
    walk = LocalEdit(Walk("euler", 12, 1.0, sigma_max=2.0), feather=0)
    wanted, own, every = {"label": 1 - classes}, {"label": classes}, np.ones((COUNT, 2, 2), bool)
    seen = {}
    for name, run in {
        "sdedit": lambda m: local_edit.edit(Run(m, wanted, wanted, range(COUNT)), x, every * 0.9, walk),
        "inpaint": lambda m: local_edit.inpaint(Run(m, wanted, wanted, range(COUNT)), x, every, walk),
        "invert": lambda m: local_edit.invert(Run(m, wanted, wanted, range(COUNT)), x, every, 0.9, own, walk),
    }.items():
        inputs: list[np.ndarray] = []
        model = dataclasses.replace(exact(world, SD), denoiser=Watched(world, [], inputs, variance))
        made = run(model).made
        seen[name] = inputs
        if name != "inpaint":
            assert np.mean(np.sign(made[:, 0, 0, 0]) == np.where(classes == 0, 1, -1)) > 0.95
    # as many images a batch as the methods take at a time
    some = x[: guided.BATCH]
    first = np.concatenate([seen["sdedit"][n * 12] for n in range(COUNT // guided.BATCH)])
    assert (first - x).std() == pytest.approx(2.0, rel=0.03)
    start = np.concatenate([seen["inpaint"][n * 45] for n in range(COUNT // guided.BATCH)])
    assert start.std() == pytest.approx(math.sqrt(variance + 4), rel=0.03)
    assert np.abs(seen["invert"][0] - some).max() < 0.1, "an image that is encoded counts as one with next to no noise"


def test_a_counterfactual_toward_what_is_stated_changes_nothing_and_toward_another_keeps_the_anatomy() -> None:
    world = two_classes(dtype="float32")
    x, classes = world.sample(48)
    x = np.clip(x, -1, 1).astype(np.float32)
    model, every = exact(world), np.ones((48, 2, 2), bool)
    own, other = {"label": classes}, {"label": 1 - classes}
    for scale in (1.0, 3.0):
        settings = LocalEdit(Walk("heun", 40, scale))
        same = text_edit.counterfactual(Run(model, own, own, range(48)), x, every, 0.5, own, settings)
        assert np.abs(same.images - x).max() < 0.02, "whatever the guidance"
        moved = text_edit.counterfactual(Run(model, other, own, range(48)), x, every, 0.5, own, settings)
        assert np.all(np.sign(moved.images[:, 0, 0, 0]) == np.where(classes == 0, 1, -1))
        rest = (slice(None), 0, [0, 1, 1], [1, 0, 1])
        assert np.abs(moved.images[rest] - x[rest]).mean() < 0.02


def test_where_two_conditions_disagree_is_found() -> None:
    """Classes that differ in four of 256 pixels: these and their neighbours are the mask, image by image."""
    means = np.zeros((2, 1, 16, 16))
    means[1, 0, 5:7, 9:11] = 1
    world = Mixture(means, np.full(means.shape, 0.05), (0.5, 0.5), np, "float32")
    x = np.asarray(world.sample(20)[0], np.float32)
    own, other = {"label": np.zeros(20, int)}, {"label": np.ones(20, int)}
    found = text_edit.difference_mask(exact(world), x, own, other, Walk(), range(20))
    assert found.dtype == bool and found[:, 5:7, 9:11].all()
    assert not found[:, [0, 1, 12, 15]].any() and not found[:, :, [0, 4, 14, 15]].any()
    pair = {"label": np.zeros(2, int)}, {"label": np.ones(2, int)}
    some = text_edit.difference_mask(exact(world), x[[7, 3]], *pair, Walk(), [7, 3])
    assert np.array_equal(some, found[[7, 3]]), "of an image, not of its batch"


class Coarse:
    """A codec that loses fine texture: 2 x 2 means, and copies of them back."""

    def encode(self, image):
        return image.reshape(len(image), 1, 8, 2, 8, 2).mean((3, 5))

    def decode(self, latent):
        return latent.repeat(2, 2).repeat(2, 3)


def test_what_the_codec_loses_is_no_change() -> None:
    means = np.full((2, 1, 8, 8), -0.2)
    means[1] = 0.3
    world = Mixture(means, np.full(means.shape, 0.02), (0.5, 0.5), np, "float32")
    model = dataclasses.replace(exact(world), codec=Coarse())
    fine = 0.2 * (-1.0) ** np.add.outer(np.arange(16), np.arange(16))
    x = (-0.2 + fine + np.zeros((3, 1, 16, 16))).astype(np.float32)
    own, other, every = {"label": np.zeros(3, int)}, {"label": np.ones(3, int)}, np.ones((3, 16, 16), bool)
    for detail in (False, True):
        settings = LocalEdit(Walk("heun", 20, 1.0), detail=detail)
        same = text_edit.counterfactual(Run(model, own, own, range(3)), x, every, 0.4, own, settings)
        moved = text_edit.counterfactual(Run(model, other, own, range(3)), x, every, 0.4, own, settings)
        assert (np.abs(same.images - x).max() < 0.02) == detail
        assert (np.abs(moved.images - (x + 0.5)).max() < 0.05) == detail
        assert np.abs(same.changes[0].inside) > 0.1, "of the model alone it is said"


def test_edges_are_where_they_were_or_not() -> None:
    field = np.random.default_rng(0).standard_normal((64, 64))
    image = ndimage.gaussian_filter(field, 3)[None, None] * 4
    assert text_edit.edge_correlation(image, image) == pytest.approx([1.0])
    assert text_edit.edge_correlation(image, 0.5 * image + 0.2)[0] == pytest.approx(1.0), (
        "brightness and contrast are no edges"
    )
    assert text_edit.edge_correlation(image, image[..., ::-1])[0] < 0.3
    assert np.isnan(text_edit.edge_correlation(image, np.zeros_like(image))[0])


# ------------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent model of 32 x 32 films that is told words; it has learned nothing."""
    root = tmp_path_factory.mktemp("edit") / "model"
    root.mkdir()
    torch.manual_seed(0)
    words = tokenizer.train([chest_xray.random_prompt(random.Random(n)) for n in range(60)], TOKENS, 500)
    words.save(root / tokenizer.FILE)
    fields = chest_xray.fields(VOCABULARY) | {TEXT: Field((TOKENS, WIDTH), "float32", 0.0)}
    ends = clock_from_config(**chest_xray.CLOCK).sigmas
    spec = Spec((4, 8, 8), fields, ends[0], ends[-1], 1.0, 1.0)
    network = {"layers": 1, "attention_head_dim": 8, "norm_groups": 4, "dropout": 0.0, "attention": 1}
    classes = len(VOCABULARY["film"])  # type: ignore[arg-type]
    parts = {
        "features": {"network": network | {"channels": [8, 8]}, "classes": classes, "target": "film"},
        "codec": {"network": network | {"channels": [8, 8, 8]}, "latent_channels": 4},
        "text": {"network": network | {"channels": [WIDTH, 8]}, "tokens": TOKENS, "words": words.words, "features": 8},
        "denoiser": {"network": network | {"channels": [8, 16]}, "parameterisation": "velocity"},
    }
    meta = {
        "format": 1, "domain": "chest_xray", "labels": labels.to_json(VOCABULARY), "image_shape": [1, SIDE, SIDE],
        "clock": chest_xray.CLOCK, "parts": parts, "spec": dataclasses.asdict(spec),
    }  # fmt: skip
    plain = json.loads(json.dumps(meta))
    for part in parts:
        folder.save_part(root, part, folder.build(part, plain).state_dict(), plain)
    return root


ROWS = [
    {"filename": "images/wide.png", "patient_id": "p1", "view": "PA", "sex": "M", "age": "60", "findings": "No Finding"},
    {"filename": "images/high.png", "patient_id": "p2", "view": "PA", "findings": "Effusion", "text": "Left pleural effusion."},
    {"filename": "images/side.png", "patient_id": "p3", "view": "L", "findings": "No Finding"},
]  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films") / "raw"
    noise = np.random.default_rng(0)
    for row, shape in zip(ROWS, [(80, 112), (120, 90), (64, 64)], strict=True):
        saved(root / row["filename"], np.clip(gradient(*shape) + noise.normal(0, 0.02, shape), 0, 1))
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(k for row in ROWS for k in row)), restval="")
        writer.writeheader()
        writer.writerows(ROWS)
    return root


def ran(model: Path, source: Path, out: Path, procedure: str, words: list[str], **how):
    wanted = asked(*words)
    settings = {"settings": QUICK, "backend": "torch", **how}
    return edit(model, source, out, procedure, wanted.labels, text=wanted.text, **settings)


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_films_are_edited_by_words_and_given_back_on_their_own_grid(model, films, tmp_path, procedure) -> None:
    boxes = [] if procedure == "dafusion" else ["20,20,60,50"]
    outcome = ran(
        model, films, tmp_path / "out", procedure, ["text=PA view, right pneumothorax"], boxes=boxes, strength=0.6
    )
    found = {e.id: e for e in dataset.read(tmp_path / "out")}
    assert outcome.count == len(found) == outcome.films == 2
    assert [name for name, _ in outcome.aside] == ["side.png"] and "keeps view" in outcome.aside[0][1]
    assert "side.png" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    for name, row, shape in (("wide", ROWS[0], (80, 112)), ("high", ROWS[1], (120, 90))):
        example = found[f"{name}-{procedure}0"]
        assert example.annotation.text == "PA view, right pneumothorax"
        said = known(example.annotation)
        assert said["pneumothorax"] == "present" and said["film"] == "PA abnormal" and said["normal"] == "absent"
        assert said["effusion"] == ("present" if name == "high" else "absent")
        provenance = example.provenance
        assert provenance is not None and provenance.kind == "edited" and provenance.source == name
        assert "right pneumothorax" in provenance.settings["told"]
        assert ("pleural effusion" in provenance.settings["told"].lower()) == (name == "high")
        path = tmp_path / "out" / "films" / f"{name}-{procedure}0.png"
        assert xmp.read(path) == "edited"
        with Image.open(path) as file:
            assert file.mode == "I;16"
            after = np.asarray(file)
        with Image.open(films / row["filename"]) as file:
            before = np.asarray(file).astype(int) * 257
        assert after.shape == shape
        inside = np.zeros(shape, bool)
        if boxes:
            inside[20:50, 20:60] = True
        else:
            edge = min(shape)
            top, left = (shape[0] - edge) // 2, (shape[1] - edge) // 2
            inside[top : top + edge, left : left + edge] = True
        assert np.array_equal(after[~inside], before[~inside])
        assert np.abs(after.astype(int) - before)[inside].mean() > 200
    page = (tmp_path / "out" / "report.html").read_text()
    assert "On the film&#x27;s own grid" in page or "own grid" in page
    assert "Likeness to the words" in page and "codec alone" in page and "another image" in page
    rows = outcome.rows
    assert rows["source"].ssim == pytest.approx(1) and rows["source"].edges == pytest.approx(1)
    assert all(row.likeness is not None and -1 <= row.likeness <= 1 for row in rows.values())
    assert outcome.before is not None and 0 < outcome.before < 1
    assert any("likeness" in line for line in outcome.lines())
    if boxes:
        assert rows["edited"].ssim > rows["model alone"].ssim, "what is put back counts as kept"


def test_an_edit_of_a_data_set_has_no_files_to_give_back(model, films, tmp_path) -> None:
    prepare("chest_xray", films, tmp_path / "data", size=f"{SIDE}x{SIDE}")
    outcome = ran(
        model, tmp_path / "data", tmp_path / "out", "invert", ["text=bilateral opacities"], where=["normal=present"],
        boxes=["4,4,20,30"],
    )  # fmt: skip
    sources = {e.id: e for e in dataset.read(tmp_path / "data")}
    found = list(dataset.read(tmp_path / "out"))
    assert outcome.films == 0 and not (tmp_path / "out" / "films").exists()
    assert len(found) == 2 and {known(e.annotation)["film"] for e in found} == {"PA abnormal", "L abnormal"}
    for example in found:
        assert example.provenance is not None
        source = sources[example.provenance.source or ""]
        assert example.group == source.group
        inside = np.zeros((SIDE, SIDE), bool)
        inside[4:30, 4:20] = True
        assert np.array_equal(example.image[:, ~inside], source.image[:, ~inside])


def test_one_dicom_film_comes_back_as_dicom_of_the_same_study(model, tmp_path) -> None:
    import pydicom
    from dicoms import SECRET, common
    from pydicom import uid

    data = common(uid.DigitalXRayImageStorageForPresentation, Modality="DX", ViewPosition="PA", SeriesNumber=3)
    levels = np.rint(gradient(90, 120) * 4095).astype("<u2")
    data.Rows, data.Columns, data.BitsStored, data.HighBit = 90, 120, 12, 11
    data.PatientOrientation, data.PatientAge = ["L", "F"], "061Y"
    data.PixelData = (4095 - levels).astype("<u2").tobytes()
    data.PhotometricInterpretation = "MONOCHROME1"
    data.save_as(tmp_path / "IM01", enforce_file_format=True)
    outcome = ran(model, tmp_path / "IM01", tmp_path / "out", "inpaint", ["text=right effusion"], boxes=["20,30,60,80"])
    assert outcome.films == 1 and outcome.aside == ()
    (example,) = dataset.read(tmp_path / "out")
    assert known(example.annotation)["age"] == "61" and known(example.annotation)["film"] == "PA abnormal"
    (path,) = (tmp_path / "out" / "dicom").iterdir()
    made = pydicom.dcmread(path)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate"):
        assert made[keyword].value == data[keyword].value
    assert made.SeriesInstanceUID != data.SeriesInstanceUID and made.SeriesNumber == 930
    assert (
        "NOT ACQUIRED" in made.SeriesDescription
        and made.SyntheticData == "YES"
        and "CHANGED" in made.DerivationDescription
    )
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == data.SOPInstanceUID
    assert made.ImageComments == "right effusion" and made.PatientOrientation == ["L", "F"]
    again, before = read_film(path), read_film(tmp_path / "IM01")
    assert again.synthetic and again.view == "" and again.pixels.shape == (90, 120)
    inside = np.zeros((90, 120), bool)
    inside[30:80, 20:60] = True
    assert np.abs(again.pixels - before.pixels)[~inside].max() < 1 / 4095
    assert np.abs(again.pixels - before.pixels)[inside].mean() > 0.005
    told = "".join(
        p.read_text(errors="replace") for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".jsonl", ".html")
    )
    assert SECRET not in told and "ID-4711" not in told


@pytest.mark.parametrize(
    ("procedure", "words", "how", "message"),
    [
        ("inpaint", ["text=effusion"], {}, "--box x0,y0,x1,y1 or --mask"),
        ("sdedit", ["text=effusion"], {"region": "spots"}, "has no spots"),
        ("inpaint", ["text=effusion"], {"boxes": ["0,0,2000,10"]}, "inside its image"),
        ("invert", ["text=lateral view, effusion"], {"where": ["view=PA"]}, "keeps view"),
        ("invert", ["text=effusion"], {"where": ["view=AP"]}, "has none with view=AP"),
    ],
)
def test_an_edit_that_no_film_can_have_leaves_nothing(model, films, tmp_path, procedure, words, how, message) -> None:
    with pytest.raises(Error, match=message):
        ran(model, films, tmp_path / "out", procedure, words, **how)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_film_can_be_made_anew_if_that_is_asked_for(model, films, tmp_path) -> None:
    outcome = ran(model, films, tmp_path / "out", "inpaint", ["text=effusion"], region="whole", count=1, variants=2)
    assert outcome.count == 2 and math.isnan(outcome.outside) and "another image" not in outcome.rows
    images = [e.image for e in dataset.read(tmp_path / "out")]
    assert np.abs(images[0] - images[1]).max() > 0.01
    assert len(list((tmp_path / "out" / "films").iterdir())) == 2


def test_the_region_may_be_left_to_the_model(model, films, tmp_path) -> None:
    outcome = ran(
        model, films, tmp_path / "out", "invert", ["text=right effusion"], region="difference", where=["view=PA"]
    )  # fmt: skip
    assert outcome.count == outcome.films == 2 and not math.isnan(outcome.outside)
    for name, row in (("wide", ROWS[0]), ("high", ROWS[1])):
        with Image.open(tmp_path / "out" / "films" / f"{name}-invert0.png") as file:
            after = np.asarray(file).astype(int)
        with Image.open(films / row["filename"]) as file:
            same = after == np.asarray(file).astype(int) * 257
        assert 0.2 < same.mean() < 1


def test_a_model_of_labels_takes_no_text(model, films, tmp_path, monkeypatch) -> None:
    opened = models.open(model, "torch")
    spec = dataclasses.replace(
        opened.denoiser.spec, fields={k: v for k, v in opened.denoiser.spec.fields.items() if k != TEXT}
    )
    opened.denoiser.spec = spec  # type: ignore[misc]
    monkeypatch.setattr(models, "open", lambda *_: opened)
    with pytest.raises(Error, match="model with a text encoder"):
        edit(model, films, tmp_path / "out", "invert", {}, text="effusion")


def test_the_command_line_takes_words_and_boxes_and_says_what_was_kept(
    model, films, tmp_path, monkeypatch, capsys
) -> None:
    from diffgraft.cli import main as cli

    words = "edit {} {} {} --box 20,20,60,50 --box 30,20,60,55 --steps 2 --backend torch -n 2 --procedure sdedit"
    given = words.format(model, films, tmp_path / "out").split()
    monkeypatch.setattr(cli.sys, "argv", ["diffgraft", *given, "--set", "text=right pleural effusion"])
    cli.main()
    told = capsys.readouterr().out
    assert "likeness to the words wanted" in told and "SSIM / correlation of edges" in told and "start sigma" in told
    assert f"2 on the grid of their files in {tmp_path / 'out' / 'films'}" in told
    region = dataset.read_info(tmp_path / "out")["settings"]["region"]
    assert region == "box 20,20,60,50 and 30,20,60,55"
