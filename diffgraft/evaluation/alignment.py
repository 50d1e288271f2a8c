"""Do synthetic images show what was asked for? A network trained on real samples alone looks: at their class, at every
finding of films, or at boxes.
"""

from __future__ import annotations

from diffgraft.evaluation.boxes import alignment as boxes
from diffgraft.evaluation.boxes.alignment_result import LayoutAlignment
from diffgraft.evaluation.classes import alignment as classes
from diffgraft.evaluation.classes.result import ClassAlignment
from diffgraft.evaluation.findings import alignment as findings
from diffgraft.evaluation.findings.result import FindingsAlignment
from diffgraft.evaluation.real import has_findings, has_layouts
from diffgraft.requests.evaluation import AlignmentRequest
from diffgraft.requests.verb import Call, verb

__all__ = ["alignment"]


@verb(AlignmentRequest)
def alignment(request: AlignmentRequest, call: Call) -> ClassAlignment | FindingsAlignment | LayoutAlignment:
    """What networks of REAL's training folds see in synthetic images, beside what they see in held-out real ones.

    Without a label, a data set with boxes is judged by detectors, and films with findings by a classifier of every finding;
    else the label is "class". Errors: those of diffgraft.evaluation.real and pools.
    """
    if request.label is None and has_layouts(request.real):
        return boxes.alignment(request, call)
    if request.label is None and has_findings(request.real):
        return findings.alignment(request, call)
    return classes.alignment(request, call)
