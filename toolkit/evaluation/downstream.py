"""The downstream experiment: a small classifier trained from scratch in several arms, all on equal terms.

An Arm is what is compared: what is done to a training image and how much of what is drawn is synthetic. All arms take the same
number of optimisation steps with the same batch, network, first weights and schedule, draw every class equally often,
and depend on (seed, step) alone; arms of one seed ask for the same classes in the same order, so they can be paired.

One label is told, or several at once that may be unknown, such as findings: then every image is drawn equally often,
an unknown label costs nothing, and the values of a label weigh in the loss as if each were as frequent as the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from toolkit.evaluation.finite import check_finite
from toolkit.example import Error
from toolkit.networks.features import FeatureNet
from toolkit.settings import Augmentation, Network, Training
from toolkit.training.finite import finite_step, finite_weights
from toolkit.training.loader import augment, generator
from toolkit.training.loop import learning_rate_factor

__all__ = ["NETWORK", "SETTINGS", "Arm", "Labelled", "Mixing", "Outcome", "Recipe", "split_by_label", "train"]

NETWORK = Network((24, 48, 64, 96), dropout=0.1)
SETTINGS = Training(400, 32, 2e-3, warmup=40, weight_decay=0.05)

HEAVIEST = 10.0
"""Times that a rare value of one of several labels weighs more than it would by itself, at most."""

Mixing = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""(images, label weights, randomness) -> both mixed: the functions of toolkit.methods.mixing."""


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison.

    augment: classical augmentation, of real and synthetic images alike. mixing: one of these is drawn for each batch.
    pool: name of the synthetic samples, "" for none. share: probability that an element of a batch is drawn from them
    (DA-Fusion, arXiv:2302.07944, section 4: one half). pretrain: part of all steps, at the beginning, in which every
    element is.
    """

    name: str
    augment: bool = False
    mixing: tuple[Mixing, ...] = ()
    pool: str = ""
    share: float = 0.0
    pretrain: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.pretrain <= 1):
            raise Error(f"An arm's shares are from 0 to 1; '{self.name}' has {self.share} and {self.pretrain}.")
        if (self.share > 0 or self.pretrain > 0) != bool(self.pool):
            raise Error(f"An arm draws from a pool if it names one; '{self.name}' does one without the other.")

    def share_at(self, step: int, steps: int) -> float:
        """The probability, at this step, that an element is synthetic."""
        return 1.0 if step < round(self.pretrain * steps) else self.share


@dataclass(frozen=True)
class Recipe:
    """How all arms are trained alike.

    augmentation: of an arm that augments. settings: steps, batch, learning_rate, warmup, weight_decay and seed count;
    "bf16" is autocast.
    """

    augmentation: Augmentation
    settings: Training = SETTINGS
    network: Network = NETWORK


@dataclass(frozen=True)
class Labelled:
    """images (N, C, H, W) float32 in [-1, 1], targets (N,) class indices, or (N, L) of L labels, NaN where unknown."""

    images: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """log_probability (N, K) of the test images; of several labels, the values of one after those of the other.

    losses: one a step taken. drawn: pool ("" = real) -> elements. Errors: a log-probability that is not finite.

    seconds: of the training alone; processor time on a CPU, which other work on the machine does not change.
    """

    log_probability: np.ndarray
    losses: tuple[float, ...]
    drawn: Mapping[str, int]
    seconds: float

    def __post_init__(self) -> None:
        check_finite(self.log_probability, "log-probabilities of a classifier")

    @property
    def predicted(self) -> np.ndarray:
        return self.log_probability.argmax(1)


def train(
    arm: Arm,
    real: Labelled,
    pools: Mapping[str, Labelled],
    test: np.ndarray,
    classes: int | Sequence[int],
    recipe: Recipe,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> Outcome:
    """Train one arm and classify the test images (N, C, H, W).

    classes: how many there are; those of the real samples are drawn, each equally often. One number a label where there
    are several. watch(step, steps) after every step.
    Errors: a pool that is missing or lacks one of these classes, targets of other labels than the classes are of, a
    training that did not stay finite.
    """
    settings = recipe.settings
    sizes = (classes,) if isinstance(classes, int) else tuple(classes)
    drawn_classes = np.unique(_kinds(real))
    sources = {"": _Source.of("the real samples", real, drawn_classes)}
    if arm.pool:
        if arm.pool not in pools:
            raise Error(f"Arm '{arm.name}' draws from '{arm.pool}'; known: {', '.join(pools) or 'none'}.")
        sources[arm.pool] = _Source.of(arm.pool, pools[arm.pool], drawn_classes)
    expected = () if isinstance(classes, int) else (len(sizes),)
    if wrong := [found for each in (real, *pools.values()) if (found := each.targets.shape[1:]) != expected]:
        raise Error(f"Targets have the shape {expected} a sample, a value for each label; found {wrong[0]}.")
    weigh = _weigher(real.targets, sizes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    drawn, losses, begun = dict.fromkeys(sources, 0), [], clock()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        module = FeatureNet(recipe.network, real.images.shape[1:], sum(sizes))
        module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of modules too
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        for step in range(settings.steps):
            share = arm.share_at(step, settings.steps)
            images, targets, synthetic = _draw(sources, arm.pool, share, settings, step)
            drawn[arm.pool] += synthetic
            drawn[""] += len(images) - synthetic
            images, weights = _change(arm, images, weigh(targets), recipe.augmentation, settings.seed, step)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * learning_rate_factor(step, settings)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                log_probability = module(images.to(device, memory_format=torch.channels_last))[
                    "log_probability"
                ].float()
            loss = -(weights.to(device) * _apart(log_probability, sizes)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            losses.append(finite_step(step, loss))
            optimizer.step()
            watch(step + 1, settings.steps)
    seconds = clock() - begun
    finite_weights(settings.steps, module.state_dict())
    return Outcome(_classify(module, test, device, sizes), tuple(losses), drawn, seconds)


def split_by_label(log_probability: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """(..., K) of an Outcome -> the values of each label alone."""
    return np.split(log_probability, np.cumsum(sizes)[:-1], -1)


@dataclass(frozen=True)
class _Source:
    """Samples sorted by class: those of class k are order[first[k] : first[k] + count[k]]."""

    images: Tensor
    targets: Tensor
    order: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, name: str, samples: Labelled, classes: np.ndarray) -> _Source:
        kinds = _kinds(samples)
        counts = np.array([(kinds == k).sum() for k in classes])
        if not counts.all():
            lacking = ", ".join(map(str, classes[counts == 0]))
            raise Error(f"Every class is drawn equally often; {name} have none of class {lacking}. Make some.")
        place = [np.flatnonzero(kinds == k) for k in classes]
        order, first = np.concatenate(place), np.cumsum(counts) - counts
        targets = samples.targets.astype(np.int64 if samples.targets.ndim == 1 else np.float32)
        images, targets = torch.from_numpy(samples.images), torch.from_numpy(targets)
        return cls(images, targets, *(torch.from_numpy(each.astype(np.int64)) for each in (order, first, counts)))

    def pick(self, kind: Tensor, place: Tensor) -> Tensor:
        """Indices of samples of these classes; place in [0, 1) says which."""
        count = self.count[kind]
        return self.order[self.first[kind] + (place * count).long().clamp(max=count - 1)]


def _kinds(samples: Labelled) -> np.ndarray:
    """(N,) what is drawn evenly: the class; with several labels, which overlap, all samples are of one kind."""
    return samples.targets if samples.targets.ndim == 1 else np.zeros(len(samples.targets), int)


def _weigher(targets: np.ndarray, sizes: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """(B,) or (B, L) -> (B, K): the weight of each value in the loss, nought where a label is unknown.

    With several labels, balanced as in scikit-learn's class_weight: n known / (values * n of this value).
    """
    if targets.ndim == 1:
        return lambda some: nnf.one_hot(some, sizes[0]).float()
    balance = []
    for column, size in zip(targets.T, sizes, strict=True):
        counts = np.array([(column == value).sum() for value in range(size)])
        there = (counts > 0).sum()
        balance.append(np.minimum(counts.sum() / np.maximum(counts * there, 1), HEAVIEST))
    heavy = [torch.from_numpy(each.astype(np.float32)) for each in balance]

    def weigh(some: Tensor) -> Tensor:
        parts = []
        for column, size, each in zip(some.T, sizes, heavy, strict=True):
            known = ~column.isnan()
            parts.append(nnf.one_hot(column.nan_to_num().long(), size) * each * known[:, None])
        return torch.cat(parts, 1)

    return weigh


def _apart(log_probability: Tensor, sizes: Sequence[int]) -> Tensor:
    """Log-probabilities over all outputs -> over those of each label: what they share cancels."""
    if len(sizes) == 1:
        return log_probability
    return torch.cat([nnf.log_softmax(part, 1) for part in log_probability.split(list(sizes), 1)], 1)


def _draw(
    sources: Mapping[str, _Source], pool: str, share: float, settings: Training, step: int
) -> tuple[Tensor, Tensor, int]:
    """The images and targets of one step, and how many of them come from the pool."""
    random = generator(settings.seed, step, 10)
    real = sources[""]
    kind = torch.randint(len(real.count), (settings.batch,), generator=random)
    place = torch.rand(settings.batch, generator=random, dtype=torch.float64)
    synthetic = torch.rand(settings.batch, generator=random) < share
    index = real.pick(kind, place)
    images, targets = real.images[index], real.targets[index]
    if synthetic.any():
        other = sources[pool]
        chosen = other.pick(kind, place)[synthetic]
        # Of several labels a pool's sample has its own; of one label the kind is the target, and these are the same.
        images[synthetic], targets[synthetic] = other.images[chosen], other.targets[chosen]
    return images, targets, int(synthetic.sum())


def _change(
    arm: Arm, images: Tensor, weights: Tensor, augmentation: Augmentation, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    if arm.augment:
        images = augment(images, augmentation, generator(seed, step, 11))
    if arm.mixing:
        random = np.random.default_rng((seed, step, 12))
        mix = arm.mixing[random.integers(len(arm.mixing))]
        images, weights = map(torch.from_numpy, mix(images.numpy(), weights.numpy(), random))
    return images, weights


@torch.no_grad()
def _classify(module: FeatureNet, images: np.ndarray, device: torch.device, sizes: Sequence[int]) -> np.ndarray:
    module.eval()
    parts = torch.from_numpy(images).split(128)
    found = [module(part.to(device, memory_format=torch.channels_last))["log_probability"] for part in parts]
    return _apart(torch.cat(found).float(), sizes).cpu().numpy()
