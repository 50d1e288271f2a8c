"""Layouts judged by fresh detectors: intervals that agree with pycocotools, and a world whose layouts are true or shuffled."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from diffgraft.evaluation.alignment import alignment
from diffgraft.evaluation.boxes import alignment as layout_alignment
from diffgraft.evaluation.boxes.alignment import SHUFFLED, is_saturated
from diffgraft.evaluation.data import HELD_OUT
from diffgraft.evaluation.pools import family
from diffgraft.evaluation.real import has_layouts, read_boxed
from toolkit.data import dataset
from toolkit.evaluation.detection import intervals
from toolkit.evaluation.detection.metrics import Detections, Truth, average_precision
from toolkit.example import Annotation, Boxes, Error, Example, Provenance

NAMES = ("disc", "square")
SIZE = (48, 64)
MADE = Provenance("synthetic", "0123456789abcdef", "generate", 0)
COLOURS = {"disc": (0.9, -0.6, -0.4), "square": (-0.6, -0.2, 0.9)}


def _picture(random: np.random.Generator, boxes: Boxes) -> np.ndarray:
    """A grey noisy ground with a disc or a square of its colour that fills each box."""
    image = np.clip(random.normal(0.2, 0.1, (3, *SIZE)), -1, 1).astype(np.float32)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for (x0, y0, x1, y1), name in zip(boxes.corners, boxes.names, strict=True):
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        round_ = ((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2 <= 0.25
        where = inside & round_ if name == "disc" else inside
        image[:, where] = np.array(COLOURS[name], np.float32)[:, None]
    return image


def _layout(random: np.random.Generator) -> Boxes:
    """Two to four boxes in different quarters of the picture."""
    quarters = random.permutation(4)[: random.integers(2, 5)]
    corners, names = [], []
    for quarter in quarters:
        side = int(random.integers(10, 18))
        x0 = int(random.integers(0, 32 - side)) + 32 * (quarter % 2)
        y0 = int(random.integers(0, 24 - side)) + 24 * (quarter // 2)
        corners.append((x0, y0, x0 + side, y0 + side))
        names.append(NAMES[int(random.integers(2))])
    return Boxes(np.array(corners, float), tuple(names), SIZE)


def _set(root: Path, count: int, seed: int, made: Provenance | None = None, true: bool = True) -> Path:
    """Pictures that show their layouts; not true: pictures that show other ones."""
    random = np.random.default_rng(seed)
    examples = []
    for n in range(count):
        boxes = _layout(random)
        image = _picture(random, boxes if true else _layout(random))
        annotation = Annotation(labels={"class": float(NAMES.index(boxes.names[0]))}, boxes=boxes)
        examples.append(Example(f"p{seed}-{n:03d}", image, annotation, f"p{seed}-{n:03d}", provenance=made))
    dataset.write(examples, root, domain="detection", labels={"class": list(NAMES)})
    return root


def _random_world(count: int) -> tuple[list[Truth], list[Detections]]:
    random = np.random.default_rng(0)
    truths, found = [], []
    for _ in range(count):
        objects = int(random.integers(0, 12))
        low = random.uniform(0, 120, (objects, 2))
        corners = np.concatenate([low, low + random.uniform(16, 40, (objects, 2))], 1)
        classes = random.integers(0, 3, objects)
        near = corners[: int(random.integers(0, objects + 1))] + random.normal(0, 3, 4)
        kinds = np.concatenate([classes[: len(near)], classes[:2]])
        truths.append(Truth(corners, classes))
        found.append(Detections(np.concatenate([near, corners[:2]]), kinds, random.uniform(0, 1, len(kinds)).round(2)))
    return truths, found


def test_average_precision_of_any_multiset_is_that_of_pycocotools() -> None:
    truths, found = _random_world(40)
    once = intervals.match_detections(truths, found, 3)
    times = np.random.default_rng(1).integers(0, 3, 40)
    again = [n for n in range(40) for _ in range(times[n])]
    for rows, weights in ((list(range(40)), None), (again, times)):
        told = average_precision([truths[n] for n in rows], [found[n] for n in rows], ("a", "b", "c"), (200, 200))
        for k, name in enumerate("abc"):
            ours = intervals.average_precision(once[k], weights)
            # Equal scores of one image that is drawn twice may change places with those of another one.
            assert ours[0] == pytest.approx(told.ap50[name], abs=0 if weights is None else 2e-3)
            assert ours.mean() == pytest.approx(told.ap[name], abs=1e-12 if weights is None else 2e-3)


def test_no_object_is_not_defined_and_nothing_found_is_nought() -> None:
    none = Detections(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    truth = Truth(np.array([[0.0, 0, 9, 9]]), np.array([1]))
    first, second = intervals.match_detections([truth], [none], 2)
    assert np.isnan(intervals.average_precision(first)).all() and (intervals.average_precision(second) == 0).all()


def test_an_interval_covers_what_repeating_the_experiment_gives() -> None:
    random = np.random.default_rng(2)
    hits = (random.random((1, 200, 1)) < 0.3).astype(float)
    draws = intervals.bootstrap_draws([str(n) for n in range(200)], 1, 1000)
    assert (draws.images.sum(1) == 200).all() and (draws.runs == 1).all()
    found = intervals.resample_rate(hits, np.ones((1, 200, 1)), draws).interval(lambda v: v[..., 0])
    share = float(hits.mean())
    half = 1.96 * np.sqrt(share * (1 - share) / 200)
    assert found.value == pytest.approx(share)
    assert found.low == pytest.approx(share - half, abs=0.015) and found.high == pytest.approx(share + half, abs=0.015)
    grouped = intervals.bootstrap_draws(["one"] * 100 + ["other"] * 100, 1, 200)
    assert set(np.unique(grouped.images)) <= {0, 1, 2} and (np.ptp(grouped.images[:, :100], 1) == 0).all()


def test_a_stain_is_seen_without_a_detector() -> None:
    random = np.random.default_rng(0)
    boxes = _layout(random)
    image = _picture(random, boxes)
    assert is_saturated(image, boxes.corners).tolist() == [1.0] * len(boxes.names)
    assert is_saturated(_picture(random, Boxes(np.zeros((0, 4)), (), SIZE)), np.array([[0.0, 0, 64, 48]])).tolist() != [
        1
    ]
    assert np.isnan(is_saturated(image, np.array([[0.0, 0, 64, 48]]))).all()  # there is no outside


def test_shuffled_layouts_are_of_other_images() -> None:
    truths, _ = _random_world(12)
    moved = layout_alignment._shuffled(truths)
    assert sorted(map(id, moved)) == sorted(map(id, truths))
    assert all(a is not b for a, b in zip(truths, moved, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: dataclasses.replace(e, provenance=None), "synthetic samples only"),
        (lambda e: dataclasses.replace(e, annotation=Annotation()), "has the layout that it was asked to show"),
        (lambda e: dataclasses.replace(e, image=e.image[:, :24]), "share one shape"),
        (
            lambda e: dataclasses.replace(
                e, annotation=Annotation(boxes=Boxes(np.array([[0.0, 0, 9, 9]]), ("star",), SIZE))
            ),
            "has 'star'",
        ),
    ],
)
def test_what_is_no_generated_set_is_refused(tmp_path, change, says) -> None:
    real = read_boxed(_set(tmp_path / "real", 16, 1), 1)
    example = next(iter(dataset.read(_set(tmp_path / "made", 1, 2, MADE))))
    dataset.write([change(example)], tmp_path / "other", domain="detection", labels={"class": [*NAMES, "star"]})
    with pytest.raises(Error, match=says):
        family("synthetic", tmp_path / "other", real, tested=False)


def test_real_pictures_are_split_and_checked(tmp_path) -> None:
    real = read_boxed(_set(tmp_path / "real", 24, 1), 1)
    assert real.names == NAMES and has_layouts(tmp_path / "real")
    assert {dataset.fold_of(e.group) for e in real.test} == {1} and len(real.training()) + len(real.test) == 24
    with pytest.raises(Error, match="real samples only"):
        read_boxed(_set(tmp_path / "made", 8, 2, MADE), 1)
    with pytest.raises(Error, match="from 0 to 3"):
        read_boxed(tmp_path / "real", 4)


@pytest.mark.slow
def test_true_layouts_are_told_as_well_as_real_ones_and_shuffled_ones_are_not(tmp_path) -> None:
    real = _set(tmp_path / "real", 120, 1)
    fake, false = _set(tmp_path / "fake", 40, 2, MADE), _set(tmp_path / "false", 40, 3, MADE, true=False)
    steps: list[str] = []
    given = {"seeds": 2, "steps": 150, "fold": 1, "cache": tmp_path / "cache"}
    result = alignment(
        real, fake, beside={"false": false}, out=tmp_path / "out", watch=lambda text, *_: steps.append(text), **given
    )  # fmt: skip
    ceiling, told, shuffled = (result.sets[name] for name in (HELD_OUT, "synthetic", SHUFFLED))
    assert ceiling.ap50["mean"].value > 0.85
    assert abs(told.ap50["mean"].value - ceiling.ap50["mean"].value) < 0.1
    assert shuffled.ap50["mean"].value < 0.15 and result.sets["false"].ap50["mean"].value < 0.15
    assert told.ap50["mean"].low > shuffled.ap50["mean"].high
    assert told.states["all"]["matched"].value > 0.8 > 0.3 > shuffled.states["all"]["matched"].value
    for each in result.sets.values():
        assert sum(share.value for share in each.states["all"].values()) == pytest.approx(1)
        assert sum(each.counts.values()) == sum(each.boxes.values())
    assert told.saturated["all"].value == 1 > shuffled.saturated["all"].value
    assert result.smallest["all"] == 8  # the smallest sides are 10
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["sets"]["synthetic"]["ap50"]["mean"]["value"] == told.ap50["mean"].value
    page = (tmp_path / "out" / "report.html").read_text()
    assert "layouts shuffled" in page and "Average precision" in page and "found" in page
    assert any(text.startswith("judge") for text in steps)
    steps.clear()
    again = alignment(real, fake, watch=lambda text, *_: steps.append(text), **given)
    assert again.sets["synthetic"] == told and not any(
        text.startswith("judge") for text in steps
    )  # nothing trained anew
