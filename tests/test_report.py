"""The report: one file that needs nothing else, shows what it was given, and trusts no text."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffgraft.reporting import RESEARCH_USE, Curve, Facts, Run, Section, Sheet, Table, Text, Volume, write
from toolkit.example import Error

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)> $body ${x} </style> &amp;"


class Page(HTMLParser):
    """Every tag with its attributes, and the text of the page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(source: str, ident: str) -> Image.Image:
    found = re.search(rf'<image id="{ident}"[^>]*href="data:image/png;base64,([^"]+)"', source)
    assert found, ident
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def head(slices: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A round head with noise, its counterfactual, a map, and the mask of the bright lesion in slice 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    disc = (x**2 + y**2 < 0.7).astype(np.float32)
    image = 300 * disc + rng.normal(0, 12, (slices, size, size)).astype(np.float32) * (0.2 + disc)
    lesion = np.zeros(image.shape, dtype=bool)
    lesion[1] = (x - 0.3) ** 2 + (y + 0.2) ** 2 < 0.03
    anomaly = np.clip(rng.normal(0, 0.02, image.shape), 0, None).astype(np.float32) * disc + 0.8 * lesion
    return image + 200 * lesion, image, anomaly.astype(np.float32), lesion


def volume(**changes) -> Volume:
    image, counterfactual, anomaly, lesion = head(4, 48)
    settings = {"vmax": 1.0, "threshold": 0.4, "truth": lesion, "head": np.ones(image.shape, bool)}
    return Volume("Scan", image, counterfactual, anomaly, **(settings | changes))


def sections(word: str) -> list[Section]:
    rng = np.random.default_rng(0)
    curve = Curve({word: [(1, 1.0), (2, 0.5)], "b": [(1, 2.0), (3, float("nan")), (4, 1.0)]}, word, word, word)
    return [
        Section(
            word,
            [
                volume(labels=[word] * 4, units=word, score_name=word, truth_name=word, note=word, sides=(word,) * 4),
                Text(word),
                Facts({word: word, "inner": {word: 1.5}}, word),
                Table([word, "n"], [[word, 1], ["b", 2]], word),
                Sheet(
                    [rng.uniform(-1, 1, (3, 9, 8)), rng.integers(0, 255, (7, 8)).astype(np.uint8)], [word, "b"], 4, word
                ),
                curve,
            ],
            word,
        )
    ]


def report(path: Path, word: str = "Plain", notice: str = RESEARCH_USE, **options) -> str:
    run = Run(word, {word: {word: 0.5}}, seed=7, seconds=1.25, version="9.9", time="now")
    write(path, word, word, sections(word), run, notice=notice, **options)
    return path.read_text(encoding="utf-8")


def test_needs_nothing_but_itself(tmp_path):
    source = report(tmp_path / "report.html")
    page = Page(source)
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", source)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert len(page.all("script")) == 1
    policy = next(tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy


def test_names_the_run_and_the_notice(tmp_path):
    text = Page(report(tmp_path / "r.html", next_step="diffgraft show OUT", footer="Made here")).text
    for word in (RESEARCH_USE, "9.9", "Seed7", "now", "1.2 s", "diffgraft show OUT", "Made here", "Plain.Plain"):
        assert word in text, word
    assert RESEARCH_USE not in report(tmp_path / "s.html", notice="")


def test_hostile_text_is_only_text(tmp_path):
    source = report(tmp_path / "r.html", HOSTILE, notice=HOSTILE, next_step=HOSTILE, footer=HOSTILE)
    page = Page(source)
    assert len(page.all("script")) == 1 and len(page.all("style")) == 1
    assert source.count("<script") == 1 and source.count("</style") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert {image.get("src", "")[:5] for image in page.all("img")} <= {"data:", ""}
    assert page.text.count(HOSTILE) > 15


def test_every_picture_and_control_has_a_name(tmp_path):
    page = Page(report(tmp_path / "r.html"))
    assert all("alt" in image for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    idents = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(idents) == len(set(idents))
    targets = {tag["href"][1:] for tag in page.all("a")}
    assert targets <= set(idents)


def test_input_and_counterfactual_share_one_window():
    shown = volume()
    source = shown.html("v")
    given, made = (np.asarray(picture(source, f"v{letter}1")) for letter in "ic")
    assert given.dtype == np.uint8 and given.shape == made.shape == (48, 48)
    same = shown.image[1] == shown.counterfactual[1]
    assert same.sum() > 1000 and np.array_equal(given[same], made[same])
    low, high = (float(word) for word in re.search(r"Window (-?[\d.]+) to ([\d.]+)", source.replace("−", "-")).groups())
    expected = np.clip((shown.image[1] - low) / (high - low), 0, 1) * 255
    assert np.abs(expected - given).max() <= 1.0
    assert given[same].mean() < given[~same].mean() and np.median(made[~same]) < 255


def test_window_can_be_given_and_outliers_do_not_set_it():
    image, counterfactual, anomaly, _ = head(3, 32)
    image[0, 0, 0], image[1, 5, 5] = np.inf, 1e9
    source = Volume("Scan", image, counterfactual, anomaly, vmax=1.0).html("v")
    assert np.median(np.asarray(picture(source, "vi0"))[12:20, 12:20]) > 60
    fixed = Volume("Scan", image, counterfactual, anomaly, vmax=1.0, window=(0, 600)).html("v")
    assert abs(float(np.asarray(picture(fixed, "vc1")).max()) - 255 * counterfactual[1].max() / 600) <= 1


def test_display_keeps_the_orientation_and_the_aspect():
    image = np.zeros((1, 8, 10), dtype=np.float32)
    image[0, 2, 7] = 1.0
    shown = Volume(
        "Scan", image, image, image, vmax=1.0, head=np.ones(image.shape, bool), spacing=(5, 2, 1), window=(0, 1)
    )
    source = shown.html("v")
    grey = np.asarray(picture(source, "vi0"))
    assert grey.shape == (8, 10) and np.argwhere(grey).tolist() == [[2, 7]]
    assert 'viewBox="0 0 10 16"' in source and "aspect-ratio:10/16" in source
    assert re.search(r'<b class="l">R</b><b class="r">L</b><b class="a">A</b><b class="p">P</b>', source)


def test_overlay_is_one_translucent_layer_that_grows_with_the_map():
    ramp = np.tile(np.linspace(0, 1.2, 64, dtype=np.float32), (1, 8, 1))
    source = Volume("Scan", ramp, ramp, ramp, vmax=1.0, head=np.ones(ramp.shape, bool)).html("v")
    layer = picture(source, "vm0")
    assert layer.mode == "P"
    rgba = np.asarray(layer.convert("RGBA"))[0].astype(float)
    lightness = rgba[:, :3] @ [0.299, 0.587, 0.114]
    assert rgba[0, 3] == 0 and rgba[-1, 3] > 200
    assert (np.diff(rgba[:, 3]) >= 0).all() and (np.diff(lightness) >= 0).all() and lightness[-1] > 3 * lightness[0]


def area(source: str, ident: str) -> float:
    """Area inside an outline, in pixels; holes count negative."""
    drawn = re.search(rf'<g id="{ident}"[^>]*><path class="halo" d="([^"]+)"', source)
    total = 0.0
    for loop in re.findall(r"M([^z]+)z", drawn[1]):
        start, steps = loop.split("l")
        deltas = np.array(steps.split(), dtype=float).reshape(-1, 2)
        points = np.array(start.split(), dtype=float) + np.concatenate([[[0, 0]], np.cumsum(deltas, axis=0)])
        x, y = points.T / 2
        total += 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    return total


def test_outlines_follow_the_masks():
    image = np.zeros((2, 20, 20), dtype=np.float32)
    mask = np.zeros(image.shape, dtype=bool)
    mask[0, 3:5, 4:6] = True
    mask[1, 2:12, 2:12] = True
    mask[1, 5:8, 5:8] = False
    mask[1, 19, 19] = True
    source = Volume("Scan", image, image, image, vmax=1.0, mask=mask, head=np.ones(image.shape, bool)).html("v")
    corner = 1 / 8  # what cutting a corner at the middle of its edges takes away, or adds in a hole
    assert area(source, "vk0") == pytest.approx(4 - 4 * corner)
    assert area(source, "vk1") == pytest.approx(100 - 4 * corner - (9 - 4 * corner) + 1 - 4 * corner)
    assert 'id="vt0"' not in source and "Reference" not in source


def test_threshold_makes_the_mask_and_is_marked():
    source = volume(truth=None).html("v")
    assert 'id="vk1"' in source and 'id="vk0"' not in source and "threshold 0.4" in source
    assert 'data-start="1"' in source  # opens at the slice with the largest score
    plain = volume(truth=None, threshold=None).html("v")
    assert 'id="vk1"' not in plain and "threshold" not in plain.lower()


def test_volume_refuses_what_does_not_fit():
    with pytest.raises(Error, match="share one grid"):
        volume(mask=np.zeros((4, 48, 47), bool))
    with pytest.raises(Error, match="vmax"):
        volume(vmax=0.0)
    with pytest.raises(Error, match="'labels'"):
        volume(labels=["one"])
    with pytest.raises(Error, match="spacing"):
        volume(spacing=(1, 0, 1))
    with pytest.raises(Error, match="slices, rows, columns"):
        Volume("Scan", *[np.zeros((4, 4))] * 3, vmax=1.0)


def test_empty_and_constant_volumes_are_drawn():
    empty = np.zeros((2, 16, 16), dtype=np.float32)
    for array in (empty, empty + 5, np.full_like(empty, np.nan)):
        source = Volume("Scan", array, array, array, vmax=1.0, threshold=0.5).html("v")
        assert len(np.unique(np.asarray(picture(source, "vi0")))) == 1


def test_thirty_slices_stay_small(tmp_path):
    image, counterfactual, anomaly, lesion = head(30, 256)
    shown = Volume("Scan", image, counterfactual, anomaly, vmax=1.0, threshold=0.4, truth=lesion)
    path = write(tmp_path / "r.html", "Scan", "", [Section("Scan", [shown])], Run())
    assert path.stat().st_size < 6e6
    source = path.read_text(encoding="utf-8")
    assert source.count("data:image/png") == 90  # each picture once, however often it is shown


def test_large_slices_are_reduced_for_display():
    image = np.random.default_rng(0).normal(0, 1, (1, 500, 400)).astype(np.float32)
    source = Volume("Scan", image, image, image, vmax=1.0, head=np.ones(image.shape, bool), side=100).html("v")
    assert picture(source, "vi0").size == picture(source, "vm0").size == (80, 100)
    assert 'viewBox="0 0 400 500"' in source and "reduced to 100 pixels" in source


def test_an_existing_report_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "report.html"
    assert write(path, "One", "", [], Run()) == path
    with pytest.raises(Error):
        write(path, "Two", "", [Section("s", [Sheet([np.zeros((2, 2, 2, 2))])])], Run())
    assert "<h1>One</h1>" in path.read_text(encoding="utf-8")
    write(path, "Three", "", [], Run())
    assert "<h1>Three</h1>" in path.read_text(encoding="utf-8")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError):
        write(tmp_path / "folder", "Four", "", [], Run())
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["deep", "folder"]


def test_table_aligns_numbers_and_marks_the_best():
    source = Table(
        ["Method", "AP", "Error", "Count"],
        [["ours", "0.81 [0.74, 0.86]", 0.5, 12], ["raw", "0.31 [0.2, 0.4]", float("nan"), None], ["z", None, -0.25, 3]],
        best={"AP": "max", "Error": "min"},
    ).html("t")
    assert source.count("<strong>") == 2
    assert '<td class="n"><strong>0.81 [0.74, 0.86]</strong></td>' in source
    assert "<strong>−0.250</strong>" in source and '<td class="n">0.500</td>' in source
    assert source.count(">–<") == 3 and '<td class="n">12</td>' in source and "<td>ours</td>" in source
    tiny = Table(["rate"], [[1e-5], [0.25]]).html("t")
    assert "1e−05" in tiny and ">0.25<" in tiny
    with pytest.raises(Error, match="one cell a column"):
        Table(["a"], [[1, 2]])
    with pytest.raises(Error, match="header"):
        Table(["a"], [[1]], best={"b": "max"})


def test_facts_are_flat_and_plain():
    text = Page(Facts({"a": {"b": {"c": 0.123456}}, "on": True, "list": (1, 2.5), "none": None}).html("f")).text
    assert text == "a.b.c0.1235onyeslist1, 2.5none–"


def lines(source: str) -> list[str]:
    return re.findall(r'class="line c\d" d="(M[^"]+)"', source)


def test_curve_breaks_at_gaps_and_thins_long_series():
    gaps = Curve({"a": [(1, 1.0), (2, 2.0), (3, float("nan")), (4, 1.0), (5, 2.0)]}, "x", "y").html("c")
    assert lines(gaps)[0].count("M") == 2
    logs = Curve({"a": [(1, 1.0), (10, 0.0), (100, 10.0), (1000, 1e4)]}, "x", "y", log_x=True, log_y=True).html("c")
    assert lines(logs)[0].count("M") == 2 and ">1000<" in logs and ">10⁴<" in logs
    spike = [(i, 5.0 if i == 777 else 0.0) for i in range(20_000)]
    long = Curve({"a": spike}, "x", "y").html("c")
    assert len(long) < 20_000 and len({point.split()[1] for point in re.split("[ML]", lines(long)[0])[1:]}) > 1
    for points in ([], [(1, float("inf"))]):
        assert "no finite point" in Curve({"a": points}, "x", "y").html("c")
    for points in ([(1, 1.0)], [(0, 3.0), (1, 3.0)], [(1e-9, 1e9), (2e-9, 1e9 + 1)]):
        assert "nan" not in Curve({"a": points}, "x", "y").html("c")


def test_sheet_shows_what_it_was_given():
    grey = np.linspace(-1, 1, 12).reshape(3, 4)
    source = Sheet([grey, np.array([[True, False]]), np.zeros((600, 20, 3), np.uint8)]).html("s")
    coded = re.findall(r'src="data:image/(png|webp);base64,([^"]+)"', source)
    pictures = [Image.open(io.BytesIO(base64.b64decode(code))) for _, code in coded]
    assert [kind for kind, _ in coded] == ["png", "png", "webp"]
    assert np.array_equal(np.asarray(pictures[0]), np.rint((grey + 1) * 127.5).astype(np.uint8))
    assert np.asarray(pictures[1]).tolist() == [[255, 0]] and pictures[2].size == (13, 384)
    with pytest.raises(Error, match="one caption"):
        Sheet([grey], ["a", "b"])
    with pytest.raises(Error, match="found"):
        Sheet([np.zeros((2, 3, 4, 5))]).html("s")


# --- in a browser -------------------------------------------------------------------------------------------------

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

PRESSES = """
const seen = [];
const root = document.querySelector(".viewer");
const drawn = (panel, part) => {
  const style = getComputedStyle(root.querySelector("." + panel + " use." + part));
  return style.visibility === "visible" && style.display !== "none";
};
const note = () => seen.push([
  root.dataset.shown, drawn("flip", "c"), drawn("map", "c"), drawn("map", "m"),
  root.querySelector(".flip use.i").getAttribute("href"),
  root.querySelector(".flip figcaption").textContent, root.dataset.large,
].join("|"));
const press = (key) => {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  note();
};
root.scrollIntoView();
note(); press(" "); press(" "); press("ArrowRight"); press("m"); press("f"); press("Escape");
root.querySelector("[data-do=flip]").click(); note();
document.querySelectorAll(".thumb")[3].click(); note();
document.querySelectorAll(".trio .stage")[2].click(); note();
document.body.insertAdjacentHTML("beforeend", "<pre id=seen>" + seen.join("\\n") + "</pre>");
"""


@pytest.fixture
def browse(tmp_path):
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")

    def run(page: Path, *options: str) -> str:
        command = [binary, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout

    return run


@pytest.mark.slow
def test_browser_runs_the_page_under_its_own_policy(tmp_path, browse):
    report(tmp_path / "r.html", HOSTILE, notice=HOSTILE)
    dom = browse(tmp_path / "r.html", "--dump-dom")
    viewer = next(tag for tag in Page(dom).all("div") if tag.get("class") == "viewer")
    assert "hidden" not in viewer  # the script ran, so its hash is right
    assert 'aria-current="true"' in dom


@pytest.mark.slow
def test_browser_flips_turns_and_enlarges(tmp_path, browse):
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report(tmp_path / "r.html"))
    (tmp_path / "pressed.html").write_text(
        source.replace("</body>", f"<script>{PRESSES}</script></body>"), encoding="utf-8"
    )
    dom = browse(tmp_path / "pressed.html", "--dump-dom", "--window-size=1400,1000")
    seen = re.search(r'<pre id="seen">([^<]+)</pre>', dom)
    assert seen, "the page's script failed"
    made = "Counterfactual (synthetic)"
    assert seen[1].split("\n") == [
        "input|false|false|true|#s0b0i1|Input|",
        f"counterfactual|true|true|true|#s0b0i1|{made}|",  # space: both in place, the map stays over it
        "input|false|false|true|#s0b0i1|Input|",
        "input|false|false|true|#s0b0i2|Input|",
        "input|false|false|false|#s0b0i2|Input|",
        "input|false|false|false|#s0b0i2|Input|map",
        "input|false|false|false|#s0b0i2|Input|",
        f"counterfactual|true|true|false|#s0b0i2|{made}|",
        f"counterfactual|true|true|false|#s0b0i3|{made}|",
        f"counterfactual|true|true|false|#s0b0i0|{made}|map",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 420])
def test_browser_draws_the_slices(tmp_path, browse, width):
    write(tmp_path / "r.html", "Scan", "", [Section("Scan", [volume()])], Run(), notice=RESEARCH_USE)
    browse(tmp_path / "r.html", f"--screenshot={tmp_path / 'shot.png'}", f"--window-size={width},1000")
    with Image.open(tmp_path / "shot.png") as shot:
        rgb = np.asarray(shot.convert("RGB")).astype(int)
    assert rgb.shape[:2] == (1000, width)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    assert (
        np.abs(rgb - rgb.mean(axis=2, keepdims=True)).max(axis=2)[(red > 60) & (red < 160)] < 2
    ).sum() > 5000  # head
    assert ((red > 150) & (red > blue + 60)).sum() > 100  # the map, the notice
    assert ((blue > 200) & (green > 180) & (red < 100)).sum() > 20  # the outline
