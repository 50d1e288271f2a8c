"""Raw files to a data set folder: photographs in class folders, one of them damaged."""

from inputs import draw_leaves

import diffgraft

photos = draw_leaves(
    "examples/out/photos", 4
)  # Bean___healthy/leaf0.jpg, ..., Bean___rust/leaf3.jpg
(photos / "Bean___rust" / "broken.jpg").write_bytes(b"not a picture")

result = diffgraft.prepare(
    "plant_disease", photos, "examples/out/data", size="128x64", overwrite=True
)
print(result.samples, "photographs of", result.groups, "leaves:", dict(result.classes))
for source, reason in result.aside:
    print("put aside:", source, "-", reason)
