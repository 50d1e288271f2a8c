"""Lesion masks as people have them: another storage order, rounded origins, NaN, probabilities, labels; and what lies beside scans."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import heads
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgraft.preparation.prepare import prepare
from domains import brain_mri
from toolkit.example import Error, Note
from toolkit.formats import nifti

SCAN, MASK = heads.head(lesion=heads.LESIONS["P01"])
MARKED = [k for k in range(heads.GRID[2]) if MASK[..., k].any()]
TURNS = [
    np.array([*zip(order, flips, strict=True)])
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
"""Every order in which a file may store three axes."""


def stored(array: np.ndarray, affine: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same space in another storage order, by nibabel."""
    image = nibabel.Nifti1Image(array.astype(np.float32), affine).as_reoriented(turn)
    return np.asarray(image.dataobj), image.affine


def labels(root: Path) -> dict[str, float]:
    return {e.id: e.annotation.labels["lesion"] for e in brain_mri.read(root)}


def expected(name: str = "A") -> dict[str, float]:
    """What slices of the scan show, of those that are used."""
    return {f"{name}-{k:03d}": float(k in MARKED) for k in USED}


USED = list(brain_mri.preprocess(nifti.Volume(SCAN, heads.PLAIN, Path("x"), "x", "FLAIR")).index)


# --------------------------------------------------------------------------------------------------------------- space


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_a_mask_in_any_storage_order_is_put_on_its_scan_exactly(tmp_path: Path, turn: np.ndarray) -> None:
    heads.save(tmp_path / "A_flair.nii.gz", SCAN)
    array, affine = stored(MASK, heads.PLAIN, turn)
    heads.save(tmp_path / "A_mask.nii.gz", array.astype(np.uint8), affine)
    (scan,) = nifti.find(tmp_path, "FLAIR")
    assert scan.mask is not None
    assert np.array_equal(nifti.load_mask(scan.mask, nifti.load(scan.path))[0], MASK)
    (examples,) = [list(nifti.read(tmp_path, "FLAIR"))]
    assert sum(int(e.annotation.mask.sum()) for e in examples if e.annotation.mask is not None) == MASK.sum()


@settings(max_examples=40, deadline=None)
@given(turn=st.sampled_from(TURNS), digits=st.integers(1, 4), data=st.data())
def test_an_origin_that_was_rounded_is_the_same_place(tmp_path_factory, turn, digits, data) -> None:
    root = tmp_path_factory.mktemp("rounded")
    affine = heads.PLAIN.copy()
    affine[:3, 3] += [data.draw(st.floats(-1, 1)) for _ in range(3)]
    heads.save(root / "A_flair.nii", SCAN, affine)
    array, moved = stored(MASK, affine, turn)
    moved[:3, 3] = np.round(moved[:3, 3], digits)
    heads.save(root / "A_mask.nii", array.astype(np.uint8), moved)
    (scan,) = nifti.find(root)
    assert scan.mask is not None and np.array_equal(nifti.load_mask(scan.mask, nifti.load(scan.path))[0], MASK)


