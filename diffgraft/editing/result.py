"""What an edit found, as values and as lines for the terminal; the pictures that its report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from toolkit.example import Boxes, Example

__all__ = ["EditResult", "EditedImage", "Measured", "ObjectEditResult"]


@dataclass(frozen=True)
class EditedImage:
    """One image before and after, and the region (H, W) that the edit was for.

    boxes: of an edit of objects, the new ones, named "" where something was taken away.
    """

    before: Example
    after: Example
    region: np.ndarray
    boxes: Boxes | None = None


@dataclass(frozen=True)
class Measured:
    """Means over images. named: probability of the class wanted; likeness: cosine to the words wanted; None where the
    model cannot say. ssim, edges: with the source.
    """

    named: float | None
    likeness: float | None
    ssim: float
    edges: float


@dataclass(frozen=True)
class EditResult:
    """What was made. inside, outside: mean absolute change by the model alone, of a range of 255.

    rows: "source", "codec alone" of a latent model, "model alone", "edited" and, of several sources, "another image".
    films: how many were resampled to the grid of their files. aside: (source, reason) of each file that was not used.
    """

    count: int
    inside: float
    outside: float
    ssim_outside: float
    rows: Mapping[str, Measured]
    start_sigma: float
    films: int = 0
    aside: tuple[tuple[str, str], ...] = ()

    @property
    def before(self) -> float | None:
        """Probability of the wanted class in the source."""
        return self.rows["source"].named

    @property
    def after(self) -> float | None:
        """The same after the edit."""
        return self.rows["edited"].named

    def lines(self) -> list[str]:
        """What was measured, as text."""
        source, edited, codec = self.rows["source"], self.rows["edited"], self.rows.get("codec alone")
        lines = []
        for name, what in (("named", "probability of the wanted class"), ("likeness", "likeness to the words wanted")):
            before, after = getattr(source, name), getattr(edited, name)
            if before is not None:
                alone = "" if codec is None else f" (codec alone {getattr(codec, name):.2f})"
                lines.append(f"{what}, by the model's own networks: {before:.2f} -> {after:.2f}{alone}")
        kept = [f"{name} {row.ssim:.3f} / {row.edges:.3f}" for name, row in self.rows.items() if name != "source"]
        return [*lines, f"SSIM / correlation of edges with the source: {', '.join(kept)}"]


@dataclass(frozen=True)
class ObjectEditResult:
    """What was drawn. inside, outside: mean absolute change by the model alone, of a range of 255, in its own pixels.

    objects, removed: boxes drawn, and objects of the pictures that went for them. differing: pixels outside of what was to
    change that differ from the source in the files. rim: of the source, of the edited pictures. found: part of the new boxes that
    the model's detector finds before and after, None without one. aside: (source, reason) of what was not used.
    """

    count: int
    objects: int
    removed: int
    inside: float
    outside: float
    ssim_outside: float
    differing: int
    rim: tuple[float, float]
    found: tuple[float, float] | None
    start_sigma: float
    aside: tuple[tuple[str, str], ...] = ()
    films: int = 0

    def lines(self) -> list[str]:
        """What was measured, as text."""
        lines = [
            f"{self.objects} objects drawn, {self.removed} that they cover taken away",
            f"pixels elsewhere that differ from the source: {self.differing}",
            f"steps at the rim of what changed, of 255: source {self.rim[0]:.1f}, edited {self.rim[1]:.1f}",
        ]
        if self.found is not None:
            before, after = self.found
            lines.append(f"new boxes that the model's own detector finds: before {before:.0%}, after {after:.0%}")
        return lines
