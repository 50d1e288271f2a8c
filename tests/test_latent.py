"""Latent models: the autoencoder as a codec, the feature network, and a model that has both, on either backend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from diffgraft import models
from diffgraft.deployment.export import export as export_model
from diffgraft.editing.edit import edit
from diffgraft.editing.procedures import PROCEDURES
from diffgraft.editing.region import REGIONS
from diffgraft.generation import sampling
from diffgraft.generation.generate import generate
from diffgraft.models import prompt
from diffgraft.preparation.prepare import prepare
from diffgraft.requests import EditRequest, TrainingRequest, record
from diffgraft.requests.base import build
from diffgraft.training.train import train
from domains import plant_disease
from toolkit.data import dataset, labels
from toolkit.data.labels import Range
from toolkit.example import Annotation, Error, Example
from toolkit.models.folder import fingerprint, read_meta, training_ids
from toolkit.networks import folder
from toolkit.networks.autoencoder import Autoencoder, from_diffusers, reduction
from toolkit.networks.features import FeatureNet
from toolkit.networks.unet import transfer_weights
from toolkit.settings import Augmentation, Network, Sampling, Training
from toolkit.training import losses
from toolkit.training.loader import augment, generator

SHAPE = (3, 16, 32)
TINY = {
    "features": (Network((8, 8)), Training(8, 8, warmup=2, precision="fp32")),
    "codec": (Network((8, 16), norm_groups=4), Training(8, 4, warmup=2)),
    "denoiser": (
        Network((8, 16), norm_groups=4, attention_head_dim=8, attention=1),
        Training(8, 8, warmup=2, variants=2),
    ),
}
VOCABULARY = {
    "crop": ("coffee",),
    "condition": ("healthy", "rust"),
    "severity": Range(0.0, 4.0),
    "class": ("Coffee___healthy", "Coffee___rust"),
}


def leaves(count: int, prefix: str = "leaf", conditions: int = 2) -> list[Example]:
    """Green ellipses on grey, every second one with a brown spot."""
    random = np.random.default_rng(0)
    rows, cols = np.mgrid[-1:1:16j, -1:1:32j]
    found = []
    for n in range(count):
        image = np.full(SHAPE, 0.4, np.float32) + 0.02 * random.standard_normal(SHAPE).astype(np.float32)
        leaf = rows**2 + cols**2 < random.uniform(0.5, 0.9)
        image[:, leaf] = np.array([[-0.6], [0.1], [-0.8]])
        kind = n % conditions
        if kind:
            spot = (rows - random.uniform(-0.3, 0.3)) ** 2 + (cols - random.uniform(-0.3, 0.3)) ** 2 < 0.05
            image[:, spot] = np.array([[0.3], [-0.2], [-0.9]])
        values = {"crop": 0.0, "condition": float(kind), "severity": float(2 * kind), "class": float(kind)}
        found.append(Example(f"{prefix}{n}", image, Annotation(labels=values), f"{prefix}{n}"))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("leaves") / "data"
    plant_disease.write(leaves(24), root, VOCABULARY)
    return root


@pytest.fixture(scope="module")
def root(data, tmp_path_factory) -> Path:
    """A latent model that has learned next to nothing."""
    root = tmp_path_factory.mktemp("latent") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plant_disease, "PRESETS", {part: {"small": preset} for part, preset in TINY.items()})
        for part in TINY:
            train(plant_disease, data, root, part)
    return root


# ------------------------------------------------------------------------------------------------------------ networks


def test_a_codec_reduces_normalises_and_comes_back():
    network = Network((8, 16), norm_groups=4)
    torch.manual_seed(0)
    codec = Autoencoder(network, SHAPE, 5).eval()
    images = torch.from_numpy(np.stack([e.image for e in leaves(12)]))
    codec.normalise(images, 0.5)
    with torch.no_grad():
        latent = codec.encode(images)
        plain = codec.vae.decode(codec.vae.encode(images).latent_dist.mean).sample
        back = codec.decode(latent)
    assert reduction(network) == 2
    assert latent.shape == (12, 5, 8, 16)
    assert latent.mean((0, 2, 3)).tolist() == pytest.approx([0] * 5, abs=1e-4)
    assert latent.std((0, 2, 3)).tolist() == pytest.approx([0.5] * 5, rel=1e-3)
    assert torch.allclose(back, plain, atol=1e-4), "scale and shift are undone before decoding"


def test_a_codec_learns_to_reproduce():
    torch.manual_seed(0)
    codec = Autoencoder(Network((8, 16), norm_groups=4), SHAPE, 4)
    images = torch.from_numpy(np.stack([e.image for e in leaves(8)]))
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    errors = []
    for step in range(40):
        noise = torch.randn(8, 4, 8, 16, generator=generator(step))
        made, kl = codec(images, noise)
        loss = (made - images).abs().mean() + 1e-4 * kl.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(loss.item())
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize("inside", ["", "vae"])
def test_the_vae_of_a_diffusers_folder_opens_with_its_own_scale(tmp_path, inside):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16),
        norm_num_groups=4, latent_channels=4, scaling_factor=0.7,
    ).eval()  # fmt: skip
    vae.save_pretrained(tmp_path / inside)
    codec = from_diffusers(tmp_path)
    image = torch.randn(2, *SHAPE, generator=generator(0))
    with torch.no_grad():
        latent = codec.encode(image)
        assert torch.allclose(latent, 0.7 * vae.encode(image).latent_dist.mean, atol=1e-6)
        assert torch.allclose(codec.decode(latent), vae.decode(latent / 0.7).sample, atol=1e-5)


def test_a_folder_without_a_vae_is_refused(tmp_path):
    with pytest.raises(Error, match=r"config.json and safetensors"):
        from_diffusers(tmp_path)


def test_features_are_named_and_their_probabilities_sum_to_one():
    torch.manual_seed(0)
    found = FeatureNet(Network((8, 16, 24)), SHAPE, 4).eval()(torch.randn(2, *SHAPE))
    assert set(found) == {"features", "log_probability", "level0", "level1", "level2"}
    assert found["features"].shape == (2, 24)
    assert found["log_probability"].exp().sum(1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert [found[f"level{n}"].shape[1] for n in range(3)] == [8, 16, 24]


def test_the_perceptual_distance_is_zero_for_the_same_and_grows_with_the_change():
    torch.manual_seed(0)
    network = FeatureNet(Network((8, 16, 24)), SHAPE, 4).eval()
    image = torch.randn(2, *SHAPE, generator=generator(1))
    noise = torch.randn(2, *SHAPE, generator=generator(2))
    distances = [losses.perceptual(network, image + s * noise, image).item() for s in (0.0, 0.1, 0.5)]
    assert distances[0] == 0
    assert distances[0] < distances[1] < distances[2]


# ------------------------------------------------------------------------------------------------------- augmentation


def test_an_up_down_flip_is_one_and_nothing_else():
    image = torch.rand(6, *SHAPE, generator=generator(0)) * 2 - 1
    flipped = augment(image, Augmentation(flip_rows=1.0), generator(1))
    assert torch.allclose(flipped, image.flip(2), atol=1e-5)


def test_a_turn_keeps_the_shape_of_a_wide_image():
    rows, cols = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    disc = ((rows - 15.5) ** 2 + (cols - 31.5) ** 2 < 100).float()[None, None].repeat(8, 1, 1, 1) * 2 - 1
    turned = augment(disc, Augmentation(rotate=90.0), generator(0))
    assert float((turned - disc).abs().mean()) < 0.02, "a disc that is turned is the same disc"


def test_what_comes_in_repeats_the_edge_where_asked():
    white = torch.ones(4, *SHAPE)
    assert float(augment(white, Augmentation(shift=0.5, border=True), generator(0)).min()) == pytest.approx(1)
    assert float(augment(white, Augmentation(shift=0.5), generator(0)).min()) < 0


def test_latents_pass_an_augmentation_of_nothing_untouched():
    latent = 3 * torch.randn(2, 4, 8, 8, generator=generator(0))
    assert augment(latent, Augmentation(), generator(1)) is latent


# ----------------------------------------------------------------------------------------------------------- training


def test_a_latent_model_knows_its_image_and_its_latent(root, data):
    meta = read_meta(root)
    assert meta["image_shape"] == list(SHAPE)
    assert meta["spec"]["shape"] == [plant_disease.LATENT_CHANNELS, 8, 16]
    assert set(meta["spec"]["fields"]) == {"crop", "condition", "severity", "severity_known"}
    assert meta["spec"]["fields"]["condition"]["null"] == 2
    assert labels.from_json(meta["labels"]) == VOCABULARY
    run = meta["parts"]["denoiser"]["run"]
    held_out = sum(dataset.fold_of(e.group) == 0 for e in dataset.read(data))
    assert len(run["trained_on"]) == 24 - held_out
    assert 0 <= meta["parts"]["features"]["run"]["held_out_balanced_accuracy"] <= 1
    assert meta["parts"]["codec"]["run"]["held_out_psnr"] > 0
    for part in TINY:
        assert "data:image" in (root / "training" / part / "report.html").read_text() or part == "features"


def test_a_training_leaves_its_request_beside_its_report(root, data):
    """Given a domain's module, a request keeps its name: it is made again from plain values."""
    for part in TINY:
        kept = record.read(root / "training" / part)
        assert (kept.verb, kept.model) == ("train", "")
        assert build(TrainingRequest, kept.request) == TrainingRequest("plant_disease", data, root, part)
    assert TrainingRequest(plant_disease, data, root, "codec").domain == "plant_disease"


