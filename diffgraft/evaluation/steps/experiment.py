"""Quality against steps: how few steps a model needs, sampler by sampler, and its few-step student beside them.

The same requests with the same noise are drawn by every sampler in every number of steps; each figure stands beside what real
data and trivial means reach, and its difference to the converged reference has an interval over resampled samples. What was
drawn is kept in the output folder: a run that was stopped goes on there, and one with other samplers adds to it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffgraft import models, reporting
from diffgraft.evaluation.steps import report
from diffgraft.evaluation.steps.images import Images
from diffgraft.evaluation.steps.result import Row, StepsEvaluation, enough_steps
from diffgraft.evaluation.steps.samples import STUDENT, Measurements, SampleCache, Samples, Variant, variants
from diffgraft.evaluation.steps.scans import Scans
from diffgraft.requests import StepsRequest, record
from diffgraft.requests.verb import Call, Watch, counter, verb
from toolkit.evaluation.interval import Interval
from toolkit.example import Error

__all__ = ["COUNTS", "SAMPLERS", "evaluate_steps"]

COUNTS = (1, 2, 4, 8, 20, 50)
SAMPLERS = ("euler", "dpmpp_2m", "heun", "dpmpp_2m_sde")
CONVERGED = Variant("heun", 50)
"""The reference of generated images: what a sampler of second order makes in steps that hardly matter any more."""

RESULT = "steps.json"
SHOWN = 6
"""Samples of each variant in the report."""

Subject = Images | Scans


@verb(StepsRequest)
def evaluate_steps(request: StepsRequest, call: Call) -> StepsEvaluation:
    """Measure a model on the held-out samples of a data set, by every sampler and number of steps.

    The output folder gets steps.json, report.html and figures; it may be one of such curves, to which this adds.
    overwrite: begin anew there. Errors: no held-out sample, no judge, a folder of something else.
    """
    begun, out = time.monotonic(), request.out
    wanted = variants(request.samplers or SAMPLERS, request.counts or COUNTS)
    subject = _subject(request)
    _prepare(out, request.overwrite, [request.data, request.model])
    refused = {variant: why for variant in wanted if (why := subject.refusal(variant))}
    if len(refused) == len(wanted):
        raise Error(next(iter(refused.values())))
    notes = [*subject.notes, *(f"{variant} left out: {why}" for variant, why in refused.items())]
    wanted = [variant for variant in wanted if variant not in refused]
    if subject.unit == "image" and CONVERGED not in wanted:
        wanted.append(CONVERGED)
    drawn = _draw(subject, SampleCache(out, subject.identity()), wanted, call.watch)
    reference = CONVERGED if CONVERGED in drawn else _most_evaluations(subject, drawn)
    if plan := subject.models.student_plan:
        trained = set(plan.get("run", {}).get("trained_on", ()))
        if count := subject.count_trained_on(trained):
            notes.append(
                f"the student was made with {count} of the held-out samples: its figures may be better than on others. Make it "
                "with the data that the model was trained on alone"
            )
        student = Variant(STUDENT, int(plan["steps"]))
        cache = SampleCache(out, subject.identity(student=True))
        drawn[student] = _draw(subject, cache, [student], call.watch)[student]
    measured = subject.measure(drawn, reference, counter(call.watch, "measuring", len(drawn)))
    result = _result(subject, drawn, measured, reference, notes)
    text = json.dumps(result.numbers, indent=1, allow_nan=False)
    (out / RESULT).write_text(text + "\n", encoding="utf-8")
    record.save(out, "evaluate steps", request, subject.models.open().fingerprint)
    run = reporting.Run(call.command, dict(result.protocol), request.seed, time.monotonic() - begun)
    report.write(out, result, subject.preview(drawn, SHOWN), run, models.domain_of(request.model).NOTICE)
    return result


def _subject(request: StepsRequest) -> Subject:
    student, root = request.student, request.model
    if student is not None and STUDENT not in models.meta(student)["parts"]:
        raise Error(
            f"A student is a part of a model folder; {student} has none. Train one: diffgraft distill {root} {student}"
        )
    return Scans(request) if hasattr(models.domain_of(root), "preprocess") else Images(request)


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


def _most_evaluations(subject: Subject, drawn: Mapping[Variant, Samples]) -> Variant:
    """The variant with the most evaluations, of equals that of the second order."""
    order = ("euler", "dpmpp_2m", "heun")

    def rank(variant: Variant) -> tuple[int, int]:
        return subject.evaluations(variant), order.index(variant.sampler) if variant.sampler in order else -1

    return max(drawn, key=rank)


def _draw(subject: Subject, cache: SampleCache, wanted: Sequence[Variant], watch: Watch) -> dict[Variant, Samples]:
    """Every variant that is wanted or was drawn before, drawn where it was not; kept one by one."""
    lacking = [variant for variant in wanted if cache.get(variant) is None]
    step = counter(watch, "drawing", sum(subject.progress_steps(variant) for variant in lacking))
    for variant in lacking:
        cache.put(variant, subject.draw(variant, step))
    found = {variant: cache.get(variant) for variant in cache.variants()}
    return {variant: samples for variant, samples in found.items() if samples is not None}


def _result(
    subject: Subject, drawn: Mapping[Variant, Samples], measured: Measurements, reference: Variant, notes: Sequence[str]
) -> StepsEvaluation:
    metrics = subject.metrics
    others = sorted({variant.sampler for variant in drawn} - set(SAMPLERS) - {STUDENT})
    order = {name: k for k, name in enumerate([*SAMPLERS, *others, STUDENT])}
    rows, own, count = {}, measured.values[reference], subject.count
    for variant in sorted(drawn, key=lambda variant: (order[variant.sampler], variant.steps)):
        values, samples = measured.values[variant], drawn[variant]
        figures = {m.name: Interval.from_resamples(values[m.name]) for m in metrics}
        gaps = {m.name: Interval.from_resamples(values[m.name] - own[m.name]) for m in metrics}
        evaluations = subject.evaluations(variant)
        rows[variant] = Row(
            variant.sampler, variant.steps, evaluations, figures, gaps, samples.seconds / count, samples.cpu / count
        )
    beside = {
        name: {n: Interval.from_resamples(figure) for n, figure in each.items()}
        for name, each in measured.beside.items()
    }
    protocol = subject.protocol | {
        "unit": subject.unit, "samples": subject.count, "reference": str(reference),
        "intervals": f"95 % bootstrap over {'patients' if subject.unit == 'scan' else 'images'}, 1,000 resamples; differences paired",
    }  # fmt: skip
    every, figures = list(rows.values()), rows[reference].figures
    enough = {m.name: enough_steps(every, m, figures[m.name]) for m in metrics if m.judged}
    return StepsEvaluation(every, str(reference), metrics, beside, enough, protocol, tuple(notes))
