"""What other programs make of the objects of a series: every voxel of a map, a mask and a counterfactual in its place.

Each reader sees the same eighteen series: four planes, straight and tilted, classic and Enhanced, and two whose slices hold
a number of pixels that fills no whole bytes. docs/users/hospital.md has the table of who reads what.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import mr_sources
import numpy as np
import pytest
from foreign import LPS, needs, nifti, ran, seen
from highdicom.pm.sop import pmread
from highdicom.seg.sop import segread

from toolkit.example import Provenance
from toolkit.formats.dicom import derived

pytestmark = pytest.mark.slow

EDITED = Provenance("edited", "fedcba9876543210", "counterfactual", 3, {"steps": 40, "strength": 0.5}, "sub-01")


@dataclasses.dataclass(frozen=True)
class Made:
    """What was written of a series, and what a reader has to find there. counterfactual: a folder."""

    name: str
    affine: np.ndarray
    values: dict[str, np.ndarray]
    paths: dict[str, Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> list[Made]:
    root, made = tmp_path_factory.mktemp("series"), []
    planes = itertools.product(mr_sources.PLANES, (0.0, 17.0), ("classic", "enhanced"), [(24, 20, 6)])
    wanted = [*planes, ("axial", 17.0, "classic", (21, 19, 5)), ("coronal", 0.0, "enhanced", (23, 21, 7))]
    for n, (plane, tilt, kind, shape) in enumerate(wanted):
        place = root / f"{plane}{tilt:.0f}{kind}{n}"
        found = mr_sources.series(place / "in", plane, tilt, kind, shape)
        values = {
            "map": np.random.default_rng(n).uniform(0, 1, shape).astype(np.float32),
            "mask": mr_sources.scattered(shape),
            "counterfactual": np.rint(found.voxels * 0.5),
        }
        out = place / "out"
        paths = {
            "map": derived.write_parametric_map(found, values["map"], EDITED, out),
            "mask": derived.write_segmentation(found, values["mask"], EDITED, out),
            "counterfactual": derived.write_mr_series(found, values["counterfactual"], EDITED, out)[0].parent,
        }
        made.append(Made(place.name, found.affine, values, paths))
    return made


def check(one: Made, kind: str, array: np.ndarray, affine: np.ndarray) -> None:
    """What a reader found of a kind of object, against what was written."""
    wanted = one.values[kind]
    found = seen(array > 0 if kind == "mask" else array, affine, one.affine, wanted.shape)  # one is 255 for ITK
    # A counterfactual of a rescaled source is quantised to 16 bits.
    assert np.abs(found - wanted.astype(float)).max() <= (0.02 if kind == "counterfactual" else 0), (one.name, kind)


@needs("dcm2niix")
@pytest.mark.parametrize("kind", ["map", "mask", "counterfactual"])
def test_dcm2niix(kind: str, written: list[Made], tmp_path: Path) -> None:
    for one in written:
        out = tmp_path / one.name
        out.mkdir()
        alone = () if kind == "counterfactual" else ("-s", "y")
        ran("dcm2niix", "-b", "n", "-z", "n", "-x", "n", "-f", "made", *alone, "-o", out, one.paths[kind])
        (path,) = out.glob("*.nii")
        array, affine = nifti(path)
        check(one, kind, array, affine)


@needs("segimage2itkimage", "paramap2itkimage")
@pytest.mark.parametrize(("kind", "program"), [("map", "paramap2itkimage"), ("mask", "segimage2itkimage")])
def test_dcmqi(kind: str, program: str, written: list[Made], tmp_path: Path) -> None:
    """The converters behind Slicer's QuantitativeReporting: a map by the number of its frames, a mask by position."""
    for one in written:
        out = tmp_path / one.name
        out.mkdir()
        ran(program, "--inputDICOM", one.paths[kind], "--outputDirectory", out, "--prefix", "x", "-t", "nii")
        (path,) = out.glob("*.nii.gz")
        array, affine = nifti(path)
        check(one, kind, array, affine)


@pytest.mark.parametrize("kind", ["mask", "counterfactual"])
def test_simpleitk(kind: str, written: list[Made]) -> None:
    itk = pytest.importorskip("SimpleITK")
    for one in written:
        path: Any = one.paths[kind]
        names = sorted(map(str, path.iterdir())) if path.is_dir() else str(path)
        image = itk.ReadImage(names)
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        array = itk.GetArrayFromImage(image)
        if kind == "mask":  # SimpleITK 2.5.7 leaves the bits of a last byte that is not full as memory was
            array.ravel()[array.size - array.size % 8 :] = 0
        check(one, kind, array.transpose(2, 1, 0), LPS @ affine)


@pytest.mark.parametrize("kind", ["mask", "counterfactual"])
def test_monai(kind: str, written: list[Made]) -> None:
    from monai.data.image_reader import PydicomReader

    for one in written:
        reader = PydicomReader()
        array, told = reader.get_data(reader.read(str(one.paths[kind])))
        array = array[..., 0] if kind == "mask" else array
        check(one, kind, np.asarray(array), np.asarray(told["affine"]))


@pytest.mark.parametrize("kind", ["map", "mask"])
def test_highdicom(kind: str, written: list[Made]) -> None:
    for one in written:
        if kind == "map":
            volume: Any = pmread(one.paths[kind]).get_volume()
        else:
            volume = segread(one.paths[kind]).get_volume(combine_segments=True)
        # highdicom counts slice, row, column, and may begin at the head: its affine says so.
        check(one, kind, volume.array, LPS @ volume.affine)


def test_who_cannot_read_a_map(written: list[Made]) -> None:
    """As the table says: SimpleITK opens none, and MONAI has no place for one. When that changes, so does the table."""
    from monai.data.image_reader import PydicomReader

    one = written[0]
    reader = PydicomReader()
    with pytest.warns(UserWarning, match="affine matrix cannot be derived"):
        array, told = reader.get_data(reader.read(str(one.paths["map"])))
    assert sorted(array.shape) == sorted(one.values["map"].shape) and np.array_equal(
        np.abs(told["affine"]).sum(0), [1] * 4
    )
    itk = pytest.importorskip("SimpleITK")
    with pytest.raises(RuntimeError, match="Unable to determine ImageIO reader"):
        itk.ReadImage(str(one.paths["map"]))
