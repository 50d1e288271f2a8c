"""Low-rank changes of kohya's, peft's and diffusers' kinds, folded in: what diffusers itself makes of the same file."""

import itertools
import json

import originals
import pipelines
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from diffgraft.cli.main import app
from diffgraft.cli.options import shares
from toolkit.example import Error
from toolkit.networks.checkpoints import lora
from toolkit.networks.checkpoints.loading import load_network
from toolkit.networks.checkpoints.writing import write_pipeline

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1."
LINEAR = [ATTENTION + "to_q", ATTENTION + "to_out.0", "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k"]
POINT, KERNEL = "down_blocks.0.attentions.0.proj_in", "down_blocks.0.resnets.0.conv1"
WORDS = [f"text_model.encoder.layers.0.self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
WORDS += ["text_model.encoder.layers.1.mlp.fc1"]
RANK = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("sd") / "pipeline")


@pytest.fixture
def networks(root):
    return load_network(pipelines.UNet2DConditionModel, root, "unet"), load_network(CLIPTextModel, root, "text_encoder")


def layer_of(network, name):
    known = dict(network.named_modules())
    return known.get(name) or known[name.removeprefix("text_model.")]


def factors(networks, layers, rank=RANK):
    """(network, layer) -> down and up in the shapes that a linear layer's or a convolution's have."""
    random, found = torch.Generator().manual_seed(7), {}
    for place, name in layers:
        weight = layer_of(networks[place == "text_encoder"], name).weight
        down = torch.randn(rank, *weight.shape[1:], generator=random)
        up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=random)
        found[place, name] = down, up
    return found


ALL = [("unet", name) for name in (*LINEAR, POINT, KERNEL)] + [("text_encoder", name) for name in WORDS]
ATTENDING = [("unet", name) for name in LINEAR] + [("text_encoder", name) for name in WORDS]


def kohya(made, alpha=None):
    held = {}
    for (place, name), (down, up) in made.items():
        start = f"lora_{'unet' if place == 'unet' else 'te'}_{name.replace('.', '_')}"
        held |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up}
        held |= {} if alpha is None else {f"{start}.alpha": torch.tensor(float(alpha))}
    return held


def diffusers_today(made, _=None):
    return {
        f"{place}.{name}.lora_{end}.weight": value
        for (place, name), both in made.items()
        for end, value in zip("AB", both, strict=True)
    }


def diffusers_before(made, _=None):
    return {
        f"{place}.{name}.{'lora' if place == 'unet' else 'lora_linear_layer'}.{end}.weight": value
        for (place, name), both in made.items()
        for end, value in zip(("down", "up"), both, strict=True)
    }


def processors(made, _=None):
    """As diffusers of 2023 wrote the attention of a U-Net."""
    held = {}
    for (_place, name), (down, up) in made.items():
        layer, _dot, part = name.removesuffix(".0").rpartition(".")
        held |= {
            f"unet.{layer}.processor.{part}_lora.down.weight": down,
            f"unet.{layer}.processor.{part}_lora.up.weight": up,
        }
    return held


def metadata(alpha, **further):
    stated = {}
    for place in ("unet", "text_encoder"):
        targets = [name.removeprefix("text_model.") for where, name in ATTENDING if where == place]
        own = {key: value.get(place, value) if isinstance(value, dict) else value for key, value in further.items()}
        plain = {"r": RANK, "lora_alpha": alpha, "target_modules": targets, **own}
        stated |= {f"{place}.{key}": value for key, value in plain.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(stated)}


UNET_ONLY = [("unet", name) for name in LINEAR]
FILES = {
    "kohya": (lambda made: kohya(made, 2), ALL, None),
    "kohya of rank's alpha": (kohya, ALL, None),
    "diffusers": (diffusers_today, ATTENDING, None),
    "diffusers with convolutions": (diffusers_today, ALL, None),
    "diffusers, alpha in the metadata": (diffusers_today, ATTENDING, metadata(12)),
    "diffusers, rank-stabilised": (diffusers_today, ATTENDING, metadata(12, use_rslora=True)),
    "diffusers, alpha by pattern": (
        diffusers_today,
        ATTENDING,
        metadata(12, alpha_pattern={"unet": {"to_k": 5}, "text_encoder": {"fc1": 7}}),
    ),
    "diffusers before peft": (diffusers_before, ATTENDING, None),
    "attention processors": (processors, UNET_ONLY, None),
}


def weights_of(unet, text_encoder):
    plain = {f"text.{name.removeprefix('text_model.')}": value for name, value in text_encoder.state_dict().items()}
    return {f"unet.{name}": value.clone() for name, value in unet.state_dict().items()} | {
        k: v.clone() for k, v in plain.items()
    }


def fused_by_diffusers(root, path, scale):
    pipe = StableDiffusionPipeline.from_pretrained(root, safety_checker=None, local_files_only=True)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.fuse_lora(lora_scale=scale)
    pipe.unload_lora_weights()
    return weights_of(pipe.unet, pipe.text_encoder)


