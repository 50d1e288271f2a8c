"""Quality against steps: how few steps a model needs, solver by solver, and its few-step student beside them.

The same requests with the same noise are drawn by every solver in every number of steps; each figure stands beside what real
data and trivial means reach, and its difference to the converged reference has an interval over resampled samples. What was
drawn is kept in the output folder: a run that was stopped goes on there, and one with other solvers adds to it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diffgraft import models
from diffgraft.evaluation.steps.draws import STUDENT, Drawn, Kept, Way, student_steps, ways
from diffgraft.evaluation.steps.scores import Measured, Metric, interval, plain
from toolkit.evaluation.anomaly import Interval
from toolkit.example import Error

__all__ = ["COUNTS", "IMAGES", "SAMPLERS", "Curves", "Row", "steps"]

COUNTS = (1, 2, 4, 8, 20, 50)
SAMPLERS = ("euler", "dpmpp_2m", "heun", "dpmpp_2m_sde")
IMAGES = 96
CONVERGED = Way("heun", 50)
"""The reference of generated images: what a solver of second order makes in steps that hardly matter any more."""

NEGLIGIBLE = 0.1
"""Of half the reference's own interval: a smaller difference is no difference, however sure paired resamples are of it."""

RESULT = "steps.json"
SHOWN = 6


class Subject(Protocol):
    """What is drawn and measured: `steps_images.Images` or `steps_scans.Scans`."""

    unit: str
    count: int
    notes: list[str]
    student: Path

    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def student_identity(self) -> dict[str, Any]: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...
    @property
    def protocol(self) -> dict[str, Any]: ...
    def cost(self, way: Way) -> int: ...
    def walk(self, way: Way) -> int: ...
    def check(self, way: Way) -> str: ...
    def met(self, seen: set[str]) -> int: ...
    def draw(self, way: Way, watch: Callable[[], object]) -> Drawn: ...
    def measure(self, drawn: Mapping[Way, Drawn], reference: Way, watch: Callable[[], object]) -> Measured: ...
    def strip(self, drawn: Drawn, count: int) -> list[np.ndarray]: ...
    def captions(self, count: int) -> list[str]: ...
    def inputs(self, count: int) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Row:
    """One way of drawing. evaluations: of the denoiser, for one sample (a scan: one way up and down).

    figures: metric -> value; differences: metric -> less the reference, paired. seconds, cpu: for one sample.
    """

    sampler: str
    steps: int
    evaluations: int
    figures: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    seconds: float
    cpu: float


