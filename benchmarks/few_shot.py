"""Few-shot generators that saw only the k labelled images of a class that the classifier sees, and what they make.

    python benchmarks/few_shot.py DATA BASE OUT --shots 5 --shots 10 --seeds 3

DATA: prepared leaves. BASE: a model of other crops. For every k and seed the k images of each class (the subset that
`diffgraft evaluate DATA OUT/dafusion --task classify --shots k` trains its classifiers on, too) fine-tune BASE, and then
OUT/dafusion/k<k>-s<seed> holds DA-Fusion's variants of those images, OUT/generated/k<k>-s<seed> new ones from noise.
What exists already is left as it is, so that the same command continues.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from diffgraft.editing.edit import edit
from diffgraft.generation.generate import generate
from diffgraft.training.train import train
from domains import plant_disease
from toolkit.data import dataset, labels
from toolkit.evaluation.split import few_shot
from toolkit.settings import Sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shots", type=int, action="append")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--guidance", type=float, default=1.5)
    options = parser.parse_args()
    examples = list(dataset.read(options.data))
    vocabulary = labels.of(dataset.info(options.data), plant_disease)
    for shots in options.shots or [5, 10, 20]:
        for seed in range(options.seeds):
            begun = time.monotonic()
            name = f"k{shots}-s{seed}"
            few, model = options.out / "data" / name, options.out / "models" / name
            subset = few_shot(examples, plant_disease.TARGET, shots, seed, fold=0)
            if not few.exists():
                plant_disease.write(subset, few, vocabulary)
            if not (model / "denoiser.safetensors").is_file():
                train(
                    plant_disease, few, model, base=options.base, steps=options.steps, batch=16, learning_rate=5e-4,
                    fold=-1, seed=seed, warmup=20, ema=0.99,
                )  # fmt: skip
            sampling = Sampling("dpmpp_2m", 16, guidance=options.guidance, seed=seed)
            varied, made = (options.out / kind / name for kind in ("dafusion", "generated"))
            if not varied.exists():
                count = -(-options.per_class // shots)
                edit(
                    model, few, varied, "dafusion", strength=1.0, variants=count, settings=sampling, backend="torch"
                )  # fmt: skip
            if not made.exists():
                count = options.per_class * len(vocabulary[plant_disease.TARGET])
                generate(model, made, {}, count, sampling, like=few, balance=plant_disease.TARGET, backend="torch")
            print(f"{name}: {len(subset)} images, {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