def test_a_latent_denoiser_needs_its_codec_first(data, tmp_path):
    with pytest.raises(Error, match="--part codec"):
        train(plant_disease, data, tmp_path / "model", "denoiser", steps=1)


def test_a_model_does_not_take_data_with_other_classes(root, tmp_path):
    other = {**VOCABULARY, "condition": ("healthy", "phoma")}
    plant_disease.write(leaves(8), tmp_path / "data", other)
    with pytest.raises(Error, match="names of their labels"):
        train(plant_disease, tmp_path / "data", root, "features", steps=1)


def test_transfer_learning_begins_with_the_rows_of_the_same_name(root, tmp_path, monkeypatch):
    monkeypatch.setattr(plant_disease, "PRESETS", {part: {"small": preset} for part, preset in TINY.items()})
    other = {
        "crop": ("coffee",),
        "condition": ("phoma", "rust"),
        "severity": Range(0.0, 4.0),
        "class": ("Coffee___phoma", "Coffee___rust"),
    }
    plant_disease.write(leaves(12, "new"), tmp_path / "data", other)
    train(plant_disease, tmp_path / "data", tmp_path / "model", "denoiser", base=root, steps=1)
    meta = read_meta(tmp_path / "model")
    assert set(meta["parts"]) == {"codec", "denoiser"}, "features that name other classes stay behind"
    before = set(read_meta(root)["parts"]["denoiser"]["run"]["trained_on"])
    assert before < set(meta["parts"]["denoiser"]["run"]["trained_on"]), "what the base saw counts as seen"
    base, fresh = folder.load_part(root, "denoiser"), folder.build("denoiser", meta)
    transfer_weights(fresh, base, VOCABULARY, other)
    key = next(k for k in fresh.state_dict() if k.endswith("classes.condition.weight"))
    theirs, ours = base.state_dict()[key], fresh.state_dict()[key]
    assert torch.equal(ours[1], theirs[1]), "rust is rust"
    assert torch.equal(ours[0], theirs[2]), "phoma, unknown, begins as not stated"
    assert torch.equal(ours[2], theirs[2]), "the null stays the last"


