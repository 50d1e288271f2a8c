"""Random numbers: standard normal noise as a pure function of seed, sample index, purpose and step.

A sample's noise does not depend on the batch, the shard or the order it is drawn in, nor on the backend: numpy draws
it, always. Philox4x64-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405) is keyed with (seed, sample index); purpose
and step are the high words of its counter, so no two draws overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np

from toolkit.diffusion.model import Array
from toolkit.example import Error

__all__ = ["Draws", "Purpose", "Seeded", "gaussian", "uniform"]

_WORD = 2**64


class Purpose(IntEnum):
    """What a draw is for. The numbers are part of what a seed means: add, never renumber."""

    START = 0
    """the noise that sampling starts from"""
    SAMPLER = 1
    """what a stochastic sampler adds at a step"""
    KNOWN = 2
    """what is added to the known part of an image that is completed"""
    JUMP = 3
    """what takes a sample back up to a larger sigma"""
    CHOICE = 4
    """what a method chooses for a sample: a strength, a weight, a place (`uniform`)"""


class Draws(Protocol):
    """Noise for an editing procedure: (step, purpose) -> array of x's shape. A sampler gives the step alone."""

    def __call__(self, step: int, purpose: int = Purpose.SAMPLER, /) -> Array: ...


def gaussian(shape: Sequence[int], seed: int, samples: Sequence[int], purpose: int, step: int) -> np.ndarray:
    """Standard normal noise, float32, of shape (len(samples), *shape).

    samples: index of each sample in the whole run. Errors: a number that is not in [0, 2^64).
    """
    noise = np.empty((len(samples), *shape), np.float32)
    for n, random in enumerate(_generators(seed, samples, purpose, step)):
        noise[n] = random.standard_normal(tuple(shape), np.float32)
    return noise


def uniform(
    shape: Sequence[int], seed: int, samples: Sequence[int], step: int, purpose: int = Purpose.CHOICE
) -> np.ndarray:
    """Numbers in [0, 1), float64, of shape (len(samples), *shape); what was said of `gaussian` holds."""
    numbers = np.empty((len(samples), *shape))
    for n, random in enumerate(_generators(seed, samples, purpose, step)):
        numbers[n] = random.random(tuple(shape))
    return numbers


def _generators(seed: int, samples: Sequence[int], purpose: int, step: int) -> Iterator[np.random.Generator]:
    for name, number in [("seed", seed), ("purpose", purpose), ("step", step), *(("sample", n) for n in samples)]:
        if not 0 <= number < _WORD:
            raise Error(f"Noise is numbered from 0 to 2^64 - 1; found {name} = {number}. Give a number in that range.")
    counter = np.array([0, 0, step, purpose], np.uint64)
    for sample in samples:
        yield np.random.Generator(np.random.Philox(key=np.array([seed, sample], np.uint64), counter=counter))


@dataclass(frozen=True)
class Seeded:
    """The Draws of a batch: sample indices of one seed, handed over as arrays of a backend.

    shape: of one sample. asarray: numpy array -> the backend's array (Model.asarray).
    """

    seed: int
    samples: Sequence[int]
    shape: Sequence[int]
    asarray: Callable[[Any], Array] = np.asarray

    def __call__(self, step: int, purpose: int = Purpose.SAMPLER, /) -> Array:
        return self.asarray(gaussian(self.shape, self.seed, self.samples, purpose, step))
