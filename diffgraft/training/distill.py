"""A few-step student of a model, learned from the model's own guided paths; running the same command again continues it.

The student becomes a part of a copy of the model: low-rank changes of the denoiser, the levels it was made for and what
guidance it has folded in. Everything else of the model stays as it is, and the teacher remains in it.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from diffgraft import models, reporting
from diffgraft.generation import sampling
from diffgraft.models.defaults import default
from diffgraft.training import report as training_report
from diffgraft.training.teacher_paths import BATCH, Walk, changing, generating, levels_of, seen
from toolkit.data import dataset
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.methods.counterfactual import check
from toolkit.models.folder import as_json, hashed, read_meta, spec_of, trained_on
from toolkit.networks import folder
from toolkit.networks.student import own, whole
from toolkit.settings import Augmentation, Distillation, Training
from toolkit.training.distilling import ANSWER, OBJECTIVES, SIGMA, distillation, leaps
from toolkit.training.loader import Batch, joined
from toolkit.training.loop import fit

__all__ = ["TRAINING", "distill"]

TRAINING = Training(steps=3000, batch=32, learning_rate=1e-3, weight_decay=0.0, ema=0.998, checkpoint_every=250)
"""How a student is trained."""

HELD_OUT = 0.06
"""Part of the paths that is kept back, to see how well the student does on new ones."""

SAMPLERS = {"leap": "euler", "consistency": "consistency"}
"""Objective -> what a student of it is sampled with."""

Watch = Callable[[str, int, int], None]


def distill(
    root: Path,
    out: Path,
    settings: Distillation | None = None,
    *,
    guidance: float | None = None,
    classifier_guidance: float | None = None,
    like: Path | None = None,
    backend: str = "auto",
    watch: Watch = lambda *_: None,
    **changes: object,
) -> dict[str, Any]:
    """Make `out` a copy of the model `root` with a student; returns the facts of the run.

    guidance, classifier_guidance: what is folded in, the model's own defaults where None. like: a data set to ask for
    what it shows; a model whose scans are changed needs it, the others compose what to ask for. changes: of TRAINING.
    watch(label, done, of). Errors: a model with a student of other settings in `out`, settings that make no sense.
    """
    begun, settings = time.monotonic(), settings or Distillation()
    training = dataclasses.replace(TRAINING, **{k: v for k, v in changes.items() if v is not None})
    domain = models.domain_of(root)
    _check(settings, domain, like)
    _copied(root, out)
    meta = read_meta(root)
    place = out / "training" / "student"
    model = models.open(root, backend)
    folded, plan, walks = _of_domain(model, domain, settings, like, guidance, classifier_guidance)
    plan |= {
        "network": meta["parts"]["denoiser"]["network"], "rank": settings.rank, "guidance": folded.guidance,
        "steps": settings.steps, "sampler": SAMPLERS[settings.objective], "distillation": settings, "training": training,
    }  # fmt: skip
    plain = as_json(meta | {"parts": meta["parts"] | {"student": plan}})
    paths = _written(place, walks, -(-settings.paths // BATCH), settings, folded, model.fingerprint, watch)
    samples, held_out = _batches(paths, OBJECTIVES[settings.objective])
    torch.manual_seed(settings.seed)
    module = folder.build("student", plain)
    teacher = folder.load_part(root, "denoiser").state_dict()
    module.load_state_dict(_under(module, teacher))
    average = fit(
        module, distillation, samples, held_out, spec_of(plain), training, Augmentation(), place,
        lambda done, of, loss: watch(f"student loss {loss:.4f}", done, of),
    )  # fmt: skip
    learned = own(module, average)
    facts = {
        "samples": settings.paths, "groups": settings.paths, "held_out_groups": [], "trained_on": _new(model, like),
        "parameters": sum(v.numel() for v in learned.values()), "seconds": round(time.monotonic() - begun),
        "teacher": model.fingerprint[:16],
    }  # fmt: skip
    errors = _errors(folder.as_saved("student", plain, average), held_out)
    facts["error"] = {f"{sigma:.3g}": round(value, 4) for sigma, value in errors.items()}
    plain["parts"]["student"] |= {"run": facts}
    folder.save_part(out, "student", learned, plain)
    rows = [[f"{sigma:.3g}", value] for sigma, value in errors.items()]
    table = reporting.Table(["sigma", "error of the answer, in standard deviations of it"], rows, "On paths kept back")
    training_report.write(place, "student", facts, [table], plain["parts"]["student"], training, domain.NOTICE)
    return facts


def _of_domain(
    model: Model, domain: ModuleType, settings: Distillation, like: Path | None, guidance: float | None,
    classifier_guidance: float | None,
) -> tuple[Any, dict[str, Any], Iterable[Callable[[], list[Walk]]]]:  # fmt: skip
    """What is folded in, how the student is to be asked, and the teacher's walks: of scans up and down, else from noise."""
    if not hasattr(domain, "QUALITY"):
        usual = dataclasses.replace(default(model.meta, student=False), **_given(guidance=guidance))
        levels = levels_of(settings.steps, sampling.highest(model), sampling.sigmas(model, usual)[-2])
        walks = generating(model, domain, usual, levels, settings.fine, settings.paths, settings.seed, like)
        return usual, {"levels": levels}, walks
    asked = _given(guidance=guidance, classifier_guidance=classifier_guidance)
    quality = dataclasses.replace(domain.QUALITY["default"], steps=settings.steps, **asked)
    check(quality)
    plan = {name: getattr(quality, name) for name in ("strengths", "classifier_guidance", "guidance_low")}
    walks = changing(model, domain, quality, settings.fine, settings.paths, settings.seed, like or "")
    return quality, plan, walks


