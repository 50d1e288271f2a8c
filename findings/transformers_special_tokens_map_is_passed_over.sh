#!/usr/bin/env bash
# transformers 5.23.0: a CLIP tokenizer of vocab.json and merges.txt states its pad token in special_tokens_map.json and in
# tokenizer_config.json. Where both do and differ (as in the tokenizer that came with Stable Diffusion 2: "!" in the map, the end
# token in the config) the map wins. As soon as the config also lists added_tokens_decoder, which says nothing of padding, the
# map is not read at all: the same two statements give the other pad token, also where the map alone states one (the class's
# default is taken then). Nothing is logged. Other token numbers reach the text encoder, and so other embeddings.
# Needs a Python of 3.11 or newer; installs transformers into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 huggingface_hub==2.4.0 \
    numpy==2.4.6 2>/dev/null
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - "$work" <<'PYTHON' 2>"$work/log" || { tail -3 "$work/log"; exit 1; }
import json
import logging
import sys
from pathlib import Path

import transformers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = sorted(ByteLevel.alphabet())
WORDS = {token: n for n, token in enumerate([*LETTERS, *(letter + "</w>" for letter in LETTERS), "ab", START, END])}
NAMED = {"bos_token": START, "eos_token": END, "unk_token": END}
said: list[str] = []


class Heard(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


def pad(in_config: str | None, in_map: str | None, listed: bool) -> tuple[str, list[int]]:
    """The pad token of a tokenizer whose two files say this, and the numbers of the text "a" filled up to five."""
    place = Path(sys.argv[1]) / f"tokenizer{len(list(Path(sys.argv[1]).iterdir()))}"
    place.mkdir()
    about = NAMED | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    about |= {} if in_config is None else {"pad_token": in_config}
    if listed:
        plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        about["added_tokens_decoder"] = {str(WORDS[token]): plain | {"content": token} for token in ("!", START, END)}
    (place / "vocab.json").write_text(json.dumps(WORDS), encoding="utf-8")
    (place / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    if in_map is not None:
        (place / "special_tokens_map.json").write_text(json.dumps(NAMED | {"pad_token": in_map}), encoding="utf-8")
    read = CLIPTokenizer.from_pretrained(place)
    return read.pad_token, read("a", padding="max_length", max_length=5).input_ids


print("transformers", transformers.__version__)
logging.getLogger("transformers").addHandler(Heard())
as_stated = True
for in_config, in_map in ((END, "!"), ("!", END), (None, "!")):
    for listed in (False, True):
        said.clear()
        token, numbers = pad(in_config, in_map, listed)
        with_list = "with" if listed else "without"
        print(f"config {in_config}, map {in_map}, {with_list} added_tokens_decoder: pad token {token}, {numbers}")
        as_stated &= token == ((in_config or END) if listed else in_map) and numbers[-1] == WORDS[token] and not said
if not as_stated:
    sys.exit("changed")
print("as stated: a list of added tokens in the config switches the map off")
PYTHON