@pytest.mark.parametrize("name", FILES)
def test_folded_weights_are_those_that_diffusers_fuses(root, networks, tmp_path, name):
    form, layers, about = FILES[name]
    path, before = tmp_path / "changes.safetensors", weights_of(*networks)
    save_file(form(factors(networks, layers)), path, about or {"format": "pt"})
    scale = 0.6
    assert lora.fold(path, scale, *networks) == len(layers)
    found, wanted = weights_of(*networks), fused_by_diffusers(root, path, scale)
    assert found.keys() == wanted.keys()
    changed = {key for key, value in wanted.items() if (value - before[key]).abs().max() > 1e-3}
    assert len(changed) == len(layers), changed
    for key, value in wanted.items():
        assert (found[key] - value).abs().max() < 1e-4, key


# what diffusers does not read, or reads without the metadata: by the formula


def product(down, up):
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def assert_folded(networks, path, made, scale, before):
    lora.fold(path, 1.0, *networks)
    found = weights_of(*networks)
    for (place, name), (down, up) in made.items():
        key = f"unet.{name}.weight" if place == "unet" else f"text.{name.removeprefix('text_model.')}.weight"
        wanted = before[key] + scale(name) * product(down, up).reshape(before[key].shape)
        assert (found[key] - wanted).abs().max() < 1e-4, key


@pytest.mark.parametrize("network", ["unet", "text_encoder"])
def test_a_folder_of_peft_states_its_alpha_beside(networks, tmp_path, network):
    made = factors(networks, [pair for pair in ATTENDING if pair[0] == network])
    held = {
        f"base_model.model.{name}.lora_{end}.weight": value
        for (_, name), both in made.items()
        for end, value in zip("AB", both, strict=True)
    }
    save_file(held, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 6}), encoding="utf-8"
    )
    before = weights_of(*networks)
    assert_folded(networks, tmp_path / "adapter_model.safetensors", made, lambda name: 6 / RANK, before)


def test_kohyas_metadata_states_alpha_where_no_tensor_does(networks, tmp_path):
    about = {
        "ss_network_alpha": "1.5",
        "ss_network_dim": "3",
        "ss_network_args": json.dumps({"conv_alpha": "0.9", "conv_dim": "3"}),
    }
    made, before = factors(networks, ALL), weights_of(*networks)
    save_file(kohya(made), tmp_path / "changes.safetensors", about)
    assert_folded(networks, tmp_path / "changes.safetensors", made, lambda name: 0.3 if name == KERNEL else 0.5, before)


def test_tucker_factors_of_a_convolution(networks, tmp_path):
    weight = layer_of(networks[0], KERNEL).weight.detach().clone()
    down, mid, up = (
        torch.randn(2, weight.shape[1], 1, 1),
        torch.randn(2, 2, 3, 3),
        torch.randn(weight.shape[0], 2, 1, 1),
    )
    name = f"lora_unet_{KERNEL.replace('.', '_')}"
    held = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_mid.weight": mid,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(1.0),
    }
    save_file(held, tmp_path / "changes.safetensors")
    x = torch.randn(1, weight.shape[1], 8, 8)
    conv = torch.nn.functional.conv2d
    wanted = conv(x, weight, padding=1) + 0.5 * conv(conv(conv(x, down), mid, padding=1), up)
    lora.fold(tmp_path / "changes.safetensors", 1.0, *networks)
    assert (conv(x, layer_of(networks[0], KERNEL).weight, padding=1) - wanted).abs().max() < 1e-3


