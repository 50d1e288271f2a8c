"""The text encoder of a model: transformers' CLIPTextModel, as its own graph, run once a prompt.

Radford et al. 2021, arXiv:2103.00020, section 2.4: a causal transformer over byte-pair tokens, whose output at the end
token stands for the text. Trained beside the feature network of the domain (`toolkit.training.language`), it puts a film
and its description close to each other; a denoiser attends to the output of every token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from toolkit.settings import Network

__all__ = ["TextEncoder"]


class TextEncoder(nn.Module):
    """ids (B, tokens) int64 -> hidden (B, tokens, width) and embedding (B, E), of length 1; look(features) -> (B, E).

    network: channels (width, E), layers, attention_head_dim. plan: "tokens", "words" (how many the tokenizer knows),
    "features" (width of the feature network; 0 for an encoder that was never shown an image), and "clip", the
    configuration of a pretrained encoder, in place of the network.
    """

    def __init__(self, network: Network, plan: Mapping[str, Any]) -> None:
        super().__init__()
        self.clip = CLIPTextModel(CLIPTextConfig(**(plan.get("clip") or _configuration(network, plan))))
        width, shared = self.clip.config.hidden_size, network.channels[-1]
        self.words = nn.Linear(width, shared) if plan["features"] else None
        self.looks = nn.Linear(plan["features"], shared) if plan["features"] else None
        self.scale = nn.Parameter(torch.tensor(2.3))
        """Natural logarithm of the inverse temperature, e^2.3 = 10 at first."""

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        answer = self.clip(ids)
        if self.words is None:
            return (answer.last_hidden_state,)
        return answer.last_hidden_state, nnf.normalize(self.words(answer.pooler_output), dim=1)

    def look(self, features: Tensor) -> Tensor:
        """The embedding of what the feature network says of an image, (B, D) -> (B, E), of length 1."""
        assert self.looks is not None
        return nnf.normalize(self.looks(features), dim=1)


def _configuration(network: Network, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The last two tokens are start and end, as in CLIP; what follows the end is the end again."""
    width, words = network.channels[0], plan["words"]
    return {
        "vocab_size": words, "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": network.layers,
        "num_attention_heads": width // network.attention_head_dim, "max_position_embeddings": plan["tokens"],
        "attention_dropout": network.dropout, "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1,
    }  # fmt: skip
