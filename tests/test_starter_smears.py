"""The starter model of blood smears, as it is shipped: are cells where their boxes say, in a file that says it is synthetic?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffgraft import models
from diffgraft.generation import sampling
from diffgraft.generation.generate import generate
from diffgraft.models.defaults import default_sampling
from domains import detection
from toolkit.data import dataset, xmp
from toolkit.evaluation.detection.metrics import as_truth, decode, layout_agreement
from toolkit.evaluation.detection.stain import saturated_inside
from toolkit.example import Annotation, Boxes
from toolkit.formats import coco
from toolkit.models.folder import hash_id, read_meta
from toolkit.objects import layout_summary

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "detection"
REAL = ROOT.parent / "shared" / "data" / "boxes" / "bccd"
real_smears = pytest.mark.skipif(not REAL.is_dir(), reason="no real smears beside the checkout (../shared/data/boxes)")
NAMES = ("Platelets", "RBC", "WBC")
FOLD = 1
SURE = 0.3


@pytest.fixture(scope="module")
def model():
    return models.open(MODEL, "onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Eight smears, as the demo makes them."""
    out = tmp_path_factory.mktemp("smears") / "out"
    generate(MODEL, out, {}, 8, format="coco", backend="onnx")
    return out


def test_it_is_small_and_complete():
    files = {path.name for path in MODEL.iterdir() if path.is_file()}
    graphs = {"denoiser.onnx", "encoder.onnx", "decoder.onnx", "features.onnx", "detector.onnx"}
    assert graphs | {"README.md", "LICENSE", "model.json"} <= files
    assert sum(path.stat().st_size for path in MODEL.iterdir() if path.is_file()) < 5 * 2**20
    meta = read_meta(MODEL)
    assert tuple(meta["labels"]["class"]) == NAMES
    assert set(meta["parts"]) == {"features", "codec", "denoiser", "detector"}


def test_smears_are_coco_that_says_so_and_boxes_lie_in_them(made):
    facts = json.loads((made / "instances.json").read_text())
    assert {c["name"] for c in facts["categories"]} == set(NAMES)
    assert len(facts["images"]) == 8 and {(i["width"], i["height"]) for i in facts["images"]} == {(192, 144)}
    assert {xmp.read(path) for path in made.glob("images/*.png")} == {"synthetic"}
    read = list(coco.read(made))
    assert len(read) == 8 and all(e.provenance.kind == "synthetic" for e in read)
    assert sum(len(e.annotation.boxes.names) for e in read) > 40
    log = [json.loads(line) for line in (made / "faithfulness.jsonl").read_text().splitlines()]
    assert sum(line["accepted"] for line in log) == 8


def test_cells_are_where_their_boxes_say(model, made):
    """By more than the detector of the filter: stain is in the boxes, and where there is no box there is hardly any."""
    found = list(dataset.read(made))
    images = np.stack([e.image for e in found])
    boxes = [e.annotation.boxes for e in found]
    hits, count = saturated_inside(images, boxes)
    assert hits >= count - 1
    dense = {k: model.asnumpy(v) for k, v in model.detector(model.asarray(images)).items()}
    states = [
        state
        for row, seen in zip(boxes, decode(dense), strict=True)
        for state in layout_agreement(as_truth(row, NAMES), seen, SURE).state
    ]
    assert states.count("matched") / len(states) > 0.6


def test_an_object_moves_with_its_box(model):
    """One white cell asked for on the left or on the right: that is where the detector finds it."""
    sides = []
    for x0 in (20, 120):
        boxes = Boxes(np.array([[x0, 40.0, x0 + 55, 95.0]]), ("WBC",), (144, 192))
        images = sampling.sample(
            model, detection, [Annotation(boxes=boxes)] * 4, default_sampling(model.meta), range(4)
        )
        dense = {k: model.asnumpy(v) for k, v in model.detector(model.asarray(images)).items()}
        for seen in decode(dense, threshold=SURE):
            white = seen.corners[seen.classes == NAMES.index("WBC")]
            sides.append(len(white) > 0 and abs(white[0, [0, 2]].mean() - (x0 + 27.5)) < 15)
    assert np.mean(sides) > 0.7


def test_a_smear_depends_on_its_seed_alone(model):
    known = layout_summary.from_summary(model.meta["typical"]["layouts"])[:3]
    rows, settings = [Annotation(boxes=boxes) for boxes in known], default_sampling(model.meta)
    together = sampling.sample(model, detection, rows, settings, range(3))
    alone = sampling.sample(model, detection, rows[2:], settings, [2])
    assert together[2:] == pytest.approx(alone, abs=2e-3)


@real_smears
def test_every_part_kept_the_same_smears_back():
    known = {row.stem for row in (REAL / "JPEGImages").glob("*.jpg")}
    held_out = {hash_id(stem) for stem in known if dataset.fold_of(stem) == FOLD}
    assert len(held_out) > 50
    for part in read_meta(MODEL)["parts"].values():
        assert not held_out & set(part["run"]["trained_on"])
        assert set(part["run"]["trained_on"]) < {hash_id(stem) for stem in known}
