"""A grid of images with captions."""

from __future__ import annotations

from collections.abc import Sequence
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
