"""A few-step student: the denoiser with low-rank changes of its weights, which answers for a leap what it should denoise to.

Every convolution and linear layer computes with W + B A instead of W (Hu et al. 2021, arXiv:2106.09685, eq. 3; of a
convolution W is taken as a matrix, out x in k k, as LCM-LoRA does, Luo et al. 2023, arXiv:2311.05556); gains and biases
are changed whole. Only the changes are kept, so that one model folder holds teacher and student, and the graph of the
student points into the weights of the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit.example import Error

__all__ = ["add_changes", "merge_state", "student_state"]

LAYERS = (nn.Conv2d, nn.Linear)


class _LowRank(nn.Module):
    """W -> W + up down, a change of rank `rank` that is zero at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def add_changes(denoiser: nn.Module, rank: int) -> nn.Module:
    """`denoiser` itself with a change of its layers that is to be learned; its own matrices are frozen.

    It answers as before until it is trained. Errors: a rank below 1.
    """
    if rank < 1:
        raise Error(f"A student has changes of rank 1 or more; found {rank}. 16 is usual.")
    denoiser.requires_grad_(True)
    for module in list(denoiser.modules()):
        if isinstance(module, LAYERS):
            weight = module.weight
            parametrize.register_parametrization(module, "weight", _LowRank(weight, rank))
            weight.requires_grad_(False)
        elif isinstance(module, nn.Embedding):
            module.requires_grad_(False)
    return denoiser


def student_state(student: nn.Module, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What a student has of its own, by name: changes, gains and biases. weights: averaged ones, in place of its own."""
    learned = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in (weights or student.state_dict()).items() if name in learned}


def merge_state(teacher: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an adapted denoiser from the teacher's and what the student has of its own."""
    stem = {name.rpartition(".parametrizations.")[0] for name in changes if ".parametrizations." in name}
    named = {
        f"{name.removesuffix('.weight')}.parametrizations.weight.original"
        if name.endswith(".weight") and name.removesuffix(".weight") in stem
        else name: value
        for name, value in teacher.items()
    }
    return {**named, **changes}
