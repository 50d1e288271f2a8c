"""What an edit did, measured beside what nothing and another image would have done, and the report that shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.models.features import described
from toolkit.data import labels
from toolkit.data.labels import Vocabulary
from toolkit.diffusion.model import Identity, Model
from toolkit.evaluation.finite import finite
from toolkit.evaluation.similarity import WINDOW, ssim
from toolkit.example import Annotation, Example
from toolkit.methods.local_edit import Edited, reproduced
from toolkit.methods.text_edit import edges

__all__ = ["Measured", "Outcome", "outcome", "write"]

SHOWN = 24
"""Edited images in the report."""

PROTOCOL = (
    "The probability of the wanted class and the likeness to the words are of the model's own feature network and text "
    "encoder, which learned from real images. SSIM (Wang et al. 2004, window 11) and the correlation of edges (Pearson's, "
    "of the gradient's magnitude after a Gaussian of 1 pixel) are with the source, over the whole image at the model's "
    "size: 1 is unchanged. Codec alone: through the autoencoder and back, unedited, the most that a latent model can keep. "
    "Another image: that of another source, what is alike without keeping anything. Model alone: before the pixels of the "
    "source are put back outside the region. Means over all images."
)


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
class Outcome:
    """What was made. inside, outside: mean absolute change by the model alone, of a range of 255.

    rows: "source", "codec alone" of a latent model, "model alone", "edited" and, of several sources, "another image".
    films: how many were given back on the grid of their files. aside: (source, reason) of each file that was not used.
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
        said = []
        for name, what in (("named", "probability of the wanted class"), ("likeness", "likeness to the words wanted")):
            before, after = getattr(source, name), getattr(edited, name)
            if before is not None:
                alone = "" if codec is None else f" (codec alone {getattr(codec, name):.2f})"
                said.append(f"{what}, by the model's own networks: {before:.2f} -> {after:.2f}{alone}")
        kept = [f"{name} {row.ssim:.3f} / {row.edges:.3f}" for name, row in self.rows.items() if name != "source"]
        return [*said, f"SSIM / correlation of edges with the source: {', '.join(kept)}"]


def outcome(
    model: Model, sources: np.ndarray, edited: Edited, wanted: Sequence[Annotation], variants: int, start_sigma: float
) -> Outcome:
    """Measure an edit. sources (N, C, H, W): the images that were edited, one after another `variants` times each."""
    inside, outside, alike = (
        _mean([getattr(c, name) for c in edited.changes]) for name in ("inside", "outside", "ssim_outside")
    )
    stages = {"source": sources}
    if not isinstance(model.codec, Identity):
        stages["codec alone"] = reproduced(model, sources)
    stages |= {"model alone": edited.made, "edited": edited.images}
    if len(sources) > variants:
        stages["another image"] = np.roll(sources, variants, axis=0)
    rows = {name: _measured(model, images, sources, wanted) for name, images in stages.items()}
    return Outcome(len(sources), inside * 127.5, outside * 127.5, alike, rows, start_sigma)


def _measured(model: Model, images: np.ndarray, sources: np.ndarray, wanted: Sequence[Annotation]) -> Measured:
    large = min(images.shape[2:]) >= WINDOW
    kept = [float(ssim(images[n : n + 1], sources[n : n + 1])[0]) if large else math.nan for n in range(len(images))]
    found = None if model.features is None else described(model, images)
    named = likeness = None
    if found is not None:
        plan = model.meta["parts"]["features"]
        classes = np.array([row.labels.get(plan["target"], math.nan) for row in wanted])
        known = np.flatnonzero(classes < plan["classes"])  # the rest: not stated, or learned after this network was
        if len(known):
            named = float(np.exp(found["log_probability"][known, classes[known].astype(int)]).mean())
        told = [n for n, row in enumerate(wanted) if row.text]
        if told and model.likeness is not None:
            features = model.asarray(found["features"][told])
            cosines = model.asnumpy(model.likeness(features, [wanted[n].text or "" for n in told]))
            likeness = float(finite(cosines, "cosines of prompts and images").mean())
    return Measured(named, likeness, _mean(kept), _mean(edges(images, sources).tolist()))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def write(
    path: Path, vocabulary: Vocabulary, examples: Sequence[Example], made: Sequence[Example], masks: np.ndarray,
    films: Sequence[tuple[np.ndarray, np.ndarray]], outcome: Outcome, run: reporting.Run, notice: str,
) -> None:  # fmt: skip
    """films: pairs of pictures, a film before and after on its own grid."""
    shown: list[np.ndarray] = []
    captions: list[str] = []
    for before, after, mask in list(zip(examples, made, masks, strict=True))[:SHOWN]:
        change = np.abs(after.image - before.image).mean(0)
        shown += [before.image, after.image, np.clip(3 * change, 0, 2) - 1, mask * 2 - 1]
        words = [after.annotation.text or "", *(labels.told(vocabulary, e.annotation.labels) for e in (before, after))]
        captions += [f"before: {words[1]}", f"after: {words[0] or words[2]}", "change, 3 x", "region"]
    facts: dict[str, Any] = {
        "Images": outcome.count,
        "Starts at sigma": outcome.start_sigma,
        "Change inside the region, of 255": outcome.inside,
        "Change outside, by the model alone, of 255": outcome.outside,
        "SSIM outside, by the model alone": outcome.ssim_outside,
        "Change outside in the files": "none: the pixels of the source are put back" if outcome.outside >= 0 else None,
        "Probability of the wanted class before": outcome.before,
        "The same after": outcome.after,
    }
    rows = [[name, row.named, row.likeness, row.ssim, row.edges] for name, row in outcome.rows.items()]
    header = ["", "Probability of the class", "Likeness to the words", "SSIM", "Correlation of edges"]
    used = [0, *(n for n in range(1, 5) if any(row[n] is not None and row[n] == row[n] for row in rows))]
    sections = [reporting.Section("Before and after", [reporting.Sheet(shown, captions, 4)])]
    if films:
        pictures = [picture for pair in films for picture in pair]
        note = "The change is added to the film's own pixels: what did not change is there as it was, texture and all."
        sheet = reporting.Sheet(pictures, ["before", "after"] * len(films), 2, side=640)
        sections.append(reporting.Section("On the film's own grid", [sheet], note))
    sections.append(
        reporting.Section(
            "What changed",
            [
                reporting.Facts({k: v for k, v in facts.items() if v is not None and v == v}),
                reporting.Table([header[n] for n in used], [[row[n] for n in used] for row in rows], "Wanted and kept"),
                reporting.Text(PROTOCOL),
            ],
        )
    )
    reporting.write(
        path, "Edited images", f"{outcome.count} images", sections, run,
        notice=notice, next_step="Look at every image before it is used: diffgraft evaluate shows whether it helps.",
    )  # fmt: skip
