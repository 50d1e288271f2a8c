"""The tables, pictures and page of diffgraft.detect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.boxes.result import MEAN, DetectionGains, Row, said
from diffgraft.evaluation.classes.report import Dots
from diffgraft.evaluation.classes.result import by_shots, signed
from diffgraft.evaluation.experiment import REFERENCE
from diffgraft.evaluation.pools import Real
from diffgraft.reporting.boxes import Legend, drawn
from toolkit.evaluation.anomaly import Interval
from toolkit.evaluation.detection import Detections, as_boxes, as_truth, thresholds
from toolkit.example import Example

__all__ = ["write"]

SHOWN = 4
"""Images in a row of the sheets."""

_NOTE = (
    "Mean of the seeds with a 95 % interval over images and seeds; differences are paired: same images, same seeds. All arms take "
    "the same number of optimisation steps. Bold: best of the column. blobs and constant learn no weights."
)
_COST = (
    "Training time over that of real images alone (processor time where there is no GPU), and the wall time of making the "
    "synthetic images, where they say it."
)


def write(
    path: Path,
    result: DetectionGains,
    real: Real,
    found: Mapping[tuple[int, str], Sequence[Detections]],
    made: Mapping[str, Sequence[Example]],
    notice: str,
    command: str,
    seconds: float,
) -> None:
    """report.html. found: (shots, arm) -> what the detector of the first seed found in the test images. made: each pool."""
    grouped = by_shots(result.rows)
    sections = [reporting.Section("Warning", [reporting.Text("\n\n".join(result.warnings))])] if result.warnings else []
    sections += [
        reporting.Section("Figures", [_table(k, rows) for k, rows in grouped.items()], _NOTE),
        reporting.Section("Pictures", _pictures(grouped)),
        reporting.Section(
            "Classes",
            [_classes(k, rows, result) for k, rows in grouped.items()],
            "AP50, and AP50:95; mean of the seeds.",
        ),
        reporting.Section("Seeds", [_seeds(k, rows) for k, rows in grouped.items()], "Mean AP50 of each training."),
        reporting.Section("Cost", [_cost(k, rows) for k, rows in grouped.items()], _COST),
        reporting.Section("Samples", [Legend(result.names), *_sheets(grouped, real, found, made)]),
        reporting.Section("Protocol", [reporting.Facts({k.replace("_", " "): v for k, v in result.protocol.items()})]),
    ]
    run = reporting.Run(command=command, seconds=seconds, seed=0, settings=result.protocol["optimisation"])
    reporting.write(
        path, "What synthetic images do for a detector", "; ".join(_lead(k, rows) for k, rows in grouped.items()), sections, run,
        notice=notice or reporting.RESEARCH_USE,
        next_step="See whether they show what they were asked for: diffgraft evaluate REAL FAKE --task alignment",
    )  # fmt: skip


def _lead(shots: int, rows: Sequence[Row]) -> str:
    """The best arm with synthetic images; that it was picked on the very test is said."""
    made = [row for row in rows if row.generator]
    if not made:
        best = max(rows, key=lambda row: row.value)
        return f"{said(shots)}: best is {best.arm}, mAP50 {best.ap50[MEAN]}; no arm has synthetic images"
    best = max(made, key=lambda row: row.value)
    return f"{said(shots)}: {best.arm} {_gain(best)} mAP50 over real + classical (best of {len(made)} on this test)"


# Tables and pictures


def _table(shots: int, rows: Sequence[Row]) -> reporting.Table:
    header = [
        "Training", "Generator", "mAP50", "Median", "SD of seeds", "mAP50 over real + classical", "mAP50:95",
        "mAP50:95 over real + classical",
    ]  # fmt: skip
    lines = [
        [
            row.arm, row.generator or "-", str(row.ap50[MEAN]), row.median, row.spread, _gain(row), str(row.ap[MEAN]),
            signed(None if row.gain is None else row.gain[MEAN]),
        ]
        for row in rows
    ]  # fmt: skip
    best = {"mAP50": "max", "Median": "max", "mAP50:95": "max"}
    return reporting.Table(header, lines, caption=f"Training images: {said(shots)}", best=best)


def _gain(row: Row) -> str:
    return signed(None if row.gain50 is None else row.gain50[MEAN])


def _classes(shots: int, rows: Sequence[Row], result: DetectionGains) -> reporting.Table:
    header = ["Training"]
    for name in result.names:
        header += [f"{name} AP50 ({result.objects[name]})", f"{name} gain", f"{name} AP50:95"]
    lines = []
    for row in rows:
        cells: list[str] = [row.arm]
        for name in result.names:
            cells += [str(row.ap50[name]), signed(None if row.gain50 is None else row.gain50[name]), str(row.ap[name])]
        lines.append(cells)
    best = {title: "max" for title in header[1:] if not title.endswith("gain")}
    return reporting.Table(header, lines, caption=f"{said(shots)}; objects in the test images in brackets", best=best)


def _seeds(shots: int, rows: Sequence[Row]) -> reporting.Table:
    lines = [[row.arm, *(figures.ap50[MEAN] for figures in row.figures)] for row in rows]
    return reporting.Table(
        ["Training", *(f"seed {n}" for n in range(len(rows[0].figures)))], lines, caption=said(shots)
    )


def _cost(shots: int, rows: Sequence[Row]) -> reporting.Table:
    lines = [
        [row.arm, row.seconds, None if row.overhead is None else f"{row.overhead:+.0f} %", row.generation, str(row.ap50[MEAN])]
        for row in rows
        if row.seconds is not None
    ]  # fmt: skip
    return reporting.Table(
        ["Training", "Seconds a run", "Overhead", "Generation (s)", "mAP50"], lines, caption=said(shots)
    )


def _pictures(grouped: Mapping[int, Sequence[Row]]) -> list[reporting.Block]:
    kinds = {
        row.arm: 1 if row.generator else 2 if row.seconds is None else 0 for rows in grouped.values() for row in rows
    }

    def dots(of: Mapping[int, Mapping[str, Interval]], caption: str) -> Dots:
        return Dots({said(k): rows for k, rows in of.items()}, caption, colours=lambda _, arm: kinds[arm])

    every = {k: {r.arm: r.ap50[MEAN] for r in rows} for k, rows in grouped.items()}
    strict = {k: {r.arm: r.ap[MEAN] for r in rows} for k, rows in grouped.items()}
    found: list[reporting.Block] = [
        dots(every, "mAP50 with 95 % intervals"), dots(strict, "mAP50:95 with 95 % intervals")
    ]  # fmt: skip
    few = sorted(k for k in grouped if k)
    if len(few) > 1:
        series = {
            r.arm: [(k, o.value) for k in few for o in grouped[k] if o.arm == r.arm]
            for r in sorted(grouped[few[-1]], key=lambda r: -r.value)
            if r.seconds is not None
        }
        found.append(reporting.Curve(dict(list(series.items())[:6]), "training images", "mAP50", "Few images"))
    return found


def _sheets(
    grouped: Mapping[int, Sequence[Row]],
    real: Real,
    found: Mapping[tuple[int, str], Sequence[Detections]],
    made: Mapping[str, Sequence[Example]],
) -> list[reporting.Block]:
    """Test images with their boxes above what the reference and the best other arm find; then the pools' own images."""
    truths = [as_truth(e.annotation.boxes, real.names) for e in real.test]  # type: ignore[arg-type]
    order = sorted(range(len(real.test)), key=lambda n: (-len(set(truths[n].classes.tolist())), real.test[n].id))[
        :SHOWN
    ]
    size: tuple[int, int] = real.test[0].image.shape[1:]  # type: ignore[assignment]
    blocks: list[reporting.Block] = []
    for shots, rows in grouped.items():
        trained = [row for row in rows if (shots, row.arm) in found]
        others = [row for row in trained if row.arm != REFERENCE]
        images = [drawn(real.test[n].image, as_boxes(truths[n], real.names, size), real.names) for n in order]
        captions = ["annotated"] * len(order)
        for row in [r for r in trained if r.arm == REFERENCE] + (
            [max(others, key=lambda r: r.value)] if others else []
        ):
            seen = found[shots, row.arm]
            least = thresholds(truths, seen, real.names)
            for n in order:
                sure = seen[n][seen[n].scores >= least[seen[n].classes]]
                images.append(
                    drawn(real.test[n].image, as_boxes(sure, real.names, size), real.names, scores=sure.scores)
                )
                captions.append(f"found by {row.arm}")
        title = (
            f"Held-out images, {said(shots)}: annotated, and found by the detectors of the first seed, scores of 100"
        )
        blocks.append(reporting.Sheet(images, captions, len(order), title))
    for name, examples in made.items():
        some = [examples[n] for n in np.unique(np.linspace(0, len(examples) - 1, 2 * SHOWN).round().astype(int))]
        shown = [drawn(e.image, e.annotation.boxes, real.names) for e in some]  # type: ignore[arg-type]
        blocks.append(reporting.Sheet(shown, [name] * len(shown), SHOWN, f"What a detector of '{name}' is trained on"))
    return blocks
