"""A grid of images with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from diffgraft.reporting.picture import encode, to_picture
from toolkit.example import Error

__all__ = ["Sheet"]


@dataclass(frozen=True)
class Sheet:
    """A grid of images.

    images: (H, W), (1 or 3, H, W) or (H, W, 3) arrays, float in [-1, 1], boolean, or uint8.
    captions: one an image, or none at all. columns: on a wide screen. side: larger images are reduced to it, in pixels.
    Grey images are stored without loss, colour ones as WebP of high quality.
    """

    images: Sequence[np.ndarray]
    captions: Sequence[str] = ()
    columns: int = 8
    caption: str = ""
    side: int = 384

    @classmethod
    def of_rows(
        cls, rows: Mapping[str, Sequence[np.ndarray]], caption: str = "", columns: int | None = None, side: int = 384
    ) -> Sheet:
        """Images below one another, a row a name, which is the caption of each of its images.

        columns: those of the longest row where left out; rows that are shorter would then not lie below one another.
        """
        images = [image for row in rows.values() for image in row]
        captions = [name for name, row in rows.items() for _ in row]
        return cls(images, captions, columns or max((len(row) for row in rows.values()), default=1), caption, side)

    def __post_init__(self) -> None:
        if self.captions and len(self.captions) != len(self.images):
            raise Error(f"A Sheet has one caption an image; found {len(self.captions)} for {len(self.images)}.")

    def html(self, key: str) -> str:
        captions = self.captions or [""] * len(self.images)
        figures = []
        for number, (image, caption) in enumerate(zip(self.images, captions, strict=True), 1):
            picture = to_picture(np.asarray(image), self.side)
            name = caption or f"Image {number}"
            figures.append(
                f'<figure><button type="button" class="zoom" aria-label="Enlarge: {escape(name)}">'
                f'<img src="{encode(picture)}" width="{picture.width}" height="{picture.height}" '
                f'alt="{escape(name)}"></button>'
                + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
                + "</figure>"
            )
        title = f"<h3>{escape(self.caption)}</h3>" if self.caption else ""
        return (
            f'<div class="block">{title}<div class="sheet" style="--cols:{self.columns}">{"".join(figures)}</div></div>'
        )
