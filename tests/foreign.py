"""Programs and packages of others that read what is written here, and how what they read is compared.

A program is looked for on the path and beside Python, where pip puts it; one that is absent skips its test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

__all__ = ["LPS", "needs", "nifti", "ran", "seen", "tool"]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Between the millimetres of DICOM and ITK and those of NIfTI."""


def tool(name: str) -> str | None:
    places = (os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", str(Path(sys.executable).parent))
    return shutil.which(name, path=os.pathsep.join(places))


def needs(*programs: str) -> Callable[[Any], Any]:
    absent = [name for name in programs if tool(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def ran(name: str, *arguments: object) -> str:
    """What a program told; it has to end well."""
    told = subprocess.run([str(tool(name)), *map(str, arguments)], capture_output=True, text=True, errors="replace")
    assert told.returncode == 0, (name, told.returncode, (told.stdout + told.stderr)[-2000:])
    return told.stdout + told.stderr


def nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a NIfTI file."""
    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def seen(array: np.ndarray, affine: np.ndarray, like: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What a reader shows at the places of a grid: (X, Y, Z) of `shape`, whose affine is `like`.

    Readers may exchange axes and turn them over, but have to keep the grid: the same voxels at the same millimetres.
    """
    turn = np.linalg.inv(affine) @ like
    assert np.abs(turn - np.rint(turn)).max() < 2e-3 and sorted(array.shape) == sorted(shape)
    corner = np.rint(turn).astype(int)
    ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
    x, y, z = corner[:3, :3] @ ijk + corner[:3, 3:]
    assert min(x.min(), y.min(), z.min()) >= 0
    return array[x, y, z].reshape(shape)
