"""Frames of maps and segmentations: every slice has one, in the order of the slices along their normal."""

from __future__ import annotations

from pathlib import Path

import mr_sources
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from toolkit.example import Provenance
from toolkit.formats.dicom import derived
from toolkit.formats.dicom.derived.frames import sort_frames
from toolkit.formats.dicom.series import Series, load_all

EDITED = Provenance("edited", "fedcba9876543210", "counterfactual", 3, {"steps": 40, "strength": 0.5}, "sub-01")


def places(found: Series) -> np.ndarray:
    """(Z, 3) LPS positions of the slices."""
    corners = found.affine @ np.stack([(0, 0, k, 1) for k in range(found.voxels.shape[2])], axis=1)
    return (np.diag([-1, -1, 1]) @ corners[:3]).T


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@pytest.mark.parametrize("tilt", [0.0, 17.0])
@pytest.mark.parametrize("plane", mr_sources.PLANES)
def test_frame_k_is_slice_k(plane: str, tilt: float, kind: str, tmp_path: Path) -> None:
    """Readers that look at no position but the first (dcmqi, dcm2niix) find every voxel where it belongs."""
    found = mr_sources.series(tmp_path / "in", plane, tilt, kind)
    scores = np.random.default_rng(0).uniform(0, 1, found.voxels.shape).astype(np.float32)
    mask = mr_sources.scattered(scores.shape)
    for path, values in (
        (derived.write_parametric_map(found, scores, EDITED, tmp_path / "out"), scores),
        (derived.write_segmentation(found, mask, EDITED, tmp_path / "out"), mask),
    ):
        data = pydicom.dcmread(path)
        frames = data.PerFrameFunctionalGroupsSequence
        at = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
        np.testing.assert_allclose(at, places(found), atol=1e-4)
        assert np.array_equal(data.pixel_array.transpose(2, 1, 0), values)
        for k, frame in enumerate(frames):
            assert np.atleast_1d(frame.FrameContentSequence[0].DimensionIndexValues)[-1] == k + 1
            source = frame.DerivationImageSequence[0].SourceImageSequence[0]
            assert source.ReferencedSOPInstanceUID == found.sources[k].SOPInstanceUID
            assert source.get("ReferencedFrameNumber") == (found.frames[k] if kind == "enhanced" else None)


@given(st.integers(1, 9), st.integers(1, 13), st.integers(1, 7), st.sampled_from([1, 32]), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_frames_of_any_size_are_put_in_order(rows: int, columns: int, count: int, bits: int, seed: int) -> None:
    """Bits of a frame need not end with a byte."""
    chance = np.random.default_rng(seed)
    order, frames = chance.permutation(count), chance.integers(0, 2, (count, rows, columns))
    data, plane = Dataset(), Dataset()
    data.Rows, data.Columns = rows, columns
    plane.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [Dataset()], []
    data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = [plane]
    data.DimensionIndexSequence = [Dataset(), Dataset()]
    data.DimensionIndexSequence[0].DimensionIndexPointer = 0x0062000B
    data.DimensionIndexSequence[1].DimensionIndexPointer = 0x00200032
    for k in order:
        group, content, position = Dataset(), Dataset(), Dataset()
        content.DimensionIndexValues, position.ImagePositionPatient = [1, 9], [0, 0, -2.5 * float(k)]
        group.FrameContentSequence, group.PlanePositionSequence = [content], [position]
        data.PerFrameFunctionalGroupsSequence.append(group)
    if bits == 1:
        packed = np.packbits(frames[order].ravel(), bitorder="little").tobytes()
        data.BitsAllocated, data.PixelData = 1, packed + b"\0" * (len(packed) % 2)
    else:
        data.BitsAllocated, data.FloatPixelData = 32, frames[order].astype("<f4").tobytes()
    sort_frames(data)
    if bits == 1:
        assert len(data.PixelData) % 2 == 0
        held = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")[: frames.size]
    else:
        held = np.frombuffer(data.FloatPixelData, "<f4")
    assert np.array_equal(held.reshape(frames.shape), frames)
    found = data.PerFrameFunctionalGroupsSequence
    assert [-group.PlanePositionSequence[0].ImagePositionPatient[2] for group in found] == [
        2.5 * k for k in range(count)
    ]
    assert [list(g.FrameContentSequence[0].DimensionIndexValues) for g in found] == [[1, k + 1] for k in range(count)]


@pytest.mark.parametrize(
    ("part", "region"), [("HEAD", "Head"), ("", "Brain"), ("brain", "Brain"), ("KNEE", "Body part")]
)
def test_what_readers_look_for_without_asking(part: str, region: str, tmp_path: Path) -> None:
    """dcmqi 1.5.7 needs the frame anatomy in a map, MONAI 1.6.1 the segment of every frame."""
    mr_sources.classic(
        tmp_path / "in", mr_sources.voxels(), mr_sources.affine(),
        change=lambda data, _: setattr(data, "BodyPartExamined", part.upper()),
    )  # fmt: skip
    (found,) = load_all(tmp_path / "in")
    mask = mr_sources.scattered(found.voxels.shape)
    for path in (
        derived.write_parametric_map(found, found.voxels, EDITED, tmp_path / "out"),
        derived.write_segmentation(found, mask, EDITED, tmp_path / "out"),
    ):
        data = pydicom.dcmread(path)
        (anatomy,) = data.SharedFunctionalGroupsSequence[0].FrameAnatomySequence
        assert anatomy.FrameLaterality == "U" and anatomy.AnatomicRegionSequence[0].CodeMeaning == region
    assert {
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for group in data.PerFrameFunctionalGroupsSequence
    } == {1}
    assert "SegmentIdentificationSequence" not in data.SharedFunctionalGroupsSequence[0]
