"""What synthetic samples do for a classifier: of one label, or of all findings of films at once."""

from __future__ import annotations

from diffgraft.evaluation.classes import experiment as classes
from diffgraft.evaluation.classes.result import ClassificationResult
from diffgraft.evaluation.findings import experiment as findings
from diffgraft.evaluation.findings.result import FindingsResult
from diffgraft.evaluation.real import has_findings
from diffgraft.requests.evaluation import ClassificationRequest
from diffgraft.requests.verb import Call, verb

__all__ = ["classify"]


@verb(ClassificationRequest)
def classify(request: ClassificationRequest, call: Call) -> ClassificationResult | FindingsResult:
    """Train every arm for every number of shots and every seed, and test it on the held-out fold of REAL.

    Without a label, films with findings are an experiment on every finding at once; else the label is "class".
    Errors: those of diffgraft.evaluation.real and pools; a number of shots that no pool has.
    """
    by_findings = request.label is None and has_findings(request.real)
    return findings.classify(request, call) if by_findings else classes.classify(request, call)
