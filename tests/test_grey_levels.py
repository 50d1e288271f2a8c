"""No grey level is absolute: what is made of a + b x scan is what is made of the scan, for every way in which files come so.

Oracle: the scan as it was acquired, air dark; each test writes it in another unit, or with another background, and compares.
"""

from __future__ import annotations

from pathlib import Path

import heads
import nibabel
import numpy as np
import pytest
from dicoms import classic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffgraft import models
from domains import brain_mri, plant_disease
from toolkit.data.background import level_background
from toolkit.formats import films, mr_scans, nifti
from toolkit.methods.anomaly_map import MapSettings
from toolkit.settings import Counterfactual

QUICK = Counterfactual(strengths=(0.5,), steps=3, mirror=False)
SCAN = np.rint(heads.head(lesion=heads.LESIONS["P02"])[0])
EXAMPLES = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OFFSETS = st.floats(-50, 50)
SCALES = st.floats(-6, 6).map(lambda power: 10.0**power)


def prepared(array: np.ndarray, affine: np.ndarray = heads.PLAIN) -> brain_mri.PreparedScan:
    return brain_mri.preprocess(nifti.Volume(np.asarray(array, np.float32), affine, Path("x"), "x", "FLAIR"))


def mask() -> np.ndarray:
    """The head of SCAN on its grid."""
    return nifti.restore(prepared(SCAN).head, heads.PLAIN, SCAN.shape)


def alike(one: brain_mri.PreparedScan, other: brain_mri.PreparedScan) -> float:
    assert one.images.shape == other.images.shape
    return float(np.corrcoef(one.images.ravel(), other.images.ravel())[0, 1])


@EXAMPLES
@given(offset=OFFSETS, scale=SCALES, noise=st.booleans())
def test_a_brain_scan_is_prepared_alike_in_any_unit(offset, scale, noise):
    rng, scan = np.random.default_rng(1), SCAN
    if noise:  # Rician, as the air of a magnitude image has it
        scan = np.hypot(scan + rng.normal(0, 9, scan.shape), rng.normal(0, 9, scan.shape))
    before = prepared(scan)
    offset *= 800
    after = prepared(scale * (scan + offset))
    assert after.box == before.box
    assert np.mean(after.head != before.head) < 1e-3
    assert np.array_equal(after.index, before.index)
    assert np.abs(after.images - before.images).max() < 5e-3
    assert np.allclose(np.array(after.window) / scale - offset, before.window, atol=0.1)


BACKGROUNDS = {
    "air at -1024": lambda scan, head: np.where(head, scan, -1024),
    "air at the least int16": lambda scan, head: np.where(head, scan, -32768),
    "air brighter than all": lambda scan, head: np.where(head, scan, 5000),
    "z-scores, air at 0": lambda scan, head: np.where(head, (scan - scan[head].mean()) / scan[head].std(), 0),
    "whole z-scores, air at 0": lambda scan, head: np.where(
        head, np.rint(100 * (scan - scan[head].mean()) / scan[head].std()), 0
    ),
    "a constant added, air at 0": lambda scan, head: np.where(head, scan + 3000, 0),
    "a constant taken off, air at 0": lambda scan, head: np.where(head, scan - 3000, 0),
}


@pytest.mark.parametrize("name", BACKGROUNDS)
@EXAMPLES
@given(offset=OFFSETS, scale=SCALES)
def test_masked_air_is_air_whatever_was_written_there(name, offset, scale):
    head = mask()
    before = prepared(np.where(head, SCAN, 0))
    after = prepared(scale * (BACKGROUNDS[name](SCAN, head) + offset))
    assert alike(before, after) > 0.995
    assert np.abs(np.subtract(before.box, after.box)).max() <= 1
    assert np.mean(after.head != before.head) < 0.01


