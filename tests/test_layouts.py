"""New layouts: what is promised of each kind, on made-up fields of discs whose overlaps are known, and what a model keeps."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.example import Annotation, Boxes, Error
from toolkit.objects.boxes import MOST, to_arrays
from toolkit.objects.layout_summary import check_layout, from_summary, smallest_sizes, to_summary
from toolkit.objects.layouts import KINDS, flip, generate_layouts, layout_generator
from toolkit.objects.overlaps import Overlaps, pairwise_overlap

ROWS, COLS = SIZE = (60, 90)
SIDES = {"cell": 12.0, "giant": 26.0, "speck": 5.0}


def field(n: int) -> Boxes:
    """Two to eight cells, one giant and perhaps specks; no two boxes overlap by more than a fifth of the smaller."""
    random = np.random.default_rng(n)
    names = ["giant"] + ["cell"] * int(random.integers(2, 9)) + ["speck"] * int(random.integers(0, 3))
    corners, kept = np.zeros((0, 4)), []
    for name in names:
        for _ in range(200):
            side = SIDES[name] * np.exp(random.normal(0, 0.1, 2))
            low = random.uniform(-side / 3, np.array([COLS, ROWS]) - 2 * side / 3)
            box = np.clip(np.concatenate([low, low + side]), 0, [COLS, ROWS] * 2)
            if (pairwise_overlap(box[None], corners)[1] <= 0.2).all():
                corners, kept = np.concatenate([corners, box[None]]), [*kept, name]
                break
    return Boxes(corners, tuple(kept), SIZE)


REAL = [field(n) for n in range(40)]
SETS = {(layout.corners.tobytes(), layout.names) for layout in REAL}


def largest(layouts, measure: int) -> float:
    """The largest IoU (0) or covered part (1) of a pair."""
    found = [pairwise_overlap(b.corners, b.corners)[measure][np.triu_indices(len(b.names), 1)] for b in layouts]
    return float(np.concatenate(found).max())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**40), count=st.integers(1, 6))
def test_a_layout_depends_on_seed_and_number_alone_and_lies_in_the_image(kind, seed, count):
    made = generate_layouts(kind, REAL, count, seed, SIZE)
    again = layout_generator(kind, REAL, seed, SIZE)(count - 1)
    assert np.array_equal(again.corners, made[-1].corners) and again.names == made[-1].names
    for boxes in made:
        assert boxes.size == SIZE and 0 < len(boxes.names) <= MOST
        assert (boxes.corners[:, :2] < boxes.corners[:, 2:]).all()
        assert boxes.corners.min() >= 0 and (boxes.corners[:, 2:] <= [COLS, ROWS]).all()
        check_layout(boxes, {}, tuple(SIDES))
    to_arrays([Annotation(boxes=boxes) for boxes in made], tuple(SIDES))  # what a model is told


@pytest.mark.parametrize("kind", KINDS)
def test_objects_overlap_no_more_than_real_ones_do(kind):
    made = generate_layouts(kind, REAL, 60, 3, SIZE)
    limits = Overlaps.learn(REAL)
    assert limits.cover.max() <= 0.2 + 1e-9
    allowed = largest(REAL, 1) if kind in ("copy", "jitter", "recombine") else limits.cover.max()
    assert largest(made, 1) <= allowed + 1e-9
    both = [Boxes(np.concatenate([a.corners, b.corners]), a.names + b.names) for a, b in itertools.pairwise(made)]
    assert largest(both, 1) > allowed  # boxes that do not know of each other would


def test_copies_are_the_real_layouts_each_once_before_one_comes_again():
    made = generate_layouts("copy", REAL, 2 * len(REAL), 5, SIZE, flips=(False, False))
    for half in (made[: len(REAL)], made[len(REAL) :]):
        assert {(boxes.corners.tobytes(), boxes.names) for boxes in half} == SETS
    turned = generate_layouts("copy", REAL, len(REAL), 5, SIZE, flips=(True, False))
    same = [np.array_equal(a.corners, b.corners) for a, b in zip(made[: len(REAL)], turned, strict=True)]
    assert 0.2 < np.mean(same) < 0.8
    level = [np.allclose(a.corners[:, 1::2], b.corners[:, 1::2]) for a, b in zip(made, turned, strict=False)]
    assert all(level)


@given(across=st.booleans(), down=st.booleans(), n=st.integers(0, 39))
def test_a_flip_undoes_itself_and_moves_pixels_as_boxes(across, down, n):
    boxes = REAL[n]
    twice = flip(flip(boxes, across, down), across, down)
    assert twice.corners == pytest.approx(boxes.corners)
    image = np.zeros(SIZE, bool)
    x0, y0, x1, y1 = np.rint(boxes.corners[0]).astype(int)
    image[y0:y1, x0:x1] = True
    whole = Boxes(np.array([[x0, y0, x1, y1]], float), ("cell",), SIZE)
    a, b, c, d = flip(whole, across, down).corners[0].astype(int)
    turned = image[:: -1 if down else 1, :: -1 if across else 1]
    assert turned[b:d, a:c].all() and turned.sum() == (d - b) * (c - a)


def test_jitter_moves_every_box_a_little():
    made = generate_layouts("jitter", REAL, 40, 1, SIZE, flips=(False, False))
    exact = generate_layouts("copy", REAL, 40, 1, SIZE, flips=(False, False))
    moved, scaled = [], []
    for a, b in zip(made, exact, strict=True):
        assert a.names == b.names
        moved.append(np.abs(a.corners - b.corners).max(1) / COLS)
        scaled.append((a.corners[:, 2:] - a.corners[:, :2]) / (b.corners[:, 2:] - b.corners[:, :2]))
        assert np.array_equal(cut(a), cut(b))
    assert np.mean(np.concatenate(moved) > 0) > 0.8 and np.concatenate(moved).max() < 0.15
    assert np.concatenate(scaled).min() > 0.7 and np.concatenate(scaled).max() < 1.4


def cut(boxes: Boxes) -> np.ndarray:
    """(N, 4) which sides lie at the edge of the image."""
    return np.concatenate([boxes.corners[:, :2] <= 1, boxes.corners[:, 2:] >= np.array([COLS, ROWS]) - 1], 1)


def test_recombined_layouts_keep_real_boxes_and_counts_but_are_no_real_layout():
    made = generate_layouts("recombine", REAL, 40, 2, SIZE, flips=(False, False))
    exact = generate_layouts("copy", REAL, 40, 2, SIZE, flips=(False, False))
    whole = {tuple(box) for boxes in REAL for box in boxes.corners}
    missing = new = 0
    for a, b in zip(made, exact, strict=True):
        assert {tuple(box) for box in a.corners} <= whole
        for name in SIDES:
            assert a.names.count(name) <= b.names.count(name)
        missing += len(b.names) - len(a.names)
        new += not {tuple(box) for box in a.corners} <= {tuple(box) for box in b.corners}
    assert missing < 0.05 * sum(len(boxes.names) for boxes in exact) and new > 36


def test_sampled_layouts_have_the_statistics_of_real_ones():
    made = generate_layouts("sample", REAL, 120, 4, SIZE)
    assert all((b.corners.tobytes(), b.names) not in SETS for b in made)
    assert all(b.names.count("giant") == 1 for b in made)  # as in every real one: what comes together still does
    for name in SIDES:
        real, new = (np.array([b.names.count(name) for b in some]) for some in (REAL, made))
        assert new.mean() == pytest.approx(real.mean(), abs=0.35) and new.max() <= real.max()
        assert (new == 0).mean() == pytest.approx((real == 0).mean(), abs=0.02)
        real, new = (np.concatenate([b.corners[[n == name for n in b.names]] for b in some]) for some in (REAL, made))
        sides = [np.exp(np.log(c[:, 2:] - c[:, :2]).mean(0)) for c in (real, new)]
        assert sides[1] == pytest.approx(sides[0], rel=0.12)
    edges = [np.concatenate([cut(b).any(1) for b in some]).mean() for some in (REAL, made)]
    assert edges[1] == pytest.approx(edges[0], abs=0.06)
    touching = [
        np.mean(
            [(pairwise_overlap(b.corners, b.corners)[0][np.triu_indices(len(b.names), 1)] > 0).mean() for b in some]
        )
        for some in (REAL, made)
    ]
    assert touching[1] == pytest.approx(touching[0], abs=0.04)


def test_objects_that_keep_away_from_each_other_still_do():
    random, spread = np.random.default_rng(0), []
    while len(spread) < 120:
        low = random.uniform(2, [COLS - 10, ROWS - 10], (6, 2))
        boxes = Boxes(np.concatenate([low, low + 8], 1), ("cell",) * 6, SIZE)
        if (pairwise_overlap(boxes.corners, boxes.corners)[2][np.triu_indices(6, 1)] > 2.3).all():
            spread.append(boxes)

    def near(layouts):
        gaps = [pairwise_overlap(b.corners, b.corners)[2][np.triu_indices(len(b.names), 1)] for b in layouts]
        return (np.concatenate(gaps) < 2.3).mean()  # nearer than a third of a side

    assert near(spread) == 0
    strangers = [
        Boxes(np.stack([spread[(n + k) % 120].corners[k] for k in range(6)]), spread[n].names) for n in range(120)
    ]
    assert near(strangers) > 0.04
    assert near(generate_layouts("sample", spread, 60, 0, SIZE)) < 0.15 * near(strangers)


def test_images_of_nothing_stay_so_and_other_sizes_are_carried_over():
    empty = Boxes(np.zeros((0, 4)), (), SIZE)
    for kind in KINDS:
        made = generate_layouts(kind, [*REAL[:3], empty], 4, 0, (120, 180))
        assert sorted(len(b.names) > 0 for b in made) == [False, True, True, True]
        assert max(b.corners.max() for b in made if b.names) > COLS and all(b.size == (120, 180) for b in made)
    unsized = [Boxes(b.corners, b.names) for b in REAL]
    assert len(generate_layouts("sample", unsized, 3, 0, SIZE)) == 3
    lonely = generate_layouts("sample", [Boxes(np.array([[5.0, 5, 15, 20]]), ("cell",), SIZE)], 5, 0, SIZE)
    assert all(b.names == ("cell",) for b in lonely) and len({b.corners.tobytes() for b in lonely}) == 5


def test_layouts_with_more_objects_than_a_model_can_be_told_are_left_out():
    crowd = Boxes(np.tile([1.5, 1.5, 6.0, 6.0], (MOST + 1, 1)), ("cell",) * (MOST + 1), SIZE)
    assert max(len(b.names) for b in generate_layouts("copy", [crowd, *REAL], 41, 0, SIZE)) <= MOST
    with pytest.raises(Error, match=f"{MOST} of them at most"):
        generate_layouts("copy", [crowd], 1, 0, SIZE)


def test_mistakes_are_said():
    with pytest.raises(Error, match="copy, jitter, recombine, sample; found 'new'"):
        generate_layouts("new", REAL, 1, 0, SIZE)
    with pytest.raises(Error, match="found none that has objects"):
        generate_layouts("copy", [Boxes(np.zeros((0, 4)), (), SIZE)], 1, 0, SIZE)
    with pytest.raises(Error, match="seed -1"):
        generate_layouts("copy", REAL, 1, -1, SIZE)


# ---------------------------------------------------------------------------------------------------- what a model keeps


def test_the_smallest_box_is_the_one_that_one_in_a_hundred_undercuts():
    sides = np.linspace(10, 110, 101)
    layouts = [Boxes(np.array([[0, 0, s, 2 * s]]), ("cell",), (300, 300)) for s in sides]
    assert smallest_sizes(layouts) == {"cell": pytest.approx((11, 22))}


@pytest.mark.parametrize(
    ("box", "name", "words"),
    [
        ((40, 20, 45, 25), "WBC", "smallest box of WBC that the model was trained on is 16 x 14 pixels; found 5 x 5"),
        ((40, 20, 60, 25), "WBC", "found 20 x 5"),
        ((0, 20, 5, 25), "WBC", "found 5 x 5"),
        ((40, 20, 60, 40), "cat", "RBC, WBC; found cat at"),
        ((80, 20, 91, 40), "WBC", "image of 90 x 60 pixels"),
        ((float("nan"), 20, 91, 40), "WBC", "has an area"),
        ((60, 20, 40, 40), "WBC", "has an area"),
    ],
)
def test_what_a_model_cannot_make_is_named(box, name, words):
    boxes = Boxes(np.array([[1.5, 1.5, 30, 30], box]), ("WBC", name), SIZE)
    with pytest.raises(Error, match=words):
        check_layout(boxes, {"WBC": (16.0, 14.0)}, ("RBC", "WBC"), 10)


def test_what_a_model_can_make_is_let_pass():
    cut_off = Boxes(np.array([[1.5, 1.5, 17.5, 15.5], [0, 20, 5, 40], [60, 57, 80, 60]]), ("WBC",) * 3, SIZE)
    check_layout(cut_off, {"WBC": [16.0, 14.0]}, ("WBC",), 3)
    with pytest.raises(Error, match="at most 2 objects; found 3"):
        check_layout(cut_off, {}, ("WBC",), 2)


def test_kept_layouts_are_few_short_and_the_same_in_json():
    many = [field(n) for n in range(300)]
    many[123] = Boxes(np.array([[5.0, 5, 9, 9]]), ("rare",), SIZE)
    kept = json.loads(json.dumps(to_summary(many)))
    back = from_summary(kept)
    assert len(back) == 64 and {b.size for b in back} == {SIZE}
    assert {name for b in back for name in b.names} == {*SIDES, "rare"}
    for boxes in back:
        assert any(a.names == boxes.names and np.abs(a.corners - boxes.corners).max() <= 0.05 + 1e-9 for a in many)
    assert len(json.dumps(kept)) < 64 * 12 * 32
    assert len(from_summary(to_summary(REAL[:5], digits=0))) == 5
    assert generate_layouts("sample", back, 3, 0, SIZE)[2].names


def test_a_summary_that_is_none_is_said():
    with pytest.raises(Error, match="one size that is known"):
        to_summary([REAL[0], Boxes(REAL[1].corners, REAL[1].names, (61, 90))])
    for broken in ({}, {**to_summary(REAL[:2]), "names": []}, {**to_summary(REAL[:2]), "layouts": [[["x"]]]}):
        with pytest.raises(Error, match="must be those that training wrote"):
            from_summary(broken)
