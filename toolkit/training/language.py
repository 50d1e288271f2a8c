"""How words are learned: a text encoder beside the feature network, and a denoiser that is told things in words.

A text encoder is trained by contrast (Radford et al. 2021, arXiv:2103.00020, figure 3): of a batch of films and prompts
those that belong together shall be close. Films of which a prompt says the same are no contrast, so that the target is
spread evenly over them. A few hundred films are too few to learn a language from, so the encoder is also asked what a
prompt says, for composed prompts without a film too.

A denoiser is trained with a table of prompts that are encoded once, the encoder frozen as in RoentGen (Chambon et al.
2022, arXiv:2211.12737), or with the encoder itself, both optimised together (Rombach et al. 2022, arXiv:2112.10752, eq. 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from toolkit.diffusion.model import Spec
from toolkit.networks.text import TextEncoder
from toolkit.settings import Training
from toolkit.training.loader import Batch

__all__ = ["Prompted", "Prompts", "Reader", "contrastive_loss", "encode_prompts"]

COMPOSED = 32
"""Composed prompts beside those of the films of a batch."""


@dataclass(frozen=True)
class Prompts:
    """ids (N, tokens) of prompts and what each says, (N, statements): 1 yes, 0 no, NaN where it does not say.

    Sample n has the prompts n * each to n * each + each - 1; those from `composed` on belong to no film.
    """

    ids: Tensor
    says: Tensor
    each: int
    composed: int


class Reader(nn.Module):
    """A text encoder with the head that tells what a prompt says: for each statement no, yes or nothing."""

    def __init__(self, statements: int, text: TextEncoder) -> None:
        super().__init__()
        self.text = text
        self.answers = nn.Linear(text.clip.config.hidden_size, 3 * statements)

    def forward(self, ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of the prompts and of the films, (B, E) each, and log-probabilities (B', statements, 3).

        ids (B', tokens) may hold more prompts than there are films: those follow the films' own.
        """
        pooled = self.text.clip(ids).pooler_output
        assert self.text.words is not None
        words = nnf.normalize(self.text.words(pooled[: len(features)]), dim=1)
        return words, self.text.look(features), self.answers(pooled).unflatten(1, (-1, 3)).log_softmax(-1)


def contrastive_loss(
    module: nn.Module, batch: Batch, spec: Spec, settings: Training, generator: torch.Generator, prompts: Prompts
) -> Tensor:
    """Contrastive loss of films and prompts, both ways, and the error in what the prompts say.

    batch.image: features (B, D); batch.cond["sample"]: which sample, (B,).
    """
    count = len(batch.image)
    own = batch.cond["sample"].cpu() * prompts.each + torch.randint(prompts.each, (count,), generator=generator)
    further = torch.randint(prompts.composed, len(prompts.ids), (COMPOSED,), generator=generator)
    rows = torch.cat([own, further])
    says = prompts.says[rows].to(batch.image.device)
    words, looks, answers = module(prompts.ids[rows].to(batch.image.device), batch.image)
    alike = (says[:count, None].nan_to_num(-1) == says[None, :count].nan_to_num(-1)).all(-1).float()
    likeness = module.get_parameter("text.scale").clamp(max=4.6).exp() * words @ looks.T
    target = alike / alike.sum(1, keepdim=True)
    loss = nnf.cross_entropy(likeness, target) + nnf.cross_entropy(likeness.T, target)
    answer = torch.where(says.isnan(), torch.full_like(says, 2.0), says).long()
    return loss / 2 + nnf.nll_loss(answers.flatten(0, 1), answer.flatten())


class Prompted(nn.Module):
    """A denoiser whose field "text" is a row of a table of prompts; row 0 is the empty prompt, the null.

    table: (N, tokens, width) of a frozen encoder, or (N, tokens) ids for one that is trained along.
    """

    table: Tensor

    def __init__(self, table: Tensor, text: TextEncoder | None, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.text = denoiser, text
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, text: Tensor, **cond: Tensor) -> Tensor:
        tokens = self.table[text]
        return self.denoiser(x, sigma, text=tokens if self.text is None else self.text(tokens)[0], **cond)


@torch.no_grad()
def encode_prompts(text: TextEncoder, ids: Tensor) -> Tensor:
    """The output of a frozen encoder for a table of prompts, (N, tokens, width)."""
    return torch.cat([text.eval()(part)[0] for part in ids.split(256)])
