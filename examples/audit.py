"""Copies of training images among generated ones: two are put there, and found."""

import dataclasses
import shutil
from pathlib import Path

from inputs import draw_leaves

import diffgraft
from toolkit.data import dataset
from toolkit.example import Provenance

OUT = Path("examples/out/audit")
shutil.rmtree(OUT, ignore_errors=True)

# Leaves that a model was trained on, and some that it was not.
for name, seed in (("train", 1), ("held_out", 2)):
    diffgraft.prepare(
        "plant_disease", draw_leaves(OUT / f"{name}_photos", 12, seed), OUT / name
    )

# What it made: new leaves, and two of the training images, as a model makes them that
# has learned them by heart.
diffgraft.generate("models/plant_disease", OUT / "new", count=10, steps=4)
made = Provenance("synthetic", model="", procedure="generate")
copies = [
    dataclasses.replace(one, id=f"copy{n}", provenance=made)
    for n, one in enumerate(dataset.read(OUT / "train"))
]
about = dataset.read_info(OUT / "new")
dataset.write(
    [*dataset.read(OUT / "new"), *copies[:2]],
    OUT / "made",
    labels=about["labels"],
    synthetic=True,
)

result = diffgraft.audit(
    OUT / "train",
    OUT / "made",
    holdout=OUT / "held_out",
    features="models/plant_disease/features.onnx",  # or model=, the one that made them
    plant=10,
    out=OUT / "report",
)
print(result)
print("the audit found its own planted copies:", result.audit.valid)
