"""What reports share: estimates as cells, sections that leave themselves out, dot plots, rows of images, the metrics."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest

from diffgraft import reporting
from toolkit.evaluation.interval import Interval

KNOWN, UNKNOWN = Interval(0.5, 0.4, 0.62), Interval(None, None, None)


def test_an_estimate_is_a_cell():
    rows = [["a", KNOWN], ["b", UNKNOWN], ["c", Interval(0.75, None, None)]]
    source = reporting.Table(["arm", "AP"], rows, best={"AP": "max"}).html("t")
    assert f'<td class="n">{KNOWN}</td>' in source and '<td class="n">–</td>' in source
    assert '<td class="n"><strong>0.750</strong></td>' in source


def test_a_difference_has_its_sign_and_interval():
    assert reporting.format_difference(Interval(0.0123, -0.01, 0.034)) == "+0.012 [-0.01, +0.03]"
    assert reporting.format_difference(Interval(-0.5, None, None)) == "-0.500"
    assert reporting.format_difference(UNKNOWN) is None and reporting.format_difference(None) is None


def test_a_section_without_blocks_is_left_out(tmp_path):
    sections = [
        reporting.warning_section([]),
        reporting.warning_section(["Few images.", "No interval."], "Read this first"),
        reporting.protocol_section({"training_samples": 3}, ["A note."], reporting.Facts({"written": 1.5})),
        reporting.Section("Nothing", [], "A note alone is no section."),
    ]
    source = reporting.write(tmp_path / "r.html", "T", "", sections, reporting.Run()).read_text(encoding="utf-8")
    assert re.findall(r"<h2 id[^>]*>([^<]*)</h2>", source) == ["Read this first", "Protocol", "How this was made"]
    assert "<p>Few images.</p><p>No interval.</p>" in source
    assert "<dt>training samples</dt>" in source and "<p>A note.</p>" in source and "<dt>written</dt>" in source


def test_facts_may_leave_out_what_is_not_known():
    values = {"a": 1, "b": None, "c": float("nan"), "d": {"e": None, "f": "x"}}
    assert reporting.Facts(values).html("f").count("<dt>") == 5
    source = reporting.Facts(values, skip_missing=True).html("f")
    assert re.findall(r"<dt>([^<]*)</dt>", source) == ["a", "d.f"]


def test_cost_and_confusion_tables():
    rows = [
        ("real", 12.5, None, None, KNOWN),
        ("mixed", 15.0, 20.4, 60.0, KNOWN),
        ("constant", None, None, None, KNOWN),
    ]
    cost = reporting.cost_table(rows, "Accuracy", "All samples")
    assert cost.header == ["Training", "Seconds a run", "Overhead", "Generation (s)", "Accuracy"]
    assert cost.rows == [["real", 12.5, None, None, KNOWN], ["mixed", 15.0, "+20 %", 60.0, KNOWN]]
    confusion = reporting.confusion_table(np.array([[3, 1], [0, 2]]).tolist(), ["a", "b"], "Counts", "class")
    assert confusion.header == ["class", "a", "b"] and confusion.rows == [["a", 3, 1], ["b", 0, 2]]


def test_forest_plot_leaves_out_rows_without_a_value():
    panels = {"few": {"real": KNOWN, "none": UNKNOWN}, "all": {"point": Interval(0.9, None, None)}}
    source = reporting.ForestPlot(panels, "Accuracy", lambda panel, row: 1 if row == "real" else 7).html("k")
    assert source.count("<circle") == 2 and source.count("stroke-width:2") == 1
    assert "var(--c1)" in source and "none" not in re.sub(r"fill:none", "", source)
    assert source.count("font-weight") == 2 and "of 2 rows" in source
    middle = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', source)]
    low, high = map(float, re.findall(r'd="M([\d.]+) [\d.]+H([\d.]+)"', source)[0])
    assert low < middle[0] < high < middle[1]
    assert "no value to draw" in reporting.ForestPlot({"a": {"b": UNKNOWN}}, "Accuracy").html("k")


def test_dot_plot_puts_the_best_row_of_the_first_series_on_top():
    series = {f"map {n}": {"p": 0.2 + n / 100, "q": 0.8, "r": None} for n in range(8)}
    source = reporting.DotPlot(series, "AUPRC").html("k")
    assert re.findall(r">([pqr])</text>", source) == ["q", "p", "r"]
    assert "map 5" in source and "map 6" not in source, "no more series than marks"
    rows = re.findall(r"<svg[^>]*>(.*?)</svg>", source)[0]
    assert rows.count('style="fill:var(--c0)"') == 2 and rows.count("fill:none") == 2 * (reporting.DotPlot.MOST - 1)


def test_rows_of_images_are_named_and_as_wide_as_the_longest():
    image = np.zeros((1, 4, 4), np.float32)
    sheet = reporting.Sheet.of_rows({"real": [image] * 3, "generated": [image] * 2}, "Leaves")
    assert sheet.columns == 3 and list(sheet.captions) == ["real"] * 3 + ["generated"] * 2 and sheet.caption == "Leaves"
    assert reporting.Sheet.of_rows({"a": [image]}, columns=8).columns == 8
    assert "<h3>" not in reporting.Sheet.of_rows({}).html("s")


def test_two_images_side_by_side():
    left, right = -np.ones((3, 4, 5), np.float32), np.zeros((3, 4, 7), np.float16)
    both = reporting.side_by_side(left, right)
    assert both.shape == (3, 4, 14) and both.dtype == np.float32
    assert (both[:, :, :5] == -1).all() and (both[:, :, 5:7] == 1).all() and (both[:, :, 7:] == 0).all()


@dataclass(frozen=True)
class Found:
    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def test_detections_below_their_threshold_are_not_drawn():
    image = np.zeros((1, 20, 20), np.float32)
    found = Found(np.array([[2.0, 2, 8, 8], [10, 10, 18, 18]]), np.array([0, 1]), np.array([0.6, 0.6]))
    every, one = (reporting.draw_detections(image, found, ["a", "b"], t) for t in (None, np.array([0.5, 0.7])))
    assert (every[4:18, 4:18] == one[4:18, 4:18]).all(), "the first box"
    assert (every[20:, 20:] != one[20:, 20:]).any() and len(np.unique(one[20:, 20:])) == 1


def test_metrics_are_plain_values(tmp_path):
    with reporting.staged_output(tmp_path / "out") as folder:
        assert folder is not None
        reporting.write_metrics(folder, {"a": 0.5, "b": None})
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == {"a": 0.5, "b": None}
    with reporting.staged_output(None) as folder:
        assert folder is None
    with pytest.raises(ValueError, match="JSON"):
        reporting.write_metrics(tmp_path, {"a": float("nan")})
