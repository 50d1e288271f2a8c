"""Requests: one frozen value a verb, and the record of it beside every result."""

from diffgraft.requests.counterfactual import CounterfactualRequest
from diffgraft.requests.deployment import ExportRequest
from diffgraft.requests.editing import EditRequest
from diffgraft.requests.evaluation import (
    AlignmentRequest,
    AnomalyRequest,
    AuditRequest,
    ClassificationRequest,
    DetectionRequest,
    DistributionRequest,
    StepsRequest,
)
from diffgraft.requests.generation import GenerationRequest, LayoutOptions
from diffgraft.requests.preparation import ConversionRequest, PreparationRequest
from diffgraft.requests.record import ReplayRequest
from diffgraft.requests.training import DistillationRequest, TrainingRequest

__all__ = [
    "AlignmentRequest",
    "AnomalyRequest",
    "AuditRequest",
    "ClassificationRequest",
    "ConversionRequest",
    "CounterfactualRequest",
    "DetectionRequest",
    "DistillationRequest",
    "DistributionRequest",
    "EditRequest",
    "ExportRequest",
    "GenerationRequest",
    "LayoutOptions",
    "PreparationRequest",
    "ReplayRequest",
    "StepsRequest",
    "TrainingRequest",
]
