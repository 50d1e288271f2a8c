"""Healthy counterfactuals and anomaly maps of one scan or a folder of them, on the grid of each scan.

Scans are NIfTI files or DICOM MR series. Outputs are NIfTI files, and of a series DICOM objects of the same study too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffgraft import __version__, models, reporting
from diffgraft.counterfactuals.scans import DICOM, Scan, find, load, write_dicom
from toolkit.data import dataset
from toolkit.diffusion.model import Model
from toolkit.diffusion.schedule import strength_to_sigma
from toolkit.example import Error, Provenance
from toolkit.formats import nifti
from toolkit.methods.anomaly_map import MapSettings
from toolkit.methods.counterfactual import check, evaluations
from toolkit.settings import Counterfactual

__all__ = ["Outcome", "Plan", "by_student", "counterfactual", "plan"]

SHOWN = 3
"""Scans shown in the run's own report; a larger run gets one viewer page a scan beside it."""


@dataclass(frozen=True)
class Plan:
    """Everything a run resolved before it began; printed, saved and enough to run it again."""

    model: str
    backend: str
    fingerprint: str
    target: str
    counterfactual: Counterfactual
    maps: MapSettings
    threshold: float
    threshold_origin: str
    sigmas: tuple[float, ...]
    classifier_auroc: float | None
    novelty_limit: float | None


@dataclass(frozen=True)
class Outcome:
    """What became of one scan: numbers of its map, or the reason why it was put aside."""

    label: str
    source: str
    group: str
    seconds: float = 0.0
    refused: str = ""
    most_abnormal: float = 0.0
    volume_ml: float = 0.0
    suspicious_slices: int = 0
    slices: int = 0
    novelty: float = 0.0
    notes: tuple[str, ...] = ()


def by_student(preset: Counterfactual, plan: Mapping[str, Any]) -> Counterfactual:
    """A preset as the few-step student does it: with what it has folded in, the ensemble as it was."""
    strengths = tuple(s for s in plan["strengths"] if s in preset.strengths) or tuple(plan["strengths"])
    return dataclasses.replace(
        preset, strengths=strengths, steps=plan["steps"], sampler=plan["sampler"], guidance=plan["guidance"],
        classifier_guidance=plan["classifier_guidance"], guidance_low=plan["guidance_low"], student=True,
    )  # fmt: skip


def plan(
    model: Model, path: str, domain: ModuleType, target: str, settings: Counterfactual, threshold: float | None
) -> Plan:
    """Resolve a run. Errors: a target the domain does not know, settings out of range, a classifier too weak to guide."""
    _refuse_what_cannot_be(domain, target, settings, threshold)
    own = model.meta.get("calibration", {})
    auroc = own.get("classifier_auroc")
    if settings.classifier_guidance > 0 and (auroc is None or auroc < domain.WEAKEST_CLASSIFIER):
        raise Error(
            f"Classifier guidance needs a classifier with a slice AUROC of {domain.WEAKEST_CLASSIFIER} or more on patients "
            f"it has not seen; this one's is {auroc}. Train a better one, or use --classifier-guidance 0."
        )
    maps = MapSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in own.get("maps", {}).items()})
    return Plan(
        model=path,
        backend=model.backend,
        fingerprint=model.fingerprint[:16],
        target=target,
        counterfactual=settings,
        maps=maps,
        threshold=float(own.get("threshold", 0.1) if threshold is None else threshold),
        threshold_origin=own.get("threshold_origin", "not calibrated") if threshold is None else "given by the user",
        sigmas=tuple(round(strength_to_sigma(s), 3) for s in settings.strengths),
        classifier_auroc=auroc,
        novelty_limit=own.get("novelty_limit"),
    )


