#!/usr/bin/env bash
# pycocotools 2.0.11: COCOeval keeps, for each detection, the id of the annotation that it matched, and 0 says that there was
# none. An annotation whose own id is 0 is therefore matched and counted as missed: a perfect detection of one object has AP 0,
# of two objects AP .25, without a word. With ids from 1 it is 1. Label Studio's COCO export counts ids from 0.
# Needs a Python of 3.10 or newer; installs pycocotools into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pycocotools==2.0.11 2>/dev/null
"$work/venv/bin/python" - <<'PYTHON'
import contextlib
import io
import sys
from importlib.metadata import version

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def precision(first: int, objects: int) -> float:
    """AP of the truth taken for detections, where the ids of its annotations begin at `first`."""
    boxes = [[10.0, 10.0 + 30 * n, 20.0, 20.0] for n in range(objects)]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": first + n, "image_id": 1, "category_id": 1, "bbox": box, "area": 400.0, "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - 0.1 * n} for n, box in enumerate(boxes)]
        truth.dataset["info"] = {}
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


print(f"pycocotools {version('pycocotools')}")
seen = {(first, objects): precision(first, objects) for first in (0, 1) for objects in (1, 2)}
for (first, objects), value in seen.items():
    print(f"{objects} perfect detections, ids from {first}: AP {value:.3f}")
if not (seen[1, 1] > 0.999 and seen[1, 2] > 0.999 and seen[0, 1] < 0.001 and seen[0, 2] < 0.6):
    sys.exit("changed: an annotation of id 0 counts as matched, or one of id 1 does not")
PYTHON
