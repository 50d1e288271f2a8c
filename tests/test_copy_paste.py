"""Cutting out and pasting: on pictures of discs and stars on a noisy ground, whose masks are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.example import Boxes, Error
from toolkit.methods.copy_paste import CopyPaste, base_index, find_instances, paste
from toolkit.objects.cutouts import cutout_mask, inside_mask
from toolkit.objects.overlaps import Overlaps, pairwise_overlap

ROWS, COLS = SIZE = (72, 96)
COLOURS = {"disc": (0.7, -0.3, 0.1), "star": (-0.6, 0.5, -0.5)}
Y, X = np.mgrid[:ROWS, :COLS] + 0.5


def shape(name: str, x: float, y: float, radius: float) -> np.ndarray:
    """(H, W) boolean; a star has five points that reach as far as a disc."""
    turn, away = np.arctan2(Y - y, X - x), np.hypot(Y - y, X - x)
    return away <= (radius if name == "disc" else radius * (0.65 + 0.35 * np.cos(5 * turn)))


def picture(n: int, light: float = 0.0) -> tuple[np.ndarray, Boxes, list[np.ndarray]]:
    """Three discs and two stars apart from each other on a grey ground, their boxes and masks."""
    random = np.random.default_rng(n)
    image = 0.5 + light + random.normal(0, 0.04, (3, *SIZE))
    corners, names, masks = np.zeros((0, 4)), [], []
    for name in ("disc", "star", "disc", "star", "disc"):
        for _ in range(300):
            radius = random.uniform(6, 10)
            x, y = random.uniform(radius + 2, COLS - radius - 2), random.uniform(radius + 2, ROWS - radius - 2)
            box = np.array([x - radius, y - radius, x + radius, y + radius])
            if (pairwise_overlap(box[None], corners)[2] > 2.05).all():
                mask = shape(name, x, y, radius)
                image[:, mask] = np.array(COLOURS[name])[:, None] + light + random.normal(0, 0.04, (3, mask.sum()))
                corners, names, masks = np.concatenate([corners, box[None]]), [*names, name], [*masks, mask]
                break
    return np.clip(image, -1, 1).astype(np.float32), Boxes(corners, tuple(names), SIZE), masks


PICTURES = [picture(n) for n in range(12)]
IMAGES, BOXES = [p[0] for p in PICTURES], [p[1] for p in PICTURES]
OBJECTS, OVERLAPS = find_instances(IMAGES, BOXES), Overlaps.learn(BOXES)


def colour(image: np.ndarray, name: str) -> np.ndarray:
    """(H, W) which pixels have the colour of the class rather than any other."""
    away = {n: np.linalg.norm(image - np.array(c)[:, None, None], axis=0) for n, c in COLOURS.items()}
    ground = np.linalg.norm(image - 0.5, axis=0)
    return away[name] < np.minimum(ground, min(d for n, d in away.items() if n != name))


def test_an_object_is_told_from_its_ground():
    scores: dict[str, list[float]] = {"disc": [], "star": []}
    for image, boxes, masks in PICTURES:
        for n, mask in enumerate(masks):
            found = cutout_mask(image, boxes, n)
            assert not (found & ~inside_mask(Boxes(boxes.corners[n : n + 1], ("",)), SIZE)).any()
            scores[boxes.names[n]].append((found & mask).sum() / (found | mask).sum())
    assert np.mean(scores["disc"]) > 0.93 and np.mean(scores["star"]) > 0.8
    ellipse = np.pi / 4 / 1  # of its box; a star fills half of that, so the colour was used
    star = [m.sum() / (ellipse * (b.corners[n, 2:] - b.corners[n, :2]).prod())
            for _, b, masks in PICTURES for n, m in enumerate(masks) if b.names[n] == "star"]  # fmt: skip
    assert np.mean(star) < 0.62


def test_a_hole_is_filled_and_a_neighbour_is_left_alone():
    image, boxes, masks = picture(3)
    x, y = (boxes.corners[0, :2] + boxes.corners[0, 2:]) / 2
    image[:, shape("disc", x, y, 3)] = 0.5  # a pale middle, as a red cell has
    found = cutout_mask(image, boxes, 0)
    assert (found & masks[0]).sum() / (found | masks[0]).sum() > 0.9
    wide = Boxes(np.array([[10.0, 20, 40, 50], [34, 20, 64, 50]]), ("disc", "disc"), SIZE)
    plain = np.full((3, *SIZE), 0.5, np.float32)
    for box in wide.corners:
        plain[:, shape("disc", (box[0] + box[2]) / 2, 35, 15)] = np.array(COLOURS["disc"])[:, None]
    one, other = (cutout_mask(plain, wide, n) for n in (0, 1))
    assert one.sum() > 500 and not one[:, 38:].any() and not other[:, :36].any()


def test_where_colour_tells_nothing_it_is_the_ellipse():
    flat = np.random.default_rng(0).normal(0, 0.01, (3, *SIZE)).astype(np.float32)
    whole = Boxes(np.array([[0, 0, COLS, ROWS]], float), ("disc",), SIZE)
    found = cutout_mask(flat, whole, 0)  # no ground at all
    assert found.sum() == pytest.approx(np.pi / 4 * ROWS * COLS, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**30), index=st.integers(0, 500))
def test_every_box_has_its_object_and_nothing_else_changes(seed, index):
    made, boxes = paste(IMAGES, BOXES, index, seed, CopyPaste(count=(2, 4)), OBJECTS, OVERLAPS)
    again = paste(IMAGES, BOXES, index, seed, CopyPaste(count=(2, 4)), OBJECTS, OVERLAPS)
    assert np.array_equal(made, again[0]) and np.array_equal(boxes.corners, again[1].corners)
    assert made.shape == (3, *SIZE) and made.dtype == np.float32 and np.abs(made).max() <= 1
    number = base_index(index, seed, len(IMAGES))
    old = {tuple(box) for box in BOXES[number].corners}
    fresh = [n for n, box in enumerate(boxes.corners) if tuple(box) not in old]
    assert len(fresh) <= 4 and boxes.size == SIZE
    round_ = Boxes(boxes.corners[fresh] + [-5, -5, 5, 5], tuple(boxes.names[n] for n in fresh))
    touched = inside_mask(round_, SIZE)
    assert np.abs(made - IMAGES[number])[:, ~touched].max(initial=0) < 1e-6
    for box, name in zip(boxes.corners, boxes.names, strict=True):
        assert (box[:2] >= 0).all() and (box[2:] <= [COLS, ROWS]).all()
        shown = colour(made, name) & inside_mask(Boxes(box[None], ("",)), SIZE)
        assert shown.sum() > 0.2 * (box[2:] - box[:2]).prod()
    cover = pairwise_overlap(boxes.corners, boxes.corners)[1][np.triu_indices(len(boxes.names), 1)]
    assert cover.max(initial=0) <= OVERLAPS.cover.max() + 1e-9


def test_most_of_what_is_asked_for_finds_a_place():
    more = []
    for n in range(40):
        _, boxes = paste(IMAGES, BOXES, n, 0, CopyPaste(count=(2, 2)), OBJECTS, OVERLAPS)
        more.append(len(boxes.names) - len(BOXES[base_index(n, 0, len(IMAGES))].names))
    assert np.mean(more) > 1.5
    assert sorted(base_index(n, 0, 12) for n in range(12)) == list(range(12))


def test_a_covered_original_is_given_up_with_its_box():
    small = np.full((3, *SIZE), 0.5, np.float32)
    small[:, 30:34, 40:44] = np.array(COLOURS["star"])[:, None, None]
    little = Boxes(np.array([[40.0, 30, 44, 34]]), ("star",), SIZE)
    large = np.full((3, *SIZE), 0.5, np.float32)
    large[:, shape("disc", 48, 36, 30)] = np.array(COLOURS["disc"])[:, None]
    disc = Boxes(np.array([[18.0, 6, 78, 66]]), ("disc",), SIZE)
    objects, overlaps = find_instances([large], [disc]), Overlaps.learn([little, disc])
    gone = kept = 0
    for n in range(30):
        made, boxes = paste([small], [little], n, 0, CopyPaste(count=(1, 1), scale=(1, 1)), objects, overlaps)
        if boxes.names == ("disc",):
            gone += 1
        else:
            kept += 1
            star = (boxes.corners[0] == little.corners[0]).all()
            assert star and colour(made, "star")[30:34, 40:44].mean() > 0.5
    assert gone > 5
    for n in range(30):
        lost = CopyPaste(count=(1, 1), scale=(1, 1), lost=0)
        assert "star" in paste([small], [little], n, 0, lost, objects, overlaps)[1].names


def test_an_object_comes_into_the_light_of_its_new_image():
    dark = [picture(n, -0.3) for n in range(20, 24)]
    dim, boxes = [d[0] for d in dark], [d[1] for d in dark]
    made, layout = paste(IMAGES, BOXES, 1, 0, CopyPaste(count=(1, 1)), find_instances(dim, boxes), OVERLAPS)
    assert len(layout.names) == len(BOXES[base_index(1, 0, 12)].names) + 1
    x0, y0, x1, y1 = np.rint(layout.corners[-1]).astype(int)
    middle = made[:, (y0 + y1) // 2 - 1 : (y0 + y1) // 2 + 2, (x0 + x1) // 2 - 1 : (x0 + x1) // 2 + 2].mean((1, 2))
    bright = (np.array(COLOURS[layout.names[-1]]) - 0.3 + 1) / 2 * (1.5 / 1.2) * 2 - 1
    assert middle == pytest.approx(np.clip(bright, -1, 1), abs=0.08)


def test_generated_objects_are_cut_where_the_filter_lets_them_pass():
    def keep(image, boxes):
        return np.array([name == "star" for name in boxes.names])

    only = find_instances(IMAGES, BOXES, keep)
    assert set(only.which) == {"star"}
    for n in range(10):
        _, boxes = paste(IMAGES, BOXES, n, 3, CopyPaste(), only, OVERLAPS)
        before = BOXES[base_index(n, 3, 12)]
        assert boxes.names.count("disc") <= before.names.count("disc")
    with pytest.raises(Error, match="found none in 12 images"):
        find_instances(IMAGES, BOXES, lambda image, boxes: np.zeros(len(boxes.names), bool))


def test_classes_are_drawn_evenly_or_as_they_occur():
    """One star among twelve objects: half of what is pasted, or one in twelve."""
    few = [Boxes(b.corners[:1], ("disc",)) for b in BOXES[:-1]] + [Boxes(BOXES[-1].corners[1:2], ("star",))]
    objects, stars = find_instances(IMAGES, few), {}
    for even in (True, False):
        chosen = CopyPaste(count=(1, 1), even=even)
        made = [paste(IMAGES, BOXES, n, 1, chosen, objects, OVERLAPS)[1].names for n in range(40)]
        before = [BOXES[base_index(n, 1, len(IMAGES))].names for n in range(40)]
        stars[even] = sum(a.count("star") - b.count("star") for a, b in zip(made, before, strict=True))
    assert stars[True] > 11 and stars[False] < 9


def test_what_the_edge_cuts_off_or_another_covers_is_not_cut_out():
    image = IMAGES[0]
    edge = Boxes(np.array([[0.0, 5, 20, 20]]), ("disc",), SIZE)
    pair = Boxes(np.array([[10.0, 10, 30, 30], [15, 10, 35, 30]]), ("disc", "disc"), SIZE)
    for boxes in (edge, pair):
        with pytest.raises(Error, match="whole and hardly covered"):
            find_instances([image], [boxes])


def test_mistakes_are_said():
    with pytest.raises(Error, match="12 images and 11 layouts"):
        paste(IMAGES, BOXES[1:], 0, 0)
    with pytest.raises(Error, match="do not know 'disc'"):
        paste(IMAGES, BOXES, 0, 0, overlaps=Overlaps.learn([Boxes(BOXES[0].corners[:1], ("star",), SIZE)]))
    with pytest.raises(Error, match="scales in order"):
        CopyPaste(scale=(1.2, 0.8))
