#!/usr/bin/env bash
# datumaro 1.13.12 (which CVAT's exports are made with) and supervision 0.31.0 both say Pascal VOC and mean other pixels.
# datumaro's default is 0-based and exclusive: the ten left pixels are <xmin>0.0 <xmax>10.0, with <database>, <annotation> and
# <image> Unknown in <source>. supervision counts from 1 as the challenge does: it takes 1 off all four sides, so that the same
# box begins at -1 and ends at 9. What supervision writes is <xmin>1 <xmax>11 and comes back to itself, and datumaro reads that
# as 1 to 11. No reader warns. Only what stands in <source> tells the two apart (supervision writes roboflow.ai).
# Needs a Python of 3.10 or newer; installs both into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check datumaro==1.13.12 supervision==0.31.0 2>/dev/null
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON' 2>/dev/null
import re
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import supervision
from datumaro.components.annotation import Bbox
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image

pixels = np.zeros((24, 32, 3), np.uint8)
item = DatasetItem("a", subset="train", media=Image.from_numpy(pixels), annotations=[Bbox(0, 2, 10, 6, label=0)])
Dataset.from_iterable([item], categories=["cell"]).export("datumaro", "voc", save_media=True)
words = next(Path("datumaro/Annotations").rglob("a.xml")).read_text()
sides = {side: float(re.search(f"<{side}>([^<]*)<", words)[1]) for side in ("xmin", "ymin", "xmax", "ymax")}
unknown = len(re.findall(r"<(database|annotation|image)>Unknown<", words))
picture = next(Path("datumaro").rglob("a.jpg"), None) or next(Path("datumaro").rglob("a.*[!l]"))
theirs = supervision.DetectionDataset.from_pascal_voc(str(picture.parent), "datumaro/Annotations")
(box,) = [found.xyxy[0].tolist() for _, _, found in theirs]
theirs.as_pascal_voc(annotations_directory_path="supervision")
again = next(Path("supervision").rglob("a.xml")).read_text()
print(f"datumaro {version('datumaro')} writes 0 2 10 8 as {list(sides.values())}, Unknown in <source> {unknown} times")
print(f"supervision {version('supervision')} reads that as {box}")
print(f"supervision writes <database>{re.search('<database>([^<]*)<', again)[1]}</database>")
right = list(sides.values()) == [0, 2, 10, 8] and box == [-1, 1, 9, 7] and unknown == 3 and "roboflow.ai" in again
print("as stated" if right else "changed")
sys.exit(not right)
PYTHON
