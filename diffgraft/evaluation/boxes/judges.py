"""Judges of layouts: detectors trained from nothing on real pictures alone, and what they find in any others.

No judge is the detector of a model folder: that one decides which generated images are kept, and what chooses its images
would judge its own choice. Judges are trained by the same loop as every part, each in a folder of its own under the user's
cache folder, so that a run that was stopped goes on, and one with the same pictures and settings does not train again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft.evaluation.data import Real, boxes_of, stack_images
from diffgraft.evaluation.experiment import Step
from domains import detection
from toolkit.evaluation.detection.metrics import Detections, decode
from toolkit.example import Example, Note
from toolkit.objects import boxes as layout
from toolkit.settings import Training

__all__ = ["NETWORK", "SEED", "SETTINGS", "judge"]

NETWORK, SETTINGS = detection.PRESETS["detector"]["small"]
SETTINGS = dataclasses.replace(SETTINGS, steps=400, warmup=40, checkpoint_every=100)

SEED = 1000
"""Added to the seeds of judges, so that none has the first weights of a model's own detector."""

BATCH = 32


def judge(
    real: Real, sets: Mapping[str, Sequence[Example]], settings: Training, steps: Sequence[Step], cache: Path | None
) -> list[dict[str, list[Detections]]]:
    """What each judge finds in the images of every set. steps: what follows the training of each, one a seed.

    cache: None trains anew and keeps nothing.
    """
    import torch

    images = {name: torch.from_numpy(stack_images(examples)) for name, examples in sets.items()}
    found = []
    for seed, step in enumerate(steps):
        detector = _train(real, dataclasses.replace(settings, seed=SEED + seed, fold=real.fold), cache, step)
        found.append({name: _detect(detector, each) for name, each in images.items()})
    return found


def _train(real: Real, settings: Training, cache: Path | None, step: Step) -> Any:
    """A detector of REAL's training pictures, the average of its weights, ready to evaluate."""
    import torch

    from toolkit.diffusion.model import Spec
    from toolkit.networks.detector import Detector
    from toolkit.training.detecting import detection_loss
    from toolkit.training.loader import Batch
    from toolkit.training.loop import Samples, fit

    shape, own = real.examples[0].image.shape, _fitting(real.training())
    cond = layout.to_arrays([e.annotation for e in own], real.names)
    samples = Batch(
        torch.from_numpy(stack_images(own)),
        {name: torch.from_numpy(values) for name, values in cond.items()},
        torch.zeros(len(own), dtype=torch.long),  # of one kind: each is drawn as often
    )

    def watch(at: int, of: int, loss: float) -> None:
        step(at, of)

    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(settings.seed)
        module = Detector(NETWORK, shape, len(real.names))
        place = Path(scratch) if cache is None else cache / "judges" / _key(real, settings)
        nothing = samples[torch.zeros(0, dtype=torch.long)]
        data, spec = Samples(samples, nothing, real.detector_augmentation), Spec(shape, layout.fields(real.names))
        average = fit(module, detection_loss, data, spec, settings, place, watch)
    module.load_state_dict(average)
    return module.eval()


def _detect(detector: Any, images: Any) -> list[Detections]:
    import torch

    where, found = next(detector.parameters()).device, []
    with torch.inference_mode():
        for part in images.split(BATCH):
            found += decode({name: value.cpu().numpy() for name, value in detector(part.to(where)).items()})
    return found


def _fitting(examples: Sequence[Example]) -> list[Example]:
    """Those with no more boxes than a network is trained on."""
    kept = [e for e in examples if len(boxes_of(e).names) <= layout.MOST]
    if len(kept) < len(examples):
        line = f"{len(examples) - len(kept)} pictures with more than {layout.MOST} boxes are not trained on."
        warnings.warn(line, Note, stacklevel=2)
    return kept


def _key(real: Real, settings: Training) -> str:
    """A name for one training: what it depends on, hashed."""
    digest = hashlib.sha256()
    plan = [dataclasses.asdict(each) for each in (NETWORK, settings, real.detector_augmentation)]
    digest.update(json.dumps([plan, real.names]).encode())
    for example in real.training():
        digest.update(np.ascontiguousarray(example.image).tobytes())
        digest.update(json.dumps([boxes_of(example).corners.tolist(), boxes_of(example).names]).encode())
    return digest.hexdigest()[:24]
