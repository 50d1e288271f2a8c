"""Time the memorisation audit and the features of many images against what one would write without diffgraft.

    python benchmarks/audit.py --images 10000 --rounds 3 --model models/plant_disease

Audit: the search of `images` fake images among as many training images, by all three measures with left-right and
up-down mirror images, against the same NCC in a plain loop over shifts and mirror images, and against scikit-learn's
brute-force nearest neighbours of the pixels of all mirror images, which knows no shifts and answers one measure alone.
Features: a network in batches, against the same network image by image, and against the .npy blocks of a second run.

What takes hours is timed on a part of the images and stretched to all of them; the table says so. The contenders take
turns in every round on the same threads, and medians and ratios of rounds are printed. Images are smooth
random fields: the search does the same work for any. Needs the extras edge and train.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import NearestNeighbors

from diffgraft.models.features import load_backbone
from toolkit.evaluation.features import cached_features
from toolkit.evaluation.neighbours import Gallery

SHAPE = (3, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", type=int, default=500, help="fake images that each round really searches for")
    parser.add_argument("--loop", type=int, default=2, help="fake images of the plain loop, against 50 training images")
    parser.add_argument("--model", type=Path, help="model folder with a feature network; a random projection without")
    options = parser.parse_args()
    train, fake = drawn(0, options.images), drawn(1, options.images)
    embed = projection() if options.model is None else load_backbone(options.model, None).embed
    begun = time.perf_counter()
    gallery = Gallery(train, embed, (True, True))
    built = time.perf_counter() - begun
    pixels = train.reshape(len(train), -1).astype(np.float32)
    brute = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(pixels)
    part, few, near = min(options.part, len(fake)), options.loop, min(50, len(train))
    single = fake[:part].astype(np.float32)
    mirrored = [single[..., ::down, ::across] for down in (1, -1) for across in (1, -1)]
    print(
        f"{options.images} images {SHAPE}, {options.rounds} rounds; preparing the training images {built:.1f} s, once"
    )
    table(
        "audit: nearest training image",
        {
            "diffgraft": (lambda: gallery.nearest(fake[:part]), len(fake) / part),
            "scikit-learn": (lambda: [brute.kneighbors(view.reshape(part, -1)) for view in mirrored], len(fake) / part),
            "plain loop": (lambda: plain(single[:few], train[:near]), len(fake) / few * len(train) / near),
        },
        options.rounds,
    )
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder)
        cached_features(embed, single, "0" * 64, known)
        table(
            "features",
            {
                "batches": (lambda: cached_features(embed, single, "0" * 64), len(fake) / part),
                "image by image": (lambda: [embed(image[None]) for image in single], len(fake) / part),
                "second run": (lambda: cached_features(embed, single, "0" * 64, known), len(fake) / part),
            },
            options.rounds,
        )


def table(title: str, contenders: dict[str, tuple[Callable[[], object], float]], rounds: int) -> None:
    """Time the contenders in turn; each has a call and the factor to all images. Ratios are to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, (call, stretch) in contenders.items():
            begun = time.perf_counter()
            call()
            if turn:  # the first round warms up
                seconds[name].append((time.perf_counter() - begun) * stretch)
    first = next(iter(seconds.values()))
    print(f"\n{title:32} {'seconds':>10} {'ratio':>8}   [range of ratios]  timed on")
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        print(
            f"{name:32} {statistics.median(values):10.1f} {statistics.median(ratios):8.2f}   "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]      1/{contenders[name][1]:.0f} of the work"
        )


def plain(queries: np.ndarray, references: np.ndarray, shifts: int = 4) -> np.ndarray:
    """The largest correlation over shifts and mirror images, as a loop would say it."""
    height, width = SHAPE[1] - 2 * shifts, SHAPE[2] - 2 * shifts
    best = np.full(len(queries), -1.0)
    for n, query in enumerate(queries):
        for reference in references.astype(np.float32):
            for view in (query, query[..., ::-1], query[:, ::-1], query[:, ::-1, ::-1]):
                inner = view[:, shifts : shifts + height, shifts : shifts + width]
                inner = inner - inner.mean()
                for top in range(2 * shifts + 1):
                    for left in range(2 * shifts + 1):
                        below = reference[:, top : top + height, left : left + width]
                        below = below - below.mean()
                        value = (inner * below).sum() / np.sqrt((inner**2).sum() * (below**2).sum())
                        best[n] = max(best[n], value)
    return best


def projection() -> Callable[[np.ndarray], np.ndarray]:
    matrix = np.random.default_rng(0).standard_normal((3 * 16 * 32, 96)).astype(np.float32)

    def embed(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), 3, 16, 4, 32, 4).mean((3, 5)).reshape(len(images), -1) @ matrix

    return embed


def drawn(seed: int, count: int) -> np.ndarray:
    """Smooth fields, in half precision: 10,000 of them take half a gigabyte."""
    random = np.random.default_rng(seed)
    images = np.empty((count, *SHAPE), np.float16)
    for first in range(0, count, 256):
        field = random.standard_normal((min(256, count - first), *SHAPE), np.float32)
        images[first : first + 256] = np.clip(gaussian_filter(field, (0, 0, 4, 4)) * 6, -1, 1)
    return images


if __name__ == "__main__":
    main()
