"""Makes the pictures of the documentation from the output of `make demo`: python docs/hooks/pictures.py demo/

Everything shown was made by the starter models; the scan is the sample that comes with the model, itself synthetic. Run it
again whenever a starter model, or a report, changes. The reports are photographed by Chromium.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).resolve().parents[1] / "pictures"
EDGE, TEXT = 6, 22
"""Pixels between pictures, and of a line of text above them."""


def main() -> None:
    demo = Path(sys.argv[1])
    OUT.mkdir(exist_ok=True)
    save("leaves", leaves(demo / "leaves"))
    save("rust", edits(demo / "leaves", demo / "rust"))
    save("films", films(demo / "films"))
    save("smears", smears(demo / "smears"))
    save("brain", brain(demo / "brain_mri", Path("models/brain_mri/sample/sub-demo_FLAIR.nii.gz")))
    for name, box in REPORTS.items():
        save(f"report_{name}", report(demo / name / "report.html", box))


REPORTS = {"brain_mri": (30, 480, 1250, 1420), "rust": (30, 80, 1250, 970), "smears": (30, 80, 1250, 1280)}
"""Run -> what is shown of its report: left, top, right, bottom in pixels of a window of 1280 x 1500."""


def report(page: Path, box: tuple[int, int, int, int]) -> Image.Image:
    """A part of a report as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "page.png")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000"]
        command = ["chromium", *options, f"--screenshot={file}", "--window-size=1280,1500", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        shown = Image.open(file).convert("RGB").crop(box)
    return shown.resize((960, 960 * shown.height // shown.width), Image.Resampling.LANCZOS)


def save(name: str, picture: Image.Image) -> None:
    path = OUT / f"{name}.webp"
    picture.save(path, quality=82, method=6)
    print(path, picture.size, path.stat().st_size)


def leaves(root: Path) -> Image.Image:
    """A column a class, four leaves each."""
    folders = sorted((root / "images").iterdir())
    titles = [folder.name.replace("Coffee___", "").replace("_", " ") for folder in folders]
    return grid([[Image.open(path) for path in sorted(folder.iterdir())[:4]] for folder in folders], titles)


def edits(before: Path, after: Path) -> Image.Image:
    """A column a leaf: as it was, and with rust."""
    rows = [json.loads(line) for line in (after / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = []
    for row in rows[:4]:
        source = next((before / "images").rglob(f"{row['provenance']['source']}.png"))
        pairs.append([Image.open(source), Image.open(next((after / "images").rglob(f"{row['id']}.png")))])
    return grid(pairs, ["healthy, below with rust"] + [""] * (len(pairs) - 1))


def films(root: Path) -> Image.Image:
    """A column a prompt, two films each."""
    rows = [json.loads(line) for line in (root / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts: dict[str, list[Image.Image]] = {}
    for row in rows:
        levels = np.asarray(Image.open(root / "images" / f"{row['id']}.png"))  # 16 bits, which Pillow would clip
        picture = Image.fromarray((levels // 257).astype(np.uint8))
        prompts.setdefault(row["text"], []).append(picture.resize((176, 176), Image.Resampling.LANCZOS))
    return grid([pictures[:2] for pictures in prompts.values()], [shorten(text) for text in prompts])


def shorten(text: str) -> str:
    """A prompt short enough to stand above a film."""
    text = text.replace(" view", "").replace("Normal chest radiograph", "normal").replace("bilateral ", "")
    return text if len(text) < 25 else f"{text[:22]}..."


def smears(root: Path) -> Image.Image:
    """Eight smears with the boxes that they were made for."""
    found = json.loads((root / "instances.json").read_text(encoding="utf-8"))
    inks = {c["id"]: ink for c, ink in zip(found["categories"], ("#0072b2", "#d55e00", "#009e73"), strict=False)}
    pictures = []
    for image in found["images"]:
        picture = Image.open(root / image["file_name"])
        picture = picture.convert("RGB").resize((image["width"] * 2, image["height"] * 2), Image.Resampling.LANCZOS)
        pen = ImageDraw.Draw(picture)
        for box in found["annotations"]:
            if box["image_id"] == image["id"]:
                x, y, w, h = (2 * value for value in box["bbox"])
                pen.rectangle([x, y, x + w, y + h], outline=inks[box["category_id"]], width=2)
        pictures.append(picture.resize((288, 216), Image.Resampling.LANCZOS))
    return grid([pictures[n : n + 2] for n in range(0, 8, 2)], [""] * 4)


def brain(root: Path, scan: Path) -> Image.Image:
    """Slices of the sample, what the model expects without a lesion, and the map."""
    source, healthy, anomaly = (
        nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
        for path in (
            scan,
            *(root / f"sub-demo/anat/sub-demo_desc-{what}_FLAIR.nii.gz" for what in ("healthycf", "anomaly")),
        )
    )
    chosen = np.argsort(-anomaly.max((0, 1)))[:8:2]
    top, most = np.percentile(source, 99.7), anomaly.max()
    columns = []
    for k in sorted(chosen):
        column = [picture(np.clip(volume[:, :, k] / top, 0, 1)) for volume in (source, healthy)]
        columns.append([*column, picture(np.clip(anomaly[:, :, k] / most, 0, 1))])
    return grid(columns, ["scan; healthy counterfactual; map", "", "", ""])


def picture(levels: np.ndarray) -> Image.Image:
    """A slice of RAS+ voxels in radiological display: the front is up, the patient's right is left."""
    image = Image.fromarray(np.rint(255 * levels[::-1, ::-1].T).astype(np.uint8))
    return image.resize((200, 200 * image.height // image.width), Image.Resampling.LANCZOS)


def grid(columns: list[list[Image.Image]], titles: list[str]) -> Image.Image:
    """Columns of pictures of one size on white, a title above each column."""
    wide, tall = columns[0][0].size
    deep = max(map(len, columns))
    sheet = Image.new("RGB", (len(columns) * (wide + EDGE) - EDGE, TEXT + deep * (tall + EDGE) - EDGE), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for n, (column, title) in enumerate(zip(columns, titles, strict=True)):
        pen.text((n * (wide + EDGE) + 2, 3), title, "#333333", font)
        for k, one in enumerate(column):
            sheet.paste(one.convert("RGB"), (n * (wide + EDGE), TEXT + k * (tall + EDGE)))
    return sheet


if __name__ == "__main__":
    main()
