"""What an audit for copies found, as values and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.evaluation import memorization
from toolkit.evaluation.memorization import RECALL, Audit

__all__ = ["NAMES", "AuditResult"]

NAMES = {"ncc": "NCC", "cosine": "cosine of features", "ssim": "SSIM", "any": "any of them"}


@dataclass(frozen=True)
class AuditResult:
    """What an audit of two folders found; str() is for the terminal.

    ids: of the fake images. protocol: what makes the figures readable.
    """

    audit: Audit
    ids: Sequence[str]
    protocol: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """One sentence."""
        found = self.audit
        if not found.valid:
            return (
                f"INVALID: of the planted copies {found.recall} were found, and an audit needs {RECALL:.0%}; "
                "these rates say nothing."
            )
        return (
            f"{found.copies.count} of {found.copies.of} images are copies: {found.copies}; the same rule calls "
            f"{found.mistaken} of the held-out real images copies."
        )

    def __str__(self) -> str:
        found, lines = self.audit, [self.verdict]
        for name, limit in found.thresholds.items():
            fake, real = found.above[name]
            lines.append(
                f"{NAMES[name]:20} threshold {limit:.4f}; above the 95th percentile {found.lower[name]:.4f}: "
                f"fake {fake}, held-out {real}"
            )
        fake, real = found.above["any"]
        lines.append(f"{'any of them':20} above its 95th percentile: fake {fake}, held-out {real}")
        lines.append("planted copies found: " + ", ".join(f"{kind} {rate}" for kind, rate in found.planted.items()))
        lines.append(f"resolution 1/{found.mistaken.of} = {found.resolution:.2%}; " + str(self.protocol["held_out"]))
        return "\n".join(lines)

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON. A training image is named by its line in TRAIN's manifest, from 0."""
        found, lines = self.audit, self.protocol["lines"]
        return {
            "valid": found.valid,
            "copies": _rate(found.copies),
            "mistaken": _rate(found.mistaken),
            "resolution": found.resolution,
            "thresholds": dict(found.thresholds),
            "percentile_95": dict(found.lower),
            "above_95": {n: {"fake": _rate(f), "held_out": _rate(r)} for n, (f, r) in found.above.items()},
            "planted": {kind: _rate(rate) for kind, rate in found.planted.items()} | {"all": _rate(found.recall)},
            "samples": [
                {
                    "id": ident,
                    "copy": bool(copy),
                    "train": lines[nearest],
                    **{m: round(float(v), 5) for m, v in zip(found.fake.measures, values, strict=True)},
                }
                for ident, copy, nearest, values in zip(
                    self.ids, found.copy, found.nearest, found.fake.similarity, strict=True
                )
            ],
            "protocol": {k: v for k, v in self.protocol.items() if k != "lines"},
        }


def _rate(rate: memorization.Rate) -> dict[str, Any]:
    return {"count": rate.count, "of": rate.of, "value": rate.value, "interval": rate.interval}