def test_a_new_class_is_learned_as_an_embedding_and_can_be_asked_for(root, tmp_path):
    """The whole way of a latent model: the base's features cannot name the new class, and nothing pretends they do."""
    other = {**VOCABULARY, "condition": ("healthy", "scab"), "class": ("Coffee___healthy", "Coffee___scab")}
    plant_disease.write(leaves(8, "new"), tmp_path / "data", other)
    facts = train(plant_disease, tmp_path / "data", tmp_path / "model", "embedding", base=root, steps=3)
    assert facts["words"] == {"condition": ["scab"]}
    kept = record.read(tmp_path / "model" / "training" / "embedding")
    assert kept.request["part"] == "embedding" and kept.model == fingerprint(root)
    assert "data:image" in (tmp_path / "model" / "training" / "embedding" / "report.html").read_text()
    opened = models.open(tmp_path / "model", "torch")
    assert prompt.resolve_prompt(opened, plant_disease, {"condition": "scab"}, None).labels["class"] == 2.0
    outcome = edit(
        tmp_path / "model", tmp_path / "data", tmp_path / "out", "dafusion", where=["condition=scab"], strength=0.5,
        settings=Sampling("euler", 2), backend="torch",
    )  # fmt: skip
    assert outcome.count == 4
    assert outcome.before is None and outcome.after is None


