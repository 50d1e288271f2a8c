"""Do synthetic images show what was asked for? A classifier trained on real samples alone names their class, and that of
held-out real ones beside them. Films with findings are told all of these at once: diffgraft.evaluation.findings.alignment. Pictures
with boxes are looked at by detectors: diffgraft.evaluation.boxes.alignment.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffgraft.evaluation.boxes import alignment as layout_alignment
from diffgraft.evaluation.boxes import judges as layout_judges
from diffgraft.evaluation.boxes.alignment_result import LayoutAlignment
from diffgraft.evaluation.classes import report as classify_report
from diffgraft.evaluation.classes.result import Alignment
from diffgraft.evaluation.experiment import REAL_ARMS, REFERENCE, Watch, check, dump, output, protocol, settled
from diffgraft.evaluation.findings import alignment as findings_alignment
from diffgraft.evaluation.findings.result import Agreement
from diffgraft.evaluation.pools import arrays, families, read_real, with_findings
from toolkit.evaluation import classification as scores
from toolkit.evaluation.downstream import SETTINGS, Labelled, train

__all__ = ["Alignment", "alignment"]


def alignment(
    data: str | Path,
    fake: str | Path,
    *,
    beside: Mapping[str, str | Path] | None = None,
    label: str | None = None,
    seeds: int = 3,
    steps: int = SETTINGS.steps,
    fold: int | None = None,
    model: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    watch: Watch = lambda *_: None,
    cache: Path | None = None,
) -> Alignment | Agreement | LayoutAlignment:
    """How often a classifier trained on REAL's training folds names the class that a synthetic image was asked to show,
    beside how often it names that of a held-out real one.

    fake, beside: as in `classify`; a generator may know the held-out samples, for the classifier does not. out, watch:
    likewise. label: None is the class of photographs, and of films every finding at once; fold: None is the one that the
    domain keeps back. model: for findings, see `diffgraft.evaluation.findings.alignment.alignment`. A data set with boxes is
    judged by `diffgraft.evaluation.boxes.alignment.alignment`.
    """
    if label is None and layout_judges.with_boxes(Path(data)):
        return layout_alignment.alignment(
            data, fake, beside=beside, seeds=seeds, steps=steps, fold=fold, out=out, overwrite=overwrite, command=command,
            watch=watch, cache=cache,
        )  # fmt: skip
    if label is None and with_findings(Path(data)):
        return findings_alignment.alignment(
            data, fake, beside=beside, seeds=seeds, steps=steps, fold=fold, model=model, out=out, overwrite=overwrite,
            command=command, watch=watch, cache=cache,
        )  # fmt: skip
    label = label or "class"
    check(seeds, steps, ())
    begun = time.monotonic()
    with output(out, overwrite, [data, fake, *(beside or {}).values()]) as folder:
        real = read_real(Path(data), label, fold)
        pools = families(real, fake, beside, tested=False)
        sets = {"held-out real": real.test}
        sets |= {each.name: [e for pool in each.pools.values() for e in pool.examples] for each in pools}
        images, truth = arrays([e for examples in sets.values() for e in examples], label)
        own = real.training(0, 0)
        runs, settings = [], settled(steps, real.fold)
        for seed in range(seeds):
            runs.append(
                train(
                    REAL_ARMS[1], Labelled(*arrays(own, label)), {}, images, len(real.names), real.domain.AUGMENTATION,
                    dataclasses.replace(settings, seed=seed),
                    watch=lambda at, of, seed=seed: watch(f"seed {seed}", seed * of + at, seeds * of),
                ).predicted
            )  # fmt: skip
        balanced, figures, first = {}, {}, 0
        for name, examples in sets.items():
            part = np.s_[first : first + len(examples)]
            predicted, first = np.stack(runs)[:, part], first + len(examples)
            groups = [e.group or e.id for e in examples]
            balanced[name] = scores.balanced_accuracy(predicted, truth[part], groups)
            figures[name] = tuple(scores.figures(run, truth[part], len(real.names)) for run in predicted)
        facts = protocol(real, settings, seeds, pools) | {"classifier": f"{REFERENCE}, {len(own)} samples"}
        result = Alignment(balanced, figures, real.names, facts)
        if folder is not None:
            dump(folder, result.numbers)
            classify_report.write_alignment(
                folder / "report.html", result, list(sets.values()), label, command, time.monotonic() - begun
            )
    return result
