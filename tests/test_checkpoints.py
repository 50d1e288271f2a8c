"""Stable Diffusion checkpoints through the verbs: generate from one, fine-tune one, export one, save ours as one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pipelines
import pydicom
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffgraft import models
from diffgraft.deployment.export import export as export_model
from diffgraft.generation.generate import generate
from diffgraft.generation.sampling import sigma_schedule
from diffgraft.models.defaults import default_sampling
from diffgraft.requests import record
from diffgraft.training import train as training
from diffgraft.training.base_model import adopt_text_encoder
from diffgraft.training.data import read_data
from domains import chest_xray
from toolkit.data import dataset, labels
from toolkit.example import Annotation, Error, Example
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import read_meta, training_ids
from toolkit.networks import folder
from toolkit.settings import Sampling

QUICK = Sampling(sampler="euler", steps=3, schedule="own", guidance=2.0)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return pipelines.write(tmp_path_factory.mktemp("sd") / "pipeline")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Films of 32 x 32: bright on the right with an effusion."""
    root = tmp_path_factory.mktemp("films") / "data"
    random = np.random.default_rng(0)

    def films():
        for n in range(24):
            image = random.normal(0, 0.2, (1, 32, 32)).astype(np.float32)
            image[..., 16:] += 0.5 * (n % 2)
            known = dict.fromkeys(chest_xray.VOCABULARY, math.nan) | {"view": n % 4, "effusion": float(n % 2)}
            yield Example(
                f"film{n}", image.clip(-1, 1), Annotation("Effusion" if n % 2 else None, known), f"patient{n}"
            )

    dataset.write(films(), root, domain="chest_xray", labels=labels.to_json(chest_xray.VOCABULARY))
    return root


def test_a_pipeline_folder_generates_films_by_text(pipeline, tmp_path) -> None:
    made = generate(
        pipeline, tmp_path / "out", {}, 2, QUICK, text="PA view, right effusion", format="dicom", backend="torch"
    )
    found = list(dataset.read(tmp_path / "out"))
    assert made.count == 2 and [e.annotation.text for e in found] == ["PA view, right effusion"] * 2
    assert found[0].image.shape == (1, 16, 16) and not np.array_equal(found[0].image, found[1].image)
    film = pydicom.dcmread(tmp_path / "out" / "dicom" / f"{found[0].id}.dcm")
    assert film["SyntheticData"].value == "YES" and film.ImageComments == "PA view, right effusion"
    assert "trained_on" not in dataset.read_info(tmp_path / "out")  # unknown, which is not none


def test_prompts_are_given_images_each(pipeline, tmp_path) -> None:
    generate(pipeline, tmp_path / "out", {}, 2, QUICK, prompts=["PA view", "lateral view"], backend="torch")
    assert [e.annotation.text for e in dataset.read(tmp_path / "out")] == ["PA view"] * 2 + ["lateral view"] * 2
    with pytest.raises(Error, match="Prompts are the texts"):
        generate(pipeline, tmp_path / "no", {}, 1, QUICK, prompts=["a"], text="b", backend="torch")


def test_a_checkpoint_walks_its_own_noise_levels_unless_others_are_asked_for(pipeline) -> None:
    model = models.open(pipeline, "torch")
    usual = default_sampling(model.meta)
    assert usual.schedule == "own" and usual.guidance == 7.5
    assert sigma_schedule(model, usual) == pipeline_folder.sigmas(model.meta, usual.steps)
    other = sigma_schedule(model, Sampling(schedule="karras", steps=5))
    assert other[-1] == 0 and len(other) == 6


def test_a_pipeline_is_not_run_by_onnx_nor_exported_in_place(pipeline, tmp_path) -> None:
    with pytest.raises(Error, match="exported into a model folder first"):
        models.open(pipeline, "onnx")
    with pytest.raises(Error, match="needs a new one"):
        export_model(pipeline)
    with pytest.raises(Error, match="openvino or diffusers"):
        export_model(pipeline, "coreml", tmp_path / "out")


def train(data: Path, root: Path, **changes):
    changes = {
        "steps": 4, "batch": 4, "variants": 1, "precision": "fp32", "warmup": 1, "learning_rate": 1e-2, "ema": 0.5, **changes,
    }  # fmt: skip
    return training.train(chest_xray, data, root, "denoiser", **changes)


