"""The report of generated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffgraft import reporting
from diffgraft.generation.result import GenerationResult

__all__ = ["write"]


def write(
    path: Path, sheet: reporting.Sheet, result: GenerationResult, compared: tuple[int, int] | None, run: reporting.Run,
    notice: str,
) -> None:  # fmt: skip
    """The report of a run. sheet: the images. compared: training images and held-out ones that they were compared with."""
    sections = [reporting.Section("Images", [sheet])]
    if compared is not None:
        facts = {
            "Nearest training image, median of the samples": float(np.median(result.similarity)),
            "The same, highest": max(result.similarity),
            "Limit: median of the held-out images": result.limit,
            "Held-out images": compared[1],
            "Training images": compared[0],
            "Draws": result.draws,
            "Rejected": f"{result.rejected:.0%}",
        }
        note = "Largest normalised cross-correlation with a training image over mirror images and shifts up to 4 px."
        sections.append(reporting.Section("Distance from the training images", [reporting.Facts(facts)], note))
    reporting.write(
        path, "Generated images", f"{result.count} synthetic images", sections, run, notice=notice,
        next_step="Look at every image before it is used; synthetic images are training material, not findings.",
    )  # fmt: skip