def corners(scan: np.ndarray, value: float) -> np.ndarray:
    """As a turned field of view leaves them."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, size) for size in scan.shape[:2]), indexing="ij")
    return np.where((np.abs(x) + np.abs(y) > 1.75)[..., None], value, scan)


def border(scan: np.ndarray, value: float) -> np.ndarray:
    return np.pad(scan, ((6, 6), (6, 6), (0, 0)), constant_values=value)


@pytest.mark.parametrize("padding", [-2000.0, 0.0, 9000.0])
@pytest.mark.parametrize("place", [corners, border])
@pytest.mark.parametrize("air", ["noise", "constant", "masked"])
def test_padding_is_no_grey_level(padding, place, air):
    head = mask()
    shown = {"noise": SCAN - 1024, "constant": np.where(head, SCAN, 0) - 1024, "masked": np.where(head, SCAN, -1024)}[
        air
    ]
    plain = SCAN if air == "noise" else np.where(head, SCAN, 0)
    before = prepared(place(plain, float(np.median(plain[~head]))))
    after = prepared(place(shown, padding))
    assert alike(before, after) > 0.995
    assert np.abs(np.subtract(before.box, after.box)).max() <= 1


def thin(slices: int, air: str) -> np.ndarray:
    """SCAN in more slices, for padding to be a small share of them; the air noisy or clean."""
    scan = np.repeat(SCAN, -(-slices // SCAN.shape[2]), axis=2)[..., :slices]
    noise = np.random.default_rng(3).normal(0, 9, (2, *scan.shape))
    return np.rint(np.hypot(scan + noise[0], noise[1])) if air == "noise" else np.where(scan > 30, scan, 0)


@pytest.mark.parametrize("padding", [-32768, -1024, -1, 0, 1, 400, 5000])
@pytest.mark.parametrize(("slices", "blank"), [(60, [0]), (60, [-1]), (24, [0, 1]), (176, [0, -1]), (30, [15])])
@pytest.mark.parametrize(("air", "offset"), [("noise", 0), ("clean", 0), ("noise", 1000), ("clean", 1000)])
def test_a_blank_slice_is_no_grey_level(padding, slices, blank, air, offset):
    scan = thin(slices, air)
    before = prepared(scan)
    padded = scan + offset
    padded[..., blank] = padding
    after = prepared(padded)
    shown = np.isin(np.arange(slices), np.arange(slices)[blank], invert=True)
    assert not after.head[~shown].any()
    assert np.mean(after.head[shown] != before.head[shown]) < 1e-3
    assert np.abs(np.subtract(before.box, after.box)).max() <= 1
    assert np.subtract(after.window, offset) == pytest.approx(before.window, abs=0.02 * np.ptp(before.window))


@pytest.mark.parametrize("value", [-32768, -3000, 4095, 32767])
@pytest.mark.parametrize("place", [(0, 0, 6), (32, 20, 6), (3, 40, 2)])
@pytest.mark.parametrize("air", ["noise", "clean"])
def test_one_wild_voxel_moves_nothing(value, place, air):
    scan = thin(12, air)
    before = prepared(scan)
    wild = scan.copy()
    wild[place] = value
    after = prepared(wild)
    assert after.box == before.box
    assert np.mean(after.head != before.head) < 2e-3
    assert after.window == pytest.approx(before.window, abs=0.02 * np.ptp(before.window))


@pytest.mark.parametrize("kind", ["whole", "masked", "int16"])
def test_an_acquired_scan_is_left_as_it_is(kind):
    stack = {"whole": SCAN, "masked": np.where(SCAN > 30, SCAN, 0), "int16": SCAN.astype(np.int16)}[kind]
    assert np.array_equal(level_background(np.moveaxis(stack, 2, 0)), np.moveaxis(stack, 2, 0))


STORED = {
    "float64": (np.float64, SCAN * 1e6, (1, 0)),
    "int16 below 0": (np.int16, SCAN - 1024, (1, 0)),
    "int16 kept as uint16": (np.uint16, SCAN + 32768, (1, 0)),
    "slope and intercept": (np.int16, SCAN - 100, (0.25, -700)),
    "slope alone": (np.uint16, SCAN, (1e-6, 0)),
    "an intercept without slope": (np.uint16, SCAN, (0, 40)),
}


@pytest.mark.parametrize("name", STORED)
def test_a_nifti_file_is_prepared_alike_in_any_numbers(name, tmp_path):
    kind, values, scaling = STORED[name]
    image = nibabel.Nifti1Image(values.astype(kind), heads.PLAIN)
    image.set_sform(heads.PLAIN, 1)
    content = bytearray(image.to_bytes())
    content[112:120] = np.array(scaling, "<f4").tobytes()
    path = tmp_path / "x_flair.nii"
    path.write_bytes(content)
    before, after = prepared(SCAN), brain_mri.preprocess(nifti.load(path))
    assert after.box == before.box
    assert np.abs(after.images - before.images).max() < 2e-3


def test_air_that_is_no_number_is_air(tmp_path):
    head = mask()
    scores = np.where(head, (SCAN - SCAN[head].mean()) / SCAN[head].std(), np.nan).astype(np.float32)
    path = heads.save(tmp_path / "x_flair.nii.gz", scores)
    after = brain_mri.preprocess(nifti.load(path, nan="zero"))
    assert alike(prepared(np.where(head, SCAN, 0)), after) > 0.995


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1000), (0.5, 0), (3, 4096)])
def test_a_series_is_prepared_alike_under_any_rescale_of_its_slices(slope, intercept, tmp_path):
    import pydicom

    for k, path in enumerate(classic(tmp_path / "s", SCAN, heads.PLAIN)):
        data = pydicom.dcmread(path)
        own = slope * (1 + k % 2)  # of each slice its own, as Philips writes it
        data.RescaleSlope, data.RescaleIntercept = own, intercept
        data.PixelData = np.rint(SCAN[:, :, k].T / (1 + k % 2)).astype("<u2").tobytes()
        data.save_as(path)
    (scan,) = mr_scans.find(tmp_path / "s", "FLAIR", lambda *_: None)
    before, after = prepared(SCAN), brain_mri.preprocess(mr_scans.load(scan, "refuse")[0])
    assert np.abs(np.subtract(before.box, after.box)).max() <= 1
    assert alike(before, after) > 0.999


@pytest.mark.parametrize("padding", [-1024, 0, 3000])
def test_a_slice_of_padding_alone_in_a_series_is_no_grey_level(padding, tmp_path):
    import pydicom

    head = np.rint(np.where(mask(), SCAN, 0))
    before = prepared(head)
    first = classic(tmp_path / "s", head, heads.PLAIN)[0]
    data = pydicom.dcmread(first)
    data.PixelRepresentation, data.BitsStored, data.HighBit = 1, 16, 15
    data.add_new("PixelPaddingValue", "SS", padding)
    data.PixelData = np.full(head.shape[1::-1], padding, "<i2").tobytes()
    data.save_as(first)
    (scan,) = mr_scans.find(tmp_path / "s", "FLAIR", lambda *_: None)
    after = brain_mri.preprocess(mr_scans.load(scan, "refuse")[0])
    assert np.abs(np.subtract(before.box, after.box)).max() <= 1
    assert np.mean(after.head[1:] != before.head[1:]) < 1e-3
    assert after.window == pytest.approx(before.window, abs=0.03 * np.ptp(before.window))


@EXAMPLES
@given(offset=st.floats(-0.2, 0.2), scale=st.floats(0.2, 0.7))
def test_a_film_is_normalised_alike_in_any_window(offset, scale):
    rng = np.random.default_rng(0)
    film = 0.2 + 0.6 * rng.beta(2, 3, (64, 64))
    assert np.allclose(films.normalise(film * scale + offset), films.normalise(film), atol=1e-5)


@EXAMPLES
@given(offset=st.floats(-0.2, 0.2), scale=st.floats(0.2, 0.8))
def test_a_leaf_is_found_in_any_light(offset, scale):
    image = np.full((3, 48, 32), 0.1)
    image[:, 10:36, 8:24] = np.array([-0.6, 0.5, -0.5])[:, None, None]
    image += np.random.default_rng(0).normal(0, 0.02, image.shape)
    assert np.array_equal(plant_disease.foreground(image * scale + offset), plant_disease.foreground(image))


@pytest.mark.parametrize(("offset", "scale"), [(-1024.0, 1.0), (7.0, 1e-6), (-3e6, 1e6)])
def test_a_counterfactual_is_in_the_units_of_its_scan_and_the_map_in_none(model, offset, scale):
    opened, target = models.open(model, "torch"), brain_mri.parse_prompt("healthy")
    before, after = prepared(SCAN), prepared(SCAN * scale + offset * scale)
    one, other = (brain_mri.explain(opened, case, QUICK, MapSettings(), target) for case in (before, after))
    assert np.allclose(other.counterfactual / scale - offset, one.counterfactual, atol=0.5)
    assert np.allclose(other.anomaly, one.anomaly, atol=1e-3)
    assert np.allclose(other.probability, one.probability, atol=1e-3)
    assert abs(brain_mri.novelty(opened, before) - brain_mri.novelty(opened, after)) < 1e-3
    assert brain_mri.input_warnings(opened, before) == brain_mri.input_warnings(opened, after)
    assert np.array_equal(other.counterfactual[~after.head], after.stack[~after.head])
