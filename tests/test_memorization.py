"""The nearest training image: planted copies are found, unrelated images are not, and a plain loop agrees."""

import time

import numpy as np
import pytest

from toolkit.evaluation.memorization import nearest_ncc
from toolkit.example import Error

random = np.random.default_rng(3)
REFERENCES = random.standard_normal((7, 1, 24, 20)).astype(np.float32)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """What a camera sees that has moved: new content comes in at the edge."""
    height, width = image.shape[-2:]
    wide = np.pad(image, ((0, 0), (9, 9), (9, 9)), "reflect")
    return wide[:, 9 - down : 9 - down + height, 9 - right : 9 - right + width]


COPIES = {
    "exact": lambda image: image,
    "mirrored": lambda image: image[..., ::-1],
    "shifted": lambda image: shifted(image, 3, -4),
    "shifted and mirrored": lambda image: shifted(image, -4, 2)[..., ::-1],
    "brighter and stronger": lambda image: 2.5 * image + 7,
    "all at once": lambda image: 0.1 * shifted(image[..., ::-1], 1, 4) - 300,
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_planted_copy_is_found(change):
    queries = np.stack([change(REFERENCES[5]), change(REFERENCES[2])])
    similarity, index = nearest_ncc(queries, REFERENCES)
    assert index.tolist() == [5, 2]
    assert similarity == pytest.approx(1, abs=1e-4)
    assert similarity.max() <= 1


def test_a_noisy_copy_is_near_and_noise_is_far():
    noise = random.standard_normal(REFERENCES.shape)
    near, index = nearest_ncc(REFERENCES + 0.3 * noise, REFERENCES)
    far, _ = nearest_ncc(noise, REFERENCES)
    assert index.tolist() == list(range(7))
    assert near.min() > 0.9
    assert far.max() < 0.5


def test_a_larger_shift_than_asked_for_is_another_image():
    moved = shifted(REFERENCES[0], 4, 0)[None]
    assert nearest_ncc(moved, REFERENCES, 3)[0] < 0.5
    assert nearest_ncc(moved, REFERENCES, 4)[0] > 0.99


@pytest.mark.parametrize(("channels", "shifts"), [(1, 0), (1, 2), (3, 1)])
def test_a_plain_loop_agrees(channels, shifts):
    queries, references = random.random((4, channels, 9, 11)), random.random((5, channels, 9, 11))
    expected = np.full((4, 5), -np.inf)
    for n, query in enumerate(queries):
        for m, reference in enumerate(references):
            for turned in (query, query[..., ::-1]):
                part = turned[:, shifts : 9 - shifts, shifts : 11 - shifts]
                for top in range(2 * shifts + 1):
                    for left in range(2 * shifts + 1):
                        below = reference[:, top : top + 9 - 2 * shifts, left : left + 11 - 2 * shifts]
                        here = np.corrcoef(part.ravel(), below.ravel())[0, 1]
                        expected[n, m] = max(expected[n, m], here)
    similarity, index = nearest_ncc(queries, references, shifts)
    assert similarity == pytest.approx(expected.max(1), abs=1e-5)
    assert index.tolist() == expected.argmax(1).tolist()


def test_more_references_than_are_held_at_once():
    many = random.standard_normal((1100, 1, 8, 8)).astype(np.float32)
    similarity, index = nearest_ncc(many[[1050, 3, 600]], many, 1)
    assert index.tolist() == [1050, 3, 600]
    assert similarity == pytest.approx(1, abs=1e-4)


def test_a_constant_image_is_like_nothing():
    flat = np.full((1, 1, 24, 20), 0.7, np.float32)
    assert nearest_ncc(flat, REFERENCES)[0].tolist() == [0]
    assert nearest_ncc(REFERENCES[:1], flat)[0].tolist() == [0]


def test_it_is_fast_enough():
    queries = random.standard_normal((100, 1, 64, 64)).astype(np.float32)
    begun = time.perf_counter()
    nearest_ncc(queries, np.concatenate([queries] * 3))
    assert time.perf_counter() - begun < 60


@pytest.mark.parametrize(
    ("queries", "references", "shifts", "words"),
    [
        (REFERENCES, REFERENCES[..., :-1], 4, "one shape"),
        (REFERENCES[0], REFERENCES, 4, "one shape"),
        (REFERENCES, REFERENCES[:0], 4, "one or more"),
        (REFERENCES, REFERENCES, 10, "Take fewer"),
        (REFERENCES, REFERENCES, -1, "Take fewer"),
    ],
)
def test_what_cannot_be_compared_is_refused(queries, references, shifts, words):
    with pytest.raises(Error, match=words):
        nearest_ncc(queries, references, shifts)


def test_no_queries_no_answer():
    similarity, index = nearest_ncc(REFERENCES[:0], REFERENCES)
    assert similarity.shape == index.shape == (0,)
