"""A few-step student of a model, with its guidance folded in. Needs PyTorch.

Paths and steps are so few that this ends in a minute: leave `paths` and `train_steps`
out to distil in earnest.
"""

import shutil

import diffgraft
from toolkit.settings import Distillation

OUT = "examples/out/fast"
shutil.rmtree(OUT, ignore_errors=True)
facts = diffgraft.distill(
    "models/plant_disease",
    OUT,
    Distillation(steps=4, fine=2, paths=32, rank=4),
    train_steps=10,
    batch=8,
)
for sigma, error in facts["error"].items():
    print(f"at sigma {sigma} it misses its teacher by {error:.2f} of the spread")

made = diffgraft.generate(
    OUT, "examples/out/by_student", count=2, student=True, overwrite=True
)
print(made.count, "leaves in", made.settings.steps, "evaluations each")
