"""The report of quality against steps, and its figures as files of their own."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.steps import figures
from diffgraft.evaluation.steps.figures import Panel, Point
from diffgraft.evaluation.steps.result import Row, StepsEvaluation
from diffgraft.evaluation.steps.samples import STUDENT, Preview

__all__ = ["CURVES", "panels", "write"]

CURVES = "curves.svg"
_BETTER = {"low": ", lower is better", "high": ", higher is better", "same": ", nearest to the reference is best"}
_WORSE = (
    "Worse: the 95 % interval of the paired difference to the reference lies on the wrong side of 0, and the difference is more "
    "than a tenth of half the reference's own interval. Few samples tell small differences from none badly: see the intervals."
)


def panels(result: StepsEvaluation) -> list[Panel]:
    """A panel a metric: samplers as lines, the student as a point, what takes no model as dashed lines."""
    teacher = [name for name in result.samplers if name != STUDENT]
    xlabel = "evaluations of the denoiser" + (", one way up and down" if result.protocol["unit"] == "scan" else "")
    found = []
    for metric in result.metrics:

        def point(row: Row, name: str = metric.name) -> Point:
            figure = row.figures[name]
            return Point(row.evaluations, figure.value, figure.low, figure.high)

        lines = {name: [point(row) for row in result.rows if row.sampler == name] for name in teacher}
        students = {f"student, {row.steps} steps": point(row) for row in result.rows if row.sampler == STUDENT}
        dashed = {name: figure.value for name, figure in result.beside[metric.name].items()}
        found.append(Panel(metric.title + _BETTER[metric.better], lines, students, dashed, xlabel, metric.scale))
    return found


def write(out: Path, result: StepsEvaluation, preview: Preview, run: reporting.Run, notice: str) -> None:
    """report.html, curves.svg, and samples-<sampler>.png, the same requests and noise in more and more steps."""
    drawn = panels(result)
    (out / CURVES).write_text(figures.file(drawn), encoding="utf-8")
    sheets = []
    for name, rows in _strips(result, preview).items():
        if len(rows) > 1:
            png = figures.strip(rows)
            (out / f"samples-{name}.png").write_bytes(png)
            sheets.append(_Picture(png, f"{name}: the same noise in more and more steps", "; ".join(preview.captions)))
    metrics = " ".join(f"{metric.title}: {metric.what}." for metric in result.metrics)
    requests = "Requests from left to right, steps from top to bottom."
    sections = [
        reporting.Section("Curves", drawn, metrics),
        reporting.Section("Steps that are needed", [_enough(result)], _WORSE),
        reporting.Section(
            "Figures", [_figures(result), _differences(result), _beside(result)], "95 % intervals in brackets."
        ),
        reporting.Section("Samples", sheets, requests),
        reporting.protocol_section(result.protocol, result.notes),
    ]
    fewest = ", ".join(f"{name} {result.enough_of_all(name) or '-'}" for name in result.samplers)
    reporting.write(
        out / "report.html", "Quality against steps", f"Steps from which on nothing is worse than {result.reference}: {fewest}",
        sections, run, notice=notice, next_step="Fewer steps still: diffgraft distill MODEL OUT --steps 4",
    )  # fmt: skip


@dataclass(frozen=True)
class _Picture:
    """A picture of samples, as it lies beside the report. said: what it shows."""

    png: bytes
    caption: str
    said: str

    def html(self, key: str) -> str:
        uri = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return (
            f'<div class="block"><h3>{escape(self.caption)}</h3><div class="wide"><img src="{uri}" alt="{escape(self.said)}" '
            f'style="max-width:100%"></div><p class="note">{escape(self.said)}</p></div>'
        )


def _strips(result: StepsEvaluation, preview: Preview) -> dict[str, dict[str, Sequence[np.ndarray]]]:
    """Sampler -> name of a row -> its images; the student's stand under those of every sampler."""
    first = {"input": preview.inputs} if preview.inputs else {}
    students = {f"student, {v.steps}": images for v, images in preview.images.items() if v.sampler == STUDENT}
    found: dict[str, dict[str, Sequence[np.ndarray]]] = {}
    for name in result.samplers:
        if name != STUDENT:
            own = {v.steps: images for v, images in preview.images.items() if v.sampler == name}
            named = {f"{count} step{'s' * (count != 1)}": own[count] for count in sorted(own)}
            found[name] = {**first, **named, **students}
    return found


def _enough(result: StepsEvaluation) -> reporting.Table:
    header = ("Solver", *(metric.title for metric in result.judged), "All of them")
    rows = [
        (name, *(result.enough[metric.name][name] for metric in result.judged), result.enough_of_all(name))
        for name in result.samplers
    ]
    return reporting.Table(header, rows, f"Steps from which on no measured number is worse than {result.reference}")


def _figures(result: StepsEvaluation) -> reporting.Table:
    unit, names = result.protocol["unit"], [metric.name for metric in result.metrics]
    titles = [metric.title for metric in result.metrics]
    header = ("Solver", "Steps", "Evaluations", *titles, f"Seconds / {unit}", f"CPU seconds / {unit}")
    rows = [
        (row.sampler, row.steps, row.evaluations, *(row.figures[name] for name in names), row.seconds, row.cpu)
        for row in result.rows
    ]
    return reporting.Table(header, rows, f"{result.protocol['samples']} {unit}s a row, {result.protocol['backend']}")


def _differences(result: StepsEvaluation) -> reporting.Table:
    rows = [
        (row.sampler, row.steps, *(reporting.format_difference(row.differences[m.name]) for m in result.judged))
        for row in result.rows
    ]
    header = ("Solver", "Steps", *(metric.title for metric in result.judged))
    return reporting.Table(header, rows, f"Less {result.reference}, of the same resamples")


def _beside(result: StepsEvaluation) -> reporting.Table:
    rows = [(name, m.title, value) for m in result.metrics for name, value in result.beside[m.name].items()]
    return reporting.Table(("Beside it", "Figure", "Value"), rows, "What takes no evaluation of the denoiser")
