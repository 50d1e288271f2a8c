"""Measuring what was made: images against real ones, anomaly maps against masks."""

import shutil
from pathlib import Path

from inputs import draw_leaves, draw_lesions

import diffgraft

OUT = Path("examples/out/evaluate")
shutil.rmtree(OUT, ignore_errors=True)

# --- Images: leaves beside others drawn alike, and beside what a model of another crop
# makes.
for name, seed in (("real", 1), ("alike", 2)):
    diffgraft.prepare(
        "plant_disease", draw_leaves(OUT / f"{name}_photos", 12, seed), OUT / name
    )
diffgraft.generate("models/plant_disease", OUT / "coffee", count=24, steps=4)
print(
    diffgraft.evaluate_distribution(
        OUT / "real",
        OUT / "alike",
        features="models/plant_disease/features.onnx",  # or model=, that made them
        split="all",
        beside={"coffee": OUT / "coffee"},
    )
)

# --- Scans: a bright ball painted into the sample is a lesion whose mask is known, and
# the easiest of all: intensity alone finds it too, as the rows below the map's say.
scans = draw_lesions(OUT / "scans", (0.42, 0.58))
diffgraft.counterfactual(
    "models/brain_mri", scans, OUT / "maps", quality="fast", force=True
)
print(diffgraft.evaluate_anomaly(scans, OUT / "maps", out=OUT / "report"))
print("report:", OUT / "report" / "report.html")
