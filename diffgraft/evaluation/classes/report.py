"""The reports of the experiments on classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.blocks import arm_plot, cost_note, cost_tables, few_shot_curve, figures_note, lead
from diffgraft.evaluation.classes.result import TERMS, ClassAlignment, ClassificationResult, Row
from diffgraft.evaluation.results import best_row, by_shots, known_mean
from toolkit.example import Example

__all__ = ["write", "write_alignment"]

SHOWN = 4
"""Samples of each class in the sheet."""

Sets = Mapping[str, Sequence[Example]]

_STRATA = (
    "Accuracy on the test samples that have each value of another label, mean of the seeds: who gains and who loses by an "
    "augmentation."
)


def write(path: Path, result: ClassificationResult, sets: Sets, label: str, run: reporting.Run) -> None:
    """report.html. sets: samples for the sheet, real ones first, then each pool's."""
    grouped = by_shots(result.rows)
    panels = {TERMS.shots(k): {row.arm: row.balanced for row in rows} for k, rows in grouped.items()}
    plot = arm_plot(result.rows, panels, "Balanced accuracy")
    curve = few_shot_curve(grouped, TERMS, "training samples of each class")
    recalls = [_recalls(k, rows, result.names) for k, rows in grouped.items()]
    strata = [table for k, rows in grouped.items() for table in _strata(k, rows)]
    confusions = [_confusion(row, k, result.names) for k, rows in grouped.items() for row in _reference_and_best(rows)]
    sections = [
        reporting.warning_section(result.warnings),
        reporting.Section("Figures", [_figures(k, rows) for k, rows in grouped.items()], figures_note("leaves")),
        reporting.Section("Pictures", [plot, *curve]),
        reporting.Section("Classes", recalls, "Recall, mean of the seeds."),
        reporting.Section("Groups", strata, _STRATA),
        reporting.Section("Confusion", confusions),
        reporting.Section("Cost", cost_tables(grouped, TERMS), cost_note("samples")),
        reporting.Section("Samples", [_sheet(sets, result.names, label)]),
        reporting.protocol_section(result.protocol),
    ]
    reporting.write(
        path, "What synthetic samples do for a classifier", lead(grouped, TERMS), sections, run, notice=reporting.RESEARCH_USE,
        next_step="Look at the classes that lose: show them with diffgraft evaluate alignment REAL SYNTHETIC.",
    )  # fmt: skip


def write_alignment(path: Path, result: ClassAlignment, sets: Sets, label: str, run: reporting.Run) -> None:
    """report.html of an alignment. sets: the samples of each named set."""
    rows = [
        [name, sum(figures[0].support), known_mean([f.accuracy for f in figures]), result.balanced[name]]
        for name, figures in result.figures.items()
    ]
    recall = [
        [kind, *(known_mean([f.recall[n] for f in figures]) for figures in result.figures.values())]
        for n, kind in enumerate(result.names)
    ]
    tables = [
        reporting.Table(["Samples", "n", "Accuracy", "Balanced accuracy"], rows),
        reporting.Table(["Class", *result.figures], recall, caption="Named rightly, by class"),
    ]
    confusions = [
        reporting.confusion_table(
            np.sum([f.confusion for f in figures], 0).tolist(), result.names, f"{name}; rows are what was asked for"
        )
        for name, figures in result.figures.items()
    ]
    note = (
        f"The classifier was trained on real samples of the other folds. Chance is {1 / len(result.names):.2f}. Copies of training "
        "samples score higher than new ones would: read this beside diffgraft audit."
    )
    sections = [
        reporting.Section("Figures", tables, note),
        reporting.Section("Confusion", confusions),
        reporting.Section("Samples", [_sheet(sets, result.names, label)]),
        reporting.protocol_section(result.protocol),
    ]
    reporting.write(
        path, "Do synthetic images show what was asked for?", str(result).replace("\n", "; "), sections, run,
        notice=reporting.RESEARCH_USE, next_step="See whether they help: diffgraft evaluate classify REAL SYNTHETIC",
    )  # fmt: skip


def _figures(shots: int, rows: Sequence[Row]) -> reporting.Table:
    header = ["Training", "Generator", "Balanced accuracy", "SD of seeds", "Gain over real + classical"]
    lines = [
        [
            row.arm, row.generator or "-", row.balanced, row.spread, reporting.format_difference(row.gain),
            known_mean([f.accuracy for f in row.figures]), known_mean([f.macro_f1 for f in row.figures]), row.calibration,
        ]
        for row in rows
    ]  # fmt: skip
    best = {"Balanced accuracy": "max", "Accuracy": "max", "Macro F1": "max", "ECE": "min"}
    return reporting.Table(
        [*header, "Accuracy", "Macro F1", "ECE"], lines, f"Training samples: {TERMS.shots(shots)}", best
    )


def _recalls(shots: int, rows: Sequence[Row], names: Sequence[str]) -> reporting.Table:
    lines = [[row.arm, *(row.recall(kind) for kind in range(len(names)))] for row in rows]
    return reporting.Table(["Training", *names], lines, TERMS.shots(shots), dict.fromkeys(names, "max"))


def _strata(shots: int, rows: Sequence[Row]) -> list[reporting.Table]:
    return [
        reporting.Table(
            ["Training", *values],
            [[row.arm, *row.strata[other].values()] for row in rows],
            f"{other}, {TERMS.shots(shots)}",
        )
        for other, values in rows[0].strata.items()
    ]


def _reference_and_best(rows: Sequence[Row]) -> list[Row]:
    """The reference and the best arm with synthetic samples."""
    synthetic = [row for row in rows if row.generator]
    return [row for row in rows if row.gain is None] + ([best_row(synthetic)] if synthetic else [])


def _confusion(row: Row, shots: int, names: Sequence[str]) -> reporting.Table:
    caption = f"{row.arm}, {TERMS.shots(shots)}; rows are the truth, seeds added up"
    return reporting.confusion_table(row.confusion.tolist(), names, caption)


def _sheet(sets: Sets, names: Sequence[str], label: str) -> reporting.Sheet:
    """A few samples of each class, set after set."""
    rows = {
        f"{kind}: {name}": [e.image for e in examples if e.annotation.labels[label] == n][:SHOWN]
        for n, kind in enumerate(names)
        for name, examples in sets.items()
    }
    return reporting.Sheet.of_rows(rows, columns=2 * SHOWN)
