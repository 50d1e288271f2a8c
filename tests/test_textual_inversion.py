"""Textual inversion: a few images teach one row, nothing else moves, and the folder says what was learned from what."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from toolkit.data import labels
from toolkit.diffusion.model import Spec
from toolkit.example import Annotation, Error, Example
from toolkit.models.folder import hash_id, read_meta, spec_of
from toolkit.networks import folder
from toolkit.networks.preconditioning import PARAMETERISATIONS
from toolkit.settings import Augmentation, Network, Training
from toolkit.training import textual_inversion
from toolkit.training.loader import Batch
from toolkit.training.loop import Samples, fit
from toolkit.training.losses import denoising
from toolkit.training.textual_inversion import Words, learn

SIZE = 8
SHAPE = (1, SIZE, SIZE)
KNOWN = {"crop": ("coffee",), "condition": ("healthy", "rust"), "severity": labels.Range(0, 4)}
TABLE = "network.fields.classes.condition.weight"
NETWORK = Network((8, 16), norm_groups=4, attention_head_dim=8)
SHORT = Training(80, 8, 0.03, warmup=5, ema=0.9, sigma_mean=1.0, sigma_std=0.6, precision="fp32", checkpoint_every=30)


def lights(condition: int, count: int, lightness: float, name: str = "leaf") -> list[Example]:
    """Grey images of one lightness and a little noise, labelled with an index of their own vocabulary."""
    random = np.random.default_rng(condition)
    images = (lightness + 0.05 * random.standard_normal((count, *SHAPE))).astype(np.float32)
    known = {"crop": 0.0, "condition": float(condition), "severity": float("nan")}
    return [Example(f"{name}-{condition}-{n}", x, Annotation(labels=known)) for n, x in enumerate(images)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A small denoiser that knows dark (healthy) and light (rust) images, with what else a model folder holds."""
    root = tmp_path_factory.mktemp("base") / "model"
    fields = labels.fields(KNOWN, KNOWN)
    run = {"trained_on": ["0" * 16], "samples": 1}
    plan = {"network": dataclasses.asdict(NETWORK), "parameterisation": next(iter(PARAMETERISATIONS)), "run": run}
    classifier = {"network": dataclasses.asdict(Network((8, 8), norm_groups=4)), "classes": 2}
    spec = dataclasses.asdict(Spec(SHAPE, fields))
    meta = {"format": 1, "domain": "toy", "labels": labels.to_json(KNOWN), "spec": spec, "typical": 3}
    meta = json.loads(json.dumps(meta | {"parts": {"denoiser": plan, "classifier": classifier}}))
    torch.manual_seed(0)
    module = folder.build("denoiser", meta)
    examples = lights(0, 20, -0.6) + lights(1, 20, 0.6)
    cond = {k: torch.from_numpy(v) for k, v in labels.condition(fields, [e.annotation for e in examples]).items()}
    samples = Batch(torch.from_numpy(np.stack([e.image for e in examples])), cond, cond["condition"])
    settings = Training(
        150, 16, 8e-3, warmup=10, ema=0.95, sigma_mean=1.0, sigma_std=0.6, precision="fp32", checkpoint_every=1000
    )
    none = samples[torch.zeros(0, dtype=torch.long)]
    place = tmp_path_factory.mktemp("run")
    average = fit(module, denoising, Samples(samples, none, Augmentation()), spec_of(meta), settings, place)
    folder.save_part(root, "denoiser", average, meta)
    folder.save_part(root, "classifier", folder.build("classifier", meta).state_dict(), meta)
    (root / "classifier.onnx").write_bytes(b"a graph")
    (root / "denoiser.onnx").write_bytes(b"a graph of the old table")
    return root


FEW = {"crop": ("coffee", "tea"), "condition": ("spot", "healthy", "miner")}
"""The vocabulary of the few: another order, a known value, two values of which the images show none."""


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("learned") / "model"
    learn(base, lights(0, 5, 0.0, "few"), root, FEW, SHORT)
    return root


def guess(root: Path, condition: int) -> float:
    """What the model takes pure noise for: the mean lightness of a class."""
    module = folder.load_part(root, "denoiser")
    cond = {"crop": torch.zeros(64, dtype=torch.long), "condition": torch.full((64,), condition)}
    cond |= {"severity": torch.zeros(64), "severity_known": torch.zeros(64)}
    noise = 4.0 * torch.randn((64, *SHAPE), generator=torch.Generator().manual_seed(1))
    return float(module(noise, torch.full((64,), 4.0), **cond).mean())


def test_the_new_word_means_the_new_images(base, learned):
    dark, light, new = (guess(learned, k) for k in (0, 1, 2))
    assert dark == pytest.approx(-0.6, abs=0.15) and light == pytest.approx(0.6, abs=0.15)
    assert new == pytest.approx(0.0, abs=0.25)
    # the control: before it was learned the row, a mean of the two others, meant something else
    counts = {"condition": 1}
    words = Words(folder.load_part(base, "denoiser"), counts)
    batch = torch.from_numpy(np.stack([e.image for e in lights(0, 5, 0.0)]))
    error = [denoised_error(module, batch) for module in (words, folder.load_part(learned, "denoiser"))]
    assert error[1] < 0.8 * error[0]


