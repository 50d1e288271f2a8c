"""A film is a DICOM file or a picture: the files of a folder or a table, the pixels of one, and the square a model sees.

    ROOT/**/*.dcm, or files that are DICOM by their content        and pictures, each by its name
    ROOT/metadata.csv or labels.csv      filename, and any columns

Contract. Pixels are (H, W) grey levels in [0, 1], bright is dense. A model sees the largest central square, its levels
in [-1, 1]: the darkest and the brightest 0.5 % are clipped and the median has one level, because films of different
sources have no window in common. What a file or a table says of a film is answered in its words; what these mean, and
how films are written, is said elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.data import transforms
from toolkit.data.file_names import printable
from toolkit.example import Error, Provenance
from toolkit.formats import folders
from toolkit.formats.dicom import body
from toolkit.formats.dicom.files import is_dicom, read_file
from toolkit.formats.dicom.film import read_film
from toolkit.formats.folders import Aside
from toolkit.formats.photograph import SUFFIXES, read_photograph

__all__ = [
    "Read", "Row", "SourceGrid", "apply_change", "apply_curve", "central_square", "central_square_box", "filter_rows",
    "grey_curve", "normalise", "parse_side", "read_levels", "rows", "single_row", "source_files", "source_grid", "states_chest",
]  # fmt: skip

DICOM = (".dcm", ".dicom")
MIDDLE = 0.5
MOST_GAMMA = 1.7
"""The median of a film is put in the middle of the grey levels by a gamma of at most so much."""


@dataclass(frozen=True)
class Row:
    """One file and what a table says of it, column -> text."""

    name: str
    path: Path
    id: str
    words: Mapping[str, str]


def rows(root: Path, aside: Aside | None) -> list[Row]:
    """The files of a table, or every DICOM file and picture below a folder."""
    if not root.is_dir():
        raise Error(f"Films lie in a folder; '{root}' is none. Check the path.")
    if any((root / name).is_file() for name in folders.TABLES):
        listed = folders.rows(root, aside, (*SUFFIXES, *DICOM))
        return [Row(row.name, row.path, row.id, row.words) for row in listed]
    found: list[Row] = []
    taken: set[str] = set()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        # By its content too: a PACS exports files without a suffix.
        if not (path.suffix.lower() in (*SUFFIXES, *DICOM) or is_dicom(path)):
            folders.skip_or_raise(
                aside, name, "A film is a DICOM file or a picture; this file is neither. Leave it out."
            )
            continue
        stem = _ident(name.rpartition(".")[0].replace("/", "-") or name)
        ident, number = stem[:150], 2
        while ident in taken:
            ident, number = f"{stem[:150]}-{number}", number + 1
        taken.add(ident)
        found.append(Row(name, path, ident, {}))
    if not found:
        raise Error(f"Films are DICOM files, or pictures beside a metadata.csv; '{root}' holds none.")
    return found


def _ident(name: str) -> str:
    """A name as the id of a sample."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", folders.safe_name(name)).strip("_.-") or "film"


def states_chest(path: Path) -> bool:
    """Whether a file is DICOM and says itself that it shows a chest."""
    return is_dicom(path) and body.states_chest(read_file(path, pixels=False), path.name)


def single_row(path: Path) -> Row:
    """A film that stands in no table."""
    return Row(printable(path.name), path, _ident(path.stem), {})


def filter_rows(found: Sequence[Row], only: Sequence[str]) -> list[Row]:
    """The rows whose columns have one of the values asked for."""
    allowed: dict[str, set[str]] = {}
    for word in only:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            raise Error(f"--only takes NAME=VALUE with the name of a column; found '{word}'.")
        allowed.setdefault(name.lower(), set()).add(value.lower())
    kept = [row for row in found if all(row.words.get(k, "").lower() in values for k, values in allowed.items())]
    if not kept:
        raise Error(f"A data set needs one film or more; {' and '.join(only)} leaves none of {len(found)}.")
    return kept


def source_files(root: Path) -> dict[str, Path]:
    """The file of every film below a folder, or of a film itself, by the id that `read` or `one` gives it."""
    return {row.id: row.path for row in (rows(root, lambda *_: None) if root.is_dir() else [single_row(root)])}


@dataclass(frozen=True)
class Read:
    """A film as it was read. pixels: (H, W) grey levels in [0, 1]. known: what a DICOM file states, column -> text. patient:
    its key there. mark: of what was made. notes: what was decided and another reader might decide otherwise.
    """

    pixels: np.ndarray
    known: Mapping[str, str]
    patient: str
    mark: Provenance | None
    notes: tuple[str, ...] = ()


