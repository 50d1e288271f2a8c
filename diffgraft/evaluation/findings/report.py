"""The reports of the experiments on films with findings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from diffgraft import reporting
from diffgraft.evaluation.blocks import SUBGROUPS_NOTE, arm_plot, cost_note, cost_tables, figures_note, lead
from diffgraft.evaluation.findings.result import TERMS, Films, FindingsAlignment, FindingsResult
from diffgraft.evaluation.subgroups import format_distance
from toolkit.data import labels
from toolkit.evaluation.interval import Interval
from toolkit.example import Example

__all__ = ["write", "write_alignment"]

SHOWN = 8
"""Films of each row of the sheets."""

_TEXTS = (
    "Cosine of a film and a text in the space of the model's own text encoder and feature network (Radford et al. 2021, "
    "arXiv:2103.00020). The generator was told by the same encoder: read it beside the findings, which were not."
)
_PARTS = "AUROC of 'something is abnormal' on the test films of each part, mean of the seeds: who gains and who loses."


def write(path: Path, result: FindingsResult, films: Films, run: reporting.Run) -> None:
    """report.html of a downstream experiment. films: the held-out ones, then each pool's."""
    panels = {"mean AUROC": {row.arm: row.macro for row in result.rows}}
    panels |= {f"{name}, balanced": {row.arm: row.classes[name] for row in result.rows} for name in films.classes}
    plot = arm_plot(result.rows, panels, "AUROC and balanced accuracy")
    grouped = {0: result.rows}
    figures = [_macro(result), *(_class_gain(result, name) for name in films.classes)]
    sections = [
        reporting.warning_section(result.warnings),
        reporting.Section("Figures", figures, figures_note("patients")),
        reporting.Section("Pictures", [plot]),
        reporting.Section("Findings", [_areas(result)], "AUROC of each finding, mean of the seeds."),
        reporting.Section("Parts", [_abnormal_by_part(result)], _PARTS),
        reporting.Section("Cost", cost_tables(grouped, TERMS), cost_note("films")),
        reporting.Section("Films", _sheets(films)),
        reporting.protocol_section(result.protocol),
    ]
    reporting.write(
        path, "What synthetic films do for a classifier", lead(grouped, TERMS), sections, run, notice=films.notice,
        next_step="Do they show what was asked for? diffgraft evaluate alignment REAL SYNTHETIC",
    )  # fmt: skip


def write_alignment(path: Path, result: FindingsAlignment, films: Films, run: reporting.Run) -> None:
    """report.html of an alignment. films: the held-out ones, then SYNTHETIC."""
    names = list(result.sets)
    chance = f"Chance is 0.5; what lies within 'shuffled' is chance. {result.protocol['shuffled'].capitalize()}."
    panels = {name: {each.name: each.area for each in found.findings} for name, found in result.sets.items()}
    caption = "AUROC of every finding with 95 % intervals"
    plot = reporting.ForestPlot(panels, caption, lambda title, _: names.index(title))
    named = "How often the class that was asked for is the one that is seen."
    beside = "What was asked for, beside held-out real films of the same kind."
    sections = [
        reporting.warning_section(result.warnings, "Read this first"),
        reporting.Section("Findings", [_findings(result), plot], chance),
        reporting.Section("Classes", [_classes(result)], named),
        reporting.Section("Parts", [_subgroups(result)], SUBGROUPS_NOTE),
        reporting.Section("Text and film", [_likeness(result)] if result.likeness else [], _TEXTS),
        reporting.Section("Films", _sheets(films), beside),
        reporting.protocol_section(result.protocol),
    ]
    reporting.write(
        path, "Do synthetic films show what was asked for?", result.lead, sections, run, notice=films.notice,
        next_step="See whether they help: diffgraft evaluate classify REAL SYNTHETIC",
    )  # fmt: skip


# Tables of the experiment


def _macro(result: FindingsResult) -> reporting.Table:
    rows = [[r.arm, r.generator or "-", r.macro, r.spread, reporting.format_difference(r.gain)] for r in result.rows]
    header = ["Training", "Generator", "Mean AUROC", "SD of seeds", "Gain over real + classical"]
    counts = ", ".join(f"{name} ({present} / {absent})" for name, (present, absent) in result.counts.items())
    caption = f"Findings, held-out films present / absent: {counts}"
    return reporting.Table(header, rows, caption, {"Mean AUROC": "max"})


