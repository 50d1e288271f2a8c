"""Synthetic heads, defined in millimetres of the patient, so that any grid can be laid over the same one."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import apply_affine

GRID = (64, 64, 16)
PLAIN = np.array([[-3.5, 0, 0, 110.25], [0, -3.5, 0, 110.25], [0, 0, 9.0, -67.5], [0, 0, 0, 1]])
"""An axial scan as DICOM has it: x to the patient's left, y to posterior, slices rising."""

LESIONS = {
    "P01": (25, 20, 10),
    "P02": (-30, -10, 25),
    "P03": (28, -30, -5),
    "P04": (-22, 30, 20),
    "P05": None,
    "P06": None,
}
"""Patient -> centre of the lesion in RAS mm, or none. P02 is in the fold that is kept back, see the fixtures."""


def head(
    affine: np.ndarray = PLAIN,
    shape: tuple[int, int, int] = GRID,
    lesion: tuple[float, float, float] | None = None,
    seed: int = 0,
    radius: float = 16.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(scan, mask) on a grid: an ellipsoid with a bright rim of skin, dark bone, an even brain and a blob in it."""
    where = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1).astype(float))
    depth = np.linalg.norm(where / np.array([75.0, 92.0, 85.0]), axis=-1)
    scan = np.select([depth > 1, depth > 0.93, depth > 0.85], [5.0, 700.0, 60.0], 400.0)
    mask = np.zeros(shape, bool)
    if lesion is not None:
        mask = (np.linalg.norm(where - np.array(lesion), axis=-1) < radius) & (depth < 0.85)
        scan[mask] = 800.0
    scan += np.random.default_rng(seed).normal(0, 8, shape)
    return scan.clip(0).astype(np.float32), mask


def save(path: Path, array: np.ndarray, affine: np.ndarray = PLAIN, code: int = 1) -> Path:
    """A NIfTI file whose two codes are `code`."""
    image = nibabel.Nifti1Image(array.astype(np.uint8 if array.dtype == bool else array.dtype), affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def raw_folder(root: Path, masks: bool = True) -> Path:
    """Six patients, their masks and slices.csv."""
    lines = ["patient,slice,label"]
    for seed, (name, lesion) in enumerate(LESIONS.items()):
        scan, mask = head(lesion=lesion, seed=seed)
        save(root / f"{name}_flair.nii.gz", scan)
        if masks:
            save(root / f"{name}_mask.nii.gz", mask)
        lines += [f"{name},{k},{'lesion' if mask[..., k].any() else 'no_lesion'}" for k in range(mask.shape[2])]
    (root / "slices.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
