"""Words: the tokenizer, the text encoder, what a denoiser is told, on torch and on ONNX Runtime."""

import random

import numpy as np
import pytest
import torch

from toolkit.diffusion.model import Field, Spec
from toolkit.diffusion.schedule import clock_from_config
from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.networks.preconditioning import Preconditioned, clock_of_steps, velocity
from toolkit.networks.text import TextEncoder
from toolkit.networks.unet import TextUNet
from toolkit.settings import Network, Training
from toolkit.training import language
from toolkit.training.loader import Batch
from toolkit.training.losses import denoising

TEXTS = [
    f"{view} view, {side} pleural effusion, {more}"
    for view in ("PA", "AP supine", "lateral")
    for side in ("left", "right", "no")
    for more in ("no pneumothorax", "heart size normal", "endotracheal tube in place")
]
TOKENS = 16


@pytest.fixture(scope="module")
def words():
    return tokenizer.train(TEXTS, TOKENS, 600)


def test_a_prompt_is_start_words_end_and_the_end_again(words) -> None:
    ids = words(["PA view", ""])
    end = words.words - 1
    assert ids.shape == (2, TOKENS) and ids.dtype == np.int64
    assert ids[0, 0] == ids[1, 0] == words.words - 2
    assert (ids[1, 1:] == end).all() and ids[0, -1] == end and ids[0, 1] != end


@pytest.mark.parametrize("text", ["胸部X线", "صدر", "😀", "Größe ß", "\t a \n b ", "1.5 cm?!", "\u0000\u200b"])
def test_every_script_has_tokens_and_comes_back(words, text) -> None:
    back = words.body.decode(words.body.encode(text).ids, skip_special_tokens=True).replace("</w>", " ")
    kept = "".join(text.lower().split())
    assert "".join(back.split()) == "".join(kept.split())


def test_letters_in_capitals_and_odd_spaces_are_the_same_prompt(words) -> None:
    assert (words(["PA  View,\n LEFT pleural effusion"]) == words(["pa view, left pleural effusion"])).all()


def test_an_over_long_prompt_is_cut_with_one_line_and_keeps_its_end() -> None:
    told: list[str] = []
    known = tokenizer.train(TEXTS, TOKENS, 600)
    known.cut = told.append
    ids = known(["effusion " * 500, "PA view"])
    assert ids[0, -1] == known.words - 1 and len(told) == 1 and "lost its end" in told[0]


