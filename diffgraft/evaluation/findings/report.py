"""The tables, pictures and pages of diffgraft.evaluation.findings.experiment and diffgraft.evaluation.findings.alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffgraft import reporting
from diffgraft.evaluation import subgroups
from diffgraft.evaluation.classes.report import Dots, colour
from diffgraft.evaluation.classes.result import signed
from diffgraft.evaluation.findings.result import Agreement, Gains, Told, lead, stated
from diffgraft.evaluation.pools import Real
from toolkit.data import labels
from toolkit.evaluation.anomaly import Interval
from toolkit.example import Example

__all__ = ["write", "write_alignment"]

SHOWN = 8
"""Films of each row of the sheets."""

Sets = Mapping[str, Sequence[Example]]


def write_alignment(path: Path, result: Agreement, sets: Sets, real: Real, command: str, seconds: float) -> None:
    """report.html of an alignment. sets: films for the sheets, the held-out ones first, then FAKE."""
    names = list(result.sets)
    chance = f"Chance is 0.5; what lies within 'shuffled' is chance. {result.protocol['shuffled'].capitalize()}."
    drawn = {name: {each.name: each.area for each in told.findings} for name, told in result.sets.items()}
    blocks: list[reporting.Block] = [_findings(result)]
    if any(stated(told.findings) for told in result.sets.values()):
        blocks.append(
            Dots(drawn, "AUROC of every finding with 95 % intervals", lambda title, _: names.index(title) % 6)
        )
    sections = (
        [reporting.Section("Read this first", [reporting.Text("\n\n".join(result.warnings))])]
        if result.warnings
        else []
    )
    sections += [
        reporting.Section("Findings", blocks, chance),
        reporting.Section(
            "Classes", [_classes(result)], "How often the class that was asked for is the one that is seen."
        ),
        reporting.Section("Parts", [_parts(result)], subgroups.NOTE),
        *([reporting.Section("Text and film", [_likeness(result)], _TEXTS)] if result.likeness else []),
        reporting.Section(
            "Films", _sheets(sets, real), "What was asked for, beside held-out real films of the same kind."
        ),
        reporting.Section("Protocol", [reporting.Facts({k.replace("_", " "): v for k, v in result.protocol.items()})]),
    ]
    reporting.write(
        path, "Do synthetic films show what was asked for?", lead(result), sections, _run(result, command, seconds),
        notice=real.domain.NOTICE,
        next_step="See whether they help: diffgraft evaluate REAL FAKE --task classify",
    )  # fmt: skip


def write(path: Path, result: Gains, sets: Sets, real: Real, command: str, seconds: float) -> None:
    """report.html of a downstream experiment. sets: as in `write_alignment`, one a pool."""
    note = (
        "Mean of the seeds with a 95 % interval over patients and seeds; gains are paired: same patients, same seeds. All arms "
        "take the same number of optimisation steps. Bold: best of the column."
    )
    panels = {"mean AUROC": {row.arm: row.macro for row in result.rows}}
    panels |= {f"{name}, balanced": {row.arm: row.classes[name] for row in result.rows} for name in real.classes}
    sections = [reporting.Section("Warning", [reporting.Text("\n\n".join(result.warnings))])] if result.warnings else []
    sections += [
        reporting.Section("Figures", [_macro(result), *(_class(result, name) for name in real.classes)], note),
        reporting.Section("Pictures", [Dots(panels, "AUROC and balanced accuracy with 95 % intervals", lambda _, name: colour(name))]),
        reporting.Section("Findings", [_areas(result)], "AUROC of each finding, mean of the seeds."),
        reporting.Section("Parts", [_by_part(result)], _GROUPS),
        reporting.Section("Cost", [_cost(result)], _COST),
        reporting.Section("Films", _sheets(sets, real)),
        reporting.Section("Protocol", [reporting.Facts({k.replace("_", " "): v for k, v in result.protocol.items()})]),
    ]  # fmt: skip
    made = [row for row in result.rows if row.generator]
    best = max(made, key=lambda row: row.macro.value or 0.0)
    reporting.write(
        path, "What synthetic films do for a classifier",
        f"{best.arm}: mean AUROC {best.macro}, {signed(best.gain)} over real + classical (best of {len(made)} on this test)",
        sections, _run(result, command, seconds), notice=real.domain.NOTICE,
        next_step="Do they show what was asked for? diffgraft evaluate REAL FAKE --task alignment",
    )  # fmt: skip


_TEXTS = (
    "Cosine of a film and a text in the space of the model's own text encoder and feature network (Radford et al. 2021, "
    "arXiv:2103.00020). The generator was told by the same encoder: read it beside the findings, which were not."
)
_GROUPS = "AUROC of 'something is abnormal' on the test films of each part, mean of the seeds: who gains and who loses."
_COST = (
    "Training time over that of real films alone (processor time where there is no GPU), and the wall time of making the "
    "synthetic films, where they say it."
)


# Tables


def _cell(interval: Interval | None) -> str | None:
    return None if interval is None or interval.value is None else str(interval)


def _findings(result: Agreement) -> reporting.Table:
    """A row a finding, a column a set; chance is that of the first synthetic set."""
    names = list(result.sets)
    rows: list[list[Any]] = []
    for n, each in enumerate(_first(result).findings):
        here = [told.findings[n] for told in result.sets.values()]
        if any(found.present for found in here):
            cells = [f"{_cell(f.area) or '-'} ({f.present} / {f.absent})" for f in here]
            rows.append([each.name, *cells, _cell(result.sets[result.judged].findings[n].shuffled)])
    rows.append([f"mean of {len(result.common)}", *(_cell(told.macro) for told in result.sets.values()), None])
    caption = f"AUROC (films present / absent); the mean is over {', '.join(result.common) or 'none'}"
    return reporting.Table(["Finding", *names, f"{result.judged}, shuffled"], rows, caption)


def _classes(result: Agreement) -> reporting.Table:
    rows = [
        [name, each.name, each.images, _cell(each.accuracy), _cell(each.balanced), _cell(each.shuffled), each.majority]
        for name, told in result.sets.items()
        for each in told.classes
    ]
    header = ["Films", "Class", "n", "Accuracy", "Balanced accuracy", "Accuracy, shuffled", "Always the most frequent"]
    return reporting.Table(header, rows)


def _parts(result: Agreement) -> reporting.Table:
    header = [
        "Films", "Synthetic", "Held-out real", "KID", "KID of training films (floor)", "Abnormal: AUROC, synthetic",
        "held-out real", f"{result.named.capitalize()} named, synthetic", "held-out real",
    ]  # fmt: skip
    rows = [
        [
            part.name, part.fake, part.held_out,
            *(subgroups.cell(None if part.distance is None else each) for each in _both(part.distance)),
            *(_cell(each) for each in (part.abnormal, part.abnormal_held_out, part.named, part.named_held_out)),
        ]
        for part in result.parts
    ]  # fmt: skip
    return reporting.Table(header, rows)


def _both(distance: subgroups.Distance | None) -> tuple[Any, Any]:
    return (None, None) if distance is None else (distance.kid, distance.floor)


def _likeness(result: Agreement) -> reporting.Table:
    rows = [[n, e.pairs, _cell(e.own), _cell(e.shuffled), _cell(e.ahead)] for n, e in result.likeness.items()]
    header = ["Films", "Pairs", "Cosine with the own text", "With another film's", "Nearer to the own text"]
    return reporting.Table(header, rows)


def _macro(result: Gains) -> reporting.Table:
    rows = [[r.arm, r.generator or "-", _cell(r.macro), r.spread, signed(r.gain)] for r in result.rows]
    header = ["Training", "Generator", "Mean AUROC", "SD of seeds", "Gain over real + classical"]
    told = ", ".join(f"{name} ({present} / {absent})" for name, (present, absent) in result.counts.items())
    return reporting.Table(
        header, rows, f"Findings, held-out films present / absent: {told}", best={"Mean AUROC": "max"}
    )


def _class(result: Gains, name: str) -> reporting.Table:
    rows = [[r.arm, _cell(r.classes[name]), signed(r.class_gain[name])] for r in result.rows]
    header = ["Training", "Balanced accuracy", "Gain over real + classical"]
    return reporting.Table(header, rows, name.capitalize(), best={"Balanced accuracy": "max"})


def _areas(result: Gains) -> reporting.Table:
    rows = [[row.arm, *(_cell(row.findings[name]) for name in result.counts)] for row in result.rows]
    return reporting.Table(["Training", *result.counts], rows, best=dict.fromkeys(result.counts, "max"))


def _by_part(result: Gains) -> reporting.Table:
    names = list(result.rows[0].parts)
    return reporting.Table(["Training", *names], [[row.arm, *(row.parts[n] for n in names)] for row in result.rows])


def _cost(result: Gains) -> reporting.Table:
    rows = [
        [r.arm, r.seconds, None if r.overhead is None else f"{r.overhead:+.0f} %", r.generation, _cell(r.macro)]
        for r in result.rows
        if r.seconds is not None
    ]
    return reporting.Table(["Training", "Seconds a run", "Overhead", "Generation (s)", "Mean AUROC"], rows)


def _sheets(sets: Sets, real: Real) -> list[reporting.Block]:
    """Films of each finding, synthetic below real, and films without any."""
    blocks: list[reporting.Block] = []
    wanted = {f"{name} present": name for name in real.findings}
    for title, name in wanted.items():
        chosen = {
            each: [e for e in examples if e.annotation.labels.get(name, math.nan) == 1][:SHOWN]
            for each, examples in sets.items()
        }
        if len([1 for films in chosen.values() if films]) < 2:
            continue
        for each, films in chosen.items():
            if films:
                captions = [_asked(e, real) for e in films]
                blocks.append(reporting.Sheet([e.image for e in films], captions, SHOWN, f"{title}: {each}"))
    return blocks


def _asked(example: Example, real: Real) -> str:
    words = labels.spell(real.vocabulary, example.annotation.labels)
    return ", ".join(words[name] for name in (*real.classes, "age") if name in words) or "not stated"


def _first(result: Agreement) -> Told:
    return next(iter(result.sets.values()))


def _run(result: Any, command: str, seconds: float) -> reporting.Run:
    return reporting.Run(command=command, seconds=seconds, seed=0, settings=result.protocol["optimisation"])
