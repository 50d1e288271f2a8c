"""What a request asks a model for in words: labels and a text, in the vocabulary of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from diffgraft.models import folder
from toolkit.data import labels
from toolkit.diffusion.model import TEXT, Model
from toolkit.example import Annotation, Error

__all__ = ["resolve_prompt", "split_words"]


def split_words(model: Path, words: Iterable[str]) -> tuple[dict[str, str], str | None]:
    """Words such as "condition=rust" and "text=PA view" as the labels and the text of a request for a model folder.

    Errors: a word without a value, a label or a text that comes twice.
    """
    known: dict[str, str] = {}
    texts: list[str] = []
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if name == TEXT and equals:
            texts.append(value)
        elif not equals or name in known:
            meta = folder.meta(model)
            names = ", ".join(labels.vocabulary_of(meta, folder.domain(meta["domain"])))
            raise Error(f"A label is set once, as NAME=VALUE; found '{word}'. Known: {names}.")
        else:
            known[name] = value
    if len(texts) > 1:
        raise Error(f"A text is given once; found {len(texts)}. Put everything into one.")
    return known, texts[0] if texts else None


def resolve_prompt(
    model: Model, domain: ModuleType, given: Mapping[str, float | str], text: str | None, complete: bool = True
) -> Annotation:
    """The labels and the text of a request in the model's vocabulary.

    A word is looked up; what follows from words and text is added, and nothing where all labels are numbers. complete: for
    a model of labels too, such as the crop of a disease. Errors: a label or a value that the model does not have.
    """
    vocabulary = labels.vocabulary_of(model.meta, domain)
    words = [f"{name}={value if isinstance(value, str) else f'{value:g}'}" for name, value in given.items()]
    numbers = {name: value for name, value in given.items() if not isinstance(value, str)}
    known = {**labels.parse(vocabulary, words), **numbers}
    if TEXT in model.denoiser.spec.fields and (text is not None or len(numbers) < len(given)):
        found = domain.parse_prompt([*words, *([] if text is None else [f"{TEXT}={text}"])], vocabulary)
        return Annotation(found.text, {**found.labels, **numbers})
    if complete and len(numbers) < len(given) and hasattr(domain, "infer_labels"):
        known = domain.infer_labels(known, vocabulary)
    return Annotation(labels=known)
