"""Time films by text end to end against diffusers in eager mode, in turn, and print medians and ratios.

    python benchmarks/eager.py models/chest_xray work/pipeline --rounds 3

work/pipeline is a new folder for the same weights as a Stable Diffusion pipeline. All run in this process, one after the other
in every round, so that a machine whose speed drifts favours none. Needs the extras edge, openvino and train.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from diffgraft import models
from diffgraft.deployment.export import export
from diffgraft.generation import sampling
from diffgraft.models.defaults import default_sampling
from toolkit.example import Annotation

PROMPT, BACKENDS, MANY = "PA view, right pleural effusion", ("onnx", "openvino", "openvino:bf16"), (50, 20)
Run = Callable[[int], object]


def eager(root: Path, steps: int, guidance: float) -> Run:
    """The pipeline with DDIM, as its users run it."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(root), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return lambda count: pipe([PROMPT] * count, num_inference_steps=steps, guidance_scale=guidance, output_type="np")


def ours(root: Path, backend: str, steps: int | None) -> Run:
    """The model in so many steps, or its student where None."""
    model, domain = models.open(root, backend), models.domain_of(root)
    settings = default_sampling(model.meta, student=steps is None)
    settings = settings if steps is None else dataclasses.replace(settings, steps=steps)
    return lambda count: sampling.sample(model, domain, [Annotation(PROMPT)] * count, settings, range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    export(options.model, "diffusers", options.pipeline)
    guidance = default_sampling(models.meta(options.model), student=False).guidance
    runs = {f"diffusers eager, {steps} steps": eager(options.pipeline, steps, guidance) for steps in MANY}
    for backend in BACKENDS:
        for name, steps in (("20 steps", 20), ("8 steps", 8), ("student", None)):
            runs[f"{backend}, {name}"] = ours(options.model, backend, steps)
    for batch in (1, 4):
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.rounds + 1):
            for name, run in runs.items():
                begun = time.perf_counter()
                run(batch)
                if turn:  # the first round warms up
                    seconds[name].append((time.perf_counter() - begun) / batch)
        slow = [seconds[f"diffusers eager, {steps} steps"] for steps in MANY]
        for name, found in seconds.items():
            ratios = [statistics.median(a / b for a, b in zip(base, found, strict=True)) for base in slow]
            told = ", ".join(f"{r:.2f} x eager {steps}" for r, steps in zip(ratios, MANY, strict=True))
            print(f"batch {batch}  {name:24} {statistics.median(found):.4f} s an image   {told}")


if __name__ == "__main__":
    main()