@dataclass(frozen=True)
class Curves:
    """What `steps` found; str() is for the terminal.

    beside: metric -> name -> figure of real data and of what is trivial. enough: metric -> solver -> the steps from which
    on no measured number is worse than the reference; None: none. Worse: the interval of the paired difference lies on the
    wrong side of 0, and the difference is not NEGLIGIBLE.
    """

    rows: Sequence[Row]
    reference: str
    metrics: Sequence[Metric]
    beside: Mapping[str, Mapping[str, Interval]]
    enough: Mapping[str, Mapping[str, int | None]]
    protocol: Mapping[str, Any]
    notes: Sequence[str] = ()

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return plain(asdict(self))

    def __str__(self) -> str:
        unit = self.protocol["unit"]
        lines = [
            f"{'solver':14} {'steps':>5} {'evals':>5}  "
            + "  ".join(f"{m.title[:26]:26}" for m in self.metrics)
            + f"  s/{unit}"
        ]
        for row in self.rows:
            cells = "  ".join(f"{row.figures[m.name]!s:26}" for m in self.metrics)
            lines.append(f"{row.sampler:14} {row.steps:5} {row.evaluations:5}  {cells}  {row.seconds:.3g}")
        for metric in self.metrics:
            lines += [f"{metric.title}, {name}: {figure}" for name, figure in self.beside[metric.name].items()]
        lines.append(f"not worse than {self.reference} from so many steps on:")
        for metric in self.metrics:
            if metric.judged:
                each = ", ".join(f"{name} {count or '-'}" for name, count in self.enough[metric.name].items())
                lines.append(f"  {metric.title:28} {each}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def steps(
    data: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    counts: Sequence[int] = COUNTS,
    samplers: Sequence[str] = SAMPLERS,
    count: int | None = None,
    student: str | Path | None = None,
    backend: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
    watch: Callable[[str, int, int], object] = lambda *_: None,
) -> Curves:
    """Measure `model` on the held-out samples of `data`, by every solver and number of steps, and write curves to `out`.

    count: of images (96), or of scans (all). student: folder whose student is measured beside the teacher; where None the
    model's own, if it has one. out: new folder, or one of such curves, to which this adds; it gets steps.json, report.html
    and figures. overwrite: begin anew there. Errors: no held-out sample, no judge, a folder of something else.
    """
    from diffgraft.evaluation.steps import report as steps_report

    begun, out = time.monotonic(), Path(out)
    wanted = ways(samplers, counts)
    if count is not None and count < 2:
        raise Error(f"Figures with intervals need 2 samples or more; found {count}. Raise -n.")
    subject = _subject(Path(data), Path(model), count, backend, seed, None if student is None else Path(student))
    _prepare(out, overwrite, [Path(data), Path(model)])
    notes = list(subject.notes)
    refused = {way: why for way in wanted if (why := subject.check(way))}
    if len(refused) == len(wanted):
        raise Error(next(iter(refused.values())))
    notes += [f"{way} left out: {why}" for way, why in refused.items()]
    wanted = [way for way in wanted if way not in refused]
    if subject.unit == "image" and CONVERGED not in wanted:
        wanted.append(CONVERGED)
    kept = Kept(out, subject.identity)
    drawn = _drawn(subject, kept, wanted, watch)
    drawn |= _students(subject, out, notes, watch)
    reference = CONVERGED if CONVERGED in drawn else _most(subject, drawn)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        watch("measuring", done, len(drawn))

    measured = subject.measure(drawn, reference, step)
    result = _result(subject, drawn, measured, reference, notes)
    text = json.dumps(result.numbers, indent=1, allow_nan=False)
    (out / RESULT).write_text(text + "\n", encoding="utf-8")
    steps_report.write(out, result, _strips(subject, drawn), command, seed, time.monotonic() - begun, _notice(model))
    return result


def _subject(data: Path, root: Path, count: int | None, backend: str, seed: int, student: Path | None) -> Subject:
    meta = models.meta(root)
    if student is not None and student_steps(models.meta(student)) is None:
        raise Error(
            f"A student is a part of a model folder; {student} has none. Train one: diffgraft distill {root} {student}"
        )
    if hasattr(models.domain(meta["domain"]), "study"):
        from diffgraft.evaluation.steps.scans import Scans

        return Scans(data, root, count, backend, seed, student)
    from diffgraft.evaluation.steps.images import Images

    return Images(data, root, count or IMAGES, backend, seed, student)


def _notice(model: str | Path) -> str:
    return models.domain_of(model).NOTICE


def _prepare(out: Path, overwrite: bool, needed: Sequence[Path]) -> None:
    """A new or empty folder, or one of curves, emptied where that is asked for."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        out.mkdir(parents=True, exist_ok=True)
        return
    if not out.is_dir() or not ((out / RESULT).is_file() or (out / "draws").is_dir()):
        raise Error(
            f"Curves are written to a new folder, or to one that holds curves ({RESULT}); '{out}' is neither. Take another."
        )
    if overwrite:
        if inside := next((path for path in needed if path.resolve().is_relative_to(out.resolve())), None):
            raise Error(
                f"A run never replaces what it reads; '{inside}' lies in the output folder '{out}'. Take another."
            )
        shutil.rmtree(out / "draws", ignore_errors=True)


def _most(subject: Subject, drawn: Mapping[Way, Drawn]) -> Way:
    """The teacher's way with the most evaluations, of equals that of the second order."""
    order = ("euler", "dpmpp_2m", "heun")
    own = [way for way in drawn if way.sampler != STUDENT]
    return max(own, key=lambda way: (subject.walk(way), order.index(way.sampler) if way.sampler in order else -1))