def read_levels(path: Path) -> Read:
    """The film of a file."""
    if path.suffix.lower() in SUFFIXES:
        picture, mark = read_photograph(path, stretched=True)
        return Read((picture.mean(0) + 1) / 2, {}, "", mark)
    source = read_film(path)
    known = {"view": source.view, "sex": source.sex, "age": "" if math.isnan(source.age) else f"{source.age:g}"}
    mark = Provenance("synthetic", "unknown", "unknown") if source.synthetic else None
    return Read(source.pixels, known, source.patient, mark, source.doubts)


# ---------------------------------------------------------------------------------------------------------- grey levels


def central_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """The central square of (H, W), resampled to (side, side), antialiased."""
    top, left, size, _ = central_square_box(pixels.shape)
    cut = Image.fromarray(pixels[top : top + size, left : left + size].astype(np.float32))
    return np.asarray(cut.resize((side, side), Image.Resampling.LANCZOS))


def parse_side(text: str) -> int:
    """Rows and columns of the square from "128x128" or "128". Errors: what no model can take."""
    match = re.fullmatch(r"\s*(\d{2,4})(?:\s*x\s*(\d{2,4}))?\s*", text.lower())
    if not match or match[2] not in (None, match[1]) or int(match[1]) % 8 or not 32 <= int(match[1]) <= 1024:
        raise Error(f"A film is square, WIDTHxHEIGHT of 32 to 1024 in steps of 8, such as 128x128; found '{text}'.")
    return int(match[1])


def central_square_box(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest central square of a film. Errors: one of next to no pixels."""
    size = min(shape)
    if size < 16:
        raise Error(f"A film has 16 rows and columns or more; this one has {shape[1]} x {shape[0]}.")
    top, left = ((total - size) // 2 for total in shape)
    return top, left, size, size


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Grey levels of any window to [-1, 1]: clipped at the ends, the median in the middle.

    Errors: a film without any contrast.
    """
    return apply_curve(pixels, *grey_curve(pixels)).astype(np.float32)


def grey_curve(pixels: np.ndarray) -> tuple[float, float, float]:
    """What `normalise` does to a film: darkest and brightest grey, and the gamma between them."""
    low, high = (float(end) for end in np.quantile(pixels, (0.005, 0.995)))
    if high - low < 1e-4:
        raise Error("A film has light and dark places; this one has one grey level. Leave it out.")
    scaled = np.clip((pixels - low) / (high - low), 0, 1)
    middle = float(np.clip(np.median(scaled), 1e-3, 1 - 1e-3))
    return low, high, float(np.clip(math.log(MIDDLE) / math.log(middle), 1 / MOST_GAMMA, MOST_GAMMA))


def apply_curve(pixels: np.ndarray, low: float, high: float, gamma: float) -> np.ndarray:
    """Grey levels in [0, 1] as those of an image in [-1, 1]."""
    return np.clip((pixels - low) / (high - low), 0, 1) ** gamma * 2 - 1


# --------------------------------------------------------------------------------------------------------- the way back


@dataclass(frozen=True)
class SourceGrid:
    """A film as its file shows it, and the square of it that a model sees: the way back of a change.

    pixels: (H, W) in [0, 1]. box: (top, left, height, width) of the square. curve: what `apply_curve` is given.
    """

    pixels: np.ndarray
    box: tuple[int, int, int, int]
    curve: tuple[float, float, float]


def source_grid(path: Path, side: int) -> SourceGrid:
    """A film on its own grid. side: of the model's square, whose grey levels the curve was taken from."""
    pixels = read_levels(path).pixels
    return SourceGrid(pixels, central_square_box(pixels.shape), grey_curve(central_square(pixels, side)))


def apply_change(grid: SourceGrid, change: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A film with a change of its square, (side, side) in units of an image, added to its own pixels: (H, W) in [0, 1].

    weight: (H, W) part of the change that each pixel takes; where it is 0 the pixel is that of the film, bit by bit.
    Fine texture stays: what is added is the change alone, and beyond the ends of the curve grey levels move in parallel.
    """
    low, high, gamma = grid.curve
    moved = transforms.unfit(change, grid.box, grid.pixels.shape, 0.0) * weight
    where = moved != 0
    before = apply_curve(grid.pixels[where], *grid.curve)
    after = np.clip(before + moved[where], -1, 1)
    given = grid.pixels.copy()
    given[where] += (high - low) * (((after + 1) / 2) ** (1 / gamma) - ((before + 1) / 2) ** (1 / gamma))
    return np.clip(given, 0, 1)
