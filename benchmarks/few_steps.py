"""The curves of docs/few_steps.md: quality against steps of the starter models, as tables and figures.

    python benchmarks/few_steps.py plant_disease=work/coffee chest_xray=work/cxr detection=work/bccd brain_mri=lgg/ \\
        --out work/steps --docs docs/few_steps

Every name is a model in models/, every folder the data it was trained on (held-out samples are found by its record). What
was drawn is kept in OUT/<name> and used again, so the command goes on where it stopped. Figures are copied to DOCS, and the
tables are printed as markdown. The strip of brain_mri in DOCS is of the synthetic sample scan, never of a patient.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models
from diffgraft.evaluation.steps import figures as steps_figures
from diffgraft.evaluation.steps.experiment import COUNTS, SAMPLERS, evaluate_steps
from diffgraft.requests import StepsRequest
from toolkit.data.transforms import to_window
from toolkit.formats import nifti
from toolkit.methods.anomaly_map import MapSettings

ROOT = Path(__file__).resolve().parents[1]
SAMPLERS_OF_SCANS = SAMPLERS[:3]
STRIP = {"brain_mri": "euler"}
"""Solver whose strip is shown; dpmpp_2m, the default of generation, unless named."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="+", help="NAME=FOLDER, a starter model and its data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the curves, one a model")
    parser.add_argument("--docs", type=Path, help="folder for the figures")
    parser.add_argument("--count", type=int, default=96, help="images of each; 62 for detection")
    parser.add_argument("--steps", default=",".join(map(str, COUNTS)))
    parser.add_argument("--samplers", help="solvers, of all models")
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    for pair in options.data:
        name, _, data = pair.partition("=")
        root, out = ROOT / "models" / name, options.out / name
        scans = hasattr(models.domain_of(root), "preprocess")
        count = None if scans else min(options.count, 62) if name == "detection" else options.count
        usual = SAMPLERS_OF_SCANS if scans else SAMPLERS
        request = StepsRequest(
            data, root, out, counts=[int(n) for n in options.steps.split(",")], count=count, backend=options.backend,
            samplers=options.samplers.split(",") if options.samplers else usual,
        )  # fmt: skip
        result = evaluate_steps(request, command=" ".join(sys.argv), watch=_watch)
        print(f"\n### {name}\n\n{_table(json.loads((out / 'steps.json').read_text()))}\n")
        print("\n".join(f"* {note}" for note in result.notes), flush=True)
        if options.docs is not None:
            options.docs.mkdir(parents=True, exist_ok=True)
            shutil.copy(out / "curves.svg", options.docs / f"{name}.svg")
            strip = options.docs / f"{name}.png"
            if scans:
                strip.write_bytes(_sample(root, STRIP[name], [2, 4, 8, 20], options.backend))
            else:
                shutil.copy(out / f"samples-{STRIP.get(name, 'dpmpp_2m')}.png", strip)


def _watch(text: str, done: int, of: int) -> None:
    if done == of or done % 50 == 0:
        print(f"{text} {done} of {of}", file=sys.stderr, flush=True)


def _table(found: dict[str, Any]) -> str:
    """The rows as a markdown table: every figure with its interval, bold where it is not worse than the reference."""
    metrics = found["metrics"]
    unit = found["protocol"]["unit"]
    lines = [
        f"| solver | steps | evaluations | {' | '.join(m['title'] for m in metrics)} | CPU s / {unit} |",
        "|" + "---|" * (4 + len(metrics)),
    ]
    for row in found["rows"]:
        cells = []
        for m in metrics:
            fewest = found["enough"].get(m["name"], {}).get(row["sampler"])
            said = _interval(row["figures"][m["name"]])
            cells.append(f"**{said}**" if fewest is not None and row["steps"] >= fewest else said)
        lines.append(
            f"| {row['sampler']} | {row['steps']} | {row['evaluations']} | {' | '.join(cells)} | {row['cpu']:.3g} |"
        )
    for name in dict.fromkeys(n for each in found["beside"].values() for n in each):
        cells = [_interval(found["beside"][m["name"]].get(name)) for m in metrics]
        lines.append(f"| *{name}* | | | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _interval(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return ""
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    digits = 2 if figure["high"] - figure["low"] > 0.03 else 3
    return f"{figure['value']:.3f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _sample(root: Path, sampler: str, counts: list[int], backend: str) -> bytes:
    """Six slices of the synthetic sample scan: as they are, and as the counterfactual has them in more and more steps."""
    import dataclasses

    domain, model = models.domain_of(root), models.open(root, backend)
    case = domain.preprocess(nifti.load(next((root / "sample").glob("*.nii.gz"))))
    maps = MapSettings.from_json(model.meta["calibration"].get("maps", {}))
    top, left, rows, cols = case.box
    place = np.s_[:, max(0, top) : top + rows, max(0, left) : left + cols]
    shown, made = None, {}
    for count in counts:
        settings = dataclasses.replace(domain.QUALITY["default"], sampler=sampler, steps=count)
        found = domain.explain(model, case, settings, maps, domain.parse_prompt("healthy"))
        if shown is None:
            shown = sorted(np.argsort(-found.probability)[:6].tolist())
            made["input"] = list(to_window(case.stack, case.window)[place][shown])
        made[f"{count} steps"] = list(to_window(found.counterfactual, case.window)[place][shown])
    return steps_figures.strip(made)


if __name__ == "__main__":
    main()
