"""What a run of generate made, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from toolkit.settings import Sampling

__all__ = ["GenerationResult"]


@dataclass(frozen=True)
class GenerationResult:
    """What was made. format: as it was written. settings: as they were resolved; start_sigma: noise level of the start.

    limit, similarity (N,): NCC that an image stays below, and NCC with its nearest training image, where a distance was
    asked for. rejections: gate -> draws that it did not let pass. notes: what else is to be said of the run.
    """

    count: int
    format: str
    settings: Sampling
    start_sigma: float
    draws: int
    limit: float | None = None
    similarity: tuple[float, ...] = ()
    rejections: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def rejected(self) -> float:
        """Part of the draws that a gate rejected."""
        return 1 - self.count / self.draws