def test_a_tokenizer_is_saved_and_opened_and_a_damaged_one_refused(words, tmp_path) -> None:
    words.save(tmp_path / tokenizer.FILE)
    assert (tokenizer.open(tmp_path, TOKENS)(TEXTS) == words(TEXTS)).all()
    (tmp_path / tokenizer.FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(Error, match="tokenizer is a file of the tokenizers library"):
        tokenizer.open(tmp_path, TOKENS)
    with pytest.raises(Error, match="has none"):
        tokenizer.open(tmp_path / "nowhere", TOKENS)


def encoder(words: int, features: int = 6) -> TextEncoder:
    torch.manual_seed(0)
    plan = {"tokens": TOKENS, "words": words, "features": features}
    return TextEncoder(Network((16, 8), layers=1, attention_head_dim=8), plan).eval()


def test_what_follows_the_end_changes_nothing_before_it_and_the_embedding_has_length_one(words) -> None:
    ids = torch.from_numpy(words(["left effusion", "left effusion, no pneumothorax"]))
    hidden, embedding = encoder(words.words)(ids)
    assert hidden.shape == (2, TOKENS, 16) and torch.allclose(embedding.norm(dim=1), torch.ones(2), atol=1e-5)
    same = int((ids[0] == ids[1]).int().cumprod(0).sum())
    assert same >= 3 and torch.allclose(hidden[0, :same], hidden[1, :same], atol=1e-6)
    assert not torch.allclose(hidden[0, same:], hidden[1, same:], atol=1e-3)


def test_contrast_learns_which_film_a_prompt_is_of(words) -> None:
    """Features that are a linear function of the label behind the prompt: retrieval goes from chance to nearly right."""
    torch.manual_seed(0)
    labels = torch.arange(len(TEXTS))
    says = torch.tensor(
        [[float("left" in t), float("right" in t), float("lateral" in t), float("tube" in t)] for t in TEXTS]
    )
    features = says @ torch.randn(4, 6) + 0.01 * torch.randn(len(TEXTS), 6)
    prompts = language.Prompts(torch.from_numpy(words(TEXTS)), says, 1, len(TEXTS) - 1)
    reader = language.Reader(4, encoder(words.words))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3)
    losses = []
    for step in range(120):
        random_ = torch.Generator().manual_seed(step)
        rows = torch.randperm(len(TEXTS), generator=random_)[:16]
        batch = Batch(features[rows], {"sample": labels[rows]}, labels[rows])
        loss = language.contrastive_loss(reader, batch, Spec((1, 8, 8)), Training(1), random_, prompts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        likeness = reader.text(prompts.ids)[1] @ reader.text.look(features).T
    alike = (says[:, None] == says[None]).all(-1)
    assert alike[torch.arange(len(TEXTS)), likeness.argmax(1)].float().mean() > 0.8


FIELDS = {"text": Field((TOKENS, 16), "float32", 0.0), "view": Field((), "int64", 3)}


def denoiser() -> Preconditioned:
    torch.manual_seed(0)
    network = Network((8, 16), attention=1, attention_head_dim=8)
    clock = clock_of_steps(clock_from_config("scaled_linear").sigmas)
    return Preconditioned(TextUNet(network, (2, 8, 8), FIELDS), lambda sigma: velocity(sigma, clock))


def test_a_denoiser_hears_its_text() -> None:
    module, x = denoiser().eval(), torch.randn(2, 2, 8, 8)
    told = {"view": torch.tensor([0, 1]), "text": torch.randn(2, TOKENS, 16)}
    with torch.no_grad():
        first, other = (module(x, torch.ones(2), **{**told, "text": told["text"] * sign}) for sign in (1, -1))
        assert not torch.allclose(first, other, atol=1e-4)


def test_the_clock_of_steps_is_that_of_the_schedule() -> None:
    """Against the engine's own clock, which finds steps by bisection."""
    clock = clock_from_config("scaled_linear")
    sigmas = torch.tensor([clock.sigmas[0], 0.05, 0.31, 1.0, 7.7, clock.sigmas[-1]])
    wanted = torch.tensor([1000 * clock.time(float(s)) - 1 for s in sigmas])
    assert torch.allclose(clock_of_steps(clock.sigmas)(sigmas), wanted, atol=2e-3)
    ends = clock_of_steps(clock.sigmas)(torch.tensor([1e-3, 50.0]))
    assert torch.allclose(ends, torch.tensor([0.0, 999.0]), atol=1e-3)


@pytest.mark.parametrize("joint", [False, True])
def test_a_dropped_text_is_the_empty_prompt_and_only_a_joint_encoder_learns(words, joint) -> None:
    text, ids = encoder(words.words), torch.from_numpy(words(["", *TEXTS]))
    table = ids if joint else language.encode_prompts(text, ids)
    module = language.Prompted(table, text.requires_grad_(True) if joint else None, denoiser())
    rows = torch.arange(1, 5)
    batch = Batch(torch.randn(4, 2, 8, 8), {"text": rows, "view": torch.zeros(4, dtype=torch.long)}, rows)
    spec = Spec((2, 8, 8), FIELDS, sigma_data=1.0)
    asked = []
    module.denoiser.register_forward_pre_hook(lambda m, args, kw: asked.append(kw["text"]), with_kwargs=True)
    loss = denoising(module, batch, spec, Training(1, drop=1.0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(asked[0][0], text(ids[:1])[0][0], atol=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in text.clip.parameters()) is joint
    assert ("text.scale" in module.state_dict()) is joint and "table" not in module.state_dict()


def test_wordings_are_a_function_of_their_seed() -> None:
    from domains import chest_xray

    told = [chest_xray.random_prompt(random.Random(n)) for n in range(40)]
    assert told == [chest_xray.random_prompt(random.Random(n)) for n in range(40)] and len(set(told)) > 30
