"""Weights as they are published: shards, variants and index files under every name that the libraries have written.

The oracle is the same network opened from one plain file, and that the libraries' own save_pretrained wrote such names.
"""

import json
import shutil
from pathlib import Path

import pipelines
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from toolkit.diffusion.model import TEXT
from toolkit.example import Error
from toolkit.models import weights
from toolkit.networks import pipeline

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
SHARDS = {  # {s} the stem, {v} the variant with its dot, {n} the number
    "shard last": ("{s}{v}-{n:05}-of-{c:05}.safetensors", "{s}.safetensors.index{v}.json"),
    "variant last": ("{s}-{n:05}-of-{c:05}{v}.safetensors", "{s}.safetensors.index{v}.json"),
    "index last": ("{s}-{n:05}-of-{c:05}{v}.safetensors", "{s}{v}.safetensors.index.json"),
    "no index": ("{s}{v}-{n:05}-of-{c:05}.safetensors", None),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return pipelines.write(tmp_path_factory.mktemp("sd") / "pipeline")


@pytest.fixture(scope="module")
def wanted(root):
    return answers(root)


def answers(root):
    model = pipeline.open(root, "cpu")
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    hidden = model.text(["pleural effusion"])
    return {"text_encoder": hidden, "unet": model.denoiser(x, 1.0, {TEXT: hidden}), "vae": model.codec.decode(x)}


def assert_same(found, wanted, limit=1e-5):
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= limit, name


def copied(root, tmp_path):
    return Path(shutil.copytree(root, tmp_path / "pipeline"))


def taken(place, part):
    """The plain weights of a part, whose file is removed."""
    path = place / part / f"{STEMS[part]}.safetensors"
    found = load_file(path)
    path.unlink()
    return found


def shard(place, part, naming, variant="", count=3, plain=None):
    """Write the weights of a part in shards with an index; returns the paths of all that was written."""
    names, index = SHARDS[naming]
    all_of_it = plain or taken(place, part)
    keys, shards, where = sorted(all_of_it), [], {}
    for n in range(1, count + 1):
        path = place / part / names.format(s=STEMS[part], v=variant, n=n, c=count)
        own = keys[n - 1 :: count]
        save_file({key: all_of_it[key].contiguous() for key in own}, path, {"format": "pt"})
        where |= dict.fromkeys(own, path.name)
        shards.append(path)
    if index:
        path = place / part / index.format(s=STEMS[part], v=variant)
        path.write_text(json.dumps({"metadata": {}, "weight_map": where}), encoding="utf-8")
    return shards


@pytest.mark.parametrize("variant", ["", ".fp16", ".non_ema"])
@pytest.mark.parametrize("naming", SHARDS)
@pytest.mark.parametrize("part", STEMS)
def test_shards_open_whatever_they_are_called(root, wanted, tmp_path, part, naming, variant):
    place = copied(root, tmp_path)
    shard(place, part, naming, variant)
    assert_same(answers(place), wanted)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_what_the_libraries_write_today_opens(root, wanted, tmp_path, variant):
    place = copied(root, tmp_path)
    pipe = pipeline.load_network
    for part, kind in (("unet", pipeline.UNet2DConditionModel), ("text_encoder", pipeline.CLIPTextModel)):
        module = pipe(kind, place, part)
        shutil.rmtree(place / part)
        options = {"variant": variant} if variant else {}
        module.save_pretrained(place / part, max_shard_size="60KB" if part == "unet" else "30KB", **options)
        assert len(list((place / part).glob("*.safetensors"))) > 1
    assert_same(answers(place), wanted)


def test_the_plain_weights_are_taken_where_there_are_both(root, wanted, tmp_path):
    place = copied(root, tmp_path)
    for part in STEMS:
        plain = load_file(place / part / f"{STEMS[part]}.safetensors")
        wrong = {key: torch.zeros_like(value) for key, value in plain.items()}
        shard(place, part, "variant last", ".fp16", plain=wrong)
        save_file(wrong, place / part / f"{STEMS[part]}.non_ema.safetensors")
        save_file(wrong, place / part / "pytorch_lora_weights.safetensors")
    assert_same(answers(place), wanted)
    assert weights.find_weights(place, "unet").variant is None


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_every_kind_of_number_is_the_number_it_is(root, tmp_path, dtype):
    place = copied(root, tmp_path)
    for part in STEMS:
        path = place / part / f"{STEMS[part]}.safetensors"
        rounded = {key: value.to(dtype) for key, value in load_file(path).items()}
        save_file(rounded, path, {"format": "pt"})
    found = answers(place)
    for part in STEMS:
        path = place / part / f"{STEMS[part]}.safetensors"
        save_file({key: value.float() for key, value in load_file(path).items()}, path, {"format": "pt"})
    assert_same(found, answers(place))


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("projected", [False, True])
def test_a_text_encoder_of_either_generation_opens(root, wanted, tmp_path, prefix, projected):
    """transformers 4 writes text_model. before every name of a CLIPTextModel, 5 does not; with a projection both do."""
    place = copied(root, tmp_path)
    weights_ = {
        f"{prefix}{key.removeprefix('text_model.')}": value for key, value in taken(place, "text_encoder").items()
    }
    if projected:
        weights_["text_projection.weight"] = torch.eye(24)
    weights_[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights_, place / "text_encoder" / "model.safetensors", {"format": "pt"})
    assert_same(answers(place), wanted)


def test_a_text_encoder_with_its_projection_is_one(root, wanted, tmp_path):
    place = copied(root, tmp_path)
    config = CLIPTextConfig.from_pretrained(place / "text_encoder")
    module = CLIPTextModelWithProjection(config)
    names = {
        f"text_model.{key.removeprefix('text_model.')}": value for key, value in taken(place, "text_encoder").items()
    }
    module.load_state_dict(names, strict=False)
    module.save_pretrained(place / "text_encoder")
    index = json.loads((place / "model_index.json").read_text(encoding="utf-8"))
    index["text_encoder"][1] = "CLIPTextModelWithProjection"
    (place / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert_same(answers(place), wanted)


def test_parts_that_are_null_or_unknown_change_nothing(root, wanted, tmp_path):
    place = copied(root, tmp_path)
    index = json.loads((place / "model_index.json").read_text(encoding="utf-8"))
    index |= {
        "image_encoder": [None, None], "feature_extractor": ["transformers", "CLIPImageProcessor"], "watermark": ["some", "Thing"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "text_encoder_2": [None, None], "_name_or_path": "x",
    }  # fmt: skip
    (place / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert_same(answers(place), wanted)


# ----------------------------------------------------------------------------------------------------------- refusals


def missing_shard(place):
    shard(place, "unet", "variant last", ".fp16")[1].unlink()


def stale_index(place):
    shard(place, "unet", "shard last")
    path = next((place / "unet").glob("*index*"))
    plain = json.loads(path.read_text(encoding="utf-8"))
    plain["weight_map"]["conv_in.lost"] = "diffusion_pytorch_model-00001-of-00003.safetensors"
    path.write_text(json.dumps(plain), encoding="utf-8")


def torn_index(place):
    shard(place, "unet", "shard last")
    next((place / "unet").glob("*index*")).write_text('{"weight_map": [', encoding="utf-8")


def lacking_shard(place):
    path = shard(place, "unet", "no index")[0]
    held = load_file(path)
    held.pop("conv_in.bias")
    save_file(held, path, {"format": "pt"})


def twice(place):
    first, second, _ = shard(place, "unet", "no index")
    save_file(load_file(first) | load_file(second), second, {"format": "pt"})


def cut_off(place):
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pointer(place):
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167536\n", encoding="utf-8")


def quantised(place):
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    held = load_file(path)
    save_file(held | {"conv_in.weight": held["conv_in.weight"].to(torch.uint8)}, path, {"format": "pt"})


def scaled(place):
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"conv_in.scale_weight": torch.ones(1)}, path, {"format": "pt"})


def said_to_be_quantised(place):
    path = place / "unet" / "config.json"
    told = json.loads(path.read_text(encoding="utf-8")) | {"quantization_config": {"quant_method": "bitsandbytes"}}
    path.write_text(json.dumps(told), encoding="utf-8")


REFUSED = {
    missing_shard: r"numbered 1 to 3; .*unet has 2 files such as .*-00001-of-00003.fp16.safetensors and lacks number 2",
    stale_index: r"names conv_in.lost, which no shard has",
    torn_index: r"The index of shards is JSON with a weight_map",
    lacking_shard: r"unet lacks conv_in.bias",
    twice: r"A tensor is in one shard",
    cut_off: r"must have \d+ bytes by its own header",
    pointer: r"what Git keeps in the place of one. Fetch it: git lfs pull",
    quantised: r"conv_in.weight is U8, that is quantised",
    scaled: r"to be multiplied by others, such as conv_in.scale_weight",
    said_to_be_quantised: r"says that they are quantised",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_weights_that_are_not_whole_are_refused_by_name(root, tmp_path, change):
    place = copied(root, tmp_path)
    change(place)
    with pytest.raises(Error, match=REFUSED[change]) as problem:
        pipeline.open(place, "cpu")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pth", "flax_model.msgpack"])
def test_pickles_are_never_read(root, tmp_path, name):
    place = copied(root, tmp_path)
    (place / "unet" / "diffusion_pytorch_model.safetensors").rename(place / "unet" / name)
    with pytest.raises(
        Error, match=rf"safetensors files alone.* has only {name}. Save the pipeline anew: pipe.save_pretrained"
    ):
        pipeline.open(place, "cpu")
