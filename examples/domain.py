"""A domain of one's own, from raw files to new images. Needs PyTorch.

It is `domain/seeds.py` beside this file. In a checkout the module would lie in
`domains/`, and every command of diffgraft would take its name.
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import diffgraft
import domains

domains.__path__.append(
    str(Path(__file__).parent / "domain")
)  # instead of a file in domains/
OUT, random = Path("examples/out/seeds"), np.random.default_rng(0)
shutil.rmtree(OUT, ignore_errors=True)

# Raw files: long seeds and round ones.
for kind, ratio in (("bean", 2.2), ("pea", 1.0)):
    (OUT / "raw" / kind).mkdir(parents=True)
    for number in range(24):
        picture, height = Image.new("L", (64, 64), 30), random.uniform(9, 13)
        ImageDraw.Draw(picture).ellipse(
            [32 - height * ratio, 32 - height, 32 + height * ratio, 32 + height],
            fill=200,
        )
        picture.save(OUT / "raw" / kind / f"{number}.png")

found = diffgraft.prepare("seeds", OUT / "raw", OUT / "data")
print(found.samples, "pictures:", dict(found.classes))
for part in ("features", "denoiser"):
    facts = diffgraft.train(
        "seeds", OUT / "data", OUT / "model", part, steps=30, batch=16
    )  # few: the seeds are fog
    print(f"{part}: {facts['parameters']:,} parameters")
made = diffgraft.generate(
    OUT / "model", OUT / "made", {"kind": "bean"}, count=4, steps=8
)
print(made.count, "beans in", OUT / "made" / "report.html")
