"""From a slice to the model's square and back: what is smooth comes back, what is constant is untouched."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.transforms import fit, from_window, square_box, to_window, unfit
from toolkit.example import Error

SHAPE = (60, 90)


def smooth(shape: tuple[int, int]) -> np.ndarray:
    """Waves in both directions, no axis like the other, about 30 pixels long and longer."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return (0.5 * np.sin(rows / 7 + 0.3) + 0.3 * np.cos(cols / 5 - rows / 11)).astype(np.float32)


def inside(box, shape, border: int = 0) -> tuple[slice, slice]:
    """The part of the slice that the box covers, less a border along the sides of the box."""
    top, left, height, width = box
    return (
        slice(max(top + border, 0), max(0, min(top + height - border, shape[0]))),
        slice(max(left + border, 0), max(0, min(left + width - border, shape[1]))),
    )


BOXES = {
    "the whole slice": (0, 0, 60, 90),
    "inside": (7, 11, 41, 43),
    "over the top left": (-9, -13, 50, 50),
    "over the bottom right": (25, 50, 60, 64),
    "over every side": (-10, -5, 90, 100),
    "flat": (20, 5, 16, 80),
}


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (200, 160)])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_a_smooth_image_goes_there_and_back(box, size):
    image = smooth(SHAPE)
    small = fit(image, box, size, outside=-1.0)
    assert small.shape == size
    back = unfit(small, box, SHAPE, outside=-5.0)
    assert (back.shape, back.dtype) == (SHAPE, np.float32)
    covered = inside(box, SHAPE)
    # At the edge of the slice the fill is mixed in, over two pixels of the coarser grid.
    scale = max(1.0, box[2] / size[0], box[3] / size[1])
    border = math.ceil(3 * scale)
    core = tuple(slice(c.start + border, c.stop - border) for c in covered)
    assert back[core].size > 300
    assert np.abs(back - image)[core].max() < 0.03 * scale**2
    # Half a pixel off would be seen: the tolerance is below it.
    shifted = np.abs(np.roll(image, 1, 1) - image)[core].max() / 2
    assert np.abs(back - image)[core].max() < 0.6 * shifted
    beyond = np.ones(SHAPE, bool)
    beyond[covered] = False
    assert np.all(back[beyond] == -5)
    assert not np.any(back[covered] == -5)


def test_a_box_of_the_size_of_the_model_is_a_plain_crop():
    image = smooth(SHAPE)
    box = (10, 20, 32, 40)
    assert np.array_equal(fit(image, box, (32, 40), -1.0), image[10:42, 20:60])
    full = unfit(image[10:42, 20:60], box, SHAPE, 9.0)
    assert np.array_equal(full[10:42, 20:60], image[10:42, 20:60])
    assert np.all(np.delete(full, np.s_[10:42], 0) == 9)


def test_what_lies_over_the_edge_is_filled():
    image = np.full((4, 6), 0.5, np.float32)
    crop = fit(image, (-2, -1, 8, 8), (8, 8), outside=-1.0)
    expected = np.full((8, 8), -1, np.float32)
    expected[2:6, 1:7] = 0.5
    assert np.array_equal(crop, expected)
    back = unfit(crop, (-2, -1, 8, 8), (4, 6), outside=9.0)
    assert np.array_equal(back, image)


@pytest.mark.parametrize("box", [(100, 0, 10, 10), (-30, 0, 10, 10), (0, 100, 10, 10), (0, -30, 10, 10)])
def test_a_box_beside_the_slice_holds_nothing_of_it(box):
    image = smooth((20, 20))
    assert np.all(fit(image, box, (8, 8), -1.0) == -1)
    assert np.all(unfit(np.ones((8, 8), np.float32), box, (20, 20), 3.0) == 3)


