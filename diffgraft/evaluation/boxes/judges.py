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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft.models.folder import domain
from domains import detection
from toolkit.data import dataset, labels
from toolkit.diffusion.model import OBJECTS
from toolkit.evaluation.detection import Detections, decode
from toolkit.evaluation.split import seen
from toolkit.example import Boxes, Error, Example, Note
from toolkit.objects import boxes as layout
from toolkit.settings import Augmentation, Training

__all__ = ["NETWORK", "SETTINGS", "Made", "Pictures", "findings", "made", "pictures", "with_boxes"]

NETWORK, SETTINGS = detection.PRESETS["detector"]["small"]
SETTINGS = dataclasses.replace(SETTINGS, steps=400, checkpoint_every=100)

SEED = 1000
"""Added to the seeds of judges, so that none has the first weights of a model's own detector."""

BATCH = 32


@dataclass(frozen=True)
class Pictures:
    """REAL with its split: pictures with boxes. names: of the classes; own: to train on, test: of the fold held out.

    left: how many pictures have no annotation at all, and so take no part.
    """

    root: Path
    domain: ModuleType
    names: tuple[str, ...]
    fold: int
    own: Sequence[Example]
    test: Sequence[Example]
    left: int = 0

    @property
    def augmentation(self) -> Augmentation:
        return getattr(self.domain, "STRONGER", self.domain.AUGMENTATION)


@dataclass(frozen=True)
class Made:
    """One folder of generated images, each with the layout that it was asked to show. facts: in words."""

    name: str
    root: Path
    examples: Sequence[Example]
    facts: str


def with_boxes(root: Path) -> bool:
    """Whether a data set is one whose model is told layouts."""
    if not (root / "dataset.json").is_file():
        return False
    facts = dataset.info(root)
    field = domain(facts.get("domain", ""))
    return OBJECTS in field.fields(labels.of(facts, field))


def pictures(root: Path, fold: int | None) -> Pictures:
    """REAL. fold None: the one that its domain keeps back.

    Errors: synthetic samples, no picture with boxes in the fold or outside of it, pictures of several sizes.
    """
    facts = dataset.info(root)
    field = domain(facts.get("domain", ""))
    names = labels.of(facts, field).get(field.TARGET, ())
    fold = getattr(field, "FOLD", 0) if fold is None else fold
    if fold not in range(dataset.FOLDS):
        raise Error(f"A fold is a number from 0 to {dataset.FOLDS - 1}; found {fold}. Give one of these.")
    every = list(dataset.read(root))
    if synthetic := [e.id for e in every if e.provenance is not None]:
        raise Error(
            f"REAL holds real samples only; {root} has {len(synthetic)} made ones, such as {synthetic[0]}. Leave them out."
        )
    known = [e for e in every if e.annotation.boxes is not None]
    if len({e.image.shape for e in known}) > 1:
        raise Error(
            f"Pictures to train on have one size; {root} has several. Prepare it: diffgraft prepare ... --size WxH"
        )
    own = [e for e in known if dataset.fold_of(e.group) != fold]
    test = [e for e in known if dataset.fold_of(e.group) == fold]
    if not any(e.annotation.boxes.names for e in own) or not any(e.annotation.boxes.names for e in test):  # type: ignore[union-attr]
        raise Error(
            f"A test needs pictures with boxes in fold {fold}, and others; {root} lacks them. Take another --fold."
        )
    return Pictures(root, field, tuple(names), fold, own, test, len(every) - len(known))  # type: ignore[arg-type]


