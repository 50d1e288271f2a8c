"""What the few-shot benchmarks share: their arguments, their runs, and a base model fine-tuned on the images of each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from diffgraft.training.train import train
from toolkit.settings import Sampling


@dataclass(frozen=True)
class Run:
    """One few-shot generator. few: folder of the images that it may see; model: folder of it."""

    shots: int
    seed: int
    few: Path
    model: Path

    @property
    def name(self) -> str:
        return f"k{self.shots}-s{self.seed}"

    def sampling(self, options: argparse.Namespace) -> Sampling:
        return Sampling("dpmpp_2m", 16, guidance=options.guidance, seed=self.seed)

    def fine_tune(self, domain: ModuleType, options: argparse.Namespace) -> None:
        """Train the denoiser, beginning with that of the base; one that is there is left as it is."""
        if not (self.model / "denoiser.safetensors").is_file():
            train(
                domain, self.few, self.model, base=options.base, steps=options.steps, batch=16, learning_rate=5e-4,
                fold=-1, seed=self.seed, warmup=20, ema=0.99,
            )  # fmt: skip


def arguments(description: str | None, steps: int) -> argparse.ArgumentParser:
    """Those that both benchmarks have. steps: of a fine-tuning, unless others are asked for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for folder in ("data", "base", "out"):
        parser.add_argument(folder, type=Path)
    parser.add_argument("--shots", type=int, action="append")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--guidance", type=float, default=1.5)
    return parser


def runs(options: argparse.Namespace, shots: Iterable[int], seeds: Iterable[int]) -> Iterator[Run]:
    """Every number of shots with every seed; how long each took is printed."""
    for count in options.shots or shots:
        for seed in seeds:
            begun, name = time.monotonic(), f"k{count}-s{seed}"
            yield Run(count, seed, options.out / "data" / name, options.out / "models" / name)
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
