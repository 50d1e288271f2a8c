"""An image changed by words, its anatomy kept: a counterfactual of one film, and how much of the film it keeps.

The film is encoded under the words for what it shows (up to a strength, without noise, as DDIB does), and decoded along
the difference of two texts,

    D(x) = D(x, sigma; stated) + g (D(x, sigma; wanted) - D(x, sigma; stated)),

so that what both texts say, or neither, pulls nowhere; g = 1 is DDIB. What the codec of a latent model loses of the film
(x - decode(encode(x)), fine texture) is no part of the change and is added again. Where to change it need not be drawn:
`difference_mask` marks where the two texts disagree about the film.

What differs from BiomedJourney (Gu et al. 2023, arXiv:2310.10765). That network is trained on pairs of films of one
patient, with a progression text between them that GPT-4 wrote, and sees the prior film in channels of its input. Here
nothing is trained on pairs: a text-to-image model of single films is all there is, the film comes in by inversion alone,
and the words are those of the film after the change, not of the change. So nothing has been learned of how a disease
goes on, and a finding may be drawn where it would not arise. DiffEdit (Couairon et al. 2022, arXiv:2210.11427) puts the
encoded background back at every step; here the source's own pixels are put back at the end, which keeps them exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from toolkit.diffusion.model import Model
from toolkit.diffusion.noise import Purpose, Seeded
from toolkit.methods import guided, local_edit
from toolkit.methods.guided import BATCH, Conditions, Run, Walk
from toolkit.methods.local_edit import Edited, LocalEdit
from toolkit.methods.method import Method

__all__ = ["METHODS", "counterfactual", "difference_mask", "edge_correlation"]

METHODS = (
    Method(
        "Text counterfactual",
        "after Gu et al. 2023 (BiomedJourney, MedJourney), arXiv:2310.10765, by Su et al. 2023 (DDIB), arXiv:2203.08382",
        "One film as it would be under other words, by inversion along the difference of two texts; no pairs of films.",
        "a denoiser with a text encoder; a film, and what it shows in words or labels",
        "toolkit.methods.text_edit.counterfactual; diffgraft edit MODEL FILM OUT --procedure invert --set text=...",
    ),
    Method(
        "DiffEdit",
        "Couairon et al. 2022, arXiv:2210.11427",
        "The region of an edit found, not drawn: where a noisy image is denoised otherwise under one condition than the other.",
        "a conditional denoiser; an image, and what it shows in words or labels",
        "toolkit.methods.text_edit.difference_mask; diffgraft edit MODEL FILM OUT --region difference --set text=...",
    ),
)

DRAWS, HALFWAY, OUTLIERS = 10, 0.5, 0.99
"""DiffEdit, section 3.2: noises averaged over; their strength, and the part of the largest difference that counts; the
quantile above which a difference is an outlier."""

SMOOTHED = 1.0
"""Standard deviation, in pixels, of the Gaussian before a gradient: edges of anatomy, not grain of the film."""


def counterfactual(
    run: Run, images: np.ndarray, masks: np.ndarray, strength: float, stated: Conditions, settings: LocalEdit
) -> Edited:
    """Every image (N, C, H, W) encoded as `stated` up to the strength, decoded towards its condition, away from `stated`.

    What stands in the place of the condition, run.null, is `stated` here, whatever it is.

    masks (N, H, W), boolean: outside, the source is put back bit by bit. Errors: a sampler that draws noise.
    """
    return local_edit.invert(dataclasses.replace(run, null=stated), images, masks, strength, stated, settings)


def difference_mask(
    model: Model, images: np.ndarray, stated: Conditions, wanted: Conditions, walk: Walk, indices: Sequence[int]
) -> np.ndarray:
    """Where the images (N, C, H, W) are to change: (N, H, W) boolean.

    The mean over DRAWS noises at strength HALFWAY of |D(x; wanted) - D(x; stated)|, from 0 to its largest value; the mask
    is where that is above half of it. Two conditions that are alike differ nowhere in particular: no mask means much then.
    """
    shape, sigma = model.denoiser.spec.shape, guided.sigmas(model, walk, HALFWAY)[0]
    found = []
    for first in range(0, len(images), BATCH):
        rows = slice(first, first + BATCH)
        conds = ({k: model.asarray(v[rows]) for k, v in cond.items()} for cond in (stated, wanted))
        now, then = conds
        x = model.codec.encode(model.asarray(images[rows]))
        noise = Seeded(walk.seed, [int(index) for index in indices[rows]], shape, model.asarray)
        total = np.zeros((len(x), *shape[1:]))
        for draw in range(DRAWS):
            one, other = model.denoiser(x + sigma * noise(draw, Purpose.CHOICE), sigma, now, then)
            total += np.abs(model.asnumpy(one - other)).mean(1)
        found.append(total)
    maps = ndimage.gaussian_filter(np.concatenate(found), (0, SMOOTHED, SMOOTHED))
    largest = np.quantile(maps, OUTLIERS, axis=(1, 2), keepdims=True)
    scale = [1, *(size / own for size, own in zip(images.shape[2:], shape[1:], strict=True))]
    return np.asarray(ndimage.zoom(maps, scale, order=1, mode="nearest", grid_mode=True)) >= HALFWAY * largest


def edge_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of the edges of pairs of images (N, C, H, W), (N,): 1 where every outline is where it was.

    Pearson's, of the gradient's magnitude after a Gaussian of one pixel; it asks where edges are and how strong in
    proportion, not how bright the image is. NaN for an image without an edge.
    """
    found = []
    for pair in zip(a, b, strict=True):
        one, other = (_magnitude(image).ravel() - _magnitude(image).mean() for image in pair)
        norm = float(np.linalg.norm(one) * np.linalg.norm(other))
        found.append(float(one @ other) / norm if norm > 0 else np.nan)
    return np.array(found)


def _magnitude(image: np.ndarray) -> np.ndarray:
    """(H, W) of an image (C, H, W)."""
    return ndimage.gaussian_gradient_magnitude(image.mean(0, dtype=np.float64), SMOOTHED)
