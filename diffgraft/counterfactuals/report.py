"""The reports of a run: one of all scans, and one viewer page a scan where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffgraft import reporting
from diffgraft.counterfactuals.result import CounterfactualResult, ScanResult

__all__ = ["write", "write_page"]


def write(
    path: Path, result: CounterfactualResult, viewers: Sequence[reporting.Section], pages: bool, run: reporting.Run
) -> None:
    """The report of all scans. viewers: the first of them; pages: each scan has a page of its own."""
    sections = [reporting.Section("Scans", [_table(result.scans, pages)]), *viewers]
    _write(path, f"{len(result.kept)} of {len(result.scans)} scans", sections, run)


def write_page(path: Path, viewer: reporting.Section, run: reporting.Run) -> None:
    """The page of one scan."""
    _write(path, viewer.title, [viewer], run)


def _write(path: Path, subtitle: str, sections: Sequence[reporting.Section], run: reporting.Run) -> None:
    reporting.write(
        path, "Healthy counterfactuals", subtitle, sections, run,
        notice=reporting.RESEARCH_USE,
        next_step="Compare the maps with reference masks: diffgraft evaluate anomaly RAW OUT",
    )  # fmt: skip


def _table(scans: Sequence[ScanResult], pages: bool) -> reporting.Table:
    rows = [
        [s.label, "refused: " + s.refused, "", "", "", ""] if s.refused else
        [s.label, "see sub-" + s.label + "_report.html" if pages else "shown below", f"{s.most_abnormal:.3f}",
         f"{s.volume_ml:.1f}", f"{s.suspicious_slices} of {s.slices}", f"{s.seconds:.0f}"]
        for s in sorted(scans, key=lambda s: -s.volume_ml)
    ]  # fmt: skip
    header = ["scan", "result", "highest value", "volume above threshold (ml)", "slices above threshold", "seconds"]
    return reporting.Table(
        header, rows, caption="Most suspicious first. Volumes use the voxel size that the file states."
    )
