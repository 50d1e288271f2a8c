"""Checkpoints in one file, of Stable Diffusion 1.x and 2.x: opened, they are the pipeline that they were made of."""

import json
import shutil

import originals
import pipelines
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraft.cli.main import app
from toolkit.diffusion.model import TEXT
from toolkit.example import Error
from toolkit.models import original, published
from toolkit.models.folder import read_meta
from toolkit.networks import pipeline
from toolkit.networks.checkpoints.writing import write_pipeline

END = pipelines.END


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return originals.write(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return originals.write(tmp_path_factory.mktemp("second"), second=True)


@pytest.fixture
def tokens(first, tmp_path):
    """A folder with a tokenizer and nothing else."""
    return shutil.copytree(first[0] / "tokenizer", tmp_path / "words" / "tokenizer").parent


def answers(root):
    model = pipeline.open(root, "cpu")
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    hidden = model.text(["pleural effusion"])
    return [hidden, model.denoiser(x, 1.0, {TEXT: hidden}), model.codec.decode(x)]


def assert_same(found, wanted):
    for each, other in zip(answers(found), answers(wanted), strict=True):
        assert (each - other).abs().max() < 1e-5
        assert other.std() > 1e-3


def test_stable_diffusion_1_in_one_file_becomes_the_folder(first, tokens, tmp_path):
    root, path = first
    write_pipeline(path, tmp_path / "out", {}, tokens)
    assert_same(tmp_path / "out", root)
    told = pipeline.pipeline_folder.read_meta(tmp_path / "out")
    assert told["image_shape"] == [3, 128, 128]  # of a VAE that halves once; 64 x 64 latents
    assert told["parts"]["denoiser"]["parameterisation"] == "epsilon"
    assert (told["clock"]["beta_start"], told["clock"]["beta_schedule"]) == (0.00085, "scaled_linear")


def test_stable_diffusion_2_in_one_file_becomes_the_folder(second, tmp_path):
    root, path = second
    words = shutil.copytree(root / "tokenizer", tmp_path / "words" / "tokenizer").parent
    with pytest.raises(Error, match=r"does not show what it predicts.* --prediction v_prediction"):
        write_pipeline(path, tmp_path / "out", {}, words)
    assert not (tmp_path / "out").exists()
    write_pipeline(path, tmp_path / "out", {}, words, "v_prediction")
    assert_same_but_prediction(tmp_path / "out", root)
    assert read_scheduler(tmp_path / "out")["prediction_type"] == "v_prediction"
    assert json.loads((tmp_path / "out" / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"] == 96


def assert_same_but_prediction(found, wanted):
    texts = [pipeline.open(root, "cpu").text(["effusion", ""]) for root in (found, wanted)]
    assert (texts[0] - texts[1]).abs().max() < 1e-5
    weights = [load_file(root / "unet" / "diffusion_pytorch_model.safetensors") for root in (found, wanted)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def read_scheduler(root):
    return json.loads((root / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "about, further, predicted, zero",
    [
        ({"modelspec.prediction_type": "epsilon"}, (), "epsilon", False),
        ({"modelspec.prediction_type": "v"}, (), "v_prediction", False),
        ({}, ("v_pred",), "v_prediction", False),
        ({}, ("v_pred", "ztsnr"), "v_prediction", True),
    ],
)
def test_what_a_file_says_of_its_prediction_is_taken(second, tmp_path, about, further, predicted, zero):
    held = load_file(second[1]) | {name: torch.zeros(()) for name in further}
    save_file(held, tmp_path / "two.safetensors", about)
    told = original.configs(tmp_path / "two.safetensors")["scheduler"]
    assert (told["prediction_type"], told["rescale_betas_zero_snr"]) == (predicted, zero)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_one_file_of_other_numbers_opens(first, tokens, tmp_path, dtype):
    held = {name: value.to(dtype) for name, value in load_file(first[1]).items()}
    save_file(held, tmp_path / "half.safetensors")
    write_pipeline(tmp_path / "half.safetensors", tmp_path / "out", {}, tokens)
    found = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    wanted = load_file(first[0] / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found[name], value.to(dtype).float()) for name, value in wanted.items())


@pytest.mark.slow
def test_a_text_encoder_of_merging_programs_opens(first, tokens, tmp_path):
    held = {
        name.replace("transformer.text_model.", "transformer."): value for name, value in load_file(first[1]).items()
    }
    save_file(held, tmp_path / "merged.safetensors")
    write_pipeline(tmp_path / "merged.safetensors", tmp_path / "out", {}, tokens)
    assert_same(tmp_path / "out", first[0])


def test_the_configs_of_a_folder_serve_where_shapes_do_not_say(tmp_path):
    """As of small networks, whose groups and heads are their own."""
    torch.manual_seed(5)
    root, path = originals.write(tmp_path / "a")
    unet = pipelines.unet(sample_size=16, cross_attention_dim=64)  # 16 wide, 4 groups
    unet.save_pretrained(root / "unet")
    held = {name: value for name, value in load_file(path).items() if not name.startswith(originals.UNET)}
    held |= {originals.UNET + originals.unet_name(name): value for name, value in unet.state_dict().items()}
    save_file({name: value.contiguous() for name, value in held.items()}, path)
    words = shutil.copytree(root / "tokenizer", tmp_path / "words" / "tokenizer").parent
    with pytest.raises(Error, match=r"multiples of 32; .* --like FOLDER"):
        write_pipeline(path, tmp_path / "out", {}, words)
    write_pipeline(path, tmp_path / "out", {}, root)
    assert_same(tmp_path / "out", root)


def test_without_a_tokenizer_the_line_says_where_to_get_one(first, tmp_path):
    with pytest.raises(Error, match=r"without its tokenizer; .* knows \d+ tokens. .*--like FOLDER"):
        write_pipeline(first[1], tmp_path / "out", {})
    with pytest.raises(Error, match=r"A tokenizer is vocab.json .* has none"):
        write_pipeline(first[1], tmp_path / "out", {}, tmp_path)


# -------------------------------------------------------------------------------------------------------- on the command line


def run(*words):
    from typer.testing import CliRunner

    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words):
    result = run(*words)
    assert result.exit_code != 0
    assert isinstance(result.exception, Error | SystemExit), result.exception
    return str(result.exception)


def test_export_makes_a_folder_of_a_file_and_never_writes_over_it(first, tokens, tmp_path):
    before = first[1].read_bytes()
    assert run("export", first[1], tmp_path / "out", "--to", "diffusers", "--like", tokens).exit_code == 0
    assert_same(tmp_path / "out", first[0])
    assert json.loads((tmp_path / "out" / "request.json").read_text(encoding="utf-8"))["verb"] == "export"
    assert "OUT" in refused("export", first[1], "--to", "onnx")
    for place in (first[1], tmp_path / "out"):
        assert refused("export", first[1], place, "--to", "diffusers", "--like", tokens)
    assert "is a file" in refused("train", "chest_xray", tmp_path, first[1])
    assert first[1].read_bytes() == before


def test_a_file_elsewhere_is_named_with_the_command_that_helps(first, tmp_path):
    for words in (
        ["generate", first[1], tmp_path / "out"],
        ["train", "chest_xray", "DATA", tmp_path / "out", "--from", first[1]],
    ):
        line = refused(*words)
        assert (
            f"is Stable Diffusion in one file. Make it a pipeline folder: diffgraft export {first[1]} FOLDER --to diffusers"
            in line
        )
    assert not (tmp_path / "out").exists()
    assert "Leave them out" in refused(
        "export", first[0], tmp_path / "out", "--to", "diffusers", "--prediction", "epsilon"
    )


KINDS = {
    "conditioner.embedders.1.model.ln_final.weight": r"Stable Diffusion XL, which has two text encoders.* Take a checkpoint of Stable",
    "conditioner.embedders.0.model.ln_final.weight": r"refiner",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": r"Stable Diffusion 3, Flux",
    "double_blocks.0.img_attn.qkv.weight": r"Stable Diffusion 3, Flux",
    "control_model.input_blocks.0.0.weight": r"ControlNet",
    "ip_adapter.1.to_k_ip.weight": r"IP-Adapter",
    "emb_params": r"textual inversion",
    "encoder.down.0.block.0.conv1.weight": r"a VAE alone. Take the whole checkpoint",
    "down_blocks.0.resnets.0.conv1.weight": r"U-Net of a pipeline folder alone. Name the folder",
    "text_model.encoder.layers.0.mlp.fc1.weight": r"a text encoder alone",
    "lora_unet_x.hada_w1_a": r"LoHa",
    "lora_unet_x.lokr_w1": r"LoKr",
    "network.unet.conv_in.weight": r"a part of a model folder",
    "something.else": r"weights of another kind \(something.else\)",
    "model.diffusion_model.label_emb.0.0.weight": r"told more than text and time",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_named_for_what_it_is(tmp_path, name):
    path = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(2, 2)}, path)
    with pytest.raises(Error, match=KINDS[name]) as problem:
        read_meta(path)
    assert "train DOMAIN" not in str(problem.value)
    with pytest.raises(Error, match=KINDS[name]):
        original.configs(path)


def test_inpainting_and_quantised_files_are_named(first, tmp_path):
    held = load_file(first[1])
    nine = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    eight = {"model.diffusion_model.input_blocks.1.1.proj_in.weight": torch.zeros(32, 32, 1, 1, dtype=torch.uint8)}
    for changes, words in ((nine, r"sees 9, an inpainting U-Net"), (eight, r"is U8, that is quantised")):
        save_file(held | changes, tmp_path / "file.safetensors")
        with pytest.raises(Error, match=words):
            original.configs(tmp_path / "file.safetensors")


@pytest.mark.parametrize(
    "lost", ["time_embed.0.weight", "middle_block.1.proj_in.weight", "output_blocks.3.0.in_layers.2.bias"]
)
def test_a_tensor_that_one_file_lacks_is_named(first, tokens, tmp_path, lost):
    held = load_file(first[1])
    held.pop(f"model.diffusion_model.{lost}")
    save_file(held, tmp_path / "file.safetensors")
    with pytest.raises(Error, match=r"is whole; .* lacks ") as problem:
        write_pipeline(tmp_path / "file.safetensors", tmp_path / "out", {}, tokens)
    assert lost.split(".")[-1] in str(problem.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, words",
    [
        ("model.ckpt", r"a pickle, which could run code .* Take the .safetensors"), ("model.PT", r"a pickle"),
        ("model.gguf", r"quantised for other programs"), ("model.zip", r"an archive"), ("denoiser.onnx", r"Name the folder"),
        ("notes.txt", r"is a file. Name the folder"), ("torn.safetensors", r"Weights are a safetensors file"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_model_is_named(tmp_path, name, words):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 no weights")
    with pytest.raises(Error, match=words) as problem:
        read_meta(path)
    assert "train DOMAIN" not in str(problem.value)


def test_a_folder_that_holds_such_a_file_is_told_so(first, tmp_path):
    (tmp_path / "a").mkdir()
    shutil.copy(first[1], tmp_path / "a")
    with pytest.raises(Error, match=r"has neither, but v1-5-pruned.safetensors, which is Stable Diffusion in one file"):
        read_meta(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "pytorch_model.bin").touch()
    with pytest.raises(Error, match=r"has neither, but pytorch_model.bin, a pickle"):
        read_meta(tmp_path / "b")
    assert published.refusal(tmp_path / "nowhere.ckpt").args[0].endswith("is not there. Check the path.")
