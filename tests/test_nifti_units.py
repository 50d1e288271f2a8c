"""Units of length of NIfTI files: millimetres everywhere inside, and in outputs what the source has.

Right values: NIfTI-1, xyzt_units (metre 1, millimetre 2, micrometre 3, not stated 0); SimpleITK 2.5.7 gives the spacing of
such a file in mm, nibabel 5.4.2 in the numbers of the file.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import heads
import nibabel
import numpy as np
import pytest

from diffgraft.evaluation.scans import read_lesions
from diffgraft.preparation.prepare import prepare
from domains import brain_mri
from toolkit.data import dataset
from toolkit.example import Error, Note
from toolkit.formats import nifti

UNITS = {"not stated": (0, 1.0), "metre": (1, 1e-3), "mm": (2, 1.0), "micrometre": (3, 1e3)}
TURNED = np.array([[-3.4, 0.3, 0.2, 110], [0.2, -3.5, 0.5, 105], [0.1, 0.4, 9.0, -67], [0, 0, 0, 1]])


def save(
    path: Path, array: np.ndarray, unit: str, affine: np.ndarray = heads.PLAIN, codes=(1, 1), more: int = 0
) -> Path:
    code, numbers = UNITS[unit]
    own = np.diag([numbers, numbers, numbers, 1]) @ affine
    image = nibabel.Nifti1Image(array, own)
    image.set_qform(own, codes[0])
    image.set_sform(own, codes[1])
    image.header["xyzt_units"] = code + more
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("more", [0, 8])  # seconds, beside the unit of length
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0)])
@pytest.mark.parametrize("unit", UNITS)
def test_lengths_are_millimetres_inside_and_outputs_have_the_numbers_of_their_source(unit, codes, more, tmp_path):
    affine = heads.PLAIN if codes[0] else TURNED
    source = save(tmp_path / "x_flair.nii.gz", heads.head()[0], unit, affine, codes, more)
    volume = nifti.load(source)
    assert np.allclose(volume.affine, affine, atol=1e-4)
    assert np.allclose(volume.spacing, np.linalg.norm(affine[:3, :3], axis=0), atol=1e-5)
    assert any("metre" in note for note in volume.notes) == (unit in ("metre", "micrometre"))
    for kind in ("intensity", "map", "mask"):
        array = np.zeros(volume.array.shape) if kind == "mask" else volume.array
        made = nibabel.load(nifti.save(tmp_path / f"{kind}.nii.gz", array, volume, kind))
        assert int(made.header["xyzt_units"]) & 7 == (UNITS[unit][0] or 2)
        own = nibabel.load(source)
        assert np.allclose(made.affine, own.affine, rtol=1e-6, atol=1e-6 * np.abs(own.affine).max())
        assert np.allclose(made.header.get_zooms(), own.header.get_zooms(), rtol=1e-6)
        assert made.header["sform_code"] == 1
        assert (made.header["qform_code"] == 1) == (codes[0] == 1)
        assert np.allclose(nifti.load(tmp_path / f"{kind}.nii.gz").affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_a_scan_is_prepared_and_measured_alike_in_any_unit_with_a_mask_in_any_other(unit, tmp_path):
    scan, lesion = heads.head(lesion=heads.LESIONS["P01"])
    for other in UNITS:
        save(tmp_path / "raw" / f"{other.replace(' ', '')}_flair.nii.gz", scan, unit)
        save(tmp_path / "raw" / f"{other.replace(' ', '')}_mask.nii.gz", lesion.astype(np.uint8), other)
    found = nifti.find(tmp_path / "raw", "FLAIR")
    assert len(found) == len(UNITS)
    assert all(one.mask is not None for one in found)
    case = brain_mri.preprocess(nifti.load(found[0].path))
    assert np.allclose(case.spacing, (9, 3.5, 3.5), atol=1e-5)
    ml = read_lesions(found[0], case.volume).sum() * np.prod(case.spacing) / 1000
    assert ml == pytest.approx(lesion.sum() * 9 * 3.5 * 3.5 / 1000, rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # of the unit
        prepare("brain_mri", tmp_path / "raw", tmp_path / "data")
    for example in dataset.read(tmp_path / "data"):
        assert example.geometry is not None
        assert np.allclose(example.geometry.affine, heads.PLAIN, atol=1e-4)
        assert example.annotation.mask is not None
    shutil.rmtree(tmp_path / "data")


@pytest.mark.parametrize(
    ("code", "words"), [(1, "metre, which makes it 2.24e"), (3, "micrometre, which makes it 0.224")]
)
def test_a_unit_that_cannot_be_is_refused(code, words, tmp_path):
    path = save(tmp_path / "x_flair.nii.gz", heads.head()[0], "mm")
    image = nibabel.load(path)
    image.header["xyzt_units"] = code
    nibabel.save(image, tmp_path / "y_flair.nii.gz")
    with pytest.raises(Error, match=words.replace(".", r"\.")) as caught:
        nifti.load(tmp_path / "y_flair.nii.gz")
    assert "set_xyzt_units('mm')" in str(caught.value)


@pytest.mark.parametrize("code", [0, 2, 5])
def test_sizes_in_metres_under_another_name_are_refused(code, tmp_path):
    image = nibabel.load(save(tmp_path / "x_flair.nii.gz", heads.head()[0], "metre"))
    image.header["xyzt_units"] = code
    nibabel.save(image, tmp_path / "y_flair.nii.gz")
    with pytest.raises(Error, match=r"0\.224 x .* metres") as caught:
        nifti.load(tmp_path / "y_flair.nii.gz")
    assert "set_xyzt_units('meter')" in str(caught.value)


def test_an_unknown_unit_is_millimetre_and_said_to_be(tmp_path):
    path = save(tmp_path / "x_flair.nii.gz", heads.head()[0], "mm", more=3)
    volume = nifti.load(path)
    assert np.allclose(volume.affine, heads.PLAIN)
    assert any("code 5" in note for note in volume.notes)


@pytest.mark.parametrize("unit", ["metre", "micrometre"])
def test_two_affines_of_one_code_are_compared_in_millimetres(unit, tmp_path):
    path = save(tmp_path / "x_flair.nii.gz", heads.head()[0], unit)
    image = nibabel.load(path)
    moved = np.array(image.affine)
    moved[0, 3] += 0.5 * UNITS[unit][1]
    image.set_sform(moved, 1)
    nibabel.save(image, tmp_path / "y_flair.nii.gz")
    with pytest.raises(Error, match=r"they differ by 0\.5"):
        nifti.load(tmp_path / "y_flair.nii.gz")
