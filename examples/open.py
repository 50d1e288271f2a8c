"""A model folder opened, and the engine called directly: from noise to two leaves."""

from pathlib import Path

import numpy as np
from PIL import Image

import diffgraft

# --8<-- [start:loop]
from toolkit.diffusion import editing, guidance, schedule
from toolkit.diffusion.noise import Seeded
from toolkit.diffusion.samplers import SAMPLERS

model = diffgraft.open("models/plant_disease")  # or with backend="openvino", "torch"
spec = model.denoiser.spec

# What is asked for: crop 0 (coffee), condition 4 (rust), severity not stated; and
# nothing at all, for the guidance.
labels = {"crop": 0, "condition": 4}
null = {
    name: model.asarray(np.full((2, *f.shape), f.null, f.dtype))
    for name, f in spec.fields.items()
}
cond = null | {
    name: model.asarray(np.full(2, value, spec.fields[name].dtype))
    for name, value in labels.items()
}

# What the model thinks, how the way is integrated, and where it starts: three things
# that do not know each other.
denoise = guidance.classifier_free(model.denoiser, cond, null, scale=1.5)
sigmas = schedule.karras(8, sigma_max=20.0)
noise = Seeded(seed=1, samples=[0, 1], shape=spec.shape, asarray=model.asarray)
latent = editing.generate(
    SAMPLERS["dpmpp_2m"], denoise, sigmas, noise, spec.initial_scale(sigmas[0])
)
images = model.asnumpy(model.codec.decode(latent))  # (2, 3, 64, 128) in [-1, 1]
# --8<-- [end:loop]

name = model.meta["labels"]["condition"][labels["condition"]]
print(model.backend, "made", images.shape, "of", name)
out = Path("examples/out")
out.mkdir(parents=True, exist_ok=True)
row = np.clip(np.concatenate(list(images), 1), -1, 1)  # one below the other
levels = np.rint((row + 1) * 127.5).astype(np.uint8)
Image.fromarray(levels.transpose(1, 2, 0)).save(out / "open.png")
print("two leaves in", out / "open.png")