def made(name: str, root: Path, real: Pictures) -> Made:
    """One folder of generated images. Errors: a real one among them, other sizes or classes than REAL's, no layout."""
    facts, every = dataset.info(root), list(dataset.read(root))
    if genuine := [e.id for e in every if e.provenance is None]:
        raise Error(
            f"FAKE holds synthetic samples only; {root} has {len(genuine)} without provenance, such as {genuine[0]}. "
            "Leave the real ones out."
        )
    if bare := [e.id for e in every if e.annotation.boxes is None]:
        raise Error(f"A generated image has the layout that it was asked to show; '{bare[0]}' of {root} has none.")
    shape = real.own[0].image.shape
    if wrong := [e for e in every if e.image.shape != shape]:
        raise Error(
            f"REAL and FAKE share one shape, {shape}; {root} has {wrong[0].image.shape}. Generate at that size."
        )
    asked = {name for e in every for name in _boxes(e).names}
    if unknown := sorted(asked - set(real.names)):
        raise Error(f"A layout has the classes of REAL, {', '.join(real.names)}; {root} has '{unknown[0]}'.")
    known = facts.get("trained_on")
    saw = "not stated" if known is None else f"{len(seen(real.test, known))} of the {len(real.test)} held-out pictures"
    boxes = sum(len(_boxes(e).names) for e in every)
    return Made(name, root, every, f"{len(every)} images, {boxes} boxes; its generator was trained on {saw}")


def findings(
    real: Pictures, sets: Mapping[str, Sequence[Example]], seeds: int, settings: Training, cache: Path | None,
    watch: Callable[[str, int, int], object] = lambda *_: None,
) -> list[dict[str, list[Detections]]]:  # fmt: skip
    """One judge a seed: what it finds in the images of every set. cache: None trains anew and keeps nothing."""
    import torch

    images = {name: torch.from_numpy(np.stack([e.image for e in examples])) for name, examples in sets.items()}
    found = []
    for seed in range(seeds):
        own = dataclasses.replace(settings, seed=SEED + seed, fold=real.fold)
        judge = _trained(real, own, cache, lambda at, of, seed=seed: watch(f"judge {seed}", seed * of + at, seeds * of))
        found.append({name: _found(judge, each) for name, each in images.items()})
    return found


def _trained(real: Pictures, settings: Training, cache: Path | None, watch: Callable[[int, int], object]) -> Any:
    """A detector of REAL's own pictures, the average of its weights, ready to evaluate."""
    import torch

    from toolkit.diffusion.model import Spec
    from toolkit.networks.detector import Detector
    from toolkit.training.detecting import detecting
    from toolkit.training.loader import Batch
    from toolkit.training.loop import fit

    shape = real.own[0].image.shape
    own = _fitting(real.own)
    told = layout.arrays([e.annotation for e in own], real.names)
    samples = Batch(
        torch.from_numpy(np.stack([e.image for e in own])),
        {name: torch.from_numpy(values) for name, values in told.items()},
        torch.zeros(len(own), dtype=torch.long),  # of one kind: each is drawn as often
    )
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(settings.seed)
        module = Detector(NETWORK, shape, len(real.names))
        place = Path(scratch) if cache is None else cache / "judges" / _key(real, settings)
        nothing = samples[torch.zeros(0, dtype=torch.long)]
        average = fit(
            module, detecting, samples, nothing, Spec(shape, layout.fields(real.names)), settings, real.augmentation, place,
            lambda at, of, _: watch(at, of),
        )  # fmt: skip
    module.load_state_dict(average)
    return module.eval()


def _found(judge: Any, images: Any) -> list[Detections]:
    import torch

    where, found = next(judge.parameters()).device, []
    with torch.inference_mode():
        for part in images.split(BATCH):
            found += decode({name: value.cpu().numpy() for name, value in judge(part.to(where)).items()})
    return found


def _fitting(examples: Sequence[Example]) -> list[Example]:
    """Those with no more boxes than a network is told of."""
    kept = [e for e in examples if len(_boxes(e).names) <= layout.MOST]
    if len(kept) < len(examples):
        line = f"{len(examples) - len(kept)} pictures with more than {layout.MOST} boxes are not trained on."
        warnings.warn(line, Note, stacklevel=2)
    return kept


def _boxes(example: Example) -> Boxes:
    assert example.annotation.boxes is not None
    return example.annotation.boxes


def _key(real: Pictures, settings: Training) -> str:
    """A name for one training: what it depends on, hashed."""
    digest = hashlib.sha256()
    plan = [dataclasses.asdict(each) for each in (NETWORK, settings, real.augmentation)]
    digest.update(json.dumps([plan, real.names]).encode())
    for example in real.own:
        digest.update(np.ascontiguousarray(example.image).tobytes())
        digest.update(json.dumps([_boxes(example).corners.tolist(), _boxes(example).names]).encode())
    return digest.hexdigest()[:24]
