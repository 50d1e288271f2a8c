"""Generated images: what their noise depends on, what is refused, and what tells that they are synthetic."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffgraft.generation import gates, sampling
from diffgraft.generation.generate import generate as run
from diffgraft.models import prompt
from diffgraft.requests import GenerationRequest, record
from diffgraft.requests.base import build
from domains import brain_mri
from toolkit.data import dataset
from toolkit.diffusion.model import Model, Spec
from toolkit.diffusion.noise import Purpose, Seeded
from toolkit.example import Annotation, Error, Example
from toolkit.formats import nifti
from toolkit.models.folder import read_meta, training_ids, write_meta
from toolkit.networks import folder as torch_folder
from toolkit.settings import Network, Sampling, Training

QUICK = Sampling(sampler="dpmpp_2m", steps=3)
SPEC = Spec((1, 16, 16), brain_mri.FIELDS)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A model folder with random weights, none of them zero."""
    root = tmp_path_factory.mktemp("generation") / "model"
    part = {
        "network": Network((8, 16), norm_groups=4, attention_head_dim=8),
        "parameterisation": "edm",
        "training": Training(steps=1, sigma_mean=-0.2, sigma_std=1.4),
    }
    meta = {"format": 1, "domain": "brain_mri", "spec": SPEC, "parts": {"denoiser": part}}
    meta = json.loads(json.dumps(meta, default=dataclasses.asdict))
    torch.manual_seed(1)
    weights = torch_folder.build("denoiser", meta).state_dict()
    torch_folder.save_part(root, "denoiser", {k: v + 0.1 * torch.randn(v.shape) for k, v in weights.items()}, meta)
    return root


@pytest.fixture(scope="module")
def model(root) -> Model:
    return torch_folder.open(root, "cpu")


def generate(root: Path, out: Path, labels: dict[str, float] | None = None, count: int = 3, **options):
    return run(root, out, labels or {}, count, QUICK, backend="torch", **options)


# ---------------------------------------------------------------------------------------------------------- sampling


def rows(count: int) -> list[Annotation]:
    return [Annotation(labels={"lesion": n % 2, "position": n / count}) for n in range(count)]


@pytest.mark.parametrize("settings", [QUICK, Sampling("euler_ancestral", 3, guidance=2.0)], ids=["ode", "sde"])
@pytest.mark.parametrize("coherence", [0.0, 0.9])
def test_an_image_does_not_depend_on_its_batch(model, settings, coherence, monkeypatch):
    together = sampling.sample(model, brain_mri, rows(5), settings, range(5), coherence)
    monkeypatch.setattr(sampling, "BATCH", 2)
    apart = sampling.sample(model, brain_mri, rows(5), settings, range(5), coherence)
    assert together == pytest.approx(apart, abs=1e-4)
    alone = sampling.sample(model, brain_mri, rows(5)[3:4], settings, [3], coherence)
    assert together[3:4] == pytest.approx(alone, abs=1e-4)
    assert together.shape == (5, *SPEC.shape)
    assert np.abs(together[0] - together[2]).max() > 0.01


def test_seed_and_index_make_the_image(model):
    def drawn(seed: int, index: int) -> np.ndarray:
        settings = dataclasses.replace(QUICK, seed=seed)
        return sampling.sample(model, brain_mri, rows(1), settings, [index])

    assert np.array_equal(drawn(1, 0), drawn(1, 0))
    assert np.abs(drawn(1, 0) - drawn(2, 0)).max() > 0.01
    assert np.abs(drawn(1, 0) - drawn(1, 1)).max() > 0.01


def test_a_batch_is_bounded(model, monkeypatch):
    sizes = []

    def counting(x, sigma, *conds):
        sizes.append(len(x))
        return model.denoiser(x, sigma, *conds)

    counting.spec = SPEC
    sampling.sample(dataclasses.replace(model, denoiser=counting), brain_mri, rows(20), QUICK, range(20))
    assert set(sizes) == {sampling.BATCH, 20 - sampling.BATCH}


