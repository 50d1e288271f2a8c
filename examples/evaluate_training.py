"""Do synthetic images help a classifier, or a detector? Needs PyTorch.

Leaves and cells are drawn, and every network is trained for four steps, so that this
ends in a minute: the figures say nothing. Leave `steps` and `seeds` out to measure in
earnest.
"""

import shutil
from pathlib import Path

from inputs import as_synthetic, draw_cells, draw_leaves

import diffgraft

OUT = Path("examples/out/evaluate_training")
shutil.rmtree(OUT, ignore_errors=True)

# --- Classes: real leaves, and others drawn alike in the place of a model's.
diffgraft.prepare("plant_disease", draw_leaves(OUT / "photos", 16, 1), OUT / "leaves")
diffgraft.prepare(
    "plant_disease", draw_leaves(OUT / "more_photos", 8, 2), OUT / "more_leaves"
)
made = as_synthetic(OUT / "more_leaves", OUT / "made_leaves")
print(
    diffgraft.evaluate_classification(
        OUT / "leaves", made, shots=[4], seeds=2, steps=4, out=OUT / "classes"
    )
)
print(
    diffgraft.evaluate_alignment(
        OUT / "leaves", made, seeds=2, steps=4, out=OUT / "alignment"
    )
)

# --- Boxes: the same of pictures with cells.
diffgraft.prepare("detection", draw_cells(OUT / "cells", 16, 1), OUT / "smears")
diffgraft.prepare(
    "detection", draw_cells(OUT / "more_cells", 8, 2), OUT / "more_smears"
)
made = as_synthetic(OUT / "more_smears", OUT / "made_smears")
arms = [
    "classical",
    "50",
]  # real pictures with classical augmentation, and half of the batch synthetic
print(
    diffgraft.evaluate_detection(
        OUT / "smears", made, arms=arms, seeds=2, steps=4, out=OUT / "boxes"
    )
)
print("reports:", *sorted(str(path) for path in OUT.glob("*/report.html")))
