"""Boxes on their way into a model: arrays, augmentation that takes them along, tokens, maps, weights by area."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.diffusion.model import BOXES, OBJECTS, Spec
from toolkit.example import Annotation, Boxes, Error
from toolkit.networks.layout import BoxTokens, BoxUNet, Raster, coverage
from toolkit.objects import boxes as layout
from toolkit.settings import Augmentation, Network, Training
from toolkit.training import losses
from toolkit.training.loader import Batch, augment_batch, generator

NAMES = ("a", "b")
SIZE = (32, 48)


def _boxes(*corners: tuple[float, ...], names: tuple[str, ...] | None = None) -> Boxes:
    return Boxes(np.array(corners, float).reshape(-1, 4), names or ("a",) * len(corners), SIZE)


def _cond(*rows: Boxes | None) -> dict[str, torch.Tensor]:
    found = layout.to_arrays([Annotation(boxes=row) for row in rows], NAMES)
    return {k: torch.from_numpy(v) for k, v in found.items()}


def test_arrays_are_parts_of_the_image_and_null_where_there_is_no_object() -> None:
    found = layout.to_arrays([Annotation(boxes=_boxes((12, 8, 24, 16), names=("b",))), Annotation()], NAMES)
    known = layout.fields(NAMES)
    assert {k: v.shape[1:] for k, v in found.items()} == {k: f.shape for k, f in known.items()}
    assert np.allclose(found[BOXES][0, 0], [0.25, 0.25, 0.5, 0.5])
    assert found[OBJECTS][0, 0] == 1
    assert (found[OBJECTS][0, 1:] == known[OBJECTS].null).all() and (found[OBJECTS][1] == known[OBJECTS].null).all()
    assert {k: v.dtype.name for k, v in found.items()} == {k: f.dtype for k, f in known.items()}


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        (_boxes(*[(0, 0, 4, 4)] * (layout.MOST + 1)), "at most 39 objects"),
        (_boxes((0, 0, 4, 4), names=("c",)), "found 'c'"),
        (Boxes(np.array([[0.0, 0, 4, 4]]), ("a",)), "size has to be known"),
    ],
)
def test_what_a_model_cannot_be_told_is_refused(boxes: Boxes, says: str) -> None:
    with pytest.raises(Error, match=says):
        layout.to_arrays([Annotation(boxes=boxes)], NAMES)


def test_a_full_layout_still_ends_with_a_null() -> None:
    full = layout.to_arrays([Annotation(boxes=_boxes(*[(0, 0, 4, 4)] * layout.MOST))], NAMES)
    assert (full[OBJECTS][0, :-1] == 0).all() and full[OBJECTS][0, -1] == len(NAMES)


def test_boxes_are_carried_to_another_size_and_into_a_window() -> None:
    whole = _boxes((12, 8, 24, 16), (40, 20, 48, 32))
    half = layout.resize(whole, (16, 24))
    assert half.size == (16, 24) and np.allclose(half.corners[0], [6, 4, 12, 8])
    part = layout.clip(whole, (16, 0, 32, 32), 0.3)
    assert part.size == (32, 16) and np.allclose(part.corners, [[0, 8, 8, 16]])
    assert layout.clip(whole, (22, 0, 32, 32), 0.3).names == ()  # a sixth of the first box


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 30), st.floats(0, 20), st.floats(6, 16), st.floats(6, 12))
def test_boxes_stay_where_their_objects_go(seed: int, x: float, y: float, wide: float, high: float) -> None:
    x, y, wide, high = (float(round(value)) for value in (x, y, wide, high))
    picture = -torch.ones(1, 3, *SIZE)
    picture[:, :, int(y) : int(y + high), int(x) : int(x + wide)] = 1
    batch = Batch(picture, _cond(_boxes((x, y, x + wide, y + high))), torch.zeros(1, dtype=torch.long))
    changed = augment_batch(batch, Augmentation(flip=0.5, flip_rows=0.5, crop=0.3), generator(seed))
    bright = (changed.image[0, 0] > 0).float()
    rows, cols = SIZE
    if changed.cond[OBJECTS][0, 0] == len(NAMES):
        assert bright.sum() < 0.45 * wide * high * 2.1  # hardly anything of it is left in the window
        return
    x0, y0, x1, y1 = (changed.cond[BOXES][0, 0] * torch.tensor([cols, rows, cols, rows])).tolist()
    where = bright.nonzero().float()
    found = (where[:, 1].min(), where[:, 0].min(), where[:, 1].max() + 1, where[:, 0].max() + 1)
    assert max(abs(float(a) - b) for a, b in zip(found, (x0, y0, x1, y1), strict=True)) <= 1.01


def test_without_an_augmentation_nothing_changes_and_a_turn_is_refused() -> None:
    batch = Batch(torch.rand(1, 3, *SIZE), _cond(_boxes((1, 1, 9, 9))), torch.zeros(1, dtype=torch.long))
    assert augment_batch(batch, Augmentation(), generator(1)) is batch
    with pytest.raises(Error, match="flips, crops and scales"):
        augment_batch(batch, Augmentation(rotate=5), generator(1))


def test_coverage_is_the_part_of_each_cell_that_lies_in_the_box() -> None:
    down, across = coverage(torch.tensor([[[0.125, 0.25, 0.5, 1.0]]]), 4, 4)
    assert across[0, 0].tolist() == [0.5, 1.0, 0.0, 0.0] and down[0, 0].tolist() == [0.0, 1.0, 1.0, 1.0]


def test_maps_and_tokens_know_nothing_of_order_or_of_what_is_null() -> None:
    torch.manual_seed(0)
    raster, tokens = Raster(len(NAMES)), BoxTokens(len(NAMES))
    first, second = (1, 1, 20, 20), (18, 5, 40, 30)
    one = _cond(_boxes(first, second, names=("a", "b")))
    other = _cond(_boxes(second, first, names=("b", "a")))
    assert torch.allclose(raster(**one, rows=8, cols=12), raster(**other, rows=8, cols=12), atol=1e-5)
    assert torch.allclose(tokens(**one)[0, 0], tokens(**other)[0, 1], atol=1e-6)
    void = one[OBJECTS] == len(NAMES)
    noisy = torch.where(
        void[..., None], torch.rand(one[BOXES].shape), one[BOXES]
    )  # what stands at a null counts nothing
    assert torch.equal(raster(noisy, one[OBJECTS], 8, 12), raster(**one, rows=8, cols=12))
    assert torch.equal(tokens(noisy, one[OBJECTS]), tokens(**one))
    assert raster(**_cond(None), rows=8, cols=12).abs().max() == 0


def test_maps_tell_classes_and_overlapping_boxes_apart() -> None:
    torch.manual_seed(0)
    raster = Raster(len(NAMES))
    a, b = (raster(**_cond(_boxes((8, 8, 24, 24), names=(name,))), rows=8, cols=12) for name in NAMES)
    assert (a - b).abs().max() > 0.1
    two = raster(**_cond(_boxes((4, 4, 20, 20), (12, 4, 28, 20))), rows=8, cols=12)
    one = raster(**_cond(_boxes((4, 4, 28, 20))), rows=8, cols=12)
    assert (two - one)[0, :, 2:4].abs().max() > 0.1


def test_small_objects_weigh_more_and_the_mean_is_one() -> None:
    cond = _cond(_boxes((0, 0, 6, 6), (16, 8, 46, 30)), None)
    weight = losses.area_weights(cond[BOXES], cond[OBJECTS] != len(NAMES), *SIZE)
    assert torch.allclose(weight.mean((1, 2, 3)), torch.ones(2))
    small, large, outside = weight[0, 0, 2, 2], weight[0, 0, 20, 30], weight[0, 0, 2, 40]
    assert small > large > outside > 0
    assert torch.allclose(small / large, torch.tensor((30 * 22 / 36) ** losses.POWER))
    assert torch.allclose(weight[1], torch.ones(()))  # nothing in it: every place alike


def test_a_denoiser_takes_a_layout_and_all_of_it_is_dropped_together() -> None:
    torch.manual_seed(0)
    fields = layout.fields(NAMES)
    spec = Spec((4, 8, 12), fields)
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = BoxUNet(Network((16, 16), attention=1, attention_head_dim=8), spec.shape, fields)

        def forward(self, x: torch.Tensor, sigma: torch.Tensor, **cond: torch.Tensor) -> torch.Tensor:
            seen.append(cond)
            return self.unet(x, sigma, **cond)

    batch = Batch(torch.randn(32, *spec.shape), _cond(*[_boxes((4, 4, 20, 20))] * 32), torch.zeros(32).long())
    loss = losses.denoising(Watched(), batch, spec, Training(1, drop=0.5), generator(3))
    assert torch.isfinite(loss)
    told = (seen[0][OBJECTS] != len(NAMES)).any(1)
    assert 0 < told.sum() < 32 and torch.equal(told, seen[0][BOXES].abs().sum((1, 2)) > 0)


def test_the_size_of_boxes_comes_back_from_a_data_set(tmp_path) -> None:
    from toolkit.data import dataset
    from toolkit.example import Example

    shown = Example("one", np.zeros((3, *SIZE), np.float32), Annotation(boxes=_boxes((1, 2, 3, 4))))
    bare = dataclasses.replace(shown, id="none", annotation=Annotation(boxes=Boxes(np.zeros((0, 4)), (), SIZE)))
    unknown = dataclasses.replace(shown, id="unknown", annotation=Annotation())
    dataset.write([shown, bare, unknown], tmp_path / "set")
    found = {e.id: e.annotation.boxes for e in dataset.read(tmp_path / "set")}
    assert found["one"].size == SIZE and np.array_equal(found["one"].corners, [[1, 2, 3, 4]])
    assert found["none"].names == () and found["none"].size == SIZE
    assert found["unknown"] is None