def test_shared_noise_is_standard_normal_and_as_much_alike_as_asked():
    shape = (1, 64, 64)
    noise = sampling._Shared(Seeded(3, range(6), shape), Seeded(3, [sampling.COMMON], shape), 0.8)
    for draw in (noise(0, Purpose.START), noise(2)):
        flat = draw.reshape(6, -1)
        assert draw.dtype == np.float32
        assert flat.std(1) == pytest.approx(1, abs=0.05)
        assert np.corrcoef(flat)[np.triu_indices(6, 1)] == pytest.approx(0.8, abs=0.03)


def test_it_starts_where_the_training_was(model):
    levels = sampling.sigma_schedule(model, QUICK)
    assert levels[0] == pytest.approx(np.exp(-0.2 + 2.8 * 1.4))
    assert levels[-2:] == [sampling.SIGMA_MIN, 0.0]
    assert len(levels) == QUICK.steps + 1
    unsaid = dataclasses.replace(model, meta={"parts": {"denoiser": {}}})
    assert sampling.sigma_schedule(unsaid, QUICK)[0] == SPEC.sigma_max


# -------------------------------------------------------------------------------------------------------- as a folder


def test_a_data_set_that_says_it_is_synthetic(root, model, tmp_path):
    seen = []
    made = generate(root, tmp_path / "out", {"lesion": 1, "position": 0.5}, watch=lambda *told: seen.append(told))
    examples = list(dataset.read(tmp_path / "out"))
    assert made.count == made.draws == len(examples) == 3
    for n, example in enumerate(examples):
        assert example.image.shape == SPEC.shape
        assert example.annotation.labels == {"lesion": 1, "position": 0.5}
        assert example.provenance.kind == "synthetic"
        assert example.provenance.model == model.fingerprint[:16]
        assert (example.provenance.procedure, example.provenance.seed, example.provenance.source) == (
            "generate",
            0,
            None,
        )
        assert example.provenance.settings["sample"] == n
        assert example.provenance.settings["sampler"] == "dpmpp_2m"
    assert len({e.group for e in examples}) == 3
    assert dataset.read_info(tmp_path / "out")["synthetic"] is True
    assert "data:image" in (tmp_path / "out" / "report.html").read_text()
    assert seen == [("sampling", n, QUICK.steps) for n in range(1, QUICK.steps + 1)]


def test_what_is_not_known_of_the_training_is_not_said_to_be_nothing(root, tmp_path):
    assert training_ids(read_meta(root)) is None
    generate(root, tmp_path / "out", count=1)
    assert "trained_on" not in dataset.read_info(tmp_path / "out"), "an evaluation has to ask for the model"


def test_without_labels_nothing_is_stated(root, tmp_path):
    generate(root, tmp_path / "out", count=1)
    assert next(dataset.read(tmp_path / "out")).annotation.labels == {}


def test_a_volume_as_slices_shares_a_group(root, tmp_path):
    generate(root, tmp_path / "out", count=9, volume=True, name="head")
    labels = [e.annotation.labels for e in dataset.read(tmp_path / "out")]
    assert {e.group for e in dataset.read(tmp_path / "out")} == {"head"}
    assert [row["lesion"] for row in labels] == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert np.diff([row["position"] for row in labels]).min() > 0


def test_one_volume_that_is_not_acquired(root, model, tmp_path):
    generate(root, tmp_path / "out", count=8, format="nifti", name="demo")
    path = tmp_path / "out" / "sub-demo_FLAIR.nii.gz"
    assert {p.name for p in path.parent.iterdir()} == {path.name, "sub-demo_FLAIR.json", "report.html", "request.json"}
    volume = nifti.load(path)
    assert not volume.acquired
    assert (volume.label, volume.contrast) == ("demo", "FLAIR")
    stack, orientation = nifti.display(volume)
    assert orientation == "LPS"
    assert stack.shape == (8, brain_mri.PIXELS, brain_mri.PIXELS)
    assert np.array_equal(stack, np.rint(stack))
    assert 0 <= stack.min() <= stack.max() <= brain_mri.BRIGHTEST
    told = json.loads((path.parent / "sub-demo_FLAIR.json").read_text())
    assert told["Synthetic"] is True
    assert "NOT ACQUIRED" in told["Description"]
    assert told["Provenance"]["model"] == model.fingerprint[:16]
    assert sum(told["Labels"]["lesion"]) > 0
    # the way up and the way back: low slices first, anterior up, as the model draws them
    images = sampling.sample(model, brain_mri, brain_mri.slice_conditions(8, {}), QUICK, range(8), sampling.COHERENCE)
    reduced = stack.reshape(8, 16, 8, 16, 8).mean((2, 4)) / brain_mri.BRIGHTEST * 2 - 1
    assert np.corrcoef(reduced.ravel(), images.ravel())[0, 1] > 0.95


