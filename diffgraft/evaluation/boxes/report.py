"""The report of the downstream experiment with boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.blocks import arm_plot, cost_note, cost_tables, few_shot_curve, figures_note, lead
from diffgraft.evaluation.boxes.result import MEAN, TERMS, DetectionResult, Row
from diffgraft.evaluation.data import boxes_of
from diffgraft.evaluation.results import best_row, by_shots
from toolkit.evaluation.detection.metrics import Detections, as_truth, best_thresholds
from toolkit.example import Example

__all__ = ["Images", "write"]

SHOWN = 4
"""Images in a row of the sheets."""


@dataclass(frozen=True)
class Images:
    """What is shown. found: (shots, arm) -> what the detector of the first seed found in the test images; pools: by name."""

    test: Sequence[Example]
    found: Mapping[tuple[int, str], Sequence[Detections]]
    pools: Mapping[str, Sequence[Example]]


def write(path: Path, result: DetectionResult, images: Images, notice: str, run: reporting.Run) -> None:
    """report.html."""
    grouped = by_shots(result.rows)
    plots: list[reporting.Block] = [
        arm_plot(result.rows, {TERMS.shots(k): {r.arm: r.ap50[MEAN] for r in rows} for k, rows in grouped.items()}, "mAP50"),
        arm_plot(result.rows, {TERMS.shots(k): {r.arm: r.ap[MEAN] for r in rows} for k, rows in grouped.items()}, "mAP50:95"),
    ]  # fmt: skip
    classes = [_classes(k, rows, result) for k, rows in grouped.items()]
    seeds = [_seeds(k, rows) for k, rows in grouped.items()]
    note = f"{figures_note('images')} blobs and constant learn no weights."
    sections = [
        reporting.warning_section(result.warnings),
        reporting.Section("Figures", [_figures(k, rows) for k, rows in grouped.items()], note),
        reporting.Section("Pictures", [*plots, *few_shot_curve(grouped, TERMS, "training images")]),
        reporting.Section("Classes", classes, "AP50, and AP50:95; mean of the seeds."),
        reporting.Section("Seeds", seeds, "Mean AP50 of each training."),
        reporting.Section("Cost", cost_tables(grouped, TERMS), cost_note("images")),
        reporting.Section("Samples", [reporting.BoxLegend(result.names), *_sheets(grouped, result.names, images)]),
        reporting.protocol_section(result.protocol),
    ]
    reporting.write(
        path, "What synthetic images do for a detector", lead(grouped, TERMS), sections, run, notice=notice or reporting.RESEARCH_USE,
        next_step="See whether they show what they were asked for: diffgraft evaluate alignment REAL SYNTHETIC",
    )  # fmt: skip


def _figures(shots: int, rows: Sequence[Row]) -> reporting.Table:
    header = [
        "Training", "Generator", "mAP50", "Median", "SD of seeds", "mAP50 over real + classical", "mAP50:95",
        "mAP50:95 over real + classical",
    ]  # fmt: skip
    lines = [
        [
            row.arm, row.generator or "-", row.score, row.median, row.spread, reporting.format_difference(row.score_gain),
            row.ap[MEAN], reporting.format_difference(None if row.gain is None else row.gain[MEAN]),
        ]
        for row in rows
    ]  # fmt: skip
    best = {"mAP50": "max", "Median": "max", "mAP50:95": "max"}
    return reporting.Table(header, lines, f"Training images: {TERMS.shots(shots)}", best)


def _classes(shots: int, rows: Sequence[Row], result: DetectionResult) -> reporting.Table:
    header = ["Training"]
    for name in result.names:
        header += [f"{name} AP50 ({result.objects[name]})", f"{name} gain", f"{name} AP50:95"]
    lines = []
    for row in rows:
        gains = {name: None if row.gain50 is None else row.gain50[name] for name in result.names}
        figures = [(row.ap50[name], reporting.format_difference(gains[name]), row.ap[name]) for name in result.names]
        lines.append([row.arm, *(cell for each in figures for cell in each)])
    best = {title: "max" for title in header[1:] if not title.endswith("gain")}
    return reporting.Table(header, lines, f"{TERMS.shots(shots)}; objects in the test images in brackets", best)


def _seeds(shots: int, rows: Sequence[Row]) -> reporting.Table:
    lines = [[row.arm, *(figures.ap50[MEAN] for figures in row.figures)] for row in rows]
    header = ["Training", *(f"seed {n}" for n in range(len(rows[0].figures)))]
    return reporting.Table(header, lines, TERMS.shots(shots))


def _sheets(grouped: Mapping[int, Sequence[Row]], names: Sequence[str], images: Images) -> list[reporting.Block]:
    """Test images with their boxes above what the reference and the best other arm find; then the pools' own images."""
    truths = [as_truth(boxes_of(e), names) for e in images.test]
    varied = sorted(range(len(truths)), key=lambda n: (-len(set(truths[n].classes.tolist())), images.test[n].id))
    shown = [(n, images.test[n]) for n in varied[:SHOWN]]
    annotated = [reporting.draw_boxes(e.image, boxes_of(e), names) for _, e in shown]
    blocks: list[reporting.Block] = []
    for shots, rows in grouped.items():
        trained = [row for row in rows if (shots, row.arm) in images.found]
        others = [row for row in trained if row.gain is not None]
        sheet = {"annotated": annotated}
        for row in [row for row in trained if row.gain is None] + ([best_row(others)] if others else []):
            found = images.found[shots, row.arm]
            least = best_thresholds(truths, found, names)
            sheet[f"found by {row.arm}"] = [
                reporting.draw_detections(e.image, found[n], names, least) for n, e in shown
            ]
        title = f"Held-out images, {TERMS.shots(shots)}: annotated, and found by the detectors of the first seed, scores of 100"
        blocks.append(reporting.Sheet.of_rows(sheet, title))
    for name, examples in images.pools.items():
        some = [examples[n] for n in np.unique(np.linspace(0, len(examples) - 1, 2 * SHOWN).round().astype(int))]
        pictures = [reporting.draw_boxes(e.image, boxes_of(e), names) for e in some]
        blocks.append(reporting.Sheet.of_rows({name: pictures}, f"What a detector of '{name}' is trained on", SHOWN))
    return blocks