def counterfactual(
    model_path: str | Path,
    scans: str | Path,
    out: str | Path,
    target: str = "healthy",
    settings: Counterfactual | None = None,
    *,
    backend: str = "auto",
    threshold: float | None = None,
    nan: str = "refuse",
    force: bool = False,
    overwrite: bool = False,
    command: str = "",
    announce: Callable[[Plan, list[Scan]], None] = lambda *_: None,
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Outcome]:
    """Write counterfactual, anomaly map and thresholded mask of every scan to a new folder, with a report.

    watch(label, done, of) is called once an evaluation. A scan that is refused in a folder is put aside with its
    reason (quarantine.jsonl) and the rest goes on; a single scan that is refused is an Error, and so is a folder of
    which nothing is left. force: treat scans that the input gate would refuse. Of a DICOM series, out/dicom/<label>/ has
    the counterfactual as MR images, the map as Parametric Map and the mask as Segmentation.
    """
    domain = models.domain_of(model_path)
    settings = settings or domain.QUALITY["default"]
    _refuse_what_cannot_be(domain, target, settings, threshold)  # before the model is opened, which takes seconds
    aside: list[dict[str, str]] = []
    found = find(scans, domain.CONTRAST, lambda name, reason: aside.append({"source": name, "reason": reason}))
    begun = time.monotonic()
    outcomes: list[Outcome] = []
    shown: list[reporting.Section] = []
    signs = ("manifest.jsonl", "report.html")
    with dataset.staged(out, overwrite, signs, (scans, model_path)) as folder:
        model = models.open(model_path, backend)
        resolved = plan(model, str(model_path), domain, target, settings, threshold)
        announce(resolved, found)
        for scan in found:
            try:
                outcome, volume = _treat(scan, folder, model, domain, resolved, nan, force, watch, len(found) > SHOWN)
                shown.extend([reporting.Section(f"sub-{scan.label}", [volume])] if len(shown) < SHOWN else [])
            except Error as problem:
                if len(found) == 1:
                    raise
                outcome = Outcome(scan.label, scan.name, scan.group, refused=str(problem))
            outcomes.append(outcome)
        kept = [o for o in outcomes if not o.refused]
        if not kept:
            raise Error(f"At least one scan must pass; all {len(found)} were refused. The first: {outcomes[0].refused}")
        _lines(folder / "manifest.jsonl", [_manifest_line(o, resolved) for o in kept])
        aside += [{"source": o.source, "reason": o.refused} for o in outcomes if o.refused]
        if aside:
            _lines(folder / "quarantine.jsonl", aside)
        nifti.dataset_description(folder, __version__, [scans])
        run = reporting.Run(
            command=command, settings=dataclasses.asdict(resolved), seed=settings.seed, seconds=time.monotonic() - begun
        )
        sections = [reporting.Section("Scans", [_table(outcomes, len(found) > SHOWN)])]
        sections += shown
        _write_report(folder / "report.html", f"{len(kept)} of {len(found)} scans", sections, run)
    return outcomes


def _treat(
    scan: Scan, folder: Path, model: Model, domain: ModuleType, resolved: Plan, nan: Any, force: bool,
    watch: Callable[[str, int, int], None], own_page: bool,
) -> tuple[Outcome, reporting.Volume]:  # fmt: skip
    begun = time.monotonic()
    source, series = load(scan, nan)
    case = domain.study(source)
    unlike = domain.novelty(model, case)
    notes = list(source.notes)
    doubts = domain.doubts(model, case)
    if resolved.novelty_limit is not None and unlike > resolved.novelty_limit:
        doubts.append(f"it has a novelty of {unlike:.2f}, the limit is {resolved.novelty_limit:.2f}")
    if doubts:
        words = (
            f"Scans must look like those the model was trained on ({domain.CONTRAST}, axial, whole head), and "
            f"{scan.name} does not: {'; '.join(doubts)}."
        )
        if not force:
            raise Error(f"{words} Check contrast and orientation, or add --force to treat it all the same.")
        notes.append(f"{words} Treated because --force was given.")
    gate = 0 if model.classifier is None else 2 * resolved.maps.gate_draws * len(resolved.maps.gate_sigmas)
    rounds = gate + evaluations(resolved.counterfactual)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        watch(scan.label, done, rounds)

    finding = domain.explain(model, case, resolved.counterfactual, resolved.maps, domain.ask(resolved.target), step)
    mask = finding.anomaly >= resolved.threshold
    provenance = _provenance(scan, resolved)
    made = {"healthycf": finding.counterfactual, "anomaly": finding.anomaly, "mask": mask}
    on_grid = {
        name: nifti.restore(np.ascontiguousarray(stack), source.affine, source.array.shape)
        for name, stack in made.items()
    }
    if series is not None:
        write_dicom(folder / DICOM / scan.label, series, *on_grid.values(), provenance)
    _save(folder, scan, source, on_grid, finding.probability, resolved, unlike)
    volume_ml = float(mask.sum()) * float(np.prod(case.spacing)) / 1000
    outcome = Outcome(
        label=scan.label,
        source=scan.name,
        group=scan.group,
        seconds=time.monotonic() - begun,
        most_abnormal=float(finding.anomaly.max()),
        volume_ml=volume_ml,
        suspicious_slices=int(mask.any((1, 2)).sum()),
        slices=len(case.stack),
        novelty=unlike,
        notes=tuple(notes),
    )
    viewer = reporting.Volume(
        title=f"{len(case.stack)} axial slices",
        image=case.stack,
        counterfactual=finding.counterfactual,
        anomaly=finding.anomaly,
        vmax=max(3 * resolved.threshold, 1e-6),
        spacing=case.spacing,
        threshold=resolved.threshold,
        mask=mask,
        head=case.head,
        scores=finding.probability,
        score_name="probability of a lesion in the slice (classifier)",
        score_max=1.0,
        note=" ".join(notes),
    )
    if own_page:
        run = reporting.Run(
            settings=dataclasses.asdict(resolved), seconds=outcome.seconds, seed=resolved.counterfactual.seed
        )
        _write_report(
            folder / f"sub-{scan.label}_report.html",
            f"sub-{scan.label}",
            [reporting.Section(f"sub-{scan.label}", [viewer])],
            run,
        )
    return outcome, viewer


