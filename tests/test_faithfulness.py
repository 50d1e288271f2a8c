"""The filter by layout: what an image's error is, where its limit comes from, which layouts are hard, which boxes move."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgraft.cli.methods import methods
from toolkit.evaluation.detection.metrics import Detections, Truth
from toolkit.example import Error
from toolkit.methods import faithfulness
from toolkit.methods.faithfulness import Calibration, Counts, Judgement

CELL, PLATELET = 0, 1
LEAST = np.array([0.5, 0.5])


def truth(*boxes: tuple[int, float, float, float]) -> Truth:
    """Squares (class, left, top, side)."""
    corners = np.array([(x, y, x + side, y + side) for _, x, y, side in boxes], float).reshape(-1, 4)
    return Truth(corners, np.array([k for k, *_ in boxes], int))


def seen(*boxes: tuple[int, float, float, float], score: float = 0.9) -> Detections:
    found = truth(*boxes)
    return Detections(found.corners, found.classes, np.full(len(boxes), score))


CELLS = [(CELL, 30.0 * n, 0.0, 20.0) for n in range(14)]
ONE = (PLATELET, 10.0, 60.0, 8.0)


def judged(asked: list, found: list, score: float = 0.9) -> Judgement:
    return faithfulness.judge(truth(*asked), seen(*found, score=score), LEAST)


def test_what_shows_its_layout_has_no_error_whatever_the_order() -> None:
    one = judged([*CELLS, ONE], [ONE, *CELLS[::-1]])
    assert one.error == 0 and set(one.states) == {"matched"}
    assert one.confidence == pytest.approx(0.9)
    assert one.which.tolist() == [*range(14, 0, -1), 0]


@pytest.mark.parametrize(
    ("asked", "found", "error", "state"),
    [
        ([*CELLS, ONE], CELLS, 0.5, "missed"),  # the whole of one class of two
        ([*CELLS, ONE], [*CELLS[1:], ONE], 0.5 / 14, "missed"),  # one of fourteen of one class of two
        ([*CELLS, ONE], [*CELLS, (CELL, 10.0, 60.0, 8.0)], 0.5, "mistaken"),
        ([*CELLS, ONE], [*CELLS, (PLATELET, 14.0, 60.0, 8.0)], 0.25, "misplaced"),  # overlap of 1 / 3
        (CELLS, [*CELLS, (PLATELET, 200.0, 200.0, 8.0)], 0.5, "matched"),  # a class that nobody asked for
        (CELLS, [*CELLS, (CELL, 200.0, 200.0, 8.0)], 1 / 15, "matched"),
        (CELLS, [*CELLS, (CELL, 15.0, 0.0, 20.0)], 0.5 / 14.5, "matched"),  # beside a better one
        ([], [ONE], 1.0, ""),
        ([], [], 0.0, ""),
        ([ONE], [], 1.0, "missed"),
    ],
)
def test_the_error_is_the_mean_over_the_classes(asked: list, found: list, error: float, state: str) -> None:
    one = judged(asked, found)
    assert one.error == pytest.approx(error)
    assert not state or state in one.states


def test_what_scores_too_little_was_not_found() -> None:
    assert judged([ONE], [ONE], score=0.4).error == 1
    assert faithfulness.judge(truth(ONE), seen(ONE, score=0.4), np.array([0.9, 0.3])).error == 0


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 90), st.integers(0, 90), st.integers(4, 30)), max_size=8),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_error_lies_between_nought_and_one(boxes: list, data: st.DataObject) -> None:
    found = data.draw(st.lists(st.sampled_from(boxes), unique=True)) if boxes else []
    one = judged(boxes, found)
    assert 0 <= one.error <= 1 and len(one.states) == len(boxes)
    counts = faithfulness.count_outcomes([one], 2)
    assert counts.asked.sum() == len(boxes)
    assert counts.matched.sum() == one.states.count("matched")


# -------------------------------------------------------------------------------------------------------- calibration


@pytest.fixture(scope="module")
def known() -> Calibration:
    """Ten real images of a detector that finds each cell, at 0.8, and half of the platelets; one image in ten is unannotated."""
    asked = [truth(*CELLS[:4], ONE) for _ in range(9)] + [truth(*CELLS[:3], ONE)]
    found = []
    for n in range(10):
        cells = seen(*CELLS[:4], score=0.8)
        platelet = seen(ONE, score=0.6) if n % 2 else seen((PLATELET, 200.0, 200.0, 8.0), score=0.2)
        found.append(
            Detections(
                *(np.concatenate([getattr(d, k) for d in (cells, platelet)]) for k in ("corners", "classes", "scores"))
            )
        )
    return faithfulness.calibrate(asked, found, ("cell", "platelet"))


def test_the_limit_is_a_quantile_of_the_error_of_real_images(known: Calibration) -> None:
    # Five images miss their platelet (1/2), one shows a cell that was not annotated (1/4 of the cells, 1/8), four are right.
    errors = [0.5] * 5 + [0.125] + [0.0] * 4
    assert known.thresholds == pytest.approx([0.8, 0.6])
    assert known.confident == pytest.approx([0.8, 0.6])
    assert known.quantiles == pytest.approx({q: np.quantile(errors, q) for q in (0.5, 0.75, 0.9)})
    assert known.counts.states.sum((0, 1)).tolist() == [44, 0, 0, 5]
    assert known.counts.hallucinated.sum(1).tolist() == [1, 0]


def test_a_calibration_is_kept_in_model_json(known: Calibration) -> None:
    again = Calibration.from_json(json.loads(json.dumps(known.to_json())))
    assert again.quantiles == pytest.approx(known.quantiles, abs=1e-5)
    assert np.array_equal(again.counts.states, known.counts.states) and again.counts.images == 10
    assert again.thresholds == pytest.approx(known.thresholds)


@pytest.mark.parametrize("broken", [{}, {"sides": [0, 1]}, {"thresholds": [0.1]}, {"quantiles": [1]}])
def test_another_calibration_is_refused(known: Calibration, broken: dict) -> None:
    with pytest.raises(Error, match="Train the detector again"):
        Calibration.from_json({**known.to_json(), **broken} if broken else {})


def test_too_few_real_images_and_an_unknown_quantile_are_refused(known: Calibration) -> None:
    with pytest.raises(Error, match="8 real ones or more"):
        faithfulness.calibrate([truth(ONE)] * 7, [seen(ONE)] * 7, ("cell", "platelet"))
    with pytest.raises(Error, match=r"0.5, 0.75, 0.9; found 0.8"):
        known.limit(0.8)


# ---------------------------------------------------------------------------------------- what is hard, best, or moved


def test_a_layout_is_as_hard_as_its_classes_and_sizes(known: Calibration) -> None:
    cells, both, platelets = (faithfulness.hardness(truth(*b), known.counts) for b in (CELLS, [*CELLS, ONE], [ONE]))
    assert cells < both < platelets
    assert faithfulness.hardness(truth(), known.counts) == 0
    unseen = faithfulness.hardness(truth((PLATELET, 0, 0, 60)), known.counts)
    assert cells < unseen < 1  # of a size of which none was seen, as hard as its class


def test_hardness_is_the_rate_of_what_is_not_matched_where_much_was_seen() -> None:
    states = np.zeros((2, len(faithfulness.SIDES), 4), int)
    states[CELL, 4] = [750, 100, 50, 100]  # 24 to 32 px
    states[CELL, 1] = [100, 0, 0, 900]  # 8 to 12 px
    real = Counts(states, np.zeros(states.shape[:2], int), 1)
    assert faithfulness.hardness(truth((CELL, 0, 0, 20)), real) == pytest.approx(
        0.575, abs=0.01
    )  # unseen: as its class
    assert faithfulness.hardness(truth((CELL, 0, 0, 30)), real) == pytest.approx(0.25, abs=0.01)
    assert faithfulness.hardness(truth((CELL, 0, 0, 10)), real) == pytest.approx(0.9, abs=0.01)


def test_the_best_are_those_whose_boxes_score_most() -> None:
    scores = [0.6, 0.9, 0.7, 0.8]
    rows = [judged([ONE], [ONE], score=score) for score in scores]
    assert faithfulness.most_faithful(rows, 2).tolist() == [1, 3]
    missed = judged([ONE, CELLS[0]], [ONE], score=1.0)
    assert faithfulness.most_faithful([missed, *rows], 4).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("shift", "score", "moves"),
    [(2, 0.9, True), (2, 0.5, False), (0, 0.9, False), (6, 0.9, True), (7, 0.9, False), (1, 0.9, False)],
)
def test_a_box_moves_to_a_sure_detection_that_is_a_little_off(shift: float, score: float, moves: bool) -> None:
    # Overlap of a square of 20 moved by s: (20 - s) / (20 + s), 0.9 at about 1.05 and 0.5 at 6.7.
    one = judged([(CELL, 0, 0, 20), (CELL, 50, 0, 20)], [(CELL, shift, 0, 20), (CELL, 50, 0, 20)], score=score)
    corners, which = faithfulness.relabel(one, np.array([0.7, 0.7]))
    assert which.tolist() == ([0] if moves else [])
    assert corners[0, 0] == (shift if moves else 0) and corners[1].tolist() == [50, 0, 70, 20]


def test_the_smallest_box_that_works_is_measured_against_real_ones(known: Calibration) -> None:
    states = known.counts.states.copy()
    assert faithfulness.smallest_faithful(known.counts, known.counts) == 8
    states[PLATELET, 1] = [1, 0, 0, 9]  # a fifth of the rate of real platelets, of 8 px
    assert faithfulness.smallest_faithful(dataclasses.replace(known.counts, states=states), known.counts) == 16
    states[CELL, 3] = [0, 0, 0, 9]
    states[PLATELET, 1] = [9, 0, 0, 1]  # small ones work and the larger ones do not: no size from which on they do
    assert faithfulness.smallest_faithful(dataclasses.replace(known.counts, states=states), known.counts) is None


def test_size_classes_have_a_name_each() -> None:
    assert len(faithfulness.size_names()) == len(faithfulness.SIDES)
    corner = faithfulness.count_outcomes(
        [judged([(CELL, 0, 0, 8), (CELL, 100, 0, 7.9), (CELL, 0, 100, 200)], [])], 2
    ).asked[CELL]
    assert corner.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1]


def test_the_methods_are_listed() -> None:
    assert {method.name for method in methods()} >= {"FreeMask", "GeoDiffusion", "Ranking by boxes"}