def _class_gain(result: FindingsResult, name: str) -> reporting.Table:
    rows = [[r.arm, r.classes[name], reporting.format_difference(r.class_gain[name])] for r in result.rows]
    header = ["Training", "Balanced accuracy", "Gain over real + classical"]
    return reporting.Table(header, rows, name.capitalize(), {"Balanced accuracy": "max"})


def _areas(result: FindingsResult) -> reporting.Table:
    rows = [[row.arm, *(row.findings[name] for name in result.counts)] for row in result.rows]
    return reporting.Table(["Training", *result.counts], rows, best=dict.fromkeys(result.counts, "max"))


def _abnormal_by_part(result: FindingsResult) -> reporting.Table:
    names = list(result.rows[0].parts)
    return reporting.Table(["Training", *names], [[row.arm, *(row.parts[n] for n in names)] for row in result.rows])


# Tables of an alignment


def _findings(result: FindingsAlignment) -> reporting.Table:
    """A row a finding, a column a set; chance is that of SYNTHETIC."""
    rows: list[list[Any]] = []
    for n, shuffled in enumerate(each.shuffled for each in result.sets[result.judged].findings):
        figures = [found.findings[n] for found in result.sets.values()]
        if any(each.present for each in figures):
            rows.append([figures[0].name, *(f"{f.area} ({f.present} / {f.absent})" for f in figures), shuffled])
    rows.append([f"mean of {len(result.common)}", *(found.macro for found in result.sets.values()), None])
    caption = f"AUROC (films present / absent); the mean is over {', '.join(result.common) or 'none'}"
    return reporting.Table(["Finding", *result.sets, f"{result.judged}, shuffled"], rows, caption)


def _classes(result: FindingsAlignment) -> reporting.Table:
    rows = [
        [name, each.name, each.images, each.accuracy, each.balanced, each.shuffled, each.majority]
        for name, found in result.sets.items()
        for each in found.classes
    ]
    header = ["Films", "Class", "n", "Accuracy", "Balanced accuracy", "Accuracy, shuffled", "Always the most frequent"]
    return reporting.Table(header, rows)


def _subgroups(result: FindingsAlignment) -> reporting.Table:
    header = [
        "Films", "Synthetic", "Held-out real", "KID", "KID of training films (floor)", "Abnormal: AUROC, synthetic",
        "held-out real", f"{result.named.capitalize()} named, synthetic", "held-out real",
    ]  # fmt: skip
    rows = []
    for part in result.parts:
        figures: list[Interval] = [part.abnormal, part.abnormal_held_out, part.named, part.named_held_out]
        kids = (None, None) if part.distance is None else (part.distance.kid, part.distance.floor)
        rows.append([part.name, part.fake, part.held_out, *map(format_distance, kids), *figures])
    return reporting.Table(header, rows)


def _likeness(result: FindingsAlignment) -> reporting.Table:
    rows = [[name, each.pairs, each.own, each.shuffled, each.ahead] for name, each in result.likeness.items()]
    header = ["Films", "Pairs", "Cosine with the own text", "With another film's", "Nearer to the own text"]
    return reporting.Table(header, rows)


# Pictures


def _sheets(films: Films) -> list[reporting.Block]:
    """Films of each finding, synthetic below real."""
    blocks: list[reporting.Block] = []
    for finding in films.findings:
        shown = {
            name: [e for e in examples if e.annotation.labels.get(finding, math.nan) == 1][:SHOWN]
            for name, examples in films.sets.items()
        }
        shown = {name: examples for name, examples in shown.items() if examples}
        for name, examples in shown.items() if len(shown) > 1 else ():
            captions = [_caption(e, films) for e in examples]
            images = [e.image for e in examples]
            blocks.append(reporting.Sheet(images, captions, SHOWN, f"{finding} present: {name}"))
    return blocks


def _caption(example: Example, films: Films) -> str:
    words = labels.spell(films.vocabulary, example.annotation.labels)
    return ", ".join(words[name] for name in (*films.classes, "age") if name in words) or "not stated"
