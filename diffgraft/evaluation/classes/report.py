"""The tables, pictures and pages of diffgraft.classify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.classes.result import Alignment, Classification, Row, by_shots, said, signed
from toolkit.evaluation.anomaly import Interval
from toolkit.example import Example

__all__ = ["Dots", "colour", "write", "write_alignment"]

SHOWN = 4
"""Samples of each class in the sheet."""

_GROUPS = (
    "Accuracy on the test samples that have each value of another label, mean of the seeds: who gains and who loses by an "
    "augmentation."
)
_COST = (
    "Training time over that of real samples alone (processor time where there is no GPU), and the wall time of making the "
    "synthetic samples, where they say it."
)
_TRIVIAL = ("random forest", "majority class", "constant")


def write(
    path: Path,
    result: Classification,
    sets: Sequence[Sequence[Example]],
    label: str,
    command: str,
    seconds: float,
) -> None:
    """report.html. sets: samples for the sheet, real ones first, then one set a pool."""
    grouped = by_shots(result.rows)
    pools = list(result.protocol["pools"])
    sections = [reporting.Section("Warning", [reporting.Text("\n\n".join(result.warnings))])] if result.warnings else []
    note = (
        "Mean of the seeds with a 95 % interval over leaves and seeds; differences are paired: same leaves, same seeds. All arms "
        "take the same number of optimisation steps. Bold: best of the column."
    )
    picture: list[reporting.Block] = [Dots({said(k): {r.arm: r.balanced for r in rows} for k, rows in grouped.items()})]
    few = [k for k in grouped if k]
    if len(few) > 1:
        picture.append(_curve(grouped, few))
    sections += [
        reporting.Section("Figures", [_table(k, rows) for k, rows in grouped.items()], note),
        reporting.Section("Pictures", picture),
        reporting.Section("Classes", [_recalls(k, rows, result.names) for k, rows in grouped.items()], "Recall, mean of the seeds."),
        reporting.Section("Groups", [t for k, rows in grouped.items() for t in _strata(k, rows)], _GROUPS),
        reporting.Section("Confusion", [_told(row, k, result) for k, rows in grouped.items() for row in _chosen(rows)]),
        reporting.Section("Cost", [_cost(k, rows) for k, rows in grouped.items()], _COST),
        reporting.Section("Samples", [_sheet(sets, ["real, held out", *pools], result.names, label)]),
        reporting.Section("Protocol", [reporting.Facts({k.replace("_", " "): v for k, v in result.protocol.items()})]),
    ]  # fmt: skip
    sections = [section for section in sections if section.blocks]
    lead = "; ".join(_lead(k, rows) for k, rows in grouped.items() if any(row.generator for row in rows))
    reporting.write(
        path, "What synthetic samples do for a classifier", lead, sections, _run(result, command, seconds), notice=reporting.RESEARCH_USE,
        next_step="Look at the classes that lose: show them with diffgraft evaluate --task alignment.",
    )  # fmt: skip


def write_alignment(
    path: Path, result: Alignment, sets: Sequence[Sequence[Example]], label: str, command: str, seconds: float
) -> None:
    """report.html of an alignment. sets: the samples of each named set."""
    rows = [
        [name, sum(figures[0].support), _mean([f.accuracy for f in figures]), str(result.balanced[name])]
        for name, figures in result.figures.items()
    ]
    recall = [
        [kind, *(_mean([f.recall[n] for f in figures]) for figures in result.figures.values())]
        for n, kind in enumerate(result.names)
    ]
    sections = [
        reporting.Section(
            "Figures",
            [
                reporting.Table(["Samples", "n", "Accuracy", "Balanced accuracy"], rows),
                reporting.Table(["Class", *result.figures], recall, caption="Named rightly, by class"),
            ],
            f"The classifier was trained on real samples of the other folds. Chance is {1 / len(result.names):.2f}. Copies of training "
            "samples score higher than new ones would: read this beside diffgraft audit.",
        ),
        reporting.Section(
            "Confusion",
            [
                _confusion(
                    np.sum([f.confusion for f in figures], 0), result.names, f"{name}; rows are what was asked for"
                )
                for name, figures in result.figures.items()
            ],
        ),
        reporting.Section("Samples", [_sheet(sets, list(result.figures), result.names, label)]),
        reporting.Section("Protocol", [reporting.Facts({k.replace("_", " "): v for k, v in result.protocol.items()})]),
    ]
    reporting.write(
        path, "Do synthetic images show what was asked for?", str(result).replace("\n", "; "), sections,
        _run(result, command, seconds), notice=reporting.RESEARCH_USE,
        next_step="See whether they help: diffgraft evaluate REAL FAKE --task classify",
    )  # fmt: skip


def _lead(shots: int, rows: Sequence[Row]) -> str:
    """The best arm with synthetic samples; that it was picked on the very test is said."""
    made = [row for row in rows if row.generator]
    best = max(made, key=lambda row: row.balanced.value or 0.0)
    return f"{said(shots)}: {best.arm} {signed(best.gain)} over real + classical (best of {len(made)} on this test)"


# Tables


def _table(shots: int, rows: Sequence[Row]) -> reporting.Table:
    header = [
        "Training",
        "Generator",
        "Balanced accuracy",
        "SD of seeds",
        "Gain over real + classical",
        "Accuracy",
        "Macro F1",
        "ECE",
    ]
    lines = [
        [
            row.arm, row.generator or "-", str(row.balanced), row.spread, signed(row.gain),
            float(np.mean([f.accuracy for f in row.figures])), float(np.mean([f.macro_f1 for f in row.figures])),
            row.calibration,
        ]
        for row in rows
    ]  # fmt: skip
    best = {"Balanced accuracy": "max", "Accuracy": "max", "Macro F1": "max", "ECE": "min"}
    return reporting.Table(header, lines, caption=f"Training samples: {said(shots)}", best=best)


def _recalls(shots: int, rows: Sequence[Row], names: Sequence[str]) -> reporting.Table:
    lines = [[row.arm, *(row.recall(kind) for kind in range(len(names)))] for row in rows]
    return reporting.Table(["Training", *names], lines, caption=said(shots), best=dict.fromkeys(names, "max"))


def _strata(shots: int, rows: Sequence[Row]) -> list[reporting.Table]:
    return [
        reporting.Table(
            ["Training", *values],
            [[row.arm, *row.strata[other].values()] for row in rows],
            caption=f"{other}, {said(shots)}",
        )
        for other, values in rows[0].strata.items()
    ]


def _cost(shots: int, rows: Sequence[Row]) -> reporting.Table:
    lines = [
        [
            row.arm,
            row.seconds,
            None if row.overhead is None else f"{row.overhead:+.0f} %",
            row.generation,
            str(row.balanced),
        ]
        for row in rows
        if row.seconds is not None
    ]
    header = ["Training", "Seconds a run", "Overhead", "Generation (s)", "Balanced accuracy"]
    return reporting.Table(header, lines, caption=said(shots))


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """The reference and the best arm with synthetic samples."""
    made = [row for row in rows if row.generator]
    best = [max(made, key=lambda row: row.balanced.value or 0.0)] if made else []
    return [row for row in rows if row.gain is None] + best


def _told(row: Row, shots: int, result: Classification) -> reporting.Table:
    caption = f"{row.arm}, {said(shots)}; rows are the truth, seeds added up"
    return _confusion(row.confusion, result.names, caption)


def _confusion(counts: np.ndarray, names: Sequence[str], caption: str) -> reporting.Table:
    return reporting.Table(
        ["", *names], [[n, *row] for n, row in zip(names, counts.tolist(), strict=True)], caption=caption
    )


def _curve(by_shots: Mapping[int, Sequence[Row]], few: Sequence[int]) -> reporting.Curve:
    """At most six lines: those of the figure, real ones and synthetic ones by turns."""
    rows = by_shots[few[-1]]
    made = sorted((r for r in rows if r.generator), key=lambda r: -(r.balanced.value or 0.0))[:3]
    names = [r.arm for r in rows if not r.generator][:3] + [r.arm for r in made]
    series = {
        name: [(k, row.balanced.value) for k in few for row in by_shots[k] if row.arm == name and row.balanced.value is not None]
        for name in names
    }  # fmt: skip
    return reporting.Curve(series, "training samples of each class", "balanced accuracy", "Few shots")


def _sheet(
    sets: Sequence[Sequence[Example]], titles: Sequence[str], names: Sequence[str], label: str
) -> reporting.Sheet:
    images, captions = [], []
    for kind, name in enumerate(names):
        for title, examples in zip(titles, sets, strict=True):
            of = [e for e in examples if e.annotation.labels[label] == kind][:SHOWN]
            images += [e.image for e in of]
            captions += [f"{name}: {title}"] * len(of)
    return reporting.Sheet(images, captions, columns=2 * SHOWN)


def _run(result: Any, command: str, seconds: float) -> reporting.Run:
    return reporting.Run(command=command, seconds=seconds, seed=0, settings=result.protocol["optimisation"])


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))  # type: ignore[arg-type]


def colour(arm: str) -> int:
    """The number of an arm's colour: real samples alone, synthetic ones, trivial baselines."""
    return 0 if arm.startswith("real") else 2 if arm in _TRIVIAL else 1


