#!/usr/bin/env bash
# label-studio-sdk 2.1.2: one rectangle turned by 30 degrees on a picture of 640 x 480 comes out of the exports in three places.
# Its corners, which YOLO OBB states, span 180.0, 100.0 to 403.2, 286.6 px. Pascal VOC and YOLO leave the turn out and state the
# upright box at the turned corner, 230, 100 to 430, 200 (VOC rounds down). COCO's bbox turns it in percent, in which a picture
# that is not square is squeezed: 163.3, 100.0 to 403.2, 261.6, 17 px wider and 25 px shorter than the true one. None of VOC,
# YOLO and COCO says that a box was turned.
# Needs a Python of 3.10 or newer; installs label-studio-sdk into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check label-studio-sdk==2.1.2 2>/dev/null
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

from label_studio_sdk.converter.converter import Converter
from label_studio_sdk.converter.utils import convert_annotation_to_yolo, convert_annotation_to_yolo_obb

width, height = 640, 480
box = {
    "x": 230 / 6.4, "y": 100 / 4.8, "width": 200 / 6.4, "height": 100 / 4.8, "rotation": 30.0,
    "original_width": width, "original_height": height,
}  # fmt: skip
corners = [(x * width, y * height) for x, y in convert_annotation_to_yolo_obb(box)]
xs, ys = zip(*corners)
true = (min(xs), min(ys), max(xs), max(ys))
x, y, w, h = convert_annotation_to_yolo(box)
yolo = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
x, y, w, h = Converter.rotated_rectangle(box)
coco = (x * width / 100, y * height / 100, (x + w) * width / 100, (y + h) * height / 100)
print(f"label-studio-sdk {version('label-studio-sdk')}, one box turned by 30 degrees, x0 y0 x1 y1 in pixels")
for name, found in (("the box around its corners (YOLO OBB)", true), ("YOLO, and VOC but for rounding", yolo), ("COCO", coco)):
    print(f"{name}: {' '.join(f'{value:.1f}' for value in found)}")
apart = [max(abs(a - b) for a, b in zip(true, found)) for found in (yolo, coco)]
if min(apart) < 5:
    sys.exit("changed: an export that left the turn out, or turned in percent, is right now")
PYTHON
