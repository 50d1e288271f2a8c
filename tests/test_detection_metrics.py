"""Detection in numbers: overlap, decoding, average precision and whether a layout came true, each against an oracle."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from diffgraft.reporting.boxes import COLOURS, BoxLegend, draw_boxes
from toolkit.evaluation.detection.metrics import (
    Detections,
    Truth,
    as_boxes,
    as_truth,
    average_precision,
    best_thresholds,
    box_iou,
    decode,
    layout_agreement,
)
from toolkit.example import Boxes, Error

NAMES = ("cell", "platelet")
SIZE = (100, 120)


def some(random: np.random.Generator, count: int, side: float = 40.0) -> np.ndarray:
    """(count, 4) corners inside SIZE."""
    low = random.uniform(0, [SIZE[1] - side, SIZE[0] - side], (count, 2))
    return np.concatenate([low, low + random.uniform(3, side, (count, 2))], 1)


def found_of(*rows: tuple[float, ...]) -> Detections:
    """Rows x0, y0, x1, y1, class, score."""
    table = np.array(rows, float).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4].astype(int), table[:, 5])


def truth_of(*rows: tuple[float, ...]) -> Truth:
    table = np.array(rows, float).reshape(-1, 5)
    return Truth(table[:, :4], table[:, 4].astype(int))


# ------------------------------------------------------------------------------------------------------------- overlap


def test_overlap_is_that_of_pycocotools():
    from pycocotools import mask

    random = np.random.default_rng(0)
    first, second = some(random, 30), some(random, 20)
    as_coco = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1) for b in (first, second)]
    assert box_iou(first, second) == pytest.approx(mask.iou(*as_coco, [0] * 20), abs=1e-9)
    assert box_iou(first, first).diagonal() == pytest.approx(1)


def test_boxes_of_no_area_overlap_nothing():
    flat = np.array([[5.0, 5.0, 5.0, 9.0]])
    assert box_iou(flat, flat).tolist() == [[0.0]]
    assert box_iou(np.zeros((0, 4)), flat).shape == (0, 1)


# ------------------------------------------------------------------------------------------------------------ decoding


def brute(scores: np.ndarray, corners: np.ndarray, threshold: float, iou: float, most: int) -> list[tuple]:
    """Non-maximum suppression as it is defined, one candidate after the other."""
    kept: list[tuple] = []
    for k in range(len(scores)):
        rest = [
            (float(scores[k, y, x]), k, *map(float, corners[:, y, x]))
            for y in range(scores.shape[1])
            for x in range(scores.shape[2])
            if scores[k, y, x] > threshold
        ]
        while rest:
            best = max(rest)
            kept.append(best)
            near = [box_iou(np.array([best[2:]]), np.array([other[2:]]))[0, 0] > iou for other in rest]
            rest = [other for other, close in zip(rest, near, strict=True) if not close and other is not best]
    return sorted(kept, reverse=True)[:most]


@pytest.mark.parametrize("most", [5, 1000])
def test_decoding_is_greedy_suppression_of_each_class(most):
    random = np.random.default_rng(1)
    scores = random.uniform(0, 1, (3, 2, 8, 9)).astype(np.float32)
    corners = some(random, 3 * 72).reshape(3, 8, 9, 4).transpose(0, 3, 1, 2).astype(np.float32)
    images = decode({"scores": scores, "corners": corners}, 0.3, 0.4, most)
    assert len(images) == 3
    for n, one in enumerate(images):
        expected = brute(scores[n], corners[n], 0.3, 0.4, most)
        assert len(one.scores) == len(expected) > 4
        rows = [(s, int(k), *c) for s, k, c in zip(one.scores, one.classes, one.corners.tolist(), strict=True)]
        assert np.array(rows) == pytest.approx(np.array(expected))


def test_nothing_above_the_threshold_is_nothing_found():
    one = decode({"scores": np.full((1, 2, 4, 4), 0.04), "corners": np.ones((1, 4, 4, 4))})[0]
    assert one.corners.shape == (0, 4) and one.classes.shape == one.scores.shape == (0,)


def test_a_dense_answer_of_another_shape_is_refused():
    with pytest.raises(Error, match=r"\(B, K, h, w\)"):
        decode({"scores": np.zeros((1, 2, 4, 4)), "corners": np.zeros((1, 4, 4, 5))})


# --------------------------------------------------------------------------------------------------- average precision


def test_average_precision_of_a_case_by_hand():
    """Four cells on two images. By score: right, wrong, right (overlap 0.6), right, and one cell is not found.

    Recall 1/4, 1/4, 2/4, 3/4 at precision 1, 1/2, 2/3, 3/4; made to fall: 1 up to 1/4, 3/4 up to 3/4. COCO reads it at
    101 recalls: 26 of them are at most 1/4, further 50 at most 3/4. At 0.6 and below all three count, above two.
    """
    truths = [
        truth_of((0, 0, 10, 10, 0), (20, 0, 30, 10, 0)),
        truth_of((0, 0, 10, 10, 0), (50, 50, 60, 60, 0)),
    ]
    found = [
        found_of((0, 0, 10, 10, 0, 0.9), (20, 0, 26, 10, 0, 0.7)),
        found_of((80, 80, 90, 90, 0, 0.8), (0, 0, 10, 10, 0, 0.6)),
    ]
    judged = average_precision(truths, found, NAMES, SIZE)
    loose = (26 * 1 + 50 * 3 / 4) / 101
    # Above 0.6 the third is wrong too: recall 1/4, 2/4 at precision 1 and 2/4.
    strict = (26 * 1 + 25 * 2 / 4) / 101
    assert judged.ap50["cell"] == pytest.approx(loose)
    assert judged.ap["cell"] == pytest.approx((3 * loose + 7 * strict) / 10)
    assert math.isnan(judged.ap50["platelet"]), "of a class without an object there is no precision"
    assert judged.mean_ap50 == judged.ap50["cell"] and judged.mean_ap == judged.ap["cell"]
    assert judged.objects == {"cell": 4, "platelet": 0}
    assert judged.curve["cell"][[0, 25, 26, 75, 76]] == pytest.approx([1, 1, 0.75, 0.75, 0])


def test_average_precision_is_that_of_pycocotools_from_files(tmp_path, capsys):
    """The same through COCO's own files and summary."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(2)
    truths, found, lines, results = [], [], [], []
    for n in range(12):
        truth = Truth(some(random, 8), random.integers(0, 2, 8))
        moved = truth.corners + random.normal(0, 3, (8, 4))
        corners = np.concatenate([np.sort(moved.reshape(8, 2, 2), 1).reshape(8, 4), some(random, 6)])
        classes = np.concatenate([truth.classes, random.integers(0, 2, 6)])
        one = Detections(corners, classes, random.uniform(0, 1, 14))
        truths.append(truth)
        found.append(one)
        for box, k in zip(truth.corners.tolist(), truth.classes.tolist(), strict=True):
            side = [box[2] - box[0], box[3] - box[1]]
            lines.append({"id": len(lines) + 1, "image_id": n + 1, "category_id": k, "bbox": [*box[:2], *side],
                          "area": side[0] * side[1], "iscrowd": 0})  # fmt: skip
        for box, k, s in zip(corners.tolist(), classes.tolist(), one.scores.tolist(), strict=True):
            results.append({"image_id": n + 1, "category_id": k, "score": s,
                            "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]]})  # fmt: skip
    whole = {"images": [{"id": n + 1} for n in range(12)], "annotations": lines,
             "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)]}  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(whole))
    (tmp_path / "found.json").write_text(json.dumps(results))
    coco = COCO(str(tmp_path / "truth.json"))
    judge = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    capsys.readouterr()
    ours = average_precision(truths, found, NAMES, SIZE)
    assert (ours.mean_ap, ours.mean_ap50) == pytest.approx(tuple(judge.stats[:2]))
    assert 0.05 < ours.mean_ap < ours.mean_ap50 < 0.95, "a case that says something"
    assert capsys.readouterr().out == "", "pycocotools is not heard"


def test_no_detections_are_a_precision_of_nought():
    judged = average_precision([truth_of((0, 0, 9, 9, 1))], [found_of()], NAMES, SIZE)
    assert judged.ap50["platelet"] == judged.mean_ap == 0
    nothing = average_precision([truth_of()], [found_of((0, 0, 9, 9, 1, 0.5))], NAMES, SIZE)
    assert math.isnan(nothing.mean_ap50)
    with pytest.raises(Error, match="1 and 0"):
        average_precision([truth_of()], [], NAMES, SIZE)


# ----------------------------------------------------------------------------------------------------------- agreement


def test_a_layout_that_came_true_in_parts():
    asked = truth_of(
        (0, 0, 20, 20, 0), (30, 0, 50, 20, 0), (60, 0, 80, 20, 0), (0, 50, 20, 70, 0), (30, 50, 40, 60, 1)
    )  # fmt: skip
    found = found_of(
        (0, 0, 20, 19, 0, 0.9),  # 0: the first
        (0, 0, 20, 12, 0, 0.8),  # 1: the first once more
        (40, 0, 60, 20, 0, 0.7),  # 2: half beside the second, a third of the union
        (60, 0, 80, 20, 1, 0.6),  # 3: the third as something else
        (90, 90, 99, 99, 0, 0.95),  # 4: nowhere near
        (0, 50, 20, 70, 0, 0.2),  # 5: the fourth, below the threshold
        (30, 50, 40, 60, 1, 0.5),  # 6: the fifth
        (90, 60, 99, 70, 1, 0.1),  # 7: nowhere, below the threshold
    )
    seen = layout_agreement(asked, found, 0.5)
    assert seen.state == ("matched", "misplaced", "missed", "missed", "matched")
    assert seen.found.tolist() == [0, 2, -1, -1, 6]
    assert seen.overlap == pytest.approx([0.95, 1 / 3, 0, 0, 1])
    assert seen.mistaken.tolist() == [-1, -1, 3, -1, -1]
    assert seen.hallucinated.tolist() == [4]
    assert seen.doubled.tolist() == [1]
    assert layout_agreement(asked, found, 0.05).state[3] == "matched"
    assert set(layout_agreement(asked, found, 0.05).hallucinated.tolist()) == {4, 7}


def test_one_detection_stands_for_one_box():
    """Two boxes on almost the same place and one detection of them: the one that it overlaps most has it."""
    asked = truth_of((0, 0, 20, 20, 0), (2, 0, 22, 20, 0))
    seen = layout_agreement(asked, found_of((2, 0, 22, 20, 0, 0.9)), 0.5)
    assert seen.state == ("missed", "matched")
    both = layout_agreement(asked, found_of((2, 0, 22, 20, 0, 0.9), (2, 0, 22, 20, 0, 0.8)), 0.5)
    assert both.state == ("matched", "matched") and both.found.tolist() == [1, 0]


def test_nothing_asked_and_nothing_found():
    seen = layout_agreement(truth_of(), found_of((0, 0, 9, 9, 0, 0.9)), 0.5)
    assert seen.state == () and seen.hallucinated.tolist() == [0]
    assert layout_agreement(truth_of((0, 0, 9, 9, 0)), found_of(), 0.5).state == ("missed",)


@pytest.mark.parametrize("seed", range(5))
def test_every_detection_and_every_box_is_counted_once(seed):
    random = np.random.default_rng(seed)
    asked = Truth(some(random, 12), random.integers(0, 2, 12))
    found = Detections(some(random, 30), random.integers(0, 2, 30), random.uniform(0, 1, 30))
    seen = layout_agreement(asked, found, 0.4)
    counted = [d for part in (seen.found, seen.mistaken) for d in part.tolist() if d >= 0]
    counted += [*seen.hallucinated.tolist(), *seen.doubled.tolist()]
    assert sorted(counted) == np.flatnonzero(found.scores >= 0.4).tolist()
    for state, d, over in zip(seen.state, seen.found, seen.overlap, strict=True):
        assert (over >= 0.5, 0.1 <= over < 0.5, d < 0) == (state == "matched", state == "misplaced", state == "missed")


def test_the_threshold_of_a_class_is_where_f1_is_best():
    """Of three cells, scores from the top: right, wrong, right, wrong: F1 = 2/4, 2/5, 4/6, 4/7."""
    truths = [truth_of((0, 0, 10, 10, 0), (20, 0, 30, 10, 0)), truth_of((0, 0, 10, 10, 0), (40, 40, 50, 50, 1))]
    found = [
        found_of((0, 0, 10, 10, 0, 0.9), (20, 0, 30, 10, 0, 0.6), (60, 0, 70, 10, 0, 0.3)),
        found_of((60, 0, 70, 10, 0, 0.8)),
    ]
    assert best_thresholds(truths, found, NAMES).tolist() == [0.6, 0.5]
    least = np.array([0.7, 0.2])
    assert layout_agreement(truths[0], found[0], least).state == ("matched", "missed"), "one a class"


# ------------------------------------------------------------------------------------------------- names, and pictures


def test_names_become_classes_and_back():
    boxes = Boxes(np.array([[0, 0, 4, 4], [1, 1, 5, 6]], float), ("platelet", "cell"), SIZE)
    truth = as_truth(boxes, NAMES)
    assert truth.classes.tolist() == [1, 0]
    assert as_boxes(truth, NAMES, SIZE).names == boxes.names
    with pytest.raises(Error, match="found 'seed'"):
        as_truth(Boxes(np.zeros((1, 4)), ("seed",)), NAMES)


def test_a_box_is_drawn_where_it_is_in_the_colour_of_its_class():
    image = np.full((3, 20, 30), -1, np.float32)
    box = Boxes(np.array([[5, 4, 15, 12]], float), ("platelet",), (20, 30))
    picture = draw_boxes(image, box, NAMES, scale=3)
    assert picture.shape == (60, 90, 3) and picture.dtype == np.uint8
    ink = np.array([int(COLOURS[1][n : n + 2], 16) for n in (1, 3, 5)])
    rows, cols = np.nonzero((picture == ink).all(2))
    assert (cols.min(), cols.max() + 1) == pytest.approx((15, 45), abs=1.5)
    assert (rows.min(), rows.max() + 1) == pytest.approx((12, 36), abs=1.5)
    assert not picture[20:30, 24:40].any(), "what is inside stays as it is"
    broken = draw_boxes(image, box, NAMES, scale=3, dashed=[True])
    assert 0.3 < (broken == ink).all(2).sum() / len(rows) < 0.8
    assert (draw_boxes(image, box, NAMES, 3, scores=[0.5]) != picture).any()
    assert not draw_boxes(image[:1], Boxes(np.zeros((0, 4)), ()), NAMES).any()


def test_what_cannot_be_drawn_is_refused():
    image, box = np.zeros((3, 20, 30), np.float32), Boxes(np.zeros((1, 4)), ("seed",))
    with pytest.raises(Error, match="found 'seed'"):
        draw_boxes(image, box, NAMES)
    with pytest.raises(Error, match="2 for 1"):
        draw_boxes(image, box, ("seed",), scores=[0.1, 0.2])


def test_a_legend_names_every_class_safely():
    page = BoxLegend(("cell", "<b>"), "not found").html("a")
    assert COLOURS[0] in page and "&lt;b&gt;" in page and "not found" in page and "<b>" not in page
