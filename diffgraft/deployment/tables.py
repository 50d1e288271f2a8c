"""What the gate of an export measured, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from export.record import Record

__all__ = ["tables"]


def tables(record: Record) -> Iterator[Table]:
    """Parity of every output and run, what the images show, and speed."""
    name = f"{record.target} {record.precision}" + (f", {record.fuse} in one graph" if record.fuse != "none" else "")
    parity = Table("output", "sigma", "measure", "error", "allowed", title=f"{name}: run by {record.ran}")
    for row in [*record.parity, *record.run.values()]:
        sigma = "" if row["sigma"] is None else f"{row['sigma']:.3g}"
        parity.add_row(row["output"], sigma, row["measure"], f"{row['error']:.1e}", f"{row['allowed']:.0e}")
    yield parity
    if record.domain is not None:
        shown = Table("what images show", "images", "fp32", "its interval", record.precision)
        found = record.domain
        shown.add_row(
            found["metric"], f"{found['images']}", f"{found['fp32']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}",
            f"{found['found']:.3f}",
        )  # fmt: skip
        yield shown
    if record.speed:
        what = "one evaluation" if record.fuse == "none" else "one image"
        speed = Table("batch", f"seconds, {what}", "times as fast as torch in fp32")
        for row in record.speed:
            speed.add_row(f"{row['batch']}", f"{row['seconds']:.4f}", f"{row['ratio']:.2f}")
        yield speed
