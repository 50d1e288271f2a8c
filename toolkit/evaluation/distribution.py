"""How far two sets of images are apart as distributions, in the features of a network. Numpy only.

Features are (n, D) and (m, D), one row an image. A value says nothing without the network, the number of images and how
they were resized, so it is printed with them; and none of these is comparable with one of another network. Few hundred
images: the kernel distance, whose expectation does not depend on their number; the Frechet distance falls with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from toolkit.example import Error

__all__ = ["KernelDistance", "Manifold", "frechet_distance", "kernel_distance", "precision_recall"]

_CHUNK = 1024


class KernelDistance(NamedTuple):
    """Squared maximum mean discrepancy, unbiased (it may be below 0), and its standard error."""

    value: float
    error: float


class Manifold(NamedTuple):
    """How much of the fake images lies among the real ones, and the other way round.

    precision: part of the fake images that lie in the ball of a real one to its k-th real neighbour; recall: the same
    with the two sets changed over. density: balls of real images that a fake one lies in, over k (above 1 where fake
    images crowd); coverage: part of the real images with a fake one in their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float | None:
    """Frechet distance of the Gaussians fitted to two sets of features; None where they cannot be fitted.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), Heusel et al. 2017, arXiv:1706.08500, eq. 6. A set of no more images
    than features has a singular covariance, and the value then tells more of the number of images than of them.
    """
    real, fake = _sets(real, fake, 2)
    if min(len(real), len(fake)) <= real.shape[1]:
        return None
    first, second = np.atleast_2d(np.cov(real, rowvar=False)), np.atleast_2d(np.cov(fake, rowvar=False))
    # S1 S2 is not symmetric, but it has the eigenvalues of S1^(1/2) S2 S1^(1/2), which is, so that none gets complex.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    both = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    distance = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * both
    return max(0.0, float(distance))


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> KernelDistance:
    """Kernel distance (KID) of two sets of features with its standard error.

    The unbiased MMD^2 with the kernel (x . y / D + 1)^3: Binkowski et al. 2018, arXiv:1801.01401, sections 3 and 4,
    where the value is a mean over random subsets. This is the mean over all of them: every pair of images counts. The
    error is a delete-one jackknife over the images of both sets; subsets overlap, so their spread is none. It is too
    large rather than too small where the two distributions are nearly the same. Errors: fewer than three images.
    """
    real, fake = _sets(real, fake, 3)
    n, m = len(real), len(fake)
    within_real, across = _kernel_sums(real, real), _kernel_sums(real, fake)
    within_fake, across_fake = _kernel_sums(fake, fake), _kernel_sums(fake, real)
    within_real, within_fake = within_real - _kernel_diagonal(real), within_fake - _kernel_diagonal(fake)
    xx, yy, xy = within_real.sum(), within_fake.sum(), across.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    # The value without image i, for every i at once: each pair of i leaves its sum.
    without_real = (xx - 2 * within_real) / ((n - 1) * (n - 2)) - 2 * (xy - across) / ((n - 1) * m)
    without_fake = (yy - 2 * within_fake) / ((m - 1) * (m - 2)) - 2 * (xy - across_fake) / (n * (m - 1))
    variance = (n - 1) * without_real.var() + (m - 1) * without_fake.var()
    return KernelDistance(float(value), float(np.sqrt(variance)))


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 5) -> Manifold:
    """Improved precision and recall, density and coverage with balls to the k-th neighbour.

    Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1-2 (they take k = 3); Naeem et al. 2020, arXiv:2002.09797, eq. 4
    and 5 (k = 5). All four depend on the number of images: compare at equal ones. Errors: no more than k images.
    """
    real, fake = _sets(real, fake, k + 1)
    if k < 1:
        raise Error(f"A ball reaches to a neighbour, k is 1 or more; found {k}.")
    radius_real, radius_fake = _radii(real, k), _radii(fake, k)
    precise, dense = 0, 0
    recalled, nearest = np.zeros(len(real), bool), np.full(len(real), np.inf)
    for part, distance in _distances(fake, real):
        inside = distance <= radius_real
        precise, dense = precise + int(inside.any(1).sum()), dense + int(inside.sum())
        recalled |= (distance <= radius_fake[part, None]).any(0)
        nearest = np.minimum(nearest, distance.min(0))
    return Manifold(
        precision=precise / len(fake),
        recall=float(recalled.mean()),
        density=dense / (k * len(fake)),
        coverage=float((nearest <= radius_real).mean()),
    )


def _sets(real: np.ndarray, fake: np.ndarray, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1:] != fake.shape[1:] or not real.shape[1]:
        raise Error(
            f"Features are compared as (n, D) with (m, D); found {real.shape} and {fake.shape}. "
            "Take both from one feature network."
        )
    if min(len(real), len(fake)) < fewest:
        raise Error(
            f"Distributions are compared with {fewest} or more images each; found {len(real)} and {len(fake)}. "
            "Take more images."
        )
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise Error("Features are finite numbers; found some that are not. Check the feature network and its images.")
    return real, fake


def _kernel_sums(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n,): sum of the kernel of each row with all columns."""
    return np.concatenate(
        [
            ((rows[first : first + _CHUNK] @ columns.T / rows.shape[1] + 1) ** 3).sum(1)
            for first in range(0, len(rows), _CHUNK)
        ]
    )


def _kernel_diagonal(rows: np.ndarray) -> np.ndarray:
    return ((rows**2).mean(1) + 1) ** 3


def _distances(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of a chunk of rows to all columns, chunk after chunk."""
    # About their common mean, or the square of a far mean would swallow the differences.
    centre = columns.mean(0)
    rows, columns = rows - centre, columns - centre
    norm = (columns**2).sum(1)
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        distance = (chunk**2).sum(1)[:, None] + norm - 2 * chunk @ columns.T
        yield slice(first, first + len(chunk)), distance.clip(0)


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """(n,): squared distance of each point to its k-th neighbour, itself not counted."""
    found = np.empty(len(points))
    for part, distance in _distances(points, points):
        # Itself is at 0, or at rounding: said exactly, or a duplicate of it could take its place.
        distance[np.arange(len(distance)), np.arange(part.start, part.stop)] = -1
        found[part] = np.partition(distance, k, axis=1)[:, k]
    return found
