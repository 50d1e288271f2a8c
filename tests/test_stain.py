"""The colour of what is inside boxes, against another library's HSV and against layouts that were dealt out anew."""

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.evaluation.detection.stain import more_saturated, saturated_inside, saturation, shuffle_layouts
from toolkit.example import Boxes, Error


def picture(n: int) -> tuple[np.ndarray, Boxes]:
    """A grey picture with a coloured square, and the box of it."""
    random = np.random.default_rng(n)
    image = np.repeat(random.uniform(0.2, 0.4, (1, 40, 60)), 3, 0)
    x, y = random.integers(0, 44), random.integers(0, 24)
    image[:, y : y + 16, x : x + 16] = np.array([0.6, -0.4, 0.5])[:, None, None]
    return image.astype(np.float32), Boxes(np.array([[x, y, x + 16.0, y + 16]]), ("cell",), (40, 60))


@given(st.tuples(*[st.floats(-1, 1)] * 3))
def test_saturation_is_that_of_hsv(colour):
    image = np.array(colour)[:, None, None]
    assert saturation(image) == pytest.approx(colorsys.rgb_to_hsv(*[(c + 1) / 2 for c in colour])[1], abs=1e-6)


def test_objects_that_are_coloured_are_found_and_layouts_of_other_images_are_not():
    images, boxes = zip(*[picture(n) for n in range(60)], strict=True)
    assert saturated_inside(images, boxes) == (60, 60)
    other, of = saturated_inside(images, shuffle_layouts(boxes, 0))
    assert of == 60 and other < 50
    grey = [np.repeat(image[:1], 3, 0) for image in images]
    assert saturated_inside(grey, boxes) == (0, 60)


def test_what_has_no_inside_or_no_outside_is_not_judged():
    image, boxes = picture(0)
    nothing, all_ = Boxes(np.zeros((0, 4)), ()), Boxes(np.array([[0, 0, 60.0, 40]]), ("all",))
    assert more_saturated(image, nothing) is None and more_saturated(image, all_) is None
    assert saturated_inside([image] * 3, [boxes, nothing, all_]) == (1, 1)


@given(seed=st.integers(0, 1000), count=st.integers(2, 30))
def test_no_layout_stays_where_it_was(seed, count):
    boxes = [Boxes(np.full((1, 4), float(n)), ("cell",)) for n in range(count)]
    after = shuffle_layouts(boxes, seed)
    assert sorted(b.corners[0, 0] for b in after) == list(range(count))
    assert all(a is not b for a, b in zip(after, boxes, strict=True))
    assert [b.corners[0, 0] for b in shuffle_layouts(boxes, seed)] == [b.corners[0, 0] for b in after]


def test_mistakes_are_said():
    image, boxes = picture(0)
    with pytest.raises(Error, match="colour image"):
        saturation(image[:1])
    with pytest.raises(Error, match="2 images and 1 layouts"):
        saturated_inside([image, image], [boxes])
    with pytest.raises(Error, match="two images or more; found 1"):
        shuffle_layouts([boxes], 0)
