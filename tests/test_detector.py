"""The detector: which places stand for an object, the loss, a network that learns, and the same answer of every backend."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffgraft.training.train import train
from domains import detection
from export.graphs.onnx import export
from export.runtime import ort
from export.verify import verify
from toolkit.data import dataset
from toolkit.diffusion.model import BOXES, OBJECTS, Spec
from toolkit.evaluation.detection.metrics import as_truth, average_precision, decode
from toolkit.example import Annotation, Boxes, Error, Example
from toolkit.models.folder import read_meta
from toolkit.networks import folder
from toolkit.networks.detector import STRIDE, Detector, corners, places
from toolkit.objects import boxes as layout
from toolkit.settings import Augmentation, Network, Training
from toolkit.training.detecting import assign_targets, detection_loss, generalised_iou
from toolkit.training.loader import Batch, generator

NAMES = ("disc", "square")
SHAPE = (3, 36, 48)  # 9 rows of places, which are not twice the 5 of the next level
NETWORK = Network((8, 16, 24), norm_groups=4)
SPEC = Spec(SHAPE, layout.fields(NAMES))


def shapes(count: int, seed: int = 0) -> list[Example]:
    """A bright disc or a dark square, or both, on grey noise; every fifth image shows nothing."""
    random = np.random.default_rng(seed)
    rows, cols = np.mgrid[0 : SHAPE[1], 0 : SHAPE[2]] + 0.5
    found = []
    for n in range(count):
        image = 0.1 * random.standard_normal(SHAPE).astype(np.float32)
        boxes, names = [], []
        for name, middle in zip(NAMES, (random.uniform(9, 15), random.uniform(33, 39)), strict=True):
            if n % 5 == 4 or random.random() < 0.3:
                continue
            half, down = random.uniform(4, 8), random.uniform(9, SHAPE[1] - 9)
            away = (rows - down, cols - middle)
            inside = np.hypot(*away) < half if name == "disc" else np.maximum(*np.abs(away)) < half
            image[:, inside] += 0.8 if name == "disc" else -0.8
            boxes.append([middle - half, down - half, middle + half, down + half])
            names.append(name)
        known = Boxes(np.array(boxes, float).reshape(-1, 4), tuple(names), SHAPE[1:])
        label = {"class": float(NAMES.index(names[0])) if names else float("nan")}
        found.append(Example(f"s{n}", image.clip(-1, 1), Annotation(labels=label, boxes=known), f"s{n}"))
    return found


def batch_of(examples: list[Example]) -> Batch:
    arrays = layout.to_arrays([e.annotation for e in examples], NAMES)
    images = torch.from_numpy(np.stack([e.image for e in examples]))
    return Batch(
        images, {k: torch.from_numpy(v) for k, v in arrays.items()}, torch.zeros(len(images), dtype=torch.long)
    )


# ---------------------------------------------------------------------------------------------------------- assignment


def by_hand(box: list[float], x: float, y: float) -> bool:
    """Whether a place whose middle is at (x, y) stands for a box that is alone."""
    across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    own = (across // STRIDE, down // STRIDE) == (x // STRIDE, y // STRIDE)
    return own or (abs(x - across) <= 6 and abs(y - down) <= 6 and box[0] < x < box[2] and box[1] < y < box[3])


@pytest.mark.parametrize(
    "box", [[4, 4, 40, 30], [10.5, 9.0, 14.5, 21.0], [21.2, 17.3, 22.3, 18.1], [0, 0, 6, 6], [40, 30, 48, 36]]
)
def test_the_places_near_the_middle_of_a_box_stand_for_it(box):
    which = assign_targets(torch.tensor([[box]], dtype=torch.float32), torch.tensor([[True]]), 9, 12)[0]
    expected = [[0 if by_hand(box, (c + 0.5) * 4, (r + 0.5) * 4) else -1 for c in range(12)] for r in range(9)]
    assert which.tolist() == expected
    assert (which == 0).any(), "however small a box is, one place stands for it"


def test_of_two_boxes_the_smaller_is_seen_and_padding_never():
    boxes = torch.tensor([[[4.0, 4, 32, 32], [13, 13, 23, 23], [0, 0, 48, 36]]])
    which = assign_targets(boxes, torch.tensor([[True, True, False]]), 9, 12)[0]
    assert set(which.flatten().tolist()) == {-1, 1}, "they have one middle: all of its places are the smaller one's"
    assert set(assign_targets(boxes, torch.tensor([[True, False, False]]), 9, 12).flatten().tolist()) == {-1, 0}
    assert (assign_targets(boxes, torch.zeros(1, 3, dtype=torch.bool), 9, 12) == -1).all()


def test_distances_from_a_place_lead_to_corners():
    middle = places(2, 3, torch.device("cpu"))
    assert middle[:, 1, 2].tolist() == [10, 6]
    sides = torch.zeros(1, 4, 2, 3)
    sides[0, :, 1, 2] = torch.tensor([1.0, 2, 3, 4])
    assert corners(sides)[0, :, 1, 2].tolist() == [9, 4, 13, 10]


# ---------------------------------------------------------------------------------------------------------------- loss


def test_the_generalised_overlap_of_cases_by_hand():
    """Apart by a gap of one side: the hull is three squares, the union two of them."""
    square, beside = [0.0, 0, 2, 2], [4.0, 0, 6, 2]
    first = torch.tensor([square, square, square], requires_grad=True)
    plain, general = generalised_iou(first, torch.tensor([square, beside, [1.0, 0, 3, 2]]))
    assert plain.tolist() == pytest.approx([1, 0, 1 / 3])
    assert general.tolist() == pytest.approx([1, -1 / 3, 1 / 3])
    general[1].backward()
    assert first.grad is not None and first.grad[1].abs().sum() > 0, "boxes that do not meet are drawn together"


class Fixed(torch.nn.Module):
    """A detector that answers what it is told to."""

    def __init__(self, logits: torch.Tensor, sides: torch.Tensor) -> None:
        super().__init__()
        self.answer = logits, sides

    def dense(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.answer


def loss_of(logits: torch.Tensor, sides: torch.Tensor, batch: Batch) -> float:
    return float(detection_loss(Fixed(logits, sides), batch, SPEC, Training(1), generator(0)))


def perfect(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of all but 1 where an object is, and its box."""
    boxes = batch.cond[BOXES] * torch.tensor([48.0, 36, 48, 36])
    which = assign_targets(boxes, batch.cond[OBJECTS] < 2, 9, 12)
    logits, sides = torch.full((len(boxes), 2, 9, 12), -12.0), torch.ones(len(boxes), 4, 9, 12)
    middle = places(9, 12, torch.device("cpu"))
    for n, r, c in torch.nonzero(which >= 0).tolist():
        box = boxes[n, which[n, r, c]]
        logits[n, batch.cond[OBJECTS][n, which[n, r, c]], r, c] = 12.0
        sides[n, :, r, c] = torch.cat([middle[:, r, c] - box[:2], box[2:] - middle[:, r, c]])
    return logits, sides