def denoised_error(module, images: torch.Tensor) -> float:
    cond = {"crop": torch.zeros(5, dtype=torch.long), "condition": torch.full((5,), 2)}
    cond |= {"severity": torch.zeros(5), "severity_known": torch.zeros(5)}
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return float(((module(images + 2 * noise, torch.full((5,), 2.0), **cond) - images) ** 2).mean())


def test_every_other_weight_is_the_same_bit_by_bit(base, learned):
    before, after = (load_file(root / "denoiser.safetensors") for root in (base, learned))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key != TABLE)
    assert torch.equal(after[TABLE][[0, 1, 3]], before[TABLE])  # the null is the last row still
    assert len(after[TABLE]) == 4
    assert (base / "classifier.safetensors").read_bytes() == (learned / "classifier.safetensors").read_bytes()


def test_a_word_begins_as_the_mean_of_the_known_ones(base):
    module = folder.load_part(base, "denoiser")
    words = Words(module, {"condition": 2})
    table = module.get_parameter(TABLE)
    assert torch.equal(words.rows["condition"][1], table[:2].mean(0))
    assert {name for name, _ in words.named_parameters()} == {"rows.condition"} == set(words.state_dict())
    # known values and the null are answered as they were, with the null where it now is
    x, sigma = torch.randn(3, *SHAPE), torch.ones(3)
    cond = {"crop": torch.zeros(3, dtype=torch.long), "severity": torch.ones(3), "severity_known": torch.ones(3)}
    with torch.no_grad():
        old = module(x, sigma, condition=torch.tensor([0, 1, 2]), **cond)
        new = words(x, sigma, condition=torch.tensor([0, 1, 4]), **cond)
    assert torch.equal(old, new)


def test_the_folder_says_what_was_learned_from_what(base, learned):
    meta, before = read_meta(learned), read_meta(base)
    assert meta["labels"] == {"crop": ["coffee"], "condition": ["healthy", "rust", "spot"], "severity": [0, 4]}
    nulls = {name: field.null for name, field in spec_of(meta).fields.items() if field.dtype == "int64"}
    assert nulls == {"crop": 1, "condition": 3}
    ids = {hash_id(e.id) for e in lights(0, 5, 0.0, "few")}
    assert set(meta["parts"]["denoiser"]["run"]["trained_on"]) == ids | {"0" * 16}
    facts = meta["parts"]["denoiser"]["embedding"]
    assert facts["words"] == {"condition": ["spot"]} and set(facts["trained_on"]) == ids
    assert "2208.01618" in facts["method"] and facts["training"]["drop"] == 0
    assert meta["typical"] == 3 and before["parts"]["denoiser"]["run"]["trained_on"] == ["0" * 16]
    assert (learned / "classifier.onnx").is_file() and not (learned / "denoiser.onnx").exists()
    assert folder.open(learned, "cpu").denoiser.spec == spec_of(meta)


def test_a_stopped_run_continues_to_the_same_rows(base, learned, tmp_path):
    class Stop(Exception):
        pass

    def kill(step, steps, loss):
        if step == 50:
            raise Stop

    with pytest.raises(Stop):
        learn(base, lights(0, 5, 0.0, "few"), tmp_path / "m", FEW, SHORT, watch=kill)
    assert not (tmp_path / "m" / "model.json").exists()
    seen = []
    learn(base, lights(0, 5, 0.0, "few"), tmp_path / "m", FEW, SHORT, watch=lambda step, *_: seen.append(step))
    assert seen[0] == 31
    assert (tmp_path / "m" / "denoiser.safetensors").read_bytes() == (learned / "denoiser.safetensors").read_bytes()


def test_what_cannot_be_learned_is_refused(base, tmp_path):
    few = lights(0, 3, 0.0)
    large = [Example("a", np.zeros((1, 16, 16), np.float32), few[0].annotation)]
    for data, root, vocabulary, words in [
        (few, base, FEW, "Take another folder"),
        (few, tmp_path / "m", KNOWN, "knows all"),
        (lights(1, 3, 0.0), tmp_path / "m", FEW, "knows all"),
        (large, tmp_path / "m", FEW, r"shape \[1, 8, 8\]; found \[\[1, 16, 16\]\]"),
    ]:
        with pytest.raises(Error, match=words):
            learn(base, data, root, vocabulary, SHORT)
    assert not (tmp_path / "m").exists()


def test_names_are_put_together_and_known_ones_keep_their_index():
    whole = textual_inversion.merge_vocabularies(KNOWN, {"condition": ("spot", "rust"), "severity": labels.Range(0, 9)})
    assert whole == {**KNOWN, "condition": ("healthy", "rust", "spot")}