def _drawn(
    subject: Subject, kept: Kept, wanted: Sequence[Way], watch: Callable[[str, int, int], object]
) -> dict[Way, Drawn]:
    """Every way that is wanted or was drawn before, drawn where it was not; kept one by one."""
    lacking = [way for way in wanted if kept.get(way) is None]
    of, done = sum(subject.cost(way) for way in lacking), 0

    def step() -> None:
        nonlocal done
        done += 1
        watch("drawing", done, of)

    for way in lacking:
        kept.put(way, subject.draw(way, step))
    found = {way: kept.get(way) for way in kept.there()}
    return {way: one for way, one in found.items() if one is not None}


def _students(
    subject: Subject, out: Path, notes: list[str], watch: Callable[[str, int, int], object]
) -> dict[Way, Drawn]:
    """The student's draws, where there is one."""
    meta = models.meta(subject.student)
    number = student_steps(meta)
    if number is None:
        return {}
    seen = set(meta["parts"][STUDENT].get("run", {}).get("trained_on", ()))
    if met := subject.met(seen):
        notes.append(
            f"the student was made with {met} of the held-out samples: its figures may be better than on others. Make it with "
            "the data that the model was trained on alone"
        )
    way, kept = Way(STUDENT, number), Kept(out, subject.student_identity)
    return {way: _drawn(subject, kept, [way], watch)[way]}


def _result(
    subject: Subject, drawn: Mapping[Way, Drawn], measured: Measured, reference: Way, notes: Sequence[str]
) -> Curves:
    rows, metrics = [], subject.metrics
    order = {
        name: k
        for k, name in enumerate([*SAMPLERS, *sorted({w.sampler for w in drawn} - set(SAMPLERS) - {STUDENT}), STUDENT])
    }
    for way in sorted(drawn, key=lambda way: (order[way.sampler], way.steps)):
        values = measured.values[way]
        gaps = {m.name: interval(values[m.name] - measured.values[reference][m.name]) for m in metrics}
        rows.append(Row(
            way.sampler, way.steps, subject.walk(way), {m.name: interval(values[m.name]) for m in metrics}, gaps,
            drawn[way].seconds / subject.count, drawn[way].cpu / subject.count,
        ))  # fmt: skip
    beside = {name: {n: interval(figure) for n, figure in each.items()} for name, each in measured.beside.items()}
    protocol = subject.protocol | {
        "unit": subject.unit, "samples": subject.count, "reference": str(reference),
        "intervals": f"95 % bootstrap over {'patients' if subject.unit == 'scan' else 'images'}, 1,000 resamples; differences paired",
    }  # fmt: skip
    (own,) = [row for row in rows if (row.sampler, row.steps) == (reference.sampler, reference.steps)]
    enough = {m.name: _enough(rows, m, own.figures[m.name]) for m in metrics if m.judged}
    return Curves(rows, str(reference), metrics, beside, enough, protocol, tuple(notes))


def _enough(rows: Sequence[Row], metric: Metric, reference: Interval) -> dict[str, int | None]:
    """Of each solver the fewest steps from which on none that was measured is worse than the reference."""
    found: dict[str, int | None] = {}
    for name in dict.fromkeys(row.sampler for row in rows):
        found[name] = None
        for row in sorted((r for r in rows if r.sampler == name), key=lambda r: -r.steps):
            if _worse(row.differences[metric.name], metric, reference):
                break
            found[name] = row.steps
    return found


def _worse(gap: Interval, metric: Metric, reference: Interval) -> bool:
    if gap.value is None or gap.low is None or gap.high is None:
        return True
    half = 0.0 if reference.low is None or reference.high is None else (reference.high - reference.low) / 2
    slight = max(NEGLIGIBLE * half, metric.slight * abs(reference.value or 0.0))
    wrong = {"low": gap.low > 0, "high": gap.high < 0, "same": gap.low > 0 or gap.high < 0}[metric.better]
    return wrong and abs(gap.value) > slight


def _strips(subject: Subject, drawn: Mapping[Way, Drawn]) -> dict[str, Any]:
    """What the report shows: the requests, the inputs if there are such, and the images of every way."""
    made = {way: subject.strip(one, SHOWN) for way, one in drawn.items()}
    return {"captions": subject.captions(SHOWN), "inputs": subject.inputs(SHOWN), "made": made}
