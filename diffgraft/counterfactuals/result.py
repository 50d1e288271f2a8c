"""What became of each scan of a run."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CounterfactualResult", "ScanResult"]


@dataclass(frozen=True)
class ScanResult:
    """Numbers of a scan's anomaly map, or in `refused` the reason why it was put aside.

    suspicious_slices: of `slices`, those with a voxel above the threshold. novelty: how unlike the scans of the training.
    """

    label: str
    source: str
    group: str
    seconds: float = 0.0
    refused: str = ""
    most_abnormal: float = 0.0
    volume_ml: float = 0.0
    suspicious_slices: int = 0
    slices: int = 0
    novelty: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CounterfactualResult:
    """scans: in the order they were found. aside: (source, reason) of what was not used, refused scans among them."""

    scans: tuple[ScanResult, ...]
    aside: tuple[tuple[str, str], ...]

    @property
    def kept(self) -> list[ScanResult]:
        """The scans that have a counterfactual."""
        return [scan for scan in self.scans if not scan.refused]
