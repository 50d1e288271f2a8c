"""Stable Diffusion folders: opened, they sample what diffusers samples; saved, diffusers samples what we do.

The oracle is diffusers itself, on small pipelines whose U-Net was trained for a moment.
"""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from pathlib import Path

import pipelines
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)  # fmt: skip
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from toolkit.diffusion import guidance, schedule, spacing
from toolkit.diffusion.model import TEXT
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.diffusion.schedule import SIGMA_CAP
from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import image_shape, read_meta, spec_of
from toolkit.networks import folder, pipeline, pipeline_save
from toolkit.networks.checkpoints import vocabulary
from toolkit.networks.preconditioning import PARAMETERISATIONS

# diffusers 0.42 hands tensors to numpy 2 in a way that numpy does not want for long.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

PROMPTS = ["right pleural Effusion, no  pneumothorax!", "Normal chest; the patient's 2 lungs are clear"]
EPS, V = "epsilon", "v_prediction"
LIMIT = 2e-4
"""The largest difference that latents and images may have."""


@functools.cache
def unet_of(prediction):
    torch.manual_seed(1)
    return pipelines.taught(pipelines.unet(), prediction)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A pipeline with the scheduler of Stable Diffusion 1."""
    scheduler = PNDMScheduler(
        **{k: v for k, v in pipelines.SD.items() if k != "clip_sample"},
        skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return pipelines.write(tmp_path_factory.mktemp("sd") / "pipeline", scheduler, unet_of(EPS))


@pytest.fixture(scope="module")
def whole(root):
    return theirs(root)


def theirs(root):
    """The pipeline as diffusers opens it."""
    found = StableDiffusionPipeline.from_pretrained(root, safety_checker=None, local_files_only=True)
    found.set_progress_bar_config(disable=True)
    return found


def noise(count=2, shape=(4, 8, 8)):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))


def ours(model, sampler, sigmas, scale, start, prompts=PROMPTS):
    """(latents, images) of our own walk from the same noise, in the units of a pipeline."""
    spec = model.denoiser.spec
    cond, null = ({TEXT: model.text(texts)} for texts in (prompts, [""] * len(prompts)))
    denoise = guidance.classifier_free(model.denoiser, cond, null, scale)
    x = SAMPLERS[sampler](denoise, spec.initial_scale(sigmas[0]) * start, sigmas, None)
    latents = x / spec.initial_scale(sigmas[-1])  # where the walk ends above 0 a pipeline decodes x_vp
    return latents, (model.codec.decode(latents) / 2 + 0.5).clamp(0, 1)


def drawn(pipe, steps, scale, start, prompts=PROMPTS):
    """(latents, images) of diffusers. A guidance of 1 is none there."""
    given = {"num_inference_steps": steps, "guidance_scale": scale, "latents": start}
    latents = pipe(prompts, output_type="latent", **given).images
    with torch.no_grad():  # what the pipeline does next
        images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return latents, pipe.image_processor.postprocess(images, output_type="pt")


# ------------------------------------------------------------------------------------------------------- noise levels


def test_the_end_of_a_walk_is_the_checkpoints(root):
    told = pipeline_folder.read_meta(root)
    first = schedule.clock_from_config(**told["clock"]).sigmas[0]
    assert pipeline_folder.sigmas(told, 50)[-1] == first == pytest.approx(0.0292, abs=1e-4)
    told["scheduler"]["set_alpha_to_one"] = True
    assert pipeline_folder.sigmas(told, 50)[-1] == 0.0


@pytest.mark.parametrize(
    "changes, steps, words",
    [
        ({"_class_name": "MyScheduler"}, 4, r"A scheduler is one of .*; found MyScheduler"),
        ({"timestep_spacing": "odd"}, 4, r"leading, trailing or linspace; found 'odd'"),
        ({}, 0, r"at least one is taken"),
        ({}, 1001, r"none twice; found 1001"),
        ({"steps_offset": 1}, 1000, r"Take fewer steps"),
    ],
)
def test_a_scheduler_that_is_not_known_is_refused(root, changes, steps, words):
    told = pipeline_folder.read_meta(root)
    told["scheduler"] |= {"set_alpha_to_one": False, "steps_offset": 0} | changes
    with pytest.raises(Error, match=words):
        pipeline_folder.sigmas(told, steps)


# -------------------------------------------------------------------------------------------------------------- opening


def test_what_a_pipeline_says_of_itself_needs_no_network(root):
    assert pipeline_folder.is_pipeline(root)
    assert not pipeline_folder.is_pipeline(root / "unet")
    told = pipeline_folder.read_meta(root)
    spec = spec_of(told)
    assert told == json.loads(json.dumps(told))
    assert (spec.shape, image_shape(told)) == ((4, 8, 8), (3, 16, 16))
    assert spec.fields[TEXT].shape == (77, 24)
    assert (spec.sigma_data, spec.initial_variance) == (1.0, 1.0)
    assert (spec.sigma_min, spec.sigma_max) == pytest.approx((0.0292, 14.6146), abs=1e-4)
    assert told["parts"]["denoiser"]["parameterisation"] == "epsilon"
    assert image_shape(pipeline_folder.read_meta(root, channels=1, size=32)) == (1, 32, 32)
    assert set(pipeline_folder.PARAMETERISATION.values()) < set(PARAMETERISATIONS)


@pytest.mark.parametrize("pad", [pipelines.END, "!"])
def test_texts_have_clips_tokens_and_hidden_states(tmp_path, pad):
    root = pipelines.write(tmp_path / "pipeline", pad=pad)
    pipe, model = theirs(root), pipeline.open(root, "cpu")
    texts = [*PROMPTS, "", "it's 38.5 °C; naïve ÉTÉ\n\n日本 <|endoftext|> !!! don't", "a " * 74]
    given = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
    wanted = pipe.tokenizer(texts, **given).input_ids
    tokens = vocabulary.read_tokenizer(root, 77)
    assert torch.equal(torch.from_numpy(tokens(texts)), wanted)
    assert (wanted[2] == pipe.tokenizer.pad_token_id).sum() >= 75
    hidden = pipe.encode_prompt(texts, "cpu", 1, False)[0]
    assert (model.text(texts) - hidden).abs().max() < 1e-5
    assert (hidden[0] - hidden[1]).abs().max() > 0.1
    # and the other way to keep a tokenizer, a single file, gives the same
    (root / "tokenizer" / "vocab.json").unlink()
    pipe.tokenizer.save_pretrained(root / "tokenizer")
    assert not (root / "tokenizer" / "vocab.json").exists()
    assert torch.equal(torch.from_numpy(vocabulary.read_tokenizer(root, 77)(texts)), wanted)


def test_a_prompt_that_is_too_long_is_cut_and_said_to_be(root, whole):
    long = "pleural effusion " * 60
    wanted = whole.tokenizer([long], padding="max_length", truncation=True, return_tensors="pt").input_ids
    tokens = vocabulary.read_tokenizer(root, 77)
    with pytest.warns(UserWarning, match=r"at most 75 tokens"):
        found = tokens([long, "short"])
    assert found[0].tolist() == wanted[0].tolist()


WALKS = [
    (EPS, DDIMScheduler, "euler", 10, {"set_alpha_to_one": False}),
    (V, DDIMScheduler, "euler", 8, {"timestep_spacing": "trailing"}),
    (EPS, DDIMScheduler, "euler", 5, {"beta_schedule": "linear", "timestep_spacing": "leading"}),
    (EPS, DPMSolverMultistepScheduler, "dpmpp_2m", 8, {}),
    (V, DPMSolverMultistepScheduler, "dpmpp_2m", 10, {"timestep_spacing": "leading"}),
    (V, DPMSolverMultistepScheduler, "dpmpp_2m", 8, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    (EPS, EulerDiscreteScheduler, "euler", 8, {"timestep_spacing": "leading"}),
]
SLOW = [
    ("sample", DDIMScheduler, "euler", 10, {}),
    (EPS, DPMSolverMultistepScheduler, "dpmpp_2m", 16, {"final_sigmas_type": "sigma_min"}),
    (EPS, DDIMScheduler, "euler", 50, {"set_alpha_to_one": False}),
    (EPS, DPMSolverMultistepScheduler, "dpmpp_2m", 25, {"timestep_spacing": "trailing"}),
    (V, DDIMScheduler, "euler", 25, {"timestep_spacing": "leading"}),
    (V, DPMSolverMultistepScheduler, "dpmpp_2m", 20, {"final_sigmas_type": "sigma_min"}),
    (V, EulerDiscreteScheduler, "euler", 20, {"timestep_spacing": "leading"}),
]


@pytest.mark.parametrize(
    "prediction, kind, sampler, steps, options",
    [*WALKS, *(pytest.param(*walk, marks=pytest.mark.slow) for walk in SLOW)],
)
def test_samples_are_those_of_diffusers(root, whole, tmp_path, prediction, kind, sampler, steps, options):
    unet, place = unet_of(prediction), tmp_path / "pipeline"
    shutil.copytree(root, place)
    betas = {k: v for k, v in pipelines.SD.items() if k != "clip_sample" or kind is DDIMScheduler}
    scheduler = kind(**betas | {"prediction_type": prediction, "steps_offset": 1} | options)
    scheduler.save_pretrained(place / "scheduler")
    index = json.loads((place / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"][1] = kind.__name__
    (place / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    unet.save_pretrained(place / "unet")
    pipe = StableDiffusionPipeline(
        whole.vae, whole.text_encoder, whole.tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The training of .* ended in pure noise"
        )  # squaredcos, but not where we begin
        model = pipeline.open(place, "cpu")
    start, results = noise(), []
    sigmas = pipeline_folder.sigmas(model.meta, steps)
    for scale in (1, 5):
        (latents, images), (wanted, pictures) = (
            ours(model, sampler, sigmas, scale, start),
            drawn(pipe, steps, scale, start),
        )
        assert (latents - wanted).abs().max() < LIMIT
        assert (images - pictures).abs().max() < LIMIT
        assert 0.1 < wanted.std() < 10
        assert pictures.std() > 0.02
        results.append(wanted)
    # guidance and prompt mattered, or agreement would say little
    assert (results[0] - results[1]).abs().max() > 30 * LIMIT
    swapped, _ = ours(model, sampler, sigmas, 5, start, PROMPTS[::-1])
    assert (swapped - results[1]).abs().max() > 30 * LIMIT


def test_an_offset_of_none_is_the_one_that_diffusers_puts_in(root, tmp_path):
    place = damaged(root, tmp_path, edit("scheduler/scheduler_config.json", steps_offset=0))
    with pytest.warns(FutureWarning, match=r"`steps_offset` should be set to 1"):
        times = pipelines.walked(theirs(place).scheduler, 20)
    assert pipeline_folder.sigmas(pipeline_folder.read_meta(place), 20) == pytest.approx(times, rel=2e-3)


def test_zero_terminal_snr_starts_at_the_cap_and_says_so(tmp_path):
    scheduler = DDIMScheduler(
        **pipelines.SD, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        steps_offset=1,
    )  # fmt: skip
    place = pipelines.write(tmp_path / "pipeline", scheduler, unet_of(V))
    with pytest.warns(UserWarning, match=r"ended in pure noise, at a sigma above 4096"):
        model = pipeline.open(place, "cpu")
    sigmas = pipeline_folder.sigmas(model.meta, 10)
    assert sigmas[0] == SIGMA_CAP == model.denoiser.spec.sigma_max
    pipe = theirs(place)
    latents, _ = ours(model, "euler", sigmas, 5, noise())
    # there the first input is pure noise; ours holds 1 / 4096 of the image
    assert (latents - drawn(pipe, 10, 5, noise())[0]).abs().max() < 4 / SIGMA_CAP


def test_images_are_encoded_as_diffusers_encodes_them(root, whole):
    model = pipeline.open(root, "cpu")
    images = noise(2, (3, 16, 16)).clamp(-1, 1)
    with torch.no_grad():
        wanted = whole.vae.encode(images).latent_dist.mean * whole.vae.config.scaling_factor
    assert (model.codec.encode(images) - wanted).abs().max() < 1e-6
    assert model.backend == "torch:cpu"
    assert len(model.fingerprint) == 64


def test_grey_images_pass_through_a_vae_of_colours(root):
    coloured, model = pipeline.open(root, "cpu"), pipeline.open(root, "cpu", channels=1)
    images = noise(2, (1, 16, 16)).clamp(-1, 1)
    latents = coloured.codec.encode(images.expand(-1, 3, -1, -1))
    assert (model.codec.encode(images) - latents).abs().max() < 1e-5
    assert (model.codec.decode(latents) - coloured.codec.decode(latents).mean(1, keepdim=True)).abs().max() < 1e-5
    assert coloured.codec.decode(latents).std(1).max() > 0.01  # the three were not one already
    assert image_shape(model.meta) == (1, 16, 16)


def test_weights_of_half_precision_and_in_pieces_open(root, tmp_path):
    place = tmp_path / "pipeline"
    shutil.copytree(root, place)
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(
        {k: v.half() for k, v in load_file(path).items()}, path.with_name("diffusion_pytorch_model.fp16.safetensors")
    )
    path.unlink()
    (place / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    AutoencoderKL.from_pretrained(root / "vae").save_pretrained(place / "vae", max_shard_size="20KB")
    assert len(list((place / "vae").glob("*.safetensors"))) > 1
    half, full = pipeline.open(place, "cpu"), pipeline.open(root, "cpu")
    x, cond = noise(), {TEXT: full.text(PROMPTS)}
    found, wanted = (model.denoiser(x, 1.0, cond) for model in (half, full))
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.02
    assert torch.equal(half.codec.decode(x), full.codec.decode(x))


def test_weights_under_the_names_of_older_libraries_open(root, tmp_path):
    """As the files of Stable Diffusion 1.5 have them: query, key, value, proj_attn, and the numbers of the positions."""
    place = tmp_path / "pipeline"
    shutil.copytree(root, place)
    path = place / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights, renamed = load_file(path), 0
    for name in list(weights):
        for new, former in old.items():
            if f".{new}." in name:
                weights[name.replace(new, former)] = weights.pop(name)
                renamed += 1
    assert renamed == 16
    save_file(weights, path, {"format": "pt"})
    path = place / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path, {"format": "pt"})
    found, wanted = pipeline.open(place, "cpu"), pipeline.open(root, "cpu")
    x = noise()
    assert torch.equal(found.codec.decode(x), wanted.codec.decode(x))
    assert torch.equal(found.text(PROMPTS), wanted.text(PROMPTS))


# --------------------------------------------------------------------------------------------------------- refusals


def damaged(root, tmp_path, change):
    place = tmp_path / "pipeline"
    shutil.copytree(root, place)
    change(place)
    return place


def edit(name, **changes):
    def change(place):
        path = place / name
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")

    return change


def pickled(place):
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


def lacking(place):
    path = place / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    weights.pop(next(name for name in weights if name.endswith("final_layer_norm.weight")))
    save_file(weights, path, {"format": "pt"})


REFUSED = {
    "sdxl": (edit("model_index.json", text_encoder_2=["transformers", "CLIPTextModelWithProjection"]), r"SDXL"),
    "other kind": (edit("model_index.json", _class_name="FluxPipeline"), r"is FluxPipeline"),
    "own code": (edit("model_index.json", unet=["my_unet", "MyUNet"]), r"no code of the folder is run"),
    "other scheduler": (
        edit("model_index.json", scheduler=["my_scheduler", "LCMScheduler"]),
        r"names LCMScheduler of my_",
    ),
    "no vae": (lambda place: shutil.rmtree(place / "vae"), r"has no vae"),
    "no config": (lambda place: (place / "unet" / "config.json").unlink(), r"has config.json; .* has none"),
    "torn config": (lambda place: (place / "unet" / "config.json").write_text("{"), r"is JSON"),
    "inpainting": (edit("unet/config.json", in_channels=9), r"an inpainting U-Net"),
    "other conditions": (edit("unet/config.json", addition_embed_type="text_time"), r"addition_embed_type = text_time"),
    "other text": (edit("unet/config.json", cross_attention_dim=32), r"has 32 and 24"),
    "other prediction": (
        edit("scheduler/scheduler_config.json", prediction_type="flow_prediction"),
        r"set to flow matching",
    ),
    "channels": (edit("vae/config.json", out_channels=2), r"3 in and 2 out"),
    "pickled": (pickled, r"has only diffusion_pytorch_model.bin"),
    "no weights": (lambda place: (place / "vae" / "diffusion_pytorch_model.safetensors").unlink(), r"has none"),
    "lacking": (lacking, r"lacks .*final_layer_norm.weight"),
    "other size": (edit("unet/config.json", block_out_channels=[16, 48]), r"Weights must fit config.json"),
    "torn weights": (
        lambda place: (place / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x08" + bytes(9)),
        r"Weights are a safetensors file",
    ),
    "no merges": (lambda place: (place / "tokenizer" / "merges.txt").unlink(), r"A CLIP tokenizer is vocab.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_pipeline_is_refused_in_one_line(root, tmp_path, case):
    change, words = REFUSED[case]
    place = damaged(root, tmp_path, change)
    with pytest.raises(Error, match=words) as problem:
        pipeline.open(place, "cpu")
    assert "\n" not in str(problem.value)


def test_sizes_and_channels_that_do_not_fit_are_refused(root):
    with pytest.raises(Error, match=r"multiples of 2; found 17"):
        pipeline_folder.read_meta(root, size=17)
    with pytest.raises(Error, match=r"asked for were 2"):
        pipeline_folder.read_meta(root, channels=2)


# ------------------------------------------------------------------------------------------------- as a model folder


def test_a_converted_pipeline_is_a_model_folder(root, tmp_path):
    out = tmp_path / "model"
    pipeline.convert(root, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "codec.safetensors", "denoiser.safetensors", "model.json", "text.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    model, original = folder.open(out, "cpu"), pipeline.open(root, "cpu")
    assert model.denoiser.spec == original.denoiser.spec
    sigmas = pipeline_folder.sigmas(read_meta(out), 10)
    found, wanted = (ours(one, "euler", sigmas, 5, noise())[0] for one in (model, original))
    assert 0 < (found - wanted).abs().max() < 0.05 * wanted.std()  # weights were rounded to fp16
    with pytest.raises(Error, match=r"is not empty"):
        pipeline.convert(root, out)


def test_a_converted_pipeline_saved_again_is_the_pipeline(root, tmp_path):
    pipeline.convert(root, tmp_path / "model")
    pipeline_save.save(tmp_path / "model", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert again == pipeline_folder.read_meta(root)["scheduler"]
    found, wanted = (pipeline.open(place, "cpu") for place in (tmp_path / "again", root))
    x, cond = noise(), {TEXT: wanted.text(PROMPTS)}
    assert (found.text(PROMPTS) - cond[TEXT]).abs().max() < 0.05
    assert (found.denoiser(x, 2.0, cond) - wanted.denoiser(x, 2.0, cond)).abs().max() < 0.05
    assert (found.codec.decode(x) - wanted.codec.decode(x)).abs().max() < 0.02


# -------------------------------------------------------------------------------------------------------- saving back

NETWORK = {"channels": [16, 32], "layers": 1, "attention_head_dim": 8, "norm_groups": 4, "attention": 1}
CODEC = {"channels": [8, 16], "layers": 1, "norm_groups": 4}
FIELDS = {
    TEXT: {"shape": [77, 32], "dtype": "float32", "null": 0.0},
    "view": {"shape": [], "dtype": "int64", "null": 4},
    "sex": {"shape": [], "dtype": "int64", "null": 2},
    "age": {"shape": [], "dtype": "float32", "null": 0.0},
    "age_known": {"shape": [], "dtype": "float32", "null": 0.0},
}
SAYINGS = [
    "right pleural effusion",
    "no acute findings",
    "the heart is enlarged",
    "Left lower lobe pneumonia. 2 cm nodule!",
]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A model of ours, with fields, latent shifts and a tokenizer of its own, that has learned next to nothing."""
    root = tmp_path_factory.mktemp("own") / "model"
    root.mkdir()
    torch.manual_seed(2)
    words = tokenizer.train(SAYINGS * 3, 77, 640)
    clock = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    ends = schedule.clock_from_config(**clock).sigmas
    text = {"network": {"channels": [32, 16], "layers": 2, "attention_head_dim": 8}, "tokens": 77, "words": words.words}
    meta = {
        "format": 1, "domain": "chest_xray", "labels": {}, "clock": clock, "image_shape": [1, 16, 16],
        "spec": {
            "shape": [4, 8, 8], "fields": FIELDS, "sigma_min": ends[0], "sigma_max": ends[-1], "sigma_data": 1.0,
            "initial_variance": 1.0,
        },
        "parts": {
            "denoiser": {"network": NETWORK, "parameterisation": "velocity"},
            "codec": {"network": CODEC, "latent_channels": 4},
            TEXT: text | {"features": 24},
        },
    }  # fmt: skip
    codec = folder.build("codec", meta)
    codec.shift.copy_(torch.tensor([0.3, -0.7, 0.1, 2.0]))
    codec.scale.copy_(torch.tensor([0.5, 3.0, 1.4, 0.8]))
    for part, module in (
        ("denoiser", folder.build("denoiser", meta)),
        ("codec", codec),
        (TEXT, folder.build(TEXT, meta)),
    ):
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if ("attn2.to_" in name and name.endswith("weight")) or ".embeddings." in name:
                    weight *= 4  # so that words matter
        folder.save_part(root, part, module.state_dict(), meta)
    words.save(root / tokenizer.FILE)
    return root


