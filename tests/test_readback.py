"""What other programs read of films, scans and class folders that are written here: every pixel, voxel and class in its place.

Objects of a series are in test_dicom_readers.py, pictures with boxes in test_box_formats.py.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import affine_of
from foreign import LPS, needs, ran
from PIL import Image
from test_dicom_film import save

from toolkit.example import Annotation, Example, Provenance
from toolkit.formats import folders
from toolkit.formats.dicom import synthetic
from toolkit.formats.dicom.edited import write_edited_film
from toolkit.formats.nifti import saving, volume

pytestmark = pytest.mark.slow

MADE = Provenance("synthetic", "0123456789abcdef", "generate", 7, {"steps": 20})
EDITED = Provenance("edited", "0123456789abcdef", "inpaint", 0, {}, "source")
HIGHEST = 4095
"""Of the levels of a film that is written."""


def ramp(rows: int = 40, columns: int = 56) -> np.ndarray:
    """(H, W) in [0, 1], not the same turned or mirrored."""
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    return 0.7 * x + 0.2 * y**2 + 0.1 * (x > 0.8) * (y < 0.3)


@pytest.fixture(scope="module", params=["sc", "dx", "edited"])
def written(request, tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A film and its levels in [0, 1]."""
    root, levels = tmp_path_factory.mktemp(request.param), ramp()
    if request.param == "edited":
        source = save(root / "source.dcm", array=np.rint(ramp() * HIGHEST).astype(np.uint16))
        return write_edited_film(source, levels, "effusion", EDITED, root / "film.dcm"), levels
    example = Example("a", (2 * levels - 1)[None].astype(np.float32), Annotation(), "a", provenance=MADE)
    assert synthetic.write([example], root, request.param) == 1
    return root / "dicom" / "a.dcm", levels


@needs("dcm2pnm")
def test_dcmtk_shows_a_film_as_it_was_written(written, tmp_path):
    path, levels = written
    window = ("+Wi", 1) if "WindowCenter" in pydicom.dcmread(path, stop_before_pixels=True) else ()
    ran("dcm2pnm", *window, "+opw", path, tmp_path / "film.pgm")
    with Image.open(tmp_path / "film.pgm") as picture:
        seen = np.asarray(picture).astype(float)
    assert np.abs(seen / seen.max() - levels / levels.max()).max() < 2e-3


def test_simpleitk_reads_a_film_as_it_was_written(written):
    itk = pytest.importorskip("SimpleITK")
    path, levels = written
    (seen,) = itk.GetArrayFromImage(itk.ReadImage(str(path))).astype(float)
    assert np.abs(seen / HIGHEST - levels).max() <= 0.5 / HIGHEST + 1e-9


@pytest.fixture(scope="module", params=[1.0, 1e-3, 1e3], ids=["mm", "metre", "micron"])
def scan(request, tmp_path_factory) -> tuple[dict[str, Path], dict[str, np.ndarray], np.ndarray]:
    """A map, a mask and a counterfactual on a tilted grid: files, voxels, affine in millimetres."""
    import nibabel

    root, shape = tmp_path_factory.mktemp("scan"), (9, 7, 5)
    affine, chance = affine_of((9, -14, 21), (0.9, 1.1, 4.0)), np.random.default_rng(0)
    source = nibabel.Nifti1Image(chance.uniform(0, 900, shape).astype(np.float32), affine)
    stated = affine.copy()
    stated[:3] *= request.param
    source.set_sform(stated, 1)
    source.set_qform(stated, 1)
    source.header["xyzt_units"] = {1.0: 2, 1e-3: 1, 1e3: 3}[request.param]
    source.to_filename(root / "source_FLAIR.nii.gz")
    like = volume.load(root / "source_FLAIR.nii.gz")
    values = {
        "intensity": chance.uniform(0, 900, shape).astype(np.float32),
        "map": chance.uniform(0, 1, shape).astype(np.float32),
        "mask": (chance.random(shape) > 0.6).astype(np.uint8),
    }
    paths = {kind: saving.save(root / f"{kind}.nii.gz", array, like, kind) for kind, array in values.items()}
    return paths, values, affine


@pytest.mark.parametrize("kind", ["intensity", "map", "mask"])
def test_simpleitk_has_every_voxel_of_a_scan_in_its_place(scan, kind):
    itk = pytest.importorskip("SimpleITK")
    paths, values, affine = scan
    image = itk.ReadImage(str(paths[kind]))
    assert np.array_equal(itk.GetArrayFromImage(image).transpose(2, 1, 0), values[kind])
    for index in ((0, 0, 0), (8, 0, 0), (0, 6, 0), (0, 0, 4), (3, 2, 1)):
        place = LPS[:3, :3] @ np.array(image.TransformIndexToPhysicalPoint(index))
        assert place == pytest.approx(affine[:3] @ [*index, 1], abs=2e-3)


@pytest.mark.parametrize("kind", ["intensity", "map", "mask"])
def test_monai_has_every_voxel_of_a_scan_in_its_place(scan, kind):
    from monai.data import NibabelReader

    paths, values, affine = scan
    reader = NibabelReader()
    array, meta = reader.get_data(reader.read(paths[kind]))
    assert np.array_equal(array, values[kind])
    # MONAI, by nibabel, takes the numbers of a header for millimetres whatever its unit is.
    scale = np.linalg.norm(np.asarray(meta["affine"])[:3, 0]) / np.linalg.norm(affine[:3, 0])
    assert scale == pytest.approx({1: 1e-3, 2: 1.0, 3: 1e3}[int(meta["xyzt_units"])], rel=1e-4)
    assert np.asarray(meta["affine"])[:3] / scale == pytest.approx(affine[:3], abs=2e-3)


def test_scikit_learn_and_pillow_read_class_folders(tmp_path):
    from sklearn.datasets import load_files

    names, chance = ("Coffee___healthy", "Coffee___rust"), np.random.default_rng(0)
    made = {}
    for n in range(6):
        image = np.round(chance.uniform(0, 255, (3, 12, 20))).astype(np.float32)
        labels = {"class": float(n % 2)}
        made[f"leaf{n}"] = Example(
            f"leaf{n}", image / 127.5 - 1, Annotation(labels=labels), f"leaf{n}", provenance=MADE
        )
    assert folders.write(made.values(), tmp_path / "out", {"class": names}) == 6
    found = load_files(tmp_path / "out" / "images", shuffle=False)
    assert found.target_names == list(names)
    assert len(found.filenames) == 6
    for file, target in zip(found.filenames, found.target, strict=True):
        example = made[Path(file).stem]
        assert target == example.annotation.labels["class"]
        with Image.open(file) as picture:
            levels = np.asarray(picture)
        assert np.array_equal(levels.transpose(2, 0, 1), np.rint((example.image + 1) * 127.5))
        assert not math.isnan(target)
