"""What the contenders of speed.py are asked for, as a job.json with its arrays: the same for all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from export.sampling import sampler
from export.sampling.plan import Healing, Plan
from toolkit.diffusion import schedule, spacing
from toolkit.diffusion.model import TEXT
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.example import Error
from toolkit.methods.anomaly_map import MapSettings
from toolkit.models import pipeline as pipeline_folder
from toolkit.models.folder import read_meta, spec_of

__all__ = ["counterfactual", "generate"]

SEED = 7
REACH = 0.5
"""Strength of a counterfactual, L = 500 of 1000 in the paper."""

GRADIENT = 3.0
"""Classifier guidance of a counterfactual."""


def generate(root: Path, place: Path, made: Path, steps: int, batches: list[int]) -> Path:
    """Films of a chest model for its own prompts; DDIM from the last step of its clock to 0, as its saved pipeline says.

    made: folder of what is exported for the peers.
    """
    from toolkit.networks.pipeline_save import scheduler

    meta = read_meta(root)
    spec, config = spec_of(meta), scheduler(meta)
    sigmas = pipeline_folder.sigmas({"scheduler": config, "clock": spacing.clock_config(config)}, steps)
    noise = gaussian(spec.shape, SEED, range(max(batches)), Purpose.START, 0)
    prompts = (root / "prompts.txt").read_text(encoding="utf-8").split("\n")
    job = {
        "model": str(root.resolve()),
        "pipeline": str(made / "pipeline"),
        "made": str(made),
        "prompts": [line for line in prompts if line],
        "guidance": meta["sampling"]["guidance"],
        "size": meta["image_shape"][-1],
        "scheduler": config,
        "null": {name: (field.null, field.dtype) for name, field in spec.fields.items() if name != TEXT},
        "seed": SEED,
    }
    start, scale = float(sigmas[0]), spec.initial_scale
    end = scale(sigmas[-1]) if sigmas[-1] > 0 else 1.0
    job["fused"] = _fused(root, place, Plan("euler", (tuple(sigmas),), job["guidance"], "denoiser", scale(start), end))
    return _written(place, job, steps, batches, {"noise": noise, "sigmas": np.array(sigmas)})


def counterfactual(root: Path, place: Path, made: Path, steps: int, batches: list[int]) -> Path:
    """Healthy slices of the sample scan, from the middle of the head outwards."""
    from domains import brain_mri
    from toolkit.example import Annotation
    from toolkit.formats import nifti

    model_meta = read_meta(root)
    study = brain_mri.preprocess(nifti.load(next((root / "sample").glob("*.nii.gz"))))
    middle = (len(study.index) - max(batches)) // 2
    rows = slice(middle, middle + max(batches))
    fields = spec_of(model_meta).fields
    annotations = [Annotation(labels={"position": float(p)}) for p in study.position[rows]]
    cond = brain_mri.condition(annotations, fields, brain_mri.VOCABULARY)
    target = np.zeros((len(annotations), len(brain_mri.CLASSES)), np.float32)
    target[:, brain_mri.CLASSES.index("healthy")] = 1
    # As the schedulers of diffusers and MONAI take them: every n-th of 1000 steps, those up to REACH.
    of = round(steps / REACH)
    if 1000 % of:
        raise SystemExit(f"{steps} steps up to strength {REACH} do not divide 1000 evenly; take 10, 20 or 25.")
    timesteps = [n * (1000 // of) for n in reversed(range(steps))]
    sigmas = [schedule.LINEAR.sigmas[t] for t in timesteps] + [0.0]
    job = {
        "model": str(root.resolve()),
        "made": str(made),
        "of": of,
        "timesteps": timesteps,
        "guidance": GRADIENT,
        "fields": list(cond),
    }
    maps = MapSettings()
    healing = Healing(brain_mri.TARGET, False, "denoiser", maps.smooth * brain_mri.SIZE / 256, symmetry=maps.symmetry)
    job["fused"] = _fused(
        root, place, Plan("euler", (tuple(sigmas),), 0.0, classifier_guidance=GRADIENT, healing=healing)
    )
    return _written(
        place, job, steps, batches, {"images": study.images[rows], "target": target, "sigmas": np.array(sigmas), **cond}
    )


def _fused(root: Path, place: Path, plan: Plan) -> str:
    """A copy of the model folder with this run as one graph, or the reason why there is none."""
    copy = place / "fused"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("training"))
    try:
        sampler.write(copy, "sampler", plan)
    except Error as problem:
        return f"none: {problem}"
    return str(copy)


def _written(place: Path, job: dict[str, Any], steps: int, batches: list[int], arrays: dict[str, np.ndarray]) -> Path:
    np.savez(place / "inputs.npz", **arrays)  # type: ignore[arg-type]
    job |= {"steps": steps, "batches": batches, "inputs": str(place / "inputs.npz")}
    path = place / "job.json"
    path.write_text(json.dumps(job, indent=1), encoding="utf-8")
    return path
