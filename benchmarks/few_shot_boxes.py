"""Few-shot generators of pictures with boxes that saw only the k pictures that the detector sees, and what they make.

    python benchmarks/few_shot_boxes.py DATA BASE OUT --shots 20 --shots 50 --fold 1

DATA: a prepared data set. BASE: a model of another data set, all that a generator may know beside the k pictures. For every
k and seed those pictures (the subset that `diffgraft evaluate DATA OUT --task detect --shots k` trains its detectors on,
too) fine-tune BASE, and then OUT/k<k>-s<seed> holds new pictures for layouts drawn from theirs. What exists already is left
as it is, so that the same command continues.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from diffgraft.generation.generate import generate
from diffgraft.training.train import train
from domains import detection
from toolkit.data import dataset, labels
from toolkit.evaluation.split import few_images
from toolkit.settings import Sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shots", type=int, action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--codec-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--guidance", type=float, default=1.5)
    options = parser.parse_args()
    examples = list(dataset.read(options.data))
    vocabulary = labels.of(dataset.info(options.data), detection)
    for shots in options.shots or [20, 50]:
        for seed in options.seed or [0, 1, 2]:
            begun = time.monotonic()
            name = f"k{shots}-s{seed}"
            few, model = options.out / "data" / name, options.out / "models" / name
            if not few.exists():
                detection.write(few_images(examples, shots, seed, options.fold), few, vocabulary)
            if not (model / "codec.safetensors").is_file():
                # A codec that never saw such pictures would give none of their colours back.
                train(detection, few, model, "codec", base=options.base, steps=options.codec_steps, fold=-1, seed=seed)
            if not (model / "denoiser.safetensors").is_file():
                train(
                    detection, few, model, base=options.base, steps=options.steps, batch=16, learning_rate=5e-4, fold=-1,
                    seed=seed, warmup=20, ema=0.99,
                )  # fmt: skip
            made = options.out / name
            if not made.exists():
                # No detector saw only these pictures, so nothing is filtered.
                sampling = Sampling("dpmpp_2m", 16, guidance=options.guidance, seed=seed)
                generate(model, made, count=options.count, settings=sampling, like=few, backend="torch")
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