def _check(settings: Distillation, domain: ModuleType, like: Path | None) -> None:
    if settings.objective not in OBJECTIVES:
        raise Error(f"An objective is one of {', '.join(OBJECTIVES)}; found '{settings.objective}'.")
    lowest = {"steps": 1, "fine": 1, "paths": 32, "rank": 1}
    for name, least in lowest.items():
        if getattr(settings, name) < least:
            raise Error(f"The setting {name} is {least} or more; found {getattr(settings, name)}.")
    if hasattr(domain, "QUALITY"):
        if settings.objective != "leap":
            raise Error("Encoding a scan is deterministic, and so is its student: leave --objective consistency out.")
        if like is None:
            raise Error(
                "A model that changes scans learns from its ways up and down for real ones. Name them: --like DATA"
            )


def _copied(root: Path, out: Path) -> None:
    """A copy of the model without graphs and trainings; one that is there is gone on with."""
    if not (out / "model.json").is_file():
        if out.exists() and any(out.iterdir()):
            raise Error(f"A student goes into a new folder; {out} is there and is no model. Name another.")
        with dataset.staged(out, True, (), (root,)) as fresh:
            for path in Path(root).iterdir():
                if (
                    path.is_file()
                    and path.suffix != ".onnx"
                    and path.name not in ("exports.json", "student.safetensors")
                ):
                    shutil.copyfile(path, fresh / path.name)
    ours, theirs = (
        {name: plan for name, plan in read_meta(place)["parts"].items() if name != "student"} for place in (out, root)
    )
    if ours != theirs:
        raise Error(f"The model in {out} is another than {root}. Name a new folder.")


def _written(
    place: Path, walks: Iterable[Callable[[], list[Walk]]], of: int, settings: Distillation, folded: Any, model: str,
    watch: Watch,
) -> list[tuple[list[torch.Tensor], list[float], dict[str, torch.Tensor]]]:  # fmt: skip
    """The walks, each written down once; those that are there are read."""
    ours = str((dataclasses.asdict(settings), dataclasses.asdict(folded), model))
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for number, walk in enumerate(walks, 1):
        path = place / f"paths-{number:04d}.safetensors"
        if path.is_file():
            tensors = load_file(path)
            if bytes(tensors["settings"].tolist()).decode() != ours:
                raise Error(f"{place} has paths of other settings. Name a new folder, or remove that one.")
        else:
            tensors = _tensors(walk()) | {"settings": torch.tensor(list(ours.encode()), dtype=torch.uint8)}
            save_file(tensors, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        found += _walks(tensors)
        watch("teacher's paths", number, of)
    return found


def _tensors(walks: list[Walk]) -> dict[str, torch.Tensor]:
    named = {}
    for n, walk in enumerate(walks):
        named[f"{n}.levels"] = torch.tensor(walk.levels, dtype=torch.float64)
        named |= {f"{n}.state.{i}": torch.from_numpy(np.array(s)) for i, s in enumerate(walk.states)}
        named |= {f"{n}.cond.{k}": torch.from_numpy(np.array(v)) for k, v in walk.cond.items()}
    return named


def _walks(
    tensors: Mapping[str, torch.Tensor],
) -> list[tuple[list[torch.Tensor], list[float], dict[str, torch.Tensor]]]:
    found = []
    for n in range(sum(name.endswith(".levels") for name in tensors)):
        levels = tensors[f"{n}.levels"].tolist()
        states = [tensors[f"{n}.state.{i}"] for i in range(len(levels))]
        cond = {k.removeprefix(f"{n}.cond."): v for k, v in tensors.items() if k.startswith(f"{n}.cond.")}
        found.append((states, levels, cond))
    return found


def _batches(paths: list, objective: Callable) -> tuple[Batch, Batch]:
    """What is learned from, and what is kept back: the last paths."""
    rows = [leaps(objective, states, levels, cond) for states, levels, cond in paths]
    kinds = {tuple(levels): n for n, levels in enumerate(dict.fromkeys(tuple(levels) for _, levels, _ in paths))}
    most = 1 + max(int(batch.target.max()) for batch in rows)
    rows = [
        dataclasses.replace(batch, target=batch.target + most * kinds[tuple(levels)])
        for batch, (_, levels, _) in zip(rows, paths, strict=True)
    ]  # fmt: skip
    back = max(len(kinds), round(HELD_OUT * len(rows)) // len(kinds) * len(kinds))
    return joined(rows[:-back]), joined(rows[-back:])


def _under(module: torch.nn.Module, teacher: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a fresh student of a teacher."""
    fresh = module.state_dict()
    return whole(teacher, {k: v for k, v in fresh.items() if ".parametrizations." in k and not k.endswith(".original")})


@torch.no_grad()
def _errors(module: torch.nn.Module, batch: Batch) -> dict[float, float]:
    """Root mean square error of the answers at each level, in standard deviations of the answers there."""
    found = {}
    for sigma in sorted(set(batch.cond[SIGMA].tolist()), reverse=True):
        rows = batch[torch.nonzero(batch.cond[SIGMA] == sigma)[:64, 0]]
        told = dict(rows.cond)
        level, answer = told.pop(SIGMA), told.pop(ANSWER)
        error = module(rows.image, level, **told) - answer
        found[sigma] = float((error**2).mean().sqrt() / answer.std())
    return found


def _new(model: Model, like: Path | None) -> list[str]:
    """Hashes of the samples that paths were begun from and that the teacher had not seen itself."""
    theirs = trained_on(model.meta, ("denoiser",)) or set()
    return [] if like is None else sorted({hashed(e.id) for e in seen(model, like)} - theirs)


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