# ----------------------------------------------------------------------------------------------- generating and editing


def test_generated_leaves_lie_in_class_folders_and_say_what_they_are(root, data, tmp_path):
    made = generate(
        root, tmp_path / "out", {}, 8, Sampling("dpmpp_2m", 2), like=data, balance="condition", backend="torch"
    )
    found = list(dataset.read(tmp_path / "out"))
    assert made.count == len(found) == 8
    assert {e.image.shape for e in found} == {SHAPE}
    assert sorted(e.annotation.labels["condition"] for e in found) == [0.0] * 4 + [1.0] * 4
    assert (tmp_path / "out" / "images" / "Coffee___rust").is_dir()
    about = dataset.read_info(tmp_path / "out")
    assert about["synthetic"] is True
    assert about["trained_on"] == sorted(training_ids(read_meta(root)))
    assert all(e.provenance is not None and e.provenance.kind == "synthetic" for e in found)


def test_words_become_labels_with_what_follows_from_them(root):
    found = prompt.resolve_prompt(models.open(root, "torch"), plant_disease, {"condition": "rust"}, None)
    assert found.labels == {"condition": 1.0, "crop": 0.0, "class": 1.0}


def test_words_and_numbers_of_a_request_edit_alike_and_its_record_does_it_again(root, data, tmp_path):
    options = {"where": ["condition=healthy"], "count": 2, "sampler": "euler", "steps": 2, "backend": "torch"}
    edit(root, data, tmp_path / "words", "sdedit", {"condition": "rust"}, **options)
    edit(root, data, tmp_path / "numbers", "sdedit", {"condition": 1.0}, settings=Sampling("euler", 2), **options)
    kept = record.read(tmp_path / "words")
    assert kept.verb == "edit" and kept.model == models.open(root, "torch").fingerprint
    assert kept.request["labels"] == {"condition": "rust"} and kept.request["steps"] == 2
    edit(build(EditRequest, kept.request | {"out": tmp_path / "again"}))
    first, *others = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "images").rglob("*.png")}
        for name in ("words", "numbers", "again")
    )
    assert first and all(other == first for other in others)
    assert dataset.read_info(tmp_path / "words")["settings"]["steps"] == 2


def test_the_record_in_class_folders_is_no_image_of_them(root, data, tmp_path):
    generate(root, tmp_path / "out", {"condition": "rust"}, 3, Sampling("euler", 1), backend="torch")
    assert (tmp_path / "out" / record.FILE).is_file()
    prepare("plant_disease", tmp_path / "out", tmp_path / "data")
    assert len(list(dataset.read(tmp_path / "data"))) == 3
    assert not (tmp_path / "data" / "quarantine.jsonl").exists()
    for place in ("out", "data"):
        shutil.move(tmp_path / place / "manifest.jsonl", tmp_path / place / "manifest.old")
        assert len(list(plant_disease.read(tmp_path / place, size=f"{SHAPE[2]}x{SHAPE[1]}"))) == 3


def test_a_data_set_with_other_classes_is_no_pattern(root, tmp_path):
    other = {**VOCABULARY, "condition": ("healthy", "phoma")}
    plant_disease.write(leaves(8), tmp_path / "data", other)
    with pytest.raises(Error, match="--like"):
        generate(root, tmp_path / "out", {}, 2, Sampling("euler", 1), like=tmp_path / "data", backend="torch")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("procedure", list(PROCEDURES))