def test_lesion_0_is_a_healthy_head():
    assert {a.labels["lesion"] for a in brain_mri.slice_conditions(9, {"lesion": 0})} == {0}
    assert brain_mri.slice_conditions(9, {"lesion": 1}) == brain_mri.slice_conditions(9, {})


# ------------------------------------------------------------------------------------------- far from what it learned


@pytest.fixture
def learned(root, tmp_path) -> tuple[Path, Path]:
    """A copy of the model that was trained on half of a data set, and the data set."""
    images = Seeded(5, range(8), SPEC.shape)(0) / 3
    # held-out images that lie close to others of the set, so that not every draw is nearer than they are
    images[4:] = 0.8 * images[:4] + 0.2 * images[4:]
    examples = [Example(f"p{n}", image, Annotation(labels={"lesion": 0.0}), f"p{n}") for n, image in enumerate(images)]
    dataset.write(examples, tmp_path / "data")
    copy, meta = tmp_path / "model", read_meta(root)
    trained = [hashlib.sha256(f"p{n}".encode()).hexdigest()[:16] for n in range(4)]
    meta["parts"]["denoiser"]["run"] = {"trained_on": trained}
    copy.mkdir()
    (copy / "denoiser.safetensors").write_bytes((root / "denoiser.safetensors").read_bytes())
    write_meta(copy, meta)
    return copy, tmp_path / "data"


def test_images_keep_their_distance(learned, tmp_path):
    copy, data = learned
    made = generate(copy, tmp_path / "out", far_from=data)
    assert made.limit > 0.8
    assert len(made.similarity) == 3
    assert max(made.similarity) < made.limit
    assert next(dataset.read(tmp_path / "out")).provenance.settings["nearest_ncc"] == round(made.similarity[0], 4)
    assert "Distance from the training images" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_too_near_is_drawn_again(learned, tmp_path, monkeypatch):
    copy, data = learned
    first = generate(copy, tmp_path / "a", far_from=data)
    middle = float(np.median(first.similarity))
    real = gates.training_distance
    monkeypatch.setattr(gates, "MARGIN", 0.0)
    monkeypatch.setattr(gates, "training_distance", lambda *_: dataclasses.replace(real(*_), limit=middle))
    second = generate(copy, tmp_path / "b", far_from=data)
    assert second.draws > 3
    assert 0 < second.rejected < 1
    assert max(second.similarity) < middle
    before, after = ([e.image for e in dataset.read(tmp_path / name)] for name in "ab")
    same = [np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
    assert same == [s < middle for s in first.similarity]


def test_a_place_that_cannot_be_filled(learned, tmp_path, monkeypatch):
    copy, data = learned
    real = gates.training_distance
    monkeypatch.setattr(sampling, "MOST_DRAWS", 2)
    monkeypatch.setattr(gates, "training_distance", lambda *_: dataclasses.replace(real(*_), limit=-1.0))
    with pytest.raises(Error, match="another --seed"):
        generate(copy, tmp_path / "out", far_from=data)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "model"]


def test_another_data_set_is_refused(root, learned, tmp_path):
    with pytest.raises(Error, match="0 of the 0 samples"):
        generate(root, tmp_path / "out", far_from=learned[1])


# ------------------------------------------------------------------------------------------------------------- errors


