"""Pictures with boxes from one format to another, here YOLO to COCO."""

import json
from pathlib import Path

from inputs import draw_cells

import diffgraft

raw = draw_cells("examples/out/yolo", 3)
out = Path("examples/out/coco")

result = diffgraft.convert(raw, out, "coco", overwrite=True)  # or "voc", "yolo"
for line in result.summary(out):
    print(line)
content = json.loads((out / "instances.json").read_text())
print("first box, x y width height:", content["annotations"][0]["bbox"])