def test_the_loss_is_nought_for_the_truth_and_for_nothing_else():
    batch = batch_of(shapes(6))
    logits, sides = perfect(batch)
    best = loss_of(logits, sides, batch)
    assert best < 1e-3
    assert loss_of(logits, 1.2 * sides, batch) > best + 0.1, "boxes that are too large"
    assert loss_of(logits.flip(1), sides, batch) > best + 1, "the other class"
    assert loss_of(logits.clamp(max=-12), sides, batch) > best + 1, "nothing found"
    assert loss_of(logits.clamp(min=0), sides, batch) > best + 1, "objects everywhere"


def test_a_batch_that_shows_nothing_has_a_loss_too():
    nothing = batch_of([shapes(5)[4]])
    logits, sides = perfect(nothing)
    assert 0 <= loss_of(logits, sides, nothing) < 1e-3
    assert loss_of(logits + 12, sides, nothing) > 1


def test_the_class_loss_is_eq_2_of_varifocal():
    """One place of one image by hand: its score p, its overlap q = 1; all else is all but nought."""
    batch = batch_of([Example("a", np.zeros(SHAPE, np.float32), Annotation(boxes=Boxes(
        np.array([[20.5, 16.5, 23.5, 19.5]]), ("disc",), SHAPE[1:])))])  # fmt: skip
    logits, sides = perfect(batch)
    assert (logits > 0).sum() == 1
    p, wrong = 0.3, 0.4
    logits[logits > 0] = torch.tensor(p).logit()
    logits[0, 1, 0, 0] = torch.tensor(wrong).logit()
    expected = -np.log(p) - 0.75 * wrong**2 * np.log(1 - wrong)
    assert loss_of(logits, sides, batch) == pytest.approx(expected, abs=1e-3)


# ------------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(("rows", "cols"), [(36, 48), (144, 192), (128, 128), (50, 70)])
def test_any_size_has_an_answer_in_pixels_of_the_image(rows, cols):
    torch.manual_seed(0)
    network = Detector(NETWORK, (3, rows, cols), 2).eval()
    with torch.no_grad():
        network.sides.bias.fill_(3.0)  # boxes that would reach out of the image
        found = network(torch.randn(2, 3, rows, cols))
    assert set(found) == {"scores", "corners"}
    height, width = -(-rows // 4), -(-cols // 4)
    assert found["scores"].shape == (2, 2, height, width) and found["corners"].shape == (2, 4, height, width)
    x0, y0, x1, y1 = found["corners"].unbind(1)
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= cols).all() and (y1 <= rows).all()
    assert (x0 <= x1).all() and (y0 <= y1).all()
    assert found["scores"].max() < 0.2, "an untrained detector is sure of nothing"


