"""Tokenizers as they are published: which file states the special tokens, in which form. The oracle is transformers itself."""

import json

import pipelines
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from toolkit.example import Error
from toolkit.networks import pipeline
from toolkit.networks.checkpoints.vocabulary import read_tokenizer

START, END = pipelines.START, pipelines.END
TEXTS = ["right pleural Effusion!", "", "no!! <lesion> effusion <|endoftext|> !", "a " * 90]
NAMED = {"bos_token": START, "eos_token": END, "unk_token": END}


def as_object(token):
    return {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def decoder(pad):
    words = pipelines.vocabulary()
    return {str(words[token]): as_object(token) | {"special": True} for token in {START, END, pad}}


# name -> (changes of tokenizer_config.json, special_tokens_map.json, what is filled up with)
PUBLISHED = {
    "stable diffusion 1": ({"pad_token": END}, NAMED | {"pad_token": END}, END),
    "stable diffusion 2": ({"pad_token": END}, NAMED | {"pad_token": "!"}, "!"),
    "map as objects": ({"pad_token": END}, {k: as_object(v) for k, v in (NAMED | {"pad_token": "!"}).items()}, "!"),
    "config as object": ({"pad_token": as_object("!") | {"__type": "AddedToken"}}, None, "!"),
    "map without it": ({"pad_token": "!"}, NAMED, "!"),
    "map alone": ({"pad_token": None}, {"pad_token": "!"}, "!"),
    "nobody says it": ({}, None, END),
    "config that lists its tokens": ({"pad_token": "!", "added_tokens_decoder": decoder("!")}, NAMED | {"pad_token": END}, "!"),
    "the same, the other way": ({"pad_token": END, "added_tokens_decoder": decoder("!")}, NAMED | {"pad_token": "!"}, END),
}  # fmt: skip


def written(place, changes, special):
    root = pipelines.write(place / "pipeline")
    path = root / "tokenizer" / "tokenizer_config.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about.pop("pad_token")
    path.write_text(json.dumps(about | changes), encoding="utf-8")
    if special is not None:
        path.with_name("special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    return root


def wanted_ids(root, length=77):
    read = CLIPTokenizer.from_pretrained(root / "tokenizer")
    ids = read(TEXTS, padding="max_length", max_length=length, truncation=True, return_tensors="np").input_ids
    return read, ids


def ids_of(root):
    with pytest.warns(UserWarning, match=r"at most 75 tokens"):
        return read_tokenizer(root, 77)(TEXTS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_pad_token_is_the_one_that_transformers_takes(tmp_path, name):
    changes, special, pad = PUBLISHED[name]
    root = written(tmp_path, changes, special)
    read, ids = wanted_ids(root)
    assert read.pad_token == read_tokenizer(root, 77).pad == pad
    assert ids_of(root).tolist() == ids.tolist()


@pytest.mark.parametrize("pad", [END, "!"])
def test_a_single_tokenizer_json_comes_before_the_two_files(tmp_path, pad):
    root = written(tmp_path, {"pad_token": END}, NAMED | {"pad_token": pad})
    wanted, ids = wanted_ids(root)
    wanted.save_pretrained(root / "tokenizer")
    (root / "tokenizer" / "vocab.json").write_text("{}", encoding="utf-8")  # nobody reads it now
    again, same = wanted_ids(root)
    assert again.pad_token == pad
    assert ids_of(root).tolist() == ids.tolist() == same.tolist()


def test_stable_diffusion_2_has_the_embeddings_of_diffusers(tmp_path):
    root = written(tmp_path, {"pad_token": END}, NAMED | {"pad_token": "!"})
    pipe = StableDiffusionPipeline.from_pretrained(root, safety_checker=None, local_files_only=True)
    hidden = pipe.encode_prompt(TEXTS[:3], "cpu", 1, False)[0]
    found = pipeline.open(root, "cpu").text(TEXTS[:3])
    assert (found - hidden).abs().max() < 1e-5
    wrong = pipeline.open(pipelines.write(tmp_path / "plain"), "cpu").text(TEXTS[:3])
    assert (wrong - hidden).abs().max() > 1  # what the other pad token would do


def test_words_of_a_textual_inversion_are_tokens(tmp_path):
    root = written(tmp_path, {"pad_token": END}, None)
    count = len(pipelines.vocabulary())
    (root / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<lesion>": count}), encoding="utf-8")
    ids = ids_of(root)
    assert ids.tolist() == wanted_ids(root)[1].tolist()
    assert (ids[2] == count).sum() == 1
    with pytest.raises(Error, match=rf"knows {count}, and <lesion> is number {count + 1}. Take both"):
        pipeline.open(root, "cpu")  # whose text encoder was not saved with it


def test_a_folder_without_a_tokenizer_config_opens(tmp_path):
    root = pipelines.write(tmp_path / "pipeline")
    (root / "tokenizer" / "tokenizer_config.json").unlink()
    model = pipeline.open(root, "cpu")
    assert model.text([""]).shape == (1, 77, 24)
    assert torch.isfinite(model.text(["effusion"])).all()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("special_tokens_map.json", "[]", r"special_tokens_map.json of a tokenizer is a JSON object"),
        ("special_tokens_map.json", "{", r"special_tokens_map.json of a tokenizer is JSON"),
        ("special_tokens_map.json", '{"pad_token": "<pad>"}', r"lacks <pad>"),
        ("special_tokens_map.json", '{"eos_token": "!"}', r"names ! as its eos_token"),
        ("tokenizer.json", "{}", r"A CLIP tokenizer is vocab.json with merges.txt, or tokenizer.json"),
    ],
)
def test_a_damaged_tokenizer_is_refused_in_one_line(tmp_path, name, content, words):
    root = pipelines.write(tmp_path / "pipeline")
    (root / "tokenizer" / name).write_text(content, encoding="utf-8")
    with pytest.raises(Error, match=words) as problem:
        pipeline.open(root, "cpu")
    assert "\n" not in str(problem.value)
