"""Do synthetic images show their class? A classifier of real samples alone names it, and that of held-out real ones."""

from __future__ import annotations

import time

from diffgraft.evaluation.classes import report
from diffgraft.evaluation.classes.result import ClassAlignment
from diffgraft.evaluation.classifier import classifier_protocol, judge
from diffgraft.evaluation.data import groups
from diffgraft.evaluation.experiment import (
    REFERENCE,
    image_sets,
    output,
    report_run,
    save,
    training_steps,
    with_steps,
)
from diffgraft.evaluation.pools import families
from diffgraft.evaluation.real import read_real
from diffgraft.requests.evaluation import AlignmentRequest
from diffgraft.requests.verb import Call
from toolkit.evaluation import classification as scores
from toolkit.evaluation.downstream import SETTINGS

__all__ = ["alignment"]


def alignment(request: AlignmentRequest, call: Call) -> ClassAlignment:
    """How often a classifier of REAL's training folds names the class that a sample was asked to show.

    A generator may know the held-out samples, for the classifier does not.
    """
    begun = time.monotonic()
    with output(request) as folder:
        real = read_real(request.real, request.label or "class", request.fold)
        pools = families(real, request.synthetic, request.beside, tested=False)
        sets, settings = image_sets(real, pools), with_steps(SETTINGS, request.steps, real.fold)
        steps = training_steps(call.watch, [f"seed {seed}" for seed in range(request.seeds)])
        balanced, figures = {}, {}
        for name, log_probability in judge(real, sets, settings, steps).items():
            predicted, truth = log_probability.argmax(-1), real.targets(sets[name])
            balanced[name] = scores.balanced_accuracy(predicted, truth, groups(sets[name]))
            figures[name] = tuple(scores.figures(run, truth, len(real.names)) for run in predicted)
        facts = classifier_protocol(real, settings, request.seeds, pools)
        facts["classifier"] = f"{REFERENCE}, {len(real.training())} samples"
        result = ClassAlignment(balanced, figures, real.names, facts)
        if folder is not None:
            save(folder, "evaluate alignment", request, result.numbers)
            report.write_alignment(folder / "report.html", result, sets, real.label, report_run(call, facts, begun))
    return result
