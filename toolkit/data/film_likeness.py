"""Whether an image is like the films of a training: coarse shape, texture, and which way up it is; numpy alone.

What a model keeps of its films is small and tells of no patient: coarse means of groups of films, the directions in which
they vary, mean and covariance of statistics of their texture. An image's novelty is one number,

    ln d + 2 atanh(-c) + ln m        d, m: squared Mahalanobis distances a dimension, of texture and of coarse shape;
                                     c: correlation with the group of films that it resembles most

Weights and size were chosen on films that no model saw and on leaves, MR slices, pages, hands and negatives; see the card of
the starter model for what it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["FEWEST", "doubts", "novelty", "summarise"]

FEWEST = 100
"""Films of a training that a summary needs; of fewer, nothing is refused."""

CELLS, GROUPS, DIRECTIONS = 8, 32, 12
"""Rows and columns of a coarse film, groups of films, directions of their variation."""

SPREAD = 3.0
"""The limit, in standard deviations above the mean novelty of the training's own films."""

MARGIN = 0.12
"""By how much the correlation must be higher for a turn, or for the negative, to be believed."""

TURNS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "upside down": lambda image: image[::-1],
    "turned by half": lambda image: image[::-1, ::-1],
    "turned by 90 degrees": lambda image: np.rot90(image),
    "turned by -90 degrees": lambda image: np.rot90(image, -1),
    "as a negative": lambda image: -image,
}


def summarise(images: np.ndarray) -> dict[str, Any]:
    """What is kept of films (n, H, W) in [-1, 1], as plain lists; {} of fewer than FEWEST."""
    if len(images) < FEWEST:
        return {}
    coarse, texture = _coarse(images), _texture(images)
    mean = coarse.mean(0)
    _, sizes, directions = np.linalg.svd(coarse - mean, full_matrices=False)
    covariance = np.cov(texture.T)
    found = {
        "groups": np.rint(_groups(coarse) * 1000).astype(int).tolist(),
        "mean": np.round(mean, 4).tolist(),
        "directions": np.rint(directions[:DIRECTIONS] * 1000).astype(int).tolist(),
        "spread": np.round(sizes[:DIRECTIONS] / np.sqrt(len(coarse)), 4).tolist(),
        "texture": np.round(texture.mean(0), 4).tolist(),
        "covariance": np.round(covariance + 1e-3 * np.diag(np.diag(covariance)), 6).tolist(),
    }
    own = _novelty(found, images)
    return found | {"limit": round(float(own.mean() + SPREAD * own.std()), 4)}


def novelty(known: Mapping[str, Any], image: np.ndarray) -> float:
    """How unlike the films of a summary an image (H, W) in [-1, 1] is."""
    return float(_novelty(known, image[None])[0])


def doubts(known: Mapping[str, Any], image: np.ndarray) -> list[str]:
    """Reasons to believe that an image (H, W) in [-1, 1] is no film as those of a summary."""
    found = []
    value = novelty(known, image)
    if value > known["limit"]:
        found.append(f"it has a novelty of {value:.2f}, the limit is {known['limit']:.2f}")
    own = _fit(known, _coarse(image[None]))[0]
    turned = {name: float(_fit(known, _coarse(turn(image)[None]))[0]) for name, turn in TURNS.items()}
    best = max(turned, key=lambda name: turned[name])
    if turned[best] > own + MARGIN:
        found.append(f"{best} it would resemble a film more ({turned[best]:.2f}) than as it is ({own:.2f})")
    return found


def _novelty(known: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
    coarse, texture = _coarse(images), _texture(images) - np.array(known["texture"])
    shares = (coarse - np.array(known["mean"])) @ (np.array(known["directions"]).T / 1000) / np.array(known["spread"])
    distance = np.einsum("ni,ij,nj->n", texture, np.linalg.inv(np.array(known["covariance"])), texture)
    correlation = np.clip(_fit(known, coarse), -0.99, 0.99)
    apart = np.log(np.maximum(distance / texture.shape[1], 1e-6)) + np.log(np.maximum((shares**2).mean(1), 1e-6))
    return apart - 2 * np.arctanh(correlation)


def _fit(known: Mapping[str, Any], coarse: np.ndarray) -> np.ndarray:
    """(n,) correlation with the group of films that is the most alike."""
    return (coarse @ (np.array(known["groups"]).T / 1000)).max(1)


def _coarse(images: np.ndarray) -> np.ndarray:
    """(n, CELLS^2) cell means of images, of mean 0 and length 1."""
    count, rows, cols = images.shape
    cells = images[:, : rows // CELLS * CELLS, : cols // CELLS * CELLS]
    cells = cells.reshape(count, CELLS, rows // CELLS, CELLS, cols // CELLS).mean((2, 4)).reshape(count, -1)
    cells = cells - cells.mean(1, keepdims=True)
    return cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-9)


def _groups(coarse: np.ndarray) -> np.ndarray:
    """(GROUPS, CELLS^2) directions of the groups that k-means finds, by cosine, from a drawing that is always the same."""
    centres = coarse[np.random.default_rng(0).choice(len(coarse), GROUPS, replace=False)]
    for _ in range(30):
        nearest = (coarse @ centres.T).argmax(1)
        centres = np.stack(
            [coarse[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(GROUPS)]
        )
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return centres


def _texture(images: np.ndarray) -> np.ndarray:
    """(n, 10) of images: log energy and its evenness in three bands, an octave each, parts black and white, mean, spread."""
    found, left = [], np.asarray(images, np.float64)
    for _ in range(3):
        count, rows, cols = left.shape
        half = left[:, : rows // 2 * 2, : cols // 2 * 2].reshape(count, rows // 2, 2, cols // 2, 2).mean((2, 4))
        band = left[:, : rows // 2 * 2, : cols // 2 * 2] - half.repeat(2, 1).repeat(2, 2)
        energy = (band**2).mean((1, 2))
        found += [np.log(energy + 1e-5), np.log(np.abs(band).mean((1, 2)) ** 2 + 1e-6) - np.log(energy + 1e-6)]
        left = half
    found += [np.log((images < -0.9).mean((1, 2)) + 0.01), np.log((images > 0.9).mean((1, 2)) + 0.01)]
    return np.stack([*found, images.mean((1, 2)), images.std((1, 2))], 1)
