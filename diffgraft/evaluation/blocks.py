"""Blocks that several reports of evaluations have alike: figures of arms, what they cost, subgroups of films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffgraft.evaluation.results import Row, Terms, best_row
from diffgraft.evaluation.subgroups import Distance, format_distance
from diffgraft.reporting.block import Block, Table, format_difference
from diffgraft.reporting.curve import Curve
from diffgraft.reporting.dots import ForestPlot
from diffgraft.reporting.sections import cost_table
from toolkit.evaluation.interval import Interval

__all__ = [
    "SUBGROUPS_NOTE",
    "arm_plot",
    "cost_note",
    "cost_tables",
    "few_shot_curve",
    "figures_note",
    "lead",
    "subgroup_table",
]

Grouped = Mapping[int, Sequence[Row]]
"""Rows by their number of shots."""

SUBGROUPS_NOTE = (
    "A film is in every part that fits it. Floor: real films of the training part, of the same part of the patients, "
    "against the held-out ones; a synthetic set that is no further away cannot be told from real films here. ±: standard error."
)


def lead(grouped: Grouped, terms: Terms) -> str:
    """The best arm with synthetic samples at every number of shots; that it was picked on the very test is said."""
    parts = []
    for shots, rows in grouped.items():
        synthetic = [row for row in rows if row.generator]
        best = best_row(synthetic or rows)
        text = f"{terms.shots(shots)}: {best.arm}, {terms.figure} {best.score}"
        if synthetic:
            gain = format_difference(best.score_gain) or "-"
            parts.append(f"{text}, {gain} over real + classical (best of {len(synthetic)} on this test)")
        else:
            parts.append(f"{text}; no arm has synthetic {terms.samples}")
    return "; ".join(parts)


def figures_note(groups: str) -> str:
    """How the figures of arms are read. groups: what intervals draw, besides seeds."""
    return (
        f"Mean of the seeds with a 95 % interval over {groups} and seeds; differences are paired: same {groups}, same seeds. All "
        "arms take the same number of optimisation steps. Bold: best of the column."
    )


def arm_plot(rows: Sequence[Row], panels: Mapping[str, Mapping[str, Interval]], caption: str) -> ForestPlot:
    """Arms with their intervals, arm -> interval a panel; in the colours of real, synthetic and untrained ones."""
    colours = {row.arm: 1 if row.generator else 2 if row.seconds is None else 0 for row in rows}
    return ForestPlot(panels, f"{caption} with 95 % intervals", lambda _, arm: colours[arm])


def few_shot_curve(grouped: Grouped, terms: Terms, axis: str) -> list[Block]:
    """The figure against the number of shots, where there are several: three arms of real samples, the three best others."""
    few = sorted(shots for shots in grouped if shots)
    if len(few) < 2:
        return []
    trained = [row for row in grouped[few[-1]] if row.seconds is not None]
    ranked = sorted((row for row in trained if row.generator), key=lambda row: -(row.score.value or 0.0))
    names = [row.arm for row in [*[row for row in trained if not row.generator][:3], *ranked[:3]]]
    known = [(row.arm, k, row.score.value) for k in few for row in grouped[k] if row.score.value is not None]
    series = {name: [(k, value) for arm, k, value in known if arm == name] for name in names}
    return [Curve(series, axis, terms.figure, "Few shots")]


def cost_tables(grouped: Grouped, terms: Terms) -> list[Block]:
    """What the trainings cost, a table a number of shots."""
    return [
        cost_table(
            [(r.arm, r.seconds, r.overhead, r.generation, r.score) for r in rows],
            terms.figure[:1].upper() + terms.figure[1:],
            terms.shots(shots),
        )
        for shots, rows in grouped.items()
    ]


def cost_note(samples: str) -> str:
    return (
        f"Training time over that of real {samples} alone (processor time where there is no GPU), and the wall time of making the "
        f"synthetic {samples}, where they say it."
    )


def subgroup_table(rows: Sequence[Distance]) -> Table:
    """The distance of every subgroup of films."""
    lines = [[r.name, r.fake, r.held_out, r.training, format_distance(r.kid), format_distance(r.floor)] for r in rows]
    header = ["Films", "Synthetic", "Held-out real", "Training real", "KID", "KID of training films (floor)"]
    return Table(header, lines, "Kernel distance of every part to the held-out real films of the same part")