@pytest.mark.parametrize("changes", [{}, {"lora": 2}, {"joint": True}], ids=["whole", "lora", "joint"])
def test_a_pipeline_is_fine_tuned_on_films_and_their_texts(pipeline, data, tmp_path, changes) -> None:
    """As RoentGen: the U-Net learns, the VAE stays, and the text encoder only where it is asked to."""
    facts = train(data, tmp_path / "model", base=pipeline, **changes)
    meta = read_meta(tmp_path / "model")
    tuned = {part: folder.load_part(tmp_path / "model", part).state_dict() for part in ("denoiser", "codec", "text")}
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", use_safetensors=True).state_dict()
    moved = {
        name
        for name, value in unet.items()
        if not torch.allclose(tuned["denoiser"][f"network.unet.{name}"], value, atol=1e-3)
    }
    still = AutoencoderKL.from_pretrained(pipeline / "vae", use_safetensors=True).state_dict()
    name = "decoder.conv_in.weight"
    assert torch.allclose(tuned["codec"][f"vae.{name}"], still[name], atol=1e-3)
    assert moved and set(tuned["denoiser"]) == {f"network.unet.{name}" for name in unet}
    if "lora" in changes:
        assert all("attn" in name for name in moved)
        assert 0 < facts["parameters"] < 0.2 * sum(v.numel() for v in unet.values())  # type: ignore[operator]
    base = folder.load_part(models_of(pipeline, tmp_path), "text").state_dict()
    changed = any(not torch.allclose(tuned["text"][k], v, atol=1e-3) for k, v in base.items())
    assert changed is ("joint" in changes)
    assert meta["image_shape"] == [1, 32, 32] and meta["labels"]["view"] == list(chest_xray.VIEWS)
    assert training_ids(meta) is None and len(training_ids(meta, ["denoiser"]) or ()) == facts["samples"]
    made = generate(tmp_path / "model", tmp_path / "out", {}, 1, QUICK, text="effusion", backend="torch")
    assert made.count == 1


def models_of(pipeline: Path, place: Path) -> Path:
    from toolkit.networks.pipeline import convert

    if not (place / "base").exists():
        convert(pipeline, place / "base")
    return place / "base"


def take_text(data: Path, root: Path, base: Path) -> int:
    return adopt_text_encoder(chest_xray, root, base, read_data(chest_xray, data, None))["parameters"]


def test_a_pretrained_text_encoder_is_taken_from_a_folder(pipeline, data, tmp_path) -> None:
    facts = training.train(chest_xray, data, tmp_path / "model", "text", base=pipeline)
    count = facts["parameters"]
    assert facts["frozen"] and record.read(tmp_path / "model" / "training" / "text").verb == "train"
    meta = read_meta(tmp_path / "model")
    assert meta["spec"]["fields"]["text"]["shape"] == [77, 24] and count > 10_000
    assert list(meta["spec"]["fields"]) == ["text", "view", "sex", "age", "age_known"]
    with pytest.raises(Error, match="chosen before"):
        take_text(data, tmp_path / "model", pipeline)
    with pytest.raises(Error, match="text_encoder/ and tokenizer/"):
        take_text(data, tmp_path / "other", tmp_path)


@pytest.mark.slow
def test_a_pipeline_is_exported_and_runs_on_onnx_alike(pipeline, tmp_path) -> None:
    written, parities = export_model(pipeline, "onnx", tmp_path / "model")
    assert {path.name for path in written} == {"denoiser.onnx", "encoder.onnx", "decoder.onnx", "text.onnx"}
    assert max(parity.error for parity in parities) < 1e-4
    for place, backend in ((pipeline, "torch"), (tmp_path / "model", "onnx")):
        generate(place, tmp_path / backend, {}, 2, QUICK, text="effusion", backend=backend)
    ours, theirs = (np.stack([e.image for e in dataset.read(tmp_path / b)]) for b in ("torch", "onnx"))
    assert np.abs(ours - theirs).max() < 2e-2  # the model folder's weights are rounded to fp16


@pytest.mark.slow
def test_a_low_rank_training_is_merged_before_it_is_exported(pipeline, data, tmp_path) -> None:
    train(data, tmp_path / "model", base=pipeline, lora=2)
    _, parities = export_model(tmp_path / "model")
    assert max(parity.error for parity in parities if parity.output == "denoised") < 1e-4
    graph = onnx.load(tmp_path / "model" / "denoiser.onnx", load_external_data=False).graph
    assert not [tensor.name for tensor in graph.initializer if "lora" in tensor.name]
