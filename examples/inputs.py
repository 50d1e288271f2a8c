"""Drawn stand-ins for the reader's own files: every example runs without data."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, ImageDraw

from toolkit.data import dataset
from toolkit.example import Provenance

SCAN = "models/brain_mri/sample/sub-demo_FLAIR.nii.gz"


def draw_leaves(root: str | Path, count: int, seed: int = 0) -> Path:
    """Photographs in class folders: leaves, with brown spots where they are ill."""
    random = np.random.default_rng(seed)
    for folder in ("Bean___healthy", "Bean___rust"):
        place = _new(Path(root) / folder)
        for number in range(count):
            light = Image.fromarray(
                random.integers(90, 256, (4, 8, 3)).astype(np.uint8)
            )
            picture = light.resize((320, 160), Image.Resampling.BICUBIC)
            pen = ImageDraw.Draw(picture)
            width, height, green = (
                random.uniform(60, 150),
                random.uniform(30, 75),
                int(random.integers(110, 180)),
            )
            pen.ellipse(
                [160 - width, 80 - height, 160 + width, 80 + height],
                fill=(60, green, 50),
            )
            spots = random.uniform(
                (110, 60), (200, 95), (int(random.integers(4, 10)), 2)
            )
            for x, y in spots if "rust" in folder else ():
                pen.ellipse([x, y, x + 16, y + 13], fill=(150, 90, 30))
            picture.save(place / f"leaf{100 * seed + number}.jpg", quality=92)
    return Path(root)


def draw_cells(root: str | Path, count: int, seed: int = 0) -> Path:
    """Pictures with boxes in YOLO format: a text file a picture, a line a box."""
    random = np.random.default_rng(seed)
    pictures, labels = _new(Path(root) / "images"), _new(Path(root) / "labels")
    (Path(root) / "data.yaml").write_text(
        "path: .\ntrain: images\nnames: [cell, platelet]\n"
    )
    for number in range(count):
        picture = Image.new("RGB", (192, 144), "#f3e9ef")
        pen, lines = ImageDraw.Draw(picture), []
        for column in range(3):
            kind = int(random.integers(2))
            radius = (22.0, 8.0)[kind]
            x, y = 32 + 64 * column + random.uniform(-8, 8), random.uniform(30, 114)
            pen.ellipse(
                [x - radius, y - radius, x + radius, y + radius],
                fill=("#c98aa6", "#7a4fa0")[kind],
            )
            box = x / 192, y / 144, 2 * radius / 192, 2 * radius / 144
            lines.append(f"{kind} {' '.join(f'{value:.6f}' for value in box)}\n")
        picture.save(pictures / f"smear{100 * seed + number}.png")
        (labels / f"smear{100 * seed + number}.txt").write_text("".join(lines))
    return Path(root)


def draw_lesions(root: str | Path, places: tuple[float, ...]) -> Path:
    """Scans with masks: the sample with a bright ball at these parts of its width."""
    scan = nibabel.load(SCAN)
    folder = _new(Path(root))
    for number, place in enumerate(places):
        voxels = np.asarray(scan.dataobj, np.float32)
        offset = np.moveaxis(np.indices(voxels.shape), 0, -1) - np.array(
            voxels.shape
        ) * (place, 0.55, 0.55)
        mask = np.linalg.norm(offset * scan.header.get_zooms(), axis=-1) < 14
        voxels[mask] = np.percentile(voxels, 99.5)
        for name, content in (("FLAIR", voxels), ("mask", mask.astype(np.uint8))):
            nibabel.save(
                nibabel.Nifti1Image(content, scan.affine),
                folder / f"sub-ball{number}_{name}.nii.gz",
            )
    return folder


def as_synthetic(data: str | Path, out: str | Path) -> Path:
    """A data set with its samples marked as generated, in the place of a model's."""
    made, about = (
        Provenance("synthetic", model="drawn", procedure="generate"),
        dataset.read_info(data),
    )
    samples = (dataclasses.replace(one, provenance=made) for one in dataset.read(data))
    dataset.write(
        samples,
        out,
        domain=about["domain"],
        labels=about["labels"],
        synthetic=True,
        trained_on=[],
    )
    return Path(out)


def _new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