@dataclass(frozen=True)
class Dots:
    """A row a name with its interval, a panel a mapping; one axis for all. A row without a value is left out.

    colours: number of the colour of each name of each panel, (panel, name) -> number.
    """

    panels: Mapping[str, Mapping[str, Interval]]
    caption: str = "Balanced accuracy with 95 % intervals"
    colours: Callable[[str, str], int] = lambda _, name: colour(name)

    def html(self, key: str) -> str:
        panels = {
            title: {name: each for name, each in panel.items() if each.value is not None}
            for title, panel in self.panels.items()
        }
        known = [each for panel in panels.values() for each in panel.values()]
        if not known:
            return reporting.Text(f"{self.caption}: no value to draw.").html(key)
        low = np.floor(10 * min(each.low for each in known)) / 10  # type: ignore[type-var, arg-type]
        high = np.ceil(10 * max(each.high for each in known)) / 10  # type: ignore[type-var, arg-type]
        high = max(high, low + 0.1)
        left, width, step, y = 230, 314, 20, 8.0
        parts: list[str] = []

        def across(value: float) -> float:
            return left + (value - low) / (high - low) * width

        for title, panel in panels.items():
            parts.append(
                f'<text x="{left - 10}" y="{y + 13}" text-anchor="end" font-weight="600">{escape(title)}</text>'
            )
            y += step
            top = y
            for name, each in panel.items():
                middle = y + step / 2
                drawn = f"var(--c{self.colours(title, name)})"
                parts.append(
                    f'<text x="{left - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name[:36])}</text>'
                    f'<path d="M{across(each.low):.1f} {middle:.1f}H{across(each.high):.1f}" '  # type: ignore[arg-type]
                    f'style="stroke:{drawn};stroke-width:2"/>'
                    f'<circle cx="{across(each.value):.1f}" cy="{middle:.1f}" r="4.5" style="fill:{drawn}"/>'  # type: ignore[arg-type]
                )
                y += step
            parts.append(
                "".join(
                    f'<path class="grid" d="M{across(tick):.1f} {top}V{y}"/>'
                    for tick in np.arange(low, high + 0.01, 0.1)
                )
            )
            y += step / 2
        ticks = "".join(
            f'<text x="{across(tick):.1f}" y="{y + 8}" text-anchor="middle">{tick:.1f}</text>'
            for tick in np.arange(low, high + 0.01, 0.1)
        )
        return (
            f'<figure class="block curve"><h3>{escape(self.caption)}</h3><div class="wide"><svg viewBox="0 0 560 {y + 16:.0f}" role="img" '
            f'aria-label="{escape(self.caption)} of {len(known)} rows; the numbers are in the tables">{"".join(parts)}{ticks}</svg></div>'
            "</figure>"
        )
