"""Options of the command line: what one is, those that several verbs share, and what a shell may complete them with.

An option belongs to a field of its verb's request, from which it has its type and its default (diffgraft.cli.command).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = [
    "CHECKS",
    "DETECTION",
    "FILMS",
    "MRI",
    "OUTPUT",
    "OVERWRITE",
    "PLANTS",
    "SAMPLING",
    "STUDENT",
    "TRAINING",
    "Argument",
    "Backend",
    "Option",
    "backend",
    "domain",
    "lines",
    "names",
    "numbers",
    "pairs",
    "sampling",
    "shares",
]

MRI, FILMS, PLANTS, DETECTION = "Brain MRI", "Chest films", "Plant disease", "Detection"
SAMPLING, TRAINING = "Sampling", "Training"
CHECKS, OUTPUT = "Checks on what is made", "Output"


@dataclass(frozen=True)
class Option:
    """How a field of a request is given on the command line.

    flags: its names, those of the field unless given. panel: heading that it stands under in the help. kind: type on the
    command line and read: from a value of that type to the field's, where these differ from the field's own. complete: the
    values that a shell offers.
    """

    help: str
    flags: str = ""
    panel: str = ""
    kind: Any = None
    read: Callable[[Any], Any] | None = None
    complete: Iterable[str] | Callable[[], Iterable[str]] | None = None
    metavar: str | None = None

    positional = False


class Argument(Option):
    """The same, given by its place."""

    positional = True


# ------------------------------------------------------------------------------------------- values that a shell offers


BACKENDS = (
    "auto", "onnx", "onnx:fp16", "onnx:bf16", "onnx:int8", "openvino", "openvino:bf16", "openvino:int8", "tensorrt",
    "tensorrt:fp32", "tensorrt:bf16", "torch",
)  # fmt: skip
Backend = StrEnum("Backend", {name: name for name in BACKENDS})


def domains() -> Iterable[str]:
    """Names of the domains."""
    import pkgutil

    import domains

    return sorted(module.name for module in pkgutil.iter_modules(domains.__path__))


def samplers() -> Iterable[str]:
    """Names of the samplers."""
    from toolkit.diffusion.samplers import SAMPLERS

    return SAMPLERS


def solvers() -> Iterable[str]:
    """Names of the samplers that draw no noise, and so can encode an image."""
    from toolkit.diffusion.samplers import SAMPLERS, STOCHASTIC

    return [name for name in SAMPLERS if name not in STOCHASTIC]


# --------------------------------------------------------------------------------------------- from words to the field


def pairs(words: Sequence[str]) -> dict[str, Path]:
    """NAME=FOLDER words as a mapping."""
    from toolkit.example import Error

    found = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise Error(f"--beside takes NAME=FOLDER, such as control=maps-null; found '{word}'.")
        found[name] = Path(folder)
    return found


def shares(words: Sequence[str]) -> dict[Path, float]:
    """FILE and FILE=SHARE words as a mapping; a share of 1 is all of it. A file may have = in its name."""
    found = {}
    for word in words:
        name, equals, share = word.rpartition("=")
        try:
            found[Path(name if equals else word)] = float(share) if equals else 1.0
        except ValueError:
            found[Path(word)] = 1.0
    return found


def numbers(words: str) -> list[int]:
    """Whole numbers between commas, from 1 up."""
    from toolkit.example import Error

    found = names(words)
    if not all(word.isdecimal() and int(word) > 0 for word in found):
        raise Error(f"--steps takes whole numbers, such as 1,2,4 from 1 up; found '{words}'.")
    return [int(word) for word in found]


def names(words: str) -> list[str]:
    """Words between commas."""
    return [word.strip() for word in words.split(",")]


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Errors: no file in UTF-8, none with text."""
    from toolkit.example import Error

    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise Error(f"Prompts stand in a text file in UTF-8; {path} is none: {problem}. Check the path.") from problem
    if not found:
        raise Error(f"Prompts stand in a text file, one a line; {path} has none. Write one or more.")
    return found


# ----------------------------------------------------------------------------------------- options that verbs share

OVERWRITE = Option("Replace the output folder if it exists.", panel=OUTPUT)
STUDENT = Option(
    "By the model's few-step student, or by the model itself. The model's own choice unless given.",
    "--student/--no-student",
    SAMPLING,
)


def domain() -> Option:
    """Which domain, by its place."""
    return Argument("chest_xray, brain_mri, plant_disease or detection.", complete=domains)


def backend(panel: str = SAMPLING) -> Option:
    """What runs the model."""
    return Option(
        "What runs the model: onnx, openvino, tensorrt or torch, as openvino:bf16; auto is the fastest that passed.",
        panel=panel,
        kind=Backend,
        metavar="NAME[:PRECISION]",
    )


def sampling() -> Mapping[str, Option]:
    """How a model is sampled: each changes one of its own settings."""
    return {
        "seed": Option("Of the noise.", panel=SAMPLING),
        "steps": Option("Steps of the sampler.", panel=SAMPLING),
        "guidance": Option("Classifier-free: 0 ignores the labels, 1 conditional.", panel=SAMPLING),
        "sampler": Option(
            "dpmpp_2m, heun, euler, or with noise on the way euler_ancestral, dpmpp_2m_sde.",
            panel=SAMPLING,
            complete=samplers,
        ),
        "backend": backend(),
    }
