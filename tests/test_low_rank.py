"""LoRA: what is trained, what merging gives, and that a merged network exports as a plain one."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from export.graphs import onnx as graphs
from export.runtime import ort
from toolkit.diffusion.model import Field
from toolkit.diffusion.schedule import clock_from_config
from toolkit.example import Error
from toolkit.networks import folder
from toolkit.networks.preconditioning import Preconditioned, clock_of_steps, velocity
from toolkit.networks.unet import TextUNet
from toolkit.settings import Network
from toolkit.training import low_rank

FIELDS = {"text": Field((5, 12), "float32", 0.0), "sex": Field((), "int64", 2)}
NETWORK = Network((16, 32), layers=1, attention_head_dim=8, norm_groups=4, attention=1)
RANK, ALPHA = 3, 6.0


def denoiser():
    """A text-conditioned U-Net with a class field, as the denoiser of a model is."""
    torch.manual_seed(0)
    unet = TextUNet(NETWORK, (4, 8, 8), FIELDS)
    return Preconditioned(
        unet, functools.partial(velocity, clock=clock_of_steps(clock_from_config("scaled_linear").sigmas))
    )


def asked(count=4):
    random = torch.Generator().manual_seed(1)
    x, text = torch.randn(count, 4, 8, 8, generator=random), torch.randn(count, 5, 12, generator=random)
    return x, torch.tensor([0.1, 1.0, 3.0, 9.0])[:count], {"text": text, "sex": torch.arange(count) % 3}


def taught(module, steps=12):
    """Train what wants to be trained toward something it is not."""
    x, sigma, cond = asked()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 2e-2)
    for _ in range(steps):
        loss = (module(x, sigma, **cond) - 0.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


@pytest.fixture(scope="module")
def adapted():
    return taught(low_rank.add_adapters(denoiser(), RANK, ALPHA))


def test_nothing_changes_before_training():
    plain, fresh = denoiser().eval(), low_rank.add_adapters(denoiser(), RANK, ALPHA).eval()
    x, sigma, cond = asked()
    with torch.no_grad():
        assert torch.equal(plain(x, sigma, **cond), fresh(x, sigma, **cond))


def test_only_the_adapters_are_trained(adapted):
    before, after = denoiser().state_dict(), low_rank.merge_adapters(adapted)
    layers = {
        name: module
        for name, module in denoiser().named_modules()
        if isinstance(module, nn.Linear) and name.endswith(low_rank.TARGETS)
    }
    assert len(layers) >= 8  # self- and cross-attention of a level and of the middle, four projections each
    wanted = sum(RANK * (layer.in_features + layer.out_features) for layer in layers.values())
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == wanted
    assert trained < 0.15 * sum(v.numel() for v in before.values())
    assert set(after) == set(before)
    for name, value in before.items():
        changed = name.removesuffix(".weight") in layers
        assert torch.equal(value, after[name]) != changed, name


def test_the_change_is_alpha_over_r_times_b_a_of_that_rank(adapted):
    before, after, state = denoiser().state_dict(), low_rank.merge_adapters(adapted), adapted.state_dict()
    for name in [n for n in before if n.endswith("attn2.to_k.weight")]:
        stem = name.removesuffix(".weight")
        a, b = state[f"{stem}.lora_A.default.weight"], state[f"{stem}.lora_B.default.weight"]
        change = after[name] - before[name]
        assert torch.allclose(change, ALPHA / RANK * b @ a, atol=1e-6)
        assert torch.linalg.matrix_rank(change, rtol=1e-4) == RANK


def test_merged_is_the_adapted_network(adapted):
    adapted.eval()
    plain = denoiser().eval()
    x, sigma, cond = asked()
    with torch.no_grad():
        untouched = plain(x, sigma, **cond)
        plain.load_state_dict(low_rank.merge_adapters(adapted))
        found, wanted = plain(x, sigma, **cond), adapted(x, sigma, **cond)
        assert torch.equal(wanted, adapted(x, sigma, **cond))
    assert (found - wanted).abs().max() < 1e-5
    assert (untouched - wanted).abs().max() > 0.1  # else there was nothing to merge


def test_a_network_without_adapters_is_merged_as_it_stands():
    plain = denoiser()
    found = low_rank.merge_adapters(plain)
    assert set(found) == set(plain.state_dict())
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("settings", [(0, 1.0), (4, 0.0)])
def test_a_rank_and_an_alpha_are_positive(settings):
    with pytest.raises(Error, match=r"rank of 1 or more"):
        low_rank.add_adapters(denoiser(), *settings)


def test_a_network_is_adapted_once_and_has_attention():
    with pytest.raises(Error, match=r"has adapters already"):
        low_rank.add_adapters(low_rank.add_adapters(denoiser(), 2, 2.0), 2, 2.0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    with pytest.raises(Error, match=r"has none"):
        low_rank.add_adapters(UNet2DModel(norm_num_groups=4, add_attention=False, **blocks), 2, 2.0)


@pytest.mark.slow
def test_merged_weights_export_and_agree(adapted, tmp_path):
    """A model folder of the merged weights: its graph answers as the adapted network, but for the rounding to fp16."""
    fields = {name: {"shape": list(f.shape), "dtype": f.dtype, "null": f.null} for name, f in FIELDS.items()}
    spec = {"shape": [4, 8, 8], "fields": fields, "sigma_min": 0.03, "sigma_max": 14.6, "sigma_data": 1.0}
    network = {"channels": [16, 32], "layers": 1, "attention_head_dim": 8, "norm_groups": 4, "attention": 1}
    meta = {
        "format": 1, "domain": "chest_xray", "labels": {}, "spec": spec | {"initial_variance": 1.0},
        "clock": {"beta_schedule": "scaled_linear"},
        "parts": {"denoiser": {"network": network, "parameterisation": "velocity"}},
    }  # fmt: skip
    root = tmp_path / "model"
    folder.save_part(root, "denoiser", low_rank.merge_adapters(adapted), meta)
    graphs.export(root)
    model = ort.open(root)
    x, sigma, cond = asked()
    adapted.eval()
    with torch.no_grad():
        wanted = adapted(x, sigma, **cond).numpy()
        rounded = folder.load_part(root, "denoiser")(x, sigma, **cond).numpy()
    given = {name: value.numpy() for name, value in cond.items()}
    found = model.denoiser(x.numpy(), sigma.numpy(), given)
    assert np.abs(found - rounded).max() < 1e-4 * rounded.std()
    assert np.abs(found - wanted).max() < 1e-2 * wanted.std()
    assert json.loads((root / "model.json").read_text(encoding="utf-8"))["parts"]["denoiser"]["network"] == network
