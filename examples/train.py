"""A model of one's own, part by part, from photographs. Needs PyTorch.

The steps are so few that this ends in a minute and the leaves are fog: leave `steps`
and `batch` out to train in earnest.
"""

import shutil

from inputs import draw_leaves

import diffgraft

DATA, MODEL = "examples/out/train_data", "examples/out/model"
shutil.rmtree(MODEL, ignore_errors=True)  # a training that is there would be continued
diffgraft.prepare(
    "plant_disease", draw_leaves("examples/out/train_photos", 12), DATA, overwrite=True
)

for part in ("features", "codec", "denoiser"):  # each needs those before it
    facts = diffgraft.train("plant_disease", DATA, MODEL, part, steps=6, batch=8)
    kept = len(facts["held_out_groups"])
    print(
        f"{part}: {facts['parameters']:,} parameters, {facts['samples']} photographs,"
    )
    print(f"  {kept} kept back")

made = diffgraft.generate(
    MODEL,
    "examples/out/trained",
    {"condition": "rust"},
    count=2,
    steps=4,
    overwrite=True,
)
print(made.count, "leaves of the new model in examples/out/trained")

# A model that begins with the weights of another one needs fewer steps and leaves.
facts = diffgraft.train(
    "plant_disease",
    DATA,
    "examples/out/model_from",
    "features",
    base="models/plant_disease",
    steps=6,
    batch=8,
)
print("begun with another model's weights:", facts["base"][:12])
