"""In how few steps a model is as good: scans with known lesions, in two and in four."""

import shutil
from pathlib import Path

from inputs import draw_lesions

import diffgraft

OUT = Path("examples/out/steps")
shutil.rmtree(OUT, ignore_errors=True)
scans = draw_lesions(OUT / "scans", (0.42, 0.58))

# Of a model of images, say the data set that it was trained on: those that it kept back
# are asked for.
curves = diffgraft.evaluate_steps(
    scans, "models/brain_mri", OUT / "report", counts=[2, 4], samplers=["dpmpp_2m"]
)
print(curves)
