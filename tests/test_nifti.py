"""NIfTI: refusals by files made here, exact ways there and back, pairing of scans and masks, and the real data."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolkit.example import Annotation, Error, Provenance
from toolkit.formats import nifti

DATA = Path(__file__).parents[2] / "shared" / "data" / "mri"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="shared/data/mri is not beside this checkout")

# Every way in which three axes can be ordered and flipped.
ORIENTATIONS = [(p, f) for p in itertools.permutations(range(3)) for f in itertools.product((1, -1), repeat=3)]


def affine_of(order: tuple[int, ...], flips: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for source, (world, flip) in enumerate(zip(order, flips, strict=True)):
        affine[world, source] = flip * spacing[source]
    affine[:3, 3] = (-70.5, 31.25, 12)
    return affine


def numbers(shape: tuple[int, ...] = (4, 5, 3)) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def make(
    path: Path,
    array: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    change: Callable[[Any], object] | None = None,
) -> Path:
    """A NIfTI file; `change` may spoil its header after nibabel has made a good one."""
    image = nibabel.Nifti1Image(
        numbers() if array is None else array, np.diag([-1.0, -1, 2, 1]) if affine is None else affine
    )
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    content = bytearray(image.to_bytes())
    if change:
        header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
        change(header)
        content[:348] = header.binaryblock
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


def setting(**fields: Any) -> Callable[[Any], object]:
    def change(header: Any) -> None:
        for name, value in fields.items():
            header[name] = value

    return change


# --------------------------------------------------------------------------------------------------------- refusals


def other_sform(header: Any) -> None:
    header.set_sform(np.diag([-1.0, -1, 2.01, 1]), 1)


REFUSED_HEADERS = {
    "no orientation": (setting(qform_code=0, sform_code=0), "left and right"),
    "same code, other affine": (other_sform, "must agree"),
    "NaN in sform": (setting(qform_code=0, srow_x=[np.nan, 0, 0, 0]), "finite"),
    "infinite sform": (setting(qform_code=0, srow_y=[0, np.inf, 0, 0]), "finite"),
    "singular sform": (setting(qform_code=0, srow_x=[0, 0, 0, 0]), "singular"),
    "flat sform": (setting(qform_code=0, srow_x=[0, -1, 0, 0]), "singular"),
    "both singular": (setting(srow_x=[0, 0, 0, 0], quatern_b=3), "qform must be a rotation"),
    "NaN in qform": (setting(sform_code=0, qoffset_x=np.nan), "qform"),
    "impossible quaternion": (setting(sform_code=0, quatern_b=3), "qform"),
    "pixdim 0": (setting(sform_code=0, pixdim=[1, 1, 0, 2, 0, 0, 0, 0]), "positive"),
    "negative pixdim": (setting(sform_code=0, pixdim=[1, 1, -1, 2, 0, 0, 0, 0]), "positive"),
    "NaN pixdim": (setting(sform_code=0, pixdim=[1, 1, np.nan, 2, 0, 0, 0, 0]), "positive"),
    "claims more than the file": (setting(dim=[3, 400, 500, 300, 1, 1, 1, 1]), "claims"),
    "absurd size": (setting(dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]), "2^31"),
    "negative size": (setting(dim=[3, 4, -5, 3, 1, 1, 1, 1]), "at least 1"),
    "ten dimensions": (setting(dim=[10, 4, 5, 3, 1, 1, 1, 1]), "1 to 7"),
    "two dimensions": (setting(dim=[2, 20, 3, 1, 1, 1, 1, 1]), "three dimensions"),
    "unknown datatype": (setting(datatype=7), "datatype"),
    "infinite slope": (setting(scl_slope=np.inf, scl_inter=0), "scl_slope"),
    "voxels inside the header": (setting(vox_offset=100), "after the header"),
    "voxels nowhere": (setting(vox_offset=np.nan), "after the header"),
    "other magic": (setting(magic=b"nope"), "no NIfTI header"),
    "header of a pair": (setting(magic=b"ni1"), "no NIfTI header"),
}


@pytest.mark.parametrize("name", ["x_flair.nii", "x_flair.nii.gz"])
@pytest.mark.parametrize("case", REFUSED_HEADERS)
def test_a_doubtful_header_is_refused(tmp_path: Path, case: str, name: str) -> None:
    change, word = REFUSED_HEADERS[case]
    path = make(tmp_path / name, change=change)
    with pytest.raises(Error) as refusal:
        nifti.load(path)
    message = str(refusal.value)
    assert word in message and str(path) in message and "\n" not in message


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (numbers((4, 5, 3, 2)), "series"),
        (numbers((4, 5, 3, 1, 3)), "series"),
        (np.zeros((4, 5, 3), np.complex64), "datatype"),
        (np.zeros((4, 5, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "datatype"),
        (np.full((4, 5, 3), 1e300), "finite"),
    ],
)
def test_what_is_no_single_grey_volume_is_refused(tmp_path: Path, array: np.ndarray, word: str) -> None:
    with pytest.raises(Error, match=word):
        nifti.load(make(tmp_path / "x.nii.gz", array))


def test_a_trailing_dimension_of_one_is_squeezed(tmp_path: Path) -> None:
    volume = nifti.load(make(tmp_path / "x.nii", numbers((4, 5, 3))[..., None]))
    assert np.array_equal(volume.array, numbers()) and volume.array.dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_need_permission(tmp_path: Path, bad: float) -> None:
    array = numbers()
    array[1, 2, 0] = bad
    path = make(tmp_path / "x.nii.gz", array)
    with pytest.raises(Error, match="--nan zero"):
        nifti.load(path)
    volume = nifti.load(path, nan="zero")
    array[1, 2, 0] = 0
    assert np.array_equal(volume.array, array)
    assert "1 voxels" in volume.notes[0]


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    path = make(tmp_path / name, noise)
    whole = path.read_bytes()
    for cut in sorted({0, 1, 2, 20, len(whole) // 2, len(whole) - 1, *range(0, len(whole), 37)}):
        path.write_bytes(whole[:cut])
        with pytest.raises(Error, match=r"x\.nii"):
            nifti.load(path)


def test_a_flipped_byte_in_a_gzip_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "x.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(Error, match=r"damaged|truncated"):
        nifti.load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG" + bytes(600), bytes(400), b"\x1f\x8b" + bytes(50)])
def test_what_is_no_nifti_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    with pytest.raises(Error, match=r"x\.nii\.gz"):
        nifti.load(path)


@settings(max_examples=400, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
@example(changes=[(84, 1), (87, 127)])  # a signalling NaN in pixdim
@example(changes=[(280, 1), (283, 127)])  # and in srow_x
def test_a_damaged_header_is_read_or_refused_but_never_crashes(tmp_path_factory: Any, changes: Any) -> None:
    path = make(tmp_path_factory.getbasetemp() / "fuzz.nii")
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place] = value
    path.write_bytes(content)
    try:
        volume = nifti.load(path)
    except Error as refusal:
        assert "fuzz.nii" in str(refusal) and "\n" not in str(refusal)
    else:
        assert np.isfinite(volume.array).all() and np.isfinite(volume.affine).all() and volume.array.ndim == 3
        nifti.restore(nifti.display(volume)[0], volume.affine, volume.array.shape)


def test_missing_files_folders_and_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.nii").mkdir()
    for name in ("absent.nii.gz", "folder.nii", "scan.dcm"):
        with pytest.raises(Error, match=name):
            nifti.load(tmp_path / name)
    with pytest.raises(Error, match="nan is"):
        nifti.load(make(tmp_path / "x.nii"), nan="mean")  # type: ignore[arg-type]


def test_a_small_file_cannot_make_us_allocate(tmp_path: Path) -> None:
    """2^31 bytes claimed by a gzip of a kilobyte: refused by arithmetic, without reading on."""
    path = make(tmp_path / "x.nii.gz", change=setting(dim=[3, 1024, 1024, 512, 1, 1, 1, 1]))
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "from toolkit.formats import nifti\nfrom toolkit.example import Error\n"
        "try: nifti.load(sys.argv[1])\nexcept Error as e: print(e)"
    )
    root = Path(__file__).parents[1]
    environment = {"OPENBLAS_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert "claims (1024, 1024, 512)" in done.stdout


def test_importing_the_module_is_cheap() -> None:
    code = "import sys, toolkit.formats.nifti; print('nibabel' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


# ---------------------------------------------------------------------------------------------------------- reading


def test_different_codes_use_the_sform_and_say_so(tmp_path: Path) -> None:
    def change(header: Any) -> None:
        header.set_sform(np.diag([-1.0, -1, 2.5, 1]), 4)

    volume = nifti.load(make(tmp_path / "x.nii", change=change))
    assert volume.affine[2, 2] == 2.5 and volume.code == 4
    assert "sform (code 4) used rather than qform (code 1)" in volume.notes[0]


def turned(angle: float) -> np.ndarray:
    """Almost half a turn about z, 5 mm voxels: the worst case for a quaternion in float32."""
    affine = np.diag([-5.0, -5, 5, 1])
    affine[:2, :2] = -5 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return affine


def test_rounding_of_a_quaternion_is_no_disagreement(tmp_path: Path) -> None:
    affine = turned(8e-4)
    header = nibabel.load(make(tmp_path / "x.nii", affine=affine)).header
    assert np.abs(header.get_qform() - header.get_sform()).max() > 3e-3, "the premise of this test"
    assert np.abs(nifti.load(tmp_path / "x.nii").affine - affine).max() < 1e-6
    with pytest.raises(Error, match="must agree"):
        nifti.load(make(tmp_path / "y.nii", affine=affine, change=lambda h: h.set_sform(turned(5e-3), 1)))


def test_shear_is_a_disagreement(tmp_path: Path) -> None:
    affine = np.array([[1, 0.01, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    with pytest.raises(Error, match="must agree"):
        nifti.load(make(tmp_path / "x.nii", affine=affine))


ONE_SOUND = {
    "sform of zeros (ANTs, qsiprep)": ({"srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4}, "sform is singular"),
    "a row of zeros": ({"srow_y": [0] * 4}, "sform is singular"),
    "NaN in sform": ({"srow_x": [np.nan, 0, 0, 0]}, "sform is not finite"),
    "flat sform of another code": ({"srow_x": [0, -1, 0, 0], "sform_code": 4}, "sform is singular"),
    "negative voxel size (old SPM and FSL)": ({"pixdim": [1, -1, 1, 2, 0, 0, 0, 0]}, "taken as positive"),
    "negative slice distance": ({"pixdim": [1, 1, 1, -2, 0, 0, 0, 0]}, "taken as positive"),
    "negative size beside a sform of another place": ({"pixdim": [1, -7, 1, 2, 0, 0, 0, 0]}, "must be positive"),
    "no voxel size": ({"pixdim": [1, 0, 1, 2, 0, 0, 0, 0]}, "must be positive"),
    "NaN voxel size": ({"pixdim": [1, 1, np.nan, 2, 0, 0, 0, 0]}, "must be positive"),
    "impossible quaternion": ({"quatern_b": 3}, "must be a rotation"),
    "NaN in qform": ({"qoffset_x": np.nan}, "qform is not finite"),
}  # fmt: skip
"""Headers of which one form is spoilt; the other says diag(-1, -1, 2)."""


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("case", ONE_SOUND)
def test_a_sound_form_beside_an_unsound_one_is_used_and_said(tmp_path: Path, case: str, name: str) -> None:
    fields, words = ONE_SOUND[case]
    volume = nifti.load(make(tmp_path / name, change=setting(**fields)))
    assert np.allclose(volume.affine, np.diag([-1, -1, 2, 1])) and np.array_equal(volume.array, numbers())
    (note,) = volume.notes
    assert words in note and volume.code == 1


def test_a_sheared_sform_beside_a_qform_of_another_code_is_used_and_said(tmp_path: Path) -> None:
    affine = np.array([[-1, 0.1, 0, 0], [0, -1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    volume = nifti.load(make(tmp_path / "x.nii", change=lambda h: h.set_sform(affine, 2)))
    assert np.allclose(volume.affine, affine)
    assert "sform (code 2) used" in volume.notes[0] and "5.7 degrees" in volume.notes[1]


@pytest.mark.parametrize("fields", [{"sform_code": 0}, {"qform_code": 0}])
def test_one_form_is_enough(tmp_path: Path, fields: dict[str, int]) -> None:
    volume = nifti.load(make(tmp_path / "x.nii", change=setting(**fields)))
    assert np.allclose(volume.affine, np.diag([-1, -1, 2, 1])) and volume.notes == () and volume.code == 1
    assert np.allclose(volume.spacing, [1, 1, 2])


def test_a_qfac_of_zero_means_one(tmp_path: Path) -> None:
    path = make(tmp_path / "x.nii", change=setting(sform_code=0, pixdim=[0, 1, 1, 2, 0, 0, 0, 0]))
    assert np.allclose(nifti.load(path).affine, np.diag([-1, -1, 2, 1]))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", ">i2", "i4", "f4", ">f4", "f8", "i8"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_every_real_datatype_is_read_as_nibabel_reads_it(tmp_path: Path, dtype: str, kind: Any) -> None:
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    image = kind(numbers().astype(dtype), np.diag([2.0, 3, 4, 1]), header, dtype=dtype)
    nibabel.save(image, tmp_path / "x.nii.gz")
    assert np.array_equal(nifti.load(tmp_path / "x.nii.gz").array, numbers())


def test_slope_and_intercept_are_honoured(tmp_path: Path) -> None:
    path = make(tmp_path / "x.nii", numbers().astype(np.int16), change=setting(scl_slope=0.05, scl_inter=-3))
    assert np.allclose(nifti.load(path).array, numbers() * 0.05 - 3, atol=1e-6)


def test_a_compressed_file_under_a_plain_name_is_read(tmp_path: Path) -> None:
    path = make(tmp_path / "x.nii.gz").rename(tmp_path / "x.nii")
    assert np.array_equal(nifti.load(path).array, numbers())


# ---------------------------------------------------------------------------------------------------------- display


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_display_shows_the_patient_the_same_way_from_every_grid(order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    """The oracle is geometry: world coordinates of the voxels must rise and fall as a radiologist expects."""
    shape, spacing = (4, 5, 3), (0.9, 1.1, 5.0)
    affine = affine_of(order, flips, spacing)
    world = (
        np.einsum("wi,ixyz->wxyz", affine[:3, :3], np.indices(shape).astype(float)) + affine[:3, 3, None, None, None]
    )
    right, anterior, superior = (nifti.display(axis, affine)[0] for axis in world)
    assert (np.diff(superior, axis=0) > 0).all(), "slice 0 is inferior"
    assert (np.diff(anterior, axis=1) < 0).all(), "row 0 is anterior"
    assert (np.diff(right, axis=2) < 0).all(), "column 0 is the patient's right"
    steps = nifti.display_spacing(affine)
    for step, axis, stack in zip(steps, range(3), (superior, anterior, right), strict=True):
        assert np.allclose(np.abs(np.diff(stack, axis=axis)), step)
    letters = nifti.display(world[0], affine)[1]
    assert letters == "".join(nibabel.aff2axcodes(affine))


@settings(max_examples=150, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    tilt=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    packed=st.booleans(),
)
def test_there_and_back_is_exact(
    tmp_path_factory: Any, orientation: Any, shape: Any, spacing: Any, tilt: Any, packed: bool
) -> None:
    """Any axis order, flip, anisotropic spacing and tilt: display, restore, save and load change nothing."""
    affine = affine_of(*orientation, spacing)
    x, y, z = tilt
    for i, j, angle in ((1, 2, x), (0, 2, y), (0, 1, z)):
        turn = np.eye(4)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        affine = turn @ affine
    array = numbers(shape)
    stack, _ = nifti.display(array, affine)
    assert np.array_equal(nifti.restore(stack, affine, shape), array)

    folder = tmp_path_factory.mktemp("trip")
    name = "x.nii.gz" if packed else "x.nii"
    source = nifti.Volume(array, affine, folder / name, "x", "FLAIR")
    back = nifti.load(nifti.save(folder / name, nifti.restore(stack, affine, shape), source, "intensity"))
    assert np.array_equal(back.array, array)
    assert np.abs(back.affine - affine).max() < 1e-3
    header = nibabel.load(folder / name).header
    header_of_source = nibabel.Nifti1Header()
    header_of_source.set_qform(affine, 1)
    holds = np.abs(header_of_source.get_qform() - affine).max() < 1e-3  # float32 quaternions cannot hold every turn
    assert header["sform_code"] == 1 and header["qform_code"] == int(holds)


def test_display_and_restore_copy_and_check(tmp_path: Path) -> None:
    volume = nifti.load(make(tmp_path / "x.nii"))
    stack, _ = nifti.display(volume)
    stack[:] = -1
    assert np.array_equal(volume.array, numbers())
    with pytest.raises(Error, match="every slice"):
        nifti.restore(stack[1:], volume.affine, volume.array.shape)
    with pytest.raises(Error, match="affine"):
        nifti.display(volume.array)


# ------------------------------------------------------------------------------------------------- labels and finding


@pytest.mark.parametrize(
    ("name", "label", "contrast"),
    [
        ("TCGA_CS_4941_flair.nii.gz", "TCGACS4941", "FLAIR"),
        ("TCGA_CS_4941_FLAIR.NII.GZ", "TCGACS4941", "FLAIR"),
        ("TCGA_DU_A5TP_t1gd.nii.gz", "TCGADUA5TP", "T1gd"),
        ("BraTS20_Training_001_t1ce.nii", "BraTS20Training001", "T1gd"),
        ("BraTS-GLI-00001-000-t2f.nii.gz", "BraTSGLI00001000", "FLAIR"),
        ("patient07_t2.nii.gz", "patient07", "T2w"),
        ("a-b_T2-FLAIR.nii.gz", "ab", "FLAIR"),
        ("p1_adc.nii", "p1", "ADC"),
        ("p1_flair_mask.nii", "p1", "mask"),
        ("p1-mask.nii", "p1", "mask"),
        ("p1_seg.nii", "p1", "mask"),
        ("p1_brain_mask.nii", "p1", "brainmask"),
        ("scan.nii.gz", "scan", "unknown"),
        ("softflair.nii.gz", "softflair", "unknown"),
        ("Müller.1_t1.nii.gz", "Mller1", "T1w"),
        ("pat3/FLAIR.nii.gz", "pat3", "FLAIR"),
        ("masks/p1.nii.gz", "p1", "mask"),
        ("sub-01_FLAIR.nii.gz", "01", "FLAIR"),
        ("sub-01_T1w.nii.gz", "01", "T1w"),
        ("sub-01_ses-2_FLAIR.nii.gz", "01ses2", "FLAIR"),
        ("sub-01_ses-2_acq-3D_run-1_T2w.nii.gz", "01ses2acq3Drun1", "T2w"),
        ("sub-01_ce-gadolinium_T1w.nii.gz", "01", "T1gd"),
        ("sub-01_ses-1_label-lesion_roi.nii.gz", "01ses1", "mask"),
        ("sub-01_desc-lesion_mask.nii.gz", "01", "mask"),
        ("sub-01_desc-brain_mask.nii.gz", "01", "brainmask"),
        ("sub-strokecase0009_ses-0001_flair.nii.gz", "strokecase0009ses0001", "FLAIR"),
        ("sub-01.nii.gz", "01", "unknown"),
    ],
)
def test_label_of(name: str, label: str, contrast: str) -> None:
    assert nifti.parse_file_name(name) == (label, contrast)


def test_a_name_without_letters_takes_the_folder_or_is_refused(tmp_path: Path) -> None:
    assert nifti.parse_file_name(tmp_path / "p 9" / "___.nii")[0] == "p9"
    with pytest.raises(Error, match="Rename"):
        nifti.parse_file_name(Path("/ß/___.nii"))


def found(root: Path, contrast: str | None = None) -> list[tuple[str, str, str | None]]:
    return [(s.label, s.contrast, s.mask.name if s.mask else None) for s in nifti.find(root, contrast)]


def test_find_flat_with_masks_and_without(tmp_path: Path) -> None:
    for name in ("a_flair", "a_t1", "a_mask", "b_flair", "b_brain_mask", "._a_flair", "c-mask", "c_flair"):
        make(tmp_path / f"{name}.nii.gz")
    (tmp_path / "readme.txt").write_text("x")
    assert found(tmp_path, "flair") == [
        ("a", "FLAIR", "a_mask.nii.gz"),
        ("b", "FLAIR", None),
        ("c", "FLAIR", "c-mask.nii.gz"),
    ]
    assert ("a", "T1w", "a_mask.nii.gz") in found(tmp_path)
    assert found(tmp_path / "a_flair.nii.gz") == [("a", "FLAIR", "a_mask.nii.gz")]


def test_find_patient_folders_and_mask_folders(tmp_path: Path) -> None:
    make(tmp_path / "p1" / "FLAIR.nii.gz")
    make(tmp_path / "p1" / "mask.nii.gz")
    make(tmp_path / "images" / "p2.nii.gz")
    make(tmp_path / "labels" / "p2.nii.gz")
    assert sorted(found(tmp_path)) == [("p1", "FLAIR", "mask.nii.gz"), ("p2", "unknown", "p2.nii.gz")]


def test_find_bids_with_derivatives(tmp_path: Path) -> None:
    raw = tmp_path / "sub-01" / "ses-1" / "anat"
    make(raw / "sub-01_ses-1_acq-3D_FLAIR.nii.gz")
    make(tmp_path / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_FLAIR.nii.gz")
    derived = tmp_path / "derivatives" / "manual" / "sub-01"
    make(derived / "sub-01_ses-1_desc-lesion_mask.nii.gz")
    make(derived / "sub-01_ses-2_desc-brain_mask.nii.gz")
    make(derived / "sub-01_ses-1_acq-3D_FLAIR.nii.gz")
    # What diffgraft made of a scan is neither a scan nor its truth.
    for name in ("desc-healthycf_FLAIR", "desc-anomaly_FLAIR", "desc-anomaly_mask"):
        make(tmp_path / f"sub-01ses2_{name}.nii.gz")
        make(raw / f"sub-01_ses-1_acq-3D_{name}.nii.gz")
    scans = nifti.find(tmp_path)
    assert found(tmp_path) == [
        ("01ses1acq3D", "FLAIR", "sub-01_ses-1_desc-lesion_mask.nii.gz"),
        ("01ses2", "FLAIR", None),
    ]
    assert {scan.group for scan in scans} == {"01"}, "two sessions of one patient must not be split"


def test_the_mask_is_chosen_on_the_same_grid(tmp_path: Path) -> None:
    make(tmp_path / "a_flair.nii.gz")
    make(tmp_path / "a_dwi.nii.gz", numbers((6, 6, 6)))
    make(tmp_path / "a_mask.nii.gz", numbers((6, 6, 6)))
    assert found(tmp_path) == [("a", "dwi", "a_mask.nii.gz"), ("a", "FLAIR", None)]
    make(tmp_path / "other" / "a_mask.nii.gz")
    assert found(tmp_path, "FLAIR") == [("a", "FLAIR", "a_mask.nii.gz")]
    make(tmp_path / "a_mask.nii.gz", affine=np.diag([1.0, -1, 2, 1]))
    (tmp_path / "other" / "a_mask.nii.gz").unlink()
    assert found(tmp_path, "FLAIR") == [("a", "FLAIR", None)], "a mirrored mask is on another grid"


def test_the_mask_that_names_the_contrast_wins_and_a_tie_is_refused(tmp_path: Path) -> None:
    for name in ("a_flair", "a_t1", "a_flair_mask", "a_t1_mask"):
        make(tmp_path / f"{name}.nii.gz")
    assert found(tmp_path) == [("a", "FLAIR", "a_flair_mask.nii.gz"), ("a", "T1w", "a_t1_mask.nii.gz")]
    make(tmp_path / "a_flair-seg.nii.gz")
    with pytest.raises(Error, match="one lesion mask"):
        nifti.find(tmp_path, "FLAIR")


def test_two_scans_with_one_label_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "one" / "TCGA_CS_1_flair.nii.gz")
    make(tmp_path / "two" / "tcga-cs1_flair.nii")
    with pytest.raises(Error, match="label of its own") as refusal:
        nifti.find(tmp_path)
    assert "one" in str(refusal.value) and "two" in str(refusal.value)


def test_nothing_found_says_what_there_was(tmp_path: Path) -> None:
    with pytest.raises(Error, match="holds none"):
        nifti.find(tmp_path)
    make(tmp_path / "a_t1.nii.gz")
    with pytest.raises(Error, match=r"at least one FLAIR.*holds 1 T1w"):
        nifti.find(tmp_path, "flair")
    with pytest.raises(Error, match="is named T1w"):
        nifti.find(tmp_path / "a_t1.nii.gz", "flair")
    with pytest.raises(Error, match="does not exist"):
        nifti.find(tmp_path / "absent")
    for name in ("a_mask", "sub-a_desc-anomaly_FLAIR"):
        with pytest.raises(Error, match="acquired scan"):
            nifti.find(make(tmp_path / f"{name}.nii.gz"))
    assert found(make(tmp_path / "b.nii.gz"), "flair") == [("b", "FLAIR", None)]


# ---------------------------------------------------------------------------------------------------------- writing


def test_a_map_from_an_integer_scan_is_not_quantised(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a_flair.nii.gz", (numbers() * 100).astype(np.int16), change=setting(scl_slope=0.05, scl_inter=0)
    )
    volume = nifti.load(path)
    values = np.random.default_rng(1).random(volume.array.shape, np.float32) * 1e-3
    image = nibabel.load(nifti.save(tmp_path / "out" / "map.nii.gz", values, volume, "map"))
    assert image.get_data_dtype() == np.float32 and image.header.get_slope_inter() == (None, None)
    assert np.array_equal(np.asarray(image.dataobj), values)
    assert image.header["descrip"] == b"diffgraft map NOT ACQUIRED"
    assert image.header.get_xyzt_units()[0] == "mm"


def test_a_mask_is_bytes_and_keeps_the_code(tmp_path: Path) -> None:
    volume = nifti.load(make(tmp_path / "a.nii", change=setting(sform_code=4, qform_code=0)))
    image = nibabel.load(nifti.save(tmp_path / "m.nii.gz", volume.array > 30, volume, "mask"))
    assert image.get_data_dtype() == np.uint8 and set(np.unique(image.dataobj)) == {0, 1}
    assert image.header["sform_code"] == image.header["qform_code"] == 4
    assert np.allclose(image.get_qform(), volume.affine) and np.array_equal(image.affine, volume.affine)


def test_a_sheared_grid_is_kept_in_the_sform_alone(tmp_path: Path) -> None:
    affine = np.array([[1, 0.2, 0, 5], [0, 1, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    like = nifti.Volume(numbers(), affine, tmp_path / "a.nii", "a", "FLAIR", code=2)
    back = nifti.load(nifti.save(tmp_path / "b.nii", numbers(), like, "map"))
    assert np.abs(back.affine - affine).max() < 1e-6 and back.code == 2


def test_writing_is_deterministic_and_leaves_no_other_file(tmp_path: Path) -> None:
    volume = nifti.load(make(tmp_path / "in" / "a.nii"))
    first, second = (nifti.save(tmp_path / n / "x.nii.gz", volume.array, volume, "intensity") for n in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4), "no time stamp"
    assert [p.name for p in first.parent.iterdir()] == ["x.nii.gz"]
    nifti.save(first, volume.array + 1, volume, "intensity")
    assert np.array_equal(nifti.load(first).array, volume.array + 1)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = nifti.load(make(tmp_path / "a.nii"))
    before = (tmp_path / "a.nii").read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        nifti.save(tmp_path / "a.nii", volume.array, volume, "map")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"] and (tmp_path / "a.nii").read_bytes() == before


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    volume = nifti.load(make(tmp_path / "a.nii"))
    wrong = [
        (numbers((4, 5, 2)), "map", "x.nii", "grid"),
        (volume.array * np.nan, "map", "x.nii", "finite"),
        (volume.array.astype(float) + 1e300, "intensity", "x.nii", "finite"),
        (volume.array + 0.5, "mask", "x.nii", "0 to 255"),
        (volume.array - 1, "mask", "x.nii", "0 to 255"),
        (volume.array * np.nan, "mask", "x.nii", "0 to 255"),
        (volume.array, "picture", "x.nii", "kind"),
        (volume.array, "map", "x.png", "nii"),
    ]
    for array, kind, name, word in wrong:
        with pytest.raises(Error, match=word):
            nifti.save(tmp_path / name, array, volume, kind)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]


def test_sidecar_and_description(tmp_path: Path) -> None:
    path = nifti.write_sidecar(
        tmp_path / "sub-1_desc-anomaly_FLAIR.nii.gz", Units="arbitrary", Threshold=np.float32(0.5), Sources=[tmp_path]
    )
    assert path.name == "sub-1_desc-anomaly_FLAIR.json"
    assert json.loads(path.read_text()) == {"Units": "arbitrary", "Threshold": 0.5, "Sources": [str(tmp_path)]}
    for bad in (float("nan"), np.float32("nan"), [np.inf]):
        with pytest.raises(Error, match="null"):
            nifti.write_sidecar(path, Threshold=bad)
    content = json.loads(nifti.write_dataset_description(tmp_path, "0.1.0", [tmp_path, "https://x.org/d"]).read_text())
    assert content["DatasetType"] == "derivative" and content["Name"] and content["BIDSVersion"]
    assert content["GeneratedBy"] == [{"Name": "diffgraft", "Version": "0.1.0"}]
    assert content["SourceDatasets"] == [{"URL": tmp_path.as_uri()}, {"URL": "https://x.org/d"}]


# -------------------------------------------------------------------------------------------------------- as Examples


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
@pytest.mark.parametrize("name", ["pat_1_flair", "sub-1_ses-2_FLAIR", "scan"])
def test_read_and_write_are_inverse(tmp_path: Path, order: Any, flips: Any, name: str) -> None:
    affine = affine_of(order, flips, (0.9, 1.1, 5.0))
    make(tmp_path / "in" / f"{name}.nii.gz", numbers() * 7 - 20, affine)
    make(tmp_path / "in" / f"{name}_mask.nii.gz".replace("_FLAIR_mask", "_desc-lesion_mask"), numbers() % 2, affine)
    examples = list(nifti.read(tmp_path / "in"))
    images = np.stack([example.image for example in examples])
    assert images.dtype == np.float32 and images.min() == -1 and images.max() == 1
    assert [example.geometry.index for example in examples] == list(range(len(examples)))
    assert len({example.id for example in examples}) == len(examples)
    assert {example.group for example in examples} == {nifti.find(tmp_path / "in")[0].group}

    nifti.write(iter(reversed(examples)), tmp_path / "out")
    (before,), (after,) = nifti.find(tmp_path / "in"), nifti.find(tmp_path / "out")
    assert (before.label, before.contrast, before.group) == (after.label, after.contrast, after.group)
    for one, two in ((before.path, after.path), (before.mask, after.mask)):
        assert one and two
        one, two = nifti.load(one), nifti.load(two)
        assert np.abs(one.array - two.array).max() < 1e-4 and np.abs(one.affine - two.affine).max() < 1e-3
    assert nifti.load(after.path).acquired
    for one, two in zip(examples, nifti.read(tmp_path / "out"), strict=True):
        assert one.id == two.id and np.allclose(one.image, two.image, atol=1e-6)
        assert np.array_equal(one.annotation.mask, two.annotation.mask)


def test_what_was_made_stays_marked(tmp_path: Path) -> None:
    make(tmp_path / "in" / "p_flair.nii.gz")
    make(tmp_path / "in" / "p_mask.nii.gz")
    real = list(nifti.read(tmp_path / "in"))
    edited = [replace(e, id=e.id + "_s1", provenance=Provenance("edited", "m", "sdedit", source=e.id)) for e in real]
    maps = [replace(e, annotation=Annotation(), provenance=Provenance("map", "m", "counterfactual")) for e in real]
    nifti.write([*real, *edited, *maps], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "sub-p_FLAIR.nii.gz",
        "sub-p_desc-anomaly_FLAIR.nii.gz",
        "sub-p_desc-editeds1_FLAIR.nii.gz",
        "sub-p_desc-editeds1lesionFLAIR_mask.nii.gz",
        "sub-p_desc-lesionFLAIR_mask.nii.gz",
    ]
    assert found(tmp_path / "out") == [
        ("p", "FLAIR", "sub-p_desc-lesionFLAIR_mask.nii.gz"),
        ("pdescediteds1", "FLAIR", "sub-p_desc-editeds1lesionFLAIR_mask.nii.gz"),
    ]
    kinds = {(e.group, e.provenance.kind if e.provenance else None) for e in nifti.read(tmp_path / "out")}
    assert kinds == {("p", None), ("p", "edited")}
    nifti.write(nifti.read(tmp_path / "out"), tmp_path / "again")
    assert found(tmp_path / "again") == found(tmp_path / "out")


def test_incomplete_volumes_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "p_flair.nii.gz")
    examples = list(nifti.read(tmp_path))
    first = examples[0]
    geometry = first.geometry
    assert geometry
    wrong = [
        (examples[1:], "lacks 1 of 3"),
        ([*examples, first], "every slice once"),
        ([replace(first, geometry=None)], "geometry"),
        ([replace(e, image=e.image[:, 1:]) for e in examples], "unfit"),
        ([*examples[1:], replace(first, geometry=replace(geometry, affine=np.diag([3.0, 1, 1, 1])))], "share one grid"),
    ]
    for slices, word in wrong:
        with pytest.raises(Error, match=word):
            nifti.write(slices, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_constant_volume_survives(tmp_path: Path) -> None:
    make(tmp_path / "a" / "p_flair.nii.gz", np.full((4, 5, 3), 7, np.float32))
    nifti.write(nifti.read(tmp_path / "a"), tmp_path / "b")
    assert (nifti.load(nifti.find(tmp_path / "b")[0].path).array == 7).all()


# --------------------------------------------------------------------------------------------------------- real data


@real_data
def test_real_scans_are_found_with_their_masks() -> None:
    scans = {(s.label, s.contrast): s for s in nifti.find(DATA)}
    assert len(scans) == 56 and sum(contrast == "FLAIR" for _, contrast in scans) == 36
    without = {key for key, scan in scans.items() if scan.mask is None}
    # One patient has no mask; the FLAIR of the stroke case is on another grid than its mask.
    assert without == {("cstar01", c) for c in ("FLAIR", "T1w", "T2w")} | {("strokecase0009ses0001", "FLAIR")}
    assert scans["TCGACS4941", "FLAIR"].mask == scans["TCGACS4941", "FLAIR"].path.with_name("TCGA_CS_4941_mask.nii.gz")


@real_data
@pytest.mark.parametrize(
    ("name", "orientation", "shape"),
    [
        ("lgg/TCGA_DU_A5TP/TCGA_DU_A5TP_flair.nii.gz", "LPS", (38, 256, 256)),
        ("open_ms/patient07/patient07_flair.nii.gz", "LAS", (182, 218, 182)),
        ("isles22/sub-strokecase0009/sub-strokecase0009_ses-0001_dwi.nii.gz", "LAS", (73, 112, 112)),
        ("isles22/sub-strokecase0009/sub-strokecase0009_ses-0001_flair.nii.gz", "LAS", (29, 512, 512)),
        ("chronic_stroke/cstar01/cstar01_flair.nii.gz", "RAS", (140, 160, 124)),
    ],
)
def test_real_scans_load_show_and_return(tmp_path: Path, name: str, orientation: str, shape: tuple[int, ...]) -> None:
    volume = nifti.load(DATA / name)
    reference = nibabel.load(DATA / name)
    assert np.array_equal(volume.array, np.asarray(reference.get_fdata(), np.float32))
    assert np.abs(volume.affine - reference.affine).max() < 1e-6
    stack, letters = nifti.display(volume)
    assert letters == orientation and stack.shape == shape
    back = nifti.load(
        nifti.save(tmp_path / "x.nii", nifti.restore(stack, volume.affine, volume.array.shape), volume, "intensity")
    )
    assert np.array_equal(back.array, volume.array) and np.abs(back.affine - volume.affine).max() < 1e-3