ELSEWHERE = {
    "half a voxel": heads.PLAIN + np.array([[0, 0, 0, 1.75], [0] * 4, [0] * 4, [0] * 4]),
    "slightly turned": heads.PLAIN @ np.array([[1, 0.02, 0, 0], [-0.02, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "other voxels": heads.PLAIN @ np.diag([2.0, 2, 1, 1]),
}
"""Affines of a mask that lies elsewhere: by as much as a convention of corners and centres, or more."""


@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_mask_on_another_grid_is_named_with_a_remedy(tmp_path: Path, case: str) -> None:
    heads.save(tmp_path / "A_flair.nii.gz", SCAN)
    mask = MASK[::2, ::2] if case == "other voxels" else MASK
    heads.save(tmp_path / "A_mask.nii.gz", mask.astype(np.uint8), ELSEWHERE[case])
    told: list[tuple[str, str]] = []
    (scan,) = nifti.find(tmp_path, "FLAIR", lambda *row: told.append(row))
    assert scan.mask is None and "another grid" in scan.doubt
    ((name, reason),) = told
    assert name == "A_mask.nii.gz" and "nearest neighbour" in reason and "\n" not in reason
    with pytest.raises(Error, match="another grid"):
        nifti.load_mask(tmp_path / name, nifti.load(scan.path))


# -------------------------------------------------------------------------------------------------------------- values

BRAIN = SCAN > 100
RNG = np.random.default_rng(0)
VALUES = {
    "255": (np.where(MASK, 255, 0).astype(np.uint8), ""),
    "booleans in float64": (MASK.astype(np.float64), ""),
    "big-endian": (MASK.astype(">i2"), ""),
    "several labels": ((MASK * np.where(np.arange(64)[:, None, None] > 25, 4, 1)).astype(np.int16), "labels 1, 4"),
    "NaN outside the brain": (np.where(BRAIN | MASK, MASK, np.nan).astype(np.float32), "NaN"),
    "infinite outside": (np.where(BRAIN | MASK, MASK, -np.inf).astype(np.float32), "NaN"),
    "probabilities": (np.where(MASK, 0.5 + 0.5 * RNG.random(MASK.shape), 0.49 * RNG.random(MASK.shape)), "from 0.5"),
    "splines that overshoot": (np.where(MASK, 1.04, -0.03).astype(np.float32), "from 0.5"),
    "probabilities with NaN": (np.where(BRAIN | MASK, MASK * 0.9, np.nan).astype(np.float32), "NaN"),
}  # fmt: skip
"""How masks mark a lesion, and what has to be said of it."""


@pytest.mark.parametrize("case", VALUES)
def test_the_values_of_a_mask_are_read_and_what_was_decided_is_said(tmp_path: Path, case: str) -> None:
    values, words = VALUES[case]
    heads.save(tmp_path / "A_flair.nii.gz", SCAN)
    path = heads.save(tmp_path / "A_mask.nii.gz", values)
    marked, notes = nifti.load_mask(path, nifti.load(tmp_path / "A_flair.nii.gz"))
    assert np.array_equal(marked, MASK) and words in " ".join(notes) and bool(notes) == bool(words)
    if words:
        with pytest.warns(Note, match=r"A_mask"):
            assert labels(tmp_path) == expected()
    else:
        assert labels(tmp_path) == expected()


def test_an_empty_mask_is_a_healthy_scan(tmp_path: Path) -> None:
    heads.save(tmp_path / "A_flair.nii.gz", SCAN)
    heads.save(tmp_path / "A_mask.nii.gz", np.zeros_like(MASK))
    assert set(labels(tmp_path).values()) == {0.0}


REFUSED = {
    "negative labels": (np.where(MASK, 1, -1).astype(np.int16), "positive labels"),
    "1 of 255": (np.where(MASK, 1 / 255, 0).astype(np.float32), "reaches 0.5"),
    "per cent": (np.where(MASK, 87.5, 0.25).astype(np.float32), "other numbers"),
    "everything": (np.ones(MASK.shape, np.uint8), "every voxel"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mask_that_cannot_be_understood_puts_its_scan_aside(tmp_path: Path, case: str) -> None:
    values, words = REFUSED[case]
    for name, mask in (("A", values), ("B", MASK.astype(np.uint8))):
        heads.save(tmp_path / "raw" / f"{name}_flair.nii.gz", SCAN)
        heads.save(tmp_path / "raw" / f"{name}_mask.nii.gz", mask)
    made = prepare("brain_mri", tmp_path / "raw", tmp_path / "out")
    assert made.groups == 1 and made.classes["unknown" if "unknown" in made.classes else "lesion"] > 0
    ((name, reason),) = made.aside
    assert name == "A_flair.nii.gz" and words in reason and "--nan" not in reason


# ----------------------------------------------------------------------------------------------------------- passed over


def litter(root: Path) -> dict[str, str]:
    """A folder with one scan and what else people keep beside it; name -> a word of the reason."""
    heads.save(root / "A_FLAIR.nii.gz", SCAN)
    heads.save(root / "A_mask.nii.gz", MASK.astype(np.uint8))
    unnamed = ("B_FLAIR_1", "C_FLAIRa", "H_FLAIR_ph", "I_FLAIR_e1", "J_FLAIR_Eq")
    for name in unnamed:
        heads.save(root / f"{name}.nii.gz", SCAN)
    # What such folders hold beside their scans is not told: it would spoil the exit code of good input.
    for name in (
        "A_T1w",
        "A_T1w_mask",
        "A_brain_mask",
        "sub-01_task-rest_bold",
        "derivatives/x/sub-01_FLAIR",
        "sub-01_FLAIRa",
    ):
        heads.save(root / f"{name}.nii.gz", SCAN)
    heads.save(root / "Z_mask.nii.gz", MASK.astype(np.uint8))
    nibabel.save(nibabel.MGHImage(SCAN, heads.PLAIN), root / "D_FLAIR.mgz")
    nibabel.save(nibabel.Nifti1Pair(SCAN, heads.PLAIN), root / "E_FLAIR.hdr")
    contents = {
        "F_FLAIR.nrrd": b"NRRD0004\n", "G_FLAIR.mha": b"ObjectType = Image\n", "K_FLAIR.mhd": b"ObjectType = Image\n",
        "K_FLAIR.raw": bytes(9), "L_FLAIR.img.gz": b"\x1f\x8b", "M_FLAIR.nii.bz2": b"BZh", "N.PAR": b"#", "O+orig.HEAD": b"x",
        "dicom/IM1": bytes(128) + b"DICM", "dicom/IM2": bytes(128) + b"DICM", "P_FLAIR": b"?",
        "README": b"x", "notes.txt": b"x", "A_FLAIR.json": b"{}", ".hidden.mgz": b"x", "._A_FLAIR.nii.gz": b"x",
    }  # fmt: skip
    for name, content in contents.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return dict.fromkeys((f"{name}.nii.gz" for name in unnamed), "name") | {
        "sub-01_FLAIRa.nii.gz": "name", "Z_mask.nii.gz": "belongs to", "D_FLAIR.mgz": "nib-convert D_FLAIR.mgz D_FLAIR.nii.gz",
        "E_FLAIR.hdr": "nib-convert E_FLAIR.img", "E_FLAIR.img": "nib-convert E_FLAIR.img", "F_FLAIR.nrrd": "SimpleITK",
        "G_FLAIR.mha": "SimpleITK", "K_FLAIR.mhd": "SimpleITK", "K_FLAIR.raw": "none", "L_FLAIR.img.gz": "pair",
        "M_FLAIR.nii.bz2": "none", "N.PAR": "dcm2niix", "O+orig.HEAD": "3dAFNItoNIFTI O+orig", "P_FLAIR": "none",
        "dicom": "2 DICOM files",
    }  # fmt: skip


def test_what_is_not_read_is_told_with_its_reason(tmp_path: Path) -> None:
    words = litter(tmp_path / "raw")
    made = prepare("brain_mri", tmp_path / "raw", tmp_path / "out")
    assert made.groups == 1 and made.samples == len(USED)
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {line["source"]: line["reason"] for line in lines} == dict(made.aside)
    assert {name for name, _ in made.aside} == set(words) and len(made.aside) == len(words)
    for name, reason in made.aside:
        assert words[name] in reason and "\n" not in reason, name


def test_a_damaged_mask_puts_nothing_else_aside(tmp_path: Path) -> None:
    for name in ("A", "B"):
        heads.save(tmp_path / f"{name}_flair.nii.gz", SCAN)
        heads.save(tmp_path / f"{name}_mask.nii.gz", MASK.astype(np.uint8))
    (tmp_path / "A_mask.nii.gz").write_bytes(b"x" * 400)
    told: dict[str, str] = {}
    found = list(brain_mri.read(tmp_path, aside=told.__setitem__))
    assert {e.group for e in found} == {"A", "B"} and "no NIfTI header" in told["A_mask.nii.gz"]
    of_a = {e.annotation.labels["lesion"] for e in found if e.group == "A"}
    assert all(np.isnan(label) for label in of_a), "a mask that cannot be read is no healthy scan"
