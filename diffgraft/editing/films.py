"""Edited films on the grid of their files: the change of the model's square, added to the film's own pixels.

OUT/films/<id>.png      16-bit grey, with the mark of `toolkit.data.xmp`; outside the region the levels of the source
OUT/dicom/<id>.dcm      of a DICOM film: Secondary Capture in a new series of the same study
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, PngImagePlugin

from diffgraft.editing.region import Region
from toolkit.data import xmp
from toolkit.example import Error, Example
from toolkit.formats.dicom.files import is_dicom
from toolkit.methods.local_edit import weighed

__all__ = ["DICOM", "FOLDER", "give_back"]

FOLDER, DICOM = "films", "dicom"

SHOWN = 4
"""Films that the report shows before and after."""

DEEP = 65535


def give_back(
    folder: Path, domain: ModuleType, paths: Sequence[Path], made: Sequence[Example], moved: np.ndarray, masks: np.ndarray,
    region: Region, feather: float, aside: list[tuple[str, str]],
) -> list[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Write every edited film on its own grid, and return the first ones, before and after, as 8-bit pictures.

    paths: the file of each; made: what was made of it; moved (N, 1, h, w): its change; masks (N, h, w): where; feather: in pixels
    of the model.
    aside: is told of a DICOM film of which none can be written; its picture is.
    """
    (folder / FOLDER).mkdir()
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    for path, example, change, mask in zip(paths, made, moved[:, 0], masks, strict=True):
        grid = domain.grid(path, change.shape[-1])
        weight = weighed(region.reach(grid, mask), feather * grid.box[2] / change.shape[-1])
        film = domain.given_back(grid, change, weight)
        _save(folder / FOLDER / f"{example.id}.png", film, example)
        if is_dicom(path):
            try:
                _as_dicom(folder / DICOM / f"{example.id}.dcm", path, film, example)
            except Error as problem:
                aside.append((path.name, f"Edited, but not written as DICOM: {problem}"))
        if len(shown) < SHOWN:
            before, after = (np.rint(levels * 255).astype(np.uint8) for levels in (grid.pixels, film))
            shown.append((before, after))
    return shown


def _save(path: Path, levels: np.ndarray, example: Example) -> None:
    marks = PngImagePlugin.PngInfo()
    assert example.provenance is not None
    marks.add_itxt(xmp.KEYWORD, xmp.mark(example.provenance))
    Image.fromarray(np.rint(levels * DEEP).astype(np.uint16)).save(path, pnginfo=marks)


def _as_dicom(path: Path, source: Path, levels: np.ndarray, example: Example) -> None:
    from toolkit.formats.dicom.edited import edited_film

    assert example.provenance is not None
    edited_film(source, levels, example.annotation.text or "", example.provenance, path)
