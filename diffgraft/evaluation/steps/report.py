"""The report of quality against steps, and its figures as files of their own."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.steps import figures as steps_figures
from diffgraft.evaluation.steps.draws import STUDENT
from diffgraft.evaluation.steps.figures import Panel, Point

if TYPE_CHECKING:
    from diffgraft.evaluation.steps.experiment import Curves, Row

__all__ = ["CURVES", "all_of", "panels", "write"]

CURVES = "curves.svg"
_BETTER = {"low": ", lower is better", "high": ", higher is better", "same": ", nearest to the reference is best"}


def panels(result: Curves) -> list[Panel]:
    """A panel a metric: solvers as lines, the student as a point, what takes no model as dashed lines."""
    made = []
    lines = list(dict.fromkeys(row.sampler for row in result.rows if row.sampler != STUDENT))
    for metric in result.metrics:

        def point(row: Row, name: str = metric.name) -> Point:
            figure = row.figures[name]
            return Point(row.evaluations, figure.value, figure.low, figure.high)

        made.append(
            Panel(
                metric.title + _BETTER[metric.better],
                {name: [point(row) for row in result.rows if row.sampler == name] for name in lines},
                {f"student, {row.steps} steps": point(row) for row in result.rows if row.sampler == STUDENT},
                {name: figure.value for name, figure in result.beside[metric.name].items()},
                "evaluations of the denoiser" + (", one way up and down" if result.protocol["unit"] == "scan" else ""),
                metric.scale,
            )
        )
    return made


def write(
    out: Path, result: Curves, strips: Mapping[str, Any], command: str, seed: int, seconds: float, notice: str
) -> None:
    """report.html, curves.svg, and samples-<solver>.png, the same requests and noise in more and more steps."""
    drawn = panels(result)
    (out / CURVES).write_text(steps_figures.file(drawn), encoding="utf-8")
    sheets: list[reporting.Block] = []
    for name, rows in _rows(result, strips).items():
        if len(rows) < 2:
            continue
        png = steps_figures.strip(rows)
        (out / f"samples-{name}.png").write_bytes(png)
        said = "; ".join(strips["captions"])
        sheets.append(_Strip(png, f"{name}: the same noise in more and more steps", said))
    judged = [metric for metric in result.metrics if metric.judged]
    needed = reporting.Table(
        ("Solver", *(metric.title for metric in judged), "All of them"),
        [
            (name, *(result.enough[m.name][name] for m in judged), all_of(result, name))
            for name in next(iter(result.enough.values()))
        ],
        f"Steps from which on no measured number is worse than {result.reference}",
    )
    beside = reporting.Table(
        ("Beside it", "Figure", "Value"),
        [(name, m.title, str(value)) for m in result.metrics for name, value in result.beside[m.name].items()],
        "What takes no evaluation of the denoiser",
    )
    sections = [
        reporting.Section("Curves", drawn, " ".join(f"{m.title}: {m.what}." for m in result.metrics)),
        reporting.Section(
            "Steps that are needed", [needed],
            "Worse: the 95 % interval of the paired difference to the reference lies on the wrong side of 0, and the difference is more "
            "than a tenth of half the reference's own interval. Few samples tell small differences from none badly: see the intervals.",
        ),
        reporting.Section("Figures", [_table(result), _differences(result), beside], "95 % intervals in brackets."),
        reporting.Section("Samples", sheets, "Requests from left to right, steps from top to bottom."),
        reporting.Section("Protocol", [
            reporting.Facts({k.replace("_", " "): v for k, v in result.protocol.items()}),
            *([reporting.Text("\n\n".join(result.notes))] if result.notes else []),
        ]),
    ]  # fmt: skip
    fewest = ", ".join(f"{name} {all_of(result, name) or '-'}" for name in next(iter(result.enough.values())))
    reporting.write(
        out / "report.html", "Quality against steps", f"Steps from which on nothing is worse than {result.reference}: {fewest}", sections,
        reporting.Run(command=command, settings=dict(result.protocol), seed=seed, seconds=seconds), notice=notice,
        next_step="Fewer steps still: diffgraft distill MODEL OUT --steps 4",
    )  # fmt: skip


def all_of(result: Curves, sampler: str) -> int | None:
    """The steps from which on no figure is worse than the reference; None where one always is."""
    each = [found[sampler] for found in result.enough.values()]
    return None if None in each else max(count for count in each if count is not None)


class _Strip:
    """A picture of samples, as it lies beside the report."""

    def __init__(self, png: bytes, caption: str, said: str) -> None:
        self.png, self.caption, self.said = png, caption, said

    def html(self, key: str) -> str:
        from html import escape

        uri = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return (
            f'<div class="block"><h3>{escape(self.caption)}</h3><div class="wide"><img src="{uri}" alt="{escape(self.said)}" '
            f'style="max-width:100%"></div><p class="note">{escape(self.said)}</p></div>'
        )


def _rows(result: Curves, strips: Mapping[str, Any]) -> dict[str, dict[str, Sequence[np.ndarray]]]:
    """Solver -> name of a row -> its images; the student's stand under those of every solver."""
    first = {"input": strips["inputs"]} if strips["inputs"] else {}
    student = {f"student, {w.steps}": images for w, images in strips["made"].items() if w.sampler == STUDENT}
    found: dict[str, dict[str, Sequence[np.ndarray]]] = {}
    for name in dict.fromkeys(row.sampler for row in result.rows if row.sampler != STUDENT):
        own = {way.steps: images for way, images in strips["made"].items() if way.sampler == name}
        named = {f"{count} step{'s' * (count != 1)}": own[count] for count in sorted(own)}
        found[name] = {**first, **named, **student}
    return found


def _table(result: Curves) -> reporting.Table:
    unit = result.protocol["unit"]
    return reporting.Table(
        ("Solver", "Steps", "Evaluations", *(m.title for m in result.metrics), f"Seconds / {unit}", f"CPU seconds / {unit}"),
        [
            (row.sampler, row.steps, row.evaluations, *(str(row.figures[m.name]) for m in result.metrics), row.seconds, row.cpu)
            for row in result.rows
        ],
        f"{result.protocol['samples']} {unit}s a row, {result.protocol['backend']}",
    )  # fmt: skip


def _differences(result: Curves) -> reporting.Table:
    judged = [metric for metric in result.metrics if metric.judged]
    return reporting.Table(
        ("Solver", "Steps", *(m.title for m in judged)),
        [(row.sampler, row.steps, *(_signed(row.differences[m.name]) for m in judged)) for row in result.rows],
        f"Less {result.reference}, of the same resamples",
    )


def _signed(gap: Any) -> str | None:
    if gap.value is None:
        return None
    return f"{gap.value:+.3f}" + ("" if gap.low is None else f" [{gap.low:+.2f}, {gap.high:+.2f}]")
