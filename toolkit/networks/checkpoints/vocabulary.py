"""The tokenizer in a pipeline's folder: CLIP's, of the words, merges and special tokens that its files state.

Which file has the last word is transformers' rule, that of version 4 and of 5 alike: tokenizer.json before vocab.json with
merges.txt; for a special token tokenizer_config.json where that lists its tokens (added_tokens_decoder), else
special_tokens_map.json before it, and CLIP's own where none says anything. A token is its text, or an object with "content".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.language.tokenizer import Tokenizer

__all__ = ["read_tokenizer"]

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
USUAL = {"bos_token": tokenizer.START, "eos_token": tokenizer.END, "pad_token": tokenizer.END}
"""No token of a text is unknown, so that nothing depends on unk_token."""

LISTED = "added_tokens_decoder"


def read_tokenizer(root: Path, length: int, words: int | None = None) -> Tokenizer:
    """The tokenizer of a pipeline for prompts of so many tokens.

    words: how many the text encoder knows. Errors: a file that is missing or damaged, a token that one of the two lacks.
    """
    place = root / "tokenizer"
    vocabulary, merges = _vocabulary(place)
    about = _read(place / CONFIG)
    special, added = _special_tokens(place, about), _added_tokens(place, about)
    vocabulary |= {token: number for token, number in added.items() if token not in vocabulary}
    strange = [key for key, token in USUAL.items() if key != "pad_token" and special[key] != token]
    if strange:
        raise Error(
            f"A CLIP tokenizer begins with {tokenizer.START} and ends with {tokenizer.END}; {place} names {special[strange[0]]} "
            f"as its {strange[0]}. Take the tokenizer of the checkpoint that it was trained from."
        )
    missing = [token for token in (tokenizer.START, tokenizer.END, special["pad_token"]) if token not in vocabulary]
    if missing:
        raise Error(
            f"A CLIP tokenizer knows {tokenizer.START}, {tokenizer.END} and what it fills up with; {place} lacks {missing[0]}. "
            "Copy it anew."
        )
    last = max(vocabulary, key=lambda token: vocabulary[token])
    if words is not None and vocabulary[last] >= words:
        raise Error(
            f"A text encoder knows every token of its tokenizer; that of {root} knows {words}, and {last} is number "
            f"{vocabulary[last] + 1}. Take both from one checkpoint."
        )
    return tokenizer.from_vocabulary(vocabulary, merges, length, str(special["pad_token"]), further=tuple(added))


def _special_tokens(place: Path, about: Mapping[str, Any]) -> dict[str, str | None]:
    told = dict(about) if LISTED in about else dict(about) | _read(place / SPECIAL)
    return {key: _text(told[key]) if key in told else usual for key, usual in USUAL.items()}


def _added_tokens(place: Path, about: Mapping[str, Any]) -> dict[str, int]:
    """Tokens that are never a part of a word -> their numbers, those of textual inversions among them."""
    if LISTED in about:
        found = {_text(token): int(number) for number, token in about[LISTED].items()}
    else:
        found = {token: int(number) for token, number in _read(place / ADDED).items()}
        listed = _read(place / tokenizer.FILE).get("added_tokens", ())
        found |= {token["content"]: int(token["id"]) for token in listed}
    return {str(token): number for token, number in sorted(found.items(), key=lambda item: item[1])}


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _vocabulary(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> number, and the pairs that are merged, from tokenizer.json, else from vocab.json and merges.txt."""
    try:
        if (path / tokenizer.FILE).is_file():
            model = json.loads((path / tokenizer.FILE).read_text(encoding="utf-8"))["model"]
            vocabulary, lines = model["vocab"], model["merges"]
        else:
            vocabulary = json.loads((path / "vocab.json").read_text(encoding="utf-8"))
            lines = (path / "merges.txt").read_text(encoding="utf-8").splitlines()
            lines = [line for line in lines if line and not line.startswith("#version")]
        merges: list[Any] = [tuple(line.split()) if isinstance(line, str) else tuple(line) for line in lines]
        return {str(token): int(number) for token, number in vocabulary.items()}, merges
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise Error(
            f"A CLIP tokenizer is vocab.json with merges.txt, or {tokenizer.FILE}; {path} has not: {problem}. "
            "Copy the whole folder."
        ) from problem


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that may be missing. Errors: it is there and is none."""
    if not path.is_file():
        return {}
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise Error(f"{path.name} of a tokenizer is JSON; {path} is not: {problem}. Copy the folder anew.") from problem
    if not isinstance(plain, dict):
        raise Error(f"{path.name} of a tokenizer is a JSON object; {path} is not. Copy the folder anew.")
    return plain