def asked(model: Model, root: Path, words: list[str]) -> Annotation:
    return prompt.resolve_prompt(model, brain_mri, *prompt.split_words(root, words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["colour=1"], "lesion, position; found 'colour'"),
        (["position_known=1"], "found 'position_known'"),
        (["lesion"], "NAME=VALUE"),
        (["lesion=1", "lesion=0"], "set once"),
        (["lesion=yes"], "one of healthy, lesion; found 'yes'"),
        (["lesion=2"], "one of healthy, lesion; found '2'"),
        (["lesion=0.5"], "one of healthy, lesion"),
        (["position=1.2"], "a number from 0 to 1"),
        (["position=nan"], "found 'nan'"),
    ],
)
def test_labels_that_mean_nothing(model, root, words, message):
    with pytest.raises(Error, match=message) as problem:
        asked(model, root, words)
    assert len(str(problem.value).splitlines()) == 1


def test_labels_in_words(model, root):
    assert asked(model, root, ["lesion=1", "position=0.5"]).labels == {"lesion": 1.0, "position": 0.5}
    assert asked(model, root, ["lesion=healthy"]).labels == {"lesion": 0.0}
    assert asked(model, root, []).labels == {}


def test_labels_in_words_and_numbers_sample_alike(root, tmp_path):
    for name, labels in (
        ("words", {"lesion": "lesion", "position": "0.5"}),
        ("numbers", {"lesion": 1, "position": 0.5}),
    ):
        generate(root, tmp_path / name, labels, 2)
    one, other = (list(dataset.read(tmp_path / name)) for name in ("words", "numbers"))
    assert [e.annotation.labels for e in one] == [{"lesion": 1.0, "position": 0.5}] * 2
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, other, strict=True))


def test_single_settings_change_those_of_the_model_or_of_the_request(root, tmp_path):
    def settings(name: str, **options) -> Sampling:
        return run(root, tmp_path / name, count=1, backend="torch", **options).settings

    assert settings("a", steps=2, seed=3) == Sampling("dpmpp_2m", 2, seed=3)
    assert settings("b", settings=QUICK, guidance=0.5) == dataclasses.replace(QUICK, guidance=0.5)
    with pytest.raises(Error, match="no few-step student"):
        settings("c", student=True)
    with pytest.raises(Error, match=r"own sampler, steps\. Leave --student out, or --sampler"):
        settings("d", student=True, steps=2, sampler="euler")


def test_the_record_beside_a_result_makes_it_again(root, model, tmp_path):
    heard = []
    generate(root, tmp_path / "out", {"lesion": "healthy"}, 2, tell=heard.append)
    assert heard == [f"{QUICK}; start sigma {sampling.sigma_schedule(model, QUICK)[0]:.3g}"]
    kept = record.read(tmp_path / "out")
    assert (kept.verb, kept.model) == ("generate", model.fingerprint)
    run(build(GenerationRequest, kept.request | {"out": tmp_path / "again"}))
    names = {p.name for p in (tmp_path / "out" / "images").iterdir()}
    assert len(names) == 2
    for name in (*(f"images/{n}" for n in names), "manifest.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"labels": {"lesion": 2}}, {}, "healthy, lesion; found '2'"),
        ({"labels": {"position": 0.5}, "volume": True}, {}, "positions of their own"),
        ({"count": 0}, {}, "One image or more"),
        ({"format": "dicom"}, {}, "images, folders, nifti"),
        ({"name": "../demo"}, {}, "letters and digits"),
        ({}, {"sampler": "magic"}, "dpmpp_2m"),
        ({}, {"schedule": "magic"}, "karras"),
        ({}, {"steps": 0}, "one step or more"),
        ({}, {"seed": -1}, "from 0 to"),
        ({}, {"guidance": float("nan")}, "finite guidance"),
    ],
)
def test_nothing_is_left_behind_on_an_error(root, tmp_path, options, settings, message):
    with pytest.raises(Error, match=message) as problem:
        run(root, tmp_path / "out", settings=dataclasses.replace(QUICK, **settings), backend="torch", **options)
    assert len(str(problem.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_there_is_kept(root, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Error, match="--overwrite"):
        generate(root, tmp_path, count=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
