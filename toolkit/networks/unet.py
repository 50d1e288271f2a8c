"""The denoising U-Net: diffusers', with one embedding a condition field added to the time embedding.

A model that is told things in words is a UNet2DConditionModel, whose attention also reads the tokens of the text (Rombach
et al. 2022, arXiv:2112.10752, section 3.3); the others are a UNet2DModel.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from toolkit.data.labels import Vocabulary
from toolkit.diffusion.model import TEXT, Field
from toolkit.networks.strided import guarded
from toolkit.settings import Network

__all__ = ["ConditionalUNet", "FieldEmbedding", "TextUNet", "transfer_weights"]

FREQUENCIES = 8


class FieldEmbedding(nn.Module):
    """The sum of one embedding a field: a table for a class (its null is a row of its own), Fourier features for a number.

    A float field "<name>_known" is no embedding of its own: it is the 0/1 gate of field "<name>".
    """

    frequencies: Tensor

    def __init__(self, fields: Mapping[str, Field], width: int) -> None:
        super().__init__()
        self.classes = nn.ModuleDict(
            {name: nn.Embedding(int(f.null) + 1, width) for name, f in fields.items() if f.dtype == "int64"}
        )
        numbers = [name for name, f in fields.items() if f.dtype == "float32" and not name.endswith("_known")]
        self.numbers = nn.ModuleDict(
            {
                n: nn.Sequential(nn.Linear(2 * FREQUENCIES + 1, width), nn.SiLU(), nn.Linear(width, width))
                for n in numbers
            }
        )
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(FREQUENCIES).mul(0.5), persistent=False)

    def forward(self, **cond: Tensor) -> Tensor:
        parts = [table(cond[name]) for name, table in self.classes.items()]
        for name, layers in self.numbers.items():
            known = cond[f"{name}_known"][:, None]
            phase = cond[name][:, None] * self.frequencies
            parts.append(layers(torch.cat([phase.sin() * known, phase.cos() * known, known], 1)))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


class ConditionalUNet(nn.Module):
    """F(x, c_noise, cond): x (B, C, H, W), c_noise (B,) on the 0..1000 scale, one keyword a field of `fields`."""

    def __init__(self, network: Network, shape: tuple[int, ...], fields: Mapping[str, Field]) -> None:
        super().__init__()
        plain, attending = len(network.channels) - network.attention, network.attention
        self.unet = UNet2DModel(
            sample_size=(shape[-2], shape[-1]),
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=network.channels,
            layers_per_block=network.layers,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * attending,
            up_block_types=("AttnUpBlock2D",) * attending + ("UpBlock2D",) * plain,
            attention_head_dim=network.attention_head_dim,
            norm_num_groups=network.norm_groups,
            dropout=network.dropout,
            class_embed_type="identity" if fields else None,
        )
        guarded(self.unet)
        self.fields = FieldEmbedding(fields, 4 * network.channels[0]) if fields else None

    def forward(self, x: Tensor, noise: Tensor, **cond: Tensor) -> Tensor:
        embedding = self.fields(**cond) if self.fields is not None else None
        return self.unet(x, noise, class_labels=embedding, return_dict=False)[0]


class TextUNet(nn.Module):
    """F(x, c_noise, text, cond): x (B, C, H, W), c_noise (B,), text (B, tokens, width), one keyword a further field."""

    def __init__(self, network: Network, shape: tuple[int, ...], fields: Mapping[str, Field]) -> None:
        super().__init__()
        plain, attending = len(network.channels) - network.attention, network.attention
        others = {name: field for name, field in fields.items() if name != TEXT}
        self.unet = UNet2DConditionModel(
            sample_size=shape[-2:],  # type: ignore[arg-type]
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=network.channels,
            layers_per_block=network.layers,
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * attending,
            up_block_types=("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",) * plain,
            cross_attention_dim=fields[TEXT].shape[-1],
            # By this name diffusers means the number of heads.
            attention_head_dim=tuple(c // network.attention_head_dim for c in network.channels),  # type: ignore[arg-type]
            norm_num_groups=network.norm_groups,
            dropout=network.dropout,
            class_embed_type="identity" if others else None,
        )
        guarded(self.unet)
        self.fields = FieldEmbedding(others, 4 * network.channels[0]) if others else None

    def forward(self, x: Tensor, noise: Tensor, text: Tensor, **cond: Tensor) -> Tensor:
        embedding = self.fields(**cond) if self.fields is not None else None
        return self.unet(x, noise, text, class_labels=embedding, return_dict=False)[0]


@torch.no_grad()
def transfer_weights(module: nn.Module, base: nn.Module, known: Vocabulary, wanted: Vocabulary) -> None:
    """Give `module` the weights of `base` for a start, where both have a tensor of that name and shape.

    The table of a class is taken row by row, by the names of its values; a value that the base does not know begins as
    its null, the row of what is not stated.
    """
    theirs = base.state_dict()
    ours = {
        k: theirs[k].clone() if k in theirs and theirs[k].shape == v.shape else v
        for k, v in module.state_dict().items()
    }
    for key in ours:
        name = key.removesuffix(".weight").rpartition(".classes.")[2]
        if ".classes." not in key or key not in theirs:
            continue
        old, new = known[name], wanted[name]
        assert isinstance(old, tuple) and isinstance(new, tuple)  # a table is of a class, which has names
        rows = list(old)
        index = [rows.index(value) if value in rows else len(rows) for value in new] + [len(rows)]
        ours[key] = theirs[key][index].clone()
    module.load_state_dict(ours)