def _provenance(scan: Scan, resolved: Plan) -> Provenance:
    """Everything that the outputs of a scan depend on."""
    settings = dataclasses.asdict(resolved.counterfactual) | {
        "target": resolved.target, "threshold": resolved.threshold, "maps": dataclasses.asdict(resolved.maps),
    }  # fmt: skip
    seed = resolved.counterfactual.seed
    return Provenance("edited", resolved.fingerprint, "counterfactual", seed, settings, scan.name)


def _save(
    folder: Path, scan: Scan, source: nifti.Volume, made: dict[str, np.ndarray], probability: np.ndarray,
    resolved: Plan, unlike: float,
) -> None:  # fmt: skip
    """The NIfTI files of a scan. made: (X, Y, Z) on the grid of the source, by the last word of their names."""
    suffix = source.contrast if source.contrast != "unknown" else "FLAIR"
    stem = f"sub-{scan.label}_desc-"
    common = {
        "Sources": [scan.name],
        "GeneratedBy": {"Name": "diffgraft", "Version": __version__},
        "Synthetic": True,
        "Notice": reporting.RESEARCH_USE,
        "Model": {"Path": resolved.model, "SHA256": resolved.fingerprint, "Backend": resolved.backend},
        "Settings": dataclasses.asdict(resolved.counterfactual) | {"target": resolved.target},
        "PostProcessing": dataclasses.asdict(resolved.maps),
        "Novelty": {"Value": unlike, "Limit": resolved.novelty_limit},
        "Notes": list(source.notes),
    }
    files = {
        f"{stem}healthycf_{suffix}": (made["healthycf"], "intensity", {
            "Description": "AI counterfactual, NOT ACQUIRED: the scan as the model expects it without a lesion. The change "
            "was made at the model's resolution, weighted by the slice's probability of a lesion, and subtracted from the "
            "scan; outside the head and at its rim the scan is untouched.",
            "Units": "arbitrary, those of the source",
        }),
        f"{stem}anomaly_{suffix}": (made["anomaly"], "map", {
            "Description": "Anomaly map: smoothed positive difference between the scan and its counterfactual in window "
            "units, less a share of that of the mirror image, times the weight of the head's rim and the slice's "
            "probability of a lesion. One scale for all scans.",
            "Units": "fraction of half the intensity window",
            "SliceProbability": [round(float(p), 4) for p in probability],
            "SliceOrder": "inferior to superior",
        }),
        f"{stem}anomaly_mask": (made["mask"], "mask", {
            "Description": "Anomaly map at or above the threshold",
            "Units": "1 above the threshold",
            "Threshold": resolved.threshold,
            "ThresholdOrigin": resolved.threshold_origin,
        }),
    }  # fmt: skip
    for name, (array, kind, own) in files.items():
        path = folder / f"{name}.nii.gz"
        nifti.save(path, array, source, kind)
        nifti.sidecar(path, **own, **common)


def _refuse_what_cannot_be(domain: ModuleType, target: str, settings: Counterfactual, threshold: float | None) -> None:
    domain.ask(target)
    check(settings)
    if threshold is not None and not 0 < threshold < math.inf:
        raise Error(f"A threshold of the map is a number above 0; found {threshold}. Leave it out for the model's own.")


def _table(outcomes: list[Outcome], pages: bool) -> reporting.Table:
    rows = [
        [o.label, "refused: " + o.refused, "", "", "", ""] if o.refused else
        [o.label, "see sub-" + o.label + "_report.html" if pages else "shown below", f"{o.most_abnormal:.3f}",
         f"{o.volume_ml:.1f}", f"{o.suspicious_slices} of {o.slices}", f"{o.seconds:.0f}"]
        for o in sorted(outcomes, key=lambda o: -o.volume_ml)
    ]  # fmt: skip
    header = ["scan", "result", "highest value", "volume above threshold (ml)", "slices above threshold", "seconds"]
    return reporting.Table(
        header, rows, caption="Most suspicious first. Volumes use the voxel size that the file states."
    )


def _write_report(path: Path, subtitle: str, sections: list[reporting.Section], run: reporting.Run) -> None:
    reporting.write(
        path,
        "Healthy counterfactuals",
        subtitle,
        sections,
        run,
        notice=reporting.RESEARCH_USE,
        next_step="Compare the maps with reference masks: diffgraft evaluate RAW OUT --task anomaly",
    )


def _manifest_line(outcome: Outcome, resolved: Plan) -> dict[str, Any]:
    return {
        "id": f"sub-{outcome.label}",
        "group": outcome.group,
        "source": outcome.source,
        "provenance": {
            "kind": "edited", "model": resolved.fingerprint, "procedure": "counterfactual",
            "seed": resolved.counterfactual.seed, "settings": dataclasses.asdict(resolved.counterfactual),
            "source": outcome.source,
        },
        "result": {k: v for k, v in dataclasses.asdict(outcome).items() if k not in ("refused", "seconds", "group")},
    }  # fmt: skip


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8")