@pytest.mark.slow
def test_a_detector_learns_what_is_in_images_that_it_has_not_seen():
    torch.manual_seed(0)
    network, batch = Detector(NETWORK, SHAPE, 2), batch_of(shapes(60))
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    for step in range(150):
        index = torch.randint(len(batch.image), (16,), generator=generator(step))
        loss = detection_loss(network, batch[index], SPEC, Training(1), generator(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    other = shapes(40, seed=1)
    with torch.no_grad():
        dense = network.eval()(torch.from_numpy(np.stack([e.image for e in other])))
    found = decode({k: v.numpy() for k, v in dense.items()})
    truths = [as_truth(e.annotation.boxes, NAMES) for e in other]
    judged = average_precision(truths, found, NAMES, SHAPE[1:])
    shuffled = average_precision(truths[1:] + truths[:1], found, NAMES, SHAPE[1:])
    assert judged.mean_ap50 > 0.9 > 0.5 > shuffled.mean_ap50


# ------------------------------------------------------------------------------------------------------ the whole part


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes") / "data"
    unknown = [
        dataclasses.replace(e, id=f"x{e.id}", annotation=Annotation(labels={"class": float("nan")})) for e in shapes(3)
    ]
    dataset.write([*shapes(60), *unknown], root, domain="detection", labels={"class": list(NAMES)})
    return root


@pytest.fixture(scope="module")
def root(data, tmp_path_factory) -> Path:
    """A model with a detector, trained shortly, and a denoiser, not at all."""
    root = tmp_path_factory.mktemp("detector") / "model"
    presets = {
        "detector": {"small": (NETWORK, Training(60, 8, 4e-3, warmup=5, ema=0.9, fold=0))},
        "denoiser": {
            "small": (Network((8, 16), norm_groups=4, attention=1, attention_head_dim=8), Training(1, 2, variants=1))
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "PRESETS", presets)
        patch.setattr(detection, "AUGMENTATION", Augmentation(flip=0.5))
        train(detection, data, root, "detector")
    meta = read_meta(root)
    plan = {"network": presets["denoiser"]["small"][0], "parameterisation": "edm"}
    meta["parts"]["denoiser"] = json.loads(json.dumps(plan, default=dataclasses.asdict))
    torch.manual_seed(0)
    folder.save_part(root, "denoiser", folder.build("denoiser", meta).state_dict(), meta)
    return root


@pytest.mark.slow
def test_a_trained_part_says_how_good_it_is_on_what_was_held_out(root, data):
    entry = read_meta(root)["parts"]["detector"]
    assert entry["classes"] == list(NAMES)
    facts = entry["run"]
    model = folder.open(root, "cpu")
    unseen = [e for e in dataset.read(data) if dataset.fold_of(e.group) == 0 and e.annotation.boxes is not None]
    assert model.detector is not None
    dense = model.detector(model.asarray(np.stack([e.image for e in unseen])))
    found = decode({k: model.asnumpy(v) for k, v in dense.items()})
    judged = average_precision([as_truth(e.annotation.boxes, NAMES) for e in unseen], found, NAMES, SHAPE[1:])
    assert facts["held_out_ap50"] == pytest.approx(judged.mean_ap50, abs=1e-6)
    assert facts["held_out_ap50"] > 0.5
    assert set(facts["held_out_ap50_of"]) == set(facts["thresholds"]) == set(NAMES)
    page = (root / "training" / "detector" / "report.html").read_text()
    assert "AP50" in page and page.count("annotated") >= 6 and "data:image" in page


@pytest.mark.slow
def test_what_is_not_annotated_is_no_ground(data, tmp_path):
    """Images without boxes are left out; a data set of such images alone is refused."""
    bare = [dataclasses.replace(e, annotation=Annotation(labels={"class": 0.0})) for e in shapes(8)]
    dataset.write(bare, tmp_path / "data", domain="detection", labels={"class": list(NAMES)})
    with pytest.raises(Error, match="in boxes"):
        train(detection, tmp_path / "data", tmp_path / "model", "detector", steps=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")
@pytest.mark.filterwarnings("ignore:.*The axis name. batch will not be used:UserWarning")
def test_the_graph_is_the_module_at_every_batch(root):
    assert "detector.onnx" in [path.name for path in export(root)]
    torch_model, onnx_model = folder.open(root, "cpu"), ort.open(root)
    assert {p.output for p in verify(torch_model, onnx_model)} >= {"scores", "corners"}
    examples = shapes(7, seed=3)
    for count in (1, 3, 7):
        images = np.stack([e.image for e in examples[:count]])
        ours, theirs = torch_model.detector(torch.from_numpy(images)), onnx_model.detector(images)
        for name in ("scores", "corners"):
            mine = ours[name].numpy()
            assert theirs[name].dtype == np.float32 and theirs[name].shape == mine.shape
            assert np.abs(theirs[name] - mine).max() <= 1e-4 * mine.std()
        found, same = decode({k: v.numpy() for k, v in ours.items()}), decode(theirs)
        for a, b in zip(found, same, strict=True):
            assert a.classes.tolist() == b.classes.tolist() and len(a.scores)
            assert a.corners == pytest.approx(b.corners, abs=0.01)
