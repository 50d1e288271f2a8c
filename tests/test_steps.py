"""Quality against steps: figures by plain loops, what is kept and goes on, and curves of models through the whole way."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import heads
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from diffgraft.counterfactuals.counterfactual import counterfactual
from diffgraft.evaluation.anomaly.evaluate import evaluate_anomaly
from diffgraft.evaluation.steps import figures as steps_figures
from diffgraft.evaluation.steps.experiment import evaluate_steps
from diffgraft.evaluation.steps.figures import Panel, Point
from diffgraft.evaluation.steps.images import Images
from diffgraft.evaluation.steps.judges import boxes_precision
from diffgraft.evaluation.steps.result import Metric, Row, enough_steps
from diffgraft.evaluation.steps.samples import SampleCache, Samples, Variant, evaluations, hash_weights, variants
from diffgraft.evaluation.steps.scans import Scans
from diffgraft.evaluation.steps.scores import Resamples, kernel_distances
from diffgraft.generation import sampling
from diffgraft.models.defaults import default_sampling
from diffgraft.models.features import extract_features
from diffgraft.requests import StepsRequest, record
from domains import brain_mri, plant_disease
from toolkit.data import dataset, labels
from toolkit.diffusion.model import Spec
from toolkit.diffusion.noise import Purpose, Seeded
from toolkit.diffusion.samplers import SAMPLERS
from toolkit.evaluation.detection.metrics import Detections, Truth, average_precision
from toolkit.evaluation.distribution import kernel_distance
from toolkit.evaluation.interval import Interval
from toolkit.evaluation.similarity import sharpness
from toolkit.example import Annotation, Error, Example
from toolkit.models.folder import hash_id, read_meta
from toolkit.networks import folder as torch_folder
from toolkit.networks.student import student_state
from toolkit.settings import Network, Training

ROOT = Path(__file__).resolve().parents[1]
LEAVES = ROOT.parent / "shared" / "data" / "plant"

# ----------------------------------------------------------------------------------------------------------- figures


def normal(seed: int, n: int, d: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def test_the_kernel_distance_of_all_is_that_of_the_toolkit():
    real, fake = normal(1, 9), normal(2, 7) + 0.4
    found = kernel_distances(real, fake, Resamples(9, 3).times, Resamples(7, 4).times)
    assert found[0] == pytest.approx(kernel_distance(real, fake).value, rel=1e-9)


def test_a_resample_is_the_plain_loop_over_its_pairs_of_two_images():
    real, fake = normal(1, 6), normal(2, 5) + 0.4
    of_real, of_fake = Resamples(6, 3, 4).times, Resamples(5, 4, 4).times
    found = kernel_distances(real, fake, of_real, of_fake)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / len(x) + 1) ** 3

    def pairs(a: np.ndarray, u: np.ndarray, b: np.ndarray, v: np.ndarray, same: bool) -> float:
        listed = [
            kernel(a[i], b[j])
            for i in np.repeat(range(len(a)), u.astype(int))
            for j in np.repeat(range(len(b)), v.astype(int))
            if not (same and i == j)
        ]
        return float(np.mean(listed))

    for row, u, v in zip(found, of_real, of_fake, strict=True):
        within = pairs(real, u, real, u, True) + pairs(fake, v, fake, v, True)
        assert row == pytest.approx(within - 2 * pairs(real, u, fake, v, False), rel=1e-9)


def test_resamples_of_the_kernel_distance_are_not_farther_than_the_whole():
    real, fake = normal(1, 60), normal(2, 60)
    found = kernel_distances(real, fake, Resamples(60, 3).times, Resamples(60, 4).times)
    spread = found[1:].std()
    assert abs(found[1:].mean() - found[0]) < 0.25 * spread  # with pairs of an image and itself it would be 2.9 of it


def test_means_and_distances_are_those_of_the_drawn_samples():
    own, values = Resamples(6, 0, 50), np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0])
    images, other = normal(5, 6, 12), normal(6, 6, 12)
    means, apart = own.mean(values), own.distance(images, other)
    assert own.times.shape == (51, 6) and (own.times[0] == 1).all() and (own.times.sum(1) == 6).all()
    for n in (0, 1, 17, 50):
        drawn = np.repeat(np.arange(6), own.times[n].astype(int))
        assert means[n] == pytest.approx(np.nanmean(values[drawn]))
        expected = np.sqrt(((images[drawn] - other[drawn]) ** 2).mean()) / other.std()
        assert apart[n] == pytest.approx(expected)
    assert np.isnan(own.mean(np.full(6, np.nan))).all()


def test_sharpness_is_scipy_s_laplacian_inside_and_falls_with_blur():
    images = normal(4, 3, 2 * 12 * 9).reshape(3, 2, 12, 9)
    expected = [np.mean([np.abs(ndimage.laplace(c)[1:-1, 1:-1]).mean() for c in image]) for image in images]
    assert sharpness(images) == pytest.approx(expected)
    assert (sharpness(ndimage.gaussian_filter(images, (0, 0, 1, 1))) < 0.5 * sharpness(images)).all()


def test_the_average_precision_is_that_of_pycocotools():
    chance = np.random.default_rng(3)
    truths, found = [], []
    for _ in range(8):
        corners = chance.uniform(0, 20, (5, 4))
        corners[:, 2:] += corners[:, :2] + 4
        kinds = chance.integers(0, 2, 5)
        truths.append(Truth(corners, kinds))
        scores = np.sort(chance.uniform(0.1, 1, 5))[::-1]
        found.append(Detections(corners + chance.normal(0, 2.5, (5, 4)), kinds, scores))
    ours = boxes_precision(found, truths, Resamples(8, 0, 20), 2)
    theirs = average_precision(truths, found, ("a", "b"), (64, 64)).mean_ap50
    assert ours[0] == pytest.approx(theirs, abs=1e-6) and 0.1 < theirs < 0.95
    assert ours[1:].std() > 0


def test_an_interval_is_that_of_the_resamples_and_unknown_is_none():
    found = Interval.from_resamples(np.array([0.5, *np.linspace(0, 1, 101)]))
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.025), pytest.approx(0.975))
    assert Interval.from_resamples(np.full(4, np.nan)) == Interval(None, None, None)


SAME = Metric("m", "M", "same", "neither", slight=0.1)
HIGH, LOW = Metric("m", "M", "high", "up"), Metric("m", "M", "low", "down")


def rows(*gaps: tuple[int, float, float]) -> list[Row]:
    return [Row("euler", n, n, {}, {"m": Interval((a + b) / 2, a, b)}, 0.0, 0.0) for n, a, b in gaps]


@pytest.mark.parametrize(
    ("metric", "gaps", "expected"),
    [
        (HIGH, [(1, -0.4, -0.2), (4, -0.2, 0.1), (8, 0.0, 0.3)], 4),
        (HIGH, [(1, -0.1, 0.2), (4, -0.3, -0.1), (8, -0.1, 0.1)], 8),  # what holds for fewer by chance does not count
        (HIGH, [(1, -0.4, -0.2), (8, -0.3, -0.1)], None),
        (HIGH, [(1, 0.1, 0.2), (8, -0.1, 0.1)], 1),  # surely better is not worse
        (LOW, [(1, 0.1, 0.2), (8, -0.1, 0.1)], 8),
        (LOW, [(1, -0.2, -0.1), (8, -0.1, 0.1)], 1),
        (SAME, [(1, -0.3, -0.2), (4, -0.1, 0.1), (8, 0.01, 0.03)], 4),  # too little at 1; at 8 no more than a tenth
        (SAME, [(1, 0.2, 0.3), (8, -0.1, 0.1)], 8),
    ],
)
def test_enough_steps_are_those_from_which_on_nothing_is_worse(metric, gaps, expected):
    assert enough_steps(rows(*gaps), metric, Interval(1.0, 0.9, 1.1)) == {"euler": expected}


def test_a_difference_that_is_sure_but_negligible_is_none():
    gaps = rows((1, 0.011, 0.02), (8, 0.001, 0.003))
    assert enough_steps(gaps, LOW, Interval(1.0, 0.9, 1.1)) == {"euler": 8}
    assert enough_steps(gaps, LOW, Interval(1.0, 0.8, 1.2)) == {"euler": 1}
    assert enough_steps(gaps, LOW, Interval(1.0, 0.999, 1.001)) == {"euler": None}


# -------------------------------------------------------------------------------------------------- ways, what is kept


def test_evaluations_are_those_that_a_solver_takes():
    for name, solver in SAMPLERS.items():
        for number in (1, 2, 5):
            asked = []

            def denoise(x, sigma, asked=asked):
                asked.append(sigma)
                return 0 * x

            levels = [*np.linspace(4, 0.5, number), 0.0]
            solver(denoise, np.ones((1, 1, 2, 2)), levels, lambda step: np.zeros((1, 1, 2, 2)))
            assert len(asked) == evaluations(Variant(name, number)), name


@pytest.mark.parametrize(("samplers", "counts"), [(["eular"], [1]), (["euler"], []), ([], [1]), (["euler"], [0, 2])])
def test_ways_that_cannot_be_gone_are_refused(samplers, counts):
    with pytest.raises(Error, match=r"eular|one number of steps or more"):
        variants(samplers, counts)


def test_what_was_drawn_is_found_again_and_only_for_the_same_question(tmp_path):
    kept, other = SampleCache(tmp_path, {"weights": "a"}), SampleCache(tmp_path, {"weights": "b"})
    way, drawn = Variant("dpmpp_2m_sde", 4), Samples({"images": normal(1, 3)}, 2.5, 1.5)
    kept.put(way, drawn)
    found = kept.get(way)
    assert found is not None and np.array_equal(found.arrays["images"], drawn.arrays["images"])
    assert (found.seconds, found.cpu) == (2.5, 1.5) and set(found.arrays) == {"images"}
    assert kept.get(Variant("dpmpp_2m_sde", 8)) is None and other.get(way) is None
    assert kept.variants() == [way] and other.variants() == []
    (path,) = (tmp_path / "draws").glob("*.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Error, match="Delete it"):
        kept.get(way)


# ----------------------------------------------------------------------------------------------------------- pictures


def panel(scale: str = "linear", **more) -> Panel:
    lines = {"euler": [Point(1, 3.0, 2.5, 3.5), Point(4, 1.0, 0.5, 1.5), Point(20, 0.1, -0.1, 0.2)]}
    marked = {"student, 4 steps": Point(4, 0.3, 0.2, 0.4)}
    return Panel("KID & more <b>", lines, marked, {"floor": 0.05, "mixup": 2.0}, "evaluations", scale, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", ["linear", "log", "root"])
def test_a_panel_shows_every_value_at_its_place(scale):
    root = ET.fromstring(panel(scale).svg('xmlns="http://www.w3.org/2000/svg"'))
    dots = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    dots = [dot for dot in dots if dot != (13.0, 0.0)]  # that of the legend
    assert len(dots) == 3
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert (x1 - x0) / (x2 - x0) == pytest.approx(np.log(4) / np.log(20), abs=0.01)
    scaled = {"linear": lambda v: v, "log": np.log10, "root": np.sqrt}[scale]
    assert (y1 - y0) / (y2 - y0) == pytest.approx((scaled(1) - scaled(3)) / (scaled(0.1) - scaled(3)), abs=0.02)
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"KID & more <b>", "euler", "floor", "mixup", "student, 4 steps"} <= set(words)


def test_a_value_far_off_is_told_at_the_edge_instead_of_pressing_the_others_together():
    near = [Point(n, 1.0 / n) for n in (1, 2, 4, 8)]
    far = Panel("M", {"a": near, "b": [Point(2, 43.0)]}, {}, {}, "evaluations", "root").svg()
    assert (
        "↑ 43" in far and "↑" not in Panel("M", {"a": near, "b": [Point(2, 1.2)]}, {}, {}, "evaluations", "root").svg()
    )
    with_real = Panel("M", {"a": near, "b": [Point(2, 43.0)]}, {}, {"real": 9.0}, "evaluations", "root").svg()
    (dashed,) = re.findall(r'<path d="M58 ([\d.]+)h484" style="stroke:var\(--soft\)', with_real)
    assert float(dashed) > steps_figures.TOP + 1 and "↑ 43" in with_real  # a line is at its place, never cut
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', far)][:4]
    assert max(heights) - min(heights) > 0.7 * steps_figures.TALL


def test_a_file_of_panels_is_one_svg_that_carries_its_style_and_loads_nothing():
    text = steps_figures.file([panel(), panel("root"), panel("log")])
    root = ET.fromstring(text)
    assert root.attrib["viewBox"] == f"0 0 {2 * steps_figures.WIDTH} {2 * steps_figures.HEIGHT}"
    assert "<style>" in text and not re.search(r'href|url\(|<script|src="', text)


def test_a_panel_of_nothing_says_so():
    empty = Panel("M", {"euler": [Point(1, None)]}, {}, {"floor": None}, "evaluations")
    assert "nothing to draw" in empty.svg()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_fits_in_its_bytes_and_shows_its_rows(channels):
    chance = np.random.default_rng(0)
    rows = {f"{n} steps": [chance.uniform(-1, 1, (channels, 32, 64)) for _ in range(6)] for n in (1, 2, 4)}
    rows["8 steps"] = [np.full((channels, 32, 64), -1.0)] * 6
    png = steps_figures.strip(rows, most=20_000)
    image = Image.open(io.BytesIO(png))
    pixels = np.asarray(image.convert("L"))
    assert len(png) <= 20_000 and image.width > image.height
    last = pixels[-pixels.shape[0] // 4 + 4 : -4, pixels.shape[1] // 2 :]
    assert (last < 10).mean() > 0.9


# ----------------------------------------------------------------------------------------------- images, the whole way

VOCABULARY = {"condition": ("healthy", "rust"), "class": ("healthy", "rust")}
SPEC = Spec((3, 8, 16), labels.fields(VOCABULARY, ("condition",)), sigma_max=80.0)


@pytest.fixture(scope="module")
def leaves(tmp_path_factory) -> Path:
    """A data set of two classes, the brightness of which differs."""

    def example(n: int) -> Example:
        chance = np.random.default_rng(n)
        image = (0.3 * chance.standard_normal((3, 8, 16)) + (0.4 if n % 2 else -0.4)).clip(-1, 1).astype(np.float32)
        return Example(f"leaf{n}", image, Annotation(labels={"condition": n % 2, "class": n % 2}), f"leaf{n}")

    root = tmp_path_factory.mktemp("steps") / "data"
    dataset.write((example(n) for n in range(30)), root, domain="plant_disease", labels=labels.to_json(VOCABULARY))
    return root


@pytest.fixture(scope="module")
def small(leaves, tmp_path_factory) -> Path:
    """A model folder with random weights that says that it was trained on the first twenty leaves."""
    root, run = tmp_path_factory.mktemp("steps") / "model", {"trained_on": [hash_id(f"leaf{n}") for n in range(20)]}
    network = Network((8, 16), norm_groups=4, attention_head_dim=8)
    training = Training(steps=1, sigma_mean=-0.2, sigma_std=1.4)
    parts = {
        "denoiser": {"network": network, "parameterisation": "edm", "training": training, "run": run},
        "features": {"network": network, "training": training, "classes": 2, "target": "class", "run": run},
    }
    meta = {"format": 1, "domain": "plant_disease", "spec": SPEC, "labels": labels.to_json(VOCABULARY), "parts": parts}
    meta = json.loads(json.dumps(meta, default=dataclasses.asdict))
    torch.manual_seed(1)
    for part in parts:
        state = torch_folder.build(part, meta).state_dict()
        noisy = {k: v + 0.1 * torch.randn(v.shape) if v.is_floating_point() else v for k, v in state.items()}
        torch_folder.save_part(root, part, noisy, meta)
    return root


def curves(leaves: Path, small: Path, out: Path, **options):
    asked = {"counts": (1, 3), "samplers": ("euler",), "count": 12, "backend": "torch"}
    return evaluate_steps(leaves, small, out, **{**asked, **options})


def test_curves_of_images_are_measured_kept_and_added_to(leaves, small, tmp_path):
    out, told = tmp_path / "out", []
    result = curves(leaves, small, out, watch=lambda *words: told.append(words))
    assert [(r.sampler, r.steps, r.evaluations) for r in result.rows] == [
        ("euler", 1, 1),
        ("euler", 3, 3),
        ("heun", 50, 99),
    ]
    assert [w for w in told if w[0] == "drawing"][-1] == ("drawing", 103, 103)
    assert result.rows[-1].figures["distance"].value == 0 and result.reference == "heun, 50 steps"
    assert result.rows[0].figures["distance"].value > result.rows[1].figures["distance"].value > 0
    # the oracle: the same images by the sampler alone, the toolkit's distance
    model, unseen = torch_folder.open(small), [e for e in dataset.read(leaves) if int(e.id[4:]) >= 20]
    subject = Images(StepsRequest(leaves, small, out, count=12, backend="torch"))
    assert {row.labels["condition"] for row in subject.rows} == {0, 1} and len(subject.sources) == 10
    settings = dataclasses.replace(default_sampling(read_meta(small)), sampler="euler", steps=3)
    images = sampling.sample(model, plant_disease, subject.rows, settings, range(12))
    features = [extract_features(model, each)["features"] for each in (np.stack([e.image for e in unseen]), images)]
    assert result.rows[1].figures["kid"].value == pytest.approx(kernel_distance(*features).value, rel=0.02, abs=1e-6)
    # again: nothing is drawn; with another solver: that alone, and what was there stays
    told.clear()
    assert curves(leaves, small, out, watch=lambda *words: told.append(words)).rows[:2] == result.rows[:2]
    assert not [w for w in told if w[0] == "drawing"]
    more = curves(leaves, small, out, samplers=("heun",), counts=(2,), watch=lambda *words: told.append(words))
    assert [(r.sampler, r.steps) for r in more.rows] == [("euler", 1), ("euler", 3), ("heun", 2), ("heun", 50)]
    assert [w for w in told if w[0] == "drawing"][-1] == ("drawing", 3, 3)
    assert more.rows[1].figures == result.rows[1].figures
    assert record.read(out).request["samplers"] == ["heun"]  # the last that was asked for
    found = json.loads((out / "steps.json").read_text())
    assert len(found["rows"]) == 4 and found["rows"][0]["figures"]["kid"]["low"] is not None
    text = (out / "report.html").read_text()
    assert "Research use only" in text or plant_disease.NOTICE in text
    assert all(name in text for name in ("mixup of two of a class", "requests shuffled", "heun, 50 steps"))
    assert {"curves.svg", "samples-euler.png", "samples-heun.png"} <= {path.name for path in out.iterdir()}
    assert len(curves(leaves, small, out, overwrite=True).rows) == 3


def test_a_student_is_measured_beside_its_teacher(leaves, small, tmp_path):
    root, out = tmp_path / "few", tmp_path / "out"
    shutil.copytree(small, root)
    meta = read_meta(root)
    plan = {
        "network": meta["parts"]["denoiser"]["network"], "rank": 2, "guidance": 1.0, "steps": 2, "sampler": "euler",
        "levels": [20.0, 0.7, 0.0], "run": {"trained_on": [hash_id("leaf3"), hash_id("leaf25")]},
    }  # fmt: skip
    meta["parts"]["student"] = plan
    torch.manual_seed(2)
    network = torch_folder.build("student", meta)
    changed = {k: v + 0.05 * torch.randn(v.shape) for k, v in student_state(network).items()}
    torch_folder.save_part(root, "student", changed, meta)
    assert hash_weights(root) == hash_weights(small) != hash_weights(root, student=True)
    plain = curves(leaves, small, out)
    result = curves(leaves, small, out, student=root)
    *teacher, row = result.rows
    assert [r.figures for r in teacher] == [r.figures for r in plain.rows]
    assert (row.sampler, row.steps, row.evaluations) == ("student", 2, 2)
    assert any("made with 1 of the held-out samples" in note for note in result.notes)
    # the oracle: its own levels, one evaluation each and no guidance
    model, seen = torch_folder.open(root), []
    subject = Images(StepsRequest(leaves, small, out, count=12, student=root, backend="torch"))
    cond, _ = sampling.encode_conditions(model, plant_disease, subject.rows)

    def denoise(x, sigma):
        seen.append(sigma)
        return model.student(x, sigma, cond)

    start = 20.0 * Seeded(0, range(12), SPEC.shape, model.asarray)(0, Purpose.START)
    images = model.asnumpy(SAMPLERS["euler"](denoise, start, [20.0, 0.7, 0.0], lambda step: None)).clip(-1, 1)
    assert seen == [20.0, 0.7]
    drawn = SampleCache(out, subject.identity(student=True)).get(Variant("student", 2))
    assert drawn is not None and np.abs(drawn.arrays["images"] - images).max() < 2e-3  # kept in half precision
    assert "student, 2 steps" in (out / "report.html").read_text()
    assert [r.sampler for r in curves(leaves, root, tmp_path / "other").rows][-1] == "student"  # a model's own


def test_the_judges_do_not_decide_what_is_drawn_anew(small, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(small, other)
    before = hash_weights(other)
    (other / "features.safetensors").write_bytes(b"other")
    assert hash_weights(other) == before
    (other / "denoiser.safetensors").write_bytes(b"other")
    assert hash_weights(other) != before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samplers": ("eular",)}, "A sampler is one of"),
        ({"counts": (0,)}, "1 or more"),
        ({"count": 1}, "2 samples or more"),
        ({"student": "MODEL"}, "has none. Train one: diffgraft distill"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(leaves, small, tmp_path, options, says):
    options = {k: small if v == "MODEL" else v for k, v in options.items()}
    with pytest.raises(Error, match=says):
        curves(leaves, small, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(leaves, small, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(Error, match="neither"):
        curves(leaves, small, tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"


# ------------------------------------------------------------------------------------------------ scans, the whole way


def test_ways_that_no_counterfactual_goes_are_left_out_with_the_reason(raw, model, tmp_path):
    asked = {"counts": (1, 2), "samplers": ("euler", "dpmpp_2m_sde"), "count": 2, "backend": "torch"}
    result = evaluate_steps(raw, model, tmp_path / "out", **asked)
    (row,) = result.rows
    assert (row.sampler, row.steps, row.evaluations) == ("euler", 2, 3) and result.reference == "euler, 2 steps"
    left = " ".join(result.notes)
    assert "2 steps or more" in left and "needs a deterministic sampler" in left
    with pytest.raises(Error, match="needs a deterministic sampler"):
        evaluate_steps(raw, model, tmp_path / "other", **{**asked, "samplers": ("dpmpp_2m_sde",)})


@pytest.mark.slow
def test_curves_of_scans_are_those_of_counterfactual_and_evaluate(raw, model, tmp_path):
    result = evaluate_steps(raw, model, tmp_path / "out", counts=(3,), samplers=("euler",), backend="torch")
    (row,) = result.rows
    settings = dataclasses.replace(brain_mri.QUALITY["default"], steps=3)
    held_out = [scan.label for scan in Scans(StepsRequest(raw, model, tmp_path, backend="torch")).scans]
    assert held_out == [name for name in sorted(heads.LESIONS) if not trained(model, name)]
    counterfactual(model, raw, tmp_path / "maps", settings=settings, backend="torch", force=True)
    theirs = evaluate_anomaly(raw, tmp_path / "maps", only=held_out, resamples=5).reports
    ours = theirs["anomaly map"].regions["head"]
    assert row.figures["auprc"].value == pytest.approx(ours.average_precision.value, rel=1e-3)
    assert row.figures["dice"].value == pytest.approx(ours.best_dice.value, rel=1e-3)
    wide = theirs["wide FLAIR x rim x slice p"].regions["head"].average_precision.value
    assert result.beside["auprc"]["wide FLAIR x rim x slice p"].value == pytest.approx(wide, rel=1e-3)
    assert (tmp_path / "out" / "samples-euler.png").is_file()


def trained(model: Path, name: str) -> bool:
    seen = set(read_meta(model)["parts"]["denoiser"]["run"]["trained_on"])
    return any(hash_id(f"{name}-{k:03d}") in seen for k in range(100))


def test_scans_that_were_all_trained_on_are_refused(raw, model, tmp_path):
    (tmp_path / "some").mkdir()
    for path in raw.glob("P01*"):
        (tmp_path / "some" / path.name).write_bytes(path.read_bytes())
    assert trained(model, "P01")
    with pytest.raises(Error, match="not trained on"):
        evaluate_steps(tmp_path / "some", model, tmp_path / "out", backend="torch")


# ------------------------------------------------------------------------------------------------------ starter model


@pytest.mark.slow
@pytest.mark.skipif(not LEAVES.is_dir(), reason="no real leaves beside the checkout (../shared/data/plant)")
def test_the_starter_model_of_leaves_needs_more_than_one_step(tmp_path):
    from diffgraft.preparation.prepare import prepare

    prepare("plant_disease", LEAVES, tmp_path / "data", only=["crop=coffee"])
    result = evaluate_steps(
        tmp_path / "data", ROOT / "models" / "plant_disease", tmp_path / "out",
        counts=(1, 8), samplers=("dpmpp_2m",), count=32, backend="onnx",
    )  # fmt: skip
    one, eight, reference, student = result.rows
    # the student that the model is shipped with takes four
    assert student.figures["distance"].value < 0.5 * one.figures["distance"].value
    assert one.differences["kid"].low > 0 and one.figures["kid"].value > 5 * reference.figures["kid"].value
    assert one.figures["distance"].value > 2 * eight.figures["distance"].value
    shuffled = result.beside["asked"]["requests shuffled"]
    assert reference.figures["asked"].low > shuffled.high
    assert result.enough["kid"]["dpmpp_2m"] == 8
