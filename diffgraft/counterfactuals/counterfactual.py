"""Healthy counterfactuals and anomaly maps of one scan or a folder of them, on the grid of each scan.

Scans are NIfTI files or DICOM MR series. Outputs are NIfTI files, and of a series DICOM objects of the same study too.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from diffgraft import __version__, models, reporting
from diffgraft.counterfactuals import report
from diffgraft.counterfactuals.output import ANOMALY, HEALTHY, MASK, write_manifest, write_scan
from diffgraft.counterfactuals.plan import Plan, resolve_plan, resolve_settings
from diffgraft.counterfactuals.result import CounterfactualResult, ScanResult
from diffgraft.preparation.quarantine import Aside, quarantine
from diffgraft.requests import CounterfactualRequest, record
from diffgraft.requests.verb import Call, counter, verb
from toolkit.data import dataset
from toolkit.diffusion.model import Model
from toolkit.example import Error
from toolkit.formats import mr_scans, nifti
from toolkit.formats.mr_scans import Scan
from toolkit.methods.counterfactual import check_settings, count_evaluations

__all__ = ["counterfactual"]

SHOWN = 3
"""Scans shown in the run's own report; a larger run gets one viewer page a scan beside it."""


@dataclass(frozen=True)
class _Job:
    """What every scan of a run is treated with."""

    request: CounterfactualRequest
    call: Call
    model: Model
    domain: ModuleType
    plan: Plan
    folder: Path

    def run(self, seconds: float, command: str = "") -> reporting.Run:
        """How a report came to be."""
        return reporting.Run(command, dataclasses.asdict(self.plan), self.plan.counterfactual.seed, seconds)


@verb(CounterfactualRequest)
def counterfactual(request: CounterfactualRequest, call: Call) -> CounterfactualResult:
    """Write counterfactual, anomaly map and thresholded mask of every scan to a new folder, with a report.

    A scan that is refused in a folder is put aside with its reason (quarantine.jsonl) and the rest goes on; a single scan
    that is refused is an Error, and so is a folder of which nothing is left. Of a DICOM series, out/dicom/<label>/ has
    the counterfactual as MR images, the map as Parametric Map and the mask as Segmentation.
    """
    meta = models.meta(request.model)
    domain = models.domain(meta["domain"])
    settings = resolve_settings(request, domain, meta)
    domain.parse_prompt(request.target)  # what cannot be is refused before the model is opened, which takes seconds
    check_settings(settings)
    aside: Aside = []
    found = mr_scans.find(request.scans, domain.CONTRAST, lambda name, reason: aside.append((name, reason)))
    begun = time.monotonic()
    signs, inputs = ("manifest.jsonl", "report.html"), (request.scans, request.model)
    with dataset.staged_folder(request.out, request.overwrite, signs, inputs) as folder:
        model = models.open(request.model, request.backend)
        plan = resolve_plan(request, model, domain, settings)
        for line in plan.lines(len(found)):
            call.tell(line)
        job, pages = _Job(request, call, model, domain, plan, folder), len(found) > SHOWN
        scans: list[ScanResult] = []
        viewers: list[reporting.Section] = []
        for scan in found:
            try:
                result, volume = _treat(job, scan)
            except Error as problem:
                if len(found) == 1:
                    raise
                scans.append(ScanResult(scan.label, scan.name, scan.group, refused=str(problem)))
                continue
            scans.append(result)
            viewer = reporting.Section(f"sub-{scan.label}", [volume])
            if len(viewers) < SHOWN:
                viewers.append(viewer)
            if pages:
                report.write_page(folder / f"sub-{scan.label}_report.html", viewer, job.run(result.seconds))
        aside += [(scan.source, scan.refused) for scan in scans if scan.refused]
        result = CounterfactualResult(tuple(scans), tuple(aside))
        if not result.kept:
            raise Error(f"At least one scan must pass; all {len(found)} were refused. The first: {scans[0].refused}")
        write_manifest(folder / "manifest.jsonl", result.kept, plan)
        quarantine(folder, aside)
        nifti.write_dataset_description(folder, __version__, [request.scans])
        record.save(folder, "counterfactual", request, model.fingerprint)
        run = job.run(time.monotonic() - begun, call.command)
        report.write(folder / "report.html", result, viewers, pages, run)
    return result


def _treat(job: _Job, scan: Scan) -> tuple[ScanResult, reporting.Volume]:
    """Write what is made of one scan. Errors: a scan that cannot be read, or that the input gate refuses."""
    begun = time.monotonic()
    model, domain, plan = job.model, job.domain, job.plan
    source = mr_scans.load(scan, job.request.nan)
    case = domain.preprocess(source[0])
    novelty = domain.novelty(model, case)
    notes = [*source[0].notes, *_doubts(job, scan, novelty, domain.input_warnings(model, case))]
    gate = 0 if model.classifier is None else 2 * plan.maps.gate_draws * len(plan.maps.gate_sigmas)
    step = counter(job.call.watch, scan.label, gate + count_evaluations(plan.counterfactual))
    finding = domain.explain(model, case, plan.counterfactual, plan.maps, domain.parse_prompt(plan.target), step)
    mask = finding.anomaly >= plan.threshold
    stacks = {HEALTHY: finding.counterfactual, ANOMALY: finding.anomaly, MASK: mask}
    write_scan(job.folder, scan, source, stacks, finding.probability, plan, novelty)
    result = ScanResult(
        label=scan.label,
        source=scan.name,
        group=scan.group,
        seconds=time.monotonic() - begun,
        most_abnormal=float(finding.anomaly.max()),
        volume_ml=float(mask.sum()) * float(np.prod(case.spacing)) / 1000,
        suspicious_slices=int(mask.any((1, 2)).sum()),
        slices=len(case.stack),
        novelty=novelty,
        notes=tuple(notes),
    )
    viewer = reporting.Volume(
        title=f"{len(case.stack)} axial slices",
        image=case.level,
        counterfactual=np.where(case.level == case.stack, finding.counterfactual, case.level),
        anomaly=finding.anomaly,
        vmax=max(3 * plan.threshold, 1e-6),
        spacing=case.spacing,
        threshold=plan.threshold,
        mask=mask,
        head=case.head,
        scores=finding.probability,
        score_name="probability of a lesion in the slice (classifier)",
        score_max=1.0,
        note=" ".join(notes),
    )
    return result, viewer


def _doubts(job: _Job, scan: Scan, novelty: float, doubts: list[str]) -> list[str]:
    """What the input gate notes of a scan that is treated all the same. Errors: one that it refuses."""
    limit = job.plan.novelty_limit
    if limit is not None and novelty > limit:
        doubts = [*doubts, f"it has a novelty of {novelty:.2f}, the limit is {limit:.2f}"]
    if not doubts:
        return []
    words = (
        f"Scans must look like those the model was trained on ({job.domain.CONTRAST}, axial, whole head), and "
        f"{scan.name} does not: {'; '.join(doubts)}."
    )
    if not job.request.force:
        raise Error(f"{words} Check contrast and orientation, or add --force to treat it all the same.")
    return [f"{words} Treated because --force was given."]