@pytest.fixture(scope="module")
def saved(own, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("saved") / "pipeline"
    pipeline_save.save(own, out)
    return out


def nothing_stated(count):
    return {
        name: torch.full((count,), field["null"], dtype=getattr(torch, field["dtype"]))
        for name, field in FIELDS.items()
        if name != TEXT
    }


@pytest.mark.parametrize("scale", [1, 4])
def test_diffusers_samples_from_a_saved_model_what_we_sample(own, saved, scale):
    model, pipe = folder.open(own, "cpu"), theirs(saved)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    sigmas = spacing.sigmas(pipeline_save.scheduler(model.meta), schedule.clock_from_config(**model.meta["clock"]), 10)
    assert (sigmas[0], sigmas[-1]) == (model.denoiser.spec.sigma_max, 0.0)
    spec, start = model.denoiser.spec, noise()
    cond, null = ({TEXT: model.text(texts), **nothing_stated(2)} for texts in (SAYINGS[:2], ["", ""]))
    denoise = guidance.classifier_free(model.denoiser, cond, null, scale)
    latents = SAMPLERS["euler"](denoise, spec.initial_scale(sigmas[0]) * start, sigmas, None)
    images = (model.codec.decode(latents) / 2 + 0.5).clamp(0, 1)
    wanted, pictures = drawn(pipe, 10, scale, start, SAYINGS[:2])
    assert (latents - wanted).abs().max() < LIMIT
    assert (images - pictures).abs().max() < LIMIT
    assert wanted.std() > 0.1
    assert pictures.std() > 0.02
    # what is folded in matters: another field changes the sample by more than the tolerance
    cond["view"] = torch.zeros(2, dtype=torch.int64)
    other = SAMPLERS["euler"](
        guidance.conditioned(model.denoiser, cond), spec.initial_scale(sigmas[0]) * start, sigmas, None
    )
    assert (other - latents).abs().max() > 10 * LIMIT


def test_the_images_of_a_saved_model_are_grey(saved):
    pipe = theirs(saved)
    image = pipe(SAYINGS[0], num_inference_steps=2, latents=noise(1)).images[0]
    assert (image.mode, image.size) == ("L", (16, 16))


def test_a_saved_model_may_have_three_equal_channels(own, saved, tmp_path):
    pipeline_save.save(own, tmp_path / "coloured", channels=3)
    grey, coloured = (AutoencoderKL.from_pretrained(place / "vae") for place in (saved, tmp_path / "coloured"))
    latents = noise()
    images = coloured.decode(latents).sample
    assert images.shape == (2, 3, 16, 16)
    assert (images - grey.decode(latents).sample).abs().max() < 1e-5
    again = coloured.encode(images).latent_dist
    wanted = grey.encode(images[:, :1]).latent_dist
    assert (again.mean - wanted.mean).abs().max() < 1e-4
    assert (again.logvar - wanted.logvar).abs().max() < 1e-4


def test_latents_of_a_saved_model_are_normalised_as_ours(own, saved):
    vae, codec = AutoencoderKL.from_pretrained(saved / "vae"), folder.load_part(own, "codec")
    images = noise(2, (1, 16, 16)).clamp(-1, 1)
    assert vae.config.scaling_factor == 1
    theirs_, own_ = vae.encode(images).latent_dist, codec.vae.encode(images).latent_dist
    assert (theirs_.mean - codec.encode(images)).abs().max() < 1e-4
    assert torch.allclose(theirs_.std, own_.std * codec.scale[:, None, None], rtol=1e-4)
    assert (codec.encode(images) - own_.mean).abs().max() > 0.1


def test_what_others_look_for_is_in_a_saved_model(own, saved):
    """The names of weights and the files of older readers, and no name of ours in a config."""
    weights = load_file(saved / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in weights)
    config = CLIPTextConfig.from_pretrained(saved / "text_encoder")
    fresh, known = CLIPTextModel.from_pretrained(saved / "text_encoder", output_loading_info=True)
    assert not known["missing_keys"]
    assert not known["unexpected_keys"]
    wanted = folder.load_part(own, TEXT).clip.state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in fresh.state_dict().items())
    words = json.loads((saved / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert len(words) == config.vocab_size == len(set(words.values()))
    assert (words[tokenizer.START], words[tokenizer.END]) == (config.bos_token_id, config.eos_token_id)
    merges = (saved / "tokenizer" / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert merges[0] == "#version: 0.2"
    assert all("".join(line.split()) in words for line in merges[1:])
    assert len(merges) > 30


def test_a_saved_tokenizer_reads_as_ours(own, saved):
    from transformers import CLIPTokenizer

    texts = [*SAYINGS, "", "naïve ÉTÉ  日本, it's 38.5°", "unseen Words\tabound <|endoftext|> ok"]
    wanted = tokenizer.open(own, 77)(texts)
    (saved / "tokenizer" / "tokenizer.json").rename(
        saved / "tokenizer" / "aside"
    )  # older readers have the two files only
    try:
        plain = CLIPTokenizer.from_pretrained(saved / "tokenizer")
    finally:
        (saved / "tokenizer" / "aside").rename(saved / "tokenizer" / "tokenizer.json")
    for found in (plain, CLIPTokenizer.from_pretrained(saved / "tokenizer")):
        ids = found(texts, padding="max_length", truncation=True, max_length=77).input_ids
        assert ids == wanted.tolist()
        assert found.model_max_length == 77


def test_a_saved_model_opens_here_again(own, saved):
    model, again = folder.open(own, "cpu"), pipeline.open(saved, "cpu")
    x, cond = noise(), {TEXT: model.text(SAYINGS[:2])}
    assert (again.text(SAYINGS[:2]) - cond[TEXT]).abs().max() < 1e-5
    found, wanted = again.denoiser(x, 3.0, cond), model.denoiser(x, 3.0, cond | nothing_stated(2))
    assert (found - wanted).abs().max() < 1e-4
    assert (again.codec.decode(x) - model.codec.decode(x)).abs().max() < 1e-4


def test_only_models_told_in_words_on_a_clock_are_saved(own, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(own, place)
    meta = read_meta(place)
    for changed, words in (
        (meta | {"parts": {k: v for k, v in meta["parts"].items() if k != TEXT}}, r"has no text"),
        (meta | {"parts": meta["parts"] | {"denoiser": {"network": NETWORK, "parameterisation": "edm"}}}, r"is edm"),
    ):
        (place / "model.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(Error, match=words):
            pipeline_save.save(place, tmp_path / "out")
    with pytest.raises(Error, match=r"is not empty"):
        pipeline_save.save(own, place)
    assert not (tmp_path / "out").exists()
