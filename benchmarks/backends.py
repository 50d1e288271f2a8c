"""Time one whole counterfactual of a scan on ONNX Runtime against torch eager, in turn, and print medians and ratio.

    python benchmarks/backends.py models/brain_mri scan_flair.nii.gz --rounds 5

Both backends run in this process on the same threads, one after the other in every round, so that a machine whose
speed drifts does not favour either. Needs the extras edge and train.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from diffgraft import models
from toolkit.formats import nifti
from toolkit.methods.anomaly_map import MapSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quality", default="fast")
    options = parser.parse_args()
    domain = models.domain_of(options.model)
    opened = {name: models.open(options.model, name) for name in ("onnx", "torch")}
    case = domain.preprocess(nifti.load(options.scan))
    settings, target = domain.QUALITY[options.quality], domain.parse_prompt("healthy")
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    found = {}
    for turn in range(options.rounds + 1):
        for name, model in opened.items():
            begun = time.perf_counter()
            found[name] = domain.explain(model, case, settings, MapSettings(), target)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [slow / fast for slow, fast in zip(seconds["torch"], seconds["onnx"], strict=True)]
    maps = [found[name].anomaly.ravel() for name in opened]
    print(
        f"{len(case.index)} slices, quality {options.quality}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    for name, median in medians.items():
        print(f"{name:6} median {median:6.2f} s   [{min(seconds[name]):.2f}, {max(seconds[name]):.2f}]")
    print(
        f"torch / onnx: median of paired ratios {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
    )
    print(f"correlation of the two anomaly maps: {np.corrcoef(maps)[0, 1]:.7f}")


if __name__ == "__main__":
    main()