def test_an_edit_changes_labels_keeps_the_ground_and_the_source(root, data, tmp_path, procedure):
    seen = []
    outcome = edit(
        root, data, tmp_path / "out", procedure, {"condition": 1.0}, where=["condition=healthy"], count=3,
        settings=Sampling("euler", 3, guidance=2.0), backend="torch", watch=lambda *told: seen.append(told),
    )  # fmt: skip
    assert seen == [(procedure, n, len(seen)) for n in range(1, len(seen) + 1)], "the bar ends where the work does"
    sources = {e.id: e for e in dataset.read(data)}
    found = list(dataset.read(tmp_path / "out"))
    assert outcome.count == len(found) == 3
    for example in found:
        source = sources[example.provenance.source]
        assert example.provenance.kind == "edited"
        assert example.group == source.group
        assert example.annotation.labels["condition"] == 1.0
        assert example.annotation.labels["class"] == 1.0
        assert "severity" not in example.annotation.labels
        ground = ~plant_disease.foreground(source.image)
        same = np.abs(example.image - source.image)[:, ground].max()
        assert (same < 0.01) == (procedure != "dafusion"), "the ground is that of the source"
        assert np.abs(example.image - source.image).max() > 0.01
    assert "data:image" in (tmp_path / "out" / "report.html").read_text()


def test_a_photograph_that_cannot_be_edited_is_put_aside_with_the_reason(root, data, tmp_path):
    raw = tmp_path / "raw" / "Coffee___healthy"
    raw.mkdir(parents=True)
    picture = next((data / "images" / "Coffee___healthy").glob("*.png"))
    (raw / "good.png").write_bytes(picture.read_bytes())
    (raw / "torn.png").write_bytes(picture.read_bytes()[:100])
    outcome = edit(
        root, tmp_path / "raw", tmp_path / "out", "sdedit", {"condition": 1.0}, settings=Sampling("euler", 2),
        backend="torch",
    )  # fmt: skip
    assert outcome.count == 1
    assert [source for source, _ in outcome.aside] == ["Coffee___healthy/torn.png"]
    assert "torn.png" in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_variants_of_an_image_differ_and_share_its_group(root, data, tmp_path):
    edit(
        root, data, tmp_path / "out", "dafusion", count=2, variants=3, strength=1.0,
        settings=Sampling("euler", 2), backend="torch",
    )  # fmt: skip
    found = list(dataset.read(tmp_path / "out"))
    assert len({e.id for e in found}) == 6
    assert len({e.group for e in found}) == 2
    assert np.abs(found[0].image - found[1].image).max() > 0.01
    assert all("class" in e.annotation.labels for e in found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"procedure": "magic"}, "sdedit, inpaint, invert, dafusion"),
        ({"strength": 0.0}, "strength in"),
        ({"variants": 0}, "one variant or more"),
        ({"region": "tip"}, "spots, foreground, whole"),
        ({"where": ["condition=phoma"]}, "healthy, rust; found 'phoma'"),
        ({"where": ["severity=3"]}, "severity=3"),
    ],
)
def test_an_edit_that_cannot_be_leaves_nothing(root, data, tmp_path, changed, message):
    with pytest.raises(Error, match=message):
        edit(root, data, tmp_path / "out", backend="torch", **changed)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- export


@pytest.mark.slow
def test_all_graphs_of_a_latent_model_agree_with_torch(root):
    written, parities = export_model(root)
    assert {p.name for p in written} == {"denoiser.onnx", "encoder.onnx", "decoder.onnx", "features.onnx"}
    assert {p.output for p in parities} >= {"denoised", "latent", "image", "features", "log_probability", "level0"}
    here, there = models.open(root, "onnx"), models.open(root, "torch")
    rows = [Annotation(labels={"condition": n % 2}) for n in range(3)]
    settings = Sampling("dpmpp_2m", 4, guidance=2.0)
    ours, theirs = (sampling.sample(m, plant_disease, rows, settings, range(3)) for m in (here, there))
    assert ours == pytest.approx(theirs, abs=1e-3)
    embedded = sum(path.stat().st_size for path in written)
    assert embedded < 600_000, "weights stay in the safetensors files"
    assert json.loads((root / "model.json").read_text())["format"] == 1


def test_spots_lie_inside_and_depend_on_seed_and_number_alone():
    inside = np.zeros((32, 64), bool)
    inside[4:28, 6:58] = True
    one = REGIONS["spots"](inside, 1, 0)
    assert (one & ~inside).sum() == 0
    assert 0.15 * inside.sum() < one.sum() < 0.35 * inside.sum()
    assert np.array_equal(one, REGIONS["spots"](inside, 1, 0))
    assert not np.array_equal(one, REGIONS["spots"](inside, 1, 1))