def test_changes_in_the_names_of_the_original_code(tmp_path):
    """Every layer of the U-Net has the name that the checkpoint in one file gives it."""
    root, _ = originals.write(tmp_path)
    both = load_network(pipelines.UNet2DConditionModel, root, "unet"), load_network(CLIPTextModel, root, "text_encoder")
    layers = [name for name, module in both[0].named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    made = factors(both, [("unet", name) for name in layers])
    held = {}
    for (_, name), (down, up) in made.items():
        old = originals.unet_name(f"{name}.weight").removesuffix(".weight").replace(".", "_")
        held |= {f"lora_unet_{old}.lora_down.weight": down, f"lora_unet_{old}.lora_up.weight": up}
    save_file(held, tmp_path / "changes.safetensors")
    before = weights_of(*both)
    assert_folded(both, tmp_path / "changes.safetensors", made, lambda name: 1.0, before)
    assert len(layers) > 60


# ----------------------------------------------------------------------------------------------------------- refusals

START = "lora_unet_" + LINEAR[0].replace(".", "_")
GOOD = {f"{START}.lora_down.weight": torch.ones(2, 16), f"{START}.lora_up.weight": torch.ones(16, 2)}
REFUSED = {
    "dora": (GOOD | {f"{START}.dora_scale": torch.ones(16, 1)}, {}, r"the magnitudes of DoRA too"),
    "dora of peft": ({"unet.x.lora_A.weight": torch.ones(2, 2), "unet.x.lora_magnitude_vector": torch.ones(2)}, {}, r"DoRA"),
    "dora by its word": (GOOD, metadata(4, use_dora=True), r"says that it is DoRA"),
    "loha": ({f"{START}.hada_w1_a": torch.ones(2, 2), f"{START}.hada_w1_b": torch.ones(2, 2)}, {}, r"LoHa"),
    "lokr": ({f"{START}.lokr_w1": torch.ones(2, 2)}, {}, r"LoKr"),
    "whole difference": (GOOD | {f"{START}.diff": torch.ones(16, 16)}, {}, r"whole changes of a layer"),
    "biases": (GOOD | {"unet.y.lora_B.bias": torch.ones(2)}, {}, r"changes of biases"),
    "half of it": ({f"{START}.lora_down.weight": torch.ones(2, 16)}, {}, r"is two factors; .* has none up for"),
    "other ranks": (GOOD | {f"{START}.lora_up.weight": torch.ones(16, 3)}, {}, r"share its rank"),
    "other size": (GOOD | {f"{START}.lora_down.weight": torch.ones(2, 320)}, {}, r"of \[16, 320\], which here is \[16, 16\]"),
    "unknown layer": ({k.replace("down_blocks_0", "down_blocks_7"): v for k, v in GOOD.items()}, {}, r"is no layer here"),
    "sdxl": ({k.replace("lora_unet_", "lora_te2_"): v for k, v in GOOD.items()}, {}, r"a second text encoder \(SDXL\)"),
    "flux": ({"transformer.x.lora_A.weight": torch.ones(2, 2), "transformer.x.lora_B.weight": torch.ones(2, 2)}, {}, r"a transformer"),
    "stranger": (GOOD | {"what.is.this": torch.ones(2)}, {}, r"has what.is.this, which is none"),
    "not finite": (GOOD | {f"{START}.alpha": torch.tensor(float("nan"))}, {}, r"are finite numbers"),
    "torn metadata": (GOOD, {"lora_adapter_metadata": "{"}, r"The metadata of a LoRA file is JSON"),
    "no lora": ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}, {}, r"is Stable Diffusion in one file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_changes_of_other_kinds_are_refused_by_name(networks, tmp_path, name):
    held, about, words = REFUSED[name]
    save_file(held, tmp_path / "changes.safetensors", about)
    before = weights_of(*networks)
    with pytest.raises(Error, match=words) as problem:
        lora.fold(tmp_path / "changes.safetensors", 1.0, *networks)
    assert "\n" not in str(problem.value)
    assert all(torch.equal(before[key], value) for key, value in weights_of(*networks).items())


def test_a_pickled_lora_is_never_read(networks, tmp_path):
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"\x80\x04")
    with pytest.raises(Error, match=r"Weights are a safetensors file"):
        lora.fold(tmp_path / "pytorch_lora_weights.bin", 1.0, *networks)


# -------------------------------------------------------------------------------------------------------- on the command line


def test_export_folds_changes_into_a_pipeline_folder(root, networks, tmp_path):
    from typer.testing import CliRunner

    made = factors(networks, ALL)
    save_file(kohya(made, 2), tmp_path / "a=b.safetensors")
    out, half = tmp_path / "out", f"{tmp_path / 'a=b.safetensors'}=0.5"
    words = ["export", str(root), str(out), "--to", "diffusers", "--lora", half]
    assert CliRunner().invoke(app, words).exit_code == 0
    lora.fold(tmp_path / "a=b.safetensors", 0.5, *networks)
    found = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in networks[0].state_dict().items())
    assert (out / "scheduler" / "scheduler_config.json").is_file()
    request = json.loads((out / "request.json").read_text(encoding="utf-8"))["request"]
    assert list(request["lora"].values()) == [0.5]
    theirs = StableDiffusionPipeline.from_pretrained(out, safety_checker=None, local_files_only=True)
    assert torch.equal(theirs.unet.conv_in.weight, networks[0].conv_in.weight)


def test_two_files_are_added_one_after_the_other(root, networks, tmp_path):
    made = factors(networks, ALL)
    for n, scale in enumerate((1, 2)):
        save_file({k: v * scale for k, v in diffusers_today(made).items()}, tmp_path / f"{n}.safetensors")
    write_pipeline(root, tmp_path / "both", {tmp_path / "0.safetensors": 1.0, tmp_path / "1.safetensors": -0.25})
    found = load_file(tmp_path / "both" / "unet" / "diffusion_pytorch_model.safetensors")
    before = networks[0].state_dict()
    for (place, name), (down, up) in itertools.islice(made.items(), 5):
        assert place == "unet"
        assert (found[f"{name}.weight"] - before[f"{name}.weight"]).abs().max() < 1e-4  # 1 - 0.25 * 2 * 2
        assert product(down, up).abs().max() > 0.1


def test_shares_are_read_from_words():
    found = {
        str(path): share for path, share in shares(["a.safetensors", "b=c.safetensors=0.5", "d=e", "f=-1"]).items()
    }
    assert found == {"a.safetensors": 1.0, "b=c.safetensors": 0.5, "d=e": 1.0, "f": -1.0}
