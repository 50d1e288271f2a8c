"""Byte-pair tokens of prompts, as CLIP's: the file tokenizer.json of a model folder, read and trained by `tokenizers`.

Radford et al. 2021, arXiv:2103.00020, section 2.4; byte-level, so that every text of every script has tokens and none is
unknown. A prompt is start, its tokens, end, and the end again up to the length that the model takes. No torch here: an
edge box reads prompts too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.example import Error, Note

__all__ = ["END", "FILE", "START", "Tokenizer", "from_vocabulary", "open", "train"]

FILE = "tokenizer.json"
START, END = "<|startoftext|>", "<|endoftext|>"

WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""How CLIP cuts a text into words: letters together, each digit alone."""

COVERAGE = [chr(n) for n in range(33, 127)] + [chr(n) for n in range(0x80, 0xC0)]
"""Words that end in every byte a UTF-8 word can end in, so that each of these ends has a token."""


class Tokenizer:
    """texts -> (N, length) int64 ids; a longer text is cut off, and `cut` is told in one line."""

    def __init__(self, body: Any, length: int, cut: Callable[[str], object] | None, pad: str = END) -> None:
        self.body, self.length, self.cut, self.pad = body, length, cut, pad

    @property
    def words(self) -> int:
        """How many tokens there are; start and end are the last two."""
        return self.body.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        end = self.body.token_to_id(END)
        ids = np.full((len(texts), self.length), self.body.token_to_id(self.pad), np.int64)
        lost = False
        for row, text in enumerate(texts):
            found = self.body.encode(text).ids
            if len(found) > self.length:
                lost, found = True, [*found[: self.length - 1], end]
            ids[row, : len(found)] = found
        if lost and self.cut is not None:
            self.cut(f"A prompt has at most {self.length - 2} tokens; a longer one lost its end.")
        return ids

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        self.body.enable_padding(pad_id=self.body.token_to_id(self.pad), pad_token=self.pad, length=self.length)
        self.body.save(str(path))
        self.body.no_padding()


def _noted(line: str) -> None:
    """Tell the user by a warning, which is shown once however many prompts are cut."""
    warnings.warn(line, Note, stacklevel=3)


def open(root: str | os.PathLike[str], length: int, cut: Callable[[str], object] | None = _noted) -> Tokenizer:
    """The tokenizer of a model folder. Errors: none there, a damaged file, the library missing."""
    path = Path(root) / FILE
    try:
        from tokenizers import Tokenizer as Body
    except ImportError as problem:
        raise Error(
            "A model that is told things in words needs tokenizers, which is not installed: pip install tokenizers"
        ) from problem
    if not path.is_file():
        raise Error(f"A model that is told things in words has {FILE}; {root} has none. Copy the whole folder.")
    try:
        body = Body.from_file(str(path))
    except Exception as problem:  # the library raises Exception itself
        raise Error(f"A tokenizer is a file of the tokenizers library; {path} is not: {problem}.") from problem
    pad = (body.padding or {}).get("pad_token", END)
    body.no_padding()
    body.no_truncation()
    return Tokenizer(body, length, cut, pad)


def from_vocabulary(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], length: int, pad: str = END,
    cut: Callable[[str], object] | None = _noted, further: Sequence[str] = (),
) -> Tokenizer:  # fmt: skip
    """CLIP's tokenizer of a known vocabulary. pad: what follows the end; Stable Diffusion 2 has "!" there.

    further: tokens that are never a part of a word, such as those of a textual inversion.
    """
    from tokenizers import models

    model = models.BPE(
        vocab=dict(vocabulary),
        merges=list(merges),
        unk_token=END,
        end_of_word_suffix="</w>",
        continuing_subword_prefix="",
    )
    return Tokenizer(_ended(_clip(model), pad, *further), length, cut, pad)


def train(texts: Iterable[str], length: int, words: int) -> Tokenizer:
    """A tokenizer of at most `words` tokens, learned from texts (Sennrich et al. 2016, arXiv:1508.07909)."""
    from tokenizers import models, pre_tokenizers, trainers

    body = _clip(models.BPE(unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    trainer: Any = trainers.BpeTrainer(
        vocab_size=words - 2, min_frequency=2, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    body.train_from_iterator([*texts, *COVERAGE], trainer)
    return Tokenizer(_ended(body), length, None)


def _clip(model: Any) -> Any:
    """A byte-pair model as the library's tokenizer, which cuts a text into words as CLIP does."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Body

    body: Any = Body(model)
    body.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    body.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    body.decoder = decoders.ByteLevel()
    return body


def _ended(body: Any, *further: str) -> Any:
    """Start and end around every text; they are the last two tokens of a tokenizer that does not know them yet.

    further: tokens that are never a part of a word, wherever they stand.
    """
    from tokenizers import processors

    body.add_special_tokens([START, END, *further])
    ends = [(token, body.token_to_id(token)) for token in (START, END)]
    body.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return body
