"""The starter model of chest films, as it is shipped: what it makes, whether that is what was asked for, and how it is kept."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest

from diffgraft import models
from diffgraft.deployment.export import export as export_model
from diffgraft.generation.generate import generate
from domains import chest_xray
from toolkit.data import dataset, xmp
from toolkit.example import Annotation, Note
from toolkit.models.folder import hash_id, read_meta

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "chest_xray"
REAL = ROOT.parent / "shared" / "data" / "cxr"
real_films = pytest.mark.skipif(not REAL.is_dir(), reason="no real films beside the checkout (../shared/data/cxr)")
EACH = 4


@pytest.fixture(scope="module")
def model():
    return models.open(MODEL, "onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Films for the prompts of the demo, written as DICOM too."""
    out = tmp_path_factory.mktemp("films") / "out"
    prompts = (MODEL / "prompts.txt").read_text(encoding="utf-8").splitlines()
    generate(MODEL, out, {}, EACH, prompts=prompts, format="dicom", backend="onnx")
    return out


def test_it_is_small_and_complete() -> None:
    files = {path.name for path in MODEL.iterdir() if path.is_file()}
    graphs = {f"{name}.onnx" for name in ("denoiser", "encoder", "decoder", "features", "text", "look")}
    assert graphs | {"README.md", "LICENSE", "model.json", "tokenizer.json", "prompts.txt"} <= files
    assert sum(path.stat().st_size for path in MODEL.iterdir() if path.is_file()) < 9 * 2**20


def test_the_view_follows_the_prompt(model, made) -> None:
    """A lateral film is told from a frontal one by the model's features, which learned from real films alone."""
    found = list(dataset.read(made))
    named = model.features(np.stack([e.image for e in found]))["log_probability"].argmax(1)
    lateral = np.array([chest_xray.FILMS[k].startswith("L ") for k in named])
    asked = np.array([e.annotation.labels.get("view") == chest_xray.VIEWS.index("L") for e in found])
    assert asked.any() and (lateral == asked).mean() > 0.85


def test_a_prompt_fits_its_films_better_than_those_of_other_prompts(model, made) -> None:
    found = list(dataset.read(made))
    features = model.features(np.stack([e.image for e in found]))["features"]
    texts = [e.annotation.text or "" for e in found]
    own = model.likeness(features, texts).mean()
    turned = [model.likeness(features, texts[k:] + texts[:k]).mean() for k in range(EACH, len(texts), EACH)]
    assert own > max(turned)


def test_films_are_chest_films_and_not_noise(made) -> None:
    """Of one model's films the grey levels reach both ends, and neighbouring pixels agree as those of a film do."""
    for example in dataset.read(made):
        image = example.image[0]
        assert image.max() > 0.5 and image.min() < -0.5
        assert np.corrcoef(image[1:].ravel(), image[:-1].ravel())[0, 1] > 0.9


def test_every_film_is_marked_as_synthetic_in_both_formats(made) -> None:
    for example in dataset.read(made):
        film = pydicom.dcmread(made / "dicom" / f"{example.id}.dcm")
        assert film["SyntheticData"].value == "YES" and film.PatientID.startswith("SYN-")
        assert film.ImageComments == example.annotation.text
        levels = film.pixel_array.astype(float) / 4095 * 2 - 1
        assert np.abs(levels - example.image[0]).max() < 1e-3
        assert xmp.KEYWORD.encode() in (made / "images" / f"{example.id}.png").read_bytes()
    assert (
        len({pydicom.dcmread(p, stop_before_pixels=True).StudyInstanceUID for p in (made / "dicom").iterdir()})
        == 6 * EACH
    )


def test_a_film_depends_on_its_seed_alone(model, tmp_path) -> None:
    for name, count in (("few", 2), ("more", 5)):
        generate(MODEL, tmp_path / name, {}, count, text="PA view", backend="onnx")
    few, more = ([e.image for e in dataset.read(tmp_path / name)] for name in ("few", "more"))
    assert max(np.abs(a - b).max() for a, b in zip(few, more, strict=False)) < 2e-3


def test_films_are_made_without_torch() -> None:
    program = (
        "import sys; from export.runtime import ort; m = ort.open(sys.argv[1]); m.text(['PA view']);"
        "assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(MODEL)], check=True, cwd=ROOT, timeout=120)


@real_films
def test_it_says_which_films_it_was_trained_on_and_which_patients_it_never_saw(tmp_path) -> None:
    with pytest.warns(Note, match="dates"):
        known = {hash_id(e.id): e for e in chest_xray.read(REAL)}
    parts = read_meta(MODEL)["parts"]
    # Its teacher's paths are all that a student learns from: it is shown no film.
    assert parts.pop("student")["run"]["trained_on"] == []
    for part in parts.values():
        trained = set(part["run"]["trained_on"])
        assert trained <= set(known)
        seen = {known[k].group for k in trained}
        unseen = {e.group for k, e in known.items() if k not in trained}
        assert not seen & unseen and len(unseen) == 48


@pytest.mark.slow
def test_stable_diffusion_pipeline_opens_it_and_makes_the_same_film(tmp_path) -> None:
    """Saved as a pipeline folder and sampled by diffusers from the same noise: the same film, to a thousandth."""
    import torch
    from diffusers import StableDiffusionPipeline

    from toolkit.diffusion import guidance, schedule, spacing
    from toolkit.diffusion.samplers import SAMPLERS
    from toolkit.networks import pipeline_save

    export_model(MODEL, "diffusers", tmp_path / "pipeline")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionPipeline.from_pretrained(
            tmp_path / "pipeline", safety_checker=None, local_files_only=True
        )
    pipe.set_progress_bar_config(disable=True)
    model, texts = models.open(MODEL, "torch"), ["PA view, enlarged heart", "Lateral view"]
    noise = torch.randn(2, *model.denoiser.spec.shape, generator=torch.Generator().manual_seed(0))
    levels = spacing.sigmas(pipeline_save.scheduler(model.meta), schedule.clock_from_config(**model.meta["clock"]), 20)
    unsaid = {n: model.asarray(v) for n, v in chest_xray.condition([Annotation()] * 2, _labels(model)).items()}
    told, null = ({"text": model.text(words), **unsaid} for words in (texts, ["", ""]))
    denoise = guidance.classifier_free(model.denoiser, told, null, 2.0)
    with torch.inference_mode():
        latents = SAMPLERS["euler"](denoise, model.denoiser.spec.initial_scale(levels[0]) * noise, levels, None)
        ours = (model.codec.decode(latents) / 2 + 0.5).clamp(0, 1).numpy()
        theirs = pipe(texts, num_inference_steps=20, guidance_scale=2.0, latents=noise, output_type="np").images
    assert theirs.std() > 0.1
    worst = np.abs(ours - theirs.transpose(0, 3, 1, 2)).max()
    assert worst < 1e-3


def _labels(model):
    return {name: field for name, field in model.denoiser.spec.fields.items() if name != "text"}
