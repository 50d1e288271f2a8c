"""What is made of a generated image, whatever made it: the settings that were resolved, the formats it is written in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.data import dataset
from toolkit.data.labels import Vocabulary, to_json
from toolkit.diffusion.model import Model
from toolkit.example import Example
from toolkit.formats import coco, voc, yolo
from toolkit.models.folder import trained_on
from toolkit.settings import Sampling

__all__ = ["BOXED", "COHERENCE", "FILMS", "FORMATS", "Outcome", "format_of", "put", "resolved"]


COHERENCE = 0.9
"""The part of the noise's variance that the slices of a volume share."""


FILMS = {"dicom": "sc", "dx": "dx"}
"""Formats in which a film is a DICOM file too -> its kind; of domains that have them among FORMATS."""


BOXED = {"coco": coco, "voc": voc, "yolo": yolo}
"""Formats of pictures with boxes -> what writes them; of domains that have them among FORMATS."""


FORMATS = ("images", "folders", "nifti", *FILMS, *BOXED)


@dataclass(frozen=True)
class Outcome:
    """What was made. similarity (N,): to the nearest training image, where that was asked for.

    turned_away: gate -> how many of the draws it did not let pass. notes: what else is said of the run.
    """

    count: int
    format: str
    draws: int
    start_sigma: float
    limit: float | None = None
    similarity: tuple[float, ...] = ()
    turned_away: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def rejected(self) -> float:
        """Part of the draws that a gate turned away."""
        return 1 - self.count / self.draws


def format_of(domain: ModuleType) -> str:
    """How images of a domain are written unless something else is asked for."""
    return getattr(domain, "FORMAT", "images")


def put(
    model: Model, domain: ModuleType, vocabulary: Vocabulary, examples: Iterable[Example], folder: Path, format: str,
    settings: Mapping[str, Any], seconds: float,
) -> None:  # fmt: skip
    """Write made images as a data set that says what made them, what that was trained on, and how long it took."""
    about = {"domain": model.meta["domain"], "synthetic": True, "model": model.fingerprint, "settings": settings}
    about |= {"seconds": round(seconds, 1)}
    known = trained_on(model.meta)
    about |= {} if known is None else {"trained_on": sorted(known)}
    if format == "folders":
        domain.write(examples, folder, vocabulary, **about)
        return
    if format in BOXED:
        BOXED[format].write(examples, folder, vocabulary[domain.TARGET], **{"labels": to_json(vocabulary), **about})
        return
    examples = list(examples)
    dataset.write(examples, folder, labels=to_json(vocabulary), **about)
    if format in FILMS:
        from toolkit.formats.dicom import synthetic

        synthetic.write(examples, folder, FILMS[format], labels=to_json(vocabulary))


def resolved(model: Model, settings: Sampling, volume: bool, outcome: Outcome) -> dict[str, Any]:
    """Every setting that was resolved."""
    made = dataclasses.asdict(settings) | {"count": outcome.count, "start_sigma": round(outcome.start_sigma, 4)}
    made |= {"backend": model.backend, "model": model.fingerprint[:16], "coherence": COHERENCE if volume else 0.0}
    if outcome.turned_away:
        made |= {
            "draws": outcome.draws,
            "rejected": round(outcome.rejected, 4),
            "turned_away": dict(outcome.turned_away),
        }
    if outcome.limit is not None:
        made |= {"ncc_limit": round(outcome.limit, 4)}
    return made
