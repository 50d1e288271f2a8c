"""Edited films on the grid of their files: the change of the model's square, added to the film's own pixels.

OUT/films/<id>.png      16-bit grey, with the mark of `toolkit.data.xmp`; outside the region the levels of the source
OUT/dicom/<id>.dcm      of a DICOM film: Secondary Capture in a new series of the same study
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, PngImagePlugin

from diffgraft.editing.region import Region
from diffgraft.preparation.quarantine import Aside
from toolkit.data import xmp
from toolkit.example import Error, Example
from toolkit.formats.dicom.files import is_dicom
from toolkit.methods.local_edit import feather_weights

__all__ = ["FilmEdit", "write_films"]

FOLDER, DICOM = "films", "dicom"

SHOWN = 4
"""Films that the report shows before and after."""

DEEP = 65535


@dataclass(frozen=True)
class FilmEdit:
    """One edited film. path: its file; example: as edited, at the model's size; change (h, w): what is added to it; mask
    (h, w): where.
    """

    path: Path
    example: Example
    change: np.ndarray
    mask: np.ndarray


def write_films(
    folder: Path, domain: ModuleType, edits: Sequence[FilmEdit], region: Region, feather: float, aside: Aside
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Write every edited film on the grid of its file, and return the first ones, before and after, as 8-bit pictures.

    feather: in pixels of the model. aside: is given a DICOM film of which none can be written; its picture is.
    """
    (folder / FOLDER).mkdir()
    pictures: list[tuple[np.ndarray, np.ndarray]] = []
    for edit in edits:
        size, example = edit.change.shape[-1], edit.example
        grid = domain.source_grid(edit.path, size)
        weight = feather_weights(region.on_file(grid, edit.mask), feather * grid.box[2] / size)
        film = domain.apply_change(grid, edit.change, weight)
        _save(folder / FOLDER / f"{example.id}.png", film, example)
        if is_dicom(edit.path):
            try:
                _as_dicom(folder / DICOM / f"{example.id}.dcm", edit.path, film, example)
            except Error as problem:
                aside.append((edit.path.name, f"Edited, but not written as DICOM: {problem}"))
        if len(pictures) < SHOWN:
            before, after = (np.rint(levels * 255).astype(np.uint8) for levels in (grid.pixels, film))
            pictures.append((before, after))
    return pictures


def _save(path: Path, levels: np.ndarray, example: Example) -> None:
    marks = PngImagePlugin.PngInfo()
    assert example.provenance is not None
    marks.add_itxt(xmp.KEYWORD, xmp.packet(example.provenance))
    Image.fromarray(np.rint(levels * DEEP).astype(np.uint16)).save(path, pnginfo=marks)


def _as_dicom(path: Path, source: Path, levels: np.ndarray, example: Example) -> None:
    from toolkit.formats.dicom.edited import write_edited_film

    assert example.provenance is not None
    write_edited_film(source, levels, example.annotation.text or "", example.provenance, path)