@settings(max_examples=80, deadline=None)
@given(
    value=st.floats(-1, 1, width=32),
    box=st.tuples(st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_a_constant_image_stays_exactly_constant(value, box, size):
    value = np.float32(value)
    small = fit(np.full((31, 37), value), box, size, outside=float(value))
    assert np.all(small == value)
    back = unfit(np.full(size, value), box, (31, 37), outside=7.0)
    covered = inside(box, (31, 37))
    assert np.all(back[covered] == value)
    assert np.sum(back == 7) == back.size - back[covered].size


def test_a_smaller_image_is_the_mean_and_not_every_nth_pixel():
    board = np.indices((64, 64)).sum(0) % 2 * 2.0 - 1
    assert np.abs(fit(board.astype(np.float32), (0, 0, 64, 64), (16, 16), 0.0)).max() < 0.05


def test_rows_stay_rows():
    ramp = np.repeat(np.arange(40, dtype=np.float32)[:, None], 30, 1)
    small = fit(ramp, (0, 0, 40, 30), (20, 10), 0.0)
    assert np.ptp(small, axis=1).max() < 1e-4
    assert np.allclose(small[1:-1, 0], np.arange(1, 19) * 2 + 0.5, atol=1e-4)
    assert np.ptp(unfit(small, (0, 0, 40, 30), (40, 30), 0.0), axis=1).max() < 1e-4


def test_the_input_is_left_alone():
    image = smooth(SHAPE)
    image.setflags(write=False)
    small = fit(image, (-3, 4, 50, 50), (32, 32), -1.0)
    small.setflags(write=False)
    unfit(small[:, ::-1], (-3, 4, 50, 50), SHAPE, 0.0)
    assert np.array_equal(image, smooth(SHAPE))


# ------------------------------------------------------------------------------------------------------------ window


@settings(deadline=None)
@given(low=st.floats(-1e4, 1e4), width=st.floats(0.01, 1e4))
def test_from_window_undoes_to_window_inside_it(low, width):
    window = (low, low + width)
    values = np.linspace(*window, 41)
    image = to_window(values, window)
    assert (image.dtype, image[0], image[-1]) == (np.float32, -1, 1)
    assert image[20] == pytest.approx(0, abs=1e-6)
    back = from_window(image, window)
    assert back.dtype == np.float32
    assert np.abs(back - values).max() <= 1e-6 * (width + 2 * abs(low) + abs(window[1]))


def test_outside_the_window_is_clipped():
    assert to_window(np.array([-1e9, 9, 10, 20, 30, 31, 1e9]), (10.0, 30.0)).tolist() == [-1, -1, -1, 0, 1, 1, 1]
    assert from_window(np.array([-1, 0, 1], np.float32), (10.0, 30.0)).tolist() == [10, 20, 30]


def test_whole_numbers_are_windowed_as_numbers():
    # unsigned source values below `low` must not wrap round
    assert to_window(np.array([0, 5, 10], np.uint8), (5.0, 10.0)).tolist() == [-1, -1, 1]
    assert to_window(np.array([0, 5, 10], np.uint16), (5, 10)).tolist() == [-1, -1, 1]


@pytest.mark.parametrize("window", [(5.0, 5.0), (6.0, 5.0), (math.nan, 5.0), (0.0, math.nan)])
def test_a_window_without_width_is_refused(window):
    with pytest.raises(Error, match="low < high"):
        to_window(np.zeros(3), window)


# --------------------------------------------------------------------------------------------------------------- box


@st.composite
def masks(draw):
    mask = np.zeros((draw(st.integers(8, 50)), draw(st.integers(8, 50))), bool)
    top, left = draw(st.integers(0, mask.shape[0] - 1)), draw(st.integers(0, mask.shape[1] - 1))
    mask[top : top + draw(st.integers(1, 40)), left : left + draw(st.integers(1, 40))] = True
    return mask


@settings(deadline=None)
@given(masks(), st.floats(0.3, 3), st.floats(0.3, 3), st.sampled_from([0, 0.04, 0.25]))
def test_the_box_is_square_in_millimetres_and_holds_the_mask(mask, row_mm, col_mm, margin):
    top, left, height, width = square_box(mask, (row_mm, col_mm), margin)
    assert {type(v) for v in (top, left, height, width)} == {int}
    # to half a pixel either way
    assert abs(height * row_mm - width * col_mm) <= (row_mm + col_mm) / 2 + 1e-9
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    extent = max(len(rows) * row_mm, len(cols) * col_mm)
    assert height * row_mm == pytest.approx(extent * (1 + 2 * margin), abs=row_mm / 2 + 1e-9)
    # holds the mask, to the rounding of size and place
    for start, length, found in ((top, height, rows), (left, width, cols)):
        assert start <= found[0] + 1
        assert start + length >= found[-1]
        assert abs((start + length / 2) - (found[0] + found[-1] + 1) / 2) <= 0.5


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        # 20 x 40 pixels at rows 10..29, columns 30..69: centre 20, 50
        ((1.0, 1.0), (-2, 28, 44, 44)),
        ((2.0, 1.0), (9, 28, 22, 44)),
        ((4.0, 1.0), (9, 6, 22, 88)),
        ((0.5, 0.5), (-2, 28, 44, 44)),
    ],
)
def test_anisotropic_pixels_make_an_oblong_box(spacing, expected):
    mask = np.zeros((64, 96), bool)
    mask[10:30, 30:70] = True
    assert square_box(mask, spacing, margin=0.05) == expected


def test_a_disc_of_anisotropic_pixels_becomes_round():
    # 3 mm rows and 1 mm columns: the disc is an ellipse on the slice and a disc again on the model's square
    spacing = (3.0, 1.0)
    rows, cols = np.mgrid[:40, :120]
    disc = ((rows - 19) * spacing[0]) ** 2 + ((cols - 61) * spacing[1]) ** 2 < 45**2
    small = fit(disc.astype(np.float32), square_box(disc, spacing), (64, 64), 0.0) > 0.5
    height, width = small.any(1).sum(), small.any(0).sum()
    assert abs(height - width) <= 2
    assert small.sum() == pytest.approx(math.pi / 4 * height * width, rel=0.05)
